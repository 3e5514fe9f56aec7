//! `live=sse`: everything after an offset, and then what is appended, as it becomes durable.
//!
//! Owns: one position and one page. A reader that does not read holds that page and nothing else. The connection ends
//! after a minute, a fifth more or less, when the stream is closed or deleted, and when the server stops; a client goes
//! on at the last offset.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use futures_util::stream;
use longhaul_api::sse as frame;
use longhaul_api::streams::{self as wire, Control, Encoding, header as name};
use longhaul_engine::ReaderGuard;
use longhaul_engine::streams::{Happened, Info, ReadError, SpanPage};
use longhaul_model::limits;
use longhaul_model::stream::{Mode, Offset};
use longhaul_store::StoreError;
use tokio::time::Instant;

use super::answer;
use super::fan::{Encoded, Fan};
use super::park::{self, Exit};
use super::read::Asked;
use super::refusal::Refused;
use super::source::Source;
use crate::http::{App, sse};

/// A live reader.
pub(super) struct Reader {
    app: App,
    source: Source,
    /// What it shares with the others of its stream.
    fan: Arc<Fan>,
    mode: Mode,
    encoding: Encoding,
    at: Offset,
    /// No cursor is below this one.
    cursor: u64,
    /// Whether the client knows that it has all there is.
    told: bool,
    until: Instant,
    /// When a comment is due, if nothing else comes.
    quiet_until: Instant,
    over: bool,
    _guard: Option<ReaderGuard>,
}

/// How long a connection lasts: never the same for all of them.
fn life() -> Duration {
    let tenths = 8 + u32::from(uuid::Uuid::new_v4().as_bytes()[0]) % 5;
    limits::STREAM_SSE_LIFE * tenths / 10
}

