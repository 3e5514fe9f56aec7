//! Retention: what is kept, for how long, and how it goes.
//!
//! Job: once an hour, and when asked, remove the output files of runs that ended long ago, then whole runs, then their
//! tombstones; and the oldest ended runs while the files of all runs together are over their bound.
//! Owns: nothing; each removal can be done again after a crash in the middle of it.
//! Never: touches a run that is not over; removes a part of a log.

use std::path::{Path, PathBuf};
use std::time::Duration;

use longhaul_model::{RunKey, Status, StreamId, Timestamp, limits};
use longhaul_store::limits::COMMIT_RECORDS_MAX;
use longhaul_store::{Commit, RecordWrite, RunFilter, StoreError, Urgency};

use crate::doc::Doc;
use crate::engine::Engine;
use crate::erase::{TOMBSTONE, Tombstone};
use crate::error::EraseError;

/// How often it is looked.
const EVERY: Duration = Duration::from_hours(1);

/// How the name of a run's directory begins once it is being removed. Under its own name a half removed one could look
/// like one that a dispatch left, and the sweep of a start would take the run's working directory with it.
const GOING: &str = "going-";

/// The kind of the records by which a chat request that is sent again is known, and their `at`.
const CHAT_RETRY: &str = "chat_retry";

/// Runs of one page.
const PAGE: usize = 100;

/// What is kept, counted from the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The files of its output; its events have it too, as far as they show it.
    pub output: Duration,
    /// The run with its events.
    pub events: Duration,
    /// After its erasure: that its id was taken.
    pub tombstones: Duration,
    /// Bytes of files of all ended runs together: output and private directories.
    pub bytes_max: u64,
}

impl Default for Retention {
    fn default() -> Self {
        let days = |days: u64| Duration::from_hours(24 * days);
        Self { output: days(7), events: days(30), tombstones: days(90), bytes_max: 10 << 30 }
    }
}

/// What one look removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Runs whose output files went.
    pub outputs: u64,
    /// Runs that were erased.
    pub runs: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Bytes of files.
    pub bytes: u64,
}

/// An ended run as far as retention is concerned.
struct Old {
    key: RunKey,
    ended_at: Timestamp,
    dir: String,
}

