//! `GET /v1/events`: one ordered feed of lifecycle events over many runs.

use std::convert::Infallible;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use longhaul_api::{EventList, sse as frame};
use longhaul_model::{ProjectId, Seq, event, limits};
use longhaul_store::ReadLimit;
use tokio::sync::watch;

use super::dialect::{self, Dialect};
use super::query::Query;
use super::reply::Failure;
use super::{App, events, sse};

struct Follower {
    app: App,
    project: Option<ProjectId>,
    dialect: Dialect,
    cursor: Seq,
    tail: watch::Receiver<Seq>,
    opening: Option<String>,
    over: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<String> {
        if let Some(opening) = self.opening.take() {
            return Some(opening);
        }
        while !self.over {
            self.tail.borrow_and_update();
            let page = self.app.engine.store().feed(self.cursor, self.project.as_ref(), ReadLimit::default()).await;
            match page {
                Ok(page) => {
                    let moved = page.upto > self.cursor;
                    self.cursor = page.upto;
                    let mut out = String::new();
                    for entry in &page.entries {
                        let name = event::peek_type(&entry.wire);
                        let data = String::from_utf8_lossy(&entry.wire);
                        out.push_str(&self.dialect.event(&entry.position.to_string(), name, &data));
                    }
                    if !out.is_empty() {
                        return Some(out);
                    }
                    if moved {
                        continue;
                    }
                }
                Err(longhaul_store::StoreError::Closed) => return Some(self.drain()),
                Err(error) => {
                    self.over = true;
                    return Some(self.dialect.error(&Failure::from(error)));
                }
            }
            let draining = self.app.draining.clone();
            tokio::select! {
                changed = self.tail.changed() => if changed.is_err() { return Some(self.drain()) },
                () = tokio::time::sleep(limits::SSE_KEEPALIVE) => return Some(frame::comment("keep-alive")),
                () = draining.cancelled() => return Some(self.drain()),
            }
        }
        None
    }

    fn drain(&mut self) -> String {
        self.over = true;
        sse::draining(self.dialect, self.cursor)
    }
}

/// The handler.
pub(super) async fn feed(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let query = Query::parse(query.as_deref(), &["project", "after", "limit", dialect::PARAMETER])?;
    let project = query.project()?;
    let cursor = query.cursor(&headers)?;
    let limit = query.number("limit", 1, limits::PAGE_EVENTS_MAX as u64)?.unwrap_or(100) as usize;
    let dialect = Dialect::of(&query)?;
    let streaming = dialect == Dialect::Unnamed || events::wants_stream(&headers);
    if streaming && app.draining.is_cancelled() {
        return Ok(sse::come_back());
    }
    let tail = app.engine.store().watch_feed();
    let limit = ReadLimit { events_max: limit, bytes_max: limits::PAGE_BYTES_MAX };
    let page = app.engine.store().feed(cursor, project.as_ref(), limit).await?;
    if !streaming {
        let data = page.entries.iter().map(|entry| events::raw(&entry.wire)).collect::<Result<_, _>>()?;
        return Ok(Json(EventList {
            object: "list".to_owned(),
            data,
            has_more: page.upto < page.tail,
            next: page.upto,
            earliest: page.earliest,
            tail: page.tail,
        })
        .into_response());
    }
    let opening = Some(sse::hello(dialect, page.earliest, page.tail, "live"));
    let follower = Follower { app, project, dialect, cursor, tail, opening, over: false };
    Ok(sse::respond(stream::unfold(follower, |mut follower| async move {
        let bytes = follower.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(bytes)), follower))
    })))
}
