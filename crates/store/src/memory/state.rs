//! What a memory store holds, and the rules of a commit over it.
//!
//! Job: check a commit whole, then apply it whole; answer queries. Owns: all durable state of a memory store.
//! Never: waits, wakes or fails half-way.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use longhaul_model::{Epoch, ProjectId, RunKey, Seq, StreamId, limits};

use crate::commit::{Commit, Committed, Form, RecordKey, StreamWrite};
use crate::error::{CommitError, StoreError};
use crate::page::{EventPage, FeedEntry, FeedPage, ReadLimit, Span, StoredEvent};
use crate::row::{Head, RunFilter, RunPage, RunRow};

/// Whose a stream is.
#[derive(Debug, Clone)]
enum Owner {
    Run(Box<RunRow>),
    Plain(ProjectId),
}

/// One stream.
#[derive(Debug, Clone)]
struct Stream {
    owner: Owner,
    form: Form,
    epoch: Epoch,
    cursor: Option<Bytes>,
    /// How many of its first events are no longer kept.
    removed: u64,
    /// Bytes of all events, those included.
    bytes: u64,
    events: VecDeque<Bytes>,
}

impl Stream {
    fn new(owner: Owner, form: Form, epoch: Epoch, cursor: Option<Bytes>, events: Vec<Bytes>) -> Self {
        let bytes = events.iter().map(|event| event.len() as u64).sum();
        Self { owner, form, epoch, cursor, removed: 0, bytes, events: events.into() }
    }

    fn tail(&self) -> Seq {
        Seq::new(self.removed + self.events.len() as u64)
    }

    fn earliest(&self) -> Seq {
        Seq::new(self.removed + 1)
    }

    fn row(&self) -> Option<&RunRow> {
        match &self.owner {
            Owner::Run(row) => Some(row),
            Owner::Plain(_) => None,
        }
    }

    /// The events above a cursor.
    fn after(&self, after: Seq) -> Result<impl Iterator<Item = (Seq, &Bytes)>, StoreError> {
        if after > self.tail() {
            return Err(StoreError::Ahead { tail: self.tail() });
        }
        if after.next() < self.earliest() {
            return Err(StoreError::Expired { earliest: self.earliest() });
        }
        let skip = (after.get() - self.removed) as usize;
        Ok((after.get() + 1..).map(Seq::new).zip(self.events.range(skip..)))
    }

    /// What a write must be for this stream, beside its tail.
    fn check(&self, write: &StreamWrite) -> Result<(), CommitError> {
        write.check_form(self.form)?;
        if self.row().is_some_and(|row| row.status.is_terminal()) {
            return Err(CommitError::Gone);
        }
        if write.epoch < self.epoch {
            return Err(CommitError::Fenced { owner: self.epoch });
        }
        if write.expected_tail != self.tail() {
            return Err(CommitError::Conflict { expected: write.expected_tail, actual: self.tail() });
        }
        let project = match &self.owner {
            Owner::Run(row) => &row.key.project,
            Owner::Plain(project) => project,
        };
        if write.project != *project {
            return Err(CommitError::Invalid("a write names another project than its stream's"));
        }
        match (&self.owner, &write.row) {
            (Owner::Run(old), Some(row)) if row.key != old.key => {
                Err(CommitError::Invalid("a row names another run than its stream's"))
            }
            (Owner::Plain(_), row) if row.is_some() || !write.feed.is_empty() => {
                Err(CommitError::Invalid("a plain stream has neither row nor feed"))
            }
            _ => Ok(()),
        }
    }
}

/// An entry of the feed; an erased run leaves its positions empty.
#[derive(Debug, Clone)]
struct FeedSlot {
    project: ProjectId,
    stream: StreamId,
    wire: Option<Bytes>,
}

/// A value with the id of a stream before it.
fn stamped(stream: Option<StreamId>, value: &Bytes) -> Bytes {
    let id = stream.map_or(0, StreamId::get);
    [&id.to_be_bytes()[..], value].concat().into()
}

/// All durable state.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    position: u64,
    streams_made: u64,
    streams: BTreeMap<StreamId, Stream>,
    keys: HashMap<RunKey, StreamId>,
    records: BTreeMap<RecordKey, Bytes>,
    feed: Vec<FeedSlot>,
}

/// What moved, so that the store wakes those who watch it.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) tails: Vec<(StreamId, Seq)>,
    pub(super) feed: bool,
    pub(super) erased: Vec<StreamId>,
}

