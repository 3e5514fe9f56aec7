//! Signalling processes that are not this one's children, never by their number alone.
//!
//! Job: start identity (pid, boot, start time), signals through pidfd after a check, and the marker scan for trees
//! whose shim is lost. Owns: nothing. Never: signals a process whose identity or marker it did not verify through the
//! very pidfd it signals.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::{limits, procfs};

/// The environment variable that marks an agent's tree.
pub const MARKER_ENV: &str = "LONGHAUL_RUN_MARKER";

/// A process, told apart from any other that ever had or will have its number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: i32,
    /// The boot it lives in.
    pub boot_id: String,
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot.
    pub start_time: u64,
}

impl Identity {
    /// The identity of a process that is there now; `None` if there is none.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn of(pid: i32) -> io::Result<Option<Self>> {
        let Some(stat) = procfs::stat(pid)? else {
            return Ok(None);
        };
        Ok(Some(Self { pid, boot_id: procfs::boot_id()?, start_time: stat.start_time }))
    }

    /// Whether this very process still runs; a zombie does not.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn alive(&self) -> io::Result<bool> {
        Ok(self.handle()?.is_some())
    }

    /// Sends a signal to this very process; `false` if it is gone.
    ///
    /// # Errors
    /// The signal is not permitted.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let Some(handle) = self.handle()? else {
            return Ok(false);
        };
        match pidfd_send_signal(&handle, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A pidfd of this very process, readable (by poll) when it has ended; `None` if it is gone.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn handle(&self) -> io::Result<Option<OwnedFd>> {
        let Some(handle) = open(self.pid)? else {
            return Ok(None);
        };
        // The handle first, then the look: were the number given to another in between, the look would tell.
        let Some(stat) = procfs::stat(self.pid)? else {
            return Ok(None);
        };
        if stat.start_time != self.start_time || procfs::boot_id()? != self.boot_id || ended(&handle)? {
            return Ok(None);
        }
        Ok(Some(handle))
    }
}

fn open(pid: i32) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = procfs::pid(pid) else {
        return Ok(None);
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => Ok(Some(handle)),
        // EINVAL: the number is a thread, not a process.
        Err(Errno::SRCH | Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn ended(handle: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
}

/// The processes that carry this marker in the environment they were started with. Those that cleared it are not found.
///
/// # Errors
/// /proc cannot be listed.
pub fn find_marked(marker: &str) -> io::Result<Vec<i32>> {
    let entry = format!("{MARKER_ENV}={marker}").into_bytes();
    let mut found = procfs::pids()?;
    found.retain(|&pid| procfs::has_env(pid, &entry));
    Ok(found)
}

/// What a marker kill did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MarkedReport {
    /// Processes that were sent KILL: marked ones and what stood below them.
    pub killed: Vec<i32>,
    /// Marked processes still there when the bound was reached.
    pub remaining: Vec<i32>,
}

/// Kills every process that carries the marker, and what is below it, again and again until none is found or `bound`
/// is over. Best effort: for a tree whose shim is lost.
///
/// # Errors
/// /proc cannot be listed.
pub fn kill_marked(marker: &str, bound: Duration) -> io::Result<MarkedReport> {
    let entry = format!("{MARKER_ENV}={marker}").into_bytes();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let until = Instant::now() + bound;
    let mut report = MarkedReport::default();
    loop {
        let mut marked = find_marked(marker)?;
        marked.retain(|&pid| pid != own);
        if marked.is_empty() {
            return Ok(report);
        }
        for pid in marked {
            let is_marked = |pid| procfs::has_env(pid, &entry);
            // The lowest first: a process whose parent is dead has another parent and would not be recognised.
            for one in procfs::descendants(pid)?.into_iter().rev() {
                let is_below = |pid| procfs::stat(pid).is_ok_and(|stat| stat.is_some_and(|s| s.parent == one.parent));
                if kill_if(one.pid, |pid| is_marked(pid) || is_below(pid))? {
                    note(&mut report.killed, one.pid);
                }
            }
            if kill_if(pid, is_marked)? {
                note(&mut report.killed, pid);
            }
        }
        if Instant::now() >= until {
            report.remaining = find_marked(marker)?;
            report.remaining.retain(|&pid| pid != own);
            return Ok(report);
        }
        std::thread::sleep(limits::KILL_ROUND);
    }
}

fn note(list: &mut Vec<i32>, pid: i32) {
    if !list.contains(&pid) {
        list.push(pid);
    }
}

fn kill_if(pid: i32, verified: impl Fn(i32) -> bool) -> io::Result<bool> {
    let Some(handle) = open(pid)? else {
        return Ok(false);
    };
    if !verified(pid) || ended(&handle)? {
        return Ok(false);
    }
    Ok(pidfd_send_signal(&handle, Signal::KILL).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_more_than_a_number() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = Identity::of(pid).unwrap().unwrap();
        assert!(own.alive().unwrap());
        let earlier = Identity { start_time: own.start_time - 1, ..own.clone() };
        assert!(!earlier.alive().unwrap());
        assert!(!earlier.signal(Signal::KILL).unwrap());
        let other_boot = Identity { boot_id: "x".into(), ..own };
        assert!(!other_boot.signal(Signal::KILL).unwrap());
    }
}
