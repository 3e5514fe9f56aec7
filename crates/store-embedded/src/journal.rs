//! The journal: one row per group of commits, durable before anybody hears of it.
//!
//! Job: append a group, give back at open what was not applied, trim what was. Owns: `journal.db` and its only
//! connection. Never: knows what is in a group.

use std::path::Path;

use bytes::Bytes;
use rusqlite::{Connection, params};
use uuid::Uuid;

use crate::error::{At, Fault, Result};
use crate::limits;
use crate::sqlite::{Access, Database, Schema, checkpoint};

const V1: Schema = &[
    "CREATE TABLE meta (id INTEGER PRIMARY KEY, store_id TEXT NOT NULL, schema_version INTEGER NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE journal (id INTEGER PRIMARY KEY, crc INTEGER NOT NULL, body BLOB NOT NULL)",
];

/// The file.
pub(crate) const FILE: Database =
    Database { name: "journal.db", page_bytes: 4096, exclusive: true, migrations: &[V1], schemas: &[V1] };

/// Which rows there are; both zero if there was never one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// The open journal.
pub(crate) struct Journal {
    conn: Connection,
    span: Span,
    since_checkpoint_bytes: usize,
}

/// The checksum of a row.
pub(crate) fn row_crc(id: u64, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&id.to_le_bytes());
    crc.update(body);
    crc.finalize()
}

fn meta_crc(store_id: &str, version: i64) -> u32 {
    crc32fast::hash(format!("{store_id} {version}").as_bytes())
}

impl Journal {
    pub(crate) fn create(dir: &Path, store: Uuid) -> Result<()> {
        FILE.create(dir, |conn| {
            let version = FILE.migrations.len() as i64;
            let id = store.to_string();
            let crc = meta_crc(&id, version);
            conn.execute("INSERT INTO meta VALUES (1, ?1, ?2, ?3)", params![id, version, crc]).at(FILE.name)?;
            Ok(())
        })
    }

    /// Opens the file; gives the store id it carries.
    pub(crate) fn open(dir: &Path, access: Access) -> Result<(Self, Uuid)> {
        let conn = FILE.connect(dir, access)?;
        let place = "journal.db: meta";
        let (id, version, crc): (String, i64, u32) = conn
            .query_row("SELECT store_id, schema_version, crc FROM meta WHERE id = 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .at(place)?;
        FILE.check_version(version)?;
        if crc != meta_crc(&id, version) {
            return Err(Fault::corrupt(place, "the checksum does not hold"));
        }
        FILE.check_open(&conn, dir, version)?;
        let store = Uuid::parse_str(&id).map_err(|_| Fault::corrupt(place, "the store id is not a UUID"))?;
        if access == Access::Write {
            // What a crash left in the log may be in the page cache alone; after this it is in the file, synced.
            checkpoint(&conn, "FULL", FILE.name)?;
        }
        let span = conn
            .query_row("SELECT ifnull(min(id), 0), ifnull(max(id), 0) FROM journal", [], |row| {
                Ok(Span { first: row.get(0)?, last: row.get(1)? })
            })
            .at("journal.db: journal")?;
        Ok((Self { conn, span, since_checkpoint_bytes: 0 }, store))
    }

    pub(crate) fn span(&self) -> Span {
        self.span
    }

    /// Every row above `after`, checked: consecutive, with a checksum that holds.
    pub(crate) fn rows(&self, after: u64, mut each: impl FnMut(u64, Bytes) -> Result<()>) -> Result<()> {
        let place = "journal.db: journal";
        let mut statement =
            self.conn.prepare("SELECT id, crc, body FROM journal WHERE id > ?1 ORDER BY id").at(place)?;
        let mut rows = statement.query([after]).at(place)?;
        let mut expected = self.span.first.max(after + 1);
        while let Some(row) = rows.next().at(place)? {
            let id: u64 = row.get(0).at(place)?;
            let at = format!("journal.db: journal, row {id}");
            let crc: u32 = row.get(1).at(&at)?;
            let body = Bytes::from(row.get::<_, Vec<u8>>(2).at(&at)?);
            if id != expected {
                return Err(Fault::corrupt(at, format!("row {expected} is missing before it")));
            }
            if crc != row_crc(id, &body) {
                return Err(Fault::corrupt(at, "the checksum does not hold"));
            }
            each(id, body)?;
            expected += 1;
        }
        if expected != self.span.last + 1 && self.span.last > after {
            return Err(Fault::corrupt(place, format!("rows end at {}, not at {}", expected - 1, self.span.last)));
        }
        Ok(())
    }

    /// Makes one group durable, and trims rows up to `applied`, a few at a time and never the last one.
    pub(crate) fn append(&mut self, id: u64, body: &[u8], applied: u64) -> Result<()> {
        debug_assert_eq!(id, self.span.last + 1);
        let first = if self.span.first == 0 { id } else { self.span.first };
        let trim_to = applied.min(first + limits::TRIM_ROWS_MAX - 1).min(id - 1);
        if trim_to < first {
            self.insert(id, body)?;
            self.span = Span { first, last: id };
        } else {
            self.conn.prepare_cached("BEGIN IMMEDIATE").and_then(|mut s| s.execute([])).at(FILE.name)?;
            let done = self
                .conn
                .prepare_cached("DELETE FROM journal WHERE id <= ?1")
                .and_then(|mut s| s.execute([trim_to]))
                .at(FILE.name)
                .and_then(|_| self.insert(id, body))
                .and_then(|()| self.conn.prepare_cached("COMMIT").and_then(|mut s| s.execute([])).at(FILE.name));
            if let Err(fault) = done {
                if !self.conn.is_autocommit() {
                    self.conn.execute_batch("ROLLBACK").at(FILE.name)?;
                }
                return Err(fault);
            }
            self.span = Span { first: trim_to + 1, last: id };
        }
        self.since_checkpoint_bytes += body.len() + 8192;
        Ok(())
    }

    /// Makes the first row of an empty journal: what comes before it was never here.
    pub(crate) fn begin_at(&mut self, id: u64, body: &[u8]) -> Result<()> {
        self.insert(id, body)?;
        self.span = Span { first: id, last: id };
        Ok(())
    }

    fn insert(&self, id: u64, body: &[u8]) -> Result<()> {
        self.conn
            .prepare_cached("INSERT INTO journal (id, crc, body) VALUES (?1, ?2, ?3)")
            .and_then(|mut s| s.execute(params![id, row_crc(id, body), body]))
            .at(FILE.name)
            .map(|_| ())
    }

    /// Whether the log has grown enough to be folded back.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.since_checkpoint_bytes >= limits::JOURNAL_CHECKPOINT_BYTES
    }

    /// Folds the log back. On this thread, which alone writes: so the log always restarts.
    pub(crate) fn checkpoint(&mut self) -> Result<()> {
        checkpoint(&self.conn, "PASSIVE", FILE.name)?;
        self.since_checkpoint_bytes = 0;
        Ok(())
    }

    /// Trims all that is applied, folds the log back and closes the file.
    pub(crate) fn close(self, applied: u64) -> Result<()> {
        let trim_to = applied.min(self.span.last.saturating_sub(1));
        self.conn.execute("DELETE FROM journal WHERE id <= ?1", [trim_to]).at(FILE.name)?;
        checkpoint(&self.conn, "TRUNCATE", FILE.name)?;
        self.conn.close().map_err(|(_, error)| error).at(FILE.name)
    }
}
