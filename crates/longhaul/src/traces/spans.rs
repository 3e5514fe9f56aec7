//! The spans of one run: a fold of its events.
//!
//! Job: a root for the run, and below it its attempts, its waits, its tool calls and its questions. The id of each span
//! follows from the run's own and from the event that began it: whoever folds the log, and however often, gets the same.
//! Owns: nothing. Never: looks at the clock; keeps a text of the agent.

use std::collections::BTreeMap;

use longhaul_model::event::{Driver, ExitInfo, ProcessExited, RunAttemptStarted, RunCreated, Totals};
use longhaul_model::{Event, EventData, Seq, Timestamp, Trace};
use sha2::{Digest as _, Sha256};

/// Spans of one run besides its root; of further ones the number is told. An agent makes some tens of calls.
const SPANS_MAX: usize = 1000;

/// Moments that are told of one span.
const NOTES_MAX: usize = 64;

/// Characters of a text in a span: names, not content.
const TEXT_CHARS_MAX: usize = 128;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// A number with a fraction.
    Real(f64),
    /// Yes or no.
    Flag(bool),
}

/// A moment in a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What happened.
    pub name: &'static str,
    /// When.
    pub at: Timestamp,
}

/// A span that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// What it is.
    pub name: String,
    /// Its id, 16 hex digits.
    pub id: String,
    /// The span above it.
    pub parent: Option<String>,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// Facts, by the names of OpenTelemetry where it has some.
    pub attributes: BTreeMap<&'static str, Attribute>,
    /// What happened in it.
    pub notes: Vec<Note>,
    /// Whether it went well; `None` where nobody says so.
    pub success: Option<bool>,
}

/// What is read of a run's log so far.
#[derive(Debug)]
pub struct Fold {
    trace: Trace,
    root: Option<Span>,
    /// Since which event it is in line.
    waits: Option<(Seq, Timestamp)>,
    attempt: Option<Span>,
    /// Tool calls that are open, by the source's id.
    calls: BTreeMap<String, Span>,
    /// The spans of all tool calls, for those that were made below one.
    call_ids: BTreeMap<String, String>,
    questions: BTreeMap<String, Span>,
    done: Vec<Span>,
    made: usize,
    unlisted: i64,
    over: bool,
}

fn text(text: &str) -> Attribute {
    Attribute::Text(text.chars().take(TEXT_CHARS_MAX).collect())
}

fn number(number: u64) -> Attribute {
    Attribute::Number(i64::try_from(number).unwrap_or(i64::MAX))
}

impl Span {
    fn set(&mut self, name: &'static str, value: Attribute) {
        self.attributes.insert(name, value);
    }

    fn set_text(&mut self, name: &'static str, value: Option<&str>) {
        self.attributes.extend(value.map(|value| (name, text(value))));
    }

    fn set_exit(&mut self, exit: &ExitInfo) {
        self.attributes.extend(exit.code.map(|code| ("process.exit.code", Attribute::Number(code.into()))));
        self.attributes.extend(exit.signal.map(|signal| ("longhaul.signal", Attribute::Number(signal.into()))));
    }

    fn note(&mut self, name: &'static str, at: Timestamp) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(Note { name, at });
        }
    }
}

impl Fold {
    /// Of a run whose own span is the one that `trace` names.
    pub fn new(trace: Trace) -> Self {
        Self {
            trace,
            root: None,
            waits: None,
            attempt: None,
            calls: BTreeMap::new(),
            call_ids: BTreeMap::new(),
            questions: BTreeMap::new(),
            done: Vec::new(),
            made: 0,
            unlisted: 0,
            over: false,
        }
    }

    /// Whether events of this type say anything to the fold.
    pub fn needs(name: &str) -> bool {
        ["run.", "process.", "tool.", "approval."].iter().any(|prefix| name.starts_with(prefix))
    }

