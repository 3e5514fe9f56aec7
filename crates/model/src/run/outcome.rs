//! Who ended a run: the rules by which a witness's record becomes a terminal event.
//!
//! A proven success beats a stop; a stop that was begun before the end decides otherwise; then the source's own word,
//! then the exit status. Nothing that is not proven is shown as a success.

use super::{Exit, ExitHow, RunState, Stop, loss};
use crate::event::{
    BudgetExceeded, Driver, EventData, ExitInfo, Failure, RunCancelled, RunCompleted, RunFailed, Totals,
};
use crate::id::AttemptNo;

/// The terminal event of a run whose last attempt ended like `exit`.
pub(super) fn terminal(state: &RunState, attempt: AttemptNo, exit: &Exit, info: ExitInfo, totals: Totals) -> EventData {
    let info = Some(info);
    if let Some(reason) = proof(state, exit) {
        return RunCompleted { reason: reason.to_owned(), exit: info, totals }.into();
    }
    let exit_info = if matches!(exit.how, ExitHow::NeverStarted { .. } | ExitHow::Lost) { None } else { info };
    // The shim knows one stop for both: whoever cancels says so in the log.
    if let Some(BudgetExceeded { limit, max, used }) = &state.exceeded
        && state.cancel.is_none()
        && (exit.stop == Stop::Cancel || matches!(exit.how, ExitHow::NeverStarted { .. } | ExitHow::Lost))
    {
        let message = format!("the run was stopped: it had used {used}, and its {limit} is {max}");
        let error = Failure { code: "budget_exceeded".to_owned(), message, stderr_tail: exit.stderr_tail.clone() };
        return RunFailed { error, exit: exit_info, totals }.into();
    }
    let cancelled = exit.stop == Stop::Cancel
        || (state.cancel.is_some() && matches!(exit.how, ExitHow::NeverStarted { .. } | ExitHow::Lost));
    if cancelled {
        let reason = state.cancel.as_ref().map_or_else(|| "cancel".to_owned(), |c| c.by.clone());
        return RunCancelled { reason, exit: exit_info, totals }.into();
    }
    let (code, message) = match (loss::fate(state, attempt, exit), failure(state, exit)) {
        // Where an attempt could not go on, its own words say more.
        (loss::Fate::GivenUp(why), (_, message)) if !matches!(exit.how, ExitHow::Exited(_)) => {
            ("lost".to_owned(), format!("{message}; {why}"))
        }
        (_, failure) => failure,
    };
    let error = Failure { code, message, stderr_tail: exit.stderr_tail.clone() };
    RunFailed { error, exit: exit_info, totals }.into()
}

/// Whether a success is proven.
pub(super) fn is_proven(state: &RunState, exit: &Exit) -> bool {
    proof(state, exit).is_some()
}

/// What proves a success, if anything does.
fn proof(state: &RunState, exit: &Exit) -> Option<&'static str> {
    match state.driver {
        Driver::Exec => {
            let whole = exit.stop == Stop::None && exit.output_lost_bytes == 0;
            (exit.how == ExitHow::Exited(0) && whole).then_some("exit_status")
        }
        Driver::Harness => {
            let said = state.verdict.as_ref().is_some_and(|v| v.success);
            let gave = state.saw_text || state.totals.tool_calls > 0;
            (said && gave && exit.unmet.is_none() && !matches!(exit.how, ExitHow::NeverStarted { .. }))
                .then_some("verdict")
        }
    }
}

fn failure(state: &RunState, exit: &Exit) -> (String, String) {
    let (code, message) = match exit.stop {
        Stop::Deadline => ("timeout", "the run used up its time".to_owned()),
        Stop::Idle => ("idle_timeout", "the run was silent for longer than it may be".to_owned()),
        Stop::OutputLimit => ("output_limit", "the run wrote more output than it may".to_owned()),
        Stop::Shutdown => ("lost", "the host ended the run's supervisor".to_owned()),
        Stop::SpoolError => {
            let why = exit.spool_error.as_deref().unwrap_or("the reason is not known");
            ("spool_failed", format!("the run's output could not be kept: {why}"))
        }
        Stop::None | Stop::Cancel | Stop::Lingered if exit.output_lost_bytes > 0 => {
            ("output_limit", format!("{} bytes of output were over the limit and are lost", exit.output_lost_bytes))
        }
        Stop::None | Stop::Cancel | Stop::Lingered => match &exit.how {
            ExitHow::Lost => ("lost", "the run's supervisor was killed; its end was not witnessed".to_owned()),
            ExitHow::NeverStarted { error: Some(error) } => {
                let code = match error.errno {
                    2 => "command_not_found",
                    13 => "command_not_executable",
                    _ => "spawn_failed",
                };
                (code, error.message.clone())
            }
            ExitHow::NeverStarted { error: None } => {
                ("spawn_failed", "the agent could not be started, several times over".to_owned())
            }
            // What the kernel did to the leader itself is no matter of what that said.
            ExitHow::Signaled(9) if exit.oom_kills > 0 => return oom_killed(state),
            ExitHow::Exited(status) if *status != 0 && exit.oom_kills > 0 => {
                return said_error(state).unwrap_or_else(|| oom_killed(state));
            }
            ExitHow::Exited(status) => {
                return unmet(state, exit).unwrap_or_else(|| exited(state, *status));
            }
            ExitHow::Signaled(signal) => {
                if let Some(error) = said_error(state) {
                    return error;
                }
                ("killed_by_signal", format!("{} was ended by {}", subject(state), signal_name(*signal)))
            }
        },
    };
    (code.to_owned(), message)
}

fn said_error(state: &RunState) -> Option<(String, String)> {
    let error = state.verdict.as_ref().and_then(|v| v.error.as_ref())?;
    Some((error.code.clone(), error.message.clone()))
}

fn oom_killed(state: &RunState) -> (String, String) {
    let text = format!("the kernel killed a process of {} that wanted more memory than there was", subject(state));
    ("oom_killed".to_owned(), text)
}

/// The failure of an agent that says it succeeded, and whose answer is not what was asked for.
fn unmet(state: &RunState, exit: &Exit) -> Option<(String, String)> {
    let said_success = state.verdict.as_ref().is_some_and(|v| v.success);
    let why = exit.unmet.as_ref().filter(|_| said_success && state.saw_text)?;
    Some(("format_not_met".to_owned(), format!("the answer does not meet response_format: {why}")))
}

fn exited(state: &RunState, status: i32) -> (String, String) {
    if let Some(error) = said_error(state) {
        return error;
    }
    let said_success = state.verdict.as_ref().is_some_and(|v| v.success);
    let (code, message) = match (state.driver, status) {
        (Driver::Harness, _) if said_success => {
            ("empty_output", "the agent reported success and gave neither text nor a tool call".to_owned())
        }
        (Driver::Harness, 0) => {
            ("no_verdict", "the agent exited with status 0 without saying that its work succeeded".to_owned())
        }
        (Driver::Exec | Driver::Harness, _) => {
            ("exit_nonzero", format!("{} exited with status {status}", subject(state)))
        }
    };
    (code.to_owned(), message)
}

/// What a sentence about the process is about.
const fn subject(state: &RunState) -> &'static str {
    match state.driver {
        Driver::Exec => "the command",
        Driver::Harness => "the agent",
    }
}

/// A signal's usual name.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}
