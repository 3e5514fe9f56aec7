//! When the bytes of what was erased are gone.
//!
//! Job: after an erasure is committed, see to it that nothing of it is left in the data directory, and only then say so,
//! durably: in the tombstone of a run, and by taking away the record that a session's erasure left.
//! Owns: which erasures are not settled yet. Never: says that bytes are gone which may be there.
//!
//! | order of writes | a crash right after it leaves |
//! | --- | --- |
//! | commit the erasure with a tombstone that says nothing of bytes | the next start finds it and goes on |
//! | remove the directories, sync where they were | the same |
//! | scrub the store | the same, and it is scrubbed again |
//! | commit `bytes_gone_at` | it is said |

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use longhaul_model::{RunKey, Timestamp};
use longhaul_store::limits::COMMIT_RECORDS_MAX;
use longhaul_store::{Commit, RecordKey, RecordWrite, StoreError, Urgency};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::engine::{Engine, tmp_dir};
use crate::erase::{TOMBSTONE, Tombstone, tombstone_key};
use crate::session::{Session, SessionKey};

/// The kind of the records that erased sessions leave until their bytes are gone.
const ERASED_SESSION: &str = "erased_session";

/// The shortest pause between two scrubs. Each writes the store anew, and one serves all erasures before it.
const PAUSE: Duration = Duration::from_millis(500);

/// A scrub is followed by a pause of so many times its own length, so that a large store is not busy with nothing else.
const PAUSE_TIMES: u32 = 10;

/// How long to wait after a scrub that was not possible, times the tries, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_mins(5));

/// What is known of a run that was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erased {
    /// When it was erased.
    pub at: Timestamp,
    /// When its bytes were gone from the data directory; not yet, if nothing.
    pub bytes_gone_at: Option<Timestamp>,
}

/// What a session leaves until its bytes are gone.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ErasedSession {
    work: Option<String>,
    home: Option<String>,
}

/// Erasures that are not settled.
#[derive(Debug)]
pub(crate) struct Unsettled {
    /// By the record that says so, with the directories that must not be there.
    open: Mutex<HashMap<RecordKey, Vec<PathBuf>>>,
    more: Notify,
    /// When the last ones were settled.
    settled: watch::Sender<Option<Timestamp>>,
}

impl Default for Unsettled {
    fn default() -> Self {
        Self { open: Mutex::default(), more: Notify::new(), settled: watch::Sender::new(None) }
    }
}

impl Unsettled {
    fn lock(&self) -> MutexGuard<'_, HashMap<RecordKey, Vec<PathBuf>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, record: RecordKey, dirs: Vec<PathBuf>) {
        self.lock().insert(record, dirs);
        self.more.notify_one();
    }
}

/// An erased session, to ask for the end of its bytes.
#[derive(Debug, Clone)]
pub struct SessionGone {
    record: RecordKey,
    left: ErasedSession,
}

impl SessionGone {
    /// One of its own for each erasure: the id may be used again at once.
    pub(crate) fn new(key: &SessionKey, session: &Session) -> Self {
        let id = format!("{}/{}/{}", key.project, key.id, uuid::Uuid::now_v7().simple());
        let left = ErasedSession { work: session.dir.clone(), home: session.home.clone() };
        Self { record: RecordKey::new(ERASED_SESSION, id), left }
    }

    /// The write, in the commit that erases the session, by which a later start knows of it.
    pub(crate) fn write(&self) -> RecordWrite {
        let value = serde_json::to_vec(&self.left).unwrap_or_default();
        RecordWrite { key: self.record.clone(), value: Some(value.into()), only_new: false, stamp: false }
    }
}

impl Engine {
    /// What is known of a run that was erased; nothing if it was not, or long ago.
    ///
    /// # Errors
    /// Of the store.
    pub async fn erased(&self, key: &RunKey) -> Result<Option<Erased>, StoreError> {
        let record = tombstone_key(key);
        let Some(bytes) = self.store().record(&record).await? else { return Ok(None) };
        let corrupt = |error: serde_json::Error| StoreError::Corrupt {
            place: format!("record {}/{}", record.kind, record.id),
            what: error.to_string(),
        };
        let tombstone: Tombstone = serde_json::from_slice(&bytes).map_err(corrupt)?;
        Ok(Some(Erased { at: tombstone.erased_at, bytes_gone_at: tombstone.bytes_gone_at }))
    }

