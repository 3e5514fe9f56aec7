//! What is looked at now and then.
//!
//! Job: remove streams whose time is over and messages that are too old, and the records that erased streams left behind.
//! Owns: nothing; each step can be done again after a crash in the middle of it. Never: looks at streams that are not due.
//!
//! Each stream with a time limit has at least one record of when it is looked at, no later than it is due. A look at one
//! that is not due leaves the next record; a record whose stream is no more is removed when its time comes.

use std::time::Duration;

use bytes::Bytes;
use longhaul_model::StreamId;
use longhaul_model::Timestamp;
use longhaul_model::stream::StreamKey;
use longhaul_store::{Commit, RecordKey, RecordWrite, StoreError};

use crate::streams::Streams;
use crate::streams::config::{EXPIRING, GONE, PRODUCER, TIME, delete, look_id, put};
use crate::streams::requests::Swept;

/// Records of one step.
const PAGE: usize = 1_000;

impl Streams {
    pub(super) async fn sweep_for_ever(self, every: Duration) {
        let stopping = self.inner.stopping.clone();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            match self.sweep().await {
                Ok(swept) if swept != Swept::default() => tracing::debug!(?swept, "removed what is over"),
                Ok(_) => {}
                Err(StoreError::Closed) => return,
                Err(error) => tracing::warn!(%error, "could not look for streams that are over"),
            }
        }
    }

    /// Looks once at what is over: lifetimes, messages that are not to be kept, records of streams that are no more.
    /// The server does so now and then by itself.
    ///
    /// # Errors
    /// Of the store.
    pub async fn sweep(&self) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        let mut after = String::new();
        loop {
            let page = self.store().records_after(EXPIRING, "", &after, PAGE).await?;
            let now = self.now();
            let full = page.len() == PAGE;
            let due: Vec<String> = page.into_iter().map(|(key, _)| key.id).take_while(|id| is_due(id, now)).collect();
            let more = full && due.len() == PAGE;
            if let Some(last) = due.last() {
                after.clone_from(last);
            }
            let mut records = Vec::new();
            for id in due {
                self.look(&id, &mut records, &mut swept).await?;
            }
            self.commit_records(records).await?;
            if !more {
                break;
            }
        }
        swept.records += self.forget_seconds().await?;
        swept.records += self.forget_gone().await?;
        Ok(swept)
    }

    /// Looks at one stream that may be due. What becomes of the record of it goes to `records`.
    async fn look(&self, id: &str, records: &mut Vec<RecordWrite>, swept: &mut Swept) -> Result<(), StoreError> {
        let key = id.split_once('/').and_then(|(_, key)| StreamKey::from_text(key));
        let next = match &key {
            Some(key) => match self.look_at(key, swept).await? {
                // It could not be removed; the record stays.
                Err(()) => return Ok(()),
                Ok(next) => next,
            },
            None => None,
        };
        let next = next.zip(key.as_ref()).map(|(at, key)| look_id(at, key));
        if next.as_deref() != Some(id) {
            records.push(delete(RecordKey::new(EXPIRING, id)));
        }
        if let Some(next) = next
            && next != id
            && !records.iter().any(|record| record.key.id == next)
        {
            records.push(put(RecordKey::new(EXPIRING, next), Bytes::new()));
        }
        Ok(())
    }

    /// Does what is due of a stream. Answers when to look again, or that it could not be done.
    async fn look_at(&self, key: &StreamKey, swept: &mut Swept) -> Result<Result<Option<Timestamp>, ()>, StoreError> {
        let Some(handle) = self.find(key).await? else { return Ok(Ok(None)) };
        if handle.live().deleted {
            return Ok(Ok(None));
        }
        if handle.is_over(self.now()) {
            self.expire(&handle).await;
            let still = self.find(key).await?.filter(|now| now.stream == handle.stream && !now.live().deleted);
            if still.is_none() {
                swept.expired += 1;
                return Ok(Ok(None));
            }
            return Ok(Err(()));
        }
        let mut next = handle.live().ends(handle.doc.lifetime);
        if let Some(age) = handle.doc.keep.age_max_seconds {
            let (trimmed, look) = self.trim_by_age(&handle, age).await?;
            swept.trimmed += u64::from(trimmed);
            next = Some(next.map_or(look, |next| next.min(look)));
        }
        Ok(Ok(next))
    }

    /// Removes the records that erased streams left behind.
    async fn forget_gone(&self) -> Result<u64, StoreError> {
        let mut gone = 0;
        let mut after = String::new();
        loop {
            let page = self.store().records_after(GONE, "", &after, PAGE).await?;
            let full = page.len() == PAGE;
            let mut done = Vec::with_capacity(page.len());
            for (key, _) in page {
                after.clone_from(&key.id);
                gone += 1 + self.forget(&key.id).await?;
                done.push(delete(key));
            }
            self.commit_records(done).await?;
            if !full {
                return Ok(gone);
            }
        }
    }

    /// Removes the records of one stream that is no more.
    async fn forget(&self, id: &str) -> Result<u64, StoreError> {
        let stream = u64::from_str_radix(id, 16).map(StreamId::new).map_err(|_| StoreError::Corrupt {
            place: format!("record {GONE}/{id}"),
            what: "it names no stream".to_owned(),
        })?;
        self.inner.trimmed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&stream);
        let prefix = format!("{id}/");
        let mut gone = 0;
        for kind in [PRODUCER, TIME] {
            loop {
                let page = self.store().records(kind, &prefix, PAGE).await?;
                if page.is_empty() {
                    break;
                }
                gone += page.len() as u64;
                self.commit_records(page.into_iter().map(|(key, _)| delete(key)).collect()).await?;
            }
        }
        Ok(gone)
    }

    async fn commit_records(&self, records: Vec<RecordWrite>) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let made = self.store().commit(Commit { records, ..Commit::default() }).await;
        made.map(|_| ()).map_err(|error| StoreError::Unavailable(error.to_string()))
    }
}

/// Whether the second that an id begins with has come.
fn is_due(id: &str, now: Timestamp) -> bool {
    let second = id.split('/').next().and_then(|second| second.parse::<i64>().ok());
    second.is_none_or(|second| second.saturating_mul(1_000) <= now.unix_ms())
}
