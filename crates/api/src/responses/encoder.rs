//! Events to the numbered events of a Responses stream, and to the response object.
//!
//! Job: items in the order in which they began, each closed once; numbers dense from 0; the object that holds exactly
//! what the stream told. Owns: the text of the answer, at most [`limits::OUTPUT_TEXT_BYTES_MAX`] bytes; beyond it the
//! response is `incomplete`. Never: depends on when or in how many pieces it is read.

use longhaul_model::event::{Driver, Event, EventData, Failure, MessageCompleted, OutputStream, Usage};
use longhaul_model::projection::Projection;
use longhaul_model::{Status, limits};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::id_of;
use crate::sse;

/// Parts two messages in the text of the whole answer.
const GAP: &str = "\n\n";

/// What a response shows that is not in its run's events; it never changes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Note {
    /// Whether the caller did not want to wait.
    #[serde(default)]
    pub background: bool,
    /// The response it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_response_id: Option<String>,
    /// The caller's own words.
    #[serde(skip)]
    pub metadata: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Message,
    Reasoning,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Completed,
    Incomplete,
}

/// An item of the output.
#[derive(Debug, Clone)]
struct Item {
    kind: Kind,
    /// The source's id of the message, which another item may have as well.
    source: String,
    /// The text so far, with the gap before it.
    text: String,
    /// Bytes of the gap.
    gap: usize,
    /// Whether text was left out.
    cut: bool,
    state: State,
}

/// Folds a run's events into the frames of a Responses stream.
#[derive(Debug, Clone)]
pub struct Encoder {
    note: Note,
    /// The first number that is wanted.
    from: u64,
    /// The next number.
    next: u64,
    run: Option<Projection>,
    begun: bool,
    items: Vec<Item>,
    /// The item of reasoning that is open.
    thinking: Option<usize>,
    /// Bytes of the answer.
    bytes: usize,
    /// Bytes of the reasoning.
    reasoning_bytes: usize,
    /// Whether a part of the answer was left out.
    cut: bool,
    /// The answer so far, where it has a form: only the last message is it, and which one that is, is known at the end.
    held: Option<MessageCompleted>,
}

impl Encoder {
    /// An encoder before the first event, for a client that has everything before number `from`.
    pub fn new(note: Note, from: u64) -> Self {
        Self {
            note,
            from,
            next: 0,
            run: None,
            begun: false,
            items: Vec::new(),
            thinking: None,
            bytes: 0,
            reasoning_bytes: 0,
            cut: false,
            held: None,
        }
    }

    /// An encoder for the object alone.
    pub fn silent(note: Note) -> Self {
        Self::new(note, u64::MAX)
    }

    /// The number that the next frame will have.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The frames of the next event that are wanted; each carries its number as id. Many events make none.
    pub fn push(&mut self, event: &Event) -> String {
        let mut out = String::new();
        match &mut self.run {
            None => {
                self.run = Projection::begin(event);
                self.lifecycle(&mut out, "response.created");
            }
            // The text is kept here.
            Some(run) if !is_text(&event.data) => run.apply(event),
            Some(_) => {}
        }
        let formed = self.run.as_ref().is_some_and(|run| run.response_format.is_some());
        match &event.data {
            EventData::MessageCompleted(d) if formed && d.parent_call_id.is_none() => self.held = Some(d.clone()),
            EventData::MessageDelta(_) | EventData::MessageCompleted(_) if formed => {}
            EventData::ProcessStarted(_) => self.begin(&mut out),
            EventData::MessageDelta(d) if d.parent_call_id.is_none() => {
                self.say(&mut out, Kind::Message, &d.message_id, &d.text);
            }
            EventData::MessageCompleted(d) if d.parent_call_id.is_none() => {
                self.whole(&mut out, &d.message_id, &d.text);
            }
            EventData::MessageDiscarded(d) => self.discard(&mut out, &d.message_id),
            EventData::ReasoningDelta(d) if d.parent_call_id.is_none() => {
                self.say(&mut out, Kind::Reasoning, &d.message_id, &d.text);
            }
            EventData::ToolCalled(d) if d.parent_call_id.is_none() => self.end_reasoning(&mut out, None),
            EventData::OutputLine(d) if d.stream == OutputStream::Stdout && self.is_command() => {
                let bytes = d.bytes().unwrap_or_default();
                let end = if d.eol { "\n" } else { "" };
                self.say(&mut out, Kind::Message, "stdout", &(String::from_utf8_lossy(&bytes) + end));
            }
            EventData::RunCompleted(_) => {
                if let Some(answer) = self.held.take() {
                    self.whole(&mut out, &answer.message_id, &answer.text);
                }
                self.close_all(&mut out, State::Completed);
                let name = if self.cut { "response.incomplete" } else { "response.completed" };
                self.lifecycle(&mut out, name);
            }
            EventData::RunFailed(_) => {
                self.close_all(&mut out, State::Incomplete);
                self.lifecycle(&mut out, "response.failed");
            }
            EventData::RunCancelled(_) => {
                // The API has no event of its own for it; the response in this one says `cancelled`.
                self.close_all(&mut out, State::Incomplete);
                self.lifecycle(&mut out, "response.incomplete");
            }
            _ => {}
        }
        out
    }

