//! The loss of an attempt: what counts as one, what was under way, whether the run goes on.
//!
//! Job: the rules of `on_lost`. Pure, and told by events alone: a later server decides from the log what this one would.

use super::{Exit, ExitHow, RunState, Stop};
use crate::event::{Driver, Lost, LostTool, OnLost, ProcessExited, Rung};
use crate::id::AttemptNo;
use crate::limits;

/// Exit statuses by which a program says that a signal ended it: HUP, INT, KILL, TERM.
const SIGNAL_STATUSES: [i32; 4] = [129, 130, 137, 143];

/// Failures that the source tells of and that have nothing to do with its session.
const NOT_THE_SESSIONS: [&str; 3] = ["upstream", "rate_limited", "not_logged_in"];

/// What is under way: tool calls without a result, messages without an end. Bounded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Open {
    tools: Vec<LostTool>,
    messages: Vec<String>,
    unlisted: u32,
}

impl Open {
    pub(super) fn tool(&mut self, call_id: &str, name: &str) {
        if self.tools.iter().any(|tool| tool.call_id == call_id) {
            return;
        }
        if self.tools.len() < limits::LOST_LISTED_MAX {
            self.tools.push(LostTool { call_id: call_id.to_owned(), name: name.to_owned() });
        } else {
            self.unlisted = self.unlisted.saturating_add(1);
        }
    }

    pub(super) fn tool_ended(&mut self, call_id: &str) {
        self.tools.retain(|tool| tool.call_id != call_id);
    }

    pub(super) fn message(&mut self, id: &str) {
        if self.messages.last().is_some_and(|last| last == id) || self.messages.iter().any(|known| known == id) {
            return;
        }
        if self.messages.len() < limits::LOST_LISTED_MAX {
            self.messages.push(id.to_owned());
        } else {
            self.unlisted = self.unlisted.saturating_add(1);
        }
    }

    pub(super) fn message_ended(&mut self, id: &str) {
        self.messages.retain(|known| known != id);
    }

    /// Messages that had begun.
    pub fn messages(&self) -> &[String] {
        &self.messages
    }
}

/// The last attempt that had a process, until the next one has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Why there is another attempt.
    pub cause: &'static str,
    /// What was under way.
    pub lost: Lost,
}

impl Loss {
    /// What an exit leaves, should the run go on after it.
    pub(super) fn of(exited: &ProcessExited, open: Open) -> Self {
        let cause = if exited.stop == Stop::Shutdown.as_str() {
            "shutdown"
        } else if exited.how == "lost" {
            "supervisor_lost"
        } else if exited.exit.code.is_none_or(|code| SIGNAL_STATUSES.contains(&code)) {
            "killed_by_signal"
        } else {
            "resume_failed"
        };
        let Open { tools, messages, unlisted } = open;
        Self { cause, lost: Lost { attempt: exited.attempt, tools, messages, unlisted } }
    }
}

/// What became of an attempt that ended without a word of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was not lost: the ordinary rules say how the run ends.
    Ended,
    /// It was lost, and the run may go on.
    GoesOn,
    /// It was lost, and the run may not go on, for this reason.
    GivenUp(&'static str),
}

/// Whether an exit, which proves no success, is a loss that the run's policy goes on after.
pub(super) fn fate(state: &RunState, attempt: AttemptNo, exit: &Exit) -> Fate {
    if state.on_lost != OnLost::Resume || state.driver != Driver::Harness || state.cancel.is_some() {
        return Fate::Ended;
    }
    // It would go beyond the same bound again.
    if state.exceeded.is_some() || exit.oom_kills > 0 {
        return Fate::Ended;
    }
    let told = state.verdict.as_ref();
    let lost = match (exit.stop, &exit.how) {
        (_, ExitHow::NeverStarted { .. }) => false,
        (Stop::Shutdown, _) => told.is_none(),
        (Stop::None, ExitHow::Lost | ExitHow::Signaled(_)) => told.is_none(),
        (Stop::None, ExitHow::Exited(status)) => {
            let by_signal = SIGNAL_STATUSES.contains(status) && told.is_none();
            // One that speaks a protocol says so and then goes with 0, as it was let go.
            let gone = told.and_then(|verdict| verdict.error.as_ref()).is_some_and(|e| e.code == "session_not_found");
            by_signal || ((*status != 0 || gone) && resume_failed(state))
        }
        (Stop::Cancel | Stop::Deadline | Stop::Idle | Stop::OutputLimit | Stop::SpoolError | Stop::Lingered, _) => {
            false
        }
    };
    if !lost {
        return Fate::Ended;
    }
    if state.lost_attempts + 1 >= limits::LOST_ATTEMPTS_MAX {
        return Fate::GivenUp("it was lost as often as it may be");
    }
    if attempt.get() >= limits::ATTEMPTS_MAX {
        return Fate::GivenUp("it has had as many attempts as it may have");
    }
    if !exit.unkilled.is_empty() {
        return Fate::GivenUp("a process of it could not be ended, and two at once must not be");
    }
    if exit.ran_ms >= state.budget_left_ms {
        return Fate::GivenUp("no time is left to go on");
    }
    Fate::GoesOn
}

