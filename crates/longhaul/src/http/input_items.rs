//! `GET /v1/responses/{id}/input_items`: what a response was asked, in pages.
//!
//! Job: keeps the input of a request as it came, in the commit that accepts its run, and lists its items. Owns: the form of
//! that record; the run's erasure takes it along. Never: keeps what the caller wants not to be stored.

use axum::Json;
use axum::extract::{RawQuery, State};
use longhaul_api::{ErrorCode, Problem};
use longhaul_engine::input_key;
use longhaul_model::RunKey;
use longhaul_store::{RecordWrite, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::query::{PathId, Query};
use super::reply::Failure;
use super::{App, responses, runs};

/// The version of the record's form.
const VERSION: u32 = 1;

/// Items of a page, unless it is asked for more or fewer. Source: OpenAI's API reference, "List input items".
const LIMIT: u64 = 20;

/// Items of a page at most.
const LIMIT_MAX: u64 = 100;

#[derive(Serialize, Deserialize)]
struct Record {
    v: u32,
    input: Value,
}

/// The write that keeps the input of a run.
pub(super) fn write(key: &RunKey, input: Value) -> RecordWrite {
    let value = serde_json::to_vec(&Record { v: VERSION, input }).unwrap_or_default();
    RecordWrite { key: input_key(key), value: Some(value.into()), only_new: false, stamp: false }
}

/// The handler.
pub(super) async fn list(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(raw): RawQuery,
) -> Result<Json<Value>, Failure> {
    let known = &["project", "after", "limit", "order", "include", "include[]"];
    let query = Query::parse(raw.as_deref(), known)?;
    let key = responses::key(&query, &id)?;
    let limit = query.number("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT) as usize;
    let newest_first = match query.one("order")? {
        None | Some("desc") => true,
        Some("asc") => false,
        Some(_) => return Err(Problem::invalid("order", "order must be asc or desc").into()),
    };
    let mut items = items(&app, &key).await?;
    if newest_first {
        items.reverse();
    }
    let from = match query.one("after")? {
        None => 0,
        Some(after) => items.iter().position(|item| item["id"] == after).map(|at| at + 1).ok_or_else(|| {
            let text = "after must be the id of an item of this response";
            Problem::new(ErrorCode::InvalidCursor, text).param("after")
        })?,
    };
    let page: Vec<&Value> = items.iter().skip(from).take(limit).collect();
    let at = |item: Option<&&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    Ok(Json(json!({
        "object": "list",
        "data": page,
        "first_id": at(page.first()),
        "last_id": at(page.last()),
        "has_more": from + page.len() < items.len(),
    })))
}

/// What was asked, in its order. Of a run that came by another face what is known of its turn, or nothing.
async fn items(app: &App, key: &RunKey) -> Result<Vec<Value>, Failure> {
    let view = runs::view(app, key).await?;
    let address = input_key(key);
    let input = match app.engine.store().record(&address).await? {
        Some(bytes) => {
            let corrupt = |what| StoreError::Corrupt { place: format!("record of the input {}", address.id), what };
            let record: Record = serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
            if record.v != VERSION {
                return Err(corrupt(format!("it has version {}, this program knows {VERSION}", record.v)).into());
            }
            record.input
        }
        None => app.engine.turn_text(&view).await?.map_or(Value::Null, Value::String),
    };
    let items = match input {
        Value::Null => vec![],
        Value::Array(items) => items,
        text => vec![json!({ "role": "user", "content": text })],
    };
    let item = |(at, item)| shown(item, &format!("msg_{}_in{at}", key.run));
    Ok(items.into_iter().enumerate().map(item).collect())
}

/// An item with what a list of items shows besides: its own id here, whatever it came with, and its text as parts.
fn shown(mut item: Value, id: &str) -> Value {
    let kind = item.get("type").and_then(Value::as_str).unwrap_or("message").to_owned();
    let (kind_of_text, more) = match item.get("role").and_then(Value::as_str) {
        Some("assistant") => ("output_text", Some(("annotations", json!([])))),
        _ => ("input_text", None),
    };
    if let Some(text) = item.get("content").and_then(Value::as_str) {
        let mut part = json!({ "type": kind_of_text, "text": text });
        if let Some((name, value)) = more {
            part[name] = value;
        }
        item["content"] = json!([part]);
    }
    if let Some(map) = item.as_object_mut() {
        map.insert("id".to_owned(), id.into());
        map.insert("type".to_owned(), kind.clone().into());
        if kind == "message" {
            map.insert("status".to_owned(), "completed".into());
        }
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_shown_as_the_api_has_them() {
        let user = shown(json!({ "role": "user", "content": "hi" }), "msg_r_in0");
        let part = json!({ "type": "input_text", "text": "hi" });
        assert_eq!(
            user,
            json!({ "id": "msg_r_in0", "type": "message", "role": "user", "status": "completed", "content": [part] })
        );
        let said = json!({ "type": "message", "id": "theirs", "role": "assistant", "content": "yes" });
        let part = json!({ "type": "output_text", "text": "yes", "annotations": [] });
        assert_eq!(shown(said, "m")["content"], json!([part]));
        let thought = json!({ "type": "reasoning", "summary": [] });
        assert_eq!(shown(thought, "m"), json!({ "type": "reasoning", "summary": [], "id": "m" }));
    }
}
