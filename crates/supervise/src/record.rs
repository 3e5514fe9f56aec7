//! What the shim witnessed: the `started` and `exit` records.
//!
//! Job: their shape and version. Owns: nothing that lives. Never: guesses; a record that is not whole is an error.

use serde::{Deserialize, Serialize};

use crate::kill::Identity;

/// The version of both records that this build writes and the highest it reads.
pub const VERSION: u32 = 1;

/// The agent's process exists; durable before it may exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// [`VERSION`].
    pub version: u32,
    /// The agent's process id, also its process group.
    pub pid: i32,
    /// The boot it lives in.
    pub boot_id: String,
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot.
    pub start_time: u64,
    /// Unix milliseconds.
    pub started_at_ms: i64,
    /// The shim's process id.
    pub shim_pid: i32,
    /// The release of the shim.
    pub shim_version: String,
}

impl Started {
    /// The agent's start identity, for signalling.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, boot_id: self.boot_id.clone(), start_time: self.start_time }
    }
}

/// How an agent ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum How {
    /// It exited by itself.
    Exited {
        /// Its status, 0 to 255.
        code: i32,
    },
    /// A signal ended it.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// Whether the kernel says it dumped core.
        core: bool,
    },
    /// The program never ran.
    NeverStarted {
        /// Why, where it is known.
        exec_error: Option<ExecError>,
    },
    /// Nobody witnessed the end.
    Lost,
}

/// Why a program could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecError {
    /// The system's error number; 0 where the trouble is not a system error.
    pub errno: i32,
    /// What it means, for people.
    pub message: String,
    /// The program, directory or file it is about.
    pub path: String,
    /// Which step failed: `setup`, `spec`, `env`, `cwd` or `exec`.
    pub step: String,
}

impl ExecError {
    /// The exit status a shell would give: 127 if the program was not found, 126 if it cannot be run.
    pub fn shell_code(&self) -> i32 {
        if self.errno == libc::ENOENT && self.step == "exec" { 127 } else { 126 }
    }
}

/// Which stop had begun before the leader was seen dead; the first one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// None: the agent ended by itself, or by a signal nobody here sent.
    None,
    /// A server asked for it.
    Cancel,
    /// The budget was used up.
    Deadline,
    /// A byte more than the output limit arrived.
    OutputLimit,
    /// No output for too long.
    Idle,
    /// The shim got SIGTERM, or a server shuts its runs down.
    Shutdown,
    /// It had said its last word and had been let go, and did not go.
    Lingered,
    /// The spool cannot be written for a reason that waiting does not heal; see [`Exit::spool_error`].
    SpoolError,
}

/// What the whole tree used, as far as it was reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rusage {
    /// Processor time in user mode, milliseconds.
    pub user_ms: u64,
    /// Processor time in the kernel, milliseconds.
    pub system_ms: u64,
    /// The largest resident set of one process, KiB.
    pub max_rss_kb: u64,
}

/// The end of an attempt; written once, after the tree is gone and the spools are synced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// [`VERSION`].
    pub version: u32,
    /// How it ended.
    pub how: How,
    /// Which stop had begun before.
    pub stop: Stop,
    /// When that stop began, Unix milliseconds.
    pub stop_asked_at_ms: Option<i64>,
    /// Length of the `stdout` spool.
    pub stdout_bytes: u64,
    /// Length of the `stderr` spool.
    pub stderr_bytes: u64,
    /// Length of the `order` file.
    pub order_bytes: u64,
    /// Bytes that were read and not kept: beyond the limit, or unwritable at the end.
    pub output_lost_bytes: u64,
    /// Why the spool could not be written, if so.
    pub spool_error: Option<String>,
    /// Length of the part of `input` that was forwarded or refused.
    pub input_bytes: u64,
    /// Frames refused for their epoch.
    pub input_refused: u64,
    /// Ids of the first refused frames.
    pub input_refused_ids: Vec<String>,
    /// Milliseconds from start to the leader's end, on the monotonic clock.
    pub ran_ms: u64,
    /// When this was written, Unix milliseconds.
    pub ended_at_ms: i64,
    /// What the tree used.
    pub rusage: Rusage,
    /// Descendants of the agent that had to be sent KILL.
    pub killed_descendants: u32,
    /// Processes that KILL did not end in time.
    pub unkilled: Vec<i32>,
    /// Processes of the attempt's own control group that the kernel killed for want of memory.
    #[serde(default)]
    pub oom_kills: u64,
    /// The release that wrote this.
    pub shim_version: String,
}

impl Exit {
    /// An exit of this kind at this time with nothing else known.
    pub(crate) fn bare(how: How, ended_at_ms: i64) -> Self {
        Self {
            version: VERSION,
            how,
            stop: Stop::None,
            stop_asked_at_ms: None,
            stdout_bytes: 0,
            stderr_bytes: 0,
            order_bytes: 0,
            output_lost_bytes: 0,
            spool_error: None,
            input_bytes: 0,
            input_refused: 0,
            input_refused_ids: Vec::new(),
            ran_ms: 0,
            ended_at_ms,
            rusage: Rusage::default(),
            killed_descendants: 0,
            unkilled: Vec::new(),
            oom_kills: 0,
            shim_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Unix milliseconds now.
pub(crate) fn unix_ms() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
