//! Promises about retention and about reading in bulk.

use bytes::Bytes;
use longhaul_model::Seq;

use super::Place;
use super::fixture::{message, must, opened, read_span, to};
use crate::{Commit, Form, ReadLimit, StoreError};

/// A commit that keeps what is above a seq, without an event.
fn trim(stream: longhaul_model::StreamId, tail: u64, upto: u64) -> Commit {
    let mut commit = to(stream, tail, vec![]);
    commit.streams[0].keep_after = Some(Seq::new(upto));
    commit
}

/// What retention took is `Expired` with the first event that is kept; the rest, the tail and the sizes stay.
pub async fn retention_expires_exactly(place: &dyn Place) {
    let mut store = place.open().await;
    for form in [Form::Lines, Form::Opaque] {
        let stream = opened(&*store, form, 1000).await;
        let bytes = store.head(stream).await.unwrap().bytes;
        let mut earliest = 1;
        // Also some that go back, and change nothing.
        for upto in [1, 0, 10, 9, 500, 3, 777, 999, 1000, 1000] {
            must(&*store, trim(stream, 1000, upto)).await;
            earliest = earliest.max(upto + 1);
            for _ in 0..2 {
                let head = store.head(stream).await.unwrap();
                assert_eq!((head.earliest.get(), head.tail.get(), head.bytes), (earliest, 1000, bytes));
                for after in [0, earliest / 2, earliest.saturating_sub(2)] {
                    if after + 1 < earliest {
                        let (after, expired) = (Seq::new(after), StoreError::Expired { earliest: Seq::new(earliest) });
                        let page = store.read(stream, after, ReadLimit::default()).await;
                        assert_eq!(page, Err(expired.clone()));
                        assert_eq!(store.read_span(stream, after, 1 << 20).await, Err(expired));
                    }
                }
                let page = store.read(stream, Seq::new(earliest - 1), ReadLimit::default()).await.unwrap();
                assert_eq!((page.earliest.get(), page.tail.get()), (earliest, 1000));
                assert_eq!(page.events.first().map(|e| e.seq.get()), (earliest <= 1000).then_some(earliest));
                let all = read_span(&*store, stream, form, earliest - 1, 4096).await;
                assert!(all == (earliest..=1000).map(message).collect::<Vec<_>>(), "{form:?} from {earliest}");
                store = place.reopen(store).await;
            }
        }
        let ahead = store.read(stream, Seq::new(1001), ReadLimit::default()).await;
        assert_eq!(ahead, Err(StoreError::Ahead { tail: Seq::new(1000) }));
        // An empty stream goes on where it was.
        must(&*store, to(stream, 1000, vec![message(1001)])).await;
        assert_eq!(read_span(&*store, stream, form, 1000, 4096).await, [message(1001)]);
    }
}

/// A stream that is trimmed as it grows, in the commit of each append, holds what it is told to.
pub async fn retention_follows_appends(place: &dyn Place) {
    let mut store = place.open().await;
    for (form, keep) in [(Form::Opaque, 7), (Form::Lines, 0), (Form::Opaque, 300)] {
        let stream = opened(&*store, form, 0).await;
        let mut tail = 0;
        for turn in 0..200_u64 {
            let count = 1 + turn % 5;
            let mut commit = to(stream, tail, (tail + 1..=tail + count).map(message).collect());
            tail += count;
            commit.streams[0].keep_after = Some(Seq::new(tail.saturating_sub(keep)));
            must(&*store, commit).await;
            let earliest = tail.saturating_sub(keep) + 1;
            if turn % 9 == 0 {
                let head = store.head(stream).await.unwrap();
                assert_eq!((head.earliest.get(), head.tail.get()), (earliest, tail));
                let all = read_span(&*store, stream, form, earliest - 1, 1000).await;
                assert!(all == (earliest..=tail).map(message).collect::<Vec<_>>(), "turn {turn}");
            }
            if turn % 50 == 49 {
                store = place.reopen(store).await;
            }
        }
        assert_eq!(store.head(stream).await.unwrap().bytes, (1..=tail).map(|n| message(n).len() as u64).sum::<u64>());
    }
}

/// Spans of any size give every message once, keep their bound, and are never empty below the tail.
pub async fn spans_are_whole_messages(place: &dyn Place) {
    let mut store = place.open().await;
    for form in [Form::Lines, Form::Opaque] {
        let stream = opened(&*store, form, 0).await;
        let mut all: Vec<Bytes> = (1..=400).map(message).collect();
        all.insert(100, Bytes::from(vec![b'x'; 300_000]));
        for part in all.chunks(37) {
            let tail = store.head(stream).await.unwrap().tail.get();
            must(&*store, to(stream, tail, part.to_vec())).await;
        }
        let tail = Seq::new(401);
        for _ in 0..2 {
            for bytes_max in [0, 1, 100, 5_000, 70_000, 1 << 20] {
                assert!(read_span(&*store, stream, form, 0, bytes_max).await == all, "{form:?}, {bytes_max}");
            }
            for after in [0, 1, 36, 37, 38, 99, 100, 101, 399, 400] {
                assert!(read_span(&*store, stream, form, after, 9_000).await == all[after as usize..]);
            }
            let end = store.read_span(stream, tail, 100).await.unwrap();
            assert_eq!((end.first, end.last, end.tail), (tail.next(), tail, tail));
            assert!(end.body.is_empty() && end.lengths.is_empty());
            assert_eq!(store.read_span(stream, tail.next(), 100).await, Err(StoreError::Ahead { tail }));
            store = place.reopen(store).await;
        }
    }
    let nowhere = store.read_span(longhaul_model::StreamId::new(4711), Seq::ZERO, 100).await;
    assert_eq!(nowhere, Err(StoreError::NotFound));
}