    /// The response as the events so far make it; null before the first.
    pub fn object(&self) -> Value {
        let Some(run) = &self.run else { return Value::Null };
        let status = self.status(run);
        let ended_at = run.ended_at.filter(|_| status == "completed");
        let mut object = json!({
            "id": id_of(&run.id),
            "object": "response",
            "created_at": run.created_at.unix_ms() / 1000,
            "completed_at": ended_at.map(|at| at.unix_ms() / 1000),
            "status": status,
            "background": self.note.background,
            "error": run.error.as_ref().map(|failure| error_of(&run.harness, failure)),
            "incomplete_details": (status == "incomplete").then(|| json!({ "reason": "max_output_tokens" })),
            "metadata": self.note.metadata,
            "model": crate::chat::model_of(run),
            "output": (0..self.items.len()).map(|at| self.item(at)).collect::<Vec<_>>(),
            "previous_response_id": self.note.previous_response_id,
            "conversation": run.session_id.as_ref().map(|id| json!({ "id": id })),
            "usage": run.totals.usage.as_ref().and_then(usage_of),
            "store": true,
            "parallel_tool_calls": false,
            "tool_choice": "none",
            "tools": [],
            "text": { "format": { "type": run.response_format.as_deref().unwrap_or("text") } },
            "temperature": null,
            "top_p": null,
            "run_id": run.id,
        });
        if let Some(cost) = &run.totals.cost {
            object["cost"] = serde_json::to_value(cost).unwrap_or_default();
        }
        object
    }

