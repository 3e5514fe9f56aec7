//! What makes a commit contradict itself, before any store is asked.
//!
//! Job: the checks that need no stored state, the same in every store. Never: looks at a store.

use std::collections::HashSet;

use bytes::Bytes;
use longhaul_model::Seq;

use crate::commit::{Commit, Form, NewRun, StreamWrite};
use crate::error::CommitError;
use crate::limits;

impl Commit {
    /// Refuses a commit that contradicts itself or breaks a bound. Every store calls it first. What depends on the form of
    /// a stream that is there already is [`StreamWrite::check_form`].
    ///
    /// # Errors
    /// `Invalid` with what is wrong.
    pub fn validate(&self) -> Result<(), CommitError> {
        self.bounds()?;
        if let Some(NewRun { row, events, feed, .. }) = &self.create {
            lines(events)?;
            feed_indexes(feed, events.len())?;
            if self.erase.as_ref() == Some(&row.key) {
                return Err(CommitError::Invalid("a run is created and erased in one commit"));
            }
        }
        if let Some(new) = &self.open {
            if self.create.is_some() {
                return Err(CommitError::Invalid("a run is created and a stream opened in one commit"));
            }
            not_empty(&new.events)?;
            new.form.check(&new.events)?;
        }
        self.dropped_once()?;
        let mut seen = HashSet::new();
        for (at, write) in self.streams.iter().enumerate() {
            not_empty(&write.events)?;
            feed_indexes(&write.feed, write.events.len())?;
            own_row(write)?;
            if write.keep_after.is_some_and(|upto| upto > write.tail()) {
                return Err(CommitError::Invalid("more is to be removed than there is"));
            }
            if self.drop.contains(&write.stream) {
                return Err(CommitError::Invalid("a stream is written and dropped in one commit"));
            }
            let twice = match self.streams.len() {
                1 => false,
                2..=8 => self.streams[..at].iter().any(|w| w.stream == write.stream),
                _ => !seen.insert(write.stream),
            };
            if twice {
                return Err(CommitError::Invalid("a stream is written twice in one commit"));
            }
            if let (Some(erase), Some(row)) = (&self.erase, &write.row)
                && *erase == row.key
            {
                return Err(CommitError::Invalid("a run is written and erased in one commit"));
            }
        }
        self.records_once()
    }

    /// Bytes that the commit brings: events, cursors, rows and records; what bounds count.
    pub fn bytes(&self) -> usize {
        let created = self.create.iter().map(|c| events_bytes(&c.events) + c.row.bytes());
        let opened = self.open.iter().map(|o| events_bytes(&o.events) + o.cursor.as_ref().map_or(0, Bytes::len));
        let written = self.streams.iter().map(|w| {
            events_bytes(&w.events)
                + w.cursor.as_ref().map_or(0, Bytes::len)
                + w.row.as_ref().map_or(0, crate::RunRow::bytes)
        });
        let records = self.records.iter().map(|r| r.key.id.len() + r.value.as_ref().map_or(0, Bytes::len));
        created.chain(opened).chain(written).chain(records).sum()
    }

    /// Whether an event that goes to a stream that is there already holds a raw newline: what only some forms allow.
    pub fn has_newlines(&self) -> bool {
        self.streams.iter().any(|write| write.events.iter().any(has_newline))
    }

    fn bounds(&self) -> Result<(), CommitError> {
        if self.streams.len().max(self.drop.len()) > limits::COMMIT_STREAMS_MAX {
            return Err(CommitError::Invalid("too many streams in one commit"));
        }
        if self.records.len() > limits::COMMIT_RECORDS_MAX {
            return Err(CommitError::Invalid("too many records in one commit"));
        }
        let created = self.create.as_ref().map_or(0, |c| c.events.len());
        let opened = self.open.as_ref().map_or(0, |o| o.events.len());
        if created + opened + self.streams.iter().map(|w| w.events.len()).sum::<usize>() > limits::COMMIT_EVENTS_MAX {
            return Err(CommitError::Invalid("too many events in one commit"));
        }
        if self.bytes() > limits::COMMIT_BYTES_MAX {
            return Err(CommitError::Invalid("too many bytes in one commit"));
        }
        Ok(())
    }

    fn dropped_once(&self) -> Result<(), CommitError> {
        let twice = match self.drop.len() {
            0 | 1 => false,
            count => self.drop.iter().collect::<HashSet<_>>().len() < count,
        };
        if twice { Err(CommitError::Invalid("a stream is dropped twice in one commit")) } else { Ok(()) }
    }

    fn records_once(&self) -> Result<(), CommitError> {
        let mut keys = HashSet::new();
        for record in &self.records {
            if self.records.len() > 1 && !keys.insert(&record.key) {
                return Err(CommitError::Invalid("a record is written twice in one commit"));
            }
            if record.only_new && record.value.is_none() {
                return Err(CommitError::Invalid("a record is to be new and deleted"));
            }
            if record.stamp && (record.value.is_none() || self.open.is_none()) {
                return Err(CommitError::Invalid("a record is to be stamped without a value or an opened stream"));
            }
        }
        Ok(())
    }
}

impl StreamWrite {
    /// The tail that the write leaves.
    pub fn tail(&self) -> Seq {
        self.expected_tail.plus(self.events.len() as u64)
    }

    /// Refuses events that the stream's form does not allow.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn check_form(&self, form: Form) -> Result<(), CommitError> {
        form.check(&self.events)
    }
}

impl Form {
    fn check(self, events: &[Bytes]) -> Result<(), CommitError> {
        match self {
            Self::Lines if events.iter().any(has_newline) => Err(CommitError::Invalid("an event holds a raw newline")),
            Self::Lines | Self::Opaque => Ok(()),
        }
    }
}

fn events_bytes(events: &[Bytes]) -> usize {
    events.iter().map(Bytes::len).sum()
}

/// The events of a run are lines: a store may keep them one after the other with a newline between.
fn lines(events: &[Bytes]) -> Result<(), CommitError> {
    not_empty(events)?;
    Form::Lines.check(events)
}

fn not_empty(events: &[Bytes]) -> Result<(), CommitError> {
    if events.iter().any(Bytes::is_empty) {
        return Err(CommitError::Invalid("an event is empty"));
    }
    Ok(())
}

fn has_newline(event: &Bytes) -> bool {
    memchr::memchr(b'\n', event).is_some()
}

fn feed_indexes(feed: &[usize], events: usize) -> Result<(), CommitError> {
    let ascending = feed.windows(2).all(|w| w[0] < w[1]);
    if !ascending || feed.last().is_some_and(|last| *last >= events) {
        return Err(CommitError::Invalid("the feed names events that are not there, or not in order"));
    }
    Ok(())
}

fn own_row(write: &StreamWrite) -> Result<(), CommitError> {
    match &write.row {
        Some(row) if row.stream != write.stream => Err(CommitError::Invalid("a row names another stream")),
        Some(row) if row.key.project != write.project => Err(CommitError::Invalid("a row names another project")),
        _ => Ok(()),
    }
}
