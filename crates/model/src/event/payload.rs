//! The `data` member of each event type that the house itself brings about: runs, attempts, processes.
//!
//! Fields are the wire's; an optional one that is unknown is absent, never zero.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{AttemptNo, Epoch, ProjectId, RunId, SessionId};

/// What makes a run's events, and so what proves its success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Any command: its exit status is the verdict.
    Exec,
    /// An agent CLI: its own word is the verdict, whatever its exit status.
    Harness,
}

/// What happens to a run whose process was lost before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLost {
    /// It fails.
    #[default]
    Fail,
    /// It goes on in another attempt.
    Resume,
}

impl OnLost {
    /// Whether it is the default, which events need not tell.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    fn is_fail(&self) -> bool {
        *self == Self::Fail
    }
}

/// How an attempt goes on with what an earlier one began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Through the source's own session.
    NativeResume,
    /// Through the source's own session, which its protocol is asked to load.
    ProtocolLoad,
    /// With a text that retells the run as far as its events know it.
    RebuiltContext,
}

impl Rung {
    /// Whether it goes on in the session that was there.
    #[must_use]
    pub const fn keeps_session(self) -> bool {
        matches!(self, Self::NativeResume | Self::ProtocolLoad)
    }

    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NativeResume => "native_resume",
            Self::ProtocolLoad => "protocol_load",
            Self::RebuiltContext => "rebuilt_context",
        }
    }
}

/// A tool call that had begun and whose end nobody saw: it may have taken effect, wholly or in part, or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostTool {
    /// The call.
    pub call_id: String,
    /// The tool's name.
    pub name: String,
}

/// What was under way when an attempt was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The attempt that was lost.
    pub attempt: AttemptNo,
    /// Tool calls without an end. Their outcome is uncertain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<LostTool>,
    /// Messages that had begun and were discarded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<String>,
    /// Further tool calls and messages that are not listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unlisted: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Where the agent finds its login and settings and keeps its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Home {
    /// The home of the server's user, or what the variables say.
    #[default]
    User,
    /// A private one, of the session or of the run, which goes with it.
    Managed,
}

impl Home {
    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Managed => "managed",
        }
    }

    /// Whether it is the default.
    #[must_use]
    pub const fn is_user(&self) -> bool {
        matches!(self, Self::User)
    }
}

/// `run.created`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunCreated {
    /// The project the run id is unique in.
    pub project: ProjectId,
    /// What makes its events.
    pub driver: Driver,
    /// The harness that will make its events.
    pub harness: String,
    /// The program's file name, for a command. Its arguments may hold secrets and are not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The model asked for, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The request digest the id is bound to.
    pub digest: String,
    /// The session, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// The directory the work happens in.
    pub cwd: String,
    /// Whose home it has; absent means the user's.
    #[serde(default, skip_serializing_if = "Home::is_user")]
    pub home: Home,
    /// Tags to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The budget in milliseconds from the start of the first attempt.
    pub timeout_ms: u64,
    /// The budget of tokens and money.
    #[serde(default, skip_serializing_if = "Budget::is_open")]
    pub budget: Budget,
    /// What happens if its process is lost; absent means that it fails.
    #[serde(default, skip_serializing_if = "OnLost::is_fail")]
    pub on_lost: OnLost,
    /// The ended run that it goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed_from: Option<RunId>,
    /// What the answer must be, other than text: `json_schema`. The last message alone is the answer then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_format: Option<String>,
}

/// What a run may use. What is absent is not bounded.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Budget {
    /// US dollars, as the source reports them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd_max: Option<f64>,
    /// Tokens read and written, those of caches included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_max: Option<u64>,
}

impl Budget {
    /// Whether nothing is bounded.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }
}

/// `budget.exceeded`: the run is stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BudgetExceeded {
    /// Which limit: `cost_usd_max` or `tokens_max`.
    pub limit: String,
    /// The bound, a number.
    pub max: serde_json::Value,
    /// What the source had reported by then, a number of the same kind.
    pub used: serde_json::Value,
}

/// `turn.accepted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnAccepted {
    /// The session.
    pub session_id: SessionId,
    /// Which of its turns the run is, from 1, in the order in which they were accepted.
    pub turn: u64,
    /// What the user says in this turn.
    pub text: String,
}

/// `run.attempt_started`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunAttemptStarted {
    /// Its number, from 1.
    pub attempt: AttemptNo,
    /// Why it is made: `first`; `never_started` after an attempt that provably started nothing; `supervisor_lost`,
    /// `killed_by_signal` or `shutdown` after one that was lost; `resume_failed` after one that could not go on.
    pub cause: String,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// What is left of the run's budget, in milliseconds.
    pub budget_ms: u64,
    /// How it goes on with what was begun before it; absent where it begins anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<Rung>,
    /// What was under way when the attempt before it was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
}

