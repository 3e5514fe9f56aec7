//! The check of one commit against everything before it, durable or in the same group.
//!
//! Job: heads of streams, keys of runs and records as the group so far leaves them; ids and positions. A group that does
//! not become durable is undone. Owns: the next stream id and feed position. Never: writes.

use std::collections::HashMap;
use std::sync::Arc;

use longhaul_model::{Epoch, RunKey, Seq, StreamId};
use longhaul_store::{Commit, CommitError, Committed, NewRun, RunRow, StreamWrite};
use rusqlite::Connection;

use crate::entry::{Entry, RecordEntry, StreamEntry};
use crate::error::Fault;
use crate::library::{records, runs, streams};
use crate::limits;
use crate::memory::Unapplied;
use crate::shared::Shared;

/// Why a commit is not admitted.
pub(super) enum No {
    Refused(CommitError),
    Broken(Fault),
}

impl From<CommitError> for No {
    fn from(error: CommitError) -> Self {
        Self::Refused(error)
    }
}

impl From<Fault> for No {
    fn from(fault: Fault) -> Self {
        Self::Broken(fault)
    }
}

#[derive(Debug, Clone)]
struct Head {
    tail: Seq,
    epoch: Epoch,
    closed: bool,
    key: Arc<RunKey>,
}

/// See the module.
pub(crate) struct Ledger {
    library: Connection,
    heads: HashMap<StreamId, Head>,
    position: u64,
    streams_made: u64,
    feed_tail: u64,
    kept: (u64, u64),
    /// What this group changed so far.
    touched: Vec<StreamId>,
    erased: Vec<StreamId>,
    keys: HashMap<RunKey, Option<StreamId>>,
    records: HashMap<(&'static str, String), bool>,
}

impl Ledger {
    pub(crate) fn new(library: Connection, position: u64, streams_made: u64, feed_tail: u64) -> Self {
        Self {
            library,
            heads: HashMap::new(),
            position,
            streams_made,
            feed_tail,
            kept: (streams_made, feed_tail),
            touched: Vec::new(),
            erased: Vec::new(),
            keys: HashMap::new(),
            records: HashMap::new(),
        }
    }

    /// The last journal row.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The group is durable.
    pub(super) fn keep(&mut self, position: u64) {
        self.position = position;
        self.kept = (self.streams_made, self.feed_tail);
        for stream in self.touched.drain(..) {
            if self.heads.get(&stream).is_some_and(|head| head.closed) {
                self.heads.remove(&stream);
            }
        }
        self.erased.clear();
        self.keys.clear();
        self.records.clear();
        if self.heads.len() > limits::HEADS_MAX {
            // They come back from the library when they are asked for.
            self.heads.clear();
        }
    }

    /// The group is not durable and has never been.
    pub(super) fn undo(&mut self) {
        (self.streams_made, self.feed_tail) = self.kept;
        for stream in self.touched.drain(..) {
            self.heads.remove(&stream);
        }
        self.erased.clear();
        self.keys.clear();
        self.records.clear();
    }

    /// Checks a commit, then takes its effects into account: all of them or none.
    pub(super) fn admit(&mut self, commit: Commit, id: u64, shared: &Shared) -> Result<(Entry, Committed), No> {
        for write in &commit.streams {
            write.check_form(longhaul_store::Form::Lines)?;
            self.check_stream(write, shared)?;
        }
        if commit.open.is_some() || !commit.drop.is_empty() || commit.streams.iter().any(|w| w.keep_after.is_some()) {
            return Err(CommitError::Invalid("plain streams and retention are not kept by this store yet").into());
        }
        let erased = match &commit.erase {
            Some(key) => Some(self.stream_of(key, shared)?.ok_or(CommitError::Gone)?),
            None => None,
        };
        if erased.is_some_and(|stream| commit.streams.iter().any(|w| w.stream == stream)) {
            return Err(CommitError::Invalid("a run is written and erased in one commit").into());
        }
        if let Some(new) = &commit.create
            && self.stream_of(&new.row.key, shared)?.is_some()
        {
            return Err(CommitError::Exists.into());
        }
        for record in commit.records.iter().filter(|record| record.only_new) {
            if self.has_record(record.key.kind, &record.key.id, shared)? {
                return Err(CommitError::Exists.into());
            }
        }
        Ok(self.take(commit, erased, id))
    }

    fn take(&mut self, commit: Commit, erased: Option<StreamId>, id: u64) -> (Entry, Committed) {
        let mut entry = Entry { feed_first: self.feed_tail + 1, ..Entry::default() };
        let mut created = None;
        if let (Some(key), Some(stream)) = (commit.erase, erased) {
            self.heads.remove(&stream);
            self.erased.push(stream);
            self.keys.insert(key.clone(), None);
            entry.erase = Some((key, stream));
        }
        if let Some(new) = commit.create {
            let written = self.create(new);
            created = Some(written.stream);
            entry.streams.push(written);
        }
        for write in commit.streams {
            entry.streams.push(self.write(write));
        }
        for record in commit.records {
            self.records.insert((record.key.kind, record.key.id.clone()), record.value.is_some());
            entry.records.push(RecordEntry { kind: record.key.kind.into(), id: record.key.id, value: record.value });
        }
        (entry, Committed { created, position: id })
    }

