//! Promises under many writers, and over the end of a store.

use std::sync::Arc;

use longhaul_model::{Epoch, RunKey, Seq, StreamId};
use tokio::task::JoinSet;

use super::Place;
use super::fixture::{append, create, event, events, finish, key, made, must, put, read_all, record};
use crate::{CommitError, ReadLimit, RecordKey, RunFilter, StoreError};

const WRITERS: u64 = 64;

/// 64 writers on 64 streams: each stream is its writer's, dense and in order.
pub async fn many_writers_on_many_streams(place: &dyn Place) {
    let store = place.open().await;
    let mut writers = JoinSet::new();
    for n in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let k = key("p", &format!("r{n}"));
            let stream = made(&*store, &k, 0).await;
            for after in 0..60 {
                must(&*store, append(&k, stream, after, 1)).await;
                // What is acknowledged is there for everybody.
                let page = store.read(stream, Seq::new(after), ReadLimit::default()).await.unwrap();
                assert_eq!(page.events.len(), 1);
            }
            (k, stream)
        });
    }
    let written: Vec<(RunKey, StreamId)> = writers.join_all().await;
    let store = place.reopen(store).await;
    for (k, stream) in written {
        assert_eq!(read_all(&*store, stream).await, events(&k, 1, 60));
    }
}

