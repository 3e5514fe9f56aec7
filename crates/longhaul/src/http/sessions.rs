//! `/v1/sessions`: list, show, delete. A session comes to be with the first run that names it.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use longhaul_api::{ErrorCode, Problem};
use longhaul_engine::{Session, SessionEraseError, SessionKey};
use longhaul_model::{ProjectId, SessionId, limits};
use serde_json::{Value, json};

use super::App;
use super::query::{PathId, Query};
use super::reply::Failure;

fn shown(app: &App, session: &Session) -> Value {
    let key = SessionKey { project: session.project.clone(), id: session.id.clone() };
    json!({
        "id": session.id,
        "object": "session",
        "project": session.project,
        "harness": session.harness,
        "model": session.model,
        "cwd": session.cwd,
        "home": session.home(),
        "profile": session.profile,
        "source_session_id": session.source_session_id,
        "turns": session.turns,
        "created_at": session.created_at,
        "last_run": session.last_run,
        "live_run": app.engine.session_run(&key),
    })
}

pub(super) fn key(query: &Query, id: &str) -> Result<SessionKey, Failure> {
    let id = SessionId::parse(id).map_err(|e| Problem::invalid("id", e.to_string()))?;
    Ok(SessionKey { project: query.project()?.unwrap_or_else(ProjectId::default_project), id })
}

pub(super) fn not_found(key: &SessionKey) -> Failure {
    let text = format!("there is no session {} in project {}", key.id, key.project);
    Problem::new(ErrorCode::UnknownSession, text).fact("session_id", key.id.as_str()).into()
}

/// `GET /v1/sessions`.
pub(super) async fn list(State(app): State<App>, RawQuery(raw): RawQuery) -> Result<Json<Value>, Failure> {
    let query = Query::parse(raw.as_deref(), &["project", "limit", "after"])?;
    let project = query.project()?.unwrap_or_else(ProjectId::default_project);
    let limit = query.number("limit", 1, limits::LIST_MAX as u64)?.unwrap_or(limits::LIST_DEFAULT as u64) as usize;
    let after = match query.one("after")? {
        Some(text) => Some(SessionId::parse(text).map_err(|_| {
            Problem::new(ErrorCode::InvalidCursor, "after must be the next of an earlier page").param("after")
        })?),
        None => None,
    };
    let (page, more) = app.engine.sessions(&project, after.as_ref(), limit).await?;
    let data: Vec<Value> = page.iter().map(|session| shown(&app, session)).collect();
    let next = page.last().filter(|_| more).map(|session| session.id.clone());
    Ok(Json(json!({ "object": "list", "data": data, "has_more": more, "next": next })))
}

/// `GET /v1/sessions/{id}`.
pub(super) async fn show(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(raw): RawQuery,
) -> Result<Json<Value>, Failure> {
    let key = key(&Query::parse(raw.as_deref(), &["project"])?, &id)?;
    let session = app.engine.session(&key).await?.ok_or_else(|| not_found(&key))?;
    Ok(Json(shown(&app, &session)))
}

/// `DELETE /v1/sessions/{id}`.
pub(super) async fn erase(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(raw): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::parse(raw.as_deref(), &["project", "wait_ms"])?;
    let (key, wait) = (key(&query, &id)?, query.wait()?);
    match app.engine.erase_session(&key).await {
        Ok(erased) => {
            let bytes_gone_at = app.engine.wait_session_gone(&erased, wait).await;
            let gone = ["record", "directories that longhaul made"];
            let body = json!({
                "id": key.id, "object": "session.deleted", "deleted": true, "gone": gone,
                "bytes_gone_at": bytes_gone_at,
            });
            Ok(Json(body).into_response())
        }
        Err(SessionEraseError::NotFound) => Err(not_found(&key)),
        Err(SessionEraseError::Busy { run }) => {
            let text = format!("run {run} of the session is not over; cancel it first");
            Err(Problem::new(ErrorCode::SessionBusy, text).fact("run_id", run.as_str()).into())
        }
        Err(SessionEraseError::Commit(error)) => Err(error.into()),
        Err(SessionEraseError::Store(error)) => Err(error.into()),
    }
}