    /// The next event of those that are needed.
    pub fn apply(&mut self, event: &Event) {
        let (seq, at) = (event.seq, event.ts);
        match &event.data {
            EventData::RunCreated(created) => self.begin(event, created),
            EventData::RunAttemptStarted(attempt) => self.begin_attempt(seq, at, attempt),
            EventData::ProcessStarted(process) => {
                if let Some(span) = &mut self.attempt {
                    span.set("process.pid", Attribute::Number(process.pid.into()));
                    span.set("process.executable.name", text(&process.command));
                    span.set_text("longhaul.agent.version", process.version.as_deref());
                    span.note("process.started", at);
                }
            }
            EventData::ProcessExited(exited) => self.end_attempt(seq, at, exited),
            EventData::RunAdopted(_) => self.note("run.adopted", at),
            EventData::RunCancelRequested(_) => self.note("run.cancel_requested", at),
            EventData::ToolCalled(call) => {
                let above = call.parent_call_id.as_ref().and_then(|id| self.call_ids.get(id)).cloned();
                let Some(mut span) = self.child(format!("execute_tool {}", call.name), seq, at, above) else { return };
                span.set("gen_ai.operation.name", text("execute_tool"));
                span.set("gen_ai.tool.name", text(&call.name));
                span.set("gen_ai.tool.call.id", text(&call.call_id));
                self.call_ids.insert(call.call_id.clone(), span.id.clone());
                if let Some(before) = self.calls.insert(call.call_id.clone(), span) {
                    self.cut(before, at);
                }
            }
            EventData::ToolCompleted(end) => {
                if let Some(mut span) = self.calls.remove(&end.call_id) {
                    span.success = Some(!end.is_error);
                    if end.is_error {
                        span.set("error.type", text("tool_error"));
                    }
                    self.end(span, at);
                }
            }
            EventData::ApprovalRequested(question) => {
                let above = question.call_id.as_ref().and_then(|id| self.call_ids.get(id)).cloned();
                let Some(mut span) = self.child("approval".to_owned(), seq, at, above) else { return };
                span.set("gen_ai.tool.name", text(&question.tool));
                self.questions.insert(question.approval_id.clone(), span);
            }
            EventData::ApprovalAnswered(answer) => {
                if let Some(mut span) = self.questions.remove(&answer.approval_id) {
                    span.set("longhaul.decision", text(answer.decision.as_str()));
                    self.end(span, at);
                }
            }
            EventData::ApprovalWithdrawn(gone) => {
                if let Some(span) = self.questions.remove(&gone.approval_id) {
                    self.cut(span, at);
                }
            }
            EventData::RunCompleted(end) => {
                self.finish(at, "completed", Some(true), None, end.exit.as_ref(), &end.totals);
            }
            EventData::RunFailed(end) => {
                self.finish(at, "failed", Some(false), Some(&end.error.code), end.exit.as_ref(), &end.totals);
            }
            EventData::RunCancelled(end) => {
                self.finish(at, "cancelled", None, None, end.exit.as_ref(), &end.totals);
            }
            EventData::RunStarted(_)
            | EventData::TurnAccepted(_)
            | EventData::OutputLine(_)
            | EventData::MessageDelta(_)
            | EventData::MessageCompleted(_)
            | EventData::MessageDiscarded(_)
            | EventData::ReasoningDelta(_)
            | EventData::UsageReported(_)
            | EventData::SessionBound(_)
            | EventData::VerdictReported(_)
            | EventData::BudgetExceeded(_)
            | EventData::ApprovalDelivered(_)
            | EventData::InputAccepted(_)
            | EventData::InputDelivered(_)
            | EventData::InputUndelivered(_)
            | EventData::Warning(_)
            | EventData::Unknown { .. } => {}
        }
    }

    /// The spans of a run that is over, its root first; nothing of one that is not.
    pub fn spans(mut self) -> Option<Vec<Span>> {
        let mut root = self.root.take().filter(|_| self.over)?;
        if self.unlisted > 0 {
            root.set("longhaul.spans.unlisted", Attribute::Number(self.unlisted));
        }
        self.done.insert(0, root);
        Some(self.done)
    }

    fn begin(&mut self, event: &Event, created: &RunCreated) {
        let mut root = Span {
            name: format!("run {}", created.harness),
            id: self.trace.span_id.clone(),
            parent: self.trace.parent_span_id.clone(),
            start: event.ts,
            end: event.ts,
            attributes: BTreeMap::new(),
            notes: Vec::new(),
            success: None,
        };
        // Whole: a run is looked for by them.
        root.set("longhaul.run.id", Attribute::Text(event.run_id.to_string()));
        root.set("longhaul.project", Attribute::Text(created.project.to_string()));
        root.set("longhaul.harness", text(&created.harness));
        root.set_text("longhaul.run.name", created.name.as_deref());
        root.set_text("longhaul.session.id", created.session_id.as_ref().map(longhaul_model::SessionId::as_str));
        root.set_text("longhaul.resumed_from", created.resumed_from.as_ref().map(longhaul_model::RunId::as_str));
        root.set_text("gen_ai.request.model", created.model.as_deref());
        if created.driver == Driver::Harness {
            root.set("gen_ai.operation.name", text("invoke_agent"));
            root.set("gen_ai.agent.name", text(&created.harness));
        }
        self.root = Some(root);
        self.waits = Some((event.seq, event.ts));
    }

