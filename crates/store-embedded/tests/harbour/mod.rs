//! What the crash, damage and fault tests share: a child that writes, a whole reading of a store, a random source.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use longhaul_model::{RunKey, Seq, Status, StreamId};
use longhaul_store::contract::fixture::{append, create, event, finish, key, open as opening, put, record, to};
use longhaul_store::{
    Commit, CommitError, FeedEntry, Form, Head, ReadLimit, RecordKey, RecordWrite, RunFilter, RunRow, Store, StoreError,
};
use longhaul_store_embedded::{EmbeddedStore, OpenError, Options};

/// How long a fact may take to come true.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// What the store said when it broke down.
pub type Fatal = Arc<Mutex<Vec<String>>>;

/// Options that write down what is fatal, and keep no ballast.
pub fn options(dir: &Path) -> (Options, Fatal) {
    let fatal = Fatal::default();
    let told = Arc::clone(&fatal);
    let mut options = Options::new(dir).on_fatal(move |why| told.lock().unwrap().push(why));
    options.ballast_bytes = 0;
    (options, fatal)
}

/// Opens a store whose breakdown fails the test.
pub fn open(dir: &Path) -> Arc<EmbeddedStore> {
    let mut options = Options::new(dir).on_fatal(|why| panic!("{why}"));
    options.ballast_bytes = 0;
    Arc::new(EmbeddedStore::open(options).expect("the store opens"))
}

/// Waits until a fact holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds().await {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A directory in memory where there is such a thing: for tests that open thousands of stores and pull no plug.
pub fn quick_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A number of the health page.
pub fn health(store: &dyn Store, name: &str) -> u64 {
    store.health().into_iter().find(|(n, _)| *n == name).map(|(_, value)| value).expect("the number is there")
}

/// Waits until all that is durable is applied.
pub async fn applied(store: &dyn Store) {
    until("all is applied", async || health(store, "applied") == health(store, "position")).await;
}

/// Everything a store can be asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    pub rows: Vec<RunRow>,
    pub live: Vec<RunRow>,
    pub streams: BTreeMap<String, (Head, Vec<Bytes>)>,
    /// By the name that a record gives them: what is kept of them.
    pub plain: BTreeMap<String, (Head, Vec<Bytes>)>,
    pub records: Vec<(RecordKey, Bytes)>,
    pub feed: Vec<FeedEntry>,
}

/// Reads everything, or gives the first error.
pub async fn content(store: &dyn Store) -> Result<Content, StoreError> {
    let mut rows: Vec<RunRow> = Vec::new();
    loop {
        let before = rows.last().map(|row| row.stream);
        let page = store.runs(RunFilter { before, limit: 50, ..RunFilter::default() }).await?;
        rows.extend(page.rows);
        if !page.more {
            break;
        }
    }
    let mut streams = BTreeMap::new();
    for row in &rows {
        if store.run(&row.key).await?.as_ref() != Some(row) {
            return Err(StoreError::Unavailable(format!("the list and the row differ for {}", row.key)));
        }
        let head = store.head(row.stream).await?;
        streams.insert(row.key.to_string(), (head, events(store, row.stream, Seq::ZERO).await?));
    }
    let plain = plain(store).await?;
    let mut records = store.records("op", "", 10_000).await?;
    records.extend(store.records("tombstone", "", 10_000).await?);
    for (key, value) in &records {
        if store.record(key).await?.as_ref() != Some(value) {
            return Err(StoreError::Unavailable(format!("the list and the record differ for {key:?}")));
        }
    }
    let (mut feed, mut after) = (Vec::new(), Seq::ZERO);
    loop {
        let page = store.feed(after, None, ReadLimit::default()).await?;
        feed.extend(page.entries);
        after = page.upto;
        if after == page.tail {
            break;
        }
    }
    Ok(Content { rows, live: store.live_runs().await?, streams, plain, records, feed })
}

async fn events(store: &dyn Store, stream: StreamId, after: Seq) -> Result<Vec<Bytes>, StoreError> {
    let (mut events, mut after) = (Vec::new(), after);
    loop {
        let page = store.read(stream, after, ReadLimit::default()).await?;
        let Some(last) = page.events.last() else { return Ok(events) };
        after = last.seq;
        events.extend(page.events.into_iter().map(|e| e.wire));
    }
}

/// Every plain stream that a record names, read in pages and in spans.
pub async fn plain(store: &dyn Store) -> Result<BTreeMap<String, (Head, Vec<Bytes>)>, StoreError> {
    let mut all = BTreeMap::new();
    for (name, value) in store.records("stream", "", 10_000).await? {
        let stream = StreamId::new(u64::from_be_bytes(value[..8].try_into().expect("a stamp")));
        let head = store.head(stream).await?;
        let before = Seq::new(head.earliest.get() - 1);
        let events = events(store, stream, before).await?;
        let (mut bytes, mut lengths, mut after) = (Vec::new(), Vec::new(), before);
        while after < head.tail {
            let span = store.read_span(stream, after, 10_000).await?;
            after = span.last;
            bytes.extend(span.body);
            lengths.extend(span.lengths);
        }
        let newline: &[u8] = if value[8..] == *b"opaque" { b"" } else { b"\n" };
        let expected: Vec<u8> = events.iter().flat_map(|event| [&event[..], newline]).flatten().copied().collect();
        if bytes.concat() != expected || lengths != events.iter().map(|e| e.len() as u32).collect::<Vec<_>>() {
            return Err(StoreError::Unavailable(format!("pages and spans differ for {name:?}")));
        }
        all.insert(name.id, (head, events));
    }
    Ok(all)
}

