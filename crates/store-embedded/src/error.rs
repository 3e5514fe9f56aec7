//! What goes wrong with files, and what each of it is called outside.
//!
//! Job: one inner fault type, the public [`OpenError`], and the mapping between them. Never: decides what to do.

use std::path::PathBuf;

use longhaul_store::StoreError;
use rusqlite::ErrorCode;

/// Why a store was not opened. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Stored bytes are not what was written, or files do not belong together.
    #[error("the store is damaged at {place}: {what}")]
    Corrupt {
        /// File, and where in it.
        place: String,
        /// What is wrong there.
        what: String,
    },
    /// The directory cannot be written.
    #[error("the directory {} cannot be written: {what}", dir.display())]
    ReadOnly {
        /// The directory.
        dir: PathBuf,
        /// What the kernel said.
        what: String,
    },
    /// A later release wrote the store.
    #[error("{place} has schema version {found}, this release knows versions up to {known}")]
    Newer {
        /// The file.
        place: String,
        /// Its version.
        found: i64,
        /// The latest known version.
        known: i64,
    },
    /// This process has it open already.
    #[error("the store in {} is open already in this process", dir.display())]
    AlreadyOpen {
        /// The directory.
        dir: PathBuf,
    },
    /// There is no store in the directory.
    #[error("there is no store in {}", dir.display())]
    Absent {
        /// The directory.
        dir: PathBuf,
    },
    /// There is no room to open it.
    #[error("there is no room in {} to open the store", dir.display())]
    Full {
        /// The directory.
        dir: PathBuf,
    },
    /// The operating system failed.
    #[error("could not open {place}: {what}")]
    Io {
        /// The file.
        place: String,
        /// What the kernel or SQLite said.
        what: String,
    },
}

/// What went wrong inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Full,
    /// Another process holds a lock on the file, as `sqlite3` may for a while.
    Locked {
        place: String,
    },
    Corrupt {
        place: String,
        what: String,
    },
    Newer {
        place: String,
        found: i64,
        known: i64,
    },
    Io {
        place: String,
        what: String,
    },
}

pub(crate) type Result<T, E = Fault> = std::result::Result<T, E>;

impl Fault {
    pub(crate) fn corrupt(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Corrupt { place: place.into(), what: what.into() }
    }

    pub(crate) fn open(self, dir: &std::path::Path) -> OpenError {
        match self {
            Self::Full => OpenError::Full { dir: dir.to_path_buf() },
            Self::Locked { place } => OpenError::Io { place, what: "another process has it open".into() },
            Self::Corrupt { place, what } => OpenError::Corrupt { place, what },
            Self::Newer { place, found, known } => OpenError::Newer { place, found, known },
            Self::Io { place, what } => OpenError::Io { place, what },
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full => f.write_str("the disk is full"),
            Self::Locked { place } => write!(f, "{place} is held by another process"),
            Self::Corrupt { place, what } => write!(f, "damage at {place}: {what}"),
            Self::Newer { place, found, known } => write!(f, "{place} has version {found}, known are up to {known}"),
            Self::Io { place, what } => write!(f, "{place}: {what}"),
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Corrupt { place, what } => Self::Corrupt { place, what },
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// Names the place where something failed.
pub(crate) trait At<T> {
    fn at(self, place: &str) -> Result<T>;
}

impl<T> At<T> for rusqlite::Result<T> {
    fn at(self, place: &str) -> Result<T> {
        self.map_err(|error| {
            let what = error.to_string();
            let place = place.to_owned();
            match error {
                rusqlite::Error::SqliteFailure(code, _) => match code.code {
                    ErrorCode::DiskFull => Fault::Full,
                    ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Fault::Locked { place },
                    // Damaged schema text and impossible sizes show as the last three.
                    ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::Unknown
                    | ErrorCode::TooBig
                    | ErrorCode::TypeMismatch => Fault::Corrupt { place, what },
                    _ => Fault::Io { place, what: format!("{what} ({})", code.extended_code) },
                },
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::SqlInputError { .. }
                | rusqlite::Error::Utf8Error(..)
                | rusqlite::Error::QueryReturnedNoRows => Fault::Corrupt { place, what },
                _ => Fault::Io { place, what },
            }
        })
    }
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, place: &str) -> Result<T> {
        self.map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Fault::Full,
            _ => Fault::Io { place: place.to_owned(), what: error.to_string() },
        })
    }
}
