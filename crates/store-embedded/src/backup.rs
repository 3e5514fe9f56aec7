//! A copy of the store that is of one cut, and what makes such a copy a store of its own.
//!
//! Job: everything that was acknowledged before the copy began, whole and verified, while commits go on. The copy is the
//! library alone, in one snapshot, after the applier has reached the cut; its journal holds nothing but the cut.
//! Owns: nothing of the store; its own connection. Never: has a commit wait for it.
//!
//! ```text
//!  durable position = cut ─► applied ≥ cut ─► snapshot of longhaul.db ─► new journal.db and tail at its position
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use longhaul_store::StoreError;
use uuid::Uuid;

use crate::entry;
use crate::error::{At, Fault, OpenError, Result};
use crate::journal::Journal;
use crate::library::{self, Meta};
use crate::shared::Shared;
use crate::sqlite::{Access, checkpoint, remove, sync_dir};
use crate::store::EmbeddedStore;
use crate::witness::{self, Witness};
use crate::{journal, verify};

/// How often it is looked whether the applier has reached the cut, and how long that may take.
const LOOK: Duration = Duration::from_millis(5);
/// See [`LOOK`].
const APPLIED_MAX: Duration = Duration::from_secs(60);

/// The files of a copy.
pub const FILES: [&str; 3] = [library::FILE.name, journal::FILE.name, witness::NAME];

/// What a copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The store's id.
    pub store: Uuid,
    /// The last commit in it.
    pub position: u64,
    /// The last stream id that was given.
    pub streams_made: u64,
    /// Runs.
    pub runs: u64,
    /// Runs that were not over.
    pub live: u64,
}

impl From<Meta> for Cut {
    fn from(meta: Meta) -> Self {
        let Meta { store, applied: position, streams_made, runs, live, .. } = meta;
        Self { store, position, streams_made, runs, live }
    }
}

impl EmbeddedStore {
    /// Copies the store into a directory, which must be there and empty. Whatever was acknowledged before the call is in
    /// the copy; commits go on meanwhile. Every byte of the copy is read again and synced before this returns.
    ///
    /// # Errors
    /// Of the store or the file system, and then the directory holds anything. Dropping the future stops the copy.
    pub async fn copy_to(&self, dest: &Path) -> Result<Cut, StoreError> {
        let copying = self.shared().copying();
        wait_applied(self.shared()).await?;
        let conn = library::FILE.connect(self.dir(), Access::Write).map_err(StoreError::from)?;
        let _interrupt = Interrupt(conn.get_interrupt_handle());
        let (dest, shared) = (dest.to_owned(), Arc::clone(self.shared()));
        let copied = tokio::task::spawn_blocking(move || {
            // The applier is told as long as the snapshot is open, whoever waits.
            let _copying = copying;
            let target = dest.join(library::FILE.name);
            let result = conn.execute("VACUUM INTO ?1", [target.to_string_lossy()]).at(library::FILE.name);
            drop(conn);
            if shared.is_closed() {
                return Err(StoreError::Closed);
            }
            result.and_then(|_| complete(&dest)).map_err(StoreError::from).and_then(|cut| check(&dest, cut))
        });
        copied.await.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("the copy failed: {error}"))))
    }
}

/// Ends the copy when nobody waits for it any more; one that is done does not hear it.
struct Interrupt(rusqlite::InterruptHandle);

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.0.interrupt();
    }
}

