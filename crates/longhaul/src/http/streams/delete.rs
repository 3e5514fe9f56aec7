//! `DELETE /v1/stream/{path}`.

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;

use super::read;
use super::refusal::Refused;
use super::target::Target;
use crate::http::App;

/// The handler.
pub(in crate::http) async fn delete(
    State(app): State<App>,
    Target(path): Target,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Refused> {
    app.streams.delete(&read::key(query.as_deref(), path)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
