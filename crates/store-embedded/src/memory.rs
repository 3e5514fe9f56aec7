//! What is held in memory: all that is durable and not yet applied, and the last events of each stream for live readers.
//!
//! Job: publish a durable group at once, answer from it, hand groups to the applier, forget what is applied.
//! Owns: the overlay over the library, bounded in bytes. Never: touches a file, waits, or shows what is not durable.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use longhaul_model::{Epoch, ProjectId, RunKey, Seq, StreamId};
use longhaul_store::{EventPage, Form, Head, ReadLimit, RunRow, Span, StoreError, StoredEvent};
use tokio::sync::watch;

use crate::entry::{Entry, StreamEntry};
use crate::library::feed::Slot;
use crate::library::runs::Shadow;
use crate::limits;
use crate::stream_map::StreamMap;

/// One row of the journal, decoded.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: u64,
    pub(crate) bytes: usize,
    pub(crate) entries: Vec<Entry>,
}

/// A stream that something is held of.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) tail: Seq,
    pub(crate) epoch: Epoch,
    /// A cursor newer than the library's.
    pub(crate) cursor: Option<Bytes>,
    pub(crate) closed: bool,
    pub(crate) form: Form,
    /// Of a plain stream.
    pub(crate) plain: Option<ProjectId>,
    /// The first event that is kept.
    pub(crate) earliest: Seq,
    /// The lengths of all events there ever were.
    pub(crate) bytes: u64,
    /// It was made by a commit that is not applied: the library knows nothing of it.
    unknown_below: bool,
    /// The seq of the first event held.
    first: u64,
    events: VecDeque<Bytes>,
    /// The last seq that is applied, and the bytes held up to it.
    applied: u64,
    recent_bytes: usize,
    /// Bytes of events that retention took before they were applied.
    trimmed_bytes: usize,
    /// The journal row that last touched it.
    position: u64,
    /// Whether it stands in the line of those that rest; each stands there once.
    resting: bool,
}

/// A version of something with the journal row that made it.
type Versioned<T> = (T, u64);

/// Records of one kind by id.
type Records = BTreeMap<Arc<str>, Versioned<Option<Bytes>>>;

/// What a reader gets from memory.
pub(crate) enum Answer<T> {
    Here(T),
    /// Ask the library. What is durable, if the stream is known here.
    Below(Option<Known>),
}

/// What is durable of a stream, newer than the library.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) tail: Seq,
    pub(crate) earliest: Seq,
}

/// Messages for a span, to be put together without the lock.
pub(crate) struct Parts {
    pub(crate) known: Known,
    pub(crate) form: Form,
    pub(crate) after: Seq,
    pub(crate) events: Vec<Bytes>,
}

impl Parts {
    /// Lines are copied into one piece; opaque messages stay as they are.
    pub(crate) fn span(self) -> Span {
        let lengths: Vec<u32> = self.events.iter().map(|event| event.len() as u32).collect();
        let last = self.after.plus(lengths.len() as u64);
        let body = match self.form {
            Form::Opaque => self.events,
            Form::Lines => {
                let mut lines = Vec::with_capacity(self.events.iter().map(|event| event.len() + 1).sum());
                for event in &self.events {
                    lines.extend_from_slice(event);
                    lines.push(b'\n');
                }
                if lines.is_empty() { Vec::new() } else { vec![lines.into()] }
            }
        };
        let Known { tail, earliest } = self.known;
        Span { earliest, tail, first: self.after.next(), last, body, lengths }
    }
}

/// What un-applied commits say of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unapplied<T> {
    /// Nothing: the library knows.
    Silent,
    /// It was deleted or erased.
    Gone,
    /// It is this.
    Is(T),
}

impl Known {
    /// Whether events above a cursor can be read.
    pub(crate) fn check(self, after: Seq) -> Result<(), StoreError> {
        if after > self.tail {
            return Err(StoreError::Ahead { tail: self.tail });
        }
        if after.next() < self.earliest {
            return Err(StoreError::Expired { earliest: self.earliest });
        }
        Ok(())
    }
}

