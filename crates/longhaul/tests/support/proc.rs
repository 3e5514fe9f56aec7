//! Facts about processes.

use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

/// When a process started, in ticks after boot; `None` if it is gone or only waits to be reaped.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    (!["Z", "X"].contains(fields.first()?)).then(|| fields.get(19)?.parse().ok())?
}

pub fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

pub fn signal_group(pid: i32, signal: Signal) {
    kill_process_group(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// The attempt directory of the agent with a pid, and its `started` record.
pub fn attempt_of(data: &Path, pid: i32) -> (PathBuf, Value) {
    for run in std::fs::read_dir(data.join("runs")).unwrap().flatten() {
        let dir = run.path().join("a1");
        let Ok(bytes) = std::fs::read(dir.join("started")) else { continue };
        let started: Value = serde_json::from_slice(&bytes).unwrap();
        if started["pid"] == pid {
            return (dir, started);
        }
    }
    panic!("no attempt has the agent {pid}");
}

/// The pid of the shim of the agent with a pid.
pub fn shim_of(data: &Path, pid: i32) -> i32 {
    i32::try_from(attempt_of(data, pid).1["shim_pid"].as_i64().unwrap()).unwrap()
}
