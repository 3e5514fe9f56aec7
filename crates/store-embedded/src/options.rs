//! How a store is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::limits;

/// Called once, when an fsync failed, the outcome of a commit is unknown, or damage was found: the process must end and
/// recover by starting.
pub type Fatal = Arc<dyn Fn(String) + Send + Sync>;

/// How to open a store.
#[derive(Clone)]
pub struct Options {
    /// The directory; made if it is not there. Whoever opens holds its lock.
    pub dir: PathBuf,
    /// What to do when nothing more may be promised. Called from a thread of the store, without any lock.
    pub fatal: Fatal,
    /// Commits that may wait.
    pub queue_commits_max: usize,
    /// Bytes that may wait; a single larger commit is taken when nothing else waits.
    pub queue_bytes_max: usize,
    /// How long a commit waits for room before it is refused as `Busy`.
    pub busy_after: Duration,
    /// Bytes that may be durable in the journal and not yet applied.
    pub unapplied_bytes_max: usize,
    /// How old an un-applied commit may grow before the applier starts for it alone.
    pub apply_after: Duration,
    /// Bytes kept back for cancels, exits and terminal records; zero for none.
    pub ballast_bytes: u64,
}

impl Options {
    /// The usual bounds, over a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            fatal: Arc::new(|why| tracing::error!(why, "the store is broken and nobody was told what to do")),
            queue_commits_max: limits::QUEUE_COMMITS_MAX,
            queue_bytes_max: limits::QUEUE_BYTES_MAX,
            busy_after: limits::BUSY_AFTER,
            unapplied_bytes_max: limits::UNAPPLIED_BYTES_MAX,
            apply_after: limits::APPLY_AFTER,
            ballast_bytes: limits::BALLAST_BYTES,
        }
    }

    /// With another answer to a breakdown.
    #[must_use]
    pub fn on_fatal(mut self, fatal: impl Fn(String) + Send + Sync + 'static) -> Self {
        self.fatal = Arc::new(fatal);
        self
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("dir", &self.dir).finish_non_exhaustive()
    }
}
