//! What one commit may hold.

use bytes::Bytes;
use longhaul_model::{Epoch, ProjectId, RunKey, Seq, StreamId};

use crate::row::RunRow;

/// Whether a commit may use the reserve that is kept for the end of things when the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Urgency {
    /// Refused when there is no room.
    #[default]
    Ordinary,
    /// A cancel, an exit or a terminal record.
    Reserve,
}

/// Writes that happen together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// A run to create, with its first events.
    pub create: Option<NewRun>,
    /// A plain stream to open, with its first messages; not beside a run to create.
    pub open: Option<NewStream>,
    /// Appends to streams that exist; at most one for a stream.
    pub streams: Vec<StreamWrite>,
    /// Records to put or to delete.
    pub records: Vec<RecordWrite>,
    /// A stream to erase with its row; a tombstone is an ordinary record of the same commit.
    pub erase: Option<RunKey>,
    /// Plain streams to erase, each once and none that the commit writes to.
    pub drop: Vec<StreamId>,
    /// Whether the reserve may be used.
    pub urgency: Urgency,
}

/// A run that does not exist yet. The store gives it a stream id.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its row; `stream` and `last_seq` are filled in by the store.
    pub row: RunRow,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// Its first events from seq 1, wire bytes.
    pub events: Vec<Bytes>,
    /// Which of them also enter the feed, by index, ascending.
    pub feed: Vec<usize>,
}

/// A stream that is no run's and does not exist yet: it has a project, messages and a cursor, and nothing else. The store
/// gives it an id; its name, if it has one, is a record of the same commit.
#[derive(Debug, Clone)]
pub struct NewStream {
    /// Its project.
    pub project: ProjectId,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// What its messages may be.
    pub form: Form,
    /// Its first messages from seq 1.
    pub events: Vec<Bytes>,
    /// Its first cursor.
    pub cursor: Option<Bytes>,
}

/// What the messages of a stream may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Form {
    /// Not empty and without a raw newline, as those of every run.
    #[default]
    Lines,
    /// Any bytes but none.
    Opaque,
}

/// An append to one stream.
#[derive(Debug, Clone)]
pub struct StreamWrite {
    /// The stream.
    pub stream: StreamId,
    /// Its project, for the feed.
    pub project: ProjectId,
    /// The tail that the writer believes in; anything else is a `Conflict`.
    pub expected_tail: Seq,
    /// The writer's epoch; lower than the stream's is `Fenced`, higher becomes the stream's.
    pub epoch: Epoch,
    /// Wire bytes of the events, numbered from `expected_tail + 1`. May be empty: a new cursor or row alone.
    pub events: Vec<Bytes>,
    /// Which of them also enter the feed, by index, ascending.
    pub feed: Vec<usize>,
    /// The source cursor that these events bring the stream to; absent leaves the old one.
    pub cursor: Option<Bytes>,
    /// The run's new row, if it changed. `last_seq` is filled in by the store.
    pub row: Option<RunRow>,
    /// Retention: the events up to this one and with it go, once this write is made; at most the new tail. One that is
    /// below what went before changes nothing.
    pub keep_after: Option<Seq>,
}

/// A record's address: a kind (`tombstone`, `operation`, …) and an id in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey {
    /// The kind.
    pub kind: &'static str,
    /// The id.
    pub id: String,
}

impl RecordKey {
    /// A key.
    pub fn new(kind: &'static str, id: impl Into<String>) -> Self {
        Self { kind, id: id.into() }
    }
}

/// A record to put or to delete.
#[derive(Debug, Clone)]
pub struct RecordWrite {
    /// Its address.
    pub key: RecordKey,
    /// Its new value; `None` deletes it.
    pub value: Option<Bytes>,
    /// Refuse the whole commit with `Exists` if the record is there already.
    pub only_new: bool,
    /// Put the id of the stream that this commit opens before the value, as 8 bytes, big endian.
    pub stamp: bool,
}

/// What a commit did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// The stream of the created run, or the opened one.
    pub created: Option<StreamId>,
    /// The store's global position of this commit; never decreases.
    pub position: u64,
}
