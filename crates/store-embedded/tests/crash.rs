//! Killed at any moment: what was acknowledged is there, dense, once, with the cursor that belongs to it. Plain streams
//! are written by pipelines, trimmed in every commit, and now and then dropped for a new one of the same name.

mod harbour;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use harbour::{Writer, blob, content, numbered, open, orders, say};
use longhaul_model::{Seq, StreamId};
use longhaul_store::contract::fixture::{Random, create, event, key, open as opening, record, to};
use longhaul_store::{Commit, Form, ReadLimit, RecordKey, RecordWrite, Store, StoreError};
use longhaul_store_embedded::{EmbeddedStore, Options, verify};

const ROUNDS: u64 = 70;
const RUNS: u64 = 6;
const PLAIN: u64 = 4;
/// Commits that a pipeline has on their way.
const PIPELINE: usize = 6;
/// Messages that a plain stream keeps.
const KEPT: u64 = 40;
/// Where a plain stream ends and another takes its name.
const GENERATION: u64 = 90;
const SEED: u64 = 0x6b69_6c6c;

/// The child: writes until it is killed. Says `run tail` for each acknowledged commit.
#[test]
#[ignore = "started by the tests of this file"]
fn child() {
    let orders = orders();
    let (apply_after_ms, dir) = orders.split_once(' ').unwrap();
    let mut options = Options::new(dir).on_fatal(|why| panic!("{why}"));
    options.ballast_bytes = 0;
    options.apply_after = Duration::from_millis(apply_after_ms.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let store = Arc::new(EmbeddedStore::open(options).unwrap());
    runtime.block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        for n in 0..RUNS {
            writers.spawn(write(Arc::clone(&store), n));
        }
        for n in 0..PLAIN {
            writers.spawn(write_plain(Arc::clone(&store), n));
        }
        writers.join_all().await;
    });
}

async fn write(store: Arc<EmbeddedStore>, n: u64) {
    let k = key("p", &format!("run-{n}"));
    let stream = match store.run(&k).await.unwrap() {
        Some(row) => row.stream,
        None => store.commit(create(&k, 0)).await.unwrap().created.unwrap(),
    };
    let mut tail = store.head(stream).await.unwrap().tail.get();
    for turn in 0.. {
        let count = 1 + (tail + n + turn) % 4;
        store.commit(numbered(&k, stream, tail, count)).await.unwrap();
        tail += count;
        say(&format!("{n} {tail}"));
    }
}

fn form(n: u64) -> Form {
    if n.is_multiple_of(2) { Form::Opaque } else { Form::Lines }
}

fn name(n: u64) -> RecordKey {
    RecordKey::new("stream", format!("p/plain-{n}"))
}

/// What the cursor of a plain stream says: generation and tail.
fn state(cursor: Option<&[u8]>) -> (u64, u64) {
    let text = std::str::from_utf8(cursor.expect("every commit writes one")).unwrap();
    let (generation, tail) = text.split_once(' ').unwrap();
    (generation.parse().unwrap(), tail.parse().unwrap())
}

/// The stream that a name leads to, with its generation and its tail.
async fn found(store: &dyn Store, n: u64) -> Option<(StreamId, u64, u64)> {
    let value = store.record(&name(n)).await.unwrap()?;
    let stream = StreamId::new(u64::from_be_bytes(value[..8].try_into().unwrap()));
    let (generation, tail) = state(store.head(stream).await.unwrap().cursor.as_deref());
    Some((stream, generation, tail))
}

/// One commit that drops a stream, opens the next and gives it the name.
async fn renew(store: &dyn Store, n: u64, old: Option<StreamId>, generation: u64) -> StreamId {
    let value = if form(n) == Form::Opaque { "opaque" } else { "lines" };
    let stamped = RecordWrite { stamp: true, key: name(n), ..record("stream", "", Some(value)) };
    let mut commit = Commit { drop: old.into_iter().collect(), records: vec![stamped], ..opening(form(n), 0) };
    if let Some(new) = &mut commit.open {
        new.cursor = Some(Bytes::from(format!("{generation} 0")));
    }
    store.commit(commit).await.unwrap().created.unwrap()
}

