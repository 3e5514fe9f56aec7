//! What was refused, with the headers that the protocol names.
//!
//! Job: each failure of the engine's streams as one code of the catalogue, its facts, and its headers. Total: a new
//! failure is a compile error here.

use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use longhaul_api::streams::header as name;
use longhaul_api::{ErrorCode, Problem};
use longhaul_engine::streams::{AppendError, CreateError, DeleteError, OpenError, ReadError, WriteError};
use longhaul_model::stream::{ContentType, JsonError, Offset, Refusal};
use longhaul_store::StoreError;

use super::answer::{closed, set};
use crate::http::reply::Failure;

/// A failure and the headers that tell of it.
#[derive(Debug)]
pub(in crate::http) struct Refused {
    failure: Failure,
    headers: Box<HeaderMap>,
}

impl Refused {
    fn new(problem: Problem) -> Self {
        Self { failure: problem.into(), headers: Box::default() }
    }

    fn header(mut self, name: &'static str, value: impl std::fmt::Display) -> Self {
        set(&mut self.headers, name, value);
        self
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { failure, headers: Box::default() }
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::new(problem)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = self.failure.into_response();
        response.headers_mut().extend(*self.headers);
        response
    }
}

/// There is no such stream.
pub(super) fn not_found() -> Refused {
    let text = "there is no stream at this path, or it has expired; PUT makes one";
    Refused::new(Problem::new(ErrorCode::StreamNotFound, text))
}

fn gone() -> Refused {
    let text = "the stream was deleted; what is left of it is for its forks";
    Refused::new(Problem::new(ErrorCode::StreamGone, text))
}

fn store(error: StoreError) -> Refused {
    match error {
        StoreError::NotFound => not_found(),
        error => Failure::from(error).into(),
    }
}

fn write(error: WriteError) -> Refused {
    let problem = match error {
        WriteError::Full => Problem::new(ErrorCode::StoreFull, "the disk is full; nothing was stored"),
        WriteError::Busy => {
            Problem::new(ErrorCode::StoreBusy, "there is too much to write at the moment; nothing was stored")
        }
        WriteError::Stopping => Problem::new(ErrorCode::Draining, "the server is stopping; nothing was stored"),
        WriteError::Unknown(_) | WriteError::Refused(_) => {
            tracing::error!(%error, "a write to a stream failed");
            Problem::new(ErrorCode::StoreFailed, error.to_string())
        }
        WriteError::Store(error) => return store(error),
    };
    Refused::new(problem)
}

fn not_json(error: &JsonError) -> Refused {
    Refused::new(Problem::new(ErrorCode::InvalidJson, error.to_string()).fact("at_byte", error.at))
}

fn too_many(max: usize, found: usize) -> Refused {
    let text = format!("the body holds {found} messages, at most {max} go at once");
    Refused::new(Problem::new(ErrorCode::BodyTooLarge, text).fact("limit_messages", max))
}

fn other_type(expected: &ContentType, received: Option<&str>) -> Refused {
    let text = format!("the stream has content type {expected}");
    let problem = Problem::new(ErrorCode::ContentTypeMismatch, text).param("Content-Type");
    Refused::new(problem.fact("expected", expected.as_str()).fact("received", received))
}

impl From<OpenError> for Refused {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NotFound => not_found(),
            OpenError::Gone => gone(),
            OpenError::Store(error) => store(error),
        }
    }
}

impl From<DeleteError> for Refused {
    fn from(error: DeleteError) -> Self {
        match error {
            DeleteError::NotFound => not_found(),
            DeleteError::Gone => gone(),
            DeleteError::Write(error) => write(error),
        }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        store(error)
    }
}

impl From<ReadError> for Refused {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotFound => not_found(),
            ReadError::Gone => gone(),
            ReadError::Expired { earliest } => {
                let text = format!("messages before {earliest} are no longer kept; go on there");
                let problem = Problem::new(ErrorCode::CursorExpired, text).param("offset");
                Self::new(problem.fact("earliest", earliest.to_string())).header(name::EARLIEST_OFFSET, earliest)
            }
            ReadError::Ahead { tail } => {
                let text = format!("the offset is beyond the end of the stream, {tail}: the stream did not give it");
                let problem = Problem::new(ErrorCode::InvalidCursor, text).param("offset");
                Self::new(problem.fact("tail", tail.to_string())).header(name::NEXT_OFFSET, tail)
            }
            ReadError::Store(error) => store(error),
        }
    }
}

