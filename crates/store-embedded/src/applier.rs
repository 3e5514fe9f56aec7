//! The applier: folds durable groups into the library.
//!
//! Job: take the groups that wait, coalesce what they do to each stream, row and record, write it in one transaction
//! with the applied position, then let memory go. Owns: the library's only writing connection and its log.
//! Never: has anybody wait for it but a full memory.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use longhaul_model::StreamId;
use longhaul_store::{Form, RunRow};
use rusqlite::Connection;

use crate::entry::{Entry, StreamEntry};
use crate::error::{At, Fault, Result};
use crate::library::chunks::Run;
use crate::library::feed::Slot;
use crate::library::streams::StreamHead;
use crate::library::{FILE, Meta, chunks, feed, records, runs, streams};
use crate::limits;
use crate::memory::{Applied, Group};
use crate::shared::{Ending, Shared};
use crate::sqlite::checkpoint;

/// The first and the longest wait between two tries on a full disk.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Tries on a full disk while the store closes; the journal keeps what is left.
const CLOSING_TRIES: u32 = 3;

/// The thread's state.
pub(crate) struct Applier {
    pub(crate) shared: Arc<Shared>,
    pub(crate) library: Connection,
    pub(crate) meta: Meta,
    pub(crate) apply_after: Duration,
    pub(crate) log_bytes: usize,
}

/// What a batch of groups comes to.
#[derive(Default)]
struct Work<'a> {
    streams: BTreeMap<StreamId, Vec<&'a StreamEntry>>,
    rows: BTreeMap<StreamId, &'a Arc<RunRow>>,
    records: BTreeMap<(&'a Cow<'static, str>, &'a Arc<str>), Option<&'a Bytes>>,
    feed: Vec<(u64, Slot)>,
    erased: Vec<StreamId>,
    applied: Applied,
}

impl Applier {
    /// Runs until the store ends.
    pub(crate) fn run(mut self) {
        let mut wait = RETRY.0;
        let mut tries = 0;
        while let Some(groups) = self.wait_for_work() {
            match self.apply(&groups) {
                Ok(applied) => {
                    (wait, tries) = (RETRY.0, 0);
                    let waste = {
                        let mut memory = self.shared.memory();
                        memory.starved = false;
                        memory.forget(&applied)
                    };
                    self.shared.room.notify_all();
                    drop((groups, waste));
                    self.fold();
                }
                Err(fault @ (Fault::Full | Fault::Locked { .. })) => {
                    tries += 1;
                    if self.shared.ending() == Ending::Drains && tries > CLOSING_TRIES {
                        tracing::warn!(%fault, "the store closes; the journal keeps what is not applied");
                        return;
                    }
                    let mut memory = self.shared.memory();
                    if fault == Fault::Full && !memory.starved {
                        tracing::warn!("no room in the library; commits are refused until there is");
                        memory.starved = true;
                        self.shared.room.notify_all();
                    }
                    drop(self.shared.wait_work(memory, wait));
                    wait = (2 * wait).min(RETRY.1);
                }
                Err(fault) => {
                    self.shared.break_down(&fault.to_string());
                    break;
                }
            }
        }
        if self.shared.is_broken() {
            // Closing would write and sync once more on a handle that failed.
            std::mem::forget(self.library);
        } else if self.shared.ending() == Ending::Drains
            && let Err(fault) = checkpoint(&self.library, "TRUNCATE", FILE.name)
        {
            tracing::warn!(%fault, "the library's log could not be folded back; the next start does it");
        }
    }

