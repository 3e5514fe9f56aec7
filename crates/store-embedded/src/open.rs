//! Opening: whether files are there, whole, of one store, and what of the journal is not yet applied.
//!
//! Job: everything between a directory and a running store. Owns: the list of directories this process has open.
//! Never: starts a thread or repairs anything.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use uuid::Uuid;

use crate::entry::{self, Entry};
use crate::error::{At, Fault, OpenError, Result};
use crate::journal::{self, Journal};
use crate::library::{self, Meta, streams};
use crate::memory::{Group, Memory};
use crate::sqlite::{Access, checkpoint};
use crate::witness::{self, Testimony, Witness};

static OPEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Keeps a second store of this process out of the directory.
#[derive(Debug)]
pub(crate) struct Held(PathBuf);

impl Held {
    pub(crate) fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.canonicalize().at("the directory").map_err(|fault| fault.open(dir))?;
        if OPEN.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone()) {
            Ok(Self(path))
        } else {
            Err(OpenError::AlreadyOpen { dir: dir.to_path_buf() })
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        OPEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// A store's files, checked and open.
pub(crate) struct Opened {
    pub(crate) store: Uuid,
    pub(crate) library: Connection,
    pub(crate) journal: Journal,
    pub(crate) meta: Meta,
    pub(crate) memory: Memory,
    pub(crate) streams_made: u64,
}

/// Makes the directory if need be and finds out whether it can be written.
pub(crate) fn prepare(dir: &Path) -> Result<(), OpenError> {
    let refuse = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
            OpenError::ReadOnly { dir: dir.to_path_buf(), what: error.to_string() }
        }
        std::io::ErrorKind::StorageFull => OpenError::Full { dir: dir.to_path_buf() },
        _ => OpenError::Io { place: dir.display().to_string(), what: error.to_string() },
    };
    std::fs::create_dir_all(dir).map_err(refuse)?;
    let probe = dir.join("probe");
    std::fs::File::create(&probe).and_then(|_| std::fs::remove_file(&probe)).map_err(refuse)?;
    Ok(())
}

/// Makes the files of a new store, or finishes what a crash interrupted. Nothing if they are there.
pub(crate) fn create_missing(dir: &Path) -> Result<()> {
    let there = |name: &str| dir.join(name).try_exists().at(name);
    let (library, journal) = (there(library::FILE.name)?, there(journal::FILE.name)?);
    let testimony = Witness::read(dir)?;
    match (library, journal, testimony) {
        (true, true, _) => Ok(()),
        (false, false, Testimony::Absent) => {
            let store = Uuid::new_v4();
            library::create(dir, store)?;
            Journal::create(dir, store)
        }
        // The library is made first and the witness last: a crash may leave the library alone, and pristine.
        (true, false, Testimony::Absent) => {
            library::FILE.check_file(dir)?;
            let conn = library::FILE.connect(dir, Access::Write)?;
            library::migrate(&conn)?;
            let meta = Meta::read(&conn)?;
            if !meta.is_pristine() {
                return Err(missing(journal::FILE.name, "its library has applied commits"));
            }
            drop(conn);
            Journal::create(dir, meta.store)
        }
        (false, true, _) => Err(missing(library::FILE.name, "its journal is there")),
        (true, false, _) => Err(missing(journal::FILE.name, "its library and its witness are there")),
        (false, false, _) => Err(missing(library::FILE.name, "the witness of a store is there")),
    }
}

fn missing(name: &str, what: &str) -> Fault {
    Fault::corrupt(name, format!("the file is missing, and {what}"))
}

