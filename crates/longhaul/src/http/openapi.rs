//! `/openapi.json`: the contract of these faces, for programs that read contracts.

use axum::Json;
use serde_json::Value;

/// The document.
pub fn document() -> Value {
    serde_json::json!({ "openapi": "3.1.0", "info": { "title": "Longhaul", "version": crate::VERSION }, "paths": {} })
}

/// The handler.
pub(super) async fn show() -> Json<Value> {
    Json(document())
}