impl Live {
    fn known(&self) -> Known {
        Known { tail: self.tail, earliest: self.earliest }
    }
}

impl<T: Clone> From<Option<&Versioned<Option<T>>>> for Unapplied<T> {
    fn from(found: Option<&Versioned<Option<T>>>) -> Self {
        match found {
            None => Self::Silent,
            Some((None, _)) => Self::Gone,
            Some((Some(value), _)) => Self::Is(value.clone()),
        }
    }
}

/// What is to be woken once the group is acknowledged.
#[derive(Default)]
pub(crate) struct Wake {
    pub(crate) tails: Vec<(Arc<watch::Sender<Seq>>, Seq)>,
    pub(crate) feed: Option<Seq>,
    /// Dropped after all else: that closes the watches of erased streams.
    pub(crate) erased: Vec<Arc<watch::Sender<Seq>>>,
}

/// What one apply brought down.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) upto: u64,
    pub(crate) bytes: usize,
    pub(crate) groups: usize,
    /// Streams with their applied tail and the bytes of the events that were applied.
    pub(crate) streams: Vec<(StreamId, Seq, usize)>,
    pub(crate) rows: Vec<StreamId>,
    pub(crate) keys: Vec<RunKey>,
    pub(crate) records: Vec<(Cow<'static, str>, Arc<str>)>,
    pub(crate) feed_tail: u64,
}

/// The overlay.
#[derive(Default)]
pub(crate) struct Memory {
    /// The last durable journal row, and the last applied one.
    pub(crate) durable: u64,
    pub(crate) applied: u64,
    pub(crate) pending: VecDeque<Arc<Group>>,
    pub(crate) pending_bytes: usize,
    pub(crate) recent_bytes: usize,
    pub(crate) feed_tail: u64,
    /// The applier found no room and tries again.
    pub(crate) starved: bool,
    pub(crate) streams: StreamMap<Live>,
    rows: BTreeMap<StreamId, Versioned<Option<Arc<RunRow>>>>,
    keys: HashMap<RunKey, Versioned<Option<StreamId>>>,
    /// By kind and id.
    records: HashMap<Cow<'static, str>, Records>,
    /// Entries up to `feed_tail`.
    feed: VecDeque<Slot>,
    feed_applied: u64,
    /// Streams whose events are all applied, in the order in which they were, with the row that last touched them.
    rested: VecDeque<(StreamId, u64)>,
    watchers: StreamMap<Arc<watch::Sender<Seq>>>,
    watchers_sweep_at: usize,
}

impl Memory {
    pub(crate) fn new(applied: u64, feed_tail: u64) -> Self {
        Self { durable: applied, applied, feed_tail, feed_applied: feed_tail, watchers_sweep_at: 64, ..Self::default() }
    }

    /// Makes a durable group visible.
    pub(crate) fn publish(&mut self, group: &Arc<Group>) -> Wake {
        let mut wake = Wake::default();
        let feed_before = self.feed_tail;
        for entry in &group.entries {
            if let Some((key, stream)) = &entry.erase {
                self.keys.insert(key.clone(), (None, group.id));
                for slot in self.feed.iter_mut().filter(|slot| slot.stream == *stream) {
                    slot.wire = None;
                }
                self.erase(*stream, group.id, &mut wake);
            }
            for stream in &entry.drop {
                self.erase(*stream, group.id, &mut wake);
            }
            for written in &entry.streams {
                self.write(written, group.id, &mut wake);
            }
            for record in &entry.records {
                let value = (record.value.clone(), group.id);
                match self.records.get_mut(&record.kind) {
                    Some(kind) => kind.insert(record.id.clone(), value),
                    None => self.records.entry(record.kind.clone()).or_default().insert(record.id.clone(), value),
                };
            }
        }
        self.durable = group.id;
        self.pending_bytes += group.bytes;
        self.pending.push_back(Arc::clone(group));
        wake.feed = (self.feed_tail > feed_before).then_some(Seq::new(self.feed_tail));
        wake
    }

