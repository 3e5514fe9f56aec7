//! What the journal keeps of a commit, and its binary form.
//!
//! Job: the effects of a checked commit with everything the store assigned to it (stream ids, seqs, feed positions), so
//! that folding it again gives the same result; encoding and decoding. Never: checks a commit.
//!
//! ```text
//! body   = version:u8 entry*
//! entry  = streams:n stream*, records:n record*, erase:0|1 [key stream], drop:n stream*, feed_first
//! stream = flags(created|cursor|row|plain|opaque|trimmed) stream first_seq epoch project bytes [earliest]
//!          events:n text*, feed:n index*, [cursor], [row]
//! n, ids and lengths are LEB128; texts and bytes carry their length in front
//! ```
//!
//! Version 1 has neither `drop`, `bytes` nor `earliest`, and none of the last three flags.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use longhaul_model::{Epoch, ProjectId, RunId, RunKey, Seq, Status, StreamId, Timestamp};
use longhaul_store::{Form, RunRow};

/// The form that this release writes; it reads this and all before.
pub(crate) const VERSION: u8 = 2;

const CREATED: u8 = 1;
const CURSOR: u8 = 2;
const ROW: u8 = 4;
const PLAIN: u8 = 8;
const OPAQUE: u8 = 16;
const TRIMMED: u8 = 32;

/// One commit's effects.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Entry {
    pub(crate) streams: Vec<StreamEntry>,
    pub(crate) records: Vec<RecordEntry>,
    pub(crate) erase: Option<(RunKey, StreamId)>,
    pub(crate) drop: Vec<StreamId>,
    /// The position of the commit's first entry in the feed.
    pub(crate) feed_first: u64,
}

/// What a commit did to one stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StreamEntry {
    pub(crate) stream: StreamId,
    pub(crate) created: bool,
    /// No run's.
    pub(crate) plain: bool,
    pub(crate) form: Form,
    /// The seq of the first event, or of the next to come if there is none.
    pub(crate) first_seq: Seq,
    pub(crate) epoch: Epoch,
    pub(crate) project: ProjectId,
    /// The lengths of all events up to the tail that the entry leaves, together; zero in an entry of version 1.
    pub(crate) bytes: u64,
    /// The first event that is kept then.
    pub(crate) earliest: Seq,
    pub(crate) events: Vec<Bytes>,
    pub(crate) feed: Vec<usize>,
    pub(crate) cursor: Option<Bytes>,
    pub(crate) row: Option<Arc<RunRow>>,
}

impl StreamEntry {
    /// The tail that the entry leaves.
    pub(crate) fn tail(&self) -> Seq {
        Seq::new(self.first_seq.get() + self.events.len() as u64 - 1)
    }

    /// Whether nothing may follow.
    pub(crate) fn closes(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.status.is_terminal())
    }
}

/// A record put or deleted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RecordEntry {
    pub(crate) kind: Cow<'static, str>,
    pub(crate) id: Arc<str>,
    pub(crate) value: Option<Bytes>,
}

/// Why bytes are not an entry: where decoding stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) at: usize,
    pub(crate) what: &'static str,
}

impl Entry {
    /// Appends the entry's binary form.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        number(out, self.streams.len() as u64);
        for s in &self.streams {
            let trimmed = s.earliest > Seq::new(1);
            let flags = [
                (s.created, CREATED),
                (s.cursor.is_some(), CURSOR),
                (s.row.is_some(), ROW),
                (s.plain, PLAIN),
                (s.form == Form::Opaque, OPAQUE),
                (trimmed, TRIMMED),
            ];
            out.push(flags.iter().filter(|(is, _)| *is).fold(0, |all, (_, flag)| all | flag));
            number(out, s.stream.get());
            number(out, s.first_seq.get());
            number(out, s.epoch.get());
            text(out, s.project.as_str().as_bytes());
            number(out, s.bytes);
            if trimmed {
                number(out, s.earliest.get());
            }
            number(out, s.events.len() as u64);
            for event in &s.events {
                text(out, event);
            }
            number(out, s.feed.len() as u64);
            for at in &s.feed {
                number(out, *at as u64);
            }
            if let Some(cursor) = &s.cursor {
                text(out, cursor);
            }
            if let Some(row) = &s.row {
                encode_row(row, out);
            }
        }
        number(out, self.records.len() as u64);
        for record in &self.records {
            text(out, record.kind.as_bytes());
            text(out, record.id.as_bytes());
            out.push(u8::from(record.value.is_some()));
            if let Some(value) = &record.value {
                text(out, value);
            }
        }
        out.push(u8::from(self.erase.is_some()));
        if let Some((key, stream)) = &self.erase {
            text(out, key.project.as_str().as_bytes());
            text(out, key.run.as_str().as_bytes());
            number(out, stream.get());
        }
        number(out, self.drop.len() as u64);
        for stream in &self.drop {
            number(out, stream.get());
        }
        number(out, self.feed_first);
    }
}

