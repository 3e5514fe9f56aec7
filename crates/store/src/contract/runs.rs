//! Promises about rows: existence, reading one's writes, lists, erasure.

use std::collections::BTreeMap;

use bytes::Bytes;
use longhaul_model::{ProjectId, RunKey, Seq, Status, StreamId, Timestamp};

use super::Place;
use super::fixture::{append, create, create_row, finish, key, made, must, put, read_all, record, row, write};
use crate::{Commit, CommitError, ReadLimit, RecordKey, RunFilter, RunRow, Store, StoreError};

/// A key names one run.
pub async fn a_run_exists_once(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 1).await;
    assert_eq!(store.commit(create(&k, 1)).await, Err(CommitError::Exists));
    let other = made(&*store, &key("q", "r"), 1).await;
    assert_ne!(stream, other);
    let store = place.reopen(store).await;
    assert_eq!(store.commit(create(&k, 1)).await, Err(CommitError::Exists));
    must(&*store, finish(&k, stream, 1)).await;
    assert_eq!(store.commit(create(&k, 1)).await, Err(CommitError::Exists));
}

/// A row is what the last commit left, at once and whole.
pub async fn rows_read_their_own_writes(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let mut expected = row(&k);
    expected.tags = BTreeMap::from([("team".into(), "α".into()), ("x".into(), String::new())]);
    let stream = must(&*store, create_row(expected.clone(), 2)).await.created.unwrap();
    (expected.stream, expected.last_seq) = (stream, Seq::new(2));
    assert_eq!(store.run(&k).await, Ok(Some(expected.clone())));
    for step in 0..30_u64 {
        let mut commit = append(&k, stream, 2 + step, 1);
        expected.status = if step % 2 == 0 { Status::Starting } else { Status::Running };
        expected.doc = Bytes::from(format!("{{\"step\":{step}}}"));
        expected.tags.insert("step".into(), step.to_string());
        expected.ended_at = (step == 7).then_some(Timestamp::from_unix_ms(-7));
        commit.streams[0].row = Some(RunRow { last_seq: Seq::new(99), ..expected.clone() });
        must(&*store, commit).await;
        expected.last_seq = Seq::new(3 + step);
        assert_eq!(store.run(&k).await, Ok(Some(expected.clone())));
        let listed = store.runs(RunFilter::default()).await.unwrap();
        assert_eq!(listed.rows, vec![expected.clone()]);
        let by_tag = RunFilter { tags: vec![("step".into(), step.to_string())], ..RunFilter::default() };
        assert_eq!(store.runs(by_tag).await.unwrap().rows.len(), 1);
    }
    // An event without a row leaves the row as it was.
    must(&*store, append(&k, stream, 32, 1)).await;
    assert_eq!(store.run(&k).await, Ok(Some(expected.clone())));
    let store = place.reopen(store).await;
    assert_eq!(store.run(&k).await, Ok(Some(expected)));
    let stale = RunFilter { tags: vec![("step".into(), "3".into())], ..RunFilter::default() };
    assert_eq!(store.runs(stale).await.unwrap().rows, vec![]);
}

/// 240 runs of three projects, made in order.
async fn population(store: &dyn Store) -> Vec<RunRow> {
    let mut rows = Vec::new();
    for n in 0..240_u64 {
        let k = key(["p0", "p1", "p2"][n as usize % 3], &format!("run-{n}"));
        let mut made = row(&k);
        made.status = Status::ALL[n as usize % 7];
        made.harness = ["exec", "demo"][n as usize % 2].into();
        made.digest = format!("d{}", n % 5);
        made.tags = BTreeMap::from([("n".into(), n.to_string()), ("mod4".into(), (n % 4).to_string())]);
        made.created_at = Timestamp::from_unix_ms(1_000_000 - n as i64);
        made.stream = must(store, create_row(made.clone(), n % 3)).await.created.unwrap();
        made.last_seq = Seq::new(n % 3);
        rows.push(made);
    }
    rows
}

