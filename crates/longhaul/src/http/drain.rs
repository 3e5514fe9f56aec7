//! `POST /v1/drain` and `DELETE /v1/drain`: no new runs from now on, and again.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::App;

/// Refuses new runs; what was accepted is carried out.
pub(super) async fn begin(State(app): State<App>) -> Json<Value> {
    app.engine.hold(true);
    tracing::info!("no new runs; what was accepted is carried out");
    state(&app)
}

/// Takes new runs again.
pub(super) async fn undo(State(app): State<App>) -> Json<Value> {
    app.engine.hold(false);
    tracing::info!("new runs are taken again");
    state(&app)
}

fn state(app: &App) -> Json<Value> {
    Json(json!({ "draining": app.engine.is_holding(), "live": app.engine.live_count() }))
}
