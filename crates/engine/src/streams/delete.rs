//! Deleting streams, and those whose time is over.
//!
//! Job: erase a stream with its name; one with forks is kept for them, and goes with the last of them, up the line, in one
//! commit. Owns: nothing. Never: removes what a fork reads.

use std::sync::Arc;

use bytes::Bytes;
use longhaul_model::StreamId;
use longhaul_model::stream::StreamKey;
use longhaul_store::{Commit, RecordKey, StoreError};

use crate::streams::config::{GONE, delete, put, stream_key};
use crate::streams::error::{DeleteError, WriteError};
use crate::streams::handle::{Alone, Handle, Tip};
use crate::streams::requests::Move;
use crate::streams::{Streams, TRIES};

/// What is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Whatever has the name.
    Named,
    /// This stream, if its time is over.
    Over(StreamId),
}

impl Streams {
    /// Deletes a stream; one with forks is kept for them.
    ///
    /// # Errors
    /// [`DeleteError`].
    ///
    /// # Cancel safety
    /// Dropping the future does not take anything back.
    pub async fn delete(&self, key: &StreamKey) -> Result<(), DeleteError> {
        let (streams, key) = (self.clone(), key.clone());
        self.to_the_end(async move { streams.remove(&key, Which::Named).await }).await?
    }

    /// Removes a stream whose time is over. Whether that went well is seen by who looks again.
    pub(super) async fn expire(&self, handle: &Arc<Handle>) {
        let (streams, handle) = (self.clone(), Arc::clone(handle));
        let done = self.to_the_end(async move { streams.expire_here(&handle).await }).await;
        if let Err(error) = done.and_then(|done| done) {
            tracing::warn!(%error, "could not remove a stream whose time is over");
        }
    }

    pub(super) async fn expire_here(&self, handle: &Handle) -> Result<(), WriteError> {
        match self.remove(&handle.key, Which::Over(handle.stream)).await {
            Ok(()) | Err(DeleteError::NotFound | DeleteError::Gone) => Ok(()),
            Err(DeleteError::Write(error)) => Err(error),
        }
    }

    async fn remove(&self, key: &StreamKey, which: Which) -> Result<(), DeleteError> {
        for _ in 0..TRIES {
            let Some(handle) = self.find(key).await? else { return Err(DeleteError::NotFound) };
            if which == Which::Named && handle.is_over(self.now()) {
                Box::pin(self.remove(key, Which::Over(handle.stream))).await?;
                continue;
            }
            let keys = self.line(&handle).await?;
            let _locks = self.inner.handles.lock(&keys.iter().collect::<Vec<_>>()).await;
            let Some(line) = self.line_locked(key, &keys).await? else { continue };
            let Some(alone) = line[0].alone().await else { continue };
            let (deleted, forks) = {
                let live = line[0].live();
                (live.deleted, live.forks)
            };
            if deleted {
                alone.certain();
                return Err(DeleteError::Gone);
            }
            if let Which::Over(stream) = which
                && (line[0].stream != stream || !line[0].is_over(self.now()))
            {
                alone.certain();
                return Ok(());
            }
            let removed = if forks > 0 { self.keep_for_forks(alone).await } else { self.erase(alone, &line).await };
            return removed.map_err(DeleteError::Write);
        }
        Err(DeleteError::Write(WriteError::Busy))
    }

    /// The handles of a stream and of those it is a fork of. `None` if they are not those that were locked.
    async fn line_locked(&self, key: &StreamKey, keys: &[StreamKey]) -> Result<Option<Vec<Arc<Handle>>>, StoreError> {
        let mut line: Vec<Arc<Handle>> = Vec::new();
        let mut next = Some((key.clone(), None));
        while let Some((key, stream)) = next.take() {
            if !keys.contains(&key) {
                return Ok(None);
            }
            let Some(handle) = self.find_locked(&key).await? else { return Ok(None) };
            if stream.is_some_and(|stream| stream != handle.stream) {
                return Ok(None);
            }
            if let (Some(key), Some(source)) = (handle.doc.source_key(&key.project), &handle.doc.source) {
                next = Some((key, Some(source.stream)));
            }
            line.push(handle);
        }
        Ok(Some(line))
    }

    async fn keep_for_forks(&self, alone: Alone) -> Result<(), WriteError> {
        let handle = Arc::clone(&alone.handle);
        let mut doc = handle.doc_now();
        doc.deleted = true;
        let records = vec![put(stream_key(&handle.key), doc.stamped(handle.stream))];
        let answer = self.store().commit(Commit { records, ..Commit::default() }).await;
        if answer.is_ok() {
            handle.live().deleted = true;
            handle.set_tip(Tip::Gone);
            self.tell(&handle, Move::Deleted);
        }
        alone.settle(answer).map(|_| ()).map_err(WriteError::from)
    }

    /// Erases the first of the line, and above it those that were kept for it alone.
    async fn erase(&self, alone: Alone, line: &[Arc<Handle>]) -> Result<(), WriteError> {
        let last_fork = |handle: &Handle| {
            let live = handle.live();
            live.deleted && live.forks <= 1
        };
        let gone = 1 + line[1..].iter().take_while(|handle| last_fork(handle)).count();
        let mut commit = Commit::default();
        for handle in &line[..gone] {
            commit.drop.push(handle.stream);
            commit.records.push(delete(stream_key(&handle.key)));
            let id = format!("{:016x}", handle.stream.get());
            commit.records.push(put(RecordKey::new(GONE, id), Bytes::new()));
        }
        let source = line.get(gone);
        if let Some(source) = source {
            let mut doc = source.doc_now();
            doc.forks = doc.forks.saturating_sub(1);
            commit.records.push(put(stream_key(&source.key), doc.stamped(source.stream)));
        }
        let answer = self.store().commit(commit).await;
        if answer.is_ok() {
            for handle in &line[..gone] {
                self.inner.handles.replace(handle, None);
                handle.die(Tip::Gone);
            }
            if let Some(source) = source {
                let mut live = source.live();
                live.forks = live.forks.saturating_sub(1);
            }
            self.tell(&line[0], Move::Deleted);
        }
        alone.settle(answer).map(|_| ()).map_err(WriteError::from)
    }
}