impl From<CreateError> for Refused {
    fn from(error: CreateError) -> Self {
        let text = error.to_string();
        let conflict = |text: String| Problem::new(ErrorCode::StreamConflict, text);
        let problem = match error {
            CreateError::Exists { what } => conflict(text).fact("differs", what),
            CreateError::Gone => conflict(text),
            CreateError::NotJson(error) => return not_json(&error),
            CreateError::TooManyMessages { max, found } => return too_many(max, found),
            CreateError::SourceNotFound => Problem::new(ErrorCode::StreamNotFound, text).param("Stream-Forked-From"),
            CreateError::SourceGone => conflict(text).param("Stream-Forked-From"),
            CreateError::SourceContentType { expected } => return other_type(&expected, None),
            CreateError::ForkOffset { tail } => {
                Problem::invalid("Stream-Fork-Offset", text).fact("tail", tail.to_string())
            }
            CreateError::ForkExpired { earliest } => {
                Problem::invalid("Stream-Fork-Offset", text).fact("earliest", earliest.to_string())
            }
            CreateError::ForkSubOffset => Problem::invalid("Stream-Fork-Sub-Offset", text),
            CreateError::ForkDepth => Problem::invalid("Stream-Forked-From", text),
            CreateError::Write(error) => return write(error),
        };
        Self::new(problem)
    }
}

/// Why an append was refused; `received` is the content type that it came with.
pub(super) fn append(error: AppendError, received: Option<&str>) -> Refused {
    match error {
        AppendError::NotFound => not_found(),
        AppendError::Gone => gone(),
        AppendError::TooManyMessages { max, found } => too_many(max, found),
        AppendError::Write(error) => write(error),
        AppendError::Refused { refusal, tail, closed: is_closed, content_type } => {
            let mut refused = match refusal {
                Refusal::ContentType => other_type(&content_type, received),
                refusal => state(refusal, tail),
            };
            if is_closed {
                closed(&mut refused.headers);
                refused = refused.header(name::NEXT_OFFSET, tail);
            }
            refused
        }
    }
}

fn state(refusal: Refusal, tail: Offset) -> Refused {
    let text = refusal.to_string();
    match refusal {
        Refusal::Empty => {
            let text = "the body is empty; send what to append, or Stream-Closed: true to close the stream";
            Refused::new(Problem::invalid("body", text))
        }
        Refusal::EmptyArray => Refused::new(Problem::invalid("body", "the array is empty: there is nothing to append")),
        Refusal::NotJson(error) => not_json(&error),
        Refusal::Closed => {
            let problem = Problem::new(ErrorCode::StreamClosed, "the stream is closed and takes no more");
            Refused::new(problem.fact("next_offset", tail.to_string()))
        }
        Refusal::ContentTypeMissing => Refused::new(Problem::invalid("Content-Type", text)),
        // Told above, with both types.
        Refusal::ContentType => Refused::new(Problem::new(ErrorCode::ContentTypeMismatch, text)),
        Refusal::StaleEpoch { current } => {
            let text = format!("a later start of the producer has taken over, with epoch {current}");
            let problem = Problem::new(ErrorCode::ProducerFenced, text).param("Producer-Epoch").fact("epoch", current);
            Refused::new(problem).header(name::PRODUCER_EPOCH, current)
        }
        Refusal::EpochStart => Refused::new(Problem::invalid("Producer-Seq", text)),
        Refusal::Gap { expected, received } => {
            let problem = Problem::new(ErrorCode::ProducerGap, text).param("Producer-Seq");
            Refused::new(problem.fact("expected_seq", expected).fact("received_seq", received))
                .header(name::PRODUCER_EXPECTED_SEQ, expected)
                .header(name::PRODUCER_RECEIVED_SEQ, received)
        }
        Refusal::TooManyProducers => Refused::new(Problem::new(ErrorCode::TooManyProducers, text)),
        Refusal::StreamSeq { last } => {
            let problem = Problem::new(ErrorCode::StreamSeqConflict, text).param("Stream-Seq");
            Refused::new(problem.fact("last", last.as_ref()))
        }
        Refusal::Tail => {
            let text = format!("the stream ends at {tail}, not where the append expects it");
            let problem = Problem::new(ErrorCode::TailMoved, text).param("Stream-Expected-Offset");
            Refused::new(problem.fact("next_offset", tail.to_string())).header(name::NEXT_OFFSET, tail)
        }
    }
}
