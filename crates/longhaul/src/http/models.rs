//! `GET /v1/models`: each harness, and each model it is known to have.

use axum::Json;
use axum::extract::RawQuery;
use serde_json::{Value, json};

use super::query::Query;
use super::reply::Failure;

/// Whether a harness runs a command that the request names, so that a model's name alone says too little.
pub(super) fn needs_a_command(harness: &str) -> bool {
    longhaul_harness::find(harness).is_some_and(|harness| harness.fields().contains(&"command"))
}

/// The handler.
pub(super) async fn list(RawQuery(query): RawQuery) -> Result<Json<Value>, Failure> {
    Query::parse(query.as_deref(), &[])?;
    let model = |id: String, owner: &str| json!({ "id": id, "object": "model", "created": 0, "owned_by": owner });
    let mut data = Vec::new();
    for harness in longhaul_harness::all().iter().filter(|h| !needs_a_command(h.name())) {
        data.push(model(harness.name().to_owned(), harness.name()));
        data.extend(harness.models().iter().map(|m| model(format!("{}/{m}", harness.name()), harness.name())));
    }
    Ok(Json(json!({ "object": "list", "data": data })))
}
