//! Promises about the lifecycle feed.

use std::sync::Arc;

use longhaul_model::{ProjectId, Seq};

use super::Place;
use super::fixture::{append, create, event, key, made, must};
use crate::{Commit, FeedEntry, ReadLimit, Store, StoreError};

async fn all(store: &dyn Store, project: Option<&ProjectId>, limit: ReadLimit) -> Vec<FeedEntry> {
    let (mut entries, mut after) = (Vec::new(), Seq::ZERO);
    loop {
        let page = store.feed(after, project, limit).await.expect("the feed is read");
        assert!(page.upto >= after && page.upto <= page.tail);
        assert!(page.entries.iter().all(|e| e.position > after && e.position <= page.upto));
        entries.extend(page.entries);
        if page.upto == page.tail {
            return entries;
        }
        assert!(page.upto > after, "a page of the feed gets further");
        after = page.upto;
    }
}

/// Positions are dense from 1 over all runs, in commit order.
pub async fn the_feed_is_dense_and_global(place: &dyn Place) {
    let mut store = place.open().await;
    let (a, b) = (key("p", "a"), key("q", "b"));
    let empty = store.feed(Seq::ZERO, None, ReadLimit::default()).await.unwrap();
    assert_eq!((empty.tail, empty.upto, empty.entries.len()), (Seq::ZERO, Seq::ZERO, 0));
    let (sa, sb) = (made(&*store, &a, 2).await, made(&*store, &b, 2).await);
    let mut expected = vec![(a.clone(), 1), (b.clone(), 1)];
    for round in 0..40 {
        let mut commit = append(&a, sa, 2 + 3 * round, 3);
        commit.streams[0].feed = vec![0, 2];
        commit.streams.extend(append(&b, sb, 2 + round, 1).streams);
        commit.streams[1].feed = if round % 2 == 0 { vec![0] } else { vec![] };
        must(&*store, commit).await;
        expected.extend([(a.clone(), 3 + 3 * round), (a.clone(), 5 + 3 * round)]);
        if round % 2 == 0 {
            expected.push((b.clone(), 3 + round));
        }
    }
    for _ in 0..2 {
        let expected: Vec<_> = expected
            .iter()
            .zip(1..)
            .map(|((k, seq), position)| FeedEntry {
                position: Seq::new(position),
                project: k.project.clone(),
                wire: event(k, *seq, &format!("line {seq}")),
            })
            .collect();
        for limit in [
            ReadLimit::default(),
            ReadLimit { events_max: 7, bytes_max: 1 << 20 },
            ReadLimit { events_max: 9, bytes_max: 1 },
        ] {
            assert_eq!(all(&*store, None, limit).await, expected);
        }
        let tail = Seq::new(expected.len() as u64);
        assert_eq!(*store.watch_feed().borrow(), tail);
        assert_eq!(store.feed(tail.next(), None, ReadLimit::default()).await, Err(StoreError::Ahead { tail }));
        store = place.reopen(store).await;
    }
}

/// A filtered reader advances over what it does not see.
pub async fn the_feed_filters_and_says_how_far_it_looked(place: &dyn Place) {
    let mut store = place.open().await;
    for n in 0..30 {
        made(&*store, &key(if n == 3 || n == 20 { "rare" } else { "common" }, &format!("r{n}")), 1).await;
    }
    let rare = ProjectId::parse("rare").unwrap();
    for _ in 0..2 {
        let found = all(&*store, Some(&rare), ReadLimit { events_max: 1, bytes_max: 1 }).await;
        assert_eq!(found.iter().map(|e| e.position.get()).collect::<Vec<_>>(), [4, 21]);
        let mut upto = Seq::new(21);
        while upto < Seq::new(30) {
            let page = store.feed(upto, Some(&rare), ReadLimit::default()).await.unwrap();
            assert_eq!((page.entries.len(), page.tail), (0, Seq::new(30)));
            assert!(page.upto > upto, "an empty page gets further too");
            upto = page.upto;
        }
        let nobody = ProjectId::parse("nobody").unwrap();
        assert_eq!(all(&*store, Some(&nobody), ReadLimit::default()).await, []);
        store = place.reopen(store).await;
    }
}

/// The entries of an erased run are seen no more; the positions of the others stay.
pub async fn the_feed_forgets_an_erased_run(place: &dyn Place) {
    let mut store = place.open().await;
    for n in 0..10 {
        made(&*store, &key("p", &format!("r{n}")), 1).await;
    }
    for (round, gone) in [4, 9, 0].into_iter().enumerate() {
        if round == 1 {
            store = place.reopen(store).await;
        }
        must(&*store, Commit { erase: Some(key("p", &format!("r{gone}"))), ..Commit::default() }).await;
        let positions: Vec<_> =
            all(&*store, None, ReadLimit::default()).await.iter().map(|e| e.position.get()).collect();
        let erased = &[5, 10, 1][..=round];
        assert_eq!(positions, (1..=10).filter(|p| !erased.contains(p)).collect::<Vec<_>>());
    }
    store = place.reopen(store).await;
    must(&*store, create(&key("p", "r4"), 1)).await;
    let last = all(&*store, None, ReadLimit::default()).await.pop().unwrap();
    assert_eq!(last.position, Seq::new(11));
}

/// An acknowledged erasure holds at once, also for a reader that meets the moment in which it reaches the disk.
pub async fn the_feed_never_shows_an_erased_run(place: &dyn Place) {
    let store = place.open().await;
    for n in 0..100 {
        made(&*store, &key("p", &format!("r{n}")), 1).await;
    }
    let store = place.reopen(store).await;
    for n in 0..100 {
        must(&*store, Commit { erase: Some(key("p", &format!("r{n}"))), ..Commit::default() }).await;
        let readers: Vec<_> = (0..16)
            .map(|_| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.feed(Seq::new(n), None, ReadLimit::default()).await.unwrap().entries })
            })
            .collect();
        for reader in readers {
            let seen = reader.await.unwrap();
            assert!(seen.iter().all(|entry| entry.position.get() > n + 1), "the entry of an erased run was seen");
        }
    }
}

/// The watch of the feed begins at its durable tail and follows.
pub async fn the_feed_watch_follows(place: &dyn Place) {
    let store = place.open().await;
    let mut watch = store.watch_feed();
    assert_eq!(*watch.borrow_and_update(), Seq::ZERO);
    made(&*store, &key("p", "a"), 1).await;
    watch.changed().await.unwrap();
    assert_eq!(*watch.borrow_and_update(), Seq::new(1));
    assert_eq!(store.feed(Seq::ZERO, None, ReadLimit::default()).await.unwrap().entries.len(), 1);
}
