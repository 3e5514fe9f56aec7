//! What the cases are made of: keys, rows, events, commits, and a generator of fixed random numbers.

use std::collections::BTreeMap;

use bytes::Bytes;
use longhaul_model::{Epoch, ProjectId, RunId, RunKey, Seq, Status, StreamId, Timestamp};

use crate::{
    Commit, Committed, EventPage, Form, NewRun, NewStream, ReadLimit, RecordKey, RecordWrite, RunRow, Store,
    StreamWrite,
};

/// A run's key.
///
/// # Panics
/// If a part is not an id.
pub fn key(project: &str, run: &str) -> RunKey {
    RunKey { project: ProjectId::parse(project).expect("an id"), run: RunId::parse(run).expect("an id") }
}

/// A queued run's row; the store fills in stream and last seq.
pub fn row(key: &RunKey) -> RunRow {
    RunRow {
        key: key.clone(),
        stream: StreamId::new(0),
        status: Status::Queued,
        harness: "exec".into(),
        digest: format!("digest-of-{}", key.run),
        tags: BTreeMap::new(),
        created_at: Timestamp::from_unix_ms(1_700_000_000_000),
        ended_at: None,
        last_seq: Seq::ZERO,
        doc: Bytes::from_static(b"{}"),
    }
}

/// The wire bytes of an event as the engine would write it, some 200 of them.
pub fn event(key: &RunKey, seq: u64, text: &str) -> Bytes {
    Bytes::from(format!(
        r#"{{"run_id":"{}","seq":{seq},"ts":"2026-11-21T09:40:00.007Z","type":"output.line","subject":{{"kind":"run","id":"{}"}},"source":{{"kind":"process","name":"exec"}},"data":{{"stream":"stdout","text":"{text}","eol":true}}}}"#,
        key.run, key.run
    ))
}

/// Consecutive events.
pub fn events(key: &RunKey, first: u64, count: u64) -> Vec<Bytes> {
    (first..first + count).map(|seq| event(key, seq, &format!("line {seq}"))).collect()
}

/// A commit that creates a run with events, the first of which enters the feed.
pub fn create(key: &RunKey, count: u64) -> Commit {
    create_row(row(key), count)
}

/// A commit that creates a run from a row.
pub fn create_row(row: RunRow, count: u64) -> Commit {
    let events = events(&row.key, 1, count);
    let feed = (0..events.len().min(1)).collect();
    Commit { create: Some(NewRun { row, epoch: Epoch::new(1), events, feed }), ..Commit::default() }
}

/// A write of events after a tail.
pub fn write(key: &RunKey, stream: StreamId, after: u64, count: u64) -> StreamWrite {
    StreamWrite {
        stream,
        project: key.project.clone(),
        expected_tail: Seq::new(after),
        epoch: Epoch::new(1),
        events: events(key, after + 1, count),
        feed: Vec::new(),
        cursor: None,
        row: None,
        keep_after: None,
    }
}

/// A commit of one write.
pub fn append(key: &RunKey, stream: StreamId, after: u64, count: u64) -> Commit {
    Commit { streams: vec![write(key, stream, after, count)], ..Commit::default() }
}

/// A commit that ends a run with one event.
pub fn finish(key: &RunKey, stream: StreamId, after: u64) -> Commit {
    let mut commit = append(key, stream, after, 1);
    let mut row = row(key);
    row.stream = stream;
    row.status = Status::Completed;
    row.ended_at = Some(Timestamp::from_unix_ms(1_700_000_001_000));
    commit.streams[0].row = Some(row);
    commit
}

/// A project's id.
///
/// # Panics
/// If it is none.
pub fn project(name: &str) -> ProjectId {
    ProjectId::parse(name).expect("an id")
}

/// A message of a plain stream that says its number, of any length up to some hundred bytes.
pub fn message(number: u64) -> Bytes {
    Bytes::from(format!("{{\"message\":{number},\"padding\":\"{}\"}}", "-".repeat((number * 37 % 211) as usize)))
}

