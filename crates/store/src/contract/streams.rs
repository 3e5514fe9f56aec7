//! Promises about one stream: order, fencing, pages, watches, all or nothing.

use bytes::Bytes;
use longhaul_model::{Epoch, Seq, StreamId};

use super::Place;
use super::fixture::{
    append, create, event, events, finish, key, made, must, put, read_all, read_pages, record, row, write,
};
use crate::{Commit, CommitError, ReadLimit, RecordKey, StoreError};

/// Appended events have dense seqs from 1 and come back byte for byte.
pub async fn appends_are_dense_and_read_back(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 2).await;
    let first = must(&*store, append(&k, stream, 2, 3)).await;
    let second = must(&*store, append(&k, stream, 5, 1)).await;
    assert!(second.position >= first.position, "positions never decrease");
    assert_eq!(second.created, None);
    assert_eq!(read_all(&*store, stream).await, events(&k, 1, 6));
    let page = store.read(stream, Seq::new(6), ReadLimit::default()).await.unwrap();
    assert_eq!((page.events.len(), page.tail, page.earliest), (0, Seq::new(6), Seq::new(1)));
}

/// Compare-and-set on the tail.
pub async fn a_wrong_tail_is_a_conflict(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 3).await;
    for wrong in [0, 2, 4, 99] {
        let refused = store.commit(append(&k, stream, wrong, 1)).await;
        assert_eq!(refused, Err(CommitError::Conflict { expected: Seq::new(wrong), actual: Seq::new(3) }));
    }
    assert_eq!(read_all(&*store, stream).await.len(), 3);
    must(&*store, append(&k, stream, 3, 1)).await;
}

/// Fencing: a lower epoch is refused, a higher one takes over, also without an event.
pub async fn a_lower_epoch_is_fenced_and_a_higher_takes_over(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 1).await;
    let with_epoch = |after, count, epoch| {
        let mut commit = append(&k, stream, after, count);
        commit.streams[0].epoch = Epoch::new(epoch);
        commit
    };
    must(&*store, with_epoch(1, 0, 5)).await;
    assert_eq!(store.head(stream).await.unwrap().epoch, Epoch::new(5));
    assert_eq!(store.commit(with_epoch(1, 1, 4)).await, Err(CommitError::Fenced { owner: Epoch::new(5) }));
    // A fenced writer hears that, even if its tail is wrong as well.
    assert_eq!(store.commit(with_epoch(9, 1, 4)).await, Err(CommitError::Fenced { owner: Epoch::new(5) }));
    must(&*store, with_epoch(1, 1, 5)).await;
    must(&*store, with_epoch(2, 1, 7)).await;
    let store = place.reopen(store).await;
    assert_eq!(store.commit(with_epoch(3, 1, 6)).await, Err(CommitError::Fenced { owner: Epoch::new(7) }));
    must(&*store, with_epoch(3, 1, 7)).await;
}

/// After a terminal row nothing is appended; reading goes on.
pub async fn a_terminal_row_closes_the_stream(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 1).await;
    must(&*store, finish(&k, stream, 1)).await;
    assert_eq!(store.commit(append(&k, stream, 2, 1)).await, Err(CommitError::Gone));
    assert_eq!(store.commit(append(&k, stream, 2, 0)).await, Err(CommitError::Gone));
    let store = place.reopen(store).await;
    assert_eq!(store.commit(append(&k, stream, 2, 1)).await, Err(CommitError::Gone));
    assert_eq!(read_all(&*store, stream).await.len(), 2);
    assert_eq!(store.head(stream).await.unwrap().tail, Seq::new(2));
    let watch = store.watch(stream).await.unwrap();
    assert_eq!(*watch.borrow(), Seq::new(2));
}

