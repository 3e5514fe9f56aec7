//! Reading a stream.
//!
//! Job: pages of durable messages from wherever they are, and word that there are more. Owns: nothing but its watches.
//! Never: sees what is not durable; holds up a writer.

use std::sync::Arc;

use bytes::Bytes;
use longhaul_model::stream::{Mode, Offset, StreamKey};
use longhaul_model::{Seq, Timestamp};
use longhaul_store::{ReadLimit, StoreError};
use tokio::sync::watch;

use crate::streams::Streams;
use crate::streams::error::{OpenError, ReadError};
use crate::streams::handle::{Handle, Tip};
use crate::streams::requests::Info;

/// Consecutive messages, one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The messages after the position that was asked for.
    pub messages: Vec<Bytes>,
    /// After the last of them: where to go on.
    pub next: Offset,
    /// The durable tail when the page was read.
    pub tail: Offset,
    /// Before the first message that is kept.
    pub earliest: Offset,
    /// Whether the page reaches the tail.
    pub up_to_date: bool,
    /// Whether it does and the stream takes no more.
    pub closed_at_end: bool,
}

/// Consecutive messages as they stand in the store: JSON messages with a newline after each, others back to back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanPage {
    /// The bytes, in pieces that need not be messages.
    pub body: Vec<Bytes>,
    /// How many messages they are.
    pub messages: u64,
    /// See [`Page::next`].
    pub next: Offset,
    /// See [`Page::tail`].
    pub tail: Offset,
    /// See [`Page::earliest`].
    pub earliest: Offset,
    /// See [`Page::up_to_date`].
    pub up_to_date: bool,
    /// See [`Page::closed_at_end`].
    pub closed_at_end: bool,
}

/// Why a reader that waited was woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// There are messages after the position.
    Messages,
    /// There are none and there never will be.
    Closed,
    /// The stream is no longer there.
    Deleted,
}

/// A stream that is open for reading. It costs the stream's writers nothing.
pub struct Reader {
    streams: Streams,
    handle: Arc<Handle>,
    waiting: Option<Watches>,
}

struct Watches {
    tip: watch::Receiver<Tip>,
    tail: watch::Receiver<Seq>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("key", &self.handle.key).finish_non_exhaustive()
    }
}

impl Streams {
    /// Opens a stream for reading; counts as use of it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(&self, key: &StreamKey) -> Result<Reader, OpenError> {
        let handle = self.open_handle(key).await?;
        self.touch(&handle).await;
        Ok(Reader { streams: self.clone(), handle, waiting: None })
    }

    /// Messages after a position.
    pub(super) async fn page(&self, handle: &Handle, after: Offset, limit: ReadLimit) -> Result<Page, ReadError> {
        let closed = handle.tip() == Tip::Closed;
        let tail = handle.tail();
        let place = handle.place(after);
        let mut limit = limit;
        if let Some(upto) = place.upto {
            limit.events_max = limit.events_max.min(usize::try_from(upto - after.get()).unwrap_or(usize::MAX));
        }
        let expired = self.check(handle, after).await?;
        let page = match self.store().read(place.stream, seq(after, place.base), limit).await {
            Ok(page) => page,
            Err(error) => return Err(self.read_error(handle, place.base, error).await),
        };
        let tail = if place.upto.is_none() { Offset::new(place.base + page.tail.get()).max(tail) } else { tail };
        let next = after.plus(page.events.len() as u64);
        let up_to_date = next == tail;
        Ok(Page {
            messages: page.events.into_iter().map(|event| event.wire).collect(),
            next,
            tail,
            earliest: expired.unwrap_or(Offset::new(place.base + page.earliest.get() - 1)),
            up_to_date,
            closed_at_end: up_to_date && closed,
        })
    }

    async fn span(&self, handle: &Handle, after: Offset, bytes_max: usize) -> Result<SpanPage, ReadError> {
        let closed = handle.tip() == Tip::Closed;
        let tail = handle.tail();
        let place = handle.place(after);
        let expired = self.check(handle, after).await?;
        let mut span = match self.store().read_span(place.stream, seq(after, place.base), bytes_max).await {
            Ok(span) => span,
            Err(error) => return Err(self.read_error(handle, place.base, error).await),
        };
        if let Some(upto) = place.upto {
            let newline = usize::from(handle.mode == Mode::Json);
            let messages = usize::try_from(upto - after.get()).unwrap_or(usize::MAX).min(span.lengths.len());
            let bytes = span.lengths[..messages].iter().map(|length| *length as usize + newline).sum();
            span.lengths.truncate(messages);
            cut(&mut span.body, bytes);
        }
        let tail = if place.upto.is_none() { Offset::new(place.base + span.tail.get()).max(tail) } else { tail };
        let next = after.plus(span.lengths.len() as u64);
        let up_to_date = next == tail;
        Ok(SpanPage {
            body: span.body,
            messages: span.lengths.len() as u64,
            next,
            tail,
            earliest: expired.unwrap_or(Offset::new(place.base + span.earliest.get() - 1)),
            up_to_date,
            closed_at_end: up_to_date && closed,
        })
    }

    /// Refuses a position of a fork whose own first messages are gone. Answers where a fork begins.
    async fn check(&self, handle: &Handle, after: Offset) -> Result<Option<Offset>, ReadError> {
        if handle.doc.segments.is_empty() {
            return Ok(None);
        }
        let earliest = self.earliest(handle).await?;
        if after < earliest { Err(ReadError::Expired { earliest }) } else { Ok(Some(earliest)) }
    }

    async fn read_error(&self, handle: &Handle, base: u64, error: StoreError) -> ReadError {
        match error {
            StoreError::NotFound => match self.find(&handle.key).await {
                Ok(Some(now)) if now.stream == handle.stream && now.live().deleted => ReadError::Gone,
                Ok(_) => ReadError::NotFound,
                Err(error) => ReadError::Store(error),
            },
            StoreError::Expired { earliest } => ReadError::Expired { earliest: Offset::new(base + earliest.get() - 1) },
            StoreError::Ahead { tail } => ReadError::Ahead { tail: Offset::new(base + tail.get()) },
            StoreError::Corrupt { .. } | StoreError::Unavailable(_) | StoreError::Closed => ReadError::Store(error),
        }
    }
}

