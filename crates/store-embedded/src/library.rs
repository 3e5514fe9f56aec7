//! The library: what is applied, as rows one can query.
//!
//! Job: the file's schema and its meta row. Owns: `longhaul.db`. Never: knows the journal's form.

pub(crate) mod chunks;
pub(crate) mod feed;
pub(crate) mod records;
pub(crate) mod runs;
pub(crate) mod streams;

use std::path::Path;

use rusqlite::{Connection, params};
use uuid::Uuid;

use crate::error::{At, Fault, Result};
use crate::sqlite::{Access, Database, Schema};

const META: &str = "CREATE TABLE meta (id INTEGER PRIMARY KEY, store_id TEXT NOT NULL, schema_version INTEGER NOT NULL, applied INTEGER NOT NULL, streams_made INTEGER NOT NULL, feed_tail INTEGER NOT NULL, runs INTEGER NOT NULL, live INTEGER NOT NULL, records INTEGER NOT NULL, crc INTEGER NOT NULL)";
const META_PLAIN: &str = "ALTER TABLE meta ADD COLUMN plain INTEGER NOT NULL DEFAULT 0";
const META_V2: &str = "CREATE TABLE meta (id INTEGER PRIMARY KEY, store_id TEXT NOT NULL, schema_version INTEGER NOT NULL, applied INTEGER NOT NULL, streams_made INTEGER NOT NULL, feed_tail INTEGER NOT NULL, runs INTEGER NOT NULL, live INTEGER NOT NULL, records INTEGER NOT NULL, crc INTEGER NOT NULL, plain INTEGER NOT NULL DEFAULT 0)";

const V1: Schema = &[
    META,
    runs::TABLE,
    runs::BY_KEY,
    runs::BY_KEY_HASH,
    runs::BY_PROJECT,
    runs::BY_DIGEST,
    runs::LIVE,
    runs::TAGS,
    streams::TABLE,
    chunks::TABLE,
    chunks::BY_PLACE,
    records::TABLE,
    records::BY_HASH,
    feed::TABLE,
    feed::BY_STREAM,
];

/// Plain streams: whose they are, what their messages may be and where each ends.
const V2: Schema = &[META_PLAIN, streams::FORM, streams::PROJECT, chunks::LENGTHS];

/// The tables as SQLite keeps them once [`V2`] is done.
const AFTER_V2: Schema = &[
    META_V2,
    runs::TABLE,
    runs::BY_KEY,
    runs::BY_KEY_HASH,
    runs::BY_PROJECT,
    runs::BY_DIGEST,
    runs::LIVE,
    runs::TAGS,
    streams::TABLE_V2,
    chunks::TABLE_V2,
    chunks::BY_PLACE,
    records::TABLE,
    records::BY_HASH,
    feed::TABLE,
    feed::BY_STREAM,
];

/// What an older library lacks, as views in the place of its tables, for those who only read.
const V1_AS_V2: Schema = &[
    "CREATE TEMP VIEW meta AS SELECT *, 0 AS plain FROM main.meta",
    "CREATE TEMP VIEW streams AS SELECT *, 0 AS form, NULL AS project FROM main.streams",
    "CREATE TEMP VIEW chunks AS SELECT *, NULL AS lengths FROM main.chunks",
];

/// The file.
pub(crate) const FILE: Database = Database {
    name: "longhaul.db",
    page_bytes: 8192,
    exclusive: false,
    migrations: &[V1, V2],
    schemas: &[V1, AFTER_V2],
};

const PLACE: &str = "longhaul.db: meta";

/// The one row of the library about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) store: Uuid,
    pub(crate) version: i64,
    /// The last journal row that is folded in.
    pub(crate) applied: u64,
    /// The last stream id that was given.
    pub(crate) streams_made: u64,
    pub(crate) feed_tail: u64,
    /// Rows there are, rows that are not terminal, records: what a scan must find.
    pub(crate) runs: u64,
    pub(crate) live: u64,
    pub(crate) records: u64,
    /// Streams that are no run's.
    pub(crate) plain: u64,
}

impl Meta {
    pub(crate) fn new(store: Uuid) -> Self {
        let version = FILE.migrations.len() as i64;
        Self { store, version, applied: 0, streams_made: 0, feed_tail: 0, runs: 0, live: 0, records: 0, plain: 0 }
    }

