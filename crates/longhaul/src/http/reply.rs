//! Answers: JSON with the headers that every answer has, and problems.

use std::error::Error;
use std::path::{Path, PathBuf};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use longhaul_api::{ErrorCode, Problem};
use longhaul_engine::{CancelError, DispatchError, EraseError, Erased, ResumeError};
use longhaul_model::{RunKey, SessionId, limits};
use longhaul_store::{CommitError, StoreError};
use serde_json::json;

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
        if matches!(self.0.code, ErrorCode::Unauthorized | ErrorCode::SubscriptionToken) {
            // RFC 9110 section 11.6.1: a 401 names the scheme.
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if !self.0.code.may_retry() {
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if self.0.code == ErrorCode::BodyTooSlow {
            // The rest of the body is not waited for.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
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

/// Why a body that takes too long ends.
#[derive(Debug, thiserror::Error)]
#[error("the body took too long")]
pub struct BodyTooSlow;

/// Whether an error is an `E` below.
fn is<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    error.is::<E>() || error.source().is_some_and(is::<E>)
}

/// The body of a request, bounded.
pub(super) fn body(bytes: Result<Bytes, BytesRejection>) -> Result<Bytes, Failure> {
    bytes.map_err(|rejection| unread(&rejection, rejection.status() == StatusCode::PAYLOAD_TOO_LARGE))
}

/// Reads the body of a request, bounded.
pub(super) async fn read(body: Body) -> Result<Bytes, Failure> {
    axum::body::to_bytes(body, limits::BODY_BYTES_MAX)
        .await
        .map_err(|error| unread(&error, is::<LengthLimitError>(&error)))
}

/// Why a body is not there.
fn unread(error: &(dyn Error + 'static), too_large: bool) -> Failure {
    if is::<BodyTooSlow>(error) {
        Failure::new(ErrorCode::BodyTooSlow, "the body did not arrive in time; nothing was stored")
    } else if too_large {
        Problem::new(ErrorCode::BodyTooLarge, format!("the body has more than {} bytes", limits::BODY_BYTES_MAX))
            .fact("limit_bytes", limits::BODY_BYTES_MAX)
            .into()
    } else {
        Failure::new(ErrorCode::InvalidJson, "the body did not arrive whole")
    }
}

/// There is no such run.
pub(super) fn not_found(key: &RunKey) -> Failure {
    Problem::new(ErrorCode::RunNotFound, format!("there is no run {} in project {}", key.run, key.project))
        .fact("run_id", key.run.as_str())
        .into()
}

/// The run was deleted, then; and whether its bytes are gone.
pub(super) fn erased(key: &RunKey, erased: &Erased) -> Failure {
    Problem::new(ErrorCode::RunGone, format!("run {} was deleted", key.run))
        .fact("run_id", key.run.as_str())
        .fact("erased_at", json!(erased.at))
        .fact("bytes_gone_at", json!(erased.bytes_gone_at))
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

/// A turn that is not what its session is bound to.
fn session_conflict(
    session: &SessionId,
    field: &'static str,
    expected: Option<String>,
    received: Option<String>,
) -> Failure {
    let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    let text = match (field, &expected) {
        ("previous_response_id", Some(last)) => {
            format!("session {session} went on since; its last turn is run {last}")
        }
        ("previous_response_id", None) => format!("session {session} was deleted; begin another one"),
        _ => format!("the {field} of session {session} is {}, this run's is {}", word(&expected), word(&received)),
    };
    Problem::new(ErrorCode::SessionConflict, text)
        .param(field)
        .fact("session_id", session.as_str())
        .fact("expected", expected)
        .fact("received", received)
        .into()
}

fn cwd_forbidden(path: &Path, allowed: &[PathBuf]) -> Failure {
    let roots: Vec<String> = allowed.iter().map(|root| root.display().to_string()).collect();
    let text = format!("this token's runs may work below {}; {} is not", roots.join(", "), path.display());
    Problem::new(ErrorCode::ForbiddenCwd, text)
        .param("cwd")
        .fact("cwd", path.display().to_string())
        .fact("allowed_roots", roots)
        .into()
}

fn unknown_harness(name: &str) -> Failure {
    let names: Vec<&str> = longhaul_harness::all().iter().map(|h| h.name()).collect();
    let text = format!("there is no harness called {name:?}; there are {}", names.join(", "));
    Problem::new(ErrorCode::UnknownHarness, text).param("harness").fact("harnesses", names).into()
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
        DispatchError::UnknownHarness { name } => unknown_harness(&name),
        DispatchError::Plan(error) => {
            let code = match error {
                longhaul_harness::PlanError::Unsupported { .. } => ErrorCode::UnsupportedField,
                _ => ErrorCode::InvalidField,
            };
            // On the wire it stands among the limits.
            let param = match error.field() {
                "turns_max" => "limits.turns_max",
                "cost_usd_max" => "limits.cost_usd_max",
                "tokens_max" => "limits.tokens_max",
                field => field,
            };
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
        DispatchError::ConfinementUnavailable { confine, why } => {
            let text = format!("confine {confine} is not possible here: {why}");
            not_started(Problem::new(ErrorCode::ConfinementUnavailable, text).param("confine"))
        }
        DispatchError::LimitUnenforceable { limit } => {
            let text = format!(
                "limits.{limit} cannot be kept here: this server can make no control group with that limit; run it \
                 where it can (docs/operations.md tells where that is), or leave the limit out"
            );
            let problem = Problem::new(ErrorCode::LimitUnenforceable, text);
            not_started(problem.param(format!("limits.{limit}")))
        }
        DispatchError::Cwd { path, source } => {
            Problem::invalid("cwd", format!("{} cannot be worked in: {source}", path.display())).into()
        }
        DispatchError::CwdForbidden { path, allowed } => cwd_forbidden(&path, &allowed),
        DispatchError::CwdBusy { holder } => {
            Problem::new(ErrorCode::CwdBusy, format!("run {holder} works in this directory"))
                .fact("holder", holder.as_str())
                .into()
        }
        DispatchError::SessionConflict { session, field, expected, received } => {
            session_conflict(&session, field, expected, received)
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
        DispatchError::DiskLow(low) => not_started(
            Problem::new(ErrorCode::DiskLow, low.to_string())
                .fact("free_bytes", low.0.free_bytes)
                .fact("min_free_bytes", low.0.min_free_bytes)
                .fact("total_bytes", low.0.total_bytes)
                .fact("key", low.0.key),
        ),
        DispatchError::Draining => {
            not_started(Problem::new(ErrorCode::Draining, "the server is stopping; try again in a moment"))
        }
        DispatchError::Holding => {
            let text = "the server was told to take no new runs; longhaul drain --undo has it take them again";
            not_started(Problem::new(ErrorCode::Draining, text))
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

/// A run that is over and cannot be gone on with.
pub(super) fn resume_failure(error: ResumeError, of: &RunKey, new: &RunKey) -> Failure {
    match error {
        ResumeError::NotFound => not_found(of),
        ResumeError::Gone => gone(of),
        ResumeError::NotEnded => {
            Failure::new(ErrorCode::RunNotEnded, format!("run {} is not over; cancel it or wait for it", of.run))
        }
        ResumeError::Impossible(why) => Problem::new(
            ErrorCode::NotResumable,
            format!("run {} cannot be gone on with: {why}; start a new run", of.run),
        )
        .fact("dispatch", "not_started")
        .into(),
        ResumeError::Dispatch(DispatchError::Gone) => gone(new),
        ResumeError::Dispatch(error) => dispatch_failure(error, new),
        ResumeError::Store(error) => error.into(),
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
