//! `HEAD /v1/stream/{path}`: what can be said of a stream without its messages. It is no use of the stream.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use longhaul_engine::streams::Info;

use super::answer::{NO_STORE, Place, describe};
use super::read;
use super::refusal::Refused;
use super::target::Target;
use crate::http::App;

/// The handler.
pub(in crate::http) async fn head(
    State(app): State<App>,
    Target(path): Target,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let info = app.streams.head(&read::key(query.as_deref(), path)?).await?;
    Ok(answer(&info))
}

/// What is said of a stream.
pub(super) fn answer(info: &Info) -> Response {
    // No length is told: an empty body's would be taken for that of the whole stream.
    let mut response = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>()).into_response();
    let out = response.headers_mut();
    describe(out, info);
    Place { up_to_date: false, ..Place::end_of(info) }.tell(out);
    out.insert(header::CACHE_CONTROL, NO_STORE);
    response
}
