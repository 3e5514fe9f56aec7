//! Promises about commits that are submitted before those ahead of them are durable.

use longhaul_model::Seq;

use super::Place;
use super::fixture::{message, must, opened, read_all, to};
use crate::{CommitError, Form, Ticket};

/// Submitted commits are made in the order of the calls, many in flight, without anybody waiting in between.
pub async fn submitted_commits_keep_their_order(place: &dyn Place) {
    let store = place.open().await;
    let streams = [opened(&*store, Form::Opaque, 0).await, opened(&*store, Form::Lines, 0).await];
    let mut tickets: Vec<Ticket> = Vec::new();
    for tail in 0..500 {
        for stream in streams {
            tickets.push(store.submit(to(stream, tail, vec![message(tail + 1)])).unwrap());
        }
    }
    let mut position = 0;
    for ticket in tickets {
        let committed = ticket.await.unwrap();
        assert!(committed.position >= position, "positions never decrease");
        position = committed.position;
    }
    let store = place.reopen(store).await;
    for stream in streams {
        assert_eq!(read_all(&*store, stream).await, (1..=500).map(message).collect::<Vec<_>>());
    }
}

/// A refused append refuses those that were submitted behind it: none of them is made.
pub async fn a_refused_append_refuses_those_behind_it(place: &dyn Place) {
    let store = place.open().await;
    let stream = opened(&*store, Form::Opaque, 3).await;
    let gone = opened(&*store, Form::Opaque, 0).await;
    must(&*store, crate::Commit { drop: vec![gone], ..crate::Commit::default() }).await;
    // The first is refused for something else than the tail; the others believe in the tail that it would have left.
    let mut first = to(stream, 3, vec![message(4)]);
    first.streams.extend(to(gone, 0, vec![message(1)]).streams);
    let mut tickets = vec![store.submit(first).unwrap()];
    for tail in 4..40 {
        tickets.push(store.submit(to(stream, tail, vec![message(tail + 1)])).unwrap());
    }
    for (ticket, tail) in tickets.into_iter().zip(3..) {
        let expected = match tail {
            3 => CommitError::Gone,
            _ => CommitError::Conflict { expected: Seq::new(tail), actual: Seq::new(3) },
        };
        assert_eq!(ticket.await, Err(expected));
    }
    // Whoever reloads goes on.
    must(&*store, to(stream, 3, vec![message(4)])).await;
    let store = place.reopen(store).await;
    assert_eq!(read_all(&*store, stream).await, (1..=4).map(message).collect::<Vec<_>>());
}

/// A dropped ticket takes nothing back; a store that is closed takes nothing in.
pub async fn a_dropped_ticket_takes_nothing_back(place: &dyn Place) {
    let store = place.open().await;
    let stream = opened(&*store, Form::Lines, 0).await;
    for tail in 0..20 {
        drop(store.submit(to(stream, tail, vec![message(tail + 1)])).unwrap());
    }
    must(&*store, to(stream, 20, vec![message(21)])).await;
    drop(store.submit(to(stream, 21, vec![message(22)])).unwrap());
    let store = place.reopen(store).await;
    assert_eq!(read_all(&*store, stream).await, (1..=22).map(message).collect::<Vec<_>>());
    store.close().await.unwrap();
    assert_eq!(store.submit(to(stream, 22, vec![message(23)])).err(), Some(CommitError::Closed));
}
