//! Chunks: the applied events of a stream, one after the other.
//!
//! Job: append events, merging small chunks at the end so that a stream of single events does not end as a million rows;
//! read events after a seq; remove chunks that retention has left behind. Owns: table `chunks`. Never: changes a byte of
//! an event.
//!
//! A chunk of a stream of lines has a newline after each and needs nothing else. One of opaque events has them back to
//! back, and their lengths beside them as LEB128 numbers, one after the other.
//!
//! A chunk at the end is merged with what comes if it is at most twice as large and at most half a full chunk: each byte
//! is rewritten a logarithmic number of times, and at most a handful of small chunks stand at the end.

use bytes::Bytes;
use longhaul_model::{Seq, StreamId};
use longhaul_store::{Form, ReadLimit, StoredEvent};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::entry::number;
use crate::error::{At, Fault, Result};
use crate::limits::CHUNK_BYTES;

pub(crate) const TABLE: &str = "CREATE TABLE chunks (id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, first_byte INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL)";
pub(crate) const BY_PLACE: &str = "CREATE UNIQUE INDEX chunks_place ON chunks (stream, first_seq)";
pub(crate) const LENGTHS: &str = "ALTER TABLE chunks ADD COLUMN lengths BLOB";
pub(crate) const TABLE_V2: &str = "CREATE TABLE chunks (id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, first_byte INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL, lengths BLOB)";

const COLUMNS: &str = "stream, first_seq, last_seq, first_byte, crc, body, lengths";

/// A chunk: events one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) stream: StreamId,
    pub(crate) first: Seq,
    pub(crate) last: Seq,
    pub(crate) first_byte: u64,
    pub(crate) body: Bytes,
    /// Of opaque events.
    pub(crate) lengths: Option<Vec<u8>>,
}

/// Events of a stream to be appended.
pub(crate) struct Run<'a> {
    pub(crate) form: Form,
    /// The seq of the first of them.
    pub(crate) first: Seq,
    /// Where the stream's bytes end before them.
    pub(crate) first_byte: u64,
    pub(crate) events: &'a [&'a Bytes],
}

/// Whole events as they lie there.
#[derive(Debug, Default)]
pub(crate) struct Stretch {
    pub(crate) body: Vec<Bytes>,
    pub(crate) lengths: Vec<u32>,
}

fn place(stream: StreamId, first: Seq) -> String {
    format!("longhaul.db: chunks, stream {stream}, first_seq {first}")
}

fn crc(stream: StreamId, first: u64, last: u64, first_byte: u64, body: &[u8], lengths: Option<&[u8]>) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for number in [stream.get(), first, last, first_byte] {
        crc.update(&number.to_le_bytes());
    }
    crc.update(body);
    if let Some(lengths) = lengths {
        crc.update(lengths);
        crc.update(&(lengths.len() as u64).to_le_bytes());
    }
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
            lengths: row.get(6).at(&at)?,
        };
        let stored: u32 = row.get(4).at(&at)?;
        let lengths = chunk.lengths.as_deref();
        if stored != crc(stream, first.get(), chunk.last.get(), chunk.first_byte, &chunk.body, lengths) {
            return Err(Fault::corrupt(at, "the checksum does not hold"));
        }
        Ok(chunk)
    }

    /// Bytes between two events.
    fn newline(&self) -> usize {
        usize::from(self.lengths.is_none())
    }

    /// The length of each event, without its newline.
    fn sizes(&self) -> Result<Vec<u32>> {
        let count = (self.last.get() + 1).saturating_sub(self.first.get()) as usize;
        let mut sizes = Vec::with_capacity(count.min(self.body.len()));
        let mut end = 0;
        if let Some(lengths) = &self.lengths {
            let mut length = 0_u64;
            let mut shift = 0;
            for byte in lengths {
                length |= u64::from(byte & 0x7f) << (shift & 63);
                shift += 7;
                if *byte < 0x80 {
                    end += length as usize;
                    sizes.push(length as u32);
                    (length, shift) = (0, 0);
                }
            }
        } else {
            for newline in memchr::memchr_iter(b'\n', &self.body) {
                sizes.push((newline - end) as u32);
                end = newline + 1;
            }
        }
        if end != self.body.len() || sizes.len() != count {
            return Err(Fault::corrupt(place(self.stream, self.first), "the events are not as many as the seqs"));
        }
        Ok(sizes)
    }

    /// The events with their seqs.
    pub(crate) fn events(&self) -> Result<Vec<StoredEvent>> {
        let mut start = 0;
        let mut event = |(seq, size): (u64, u32)| {
            let wire = self.body.slice(start..start + size as usize);
            start += wire.len() + self.newline();
            StoredEvent { seq: Seq::new(seq), wire }
        };
        Ok((self.first.get()..).zip(self.sizes()?).map(&mut event).collect())
    }
}

