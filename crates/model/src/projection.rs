//! What people see of a run: a pure fold of its events.
//!
//! Job: the state behind a snapshot, a reply and a list row. Never: knows anything that is not in the events, but for
//! the creation facts that events must not hold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{
    ApprovalRequested, Cost, Decision, Driver, Event, EventData, ExitInfo, Failure, Home, Lost, OnLost, OutputStream,
    Rung, Totals, Usage, UsageReported,
};
use crate::id::{AttemptNo, ProjectId, RunId, Seq, SessionId};
use crate::limits;
use crate::run::Status;
use crate::time::Timestamp;

/// Attempts that a fold tells of: the last ones.
const ATTEMPTS_TOLD_MAX: usize = 16;

/// Tokens and money used before something began.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Used {
    usage: Usage,
    cost: Option<Cost>,
}

/// What earlier attempts used: a report of a later one counts from its own beginning, or from its session's.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct UsageBase {
    run: Used,
    session: Used,
}

impl UsageBase {
    /// An attempt begins; with a session of its own unless it goes on with one.
    pub(crate) fn begin(&mut self, totals: &Totals, rung: Option<Rung>) {
        self.run = Used { usage: totals.usage.clone().unwrap_or_default(), cost: totals.cost.clone() };
        if !rung.is_some_and(Rung::keeps_session) {
            self.session = self.run.clone();
        }
    }

    fn of(&self, scope: &str) -> &Used {
        if scope == "session" { &self.session } else { &self.run }
    }
}

/// Adds a usage report to the sums: `step` adds to them, `run` and `session` to what was used before the attempt or the
/// session began.
pub(crate) fn add_usage(totals: &mut Totals, base: &UsageBase, report: &UsageReported) {
    let step = report.scope == "step";
    let before = base.of(&report.scope).usage.clone();
    let usage = totals.usage.get_or_insert_with(Usage::default);
    let fold = |sum: &mut Option<u64>, before: Option<u64>, new: Option<u64>| {
        let Some(new) = new else { return };
        let earlier = if step { *sum } else { before };
        *sum = Some(earlier.unwrap_or(0).saturating_add(new));
    };
    fold(&mut usage.input_tokens, before.input_tokens, report.usage.input_tokens);
    fold(&mut usage.output_tokens, before.output_tokens, report.usage.output_tokens);
    fold(&mut usage.cache_read_tokens, before.cache_read_tokens, report.usage.cache_read_tokens);
    fold(&mut usage.cache_write_tokens, before.cache_write_tokens, report.usage.cache_write_tokens);
    fold(&mut usage.reasoning_tokens, before.reasoning_tokens, report.usage.reasoning_tokens);
    if let Some(cost) = &report.cost {
        let scope = report.cost_scope.as_ref().unwrap_or(&report.scope);
        let earlier = if step { &totals.cost } else { &base.of(scope).cost };
        let earlier = earlier.as_ref().filter(|earlier| earlier.provenance == cost.provenance);
        let usd = earlier.map_or(cost.usd, |earlier| earlier.usd + cost.usd);
        totals.cost = Some(Cost { usd, provenance: cost.provenance.clone() });
    }
}

/// A question of the agent as people see it; its arguments are in the event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalSeen {
    /// Its number in the run.
    pub approval_id: String,
    /// `open`, `answered`, `delivered` or `withdrawn`.
    pub status: String,
    /// The tool.
    pub tool: String,
    /// What an answer is bound to.
    pub digest: String,
    /// When it was asked.
    pub requested_at: Timestamp,
    /// The event that asked.
    pub seq: Seq,
    /// The answer.
    pub decision: Option<Decision>,
    /// Who gave it.
    pub by: Option<String>,
    /// Why it was given, or why it is not waited for any more.
    pub reason: Option<String>,
}

impl ApprovalSeen {
    /// Whether it waits for an answer.
    pub fn is_open(&self) -> bool {
        self.status == "open"
    }
}

/// One attempt, as a snapshot tells of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number.
    pub attempt: AttemptNo,
    /// Why it was made.
    pub cause: String,
    /// How it went on with what was begun before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<Rung>,
    /// What was under way when the attempt before it was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
    /// What was left of the run's budget, in milliseconds.
    pub budget_ms: u64,
    /// When its process was known to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// How it ended: `exited`, `signaled`, `never_started` or `lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<String>,
}

/// A message of the answer while it is put together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Message {
    id: String,
    text: String,
}