    fn create(&mut self, new: NewRun) -> StreamEntry {
        self.streams_made += 1;
        let stream = StreamId::new(self.streams_made);
        let tail = Seq::new(new.events.len() as u64);
        let row = RunRow { stream, last_seq: tail, ..new.row };
        let key = Arc::new(row.key.clone());
        self.keys.insert(row.key.clone(), Some(stream));
        self.heads.insert(stream, Head { tail, epoch: new.epoch, closed: row.status.is_terminal(), key });
        self.touched.push(stream);
        self.feed_tail += new.feed.len() as u64;
        StreamEntry {
            stream,
            created: true,
            first_seq: Seq::new(1),
            epoch: new.epoch,
            project: row.key.project.clone(),
            events: new.events,
            feed: new.feed,
            cursor: None,
            row: Some(Arc::new(row)),
        }
    }

    fn write(&mut self, write: StreamWrite) -> StreamEntry {
        let tail = write.expected_tail.plus(write.events.len() as u64);
        let row = write.row.map(|row| Arc::new(RunRow { last_seq: tail, ..row }));
        if let Some(head) = self.heads.get_mut(&write.stream) {
            head.tail = tail;
            head.epoch = write.epoch;
            head.closed |= row.as_ref().is_some_and(|row| row.status.is_terminal());
        }
        self.touched.push(write.stream);
        self.feed_tail += write.feed.len() as u64;
        StreamEntry {
            stream: write.stream,
            created: false,
            first_seq: write.expected_tail.next(),
            epoch: write.epoch,
            project: write.project,
            events: write.events,
            feed: write.feed,
            cursor: write.cursor,
            row,
        }
    }

    fn check_stream(&mut self, write: &StreamWrite, shared: &Shared) -> Result<(), No> {
        if !self.heads.contains_key(&write.stream) {
            let head = self.load(write.stream, shared)?.ok_or(CommitError::Gone)?;
            self.heads.insert(write.stream, head);
        }
        let head = &self.heads[&write.stream];
        let refusal = if head.closed {
            CommitError::Gone
        } else if write.epoch < head.epoch {
            CommitError::Fenced { owner: head.epoch }
        } else if write.expected_tail != head.tail {
            CommitError::Conflict { expected: write.expected_tail, actual: head.tail }
        } else if write.project != head.key.project {
            CommitError::Invalid("a write names another project than its stream's")
        } else if write.row.as_ref().is_some_and(|row| row.key != *head.key) {
            CommitError::Invalid("a row names another run than its stream's")
        } else {
            return Ok(());
        };
        Err(refusal.into())
    }

    /// A head that this thread does not remember: from memory, else from the library.
    fn load(&self, stream: StreamId, shared: &Shared) -> Result<Option<Head>, No> {
        let (live, row) = {
            let memory = shared.memory();
            let live = memory.streams.get(&stream).map(|live| (live.tail, live.epoch, live.closed));
            (live, memory.row(stream))
        };
        if row == Unapplied::Gone || self.erased.contains(&stream) {
            return Ok(None);
        }
        let (tail, epoch, closed) = match live {
            Some(head) => head,
            None => match streams::find(&self.library, stream)? {
                Some(head) => (head.tail, head.epoch, head.closed),
                None => return Ok(None),
            },
        };
        let key = match row {
            Unapplied::Is(row) => Some(row.key.clone()),
            _ => runs::key(&self.library, stream)?,
        };
        match key {
            Some(key) => Ok(Some(Head { tail, epoch, closed, key: Arc::new(key) })),
            None => Err(Fault::corrupt(format!("longhaul.db: runs, stream {stream}"), "the stream has no run").into()),
        }
    }

    fn stream_of(&self, key: &RunKey, shared: &Shared) -> Result<Option<StreamId>, No> {
        if let Some(known) = self.keys.get(key) {
            return Ok(*known);
        }
        // Memory first: what leaves it is in the library by then.
        let unapplied = shared.memory().key(key);
        match unapplied {
            Unapplied::Is(stream) => Ok(Some(stream)),
            Unapplied::Gone => Ok(None),
            Unapplied::Silent => Ok(runs::find(&self.library, key)?.map(|row| row.stream)),
        }
    }

    fn has_record(&self, kind: &'static str, id: &str, shared: &Shared) -> Result<bool, No> {
        if let Some(known) = self.records.get(&(kind, id.to_owned())) {
            return Ok(*known);
        }
        let unapplied = shared.memory().record(kind, id);
        match unapplied {
            Unapplied::Is(_) => Ok(true),
            Unapplied::Gone => Ok(false),
            Unapplied::Silent => Ok(records::find(&self.library, kind, id)?.is_some()),
        }
    }
}