async fn wait_applied(shared: &Shared) -> Result<(), StoreError> {
    let cut = shared.memory().durable;
    let until = Instant::now() + APPLIED_MAX;
    while shared.memory().applied < cut {
        if shared.is_closed() {
            return Err(StoreError::Closed);
        }
        if Instant::now() > until {
            return Err(StoreError::Unavailable("what is durable could not be applied in time".to_owned()));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Makes the other files of a store around a copied library.
fn complete(dir: &Path) -> Result<Cut> {
    let meta = {
        let conn = rusqlite::Connection::open(dir.join(library::FILE.name)).at(library::FILE.name)?;
        conn.pragma_update(None, "journal_mode", "WAL").at(library::FILE.name)?;
        Meta::read(&conn)?
    };
    found(dir, meta)
}

/// Writes journal and witness of a store whose library has applied all there is, and syncs everything.
fn found(dir: &Path, meta: Meta) -> Result<Cut> {
    for file in [library::FILE.name, journal::FILE.name] {
        for suffix in ["-wal", "-shm", "-journal"] {
            remove(&dir.join(format!("{file}{suffix}"))).at(file)?;
        }
    }
    remove(&dir.join(journal::FILE.name)).at(journal::FILE.name)?;
    remove(&dir.join(witness::NAME)).at(witness::NAME)?;
    Journal::create(dir, meta.store)?;
    let (mut journal, _) = Journal::open(dir, Access::Write)?;
    if meta.applied > 0 {
        journal.begin_at(meta.applied, &[entry::VERSION])?;
    }
    journal.close(meta.applied)?;
    Witness::open(dir, meta.store, meta.applied)?;
    for file in FILES {
        std::fs::File::open(dir.join(file)).and_then(|file| file.sync_all()).at(file)?;
    }
    sync_dir(dir).at("the directory")?;
    Ok(meta.into())
}

fn check(dir: &Path, cut: Cut) -> Result<Cut, StoreError> {
    let unreadable = |error: OpenError| StoreError::Unavailable(error.to_string());
    let report = verify::verify(dir).map_err(unreadable)?;
    match report.findings.first() {
        None => Ok(cut),
        Some(finding) => {
            Err(StoreError::Corrupt { place: format!("the copy: {}", finding.place), what: finding.what.clone() })
        }
    }
}

/// Makes a copy of a store another store, with an id of its own, so that the two are never taken for one. Nobody may
/// have it open, and all of it must be applied, as [`EmbeddedStore::copy_to`] leaves it.
///
/// # Errors
/// [`OpenError`].
pub fn renew(dir: &Path) -> Result<Cut, OpenError> {
    let renewed = || -> Result<Cut> {
        let conn = library::FILE.connect(dir, Access::Write)?;
        library::migrate(&conn)?;
        let mut meta = Meta::read(&conn)?;
        let (journal, _) = Journal::open(dir, Access::Still)?;
        if journal.span().last != meta.applied {
            return Err(Fault::corrupt(journal::FILE.name, "it holds commits that are not applied"));
        }
        drop(journal);
        meta.store = Uuid::new_v4();
        meta.write(&conn)?;
        checkpoint(&conn, "TRUNCATE", library::FILE.name)?;
        conn.close().map_err(|(_, error)| error).at(library::FILE.name)?;
        found(dir, meta)
    };
    renewed().map_err(|fault| fault.open(dir))
}

/// Copies the files of a store that nobody has open, and applies in the copy what was not applied.
///
/// # Errors
/// [`OpenError`]; the source is not changed.
pub fn copy_closed(dir: &Path, dest: &Path) -> Result<Cut, OpenError> {
    let copied = || -> Result<()> {
        for file in [library::FILE.name, journal::FILE.name] {
            for suffix in ["", "-wal"] {
                let name = format!("{file}{suffix}");
                copy_if_there(&dir.join(&name), &dest.join(&name)).at(&name)?;
            }
        }
        copy_if_there(&dir.join(witness::NAME), &dest.join(witness::NAME)).at(witness::NAME)
    };
    if !dir.join(library::FILE.name).exists() && !dir.join(journal::FILE.name).exists() {
        return Err(OpenError::Absent { dir: dir.to_path_buf() });
    }
    copied().map_err(|fault| fault.open(dest))?;
    drain(dest)?;
    let whole = || -> Result<Cut> {
        let conn = library::FILE.connect(dest, Access::Write)?;
        let meta = Meta::read(&conn)?;
        checkpoint(&conn, "TRUNCATE", library::FILE.name)?;
        conn.close().map_err(|(_, error)| error).at(library::FILE.name)?;
        let (journal, _) = Journal::open(dest, Access::Still)?;
        if journal.span().last != meta.applied {
            return Err(Fault::corrupt(journal::FILE.name, "not all of it could be applied"));
        }
        drop(journal);
        found(dest, meta)
    };
    let cut = whole().map_err(|fault| fault.open(dest))?;
    check(dest, cut).map_err(|error| OpenError::Corrupt { place: "the copy".to_owned(), what: error.to_string() })
}

fn copy_if_there(from: &PathBuf, to: &PathBuf) -> std::io::Result<()> {
    match std::fs::copy(from, to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Opens a store and closes it in order: all of it is applied then.
fn drain(dir: &Path) -> Result<(), OpenError> {
    let mut options = crate::Options::new(dir);
    options.ballast_bytes = 0;
    let store = EmbeddedStore::open(options)?;
    store.drain_here().map_err(|fault| fault.open(dir))
}
