//! The HTTP faces.
//!
//! Job: routes, checks at the door (host, origin, token, size), one log line and one request id for each request.
//! Owns: nothing but what a request needs. Never: touches a process or a file of a run but through the engine; starts
//! a timer whose end touches a run.

mod approvals;
mod cancel;
mod chat;
mod chat_retry;
mod cors;
mod dialect;
mod door;
mod events;
mod feed;
mod input;
mod log;
mod models;
mod openapi;
mod ops;
mod peer;
mod query;
mod reply;
mod runs;
mod sessions;
mod sse;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use longhaul_api::ErrorCode;
use longhaul_engine::Engine;
use longhaul_model::limits;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

pub use chat_retry::Recent as ChatRetries;
pub use cors::{Origin, OriginError};
pub use door::Door;
pub use openapi::document as openapi_document;
pub use peer::Peer;
pub use reply::Failure;

/// What every handler may use.
#[derive(Clone)]
pub struct App {
    /// The engine.
    pub engine: Engine,
    /// Who may come in.
    pub door: Arc<Door>,
    /// Ends when the server drains: readers get a frame that says so.
    pub draining: CancellationToken,
    /// Ask for the server's end.
    pub stop: CancellationToken,
    /// The metrics.
    pub metrics: PrometheusHandle,
    /// When the server started.
    pub started: Instant,
    /// The nonce that `/livez` proves.
    pub nonce: Arc<str>,
    /// The address that is bound.
    pub address: Arc<str>,
    /// What is remembered of chat requests without an id.
    pub chat_retries: Arc<ChatRetries>,
    /// The data directory, for the disk's figures.
    pub data_dir: Arc<std::path::Path>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Every route, by path; the OpenAPI document must name them all.
pub const ROUTES: &[(&str, &[&str])] = &[
    ("/v1/runs", &["get", "post"]),
    ("/v1/runs/{id}", &["get", "delete"]),
    ("/v1/runs/{id}/events", &["get"]),
    ("/v1/runs/{id}/log", &["get"]),
    ("/v1/runs/{id}/cancel", &["post"]),
    ("/v1/runs/{id}/input", &["post"]),
    ("/v1/runs/{id}/approvals", &["get"]),
    ("/v1/runs/{id}/approvals/{approval_id}", &["post"]),
    ("/v1/runs/{id}/why", &["get"]),
    ("/v1/sessions", &["get"]),
    ("/v1/sessions/{id}", &["get", "delete"]),
    ("/v1/events", &["get"]),
    ("/v1/chat/completions", &["post"]),
    ("/v1/models", &["get"]),
    ("/v1/shutdown", &["post"]),
    ("/health", &["get"]),
    ("/livez", &["get"]),
    ("/readyz", &["get"]),
    ("/metrics", &["get"]),
    ("/openapi.json", &["get"]),
];

/// The router of all faces.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/v1/runs", get(runs::list).post(runs::create))
        .route("/v1/runs/{id}", get(runs::show).delete(runs::erase))
        .route("/v1/runs/{id}/events", get(events::events))
        .route("/v1/runs/{id}/log", get(log::log))
        .route("/v1/runs/{id}/cancel", post(cancel::cancel))
        .route("/v1/runs/{id}/input", post(input::input))
        .route("/v1/runs/{id}/approvals", get(approvals::list))
        .route("/v1/runs/{id}/approvals/{approval_id}", post(approvals::answer))
        .route("/v1/runs/{id}/why", get(runs::why))
        .route("/v1/sessions", get(sessions::list))
        .route("/v1/sessions/{id}", get(sessions::show).delete(sessions::erase))
        .route("/v1/events", get(feed::feed))
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/models", get(models::list))
        .route("/v1/shutdown", post(ops::shutdown))
        .route("/health", get(ops::health))
        .route("/livez", get(ops::livez))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(ops::metrics))
        .route("/openapi.json", get(openapi::show))
        .fallback(|| async {
            Failure::new(ErrorCode::RouteNotFound, "there is nothing at this path; see /openapi.json")
        })
        .method_not_allowed_fallback(|| async {
            Failure::new(ErrorCode::MethodNotAllowed, "this path does not take this method; see /openapi.json")
        })
        .layer(DefaultBodyLimit::max(limits::BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state(app.clone(), door::pass))
        .with_state(app)
}
