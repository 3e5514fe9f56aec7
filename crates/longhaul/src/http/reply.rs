//! Answers: JSON with the headers that every answer has, and problems.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longhaul_api::{ErrorCode, Problem};
use longhaul_engine::{CancelError, DispatchError, EraseError};
use longhaul_model::{RunKey, limits};
use longhaul_store::{CommitError, StoreError};

/// Tells an SDK not to send a request again by itself.
pub(super) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// A problem as an answer. The door writes the body, once it knows the request's id.
#[derive(Debug, Clone)]
pub struct Failure(pub Box<Problem>);

impl Failure {
    /// A failure with a sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Problem::new(code, message).into()
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        if let Some(seconds) = self.0.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.0.code == ErrorCode::Unauthorized {
            // RFC 9110 section 11.6.1: a 401 names the scheme.
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if !self.0.code.may_retry() {
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the body of a failure.
pub(super) fn write_failure(response: Response, failure: &Failure, request_id: &str) -> Response {
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let (json, body) = Json(failure.0.body(request_id)).into_response().into_parts();
    parts.headers.extend(json.headers);
    Response::from_parts(parts, body)
}

/// The body of a request, bounded.
pub(super) fn body(bytes: Result<Bytes, BytesRejection>) -> Result<Bytes, Failure> {
    bytes.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(ErrorCode::BodyTooLarge, format!("the body has more than {} bytes", limits::BODY_BYTES_MAX))
                .fact("limit_bytes", limits::BODY_BYTES_MAX)
                .into()
        }
        _ => Failure::new(ErrorCode::InvalidJson, "the body did not arrive whole"),
    })
}

/// There is no such run.
pub(super) fn not_found(key: &RunKey) -> Failure {
    Problem::new(ErrorCode::RunNotFound, format!("there is no run {} in project {}", key.run, key.project))
        .fact("run_id", key.run.as_str())
        .into()
}

/// The run was deleted.
pub(super) fn gone(key: &RunKey) -> Failure {
    Problem::new(ErrorCode::RunGone, format!("run {} was deleted", key.run)).fact("run_id", key.run.as_str()).into()
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Expired { earliest } => {
                Problem::new(ErrorCode::CursorExpired, format!("events before {earliest} are no longer kept"))
                    .fact("earliest", earliest.get())
                    .into()
            }
            StoreError::Ahead { tail } => {
                Problem::new(ErrorCode::CursorAhead, format!("the cursor is beyond the last event, {tail}"))
                    .fact("tail", tail.get())
                    .into()
            }
            StoreError::NotFound => Self::new(ErrorCode::RunNotFound, "the run's log is not there"),
            StoreError::Unavailable(_) => Self::new(ErrorCode::StoreBusy, error.to_string()),
            StoreError::Closed => Self::new(ErrorCode::Draining, "the server is stopping; try again in a moment"),
            StoreError::Corrupt { .. } => {
                tracing::error!(%error, "the store is damaged");
                Self::new(ErrorCode::StoreFailed, error.to_string())
            }
        }
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Full => {
                Self::new(ErrorCode::StoreFull, "the disk is full; nothing was stored. Free some space and try again")
            }
            CommitError::Busy => Self::new(ErrorCode::StoreBusy, "the store has too much to write; nothing was stored"),
            CommitError::Closed => Self::new(ErrorCode::Draining, "the server is stopping; nothing was stored"),
            CommitError::Conflict { .. }
            | CommitError::Fenced { .. }
            | CommitError::Exists
            | CommitError::Gone
            | CommitError::Invalid(_)
            | CommitError::Unknown(_) => {
                tracing::error!(%error, "a commit failed");
                Self::new(ErrorCode::StoreFailed, error.to_string())
            }
        }
    }
}