/// Decodes the entries of one group; their bytes stay slices of `body`.
pub(crate) fn decode(body: &Bytes) -> Result<Vec<Entry>, Malformed> {
    let mut input = Input { body, at: 0, version: 0 };
    input.version = input.byte()?;
    if !(1..=VERSION).contains(&input.version) {
        return Err(Malformed { at: 0, what: "an unknown version" });
    }
    let mut entries = Vec::new();
    while input.at < body.len() {
        entries.push(input.entry()?);
    }
    Ok(entries)
}

/// The binary form of a row, which its checksum covers too.
pub(crate) fn encode_row(row: &RunRow, out: &mut Vec<u8>) {
    number(out, row.stream.get());
    text(out, row.key.project.as_str().as_bytes());
    text(out, row.key.run.as_str().as_bytes());
    text(out, row.status.as_str().as_bytes());
    text(out, row.harness.as_bytes());
    text(out, row.digest.as_bytes());
    number(out, row.tags.len() as u64);
    for (key, value) in &row.tags {
        text(out, key.as_bytes());
        text(out, value.as_bytes());
    }
    out.extend_from_slice(&row.created_at.unix_ms().to_le_bytes());
    out.push(u8::from(row.ended_at.is_some()));
    if let Some(ended_at) = row.ended_at {
        out.extend_from_slice(&ended_at.unix_ms().to_le_bytes());
    }
    number(out, row.last_seq.get());
    text(out, &row.doc);
}

/// Appends a number as LEB128.
pub(crate) fn number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

struct Input<'a> {
    body: &'a Bytes,
    at: usize,
    version: u8,
}

