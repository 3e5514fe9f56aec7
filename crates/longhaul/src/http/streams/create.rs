//! `PUT /v1/stream/{path}`: makes a stream, or finds it there as was asked.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use longhaul_engine::streams::Create;

use super::answer::{Place, describe};
use super::fields::Fields;
use super::read;
use super::refusal::Refused;
use super::target::Target;
use crate::http::{App, reply};

/// The handler.
pub(in crate::http) async fn create(
    State(app): State<App>,
    Target(path): Target,
    RawQuery(query): RawQuery,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let key = read::key(query.as_deref(), path)?;
    let fields = Fields::of(&headers);
    let create = Create {
        content_type: fields.new_content_type()?,
        lifetime: fields.lifetime()?,
        keep: fields.keep()?,
        closed: fields.closes(),
        body: reply::body(body)?,
        fork: fields.fork()?,
    };
    let created = app.streams.create(&key, create).await?;
    let status = if created.new { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = status.into_response();
    let out = response.headers_mut();
    describe(out, &created.info);
    Place { up_to_date: false, ..Place::end_of(&created.info) }.tell(out);
    if created.new
        && let Some(location) = location(&headers, &uri)
    {
        out.insert(header::LOCATION, location);
    }
    Ok(response)
}

/// The stream's own address, as the client wrote it.
fn location(headers: &HeaderMap, uri: &Uri) -> Option<HeaderValue> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    HeaderValue::try_from(format!("http://{host}{}{query}", uri.path())).ok()
}
