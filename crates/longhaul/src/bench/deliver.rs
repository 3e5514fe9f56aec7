//! How long it takes from an append to those who follow the stream.
//!
//! One writer at a steady pace; each event carries when it was about to be sent, on the same clock as its readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::limits::READ_BYTES;
use super::load::{Frame, alone, erase, gate, make, on_threads, workers};
use super::reader::{ReadError, Reader};
use super::request::{Path, event, times};
use super::sample::{Outcome, Tally};
use super::target::Target;
use super::wire::Link;

/// How long the last events may take to the last reader.
const GRACE: Duration = Duration::from_secs(5);

/// One row of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deliver {
    /// Readers.
    pub readers: usize,
    /// Streams that they and the writer share out.
    pub streams: usize,
    /// Events in a second, on all streams together.
    pub per_s: u32,
}

/// What readers and writer of a row share.
#[derive(Debug)]
struct Shared {
    target: Target,
    /// What events count their time from.
    zero: Instant,
    deadline: Instant,
    gate: Arc<Semaphore>,
    /// Readers that are there, or never will be.
    opened: AtomicUsize,
    /// Readers of each stream that are there.
    there: Vec<AtomicU64>,
    delivered: AtomicU64,
    over: CancellationToken,
}

impl Deliver {
    /// Measures it.
    pub fn measure(self, target: &Target, frame: &Frame) -> Outcome {
        let streams = frame.streams(target, self.streams);
        if let Err(why) = alone(make(target, &streams)) {
            return Outcome::failed(why);
        }
        let shared = Arc::new(Shared {
            target: target.clone(),
            zero: Instant::now(),
            deadline: frame.deadline(),
            gate: gate(),
            opened: AtomicUsize::new(0),
            there: streams.iter().map(|_| AtomicU64::new(0)).collect(),
            delivered: AtomicU64::new(0),
            over: CancellationToken::new(),
        });
        let parts = on_threads(frame.threads, |at| {
            let (shared, streams) = (Arc::clone(&shared), &streams);
            async move {
                let readers = workers(at, frame.threads, self.readers, |n| {
                    let n = n % streams.len();
                    read(Arc::clone(&shared), Arc::clone(&streams[n]), n)
                });
                let writer = async { if at == 0 { Some(self.write(&shared, streams, frame).await) } else { None } };
                tokio::join!(readers, writer)
            }
        });
        alone(erase(target, &streams));
        let mut tally = Tally::default();
        let mut rate = None;
        for (seen, wrote) in parts {
            tally = tally.and(seen);
            if let Some((wrote, per_s)) = wrote {
                tally = tally.and(wrote);
                rate = Some(per_s);
            }
        }
        Outcome::of(&tally)
            .with("p50_ms", tally.percentile_ms(500))
            .with("p99_ms", tally.percentile_ms(990))
            .with("writes_per_s", rate)
    }

    /// The writer: what went wrong, and how many events a second it came to.
    async fn write(self, shared: &Shared, streams: &[Arc<Path>], frame: &Frame) -> (Tally, f64) {
        let mut tally = Tally::default();
        while shared.opened.load(Ordering::Acquire) < self.readers && Instant::now() < shared.deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let total = (frame.time.as_secs_f64() * f64::from(self.per_s)).ceil() as u32;
        let began = Instant::now();
        let (mut expected, mut sent) = (0, 0);
        let (mut link, mut request) = (Link::new(shared.target.address, READ_BYTES), Vec::new());
        for n in 0..total {
            let due = began + Duration::from_secs(1) * n / self.per_s;
            sleep_until(due.into()).await;
            let at = n as usize % streams.len();
            let now = u64::try_from(shared.zero.elapsed().as_nanos()).unwrap_or(u64::MAX);
            streams[at].post(None, &event(now), &mut request);
            match link.call(&request, |_| ()).await.map(|head| head.status) {
                Ok(status) if (200..300).contains(&status) => {
                    sent += 1;
                    expected += shared.there[at].load(Ordering::Acquire);
                }
                Ok(status) => tally.fail(status),
                Err(error) => tally.fail(error),
            }
            // A server that cannot keep the pace must not make the row endless.
            if began.elapsed() > frame.time * 2 {
                break;
            }
        }
        let per_s = f64::from(sent) / began.elapsed().as_secs_f64();
        let last = Instant::now() + GRACE;
        while shared.delivered.load(Ordering::Acquire) < expected && Instant::now() < last {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tally.fail_times("not delivered", expected.saturating_sub(shared.delivered.load(Ordering::Acquire)));
        shared.over.cancel();
        (tally, per_s)
    }
}

/// A reader, until the row is over.
async fn read(shared: Arc<Shared>, stream: Arc<Path>, at: usize) -> Tally {
    let mut tally = Tally::default();
    let opened = open(&shared, &stream).await;
    if opened.is_ok() {
        shared.there[at].fetch_add(1, Ordering::AcqRel);
    }
    shared.opened.fetch_add(1, Ordering::AcqRel);
    let mut reader = match opened {
        Ok(reader) => reader,
        Err(error) => {
            tally.fail(error);
            return tally;
        }
    };
    loop {
        let mut seen = 0;
        let next = reader.next(|line| {
            for sent in times(line) {
                tally.time(shared.zero.elapsed().saturating_sub(Duration::from_nanos(sent)));
                seen += 1;
            }
        });
        let next = tokio::select! {
            biased;
            next = next => next,
            () = shared.over.cancelled() => return tally,
        };
        shared.delivered.fetch_add(seen, Ordering::AcqRel);
        if let Err(error) = next {
            tally.fail(error);
            return tally;
        }
    }
}

async fn open(shared: &Shared, stream: &Arc<Path>) -> Result<Reader, ReadError> {
    let _turn = shared.gate.acquire().await;
    let mut reader = Reader::open(&shared.target, stream).await?;
    reader.greeted().await?;
    Ok(reader)
}
