//! The parser of Pi's JSON lines: of its rpc mode, and of its json mode, in which earlier releases started it.
//!
//! Job: events of each line that is understood; a line that is not is kept. Owns: the session that is bound, the number
//! of the message, which of its blocks were shown, how the last one ended, and in rpc mode how far the conversation is
//! ([`super::talk`]).
//!
//! Pi's messages have no ids, so a block's id is the number of its message in this run, a slash, the block's index.
//! Pi tries again after a message that failed: so a failure is the last word only at the end of its output.

use longhaul_model::event::{
    Cost, EventData, Failure, MessageCompleted, MessageDelta, MessageDiscarded, OutputStream, ReasoningDelta,
    SessionBound, ToolCalled, ToolCompleted, Usage, UsageReported, VerdictReported, Warning,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::talk::Talk;
use super::{NAME, frames};
use crate::channel::Reply;
use crate::kept::Pieces;
use crate::parser::{Parser, SourceLine, StateError};
use crate::saved;
use crate::shape::{Parsed, Unknown, count, id, is_true, json, known, short, text};

const VERSION: u32 = 1;

/// Blocks of one message that are shown as they grow; those past it are shown when they are whole.
const SHOWN_MAX: usize = 64;

/// The highest index such a block may have, inclusive; keeps the state small.
const INDEX_MAX: u64 = 99_999;

/// Types of lines that are known and say nothing that an event says.
const SILENT: [&str; 12] = [
    "agent_settled",
    "turn_start",
    "turn_end",
    "tool_execution_update",
    "auto_retry_end",
    "queue_update",
    "compaction_start",
    "entry_appended",
    "session_info_changed",
    "thinking_level_changed",
    "summarization_retry_start",
    "summarization_retry_end",
];

/// Parts of a message's growth that say nothing new: a block comes whole with its message, a call when it begins.
const SILENT_GROWTH: [&str; 9] = [
    "start",
    "text_start",
    "text_end",
    "thinking_start",
    "thinking_end",
    "toolcall_start",
    "toolcall_delta",
    "toolcall_end",
    "done",
];

/// Who speaks in a message that is not the agent's: echoes, and results that their tool's end has told.
const OTHERS: [&str; 7] =
    ["system", "user", "toolResult", "bashExecution", "custom", "branchSummary", "compactionSummary"];

/// Questions of extensions that wait for an answer; the others only show something.
const DIALOGS: [&str; 4] = ["select", "confirm", "input", "editor"];

/// How the line of an end begins that is too long to be read: it repeats the whole conversation.
const LONG_END: &[u8] = b"{\"type\":\"agent_end\"";

/// How the last message of the agent ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
enum Last {
    /// There is none, or it is tried again.
    #[default]
    #[serde(rename = "n")]
    None,
    /// Well.
    #[serde(rename = "g")]
    Good,
    /// It failed: the code and the message.
    #[serde(rename = "b")]
    Failed(String, String),
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    #[serde(rename = "k", default)]
    pieces: Pieces,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    /// The number of the agent's message.
    #[serde(rename = "n", default)]
    number: u32,
    /// Whether it grows.
    #[serde(rename = "o", default)]
    open: bool,
    /// Its blocks of text that were shown.
    #[serde(rename = "t", default)]
    texts: Vec<u64>,
    /// Its blocks of reasoning that were shown.
    #[serde(rename = "r", default)]
    thoughts: Vec<u64>,
    #[serde(rename = "l", default)]
    last: Last,
    /// Pieces of a long `agent_end` come in.
    #[serde(rename = "e", default)]
    long_end: bool,
    /// The conversation, where it is one.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    talk: Option<Talk>,
}

/// Makes events of Pi's lines.
pub(super) struct PiParser {
    state: State,
    replies: Vec<Reply>,
}

impl PiParser {
    pub fn new(saved: Option<&[u8]>) -> Result<Self, StateError> {
        Ok(Self { state: saved::decode(NAME, VERSION, saved)?, replies: Vec::new() })
    }
}

impl Parser for PiParser {
    fn id(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        VERSION
    }

    fn line(&mut self, line: &SourceLine<'_>, out: &mut Vec<EventData>) {
        let parsed = json(line);
        let replies = &mut self.replies;
        if parsed.and_then(|value| self.state.take(&value, out, replies)).is_err() {
            self.state.pieces.keep(line, out);
            match line.stream {
                OutputStream::Stdout => self.state.piece(line, out, replies),
                OutputStream::Stderr => self.state.complaint(line.bytes),
            }
        }
    }

    /// A failure that no other try followed is the last word.
    fn end(&mut self, out: &mut Vec<EventData>) {
        if let Last::Failed(code, message) = std::mem::take(&mut self.state.last) {
            let error = Failure { code, message, stderr_tail: None };
            out.push(VerdictReported { success: false, error: Some(error) }.into());
        }
    }

    fn state(&self) -> Vec<u8> {
        saved::encode(NAME, VERSION, &self.state)
    }

    fn take_replies(&mut self) -> Vec<Reply> {
        std::mem::take(&mut self.replies)
    }

    fn at_rest(&self) -> bool {
        self.state.talk.as_ref().is_some_and(Talk::at_rest)
    }

    fn input(&self, input_id: &str, text: &str) -> Option<Vec<u8>> {
        self.state.talk.as_ref().filter(|talk| talk.hears()).map(|_| frames::input(input_id, text))
    }
}

impl State {
    fn take(&mut self, line: &Value, out: &mut Vec<EventData>, replies: &mut Vec<Reply>) -> Parsed {
        match known(text(line, "type"))? {
            "session" => self.bind(known(id(line, "id"))?, out),
            "response" => return self.answered(line, out, replies),
            "extension_ui_request" => {
                let (asked, method) = (known(id(line, "id"))?, known(text(line, "method"))?);
                if DIALOGS.contains(&method) {
                    let title = short(text(line, "title").unwrap_or("something"));
                    warn("source", &format!("an extension asked for {title}, and nobody could answer"), out);
                    replies.push(Reply::Frame(frames::cancelled(asked)));
                }
            }
            "extension_error" => warn("source", known(text(line, "error"))?, out),
            "agent_start" => {
                if let Some(talk) = &mut self.talk {
                    talk.starts();
                }
            }
            "compaction_end" => {
                if let Some(talk) = &mut self.talk {
                    talk.compacted(replies);
                }
            }
            "message_start" => match (known(role(line))?, &mut self.talk) {
                ("assistant", _) => self.begin(out),
                ("user", Some(talk)) => talk.takes(out),
                _ => {}
            },
            "message_update" => return self.grow(known(line.get("assistantMessageEvent"))?, out),
            "message_end" => {
                if known(role(line))? == "assistant" {
                    return self.whole(known(line.get("message"))?, out);
                }
            }
            "tool_execution_start" => {
                let call_id = known(text(line, "toolCallId"))?.to_owned();
                let name = known(text(line, "toolName"))?.to_owned();
                let arguments = line.get("args").cloned().unwrap_or(Value::Null);
                out.push(ToolCalled { call_id, name, arguments, parent_call_id: None }.into());
            }
            "tool_execution_end" => {
                let call_id = known(text(line, "toolCallId"))?.to_owned();
                let result = known(line.get("result"))?.clone();
                out.push(ToolCompleted { call_id, result, is_error: is_true(line, "isError") }.into());
            }
            "auto_retry_start" => {
                let number =
                    |name| line.get(name).and_then(Value::as_f64).map_or_else(|| "?".to_owned(), |n| format!("{n:.0}"));
                let why = text(line, "errorMessage").unwrap_or("unknown");
                let message = format!(
                    "model request failed ({why}); attempt {} of {} follows in {} ms",
                    number("attempt"),
                    number("maxAttempts"),
                    number("delayMs"),
                );
                warn("retry", &message, out);
                self.lose(&message, out);
                self.last = Last::None;
                if let Some(talk) = &mut self.talk {
                    talk.retries();
                }
            }
            "agent_end" => self.agent_end(is_true(line, "willRetry"), out, replies),
            kind if SILENT.contains(&kind) => {}
            _ => return Err(Unknown),
        }
        Ok(())
    }

    fn bind(&mut self, session: &str, out: &mut Vec<EventData>) {
        if self.session.as_deref() != Some(session) {
            self.session = Some(session.to_owned());
            out.push(SessionBound { session_id: None, source_session_id: session.to_owned() }.into());
        }
    }

    /// An answer to what it was told in its rpc mode.
    fn answered(&mut self, line: &Value, out: &mut Vec<EventData>, replies: &mut Vec<Reply>) -> Parsed {
        let error = (!is_true(line, "success")).then(|| text(line, "error").unwrap_or("it gave no reason"));
        let Some(asked) = id(line, "id") else {
            warn("source", &format!("pi did not understand what it was told: {}", known(error)?), out);
            return Ok(());
        };
        if let Some((input, command)) = frames::asked(asked) {
            let talk = self.talk.get_or_insert_default();
            match (input, error) {
                (_, None) => talk.accepts(input, command, replies),
                (Some(_), Some(error)) => warn("source", &format!("pi did not take a message: {error}"), out),
                (None, Some(error)) => {
                    talk.fails();
                    self.last = Last::Failed(code("error", error).to_owned(), short(error));
                }
            }
            return Ok(());
        }
        if asked != frames::ABORT {
            let ours = asked == frames::STATE || asked.starts_with(frames::REST);
            let state = known(line.get("data").filter(|data| ours && data.is_object()))?;
            let session = known(id(state, "sessionId"))?;
            self.bind(session, out);
            self.talk.get_or_insert_default().is(asked, state, out);
        }
        Ok(())
    }

    fn begin(&mut self, out: &mut Vec<EventData>) {
        self.lose("another answer took its place", out);
        self.number = self.number.saturating_add(1);
        self.open = true;
        self.thoughts.clear();
        self.last = Last::None;
    }

    /// What was shown of a message that did not come whole is lost.
    fn lose(&mut self, reason: &str, out: &mut Vec<EventData>) {
        for index in std::mem::take(&mut self.texts) {
            let message_id = self.block(index);
            out.push(MessageDiscarded { message_id, reason: reason.to_owned() }.into());
        }
    }

    fn block(&self, index: u64) -> String {
        format!("{}/{index}", self.number)
    }

    fn grow(&mut self, event: &Value, out: &mut Vec<EventData>) -> Parsed {
        let kind = known(text(event, "type"))?;
        if SILENT_GROWTH.contains(&kind) || kind == "error" {
            return Ok(());
        }
        let index = known(count(event, "contentIndex").filter(|index| *index <= INDEX_MAX && self.open))?;
        let piece = known(text(event, "delta"))?;
        let message_id = self.block(index);
        let shown = match kind {
            "text_delta" => &mut self.texts,
            "thinking_delta" => &mut self.thoughts,
            _ => return Err(Unknown),
        };
        if !shown.contains(&index) {
            if shown.len() == SHOWN_MAX {
                return Ok(());
            }
            shown.push(index);
        }
        out.push(match kind {
            "text_delta" => MessageDelta { message_id, parent_call_id: None, text: piece.to_owned() }.into(),
            _ => ReasoningDelta { message_id, parent_call_id: None, text: piece.to_owned() }.into(),
        });
        Ok(())
    }

    fn whole(&mut self, message: &Value, out: &mut Vec<EventData>) -> Parsed {
        let stop = known(text(message, "stopReason"))?;
        let blocks = known(message.get("content").and_then(Value::as_array))?;
        if !self.open {
            self.begin(out);
        }
        self.open = false;
        let mut all_known = Ok(());
        if stop == "error" || stop == "aborted" {
            // What was shown stays until another try begins.
            let why = text(message, "errorMessage").filter(|m| !m.trim().is_empty()).unwrap_or(stop);
            self.last = Last::Failed(code(stop, why).to_owned(), short(why));
        } else {
            self.last = Last::Good;
            for (index, block) in (0..).zip(blocks) {
                if self.whole_block(index, block, out).is_err() {
                    all_known = Err(Unknown);
                }
            }
            self.lose("it is not in the whole message", out);
        }
        self.thoughts.clear();
        out.extend(usage(message));
        all_known
    }

    fn whole_block(&mut self, index: u64, block: &Value, out: &mut Vec<EventData>) -> Parsed {
        let message_id = self.block(index);
        match known(text(block, "type"))? {
            "text" => {
                let text = known(text(block, "text"))?.to_owned();
                let shown = self.texts.iter().position(|i| *i == index).map(|at| self.texts.remove(at)).is_some();
                if shown || !text.is_empty() {
                    out.push(MessageCompleted { message_id, parent_call_id: None, text }.into());
                }
            }
            "thinking" => {
                let text = known(text(block, "thinking"))?.to_owned();
                if !text.is_empty() && !self.thoughts.contains(&index) {
                    out.push(ReasoningDelta { message_id, parent_call_id: None, text }.into());
                }
            }
            "toolCall" => {}
            _ => return Err(Unknown),
        }
        Ok(())
    }

    fn agent_end(&mut self, will_retry: bool, out: &mut Vec<EventData>, replies: &mut Vec<Reply>) {
        if will_retry {
            return;
        }
        if matches!(self.last, Last::Good) {
            out.push(VerdictReported { success: true, error: None }.into());
        }
        if let Some(talk) = &mut self.talk {
            talk.asks(replies);
        }
    }

    /// A piece of a line that is too long to be read. Of an end the last message has said how it went: Pi does not try
    /// again after a message that ended well.
    fn piece(&mut self, line: &SourceLine<'_>, out: &mut Vec<EventData>, replies: &mut Vec<Reply>) {
        self.long_end = match line.part {
            Some(0) => line.bytes.starts_with(LONG_END),
            Some(_) => self.long_end,
            None => false,
        };
        if self.long_end && line.eol {
            self.long_end = false;
            self.agent_end(false, out, replies);
        }
    }

    /// The words on stderr that say more than the exit status, before there is a session or a message.
    fn complaint(&mut self, line: &[u8]) {
        if self.number > 0 || matches!(self.last, Last::Failed(..)) {
            return;
        }
        let says = String::from_utf8_lossy(line);
        // A session of another directory would have to be copied, and nobody is there to say so.
        let unknown = ["No session found matching", "Session found in different project"];
        let code = if unknown.iter().any(|words| says.contains(words)) {
            "session_not_found"
        } else if says.contains("No API key found") || says.contains("No models available") {
            "not_logged_in"
        } else {
            return;
        };
        self.last = Last::Failed(code.to_owned(), short(&says));
    }
}

fn warn(code: &str, message: &str, out: &mut Vec<EventData>) {
    out.push(Warning { code: code.to_owned(), message: message.to_owned() }.into());
}

fn role(line: &Value) -> Option<&str> {
    let role = line.get("message").and_then(|m| text(m, "role"))?;
    (role == "assistant" || OTHERS.contains(&role)).then_some(role)
}

/// The tokens and the cost of a message. A cost of nothing for tokens is one that Pi has no price for.
fn usage(message: &Value) -> Option<EventData> {
    let tokens = message.get("usage").filter(|u| u.is_object())?;
    let usage = Usage {
        input_tokens: count(tokens, "input"),
        output_tokens: count(tokens, "output"),
        cache_read_tokens: count(tokens, "cacheRead"),
        cache_write_tokens: count(tokens, "cacheWrite"),
        reasoning_tokens: count(tokens, "reasoning"),
    };
    let parts = [usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens];
    if parts.into_iter().all(|part| part.unwrap_or(0) == 0) {
        // Pi writes zeros where the provider said nothing.
        return None;
    }
    let usd = tokens.get("cost").and_then(|c| c.get("total")).and_then(Value::as_f64).filter(|usd| *usd > 0.0);
    let cost = usd.map(|usd| Cost { usd, provenance: "estimate".to_owned() });
    let model = text(message, "responseModel").or_else(|| text(message, "model")).map(str::to_owned);
    Some(UsageReported { scope: "step".to_owned(), usage, cost, cost_scope: None, model }.into())
}

/// The code of a failure, from the status in front of the provider's words, else from the words.
fn code(stop: &str, message: &str) -> &'static str {
    if stop == "aborted" {
        return "interrupted";
    }
    let digits = message.len() - message.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let status = (digits == 3).then(|| &message[..3]);
    let lower = message.to_ascii_lowercase();
    match status {
        Some("401" | "403") => "not_logged_in",
        Some("429") => "rate_limited",
        Some(_) => "upstream",
        None if ["no api key", "invalid api key", "incorrect api key", "unauthorized"]
            .iter()
            .any(|w| lower.contains(w)) =>
        {
            "not_logged_in"
        }
        None if ["rate limit", "too many requests"].iter().any(|w| lower.contains(w)) => "rate_limited",
        None => "upstream",
    }
}
