//! What goes between people and a running agent: messages, its questions, and their answers.

use longhaul_model::event::Decision;
use longhaul_model::projection::ApprovalSeen;
use longhaul_model::{RunId, Seq, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The answer to a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputReply {
    /// The message.
    pub input_id: String,
    /// `input`.
    pub object: String,
    /// The run.
    pub run_id: RunId,
    /// Where it goes: `live` or `next_turn`.
    pub delivery: String,
}

/// A question that waits, as a snapshot shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenApproval {
    /// Its number in the run.
    pub approval_id: String,
    /// The tool.
    pub tool: String,
    /// What an answer is bound to.
    pub digest: String,
    /// Since when it waits.
    pub requested_at: Timestamp,
}

impl From<&ApprovalSeen> for OpenApproval {
    fn from(seen: &ApprovalSeen) -> Self {
        Self {
            approval_id: seen.approval_id.clone(),
            tool: seen.tool.clone(),
            digest: seen.digest.clone(),
            requested_at: seen.requested_at,
        }
    }
}

/// A question of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    /// Its number in the run.
    pub approval_id: String,
    /// `approval`.
    pub object: String,
    /// The run.
    pub run_id: RunId,
    /// `open`, `answered`, `delivered` or `withdrawn`.
    pub status: String,
    /// The tool.
    pub tool: String,
    /// What it would be called with; null once the event is no longer kept.
    pub arguments: Value,
    /// The directory it would work in.
    pub cwd: String,
    /// What an answer is bound to: tool, arguments and directory.
    pub digest: String,
    /// The agent's words on why it asks.
    #[serde(default)]
    pub asks_because: Option<String>,
    /// Since when it waits, or waited.
    pub requested_at: Timestamp,
    /// The event that asked.
    pub seq: Seq,
    /// The answer.
    #[serde(default)]
    pub decision: Option<Decision>,
    /// Who gave it.
    #[serde(default)]
    pub by: Option<String>,
    /// Why it was given, or why nobody waits for it any more.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The questions of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApprovalList {
    /// `list`.
    pub object: String,
    /// The questions, oldest first; of the settled ones the last.
    pub data: Vec<Approval>,
}