/// Says `s<n> generation tail` for each acknowledged commit.
async fn write_plain(store: Arc<EmbeddedStore>, n: u64) {
    let (mut stream, mut generation, mut tail) = match found(&*store, n).await {
        Some(found) => found,
        None => (renew(&*store, n, None, 0).await, 0, 0),
    };
    let mut tickets = std::collections::VecDeque::new();
    loop {
        if tail < GENERATION {
            let count = 1 + (tail + n) % 3;
            let events = (tail + 1..=tail + count).map(|at| blob(generation, at, form(n))).collect();
            let mut commit = to(stream, tail, events);
            tail += count;
            commit.streams[0].cursor = Some(Bytes::from(format!("{generation} {tail}")));
            commit.streams[0].keep_after = Some(Seq::new(tail.saturating_sub(KEPT)));
            tickets.push_back((tail, store.submit(commit).unwrap()));
        }
        while tickets.len() >= PIPELINE || (tail >= GENERATION && !tickets.is_empty()) {
            let (tail, ticket) = tickets.pop_front().unwrap();
            ticket.await.unwrap();
            say(&format!("s{n} {generation} {tail}"));
        }
        if tail >= GENERATION {
            generation += 1;
            (stream, tail) = (renew(&*store, n, Some(stream), generation).await, 0);
            say(&format!("s{n} {generation} 0"));
        }
    }
}

#[test]
fn killed_at_every_commit() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut random = Random::new(SEED);
    let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
    let mut acknowledged_plain: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut kills_in_flight = 0;
    for round in 0..ROUNDS {
        let apply_after_ms = *random.pick(&[0, 3, 20, 3_600_000]);
        let mut child = Writer::start(&format!("{apply_after_ms} {}", dir.path().display()), &[]);
        let kill_after = 1 + random.below(700);
        let mut heard = 0;
        while let Some(line) = child.line() {
            let (n, tail) = line.split_once(' ').unwrap();
            if let Some(n) = n.strip_prefix('s') {
                let (n, now) = (n.parse().unwrap(), state(Some(tail.as_bytes())));
                assert!(acknowledged_plain.insert(n, now).is_none_or(|before| before < now));
            } else {
                let (n, tail) = (n.parse().unwrap(), tail.parse().unwrap());
                assert!(acknowledged.insert(n, tail).is_none_or(|before| before < tail));
            }
            heard += 1;
            if heard == kill_after {
                child.kill();
            }
        }
        assert!(heard >= kill_after, "seed {SEED:#x}, round {round}: the child ended by itself after {heard} answers");
        drop(child);
        if round % 10 == 9 {
            let report = verify(dir.path()).unwrap();
            assert!(report.is_sound(), "round {round}: {:?}", report.findings);
        }
        runtime.block_on(check_plain(dir.path(), &mut acknowledged_plain));
        kills_in_flight += runtime.block_on(check(dir.path(), &mut acknowledged, random.once_in(2)));
    }
    assert!(acknowledged_plain.values().all(|(generation, _)| *generation > 2), "{acknowledged_plain:?}");
    assert!(kills_in_flight > 0, "no kill fell between a commit and its answer: the test proves nothing");
}