    /// Waits until the bytes of an erased run are gone, at most `at_most`: when that was, if it is so.
    ///
    /// # Errors
    /// Of the store.
    pub async fn wait_gone(&self, key: &RunKey, at_most: Duration) -> Result<Option<Timestamp>, StoreError> {
        self.wait_settled(&tombstone_key(key), at_most).await;
        Ok(self.erased(key).await?.and_then(|erased| erased.bytes_gone_at))
    }

    /// The same of an erased session.
    pub async fn wait_session_gone(&self, gone: &SessionGone, at_most: Duration) -> Option<Timestamp> {
        let settled = self.wait_settled(&gone.record, at_most).await;
        settled.then(|| *self.inner.unsettled.settled.borrow()).flatten()
    }

    async fn wait_settled(&self, record: &RecordKey, at_most: Duration) -> bool {
        let mut settled = self.inner.unsettled.settled.subscribe();
        let is_open = || self.inner.unsettled.lock().contains_key(record);
        let wait = async { while is_open() && settled.changed().await.is_ok() {} };
        tokio::select! {
            _ = tokio::time::timeout(at_most, wait) => {}
            () = self.inner.draining.cancelled() => {}
        }
        !is_open()
    }

    /// A run was erased and its directories removed.
    pub(crate) fn unsettled_run(&self, key: &RunKey, tombstone: &Tombstone) {
        self.inner.unsettled.add(tombstone_key(key), self.dirs_of_run(tombstone));
    }

    /// A session was.
    pub(crate) fn unsettled_session(&self, gone: &SessionGone) {
        self.inner.unsettled.add(gone.record.clone(), self.dirs_of_session(&gone.left));
    }

    fn dirs_of_run(&self, tombstone: &Tombstone) -> Vec<PathBuf> {
        let name = tombstone.dir.as_str();
        if name.is_empty() {
            return vec![];
        }
        let mut dirs = vec![self.runs_dir().join(name), tmp_dir(name)];
        dirs.extend((!tombstone.keeps_work).then(|| self.work_dir(name)));
        dirs.extend((!tombstone.keeps_home).then(|| self.homes_dir(name)));
        dirs
    }

    fn dirs_of_session(&self, left: &ErasedSession) -> Vec<PathBuf> {
        let work = left.work.as_ref().map(|name| self.work_dir(name));
        work.into_iter().chain(left.home.as_ref().map(|name| self.homes_dir(name))).collect()
    }

    /// Settles erasures as long as the server lives, those of earlier ones first.
    pub(crate) async fn settle_erasures(self) {
        let draining = self.inner.draining.clone();
        let settling = async {
            let mut tries = 0;
            while let Err(error) = self.find_unsettled().await {
                tries += 1;
                tracing::warn!(%error, "could not look for erasures whose bytes may be there");
                tokio::time::sleep((AGAIN.0 * tries).min(AGAIN.1)).await;
            }
            tries = 0;
            loop {
                if self.inner.unsettled.lock().is_empty() {
                    self.inner.unsettled.more.notified().await;
                    continue;
                }
                let begun = Instant::now();
                match self.settle().await {
                    Ok(()) => {
                        tries = 0;
                        tokio::time::sleep((begun.elapsed() * PAUSE_TIMES).max(PAUSE)).await;
                    }
                    Err(why) => {
                        tries += 1;
                        tracing::warn!(%why, "the bytes of what was erased may be there still; it is tried again");
                        tokio::time::sleep((AGAIN.0 * tries).min(AGAIN.1)).await;
                    }
                }
            }
        };
        tokio::select! {
            () = settling => {}
            () = draining.cancelled() => {}
        }
    }