impl Engine {
    /// Looks now and then, as long as the server lives.
    pub(crate) async fn retain_for_ever(self) {
        let draining = self.inner.draining.clone();
        loop {
            match self.retain().await {
                Ok(removed) if removed != Removed::default() => tracing::info!(?removed, "removed what is not kept"),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "could not look for what is not kept any more"),
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = draining.cancelled() => return,
            }
        }
    }

    /// Removes what is not kept any more.
    ///
    /// # Errors
    /// Of the store. What was removed until then stays removed.
    pub async fn retain(&self) -> Result<Removed, StoreError> {
        let keep = self.inner.options.retention;
        let now = self.now();
        let older = |at: Timestamp, than: Duration| {
            u128::try_from(now.unix_ms().saturating_sub(at.unix_ms())).is_ok_and(|age| age > than.as_millis())
        };
        let mut removed = Removed::default();
        self.remove_going().await;
        let mut ended = self.ended().await?;
        ended.sort_by_key(|run| run.ended_at);
        let mut kept = Vec::with_capacity(ended.len());
        for run in ended {
            if older(run.ended_at, keep.events) {
                let bytes = self.files(&run.dir).await;
                if self.erase_old(&run.key).await? {
                    removed.runs += 1;
                    removed.bytes += bytes;
                }
            } else {
                kept.push(run);
            }
            if self.inner.draining.is_cancelled() {
                return Ok(removed);
            }
        }
        let mut total = 0;
        let mut sizes = Vec::with_capacity(kept.len());
        for run in &kept {
            let output = self.runs_dir().join(&run.dir);
            let bytes = if older(run.ended_at, keep.output) && is_there(&output).await {
                removed.bytes += bytes_of(output.clone()).await;
                removed.outputs += 1;
                let going = self.runs_dir().join(format!("{GOING}{}", run.dir));
                match tokio::fs::rename(&output, &going).await {
                    Ok(()) => crate::erase::remove_dir(&going).await,
                    Err(error) => tracing::warn!(dir = %output.display(), %error, "could not put old output aside"),
                }
                bytes_of(self.work_dir(&run.dir)).await
            } else {
                self.files(&run.dir).await
            };
            total += bytes;
            sizes.push(bytes);
        }
        for (run, bytes) in kept.iter().zip(sizes) {
            if total <= keep.bytes_max {
                break;
            }
            if bytes > 0 && self.erase_old(&run.key).await? {
                removed.runs += 1;
                removed.bytes += bytes;
                total -= bytes;
            }
        }
        self.forget_chats().await?;
        for (key, value) in self.store().records(TOMBSTONE, "", usize::MAX).await? {
            let old = serde_json::from_slice::<Tombstone>(&value).is_ok_and(|t| older(t.erased_at, keep.tombstones));
            if old {
                let records = vec![RecordWrite { key, value: None, only_new: false, stamp: false }];
                if self
                    .store()
                    .commit(Commit { records, urgency: Urgency::Ordinary, ..Commit::default() })
                    .await
                    .is_ok()
                {
                    removed.tombstones += 1;
                }
            }
        }
        Ok(removed)
    }

    /// Forgets chat requests that no retry can repeat any more.
    async fn forget_chats(&self) -> Result<(), StoreError> {
        #[derive(serde::Deserialize)]
        struct Undelivered {
            at: Timestamp,
        }
        let now = self.now().unix_ms();
        let window = i64::try_from(limits::CHAT_RETRY_WINDOW.as_millis()).unwrap_or(i64::MAX);
        let mut after = String::new();
        loop {
            let page = self.store().records_after(CHAT_RETRY, "", &after, COMMIT_RECORDS_MAX).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after.clone_from(&last.id);
            let old = |value: &[u8]| {
                serde_json::from_slice::<Undelivered>(value).is_ok_and(|chat| now - chat.at.unix_ms() > window)
            };
            let records: Vec<RecordWrite> = page
                .into_iter()
                .filter(|(_, value)| old(value))
                .map(|(key, _)| RecordWrite { key, value: None, only_new: false, stamp: false })
                .collect();
            if !records.is_empty()
                && let Err(error) = self.store().commit(Commit { records, ..Commit::default() }).await
            {
                tracing::warn!(%error, "could not forget old chat requests");
                return Ok(());
            }
        }
    }

    /// Removes what a crash in the middle of a removal left.
    async fn remove_going(&self) {
        let Ok(mut entries) = tokio::fs::read_dir(self.runs_dir()).await else { return };
        while let Ok(Some(entry)) = entries.next_entry().await {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(GOING)) {
                crate::erase::remove_dir(&entry.path()).await;
            }
        }
    }

    /// Every run that is over.
    async fn ended(&self) -> Result<Vec<Old>, StoreError> {
        let statuses: Vec<Status> = Status::ALL.into_iter().filter(|status| status.is_terminal()).collect();
        let mut runs = Vec::new();
        let mut before: Option<StreamId> = None;
        loop {
            let filter = RunFilter { statuses: statuses.clone(), before, limit: PAGE, ..RunFilter::default() };
            let page = self.store().runs(filter).await?;
            for row in &page.rows {
                let (Some(ended_at), Ok(doc)) = (row.ended_at, Doc::decode(&row.doc)) else { continue };
                runs.push(Old { key: row.key.clone(), ended_at, dir: doc.dir });
            }
            match page.rows.last() {
                Some(last) if page.more => before = Some(last.stream),
                _ => return Ok(runs),
            }
        }
    }

    /// Erases a run; whether this did it.
    async fn erase_old(&self, key: &RunKey) -> Result<bool, StoreError> {
        match self.erase(key).await {
            Ok(()) => Ok(true),
            Err(EraseError::Store(error)) => Err(error),
            Err(error) => {
                tracing::warn!(run = %key, %error, "could not erase an old run");
                Ok(false)
            }
        }
    }

    /// Bytes of a run's files.
    async fn files(&self, dir: &str) -> u64 {
        bytes_of(self.runs_dir().join(dir)).await + bytes_of(self.work_dir(dir)).await
    }
}

async fn is_there(path: &Path) -> bool {
    tokio::fs::try_exists(path).await.unwrap_or(false)
}

/// Bytes that the files below a directory take; what cannot be read counts for nothing.
async fn bytes_of(dir: PathBuf) -> u64 {
    fn walk(dir: &Path) -> u64 {
        let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
        entries.flatten().fold(0, |sum, entry| match entry.metadata() {
            Ok(found) if found.is_dir() => sum + walk(&entry.path()),
            Ok(found) => sum + found.len(),
            Err(_) => sum,
        })
    }
    tokio::task::spawn_blocking(move || walk(&dir)).await.unwrap_or(0)
}