/// The fold of a run's events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Projection {
    /// The run.
    pub id: RunId,
    /// Its project.
    pub project: ProjectId,
    /// Where it is in its life.
    pub status: Status,
    /// The harness.
    pub harness: String,
    /// The program's file name, for a command.
    #[serde(default)]
    pub command: Option<String>,
    /// What makes its events.
    pub driver: Driver,
    /// The model asked for.
    pub model: Option<String>,
    /// A name for people.
    pub name: Option<String>,
    /// The request digest.
    pub digest: String,
    /// Our session.
    pub session_id: Option<SessionId>,
    /// The source's own session id.
    pub source_session_id: Option<String>,
    /// The directory of the work.
    pub cwd: String,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Its budget.
    pub timeout_ms: u64,
    /// What the answer must be, other than text.
    #[serde(default)]
    pub response_format: Option<String>,
    /// Who asked for the end and why, once somebody did.
    pub cancel_requested: Option<crate::event::RunCancelRequested>,
    /// The agent's process id while it is known to run.
    pub pid: Option<i32>,
    /// Attempts made.
    pub attempts: u32,
    /// How the process ended.
    pub exit: Option<ExitInfo>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// What proved its success, or who cancelled it.
    pub reason: Option<String>,
    /// Tokens and money, and other sums.
    pub totals: Totals,
    /// Warnings seen.
    pub warnings: u32,
    /// The last event.
    pub last_seq: Seq,
    /// The time of `run.created`.
    pub created_at: Timestamp,
    /// The time of the first `process.started`.
    pub started_at: Option<Timestamp>,
    /// The time of the terminal event.
    pub ended_at: Option<Timestamp>,
    /// The time of the last event.
    pub updated_at: Timestamp,
    /// Whether `output_text` lacks text for its bound.
    pub output_truncated: bool,
    /// What the agent asked, oldest first; of those that are settled only the last ones.
    #[serde(default)]
    pub approvals: Vec<ApprovalSeen>,
    /// Whose home it has.
    #[serde(default)]
    pub home: Home,
    /// What happens if its process is lost.
    #[serde(default)]
    pub on_lost: OnLost,
    /// The ended run that it goes on with.
    #[serde(default)]
    pub resumed_from: Option<RunId>,
    /// Its last attempts, oldest first.
    #[serde(default)]
    pub attempt_log: Vec<Attempt>,
    messages: Vec<Message>,
    text_bytes: usize,
    #[serde(default)]
    reasoning: String,
    #[serde(default)]
    base: UsageBase,
}

impl Projection {
    /// The fold of the first event; `None` if it is not `run.created`.
    pub fn begin(event: &Event) -> Option<Self> {
        let EventData::RunCreated(d) = &event.data else { return None };
        Some(Self {
            id: event.run_id.clone(),
            project: d.project.clone(),
            status: Status::Queued,
            harness: d.harness.clone(),
            command: d.command.clone(),
            driver: d.driver,
            model: d.model.clone(),
            name: d.name.clone(),
            digest: d.digest.clone(),
            session_id: d.session_id.clone(),
            source_session_id: None,
            cwd: d.cwd.clone(),
            tags: d.tags.clone(),
            timeout_ms: d.timeout_ms,
            response_format: d.response_format.clone(),
            cancel_requested: None,
            pid: None,
            attempts: 0,
            exit: None,
            error: None,
            reason: None,
            totals: Totals::default(),
            warnings: 0,
            last_seq: event.seq,
            created_at: event.ts,
            started_at: None,
            ended_at: None,
            updated_at: event.ts,
            output_truncated: false,
            approvals: Vec::new(),
            home: d.home,
            on_lost: d.on_lost,
            resumed_from: d.resumed_from.clone(),
            attempt_log: Vec::new(),
            messages: Vec::new(),
            text_bytes: 0,
            reasoning: String::new(),
            base: UsageBase::default(),
        })
    }

