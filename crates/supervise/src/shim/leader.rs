//! The agent's first process.
//!
//! Job: signals to it and its group, whether it is dead, and how it ended. Owns: its pidfd.
//! Never: reaps it; `tree` does, for all.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::process::{Signal, WaitId, WaitIdOptions, WaitStatus, kill_process_group, pidfd_send_signal, waitid};

use crate::procfs;
use crate::record::How;

/// The exec stage, then the agent.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) pid: i32,
    pidfd: OwnedFd,
    /// With what status and when it was reaped.
    pub(super) ended: Option<(WaitStatus, Instant)>,
}

impl Leader {
    pub(super) fn new(pid: i32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, ended: None }
    }

    /// Signals this process and no other; one that is dead takes no harm.
    pub(super) fn signal(&mut self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    pub(super) fn signal_group(&self, signal: Signal) {
        // Until the leader is reaped no other process can have its number, nor any other group.
        if let (None, Some(group)) = (self.ended, procfs::pid(self.pid)) {
            let _ = kill_process_group(group, signal);
        }
    }

    /// Whether it is dead, reaped or not.
    pub(super) fn is_dead(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.ended.is_some() || matches!(waitid(WaitId::PidFd(self.pidfd.as_fd()), look), Ok(Some(_)))
    }

    /// Readable when it is dead; not to be waited for once it is reaped.
    pub(super) fn wanted(&self) -> Option<BorrowedFd<'_>> {
        self.ended.is_none().then(|| self.pidfd.as_fd())
    }
}

/// Whether this is the end of a process that was told to end: by TERM or KILL, or as a shell passes that on.
pub(super) fn was_told(status: WaitStatus) -> bool {
    let told = [Signal::TERM, Signal::KILL].map(Signal::as_raw);
    let passed_on = |code: i32| told.iter().any(|signal| code == 128 + signal);
    status.terminating_signal().is_some_and(|signal| told.contains(&signal))
        || status.exit_status().is_some_and(passed_on)
}

/// What the kernel says of an end.
pub(super) fn how(status: WaitStatus) -> How {
    const CORE: i32 = 0x80;
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => How::Exited { code },
        (None, Some(signal)) => How::Signaled { signal, core: status.as_raw() & CORE != 0 },
        (None, None) => How::Lost,
    }
}
