//! The check of one commit against everything before it, durable or in the same group.
//!
//! Job: heads of streams, keys of runs and records as the group so far leaves them; ids and positions. A group that does
//! not become durable is undone. Owns: the next stream id and feed position. Never: writes.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use longhaul_model::{Epoch, ProjectId, RunKey, Seq, StreamId};
use longhaul_store::{Commit, CommitError, Committed, Form, NewRun, NewStream, RunRow, StreamWrite};
use rusqlite::Connection;

use crate::entry::{Entry, RecordEntry, StreamEntry};
use crate::error::Fault;
use crate::library::streams::StreamHead;
use crate::library::{records, runs, streams};
use crate::limits;
use crate::memory::{Live, Unapplied};
use crate::shared::Shared;
use crate::stream_map::StreamMap;

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

/// Whose a stream is.
#[derive(Debug, Clone)]
enum Owner {
    Run(Arc<RunKey>),
    Plain(ProjectId),
}

#[derive(Debug, Clone)]
struct Head {
    tail: Seq,
    epoch: Epoch,
    closed: bool,
    earliest: Seq,
    /// The lengths of all events there ever were.
    bytes: u64,
    form: Form,
    owner: Owner,
}

impl Head {
    fn project(&self) -> &ProjectId {
        match &self.owner {
            Owner::Run(key) => &key.project,
            Owner::Plain(project) => project,
        }
    }

    /// What the journal keeps of a write that left the stream like this.
    fn entry(&self, stream: StreamId, created: bool, events: Vec<Bytes>, cursor: Option<Bytes>) -> StreamEntry {
        StreamEntry {
            stream,
            created,
            plain: matches!(self.owner, Owner::Plain(_)),
            form: self.form,
            first_seq: Seq::new(self.tail.get() + 1 - events.len() as u64),
            epoch: self.epoch,
            project: self.project().clone(),
            bytes: self.bytes,
            earliest: self.earliest,
            events,
            feed: Vec::new(),
            cursor,
            row: None,
        }
    }

    /// What a write must be for this stream.
    fn check(&self, write: &StreamWrite, newlines: bool) -> Result<(), CommitError> {
        if newlines {
            write.check_form(self.form)?;
        }
        if self.closed {
            return Err(CommitError::Gone);
        }
        if write.epoch < self.epoch {
            return Err(CommitError::Fenced { owner: self.epoch });
        }
        if write.expected_tail != self.tail {
            return Err(CommitError::Conflict { expected: write.expected_tail, actual: self.tail });
        }
        if write.project != *self.project() {
            return Err(CommitError::Invalid("a write names another project than its stream's"));
        }
        match (&self.owner, &write.row) {
            (Owner::Run(key), Some(row)) if row.key != **key => {
                Err(CommitError::Invalid("a row names another run than its stream's"))
            }
            (Owner::Plain(_), row) if row.is_some() || !write.feed.is_empty() => {
                Err(CommitError::Invalid("a plain stream has neither row nor feed"))
            }
            _ => Ok(()),
        }
    }
}

/// What memory or the library knows of a head.
struct Loaded {
    tail: Seq,
    epoch: Epoch,
    closed: bool,
    earliest: Seq,
    bytes: u64,
    form: Form,
    plain: Option<ProjectId>,
}

impl From<&Live> for Loaded {
    fn from(live: &Live) -> Self {
        let Live { tail, epoch, closed, earliest, bytes, form, .. } = *live;
        Self { tail, epoch, closed, earliest, bytes, form, plain: live.plain.clone() }
    }
}

impl From<StreamHead> for Loaded {
    fn from(head: StreamHead) -> Self {
        let bytes = head.content_bytes();
        let StreamHead { tail, epoch, closed, earliest, form, project, .. } = head;
        Self { tail, epoch, closed, earliest, bytes, form, plain: project }
    }
}

fn sum(events: &[Bytes]) -> u64 {
    events.iter().map(|event| event.len() as u64).sum()
}

/// A value with the id of the opened stream before it.
fn stamped(stream: StreamId, value: &Bytes) -> Bytes {
    [&stream.get().to_be_bytes()[..], value].concat().into()
}

/// See the module.
pub(crate) struct Ledger {
    library: Connection,
    heads: StreamMap<Head>,
    position: u64,
    streams_made: u64,
    feed_tail: u64,
    kept: (u64, u64),
    /// What this group changed so far.
    touched: Vec<StreamId>,
    erased: Vec<StreamId>,
    keys: HashMap<RunKey, Option<StreamId>>,
    /// By kind and id: whether it is there.
    records: HashMap<&'static str, HashMap<Arc<str>, bool>>,
}

