//! What to start: a plan as plain data.

use longhaul_model::event::Warning;

use crate::channel::Channel;

/// The program of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A path, or a name to look up in the child's `PATH`.
    Path(String),
    /// The house's own binary with a hidden verb as its first argument, before the plan's `args`.
    Myself {
        /// The verb.
        verb: &'static str,
    },
}

/// One rung of the ladder that ends a running agent. After the last one the whole tree is killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopStep {
    /// Send a signal to the leader, then wait for its end.
    Signal {
        /// The signal's name without `SIG`: `INT` or `TERM`.
        name: &'static str,
        /// How long to wait before the next rung, in milliseconds.
        wait_ms: u64,
    },
    /// Write the protocol's own cancel into the channel, then wait for the leader's end. Skipped if it is closed.
    Write {
        /// What is written, whole; nothing where [`Parser::interrupt`](crate::Parser::interrupt) gives it.
        bytes: Vec<u8>,
        /// How long to wait before the next rung, in milliseconds.
        wait_ms: u64,
    },
}

/// A file that the program is told of on its command line, for what no argument may hold.
#[derive(Clone, PartialEq, Eq)]
pub struct PlanFile {
    /// Its name in the request's directory for files: one plain component.
    pub name: String,
    /// What it holds; may be secret.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for PlanFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PlanFile({}, {} bytes)", self.name, self.bytes.len())
    }
}

/// What to start, and how to end it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The program.
    pub program: Program,
    /// Its arguments, without the program's own name. None holds a NUL byte.
    pub args: Vec<String>,
    /// What its standard input holds, as a file; `None` is `/dev/null`, unless there is a channel.
    pub stdin: Option<Vec<u8>>,
    /// Files that must be there before the start, beside nothing else in the request's directory for them.
    pub files: Vec<PlanFile>,
    /// The protocol that is spoken over its standard input; never beside `stdin`.
    pub channel: Option<Channel>,
    /// Variables that are set whatever the caller's environment holds.
    pub env: Vec<(String, String)>,
    /// Variables that pass from the caller's environment when they are there: a name, or a prefix that ends in `*`.
    pub env_allow: &'static [&'static str],
    /// Variables that hold keys and pass from the caller's environment, else from the server's, when they are there.
    pub keys: Vec<String>,
    /// How to ask for the end, in order.
    pub stop: Vec<StopStep>,
    /// The source's own session id, where we could choose it.
    pub source_session_id: Option<String>,
    /// What the caller should know before the start.
    pub warnings: Vec<Warning>,
}

/// Variables that every agent needs: to find programs, its home, and the caller's language and time zone.
pub(crate) const ENV_BASE: [&str; 8] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TZ"];

/// TERM and five seconds to obey: what a command that knows nothing of us gets.
pub(crate) fn stop_by_term() -> Vec<StopStep> {
    vec![StopStep::Signal { name: "TERM", wait_ms: 5_000 }]
}

/// The interrupt that an agent CLI takes as its own cancel, then TERM.
pub(crate) fn stop_by_interrupt() -> Vec<StopStep> {
    vec![StopStep::Signal { name: "INT", wait_ms: 3_000 }, StopStep::Signal { name: "TERM", wait_ms: 2_000 }]
}
