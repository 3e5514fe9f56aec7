//! The client's side of a conversation with Codex's app-server: each line makes events, replies, and the next step.
//!
//! Job: events of what Codex tells of its own thread, the answers to what it asks. Owns: how far the conversation is, its
//! terms, the open turn, the messages that have begun, the calls that are open. Never: trusts a shape.
//!
//! ```text
//! Opening ──answer to the thread──► Thread ──answer to the prompt, a turn begins──► Turn ◄──a message──► Over
//!    └────────────────── an error: a failure ──────────────────┴──────────────────────────────────────────┘
//! ```

use longhaul_model::event::{
    EventData, InputDelivered, MessageCompleted, MessageDelta, MessageDiscarded, ReasoningDelta, SessionBound,
    ToolCalled, ToolCompleted, Usage, UsageReported, VerdictReported,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::asks::{self, Change};
use super::frames::{self, Terms};
use super::items::{called, completed, failed_as, warn};
use super::repeat::Repeats;
use crate::channel::{Frame, Reply};
use crate::kept::Pieces;
use crate::shape::{Parsed, Unknown, count, id, is_true, known, short, text};

/// Calls that are open at once and remembered; past this the oldest is taken for done.
const CALLS_MAX: usize = 16;

/// Messages that grow at once and are remembered.
const OPEN_MAX: usize = 2;

/// Pieces of reasoning whose growth was shown and is remembered.
const THOUGHTS_MAX: usize = 4;

/// What is told of nothing that an event says: what begins so, and these.
const SILENT_PLACES: [&str; 15] = [
    "account/",
    "app/",
    "externalAgentConfig/",
    "fs/",
    "fuzzyFileSearch/",
    "hook/",
    "mcpServer/",
    "model/",
    "modelProvider/",
    "process/",
    "project/",
    "remoteControl/",
    "skills/",
    "thread/",
    "windows",
];
/// See [`SILENT_PLACES`].
const SILENT: [&str; 14] = [
    "autoApprovalReview/strictReviewRequired",
    "command/exec/outputDelta",
    "item/autoApprovalReview/completed",
    "item/autoApprovalReview/started",
    "item/commandExecution/outputDelta",
    "item/commandExecution/terminalInteraction",
    "item/fileChange/outputDelta",
    "item/fileChange/patchUpdated",
    "item/mcpToolCall/progress",
    "item/plan/delta",
    "item/reasoning/summaryPartAdded",
    "serverRequest/resolved",
    "turn/diff/updated",
    "turn/moderationMetadata",
];

/// Items that say nothing that an event says.
const SILENT_ITEMS: [&str; 7] = [
    "contextCompaction",
    "enteredReviewMode",
    "exitedReviewMode",
    "functionCallOutput",
    "hookPrompt",
    "plan",
    "subAgentActivity",
];

/// Members of an item that say nothing of the call, or are told otherwise.
const NOT_TOLD: [&str; 8] = [
    "startedAtMs",
    "completedAtMs",
    "durationMs",
    "processId",
    "pluginId",
    "appContext",
    "mcpAppResourceUri",
    "mcpAppUi",
];

/// How far the conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Stage {
    #[default]
    #[serde(rename = "o")]
    Opening,
    /// The prompt was sent.
    #[serde(rename = "p")]
    Thread,
    #[serde(rename = "t")]
    Turn,
    #[serde(rename = "e")]
    Over,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct State {
    #[serde(rename = "k", default)]
    pub(super) pieces: Pieces,
    #[serde(rename = "g", default)]
    stage: Stage,
    #[serde(rename = "t", default)]
    terms: Terms,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    thread: Option<String>,
    /// The turn that is open, or the last one.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    turn: Option<String>,
    /// Messages that have begun and are not whole.
    #[serde(rename = "m", default, skip_serializing_if = "Vec::is_empty")]
    open: Vec<String>,
    /// Checksums of the reasoning that was shown as it grew, each with the part it is in.
    #[serde(rename = "h", default, skip_serializing_if = "Vec::is_empty")]
    thoughts: Vec<(u32, u64)>,
    /// Checksums of the ids of calls that are open.
    #[serde(rename = "c", default, skip_serializing_if = "Vec::is_empty")]
    calls: Vec<u32>,
    #[serde(rename = "r", default)]
    repeats: Repeats,
    /// An error that it does not try again after.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    error: Option<(String, String)>,
    /// Plans that were told.
    #[serde(rename = "p", default)]
    plans: u64,
    /// Requests of Codex so far.
    #[serde(rename = "n", default)]
    requests: u64,
    /// The last change of files that began.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    change: Option<Change>,
}

fn sum(id: &str) -> u32 {
    crc32fast::hash(id.as_bytes())
}

impl State {
    /// A new one, after lines that were kept.
    pub(super) fn after(pieces: &Pieces) -> Self {
        Self { pieces: pieces.clone(), ..Self::default() }
    }

    /// Whether it waits for input.
    pub(super) fn at_rest(&self) -> bool {
        self.stage == Stage::Over
    }

    /// The thread that a message can be said to now: not before the prompt, and where its answer is to have a form only
    /// into the turn that has that form.
    pub(super) fn hears(&self) -> Option<&str> {
        self.turn.as_ref()?;
        let late = self.stage == Stage::Over && self.terms.form;
        self.thread.as_deref().filter(|_| !late)
    }

    /// Thread and turn, if one is open.
    pub(super) fn turn(&self) -> Option<(&str, &str)> {
        let (thread, turn) = (self.thread.as_deref()?, self.turn.as_deref()?);
        (self.stage == Stage::Turn).then_some((thread, turn))
    }

    /// An error that no end of a turn followed is the last word all the same.
    pub(super) fn end(&mut self, out: &mut Vec<EventData>) {
        if let Some((code, message)) = self.error.take() {
            out.push(failed_as(&code, message));
        }
    }

    pub(super) fn take(&mut self, line: &Value, out: &mut Vec<EventData>, replies: &mut Vec<Reply>) -> Parsed {
        match (text(line, "method"), line.get("id").filter(|id| !id.is_null())) {
            (Some(method), None) => self.told(method, line.get("params").unwrap_or(&Value::Null), out),
            (Some(method), Some(request)) => self.asked(method, request, line, out, replies),
            (None, Some(_)) => self.answered(line, out, replies),
            (None, None) => Err(Unknown),
        }
    }

    /// An answer to one of our requests.
    fn answered(&mut self, line: &Value, out: &mut Vec<EventData>, replies: &mut Vec<Reply>) -> Parsed {
        let ours = known(id(line, "id"))?;
        let error = line.get("error").filter(|error| error.is_object());
        let words = || error.and_then(|error| text(error, "message")).unwrap_or("it gave no reason");
        let result = || known(line.get("result").filter(|result| result.is_object()));
        match ours {
            frames::INITIALIZE | frames::PROMPT if error.is_some() => self.fail("agent_error", words(), out),
            frames::INITIALIZE => drop(result()?),
            frames::PROMPT => {
                let turn = known(result()?.get("turn").and_then(|turn| id(turn, "id")))?;
                self.begin(turn);
            }
            frames::INTERRUPT => {}
            message if message.starts_with(frames::INPUT) => match error {
                Some(_) => warn("source", &format!("codex did not take a message: {}", words()), out),
                None => drop(result()?),
            },
            thread => {
                let terms = known(Terms::of_id(thread))?;
                match error {
                    Some(_) if terms.resumes => self.fail("session_not_found", words(), out),
                    Some(_) => self.fail("agent_error", words(), out),
                    None => {
                        let thread = known(result()?.get("thread").and_then(|thread| id(thread, "id")))?;
                        self.terms = terms;
                        self.bind(thread, out, replies);
                    }
                }
            }
        }
        Ok(())
    }

    /// The thread is there: it is told the prompt.
    fn bind(&mut self, thread: &str, out: &mut Vec<EventData>, replies: &mut Vec<Reply>) {
        if self.stage != Stage::Opening {
            return;
        }
        self.stage = Stage::Thread;
        self.thread = Some(thread.to_owned());
        out.push(SessionBound { session_id: None, source_session_id: thread.to_owned() }.into());
        let set = vec![("/params/threadId".to_owned(), json!(thread))];
        replies.push(Reply::Prepared { id: frames::PROMPT.to_owned(), set });
    }

    fn begin(&mut self, turn: &str) {
        if self.turn.as_deref() != Some(turn) {
            self.turn = Some(turn.to_owned());
            self.stage = Stage::Turn;
            self.repeats.settle();
        }
    }

    /// The conversation ends here.
    fn fail(&mut self, code: &str, message: &str, out: &mut Vec<EventData>) {
        self.stage = Stage::Over;
        out.push(failed_as(code, short(message)));
    }

    /// A notification.
    fn told(&mut self, method: &str, params: &Value, out: &mut Vec<EventData>) -> Parsed {
        match method {
            "configWarning" => warn("source", known(text(params, "summary"))?, out),
            "warning" | "guardianWarning" => warn("source", known(text(params, "message"))?, out),
            "deprecationNotice" => warn("source", known(text(params, "summary"))?, out),
            "mcpServer/startupStatus/updated" => {
                if let Some(error) = text(params, "error") {
                    let name = text(params, "name").unwrap_or("?");
                    warn("source", &format!("server {name} of tools did not start: {error}"), out);
                }
            }
            "error"
            | "turn/started"
            | "turn/completed"
            | "turn/plan/updated"
            | "thread/tokenUsage/updated"
            | "item/started"
            | "item/completed"
            | "item/agentMessage/delta"
            | "item/reasoning/textDelta"
            | "item/reasoning/summaryTextDelta" => {
                let thread = known(id(params, "threadId"))?;
                // Agents of its own have threads of their own.
                if self.thread.as_deref() == Some(thread) {
                    return self.in_turn(method, params, out);
                }
                known(self.thread.as_ref())?;
            }
            silent if SILENT.contains(&silent) || SILENT_PLACES.iter().any(|place| silent.starts_with(place)) => {}
            _ => return Err(Unknown),
        }
        Ok(())
    }

    /// What is told of a turn of its thread.
    fn in_turn(&mut self, method: &str, params: &Value, out: &mut Vec<EventData>) -> Parsed {
        match method {
            "turn/started" => self.begin(known(params.get("turn").and_then(|turn| id(turn, "id")))?),
            "turn/completed" => return self.turn_over(known(params.get("turn"))?, out),
            "turn/plan/updated" => return self.plan(params, out),
            "thread/tokenUsage/updated" => {
                let usage = known(params.get("tokenUsage").and_then(|usage| usage.get("total")))?;
                // Of an earlier turn it is told again when its thread is gone on with.
                if self.turn.is_some() && self.turn.as_deref() == id(params, "turnId") {
                    out.push(session_usage(usage));
                }
            }
            "error" => {
                let error = known(params.get("error"))?;
                let message = known(text(error, "message"))?;
                if is_true(params, "willRetry") {
                    self.retry(message, text(error, "additionalDetails"), out);
                } else {
                    self.error = Some((code(error).to_owned(), short(message)));
                    warn("upstream", message, out);
                }
            }
            "item/started" => return self.item(false, known(params.get("item"))?, out),
            "item/completed" => return self.item(true, known(params.get("item"))?, out),
            "item/agentMessage/delta" => {
                let (message, piece) = (known(id(params, "itemId"))?, known(text(params, "delta"))?);
                if !self.open.iter().any(|open| open == message) {
                    if self.open.len() == OPEN_MAX {
                        self.open.remove(0);
                    }
                    self.open.push(message.to_owned());
                }
                let (message_id, text) = (message.to_owned(), piece.to_owned());
                out.push(MessageDelta { message_id, parent_call_id: None, text }.into());
            }
            _ => {
                let (thought, piece) = (known(id(params, "itemId"))?, known(text(params, "delta"))?);
                let part = count(params, "summaryIndex").or_else(|| count(params, "contentIndex")).unwrap_or(0);
                self.think(thought, part, piece, out);
            }
        }
        Ok(())
    }

    /// A piece of reasoning; its parts are paragraphs.
    fn think(&mut self, thought: &str, part: u64, piece: &str, out: &mut Vec<EventData>) {
        let part = part.min(u64::from(u16::MAX));
        let sum = sum(thought);
        let known = self.thoughts.iter_mut().find(|(known, _)| *known == sum);
        let apart = known.as_ref().is_some_and(|(_, last)| *last != part);
        if let Some(known) = known {
            known.1 = part;
        } else {
            if self.thoughts.len() == THOUGHTS_MAX {
                self.thoughts.remove(0);
            }
            self.thoughts.push((sum, part));
        }
        let text = format!("{}{piece}", if apart { "\n\n" } else { "" });
        out.push(ReasoningDelta { message_id: thought.to_owned(), parent_call_id: None, text }.into());
    }

    /// It asks its model again: what had begun is lost, and what was whole may come again.
    fn retry(&mut self, message: &str, details: Option<&str>, out: &mut Vec<EventData>) {
        self.repeats.retry();
        let notice = details.map_or_else(|| message.to_owned(), |details| format!("{message} ({details})"));
        warn("retry", &notice, out);
        self.lose(&notice, out);
    }

    fn lose(&mut self, reason: &str, out: &mut Vec<EventData>) {
        for message_id in std::mem::take(&mut self.open) {
            out.push(MessageDiscarded { message_id, reason: reason.to_owned() }.into());
        }
    }

    fn plan(&mut self, params: &Value, out: &mut Vec<EventData>) -> Parsed {
        let steps = known(params.get("plan").and_then(Value::as_array))?;
        let item = |step: &Value| json!({ "text": text(step, "step").unwrap_or_default(), "completed": text(step, "status") == Some("completed") });
        self.plans = self.plans.saturating_add(1);
        let call_id = format!("plan_{}", self.plans);
        let arguments = json!({ "items": steps.iter().map(item).collect::<Vec<_>>() });
        let name = "todo_list".to_owned();
        out.push(ToolCalled { call_id: call_id.clone(), name, arguments, parent_call_id: None }.into());
        out.push(ToolCompleted { call_id, result: Value::Null, is_error: false }.into());
        Ok(())
    }

    fn turn_over(&mut self, turn: &Value, out: &mut Vec<EventData>) -> Parsed {
        let verdict = match known(text(turn, "status"))? {
            "completed" => VerdictReported { success: true, error: None }.into(),
            "interrupted" => failed_as("interrupted", "codex says that its turn was interrupted".to_owned()),
            "failed" => {
                let error = known(turn.get("error"))?;
                failed_as(code(error), known(text(error, "message"))?.to_owned())
            }
            _ => return Err(Unknown),
        };
        self.stage = Stage::Over;
        self.error = None;
        self.thoughts.clear();
        self.repeats.settle();
        self.lose("its turn ended without it", out);
        out.push(verdict);
        Ok(())
    }

    fn item(&mut self, whole: bool, item: &Value, out: &mut Vec<EventData>) -> Parsed {
        let item_id = known(id(item, "id"))?;
        match known(text(item, "type"))? {
            "userMessage" => {
                // It drops the answer that it was giving, and begins another.
                if whole {
                    self.lose("a message took its place", out);
                }
                if let Some(input_id) = id(item, "clientId").filter(|_| whole) {
                    out.push(InputDelivered { input_id: input_id.to_owned() }.into());
                }
            }
            "agentMessage" => {
                let said = known(text(item, "text"))?;
                if whole {
                    self.says(item_id, said, out);
                }
            }
            "reasoning" => {
                let parts = |name: &str| item.get(name).and_then(Value::as_array);
                let parts = known(parts("summary").filter(|all| !all.is_empty()).or_else(|| parts("content")))?;
                let sum = sum(item_id);
                if whole && !self.thoughts.iter().any(|(known, _)| *known == sum) {
                    let text = parts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n\n");
                    if !text.is_empty() {
                        let message_id = item_id.to_owned();
                        out.push(ReasoningDelta { message_id, parent_call_id: None, text }.into());
                    }
                }
            }
            silent if SILENT_ITEMS.contains(&silent) => {}
            kind => {
                let (kind, item) = as_printed(kind, item);
                self.repeats.settle();
                self.tool(&kind, whole, item_id, &item, out);
            }
        }
        Ok(())
    }

    fn says(&mut self, message: &str, said: &str, out: &mut Vec<EventData>) {
        let shown = self.open.iter().position(|open| open == message).map(|at| self.open.remove(at)).is_some();
        if said.is_empty() && !shown {
            return;
        }
        if let Some(message_id) = self.repeats.message(message, said) {
            let reason = "the same text came again after a retry".to_owned();
            out.push(MessageDiscarded { message_id, reason }.into());
        }
        let (message_id, text) = (message.to_owned(), said.to_owned());
        out.push(MessageCompleted { message_id, parent_call_id: None, text }.into());
    }

    fn tool(&mut self, kind: &str, whole: bool, item_id: &str, item: &Value, out: &mut Vec<EventData>) {
        let sum = sum(item_id);
        let open = self.calls.iter().position(|call| *call == sum);
        if open.is_none() {
            out.push(called(kind, item_id, item));
        }
        if kind == "file_change" && !whole {
            self.change = Change::of(item_id, item);
        }
        match (whole, open) {
            (true, open) => {
                if let Some(at) = open {
                    self.calls.remove(at);
                }
                out.push(completed(kind, item_id, item));
            }
            (false, Some(_)) => {}
            (false, None) => {
                if self.calls.len() == CALLS_MAX {
                    self.calls.remove(0);
                }
                self.calls.push(sum);
            }
        }
    }

    /// A request of Codex.
    fn asked(
        &mut self,
        method: &str,
        request: &Value,
        line: &Value,
        out: &mut Vec<EventData>,
        replies: &mut Vec<Reply>,
    ) -> Parsed {
        if !request.is_u64() && !request.is_i64() && id(line, "id").is_none() {
            return Err(Unknown);
        }
        let params = known(line.get("params").filter(|params| params.is_object()))?;
        // Not by Codex's own id, which another process of the run uses again.
        self.requests = self.requests.saturating_add(1);
        let number = self.requests;
        let reply = |message: &Value| Reply::Frame(Frame::line(format!("reply/{number}"), message));
        match asks::question(request, method, params, self.change.as_ref()) {
            Some(question) if self.terms.asks => out.push(question.asked.into()),
            Some(question) => {
                let message = format!("{}: not allowed by the run's permissions", question.asked.tool);
                warn("permission_denied", &message, out);
                replies.push(reply(&frames::answered(request, &question.no)));
            }
            None if method == "mcpServer/elicitation/request" => {
                let server = text(params, "serverName").unwrap_or("?");
                warn("source", &format!("server {server} of tools asked for something, and was refused"), out);
                replies.push(reply(&frames::answered(request, &asks::declined())));
            }
            None => {
                warn("source", &format!("codex asked for {}, which it was not offered", short(method)), out);
                replies.push(reply(&frames::refused(request, method)));
            }
        }
        Ok(())
    }
}

/// An item as `codex exec` prints it.
fn as_printed(kind: &str, item: &Value) -> (String, Value) {
    let kind = match kind {
        "collabAgentToolCall" => "collab_tool_call".to_owned(),
        other => snake(other),
    };
    let mut members = Map::new();
    for (name, value) in item.as_object().into_iter().flatten() {
        if !NOT_TOLD.contains(&&**name) && !value.is_null() {
            let value = match (&**name, value) {
                ("status", Value::String(status)) => json!(snake(status)),
                ("changes", Value::Array(changes)) => changes.iter().map(change).collect(),
                _ => value.clone(),
            };
            members.insert(snake(name), value);
        }
    }
    if kind == "command_execution" {
        members.entry("aggregated_output").or_insert_with(|| json!(""));
    }
    (kind, members.into())
}

/// A change of a file, with its kind as a word.
fn change(change: &Value) -> Value {
    let mut change = change.clone();
    if let Some(kind) = change.get("kind").and_then(|kind| text(kind, "type")).map(str::to_owned) {
        if let Some(to) = change["kind"].get("move_path").filter(|to| !to.is_null()).cloned() {
            change["move_path"] = to;
        }
        change["kind"] = json!(kind);
    }
    change
}

/// `camelCase` as `snake_case`.
fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// The whole thread's, over all its turns and resumes; its input includes what came from the cache.
fn session_usage(usage: &Value) -> EventData {
    let cached = count(usage, "cachedInputTokens");
    let usage = Usage {
        input_tokens: count(usage, "inputTokens").map(|n| n.saturating_sub(cached.unwrap_or(0))),
        output_tokens: count(usage, "outputTokens"),
        cache_read_tokens: cached,
        cache_write_tokens: count(usage, "cacheWriteInputTokens"),
        reasoning_tokens: count(usage, "reasoningOutputTokens"),
    };
    UsageReported { scope: "session".to_owned(), usage, ..UsageReported::default() }.into()
}

/// The code of a failure: from the status that the provider gave, else from Codex's own words.
fn code(error: &Value) -> &'static str {
    let info = error.get("codexErrorInfo").unwrap_or(&Value::Null);
    let status = info.as_object().and_then(|info| count(info.values().next()?, "httpStatusCode"));
    match (status, info.as_str()) {
        (Some(401 | 403), _) | (_, Some("unauthorized")) => "not_logged_in",
        (Some(429), _) | (_, Some("rateLimitExceeded" | "usageLimitExceeded")) => "rate_limited",
        _ => super::items::code(text(error, "message").unwrap_or_default()),
    }
}
