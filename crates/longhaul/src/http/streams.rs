//! The Durable Streams protocol: `/v1/stream/{path}`, and the logs of runs at `/v1/stream/runs/{id}`.
//!
//! Job: the protocol's requests in, its statuses and headers out; docs/streams.md is the contract.
//! Owns: nothing but what a request or a reader needs. Never: decides what an append may do; shows what is not durable;
//! writes to a run's log.

mod answer;
mod append;
mod create;
mod delete;
mod fan;
mod fields;
mod head;
mod list;
mod long_poll;
mod park;
mod read;
mod refusal;
mod run_log;
mod source;
mod sse;
mod subscriptions;
mod target;

pub(crate) use subscriptions::callback_path;

use axum::Router;
use axum::routing::{get, put};

use super::App;
pub(super) use append::{is_append, visit};
pub use fan::Fans;

/// The face's routes.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/stream", get(list::list))
        .route("/v1/stream/runs/{id}", get(run_log::read).head(run_log::head))
        .route(
            append::ROUTE,
            put(create::create).post(append::append).get(read::read).head(head::head).delete(delete::delete),
        )
        .merge(subscriptions::routes())
}