impl State {
    /// Checks the whole commit against the state.
    pub(super) fn check(&self, commit: &Commit) -> Result<(), CommitError> {
        commit.validate()?;
        for write in &commit.streams {
            self.streams.get(&write.stream).ok_or(CommitError::Gone)?.check(write)?;
        }
        if let Some(key) = &commit.erase {
            let Some(stream) = self.keys.get(key) else { return Err(CommitError::Gone) };
            if commit.streams.iter().any(|w| w.stream == *stream) {
                return Err(CommitError::Invalid("a run is written and erased in one commit"));
            }
        }
        for stream in &commit.drop {
            match self.streams.get(stream).map(|stream| &stream.owner) {
                None => return Err(CommitError::Gone),
                Some(Owner::Run(_)) => return Err(CommitError::Invalid("a run's stream is dropped")),
                Some(Owner::Plain(_)) => {}
            }
        }
        if let Some(new) = &commit.create
            && self.keys.contains_key(&new.row.key)
        {
            return Err(CommitError::Exists);
        }
        if commit.records.iter().any(|r| r.only_new && self.records.contains_key(&r.key)) {
            return Err(CommitError::Exists);
        }
        Ok(())
    }

    /// Applies a commit that passed [`State::check`].
    pub(super) fn apply(&mut self, commit: Commit) -> (Committed, Moved) {
        self.position += 1;
        let mut moved = Moved::default();
        let mut created = None;
        if let Some(key) = commit.erase
            && let Some(stream) = self.keys.remove(&key)
        {
            self.streams.remove(&stream);
            for slot in self.feed.iter_mut().filter(|slot| slot.stream == stream) {
                slot.wire = None;
            }
            moved.erased.push(stream);
        }
        for stream in commit.drop {
            self.streams.remove(&stream);
            moved.erased.push(stream);
        }
        if let Some(new) = commit.create {
            let stream = self.next_stream();
            let mut row = new.row;
            row.stream = stream;
            row.last_seq = Seq::new(new.events.len() as u64);
            self.enter_feed(stream, &row.key.project, &new.events, &new.feed, &mut moved);
            self.keys.insert(row.key.clone(), stream);
            moved.tails.push((stream, row.last_seq));
            let owner = Owner::Run(Box::new(row));
            self.streams.insert(stream, Stream::new(owner, Form::Lines, new.epoch, None, new.events));
            created = Some(stream);
        }
        if let Some(new) = commit.open {
            let stream = self.next_stream();
            let owner = Owner::Plain(new.project);
            self.streams.insert(stream, Stream::new(owner, new.form, new.epoch, new.cursor, new.events));
            created = Some(stream);
        }
        for write in commit.streams {
            self.enter_feed(write.stream, &write.project, &write.events, &write.feed, &mut moved);
            if let Some(tail) = self.write(write) {
                moved.tails.push(tail);
            }
        }
        for record in commit.records {
            match record.value {
                Some(value) if record.stamp => self.records.insert(record.key, stamped(created, &value)),
                Some(value) => self.records.insert(record.key, value),
                None => self.records.remove(&record.key),
            };
        }
        (Committed { created, position: self.position }, moved)
    }

    fn next_stream(&mut self) -> StreamId {
        self.streams_made += 1;
        StreamId::new(self.streams_made)
    }

    fn write(&mut self, write: StreamWrite) -> Option<(StreamId, Seq)> {
        let stream = self.streams.get_mut(&write.stream)?;
        stream.epoch = write.epoch;
        stream.bytes += write.events.iter().map(|event| event.len() as u64).sum::<u64>();
        stream.events.extend(write.events);
        if write.cursor.is_some() {
            stream.cursor = write.cursor;
        }
        let tail = stream.tail();
        if let Some(row) = write.row {
            stream.owner = Owner::Run(Box::new(RunRow { last_seq: tail, ..row }));
        }
        while write.keep_after.is_some_and(|upto| upto >= stream.earliest()) && stream.events.pop_front().is_some() {
            stream.removed += 1;
        }
        Some((write.stream, tail))
    }

    fn enter_feed(
        &mut self,
        stream: StreamId,
        project: &ProjectId,
        events: &[Bytes],
        feed: &[usize],
        moved: &mut Moved,
    ) {
        for at in feed {
            self.feed.push(FeedSlot { project: project.clone(), stream, wire: Some(events[*at].clone()) });
            moved.feed = true;
        }
    }

    pub(super) fn tail(&self, stream: StreamId) -> Result<Seq, StoreError> {
        self.streams.get(&stream).map(Stream::tail).ok_or(StoreError::NotFound)
    }

    pub(super) fn feed_tail(&self) -> Seq {
        Seq::new(self.feed.len() as u64)
    }

