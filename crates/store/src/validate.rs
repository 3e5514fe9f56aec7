//! What makes a commit contradict itself, before any store is asked.
//!
//! Job: the checks that need no stored state, the same in every store. Never: looks at a store.

use std::collections::HashSet;

use bytes::Bytes;

use crate::commit::{Commit, NewRun, StreamWrite};
use crate::error::CommitError;
use crate::limits;

impl Commit {
    /// Refuses a commit that contradicts itself or breaks a bound. Every store calls it first.
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
        let mut seen = HashSet::new();
        for (at, write) in self.streams.iter().enumerate() {
            lines(&write.events)?;
            feed_indexes(&write.feed, write.events.len())?;
            own_row(write)?;
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
        let written = self.streams.iter().map(|w| {
            events_bytes(&w.events)
                + w.cursor.as_ref().map_or(0, Bytes::len)
                + w.row.as_ref().map_or(0, crate::RunRow::bytes)
        });
        let records = self.records.iter().map(|r| r.key.id.len() + r.value.as_ref().map_or(0, Bytes::len));
        created.chain(written).chain(records).sum()
    }

    fn bounds(&self) -> Result<(), CommitError> {
        if self.streams.len() > limits::COMMIT_STREAMS_MAX {
            return Err(CommitError::Invalid("too many streams in one commit"));
        }
        if self.records.len() > limits::COMMIT_RECORDS_MAX {
            return Err(CommitError::Invalid("too many records in one commit"));
        }
        let created = self.create.as_ref().map_or(0, |c| c.events.len());
        if created + self.streams.iter().map(|w| w.events.len()).sum::<usize>() > limits::COMMIT_EVENTS_MAX {
            return Err(CommitError::Invalid("too many events in one commit"));
        }
        if self.bytes() > limits::COMMIT_BYTES_MAX {
            return Err(CommitError::Invalid("too many bytes in one commit"));
        }
        Ok(())
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
        }
        Ok(())
    }
}

fn events_bytes(events: &[Bytes]) -> usize {
    events.iter().map(Bytes::len).sum()
}

/// Stored events are lines: a store may keep them one after the other with a newline between.
fn lines(events: &[Bytes]) -> Result<(), CommitError> {
    for event in events {
        if event.is_empty() {
            return Err(CommitError::Invalid("an event is empty"));
        }
        if memchr::memchr(b'\n', event).is_some() {
            return Err(CommitError::Invalid("an event holds a raw newline"));
        }
    }
    Ok(())
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