    fn begin_attempt(&mut self, seq: Seq, at: Timestamp, started: &RunAttemptStarted) {
        self.end_wait(at);
        if let Some(before) = self.attempt.take() {
            self.cut(before, at);
        }
        let above = self.root.as_ref().map(|root| root.id.clone());
        self.attempt = self.child("attempt".to_owned(), seq, at, above);
        if let Some(span) = &mut self.attempt {
            span.set("longhaul.attempt", number(started.attempt.get().into()));
            span.set("longhaul.attempt.cause", text(&started.cause));
            span.set_text("longhaul.attempt.rung", started.rung.map(longhaul_model::event::Rung::as_str));
        }
    }

    fn end_attempt(&mut self, seq: Seq, at: Timestamp, exited: &ProcessExited) {
        for span in self.open() {
            self.cut(span, at);
        }
        if let Some(mut span) = self.attempt.take() {
            span.set_exit(&exited.exit);
            span.set("longhaul.attempt.how", text(&exited.how));
            span.set("longhaul.attempt.stop", text(&exited.stop));
            self.end(span, at);
        }
        self.waits = Some((seq, at));
    }

    fn finish(
        &mut self,
        at: Timestamp,
        status: &str,
        success: Option<bool>,
        code: Option<&str>,
        exit: Option<&ExitInfo>,
        totals: &Totals,
    ) {
        for span in self.open() {
            self.cut(span, at);
        }
        if let Some(span) = self.attempt.take() {
            self.cut(span, at);
        }
        // A run is in line again after an attempt, unless its end stands in the same commit.
        if self.done.is_empty() || self.waits.is_some_and(|(_, since)| since < at) {
            self.end_wait(at);
        }
        let Some(root) = &mut self.root else { return };
        root.end = at;
        root.success = success;
        root.set("longhaul.status", text(status));
        root.set_text("error.type", code);
        root.set("longhaul.attempts", number(totals.attempts.into()));
        root.set("longhaul.tool_calls", number(totals.tool_calls));
        if let Some(exit) = exit {
            root.set_exit(exit);
        }
        if let Some(usage) = &totals.usage {
            for (name, count) in
                [("gen_ai.usage.input_tokens", usage.input_tokens), ("gen_ai.usage.output_tokens", usage.output_tokens)]
            {
                root.attributes.extend(count.map(|count| (name, number(count))));
            }
        }
        if let Some(cost) = &totals.cost {
            root.set("longhaul.cost.usd", Attribute::Real(cost.usd));
        }
        self.over = true;
    }

    /// A new span below `above`, else below the attempt, else below the run.
    fn child(&mut self, name: String, seq: Seq, at: Timestamp, above: Option<String>) -> Option<Span> {
        if self.made == SPANS_MAX {
            self.unlisted += 1;
            return None;
        }
        self.made += 1;
        let parent = above.or_else(|| Some(self.attempt.as_ref().or(self.root.as_ref())?.id.clone()));
        Some(Span {
            name: name.chars().take(TEXT_CHARS_MAX).collect(),
            id: self.id_of(seq),
            parent,
            start: at,
            end: at,
            attributes: BTreeMap::new(),
            notes: Vec::new(),
            success: None,
        })
    }

    /// The id of the span that the event `seq` begins.
    fn id_of(&self, seq: Seq) -> String {
        let of = format!("span.v1 {} {} {seq}", self.trace.trace_id, self.trace.span_id);
        let hash = Sha256::digest(of.as_bytes());
        let id = hash.iter().take(8).fold(0, |id: u64, byte| id << 8 | u64::from(*byte));
        format!("{:016x}", id.max(1))
    }

    /// Tool calls and questions that have no end yet.
    fn open(&mut self) -> Vec<Span> {
        let calls = std::mem::take(&mut self.calls).into_values();
        calls.chain(std::mem::take(&mut self.questions).into_values()).collect()
    }

    fn end_wait(&mut self, at: Timestamp) {
        if let Some((seq, since)) = self.waits.take()
            && let Some(span) = self.child("queue".to_owned(), seq, since, None)
        {
            self.end(span, at);
        }
    }

    fn note(&mut self, name: &'static str, at: Timestamp) {
        if let Some(root) = &mut self.root {
            root.note(name, at);
        }
    }

    fn end(&mut self, mut span: Span, at: Timestamp) {
        span.end = at;
        self.done.push(span);
    }

