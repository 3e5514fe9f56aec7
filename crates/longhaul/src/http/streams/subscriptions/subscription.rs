//! `PUT`, `GET`, `DELETE` of a subscription, and the streams that it follows by name.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longhaul_api::{ErrorCode, Problem};
use longhaul_engine::subscriptions::{SubscribeError, View};
use longhaul_model::limits;
use longhaul_model::stream::StreamPath;
use longhaul_model::stream::subscription::{Config, ConfigError, Kind};
use serde_json::{Value, json};

use super::{Named, ROOT, ask_failure, fresh, invalid, object, write_failure};
use crate::http::reply::{self, Failure};
use crate::http::{App, Origin};

/// The server's address as the caller knows it: webhooks call back there where no other address was said.
fn base(app: &App, headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let is_host =
        |host: &&str| host.parse::<Authority>().is_ok_and(|parsed| parsed.host().len() <= 255) && !host.contains('@');
    let host = host.filter(is_host).unwrap_or(&app.address);
    // What is before this server ends TLS and says so; of several the first was nearest to the caller.
    let proto = headers.get("x-forwarded-proto").and_then(|proto| proto.to_str().ok());
    let proto = proto.and_then(|proto| proto.split(',').next()).unwrap_or_default().trim();
    let scheme = if proto.eq_ignore_ascii_case("https") { "https" } else { "http" };
    format!("{scheme}://{host}")
}

fn config_failure(error: &ConfigError) -> Failure {
    match error {
        ConfigError::Unknown(name) => invalid(name, error.to_string()),
        ConfigError::Member(name, _) => invalid(name, error.to_string()),
        ConfigError::Url(_) => {
            Problem::new(ErrorCode::WebhookUrlRejected, error.to_string()).param("webhook.url").into()
        }
    }
}

fn document(app: &App, kid: Option<&str>, view: &View) -> Value {
    let head = &view.head;
    let config = &head.config;
    let streams: Vec<Value> = view
        .streams
        .iter()
        .map(|stream| json!({"path": stream.path, "link_type": stream.link_type(), "acked_offset": stream.acked}))
        .collect();
    let base = app.public_url.as_ref().map_or(&*head.base, Origin::as_str);
    let signing = kid.map(|kid| json!({"alg": "ed25519", "kid": kid, "jwks_url": format!("{base}{ROOT}/jwks.json")}));
    let (wake, now) = (head.phase.wake(), app.engine.now());
    json!({
        "id": view.id,
        "subscription_id": view.id,
        "type": config.kind,
        "pattern": config.pattern,
        "streams": streams,
        "streams_total": view.streams_total,
        "webhook": config.webhook.as_ref().map(|url| json!({"url": url, "signing": signing})),
        "wake_stream": config.wake_stream,
        "lease_ttl_ms": config.lease_ttl_ms,
        "description": config.description,
        "created_at": head.created_at,
        "status": if head.retry.is_some() { "failed" } else { "active" },
        "phase": head.phase.name(),
        "generation": head.generation,
        "wake_id": wake.map(|wake| wake.id.as_str()),
        "lease_until": head.phase.lease_until().filter(|until| *until > now),
        "failures": head.retry.map_or(0, |retry| retry.failures),
        "next_attempt_at": head.retry.map(|retry| retry.at),
        "last_failure": view.failure,
    })
}

async fn answer(app: &App, status: StatusCode, view: &View) -> Result<Response, Failure> {
    let kid = match view.head.config.kind {
        Kind::Webhook => Some(app.subscriptions.keys().await.map_err(write_failure)?.kid()),
        Kind::PullWake => None,
    };
    Ok(fresh((status, Json(document(app, kid, view)))))
}

/// `PUT`.
pub(super) async fn create(
    State(app): State<App>,
    named: Named,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let config = Config::parse(&object(&reply::body(body)?)?).map_err(|error| config_failure(&error))?;
    let subscribed = app.subscriptions.subscribe(&named.key(), config, &base(&app, &headers)).await;
    let (view, new) = subscribed.map_err(|error| match error {
        SubscribeError::Exists => {
            let text = "there is a subscription of this id with another configuration; delete it, or take another id";
            Failure::new(ErrorCode::SubscriptionExists, text)
        }
        SubscribeError::TooMany => {
            let text = format!("there are {} subscriptions, more may not be; delete some", limits::SUBSCRIPTIONS_MAX);
            Failure::new(ErrorCode::TooManySubscriptions, text)
        }
        SubscribeError::TooManyStreams => invalid("pattern", error.to_string()),
        SubscribeError::Write(error) => write_failure(error),
    })?;
    answer(&app, if new { StatusCode::CREATED } else { StatusCode::OK }, &view).await
}

/// `GET`.
pub(super) async fn show(State(app): State<App>, named: Named) -> Result<Response, Failure> {
    let key = named.key();
    let view = app.subscriptions.show(&key).await.map_err(|error| ask_failure(error, &key))?;
    answer(&app, StatusCode::OK, &view).await
}

/// `DELETE`.
pub(super) async fn erase(State(app): State<App>, named: Named) -> Result<Response, Failure> {
    app.subscriptions.delete(&named.key()).await.map_err(write_failure)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST …/streams`.
pub(super) async fn link(
    State(app): State<App>,
    named: Named,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let map = object(&reply::body(body)?)?;
    if let Some(name) = map.keys().find(|name| *name != "streams") {
        return Err(invalid(name, format!("there is no member {name:?}")));
    }
    let paths = Config::streams(map.get("streams").unwrap_or(&Value::Null)).map_err(|error| config_failure(&error))?;
    let key = named.key();
    let linked = app.subscriptions.link(&key, paths.into_iter().collect()).await;
    linked.map_err(|error| ask_failure(error, &key))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `DELETE …/streams/{path}`.
pub(super) async fn unlink(State(app): State<App>, named: Named) -> Result<Response, Failure> {
    let key = named.key();
    let path = named.rest.as_deref().unwrap_or_default().trim_matches('/');
    let unlinked = match StreamPath::parse(path) {
        Ok(path) => app.subscriptions.unlink(&key, path).await,
        // What no stream is called is followed by nobody.
        Err(_) => app.subscriptions.show(&key).await.map(|_| ()),
    };
    unlinked.map_err(|error| ask_failure(error, &key))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
