//! `POST /v1/runs/{id}/share`: an address that shows one run for a while.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use longhaul_api::access::ShareLinks;
use longhaul_api::{Scope, ShareReply, ShareRequest};
use longhaul_model::limits;

use super::query::{PathId, Query};
use super::reply::{self, Failure};
use super::{App, runs, tokens};
use crate::access::Bounds;

/// The handler.
pub(super) async fn share(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(raw): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let key = Query::parse(raw.as_deref(), &["project"])?.key(&id)?;
    let request = ShareRequest::parse(&reply::body(body)?)?;
    runs::view(&app, &key).await?;
    let bounds = Bounds {
        scope: Scope::Read,
        project: Some(key.project.clone()),
        run: Some(key.run.clone()),
        allowed_roots: vec![],
        lane: None,
    };
    let ttl_ms = request.ttl_ms.unwrap_or(limits::SHARE_TTL_DEFAULT_MS);
    let made = app.tokens.create(&app.engine, Some(format!("share of {}", key.run)), bounds, ttl_ms).await;
    let (share, text) = made.map_err(tokens::create_failure)?;
    let own = format!("/v1/runs/{}", key.run);
    let links = ShareLinks {
        own: format!("{own}?token={text}"),
        events: format!("{own}/events?client=eventsource&token={text}"),
        log: format!("{own}/log?token={text}"),
    };
    Ok(tokens::secret(Json(ShareReply { share: share.info(Some(text)), links })))
}