/// 64 writers on one stream: compare-and-set lets each event in once.
pub async fn many_writers_on_one_stream(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 0).await;
    let mut writers = JoinSet::new();
    for n in 0..WRITERS {
        let (store, k) = (Arc::clone(&store), k.clone());
        writers.spawn(async move {
            let mut tail = Seq::ZERO;
            for turn in 0..5 {
                loop {
                    let mut commit = append(&k, stream, tail.get(), 1);
                    commit.streams[0].events = vec![event(&k, tail.get() + 1, &format!("{n}-{turn}"))];
                    match store.commit(commit).await {
                        Ok(_) => break tail = tail.next(),
                        Err(CommitError::Conflict { actual, .. }) => {
                            assert!(actual > tail, "a conflict shows a tail that is really there");
                            tail = actual;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        });
    }
    writers.join_all().await;
    let store = place.reopen(store).await;
    let all = read_all(&*store, stream).await;
    assert_eq!(all.len() as u64, 5 * WRITERS);
    for n in 0..WRITERS {
        for turn in 0..5 {
            let text = format!("\"text\":\"{n}-{turn}\"");
            let times = all.iter().filter(|e| memchr::memmem::find(e, text.as_bytes()).is_some()).count();
            assert_eq!(times, 1, "{text}");
        }
    }
}

/// 64 who create the same run: one does, with its events; the others hear that it exists.
pub async fn one_of_many_creates_a_run(place: &dyn Place) {
    let store = place.open().await;
    for round in 0..4 {
        let k = key("p", &format!("r{round}"));
        let mut writers = JoinSet::new();
        for _ in 0..WRITERS {
            let (store, k) = (Arc::clone(&store), k.clone());
            writers.spawn(async move { store.commit(create(&k, 2)).await });
        }
        let answers = writers.join_all().await;
        assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 1);
        assert!(answers.iter().all(|a| a.is_ok() || *a == Err(CommitError::Exists)));
    }
    assert_eq!(*store.watch_feed().borrow(), Seq::new(4));
}

/// Readers who follow a stream while it is written see every event once, whatever moves below them.
pub async fn readers_see_no_gap_while_it_is_written(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 0).await;
    let mut readers = JoinSet::new();
    for n in 0..8 {
        let (store, k) = (Arc::clone(&store), k.clone());
        readers.spawn(async move {
            let mut watch = store.watch(stream).await.unwrap();
            let limit = ReadLimit { events_max: 1 + 37 * n, bytes_max: 1 << 20 };
            let mut seen = Seq::ZERO;
            while seen < Seq::new(8_000) {
                let page = store.read(stream, seen, limit).await.unwrap();
                for e in &page.events {
                    assert_eq!(e.seq, seen.next());
                    assert_eq!(e.wire, event(&k, e.seq.get(), &format!("line {}", e.seq)));
                    seen = e.seq;
                }
                if page.events.is_empty() {
                    assert_eq!(page.tail, seen);
                    // The tail may have moved since the page was read; then the watch answers at once.
                    watch.wait_for(|tail| *tail > seen).await.unwrap();
                }
            }
        });
    }
    for after in (0..8_000).step_by(40) {
        must(&*store, append(&k, stream, after, 40)).await;
    }
    readers.join_all().await;
}

/// All that was acknowledged is there after the end and the next begin, several times.
pub async fn everything_survives_reopening(place: &dyn Place) {
    let mut store = place.open().await;
    let mut tails = std::collections::BTreeMap::new();
    for round in 0..5_u64 {
        for n in 0..10 {
            let k = key("p", &format!("r{round}-{n}"));
            let stream = made(&*store, &k, 1 + n).await;
            must(&*store, append(&k, stream, 1 + n, 2)).await;
            must(&*store, put(vec![record("r", &format!("{round}-{n}"), Some("v"))])).await;
            tails.insert(k.run.as_str().to_owned(), (k, stream, 3 + n));
        }
        for (k, stream, tail) in tails.values_mut() {
            let mut commit = append(k, *stream, *tail, 1);
            commit.streams[0].epoch = Epoch::new(2 + round);
            must(&*store, commit).await;
            *tail += 1;
        }
        store = place.reopen(store).await;
        for (k, stream, tail) in tails.values() {
            assert_eq!(read_all(&*store, *stream).await, events(k, 1, *tail));
            assert_eq!(store.head(*stream).await.unwrap().epoch, Epoch::new(2 + round));
            assert_eq!(store.run(k).await.unwrap().unwrap().stream, *stream);
        }
        assert_eq!(store.live_runs().await.unwrap().len(), tails.len());
        assert_eq!(store.records("r", "", 1000).await.unwrap().len(), tails.len());
        assert_eq!(store.watch_feed().borrow().get(), tails.len() as u64);
        let page = store.runs(RunFilter { limit: 1000, ..RunFilter::default() }).await.unwrap();
        assert_eq!(page.rows.len(), tails.len());
    }
    for (k, stream, tail) in tails.values() {
        must(&*store, {
            let mut commit = finish(k, *stream, *tail);
            commit.streams[0].epoch = Epoch::new(9);
            commit
        })
        .await;
    }
    let store = place.reopen(store).await;
    assert_eq!(store.live_runs().await.unwrap(), []);
}

/// After `close` every call answers `Closed`; what was acknowledged is there for the next.
pub async fn a_closed_store_says_so(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 2).await;
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert_eq!(store.commit(append(&k, stream, 2, 1)).await, Err(CommitError::Closed));
    assert_eq!(store.read(stream, Seq::ZERO, ReadLimit::default()).await, Err(StoreError::Closed));
    assert_eq!(store.head(stream).await, Err(StoreError::Closed));
    assert_eq!(store.watch(stream).await.err(), Some(StoreError::Closed));
    assert_eq!(store.run(&k).await, Err(StoreError::Closed));
    assert_eq!(store.runs(RunFilter::default()).await, Err(StoreError::Closed));
    assert_eq!(store.live_runs().await, Err(StoreError::Closed));
    assert_eq!(store.record(&RecordKey::new("a", "b")).await, Err(StoreError::Closed));
    assert_eq!(store.records("a", "", 1).await, Err(StoreError::Closed));
    assert_eq!(store.feed(Seq::ZERO, None, ReadLimit::default()).await, Err(StoreError::Closed));
    let store = place.reopen(store).await;
    assert_eq!(read_all(&*store, stream).await.len(), 2);
}