    async fn find_unsettled(&self) -> Result<(), StoreError> {
        for (key, value) in self.store().records(TOMBSTONE, "", usize::MAX).await? {
            let Ok(tombstone) = serde_json::from_slice::<Tombstone>(&value) else { continue };
            if tombstone.bytes_gone_at.is_none() {
                self.inner.unsettled.add(key, self.dirs_of_run(&tombstone));
            }
        }
        for (key, value) in self.store().records(ERASED_SESSION, "", usize::MAX).await? {
            let Ok(left) = serde_json::from_slice::<ErasedSession>(&value) else { continue };
            self.inner.unsettled.add(key, self.dirs_of_session(&left));
        }
        Ok(())
    }

    /// Settles all that is open now, as far as its directories are gone.
    async fn settle(&self) -> Result<(), String> {
        let open = self.inner.unsettled.lock().clone();
        let (mut ready, mut left) = (Vec::new(), None);
        for (record, dirs) in open {
            let removed = tokio::task::spawn_blocking(move || are_gone(&dirs)).await;
            match removed.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(()) => ready.push(record),
                Err(why) => left = Some(why),
            }
        }
        for record in ready.iter().filter(|record| record.kind == TOMBSTONE) {
            self.forget_operations(&record.id).await?;
        }
        if !ready.is_empty() {
            self.store().scrub().await.map_err(|error| error.to_string())?;
            let now = self.now();
            for part in ready.chunks(COMMIT_RECORDS_MAX) {
                self.say_gone(part, now).await?;
            }
            let mut unsettled = self.inner.unsettled.lock();
            for record in &ready {
                unsettled.remove(record);
            }
            drop(unsettled);
            self.inner.unsettled.settled.send_replace(Some(now));
        }
        left.map_or(Ok(()), Err)
    }

    /// Answers to operations on an erased run of which there were too many for the commit that erased it.
    async fn forget_operations(&self, run: &str) -> Result<(), String> {
        loop {
            let prefix = format!("{run}/");
            let found = self.store().records(crate::cancel::OPERATION, &prefix, COMMIT_RECORDS_MAX).await;
            let found = found.map_err(|error| error.to_string())?;
            if found.is_empty() {
                return Ok(());
            }
            let records = found
                .into_iter()
                .map(|(key, _)| RecordWrite { key, value: None, only_new: false, stamp: false })
                .collect();
            let commit = Commit { records, urgency: Urgency::Reserve, ..Commit::default() };
            self.store().commit(commit).await.map_err(|error| error.to_string())?;
        }
    }

    async fn say_gone(&self, records: &[RecordKey], now: Timestamp) -> Result<(), String> {
        let mut writes = Vec::with_capacity(records.len());
        for key in records {
            if key.kind == ERASED_SESSION {
                writes.push(RecordWrite { key: key.clone(), value: None, only_new: false, stamp: false });
                continue;
            }
            // It may have been forgotten meanwhile.
            let Some(bytes) = self.store().record(key).await.map_err(|error| error.to_string())? else { continue };
            let Ok(mut tombstone) = serde_json::from_slice::<Tombstone>(&bytes) else { continue };
            tombstone.bytes_gone_at = Some(now);
            let value = serde_json::to_vec(&tombstone).unwrap_or_default();
            writes.push(RecordWrite { key: key.clone(), value: Some(value.into()), only_new: false, stamp: false });
        }
        let commit = Commit { records: writes, urgency: Urgency::Reserve, ..Commit::default() };
        if commit.records.is_empty() {
            return Ok(());
        }
        self.store().commit(commit).await.map(drop).map_err(|error| error.to_string())
    }
}

/// Removes directories that should be gone, and makes sure that no power cut brings them back.
fn are_gone(dirs: &[PathBuf]) -> Result<(), String> {
    for dir in dirs {
        let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
        crate::erase::remove_all(dir).map_err(failed)?;
        let parent = dir.parent().unwrap_or(Path::new("/"));
        match std::fs::File::open(parent).and_then(|parent| parent.sync_all()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    Ok(())
}