/// Plain streams: what was acknowledged, at most a pipeline more, and of what is found exactly what its last commit kept.
async fn check_plain(dir: &std::path::Path, acknowledged: &mut BTreeMap<u64, (u64, u64)>) {
    let store = open(dir);
    let mut streams = harbour::plain(&*store).await.unwrap();
    for (n, owed) in acknowledged {
        let (stream, generation, tail) = found(&*store, *n).await.expect("the name is there");
        let further = match generation - owed.0 {
            0 => tail - owed.1,
            1 => GENERATION + 2 - owed.1 + tail,
            more => panic!("stream {n} is {more} generations on"),
        };
        assert!(further <= 3 * PIPELINE as u64 + 2, "stream {n}: acknowledged {owed:?}, found {generation} {tail}");
        *owed = (generation, tail);
        let (head, events) = streams.remove(&name(*n).id).unwrap();
        let earliest = tail.saturating_sub(KEPT) + 1;
        assert_eq!((head.tail.get(), head.earliest.get()), (tail, earliest), "stream {n}");
        let expected: Vec<_> = (earliest..=tail).map(|at| blob(generation, at, form(*n))).collect();
        assert!(events == expected, "stream {n}: every message that is kept, once, in order, byte for byte");
        let bytes: u64 = (1..=tail).map(|at| blob(generation, at, form(*n)).len() as u64).sum();
        assert_eq!(head.bytes, bytes);
        if earliest > 1 {
            let expired = store.read(stream, Seq::new(earliest - 2), ReadLimit::default()).await;
            assert_eq!(expired, Err(StoreError::Expired { earliest: head.earliest }));
        }
    }
    // Some that nobody heard of may be there, one of a name.
    assert!(streams.len() as u64 <= PLAIN);
}

/// Everything acknowledged is there, and at most one commit more; gives how many runs are further than anybody heard.
/// What was found once is owed from then on: the next child may be killed before it says a word of that run.
async fn check(dir: &std::path::Path, acknowledged: &mut BTreeMap<u64, u64>, close: bool) -> u64 {
    let store = open(dir);
    let all = content(&*store).await.unwrap();
    let mut beyond = 0;
    for (n, tail) in acknowledged {
        let k = key("p", &format!("run-{n}"));
        let (head, events) = &all.streams[&k.to_string()];
        let found = events.len() as u64;
        assert!(found >= *tail && found <= *tail + 4, "run {n}: acknowledged {tail}, found {found}");
        beyond += u64::from(found > *tail);
        *tail = found;
        let expected: Vec<_> = (1..=found).map(|seq| event(&k, seq, &format!("event {seq}"))).collect();
        assert!(*events == expected, "run {n}: every event once, in order, byte for byte");
        assert_eq!(head.tail, Seq::new(found));
        if found > 0 {
            assert_eq!(head.cursor.as_deref(), Some(found.to_string().as_bytes()), "the cursor is of the last commit");
        }
        let row = store.run(&k).await.unwrap().unwrap();
        assert_eq!(
            store.read(row.stream, Seq::new(found + 1), ReadLimit::default()).await,
            Err(StoreError::Ahead { tail: head.tail })
        );
    }
    let positions: Vec<_> = all.feed.iter().map(|e| e.position.get()).collect();
    assert_eq!(positions, (1..=positions.len() as u64).collect::<Vec<_>>());
    if close {
        store.close().await.unwrap();
    }
    beyond
}

/// A store that is dropped without a word, many times, with commits on their way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_with_commits_on_their_way() {
    let dir = tempfile::tempdir().unwrap();
    let k = key("p", "r");
    let mut tail = 0;
    for round in 0..40_u64 {
        let store = open(dir.path());
        let stream = match store.run(&k).await.unwrap() {
            Some(row) => row.stream,
            None => store.commit(create(&k, 0)).await.unwrap().created.unwrap(),
        };
        assert_eq!(store.head(stream).await.unwrap().tail, Seq::new(tail), "round {round}");
        for _ in 0..round % 7 {
            store.commit(numbered(&k, stream, tail, 1)).await.unwrap();
            tail += 1;
        }
        // Submitted and not waited for: it is made.
        let commit = store.commit(numbered(&k, stream, tail, 1));
        let answer = tokio::time::timeout(Duration::ZERO, commit).await;
        drop(answer);
        tail += 1;
    }
    let store = open(dir.path());
    let all = content(&*store).await.unwrap();
    let expected: Vec<_> = (1..=tail).map(|seq| event(&k, seq, &format!("event {seq}"))).collect();
    assert_eq!(all.streams["p/r"].1, expected);
}