    fn status(&self, run: &Projection) -> &'static str {
        match run.status {
            Status::Completed if self.cut => "incomplete",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
            Status::Queued | Status::Starting | Status::BindingSession | Status::Running if self.begun => "in_progress",
            Status::Queued | Status::Starting | Status::BindingSession | Status::Running => "queued",
        }
    }

    fn is_command(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.driver == Driver::Exec)
    }

    fn begin(&mut self, out: &mut String) {
        if !std::mem::replace(&mut self.begun, true) {
            self.lifecycle(out, "response.in_progress");
        }
    }

    /// The open item of a message, or a new one.
    fn open(&mut self, out: &mut String, kind: Kind, source: &str) -> usize {
        self.begin(out);
        self.end_reasoning(out, (kind == Kind::Reasoning).then_some(source));
        let is_it = |item: &Item| item.state == State::Open && item.kind == kind && item.source == source;
        if let Some(at) = self.items.iter().rposition(is_it) {
            return at;
        }
        let at = self.items.len();
        let said = |item: &Item| item.kind == Kind::Message && !item.text.is_empty();
        let gap = if kind == Kind::Message && self.items.iter().any(said) { GAP } else { "" };
        self.items.push(Item {
            kind,
            source: source.to_owned(),
            text: String::new(),
            gap: gap.len(),
            cut: false,
            state: State::Open,
        });
        if kind == Kind::Reasoning {
            self.thinking = Some(at);
        }
        self.emit(out, "response.output_item.added", |me| {
            let mut item = me.item(at);
            let parts = if kind == Kind::Message { "content" } else { "summary" };
            item[parts] = json!([]);
            json!({ "output_index": at, "item": item })
        });
        let (name, place) = match kind {
            Kind::Message => ("response.content_part.added", "content_index"),
            Kind::Reasoning => ("response.reasoning_summary_part.added", "summary_index"),
        };
        self.emit(
            out,
            name,
            |me| json!({ "item_id": me.item_id(at), "output_index": at, place: 0, "part": part(kind, "") }),
        );
        at
    }

    /// A piece of text.
    fn say(&mut self, out: &mut String, kind: Kind, source: &str, piece: &str) {
        if piece.is_empty() {
            return;
        }
        if self.is_full(kind) {
            self.cut |= kind == Kind::Message;
            return;
        }
        let at = self.open(out, kind, source);
        self.append(out, at, piece);
    }

    fn append(&mut self, out: &mut String, at: usize, piece: &str) {
        let gap = if self.items[at].text.is_empty() { &GAP[..self.items[at].gap] } else { "" };
        let text = self.fitting(at, &format!("{gap}{piece}"));
        if text.is_empty() {
            return;
        }
        *self.bytes_of(self.items[at].kind) += text.len();
        self.items[at].text.push_str(&text);
        let (kind, id) = (self.items[at].kind, self.item_id(at));
        match kind {
            Kind::Message => self.emit(
                out,
                "response.output_text.delta",
                |_| json!({ "item_id": id, "output_index": at, "content_index": 0, "delta": text, "logprobs": [] }),
            ),
            Kind::Reasoning => self.emit(
                out,
                "response.reasoning_summary_text.delta",
                |_| json!({ "item_id": id, "output_index": at, "summary_index": 0, "delta": text }),
            ),
        }
    }

    fn bytes_of(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Message => &mut self.bytes,
            Kind::Reasoning => &mut self.reasoning_bytes,
        }
    }

    fn is_full(&mut self, kind: Kind) -> bool {
        *self.bytes_of(kind) + GAP.len() >= limits::OUTPUT_TEXT_BYTES_MAX
    }

    /// What of an item's text there is room for.
    fn fitting(&mut self, at: usize, text: &str) -> String {
        let kind = self.items[at].kind;
        let room = limits::OUTPUT_TEXT_BYTES_MAX - *self.bytes_of(kind);
        let fits = text.floor_char_boundary(room);
        if fits < text.len() {
            self.items[at].cut = true;
            self.cut |= kind == Kind::Message;
        }
        text[..fits].to_owned()
    }

    /// A message as it really is, whatever its pieces were.
    fn whole(&mut self, out: &mut String, source: &str, text: &str) {
        let begun = |item: &Item| item.kind == Kind::Message && item.source == source && item.state == State::Open;
        if (text.is_empty() || self.is_full(Kind::Message)) && !self.items.iter().any(begun) {
            self.cut |= !text.is_empty();
            return;
        }
        let at = self.open(out, Kind::Message, source);
        let sent = self.items[at].text.get(self.items[at].gap..).unwrap_or_default();
        match text.strip_prefix(sent) {
            Some("") => {}
            Some(rest) => self.append(out, at, rest),
            None => {
                self.bytes -= self.items[at].text.len();
                let gap = &GAP[..self.items[at].gap];
                self.items[at].text = self.fitting(at, &format!("{gap}{text}"));
                self.bytes += self.items[at].text.len();
            }
        }
        self.close(out, at, State::Completed);
    }

    /// The text of a message that was lost no longer counts; what was sent of it is taken back by the end of its item.
    fn discard(&mut self, out: &mut String, source: &str) {
        for at in 0..self.items.len() {
            let item = &mut self.items[at];
            if item.kind != Kind::Message || item.source != source {
                continue;
            }
            self.bytes -= item.text.len();
            item.text.clear();
            if item.state == State::Open {
                self.close(out, at, State::Incomplete);
            } else if item.state == State::Completed {
                // It was told as whole already: its end is told again, as it is now.
                item.state = State::Incomplete;
                self.emit(out, "response.output_item.done", |me| json!({ "output_index": at, "item": me.item(at) }));
            }
        }
    }

    fn end_reasoning(&mut self, out: &mut String, but: Option<&str>) {
        if let Some(at) = self.thinking
            && but != Some(&self.items[at].source)
        {
            self.thinking = None;
            self.close(out, at, State::Completed);
        }
    }

    fn close_all(&mut self, out: &mut String, state: State) {
        self.thinking = None;
        for at in 0..self.items.len() {
            if self.items[at].state == State::Open {
                self.close(out, at, state);
            }
        }
    }

    fn close(&mut self, out: &mut String, at: usize, state: State) {
        self.items[at].state = if self.items[at].cut { State::Incomplete } else { state };
        let (kind, id) = (self.items[at].kind, self.item_id(at));
        let (text_done, part_done, place) = match kind {
            Kind::Message => ("response.output_text.done", "response.content_part.done", "content_index"),
            Kind::Reasoning => {
                ("response.reasoning_summary_text.done", "response.reasoning_summary_part.done", "summary_index")
            }
        };
        self.emit(out, text_done, |me| {
            let mut body = json!({ "item_id": id, "output_index": at, place: 0, "text": me.items[at].text });
            if kind == Kind::Message {
                body["logprobs"] = json!([]);
            }
            body
        });
        self.emit(
            out,
            part_done,
            |me| json!({ "item_id": id, "output_index": at, place: 0, "part": part(kind, &me.items[at].text) }),
        );
        self.emit(out, "response.output_item.done", |me| json!({ "output_index": at, "item": me.item(at) }));
    }

    fn lifecycle(&mut self, out: &mut String, name: &str) {
        self.emit(out, name, |me| json!({ "response": me.object() }));
    }

    fn item_id(&self, at: usize) -> String {
        let run = self.run.as_ref().map_or("", |run| run.id.as_str());
        let kind = if self.items[at].kind == Kind::Message { "msg" } else { "rs" };
        format!("{kind}_{run}_{at}")
    }

    fn item(&self, at: usize) -> Value {
        let item = &self.items[at];
        let status = match item.state {
            State::Open => "in_progress",
            State::Completed => "completed",
            State::Incomplete => "incomplete",
        };
        let (id, part) = (self.item_id(at), part(item.kind, &item.text));
        match item.kind {
            Kind::Message => {
                json!({ "id": id, "type": "message", "role": "assistant", "status": status, "content": [part] })
            }
            Kind::Reasoning => json!({ "id": id, "type": "reasoning", "status": status, "summary": [part] }),
        }
    }

    /// Counts a frame, and writes it if it is wanted.
    fn emit(&mut self, out: &mut String, name: &str, body: impl FnOnce(&Self) -> Value) {
        let number = self.next;
        self.next += 1;
        if number < self.from {
            return;
        }
        let mut body = body(self);
        body["type"] = name.into();
        body["sequence_number"] = number.into();
        out.push_str(&sse::frame(&number.to_string(), Some(name), &body.to_string()));
    }
}

