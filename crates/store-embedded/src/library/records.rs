//! Records: small values by kind and id.
//!
//! Job: put, delete, find, list. Owns: table `records`. Never: looks into a value.

use std::collections::BTreeMap;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Meta, hash};
use crate::error::{At, Fault, Result};

pub(crate) const TABLE: &str = "CREATE TABLE records (kind TEXT NOT NULL, id TEXT NOT NULL, hash INTEGER NOT NULL, crc INTEGER NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID";
pub(crate) const BY_HASH: &str = "CREATE INDEX records_hash ON records (hash)";

fn place(kind: &str, id: &str) -> String {
    format!("longhaul.db: records, {kind}/{id}")
}

fn crc(kind: &str, id: &str, value: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for part in [kind.as_bytes(), &[0], id.as_bytes(), &[0], value] {
        crc.update(part);
    }
    crc.finalize()
}

fn decode(row: &Row<'_>) -> Result<(String, String, Bytes)> {
    let at = "longhaul.db: records";
    let (kind, id): (String, String) = (row.get(0).at(at)?, row.get(1).at(at)?);
    let at = place(&kind, &id);
    let value = row.get::<_, Vec<u8>>(3).at(&at)?;
    if row.get::<_, u32>(2).at(&at)? != crc(&kind, &id, &value) {
        return Err(Fault::corrupt(at, "the checksum does not hold"));
    }
    Ok((kind, id, value.into()))
}

/// Puts a record, or deletes it.
pub(crate) fn put(conn: &Connection, kind: &str, id: &str, value: Option<&[u8]>, meta: &mut Meta) -> Result<()> {
    let at = place(kind, id);
    let Some(value) = value else {
        let old = conn
            .prepare_cached("DELETE FROM records WHERE kind = ?1 AND id = ?2")
            .and_then(|mut s| s.execute([kind, id]))
            .at(&at)?;
        meta.records -= old as u64;
        return Ok(());
    };
    let crc = crc(kind, id, value);
    // One that is there keeps its place in both trees.
    let old = conn
        .prepare_cached("UPDATE records SET crc = ?3, value = ?4 WHERE kind = ?1 AND id = ?2")
        .and_then(|mut s| s.execute(params![kind, id, crc, value]))
        .at(&at)?;
    if old == 0 {
        conn.prepare_cached("INSERT INTO records VALUES (?1, ?2, ?3, ?4, ?5)")
            .and_then(|mut s| s.execute(params![kind, id, hash([kind, id]), crc, value]))
            .at(&at)?;
        meta.records += 1;
    }
    Ok(())
}

/// A record's value.
pub(crate) fn find(conn: &Connection, kind: &str, id: &str) -> Result<Option<Bytes>> {
    let at = place(kind, id);
    let found = {
        let mut statement =
            conn.prepare_cached("SELECT kind, id, crc, value FROM records WHERE kind = ?1 AND id = ?2").at(&at)?;
        let mut rows = statement.query([kind, id]).at(&at)?;
        rows.next().at(&at)?.map(decode).transpose()?
    };
    if let Some((_, _, value)) = found {
        return Ok(Some(value));
    }
    let other = conn
        .prepare_cached("SELECT 1 FROM records INDEXED BY records_hash WHERE hash = ?3 AND kind = ?1 AND id = ?2")
        .and_then(|mut s| s.query_row(params![kind, id, hash([kind, id])], |_| Ok(())).optional())
        .at(&at)?;
    match other {
        None => Ok(None),
        Some(()) => Err(Fault::corrupt(at, "the record is in its index but not in the table")),
    }
}

/// Records of a kind whose id begins with `prefix` and is above `after`, at most `limit`, in id order.
pub(crate) fn list(
    conn: &Connection,
    kind: &str,
    prefix: &str,
    after: &str,
    limit: usize,
) -> Result<BTreeMap<String, Bytes>> {
    let at = "longhaul.db: records";
    let mut statement = conn
        .prepare_cached("SELECT kind, id, crc, value FROM records WHERE kind = ?1 AND id >= ?2 ORDER BY id LIMIT ?3")
        .at(at)?;
    // Nothing is between an id and the same with a NUL behind it.
    let above = format!("{after}\0");
    let from = if after.is_empty() || above.as_str() < prefix { prefix } else { &above };
    let mut rows = statement.query(params![kind, from, i64::try_from(limit).unwrap_or(i64::MAX)]).at(at)?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().at(at)? {
        let (_, id, value) = decode(row)?;
        if !id.starts_with(prefix) {
            break;
        }
        found.insert(id, value);
    }
    Ok(found)
}

/// Every record, for a check of the whole.
pub(crate) fn each(conn: &Connection, mut each: impl FnMut(Result<(String, String, Bytes)>)) -> Result<()> {
    let at = "longhaul.db: records";
    let mut statement = conn.prepare("SELECT kind, id, crc, value FROM records ORDER BY kind, id").at(at)?;
    let mut rows = statement.query([]).at(at)?;
    while let Some(row) = rows.next().at(at)? {
        each(decode(row));
    }
    Ok(())
}
