//! How a stream's frames are written: by name, or for a page that has only `onmessage`.
//!
//! Job: `?client=eventsource`. A page that knows no event names sees every frame, and a status that would close its
//! EventSource without a word (401, 409, 410) becomes a stream of one frame that holds the error.
//! Never: changes what is told.

use std::convert::Infallible;

use axum::body::Bytes;
use axum::http::request::Parts;
use axum::http::{Method, header};
use axum::response::Response;
use futures_util::stream;
use longhaul_api::{Problem, sse};
use serde_json::Value;

use super::query::Query;
use super::reply::Failure;

/// The parameter.
pub(super) const PARAMETER: &str = "client";

/// Its only value.
const EVENTSOURCE: &str = "eventsource";

/// Milliseconds after which an EventSource asks again that was refused and not closed by its page.
const REFUSED_RETRY_MS: u64 = 60_000;

/// How frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Every frame has the name of its event.
    Named,
    /// No frame has a name; those that are no events tell theirs as `type`, as events do.
    Unnamed,
}

impl Dialect {
    /// What a request asks for.
    pub(super) fn of(query: &Query) -> Result<Self, Failure> {
        match query.one(PARAMETER)? {
            None => Ok(Self::Named),
            Some(EVENTSOURCE) => Ok(Self::Unnamed),
            Some(_) => Err(Problem::invalid(PARAMETER, format!("{PARAMETER} can only be {EVENTSOURCE}")).into()),
        }
    }

    /// An event.
    pub(super) fn event(self, id: &str, name: Option<&str>, data: &str) -> String {
        sse::frame(id, name.filter(|_| self == Self::Named), data)
    }

    /// Something to say that is no event.
    pub(super) fn note(self, name: &str, mut data: Value) -> String {
        match self {
            Self::Named => sse::frame_without_id(Some(name), &data.to_string()),
            Self::Unnamed => {
                if let Value::Object(members) = &mut data {
                    members.insert("type".to_owned(), name.into());
                }
                sse::frame_without_id(None, &data.to_string())
            }
        }
    }

    /// An error in place of whatever would have come.
    pub(super) fn error(self, failure: &Failure) -> String {
        let name = (self == Self::Named).then_some("error");
        sse::frame_without_id(name, &failure.0.body("").to_string())
    }
}

/// Whether a request is one for a stream without names, as far as the door can see.
pub(super) fn is_asked(request: &Parts) -> bool {
    let path = request.uri.path();
    let of_one = ["/v1/runs/", "/v1/sessions/"].iter().any(|of| path.starts_with(of)) && path.ends_with("/events");
    let streams = path == "/v1/events" || of_one;
    let asked = |part: &str| part.split_once('=') == Some((PARAMETER, EVENTSOURCE));
    request.method == Method::GET && streams && request.uri.query().is_some_and(|q| q.split('&').any(asked))
}

/// Whether a refusal would close an EventSource in silence, although its page could do something about it.
pub(super) fn must_be_said(failure: &Failure) -> bool {
    matches!(failure.0.code.status(), 401 | 409 | 410)
}

/// Turns a refusal into a stream that says it.
pub(super) fn say(failure: &Failure, response: &Response, request_id: &str) -> Response {
    let frame = sse::frame_without_id(None, &failure.0.body(request_id).to_string());
    let text = sse::retry(REFUSED_RETRY_MS) + &frame;
    let mut said = super::sse::respond(stream::iter([Ok::<_, Infallible>(Bytes::from(text))]));
    for (name, value) in response.headers() {
        let of_the_body = [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::WWW_AUTHENTICATE].contains(name);
        if !of_the_body {
            said.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
    }
    said
}
