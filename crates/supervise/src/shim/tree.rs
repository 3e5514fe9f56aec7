//! The processes below the shim.
//!
//! Job: reaping, signalling and killing the agent's whole tree, setsid escapees included: the shim is their sub-reaper.
//! Owns: the list of what it killed. Never: signals a process that is not below the shim.

use std::collections::HashSet;

use rustix::process::{PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open, pidfd_send_signal, wait};

use crate::procfs::Descendant;
use crate::{limits, procfs};

/// What reaping found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Children live.
    Some,
    /// The kernel answers ECHILD: there is no process below the shim any more.
    Nobody,
}

#[derive(Debug)]
pub(super) struct Tree {
    own: i32,
    killed: HashSet<i32>,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { own: i32::try_from(std::process::id()).unwrap_or(0), killed: HashSet::new() }
    }

    /// Reaps every child that has ended and hands each to `seen`.
    pub(super) fn reap(mut seen: impl FnMut(i32, WaitStatus)) -> Left {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => seen(pid.as_raw_pid(), status),
                Err(rustix::io::Errno::CHILD) => return Left::Nobody,
                Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => return Left::Some,
            }
        }
    }

    /// Signals every process below the shim that is outside the process group `group`.
    pub(super) fn signal_outside(&self, group: i32, signal: Signal) {
        for one in procfs::descendants(self.own).unwrap_or_default() {
            if matches!(procfs::stat(one.pid), Ok(Some(stat)) if stat.group != group && !stat.ended()) {
                self.signal(one, signal);
            }
        }
    }

    /// Signals every process below the shim but this one.
    pub(super) fn signal_besides(&self, pid: i32, signal: Signal) {
        for one in procfs::descendants(self.own).unwrap_or_default().into_iter().filter(|one| one.pid != pid) {
            self.signal(one, signal);
        }
    }

    /// The agent behind a wrapper: the second process of the pid namespace below it, after the one that reaps there.
    pub(super) fn wrapped(wrapper: i32) -> Option<Descendant> {
        let below = procfs::descendants(wrapper).ok()?;
        below.into_iter().find(|one| procfs::inner_pid(one.pid) == Some(2))
    }

    /// Sends KILL to every process below the shim, once over.
    pub(super) fn kill(&mut self) {
        for one in procfs::descendants(self.own).unwrap_or_default() {
            let lives = matches!(procfs::stat(one.pid), Ok(Some(stat)) if !stat.ended());
            if self.signal(one, Signal::KILL) && lives && self.killed.len() < limits::TREE_PIDS_MAX {
                self.killed.insert(one.pid);
            }
        }
    }

    /// How many different processes besides the leader were sent KILL.
    pub(super) fn killed_besides(&self, leader: i32) -> u32 {
        let besides = self.killed.len() - usize::from(self.killed.contains(&leader));
        u32::try_from(besides).unwrap_or(u32::MAX)
    }

    /// The processes below the shim, the first of many.
    pub(super) fn left(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = procfs::descendants(self.own).unwrap_or_default().iter().map(|one| one.pid).collect();
        pids.truncate(limits::UNKILLED_MAX);
        pids
    }

    /// A child's number is its own until it is reaped here. One further down is held by pidfd first, then looked at:
    /// it must still stand below the parent it was found under, or below the shim, which adopts orphans.
    pub(super) fn signal(&self, one: Descendant, signal: Signal) -> bool {
        let Some(pid) = procfs::pid(one.pid) else {
            return false;
        };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
            return false;
        };
        let ours = |parent| parent == one.parent || parent == self.own;
        matches!(procfs::stat(one.pid), Ok(Some(stat)) if ours(stat.parent))
            && pidfd_send_signal(&handle, signal).is_ok()
    }
}
