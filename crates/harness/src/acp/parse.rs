//! The client's side of a conversation: each line of the agent makes events, replies, and the next step.
//!
//! Job: the order of the frames, the answers to what the agent asks, events of what it tells in its turn. Owns: how far
//! the conversation is, its terms, the session, the open message, the questions that wait for people. Never: trusts a
//! shape; a line that is not what it should be is kept.
//!
//! ```text
//! Opening ──answer to initialize──► Session ──answer──► Choosing ──answers──► Turn ──answer to the prompt──► Over ◄─┐
//!    └──────────────── an error, or a promise that cannot be kept: a failure ─────────────────────────────────┘ └─────┘
//!                                                            a message of people, a turn of its own, and its answer
//! ```
//!
//! A prompt while another one is answered is a cancel to gemini, qwen and copilot, and an error to kimi. So a message is
//! said when the turn is over, each when the one before it is answered; opencode takes it into the turn that it is in.

use longhaul_model::event::{
    ApprovalRequested, ApprovalWithdrawn, EventData, InputDelivered, MessageDelta, MessageDiscarded, ReasoningDelta,
    SessionBound, ToolCalled, ToolCompleted, Usage, VerdictReported, Warning,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::calls::{Calls, sum};
use super::frames;
use super::terms::{Mode, Terms, models, modes};
use super::verdict::{Turn, Who, cost, error, failed, step, usage, verdict};
use crate::channel::{Frame, Reply};
use crate::kept::Pieces;
use crate::parser::{Parser, SourceLine, StateError};
use crate::saved;
use crate::shape::{Parsed, Unknown, count, id, json, known, short, text};

const VERSION: u32 = 1;

/// Questions that are remembered as waiting for people; a cancel answers them.
const WAITING_MAX: usize = 8;

/// Updates that say nothing that an event says: what can be chosen, how the session is called, what people said.
const SILENT: [&str; 5] = [
    "available_commands_update",
    "config_option_update",
    "current_mode_update",
    "session_info_update",
    "user_message_chunk",
];

/// How far the conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Stage {
    #[default]
    #[serde(rename = "o")]
    Opening,
    #[serde(rename = "s")]
    Session,
    /// Model and mode are named; which answers are missing.
    #[serde(rename = "c")]
    Choosing { model: bool, mode: bool },
    #[serde(rename = "t")]
    Turn,
    #[serde(rename = "e")]
    Over,
}

/// What the open message is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Open {
    #[default]
    #[serde(rename = "n")]
    None,
    #[serde(rename = "t")]
    Thought,
    #[serde(rename = "m")]
    Text,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    #[serde(rename = "k", default)]
    pieces: Pieces,
    #[serde(rename = "g", default)]
    stage: Stage,
    #[serde(rename = "t", default)]
    terms: Terms,
    #[serde(rename = "w", default)]
    who: Who,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    /// Messages that began without an id of their own.
    #[serde(rename = "m", default)]
    messages: u64,
    #[serde(rename = "o", default)]
    open: Open,
    /// Whether it said something after its last call.
    #[serde(rename = "d", default)]
    said: bool,
    /// Whether the last thing it asked for was refused by the permissions, and it said nothing since.
    #[serde(rename = "x", default, skip_serializing_if = "std::ops::Not::not")]
    denied: bool,
    /// Whether its turn ended well, and whether it told something after that.
    #[serde(rename = "y", default)]
    ended: (bool, bool),
    /// Messages of people that it has answered.
    #[serde(rename = "a", default)]
    answered: u64,
    /// What its turns used, where it counts each by itself.
    #[serde(rename = "u", default)]
    used: Usage,
    /// An error that it told as a message, and the message's id if it was shown.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    error: Option<(String, Option<String>)>,
    /// Whether codex says that its thread is broken.
    #[serde(rename = "b", default, skip_serializing_if = "std::ops::Not::not")]
    broken: bool,
    #[serde(rename = "c", default)]
    calls: Calls,
    /// Plans that were told.
    #[serde(rename = "p", default)]
    plans: u64,
    /// Requests of the agent so far.
    #[serde(rename = "r", default)]
    requests: u64,
    /// Ids of the questions that wait for people, each with the checksum of the call it is about.
    #[serde(rename = "q", default, skip_serializing_if = "Vec::is_empty")]
    waiting: Vec<(RequestId, u32)>,
}