/// A stream that never was.
pub async fn an_unknown_stream_is_gone_or_not_found(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let nowhere = StreamId::new(4711);
    assert_eq!(store.commit(append(&k, nowhere, 0, 1)).await, Err(CommitError::Gone));
    assert_eq!(store.read(nowhere, Seq::ZERO, ReadLimit::default()).await, Err(StoreError::NotFound));
    assert_eq!(store.head(nowhere).await, Err(StoreError::NotFound));
    assert_eq!(store.watch(nowhere).await.err(), Some(StoreError::NotFound));
    assert_eq!(store.run(&k).await, Ok(None));
    let erase = Commit { erase: Some(k), ..Commit::default() };
    assert_eq!(store.commit(erase).await, Err(CommitError::Gone));
}

/// A page keeps its bounds in events and bytes, but holds at least one event.
pub async fn pages_are_bounded_but_never_empty(place: &dyn Place) {
    let mut store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 0).await;
    let big = event(&k, 1, &"x".repeat(100_000));
    let mut commit = append(&k, stream, 0, 0);
    commit.streams[0].events = vec![big.clone()];
    must(&*store, commit).await;
    must(&*store, append(&k, stream, 1, 50)).await;
    let mut expected = vec![big];
    expected.extend(events(&k, 2, 50));
    // From memory and from disk alike.
    for _ in 0..2 {
        for (events_max, bytes_max) in [(1, 1), (0, 0), (7, 1 << 20), (1000, 500), (1000, 1 << 20)] {
            let limit = ReadLimit { events_max, bytes_max };
            assert_eq!(read_pages(&*store, stream, limit).await, expected);
            let page = store.read(stream, Seq::new(1), limit).await.unwrap();
            let bytes: usize = page.events.iter().map(|e| e.wire.len()).sum();
            assert!(page.events.len() <= events_max.max(1), "{} events", page.events.len());
            assert!(page.events.len() == 1 || bytes <= bytes_max, "{bytes} bytes");
            assert_eq!(page.tail, Seq::new(51));
        }
        store = place.reopen(store).await;
    }
}

/// A cursor beyond the durable tail is refused with the tail.
pub async fn a_cursor_beyond_the_tail_is_ahead(place: &dyn Place) {
    let mut store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 3).await;
    for _ in 0..2 {
        for after in [4, 5, u64::MAX >> 1] {
            let answer = store.read(stream, Seq::new(after), ReadLimit::default()).await;
            assert_eq!(answer, Err(StoreError::Ahead { tail: Seq::new(3) }));
        }
        store = place.reopen(store).await;
    }
}

/// Tail, epoch and cursor are what the last commit left; a commit without a cursor leaves the old one.
pub async fn head_and_cursor_survive(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 1).await;
    assert_eq!(store.head(stream).await.unwrap().cursor, None);
    let mut commit = append(&k, stream, 1, 2);
    commit.streams[0].cursor = Some(Bytes::from_static(b"cursor-\x00\xff\n1"));
    must(&*store, commit).await;
    must(&*store, append(&k, stream, 3, 1)).await;
    let head = store.head(stream).await.unwrap();
    assert_eq!((head.tail, head.cursor.as_deref()), (Seq::new(4), Some(&b"cursor-\x00\xff\n1"[..])));
    let store = place.reopen(store).await;
    assert_eq!(store.head(stream).await.unwrap(), head);
    must(&*store, append(&k, stream, 4, 1)).await;
    let head = store.head(stream).await.unwrap();
    assert_eq!((head.tail, head.cursor.as_deref()), (Seq::new(5), Some(&b"cursor-\x00\xff\n1"[..])));
    let mut commit = append(&k, stream, 5, 0);
    commit.streams[0].cursor = Some(Bytes::new());
    must(&*store, commit).await;
    let store = place.reopen(store).await;
    assert_eq!(store.head(stream).await.unwrap().cursor.as_deref(), Some(&b""[..]));
}