/// Opens and checks the files, and reads what is not applied.
pub(crate) fn open(dir: &Path, access: Access) -> Result<Opened> {
    for file in [library::FILE, journal::FILE] {
        if !dir.join(file.name).try_exists().at(file.name)? {
            return Err(missing(file.name, "the other one is there"));
        }
        file.check_file(dir)?;
    }
    let library = library::connect(dir, access)?;
    library::FILE.check_open(&library, dir, library::version(&library)?)?;
    if access == Access::Write {
        library::migrate(&library)?;
    }
    let meta = Meta::read(&library)?;
    let (journal, journal_store) = Journal::open(dir, access)?;
    if journal_store != meta.store {
        return Err(Fault::corrupt(
            "journal.db: meta.store_id",
            format!("it is of store {journal_store}, longhaul.db is of store {}", meta.store),
        ));
    }
    check_span(&journal, &meta)?;
    check_witness(dir, &journal, &meta)?;
    if access == Access::Write {
        // As for the journal: what a crash left in the log is synced before anything is built on it.
        checkpoint(&library, "PASSIVE", library::FILE.name)?;
    }
    let mut memory = Memory::new(meta.applied, meta.feed_tail);
    let mut streams_made = meta.streams_made;
    journal.rows(meta.applied, |id, body| {
        let at = || format!("journal.db: journal, row {id}");
        let mut entries = entry::decode(&body)
            .map_err(|malformed| Fault::corrupt(at(), format!("{} at byte {}", malformed.what, malformed.at)))?;
        let complete = body[0] > 1;
        for entry in &mut entries {
            if !complete {
                complete_entry(entry, &memory, &library)?;
            }
            let feed: usize = entry.streams.iter().map(|written| written.feed.len()).sum();
            if feed > 0 && entry.feed_first != memory.feed_tail + 1 {
                return Err(Fault::corrupt(at(), "the feed has a gap before it"));
            }
            for written in entry.streams.iter().filter(|written| written.created) {
                streams_made = streams_made.max(written.stream.get());
            }
            // One entry at a time, so that the feed's tail above is the one before it.
            let group = Group { id, bytes: 0, entries: vec![entry.clone()] };
            memory.publish(&Arc::new(group));
            memory.pending.pop_back();
        }
        let bytes = body.len();
        memory.pending.push_back(Arc::new(Group { id, bytes, entries }));
        memory.pending_bytes += bytes;
        Ok(())
    })?;
    Ok(Opened { store: meta.store, library, journal, meta, memory, streams_made })
}

/// Adds to an entry of version 1 what it does not say.
fn complete_entry(entry: &mut Entry, memory: &Memory, library: &Connection) -> Result<()> {
    for written in &mut entry.streams {
        let before = match memory.streams.get(&written.stream) {
            Some(live) => live.bytes,
            None if written.created => 0,
            None => streams::find(library, written.stream)?.map_or(0, |head| head.content_bytes()),
        };
        written.bytes = before + written.events.iter().map(|event| event.len() as u64).sum::<u64>();
    }
    Ok(())
}

fn check_span(journal: &Journal, meta: &Meta) -> Result<()> {
    let span = journal.span();
    if meta.applied > span.last {
        return Err(Fault::corrupt(
            "journal.db: journal",
            format!(
                "it ends at row {}, the library has applied row {}: it is older or was cut",
                span.last, meta.applied
            ),
        ));
    }
    if span.first > meta.applied + 1 {
        return Err(Fault::corrupt(
            "longhaul.db: meta.applied",
            format!(
                "it has applied row {}, the journal begins at {}: it is older or was cut",
                meta.applied, span.first
            ),
        ));
    }
    Ok(())
}

fn check_witness(dir: &Path, journal: &Journal, meta: &Meta) -> Result<()> {
    match Witness::read(dir)? {
        Testimony::Says { store, .. } if store != meta.store => Err(Fault::corrupt(
            witness::NAME,
            format!("it is of store {store}, the databases are of store {}", meta.store),
        )),
        Testimony::Says { acknowledged, .. } if acknowledged > journal.span().last => Err(Fault::corrupt(
            "journal.db: journal",
            format!("it ends at row {}, row {acknowledged} was acknowledged: commits are missing", journal.span().last),
        )),
        Testimony::Damaged => {
            tracing::warn!("the witness file is damaged; it is written anew");
            Ok(())
        }
        Testimony::Says { .. } | Testimony::Absent | Testimony::Blank => Ok(()),
    }
}
