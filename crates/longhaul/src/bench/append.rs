//! How fast appends are acknowledged.
//!
//! Closed loop: each connection sends its next append when the one before was answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::limits::{EVENT_BYTES, READ_BYTES, RECONNECTS_MAX};
use super::load::{Frame, alone, erase, gate, make, on_threads, workers};
use super::request::{Path, Producer, batch};
use super::sample::{Outcome, Tally};
use super::target::Target;
use super::wire::{Link, WireError};

/// One row of appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Append {
    /// Connections.
    pub connections: usize,
    /// Streams that they share out among themselves.
    pub streams: usize,
    /// Messages in one append.
    pub batch: usize,
    /// Each connection is an idempotent producer.
    pub producers: bool,
}

/// When a row's parts begin and end.
#[derive(Debug, Clone, Copy)]
struct Span {
    counts_from: Instant,
    ends: Instant,
    deadline: Instant,
}

impl Append {
    /// Measures it.
    pub fn measure(self, target: &Target, frame: &Frame) -> Outcome {
        let streams = frame.streams(target, self.streams);
        if let Err(why) = alone(make(target, &streams)) {
            return Outcome::failed(why);
        }
        let counts_from = Instant::now() + frame.warm();
        let span = Span { counts_from, ends: counts_from + frame.time, deadline: frame.deadline() };
        let before = target.processor();
        let parts = on_threads(frame.threads, |at| {
            let gate = gate();
            let streams = &streams;
            workers(at, frame.threads, self.connections, move |n| {
                let (stream, gate) = (Arc::clone(&streams[n % streams.len()]), Arc::clone(&gate));
                let producer = self.producers.then(|| Producer { id: format!("bench-{n}"), epoch: 0, seq: 0 });
                worker(target.clone(), stream, self.batch, producer, span, gate)
            })
        });
        let used = target.processor().zip(before).map(|(after, before)| after.saturating_sub(before));
        let mut tally = parts.into_iter().fold(Tally::default(), Tally::and);
        alone(erase(target, &streams));
        let appends = tally.times.len() as f64;
        let per_s = appends / frame.time.as_secs_f64();
        let whole = (frame.time + frame.warm()).as_secs_f64() * per_s;
        Outcome::of(&tally)
            .with("appends_per_s", Some(per_s))
            .with("events_per_s", Some(per_s * self.batch as f64))
            .with("mb_per_s", Some(per_s * (self.batch * EVENT_BYTES) as f64 / 1e6))
            .with("p50_ms", tally.percentile_ms(500))
            .with("p99_ms", tally.percentile_ms(990))
            .with("server_cpu_us_per_append", used.map(|used| used.as_secs_f64() * 1e6 / whole))
    }
}

async fn worker(
    target: Target,
    stream: Arc<Path>,
    count: usize,
    producer: Option<Producer>,
    span: Span,
    gate: Arc<tokio::sync::Semaphore>,
) -> Tally {
    let mut tally = Tally::default();
    let body = batch(0, count);
    let work = appends(&target, &stream, &body, producer, span, &gate, &mut tally);
    if timeout_at(span.deadline.into(), work).await.is_err() {
        tally.fail("no answer in time");
    }
    tally
}

async fn appends(
    target: &Target,
    stream: &Path,
    body: &[u8],
    mut producer: Option<Producer>,
    span: Span,
    gate: &tokio::sync::Semaphore,
    tally: &mut Tally,
) {
    let (mut link, mut request, mut broken) = (Link::new(target.address, READ_BYTES), Vec::new(), 0);
    stream.post(producer.as_ref(), body, &mut request);
    loop {
        let now = Instant::now();
        if now >= span.ends {
            return;
        }
        match append(gate, &mut link, &request).await {
            Ok((status, took)) if (200..300).contains(&status) => {
                if now >= span.counts_from {
                    tally.time(took);
                }
            }
            Ok((status, _)) => {
                tally.fail(status);
                // Whoever is told to slow down or that it is broken does not hammer on.
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            Err(error) => {
                tally.fail(error);
                broken += 1;
                if broken > RECONNECTS_MAX {
                    return;
                }
                continue;
            }
        }
        if let Some(producer) = &mut producer {
            producer.seq += 1;
            stream.post(Some(producer), body, &mut request);
        }
    }
}

/// One append, over a new connection if there is none; its status and how long the answer took.
async fn append(gate: &tokio::sync::Semaphore, link: &mut Link, request: &[u8]) -> Result<(u16, Duration), WireError> {
    if !link.is_open() {
        let _turn = gate.acquire().await;
        link.open().await?;
    }
    let began = Instant::now();
    let head = link.call(request, |_| ()).await?;
    Ok((head.status, began.elapsed()))
}
