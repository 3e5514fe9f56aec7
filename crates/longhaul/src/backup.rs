//! Backups: a consistent copy of a data directory's store with the output of ended runs, and the way back.
//!
//! Job: the layout of a backup, its manifest, its making beside a live server or without one, and its restoring.
//! Owns: the directory of a backup until it has its name. Never: copies a secret, a working directory, or anything of a
//! run that is not over.
//!
//! ```text
//!  DEST/manifest.json           written last; without it a directory is no backup
//!  DEST/store/…                 one cut of the store
//!  DEST/runs/DIR/aN/…           output of ended runs
//! ```

mod manifest;
mod output;
mod restore;

use std::io;
use std::path::{Path, PathBuf};

use longhaul_model::Timestamp;
use longhaul_store::StoreError;
use longhaul_store_embedded::{Cut, EmbeddedStore, OpenError, copy_closed};

pub use manifest::{Entry, MANIFEST, Manifest};
pub use restore::{RestoreError, Restored, restore};

/// Where the store lies, in a data directory and in a backup.
pub(crate) const STORE: &str = "store";

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where the backup shall be: an absolute path that is not there, in a directory that is.
    pub dest: PathBuf,
    /// Whether the output of ended runs is wanted too.
    pub output: bool,
}

/// Why there is no backup. Nothing bears its name then.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It cannot be there.
    #[error("a backup cannot be made at {}: {why}", .path.display())]
    Dest {
        /// The path.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The system failed.
    #[error("could not write {}", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store was not copied.
    #[error("the store was not copied: {0}")]
    Store(#[from] StoreError),
    /// The store was not opened.
    #[error("the store was not copied: {0}")]
    Open(#[from] OpenError),
}

/// A backup in the making, under a name that is nobody's. Dropped before it is finished it goes.
struct Draft {
    dest: PathBuf,
    temp: PathBuf,
    finished: bool,
}

impl Draft {
    fn begin(dest: &Path) -> Result<Self, BackupError> {
        let refuse = |why: &str| Err(BackupError::Dest { path: dest.to_owned(), why: why.to_owned() });
        if !dest.is_absolute() {
            return refuse("the path must be absolute");
        }
        let (Some(parent), Some(name)) = (dest.parent(), dest.file_name()) else {
            return refuse("the path has no name at its end");
        };
        if std::fs::symlink_metadata(dest).is_ok() {
            return refuse("there is something at this path");
        }
        if !parent.is_dir() {
            return refuse("the directory around it is not there");
        }
        let temp = parent.join(format!(".{}.partial-{}", name.to_string_lossy(), uuid::Uuid::new_v4().simple()));
        let draft = Self { dest: dest.to_owned(), temp, finished: false };
        private_dir(&draft.temp)?;
        private_dir(&draft.temp.join(STORE))?;
        Ok(draft)
    }

    /// The output, the manifest, and at last the name.
    async fn finish(
        mut self,
        data_dir: &Path,
        request: &Request,
        cut: Cut,
        at: Timestamp,
    ) -> Result<Manifest, BackupError> {
        let dirs = if request.output { output::of_ended(&self.temp.join(STORE)).await? } else { vec![] };
        let (data_dir, output) = (data_dir.to_owned(), request.output);
        let finished = tokio::task::spawn_blocking(move || {
            for dir in &dirs {
                output::copy(&data_dir, &self.temp, dir)?;
            }
            let manifest = Manifest::of(&self.temp, cut, output, at)?;
            manifest.write(&self.temp)?;
            let io = |path: &Path| {
                let path = path.to_owned();
                move |source| BackupError::Io { path, source }
            };
            std::fs::rename(&self.temp, &self.dest).map_err(io(&self.dest))?;
            self.finished = true;
            if let Some(parent) = self.dest.parent() {
                std::fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(io(parent))?;
            }
            Ok(manifest)
        });
        finished.await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string()).into()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = std::fs::remove_dir_all(&self.temp)
        {
            tracing::warn!(dir = %self.temp.display(), %error, "could not remove an unfinished backup");
        }
    }
}

pub(crate) fn private_dir(path: &Path) -> Result<(), BackupError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| BackupError::Io { path: path.to_owned(), source })
}

/// Backs a live store up: whatever was acknowledged before the call is in it, and commits go on.
///
/// # Errors
/// [`BackupError`].
///
/// # Cancel safety
/// Dropping the future gives the backup up and leaves nothing of it.
pub async fn live(
    store: &EmbeddedStore,
    data_dir: &Path,
    request: &Request,
    at: Timestamp,
) -> Result<Manifest, BackupError> {
    let draft = Draft::begin(&request.dest)?;
    let cut = store.copy_to(&draft.temp.join(STORE)).await?;
    draft.finish(data_dir, request, cut, at).await
}

/// Backs a data directory up that no server has; the caller holds its lock.
///
/// # Errors
/// [`BackupError`].
pub async fn closed(data_dir: &Path, request: &Request, at: Timestamp) -> Result<Manifest, BackupError> {
    let draft = Draft::begin(&request.dest)?;
    let cut = copy_closed(&data_dir.join(STORE), &draft.temp.join(STORE))?;
    draft.finish(data_dir, request, cut, at).await
}
