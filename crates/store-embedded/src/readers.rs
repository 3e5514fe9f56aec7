//! Reading connections to the library.
//!
//! Job: a few connections, opened when first needed, used on blocking threads, each question in one snapshot.
//! Owns: the connections. Never: writes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use longhaul_store::StoreError;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::error::{At, Result};
use crate::library::{self, FILE};
use crate::limits;
use crate::sqlite::Access;

/// The pool.
pub(crate) struct Readers {
    dir: PathBuf,
    access: Access,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Readers {
    pub(crate) fn new(dir: PathBuf, access: Access) -> Arc<Self> {
        Arc::new(Self { dir, access, idle: Mutex::new(Vec::new()), permits: Semaphore::new(limits::READERS) })
    }

    /// Asks the library on a blocking thread.
    pub(crate) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Ok(_permit) = self.permits.acquire().await else { return Err(StoreError::Closed) };
        let pool = Arc::clone(self);
        let asked = tokio::task::spawn_blocking(move || pool.ask_here(question)).await;
        match asked {
            Ok(answer) => answer.map_err(StoreError::from),
            Err(error) => Err(StoreError::Unavailable(format!("the question was not finished: {error}"))),
        }
    }

    fn ask_here<T>(&self, question: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let idle = self.idle().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => library::connect(&self.dir, self.access)?,
        };
        let begun = conn.prepare_cached("BEGIN").and_then(|mut s| s.execute([])).at(FILE.name);
        let answer = begun.and_then(|_| question(&conn));
        if !conn.is_autocommit() {
            // Ends a read; a connection on which even that fails is not used again.
            conn.prepare_cached("COMMIT").and_then(|mut s| s.execute([])).at(FILE.name)?;
        }
        self.idle().push(conn);
        answer
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for questions that are being answered, then closes all connections; later questions answer `Closed`.
    pub(crate) async fn close(&self) {
        let all = self.permits.acquire_many(limits::READERS as u32).await;
        self.permits.close();
        drop(all);
        self.idle().clear();
    }
}