    fn erase(&mut self, stream: StreamId, position: u64, wake: &mut Wake) {
        if let Some(live) = self.streams.remove(&stream) {
            self.recent_bytes -= live.recent_bytes;
        }
        self.rows.insert(stream, (None, position));
        wake.erased.extend(self.watchers.remove(&stream));
    }

    fn write(&mut self, written: &StreamEntry, position: u64, wake: &mut Wake) {
        let first = written.first_seq.get();
        let live = self.streams.entry(written.stream).or_insert_with(|| Live {
            tail: Seq::new(first - 1),
            epoch: written.epoch,
            cursor: None,
            closed: false,
            form: written.form,
            plain: written.plain.then(|| written.project.clone()),
            earliest: written.earliest,
            bytes: written.bytes,
            unknown_below: written.created,
            first,
            events: VecDeque::new(),
            applied: first - 1,
            recent_bytes: 0,
            trimmed_bytes: 0,
            position,
            resting: false,
        });
        live.events.extend(written.events.iter().cloned());
        live.tail = written.tail();
        live.epoch = written.epoch;
        live.position = position;
        live.closed |= written.closes();
        live.bytes = written.bytes;
        live.earliest = written.earliest;
        while live.first < live.earliest.get()
            && let Some(event) = live.events.pop_front()
        {
            if live.first <= live.applied {
                live.recent_bytes -= event.len();
                self.recent_bytes -= event.len();
            } else {
                live.trimmed_bytes += event.len();
            }
            live.first += 1;
        }
        if written.cursor.is_some() {
            live.cursor.clone_from(&written.cursor);
        }
        if let Some(row) = &written.row {
            self.rows.insert(written.stream, (Some(Arc::clone(row)), position));
            self.keys.insert(row.key.clone(), (Some(written.stream), position));
        }
        for at in &written.feed {
            self.feed.push_back(Slot {
                project: written.project.clone(),
                stream: written.stream,
                wire: Some(written.events[*at].clone()),
            });
            self.feed_tail += 1;
        }
        if !written.events.is_empty()
            && let Some(watcher) = self.watchers.get(&written.stream)
        {
            wake.tails.push((Arc::clone(watcher), written.tail()));
        }
    }

    /// Forgets what is applied, but for the last events of each stream. Gives back what is to be dropped without a lock.
    pub(crate) fn forget(&mut self, applied: &Applied) -> Vec<Bytes> {
        let mut waste = Vec::new();
        self.applied = applied.upto;
        self.pending.drain(..applied.groups);
        self.pending_bytes -= applied.bytes;
        for (stream, tail, bytes) in &applied.streams {
            let Some(live) = self.streams.get_mut(stream) else { continue };
            live.applied = tail.get();
            live.unknown_below = false;
            let trimmed = live.trimmed_bytes.min(*bytes);
            live.trimmed_bytes -= trimmed;
            live.recent_bytes += bytes - trimmed;
            self.recent_bytes += bytes - trimmed;
            while live.recent_bytes > limits::RECENT_STREAM_BYTES && live.first <= live.applied {
                let Some(event) = live.events.pop_front() else { break };
                live.first += 1;
                live.recent_bytes -= event.len();
                self.recent_bytes -= event.len();
                waste.push(event);
            }
            if live.position <= applied.upto {
                live.cursor = None;
                if live.closed {
                    self.drop_live(*stream, &mut waste);
                } else if !std::mem::replace(&mut live.resting, true) {
                    self.rested.push_back((*stream, live.position));
                }
            }
        }
        while self.recent_bytes > limits::RECENT_BYTES_MAX && self.drop_rested(&mut waste) {}
        let upto = applied.upto;
        for stream in &applied.rows {
            if self.rows.get(stream).is_some_and(|(_, position)| *position <= upto) {
                self.rows.remove(stream);
            }
        }
        for key in &applied.keys {
            if self.keys.get(key).is_some_and(|(_, position)| *position <= upto) {
                self.keys.remove(key);
            }
        }
        for (kind, id) in &applied.records {
            if let Some(kind) = self.records.get_mut(kind)
                && kind.get(id).is_some_and(|(_, position)| *position <= upto)
            {
                kind.remove(id);
            }
        }
        self.feed_applied = self.feed_applied.max(applied.feed_tail);
        while self.feed_first() <= self.feed_applied && self.feed.len() > limits::RECENT_FEED_MAX {
            self.feed.pop_front();
        }
        waste
    }

