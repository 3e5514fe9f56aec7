//! How long it takes until all have what they missed, when all readers come back at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use super::limits::READ_BYTES;
use super::load::{Frame, alone, erase, expect_ok, make, on_threads, workers};
use super::reader::{ReadError, Reader};
use super::request::{Path, batch, times};
use super::sample::{Outcome, Tally};
use super::target::Target;
use super::wire::Link;

/// Events that each of them missed.
const MISSED: usize = 10;

/// One row of a storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storm {
    /// Readers.
    pub readers: usize,
}

/// What the readers share.
#[derive(Debug)]
struct Shared {
    began: Instant,
    deadline: Instant,
    left: AtomicUsize,
    over: CancellationToken,
}

impl Storm {
    /// Measures it.
    pub fn measure(self, target: &Target, frame: &Frame) -> Outcome {
        let streams = frame.streams(target, 1);
        if let Err(why) = alone(make(target, &streams)).and_then(|()| alone(fill(target, &streams[0]))) {
            return Outcome::failed(why);
        }
        let shared = Arc::new(Shared {
            began: Instant::now(),
            deadline: frame.deadline(),
            left: AtomicUsize::new(self.readers),
            over: CancellationToken::new(),
        });
        let parts = on_threads(frame.threads, |at| {
            let (stream, shared) = (&streams[0], &shared);
            workers(at, frame.threads, self.readers, move |_| {
                worker(target.clone(), Arc::clone(stream), Arc::clone(shared))
            })
        });
        let mut tally = parts.into_iter().fold(Tally::default(), Tally::and);
        alone(erase(target, &streams));
        Outcome::of(&tally).with("p50_ms", tally.percentile_ms(500)).with("all_ms", tally.percentile_ms(1000))
    }
}

async fn fill(target: &Target, stream: &Path) -> Result<(), String> {
    let (mut link, mut request) = (Link::new(target.address, READ_BYTES), Vec::new());
    stream.post(None, &batch(0, MISSED), &mut request);
    expect_ok(&mut link, &request, "filling a stream").await
}

/// A reader, which stays until all have caught up.
async fn worker(target: Target, stream: Arc<Path>, shared: Arc<Shared>) -> Tally {
    let mut tally = Tally::default();
    let caught_up = timeout_at(shared.deadline.into(), catch_up(&target, &stream)).await;
    match &caught_up {
        Ok(Ok(_)) => tally.time(shared.began.elapsed()),
        Ok(Err(error)) => tally.fail(error),
        Err(_) => tally.fail("not caught up in time"),
    }
    if shared.left.fetch_sub(1, Ordering::AcqRel) == 1 {
        shared.over.cancel();
    }
    shared.over.cancelled().await;
    // So that what closing costs falls into nobody's time.
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(caught_up);
    tally
}

async fn catch_up(target: &Target, stream: &Arc<Path>) -> Result<Reader, ReadError> {
    let mut reader = Reader::open(target, stream).await?;
    let mut seen = 0;
    while seen < MISSED {
        reader.next(|line| seen += times(line).count()).await?;
    }
    Ok(reader)
}
