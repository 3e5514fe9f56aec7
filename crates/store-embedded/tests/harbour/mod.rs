//! What the crash, damage and fault tests share: a child that writes, a whole reading of a store, a random source.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use longhaul_model::{RunKey, Seq, Status};
use longhaul_store::contract::fixture::{append, create, event, finish, key, put, record};
use longhaul_store::{
    Commit, CommitError, FeedEntry, Head, ReadLimit, RecordKey, RunFilter, RunRow, Store, StoreError,
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
        let mut events: Vec<Bytes> = Vec::new();
        loop {
            let after = Seq::new(events.len() as u64);
            let page = store.read(row.stream, after, ReadLimit::default()).await?;
            let done = page.events.is_empty();
            events.extend(page.events.into_iter().map(|e| e.wire));
            if done {
                break;
            }
        }
        streams.insert(row.key.to_string(), (store.head(row.stream).await?, events));
    }
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
    Ok(Content { rows, live: store.live_runs().await?, streams, records, feed })
}

/// A small life: runs that live, end and are erased, records, rows that change, some hundred commits.
pub async fn populate(store: &dyn Store, from: u64, count: u64) {
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
