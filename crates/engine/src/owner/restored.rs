//! The end of a run that came with a backup and was not over when that was made.
//!
//! Its process, if it still is anywhere, belongs to the store that the backup was made of. Never: looks for a process or
//! a file of such a run, and so never touches the original's.

use longhaul_model::event::Warning;
use longhaul_model::run::{Exit, ExitHow, Phase, Stop};

use super::{LetGo, Owner};

/// What is told of such a run.
const LOST: &str = "the run was not over when the backup was made that this store was restored from";

impl Owner {
    /// Whether the run came with a backup.
    pub(super) fn is_restored(&self) -> bool {
        self.shared.stream <= self.engine.inner.restored
    }

    /// Ends a run that came with a backup.
    pub(super) async fn end_restored(&mut self) -> Result<(), LetGo> {
        match self.state.phase {
            Phase::Vacant | Phase::Ended { .. } => Ok(()),
            Phase::Queued => self.give_up("lost", LOST.to_owned()).await,
            Phase::Starting { .. } | Phase::Running { .. } => {
                let exit = Exit {
                    how: ExitHow::Lost,
                    stop: Stop::None,
                    rusage: None,
                    killed_descendants: 0,
                    unkilled: vec![],
                    stdout_bytes: self.state.totals.stdout_bytes,
                    stderr_bytes: self.state.totals.stderr_bytes,
                    output_lost_bytes: 0,
                    stderr_tail: None,
                    spool_error: None,
                    oom_kills: 0,
                    ran_ms: 0,
                    unmet: None,
                };
                let warning = Warning { code: "restored".to_owned(), message: LOST.to_owned() };
                self.end(vec![warning.into()], None, exit).await
            }
        }
    }
}