impl Reader {
    /// What can be said of the stream now.
    ///
    /// # Errors
    /// [`ReadError::NotFound`] and [`ReadError::Gone`] if it was deleted since.
    pub async fn info(&self) -> Result<Info, ReadError> {
        let handle = self.current().await?;
        Ok(self.streams.info(&handle).await?)
    }

    /// Messages after a position, at least one if there is one, at most `limit`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(&self, after: Offset, limit: ReadLimit) -> Result<Page, ReadError> {
        let handle = self.current().await?;
        self.streams.page(&handle, after, limit).await
    }

    /// The same as contiguous bytes, about `bytes_max` of them: for catching up without a look at each message.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_span(&self, after: Offset, bytes_max: usize) -> Result<SpanPage, ReadError> {
        let handle = self.current().await?;
        self.streams.span(&handle, after, bytes_max).await
    }

    /// Waits until there are durable messages after a position, or never will be. Counts as use of the stream when it
    /// begins.
    ///
    /// # Errors
    /// [`ReadError::Store`].
    ///
    /// # Cancel safety
    /// May be dropped and asked again.
    pub async fn wait(&mut self, after: Offset) -> Result<Happened, ReadError> {
        let mut first = true;
        loop {
            match self.current().await {
                Ok(handle) => {
                    if !Arc::ptr_eq(&handle, &self.handle) {
                        self.handle = handle;
                        self.waiting = None;
                    }
                }
                Err(ReadError::NotFound | ReadError::Gone) => return Ok(Happened::Deleted),
                Err(error) => return Err(error),
            }
            if std::mem::take(&mut first) {
                self.streams.touch(&self.handle).await;
            }
            let watches = if let Some(watches) = &mut self.waiting {
                watches
            } else {
                let tip = self.handle.watch_tip();
                match self.streams.store().watch(self.handle.stream).await {
                    Ok(tail) => self.waiting.insert(Watches { tip, tail }),
                    Err(StoreError::NotFound) => return Ok(Happened::Deleted),
                    Err(error) => return Err(error.into()),
                }
            };
            // Closed before the tail: whoever closes has written the last message.
            let tip = *watches.tip.borrow_and_update();
            let tail = self.handle.doc.base + watches.tail.borrow_and_update().get();
            if tail.max(self.handle.tail().get()) > after.get() {
                return Ok(Happened::Messages);
            }
            match tip {
                Tip::Closed => return Ok(Happened::Closed),
                Tip::Gone => return Ok(Happened::Deleted),
                Tip::Replaced => continue,
                Tip::Open => {}
            }
            let ended = tokio::select! {
                changed = watches.tail.changed() => changed.is_err(),
                changed = watches.tip.changed() => changed.is_err(),
            };
            if ended {
                // The stream is erased, or the store is closed: the next look tells which.
                self.waiting = None;
            }
        }
    }

    /// A position before which every message is older than a point in time: to within a second, and never too late.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn since(&self, at: Timestamp) -> Result<Offset, ReadError> {
        let handle = self.current().await?;
        let second = at.unix_ms().div_euclid(1_000);
        let earliest = self.streams.earliest(&handle).await?;
        let own = (handle.stream, handle.doc.base, u64::MAX, handle.doc.created_at);
        let parts = handle.doc.segments.iter().map(|s| (s.stream, s.base, s.upto, s.created_at)).chain([own]);
        let mut from = 0;
        for (stream, base, upto, created_at) in parts {
            // What a stream was created with has no second of its own.
            let found = if second <= created_at.unix_ms().div_euclid(1_000) {
                Some(from)
            } else {
                let found = self.streams.second_from(stream, second).await?;
                found.map(|found| (base + found.first - 1).max(from)).filter(|offset| *offset < upto)
            };
            if let Some(offset) = found {
                return Ok(Offset::new(offset).max(earliest));
            }
            from = upto;
        }
        Ok(handle.tail())
    }

    /// The handle that the stream has now.
    async fn current(&self) -> Result<Arc<Handle>, ReadError> {
        if !self.handle.is_dead() && self.handle.tip() != Tip::Gone {
            return Ok(Arc::clone(&self.handle));
        }
        let key: &StreamKey = &self.handle.key;
        match self.streams.find(key).await? {
            Some(now) if now.stream != self.handle.stream => Err(ReadError::NotFound),
            Some(now) if now.live().deleted => Err(ReadError::Gone),
            Some(now) => Ok(now),
            None => Err(ReadError::NotFound),
        }
    }
}

fn seq(after: Offset, base: u64) -> Seq {
    Seq::new(after.get().saturating_sub(base))
}

/// Keeps the first so many bytes.
fn cut(body: &mut Vec<Bytes>, mut bytes: usize) {
    let mut pieces = 0;
    for piece in body.iter_mut() {
        if bytes == 0 {
            break;
        }
        piece.truncate(bytes);
        bytes -= piece.len();
        pieces += 1;
    }
    body.truncate(pieces);
}
