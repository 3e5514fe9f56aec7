//! How late the event loop is.
//!
//! Job: sleeps a short time again and again and measures how much longer it took. Owns: the last ten seconds of that.
//! Never: says anything about a time that it did not measure.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The pause between two measurements.
const BEAT: Duration = Duration::from_millis(100);

/// Measurements that are kept: ten seconds of them.
const KEPT: usize = 100;

/// What was measured.
#[derive(Debug, Default)]
pub struct Pulse {
    delays: Mutex<VecDeque<Duration>>,
}

impl Pulse {
    /// Begins to measure; the task does so until it is aborted.
    pub fn start() -> (Arc<Self>, tokio::task::JoinHandle<()>) {
        let pulse = Arc::new(Self::default());
        let task = tokio::spawn({
            let pulse = Arc::clone(&pulse);
            async move {
                loop {
                    let before = Instant::now();
                    tokio::time::sleep(BEAT).await;
                    pulse.add(before.elapsed().saturating_sub(BEAT));
                }
            }
        });
        (pulse, task)
    }

    fn add(&self, delay: Duration) {
        let mut delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
        if delays.len() == KEPT {
            delays.pop_front();
        }
        delays.push_back(delay);
    }

    /// The last delay and the worst one of ten seconds; `None` before the first measurement.
    pub fn delay(&self) -> Option<(Duration, Duration)> {
        let delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
        Some((*delays.back()?, *delays.iter().max()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_loop_that_is_held_up_is_late() {
        let (pulse, task) = Pulse::start();
        while pulse.delay().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // This blocks the only thread there is.
        std::thread::sleep(Duration::from_millis(400));
        tokio::time::sleep(Duration::from_millis(10)).await;
        let (_, worst) = pulse.delay().unwrap();
        assert!(worst >= Duration::from_millis(250), "{worst:?}");
        task.abort();
    }

    #[test]
    fn ten_seconds_are_kept() {
        let pulse = Pulse::default();
        assert_eq!(pulse.delay(), None);
        pulse.add(Duration::from_secs(9));
        (1..=KEPT as u64).for_each(|ms| pulse.add(Duration::from_millis(ms)));
        assert_eq!(pulse.delay(), Some((Duration::from_millis(100), Duration::from_millis(100))));
    }
}