    /// Sleeps until there is enough, old enough, or a reason not to wait.
    fn wait_for_work(&mut self) -> Option<Vec<Arc<Group>>> {
        let mut memory = self.shared.memory();
        let mut since: Option<Instant> = None;
        let mut rested = false;
        loop {
            let ending = self.shared.ending();
            if ending == Ending::Stops || (ending == Ending::Drains && memory.pending.is_empty()) {
                return None;
            }
            let age = match (memory.pending.is_empty(), since) {
                (true, _) => Duration::ZERO,
                (false, None) => {
                    since = Some(Instant::now());
                    Duration::ZERO
                }
                (false, Some(since)) => since.elapsed(),
            };
            let due = age >= self.apply_after || memory.pending_bytes >= self.shared.apply_bytes || memory.starved;
            if !memory.pending.is_empty() && (due || ending == Ending::Drains) {
                break;
            }
            let sleep = match (memory.pending.is_empty(), rested) {
                (false, _) => self.apply_after.saturating_sub(age),
                (true, false) => limits::REST_AFTER,
                (true, true) => Duration::from_hours(1),
            };
            let slept_from = Instant::now();
            memory = self.shared.wait_work(memory, sleep);
            if memory.pending.is_empty() && !rested && slept_from.elapsed() >= limits::REST_AFTER {
                rested = true;
                let waste = memory.rest();
                drop(memory);
                drop(waste);
                self.rest();
                memory = self.shared.memory();
            }
        }
        let mut bytes = 0;
        let fits = |group: &&Arc<Group>| {
            let first = bytes == 0;
            bytes += group.bytes;
            first || bytes <= limits::APPLY_BATCH_BYTES_MAX
        };
        Some(memory.pending.iter().take_while(fits).cloned().collect())
    }

    /// One transaction: all of `groups`, and how far that is.
    fn apply(&mut self, groups: &[Arc<Group>]) -> Result<Applied> {
        let work = Work::gather(groups);
        let mut meta = self.meta;
        self.library.prepare_cached("BEGIN IMMEDIATE").and_then(|mut s| s.execute([])).at(FILE.name)?;
        let done = work
            .write(&self.library, &mut meta)
            .and_then(|()| meta.write(&self.library))
            .and_then(|()| self.library.prepare_cached("COMMIT").and_then(|mut s| s.execute([])).at(FILE.name));
        if let Err(fault) = done {
            if !self.library.is_autocommit() {
                self.library.execute_batch("ROLLBACK").at(FILE.name)?;
            }
            return Err(fault);
        }
        self.meta = meta;
        self.log_bytes += work.applied.bytes + (work.applied.streams.len() + 8) * 4 * FILE.page_bytes as usize;
        Ok(work.applied)
    }

    /// Folds the log back once it is large; on this thread, between two transactions.
    fn fold(&mut self) {
        let bound = limits::LIBRARY_CHECKPOINT_PAGES as usize * FILE.page_bytes as usize;
        if self.log_bytes < bound {
            return;
        }
        // A log that readers kept from restarting for long is waited for, unless a copy is why: that would stop commits.
        let mode = if self.log_bytes > 4 * bound && !self.shared.is_copied() { "RESTART" } else { "PASSIVE" };
        self.checkpoint(mode);
    }

    fn checkpoint(&mut self, mode: &str) {
        match checkpoint(&self.library, mode, FILE.name) {
            Ok(true) => self.log_bytes = 0,
            Ok(false) => {}
            Err(fault @ (Fault::Full | Fault::Locked { .. })) => {
                tracing::warn!(%fault, "the library's log could not be folded back; it grows");
            }
            Err(fault) => self.shared.break_down(&fault.to_string()),
        }
    }

    fn rest(&mut self) {
        if self.log_bytes > 0 {
            self.checkpoint("PASSIVE");
        }
        if let Err(error) = self.library.execute_batch("PRAGMA shrink_memory") {
            tracing::debug!(%error, "the page cache keeps its size");
        }
    }
}

impl<'a> Work<'a> {
    fn gather(groups: &'a [Arc<Group>]) -> Self {
        let mut work = Self::default();
        for group in groups {
            work.applied.upto = group.id;
            work.applied.bytes += group.bytes;
            group.entries.iter().for_each(|entry| work.add(entry));
        }
        work.applied.groups = groups.len();
        work.applied.streams = Applied::of_streams(&work);
        let erased: HashSet<_> = work.erased.iter().copied().collect();
        for (_, slot) in work.feed.iter_mut().filter(|(_, slot)| erased.contains(&slot.stream)) {
            slot.wire = None;
        }
        work.applied.keys.extend(work.rows.values().map(|row| row.key.clone()));
        work.applied.rows = work.rows.keys().copied().chain(work.erased.iter().copied()).collect();
        work.applied.records = work.records.keys().map(|(kind, id)| (Cow::clone(kind), Arc::clone(id))).collect();
        work
    }

