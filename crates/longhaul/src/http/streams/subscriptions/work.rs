//! What workers ask: claim, ack, release, and the callback of a webhook.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use longhaul_engine::subscriptions::{Followed, Progress};
use longhaul_model::limits;
use longhaul_model::stream::subscription::{Kind, SubscriptionKey};
use serde_json::{Map, Value, json};

use super::{Named, ask_failure, bearer, fresh, invalid, object};
use crate::http::App;
use crate::http::reply::{self, Failure};

/// `POST …/claim`.
pub(super) async fn claim(
    State(app): State<App>,
    named: Named,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let map = object(&reply::body(body)?)?;
    known(&map, &["worker"])?;
    let worker =
        map.get("worker").and_then(Value::as_str).filter(|name| (1..=limits::WORKER_BYTES_MAX).contains(&name.len()));
    let worker = worker.ok_or_else(|| invalid("worker", "worker must be a string of 1 to 256 bytes"))?;
    let key = named.key();
    let claimed = app.subscriptions.claim(&key, worker.to_owned()).await.map_err(|error| ask_failure(error, &key))?;
    let streams: Vec<Value> = claimed.streams.iter().map(Followed::document).collect();
    Ok(fresh(Json(json!({
        "wake_id": claimed.wake_id,
        "generation": claimed.generation,
        "token": claimed.token,
        "streams": streams,
        "lease_ttl_ms": claimed.lease_ttl_ms,
    }))))
}

/// `POST …/ack`.
pub(super) async fn ack(
    State(app): State<App>,
    named: Named,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    further(&app, Kind::PullWake, &named, &headers, body).await
}

/// `POST …/callback`.
pub(super) async fn callback(
    State(app): State<App>,
    named: Named,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    further(&app, Kind::Webhook, &named, &headers, body).await
}

async fn further(
    app: &App,
    kind: Kind,
    named: &Named,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let token = bearer(headers)?;
    let progress = progress(&object(&reply::body(body)?)?)?;
    let key = whose(app, named, token).await;
    let next = app.subscriptions.ack(&key, kind, token, progress).await.map_err(|error| ask_failure(error, &key))?;
    Ok(fresh(Json(json!({"ok": true, "next_wake": next}))))
}

/// `POST …/release`.
pub(super) async fn release(
    State(app): State<App>,
    named: Named,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let token = bearer(&headers)?;
    let progress = progress(&object(&reply::body(body)?)?)?;
    let key = whose(&app, &named, token).await;
    app.subscriptions.release(&key, token, progress).await.map_err(|error| ask_failure(error, &key))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The subscription that a request is about: a token knows its project, and its holder need not.
async fn whose(app: &App, named: &Named, token: &str) -> SubscriptionKey {
    let owner = app.subscriptions.owner(token).await.filter(|owner| owner.id == named.id);
    owner
        .filter(|owner| named.project.as_ref().is_none_or(|project| *project == owner.project))
        .unwrap_or_else(|| named.key())
}

fn known(map: &Map<String, Value>, names: &[&str]) -> Result<(), Failure> {
    match map.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(invalid(name, format!("there is no member {name:?}"))),
        None => Ok(()),
    }
}

fn progress(map: &Map<String, Value>) -> Result<Progress, Failure> {
    known(map, &["wake_id", "generation", "acks", "done"])?;
    let done = match map.get("done") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(done)) => *done,
        Some(_) => return Err(invalid("done", "done must be true or false")),
    };
    let acks = match map.get("acks") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) if list.len() <= limits::SUBSCRIPTION_ACKS_MAX => {
            list.iter().map(one_ack).collect::<Result<_, _>>()?
        }
        Some(_) => {
            let text = format!("acks must be a list of at most {} members", limits::SUBSCRIPTION_ACKS_MAX);
            return Err(invalid("acks", text));
        }
    };
    Ok(Progress {
        wake_id: map.get("wake_id").and_then(Value::as_str).map(str::to_owned),
        generation: map.get("generation").and_then(Value::as_u64),
        acks,
        done,
    })
}

fn one_ack(value: &Value) -> Result<(String, String), Failure> {
    let stream = value.get("stream").or_else(|| value.get("path")).and_then(Value::as_str);
    match (stream, value.get("offset").and_then(Value::as_str)) {
        (Some(stream), Some(offset)) => Ok((stream.to_owned(), offset.to_owned())),
        _ => Err(invalid("acks", "an ack has a stream and an offset, both strings")),
    }
}
