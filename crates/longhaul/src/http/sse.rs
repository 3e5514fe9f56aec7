//! One reader of one log, as server-sent events.
//!
//! Job: page after page from the store, woken by the durable tail; a comment while nothing happens; a frame when the
//! server drains; the end after the terminal event. Owns: one cursor and one page. A reader that does not read costs
//! the page that waits for it and nothing more.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::stream;
use longhaul_api::sse;
use longhaul_model::{Event, Seq, StreamId, event, limits};
use longhaul_store::{ReadLimit, StoreError, StoredEvent};
use serde_json::json;
use tokio::sync::watch;

use super::App;
use super::dialect::Dialect;

/// Bytes of events that one reader holds at a time.
const PAGE_BYTES: usize = 64 << 10;

/// The shape of a stream's frames.
pub(super) enum Shape {
    /// Every event.
    Events(Dialect),
    /// A model's answer in some dialect, and nothing that a strict client would take for a part of it.
    Answer {
        /// Folds events into frames.
        encode: Box<dyn FnMut(&Event) -> String + Send>,
        /// Told when the answer was given to the end.
        delivered: Option<Box<dyn FnOnce() + Send>>,
    },
}

/// A reader.
pub(super) struct Reader {
    pub(super) app: App,
    pub(super) stream: StreamId,
    pub(super) tail: watch::Receiver<Seq>,
    pub(super) cursor: Seq,
    pub(super) shape: Shape,
    pub(super) opening: Option<String>,
    pub(super) guard: Option<longhaul_engine::ReaderGuard>,
    pub(super) over: bool,
}

/// Milliseconds after which a client should come back, never the same for all of them.
pub(super) fn retry_ms() -> u64 {
    500 + u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * 4
}

/// The first frame of a stream of events.
pub(super) fn hello(dialect: Dialect, earliest: Seq, tail: Seq, status: &str) -> String {
    let data = json!({ "earliest": earliest, "tail": tail, "status": status });
    sse::retry(retry_ms()) + &dialect.note("hello", data)
}

/// The last frame of a stream whose server stops.
pub(super) fn draining(dialect: Dialect, cursor: Seq) -> String {
    let retry = retry_ms();
    sse::retry(retry) + &dialect.note("draining", json!({ "retry_ms": retry, "cursor": cursor }))
}

/// Whether an event's bytes are those of a terminal event.
pub(super) fn is_terminal(wire: &[u8]) -> bool {
    matches!(event::peek_type(wire), Some("run.completed" | "run.failed" | "run.cancelled"))
}

/// Whether the event at the cursor is the run's last. The log says so, not the status: a reader may be quicker than the
/// status is.
pub(super) async fn is_over_at(app: &App, stream: StreamId, cursor: Seq) -> Result<bool, StoreError> {
    let Some(before) = cursor.get().checked_sub(1).map(Seq::new) else { return Ok(false) };
    let page = app.engine.store().read(stream, before, ReadLimit { events_max: 1, bytes_max: 1 }).await?;
    Ok(page.events.first().is_some_and(|event| is_terminal(&event.wire)))
}

impl Reader {
    /// The next bytes to send; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        if let Some(opening) = self.opening.take() {
            return Some(opening);
        }
        while !self.over {
            let limit = ReadLimit { events_max: limits::PAGE_EVENTS_MAX, bytes_max: PAGE_BYTES };
            self.tail.borrow_and_update();
            match self.app.engine.store().read(self.stream, self.cursor, limit).await {
                Ok(page) if !page.events.is_empty() => {
                    let frames = self.frames(&page.events);
                    if !frames.is_empty() {
                        return Some(frames);
                    }
                }
                Ok(_) => {
                    if let Some(frame) = self.wait().await {
                        return Some(frame);
                    }
                }
                Err(error) => return Some(self.trouble(&error)),
            }
        }
        if let Shape::Answer { delivered, .. } = &mut self.shape
            && let Some(delivered) = delivered.take()
        {
            delivered();
        }
        self.guard = None;
        None
    }

    fn frames(&mut self, events: &[StoredEvent]) -> String {
        let mut out = String::new();
        for stored in events {
            match &mut self.shape {
                Shape::Events(dialect) => {
                    let name = event::peek_type(&stored.wire);
                    let data = String::from_utf8_lossy(&stored.wire);
                    out.push_str(&dialect.event(&stored.seq.to_string(), name, &data));
                }
                Shape::Answer { encode, .. } => match Event::decode(&stored.wire) {
                    Ok(event) => out.push_str(&encode(&event)),
                    Err(error) => {
                        let place = format!("event {}", stored.seq);
                        out.push_str(&self.trouble(&StoreError::Corrupt { place, what: error.to_string() }));
                        return out;
                    }
                },
            }
            self.cursor = stored.seq;
            self.over |= is_terminal(&stored.wire);
        }
        out
    }

    /// Waits for more; a frame if there is something else to say.
    async fn wait(&mut self) -> Option<String> {
        let draining = self.app.draining.clone();
        tokio::select! {
            changed = self.tail.changed() => {
                // The log was erased under the reader: there is nothing more to come.
                self.over |= changed.is_err();
                None
            }
            () = tokio::time::sleep(limits::SSE_KEEPALIVE) => Some(self.alive()),
            () = draining.cancelled() => Some(self.drain()),
        }
    }

    /// A comment, so that nobody in between takes the connection for dead.
    fn alive(&self) -> String {
        match &self.shape {
            Shape::Events(_) => sse::comment("keep-alive"),
            // OpenAI's SDK for Python takes a blank line after the first id for a frame, and an empty one for a fault:
            // only frames end with a blank line here.
            Shape::Answer { .. } => ": keep-alive\n".to_owned(),
        }
    }

    fn drain(&mut self) -> String {
        self.over = true;
        match &mut self.shape {
            Shape::Events(dialect) => draining(*dialect, self.cursor),
            Shape::Answer { delivered, .. } => {
                *delivered = None;
                let text = "the server is stopping and the run goes on; ask again with Last-Event-ID";
                let problem = longhaul_api::Problem::new(longhaul_api::ErrorCode::Draining, text);
                // One frame, for the same reason.
                let retry = sse::retry(retry_ms());
                retry.trim_end().to_owned() + "\n" + &sse::frame_without_id(None, &problem.body("").to_string())
            }
        }
    }

    fn trouble(&mut self, error: &StoreError) -> String {
        if matches!(error, StoreError::Closed) {
            return self.drain();
        }
        self.over = true;
        tracing::error!(%error, "a reader's log cannot be read");
        let failure = super::Failure::from(error.clone());
        match &mut self.shape {
            Shape::Events(dialect) => dialect.error(&failure),
            Shape::Answer { delivered, .. } => {
                *delivered = None;
                sse::frame_without_id(None, &failure.0.body("").to_string())
            }
        }
    }

    /// The reader as an answer.
    pub(super) fn into_response(self) -> Response {
        respond(stream::unfold(self, |mut reader| async move {
            let bytes = reader.next().await?;
            Some((Ok::<_, Infallible>(Bytes::from(bytes)), reader))
        }))
    }
}

/// An event stream as an answer.
pub(super) fn respond(
    frames: impl futures_util::Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
) -> Response {
    headed(Response::new(Body::from_stream(frames)))
}

/// With the headers of a stream.
pub(super) fn headed(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// An answer that tells an EventSource to come back, in place of a status that would close it for ever.
pub(super) fn come_back() -> Response {
    let text = sse::retry(retry_ms());
    respond(stream::iter([Ok(Bytes::from(text))]))
}