/// `run.started`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunStarted {
    /// The attempt that is running.
    pub attempt: AttemptNo,
}

/// `run.adopted`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunAdopted {
    /// The attempt that was adopted.
    pub attempt: AttemptNo,
    /// The owner before.
    pub previous_epoch: Epoch,
    /// The owner now.
    pub epoch: Epoch,
}

/// `run.cancel_requested`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunCancelRequested {
    /// Who asked: `api`, `cli`, `disconnect`.
    pub by: String,
    /// Why, in the asker's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Tokens and money, each known or absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read by the model, without those from its cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Tokens the model wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Tokens read from the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read_tokens: Option<u64>,
    /// Tokens written to the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_tokens: Option<u64>,
    /// Tokens of reasoning, where the source tells them apart; part of `output_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
}

/// Money, with where the figure comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// US dollars.
    pub usd: f64,
    /// `receipt` (the source was billed so) or `estimate` (a price list times tokens).
    pub provenance: String,
}

/// `usage.reported`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct UsageReported {
    /// What the numbers cover: `run`, `session` or `step`.
    pub scope: String,
    /// Tokens.
    #[serde(flatten)]
    pub usage: Usage,
    /// Money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// What `cost` covers, where it is not `scope`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_scope: Option<String>,
    /// The model that was really used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// Sums over a whole run, in its terminal event.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Attempts made.
    pub attempts: u32,
    /// Bytes of stdout in the spool.
    pub stdout_bytes: u64,
    /// Bytes of stderr in the spool.
    pub stderr_bytes: u64,
    /// Lines that the harness's parser did not know.
    pub unknown_lines: u64,
    /// Tool calls seen.
    pub tool_calls: u64,
    /// Tokens, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Money, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A code of the catalogue: `exit_nonzero`, `killed_by_signal`, `timeout`, `lost`, `output_limit`, …
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// The end of stderr, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_tail: Option<String>,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExitInfo {
    /// Exit status, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Signal number, if a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

/// `run.completed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunCompleted {
    /// What proved it: `exit_status`, or the CLI's own `verdict`.
    pub reason: String,
    /// How the process ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitInfo>,
    /// Sums over the run.
    pub totals: Totals,
}

/// `run.failed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFailed {
    /// Why.
    pub error: Failure,
    /// How the process ended, if one was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitInfo>,
    /// Sums over the run.
    pub totals: Totals,
}

/// `run.cancelled`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunCancelled {
    /// Who or what asked for it.
    pub reason: String,
    /// How the process ended, if one was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitInfo>,
    /// Sums over the run.
    pub totals: Totals,
}

/// `process.started`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessStarted {
    /// The attempt it belongs to.
    pub attempt: AttemptNo,
    /// The agent's process id.
    pub pid: i32,
    /// The program's file name.
    pub command: String,
    /// The CLI's version, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The directory it works in.
    pub cwd: String,
}

/// What the process used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResourceUse {
    /// CPU time in user mode, milliseconds.
    pub user_ms: u64,
    /// CPU time in the kernel, milliseconds.
    pub system_ms: u64,
    /// Largest resident set of one process of the tree, KiB.
    pub max_rss_kb: u64,
}

/// `process.exited`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessExited {
    /// The attempt it belonged to.
    pub attempt: AttemptNo,
    /// Exit status and signal; both absent if it was lost or never started.
    #[serde(flatten)]
    pub exit: ExitInfo,
    /// `exited`, `signaled`, `never_started` or `lost`.
    pub how: String,
    /// Which stop was begun before it ended: `none`, `cancel`, `deadline`, `idle`, `output_limit` or `shutdown`.
    pub stop: String,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rusage: Option<ResourceUse>,
    /// Whether its own control group proves an out-of-memory kill; absent where there is no such proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom: Option<bool>,
    /// Descendants that outlived the leader and were killed.
    #[serde(default)]
    pub killed_descendants: u32,
    /// Processes that could not be killed, by pid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unkilled: Vec<i32>,
    /// What it used of the run's budget, in milliseconds; an estimate where its supervisor did not live to measure it.
    #[serde(default)]
    pub ran_ms: u64,
    /// Bytes of stdout in the attempt's spool.
    #[serde(default)]
    pub stdout_bytes: u64,
    /// Bytes of stderr in the attempt's spool.
    #[serde(default)]
    pub stderr_bytes: u64,
}

/// `warning`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// A name: `silence`, `unknown_model`, `spool_missing`, `source`, …
    pub code: String,
    /// A sentence for people.
    pub message: String,
}
