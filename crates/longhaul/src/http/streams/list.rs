//! `GET /v1/stream`: the streams of a project, by path. Ours; the protocol has no list.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use longhaul_engine::streams::Listed;
use longhaul_model::stream::Lifetime;
use longhaul_model::{ProjectId, limits};
use serde_json::{Value, json};

use super::answer::NO_STORE;
use super::refusal::Refused;
use crate::http::App;
use crate::http::query::Query;

/// The handler.
pub(in crate::http) async fn list(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Response, Refused> {
    let query = Query::parse(query.as_deref(), &["project", "prefix", "after", "limit"])?;
    let project = query.project()?.unwrap_or_else(ProjectId::default_project);
    let limit = query.number("limit", 1, limits::LIST_MAX as u64)?.map_or(limits::LIST_DEFAULT, |n| n as usize);
    let (prefix, after) = (query.one("prefix")?.unwrap_or_default(), query.one("after")?.unwrap_or_default());
    let page = app.streams.list(&project, prefix, after, limit).await?;
    let data: Vec<Value> = page.streams.iter().map(shown).collect();
    let body = json!({ "object": "list", "data": data, "has_more": page.next.is_some(), "next": page.next });
    let mut response = Json(body).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    Ok(response)
}

fn shown(listed: &Listed) -> Value {
    let Listed { path, info } = listed;
    let (ttl, expires_at) = match info.lifetime {
        Lifetime::Endless => (None, None),
        Lifetime::TtlSeconds(seconds) => (Some(seconds), None),
        Lifetime::Until(at) => (None, Some(at)),
    };
    json!({
        "path": path.as_str(),
        "content_type": info.content_type.as_str(),
        "next_offset": info.tail.to_string(),
        "earliest_offset": info.earliest.to_string(),
        "closed": info.closed,
        "ttl_s": ttl,
        "expires_at": expires_at,
        "messages_max": info.keep.messages_max,
        "bytes_max": info.keep.bytes_max,
        "age_max_s": info.keep.age_max_seconds,
        "created_at": info.created_at,
    })
}
