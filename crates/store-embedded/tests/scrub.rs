//! What was erased is in no file of the store any more once a scrub says so, whatever went on meanwhile.
#![allow(missing_docs)]

mod harbour;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use harbour::{open, quick_dir};
use longhaul_model::{Epoch, RunKey, Seq, Status, StreamId};
use longhaul_store::contract::fixture::{Random, event, finish, key, must, put, read_all, record, row};
use longhaul_store::{Commit, NewRun, RunFilter, Store, StreamWrite};
use longhaul_store_embedded::{EmbeddedStore, verify};

/// What stands in everything of a run that will be erased.
const MARK: &str = "plum-7f3a";

/// Files of a directory in which the mark stands, as text.
fn marked(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let bytes = std::fs::read(entry.path()).unwrap();
        let count = memchr::memmem::find_iter(&bytes, MARK).count();
        if count > 0 {
            found.push(format!("{} {count}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

/// A run whose row holds the mark if it is one of those, and its stream.
async fn make(store: &dyn Store, n: u64) -> (RunKey, StreamId) {
    let key = key("p", &format!("r{n}"));
    let mut fresh = row(&key);
    if is_marked(n) {
        fresh.doc = format!("{{\"said\":\"{MARK}\"}}").into();
        fresh.tags = [("word".to_owned(), MARK.to_owned())].into();
    }
    let create = NewRun { row: fresh, epoch: Epoch::new(1), events: vec![line(&key, n, 1, 40)], feed: vec![0] };
    let stream = must(store, Commit { create: Some(create), ..Commit::default() }).await.created.unwrap();
    (key, stream)
}

fn is_marked(n: u64) -> bool {
    n.is_multiple_of(3)
}

fn line(key: &RunKey, n: u64, seq: u64, long: u64) -> bytes::Bytes {
    let word = if is_marked(n) { MARK } else { "pear-0000" };
    event(key, seq, &word.repeat(usize::try_from(long).unwrap() / word.len() + 1))
}

fn append(key: &RunKey, n: u64, stream: StreamId, after: u64, long: u64) -> Commit {
    let write = StreamWrite {
        stream,
        project: key.project.clone(),
        expected_tail: Seq::new(after),
        epoch: Epoch::new(1),
        events: vec![line(key, n, after + 1, long)],
        feed: vec![0],
        cursor: is_marked(n).then(|| MARK.into()),
        row: None,
        keep_after: None,
    };
    Commit { streams: vec![write], ..Commit::default() }
}

/// Runs of all sizes that grow by turns, so that pages split and are rebuilt; a third of them is marked.
async fn populate(store: &dyn Store) -> Vec<(RunKey, StreamId, u64)> {
    let mut random = Random::new(7);
    let mut runs = Vec::new();
    for n in 0..60 {
        let (key, stream) = make(store, n).await;
        runs.push((key, stream, 1));
    }
    for round in 0..40 {
        for (n, (key, stream, tail)) in runs.iter_mut().enumerate() {
            let long = if random.below(10) == 0 { 20_000 } else { random.below(700) };
            must(store, append(key, n as u64, *stream, *tail, long)).await;
            *tail += 1;
        }
        if round % 8 == 0 {
            let records = (0..30).map(|n| {
                let value = if n % 2 == 0 { MARK.repeat(round + 1) } else { "pear".repeat(random.below(300) as usize) };
                record("note", &format!("n{n}"), Some(&value))
            });
            must(store, put(records.collect())).await;
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        }
    }
    for (key, stream, tail) in &mut runs {
        must(store, finish(key, *stream, *tail)).await;
        *tail += 1;
    }
    runs
}

async fn erase(store: &dyn Store, runs: &[(RunKey, StreamId, u64)]) {
    for (_, (key, _, _)) in runs.iter().enumerate().filter(|(n, _)| is_marked(*n as u64)) {
        must(store, Commit { erase: Some(key.clone()), ..Commit::default() }).await;
    }
    must(store, put((0..30).filter(|n| n % 2 == 0).map(|n| record("note", &format!("n{n}"), None)).collect())).await;
}

async fn assert_others(store: &EmbeddedStore, runs: &[(RunKey, StreamId, u64)]) {
    for (_, (key, stream, tail)) in runs.iter().enumerate().filter(|(n, _)| !is_marked(*n as u64)) {
        assert_eq!(store.run(key).await.unwrap().unwrap().status, Status::Completed);
        assert_eq!(read_all(store, *stream).await.len() as u64, *tail);
    }
    let listed = store.runs(RunFilter { limit: 100, ..RunFilter::default() }).await.unwrap().rows;
    assert_eq!(listed.iter().filter(|row| row.key.project.as_str() == "p").count(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_an_erased_run_is_in_any_file() {
    let dir = quick_dir();
    let store = open(dir.path());
    let runs = populate(&*store).await;
    erase(&*store, &runs).await;
    assert!(!marked(dir.path()).is_empty(), "an erasure alone leaves it there");
    store.scrub().await.unwrap();
    assert_eq!(marked(dir.path()), [] as [String; 0]);
    assert_others(&store, &runs).await;
    // Nothing brings it back, and the store is whole.
    must(&*store, put(vec![record("note", "later", Some("x"))])).await;
    assert_eq!(marked(dir.path()), [] as [String; 0]);
    drop(store);
    let store = open(dir.path());
    assert_others(&store, &runs).await;
    store.close().await.unwrap();
    assert_eq!(marked(dir.path()), [] as [String; 0]);
    assert_eq!(verify(dir.path()).unwrap().findings, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_and_reads_go_on_meanwhile() {
    let dir = quick_dir();
    let store = open(dir.path());
    let runs = populate(&*store).await;
    erase(&*store, &runs).await;
    let busy = Arc::new(AtomicBool::new(true));
    let writing = tokio::spawn({
        let (store, busy) = (Arc::clone(&store), Arc::clone(&busy));
        async move {
            let live = key("q", "live");
            let create =
                NewRun { row: row(&live), epoch: Epoch::new(1), events: vec![event(&live, 1, "x")], feed: vec![0] };
            let stream = must(&*store, Commit { create: Some(create), ..Commit::default() }).await.created.unwrap();
            let mut tail = 1;
            while busy.load(Ordering::Relaxed) {
                must(&*store, append(&live, 1, stream, tail, 300)).await;
                tail += 1;
            }
            assert_eq!(read_all(&*store, stream).await.len() as u64, tail);
            tail
        }
    });
    for _ in 0..2 {
        let mut scrubbed = store.scrub().await;
        while let Err(error) = &scrubbed {
            assert!(error.to_string().contains("being read"), "{error}");
            scrubbed = store.scrub().await;
        }
        assert_eq!(marked(dir.path()), [] as [String; 0]);
        assert_others(&store, &runs).await;
    }
    busy.store(false, Ordering::Relaxed);
    assert!(writing.await.unwrap() > 10, "commits were made meanwhile");
    store.close().await.unwrap();
    assert_eq!(verify(dir.path()).unwrap().findings, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_store_is_not_scrubbed() {
    let dir = quick_dir();
    let store = open(dir.path());
    let runs = populate(&*store).await;
    erase(&*store, &runs).await;
    let (scrubbed, closed) = tokio::join!(store.scrub(), store.close());
    closed.unwrap();
    assert!(scrubbed.is_err() || marked(dir.path()).is_empty(), "what it said is true");
    assert!(store.scrub().await.is_err());
    assert_eq!(verify(dir.path()).unwrap().findings, []);
}