/// The id of a request of the agent, in a saved state of a known size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum RequestId {
    Number(i64),
    Text(String),
}

impl RequestId {
    fn of(message: &Value, name: &str) -> Option<Self> {
        match message.get(name)? {
            Value::Number(number) => number.as_i64().map(Self::Number),
            Value::String(_) => id(message, name).map(|id| Self::Text(id.to_owned())),
            _ => None,
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Number(number) => json!(number),
            Self::Text(text) => json!(text),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// Makes events of an ACP agent's lines.
pub(super) struct AcpParser {
    name: &'static str,
    state: State,
    replies: Vec<Reply>,
    /// Messages of people that were said to it.
    messages: u64,
}

impl AcpParser {
    pub fn new(name: &'static str, saved: Option<&[u8]>) -> Result<Self, StateError> {
        Ok(Self { name, state: saved::decode(name, VERSION, saved)?, replies: Vec::new(), messages: 0 })
    }
}

impl Parser for AcpParser {
    fn id(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> u32 {
        VERSION
    }

    fn line(&mut self, line: &SourceLine<'_>, out: &mut Vec<EventData>) {
        let parsed = json(line);
        let replies = &mut self.replies;
        if parsed.and_then(|value| self.state.take(&value, out, replies)).is_err() {
            self.state.pieces.keep(line, out);
        }
    }

    fn end(&mut self, out: &mut Vec<EventData>) {
        self.state.calls.end(out);
        // Some tell a part of their turn after its end: the last word on it stays what it was. Not so if it was said a
        // message, and has not answered it.
        if self.state.ended == (true, true) && self.state.answered >= self.messages {
            out.push(VerdictReported { success: true, error: None }.into());
        }
    }

    fn state(&self) -> Vec<u8> {
        saved::encode(self.name, VERSION, &self.state)
    }

    fn take_replies(&mut self) -> Vec<Reply> {
        std::mem::take(&mut self.replies)
    }

    fn said(&mut self, messages: u64) {
        self.messages = messages;
    }

    fn at_rest(&self) -> bool {
        self.state.stage == Stage::Over && self.state.answered >= self.messages
    }

    fn input(&self, _input_id: &str, text: &str) -> Option<Vec<u8>> {
        let session = self.state.session.as_deref()?;
        self.state.hears(self.messages).then(|| frames::message(self.messages + 1, session, text))
    }

    fn interrupt(&self) -> Option<Vec<u8>> {
        let session = self.state.session.as_deref()?;
        Some(frames::cancel(session, self.state.waiting.iter().map(|(request, _)| request.value())))
    }
}

fn warn(code: &str, message: String, out: &mut Vec<EventData>) {
    out.push(Warning { code: code.to_owned(), message }.into());
}

impl State {
    fn take(&mut self, line: &Value, out: &mut Vec<EventData>, replies: &mut Vec<Reply>) -> Parsed {
        match (line.get("method"), line.get("id").filter(|id| !id.is_null())) {
            (Some(_), None) => self.told(line, out),
            (Some(_), Some(_)) => self.asked(line, out, replies),
            (None, Some(_)) => self.answered(line, out, replies),
            (None, None) => Err(Unknown),
        }
    }

    /// Whether it can be said a message when it was said so many: none after a turn that did not end well.
    fn hears(&self, messages: u64) -> bool {
        match self.stage {
            Stage::Opening | Stage::Session | Stage::Choosing { .. } => false,
            Stage::Turn => self.who.takes_all(),
            Stage::Over => self.ended.0 && (self.who.takes_all() || self.answered >= messages),
        }
    }

    /// The conversation ends here.
    fn fail(&mut self, verdict: EventData, out: &mut Vec<EventData>) {
        self.stage = Stage::Over;
        self.ended.0 = false;
        self.calls.end(out);
        out.push(verdict);
    }

    fn bind(&mut self, session: &str, out: &mut Vec<EventData>) {
        if self.session.is_none() {
            self.session = Some(session.to_owned());
            out.push(SessionBound { session_id: None, source_session_id: session.to_owned() }.into());
        }
    }

    /// An answer to one of our requests.
    fn answered(&mut self, line: &Value, out: &mut Vec<EventData>, replies: &mut Vec<Reply>) -> Parsed {
        let number = known(count(line, "id"))?;
        let message = frames::message_of(number);
        let ours = Terms::of_id(number).is_some() || (frames::SESSION..=frames::PROMPT).contains(&number);
        if !ours && message.is_none() {
            return Err(Unknown);
        }
        if let Some(message) = message {
            known((self.stage != Stage::Opening).then_some(()))?;
            self.answered = self.answered.max(message);
            if let Some(words) = line.get("error").and_then(frames::not_now) {
                warn("source", format!("the agent did not take a message: {}", short(words)), out);
                return Ok(());
            }
            out.push(InputDelivered { input_id: message.to_string() }.into());
        }
        if let Some(said) = line.get("error") {
            let resumes = number == frames::SESSION && self.terms.resumes;
            let verdict = known(error(said, resumes))?;
            self.fail(verdict, out);
            return Ok(());
        }
        let result = known(line.get("result"))?;
        match number {
            frames::SESSION => self.session_there(result, out, replies),
            frames::MODEL | frames::MODE => {
                if let Stage::Choosing { model, mode } = &mut self.stage {
                    *(if number == frames::MODEL { model } else { mode }) = false;
                    self.prompt_when_chosen(replies);
                }
                Ok(())
            }
            _ if number == frames::PROMPT || message.is_some() => self.turn_over(result, out),
            _ => self.opened(number, result, out, replies),
        }
    }

    /// The answer to `initialize`: what agent this is, and what it can.
    fn opened(&mut self, number: u64, result: &Value, out: &mut Vec<EventData>, replies: &mut Vec<Reply>) -> Parsed {
        let version = known(count(result, "protocolVersion"))?;
        self.terms = known(Terms::of_id(number))?;
        self.who = result.get("agentInfo").and_then(|info| text(info, "name")).map_or(Who::Other, Who::named);
        if version != frames::VERSION {
            let message =
                format!("the agent speaks version {version} of the protocol, and this is {}", frames::VERSION);
            self.fail(failed("agent_error", message), out);
            return Ok(());
        }
        let can = result.get("agentCapabilities").unwrap_or(&Value::Null);
        let resumes = can.get("sessionCapabilities").and_then(|sessions| sessions.get("resume"));
        let how = match self.terms.resumes {
            false => "session",
            // The older way first: every agent that has both was seen to do it.
            true if crate::shape::is_true(can, "loadSession") => "load",
            true if resumes.is_some_and(|resumes| !resumes.is_null()) => "resume",
            true => {
                let message = "the agent cannot go on with a session".to_owned();
                self.fail(failed("session_not_found", message), out);
                return Ok(());
            }
        };
        self.stage = Stage::Session;
        replies.push(Reply::Prepared { id: how.to_owned(), set: vec![] });
        Ok(())
    }

    /// The session is there: its model and its mode are named, then it is prompted.
    fn session_there(&mut self, result: &Value, out: &mut Vec<EventData>, replies: &mut Vec<Reply>) -> Parsed {
        known(result.as_object())?;
        if let Some(session) = id(result, "sessionId") {
            self.bind(session, out);
        }
        let modes = modes(result);
        let offered = modes.as_ref().map_or(&[][..], |modes| &modes.offered);
        let mode = self.terms.mode(offered);
        if mode == Mode::Missing {
            let wanted = self.terms.permissions.as_str();
            let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
            let message = format!("the agent has no mode for permissions {wanted}; it offers {}", short(&offered));
            self.fail(failed("agent_error", message), out);
            return Ok(());
        }
        let model = models(result);
        if self.terms.model && model.is_none() {
            let message = "the agent lets nobody name its model; name it in its own configuration".to_owned();
            self.fail(failed("agent_error", message), out);
            return Ok(());
        }
        let mut choosing = (false, false);
        if let Some(choice) = model.filter(|_| self.terms.model) {
            choosing.0 = true;
            let mut set = self.session_id();
            set.extend(choice.config.map(|config| ("/params/configId".to_owned(), json!(config))));
            let frame = if choice.config.is_some() { "model_option" } else { "model" };
            replies.push(Reply::Prepared { id: frame.to_owned(), set });
        }
        if let (Mode::Take(mode), Some(choice), Some(session)) = (mode, &modes, &self.session)
            && choice.current != Some(mode)
        {
            choosing.1 = true;
            replies.push(Reply::Frame(frames::mode(session, choice.config, mode)));
        }
        self.stage = Stage::Choosing { model: choosing.0, mode: choosing.1 };
        self.prompt_when_chosen(replies);
        Ok(())
    }

    /// The session's id for a frame that lacks it; a session that is gone on with stands there already.
    fn session_id(&self) -> Vec<(String, Value)> {
        self.session.iter().map(|session| ("/params/sessionId".to_owned(), json!(session))).collect()
    }

    fn prompt_when_chosen(&mut self, replies: &mut Vec<Reply>) {
        if self.stage == (Stage::Choosing { model: false, mode: false }) {
            self.stage = Stage::Turn;
            replies.push(Reply::Prepared { id: "prompt".to_owned(), set: self.session_id() });
        }
    }

    /// The answer to the prompt.
    fn turn_over(&mut self, result: &Value, out: &mut Vec<EventData>) -> Parsed {
        // Copilot tells what it used after every turn that did not fail.
        let told = self.error.as_ref().filter(|_| self.broken || result.get("usage").is_none_or(Value::is_null));
        let denied = self.denied;
        let turn = Turn {
            denied,
            who: self.who,
            said: self.said,
            error: told.map(|(error, _)| &**error).or(self.broken_without()),
        };
        let verdict = known(verdict(result, &turn))?;
        if let Some((error, Some(message_id))) = told {
            out.push(MessageDiscarded { message_id: message_id.clone(), reason: error.clone() }.into());
        }
        self.calls.end(out);
        out.extend(usage(result, self.who, &mut self.used));
        (self.stage, self.open, self.waiting) = (Stage::Over, Open::None, Vec::new());
        self.ended = (matches!(&verdict, EventData::VerdictReported(said) if said.success), false);
        (self.said, self.denied, self.error) = (false, false, None);
        out.push(verdict);
        Ok(())
    }

    const fn broken_without(&self) -> Option<&'static str> {
        if self.broken { Some("the agent says that its thread is broken") } else { None }
    }

    /// A notification.
    fn told(&mut self, line: &Value, out: &mut Vec<EventData>) -> Parsed {
        let method = known(text(line, "method"))?;
        let params = line.get("params").unwrap_or(&Value::Null);
        match method {
            "session/update" => {
                let session = known(id(params, "sessionId"))?;
                let update = known(params.get("update"))?;
                let kind = known(text(update, "sessionUpdate"))?;
                if self.session.as_deref().is_some_and(|bound| bound != session) {
                    return Err(Unknown);
                }
                match self.stage {
                    // The session is told again, or says which mode it is in: nothing of this run.
                    Stage::Opening | Stage::Session | Stage::Choosing { .. } => {
                        self.bind(session, out);
                        Ok(())
                    }
                    Stage::Turn | Stage::Over => {
                        self.bind(session, out);
                        let before = out.len();
                        self.update(kind, update, out)?;
                        if self.stage == Stage::Over && out.len() > before {
                            // Late, or of a message's turn: it is passed over if none was said.
                            if !self.ended.1 {
                                let input_id = (self.answered + 1).to_string();
                                out.insert(before, InputDelivered { input_id }.into());
                            }
                            self.ended.1 = true;
                        }
                        Ok(())
                    }
                }
            }
            "$/cancel_request" => {
                let request = known(RequestId::of(params, "requestId"))?;
                let before = self.waiting.len();
                self.waiting.retain(|(waiting, _)| *waiting != request);
                if self.waiting.len() < before {
                    let source_request_id = Some(request.text());
                    let reason = "source".to_owned();
                    out.push(ApprovalWithdrawn { approval_id: String::new(), reason, source_request_id }.into());
                }
                Ok(())
            }
            // What begins so is nobody's but the agent's own; qwen has a place of its own besides.
            method if method.starts_with('_') || method.starts_with("qwen/notify/") => Ok(()),
            _ => Err(Unknown),
        }
    }

    /// What the agent tells of its turn.
    fn update(&mut self, kind: &str, update: &Value, out: &mut Vec<EventData>) -> Parsed {
        match kind {
            "agent_message_chunk" => self.says(update, out),
            "agent_thought_chunk" => {
                let piece = known(update.get("content").and_then(|content| text(content, "text")))?;
                let message_id = self.message(update, Open::Thought);
                if !piece.is_empty() {
                    let text = piece.to_owned();
                    out.push(ReasoningDelta { message_id, parent_call_id: None, text }.into());
                }
                Ok(())
            }
            "tool_call" | "tool_call_update" => {
                let call = known(id(update, "toolCallId"))?;
                self.goes_on();
                self.said = false;
                // Another call: it went on.
                self.denied &= kind != "tool_call";
                // It was answered, or it is not waited for.
                self.waiting.retain(|(_, waiting)| *waiting != sum(call));
                self.calls.news(call, update, kind == "tool_call", out);
                Ok(())
            }
            "plan" => {
                let entries = known(update.get("entries").filter(|entries| entries.is_array()))?;
                self.goes_on();
                self.plans = self.plans.saturating_add(1);
                let call_id = format!("plan_{}", self.plans);
                let arguments = json!({ "entries": entries });
                let called =
                    ToolCalled { call_id: call_id.clone(), name: "plan".to_owned(), arguments, parent_call_id: None };
                out.push(called.into());
                out.push(ToolCompleted { call_id, result: Value::Null, is_error: false }.into());
                Ok(())
            }
            "usage_update" => {
                out.extend(cost(update));
                Ok(())
            }
            "session_info_update" => {
                let status =
                    || update.get("_meta")?.get("codex")?.get("threadStatus").and_then(|status| text(status, "type"));
                if let Some(status) = status().filter(|_| self.who == Who::Codex) {
                    self.broken = status == "systemError";
                }
                Ok(())
            }
            kind if SILENT.contains(&kind) => Ok(()),
            _ => Err(Unknown),
        }
    }

    /// A piece of a message, or what an agent tells in the shape of one.
    fn says(&mut self, update: &Value, out: &mut Vec<EventData>) -> Parsed {
        let piece = known(update.get("content").and_then(|content| text(content, "text")))?;
        out.extend(step(update));
        if piece.is_empty() {
            return Ok(());
        }
        // Its warnings and its errors have no id, and its messages have.
        if self.who == Who::Codex && update.get("messageId").is_none() {
            let words = piece.trim();
            self.error = self.broken.then(|| (short(words), None));
            warn(if self.broken { "upstream" } else { "source" }, words.to_owned(), out);
            return Ok(());
        }
        if self.who == Who::Copilot && is_note(piece) {
            self.open = Open::None;
            warn("source", piece.to_owned(), out);
            return Ok(());
        }
        let grave = self.who == Who::Copilot && piece.starts_with("Error: ");
        if grave {
            self.open = Open::None;
        }
        let message_id = self.message(update, Open::Text);
        self.error = grave.then(|| (short(piece), Some(message_id.clone())));
        (self.said, self.denied) = (true, false);
        out.push(MessageDelta { message_id, parent_call_id: None, text: piece.to_owned() }.into());
        Ok(())
    }

    /// The agent went on: an error before it was not the end, and a message after it is another one.
    fn goes_on(&mut self) {
        self.open = Open::None;
        self.error = None;
    }

    /// The message that a piece belongs to: by its own id, else the open one or a new one.
    fn message(&mut self, update: &Value, kind: Open) -> String {
        let begins = self.open == Open::None || (self.open == Open::Text && kind == Open::Thought);
        self.open = kind;
        if let Some(own) = id(update, "messageId") {
            return own.to_owned();
        }
        if begins {
            self.messages = self.messages.saturating_add(1);
        }
        format!("message_{}", self.messages)
    }

    /// A request of the agent.
    fn asked(&mut self, line: &Value, out: &mut Vec<EventData>, replies: &mut Vec<Reply>) -> Parsed {
        let method = known(text(line, "method"))?;
        let request = known(RequestId::of(line, "id"))?;
        let params = line.get("params").unwrap_or(&Value::Null);
        // Not by the agent's own id, which it may use again once it is answered.
        let number = self.requests.saturating_add(1);
        let reply = |message: &Value| Reply::Frame(Frame::line(format!("reply/{number}"), message));
        if method == "session/request_permission" {
            let answer = self.permission(&request, params, out)?;
            replies.extend(answer.map(|answer| reply(&answer)));
        } else {
            if ["fs/", "terminal/", "elicitation/"].iter().any(|ours| method.starts_with(ours)) {
                warn("source", format!("the agent asked for {}, which it was not offered", short(method)), out);
            }
            replies.push(reply(&frames::refused(&request.value(), method)));
        }
        self.requests = number;
        Ok(())
    }

    /// The agent asks whether it may: the answer that the permissions give, or `None` if people are to give it.
    fn permission(
        &mut self,
        request: &RequestId,
        params: &Value,
        out: &mut Vec<EventData>,
    ) -> Result<Option<Value>, Unknown> {
        let options = known(params.get("options").filter(|options| options.is_array()))?;
        let call = known(params.get("toolCall"))?;
        let call_id = known(id(call, "toolCallId"))?;
        self.goes_on();
        self.said = false;
        let (tool, kind) = (self.calls.name(call_id, call), self.calls.kind(call_id, call));
        self.calls.asked(call_id, call, out);
        let Some(allowed) = self.terms.allows(kind) else {
            if self.waiting.len() == WAITING_MAX {
                self.waiting.remove(0);
            }
            self.waiting.push((request.clone(), sum(call_id)));
            out.push(question(request, options, call, tool).into());
            return Ok(None);
        };
        self.denied = !allowed;
        if !allowed {
            let title = text(call, "title").unwrap_or_default();
            let permissions = self.terms.permissions.as_str();
            warn("permission_denied", format!("{tool}: {title}: not allowed by permissions {permissions}"), out);
        }
        Ok(Some(frames::chosen(&request.value(), frames::option(options, allowed))))
    }
}

/// Whether copilot says this of itself, in the shape of a message: when its call was refused, and when it loads a session
/// with an open call. Source: real runs of 1.0.102.
fn is_note(piece: &str) -> bool {
    piece == "Info: Operation cancelled by user"
        || (piece.starts_with("Warning: ") && piece.contains(" had no recorded result at resume"))
}

/// A question for people.
fn question(request: &RequestId, options: &Value, call: &Value, tool: String) -> ApprovalRequested {
    let told = |name: &str| call.get(name).filter(|value| !value.is_null());
    let arguments = told("rawInput").cloned().unwrap_or_else(|| {
        let mut seen = json!({ "title": told("title") });
        for name in ["content", "locations"] {
            if let Some(value) = told(name).filter(|value| value.as_array().is_some_and(|list| !list.is_empty())) {
                seen[name] = value.clone();
            }
        }
        seen
    });
    let words = || told("content")?.get(0)?.get("content").and_then(|content| text(content, "text"));
    ApprovalRequested {
        approval_id: String::new(),
        attempt: longhaul_model::AttemptNo::default(),
        tool,
        arguments,
        cwd: String::new(),
        digest: String::new(),
        call_id: id(call, "toolCallId").map(str::to_owned),
        reason: words().filter(|words| !words.trim().is_empty()).map(str::to_owned),
        source_request_id: request.text(),
        source_request: frames::source_request(&request.value(), options),
    }
}