/// Appends events to a stream.
pub(crate) fn append(conn: &Connection, stream: StreamId, run: &Run<'_>) -> Result<()> {
    let at = place(stream, run.first);
    let newline = usize::from(run.form == Form::Lines);
    let added: usize = run.events.iter().map(|event| event.len() + newline).sum();
    let (mut first, mut first_byte, mut gathered) = (run.first.get(), run.first_byte, added);
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
        if chunk.lengths.is_some() != (run.form == Form::Opaque) {
            return Err(Fault::corrupt(place(stream, chunk.first), "the chunk is of another form than its stream"));
        }
        conn.prepare_cached("DELETE FROM chunks WHERE stream = ?1 AND first_seq = ?2")
            .and_then(|mut s| s.execute([stream.get(), before]))
            .at(&at)?;
        first = before;
        first_byte = chunk.first_byte;
        gathered += bytes;
        merged.push(chunk);
    }
    let mut new = Chunk {
        stream,
        first: Seq::new(first),
        last: Seq::new(first - 1),
        first_byte,
        body: Bytes::new(),
        lengths: (run.form == Form::Opaque).then(Vec::new),
    };
    let mut body = Vec::with_capacity(gathered.min(2 * CHUNK_BYTES));
    for chunk in merged.iter().rev() {
        body.extend_from_slice(&chunk.body);
        if let (Some(all), Some(lengths)) = (&mut new.lengths, &chunk.lengths) {
            all.extend_from_slice(lengths);
        }
        new.last = chunk.last;
    }
    for event in run.events {
        if !body.is_empty() && body.len() + event.len() >= CHUNK_BYTES {
            insert(conn, &new, &body, &at)?;
            new.first = new.last.next();
            new.first_byte += body.len() as u64;
            body.clear();
            new.lengths.iter_mut().for_each(Vec::clear);
        }
        body.extend_from_slice(event);
        match &mut new.lengths {
            Some(lengths) => number(lengths, event.len() as u64),
            None => body.push(b'\n'),
        }
        new.last = new.last.next();
    }
    insert(conn, &new, &body, &at)
}

/// Removes chunks that hold nothing that is kept.
pub(crate) fn trim(conn: &Connection, stream: StreamId, earliest: Seq) -> Result<()> {
    conn.prepare_cached("DELETE FROM chunks WHERE stream = ?1 AND first_seq < ?2 AND last_seq < ?2")
        .and_then(|mut s| s.execute([stream.get(), earliest.get()]))
        .at(&place(stream, Seq::new(1)))
        .map(|_| ())
}

/// Whether there is a chunk of the stream.
pub(crate) fn exist(conn: &Connection, stream: StreamId) -> Result<bool> {
    conn.prepare_cached("SELECT 1 FROM chunks WHERE stream = ?1")
        .and_then(|mut s| s.exists([stream.get()]))
        .at(&place(stream, Seq::new(1)))
}

fn insert(conn: &Connection, chunk: &Chunk, body: &[u8], at: &str) -> Result<()> {
    let Chunk { stream, first, last, first_byte, lengths, .. } = chunk;
    let crc = crc(*stream, first.get(), last.get(), *first_byte, body, lengths.as_deref());
    conn.prepare_cached("INSERT INTO chunks (stream, first_seq, last_seq, first_byte, crc, body, lengths) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")
        .and_then(|mut s| s.execute(params![stream.get(), first.get(), last.get(), first_byte, crc, body, lengths]))
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
    let mut bytes = 0;
    walk(conn, stream, after, tail, |chunk, skip| {
        for event in chunk.events()?.into_iter().skip(skip) {
            bytes += event.wire.len();
            if !events.is_empty() && (events.len() >= limit.events_max || bytes > limit.bytes_max) {
                return Ok(false);
            }
            events.push(event);
        }
        Ok(true)
    })?;
    Ok(events)
}

/// The same as a stretch, of at most `bytes_max` bytes but at least one event.
pub(crate) fn read_stretch(
    conn: &Connection,
    stream: StreamId,
    after: Seq,
    tail: Seq,
    bytes_max: usize,
) -> Result<Stretch> {
    let mut stretch = Stretch::default();
    let mut bytes = 0;
    walk(conn, stream, after, tail, |chunk, skip| {
        let sizes = chunk.sizes()?;
        let newline = chunk.newline();
        let start: usize = sizes[..skip].iter().map(|size| *size as usize + newline).sum();
        let rest = chunk.body.len() - start;
        if bytes + rest <= bytes_max {
            bytes += rest;
            stretch.body.push(chunk.body.slice(start..));
            stretch.lengths.extend_from_slice(&sizes[skip..]);
            return Ok(bytes < bytes_max);
        }
        let mut end = start;
        for size in &sizes[skip..] {
            let next = end + *size as usize + newline;
            if !stretch.lengths.is_empty() && bytes + (next - start) > bytes_max {
                break;
            }
            stretch.lengths.push(*size);
            end = next;
        }
        if end > start {
            stretch.body.push(chunk.body.slice(start..end));
        }
        Ok(false)
    })?;
    Ok(stretch)
}

/// Gives the chunks from the one with the event after `after` on, each with how many of its events are before that,
/// until `each` answers false or the tail is reached.
fn walk(
    conn: &Connection,
    stream: StreamId,
    after: Seq,
    tail: Seq,
    mut each: impl FnMut(&Chunk, usize) -> Result<bool>,
) -> Result<()> {
    if after >= tail {
        return Ok(());
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
    while let Some(row) = rows.next().at(&at)? {
        let chunk = Chunk::decode(row)?;
        if chunk.first > next || chunk.last < next || chunk.stream != stream {
            return Err(Fault::corrupt(place(stream, next), "the chunk is missing"));
        }
        if !each(&chunk, (next.get() - chunk.first.get()) as usize)? {
            return Ok(());
        }
        next = chunk.last.next();
        if chunk.last >= tail {
            break;
        }
    }
    if next <= tail {
        return Err(Fault::corrupt(place(stream, next), "the chunk is missing"));
    }
    Ok(())
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