/// A watch begins at the durable tail, moves only forward, and never beyond what can be read.
pub async fn a_watch_follows_and_never_goes_back(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 2).await;
    let mut watch = store.watch(stream).await.unwrap();
    assert_eq!(*watch.borrow_and_update(), Seq::new(2));
    let writer = {
        let (store, k) = (store.clone(), k.clone());
        tokio::spawn(async move {
            for after in 2..202 {
                must(&*store, append(&k, stream, after, 1)).await;
            }
        })
    };
    let mut seen = Seq::new(2);
    while seen < Seq::new(202) {
        watch.changed().await.expect("the watch lives as long as the stream");
        let now = *watch.borrow_and_update();
        assert!(now > seen, "a watch moves forward: {now} after {seen}");
        let page = store.read(stream, seen, ReadLimit::default()).await.unwrap();
        assert!(page.tail >= now, "what a watch shows can be read");
        assert_eq!(page.events.first().map(|e| e.seq), Some(seen.next()));
        seen = now;
    }
    writer.await.unwrap();
    // A second watch, of a stream nobody touched for a while.
    let store = place.reopen(store).await;
    let mut watch = store.watch(stream).await.unwrap();
    assert_eq!(*watch.borrow_and_update(), Seq::new(202));
    must(&*store, append(&k, stream, 202, 1)).await;
    watch.changed().await.unwrap();
    assert_eq!(*watch.borrow(), Seq::new(203));
}

/// A watch closes when its stream is erased.
pub async fn a_watch_ends_with_its_stream(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 1).await;
    let mut watch = store.watch(stream).await.unwrap();
    watch.borrow_and_update();
    must(&*store, Commit { erase: Some(k), ..Commit::default() }).await;
    assert!(watch.changed().await.is_err(), "the watch is closed");
}

/// Whatever is refused in a commit, nothing of it happens.
pub async fn a_commit_over_several_streams_is_all_or_nothing(place: &dyn Place) {
    let store = place.open().await;
    let (a, b, c) = (key("p", "a"), key("p", "b"), key("q", "c"));
    let (sa, sb) = (made(&*store, &a, 1).await, made(&*store, &b, 1).await);
    must(&*store, put(vec![record("op", "there", Some("1"))])).await;
    let good = || Commit {
        create: create(&c, 2).create,
        streams: vec![write(&a, sa, 1, 2), write(&b, sb, 1, 1)],
        records: vec![record("op", "x", Some("y"))],
        ..Commit::default()
    };
    let mut conflict = good();
    conflict.streams[1].expected_tail = Seq::new(7);
    let mut fenced = good();
    fenced.streams[1].epoch = Epoch::new(0);
    let mut exists = good();
    exists.records.push(crate::RecordWrite { only_new: true, ..record("op", "there", Some("2")) });
    let mut gone = good();
    gone.erase = Some(key("p", "nobody"));
    for bad in [conflict, fenced, exists, gone] {
        assert!(store.commit(bad).await.is_err());
        assert_eq!(store.head(sa).await.unwrap().tail, Seq::new(1));
        assert_eq!(store.head(sb).await.unwrap().tail, Seq::new(1));
        assert_eq!(store.run(&c).await, Ok(None));
        assert_eq!(store.record(&RecordKey::new("op", "x")).await, Ok(None));
        assert_eq!(*store.watch_feed().borrow(), Seq::new(2));
    }
    let made = must(&*store, good()).await.created.unwrap();
    let store = place.reopen(store).await;
    assert_eq!(read_all(&*store, sa).await, events(&a, 1, 3));
    assert_eq!(read_all(&*store, sb).await, events(&b, 1, 2));
    assert_eq!(read_all(&*store, made).await, events(&c, 1, 2));
    assert_eq!(store.record(&RecordKey::new("op", "x")).await.unwrap().as_deref(), Some(&b"y"[..]));
}

