//! What a start found and did about it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Runs that were not over.
    pub recovered: u64,
    /// Of these: live, and adopted.
    pub adopted: u64,
    /// Of these: ended while no server was up.
    pub finished: u64,
    /// Of these: in line again.
    pub requeued: u64,
    /// Of these: lost.
    pub failed: u64,
    /// Of these: not yet looked at.
    pub pending: u64,
}

/// The counters behind [`Report`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    recovered: AtomicU64,
    adopted: AtomicU64,
    finished: AtomicU64,
    requeued: AtomicU64,
    failed: AtomicU64,
}

/// What became of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Adopted,
    Finished,
    Requeued,
    Failed,
}

impl Counters {
    pub(crate) fn found(&self, runs: u64) {
        self.recovered.store(runs, Ordering::Relaxed);
    }

    pub(crate) fn count(&self, fate: Fate) {
        let (counter, name) = match fate {
            Fate::Adopted => (&self.adopted, "adopted"),
            Fate::Finished => (&self.finished, "finished"),
            Fate::Requeued => (&self.requeued, "requeued"),
            Fate::Failed => (&self.failed, "failed"),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("longhaul_recovered_runs_total", "fate" => name).increment(1);
    }

    pub(crate) fn report(&self) -> Report {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let (recovered, adopted, finished, requeued, failed) =
            (get(&self.recovered), get(&self.adopted), get(&self.finished), get(&self.requeued), get(&self.failed));
        let known = adopted + finished + requeued + failed;
        Report { recovered, adopted, finished, requeued, failed, pending: recovered.saturating_sub(known) }
    }
}