    /// Ends a span whose own end nobody saw.
    fn cut(&mut self, mut span: Span, at: Timestamp) {
        span.set("longhaul.unfinished", Attribute::Flag(true));
        self.end(span, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn event(seq: u64, ms: i64, kind: &str, data: Value) -> Event {
        let ts = Timestamp::from_unix_ms(1_795_254_000_000 + ms);
        let wire = json!({ "run_id": "r", "seq": seq, "ts": ts, "type": kind, "data": data });
        Event::decode(wire.to_string().as_bytes()).unwrap()
    }

    fn created() -> (&'static str, Value) {
        let data = json!({
            "project": "p", "driver": "harness", "harness": "demo", "digest": "d", "cwd": "/", "timeout_ms": 1,
        });
        ("run.created", data)
    }

    fn begun(attempt: u32) -> (&'static str, Value) {
        ("run.attempt_started", json!({ "attempt": attempt, "cause": "first", "epoch": 1, "budget_ms": 1 }))
    }

    fn called(id: &str, above: Option<&str>) -> (&'static str, Value) {
        ("tool.called", json!({ "call_id": id, "name": "t", "arguments": {}, "parent_call_id": above }))
    }

    fn exited(attempt: u32, how: &str) -> (&'static str, Value) {
        ("process.exited", json!({ "attempt": attempt, "how": how, "stop": "none", "signal": 9 }))
    }

    fn ended() -> (&'static str, Value) {
        let totals = json!({
            "attempts": 2, "stdout_bytes": 0, "stderr_bytes": 0, "unknown_lines": 0, "tool_calls": 3,
        });
        ("run.failed", json!({ "error": { "code": "lost", "message": "m" }, "totals": totals }))
    }

    /// One event every ten milliseconds; the last two are one commit.
    fn fold(events: &[(&'static str, Value)]) -> Option<Vec<Span>> {
        let mut fold = Fold::new(Trace::begin(1, 2).unwrap());
        for (at, (kind, data)) in events.iter().enumerate() {
            let at = at.min(events.len() - 2) as i64;
            fold.apply(&event(at as u64 + 1, at * 10, kind, data.clone()));
        }
        fold.spans()
    }

    #[test]
    fn attempts_waits_and_calls_are_below_their_own() {
        let back = ("tool.completed", json!({ "call_id": "c1", "result": {}, "is_error": false }));
        let events = [
            created(),
            begun(1),
            called("c1", None),
            called("c2", Some("c1")),
            back,
            exited(1, "lost"),
            begun(2),
            called("c3", Some("nobody")),
            exited(2, "lost"),
            ended(),
        ];
        let spans = fold(&events).unwrap();
        let told: Vec<(&str, &str, i64, i64, bool)> = spans
            .iter()
            .map(|span| {
                let above = spans.iter().find(|one| Some(&one.id) == span.parent.as_ref());
                let begin = spans[0].start.unix_ms();
                let cut = span.attributes.contains_key("longhaul.unfinished");
                let above = above.map_or("", |one| one.name.as_str());
                (span.name.as_str(), above, span.start.unix_ms() - begin, span.end.unix_ms() - begin, cut)
            })
            .collect();
        let expected = [
            ("run demo", "", 0, 80, false),
            ("queue", "run demo", 0, 10, false),
            ("execute_tool t", "attempt", 20, 40, false),
            ("execute_tool t", "execute_tool t", 30, 50, true),
            ("attempt", "run demo", 10, 50, false),
            ("queue", "run demo", 50, 60, false),
            ("execute_tool t", "attempt", 70, 80, true),
            ("attempt", "run demo", 60, 80, false),
        ];
        assert_eq!(told, expected);
        assert_eq!(spans[0].attributes["error.type"], text("lost"));
        // The same log is the same spans, and a run that goes on is none yet.
        assert_eq!(fold(&events), Some(spans));
        assert_eq!(fold(&events[..9]), None);
    }

    #[test]
    fn ids_are_those_of_one_run() {
        let events = [created(), begun(1), exited(1, "exited"), ended()];
        let ids = |span| {
            let mut fold = Fold::new(Trace::begin(1, span).unwrap());
            for (at, (kind, data)) in events.iter().enumerate() {
                fold.apply(&event(at as u64 + 1, 0, kind, data.clone()));
            }
            fold.spans().unwrap().into_iter().map(|span| span.id).collect::<Vec<_>>()
        };
        // The version of the rule: exported spans must not get other ids by an upgrade.
        assert_eq!(ids(2), ["0000000000000002", "26c57819be03e436", "66d2dc7b8a389d0c"]);
        assert!(ids(3).iter().all(|id| !ids(2).contains(id)));
    }

    #[test]
    fn a_run_with_too_many_calls_tells_their_number() {
        let calls = (0..SPANS_MAX + 5).map(|n| called(&format!("c{n}"), None));
        let events: Vec<_> =
            [created(), begun(1)].into_iter().chain(calls).chain([exited(1, "lost"), ended()]).collect();
        let spans = fold(&events).unwrap();
        assert_eq!(spans.len(), SPANS_MAX + 1);
        assert_eq!(spans[0].attributes["longhaul.spans.unlisted"], Attribute::Number(7));
    }
}