    /// Gives back what only serves speed.
    pub(crate) fn rest(&mut self) -> Vec<Bytes> {
        let mut waste = Vec::new();
        while self.drop_rested(&mut waste) {}
        while self.feed_first() <= self.feed_applied && !self.feed.is_empty() {
            self.feed.pop_front();
        }
        self.rested.shrink_to_fit();
        self.streams.shrink_to_fit();
        self.feed.shrink_to_fit();
        self.pending.shrink_to_fit();
        waste
    }

    fn drop_rested(&mut self, waste: &mut Vec<Bytes>) -> bool {
        while let Some((stream, position)) = self.rested.pop_front() {
            let Some(live) = self.streams.get_mut(&stream) else { continue };
            if live.position == position {
                self.drop_live(stream, waste);
                return true;
            }
            // It was touched since: to the end of the line, or out of it until it is applied.
            live.resting = live.position <= self.applied;
            if live.resting {
                self.rested.push_back((stream, live.position));
            }
        }
        false
    }

    fn drop_live(&mut self, stream: StreamId, waste: &mut Vec<Bytes>) {
        if let Some(live) = self.streams.remove(&stream) {
            self.recent_bytes -= live.recent_bytes;
            waste.extend(live.events);
        }
    }

    /// Whether a stream was erased by a commit that is not yet applied.
    pub(crate) fn is_erased(&self, stream: StreamId) -> bool {
        matches!(self.rows.get(&stream), Some((None, _)))
    }

    /// Every stream that was erased by a commit that is not yet applied.
    pub(crate) fn erased(&self) -> HashSet<StreamId> {
        self.rows.iter().filter(|(_, (row, _))| row.is_none()).map(|(stream, _)| *stream).collect()
    }

    /// The events of a stream above a cursor, if all of them are here.
    fn after(&self, stream: StreamId, after: Seq) -> Result<Answer<(&Live, usize)>, StoreError> {
        let Some(live) = self.streams.get(&stream) else {
            return if self.is_erased(stream) { Err(StoreError::NotFound) } else { Ok(Answer::Below(None)) };
        };
        live.known().check(after)?;
        if after.get() + 1 < live.first {
            return Ok(Answer::Below(Some(live.known())));
        }
        Ok(Answer::Here((live, (after.get() + 1 - live.first) as usize)))
    }

    /// A page of a stream, if all of it is here.
    pub(crate) fn read(&self, stream: StreamId, after: Seq, limit: ReadLimit) -> Result<Answer<EventPage>, StoreError> {
        let (live, skip) = match self.after(stream, after)? {
            Answer::Here(here) => here,
            Answer::Below(known) => return Ok(Answer::Below(known)),
        };
        let mut events = Vec::new();
        let mut bytes = 0;
        for (at, wire) in live.events.range(skip..).enumerate() {
            bytes += wire.len();
            if !events.is_empty() && (events.len() >= limit.events_max || bytes > limit.bytes_max) {
                break;
            }
            events.push(StoredEvent { seq: after.plus(at as u64 + 1), wire: wire.clone() });
        }
        Ok(Answer::Here(EventPage { earliest: live.earliest, tail: live.tail, events }))
    }

    /// What a span is made of, if all of it is here.
    pub(crate) fn parts(&self, stream: StreamId, after: Seq, bytes_max: usize) -> Result<Answer<Parts>, StoreError> {
        let (live, skip) = match self.after(stream, after)? {
            Answer::Here(here) => here,
            Answer::Below(known) => return Ok(Answer::Below(known)),
        };
        let newline = usize::from(live.form == Form::Lines);
        let mut bytes = 0;
        let fits = |event: &&Bytes| {
            let first = bytes == 0;
            bytes += event.len() + newline;
            first || bytes <= bytes_max
        };
        let events = live.events.range(skip..).take_while(fits).cloned().collect();
        Ok(Answer::Here(Parts { known: live.known(), form: live.form, after, events }))
    }

