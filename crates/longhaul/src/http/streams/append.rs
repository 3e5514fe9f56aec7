//! `POST /v1/stream/{path}`: appends, closes, or both.
//!
//! Appends are many and small, so that the way through the router costs more than the work: a connection asks here first.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longhaul_api::streams::header as name;
use longhaul_engine::streams::Append;

use super::answer::{closed, set};
use super::fields::Fields;
use super::refusal::{self, Refused};
use super::target::{ROOT, Target};
use super::{answer, read};
use crate::http::{App, Peer, door, reply};

/// The route.
pub(super) const ROUTE: &str = "/v1/stream/{*path}";

/// Headers of an answer.
const ANSWER_HEADERS: usize = 6;

/// What is below the root and is on other routes.
const ELSEWHERE: [&str; 2] = ["runs/", "__ds/"];

/// Whether a request is for this route and for nothing else.
pub(in crate::http) fn is_append(request: &Request) -> bool {
    let path = request.uri().path().strip_prefix(ROOT);
    let here = |path: &str| !path.is_empty() && !ELSEWHERE.iter().any(|other| path.starts_with(other));
    request.method() == Method::POST && path.is_some_and(here)
}

/// The answer to such a request, from the door on.
pub(in crate::http) async fn visit(app: App, peer: Peer, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let answer = async |parts: Parts, _| answer_to(&app, &parts, body).await.into_response();
    door::visit(&app, Some(&peer), Some(ROUTE), parts, answer).await
}

/// The handler, for what comes by the router.
pub(in crate::http) async fn append(State(app): State<App>, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    answer_to(&app, &parts, body).await
}

async fn answer_to(app: &App, parts: &Parts, body: Body) -> Result<Response, Refused> {
    let Target(path) = Target::of(parts)?;
    let key = read::key(parts.uri.query(), path)?;
    let fields = Fields::of(&parts.headers);
    let content_type = fields.content_type()?;
    let (producer, stream_seq) = (fields.producer()?, fields.stream_seq()?);
    let expected_tail = fields.expected_tail()?;
    let close = fields.closes();
    let body = reply::read(body).await?;
    let body = Some(&body).filter(|body| !body.is_empty());
    let append = Append { body, content_type, producer, stream_seq, close, expected_tail };
    let done = app.streams.append(&key, append).await.map_err(|error| refusal::append(error, content_type))?;
    // The protocol's: 200 is for what a producer stored, 204 for all else.
    let stored = done.new && producer.is_some() && body.is_some();
    let mut response = if stored { StatusCode::OK } else { StatusCode::NO_CONTENT }.into_response();
    let out = response.headers_mut();
    // With those that every answer has, and the server's own.
    out.reserve(ANSWER_HEADERS);
    set(out, name::NEXT_OFFSET, done.next);
    if done.closed {
        closed(out);
    }
    if let Some(producer) = done.producer {
        set(out, name::PRODUCER_EPOCH, producer.epoch);
        set(out, name::PRODUCER_SEQ, producer.last_seq);
    }
    out.insert(header::CACHE_CONTROL, answer::NO_STORE);
    Ok(response)
}