/// Reads on from an offset. The answer leaves the HTTP server with its socket where it can.
pub(super) async fn answer(
    app: &App,
    source: Source,
    (info, start): (&Info, Offset),
    asked: &Asked,
    guard: Option<ReaderGuard>,
    exit: Exit,
) -> Result<Response, Refused> {
    let encoding = Encoding::of(info.content_type.as_str());
    let mut reader = Box::new(Reader {
        app: app.clone(),
        source,
        fan: app.fans.of(info.incarnation),
        mode: info.mode,
        encoding,
        at: start,
        cursor: asked.next_cursor(app),
        told: false,
        until: Instant::now() + life(),
        quiet_until: Instant::now() + limits::SSE_KEEPALIVE,
        over: false,
        _guard: guard,
    });
    let mut opening = frame::retry(sse::retry_ms());
    match reader.page().await? {
        // An EventSource comes back for ever after anything but this.
        Some(page) if asked.returns && page.closed && page.next == start => {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        Some(page) => opening.push_str(&String::from_utf8_lossy(&page.frames)),
        None => {}
    }
    let opening = Bytes::from(opening);
    let mut response = if let Exit(Some(leave)) = exit {
        let mut response =
            headed(Response::new(leave.body(opening, move |socket| Box::pin(park::run(reader, socket)))));
        // Nothing is asked on this connection again.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    } else {
        let frames = stream::unfold(reader, |mut reader| async move {
            let frames = reader.next().await?;
            Some((Ok::<_, Infallible>(frames), reader))
        });
        respond(futures_util::StreamExt::chain(stream::iter([Ok(opening)]), frames))
    };
    if encoding == Encoding::Base64 {
        response.headers_mut().insert(name::SSE_DATA_ENCODING, HeaderValue::from_static("base64"));
    }
    Ok(response)
}

/// An event stream, of the protocol's exact type.
fn respond(frames: impl futures_util::Stream<Item = Result<Bytes, Infallible>> + Send + 'static) -> Response {
    headed(sse::respond(frames))
}

/// With the headers of an event stream.
fn headed(response: Response) -> Response {
    let mut response = sse::headed(response);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// An answer that tells a reader to come back, while the server stops.
pub(super) fn come_back() -> Response {
    respond(stream::iter([Ok(Bytes::from(frame::retry(sse::retry_ms())))]))
}

impl Reader {
    /// When the connection ends.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// The next bytes to send; `None` at the end.
    ///
    /// # Cancel safety
    /// Must not be called again once it was dropped.
    pub(super) fn next(&mut self) -> BoxFuture<'_, Option<Bytes>> {
        Box::pin(self.go_on())
    }

    async fn go_on(&mut self) -> Option<Bytes> {
        while !self.over {
            let frames = match self.page().await {
                Ok(Some(page)) => Some(page.frames),
                Ok(None) => self.wait().await.map(Bytes::from),
                Err(error) => return self.trouble(&error).map(Bytes::from),
            };
            if frames.is_some() {
                self.quiet_until = Instant::now() + limits::SSE_KEEPALIVE;
                return frames;
            }
        }
        None
    }

    /// The page at the reader's place, encoded by whoever came first; `None` if there is nothing to say.
    async fn page(&mut self) -> Result<Option<Encoded>, ReadError> {
        if let Some(page) = self.fan.page(self.at, self.cursor) {
            self.goes_to(&page);
            return Ok(Some(page));
        }
        let page = self.source.span(self.at, limits::STREAM_LIVE_BYTES).await?;
        if page.messages == 0 && !page.closed_at_end && self.told {
            return Ok(None);
        }
        let interval = wire::interval(self.app.engine.now().unix_ms());
        self.cursor = self.cursor.max(interval);
        let encoded = self.encode(&page);
        if page.messages > 0 && self.cursor == interval {
            self.fan.keep(self.at, &encoded);
        }
        self.goes_to(&encoded);
        Ok(Some(encoded))
    }

    fn goes_to(&mut self, page: &Encoded) {
        self.at = page.next;
        self.cursor = page.cursor;
        self.told = page.up_to_date;
        self.over |= page.closed;
    }

    /// What a page is to the client: its data, if it has any, and where to go on.
    fn encode(&self, page: &SpanPage) -> Encoded {
        let mut out = String::new();
        let (next, up_to_date, closed) = (page.next, page.up_to_date, page.closed_at_end);
        if page.messages > 0 {
            let bytes: usize = page.body.iter().map(Bytes::len).sum();
            out.reserve(bytes + bytes / 2 + 256);
            let one;
            let payload: &[u8] = match (self.mode, page.body.as_slice()) {
                (Mode::Json, lines) => {
                    one = answer::array(lines);
                    &one
                }
                (Mode::Bytes, [single]) => single,
                (Mode::Bytes, pieces) => {
                    one = pieces.concat();
                    &one
                }
            };
            wire::data(&mut out, self.encoding, payload);
        }
        let cursor = self.cursor;
        wire::control(&mut out, &Control { next, cursor, up_to_date, closed });
        Encoded { frames: out.into(), cursor, next, up_to_date, closed }
    }

    /// Waits for more; a comment if nothing comes.
    async fn wait(&mut self) -> Option<String> {
        let Self { app, source, at, until, quiet_until, .. } = self;
        let due = (*until).min(*quiet_until);
        let happened = tokio::select! {
            happened = source.wait(*at) => happened,
            () = tokio::time::sleep_until(due) => {
                if due == *until {
                    self.over = true;
                    return None;
                }
                let mut out = String::new();
                wire::comment(&mut out, "keep-alive");
                return Some(out);
            }
            () = app.draining.cancelled() => return Some(self.drain()),
        };
        match happened {
            Ok(Happened::Messages | Happened::Closed) => None,
            Ok(Happened::Deleted) => {
                self.over = true;
                None
            }
            Err(error) => self.trouble(&error),
        }
    }

    /// The server stops: the client comes back to the next one.
    fn drain(&mut self) -> String {
        self.over = true;
        frame::retry(sse::retry_ms())
    }

    /// What cannot be read ends the connection; whoever comes back is told why by a status.
    fn trouble(&mut self, error: &ReadError) -> Option<String> {
        if matches!(error, ReadError::Store(StoreError::Closed)) {
            return Some(self.drain());
        }
        self.over = true;
        if matches!(error, ReadError::Store(_)) {
            tracing::error!(%error, "a reader's stream cannot be read");
        }
        None
    }
}
