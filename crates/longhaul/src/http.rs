//! The HTTP faces.
//!
//! Job: routes, checks at the door (host, origin, token, size), one log line and one request id for each request.
//! Owns: nothing but what a request needs. Never: touches a process or a file of a run but through the engine; starts
//! a timer whose end touches a run.

mod approvals;
mod asked;
mod backup;
mod caller;
mod cancel;
mod chat;
mod chat_retry;
mod cors;
mod dialect;
mod door;
mod drain;
mod events;
mod feed;
mod fields;
mod input;
mod input_items;
mod leave;
mod log;
mod models;
mod openapi;
mod ops;
mod peer;
mod query;
mod reply;
mod responses;
mod resume;
mod runs;
mod scope;
mod session_events;
mod sessions;
mod share;
mod sse;
mod streams;
mod tokens;
mod trace;
mod transcript;
mod upgrade;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request};
use axum::response::Response;
use axum::routing::{delete, get, post};
use futures_util::FutureExt as _;
use futures_util::future::Either;
use longhaul_api::ErrorCode;
use longhaul_engine::Engine;
use longhaul_model::limits;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use crate::access::{Insiders, Tokens};
pub use backup::Backups;

pub use caller::Caller;
pub use chat_retry::Recent as ChatRetries;
pub use cors::{Origin, OriginError};
pub use door::Door;
pub use leave::{Leave, Socket};
pub use openapi::document as openapi_document;
pub(crate) use ops::readiness;
pub use peer::Peer;
pub use reply::{BodyTooSlow, Failure};
pub use responses::Folds as ResponseFolds;
pub use streams::Fans as StreamFans;
pub(crate) use streams::callback_path;

/// What every handler may use. Cheap to clone: each request does, and each reader holds one.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// What an [`App`] is made of.
pub struct Parts {
    /// The engine.
    pub engine: Engine,
    /// The streams that people write.
    pub streams: longhaul_engine::Streams,
    /// Who is told of them.
    pub subscriptions: longhaul_engine::Subscriptions,
    /// What readers of streams share.
    pub fans: StreamFans,
    /// Who may come in.
    pub door: Arc<Door>,
    /// The tokens with bounds.
    pub tokens: Arc<Tokens>,
    /// Tells whether a caller is a process of a run.
    pub insiders: Arc<Insiders>,
    /// How long a long poll of a stream waits.
    pub long_poll: std::time::Duration,
    /// Where others reach the server, if that was said.
    pub public_url: Option<Origin>,
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
    /// What is folded of responses that somebody polls.
    pub responses: Arc<ResponseFolds>,
    /// What makes backups.
    pub backups: Arc<Backups>,
    /// How late the event loop is.
    pub pulse: Arc<crate::pulse::Pulse>,
    /// Who may take this server's place.
    pub upgrades: Arc<crate::serve::Upgrades>,
    /// Whether runs that are in nobody's trace begin one.
    pub traces: bool,
    /// The connections, readers that left the HTTP server included.
    pub connections: TaskTracker,
}

