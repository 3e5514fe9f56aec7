//! Promises about streams that are no run's: opened, named, written, dropped.

use std::collections::BTreeMap;

use bytes::Bytes;
use longhaul_model::{Epoch, Seq, StreamId};

use super::Place;
use super::fixture::{
    append, create, key, made, message, must, open, opened, project, read_all, read_pages, record, to,
};
use crate::{Commit, CommitError, Form, ReadLimit, RecordKey, RecordWrite, RunFilter, StoreError};

/// Bytes that a line could not hold.
fn awkward() -> Vec<Bytes> {
    let mut all: Vec<Bytes> = [&b"\n"[..], b"\0", b"a\nb\n", b"\xff\xfe\0\n\0", b"{}"].map(Bytes::from_static).into();
    all.push(Bytes::from(vec![b'\n'; 100_000]));
    all.extend((0..500_u32).map(|n| Bytes::from(vec![(n % 251) as u8; 1 + n as usize % 300])));
    all.push(Bytes::from((0..200_000_u32).map(|n| n as u8).collect::<Vec<_>>()));
    all
}

/// Opaque messages come back byte for byte, newlines and NULs too, one at a time and many at once.
pub async fn opaque_messages_come_back_as_they_went(place: &dyn Place) {
    let mut store = place.open().await;
    let all = awkward();
    let mut commit = open(Form::Opaque, 0);
    commit.open.as_mut().unwrap().events = all[..3].to_vec();
    let stream = must(&*store, commit).await.created.unwrap();
    for (at, one) in all[..40].iter().enumerate().skip(3) {
        must(&*store, to(stream, at as u64, vec![one.clone()])).await;
    }
    must(&*store, to(stream, 40, all[40..].to_vec())).await;
    for _ in 0..2 {
        assert!(read_all(&*store, stream).await == all);
        for (events_max, bytes_max) in [(1, 1), (7, 1 << 20), (1000, 500)] {
            assert!(read_pages(&*store, stream, ReadLimit { events_max, bytes_max }).await == all);
        }
        let head = store.head(stream).await.unwrap();
        let bytes: usize = all.iter().map(Bytes::len).sum();
        assert_eq!((head.tail.get(), head.bytes, head.earliest), (all.len() as u64, bytes as u64, Seq::new(1)));
        store = place.reopen(store).await;
    }
    must(&*store, to(stream, all.len() as u64, vec![Bytes::from_static(b"\n")])).await;
    assert_eq!(read_all(&*store, stream).await.last().unwrap(), &b"\n"[..]);
}

/// A plain stream of lines takes what a run takes, and what it counts is without newlines.
pub async fn plain_lines_take_no_newline(place: &dyn Place) {
    let mut store = place.open().await;
    let stream = opened(&*store, Form::Lines, 3).await;
    for bad in [&b"two\nlines"[..], b"\n", b""] {
        let answer = store.commit(to(stream, 3, vec![Bytes::copy_from_slice(bad)])).await;
        assert!(matches!(answer, Err(CommitError::Invalid(_))), "{bad:?}: {answer:?}");
    }
    let mut bad = open(Form::Lines, 1);
    bad.open.as_mut().unwrap().events = vec![Bytes::from_static(b"a\n")];
    assert!(matches!(store.commit(bad).await, Err(CommitError::Invalid(_))));
    must(&*store, to(stream, 3, vec![message(4), message(5)])).await;
    let all: Vec<_> = (1..=5).map(message).collect();
    for _ in 0..2 {
        assert_eq!(read_all(&*store, stream).await, all);
        let bytes = all.iter().map(|m| m.len() as u64).sum::<u64>();
        assert_eq!(store.head(stream).await.unwrap().bytes, bytes);
        store = place.reopen(store).await;
    }
}

/// Compare-and-set, fencing, cursors and watches hold for plain streams as for runs.
pub async fn plain_streams_are_fenced_and_watched(place: &dyn Place) {
    let store = place.open().await;
    let mut commit = open(Form::Opaque, 1);
    commit.open.as_mut().unwrap().cursor = Some(Bytes::from_static(b"first"));
    let stream = must(&*store, commit).await.created.unwrap();
    let head = store.head(stream).await.unwrap();
    assert_eq!((head.tail, head.epoch, head.cursor.as_deref()), (Seq::new(1), Epoch::new(1), Some(&b"first"[..])));
    let mut watch = store.watch(stream).await.unwrap();
    assert_eq!(*watch.borrow_and_update(), Seq::new(1));
    assert_eq!(
        store.commit(to(stream, 0, vec![message(1)])).await,
        Err(CommitError::Conflict { expected: Seq::ZERO, actual: Seq::new(1) })
    );
    let with = |after, epoch, cursor: Option<&'static [u8]>| {
        let mut commit = to(stream, after, vec![message(after + 1)]);
        commit.streams[0].epoch = Epoch::new(epoch);
        commit.streams[0].cursor = cursor.map(Bytes::from_static);
        commit
    };
    must(&*store, with(1, 5, Some(b"second"))).await;
    watch.changed().await.unwrap();
    assert_eq!(*watch.borrow_and_update(), Seq::new(2));
    assert_eq!(store.commit(with(2, 4, None)).await, Err(CommitError::Fenced { owner: Epoch::new(5) }));
    must(&*store, with(2, 5, None)).await;
    let store = place.reopen(store).await;
    let head = store.head(stream).await.unwrap();
    assert_eq!((head.tail, head.epoch, head.cursor.as_deref()), (Seq::new(3), Epoch::new(5), Some(&b"second"[..])));
    assert_eq!(store.commit(with(3, 4, None)).await, Err(CommitError::Fenced { owner: Epoch::new(5) }));
    must(&*store, with(3, 5, None)).await;
}

