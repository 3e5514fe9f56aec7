//! Scrubbing: what was erased, deleted or written over leaves no copy in the files of the store.
//!
//! Job: both files and their logs written anew from what is there. A deleted row leaves its bytes in pages that are used
//! again one day, in the room between the rows of a page, in rows of the journal and in both logs. `secure_delete` reaches
//! some of that and not the copies that rows left behind when a page was rebuilt; `VACUUM` leaves all of it out, and a log
//! that is truncated holds nothing.
//! Owns: its own connection to the library. Never: changes what anybody reads; scrubs while a copy is made.
//!
//! ```text
//!  durable position = cut ─► applied ≥ cut ─► library: vacuum, log truncated
//!                                          ─► journal: an empty row after the cut, all before it trimmed, the same
//! ```
//!
//! A crash in between leaves a store like any other, in which the bytes may be: whoever asked asks again.

use std::path::Path;
use std::sync::Arc;

use longhaul_store::StoreError;
use rusqlite::{Connection, ErrorCode};

use crate::backup::{Interrupt, wait_applied};
use crate::error::{At, Fault};
use crate::library::FILE;
use crate::limits;
use crate::shared::Shared;
use crate::sqlite::{Access, checkpoint};
use crate::store::EmbeddedStore;

impl EmbeddedStore {
    /// See [`longhaul_store::Store::scrub`].
    pub(crate) async fn scrub_files(&self) -> Result<(), StoreError> {
        if self.shared().is_copied() {
            return Err(StoreError::Unavailable("a copy of the store is being made".to_owned()));
        }
        self.shared().hurry();
        wait_applied(self.shared()).await?;
        self.scrub_library().await?;
        let scrubbed = self.shared().queue.scrub().ok_or(StoreError::Closed)?;
        scrubbed.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn scrub_library(&self) -> Result<(), StoreError> {
        let conn = FILE.connect(self.dir(), Access::Write).map_err(StoreError::from)?;
        let _interrupt = Interrupt(conn.get_interrupt_handle());
        let (dir, shared) = (self.dir().to_owned(), Arc::clone(self.shared()));
        let scrubbed = tokio::task::spawn_blocking(move || library(&dir, &conn, &shared)).await;
        scrubbed.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("the scrub failed: {error}"))))
    }
}

fn library(dir: &Path, conn: &Connection, shared: &Arc<Shared>) -> Result<(), StoreError> {
    let bytes = std::fs::metadata(dir.join(FILE.name)).at(FILE.name).map_err(StoreError::from)?.len();
    let room = rustix::fs::statvfs(dir).map_err(std::io::Error::from).at("the directory").map_err(StoreError::from)?;
    let (free, wanted) = (room.f_bavail * room.f_frsize, 2 * bytes + limits::SCRUB_ROOM_BYTES);
    if free < wanted {
        let text = format!("the library cannot be written anew: {free} bytes are free, {wanted} are needed");
        return Err(StoreError::Unavailable(text));
    }
    let store = if bytes <= limits::SCRUB_IN_MEMORY_BYTES { "MEMORY" } else { "FILE" };
    conn.pragma_update(None, "temp_store", store).at(FILE.name).map_err(StoreError::from)?;
    match conn.execute_batch("VACUUM") {
        Ok(()) => {}
        // Nothing has happened: it was stopped, or there was no room in the place for temporary files.
        Err(error) if !is_of_sync(&error) => return Err(StoreError::Unavailable(format!("{}: {error}", FILE.name))),
        Err(error) => {
            shared.break_down(&error.to_string());
            return Err(StoreError::Closed);
        }
    }
    match checkpoint(conn, "TRUNCATE", FILE.name) {
        Ok(true) => Ok(()),
        Ok(false) | Err(Fault::Locked { .. }) => {
            Err(StoreError::Unavailable(format!("the log of {} is being read", FILE.name)))
        }
        Err(Fault::Full) => Err(StoreError::Unavailable("the disk is full".to_owned())),
        Err(fault) => {
            shared.break_down(&fault.to_string());
            Err(StoreError::from(fault))
        }
    }
}

/// Whether what failed is a sync, after which nothing on this file is to be believed, or the file itself.
fn is_of_sync(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(code, _) = error else { return false };
    let fsync = [rusqlite::ffi::SQLITE_IOERR_FSYNC, rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC];
    fsync.contains(&code.extended_code) || matches!(code.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
}