    pub(super) fn head(&self, stream: StreamId) -> Result<Head, StoreError> {
        let stream = self.streams.get(&stream).ok_or(StoreError::NotFound)?;
        Ok(Head {
            tail: stream.tail(),
            epoch: stream.epoch,
            cursor: stream.cursor.clone(),
            earliest: stream.earliest(),
            bytes: stream.bytes,
        })
    }

    pub(super) fn read(&self, stream: StreamId, after: Seq, limit: ReadLimit) -> Result<EventPage, StoreError> {
        let stream = self.streams.get(&stream).ok_or(StoreError::NotFound)?;
        let mut events = Vec::new();
        let mut bytes = 0;
        for (seq, wire) in stream.after(after)? {
            bytes += wire.len();
            if !events.is_empty() && (events.len() >= limit.events_max || bytes > limit.bytes_max) {
                break;
            }
            events.push(StoredEvent { seq, wire: wire.clone() });
        }
        Ok(EventPage { earliest: stream.earliest(), tail: stream.tail(), events })
    }

    pub(super) fn read_span(&self, stream: StreamId, after: Seq, bytes_max: usize) -> Result<Span, StoreError> {
        let stream = self.streams.get(&stream).ok_or(StoreError::NotFound)?;
        let (earliest, tail) = (stream.earliest(), stream.tail());
        let mut span = Span { earliest, tail, first: after.next(), last: after, body: Vec::new(), lengths: Vec::new() };
        let newline = usize::from(stream.form == Form::Lines);
        let mut bytes = 0;
        for (seq, wire) in stream.after(after)? {
            bytes += wire.len() + newline;
            if span.last > after && bytes > bytes_max {
                break;
            }
            span.body.push(wire.clone());
            if stream.form == Form::Lines {
                span.body.push(Bytes::from_static(b"\n"));
            }
            span.lengths.push(wire.len() as u32);
            span.last = seq;
        }
        Ok(span)
    }

    pub(super) fn run(&self, key: &RunKey) -> Option<RunRow> {
        self.keys.get(key).and_then(|stream| self.streams.get(stream)).and_then(Stream::row).cloned()
    }

    pub(super) fn runs(&self, filter: &RunFilter) -> RunPage {
        let limit = if filter.limit == 0 { limits::LIST_DEFAULT } else { filter.limit };
        let below = filter.before.unwrap_or(StreamId::new(u64::MAX));
        let mut matching =
            self.streams.range(..below).rev().filter_map(|(_, s)| s.row()).filter(|row| filter.matches(row));
        let rows: Vec<_> = matching.by_ref().take(limit).cloned().collect();
        RunPage { rows, more: matching.next().is_some() }
    }

    pub(super) fn live_runs(&self) -> Vec<RunRow> {
        self.streams.values().filter_map(Stream::row).filter(|row| !row.status.is_terminal()).cloned().collect()
    }

    pub(super) fn record(&self, key: &RecordKey) -> Option<Bytes> {
        self.records.get(key).cloned()
    }

    pub(super) fn records(&self, kind: &'static str, prefix: &str, limit: usize) -> Vec<(RecordKey, Bytes)> {
        self.records
            .range(RecordKey::new(kind, prefix)..)
            .take_while(|(key, _)| key.kind == kind && key.id.starts_with(prefix))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    pub(super) fn feed(
        &self,
        after: Seq,
        project: Option<&ProjectId>,
        limit: ReadLimit,
    ) -> Result<FeedPage, StoreError> {
        let tail = self.feed_tail();
        if after > tail {
            return Err(StoreError::Ahead { tail });
        }
        let mut page = FeedPage { earliest: Seq::new(1), tail, upto: after, entries: Vec::new() };
        let mut bytes = 0;
        for (at, slot) in self.feed.iter().enumerate().skip(after.get() as usize) {
            let position = Seq::new(at as u64 + 1);
            if let Some(wire) = &slot.wire
                && project.is_none_or(|p| *p == slot.project)
            {
                bytes += wire.len();
                if !page.entries.is_empty() && (page.entries.len() >= limit.events_max || bytes > limit.bytes_max) {
                    break;
                }
                page.entries.push(FeedEntry { position, project: slot.project.clone(), wire: wire.clone() });
            }
            page.upto = position;
        }
        Ok(page)
    }

    pub(super) fn sizes(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("position", self.position),
            ("runs", self.keys.len() as u64),
            ("events", self.streams.values().map(|s| s.tail().get()).sum()),
            ("records", self.records.len() as u64),
            ("feed", self.feed.len() as u64),
        ]
    }
}
