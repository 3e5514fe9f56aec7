//! `GET /v1/models`: each harness, and each model it is known to have; of `passthrough` the upstreams that are configured.

use axum::Json;
use axum::extract::{RawQuery, State};
use longhaul_harness::{Harness, passthrough};
use serde_json::{Value, json};

use super::App;
use super::query::Query;
use super::reply::Failure;

/// The handler.
pub(super) async fn list(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Json<Value>, Failure> {
    Query::parse(query.as_deref(), &[])?;
    let model = |id: String, owner: &str| json!({ "id": id, "object": "model", "created": 0, "owned_by": owner });
    let mut data = Vec::new();
    let named = |h: &&&dyn Harness| h.name() != "exec" && h.name() != passthrough::NAME;
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
