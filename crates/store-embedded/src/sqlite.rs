//! How both files are opened, and what holds for a file before SQLite looks at it.
//!
//! Job: connections with their settings, the check of a file's header, schema and version. Never: knows a table.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::error::{At, Fault, Result};
use crate::limits;

/// A table or index with the text that created it, exactly as SQLite keeps it.
pub(crate) type Schema = &'static [&'static str];

/// One of the two files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Database {
    /// Its name in the directory.
    pub(crate) name: &'static str,
    /// Bytes of a page.
    pub(crate) page_bytes: u32,
    /// Only one connection ever: no shared memory file and no locks per statement.
    pub(crate) exclusive: bool,
    /// Migrations by number from 1; each is a list of statements.
    pub(crate) migrations: &'static [Schema],
    /// The schema after each of them.
    pub(crate) schemas: &'static [Schema],
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    /// Reads beside the writer of this process.
    Read,
    /// Reads a directory that nobody has open.
    Still,
}

impl Database {
    pub(crate) fn connect(&self, dir: &Path, access: Access) -> Result<Connection> {
        let path = dir.join(self.name);
        let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let conn = if access == Access::Still {
            // A log that holds something is read through an index that SQLite keeps beside it; without one the file is
            // the whole truth, and nothing at all is written.
            let logged = crate::wal::walk(&path)?.committed > 0;
            let uri = uri(&path, if logged { "mode=ro" } else { "immutable=1" });
            Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_READ_ONLY)
        } else {
            Connection::open_with_flags(&path, flags | OpenFlags::SQLITE_OPEN_READ_WRITE)
        }
        .at(self.name)?;
        // A server that has the directory open holds locks: say so at once.
        let patience = if access == Access::Still { 0 } else { 10 };
        conn.busy_timeout(Duration::from_secs(patience)).at(self.name)?;
        if self.exclusive && access == Access::Write {
            self.pragma(&conn, "locking_mode", "EXCLUSIVE")?;
        }
        self.pragma(&conn, "cache_size", if access == Access::Write { "-2000" } else { "-512" })?;
        self.pragma(&conn, "mmap_size", "0")?;
        self.pragma(&conn, "synchronous", "FULL")?;
        self.pragma(&conn, "wal_autocheckpoint", "0")?;
        self.pragma(&conn, "journal_size_limit", "67108864")?;
        self.pragma(&conn, "cell_size_check", "ON")?;
        if access == Access::Write {
            let mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).at(self.name)?;
            if mode != "wal" {
                return Err(Fault::corrupt(self.name, format!("the file is in {mode} mode, not in WAL mode")));
            }
        }
        if access == Access::Read {
            self.pragma(&conn, "query_only", "ON")?;
        }
        conn.set_prepared_statement_cache_capacity(48);
        // Otherwise each new value of a parameter in a range has its statement compiled anew, on every commit.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).at(self.name)?;
        Ok(conn)
    }

    fn pragma(&self, conn: &Connection, name: &str, value: &str) -> Result<()> {
        conn.pragma_update(None, name, value).at(self.name)
    }

    /// Makes the file under another name, whole and synced, and gives it its own: it is there or it is not.
    pub(crate) fn create(&self, dir: &Path, fill: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
        let path = dir.join(self.name);
        let new = dir.join(format!("{}.new", self.name));
        for suffix in ["", "-journal", "-wal", "-shm"] {
            remove(&dir.join(format!("{}.new{suffix}", self.name))).at(self.name)?;
        }
        {
            let conn = Connection::open(&new).at(self.name)?;
            conn.pragma_update(None, "page_size", self.page_bytes).at(self.name)?;
            self.pragma(&conn, "synchronous", "FULL")?;
            self.pragma(&conn, "journal_mode", "WAL")?;
            conn.execute_batch("BEGIN IMMEDIATE").at(self.name)?;
            for sql in self.migrations.iter().copied().flatten() {
                conn.execute_batch(sql).at(self.name)?;
            }
            fill(&conn)?;
            conn.execute_batch("COMMIT").at(self.name)?;
            conn.close().map_err(|(_, e)| e).at(self.name)?;
        }
        File::open(&new).and_then(|f| f.sync_all()).at(self.name)?;
        // A log left by a file of the same name that is gone must not be taken for this one's.
        for suffix in ["-wal", "-shm", "-journal"] {
            remove(&dir.join(format!("{}{suffix}", self.name))).at(self.name)?;
        }
        std::fs::rename(&new, &path).at(self.name)?;
        sync_dir(dir).at(self.name)
    }

    /// What must hold before SQLite opens the file: a SQLite file in WAL mode, and a log without damage inside.
    pub(crate) fn check_file(&self, dir: &Path) -> Result<crate::wal::Walk> {
        let path = dir.join(self.name);
        let mut header = [0; 100];
        File::open(&path).at(self.name)?.read_exact(&mut header).map_err(|_| {
            Fault::corrupt(format!("{}, header at byte 0", self.name), "the file is shorter than its header")
        })?;
        let page_bytes = u32::from(u16::from_be_bytes([header[16], header[17]]));
        let expected = [("magic", &header[..16] == b"SQLite format 3\0"), ("page size", page_bytes == self.page_bytes)];
        let wal = [("format versions", header[18..20] == [2, 2]), ("reserved bytes", header[20] == 0)];
        if let Some((field, _)) = expected.iter().chain(&wal).find(|(_, holds)| !holds) {
            return Err(Fault::corrupt(format!("{}, header at byte 0", self.name), format!("the {field} is wrong")));
        }
        crate::wal::walk(&path)
    }

    /// What must hold once it is open: version, schema, and for a small file every page.
    pub(crate) fn check_open(&self, conn: &Connection, dir: &Path, version: i64) -> Result<()> {
        self.check_version(version)?;
        let schema = usize::try_from(version - 1).ok().and_then(|at| self.schemas.get(at)).copied().unwrap_or_default();
        let mut found = conn
            .prepare("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
            .and_then(|mut s| s.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>())
            .at(&format!("{}: sqlite_master", self.name))?;
        found.sort();
        let mut expected: Vec<_> = schema.iter().map(|sql| (*sql).to_owned()).collect();
        expected.sort();
        if found != expected {
            return Err(Fault::corrupt(format!("{}: sqlite_master", self.name), "the schema is not the store's"));
        }
        let bytes = std::fs::metadata(dir.join(self.name)).at(self.name)?.len();
        if bytes <= limits::CHECK_AT_OPEN_BYTES
            && let Some(what) = self.integrity(conn)?.into_iter().next()
        {
            return Err(Fault::corrupt(self.name, what));
        }
        Ok(())
    }

    pub(crate) fn check_version(&self, found: i64) -> Result<()> {
        let known = self.migrations.len() as i64;
        if found > known {
            return Err(Fault::Newer { place: self.name.to_owned(), found, known });
        }
        if found < 1 {
            return Err(Fault::corrupt(format!("{}: meta.schema_version", self.name), format!("version {found}")));
        }
        Ok(())
    }

    /// What `PRAGMA integrity_check` has to say; nothing if all is well.
    pub(crate) fn integrity(&self, conn: &Connection) -> Result<Vec<String>> {
        let lines = conn
            .prepare("PRAGMA integrity_check(20)")
            .and_then(|mut s| s.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>())
            .at(self.name)?;
        Ok(lines.into_iter().filter(|line| line != "ok").map(|line| line.replace('\n', ", ")).collect())
    }
}

/// Folds the log back into the file; gives whether all of it went.
pub(crate) fn checkpoint(conn: &Connection, mode: &str, name: &str) -> Result<bool> {
    conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        let (busy, log, done): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(busy == 0 && log == done)
    })
    .at(name)
}

fn uri(path: &Path, how: &str) -> String {
    let mut uri = String::from("file:");
    for byte in path.to_string_lossy().bytes() {
        match byte {
            b'?' | b'#' | b'%' | 0x80.. => {
                let _ = write!(uri, "%{byte:02x}");
            }
            _ => uri.push(char::from(byte)),
        }
    }
    uri + "?" + how
}

pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(crate) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}
