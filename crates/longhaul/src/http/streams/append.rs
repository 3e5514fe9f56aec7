//! `POST /v1/stream/{path}`: appends, closes, or both.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use longhaul_api::streams::header as name;
use longhaul_engine::streams::Append;

use super::answer::{closed, set};
use super::fields::Fields;
use super::refusal::{self, Refused};
use super::target::Target;
use super::{answer, read};
use crate::http::{App, reply};

/// The handler.
pub(in crate::http) async fn append(
    State(app): State<App>,
    Target(path): Target,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let key = read::key(query.as_deref(), path)?;
    let fields = Fields(&headers);
    let content_type = fields.content_type()?;
    let (producer, stream_seq) = (fields.producer()?, fields.stream_seq()?);
    let expected_tail = fields.expected_tail()?;
    let close = fields.closes();
    let body = reply::body(body)?;
    let body = Some(&body).filter(|body| !body.is_empty());
    let append = Append { body, content_type, producer, stream_seq, close, expected_tail };
    let done = app.streams.append(&key, append).await.map_err(|error| refusal::append(error, content_type))?;
    // The protocol's: 200 is for what a producer stored, 204 for all else.
    let stored = done.new && producer.is_some() && body.is_some();
    let mut response = if stored { StatusCode::OK } else { StatusCode::NO_CONTENT }.into_response();
    let out = response.headers_mut();
    set(out, name::NEXT_OFFSET, done.next);
    if done.closed {
        closed(out);
    }
    if let Some(producer) = done.producer {
        set(out, name::PRODUCER_EPOCH, producer.epoch);
        set(out, name::PRODUCER_SEQ, producer.last_seq);
    }
    out.insert(axum::http::header::CACHE_CONTROL, answer::NO_STORE);
    Ok(response)
}
