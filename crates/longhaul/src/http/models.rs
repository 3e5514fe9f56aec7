//! `GET /v1/models`: each harness, and each model it is known to have; of `passthrough` the upstreams that are configured.

use axum::Json;
use axum::extract::{RawQuery, State};
use longhaul_harness::{Harness, passthrough};
use serde_json::{Value, json};

use super::App;
use super::query::Query;
use super::reply::Failure;

/// Whether a harness runs a command that the request names, so that a model's name alone says too little.
pub(super) fn needs_a_command(harness: &str) -> bool {
    longhaul_harness::find(harness).is_some_and(|harness| harness.fields().contains(&"command"))
}

/// The handler.
pub(super) async fn list(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Json<Value>, Failure> {
    Query::parse(query.as_deref(), &[])?;
    let model = |id: String, owner: &str| json!({ "id": id, "object": "model", "created": 0, "owned_by": owner });
    let mut data = Vec::new();
    let named = |h: &&&dyn Harness| !needs_a_command(h.name()) && h.name() != passthrough::NAME;
    for harness in longhaul_harness::all().iter().filter(named) {
        data.push(model(harness.name().to_owned(), harness.name()));
        data.extend(harness.models().iter().map(|m| model(format!("{}/{m}", harness.name()), harness.name())));
    }
    for (upstream, _) in app.engine.upstreams() {
        let id = format!("{}/{}", passthrough::NAME, upstream.name);
        data.extend(upstream.models.iter().map(|m| model(format!("{id}/{m}"), passthrough::NAME)));
        data.push(model(id, passthrough::NAME));
    }
    Ok(Json(json!({ "object": "list", "data": data })))
}
