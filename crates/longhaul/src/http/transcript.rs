//! `GET /v1/sessions/{id}/transcript`: what was said in a session, turn after turn.
//!
//! Job: a fold of the events of its runs: what the user said in each turn, and the agent's messages. Owns: nothing.
//! Never: tells what was discarded, or reasoning and tools, which the events tell.

use axum::Json;
use axum::extract::{RawQuery, State};
use longhaul_api::{ErrorCode, Problem};
use longhaul_model::limits;
use serde_json::{Value, json};

use super::App;
use super::query::{PathId, Query};
use super::reply::Failure;
use super::sessions;

/// The handler.
pub(super) async fn transcript(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(raw): RawQuery,
) -> Result<Json<Value>, Failure> {
    let query = Query::parse(raw.as_deref(), &["project", "after", "limit"])?;
    let key = sessions::key(&query, &id)?;
    let limit = query.number("limit", 1, limits::LIST_MAX as u64)?.unwrap_or(limits::LIST_DEFAULT as u64);
    let after = match query.one("after")? {
        Some(text) => longhaul_model::Seq::parse(text).map(longhaul_model::Seq::get).map_err(|_| {
            Problem::new(ErrorCode::InvalidCursor, "after must be the next of an earlier page").param("after")
        })?,
        None => 0,
    };
    let session = app.engine.session(&key).await?.ok_or_else(|| sessions::not_found(&key))?;
    let (mut data, mut missing, mut bytes, mut turn) = (Vec::new(), Vec::new(), 0, after);
    // Each turn is whole on its page: its text is bounded, and so is the page.
    while turn < session.turns && turn - after < limit && bytes < limits::PAGE_BYTES_MAX {
        turn += 1;
        let run = app.engine.turn_run(&key, turn).await?;
        let view = match &run {
            Some(run) => app.engine.turn_view(&key, turn, run).await?,
            None => None,
        };
        let Some(view) = view else {
            missing.push(json!({ "turn": turn, "run_id": run }));
            continue;
        };
        let status = view.doc.run.status.as_str();
        let mut say = |role: &str, message_id: Option<&str>, text: &str, truncated: bool| {
            bytes += text.len();
            let mut said = json!({ "turn": turn, "run_id": run, "status": status, "role": role, "text": text });
            if let Some(id) = message_id {
                said["message_id"] = id.into();
            }
            if truncated {
                said["truncated"] = true.into();
            }
            data.push(said);
        };
        if let Some(text) = app.engine.turn_text(&view).await? {
            say("user", None, &text, false);
        }
        let last = view.doc.run.messages().count();
        for (at, (id, text)) in view.doc.run.messages().enumerate() {
            say("assistant", Some(id), text, view.doc.run.output_truncated && at + 1 == last);
        }
    }
    let more = turn < session.turns;
    let next = more.then_some(turn);
    Ok(Json(json!({
        "object": "list", "session_id": key.id, "data": data, "missing": missing, "has_more": more, "next": next,
    })))
}