/// Whether an event carries text, which is kept in items.
fn is_text(data: &EventData) -> bool {
    matches!(
        data,
        EventData::MessageDelta(_)
            | EventData::MessageCompleted(_)
            | EventData::ReasoningDelta(_)
            | EventData::OutputLine(_)
    )
}

fn part(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Message => json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] }),
        Kind::Reasoning => json!({ "type": "summary_text", "text": text }),
    }
}

/// The API's own code, and beside it the run's.
fn error_of(harness: &str, failure: &Failure) -> Value {
    let code = if failure.code == "rate_limited" { "rate_limit_exceeded" } else { "server_error" };
    json!({
        "code": code,
        "message": format!("{harness}: {}", failure.message),
        "type": failure.code,
        "failure": failure,
    })
}

fn usage_of(usage: &Usage) -> Option<Value> {
    // A response's input tokens include the cached ones; ours do not.
    let cached = usage.cache_read_tokens.unwrap_or(0);
    let input = usage.input_tokens? + cached + usage.cache_write_tokens.unwrap_or(0);
    let output = usage.output_tokens?;
    let mut out = json!({
        "input_tokens": input,
        "input_tokens_details": {},
        "output_tokens": output,
        "output_tokens_details": {},
        "total_tokens": input + output,
    });
    for (details, name, known) in [
        ("input_tokens_details", "cached_tokens", usage.cache_read_tokens),
        ("input_tokens_details", "cache_write_tokens", usage.cache_write_tokens),
        ("output_tokens_details", "reasoning_tokens", usage.reasoning_tokens),
    ] {
        if let Some(known) = known {
            out[details][name] = known.into();
        }
    }
    Some(out)
}
