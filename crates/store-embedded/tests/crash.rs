//! Killed at any moment: what was acknowledged is there, dense, once, with the cursor that belongs to it.

mod harbour;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use harbour::{Writer, content, numbered, open, orders, say};
use longhaul_model::Seq;
use longhaul_store::contract::fixture::{Random, create, event, key};
use longhaul_store::{ReadLimit, Store, StoreError};
use longhaul_store_embedded::{EmbeddedStore, Options, verify};

const ROUNDS: u64 = 60;
const RUNS: u64 = 6;
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

#[test]
fn killed_at_every_commit() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut random = Random::new(SEED);
    let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
    let mut kills_in_flight = 0;
    for round in 0..ROUNDS {
        let apply_after_ms = *random.pick(&[0, 3, 20, 3_600_000]);
        let mut child = Writer::start(&format!("{apply_after_ms} {}", dir.path().display()), &[]);
        let kill_after = 1 + random.below(400);
        let mut heard = 0;
        while let Some(line) = child.line() {
            let (n, tail) = line.split_once(' ').unwrap();
            let (n, tail) = (n.parse().unwrap(), tail.parse().unwrap());
            assert!(acknowledged.insert(n, tail).is_none_or(|before| before < tail));
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
        kills_in_flight += runtime.block_on(check(dir.path(), &mut acknowledged, random.once_in(2)));
    }
    assert!(kills_in_flight > 0, "no kill fell between a commit and its answer: the test proves nothing");
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
