//! Chunks: the applied events of a stream as contiguous lines.
//!
//! Job: append lines, merging small chunks at the end so that a stream of single events does not end as a million rows;
//! read lines after a seq. Owns: table `chunks`. Never: changes a byte of a line.
//!
//! A chunk at the end is merged with what comes if it is at most twice as large and at most half a full chunk: each byte
//! is rewritten a logarithmic number of times, and at most a handful of small chunks stand at the end.

use bytes::Bytes;
use longhaul_model::{Seq, StreamId};
use longhaul_store::{ReadLimit, StoredEvent};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::error::{At, Fault, Result};
use crate::limits::CHUNK_BYTES;

pub(crate) const TABLE: &str = "CREATE TABLE chunks (id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, first_byte INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL)";
pub(crate) const BY_PLACE: &str = "CREATE UNIQUE INDEX chunks_place ON chunks (stream, first_seq)";

const COLUMNS: &str = "stream, first_seq, last_seq, first_byte, crc, body";

/// A chunk: lines with a newline after each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) stream: StreamId,
    pub(crate) first: Seq,
    pub(crate) last: Seq,
    pub(crate) first_byte: u64,
    pub(crate) body: Bytes,
}

fn place(stream: StreamId, first: Seq) -> String {
    format!("longhaul.db: chunks, stream {stream}, first_seq {first}")
}

fn crc(stream: StreamId, first: u64, last: u64, first_byte: u64, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for number in [stream.get(), first, last, first_byte] {
        crc.update(&number.to_le_bytes());
    }
    crc.update(body);
    crc.finalize()
}

impl Chunk {
    fn decode(row: &Row<'_>) -> Result<Self> {
        let at = "longhaul.db: chunks";
        let stream = StreamId::new(row.get(0).at(at)?);
        let first = Seq::new(row.get(1).at(at)?);
        let at = place(stream, first);
        let chunk = Self {
            stream,
            first,
            last: Seq::new(row.get(2).at(&at)?),
            first_byte: row.get(3).at(&at)?,
            body: row.get::<_, Vec<u8>>(5).at(&at)?.into(),
        };
        let stored: u32 = row.get(4).at(&at)?;
        if stored != crc(stream, first.get(), chunk.last.get(), chunk.first_byte, &chunk.body) {
            return Err(Fault::corrupt(at, "the checksum does not hold"));
        }
        Ok(chunk)
    }

    /// The lines with their seqs.
    pub(crate) fn lines(&self) -> Result<Vec<StoredEvent>> {
        let mut events = Vec::with_capacity((self.last.get() - self.first.get() + 1) as usize);
        let mut seq = self.first;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &self.body) {
            events.push(StoredEvent { seq, wire: self.body.slice(start..end) });
            seq = seq.next();
            start = end + 1;
        }
        if start != self.body.len() || seq != self.last.next() {
            return Err(Fault::corrupt(place(self.stream, self.first), "the lines are not as many as the seqs"));
        }
        Ok(events)
    }
}

/// Appends lines, each with its newline, to the stream whose bytes end at `first_byte`.
pub(crate) fn append(conn: &Connection, stream: StreamId, first: Seq, lines: &[&Bytes], first_byte: u64) -> Result<()> {
    let at = place(stream, first);
    let added: usize = lines.iter().map(|line| line.len() + 1).sum();
    let (mut first, mut first_byte, mut gathered) = (first.get(), first_byte, added);
    // Small chunks at the end, newest first.
    let mut merged: Vec<Chunk> = Vec::new();
    while let Some((before, bytes)) = last_before(conn, stream, first, &at)? {
        if bytes > 2 * gathered || bytes > CHUNK_BYTES / 2 {
            break;
        }
        let chunk = read_one(conn, stream, before)?;
        if chunk.last.get() + 1 != first || chunk.first_byte + chunk.body.len() as u64 != first_byte {
            return Err(Fault::corrupt(place(stream, chunk.first), "the chunk does not reach to the next one"));
        }
        conn.prepare_cached("DELETE FROM chunks WHERE stream = ?1 AND first_seq = ?2")
            .and_then(|mut s| s.execute([stream.get(), before]))
            .at(&at)?;
        first = before;
        first_byte = chunk.first_byte;
        gathered += bytes;
        merged.push(chunk);
    }
    let mut body = Vec::with_capacity(gathered.min(2 * CHUNK_BYTES));
    let mut last = first - 1;
    for chunk in merged.iter().rev() {
        body.extend_from_slice(&chunk.body);
        last = chunk.last.get();
    }
    for line in lines {
        if !body.is_empty() && body.len() + line.len() >= CHUNK_BYTES {
            insert(conn, stream, (first, last), first_byte, &body, &at)?;
            first = last + 1;
            first_byte += body.len() as u64;
            body.clear();
        }
        body.extend_from_slice(line);
        body.push(b'\n');
        last += 1;
    }
    insert(conn, stream, (first, last), first_byte, &body, &at)
}

