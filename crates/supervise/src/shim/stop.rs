//! The stop ladder.
//!
//! Job: which stop holds, and which step is due when. Owns: the position on the ladder.
//! Never: climbs down; the first stop that begins is the one that is recorded. After the last step comes KILL, again
//! and again until the bound.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits;
use crate::record::Stop;
use crate::spec::StopStep;

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before the next look.
    Nothing,
    /// This step of the ladder.
    Step(StopStep),
    /// KILL to the whole tree.
    Kill,
    /// KILL did not help in time.
    GiveUp,
}

#[derive(Debug)]
enum State {
    Idle,
    Climbing { due: Instant },
    Killing { due: Instant, until: Instant },
}

#[derive(Debug)]
pub(super) struct Ladder {
    steps: VecDeque<StopStep>,
    stop: Stop,
    begun_at_ms: Option<i64>,
    state: State,
}

impl Ladder {
    pub(super) fn new(steps: Vec<StopStep>) -> Self {
        Self { steps: steps.into(), stop: Stop::None, begun_at_ms: None, state: State::Idle }
    }

    /// The stop that holds.
    pub(super) fn stop(&self) -> Stop {
        self.stop
    }

    /// When it began, Unix milliseconds.
    pub(super) fn begun_at_ms(&self) -> Option<i64> {
        self.begun_at_ms
    }

    /// Begins a stop unless one has begun. The caller has made sure that the leader is not dead yet.
    pub(super) fn begin(&mut self, stop: Stop, now: Instant, unix_ms: i64) {
        if self.stop == Stop::None {
            self.stop = stop;
            self.begun_at_ms = Some(unix_ms);
            self.state = State::Climbing { due: now };
        }
    }

    /// When the next step is due.
    pub(super) fn due_at(&self) -> Option<Instant> {
        match self.state {
            State::Idle => None,
            State::Climbing { due } | State::Killing { due, .. } => Some(due),
        }
    }

    /// The step that is due; asks again until nothing is.
    pub(super) fn next(&mut self, now: Instant) -> Due {
        match self.state {
            State::Climbing { due } if due <= now => {
                if let Some(step) = self.steps.pop_front() {
                    let wait_ms = match &step {
                        StopStep::Signal { wait_ms, .. } | StopStep::Write { wait_ms, .. } => *wait_ms,
                    };
                    self.state = State::Climbing { due: later(now, wait_ms) };
                    Due::Step(step)
                } else {
                    self.state = State::Killing { due: now + limits::KILL_ROUND, until: now + limits::KILL_WAIT };
                    Due::Kill
                }
            }
            State::Killing { until, .. } if until <= now => Due::GiveUp,
            State::Killing { due, until } if due <= now => {
                self.state = State::Killing { due: now + limits::KILL_ROUND, until };
                Due::Kill
            }
            _ => Due::Nothing,
        }
    }

    /// The step just taken could not be taken: the next one is due at once.
    pub(super) fn skip(&mut self, now: Instant) {
        if let State::Climbing { due } = &mut self.state {
            *due = now;
        }
    }
}

/// A point in time this many milliseconds on; one that the clock cannot hold is a year away.
pub(super) fn later(from: Instant, ms: u64) -> Instant {
    const YEAR: Duration = Duration::from_hours(8760);
    from + Duration::from_millis(ms).min(YEAR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::StopSignal;

    #[test]
    fn the_first_stop_wins_and_kill_comes_last() {
        let term = StopStep::Signal { signal: StopSignal::Term, wait_ms: 100 };
        let mut ladder = Ladder::new(vec![term.clone()]);
        let start = Instant::now();
        assert_eq!((ladder.next(start), ladder.due_at()), (Due::Nothing, None));
        ladder.begin(Stop::Idle, start, 7);
        ladder.begin(Stop::Cancel, start, 8);
        assert_eq!((ladder.stop(), ladder.begun_at_ms()), (Stop::Idle, Some(7)));
        assert_eq!(ladder.next(start), Due::Step(term));
        assert_eq!(ladder.next(start), Due::Nothing);
        let then = start + Duration::from_millis(100);
        assert_eq!(ladder.due_at(), Some(then));
        assert_eq!(ladder.next(then), Due::Kill);
        assert_eq!(ladder.next(then), Due::Nothing);
        assert_eq!(ladder.next(then + limits::KILL_ROUND), Due::Kill);
        assert_eq!(ladder.next(then + limits::KILL_WAIT), Due::GiveUp);
    }
}
