//! One producer's appends are decided in the order in which they came, however long some of them must wait: else one that
//! comes later would be told of a gap that is none.
#![allow(missing_docs)]

mod harbour;

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use futures_util::poll;
use harbour::{World, key};
use longhaul_engine::streams::{Append, AppendError, Appended, Create, WriteError};
use longhaul_model::stream::{Lifetime, Producer};
use longhaul_store::CommitError;

type Sent<'a> = Pin<Box<dyn Future<Output = Result<Appended, AppendError>> + 'a>>;

/// An append of one line, as it comes to the server; nothing has looked at it yet.
fn send<'a>(world: &'a World, producer: &'static str, seq: u64) -> Sent<'a> {
    Box::pin(async move {
        let body = Bytes::from(format!("{producer} {seq}\n"));
        let producer = Some(Producer { id: producer, epoch: 0, seq });
        let append = Append { body: Some(&body), content_type: Some("text/plain"), producer, ..Append::default() };
        world.streams.append(&key("s"), append).await
    })
}

/// The same, looked at and waiting.
async fn sent<'a>(world: &'a World, producer: &'static str, seq: u64) -> Sent<'a> {
    let mut append = send(world, producer, seq);
    assert!(poll!(&mut append).is_pending(), "{producer} {seq}");
    append
}

/// Goes on with appends in an order, round and round, until all are answered.
async fn answers(appends: &mut [Sent<'_>]) -> Vec<Result<Appended, AppendError>> {
    let mut answers: Vec<Option<Result<Appended, AppendError>>> = appends.iter().map(|_| None).collect();
    for round in 0.. {
        if answers.iter().all(Option::is_some) {
            break;
        }
        assert!(round < 10_000, "some wait for ever: {answers:?}");
        for (append, answer) in appends.iter_mut().zip(&mut answers).filter(|(_, answer)| answer.is_none()) {
            if let Poll::Ready(ready) = poll!(append) {
                *answer = Some(ready);
            }
        }
        tokio::task::yield_now().await;
    }
    answers.into_iter().flatten().collect()
}

fn next(answers: &[Result<Appended, AppendError>]) -> Vec<u64> {
    answers.iter().map(|answer| answer.as_ref().unwrap_or_else(|error| panic!("{error}")).next.get()).collect()
}

#[tokio::test]
async fn who_waits_for_a_failed_commit_is_not_overtaken() {
    let world = World::new().await;
    world.create("s", "text/plain").await;
    world.store.hold();
    let mut failing = sent(&world, "a", 0).await;
    let mut behind = sent(&world, "b", 0).await;
    world.store.fail_next(CommitError::Full);
    world.store.release();
    // The one behind hears first that it was not made, and waits for its turn.
    assert!(poll!(&mut behind).is_pending());
    let (mut first, second) = (sent(&world, "c", 0).await, sent(&world, "c", 1).await);
    let failed = poll!(&mut failing);
    assert!(matches!(failed, Poll::Ready(Err(AppendError::Write(WriteError::Full)))), "{failed:?}");
    assert!(poll!(&mut behind).is_ready());
    // The first finds a stream in order and goes on; one that comes now finds it so as well, and the second still waits.
    assert_eq!(poll!(&mut first).map(|answer| answer.unwrap().next.get()), Poll::Ready(2));
    let third = send(&world, "c", 2);
    let answers = answers(&mut [third, second]).await;
    assert_eq!(next(&answers), [4, 3]);
    assert_eq!(world.texts("s").await, ["b 0\n", "c 0\n", "c 1\n", "c 2\n"]);
}

#[tokio::test]
async fn who_waits_for_a_commit_that_is_made_alone_is_not_overtaken() {
    let mut world = World::new().await;
    let lifetime = Lifetime::TtlSeconds(80);
    let content_type = Some(harbour::kind("text/plain"));
    world.create_as("s", Create { content_type, lifetime, ..Create::default() }).await.unwrap();
    world.killed().await;
    world.clock.pass(20_000);
    world.store.hold();
    // A read, of which is stored that it was.
    let streams = world.streams.clone();
    let reading = tokio::spawn(async move { streams.open(&key("s")).await.map(|_| ()) });
    while world.store.held() == 0 {
        tokio::task::yield_now().await;
    }
    let (first, second) = (sent(&world, "c", 0).await, sent(&world, "c", 1).await);
    world.store.release();
    reading.await.unwrap().unwrap();
    let third = send(&world, "c", 2);
    let answers = answers(&mut [third, second, first]).await;
    assert_eq!(next(&answers), [3, 2, 1]);
}

#[tokio::test]
async fn who_looks_up_a_producer_is_not_overtaken() {
    let mut world = World::new().await;
    world.create("s", "text/plain").await;
    assert!(send(&world, "c", 0).await.is_ok());
    // With a handle that has to be made, and with one that is there and does not know this producer.
    for (handle_is_there, seq) in [(false, 1), (true, 4)] {
        world.killed().await;
        if handle_is_there {
            world.append("s", "x").await.unwrap();
        }
        world.store.slow_records(true);
        let (first, second) = (sent(&world, "c", seq).await, sent(&world, "c", seq + 1).await);
        world.store.slow_records(false);
        let third = send(&world, "c", seq + 2);
        let mut answers = next(&answers(&mut [third, second, first]).await);
        answers.reverse();
        assert_eq!(answers, [answers[0], answers[0] + 1, answers[0] + 2], "{handle_is_there}");
    }
}

#[tokio::test]
async fn a_close_waits_for_what_was_sent_before_it() {
    for fails in [false, true] {
        let world = World::new().await;
        world.create("s", "text/plain").await;
        world.store.hold();
        let append = sent(&world, "a", 0).await;
        let close: Sent = Box::pin(world.close("s", Some(("b", 0, 0))));
        let mut both = [append, close];
        for _ in 0..20 {
            assert!(poll!(&mut both[1]).is_pending());
            tokio::task::yield_now().await;
        }
        assert_eq!(world.store.held(), 1, "the close is not on its way yet");
        if fails {
            world.store.fail_next(CommitError::Full);
        }
        world.store.release();
        let answers = answers(&mut both).await;
        assert_eq!(answers[0].is_err(), fails);
        let closed = answers[1].as_ref().unwrap();
        assert_eq!((closed.new, closed.closed, closed.next.get()), (true, true, u64::from(!fails)));
        assert_eq!(world.texts("s").await.len(), usize::from(!fails));
        assert!(!world.close("s", Some(("b", 0, 0))).await.unwrap().new);
    }
}

#[tokio::test]
async fn who_gives_up_waiting_holds_up_nobody() {
    let world = World::new().await;
    world.create("s", "text/plain").await;
    world.store.hold();
    let mut failing = sent(&world, "a", 0).await;
    let mut behind = sent(&world, "b", 0).await;
    world.store.fail_next(CommitError::Full);
    world.store.release();
    assert!(poll!(&mut behind).is_pending());
    let (first, second, third) = (sent(&world, "c", 0).await, sent(&world, "c", 0).await, sent(&world, "c", 0).await);
    drop(second);
    assert!(poll!(&mut failing).is_ready());
    assert!(poll!(&mut behind).is_ready());
    drop(first);
    let answers = answers(&mut [third]).await;
    assert_eq!(next(&answers), [2]);
    assert!(send(&world, "c", 1).await.is_ok());
}