/// Every filter, alone and together, newest first by creation, page by page.
pub async fn lists_filter_and_page_newest_first(place: &dyn Place) {
    let mut store = place.open().await;
    let mut rows = population(&*store).await;
    rows.reverse();
    let tag = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    let filters = vec![
        RunFilter::default(),
        RunFilter { project: ProjectId::parse("p1").ok(), ..RunFilter::default() },
        RunFilter { project: ProjectId::parse("nobody").ok(), ..RunFilter::default() },
        RunFilter { statuses: vec![Status::Running], ..RunFilter::default() },
        RunFilter { statuses: vec![Status::Queued, Status::Completed], ..RunFilter::default() },
        RunFilter { harness: Some("demo".into()), ..RunFilter::default() },
        RunFilter { digest: Some("d3".into()), ..RunFilter::default() },
        RunFilter { tags: vec![tag("mod4", "2")], ..RunFilter::default() },
        RunFilter { tags: vec![tag("mod4", "2"), tag("n", "42")], ..RunFilter::default() },
        RunFilter { tags: vec![tag("mod4", "2"), tag("n", "43")], ..RunFilter::default() },
        RunFilter {
            project: ProjectId::parse("p2").ok(),
            statuses: vec![Status::Running, Status::Failed],
            harness: Some("exec".into()),
            tags: vec![tag("mod4", "0")],
            ..RunFilter::default()
        },
    ];
    for _ in 0..2 {
        for filter in &filters {
            let expected: Vec<_> = rows.iter().filter(|row| filter.matches(row)).cloned().collect();
            for limit in [7, 1000] {
                let mut found: Vec<RunRow> = Vec::new();
                loop {
                    let before = found.last().map(|row| row.stream);
                    let page = store.runs(RunFilter { before, limit, ..filter.clone() }).await.unwrap();
                    assert!(page.rows.len() <= limit);
                    found.extend(page.rows);
                    assert_eq!(page.more, found.len() < expected.len(), "{filter:?}");
                    if !page.more {
                        break;
                    }
                }
                assert_eq!(found, expected, "{filter:?}");
            }
        }
        assert_eq!(store.runs(RunFilter::default()).await.unwrap().rows.len(), longhaul_model::limits::LIST_DEFAULT);
        store = place.reopen(store).await;
    }
}

/// Rows that are not terminal, oldest first.
pub async fn live_runs_are_those_that_are_not_terminal(place: &dyn Place) {
    let store = place.open().await;
    let rows = population(&*store).await;
    let live = |rows: &[RunRow]| -> Vec<RunKey> {
        rows.iter().filter(|r| !r.status.is_terminal()).map(|r| r.key.clone()).collect()
    };
    let keys = |rows: Vec<RunRow>| -> Vec<RunKey> { rows.into_iter().map(|r| r.key).collect() };
    assert_eq!(keys(store.live_runs().await.unwrap()), live(&rows));
    let ended = rows.iter().find(|r| r.status == Status::Running).unwrap();
    must(&*store, finish(&ended.key, ended.stream, ended.last_seq.get())).await;
    let mut expected = live(&rows);
    expected.retain(|k| *k != ended.key);
    assert_eq!(keys(store.live_runs().await.unwrap()), expected);
    let store = place.reopen(store).await;
    assert_eq!(keys(store.live_runs().await.unwrap()), expected);
}

