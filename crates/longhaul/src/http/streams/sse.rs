//! `live=sse`: everything after an offset, and then what is appended, as it becomes durable.
//!
//! Owns: one position and one page. A reader that does not read holds that page and nothing else. The connection ends
//! after a minute, a fifth more or less, when the stream is closed or deleted, and when the server stops; a client goes
//! on at the last offset.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
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
use super::read::Asked;
use super::refusal::Refused;
use super::source::Source;
use crate::http::{App, sse};

/// A live reader.
struct Reader {
    app: App,
    source: Source,
    mode: Mode,
    encoding: Encoding,
    at: Offset,
    /// What was read before the answer began.
    first: Option<SpanPage>,
    /// No cursor is below this one.
    cursor: u64,
    /// Whether the client knows that it has all there is.
    told: bool,
    until: Instant,
    over: bool,
    _guard: Option<ReaderGuard>,
}

/// How long a connection lasts: never the same for all of them.
fn life() -> Duration {
    let tenths = 8 + u32::from(uuid::Uuid::new_v4().as_bytes()[0]) % 5;
    limits::STREAM_SSE_LIFE * tenths / 10
}

/// Reads on from an offset.
pub(super) async fn answer(
    app: &App,
    source: Source,
    info: &Info,
    start: Offset,
    asked: &Asked,
    guard: Option<ReaderGuard>,
) -> Result<Response, Refused> {
    let first = source.span(start, limits::STREAM_LIVE_BYTES).await?;
    if asked.returns && first.messages == 0 && first.closed_at_end {
        // An EventSource comes back for ever after anything but this.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let encoding = Encoding::of(info.content_type.as_str());
    let reader = Reader {
        app: app.clone(),
        source,
        mode: info.mode,
        encoding,
        at: start,
        first: Some(first),
        cursor: asked.next_cursor(app),
        told: false,
        until: Instant::now() + life(),
        over: false,
        _guard: guard,
    };
    let opening = stream::iter([Ok(Bytes::from(frame::retry(sse::retry_ms())))]);
    let frames = stream::unfold(reader, |mut reader| async move {
        let frames = reader.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(frames)), reader))
    });
    let mut response = respond(futures_util::StreamExt::chain(opening, frames));
    if encoding == Encoding::Base64 {
        response.headers_mut().insert(name::SSE_DATA_ENCODING, HeaderValue::from_static("base64"));
    }
    Ok(response)
}

/// An event stream, of the protocol's exact type.
fn respond(frames: impl futures_util::Stream<Item = Result<Bytes, Infallible>> + Send + 'static) -> Response {
    let mut response = sse::respond(frames);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// An answer that tells a reader to come back, while the server stops.
pub(super) fn come_back() -> Response {
    respond(stream::iter([Ok(Bytes::from(frame::retry(sse::retry_ms())))]))
}

impl Reader {
    /// The next bytes to send; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        while !self.over {
            let page = match self.first.take() {
                Some(page) => page,
                None => match self.source.span(self.at, limits::STREAM_LIVE_BYTES).await {
                    Ok(page) => page,
                    Err(error) => return self.trouble(&error),
                },
            };
            if page.messages > 0 || page.closed_at_end || !self.told {
                return Some(self.frames(page));
            }
            if let Some(frames) = self.wait().await {
                return Some(frames);
            }
        }
        None
    }

    /// What a page is to the client: its data, if it has any, and where to go on.
    fn frames(&mut self, page: SpanPage) -> String {
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
        self.cursor = self.cursor.max(wire::interval(self.app.engine.now().unix_ms()));
        wire::control(&mut out, &Control { next, cursor: self.cursor, up_to_date, closed });
        self.at = next;
        self.told = up_to_date;
        self.over |= closed;
        out
    }

    /// Waits for more; a comment if nothing comes.
    async fn wait(&mut self) -> Option<String> {
        let Self { app, source, at, until, .. } = self;
        let happened = tokio::select! {
            happened = source.wait(*at) => happened,
            () = tokio::time::sleep(limits::SSE_KEEPALIVE) => {
                let mut out = String::new();
                wire::comment(&mut out, "keep-alive");
                return Some(out);
            }
            () = tokio::time::sleep_until(*until) => {
                self.over = true;
                return None;
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
