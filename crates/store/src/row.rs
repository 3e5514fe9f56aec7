//! Rows: what can be queried without reading a log.

use std::collections::BTreeMap;

use bytes::Bytes;
use longhaul_model::{Epoch, ProjectId, RunKey, Seq, Status, StreamId, Timestamp};

/// A run's row. `doc` is the owner's; the store looks at the other fields only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    /// Identity.
    pub key: RunKey,
    /// The stream of its events.
    pub stream: StreamId,
    /// Status; a terminal one closes the stream: later appends are `Gone`.
    pub status: Status,
    /// Harness.
    pub harness: String,
    /// Request digest.
    pub digest: String,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The last event when the row was written.
    pub last_seq: Seq,
    /// The owner's document, opaque here.
    pub doc: Bytes,
}

/// The state of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The durable tail.
    pub tail: Seq,
    /// The last owner.
    pub epoch: Epoch,
    /// The committed source cursor.
    pub cursor: Option<Bytes>,
    /// The first event that is kept, or the next one to come if none is.
    pub earliest: Seq,
    /// The lengths of all events there ever were, together.
    pub bytes: u64,
}

/// Which rows to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunFilter {
    /// Of this project; all if absent.
    pub project: Option<ProjectId>,
    /// In one of these statuses; any if empty.
    pub statuses: Vec<Status>,
    /// Of this harness.
    pub harness: Option<String>,
    /// With all of these tags.
    pub tags: Vec<(String, String)>,
    /// With this digest.
    pub digest: Option<String>,
    /// Only rows created before the one with this stream id (keyset paging).
    pub before: Option<StreamId>,
    /// At most so many; zero means the default of the limits.
    pub limit: usize,
}

/// A page of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPage {
    /// The rows, newest first.
    pub rows: Vec<RunRow>,
    /// Whether there are more after the last.
    pub more: bool,
}

impl RunRow {
    /// Bytes of the row's texts and document, roughly; what bounds count.
    pub fn bytes(&self) -> usize {
        let tags: usize = self.tags.iter().map(|(k, v)| k.len() + v.len()).sum();
        let key = self.key.project.as_str().len() + self.key.run.as_str().len();
        key + self.harness.len() + self.digest.len() + tags + self.doc.len()
    }
}

impl RunFilter {
    /// Whether a row is one of those asked for, apart from `before` and `limit`.
    pub fn matches(&self, row: &RunRow) -> bool {
        self.project.as_ref().is_none_or(|p| *p == row.key.project)
            && (self.statuses.is_empty() || self.statuses.contains(&row.status))
            && self.harness.as_ref().is_none_or(|h| *h == row.harness)
            && self.digest.as_ref().is_none_or(|d| *d == row.digest)
            && self.tags.iter().all(|(k, v)| row.tags.get(k) == Some(v))
    }
}
