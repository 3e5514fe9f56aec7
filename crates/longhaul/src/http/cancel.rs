//! `POST /v1/runs/{id}/cancel`: 202 until the tree is proven gone, 200 with the proof.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longhaul_api::request::{decode, digest_of, parse_object, refuse_unknown};
use longhaul_api::{CancelReply, Problem};
use longhaul_model::RunId;
use longhaul_model::event::RunCancelRequested;
use serde::Deserialize;
use serde_json::Value;

use super::query::{PathId, Query};
use super::reply::{self, Failure};
use super::{App, runs};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    reason: Option<String>,
    op_id: Option<RunId>,
    by: Option<String>,
}

/// The handler.
pub(super) async fn cancel(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let query = Query::parse(query.as_deref(), &["project", "wait_ms"])?;
    let key = query.key(&id)?;
    let wait = query.wait()?;
    let map = parse_object(&reply::body(body)?)?;
    refuse_unknown(&map, &["reason", "op_id", "by"])?;
    let digest = digest_of("cancel.v1", &map, &["op_id"]);
    let body: Body = decode(Value::Object(map))?;
    if body.reason.as_ref().is_some_and(|r| r.len() > 1024) {
        return Err(Problem::invalid("reason", "reason has at most 1024 bytes").into());
    }
    let by = reply::asker(body.by.as_deref())?;
    let operation = super::input::operation(body.op_id, &headers, digest)?;
    let intent = RunCancelRequested { by: by.to_owned(), reason: body.reason };
    let cancelled = app.engine.cancel(&key, intent, operation).await.map_err(|e| reply::cancel_failure(e, &key))?;
    if !wait.is_zero() {
        tokio::select! {
            _ = app.engine.wait_end(&key, wait) => {}
            () = app.draining.cancelled() => {}
        }
    }
    let view = runs::view(&app, &key).await?;
    let terminal = view.doc.run.status.is_terminal();
    let answer = CancelReply { terminal, requested: cancelled.requested, run: runs::snapshot(&view, false) };
    let status = if terminal { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = (status, Json(answer)).into_response();
    if !terminal {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    runs::name(&mut response, &key, &view.doc.run.digest);
    Ok(response)
}
