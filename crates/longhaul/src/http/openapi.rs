//! `/openapi.json`: the contract of these faces, for programs that read contracts.
//!
//! Job: the document of docs/openapi.json with this program's version in it. Never: makes any of it up; a test compares
//! it with the routes, the fields, the error codes and the event types.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

/// The document as it is written, with a version to be filled in.
const WRITTEN: &str = include_str!("../../../../docs/openapi.json");

/// What stands where the version belongs.
const NO_VERSION: &str = "\"version\": \"0.0.0\"";

/// The document's bytes, its members in the order they were written in.
fn text() -> String {
    WRITTEN.replacen(NO_VERSION, &format!("\"version\": \"{}\"", crate::VERSION), 1)
}

/// The document.
pub fn document() -> Value {
    serde_json::from_str(&text()).unwrap_or_default()
}

/// The handler.
pub(super) async fn show() -> Response {
    let mut response = text().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
