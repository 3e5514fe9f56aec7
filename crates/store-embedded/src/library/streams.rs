//! The heads of streams.
//!
//! Job: read, put and erase the state that the last applied commit left. Owns: table `streams`. Never: sees a log.

use bytes::Bytes;
use longhaul_model::{Epoch, Seq, StreamId};
use rusqlite::{Connection, Row, params};

use crate::error::{At, Fault, Result};

pub(crate) const TABLE: &str = "CREATE TABLE streams (stream INTEGER PRIMARY KEY, tail INTEGER NOT NULL, epoch INTEGER NOT NULL, earliest INTEGER NOT NULL, bytes INTEGER NOT NULL, closed INTEGER NOT NULL, cursor BLOB, crc INTEGER NOT NULL)";

/// A stream's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamHead {
    pub(crate) tail: Seq,
    pub(crate) epoch: Epoch,
    /// The first seq that is kept.
    pub(crate) earliest: Seq,
    /// Bytes of all events with a newline after each, those no longer kept included.
    pub(crate) bytes: u64,
    pub(crate) closed: bool,
    pub(crate) cursor: Option<Bytes>,
}

impl StreamHead {
    /// Of a stream that is just made.
    pub(crate) fn empty() -> Self {
        Self { tail: Seq::ZERO, epoch: Epoch::new(0), earliest: Seq::new(1), bytes: 0, closed: false, cursor: None }
    }

    fn crc(&self, stream: StreamId) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        let numbers = [stream.get(), self.tail.get(), self.epoch.get(), self.earliest.get(), self.bytes];
        for number in numbers {
            crc.update(&number.to_le_bytes());
        }
        crc.update(&[u8::from(self.closed), u8::from(self.cursor.is_some())]);
        crc.update(self.cursor.as_deref().unwrap_or_default());
        crc.finalize()
    }
}

fn place(stream: StreamId) -> String {
    format!("longhaul.db: streams, stream {stream}")
}

fn decode(row: &Row<'_>) -> Result<(StreamId, StreamHead)> {
    let stream = StreamId::new(row.get(0).at("longhaul.db: streams")?);
    let at = place(stream);
    let head = StreamHead {
        tail: Seq::new(row.get(1).at(&at)?),
        epoch: Epoch::new(row.get::<_, i64>(2).at(&at)? as u64),
        earliest: Seq::new(row.get(3).at(&at)?),
        bytes: row.get(4).at(&at)?,
        closed: row.get(5).at(&at)?,
        cursor: row.get::<_, Option<Vec<u8>>>(6).at(&at)?.map(Bytes::from),
    };
    if row.get::<_, u32>(7).at(&at)? != head.crc(stream) {
        return Err(Fault::corrupt(at, "the checksum does not hold"));
    }
    Ok((stream, head))
}

/// A stream's head, if it is kept.
pub(crate) fn find(conn: &Connection, stream: StreamId) -> Result<Option<StreamHead>> {
    let at = place(stream);
    let mut statement = conn.prepare_cached("SELECT * FROM streams WHERE stream = ?1").at(&at)?;
    let mut rows = statement.query([stream.get()]).at(&at)?;
    match rows.next().at(&at)?.map(decode).transpose()? {
        Some((_, head)) => Ok(Some(head)),
        None if super::runs::exists(conn, stream)? => Err(Fault::corrupt(at, "the run has no stream")),
        None => Ok(None),
    }
}

/// Puts a head.
pub(crate) fn put(conn: &Connection, stream: StreamId, head: &StreamHead) -> Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO streams VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")
        .and_then(|mut s| {
            s.execute(params![
                stream.get(),
                head.tail.get(),
                head.epoch.get() as i64,
                head.earliest.get(),
                head.bytes,
                head.closed,
                head.cursor.as_deref(),
                head.crc(stream)
            ])
        })
        .at(&place(stream))
        .map(|_| ())
}

/// Erases a head.
pub(crate) fn erase(conn: &Connection, stream: StreamId) -> Result<()> {
    conn.execute("DELETE FROM streams WHERE stream = ?1", [stream.get()]).at(&place(stream)).map(|_| ())
}

/// Every head, for a check of the whole.
pub(crate) fn each(conn: &Connection, mut each: impl FnMut(Result<(StreamId, StreamHead)>)) -> Result<()> {
    let mut statement = conn.prepare("SELECT * FROM streams ORDER BY stream").at("longhaul.db: streams")?;
    let mut rows = statement.query([]).at("longhaul.db: streams")?;
    while let Some(row) = rows.next().at("longhaul.db: streams")? {
        each(decode(row));
    }
    Ok(())
}
