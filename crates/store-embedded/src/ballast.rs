//! The ballast: blocks kept so that cancels, exits and terminal records find room on a full disk.
//!
//! Job: hold a file of real blocks, give it up, make it again when space returns. Owns: the file `ballast`.
//! Never: holds data.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{FallocateFlags, fallocate};

use crate::limits;
use crate::sqlite::remove;

const NAME: &str = "ballast";

/// The file, there or given up.
pub(crate) struct Ballast {
    path: PathBuf,
    bytes: u64,
    held: bool,
    tried: Option<Instant>,
}

impl Ballast {
    /// Makes the file if there is room.
    pub(crate) fn open(dir: &Path, bytes: u64) -> Self {
        let mut ballast = Self { path: dir.join(NAME), bytes, held: false, tried: None };
        ballast.held = ballast.make();
        ballast
    }

    /// Whether the reserve is there; tries to make it again, but not all the time.
    pub(crate) fn held(&mut self) -> bool {
        if !self.held && self.tried.is_none_or(|at| at.elapsed() >= limits::BALLAST_RETRY) {
            self.held = self.make();
            self.tried = Some(Instant::now());
        }
        self.held
    }

    /// Gives the blocks to the file system; answers whether there were any.
    pub(crate) fn give_up(&mut self) -> bool {
        self.tried = Some(Instant::now());
        std::mem::take(&mut self.held) && remove(&self.path).is_ok()
    }

    fn make(&self) -> bool {
        if self.bytes == 0 {
            return true;
        }
        let made = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path).and_then(|file| {
            if file.metadata()?.len() == self.bytes {
                return Ok(());
            }
            fallocate(&file, FallocateFlags::empty(), 0, self.bytes)?;
            file.set_len(self.bytes)
        });
        if let Err(error) = &made {
            tracing::debug!(%error, "no room for the ballast");
            let _ = remove(&self.path);
        }
        made.is_ok()
    }
}
