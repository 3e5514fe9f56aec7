//! From a command to events, or to a refusal that says why.

use super::{Command, Ctx, Exit, ExitHow, Phase, RunState, Status, budget, loss, outcome};
use crate::event::{
    EventData, ExitInfo, MessageDiscarded, ProcessExited, RunAdopted, RunAttemptStarted, RunCancelled, RunFailed,
    RunStarted,
};
use crate::id::AttemptNo;
use crate::limits;

/// Why a command does not apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The run exists already.
    #[error("the run exists already")]
    Exists,
    /// There is no such run.
    #[error("there is no such run")]
    NoSuchRun,
    /// The run is over; a terminal state never changes.
    #[error("the run is over: {}", status.as_str())]
    Ended {
        /// How it ended.
        status: Status,
    },
    /// The command belongs to another phase of a run's life.
    #[error("{command} does not apply to a run that is {}", status.as_str())]
    WrongPhase {
        /// The command's name.
        command: &'static str,
        /// Where the run is.
        status: Status,
    },
    /// There is no such question, or it is settled.
    #[error("no question of this id waits for an answer")]
    NoSuchApproval,
    /// The question has its answer already.
    #[error("it is answered already: {}", decision.as_str())]
    Answered {
        /// The answer.
        decision: crate::event::Decision,
    },
    /// Too much waits to be taken by the agent already.
    #[error("{waiting} messages wait to be taken by the agent already")]
    InputsFull {
        /// How many.
        waiting: usize,
    },
    /// Somebody asked for the run's end.
    #[error("the run is being cancelled")]
    Cancelling,
    /// A later owner has taken the run over.
    #[error("the run belongs to a later owner (epoch {owner})")]
    Fenced {
        /// The owner's epoch.
        owner: crate::id::Epoch,
    },
}

/// The events that `command` makes of `state`; no events if it has happened already.
///
/// # Errors
/// [`Rejection`], and then nothing has happened.
pub fn decide(state: &RunState, command: Command, ctx: &Ctx) -> Result<Vec<EventData>, Rejection> {
    if ctx.epoch < state.epoch {
        return Err(Rejection::Fenced { owner: state.epoch });
    }
    match (&state.phase, command) {
        (Phase::Vacant, Command::Create(created)) => Ok(vec![(*created).into()]),
        (_, Command::Create(_)) => Err(Rejection::Exists),
        (Phase::Vacant, _) => Err(Rejection::NoSuchRun),
        (Phase::Ended { status }, _) => Err(Rejection::Ended { status: *status }),

        (Phase::Queued, Command::StartAttempt { rung }) => {
            let attempt = AttemptNo::new(state.totals.attempts + 1);
            let never_started = state.last_exit.as_ref().is_some_and(|exit| exit.how == "never_started");
            let cause = match &state.loss {
                _ if state.totals.attempts == 0 => "first",
                Some(loss) if !never_started => loss.cause,
                Some(_) | None => "never_started",
            };
            let begun = RunAttemptStarted {
                attempt,
                cause: cause.to_owned(),
                epoch: ctx.epoch,
                budget_ms: state.budget_left_ms,
                rung,
                lost: state.loss.as_ref().map(|loss| loss.lost.clone()),
            };
            Ok(vec![begun.into()])
        }
        (_, Command::StartAttempt { .. }) => Err(wrong("StartAttempt", state)),

        (Phase::Starting { attempt }, Command::ProcessStarted(started)) if *attempt == started.attempt => {
            let first = RunStarted { attempt: *attempt };
            Ok(vec![started.into(), first.into()])
        }
        (Phase::Running { .. }, Command::ProcessStarted(_)) => Ok(vec![]),
        (_, Command::ProcessStarted(_)) => Err(wrong("ProcessStarted", state)),

        (Phase::Running { .. }, Command::Observe(events)) => Ok(budget::watch(state, events)),
        (_, Command::Observe(_)) => Err(wrong("Observe", state)),

        (Phase::Starting { attempt } | Phase::Running { attempt }, Command::Adopt) => {
            if ctx.epoch == state.epoch {
                return Ok(vec![]);
            }
            Ok(vec![RunAdopted { attempt: *attempt, previous_epoch: state.epoch, epoch: ctx.epoch }.into()])
        }
        (Phase::Queued, Command::Adopt) => Ok(vec![]),

        (_, Command::RequestCancel(_)) if state.cancel.is_some() => Ok(vec![]),
        (Phase::Queued, Command::RequestCancel(intent)) => {
            let reason = intent.by.clone();
            let end = RunCancelled { reason, exit: None, totals: state.totals.clone() }.into();
            Ok([vec![intent.into()], state.talk.end(state.in_session), vec![end]].concat())
        }
        (Phase::Starting { .. } | Phase::Running { .. }, Command::RequestCancel(intent)) => Ok(vec![intent.into()]),

        (_, Command::AcceptInput(input)) => {
            let waiting = state.talk.inputs.len();
            if state.cancel.is_some() {
                Err(Rejection::Cancelling)
            } else if waiting >= limits::INPUTS_OPEN_MAX && input.delivery == super::LIVE {
                Err(Rejection::InputsFull { waiting })
            } else {
                Ok(vec![input.into()])
            }
        }

        (_, Command::AnswerApproval(answer)) => match state.talk.approval(&answer.approval_id) {
            None => Err(Rejection::NoSuchApproval),
            Some(approval) => match &approval.answer {
                None => Ok(vec![answer.into()]),
                Some(given) => Err(Rejection::Answered { decision: given.decision }),
            },
        },

        (Phase::Starting { attempt } | Phase::Running { attempt }, Command::Exit(exit)) => {
            Ok(exited(state, *attempt, &exit))
        }
        (_, Command::Exit(_)) => Err(wrong("Exit", state)),

        (Phase::Queued, Command::GiveUp(error)) => {
            let end = RunFailed { error, exit: None, totals: state.totals.clone() }.into();
            Ok([state.talk.end(state.in_session), vec![end]].concat())
        }
        (_, Command::GiveUp(_)) => Err(wrong("GiveUp", state)),
    }
}

