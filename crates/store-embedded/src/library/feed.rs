//! The lifecycle feed.
//!
//! Job: append entries at dense positions, blank those of an erased run, read pages. Owns: table `feed`.
//! Never: renumbers.

use bytes::Bytes;
use longhaul_model::{ProjectId, Seq, StreamId};
use rusqlite::{Connection, Row, params};

use crate::error::{At, Fault, Result};

pub(crate) const TABLE: &str = "CREATE TABLE feed (position INTEGER PRIMARY KEY, project TEXT NOT NULL, stream INTEGER NOT NULL, crc INTEGER NOT NULL, wire BLOB)";
pub(crate) const BY_STREAM: &str = "CREATE INDEX feed_stream ON feed (stream)";

/// An entry; without bytes once its run is erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) project: ProjectId,
    pub(crate) stream: StreamId,
    pub(crate) wire: Option<Bytes>,
}

fn place(position: u64) -> String {
    format!("longhaul.db: feed, position {position}")
}

fn crc(position: u64, slot: &Slot) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&position.to_le_bytes());
    crc.update(&slot.stream.get().to_le_bytes());
    crc.update(slot.project.as_str().as_bytes());
    crc.update(&[0, u8::from(slot.wire.is_some())]);
    crc.update(slot.wire.as_deref().unwrap_or_default());
    crc.finalize()
}

fn decode(row: &Row<'_>) -> Result<(u64, Slot)> {
    let position: u64 = row.get(0).at("longhaul.db: feed")?;
    let at = place(position);
    let project: String = row.get(1).at(&at)?;
    let slot = Slot {
        project: ProjectId::parse(&project).map_err(|_| Fault::corrupt(at.as_str(), "the project is not an id"))?,
        stream: StreamId::new(row.get(2).at(&at)?),
        wire: row.get::<_, Option<Vec<u8>>>(4).at(&at)?.map(Bytes::from),
    };
    if row.get::<_, u32>(3).at(&at)? != crc(position, &slot) {
        return Err(Fault::corrupt(at, "the checksum does not hold"));
    }
    Ok((position, slot))
}

/// Puts an entry.
pub(crate) fn put(conn: &Connection, position: u64, slot: &Slot) -> Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO feed VALUES (?1, ?2, ?3, ?4, ?5)")
        .and_then(|mut s| {
            s.execute(params![
                position,
                slot.project.as_str(),
                slot.stream.get(),
                crc(position, slot),
                slot.wire.as_deref()
            ])
        })
        .at(&place(position))
        .map(|_| ())
}

/// Blanks the entries of an erased run.
pub(crate) fn erase(conn: &Connection, stream: StreamId) -> Result<()> {
    let at = "longhaul.db: feed";
    let blanks = {
        let mut statement = conn.prepare_cached("SELECT * FROM feed WHERE stream = ?1").at(at)?;
        let mut rows = statement.query([stream.get()]).at(at)?;
        let mut blanks = Vec::new();
        while let Some(row) = rows.next().at(at)? {
            let (position, slot) = decode(row)?;
            blanks.push((position, Slot { wire: None, ..slot }));
        }
        blanks
    };
    blanks.iter().try_for_each(|(position, slot)| put(conn, *position, slot))
}

/// Gives entries after a position up to and with `upto`, until `each` answers false.
pub(crate) fn scan(conn: &Connection, after: Seq, upto: Seq, mut each: impl FnMut(u64, Slot) -> bool) -> Result<()> {
    let at = "longhaul.db: feed";
    let mut statement =
        conn.prepare_cached("SELECT * FROM feed WHERE position > ?1 AND position <= ?2 ORDER BY position").at(at)?;
    let mut rows = statement.query([after.get(), upto.get()]).at(at)?;
    let mut expected = after.get() + 1;
    while let Some(row) = rows.next().at(at)? {
        let (position, slot) = decode(row)?;
        if position != expected {
            return Err(Fault::corrupt(place(expected), "the entry is missing"));
        }
        if !each(position, slot) {
            return Ok(());
        }
        expected += 1;
    }
    if expected != upto.get() + 1 {
        return Err(Fault::corrupt(place(expected), "the entry is missing"));
    }
    Ok(())
}
