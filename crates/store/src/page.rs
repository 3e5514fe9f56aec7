//! Pages of a log.

use bytes::Bytes;
use longhaul_model::{ProjectId, Seq};

/// How much one page may hold; at least one event is given if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimit {
    /// Events.
    pub events_max: usize,
    /// Bytes of wire form.
    pub bytes_max: usize,
}

impl Default for ReadLimit {
    fn default() -> Self {
        Self { events_max: longhaul_model::limits::PAGE_EVENTS_MAX, bytes_max: longhaul_model::limits::PAGE_BYTES_MAX }
    }
}

/// An event as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its number.
    pub seq: Seq,
    /// Its wire bytes, shared by all readers.
    pub wire: Bytes,
}

/// Consecutive events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// The first event that is kept, or the next one to come if none is.
    pub earliest: Seq,
    /// The durable tail when the page was read.
    pub tail: Seq,
    /// The events, dense.
    pub events: Vec<StoredEvent>,
}

/// Whole messages of a stream as they lie there, for a reader that is far behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The first event that is kept, or the next one to come if none is.
    pub earliest: Seq,
    /// The durable tail when the span was read.
    pub tail: Seq,
    /// The first message of the span: the one after the cursor.
    pub first: Seq,
    /// The last message of the span: the next cursor. The cursor itself if the span is empty.
    pub last: Seq,
    /// Their bytes, in pieces that end anywhere: one message after the other, with a newline after each if the stream's
    /// form is `Lines`.
    pub body: Vec<Bytes>,
    /// The length of each message, without a newline.
    pub lengths: Vec<u32>,
}

/// An entry of the lifecycle feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedEntry {
    /// Its position in the feed, dense from 1.
    pub position: Seq,
    /// The project of its run.
    pub project: ProjectId,
    /// The event's wire bytes.
    pub wire: Bytes,
}

/// A page of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedPage {
    /// The first position that is kept.
    pub earliest: Seq,
    /// The durable tail.
    pub tail: Seq,
    /// How far the page looked: the cursor for the next one.
    pub upto: Seq,
    /// The entries that match.
    pub entries: Vec<FeedEntry>,
}
