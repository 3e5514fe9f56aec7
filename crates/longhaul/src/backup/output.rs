//! The output of ended runs in a backup.
//!
//! Never: copies what may hold a secret (`request.json`, `env`, `stdin`, `input`), a lock or a socket; half of a run's
//! files: what retention takes meanwhile is left out whole, as if it had gone before.

use std::io;
use std::path::Path;

use longhaul_engine::Doc;
use longhaul_model::Status;
use longhaul_store::{RunFilter, Store as _};
use longhaul_store_embedded::EmbeddedStore;

use super::{BackupError, private_dir};

/// Files of an attempt that tell what it printed and how it ended.
const KEPT: [&str; 5] = ["stdout", "stderr", "order", "started", "exit"];

/// Runs of one page.
const PAGE: usize = 100;

/// The directories of the runs that were over at the cut.
pub(super) async fn of_ended(store: &Path) -> Result<Vec<String>, BackupError> {
    let store = EmbeddedStore::open_read_only(store)?;
    let statuses: Vec<Status> = Status::ALL.into_iter().filter(|status| status.is_terminal()).collect();
    let (mut dirs, mut before) = (Vec::new(), None);
    loop {
        let filter = RunFilter { statuses: statuses.clone(), before, limit: PAGE, ..RunFilter::default() };
        let page = store.runs(filter).await?;
        // A name with a slash in it would lead elsewhere; there is none.
        let names = page.rows.iter().filter_map(|row| Some(Doc::decode(&row.doc).ok()?.dir));
        dirs.extend(names.filter(|name| !name.is_empty() && !name.contains('/') && name != ".."));
        match page.rows.last() {
            Some(last) if page.more => before = Some(last.stream),
            _ => break,
        }
    }
    store.close().await?;
    Ok(dirs)
}

/// Copies the output of one run.
pub(super) fn copy(data_dir: &Path, backup: &Path, name: &str) -> Result<(), BackupError> {
    let (from, to) = (data_dir.join("runs").join(name), backup.join("runs").join(name));
    let failed = |source| BackupError::Io { path: to.clone(), source };
    let attempts = match std::fs::read_dir(&from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(BackupError::Io { path: from, source }),
    };
    for attempt in attempts.flatten() {
        let number = attempt.file_name();
        let is_attempt = number.to_str().is_some_and(|name| name.starts_with('a'));
        if !is_attempt || !attempt.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        private_dir(&to.join(&number))?;
        for file in KEPT {
            match std::fs::copy(attempt.path().join(file), to.join(&number).join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
    }
    if !from.exists() && to.exists() {
        std::fs::remove_dir_all(&to).map_err(failed)?;
    }
    Ok(())
}