/// Erasing removes events and row; the key may be used anew, with a new stream.
pub async fn an_erased_run_is_gone_and_its_key_is_free(place: &dyn Place) {
    let mut store = place.open().await;
    let k = key("p", "r");
    let bystander = key("p", "bystander");
    let kept = made(&*store, &bystander, 2).await;
    let mut streams: Vec<StreamId> = Vec::new();
    for round in 0..6_u64 {
        let mut fresh = row(&k);
        fresh.tags = BTreeMap::from([("round".into(), round.to_string())]);
        let stream = must(&*store, create_row(fresh, 2)).await.created.unwrap();
        assert!(!streams.contains(&stream), "a stream id is never used twice");
        must(&*store, append(&k, stream, 2, 1)).await;
        must(&*store, finish(&k, stream, 3)).await;
        if round % 2 == 0 {
            store = place.reopen(store).await;
        }
        let erase =
            Commit { erase: Some(k.clone()), ..put(vec![record("tombstone", &format!("p/r/{round}"), Some("gone"))]) };
        must(&*store, erase.clone()).await;
        assert_eq!(store.run(&k).await, Ok(None));
        assert_eq!(store.read(stream, Seq::ZERO, ReadLimit::default()).await, Err(StoreError::NotFound));
        assert_eq!(store.head(stream).await, Err(StoreError::NotFound));
        assert_eq!(store.commit(append(&k, stream, 4, 1)).await, Err(CommitError::Gone));
        assert_eq!(store.commit(erase).await, Err(CommitError::Gone));
        assert_eq!(store.runs(RunFilter::default()).await.unwrap().rows.len(), 1);
        let by_tag = RunFilter { tags: vec![("round".into(), round.to_string())], ..RunFilter::default() };
        assert_eq!(store.runs(by_tag).await.unwrap().rows, vec![]);
        if round % 3 == 0 {
            store = place.reopen(store).await;
            assert_eq!(store.read(stream, Seq::ZERO, ReadLimit::default()).await, Err(StoreError::NotFound));
        }
        let tombstone = RecordKey::new("tombstone", format!("p/r/{round}"));
        assert_eq!(store.record(&tombstone).await.unwrap().as_deref(), Some(&b"gone"[..]));
        streams.push(stream);
    }
    assert_eq!(read_all(&*store, kept).await.len(), 2);
    // Erased and made again in commits that may be durable together.
    let first = made(&*store, &k, 1).await;
    let commits = [Commit { erase: Some(k.clone()), ..Commit::default() }, create(&k, 2)];
    let [erasing, creating] = commits.map(|commit| store.commit(commit));
    let (erased, created) = tokio::join!(erasing, creating);
    erased.unwrap();
    let second = created.unwrap().created.unwrap();
    assert_ne!(first, second);
    let both =
        Commit { erase: Some(k.clone()), streams: vec![write(&bystander, kept, 2, 1)], ..create(&key("p", "next"), 1) };
    must(&*store, both).await;
    let store = place.reopen(store).await;
    assert_eq!(store.run(&k).await, Ok(None));
    assert!(store.run(&key("p", "next")).await.unwrap().is_some());
    assert_eq!(read_all(&*store, kept).await.len(), 3);
}

/// A scrub changes nothing that is read, and can be asked for whatever there is.
pub async fn a_scrub_changes_nothing_that_is_read(place: &dyn Place) {
    let store = place.open().await;
    store.scrub().await.unwrap();
    let (k, gone) = (key("p", "r"), key("p", "gone"));
    let stream = made(&*store, &k, 3).await;
    made(&*store, &gone, 2).await;
    must(&*store, Commit { erase: Some(gone.clone()), ..put(vec![record("note", "n", Some("kept"))]) }).await;
    store.scrub().await.unwrap();
    must(&*store, append(&k, stream, 3, 1)).await;
    store.scrub().await.unwrap();
    let store = place.reopen(store).await;
    store.scrub().await.unwrap();
    assert_eq!(read_all(&*store, stream).await.len(), 4);
    assert_eq!(store.run(&gone).await, Ok(None));
    assert_eq!(store.record(&RecordKey::new("note", "n")).await.unwrap().as_deref(), Some(&b"kept"[..]));
    must(&*store, append(&k, stream, 4, 1)).await;
    let store = place.reopen(store).await;
    assert_eq!(read_all(&*store, stream).await.len(), 5);
}
