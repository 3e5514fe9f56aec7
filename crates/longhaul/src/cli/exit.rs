//! The exit status of a followed run.
//!
//! Job: one total function from how a run ended to what the shell sees. Source: DESIGN 9.
//! Never: gives 0 to anything but a completed run.

use longhaul_api::Snapshot;
use longhaul_model::event::{ExitInfo, Failure};
use longhaul_model::{EventData, Status};

use super::trouble::OWN;

/// The deadline ended it.
pub const DEADLINE: u8 = 124;
/// Ctrl-C let go of it; the run goes on.
pub const DETACHED: u8 = 130;
/// It was cancelled.
pub const CANCELLED: u8 = 143;

/// The status of a terminal event; `None` for any other.
pub fn of_event(event: &EventData) -> Option<u8> {
    match event {
        EventData::RunCompleted(_) => Some(0),
        EventData::RunFailed(failed) => Some(of_failure(&failed.error, failed.exit.as_ref())),
        EventData::RunCancelled(_) => Some(CANCELLED),
        _ => None,
    }
}

/// The status of an ended run; `None` if it is not over.
pub fn of_snapshot(run: &Snapshot) -> Option<u8> {
    match run.status {
        Status::Completed => Some(0),
        Status::Failed => Some(run.error.as_ref().map_or(1, |error| of_failure(error, run.exit.as_ref()))),
        Status::Cancelled => Some(CANCELLED),
        Status::Queued | Status::Starting | Status::BindingSession | Status::Running => None,
    }
}

fn of_failure(error: &Failure, exit: Option<&ExitInfo>) -> u8 {
    match error.code.as_str() {
        "timeout" | "idle_timeout" => return DEADLINE,
        "command_not_found" | "harness_missing" => return 127,
        "command_not_executable" => return 126,
        "lost" | "spawn_failed" | "recovery_failed" => return OWN,
        _ => {}
    }
    match exit {
        Some(ExitInfo { signal: Some(signal), .. }) => u8::try_from(128 + signal).unwrap_or(OWN),
        Some(ExitInfo { code: Some(0) | None, .. }) => 1,
        // A status is a byte; anything else did not come from a process.
        Some(ExitInfo { code: Some(code), .. }) => u8::try_from(*code).unwrap_or(1),
        None => OWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_design_9() {
        let exited = |code| Some(ExitInfo { code: Some(code), signal: None });
        let signaled = |signal| Some(ExitInfo { code: None, signal: Some(signal) });
        for (code, exit, want) in [
            ("exit_nonzero", exited(3), 3),
            ("exit_nonzero", exited(255), 255),
            ("no_verdict", exited(0), 1),
            ("empty_output", exited(0), 1),
            ("upstream", exited(0), 1),
            ("upstream", exited(7), 7),
            ("timeout", signaled(15), 124),
            ("timeout", exited(0), 124),
            ("idle_timeout", signaled(9), 124),
            ("killed_by_signal", signaled(9), 137),
            ("killed_by_signal", signaled(15), 143),
            ("oom_killed", signaled(9), 137),
            ("output_limit", signaled(15), 143),
            ("command_not_found", None, 127),
            ("command_not_executable", None, 126),
            ("spawn_failed", None, 125),
            ("lost", None, 125),
            ("lost", signaled(9), 125),
            ("recovery_failed", None, 125),
            ("something_new", None, 125),
        ] {
            let error = Failure { code: code.into(), message: String::new(), stderr_tail: None };
            assert_eq!(of_failure(&error, exit.as_ref()), want, "{code} {exit:?}");
        }
    }
}
