//! `/v1/tokens`: make, list, revoke.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longhaul_api::{ErrorCode, Problem, TokenInfo, TokenList, TokenRequest};
use longhaul_model::limits;
use serde_json::{Value, json};

use super::App;
use super::query::{PathId, Query};
use super::reply::{self, Failure};
use crate::access::{Bounds, CreateError, RevokeError};

/// A token that was not made.
pub(super) fn create_failure(error: CreateError) -> Failure {
    match error {
        CreateError::TooMany(count) => {
            Problem::new(ErrorCode::TooManyTokens, format!("{error}; revoke some: longhaul token revoke ID"))
                .fact("tokens", count)
                .into()
        }
        CreateError::Commit(error) => error.into(),
    }
}

/// An answer that holds a secret, which no cache may keep.
pub(super) fn secret(answer: impl IntoResponse) -> Response {
    let mut response = (StatusCode::CREATED, answer).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The directories as they really are, so that a link that is changed later opens nothing.
fn resolved(roots: &[String]) -> Result<Vec<String>, Failure> {
    let one = |root: &String| {
        let wrong = |why: String| Failure::from(Problem::invalid("allowed_roots", format!("{root:?}: {why}")));
        if !root.starts_with('/') {
            return Err(wrong("it must be an absolute path".to_owned()));
        }
        let real = std::fs::canonicalize(root).map_err(|error| wrong(error.to_string()))?;
        if !real.is_dir() {
            return Err(wrong("it is no directory".to_owned()));
        }
        real.into_os_string().into_string().map_err(|_| wrong("it leads to a path that is not UTF-8".to_owned()))
    };
    roots.iter().map(one).collect()
}

/// `POST /v1/tokens`.
pub(super) async fn create(
    State(app): State<App>,
    RawQuery(raw): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    Query::parse(raw.as_deref(), &[])?;
    let request = TokenRequest::parse(&reply::body(body)?)?;
    let bounds = Bounds {
        scope: request.scope,
        project: request.project,
        run: None,
        allowed_roots: resolved(&request.allowed_roots)?,
        lane: request.lane,
    };
    let ttl_ms = request.ttl_ms.unwrap_or(limits::TOKEN_TTL_DEFAULT_MS);
    let made = app.tokens.create(&app.engine, request.name, bounds, ttl_ms).await;
    let (token, text) = made.map_err(create_failure)?;
    Ok(secret(Json(token.info(Some(text)))))
}

/// `GET /v1/tokens`.
pub(super) async fn list(State(app): State<App>, RawQuery(raw): RawQuery) -> Result<Json<TokenList>, Failure> {
    Query::parse(raw.as_deref(), &[])?;
    let data: Vec<TokenInfo> = app.tokens.list().iter().map(|token| token.info(None)).collect();
    Ok(Json(TokenList { object: "list".to_owned(), data }))
}

/// `DELETE /v1/tokens/{id}`.
pub(super) async fn revoke(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(raw): RawQuery,
) -> Result<Json<Value>, Failure> {
    Query::parse(raw.as_deref(), &[])?;
    match app.tokens.revoke(&app.engine, &id).await {
        Ok(()) => Ok(Json(json!({ "id": id, "object": "token.deleted", "deleted": true }))),
        Err(RevokeError::NotFound) => {
            let text = "there is no token with this id; GET /v1/tokens lists them";
            Err(Problem::new(ErrorCode::TokenNotFound, text).fact("token_id", id).into())
        }
        Err(RevokeError::Commit(error)) => Err(error.into()),
    }
}