/// A commit that opens a plain stream of project `p` with messages.
pub fn open(form: Form, count: u64) -> Commit {
    let events = (1..=count).map(message).collect();
    let new = NewStream { project: project("p"), epoch: Epoch::new(1), form, events, cursor: None };
    Commit { open: Some(new), ..Commit::default() }
}

/// Opens a plain stream and gives its id.
///
/// # Panics
/// If it is refused.
pub async fn opened(store: &dyn Store, form: Form, count: u64) -> StreamId {
    must(store, open(form, count)).await.created.expect("a stream was opened")
}

/// A commit of messages to a plain stream of project `p`.
pub fn to(stream: StreamId, after: u64, events: Vec<Bytes>) -> Commit {
    let write = StreamWrite {
        stream,
        project: project("p"),
        expected_tail: Seq::new(after),
        epoch: Epoch::new(1),
        events,
        feed: Vec::new(),
        cursor: None,
        row: None,
        keep_after: None,
    };
    Commit { streams: vec![write], ..Commit::default() }
}

/// Reads a stream to its end in spans, and checks their promises.
///
/// # Panics
/// If one is broken.
pub async fn read_span(store: &dyn Store, stream: StreamId, form: Form, after: u64, bytes_max: usize) -> Vec<Bytes> {
    let (mut all, mut after) = (Vec::new(), Seq::new(after));
    let newline = usize::from(form == Form::Lines);
    loop {
        let span = store.read_span(stream, after, bytes_max).await.expect("the stream is read");
        assert_eq!((span.first, span.last), (after.next(), after.plus(span.lengths.len() as u64)));
        let body = Bytes::from(span.body.concat());
        assert!(span.lengths.len() <= 1 || body.len() <= bytes_max, "{} bytes of {bytes_max}", body.len());
        let mut start = 0;
        for length in &span.lengths {
            let end = start + *length as usize;
            all.push(body.slice(start..end));
            assert!(form == Form::Opaque || body[end] == b'\n', "a newline stands after a line");
            start = end + newline;
        }
        assert_eq!(start, body.len(), "the lengths are those of the body");
        if span.last == span.tail {
            return all;
        }
        assert!(span.last > after, "a span gets further");
        after = span.last;
    }
}

/// A record to put, or to delete.
pub fn record(kind: &'static str, id: &str, value: Option<&str>) -> RecordWrite {
    let value = value.map(|v| Bytes::from(v.to_owned()));
    RecordWrite { key: RecordKey::new(kind, id), value, only_new: false, stamp: false }
}

/// A commit of records.
pub fn put(records: Vec<RecordWrite>) -> Commit {
    Commit { records, ..Commit::default() }
}

/// Commits, and gives what was committed.
///
/// # Panics
/// If it is refused.
pub async fn must(store: &dyn Store, commit: Commit) -> Committed {
    store.commit(commit).await.expect("the commit is made")
}

/// Creates a run and gives its stream.
///
/// # Panics
/// If it is refused.
pub async fn made(store: &dyn Store, key: &RunKey, count: u64) -> StreamId {
    must(store, create(key, count)).await.created.expect("a run was created")
}

/// Reads a stream to its end, page by page, and checks that it is dense.
///
/// # Panics
/// If it is not.
pub async fn read_all(store: &dyn Store, stream: StreamId) -> Vec<Bytes> {
    read_pages(store, stream, ReadLimit::default()).await
}

/// The same with pages of a given size.
///
/// # Panics
/// If it is not dense.
pub async fn read_pages(store: &dyn Store, stream: StreamId, limit: ReadLimit) -> Vec<Bytes> {
    let mut all = Vec::new();
    loop {
        let after = Seq::new(all.len() as u64);
        let page: EventPage = store.read(stream, after, limit).await.expect("the stream is read");
        assert!(page.tail >= after, "the tail never goes back");
        if page.events.is_empty() {
            assert_eq!(page.tail, after, "a page is empty at the tail alone");
            return all;
        }
        for event in page.events {
            assert_eq!(event.seq.get(), all.len() as u64 + 1, "seqs are dense");
            all.push(event.wire);
        }
    }
}

/// Splitmix64: the same numbers from the same seed.
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