/// Whether the source's session could not be gone on with: it failed before it did anything, and not for want of a model.
fn resume_failed(state: &RunState) -> bool {
    let said = state.verdict.as_ref().and_then(|verdict| verdict.error.as_ref());
    state.rung.is_some_and(Rung::keeps_session)
        && state.lost_attempts > 0
        && !state.worked
        && state.verdict.as_ref().is_none_or(|verdict| !verdict.success)
        && said.is_none_or(|error| !NOT_THE_SESSIONS.contains(&error.code.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Failure, RunCancelRequested, VerdictReported};

    fn exit(how: ExitHow, stop: Stop) -> Exit {
        Exit {
            how,
            stop,
            rusage: None,
            killed_descendants: 0,
            unkilled: vec![],
            stdout_bytes: 0,
            stderr_bytes: 0,
            output_lost_bytes: 0,
            stderr_tail: None,
            oom_kills: 0,
            spool_error: None,
            unmet: None,
            ran_ms: 10,
        }
    }

    fn state() -> RunState {
        let driver = Driver::Harness;
        RunState { driver, on_lost: OnLost::Resume, budget_left_ms: 1000, ..RunState::default() }
    }

    fn goes_on(state: &RunState, exit: &Exit) -> bool {
        fate(state, AttemptNo::new(1), exit) == Fate::GoesOn
    }

    #[test]
    fn a_signal_and_a_lost_witness_are_losses_and_nothing_else() {
        for (how, stop, want) in [
            (ExitHow::Lost, Stop::None, true),
            (ExitHow::Signaled(9), Stop::None, true),
            (ExitHow::Exited(143), Stop::None, true),
            (ExitHow::Exited(0), Stop::Shutdown, true),
            (ExitHow::Exited(0), Stop::None, false),
            (ExitHow::Exited(1), Stop::None, false),
            (ExitHow::Signaled(9), Stop::Cancel, false),
            (ExitHow::Signaled(9), Stop::Deadline, false),
            (ExitHow::Signaled(9), Stop::OutputLimit, false),
            (ExitHow::NeverStarted { error: None }, Stop::Shutdown, false),
        ] {
            let exit = exit(how, stop);
            assert_eq!(goes_on(&state(), &exit), want, "{exit:?}");
            assert!(!goes_on(&RunState { on_lost: OnLost::Fail, ..state() }, &exit));
            assert!(!goes_on(&RunState { driver: Driver::Exec, ..state() }, &exit));
        }
        let lost = exit(ExitHow::Lost, Stop::None);
        let cancel = Some(RunCancelRequested { by: "api".into(), reason: None });
        assert!(!goes_on(&RunState { cancel, ..state() }, &lost));
        let verdict = Some(VerdictReported { success: false, error: None });
        assert!(!goes_on(&RunState { verdict, ..state() }, &lost), "it had said how its work ended");
    }

    #[test]
    fn a_loss_is_given_up_where_two_agents_or_no_end_would_come_of_it() {
        let lost = exit(ExitHow::Lost, Stop::None);
        let given_up = |state: &RunState, exit: &Exit| matches!(fate(state, AttemptNo::new(1), exit), Fate::GivenUp(_));
        assert!(given_up(&state(), &Exit { unkilled: vec![7], ..lost.clone() }));
        assert!(given_up(&state(), &Exit { ran_ms: 1000, ..lost.clone() }));
        assert!(given_up(&RunState { lost_attempts: 2, ..state() }, &lost));
        assert!(!given_up(&RunState { lost_attempts: 1, ..state() }, &lost));
    }

    #[test]
    fn a_session_that_is_gone_is_told_from_a_model_that_is() {
        let failed = exit(ExitHow::Exited(1), Stop::None);
        let resumed = RunState { rung: Some(Rung::NativeResume), lost_attempts: 1, ..state() };
        assert!(goes_on(&resumed, &failed));
        assert!(!goes_on(&RunState { worked: true, ..resumed.clone() }, &failed));
        assert!(!goes_on(&RunState { rung: Some(Rung::RebuiltContext), ..resumed.clone() }, &failed));
        for (code, want) in [("session_not_found", true), ("agent_error", true), ("upstream", false)] {
            let error = Some(Failure { code: code.into(), message: String::new(), stderr_tail: None });
            let verdict = Some(VerdictReported { success: false, error });
            let told = RunState { verdict, ..resumed.clone() };
            assert_eq!(goes_on(&told, &failed), want, "{code}");
            // One that was let go after such a word ends well.
            let left = exit(ExitHow::Exited(0), Stop::None);
            assert_eq!(goes_on(&told, &left), code == "session_not_found", "{code}");
        }
    }
}
