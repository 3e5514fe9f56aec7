//! Many writers at once, each with several appends under way, while commits fail in the middle.
#![allow(missing_docs)]

mod harbour;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use bytes::Bytes;
use harbour::{World, key};
use longhaul_engine::streams::{Append, AppendError, Appended, WriteError};
use longhaul_model::stream::{Producer, Refusal};
use longhaul_store::CommitError;
use tokio::task::JoinHandle;

const WRITERS: usize = 64;
const APPENDS: u64 = 60;
const WINDOW: u64 = 4;

type Answer = Result<Appended, AppendError>;

async fn one(world: Arc<World>, path: &'static str, name: Arc<str>, seq: u64) -> Answer {
    let body = Bytes::from(format!("{name} {seq}\n"));
    let producer = Some(Producer { id: &name, epoch: 0, seq });
    let append = Append { body: Some(&body), content_type: Some("text/plain"), producer, ..Append::default() };
    world.streams.append(&key(path), append).await
}

/// Submits an append before it goes on by itself, so that those of one writer come in their order.
async fn send(world: &Arc<World>, path: &'static str, name: &Arc<str>, seq: u64) -> JoinHandle<Answer> {
    let mut append = Box::pin(one(Arc::clone(world), path, Arc::clone(name), seq));
    match futures_util::poll!(&mut append) {
        Poll::Ready(answer) => tokio::spawn(async move { answer }),
        Poll::Pending => tokio::spawn(append),
    }
}

/// Keeps some appends under way until all are stored, and answers where each is: one that was refused, and those sent
/// behind it, are sent again.
async fn write(world: Arc<World>, path: &'static str, name: Arc<str>) -> HashMap<u64, u64> {
    let mut stored = HashMap::new();
    let mut next = 0;
    while next < APPENDS {
        let mut sent = next;
        let mut flying = VecDeque::new();
        let mut failed = false;
        loop {
            while !failed && sent < APPENDS && sent < next + WINDOW {
                flying.push_back((sent, send(&world, path, &name, sent).await));
                sent += 1;
            }
            let Some((seq, answer)) = flying.pop_front() else { break };
            match answer.await.expect("an append") {
                Ok(appended) => {
                    assert!(!failed, "{name} {seq} was stored without the one before");
                    assert!(appended.new, "{name} {seq} was not there");
                    assert_eq!(stored.insert(seq, appended.next.get()), None);
                    next = seq + 1;
                }
                Err(AppendError::Write(WriteError::Full | WriteError::Busy)) => failed = true,
                Err(AppendError::Refused { refusal: Refusal::Gap { expected, received }, .. }) => {
                    // Only one that was sent behind one that was refused hears of a gap.
                    assert!(failed && expected < received && received == seq, "{name} {seq}: a gap at {expected}");
                    failed = true;
                }
                Err(error) => panic!("{name} {seq}: {error}"),
            }
        }
    }
    stored
}

async fn crowd(paths: &'static [&'static str]) {
    let world = Arc::new(World::new().await);
    for path in paths {
        world.create(path, "text/plain").await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let trouble = {
        let (world, done) = (Arc::clone(&world), Arc::clone(&done));
        tokio::spawn(async move {
            let mut round = 0;
            while !done.load(Ordering::SeqCst) {
                world.store.hold();
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
                round += 1;
                // Failures that nobody meets would pile up until nothing succeeds.
                if round % 3 == 0 && world.store.held() > 0 {
                    world.store.fail_next(CommitError::Full);
                }
                world.store.release();
                tokio::task::yield_now().await;
            }
        })
    };
    let writers: Vec<_> = (0..WRITERS)
        .map(|at| {
            (
                paths[at % paths.len()],
                tokio::spawn(write(Arc::clone(&world), paths[at % paths.len()], format!("w{at}").into())),
            )
        })
        .collect();
    let mut said: HashMap<(&str, u64), String> = HashMap::new();
    for (at, (path, writer)) in writers.into_iter().enumerate() {
        for (seq, offset) in writer.await.expect("a writer") {
            assert_eq!(said.insert((path, offset), format!("w{at} {seq}\n")), None, "two messages at one offset");
        }
    }
    done.store(true, Ordering::SeqCst);
    trouble.await.expect("no trouble");
    world.store.release();
    for path in paths {
        let texts = world.texts(path).await;
        for (at, text) in texts.iter().enumerate() {
            assert_eq!(said.remove(&(*path, at as u64 + 1)).as_ref(), Some(text));
        }
    }
    assert_eq!(said, HashMap::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_on_one_stream_is_answered_right_while_commits_fail() {
    crowd(&["one"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_on_many_streams_is_answered_right_while_commits_fail() {
    crowd(&["a", "b", "c", "d", "e"]).await;
}