    /// Folds the next event in.
    pub fn apply(&mut self, event: &Event) {
        self.last_seq = event.seq;
        self.updated_at = event.ts;
        match &event.data {
            EventData::RunCreated(_) | EventData::RunStarted(_) | EventData::RunAdopted(_) => {}
            EventData::RunAttemptStarted(d) => {
                self.status = Status::Starting;
                self.attempts = d.attempt.get();
                self.base.begin(&self.totals, d.rung);
                if self.attempt_log.len() == ATTEMPTS_TOLD_MAX {
                    self.attempt_log.remove(0);
                }
                self.attempt_log.push(Attempt {
                    attempt: d.attempt,
                    cause: d.cause.clone(),
                    rung: d.rung,
                    lost: d.lost.clone(),
                    budget_ms: d.budget_ms,
                    started_at: None,
                    how: None,
                });
            }
            EventData::RunCancelRequested(d) => self.cancel_requested = Some(d.clone()),
            EventData::ProcessStarted(d) => {
                self.status = Status::Running;
                self.pid = Some(d.pid);
                self.started_at.get_or_insert(event.ts);
                if let Some(last) = self.attempt_log.last_mut() {
                    last.started_at = Some(event.ts);
                }
            }
            EventData::ProcessExited(d) => {
                self.status = Status::Queued;
                self.pid = None;
                self.exit = Some(d.exit.clone());
                if let Some(last) = self.attempt_log.last_mut() {
                    last.how = Some(d.how.clone());
                }
            }
            EventData::RunCompleted(d) => {
                self.reason = Some(d.reason.clone());
                self.end(Status::Completed, event.ts, d.exit.clone(), &d.totals);
            }
            EventData::RunFailed(d) => {
                self.error = Some(d.error.clone());
                self.end(Status::Failed, event.ts, d.exit.clone(), &d.totals);
            }
            EventData::RunCancelled(d) => {
                self.reason = Some(d.reason.clone());
                self.end(Status::Cancelled, event.ts, d.exit.clone(), &d.totals);
            }
            EventData::OutputLine(d) => self.line(d),
            // Where the answer has a form, what was said on the way is no part of it.
            EventData::MessageDelta(_) if self.response_format.is_some() => {}
            EventData::MessageDelta(d) if d.parent_call_id.is_none() => self.push(&d.message_id, &d.text),
            EventData::MessageCompleted(d) if d.parent_call_id.is_none() => {
                if self.response_format.is_some() {
                    (self.text_bytes, self.output_truncated) = (0, false);
                    self.messages.clear();
                }
                self.remove(&d.message_id);
                self.push(&d.message_id, &d.text);
            }
            EventData::MessageDiscarded(d) => self.remove(&d.message_id),
            EventData::ReasoningDelta(d) if d.parent_call_id.is_none() => {
                let room = limits::OUTPUT_TEXT_BYTES_MAX - self.reasoning.len();
                self.reasoning.push_str(&d.text[..d.text.floor_char_boundary(room)]);
            }
            EventData::ToolCalled(_) => self.totals.tool_calls += 1,
            EventData::UsageReported(d) => add_usage(&mut self.totals, &self.base, d),
            EventData::SessionBound(d) => self.source_session_id = Some(d.source_session_id.clone()),
            EventData::Warning(_) => self.warnings += 1,
            EventData::ApprovalRequested(d) => self.asks(d, event),
            EventData::ApprovalAnswered(d) => self.settle(&d.approval_id, "answered", |seen| {
                (seen.decision, seen.by) = (Some(d.decision), Some(d.by.clone()));
                seen.reason.clone_from(&d.reason);
            }),
            EventData::ApprovalDelivered(d) => self.settle(&d.approval_id, "delivered", |_| {}),
            EventData::ApprovalWithdrawn(d) => {
                self.settle(&d.approval_id, "withdrawn", |seen| seen.reason = Some(d.reason.clone()));
            }
            EventData::TurnAccepted(_)
            | EventData::BudgetExceeded(_)
            | EventData::MessageDelta(_)
            | EventData::MessageCompleted(_)
            | EventData::ReasoningDelta(_)
            | EventData::InputAccepted(_)
            | EventData::InputDelivered(_)
            | EventData::InputUndelivered(_)
            | EventData::ToolCompleted(_)
            | EventData::VerdictReported(_)
            | EventData::Unknown { .. } => {}
        }
    }

    /// The fold without the answer's text, for a row that is written often.
    #[must_use]
    pub fn without_text(&self) -> Self {
        let mut out = Self { messages: Vec::new(), reasoning: String::new(), ..self.clone() };
        out.text_bytes = 0;
        out
    }

    /// The answer: for an agent its messages, parted by a blank line; for a command its stdout. Bounded.
    pub fn output_text(&self) -> String {
        let mut out = String::with_capacity(self.text_bytes);
        for message in &self.messages {
            if self.driver == Driver::Harness && !out.is_empty() {
                out.push_str("\n\n");
            }
            out.push_str(&message.text);
        }
        out
    }

    /// The answer's messages in order, each with its id; bounded together.
    pub fn messages(&self) -> impl Iterator<Item = (&str, &str)> {
        self.messages.iter().map(|message| (&*message.id, &*message.text))
    }

    /// The reasoning of the main agent, bounded.
    pub fn reasoning_text(&self) -> &str {
        &self.reasoning
    }