impl App {
    /// Of these parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
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
    ("/v1/runs/{id}/resume", &["post"]),
    ("/v1/runs/{id}/why", &["get"]),
    ("/v1/runs/{id}/share", &["post"]),
    ("/v1/sessions", &["get"]),
    ("/v1/sessions/{id}", &["get", "delete"]),
    ("/v1/sessions/{id}/transcript", &["get"]),
    ("/v1/sessions/{id}/events", &["get"]),
    ("/v1/events", &["get"]),
    ("/v1/chat/completions", &["post"]),
    ("/v1/responses", &["post"]),
    ("/v1/responses/{id}", &["get", "delete"]),
    ("/v1/responses/{id}/cancel", &["post"]),
    ("/v1/responses/{id}/input_items", &["get"]),
    ("/v1/stream", &["get"]),
    ("/v1/stream/{*path}", &["put", "post", "get", "delete"]),
    ("/v1/stream/runs/{id}", &["get"]),
    ("/v1/stream/__ds/jwks.json", &["get"]),
    ("/v1/stream/__ds/subscriptions/{id}", &["put", "get", "delete"]),
    ("/v1/stream/__ds/subscriptions/{id}/streams", &["post"]),
    ("/v1/stream/__ds/subscriptions/{id}/streams/{*path}", &["delete"]),
    ("/v1/stream/__ds/subscriptions/{id}/claim", &["post"]),
    ("/v1/stream/__ds/subscriptions/{id}/ack", &["post"]),
    ("/v1/stream/__ds/subscriptions/{id}/release", &["post"]),
    ("/v1/stream/__ds/subscriptions/{id}/callback", &["post"]),
    ("/v1/models", &["get"]),
    ("/v1/backup", &["post"]),
    ("/v1/drain", &["post", "delete"]),
    ("/v1/tokens", &["get", "post"]),
    ("/v1/tokens/{id}", &["delete"]),
    ("/v1/shutdown", &["post"]),
    ("/v1/upgrade", &["post"]),
    ("/health", &["get"]),
    ("/livez", &["get"]),
    ("/readyz", &["get"]),
    ("/metrics", &["get"]),
    ("/openapi.json", &["get"]),
];

/// The faces, as connections ask them.
#[derive(Debug, Clone)]
pub struct Faces {
    app: App,
    router: Router,
}

impl Faces {
    /// All of them.
    pub fn new(app: App) -> Self {
        Self { router: router(app.clone()), app }
    }

    /// The answer to a request that came over a connection.
    pub fn answer(
        &self,
        peer: &Peer,
        leave: &Leave,
        mut request: Request,
    ) -> impl Future<Output = Response> + Send + use<> {
        if streams::is_append(&request) {
            return Either::Left(Box::pin(streams::visit(self.app.clone(), peer.clone(), request)));
        }
        request.extensions_mut().insert(ConnectInfo(peer.clone()));
        request.extensions_mut().insert(leave.clone());
        Either::Right(self.router.clone().call(request).map(|answer| match answer {
            Ok(answer) => answer,
        }))
    }
}

/// The router of all faces.
fn router(app: App) -> Router {
    Router::new()
        .route("/v1/runs", get(runs::list).post(runs::create))
        .route("/v1/runs/{id}", get(runs::show).delete(runs::erase))
        .route("/v1/runs/{id}/events", get(events::events))
        .route("/v1/runs/{id}/log", get(log::log))
        .route("/v1/runs/{id}/cancel", post(cancel::cancel))
        .route("/v1/runs/{id}/input", post(input::input))
        .route("/v1/runs/{id}/approvals", get(approvals::list))
        .route("/v1/runs/{id}/approvals/{approval_id}", post(approvals::answer))
        .route("/v1/runs/{id}/resume", post(resume::resume))
        .route("/v1/runs/{id}/why", get(runs::why))
        .route("/v1/runs/{id}/share", post(share::share))
        .route("/v1/sessions", get(sessions::list))
        .route("/v1/sessions/{id}", get(sessions::show).delete(sessions::erase))
        .route("/v1/sessions/{id}/transcript", get(transcript::transcript))
        .route("/v1/sessions/{id}/events", get(session_events::events))
        .route("/v1/events", get(feed::feed))
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/{id}", get(responses::show).delete(responses::erase))
        .route("/v1/responses/{id}/cancel", post(responses::stop))
        .route("/v1/responses/{id}/input_items", get(input_items::list))
        .route("/v1/models", get(models::list))
        .route("/v1/backup", post(backup::backup))
        .route("/v1/drain", post(drain::begin).delete(drain::undo))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .route("/v1/shutdown", post(ops::shutdown))
        .route("/v1/upgrade", post(upgrade::upgrade))
        .route("/health", get(ops::health))
        .route("/livez", get(ops::livez))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(ops::metrics))
        .route("/openapi.json", get(openapi::show))
        .merge(streams::routes())
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