/// Plain streams are no runs: no list, no count and no feed shows them, and their ids are those of nobody else.
pub async fn plain_streams_are_no_runs(place: &dyn Place) {
    let mut store = place.open().await;
    let mut ids = BTreeMap::new();
    for n in 0..10 {
        let run = made(&*store, &key("p", &format!("r{n}")), 1).await;
        let stream = opened(&*store, Form::Lines, 2).await;
        assert!(ids.insert(run, 1).is_none() && ids.insert(stream, 2).is_none(), "every id is given once");
    }
    for _ in 0..2 {
        let page = store.runs(RunFilter { limit: 100, ..RunFilter::default() }).await.unwrap();
        assert_eq!(page.rows.len(), 10);
        assert_eq!(store.live_runs().await.unwrap().len(), 10);
        assert_eq!(*store.watch_feed().borrow(), Seq::new(10));
        for (stream, tail) in &ids {
            assert_eq!(store.head(*stream).await.unwrap().tail, Seq::new(*tail));
        }
        store = place.reopen(store).await;
    }
}

/// A dropped stream is gone at once and for good, and its watch ends; its id is never given again.
pub async fn a_dropped_stream_is_gone(place: &dyn Place) {
    let mut store = place.open().await;
    let (first, second) = (opened(&*store, Form::Opaque, 300).await, opened(&*store, Form::Lines, 3).await);
    store = place.reopen(store).await;
    let third = opened(&*store, Form::Opaque, 3).await;
    let mut watch = store.watch(first).await.unwrap();
    must(&*store, Commit { drop: vec![first, third], ..Commit::default() }).await;
    assert!(watch.changed().await.is_err(), "the watch is closed");
    for turn in 0..3 {
        for gone in [first, third] {
            assert_eq!(store.head(gone).await, Err(StoreError::NotFound), "turn {turn}");
            assert_eq!(store.read(gone, Seq::ZERO, ReadLimit::default()).await, Err(StoreError::NotFound));
            assert_eq!(store.read_span(gone, Seq::ZERO, 1 << 20).await, Err(StoreError::NotFound));
            assert_eq!(store.watch(gone).await.err(), Some(StoreError::NotFound));
            assert_eq!(store.commit(to(gone, 3, vec![message(4)])).await, Err(CommitError::Gone));
            assert_eq!(store.commit(Commit { drop: vec![gone], ..Commit::default() }).await, Err(CommitError::Gone));
        }
        assert_eq!(read_all(&*store, second).await.len(), 3);
        let next = opened(&*store, Form::Lines, 1).await;
        assert!(next > third, "ids are given once");
        store = place.reopen(store).await;
    }
}

/// The id of the opened stream stands in a record of the same commit; if the record refuses, nothing is opened.
pub async fn records_are_stamped_with_the_opened_stream(place: &dyn Place) {
    let mut store = place.open().await;
    let named = |name: &str| {
        let name = RecordWrite { stamp: true, only_new: true, ..record("stream", name, Some("{\"a\":1}")) };
        Commit { records: vec![name, record("stream_time", "x", Some("plain"))], ..open(Form::Lines, 2) }
    };
    made(&*store, &key("p", "r"), 1).await;
    let mut streams = Vec::new();
    for name in ["p/a", "p/b"] {
        streams.push((name, must(&*store, named(name)).await.created.unwrap()));
    }
    assert_eq!(store.commit(named("p/a")).await, Err(CommitError::Exists));
    for _ in 0..2 {
        for (name, stream) in &streams {
            let value = store.record(&RecordKey::new("stream", *name)).await.unwrap().unwrap();
            let (id, rest) = value.split_at(8);
            assert_eq!(StreamId::new(u64::from_be_bytes(id.try_into().unwrap())), *stream);
            assert_eq!(rest, b"{\"a\":1}");
            assert_eq!(store.head(*stream).await.unwrap().tail, Seq::new(2));
        }
        let other = store.record(&RecordKey::new("stream_time", "x")).await.unwrap();
        assert_eq!(other.as_deref(), Some(&b"plain"[..]));
        store = place.reopen(store).await;
    }
    // The refused one opened nothing and used up no id that anybody saw.
    assert_eq!(store.records("stream", "", 10).await.unwrap().len(), 2);
    let page = store.runs(RunFilter::default()).await.unwrap();
    assert_eq!(page.rows.len(), 1);
}

