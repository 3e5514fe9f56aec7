//! Deleting a run: its events, its row, its spool, its secrets and the directories we made.
//!
//! The row goes first, with a tombstone in the same commit; the files after. Files that a crash leaves behind are
//! swept at the next start.

use std::path::Path;

use longhaul_model::{RunKey, Timestamp};
use longhaul_store::{Commit, RecordKey, RecordWrite, Urgency};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::error::EraseError;

/// The kind of tombstones' records.
pub(crate) const TOMBSTONE: &str = "tombstone";

/// What is left of a deleted run for some weeks: its id stays taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tombstone {
    /// When it was deleted.
    pub(crate) erased_at: Timestamp,
    /// Its directory, to be swept if a crash left it.
    pub(crate) dir: String,
    /// Whether the directory that it worked in stays: a session has taken it over.
    #[serde(default)]
    pub(crate) keeps_work: bool,
}

pub(crate) fn tombstone_key(key: &RunKey) -> RecordKey {
    // A slash is in no id, so the two parts cannot run into each other.
    RecordKey::new(TOMBSTONE, key.to_string())
}

impl Engine {
    /// Erases a run that is over. When this returns its bytes are gone.
    ///
    /// # Errors
    /// [`EraseError`]; nothing is erased then.
    pub async fn erase(&self, key: &RunKey) -> Result<(), EraseError> {
        let Some(row) = self.store().run(key).await? else {
            let gone = self.store().record(&tombstone_key(key)).await?.is_some();
            return Err(if gone { EraseError::Gone } else { EraseError::NotFound });
        };
        if !row.status.is_terminal() {
            return Err(EraseError::NotEnded);
        }
        let dir = crate::doc::Doc::decode(&row.doc).map(|doc| doc.dir).unwrap_or_default();
        // Nobody goes on with it meanwhile.
        let _session_alone = self.session_lock(&crate::resume::session_of(key)).lock().await;
        let keeps_work = self.has_taken_dir(key, &dir).await?;
        let tombstone = Tombstone { erased_at: self.now(), dir: dir.clone(), keeps_work };
        let value = serde_json::to_vec(&tombstone).unwrap_or_default();
        let mut records =
            vec![RecordWrite { key: tombstone_key(key), value: Some(value.into()), only_new: false, stamp: false }];
        // Answers to operations on it: a repeat hears that the run is gone. One commit holds so many; more go later.
        let (kind, prefix) = crate::cancel::operations_of(key);
        let most = longhaul_store::limits::COMMIT_RECORDS_MAX - records.len();
        let answers = self.store().records(kind, &prefix, most).await?;
        records.extend(answers.into_iter().map(|(key, _)| RecordWrite {
            key,
            value: None,
            only_new: false,
            stamp: false,
        }));
        let commit = Commit { erase: Some(key.clone()), records, urgency: Urgency::Reserve, ..Commit::default() };
        self.store().commit(commit).await?;
        if !dir.is_empty() {
            self.remove_dirs_of(&tombstone).await;
        }
        Ok(())
    }
}

/// Removes a run's directory; what cannot be removed is said in the log and swept at the next start.
pub(crate) async fn remove_dir(dir: &Path) {
    let path = dir.to_owned();
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(path)).await;
    match removed {
        Ok(Ok(())) => {}
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
        Ok(Err(error)) => tracing::warn!(dir = %dir.display(), %error, "could not remove a run's directory"),
        Err(error) => tracing::warn!(dir = %dir.display(), %error, "the removal of a run's directory failed"),
    }
}
