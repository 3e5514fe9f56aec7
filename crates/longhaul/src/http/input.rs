//! `POST /v1/runs/{id}/input`: a message for the agent, durable before it is answered, sent after that.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use longhaul_api::request::{decode, digest_of, parse_object, refuse_unknown};
use longhaul_api::{ErrorCode, InputReply, Problem};
use longhaul_engine::{InputError, Operation};
use longhaul_model::{RunId, RunKey, limits};
use serde::Deserialize;
use serde_json::Value;

use super::App;
use super::query::{PathId, Query};
use super::reply::{self, Failure};

#[derive(Debug, Deserialize)]
struct Body {
    text: String,
    op_id: Option<RunId>,
    by: Option<String>,
}

/// The handler.
pub(super) async fn input(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let key = Query::parse(query.as_deref(), &["project"])?.key(&id)?;
    let map = parse_object(&reply::body(body)?)?;
    refuse_unknown(&map, &["text", "op_id", "by"])?;
    if !map.contains_key("text") {
        return Err(Problem::invalid("text", "text says what the agent shall be told").into());
    }
    let digest = digest_of("input.v1", &map, &["op_id"]);
    let body: Body = decode(Value::Object(map))?;
    let bytes = body.text.len();
    if bytes > limits::INPUT_BYTES_MAX {
        let text = format!("text has {bytes} bytes, at most {} are allowed", limits::INPUT_BYTES_MAX);
        return Err(Problem::invalid("text", text).fact("limit_bytes", limits::INPUT_BYTES_MAX).into());
    }
    if body.text.trim().is_empty() || body.text.contains('\0') {
        return Err(Problem::invalid("text", "text must say something and hold no NUL byte").into());
    }
    let by = reply::asker(body.by.as_deref())?;
    let operation = operation(body.op_id, &headers, digest)?;
    let accepted = app.engine.input(&key, body.text, by, operation).await.map_err(|e| failure(e, &key))?;
    let answer = InputReply {
        input_id: accepted.input_id,
        object: "input".to_owned(),
        run_id: key.run.clone(),
        delivery: accepted.delivery,
    };
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

/// The caller's name for what it asks, out of the body or a header.
pub(super) fn operation(
    body: Option<RunId>,
    headers: &HeaderMap,
    digest: String,
) -> Result<Option<Operation>, Failure> {
    let header = headers.get("idempotency-key").map(|v| RunId::parse(v.to_str().unwrap_or("?")));
    let header = header.transpose().map_err(|e| Problem::invalid("Idempotency-Key", e.to_string()))?;
    Ok(body.or(header).map(|id| Operation { id: id.to_string(), digest }))
}

fn failure(error: InputError, key: &RunKey) -> Failure {
    match error {
        InputError::NotFound => reply::not_found(key),
        InputError::Gone => reply::gone(key),
        InputError::Ended => {
            let text = format!("run {} is over, or is being cancelled; its agent takes no more messages", key.run);
            Failure::new(ErrorCode::RunEnded, text)
        }
        InputError::NoChannel { harness } => {
            let text = format!(
                "the agent of run {} ({harness}) cannot be told anything now, and the run is no turn of a session that \
                 could pass it on",
                key.run
            );
            Problem::new(ErrorCode::NoInputChannel, text).fact("harness", harness).into()
        }
        InputError::Full { waiting } => {
            let text = format!("{waiting} messages wait for the agent already; nothing was stored");
            Problem::new(ErrorCode::InputQueueFull, text).fact("waiting", waiting).into()
        }
        InputError::OperationConflict => reply::operation_conflict(),
        InputError::Draining => Failure::new(ErrorCode::Draining, "the server is stopping; ask the next one"),
        InputError::Commit(error) => error.into(),
        InputError::Store(error) => error.into(),
    }
}
