//! From a backup to a data directory.
//!
//! Order: check the manifest → copy each file and hold it against its sum → give the store an id of its own → note where
//! it came from → read all of it again → give the directory its name. A crash in between leaves a directory under a name
//! that is nobody's. Never: writes into a directory that holds anything; changes the backup.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use longhaul_model::Timestamp;
use longhaul_store::{Commit, CommitError, Store as _, StoreError};
use longhaul_store_embedded::{EmbeddedStore, OpenError, Options, renew, verify};

use super::manifest::{FORMAT, MANIFEST, Manifest, pass};
use super::{BackupError, STORE, private_dir};

/// Why nothing was restored. The data directory is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is not a backup, or one of a later release.
    #[error("{} is not a backup that can be restored: {why}", .path.display())]
    NoBackup {
        /// The directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file of the backup is not what was backed up.
    #[error("the backup is damaged at {path}: {why}")]
    Damaged {
        /// The file, in the backup.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// There is something in the data directory.
    #[error("{} is not empty; a backup is restored into a new directory", .path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The system failed.
    #[error("could not write {}", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The restored store cannot be used.
    #[error("the restored store cannot be used: {0}")]
    Open(#[from] OpenError),
    /// The restored store does not answer.
    #[error("the restored store cannot be used: {0}")]
    Store(#[from] StoreError),
    /// The restored store refuses.
    #[error("the restored store cannot be used: {0}")]
    Commit(#[from] CommitError),
}

impl From<BackupError> for RestoreError {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Io { path, source } => Self::Io { path, source },
            BackupError::Dest { path, why } => Self::NoBackup { path, why },
            BackupError::Store(error) => Self::Store(error),
            BackupError::Open(error) => Self::Open(error),
        }
    }
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// The backup's manifest.
    pub manifest: Manifest,
    /// The new store's id.
    pub store_id: String,
}

/// A data directory in the making.
struct Draft(Option<PathBuf>);

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(temp) = &self.0 {
            let _ = std::fs::remove_dir_all(temp);
        }
    }
}

/// Restores a backup into a data directory that is empty or not there.
///
/// # Errors
/// [`RestoreError`].
pub async fn restore(source: &Path, data_dir: &Path, at: Timestamp) -> Result<Restored, RestoreError> {
    let manifest = read(source)?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Io { path, source }
    };
    match std::fs::read_dir(data_dir).map(|mut entries| entries.next().is_none()) {
        Ok(false) => return Err(RestoreError::NotEmpty { path: data_dir.into() }),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(data_dir)(error)),
        Ok(true) | Err(_) => {}
    }
    let parent = data_dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = data_dir.file_name().unwrap_or_default().to_string_lossy();
    let temp = parent.join(format!(".{name}.partial-{}", uuid::Uuid::new_v4().simple()));
    let mut draft = Draft(Some(temp.clone()));
    for dir in [&temp, &temp.join(STORE), &temp.join("runs"), &temp.join("work")] {
        private_dir(dir)?;
    }
    for entry in &manifest.files {
        let damaged = |why: String| RestoreError::Damaged { path: entry.path.clone(), why };
        let (Some(from), Some(to)) = (entry.below(source), entry.below(&temp)) else {
            return Err(damaged("the path leads out of the backup".to_owned()));
        };
        if let Some(dir) = to.parent() {
            private_dir(dir)?;
        }
        let mut file = File::create_new(&to).map_err(io(&to))?;
        let (bytes, sum) = pass(&from, &mut file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damaged("the file is missing".to_owned()),
            _ => io(&from)(error),
        })?;
        if bytes != entry.bytes {
            return Err(damaged(format!("it has {bytes} bytes, {} were backed up", entry.bytes)));
        }
        if sum != entry.sha256 {
            return Err(damaged(format!("its sha-256 is {sum}, that of what was backed up is {}", entry.sha256)));
        }
    }
    let store = temp.join(STORE);
    let cut = renew(&store)?;
    note(&store, &manifest, at).await?;
    if let Some(finding) = verify(&store)?.findings.first() {
        return Err(RestoreError::Damaged { path: finding.place.clone(), why: finding.what.clone() });
    }
    File::open(&temp).and_then(|dir| Ok(rustix::fs::syncfs(dir)?)).map_err(io(&temp))?;
    std::fs::rename(&temp, data_dir).map_err(io(data_dir))?;
    draft.0 = None;
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(io(parent))?;
    Ok(Restored { manifest, store_id: cut.store.to_string() })
}

/// Writes into the store where it came from.
async fn note(store: &Path, manifest: &Manifest, at: Timestamp) -> Result<(), RestoreError> {
    let store = EmbeddedStore::open(Options { ballast_bytes: 0, ..Options::new(store) })?;
    let record = longhaul_engine::restored(&manifest.store_id, manifest.streams_made, at);
    store.commit(Commit { records: vec![record], ..Commit::default() }).await?;
    store.close().await?;
    Ok(())
}

/// What every manifest has, whatever its form.
#[derive(serde::Deserialize)]
struct Form {
    format: u32,
}

fn read(source: &Path) -> Result<Manifest, RestoreError> {
    let no = |why: String| RestoreError::NoBackup { path: source.to_owned(), why };
    let text = std::fs::read(source.join(MANIFEST)).map_err(|error| no(format!("{MANIFEST}: {error}")))?;
    let form: Form = serde_json::from_slice(&text).map_err(|error| no(format!("{MANIFEST}: {error}")))?;
    if form.format != FORMAT {
        return Err(no(format!("its form is {}, this version knows {FORMAT}", form.format)));
    }
    serde_json::from_slice(&text).map_err(|error| no(format!("{MANIFEST}: {error}")))
}
