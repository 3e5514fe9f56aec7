//! Faults that a test plants in a memory store.
//!
//! Job: which commit fails, and how. Owns: the plan. Never: touches stored state.

use std::collections::VecDeque;

use crate::error::CommitError;

/// Where in a commit the store dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// The commit on which it dies is lost.
    BeforeDurable,
    /// The commit on which it dies is durable, but its writer never hears so.
    AfterDurable,
}

/// What a commit is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Go,
    Refuse(CommitError),
    /// `durable`: whether its effects are kept.
    Die {
        durable: bool,
        error: CommitError,
    },
}

/// The plan.
#[derive(Debug, Default)]
pub(super) struct Faults {
    refusals: VecDeque<CommitError>,
    crash: Option<(u64, CrashPoint)>,
}

impl Faults {
    pub(super) fn fail_next(&mut self, error: CommitError) {
        self.refusals.push_back(error);
    }

    pub(super) fn crash_after(&mut self, commits: u64, point: CrashPoint) {
        self.crash = Some((commits, point));
    }

    /// The fate of the next commit that would otherwise be made.
    pub(super) fn next(&mut self) -> Fate {
        if let Some(error) = self.refusals.pop_front() {
            return Fate::Refuse(error);
        }
        match &mut self.crash {
            Some((0, point)) => Fate::Die {
                durable: *point == CrashPoint::AfterDurable,
                error: CommitError::Unknown("the store died in this commit".into()),
            },
            Some((left, _)) => {
                *left -= 1;
                Fate::Go
            }
            None => Fate::Go,
        }
    }
}
