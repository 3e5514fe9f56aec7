//! Subscriptions: `/v1/stream/__ds/subscriptions/{id}` and the keys at `/v1/stream/__ds/jwks.json`.
//!
//! Job: the protocol's requests in, its statuses, bodies and codes out. Codes are the protocol's own words. A worker shows
//! the token of its wake, and needs no other. Never: decides what happens to a subscription.

mod subscription;
mod work;

use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, extract::State};
use longhaul_api::{ErrorCode, Problem};
use longhaul_engine::streams::WriteError;
use longhaul_engine::subscriptions::AskError;
use longhaul_model::ProjectId;
use longhaul_model::stream::subscription::{Refusal, SubscriptionId, SubscriptionKey};
use serde_json::{Map, Value, json};

use super::refusal;
use crate::http::App;
use crate::http::query::Query;
use crate::http::reply::Failure;

const ROOT: &str = "/v1/stream/__ds";

/// The routes.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/stream/__ds/jwks.json", get(jwks))
        .route(
            "/v1/stream/__ds/subscriptions/{id}",
            put(subscription::create).get(subscription::show).delete(subscription::erase),
        )
        .route("/v1/stream/__ds/subscriptions/{id}/streams", post(subscription::link))
        .route("/v1/stream/__ds/subscriptions/{id}/streams/{*path}", delete(subscription::unlink))
        .route("/v1/stream/__ds/subscriptions/{id}/claim", post(work::claim))
        .route("/v1/stream/__ds/subscriptions/{id}/ack", post(work::ack))
        .route("/v1/stream/__ds/subscriptions/{id}/release", post(work::release))
        .route("/v1/stream/__ds/subscriptions/{id}/callback", post(work::callback))
}

/// Where a webhook tells how far it is.
pub(crate) fn callback_path(id: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    let one = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    let id: String = id.bytes().map(one).collect();
    format!("{ROOT}/subscriptions/{id}/callback")
}

/// `GET /v1/stream/__ds/jwks.json`: the public key that signatures are checked with.
async fn jwks(State(app): State<App>) -> Result<Response, Failure> {
    let keys = app.subscriptions.keys().await.map_err(write_failure)?;
    let key =
        json!({"kty": "OKP", "crv": "Ed25519", "kid": keys.kid(), "use": "sig", "alg": "EdDSA", "x": keys.public()});
    let mut response = Json(json!({"keys": [key]})).into_response();
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    Ok(response)
}

/// The subscription that an address names, and the project of its query.
struct Named {
    id: SubscriptionId,
    project: Option<ProjectId>,
    /// What follows the subscription in the path.
    rest: Option<String>,
}

impl Named {
    fn key(&self) -> SubscriptionKey {
        let project = self.project.clone().unwrap_or_else(ProjectId::default_project);
        SubscriptionKey { project, id: self.id.clone() }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let segments = Path::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Path(segments) = segments.map_err(|_| invalid("id", "the id in the path is not UTF-8"))?;
        let find = |name: &str| segments.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        let id = SubscriptionId::parse(&find("id").unwrap_or_default()).map_err(|rule| invalid("id", rule))?;
        let project = Query::parse(parts.uri.query(), &["project"])?.project()?;
        Ok(Self { id, project, rest: find("path") })
    }
}

/// A request that is not as the protocol has it.
fn invalid(param: &str, text: impl Into<String>) -> Failure {
    Problem::new(ErrorCode::SubscriptionInvalid, text).param(param).into()
}

/// A body that is a JSON object; none is an empty one.
fn object(body: &[u8]) -> Result<Map<String, Value>, Failure> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(invalid("body", "the body must be a JSON object")),
        Err(error) => Err(invalid("body", format!("the body is not JSON: {error}"))),
    }
}

/// The token of a wake.
fn bearer(headers: &HeaderMap) -> Result<&str, Failure> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.split_once(' ')).filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    given.map(|(_, token)| token.trim()).ok_or_else(|| {
        let text = "a worker shows the token of its wake: Authorization: Bearer TOKEN";
        Problem::new(ErrorCode::SubscriptionToken, text).param("Authorization").into()
    })
}

/// An answer that no cache may keep.
fn fresh(answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn write_failure(error: WriteError) -> Failure {
    refusal::write(error).into_failure()
}

fn not_found(key: &SubscriptionKey) -> Failure {
    let text = format!("there is no subscription {} in project {}", key.id, key.project);
    Problem::new(ErrorCode::SubscriptionNotFound, text).fact("subscription_id", key.id.as_str()).into()
}

/// A question that was not answered.
fn ask_failure(error: AskError, key: &SubscriptionKey) -> Failure {
    match error {
        AskError::NotFound => not_found(key),
        AskError::TokenInvalid => {
            let text = "the token is not one of this subscription";
            Problem::new(ErrorCode::SubscriptionToken, text).param("Authorization").into()
        }
        AskError::Refused(refusal) => refused(&refusal),
        AskError::Write(error) => write_failure(error),
    }
}

fn refused(refusal: &Refusal) -> Failure {
    let text = refusal.to_string();
    let problem = match refusal {
        Refusal::Fenced { generation } => Problem::new(ErrorCode::Fenced, text).fact("generation", *generation),
        Refusal::AlreadyClaimed { holder, generation } => Problem::new(ErrorCode::AlreadyClaimed, text)
            .fact("current_holder", holder.as_str())
            .fact("generation", *generation),
        Refusal::NoPendingWork => Problem::new(ErrorCode::NoPendingWork, text),
        Refusal::InvalidOffset { path, .. } => {
            Problem::new(ErrorCode::InvalidOffset, text).fact("stream", path.as_str())
        }
        Refusal::WrongKind(_) => Problem::new(ErrorCode::SubscriptionInvalid, text).param("type"),
        Refusal::TooManyStreams => Problem::new(ErrorCode::SubscriptionInvalid, text).param("streams"),
    };
    problem.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_address_holds_any_id() {
        assert_eq!(callback_path("sub-1"), "/v1/stream/__ds/subscriptions/sub-1/callback");
        assert_eq!(callback_path("a b/ä%"), "/v1/stream/__ds/subscriptions/a%20b%2F%C3%A4%25/callback");
    }
}
