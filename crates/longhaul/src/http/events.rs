//! `GET /v1/runs/{id}/events`: a page as JSON, or the stream.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longhaul_api::EventList;
use longhaul_model::{Seq, limits};
use longhaul_store::{EventPage, ReadLimit};
use serde_json::value::RawValue;

use super::dialect::{self, Dialect};
use super::query::{PathId, Query};
use super::reply::Failure;
use super::sse::{Reader, Shape};
use super::{App, runs, sse};

/// Whether the caller wants a stream.
pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|kind| kind.trim().starts_with("text/event-stream")))
}

/// Stored bytes as JSON.
pub(super) fn raw(wire: &[u8]) -> Result<Box<RawValue>, Failure> {
    let bad = || Failure::new(longhaul_api::ErrorCode::StoreFailed, "a stored event is not JSON");
    let text = String::from_utf8(wire.to_vec()).map_err(|_| bad())?;
    RawValue::from_string(text).map_err(|_| bad())
}

/// The handler.
pub(super) async fn events(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let query = Query::parse(query.as_deref(), &["project", "after", "limit", dialect::PARAMETER])?;
    let key = query.key(&id)?;
    let cursor = query.cursor(&headers)?;
    let dialect = Dialect::of(&query)?;
    let stream = dialect == Dialect::Unnamed || wants_stream(&headers);
    if stream && app.draining.is_cancelled() {
        return Ok(sse::come_back());
    }
    let limit = query.number("limit", 1, limits::PAGE_EVENTS_MAX as u64)?.unwrap_or(100) as usize;
    let view = runs::view(&app, &key).await?;
    let store = app.engine.store();
    if !stream {
        let limit = ReadLimit { events_max: limit, bytes_max: limits::PAGE_BYTES_MAX };
        let page = store.read(view.stream, cursor, limit).await?;
        return Ok(Json(list(&page, cursor)?).into_response());
    }
    let tail = store.watch(view.stream).await?;
    let first = store.read(view.stream, cursor, ReadLimit { events_max: 1, bytes_max: 1 }).await?;
    if first.events.is_empty() && sse::is_over_at(&app, view.stream, cursor).await? {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    // Counted in only now: whoever was refused never was a reader, and its leaving means nothing.
    let guard = app.engine.reader(&key).await;
    let opening = sse::hello(dialect, first.earliest, first.tail, view.doc.run.status.as_str());
    let reader = Reader {
        app: app.clone(),
        stream: view.stream,
        tail,
        cursor,
        shape: Shape::Events(dialect),
        opening: Some(opening),
        guard,
        over: false,
    };
    let mut response = reader.into_response();
    runs::name(&mut response, &key, &view.doc.run.digest);
    Ok(response)
}

fn list(page: &EventPage, cursor: Seq) -> Result<EventList, Failure> {
    let next = page.events.last().map_or(cursor, |event| event.seq);
    let data = page.events.iter().map(|event| raw(&event.wire)).collect::<Result<_, _>>()?;
    Ok(EventList {
        object: "list".to_owned(),
        data,
        has_more: next < page.tail,
        next,
        earliest: page.earliest,
        tail: page.tail,
    })
}
