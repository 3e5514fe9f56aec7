//! One holder at a time, by kernel lock.
//!
//! Job: exclusive flock on a file that also says who holds it. Owns: the descriptor; the kernel frees the lock when it
//! closes, at the latest with the process. Never: trusts the text in the file over the lock.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Bytes of the holder's note.
const NOTE_BYTES_MAX: u64 = 4096;

/// Who holds a lock, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Where it can be reached, for example `127.0.0.1:4437`; empty where it cannot.
    pub address: String,
}

/// Why a lock was not taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("{} is held by {}", .path.display(), .holder.as_ref().map_or_else(|| "another process".to_owned(), |h| format!("process {}", h.pid)))]
    Held {
        /// The file.
        path: PathBuf,
        /// Who, if its note can be read.
        holder: Option<Holder>,
    },
    /// The file cannot be opened or locked.
    #[error("could not lock {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An exclusive lock on a file, held until dropped.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    /// A duplicate of the descriptor carries the lock on; unlocking would take it from the heir.
    handed_on: bool,
}

impl Drop for FileLock {
    /// Unlocks by name: to close is not enough while another thread has forked and its child has not yet exec'd.
    fn drop(&mut self) {
        if !self.handed_on {
            let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        }
    }
}

impl AsFd for FileLock {
    /// The descriptor that carries the lock, for a program that takes this one's place.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl FileLock {
    /// Takes the lock at once or says who holds it; makes the file (0600) if needed.
    ///
    /// # Errors
    /// [`LockError::Held`], or [`LockError::Io`].
    pub fn try_exclusive(path: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { file, handed_on: false }),
            Err(Errno::WOULDBLOCK) => Err(LockError::Held { path: path.to_owned(), holder: note(&file) }),
            Err(errno) => Err(io(errno.into())),
        }
    }

    /// Whether somebody holds the lock exclusively now. Looks by a shared lock for a moment, which a taker must outwait.
    ///
    /// # Errors
    /// The file exists and cannot be opened or asked. An absent file is not held.
    pub fn is_held(path: &Path) -> io::Result<bool> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                let _ = rustix::fs::flock(&file, FlockOperation::Unlock);
                Ok(false)
            }
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Says in the file who holds the lock; a hint for people and for [`LockError::Held`], not durable.
    ///
    /// # Errors
    /// The write failed; the lock is held all the same.
    pub fn write_holder(&self, holder: &Holder) -> io::Result<()> {
        let mut text = serde_json::to_vec(holder)?;
        text.push(b'\n');
        self.file.set_len(0)?;
        self.file.write_all_at(&text, 0)
    }

    /// The descriptor that carries the lock, to be inherited by a process that takes this one's place.
    ///
    /// # Errors
    /// The descriptor cannot be duplicated; the lock is given up.
    pub fn into_fd(mut self) -> io::Result<OwnedFd> {
        let heir = self.file.try_clone()?.into();
        self.handed_on = true;
        Ok(heir)
    }

    /// Takes over a lock that was inherited; locks again, which is a no-op for the rightful heir.
    ///
    /// # Errors
    /// The descriptor is no file, or somebody else holds the lock.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        rustix::fs::flock(fd.as_fd(), FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { file: File::from(fd), handed_on: false })
    }
}

fn note(file: &File) -> Option<Holder> {
    use std::io::Read;
    let mut text = Vec::new();
    file.take(NOTE_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_learns_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!FileLock::is_held(&path).unwrap());
        let lock = FileLock::try_exclusive(&path).unwrap();
        let holder = Holder { pid: 7, address: "127.0.0.1:4437".into() };
        lock.write_holder(&holder).unwrap();
        assert!(FileLock::is_held(&path).unwrap());
        match FileLock::try_exclusive(&path) {
            Err(error @ LockError::Held { .. }) => {
                assert_eq!(error.to_string(), format!("{} is held by process 7", path.display()));
                let LockError::Held { holder: found, .. } = error else { unreachable!() };
                assert_eq!(found, Some(holder));
            }
            other => panic!("{other:?}"),
        }
        let heir = FileLock::from_fd(lock.into_fd().unwrap()).unwrap();
        assert!(FileLock::is_held(&path).unwrap());
        drop(heir);
        assert!(!FileLock::is_held(&path).unwrap());
        FileLock::try_exclusive(&path).unwrap();
    }
}