/// What the end of an attempt's process comes to: another attempt, or the run's end.
fn exited(state: &RunState, attempt: AttemptNo, exit: &Exit) -> Vec<EventData> {
    let mut totals = state.totals.clone();
    totals.stdout_bytes += exit.stdout_bytes;
    totals.stderr_bytes += exit.stderr_bytes;
    let info = match exit.how {
        ExitHow::Exited(code) => ExitInfo { code: Some(code), signal: None },
        ExitHow::Signaled(signal) => ExitInfo { code: None, signal: Some(signal) },
        ExitHow::NeverStarted { .. } | ExitHow::Lost => ExitInfo::default(),
    };
    let exited: EventData = ProcessExited {
        attempt,
        exit: info.clone(),
        how: how(&exit.how).to_owned(),
        stop: exit.stop.as_str().to_owned(),
        rusage: exit.rusage.clone(),
        oom: (exit.oom_kills > 0).then_some(true),
        killed_descendants: exit.killed_descendants,
        unkilled: exit.unkilled.clone(),
        ran_ms: exit.ran_ms,
        stdout_bytes: exit.stdout_bytes,
        stderr_bytes: exit.stderr_bytes,
    }
    .into();
    let again = matches!(exit.how, ExitHow::NeverStarted { error: None })
        && matches!(state.phase, Phase::Starting { .. })
        && state.cancel.is_none()
        && state.never_started + 1 < limits::NEVER_STARTED_MAX
        && state.totals.attempts < limits::ATTEMPTS_MAX;
    if again {
        return vec![exited];
    }
    if !outcome::is_proven(state, exit) && loss::fate(state, attempt, exit) == loss::Fate::GoesOn {
        let reason = format!("attempt {attempt} was lost");
        let discard = |id: &String| MessageDiscarded { message_id: id.clone(), reason: reason.clone() }.into();
        return std::iter::once(exited).chain(state.open.messages().iter().map(discard)).collect();
    }
    let end = outcome::terminal(state, attempt, exit, info, totals);
    [vec![exited], state.talk.end(state.in_session), vec![end]].concat()
}

fn wrong(command: &'static str, state: &RunState) -> Rejection {
    Rejection::WrongPhase { command, status: state.status() }
}

const fn how(how: &ExitHow) -> &'static str {
    match how {
        ExitHow::Exited(_) => "exited",
        ExitHow::Signaled(_) => "signaled",
        ExitHow::NeverStarted { .. } => "never_started",
        ExitHow::Lost => "lost",
    }
}