/// What contradicts itself with plain streams in it is refused as such, and nothing of it happens.
pub async fn contradictions_with_plain_streams_are_invalid(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let run = made(&*store, &k, 1).await;
    let stream = opened(&*store, Form::Opaque, 2).await;
    let both = Commit { open: open(Form::Lines, 1).open, ..create(&key("p", "n"), 1) };
    let mut empty = to(stream, 2, vec![Bytes::new()]);
    empty.records = vec![record("op", "x", Some("y"))];
    let mut feed = to(stream, 2, vec![message(3)]);
    feed.streams[0].feed = vec![0];
    let mut with_row = append(&k, stream, 2, 1);
    let mut row = super::fixture::row(&k);
    row.stream = stream;
    with_row.streams[0].row = Some(row);
    let mut foreign = to(stream, 2, vec![message(3)]);
    foreign.streams[0].project = project("q");
    let mut beyond = to(stream, 2, vec![message(3)]);
    beyond.streams[0].keep_after = Some(Seq::new(4));
    let written = Commit { drop: vec![stream], ..to(stream, 2, vec![message(3)]) };
    let stamp = |value: Option<&str>| RecordWrite { stamp: true, ..record("stream", "s", value) };
    let all = [
        ("created and opened", both),
        ("empty", empty),
        ("feed", feed),
        ("row", with_row),
        ("project", foreign),
        ("kept beyond the tail", beyond),
        ("written and dropped", written),
        ("dropped twice", Commit { drop: vec![stream, stream], ..Commit::default() }),
        ("a run dropped", Commit { drop: vec![run], ..Commit::default() }),
        ("a stamp without a stream", Commit { records: vec![stamp(Some("v"))], ..Commit::default() }),
        ("a stamp of a created run", Commit { records: vec![stamp(Some("v"))], ..create(&key("p", "n"), 1) }),
        ("a stamp without a value", Commit { records: vec![stamp(None)], ..open(Form::Lines, 1) }),
    ];
    for (name, commit) in all {
        let answer = store.commit(commit).await;
        assert!(matches!(answer, Err(CommitError::Invalid(_))), "{name}: {answer:?}");
    }
    let never = Commit { drop: vec![StreamId::new(4711)], ..Commit::default() };
    assert_eq!(store.commit(never).await, Err(CommitError::Gone));
    assert_eq!(read_all(&*store, stream).await.len(), 2);
    assert_eq!(read_all(&*store, run).await.len(), 1);
    assert_eq!(store.record(&RecordKey::new("op", "x")).await, Ok(None));
    assert_eq!(store.run(&key("p", "n")).await, Ok(None));
}

/// A stream opened, another written, a third dropped and a record put are one commit: all or nothing.
pub async fn opening_writing_and_dropping_are_one(place: &dyn Place) {
    let store = place.open().await;
    let (a, b) = (opened(&*store, Form::Opaque, 2).await, opened(&*store, Form::Lines, 2).await);
    let good = || Commit {
        streams: to(a, 2, vec![message(3)]).streams,
        drop: vec![b],
        records: vec![RecordWrite { stamp: true, ..record("stream", "p/c", Some("c")) }],
        ..open(Form::Opaque, 4)
    };
    let mut conflict = good();
    conflict.streams[0].expected_tail = Seq::new(9);
    let mut gone = good();
    gone.drop.push(StreamId::new(4711));
    for bad in [conflict, gone] {
        assert!(store.commit(bad).await.is_err());
        assert_eq!(store.head(a).await.unwrap().tail, Seq::new(2));
        assert_eq!(store.head(b).await.unwrap().tail, Seq::new(2));
        assert_eq!(store.record(&RecordKey::new("stream", "p/c")).await, Ok(None));
    }
    let c = must(&*store, good()).await.created.unwrap();
    let store = place.reopen(store).await;
    assert_eq!(read_all(&*store, a).await, (1..=3).map(message).collect::<Vec<_>>());
    assert_eq!(store.head(b).await, Err(StoreError::NotFound));
    assert_eq!(read_all(&*store, c).await, (1..=4).map(message).collect::<Vec<_>>());
    let value = store.record(&RecordKey::new("stream", "p/c")).await.unwrap().unwrap();
    assert_eq!(value, [&c.get().to_be_bytes()[..], b"c"].concat());
}
