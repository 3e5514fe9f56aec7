//! Reading a stream.

use bytes::Bytes;
use longhaul_model::Timestamp;
use longhaul_model::stream::Offset;
use longhaul_store::ReadLimit;

use crate::streams::error::ReadError;
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
    _nothing: (),
}

impl Reader {
    /// What can be said of the stream now.
    ///
    /// # Errors
    /// [`ReadError::NotFound`] and [`ReadError::Gone`] if it was deleted since.
    pub async fn info(&self) -> Result<Info, ReadError> {
        todo!()
    }

    /// Messages after a position, at least one if there is one, at most `limit`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(&self, after: Offset, limit: ReadLimit) -> Result<Page, ReadError> {
        let _ = (after, limit);
        todo!()
    }

    /// The same as contiguous bytes, about `bytes_max` of them: for catching up without a look at each message.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_span(&self, after: Offset, bytes_max: usize) -> Result<SpanPage, ReadError> {
        let _ = (after, bytes_max);
        todo!()
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
        let _ = after;
        todo!()
    }

    /// A position before which every message is older than a point in time: to within a second, and never too late.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn since(&self, at: Timestamp) -> Result<Offset, ReadError> {
        let _ = at;
        todo!()
    }
}