/// A refused dispatch, for the run that was asked for.
pub(super) fn dispatch_failure(error: DispatchError, key: &RunKey) -> Failure {
    let not_started = |problem: Problem| -> Failure { problem.fact("dispatch", "not_started").into() };
    match error {
        DispatchError::Conflict { expected, received } => {
            Problem::new(ErrorCode::RunConflict, format!("run {} is bound to another request", key.run))
                .fact("run_id", key.run.as_str())
                .fact("expected_digest", expected)
                .fact("received_digest", received)
                .into()
        }
        DispatchError::Gone => gone(key),
        DispatchError::UnknownHarness { name } => {
            let names: Vec<&str> = longhaul_harness::all().iter().map(|h| h.name()).collect();
            let text = format!("there is no harness called {name:?}; there are {}", names.join(", "));
            Problem::new(ErrorCode::UnknownHarness, text).param("harness").fact("harnesses", names).into()
        }
        DispatchError::Plan(error) => {
            let code = match error {
                longhaul_harness::PlanError::Unsupported { .. } => ErrorCode::UnsupportedField,
                _ => ErrorCode::InvalidField,
            };
            // On the wire it stands among the limits.
            let param = if error.field() == "turns_max" { "limits.turns_max" } else { error.field() };
            Problem::new(code, error.to_string()).param(param).into()
        }
        DispatchError::HarnessMissing { harness, program, install } => {
            let remedy = install.map(|i| format!("; install it with: {i}")).unwrap_or_default();
            not_started(
                Problem::new(ErrorCode::HarnessMissing, format!("{program} is not installed here{remedy}"))
                    .fact("harness", harness)
                    .fact("install", install.unwrap_or_default()),
            )
        }
        DispatchError::Cwd { path, source } => {
            Problem::invalid("cwd", format!("{} cannot be worked in: {source}", path.display())).into()
        }
        DispatchError::CwdBusy { holder } => {
            Problem::new(ErrorCode::CwdBusy, format!("run {holder} works in this directory"))
                .fact("holder", holder.as_str())
                .into()
        }
        DispatchError::SessionConflict { session, field, expected, received } => {
            let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
            let (was, is) = (word(&expected), word(&received));
            let text = format!("the {field} of session {session} is {was}, this run's is {is}");
            Problem::new(ErrorCode::SessionConflict, text)
                .param(field)
                .fact("session_id", session.as_str())
                .fact("expected", expected)
                .fact("received", received)
                .into()
        }
        DispatchError::SessionNew { session } => {
            let text = format!("session {session} is new; its first turn names a harness");
            Problem::invalid("harness", text).into()
        }
        DispatchError::LaneFull(full) => not_started(
            Problem::new(ErrorCode::SessionQueueFull, full.to_string())
                .fact("session_id", full.session.as_str())
                .fact("waiting", full.waiting),
        ),
        DispatchError::QueueFull(full) => not_started(
            Problem::new(ErrorCode::QueueFull, full.to_string())
                .fact("queued", full.queued)
                .fact("live", full.live)
                .fact("live_max", full.live_max),
        ),
        DispatchError::Draining => {
            not_started(Problem::new(ErrorCode::Draining, "the server is stopping; try again in a moment"))
        }
        DispatchError::Directory { path, source } => {
            tracing::error!(path = %path.display(), error = %source, "could not make a run's directory");
            let text = format!("could not write {}: {source}", path.display());
            not_started(Problem::new(ErrorCode::StoreFailed, text))
        }
        DispatchError::Commit(error) => error.into(),
        DispatchError::Store(error) => error.into(),
        DispatchError::Document { .. } => Failure::new(ErrorCode::StoreFailed, error.to_string()),
    }
}

/// Who asks, as the body says.
pub(super) fn asker(by: Option<&str>) -> Result<&'static str, Failure> {
    match by {
        None | Some("api") => Ok("api"),
        Some("cli") => Ok("cli"),
        Some(_) => Err(Problem::invalid("by", "by must be api or cli").into()),
    }
}

/// An operation id that stands for something else.
pub(super) fn operation_conflict() -> Failure {
    Failure::new(ErrorCode::OperationConflict, "this op_id was used with another body")
}

/// A cancel that was not recorded.
pub(super) fn cancel_failure(error: CancelError, key: &RunKey) -> Failure {
    match error {
        CancelError::NotFound => not_found(key),
        CancelError::Gone => gone(key),
        CancelError::OperationConflict => operation_conflict(),
        CancelError::Draining => Failure::new(ErrorCode::Draining, "the server is stopping; ask the next one"),
        CancelError::Commit(error) => error.into(),
        CancelError::Store(error) => error.into(),
    }
}

/// A run that was not erased.
pub(super) fn erase_failure(error: EraseError, key: &RunKey) -> Failure {
    match error {
        EraseError::NotFound => not_found(key),
        EraseError::Gone => gone(key),
        EraseError::NotEnded => {
            Failure::new(ErrorCode::RunNotEnded, format!("run {} is not over; cancel it first", key.run))
        }
        EraseError::Commit(error) => error.into(),
        EraseError::Store(error) => error.into(),
    }
}