    fn add(&mut self, entry: &'a Entry) {
        if let Some((key, stream)) = &entry.erase {
            self.streams.remove(stream);
            self.rows.remove(stream);
            self.erased.push(*stream);
            self.applied.keys.push(key.clone());
        }
        for stream in &entry.drop {
            self.streams.remove(stream);
            self.erased.push(*stream);
        }
        let mut position = entry.feed_first;
        for written in &entry.streams {
            self.streams.entry(written.stream).or_default().push(written);
            if let Some(row) = &written.row {
                self.rows.insert(written.stream, row);
            }
            for at in &written.feed {
                let wire = Some(written.events[*at].clone());
                self.feed.push((position, Slot { project: written.project.clone(), stream: written.stream, wire }));
                self.applied.feed_tail = position;
                position += 1;
            }
        }
        for record in &entry.records {
            self.records.insert((&record.kind, &record.id), record.value.as_ref());
        }
    }

    fn write(&self, conn: &Connection, meta: &mut Meta) -> Result<()> {
        for stream in &self.erased {
            chunks::erase(conn, *stream)?;
            streams::erase(conn, *stream, meta)?;
            runs::erase(conn, *stream, meta)?;
            feed::erase(conn, *stream)?;
        }
        for (stream, entries) in &self.streams {
            write_stream(conn, *stream, entries)?;
            if entries[0].created {
                meta.plain += u64::from(entries[0].plain);
                meta.streams_made = meta.streams_made.max(stream.get());
            }
        }
        for stream in &self.erased {
            meta.streams_made = meta.streams_made.max(stream.get());
        }
        for row in self.rows.values() {
            runs::put(conn, row, meta)?;
        }
        for ((kind, id), value) in &self.records {
            records::put(conn, kind, id, value.map(|v| &v[..]), meta)?;
        }
        for (position, slot) in &self.feed {
            feed::put(conn, *position, slot)?;
            meta.feed_tail = *position;
        }
        meta.applied = self.applied.upto;
        Ok(())
    }
}

impl Applied {
    fn of_streams(work: &Work<'_>) -> Vec<(StreamId, longhaul_model::Seq, usize)> {
        work.streams
            .iter()
            .map(|(stream, entries)| {
                let bytes = entries.iter().flat_map(|e| &e.events).map(Bytes::len).sum();
                (*stream, entries[entries.len() - 1].tail(), bytes)
            })
            .collect()
    }
}

fn write_stream(conn: &Connection, stream: StreamId, entries: &[&StreamEntry]) -> Result<()> {
    let place = || format!("longhaul.db: streams, stream {stream}");
    let mut head = if entries[0].created {
        StreamHead::empty(entries[0].form, entries[0].plain.then(|| entries[0].project.clone()))
    } else {
        streams::find(conn, stream)?
            .ok_or_else(|| Fault::corrupt(place(), "a commit appends to it, and it is missing"))?
    };
    let old = StreamHead { cursor: None, ..head.clone() };
    let mut events = Vec::new();
    for entry in entries {
        if entry.first_seq != head.tail.next() {
            let what = format!("the journal goes on at {}, the stream ends at {}", entry.first_seq, head.tail);
            return Err(Fault::corrupt(place(), what));
        }
        events.extend(&entry.events);
        head.tail = entry.tail();
        head.epoch = entry.epoch;
        head.closed |= entry.closes();
        head.earliest = head.earliest.max(entry.earliest);
        if entry.cursor.is_some() {
            head.cursor.clone_from(&entry.cursor);
        }
    }
    if head.earliest > old.earliest {
        chunks::trim(conn, stream, head.earliest)?;
    }
    // What retention has taken already is never written; all chunks before it are gone then.
    let skip = head.earliest.get().saturating_sub(old.tail.get() + 1).min(events.len() as u64) as usize;
    let (gone, kept) = events.split_at(skip);
    let newline = u64::from(head.form == Form::Lines);
    let bytes = |events: &[&Bytes]| events.iter().map(|event| event.len() as u64 + newline).sum::<u64>();
    let first_byte = old.bytes + bytes(gone);
    head.bytes = first_byte + bytes(kept);
    if !kept.is_empty() {
        let first = old.tail.plus(skip as u64 + 1);
        chunks::append(conn, stream, &Run { form: head.form, first, first_byte, events: kept })?;
    }
    streams::put(conn, stream, &head)
}
