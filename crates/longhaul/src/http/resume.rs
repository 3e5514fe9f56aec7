//! `POST /v1/runs/{id}/resume`: a new run in the same session as one that is over.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use longhaul_api::request::{NOT_DIGESTED, digest_of, parse_object, refuse_unknown};
use longhaul_api::{ErrorCode, Problem, RunRequest};
use longhaul_engine::{DispatchError, ResumeError};
use longhaul_model::{RunId, RunKey, canonical};
use serde_json::{Value, json};

use super::caller::Caller;
use super::query::{PathId, Query};
use super::reply::{self, Failure};
use super::{App, runs};

/// What may be named anew. The rest is the other run's.
pub const FIELDS: &[&str] = &[
    "run_id",
    "op_id",
    "prompt",
    "system",
    "env",
    "captured_env",
    "effort",
    "permissions",
    "allowed_tools",
    "timeout_ms",
    "limits",
    "on_lost",
    "on_disconnect",
    "on_cwd_busy",
    "tags",
    "metadata",
    "name",
];

/// The handler.
pub(super) async fn resume(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let of = Query::parse(query.as_deref(), &["project"])?.key(&id)?;
    let mut map = parse_object(&reply::body(body)?)?;
    refuse_unknown(&map, FIELDS)?;
    let operation = operation(map.remove("op_id"), &headers)?;
    let (mut request, _) = RunRequest::parse(json!(map).to_string().as_bytes())?;
    map.insert("resumed_from".to_owned(), json!(of.run));
    let digest = digest_of("resume.v1", &map, NOT_DIGESTED);
    let by_operation = request.run_id.is_none() && operation.is_some();
    let given = match (&request.run_id, operation) {
        (Some(run), _) => Some(run.clone()),
        (None, Some(operation)) => Some(run_of(&of, &operation)),
        (None, None) => None,
    };
    let anonymous = given.is_none();
    let run = given.unwrap_or_else(|| RunId::from_uuid(uuid::Uuid::now_v7()));
    let key = RunKey { project: of.project.clone(), run };
    request.harness = Some(runs::view(&app, &of).await?.doc.run.harness);
    let mut new = runs::new_run(request, digest.clone(), key.clone(), &caller, ("runs", anonymous), None)?;
    super::trace::join(&app, &mut new, &headers);
    let dispatched = app.engine.resume(&of, new).await.map_err(|error| match error {
        ResumeError::Dispatch(DispatchError::Conflict { .. }) if by_operation => {
            Failure::new(ErrorCode::OperationConflict, "this op_id was used with another body")
        }
        error => reply::resume_failure(error, &of, &key),
    })?;
    runs::accepted(&app, &key, &digest, dispatched).await
}

/// The caller's name for the operation.
fn operation(field: Option<Value>, headers: &HeaderMap) -> Result<Option<RunId>, Failure> {
    let found = match (field, headers.get("idempotency-key")) {
        (Some(Value::String(text)), _) => Some(("op_id", text)),
        (Some(_), _) => return Err(Problem::invalid("op_id", "op_id must be a string").into()),
        (None, Some(value)) => Some(("Idempotency-Key", value.to_str().unwrap_or("?").to_owned())),
        (None, None) => None,
    };
    let parse = |(name, text): (&str, String)| RunId::parse(&text).map_err(|e| Problem::invalid(name, e.to_string()));
    Ok(found.map(parse).transpose()?)
}

/// The run that an operation makes: the same one however often it is asked for.
fn run_of(of: &RunKey, operation: &RunId) -> RunId {
    let name = json!([of.project, of.run, operation]);
    let digest = canonical::digest("op", &name);
    let tail = &digest[digest.len().saturating_sub(32)..];
    RunId::parse(&format!("op-{tail}")).unwrap_or_else(|_| operation.clone())
}
