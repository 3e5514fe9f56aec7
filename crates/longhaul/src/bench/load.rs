//! Workers of one row, spread over threads.
//!
//! Job: each thread runs its own part on its own event loop, so that no worker is ever moved; what all rows do alike
//! (make streams, open many connections). Never: measures.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::limits::{OPENING_MAX, READ_BYTES, ROW_EXTRA_MAX};
use super::request::Path;
use super::sample::Tally;
use super::target::Target;
use super::wire::Link;

/// How one row is measured.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Threads of this process that drive the server.
    pub threads: usize,
    /// How long is measured.
    pub time: Duration,
    /// What names of streams of this row, server and round begin with.
    pub prefix: String,
}

impl Frame {
    /// What is done before it counts.
    pub fn warm(&self) -> Duration {
        self.time / 6
    }

    /// When this row has to be over, if it began now.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.time + self.warm() + ROW_EXTRA_MAX
    }

    /// The row's streams.
    pub fn streams(&self, target: &Target, count: usize) -> Vec<Arc<Path>> {
        (0..count).map(|n| Arc::new(Path::new(target, &format!("{}-{n}", self.prefix)))).collect()
    }
}

fn event_loop() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("an event loop needs a few descriptors")
}

/// Does one thing on this thread.
pub fn alone<T>(work: impl Future<Output = T>) -> T {
    event_loop().block_on(work)
}

/// Does its part on each of so many threads.
pub fn on_threads<T: Send, F: Future<Output = T>>(threads: usize, work: impl Fn(usize) -> F + Sync) -> Vec<T> {
    let work = &work;
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads).map(|at| scope.spawn(move || event_loop().block_on(work(at)))).collect();
        parts.into_iter().map(|part| part.join().expect("a worker of a bench does not panic")).collect()
    })
}

/// Runs a worker for each number below `count` that is this thread's, and adds up what they saw.
pub async fn workers<F>(at: usize, threads: usize, count: usize, worker: impl Fn(usize) -> F) -> Tally
where
    F: Future<Output = Tally> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for n in (at..count).step_by(threads) {
        tasks.spawn(worker(n));
    }
    let mut all = Tally::default();
    while let Some(done) = tasks.join_next().await {
        all = all.and(done.unwrap_or_else(|_| {
            let mut tally = Tally::default();
            tally.fail("a worker panicked");
            tally
        }));
    }
    all
}

/// Makes the streams.
///
/// # Errors
/// One could not be made; says what the server answered.
pub async fn make(target: &Target, streams: &[Arc<Path>]) -> Result<(), String> {
    let mut link = Link::new(target.address, READ_BYTES);
    for stream in streams {
        expect_ok(&mut link, &stream.put(), "making a stream").await?;
    }
    Ok(())
}

/// A request that must go well; `what` was tried.
///
/// # Errors
/// What came instead.
pub async fn expect_ok(link: &mut Link, request: &[u8], what: &str) -> Result<(), String> {
    match link.call(request, |_| ()).await {
        Ok(head) if head.is_ok() => Ok(()),
        Ok(head) => Err(format!("{what}: {}", head.status)),
        Err(error) => Err(format!("{what}: {error}")),
    }
}

/// Erases the streams of a server that stays; one that was started for the bench goes with its directory.
pub async fn erase(target: &Target, streams: &[Arc<Path>]) {
    if target.goes {
        return;
    }
    let mut link = Link::new(target.address, READ_BYTES);
    for stream in streams {
        if link.call(&stream.delete(), |_| ()).await.is_err() {
            return;
        }
    }
}

/// A gate that lets so many through at once, for rows that do not measure how fast connections are made.
pub fn gate() -> Arc<tokio::sync::Semaphore> {
    Arc::new(tokio::sync::Semaphore::new(OPENING_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_runs_once() {
        let parts = on_threads(3, |at| {
            workers(at, 3, 10, |n| async move {
                let mut tally = Tally::default();
                tally.times.push(n as u64);
                tally
            })
        });
        let mut all: Vec<u64> = parts.into_iter().flat_map(|tally| tally.times).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<u64>>());
    }
}
