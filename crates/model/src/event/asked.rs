//! The `data` of what passes between an agent and people: questions with their answers, and messages.

use serde::{Deserialize, Serialize};

use crate::id::AttemptNo;

/// Whether an agent may do what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It may, this once.
    Allow,
    /// It may not.
    Deny,
}

impl Decision {
    /// The wire name: `allow` or `deny`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// `approval.requested`: the agent waits until somebody says whether it may do this.
///
/// A parser fills in what the source says; number, attempt, directory and digest are the engine's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApprovalRequested {
    /// Its number in the run, from 1.
    pub approval_id: String,
    /// The attempt whose process waits.
    #[serde(default)]
    pub attempt: AttemptNo,
    /// The tool's name.
    pub tool: String,
    /// What the tool would be called with.
    pub arguments: serde_json::Value,
    /// The directory it would work in.
    pub cwd: String,
    /// What an answer is bound to: tool, arguments and directory.
    pub digest: String,
    /// The tool call it is about, where the source says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// The source's own words on why it asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The source's own id of the question.
    pub source_request_id: String,
    /// What else the source must be told with the answer, in its own form; null if nothing.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub source_request: serde_json::Value,
}

/// `approval.answered`: durable before the agent is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalAnswered {
    /// Which one.
    pub approval_id: String,
    /// The answer.
    pub decision: Decision,
    /// Who gave it: `api`, `cli`, `rule`, `earlier` (an answer to the same question of an earlier attempt that its agent
    /// never got) or `limit` (too many questions are open, or this one is too long).
    pub by: String,
    /// Why, in the answerer's words; the agent is told them with a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// With `earlier`: the approval whose answer this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_of: Option<String>,
}

/// `approval.delivered`: the answer stands in the agent's standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalDelivered {
    /// Which one.
    pub approval_id: String,
}

/// `approval.withdrawn`: nobody waits for the answer any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalWithdrawn {
    /// Which one.
    pub approval_id: String,
    /// Why: `source` (the agent took the question back) or `process_exited`.
    pub reason: String,
    /// The source's own id of the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_request_id: Option<String>,
}

/// `input.accepted`: a message for the agent, durable before it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputAccepted {
    /// The message.
    pub input_id: String,
    /// What it says.
    pub text: String,
    /// Where it goes: `live` (into the process) or `next_turn` (in front of the prompt of the session's next turn).
    pub delivery: String,
    /// Who sent it: `api` or `cli`.
    pub by: String,
}

/// `input.delivered`: the agent has the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputDelivered {
    /// The message.
    pub input_id: String,
}

/// `input.undelivered`: the agent ended before it had the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputUndelivered {
    /// The message.
    pub input_id: String,
    /// What became of it: `next_turn` or `dropped`.
    pub delivery: String,
}