/// A commit that contradicts itself is refused as such.
pub async fn contradictions_are_invalid(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 1).await;
    let twice = Commit { streams: vec![write(&k, stream, 1, 1), write(&k, stream, 2, 1)], ..Commit::default() };
    let mut newline = append(&k, stream, 1, 1);
    newline.streams[0].events = vec![Bytes::from_static(b"two\nlines")];
    let mut empty = append(&k, stream, 1, 1);
    empty.streams[0].events = vec![Bytes::new()];
    let mut feed = append(&k, stream, 1, 1);
    feed.streams[0].feed = vec![1];
    let mut order = append(&k, stream, 1, 3);
    order.streams[0].feed = vec![1, 0];
    let mut other_row = append(&k, stream, 1, 1);
    other_row.streams[0].row = Some(crate::RunRow { stream: StreamId::new(999), ..row(&k) });
    let mut other_key = append(&k, stream, 1, 1);
    other_key.streams[0].row = Some(crate::RunRow { stream, ..row(&key("p", "other")) });
    let other_project = append(&key("q", "r"), stream, 1, 1);
    let record_twice = put(vec![record("k", "i", Some("1")), record("k", "i", None)]);
    let written_and_erased =
        Commit { streams: vec![write(&k, stream, 1, 1)], erase: Some(k.clone()), ..Commit::default() };
    let created_and_erased = Commit { erase: Some(key("p", "n")), ..create(&key("p", "n"), 1) };
    let all = [
        ("twice", twice),
        ("newline", newline),
        ("empty", empty),
        ("feed", feed),
        ("order", order),
        ("other row", other_row),
        ("other key", other_key),
        ("other project", other_project),
        ("record twice", record_twice),
        ("written and erased", written_and_erased),
        ("created and erased", created_and_erased),
    ];
    for (name, commit) in all {
        let answer = store.commit(commit).await;
        assert!(matches!(answer, Err(CommitError::Invalid(_))), "{name}: {answer:?}");
    }
    assert_eq!(read_all(&*store, stream).await.len(), 1);
    must(&*store, Commit::default()).await;
}

/// Dropping the future of a submitted commit does not take it back, and harms nobody.
pub async fn a_dropped_future_takes_nothing_back(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 0).await;
    let mut tail = 0;
    for _ in 0..50 {
        // Polled once, then dropped: it may be made or not, but whole.
        let polled = tokio::time::timeout(std::time::Duration::ZERO, store.commit(append(&k, stream, tail, 1))).await;
        drop(polled);
        // The next commit tells: one of the two tails is right.
        tail = match store.commit(append(&k, stream, tail, 1)).await {
            Ok(_) => tail + 1,
            Err(CommitError::Conflict { actual, .. }) => {
                assert_eq!(actual.get(), tail + 1);
                must(&*store, append(&k, stream, tail + 1, 1)).await;
                tail + 2
            }
            Err(other) => panic!("{other}"),
        };
    }
    assert_eq!(read_all(&*store, stream).await, events(&k, 1, tail));
}

/// Events, rows and records of megabytes.
pub async fn large_commits_survive(place: &dyn Place) {
    let store = place.open().await;
    let k = key("p", "r");
    let stream = made(&*store, &k, 1).await;
    let mut commit = append(&k, stream, 1, 20_000);
    commit.streams[0].cursor = Some(Bytes::from(vec![7; 100_000]));
    commit.records = vec![record("blob", "b", Some(&"z".repeat(2 << 20)))];
    let mut big = row(&k);
    big.stream = stream;
    big.doc = Bytes::from(vec![b'd'; 3 << 20]);
    commit.streams[0].row = Some(big.clone());
    must(&*store, commit).await;
    let huge = event(&k, 20_002, &"h".repeat(9 << 20));
    let mut commit = append(&k, stream, 20_001, 0);
    commit.streams[0].events = vec![huge.clone()];
    must(&*store, commit).await;
    let store = place.reopen(store).await;
    let mut expected = events(&k, 1, 20_001);
    expected.push(huge);
    assert!(read_all(&*store, stream).await == expected, "20 002 events come back");
    assert_eq!(store.run(&k).await.unwrap().unwrap().doc, big.doc);
    assert_eq!(store.record(&RecordKey::new("blob", "b")).await.unwrap().unwrap().len(), 2 << 20);
}
