//! What a memory store holds, and the rules of a commit over it.
//!
//! Job: check a commit whole, then apply it whole; answer queries. Owns: all durable state of a memory store.
//! Never: waits, wakes or fails half-way.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use longhaul_model::{Epoch, ProjectId, RunKey, Seq, StreamId, limits};

use crate::commit::{Commit, Committed, RecordKey, StreamWrite};
use crate::error::{CommitError, StoreError};
use crate::page::{EventPage, FeedEntry, FeedPage, ReadLimit, StoredEvent};
use crate::row::{Head, RunFilter, RunPage, RunRow};

/// One stream and its row.
#[derive(Debug, Clone)]
struct Stream {
    row: RunRow,
    epoch: Epoch,
    cursor: Option<Bytes>,
    events: Vec<Bytes>,
}

impl Stream {
    fn tail(&self) -> Seq {
        Seq::new(self.events.len() as u64)
    }
}

/// An entry of the feed; an erased run leaves its positions empty.
#[derive(Debug, Clone)]
struct FeedSlot {
    project: ProjectId,
    stream: StreamId,
    wire: Option<Bytes>,
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
    pub(super) erased: Option<StreamId>,
}

impl State {
    /// Checks the whole commit against the state.
    pub(super) fn check(&self, commit: &Commit) -> Result<(), CommitError> {
        commit.validate()?;
        for write in &commit.streams {
            self.check_stream(write)?;
        }
        if let Some(key) = &commit.erase {
            let Some(stream) = self.keys.get(key) else { return Err(CommitError::Gone) };
            if commit.streams.iter().any(|w| w.stream == *stream) {
                return Err(CommitError::Invalid("a run is written and erased in one commit"));
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

    fn check_stream(&self, write: &StreamWrite) -> Result<(), CommitError> {
        let Some(stream) = self.streams.get(&write.stream) else { return Err(CommitError::Gone) };
        if stream.row.status.is_terminal() {
            return Err(CommitError::Gone);
        }
        if write.epoch < stream.epoch {
            return Err(CommitError::Fenced { owner: stream.epoch });
        }
        if write.expected_tail != stream.tail() {
            return Err(CommitError::Conflict { expected: write.expected_tail, actual: stream.tail() });
        }
        if write.project != stream.row.key.project {
            return Err(CommitError::Invalid("a write names another project than its stream's"));
        }
        if write.row.as_ref().is_some_and(|row| row.key != stream.row.key) {
            return Err(CommitError::Invalid("a row names another run than its stream's"));
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
            moved.erased = Some(stream);
        }
        if let Some(new) = commit.create {
            self.streams_made += 1;
            let stream = StreamId::new(self.streams_made);
            let mut row = new.row;
            row.stream = stream;
            row.last_seq = Seq::new(new.events.len() as u64);
            self.enter_feed(stream, &row.key.project, &new.events, &new.feed, &mut moved);
            self.keys.insert(row.key.clone(), stream);
            moved.tails.push((stream, row.last_seq));
            self.streams.insert(stream, Stream { row, epoch: new.epoch, cursor: None, events: new.events });
            created = Some(stream);
        }
        for write in commit.streams {
            self.enter_feed(write.stream, &write.project, &write.events, &write.feed, &mut moved);
            let Some(stream) = self.streams.get_mut(&write.stream) else { continue };
            stream.epoch = write.epoch;
            stream.events.extend(write.events);
            if write.cursor.is_some() {
                stream.cursor = write.cursor;
            }
            let tail = stream.tail();
            if let Some(row) = write.row {
                stream.row = RunRow { last_seq: tail, ..row };
            }
            moved.tails.push((write.stream, tail));
        }
        for record in commit.records {
            match record.value {
                Some(value) => self.records.insert(record.key, value),
                None => self.records.remove(&record.key),
            };
        }
        (Committed { created, position: self.position }, moved)
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
        Ok(Head { tail: stream.tail(), epoch: stream.epoch, cursor: stream.cursor.clone() })
    }

    pub(super) fn read(&self, stream: StreamId, after: Seq, limit: ReadLimit) -> Result<EventPage, StoreError> {
        let stream = self.streams.get(&stream).ok_or(StoreError::NotFound)?;
        let tail = stream.tail();
        if after > tail {
            return Err(StoreError::Ahead { tail });
        }
        let mut events = Vec::new();
        let mut bytes = 0;
        for (at, wire) in stream.events.iter().enumerate().skip(after.get() as usize) {
            bytes += wire.len();
            if !events.is_empty() && (events.len() >= limit.events_max || bytes > limit.bytes_max) {
                break;
            }
            events.push(StoredEvent { seq: Seq::new(at as u64 + 1), wire: wire.clone() });
        }
        Ok(EventPage { earliest: Seq::new(1), tail, events })
    }

    pub(super) fn run(&self, key: &RunKey) -> Option<RunRow> {
        self.keys.get(key).and_then(|stream| self.streams.get(stream)).map(|s| s.row.clone())
    }

    pub(super) fn runs(&self, filter: &RunFilter) -> RunPage {
        let limit = if filter.limit == 0 { limits::LIST_DEFAULT } else { filter.limit };
        let below = filter.before.unwrap_or(StreamId::new(u64::MAX));
        let mut matching = self.streams.range(..below).rev().map(|(_, s)| &s.row).filter(|row| filter.matches(row));
        let rows: Vec<_> = matching.by_ref().take(limit).cloned().collect();
        RunPage { rows, more: matching.next().is_some() }
    }

    pub(super) fn live_runs(&self) -> Vec<RunRow> {
        self.streams.values().map(|s| &s.row).filter(|row| !row.status.is_terminal()).cloned().collect()
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
            ("runs", self.streams.len() as u64),
            ("events", self.streams.values().map(|s| s.tail().get()).sum()),
            ("records", self.records.len() as u64),
            ("feed", self.feed.len() as u64),
        ]
    }
}
