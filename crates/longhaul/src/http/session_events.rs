//! `GET /v1/sessions/{id}/events`: the events of all runs of a session, turn after turn, as a page or as the stream.
//!
//! A cursor is `RUN/SEQ`, since seqs are a run's own. The stream never ends by itself: after the last turn it waits for
//! the next one. Never: counts as a reader of a run.

use std::convert::Infallible;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use longhaul_api::{ErrorCode, Problem, sse as frame};
use longhaul_engine::{Followed, Follower, SessionKey, TurnPlace, TurnStep};
use longhaul_model::{RunId, Seq, event, limits};
use longhaul_store::{ReadLimit, StoreError};
use serde_json::{Value, json};

use super::dialect::{self, Dialect};
use super::query::{PathId, Query};
use super::reply::Failure;
use super::{App, events, sessions, sse};

/// Bytes of events that one reader holds at a time.
const PAGE_BYTES: usize = 64 << 10;

struct Reader {
    app: App,
    follower: Follower,
    dialect: Dialect,
    cursor: Option<String>,
    opening: Option<String>,
    over: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<String> {
        if let Some(opening) = self.opening.take() {
            return Some(opening);
        }
        while !self.over {
            let limit = ReadLimit { events_max: limits::PAGE_EVENTS_MAX, bytes_max: PAGE_BYTES };
            match self.follower.step(limit).await {
                Ok(TurnStep::Events(run, events)) => {
                    let mut out = String::new();
                    for stored in &events {
                        let id = place(&run, stored.seq);
                        let name = event::peek_type(&stored.wire);
                        out.push_str(&self.dialect.event(&id, name, &String::from_utf8_lossy(&stored.wire)));
                        self.cursor = Some(id);
                    }
                    return Some(out);
                }
                Ok(TurnStep::Wait) => {}
                Ok(TurnStep::Gone) => self.over = true,
                Err(StoreError::Closed) => return Some(self.drain()),
                Err(error) => {
                    self.over = true;
                    tracing::error!(%error, "the log of a session cannot be read");
                    return Some(self.dialect.error(&Failure::from(error)));
                }
            }
            if self.over {
                break;
            }
            let draining = self.app.draining.clone();
            tokio::select! {
                () = self.follower.wait() => {}
                () = tokio::time::sleep(limits::SSE_KEEPALIVE) => return Some(frame::comment("keep-alive")),
                () = draining.cancelled() => return Some(self.drain()),
            }
        }
        None
    }

    fn drain(&mut self) -> String {
        self.over = true;
        let retry = sse::retry_ms();
        let data = json!({ "retry_ms": retry, "cursor": self.cursor });
        frame::retry(retry) + &self.dialect.note("draining", data)
    }
}

fn place(run: &RunId, seq: Seq) -> String {
    format!("{run}/{seq}")
}

/// The cursor: `Last-Event-ID` beats `after`; nothing is the beginning.
fn cursor(query: &Query, headers: &HeaderMap) -> Result<Option<TurnPlace>, Failure> {
    let header = headers.get("last-event-id").filter(|value| !value.is_empty());
    let (name, text) = match header {
        Some(value) => ("Last-Event-ID", value.to_str().unwrap_or("?")),
        None => match query.one("after")? {
            Some(text) => ("after", text),
            None => return Ok(None),
        },
    };
    let parsed = text
        .rsplit_once('/')
        .and_then(|(run, seq)| Some(TurnPlace { run: RunId::parse(run).ok()?, seq: Seq::parse(seq).ok()? }));
    parsed.map(Some).ok_or_else(|| {
        let message = format!("{name} must be RUN/SEQ, the id of an event of this stream; {text:?} is not");
        Problem::new(ErrorCode::InvalidCursor, message).param(name).into()
    })
}

/// The handler.
pub(super) async fn events(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let query = Query::parse(raw.as_deref(), &["project", "after", "limit", dialect::PARAMETER])?;
    let key = sessions::key(&query, &id)?;
    let after = cursor(&query, &headers)?;
    let limit = query.number("limit", 1, limits::PAGE_EVENTS_MAX as u64)?.unwrap_or(100) as usize;
    let dialect = Dialect::of(&query)?;
    let streaming = dialect == Dialect::Unnamed || events::wants_stream(&headers);
    if streaming && app.draining.is_cancelled() {
        return Ok(sse::come_back());
    }
    let follower = match app.engine.follow_session(&key, after.as_ref()).await? {
        Followed::Here(follower) => *follower,
        Followed::NotFound => return Err(sessions::not_found(&key)),
        Followed::NoTurn => {
            let text = format!("the run of the cursor is no turn of session {}", key.id);
            return Err(Problem::new(ErrorCode::InvalidCursor, text).param("after").into());
        }
        Followed::Erased(earliest) => {
            let text = "the run of the cursor was erased; begin again at the earliest, or without a cursor";
            let earliest = earliest.map(|run| place(&run, Seq::ZERO));
            return Err(Problem::new(ErrorCode::CursorExpired, text).fact("earliest", earliest).into());
        }
    };
    let start = after.as_ref().map(|at| place(&at.run, at.seq));
    if !streaming {
        return Ok(Json(page(follower, start, limit).await?).into_response());
    }
    let opening = hello(&app, &key, dialect).await?;
    let reader = Reader { app, follower, dialect, cursor: start, opening: Some(opening), over: false };
    Ok(sse::respond(stream::unfold(reader, |mut reader| async move {
        let bytes = reader.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(bytes)), reader))
    })))
}

async fn hello(app: &App, key: &SessionKey, dialect: Dialect) -> Result<String, Failure> {
    let session = app.engine.session(key).await?.ok_or_else(|| sessions::not_found(key))?;
    let data = json!({ "session_id": key.id, "turns": session.turns, "live_run": app.engine.session_run(key) });
    Ok(frame::retry(sse::retry_ms()) + &dialect.note("hello", data))
}

async fn page(mut follower: Follower, start: Option<String>, limit: usize) -> Result<Value, Failure> {
    let (mut data, mut bytes, mut next, mut more) = (Vec::new(), 0, start, true);
    while data.len() < limit && bytes < limits::PAGE_BYTES_MAX {
        let ask = ReadLimit { events_max: limit - data.len(), bytes_max: limits::PAGE_BYTES_MAX - bytes };
        let TurnStep::Events(run, events) = follower.step(ask).await? else {
            more = false;
            break;
        };
        for stored in &events {
            bytes += stored.wire.len();
            next = Some(place(&run, stored.seq));
            data.push(events::raw(&stored.wire)?);
        }
    }
    // A full page may be the last one.
    if more {
        let ask = ReadLimit { events_max: 1, bytes_max: 1 };
        more = matches!(follower.step(ask).await?, TurnStep::Events(..));
    }
    Ok(json!({ "object": "list", "data": data, "has_more": more, "next": next }))
}