impl Ledger {
    pub(crate) fn new(library: Connection, position: u64, streams_made: u64, feed_tail: u64) -> Self {
        Self {
            library,
            heads: StreamMap::default(),
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
        self.records.values_mut().for_each(HashMap::clear);
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
        self.records.values_mut().for_each(HashMap::clear);
    }

    /// Checks a commit, then takes its effects into account: all of them or none.
    /// `newlines` says whether there may be some in the events of its writes.
    pub(super) fn admit(
        &mut self,
        commit: Commit,
        newlines: bool,
        id: u64,
        shared: &Shared,
    ) -> Result<(Entry, Committed), No> {
        for write in &commit.streams {
            self.head(write.stream, shared)?.ok_or(CommitError::Gone)?.check(write, newlines)?;
        }
        let erased = match &commit.erase {
            Some(key) => Some(self.stream_of(key, shared)?.ok_or(CommitError::Gone)?),
            None => None,
        };
        if erased.is_some_and(|stream| commit.streams.iter().any(|w| w.stream == stream)) {
            return Err(CommitError::Invalid("a run is written and erased in one commit").into());
        }
        for stream in &commit.drop {
            match self.head(*stream, shared)?.map(|head| &head.owner) {
                None => return Err(CommitError::Gone.into()),
                Some(Owner::Run(_)) => return Err(CommitError::Invalid("a run's stream is dropped").into()),
                Some(Owner::Plain(_)) => {}
            }
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
        for stream in &commit.drop {
            self.heads.remove(stream);
            self.erased.push(*stream);
        }
        entry.drop = commit.drop;
        if let Some(new) = commit.create {
            let written = self.create(new);
            created = Some(written.stream);
            entry.streams.push(written);
        }
        if let Some(new) = commit.open {
            let written = self.open(new);
            created = Some(written.stream);
            entry.streams.push(written);
        }
        for write in commit.streams {
            entry.streams.extend(self.write(write));
        }
        for record in commit.records {
            let id: Arc<str> = record.key.id.into();
            self.records.entry(record.key.kind).or_default().insert(Arc::clone(&id), record.value.is_some());
            let value = match (record.value, created) {
                (Some(value), Some(stream)) if record.stamp => Some(stamped(stream, &value)),
                (value, _) => value,
            };
            entry.records.push(RecordEntry { kind: record.key.kind.into(), id, value });
        }
        (entry, Committed { created, position: id })
    }

    fn create(&mut self, new: NewRun) -> StreamEntry {
        let stream = self.next_stream();
        let tail = Seq::new(new.events.len() as u64);
        let row = RunRow { stream, last_seq: tail, ..new.row };
        self.keys.insert(row.key.clone(), Some(stream));
        let head = Head {
            tail,
            epoch: new.epoch,
            closed: row.status.is_terminal(),
            earliest: Seq::new(1),
            bytes: sum(&new.events),
            form: Form::Lines,
            owner: Owner::Run(Arc::new(row.key.clone())),
        };
        self.feed_tail += new.feed.len() as u64;
        let written = head.entry(stream, true, new.events, None);
        self.heads.insert(stream, head);
        self.touched.push(stream);
        StreamEntry { feed: new.feed, row: Some(Arc::new(row)), ..written }
    }

    fn open(&mut self, new: NewStream) -> StreamEntry {
        let stream = self.next_stream();
        let head = Head {
            tail: Seq::new(new.events.len() as u64),
            epoch: new.epoch,
            closed: false,
            earliest: Seq::new(1),
            bytes: sum(&new.events),
            form: new.form,
            owner: Owner::Plain(new.project),
        };
        let written = head.entry(stream, true, new.events, new.cursor);
        self.heads.insert(stream, head);
        self.touched.push(stream);
        written
    }

    fn next_stream(&mut self) -> StreamId {
        self.streams_made += 1;
        StreamId::new(self.streams_made)
    }

    /// The caller has checked the write, so the head is there.
    fn write(&mut self, write: StreamWrite) -> Option<StreamEntry> {
        let tail = write.tail();
        let row = write.row.map(|row| Arc::new(RunRow { last_seq: tail, ..row }));
        let head = self.heads.get_mut(&write.stream)?;
        head.tail = tail;
        head.epoch = write.epoch;
        head.closed |= row.as_ref().is_some_and(|row| row.status.is_terminal());
        head.bytes += sum(&write.events);
        if let Some(upto) = write.keep_after {
            head.earliest = head.earliest.max(upto.next());
        }
        self.touched.push(write.stream);
        self.feed_tail += write.feed.len() as u64;
        let written = head.entry(write.stream, false, write.events, write.cursor);
        Some(StreamEntry { feed: write.feed, row, ..written })
    }

    /// A stream's head as the group so far leaves it.
    fn head(&mut self, stream: StreamId, shared: &Shared) -> Result<Option<&Head>, No> {
        if !self.heads.contains_key(&stream) {
            let Some(head) = self.load(stream, shared)? else { return Ok(None) };
            self.heads.insert(stream, head);
        }
        Ok(self.heads.get(&stream))
    }

    /// A head that this thread does not remember: from memory, else from the library.
    fn load(&self, stream: StreamId, shared: &Shared) -> Result<Option<Head>, No> {
        let (live, row) = {
            let memory = shared.memory();
            let live = memory.streams.get(&stream).map(Loaded::from);
            (live, memory.row(stream))
        };
        if row == Unapplied::Gone || self.erased.contains(&stream) {
            return Ok(None);
        }
        let loaded = match live {
            Some(loaded) => loaded,
            None => match streams::find(&self.library, stream)? {
                Some(head) => Loaded::from(head),
                None => return Ok(None),
            },
        };
        let owner = match (loaded.plain, row) {
            (Some(project), _) => Owner::Plain(project),
            (None, Unapplied::Is(row)) => Owner::Run(Arc::new(row.key.clone())),
            (None, _) => {
                let Some(key) = runs::key(&self.library, stream)? else {
                    let place = format!("longhaul.db: runs, stream {stream}");
                    return Err(Fault::corrupt(place, "the stream has no run").into());
                };
                Owner::Run(Arc::new(key))
            }
        };
        let Loaded { tail, epoch, closed, earliest, bytes, form, .. } = loaded;
        Ok(Some(Head { tail, epoch, closed, earliest, bytes, form, owner }))
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
        if let Some(known) = self.records.get(kind).and_then(|kind| kind.get(id)) {
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
