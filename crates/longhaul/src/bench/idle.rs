//! What a reader costs who follows a stream on which nothing happens.
//!
//! Taken as a slope, between a few readers and many, so that what a server takes once is not counted.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::load::{Frame, alone, erase, gate, make};
use super::reader::{ReadError, Reader};
use super::request::Path;
use super::sample::Outcome;
use super::target::Target;

/// Readers that are there before anything is measured.
const FIRST: usize = 100;

/// How long a server has to come to rest.
const REST: Duration = Duration::from_secs(1);

/// The row of idle readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// Readers.
    pub readers: usize,
}

impl Idle {
    /// Measures it.
    pub fn measure(self, target: &Target, frame: &Frame) -> Outcome {
        if target.resident().is_none() {
            return Outcome::failed("its process is not known: --pid");
        }
        let streams = frame.streams(target, 1);
        if let Err(why) = alone(make(target, &streams)) {
            return Outcome::failed(why);
        }
        let measured = alone(async { timeout_at(frame.deadline().into(), self.park(target, &streams[0])).await });
        alone(erase(target, &streams));
        match measured {
            Ok(Ok((before, after))) => {
                let each = (after as f64 - before as f64) / self.readers as f64;
                Outcome::default().with("kb_per_reader", Some(each / 1e3)).with("resident_mb", Some(after as f64 / 1e6))
            }
            Ok(Err(why)) => Outcome::failed(why),
            Err(_) => Outcome::failed("readers were not all there in time"),
        }
    }

    async fn park(self, target: &Target, stream: &Arc<Path>) -> Result<(u64, u64), String> {
        let resident = || target.resident().ok_or("its process is gone");
        let first = open(target, stream, FIRST).await.map_err(|error| error.to_string())?;
        tokio::time::sleep(REST).await;
        let before = resident()?;
        let more = open(target, stream, self.readers).await.map_err(|error| error.to_string())?;
        tokio::time::sleep(REST).await;
        let after = resident()?;
        drop((first, more));
        Ok((before, after))
    }
}

async fn open(target: &Target, stream: &Arc<Path>, count: usize) -> Result<Vec<Reader>, ReadError> {
    let (mut opening, gate) = (JoinSet::<Result<Reader, ReadError>>::new(), gate());
    for _ in 0..count {
        let (target, stream, gate) = (target.clone(), Arc::clone(stream), Arc::clone(&gate));
        opening.spawn(async move {
            let _turn = gate.acquire().await;
            let mut reader = Reader::open(&target, &stream).await?;
            reader.greeted().await?;
            Ok(reader)
        });
    }
    let mut readers = Vec::new();
    while let Some(opened) = opening.join_next().await {
        readers.push(opened.map_err(|_| ReadError::Ended)??);
    }
    Ok(readers)
}