/// A commit that opens a named plain stream.
pub fn named(name: &str, form: Form, count: u64) -> Commit {
    let value = if form == Form::Opaque { "opaque" } else { "lines" };
    let name = RecordWrite { stamp: true, only_new: true, ..record("stream", name, Some(value)) };
    let mut commit = opening(form, 0);
    if let Some(new) = &mut commit.open {
        new.events = (1..=count).map(|n| blob(0, n, form)).collect();
    }
    Commit { records: vec![name], ..commit }
}

/// A message that says its number in its stream of a given generation; opaque ones hold newlines and NULs.
pub fn blob(generation: u64, number: u64, form: Form) -> Bytes {
    let text = format!("{generation}:{number}:{}", "x".repeat((number * 31 % 300) as usize));
    match (form, number % 3) {
        (Form::Lines, _) => text.into(),
        (Form::Opaque, 0) => Bytes::from_static(b"\n"),
        (Form::Opaque, _) => text.replace(':', "\n\0\n").into(),
    }
}

/// A small life of everything.
pub async fn populate(store: &dyn Store, from: u64, count: u64) {
    populate_runs(store, from, count).await;
    populate_plain(store, from, count.div_ceil(2)).await;
}

/// Plain streams of both forms: opened, appended to, trimmed, dropped.
async fn populate_plain(store: &dyn Store, from: u64, count: u64) {
    for n in from..from + count {
        let form = if n % 2 == 0 { Form::Opaque } else { Form::Lines };
        let name = format!("p/stream-{n}");
        let stream = store.commit(named(&name, form, 1 + n % 3)).await.unwrap().created.unwrap();
        let mut tail = 1 + n % 3;
        for step in 0..5 {
            let count = step * n % 7;
            let mut commit = to(stream, tail, (tail + 1..=tail + count).map(|at| blob(0, at, form)).collect());
            tail += count;
            commit.streams[0].cursor = Some(Bytes::from(format!("{n} {step}")));
            commit.streams[0].keep_after = (n % 5 == 4).then(|| Seq::new(tail - tail.min(3)));
            commit.records = vec![record("op", &format!("producer-{n}"), Some(&tail.to_string()))];
            store.commit(commit).await.unwrap();
        }
        if n % 4 == 3 {
            let unnamed = put(vec![record("stream", &name, None)]);
            store.commit(Commit { drop: vec![stream], ..unnamed }).await.unwrap();
        }
    }
}

/// Runs that live, end and are erased, records, rows that change, some hundred commits: what version 1 knew.
pub async fn populate_runs(store: &dyn Store, from: u64, count: u64) {
    for n in from..from + count {
        let k = key(["p", "q"][(n % 2) as usize], &format!("run-{n}"));
        let stream = store.commit(create(&k, 2)).await.unwrap().created.unwrap();
        let mut tail = 2;
        for step in 0..6 {
            let mut commit = append(&k, stream, tail, 1 + step % 3);
            commit.streams[0].cursor = Some(Bytes::from(format!("cursor {n} {step}")));
            commit.streams[0].feed = vec![0];
            if step == 3 {
                let mut row = longhaul_store::contract::fixture::row(&k);
                row.stream = stream;
                row.status = Status::Running;
                row.tags = BTreeMap::from([("n".into(), n.to_string()), ("all".into(), "yes".into())]);
                row.doc = Bytes::from(format!("{{\"doc\":\"{}\"}}", "d".repeat(300)));
                commit.streams[0].row = Some(row);
            }
            store.commit(commit).await.unwrap();
            tail += 1 + step % 3;
        }
        store.commit(put(vec![record("op", &format!("op-{n}"), Some("answer"))])).await.unwrap();
        if n % 3 == 0 {
            store.commit(finish(&k, stream, tail)).await.unwrap();
        }
        if n % 9 == 0 {
            let tombstone = put(vec![record("tombstone", &k.to_string(), Some("gone"))]);
            store.commit(Commit { erase: Some(k), ..tombstone }).await.unwrap();
        }
    }
}

/// Copies a directory's files, but for what SQLite makes anew from the others.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().ends_with("-shm") {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// A child process that runs the test named `child` of this test program and gets its orders on stdin.
pub struct Writer {
    pub process: Child,
    lines: BufReader<ChildStdout>,
}

impl Writer {
    pub fn start(orders: &str, environment: &[(&str, &str)]) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child", "--nocapture", "--test-threads=1"])
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        writeln!(process.stdin.take().unwrap(), "{orders}").unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Self { process, lines }
    }

    /// The next line that the child says; none when it is gone.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // What the test program says by itself may stand before it.
            if let Some(at) = line.find("say ") {
                // A line that SIGKILL cut short says nothing.
                return line.ends_with('\n').then(|| line[at + 4..].trim_end().to_owned());
            }
        }
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One line to the parent, at once and whole.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("say {line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// The orders of a child.
pub fn orders() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// A writer's events: numbered, with a cursor that says the tail.
pub fn numbered(k: &RunKey, stream: longhaul_model::StreamId, after: u64, count: u64) -> Commit {
    let mut commit = append(k, stream, after, 0);
    commit.streams[0].events = (after + 1..=after + count).map(|n| event(k, n, &format!("event {n}"))).collect();
    commit.streams[0].feed = if after.is_multiple_of(5) { vec![0] } else { vec![] };
    commit.streams[0].cursor = Some(Bytes::from((after + count).to_string()));
    commit
}

/// Whether an answer is one that a store gives after it broke down.
pub fn is_broken(error: &CommitError) -> bool {
    matches!(error, CommitError::Unknown(_) | CommitError::Closed)
}

/// Where an open error says that the damage is.
pub fn place(error: &OpenError) -> String {
    match error {
        OpenError::Corrupt { place, .. } | OpenError::Io { place, .. } | OpenError::Newer { place, .. } => {
            place.clone()
        }
        other => other.to_string(),
    }
}