    /// Questions that wait for an answer, oldest first.
    pub fn open_approvals(&self) -> impl Iterator<Item = &ApprovalSeen> {
        self.approvals.iter().filter(|seen| seen.is_open())
    }

    fn asks(&mut self, asked: &ApprovalRequested, event: &Event) {
        let settled = |seen: &ApprovalSeen| matches!(&*seen.status, "delivered" | "withdrawn");
        if self.approvals.iter().filter(|seen| settled(seen)).count() >= limits::APPROVALS_KEPT
            && let Some(oldest) = self.approvals.iter().position(settled)
        {
            self.approvals.remove(oldest);
        }
        self.approvals.push(ApprovalSeen {
            approval_id: asked.approval_id.clone(),
            status: "open".to_owned(),
            tool: asked.tool.clone(),
            digest: asked.digest.clone(),
            requested_at: event.ts,
            seq: event.seq,
            decision: None,
            by: None,
            reason: None,
        });
    }

    fn settle(&mut self, id: &str, status: &str, change: impl FnOnce(&mut ApprovalSeen)) {
        if let Some(seen) = self.approvals.iter_mut().rev().find(|seen| seen.approval_id == id) {
            status.clone_into(&mut seen.status);
            change(seen);
        }
    }

    fn line(&mut self, line: &crate::event::OutputLine) {
        if self.driver == Driver::Harness {
            if line.stream == OutputStream::Stdout && line.part.unwrap_or(0) == 0 {
                self.totals.unknown_lines += 1;
            }
            return;
        }
        if line.stream == OutputStream::Stdout && !self.output_truncated {
            let bytes = line.bytes().unwrap_or_default();
            self.push("stdout", &String::from_utf8_lossy(&bytes));
            if line.eol {
                self.push("stdout", "\n");
            }
        }
    }

    fn push(&mut self, id: &str, text: &str) {
        let room = limits::OUTPUT_TEXT_BYTES_MAX - self.text_bytes;
        let text = if text.len() > room {
            self.output_truncated = true;
            &text[..text.floor_char_boundary(room)]
        } else {
            text
        };
        if text.is_empty() && room == 0 {
            return;
        }
        self.text_bytes += text.len();
        match self.messages.iter_mut().rev().find(|m| m.id == id) {
            Some(message) => message.text.push_str(text),
            None => self.messages.push(Message { id: id.to_owned(), text: text.to_owned() }),
        }
    }

    fn remove(&mut self, id: &str) {
        let mut freed = 0;
        self.messages.retain(|m| {
            let gone = m.id == id;
            freed += if gone { m.text.len() } else { 0 };
            !gone
        });
        self.text_bytes -= freed;
    }

    fn end(&mut self, status: Status, at: Timestamp, exit: Option<ExitInfo>, totals: &Totals) {
        self.status = status;
        self.ended_at = Some(at);
        self.pid = None;
        self.exit = exit;
        self.totals = totals.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(scope: &str, input: u64, usd: f64, cost_scope: Option<&str>) -> UsageReported {
        UsageReported {
            scope: scope.into(),
            usage: Usage { input_tokens: Some(input), ..Usage::default() },
            cost: Some(Cost { usd, provenance: "estimate".into() }),
            cost_scope: cost_scope.map(str::to_owned),
            model: None,
        }
    }

    /// The sums after three attempts with two reports each: the first, one in its session, one in a new one.
    fn sums(scope: &str, cost_scope: Option<&str>) -> [(Option<u64>, f64); 3] {
        let (mut totals, mut base) = (Totals::default(), UsageBase::default());
        [None, Some(Rung::NativeResume), Some(Rung::RebuiltContext)].map(|rung| {
            base.begin(&totals, rung);
            for input in [10, 30] {
                add_usage(&mut totals, &base, &report(scope, input, f64::from(input as u32), cost_scope));
            }
            let input = totals.usage.as_ref().and_then(|usage| usage.input_tokens);
            (input, totals.cost.as_ref().map_or(0.0, |cost| cost.usd))
        })
    }

    #[test]
    fn what_attempts_use_adds_up() {
        assert_eq!(sums("step", None), [(Some(40), 40.0), (Some(80), 80.0), (Some(120), 120.0)]);
        assert_eq!(sums("run", None), [(Some(30), 30.0), (Some(60), 60.0), (Some(90), 90.0)]);
        // A session's report has what it used before.
        assert_eq!(sums("session", None), [(Some(30), 30.0), (Some(30), 30.0), (Some(60), 60.0)]);
        assert_eq!(sums("run", Some("session")), [(Some(30), 30.0), (Some(60), 30.0), (Some(90), 60.0)]);
    }
}