impl Input<'_> {
    fn wrong<T>(&self, what: &'static str) -> Result<T, Malformed> {
        Err(Malformed { at: self.at, what })
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let Some(byte) = self.body.get(self.at) else { return self.wrong("the end comes too early") };
        self.at += 1;
        Ok(*byte)
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => self.wrong("a flag that is neither 0 nor 1"),
        }
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        self.wrong("a number of more than 64 bits")
    }

    /// A count of things of at least one byte each, so that a wrong one does not reserve the world.
    fn count(&mut self) -> Result<usize, Malformed> {
        let n = self.number()?;
        if n > (self.body.len() - self.at) as u64 {
            return self.wrong("a count beyond the end");
        }
        Ok(n as usize)
    }

    fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let len = self.count()?;
        let bytes = self.body.slice(self.at..self.at + len);
        self.at += len;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<String, Malformed> {
        match String::from_utf8(self.bytes()?.to_vec()) {
            Ok(text) => Ok(text),
            Err(_) => self.wrong("a text that is not UTF-8"),
        }
    }

    fn project(&mut self) -> Result<ProjectId, Malformed> {
        let text = self.text()?;
        ProjectId::parse(&text).or_else(|_| self.wrong("a project that is not an id"))
    }

    fn key(&mut self) -> Result<RunKey, Malformed> {
        let project = self.project()?;
        let text = self.text()?;
        let run = RunId::parse(&text).or_else(|_| self.wrong("a run that is not an id"))?;
        Ok(RunKey { project, run })
    }

    fn timestamp(&mut self) -> Result<Timestamp, Malformed> {
        let mut bytes = [0; 8];
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Ok(Timestamp::from_unix_ms(i64::from_le_bytes(bytes)))
    }

    fn entry(&mut self) -> Result<Entry, Malformed> {
        let streams = (0..self.count()?).map(|_| self.stream()).collect::<Result<_, _>>()?;
        let records = (0..self.count()?).map(|_| self.record()).collect::<Result<_, _>>()?;
        let erase = if self.flag()? { Some((self.key()?, StreamId::new(self.number()?))) } else { None };
        let dropped = if self.version < 2 { 0 } else { self.count()? };
        let drop = (0..dropped).map(|_| self.number().map(StreamId::new)).collect::<Result<_, _>>()?;
        Ok(Entry { streams, records, erase, drop, feed_first: self.number()? })
    }

    fn stream(&mut self) -> Result<StreamEntry, Malformed> {
        let flags = self.byte()?;
        let stream = StreamId::new(self.number()?);
        let first_seq = Seq::new(self.number()?);
        let epoch = Epoch::new(self.number()?);
        let project = self.project()?;
        let bytes = if self.version < 2 { 0 } else { self.number()? };
        let earliest = if flags & TRIMMED == 0 { Seq::new(1) } else { Seq::new(self.number()?) };
        let events = (0..self.count()?).map(|_| self.bytes()).collect::<Result<Vec<_>, _>>()?;
        let mut feed = Vec::new();
        for _ in 0..self.count()? {
            let at = self.number()? as usize;
            if at >= events.len() {
                return self.wrong("a feed index beyond the events");
            }
            feed.push(at);
        }
        let cursor = if flags & CURSOR == 0 { None } else { Some(self.bytes()?) };
        let row = if flags & ROW == 0 { None } else { Some(Arc::new(self.row()?)) };
        if first_seq == Seq::ZERO {
            return self.wrong("a first seq of zero");
        }
        let form = if flags & OPAQUE == 0 { Form::Lines } else { Form::Opaque };
        let (created, plain) = (flags & CREATED != 0, flags & PLAIN != 0);
        let written = StreamEntry {
            stream,
            created,
            plain,
            form,
            first_seq,
            epoch,
            project,
            bytes,
            earliest,
            events,
            feed,
            cursor,
            row,
        };
        if earliest == Seq::ZERO || earliest > written.tail().next() {
            return self.wrong("a first kept event beyond the tail");
        }
        Ok(written)
    }

    fn record(&mut self) -> Result<RecordEntry, Malformed> {
        let kind = Cow::Owned(self.text()?);
        let id = self.text()?.into();
        let value = if self.flag()? { Some(self.bytes()?) } else { None };
        Ok(RecordEntry { kind, id, value })
    }

    fn row(&mut self) -> Result<RunRow, Malformed> {
        let stream = StreamId::new(self.number()?);
        let key = self.key()?;
        let Some(status) = Status::parse(&self.text()?) else { return self.wrong("an unknown status") };
        let harness = self.text()?;
        let digest = self.text()?;
        let mut tags = BTreeMap::new();
        for _ in 0..self.count()? {
            tags.insert(self.text()?, self.text()?);
        }
        let created_at = self.timestamp()?;
        let ended_at = if self.flag()? { Some(self.timestamp()?) } else { None };
        let last_seq = Seq::new(self.number()?);
        let doc = self.bytes()?;
        Ok(RunRow { key, stream, status, harness, digest, tags, created_at, ended_at, last_seq, doc })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Entry {
        let key = RunKey { project: ProjectId::parse("p").unwrap(), run: RunId::parse("r").unwrap() };
        let row = RunRow {
            key: key.clone(),
            stream: StreamId::new(7),
            status: Status::Running,
            harness: "exec".into(),
            digest: "d".into(),
            tags: BTreeMap::from([("a".into(), "b".into())]),
            created_at: Timestamp::from_unix_ms(-5),
            ended_at: Some(Timestamp::from_unix_ms(9)),
            last_seq: Seq::new(300),
            doc: Bytes::from_static(b"{}"),
        };
        let stream = StreamEntry {
            stream: StreamId::new(7),
            created: true,
            plain: false,
            form: Form::Lines,
            first_seq: Seq::new(299),
            epoch: Epoch::new(u64::MAX),
            project: key.project.clone(),
            bytes: 77_003,
            earliest: Seq::new(1),
            events: vec![Bytes::from_static(b"one"), Bytes::from(vec![b'x'; 1000])],
            feed: vec![1],
            cursor: Some(Bytes::new()),
            row: Some(Arc::new(row)),
        };
        let plain = StreamEntry {
            stream: StreamId::new(8),
            created: false,
            plain: true,
            form: Form::Opaque,
            events: vec![Bytes::from_static(b"\n\0")],
            feed: vec![],
            earliest: Seq::new(200),
            row: None,
            ..stream.clone()
        };
        let record = RecordEntry { kind: "k".into(), id: "i".into(), value: None };
        Entry {
            streams: vec![stream, plain],
            records: vec![record],
            drop: vec![StreamId::new(5), StreamId::new(1 << 33)],
            erase: Some((key, StreamId::new(3))),
            feed_first: 1 << 40,
        }
    }

    #[test]
    fn entries_come_back_as_they_went() {
        let mut body = vec![VERSION];
        sample().encode(&mut body);
        Entry::default().encode(&mut body);
        assert_eq!(decode(&Bytes::from(body)).unwrap(), vec![sample(), Entry::default()]);
    }

    #[test]
    fn no_cut_and_no_flip_panics() {
        let mut body = vec![VERSION];
        sample().encode(&mut body);
        for cut in 0..body.len() {
            assert!(decode(&Bytes::copy_from_slice(&body[..cut])).is_err() || cut == 1, "cut at {cut}");
        }
        for bit in 0..body.len() * 8 {
            let mut bad = body.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let _ = decode(&Bytes::from(bad));
        }
    }

    /// What the release before this one wrote.
    #[test]
    fn version_1_is_read() {
        let body = b"\x01\x01\x03\x07\x02\x04\x01p\x01\x02{}\x01\x00\x01c\x00\x00\x09";
        let written = StreamEntry {
            stream: StreamId::new(7),
            created: true,
            plain: false,
            form: Form::Lines,
            first_seq: Seq::new(2),
            epoch: Epoch::new(4),
            project: ProjectId::parse("p").unwrap(),
            bytes: 0,
            earliest: Seq::new(1),
            events: vec![Bytes::from_static(b"{}")],
            feed: vec![0],
            cursor: Some(Bytes::from_static(b"c")),
            row: None,
        };
        let entry = Entry { streams: vec![written], feed_first: 9, ..Entry::default() };
        assert_eq!(decode(&Bytes::from_static(body)).unwrap(), vec![entry]);
    }
}
