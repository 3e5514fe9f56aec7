//! What the bridge answers about runs.

use std::collections::BTreeMap;

use longhaul_model::event::{Cost, ExitInfo, Failure, Home, OnLost, Usage};
use longhaul_model::projection::{Attempt, Projection};
use longhaul_model::{ProjectId, RunId, Seq, SessionId, Status, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::talk::OpenApproval;

/// A queued run's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Runs before it; zero is next.
    pub position: usize,
}

/// Where to go on from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Links {
    /// The snapshot itself.
    #[serde(rename = "self")]
    pub own: String,
    /// Its events.
    pub events: String,
    /// Its raw output.
    pub log: String,
    /// Its cancel.
    pub cancel: String,
}

/// A run as `GET /v1/runs/{id}` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // The fields are the wire's; docs/api.md describes each.
pub struct Snapshot {
    pub id: RunId,
    pub object: String,
    pub project: ProjectId,
    pub status: Status,
    pub harness: String,
    #[serde(default)]
    pub command: Option<String>,
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub output_text: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub output_truncated: bool,
    #[serde(default)]
    pub usage: Option<Usage>,
    #[serde(default)]
    pub cost: Option<Cost>,
    #[serde(default)]
    pub error: Option<Failure>,
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub exit: Option<ExitInfo>,
    #[serde(default)]
    pub queue: Option<Queue>,
    pub attempts: u32,
    #[serde(default)]
    pub attempt_log: Vec<Attempt>,
    #[serde(default)]
    pub home: Home,
    #[serde(default)]
    pub on_lost: OnLost,
    #[serde(default)]
    pub resumed_from: Option<RunId>,
    #[serde(default)]
    pub session_id: Option<SessionId>,
    #[serde(default)]
    pub source_session_id: Option<String>,
    pub cwd: String,
    #[serde(default)]
    pub pid: Option<i32>,
    pub digest: String,
    #[serde(default)]
    pub cancel_requested: bool,
    #[serde(default)]
    pub readers: usize,
    /// What waits for an answer.
    #[serde(default)]
    pub approvals: Vec<OpenApproval>,
    pub tool_calls: u64,
    pub unknown_lines: u64,
    pub warnings: u32,
    pub timeout_ms: u64,
    pub last_seq: Seq,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    #[serde(default)]
    pub metadata: Map<String, Value>,
    pub created_at: Timestamp,
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    pub updated_at: Timestamp,
    pub links: Links,
}

impl Snapshot {
    /// A snapshot of the fold; `text` says whether the answer is wanted (lists leave it out).
    pub fn of(run: &Projection, metadata: Map<String, Value>, text: bool) -> Self {
        let query = if run.project.as_str() == "default" { String::new() } else { format!("?project={}", run.project) };
        let base = format!("/v1/runs/{}", run.id);
        Self {
            id: run.id.clone(),
            object: "run".to_owned(),
            project: run.project.clone(),
            status: run.status,
            harness: run.harness.clone(),
            command: run.command.clone(),
            model: run.model.clone(),
            name: run.name.clone(),
            output_text: text.then(|| run.output_text()),
            output_truncated: text && run.output_truncated,
            usage: run.totals.usage.clone(),
            cost: run.totals.cost.clone(),
            error: run.error.clone(),
            reason: run.reason.clone(),
            exit: run.exit.clone(),
            queue: None,
            attempts: run.attempts,
            attempt_log: run.attempt_log.clone(),
            home: run.home,
            on_lost: run.on_lost,
            resumed_from: run.resumed_from.clone(),
            session_id: run.session_id.clone(),
            source_session_id: run.source_session_id.clone(),
            cwd: run.cwd.clone(),
            pid: run.pid,
            digest: run.digest.clone(),
            cancel_requested: run.cancel_requested.is_some(),
            readers: 0,
            approvals: run.open_approvals().map(OpenApproval::from).collect(),
            tool_calls: run.totals.tool_calls,
            unknown_lines: run.totals.unknown_lines,
            warnings: run.warnings,
            timeout_ms: run.timeout_ms,
            last_seq: run.last_seq,
            tags: run.tags.clone(),
            metadata,
            created_at: run.created_at,
            started_at: run.started_at,
            ended_at: run.ended_at,
            updated_at: run.updated_at,
            links: Links {
                own: format!("{base}{query}"),
                events: format!("{base}/events{query}"),
                log: format!("{base}/log{query}"),
                cancel: format!("{base}/cancel{query}"),
            },
        }
    }
}

/// A page of runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunList {
    /// `list`.
    pub object: String,
    /// The runs, newest first.
    pub data: Vec<Snapshot>,
    /// Whether there are more.
    pub has_more: bool,
    /// The value of `after` for the next page.
    pub next: Option<String>,
    /// The feed's position when the list was made: follow `/v1/events?after=` from here to miss nothing.
    pub feed: Seq,
}

/// A page of events.
#[derive(Debug, Serialize, Deserialize)]
pub struct EventList {
    /// `list`.
    pub object: String,
    /// The events, as stored.
    pub data: Vec<Box<RawValue>>,
    /// Whether there are more now.
    pub has_more: bool,
    /// The cursor after this page.
    pub next: Seq,
    /// The first event that is kept.
    pub earliest: Seq,
    /// The last event.
    pub tail: Seq,
}

/// The answer to a cancel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CancelReply {
    /// Whether the run is over, whatever ended it.
    pub terminal: bool,
    /// Whether this very request recorded the cancel.
    pub requested: bool,
    /// The run.
    pub run: Snapshot,
}

/// One cause of a run's waiting: the answer of `/v1/runs/{id}/why`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// What it waits for or why it ended, in a sentence.
    pub cause: String,
    /// Who has to act: `agent`, `longhaul`, `model`, `nobody`.
    pub owner: String,
    /// Since when.
    pub since: Timestamp,
    /// When something will happen by itself at the latest.
    #[serde(default)]
    pub next: Option<Timestamp>,
    /// What the next event will be then.
    #[serde(default)]
    pub next_what: Option<String>,
    /// More facts, each a sentence.
    pub facts: Vec<String>,
}