    /// A live stream's head, and whether its cursor is all there is: the library may have an older one.
    pub(crate) fn head(&self, stream: StreamId) -> Option<(Head, bool)> {
        self.streams.get(&stream).map(|live| {
            let Live { tail, epoch, earliest, bytes, .. } = *live;
            let head = Head { tail, epoch, cursor: live.cursor.clone(), earliest, bytes };
            (head, live.unknown_below || live.cursor.is_some())
        })
    }

    /// A run's row by its key.
    pub(crate) fn run(&self, key: &RunKey) -> Unapplied<Arc<RunRow>> {
        match self.key(key) {
            Unapplied::Is(stream) => self.row(stream),
            Unapplied::Gone => Unapplied::Gone,
            Unapplied::Silent => Unapplied::Silent,
        }
    }

    /// The stream that a key leads to.
    pub(crate) fn key(&self, key: &RunKey) -> Unapplied<StreamId> {
        self.keys.get(key).into()
    }

    /// A row by its stream.
    pub(crate) fn row(&self, stream: StreamId) -> Unapplied<Arc<RunRow>> {
        self.rows.get(&stream).into()
    }

    /// Every row that is newer than the library's.
    pub(crate) fn shadow(&self) -> Shadow {
        self.rows.iter().map(|(stream, (row, _))| (*stream, row.clone())).collect()
    }

    /// A record's value.
    pub(crate) fn record(&self, kind: &str, id: &str) -> Unapplied<Bytes> {
        self.records.get(kind).and_then(|kind| kind.get(id)).into()
    }

    /// Records of a kind by prefix, as un-applied commits have them.
    pub(crate) fn records(&self, kind: &'static str, prefix: &str) -> Vec<(String, Option<Bytes>)> {
        let Some(kind) = self.records.get(kind) else { return Vec::new() };
        kind.range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(id, _)| id.starts_with(prefix))
            .map(|(id, (value, _))| (id.to_string(), value.clone()))
            .collect()
    }

    /// The position of the first feed entry that is held.
    pub(crate) fn feed_first(&self) -> u64 {
        self.feed_tail + 1 - self.feed.len() as u64
    }

    /// Feed entries from a position on; the caller knows that it is held.
    pub(crate) fn feed_from(&self, position: u64) -> impl Iterator<Item = (u64, &Slot)> {
        let skip = (position - self.feed_first()) as usize;
        (position..).zip(self.feed.range(skip..))
    }

    /// The watch of a stream, made if need be; new ones begin at zero until the tail is known.
    pub(crate) fn watcher(&mut self, stream: StreamId) -> Arc<watch::Sender<Seq>> {
        if self.watchers.len() >= self.watchers_sweep_at {
            self.watchers.retain(|_, watcher| watcher.receiver_count() > 0 || Arc::strong_count(watcher) > 1);
            self.watchers_sweep_at = (2 * self.watchers.len()).max(64);
        }
        Arc::clone(self.watchers.entry(stream).or_insert_with(|| Arc::new(watch::Sender::new(Seq::ZERO))))
    }

    /// Ends every watch.
    pub(crate) fn drop_watchers(&mut self) -> Vec<Arc<watch::Sender<Seq>>> {
        self.watchers.drain().map(|(_, watcher)| watcher).collect()
    }

    /// Forgets a watch whose stream turned out not to exist.
    pub(crate) fn unwatch(&mut self, stream: StreamId) {
        if self.watchers.get(&stream).is_some_and(|watcher| watcher.receiver_count() == 0) {
            self.watchers.remove(&stream);
        }
    }

    /// Counts for the health page.
    pub(crate) fn sizes(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("position", self.durable),
            ("applied", self.applied),
            ("unapplied_bytes", self.pending_bytes as u64),
            ("recent_bytes", self.recent_bytes as u64),
            ("streams_in_memory", self.streams.len() as u64),
            ("watched_streams", self.watchers.len() as u64),
            ("feed_tail", self.feed_tail),
            ("out_of_space", u64::from(self.starved)),
        ]
    }
}
