//! How fast a reader reads what is there already.
//!
//! Reads go on from offset to offset until the server says that the end is reached, again and again until time is up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::limits::{EVENT_BYTES, FILL_EVENTS, READ_BULK_BYTES, READ_BYTES};
use super::load::{Frame, alone, erase, expect_ok, make, on_threads, workers};
use super::request::{Path, batch};
use super::sample::{Outcome, Tally};
use super::target::Target;
use super::wire::Link;

/// One row of catching up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatchUp {
    /// Readers at once, of one stream.
    pub readers: usize,
    /// Bytes of messages in the stream.
    pub bytes: usize,
}

impl CatchUp {
    /// Measures it.
    pub fn measure(self, target: &Target, frame: &Frame) -> Outcome {
        let streams = frame.streams(target, 1);
        if let Err(why) = alone(make(target, &streams)).and_then(|()| alone(self.fill(target, &streams[0]))) {
            return Outcome::failed(why);
        }
        let began = Instant::now();
        let (ends, deadline) = (began + frame.time, frame.deadline());
        let parts = on_threads(frame.threads, |at| {
            let stream = &streams[0];
            workers(at, frame.threads, self.readers, move |_| {
                worker(target.clone(), Arc::clone(stream), self.bytes as u64, ends, deadline)
            })
        });
        let took = began.elapsed();
        let tally = parts.into_iter().fold(Tally::default(), Tally::and);
        alone(erase(target, &streams));
        let bytes: u64 = tally.times.iter().sum();
        Outcome::of(&tally).with("mb_per_s", Some(bytes as f64 / 1e6 / took.as_secs_f64()))
    }

    async fn fill(self, target: &Target, stream: &Path) -> Result<(), String> {
        let (mut link, mut request) = (Link::new(target.address, READ_BYTES), Vec::new());
        stream.post(None, &batch(0, FILL_EVENTS), &mut request);
        for _ in 0..self.bytes.div_ceil(FILL_EVENTS * EVENT_BYTES) {
            expect_ok(&mut link, &request, "filling a stream").await?;
        }
        Ok(())
    }
}

/// Reads until time is up; the bytes of each answer stand where times would.
async fn worker(target: Target, stream: Arc<Path>, least: u64, ends: Instant, deadline: Instant) -> Tally {
    let mut tally = Tally::default();
    let work = async {
        while Instant::now() < ends {
            if let Err(error) = pass(&target, &stream, least, ends, &mut tally).await {
                tally.fail(error);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    if timeout_at(deadline.into(), work).await.is_err() {
        tally.fail("no answer in time");
    }
    tally
}

/// Reads the whole stream once, or until time is up.
async fn pass(target: &Target, stream: &Path, least: u64, ends: Instant, tally: &mut Tally) -> Result<(), String> {
    let mut link = Link::new(target.address, READ_BULK_BYTES);
    let (mut offset, mut all) = ("-1".to_owned(), 0);
    while Instant::now() < ends {
        let mut bytes = 0;
        let request = stream.get(&format!("offset={offset}"));
        let names = ["stream-next-offset", "stream-up-to-date"];
        let answer = link.ask(&request, |part| bytes += part.len() as u64, names).await;
        let (head, [next, up_to_date]) = answer.map_err(|error| error.to_string())?;
        if head.status != 200 {
            return Err(head.status.to_string());
        }
        tally.times.push(bytes);
        all += bytes;
        if up_to_date.is_some_and(|value| value == "true") {
            return if all < least { Err("bytes are missing".to_owned()) } else { Ok(()) };
        }
        let next = next.ok_or("no offset")?;
        if next == offset {
            return Err("no progress".to_owned());
        }
        offset = next;
    }
    Ok(())
}