    /// Whether nothing was ever stored.
    pub(crate) fn is_pristine(&self) -> bool {
        self.applied == 0 && self.streams_made == 0
    }

    fn crc(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(self.store.as_bytes());
        crc.update(&self.version.to_le_bytes());
        for number in [self.applied, self.streams_made, self.feed_tail, self.runs, self.live, self.records] {
            crc.update(&number.to_le_bytes());
        }
        if self.version > 1 {
            crc.update(&self.plain.to_le_bytes());
        }
        crc.finalize()
    }

    pub(crate) fn read(conn: &Connection) -> Result<Self> {
        Self::query(
            conn,
            "SELECT store_id, schema_version, applied, streams_made, feed_tail, runs, live, records, crc, plain FROM meta WHERE id = 1",
        )
    }

    fn query(conn: &Connection, sql: &str) -> Result<Self> {
        let (id, mut meta, crc) = conn
            .prepare_cached(sql)
            .and_then(|mut s| {
                s.query_row([], |row| {
                    let mut meta = Self::new(Uuid::nil());
                    meta.version = row.get(1)?;
                    meta.applied = row.get(2)?;
                    meta.streams_made = row.get(3)?;
                    meta.feed_tail = row.get(4)?;
                    meta.runs = row.get(5)?;
                    meta.live = row.get(6)?;
                    meta.records = row.get(7)?;
                    meta.plain = row.get(9)?;
                    Ok((row.get::<_, String>(0)?, meta, row.get::<_, u32>(8)?))
                })
            })
            .at(PLACE)?;
        meta.store = Uuid::parse_str(&id).map_err(|_| Fault::corrupt(PLACE, "the store id is not a UUID"))?;
        if meta.crc() != crc {
            return Err(Fault::corrupt(PLACE, "the checksum does not hold"));
        }
        Ok(meta)
    }

    pub(crate) fn write(&self, conn: &Connection) -> Result<()> {
        conn.prepare_cached("INSERT OR REPLACE INTO meta VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")
            .and_then(|mut s| {
                s.execute(params![
                    self.store.to_string(),
                    self.version,
                    self.applied,
                    self.streams_made,
                    self.feed_tail,
                    self.runs,
                    self.live,
                    self.records,
                    self.crc(),
                    self.plain
                ])
            })
            .at(PLACE)
            .map(|_| ())
    }
}

/// Opens the library. What only reads a directory that nobody has open is not migrated, and sees an older one through
/// views.
pub(crate) fn connect(dir: &Path, access: Access) -> Result<Connection> {
    let conn = FILE.connect(dir, access)?;
    if access == Access::Still && version(&conn)? == 1 {
        V1_AS_V2.iter().try_for_each(|sql| conn.execute_batch(sql)).at(FILE.name)?;
    }
    Ok(conn)
}

/// The version that a library says it has.
pub(crate) fn version(conn: &Connection) -> Result<i64> {
    conn.query_row("SELECT schema_version FROM meta WHERE id = 1", [], |row| row.get(0)).at(PLACE)
}

/// Brings an older library to this release's schema, in one transaction.
pub(crate) fn migrate(conn: &Connection) -> Result<()> {
    if version(conn)? != 1 {
        return Ok(());
    }
    conn.execute_batch("BEGIN IMMEDIATE").at(FILE.name)?;
    let migrated = || -> Result<()> {
        let mut meta = Meta::query(
            conn,
            "SELECT store_id, schema_version, applied, streams_made, feed_tail, runs, live, records, crc, 0 FROM meta WHERE id = 1",
        )?;
        V2.iter().try_for_each(|sql| conn.execute_batch(sql)).at(FILE.name)?;
        meta.version = 2;
        meta.write(conn)?;
        conn.execute_batch("COMMIT").at(FILE.name)
    };
    let done = migrated();
    if done.is_err() && !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK").at(FILE.name)?;
    }
    done
}

/// Makes an empty library.
pub(crate) fn create(dir: &Path, store: Uuid) -> Result<()> {
    FILE.create(dir, |conn| Meta::new(store).write(conn))
}

/// A hash that finds a key a second way, so that damage to one index is not taken for absence.
pub(crate) fn hash(parts: [&str; 2]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for part in parts {
        crc.update(part.as_bytes());
        crc.update(&[0]);
    }
    crc.finalize()
}