fn insert(
    conn: &Connection,
    stream: StreamId,
    (first, last): (u64, u64),
    first_byte: u64,
    body: &[u8],
    at: &str,
) -> Result<()> {
    let crc = crc(stream, first, last, first_byte, body);
    conn.prepare_cached(
        "INSERT INTO chunks (stream, first_seq, last_seq, first_byte, crc, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )
    .and_then(|mut s| s.execute(params![stream.get(), first, last, first_byte, crc, body]))
    .at(at)
    .map(|_| ())
}

/// First seq and size of the last chunk that begins before `first`.
fn last_before(conn: &Connection, stream: StreamId, first: u64, at: &str) -> Result<Option<(u64, usize)>> {
    conn.prepare_cached(
        "SELECT first_seq, length(body) FROM chunks WHERE stream = ?1 AND first_seq < ?2 ORDER BY first_seq DESC LIMIT 1",
    )
    .and_then(|mut s| s.query_row([stream.get(), first], |row| Ok((row.get(0)?, row.get(1)?))).optional())
    .at(at)
}

fn read_one(conn: &Connection, stream: StreamId, first: u64) -> Result<Chunk> {
    let at = place(stream, Seq::new(first));
    let sql = format!("SELECT {COLUMNS} FROM chunks WHERE stream = ?1 AND first_seq = ?2");
    let mut statement = conn.prepare_cached(&sql).at(&at)?;
    let mut rows = statement.query([stream.get(), first]).at(&at)?;
    match rows.next().at(&at)? {
        Some(row) => Chunk::decode(row),
        None => Err(Fault::corrupt(at, "the chunk is in the index but not in the table")),
    }
}

/// Events after a seq, bounded by `limit` but at least one. `tail` is what the stream's head says at the same instant.
pub(crate) fn read(
    conn: &Connection,
    stream: StreamId,
    after: Seq,
    tail: Seq,
    limit: ReadLimit,
) -> Result<Vec<StoredEvent>> {
    let mut events: Vec<StoredEvent> = Vec::new();
    if after >= tail {
        return Ok(events);
    }
    let at = place(stream, after.next());
    let start: Option<u64> = conn
        .prepare_cached(
            "SELECT first_seq FROM chunks WHERE stream = ?1 AND first_seq <= ?2 ORDER BY first_seq DESC LIMIT 1",
        )
        .and_then(|mut s| s.query_row([stream.get(), after.get() + 1], |row| row.get(0)).optional())
        .at(&at)?;
    let Some(start) = start else { return Err(Fault::corrupt(at, "the chunk is missing")) };
    let sql = format!("SELECT {COLUMNS} FROM chunks WHERE stream = ?1 AND first_seq >= ?2 ORDER BY first_seq");
    let mut statement = conn.prepare_cached(&sql).at(&at)?;
    let mut rows = statement.query([stream.get(), start]).at(&at)?;
    let mut next = after.next();
    let mut bytes = 0;
    while let Some(row) = rows.next().at(&at)? {
        let chunk = Chunk::decode(row)?;
        if chunk.first > next || chunk.last < next || chunk.stream != stream {
            return Err(Fault::corrupt(place(stream, next), "the chunk is missing"));
        }
        let skip = (next.get() - chunk.first.get()) as usize;
        for event in chunk.lines()?.into_iter().skip(skip) {
            bytes += event.wire.len();
            if !events.is_empty() && (events.len() >= limit.events_max || bytes > limit.bytes_max) {
                return Ok(events);
            }
            events.push(event);
        }
        next = chunk.last.next();
        if chunk.last >= tail {
            break;
        }
    }
    if next <= tail {
        return Err(Fault::corrupt(place(stream, next), "the chunk is missing"));
    }
    Ok(events)
}

/// Erases a stream's chunks.
pub(crate) fn erase(conn: &Connection, stream: StreamId) -> Result<()> {
    conn.execute("DELETE FROM chunks WHERE stream = ?1", [stream.get()]).at(&place(stream, Seq::new(1))).map(|_| ())
}

/// Every chunk, by stream and seq, for a check of the whole.
pub(crate) fn each(conn: &Connection, mut each: impl FnMut(Result<Chunk>)) -> Result<()> {
    let at = "longhaul.db: chunks";
    let sql = format!("SELECT {COLUMNS} FROM chunks ORDER BY stream, first_seq");
    let mut statement = conn.prepare(&sql).at(at)?;
    let mut rows = statement.query([]).at(at)?;
    while let Some(row) = rows.next().at(at)? {
        each(Chunk::decode(row));
    }
    Ok(())
}
