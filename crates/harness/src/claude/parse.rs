//! The parser of Claude's JSON lines.
//!
//! Job: events of each line that is understood; a line that is not, or only in part, is kept. Owns: which session is
//! bound, what was used so far, the name of the last error, the open blocks ([`super::stream`]), and which of the
//! messages that it was sent it has still to deal with.
//! Never: trusts a shape; a member that is not what it should be makes the line one that is not understood.

use longhaul_model::event::{
    EventData, InputDelivered, MessageCompleted, MessageDelta, ReasoningDelta, SessionBound, ToolCalled, ToolCompleted,
    Usage, Warning,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::stream::{INDEX_MAX, Kind, Lanes};
use super::verdict::{unshown_text, usage, verdict};
use super::{NAME, channel};
use crate::channel::Reply;
use crate::kept::Pieces;
use crate::parser::{Parser, SourceLine, StateError};
use crate::saved;
use crate::shape::{Parsed, Unknown, count, id, is_true, json, known, text};

const VERSION: u32 = 1;

/// Types of lines that are known and say nothing that an event says.
const SILENT: [&str; 3] = ["tool_progress", "tool_use_summary", "prompt_suggestion"];

/// The same for the subtypes of `system` lines.
const SILENT_SYSTEM: [&str; 12] = [
    "status",
    "thinking_tokens",
    "compact_boundary",
    "hook_started",
    "hook_progress",
    "hook_response",
    "background_tasks_changed",
    "task_started",
    "task_progress",
    "task_updated",
    "task_notification",
    "session_state_changed",
];

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    #[serde(rename = "k", default)]
    pieces: Pieces,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(rename = "u", default)]
    used: Usage,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(rename = "t", default)]
    saw_text: bool,
    #[serde(rename = "l", default)]
    lanes: Lanes,
    /// Whether it gave a result, and has begun nothing since.
    #[serde(rename = "r", default, skip_serializing_if = "std::ops::Not::not")]
    rests: bool,
    /// Checksums of the ids of messages that it has taken and not dealt with, oldest first.
    #[serde(rename = "q", default, skip_serializing_if = "Vec::is_empty")]
    queue: Vec<u32>,
}

/// Messages that are remembered as not dealt with: more than may be on their way to it at a time.
const QUEUE_MAX: usize = 24;

/// Makes events of Claude's lines.
pub(super) struct ClaudeParser {
    state: State,
    replies: Vec<Reply>,
}

impl ClaudeParser {
    pub fn new(saved: Option<&[u8]>) -> Result<Self, StateError> {
        Ok(Self { state: saved::decode(NAME, VERSION, saved)?, replies: Vec::new() })
    }
}

impl Parser for ClaudeParser {
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
        }
    }

    fn end(&mut self, _out: &mut Vec<EventData>) {}

    fn state(&self) -> Vec<u8> {
        saved::encode(NAME, VERSION, &self.state)
    }

    fn take_replies(&mut self) -> Vec<Reply> {
        std::mem::take(&mut self.replies)
    }

    fn at_rest(&self) -> bool {
        self.state.rests && self.state.queue.is_empty()
    }

    fn input(&self, input_id: &str, text: &str) -> Option<Vec<u8>> {
        Some(channel::input(input_id, text))
    }
}

/// The tool call that a line's agent works for: absent or null is the main agent.
fn parent(line: &Value) -> Result<Option<&str>, Unknown> {
    match line.get("parent_tool_use_id") {
        None | Some(Value::Null) => Ok(None),
        Some(_) => known(id(line, "parent_tool_use_id")).map(Some),
    }
}

impl State {
    fn take(&mut self, line: &Value, out: &mut Vec<EventData>, replies: &mut Vec<Reply>) -> Parsed {
        match known(text(line, "type"))? {
            "system" => self.system(line, out),
            "stream_event" => self.stream(line, out),
            "assistant" => {
                self.rests = false;
                self.assistant(line, out)
            }
            "user" => self.user(line, out),
            "result" => {
                self.result(line, out)?;
                self.rests = true;
                Ok(())
            }
            "rate_limit_event" => rate_limit(line, out),
            "control_request" => {
                self.rests = false;
                match known(channel::asked(line))? {
                    Ok(asked) => out.push(asked.into()),
                    Err(reply) => replies.push(reply),
                }
                Ok(())
            }
            "control_cancel_request" => {
                out.push(known(channel::withdrawn(line))?);
                Ok(())
            }
            "control_response" => control_response(line, out),
            "command_lifecycle" => self.lifecycle(line, out),
            kind if SILENT.contains(&kind) => Ok(()),
            _ => Err(Unknown),
        }
    }

    fn system(&mut self, line: &Value, out: &mut Vec<EventData>) -> Parsed {
        match known(text(line, "subtype"))? {
            "init" => {
                let session = known(id(line, "session_id"))?;
                self.rests = false;
                if self.session.as_deref() != Some(session) {
                    self.session = Some(session.to_owned());
                    out.push(SessionBound { session_id: None, source_session_id: session.to_owned() }.into());
                }
            }
            "api_retry" => {
                // Milliseconds have a fraction in 2.1.197.
                let number =
                    |name| line.get(name).and_then(Value::as_f64).map_or_else(|| "?".to_owned(), |n| format!("{n:.0}"));
                let status = count(line, "error_status").map_or_else(String::new, |s| format!(" {s}"));
                let why = text(line, "error").unwrap_or("unknown");
                let message = format!(
                    "model request failed ({why}{status}); attempt {} of {} follows in {} ms",
                    number("attempt"),
                    number("max_retries"),
                    number("retry_delay_ms"),
                );
                warn("retry", message.clone(), out);
                self.lanes.lose(parent(line)?, &message, out);
            }
            "permission_denied" => {
                let tool = text(line, "tool_name").unwrap_or("a tool");
                let message = known(text(line, "message"))?;
                warn("permission_denied", format!("{tool}: {message}"), out);
            }
            "informational" => warn("source", known(text(line, "content"))?.to_owned(), out),
            subtype if SILENT_SYSTEM.contains(&subtype) => {}
            _ => return Err(Unknown),
        }
        Ok(())
    }

    fn stream(&mut self, line: &Value, out: &mut Vec<EventData>) -> Parsed {
        let parent = parent(line)?;
        let event = known(line.get("event"))?;
        let index = || known(count(event, "index").filter(|i| *i <= INDEX_MAX));
        match known(text(event, "type"))? {
            "message_start" => {
                let message = known(event.get("message").and_then(|m| id(m, "id")))?;
                self.lanes.begin(parent, message, out);
                Ok(())
            }
            "content_block_start" => {
                let kind = match known(event.get("content_block").and_then(|b| text(b, "type")))? {
                    "text" => Kind::Text,
                    "thinking" => Kind::Reasoning,
                    _ => Kind::Other,
                };
                let opened = self.lanes.open(parent, index()?, kind);
                if opened { Ok(()) } else { Err(Unknown) }
            }
            "content_block_delta" => {
                let delta = known(event.get("delta"))?;
                match known(text(delta, "type"))? {
                    "text_delta" => {
                        let piece = known(text(delta, "text"))?;
                        let message_id = known(self.lanes.show(parent, index()?, Kind::Text))?;
                        self.saw_text |= parent.is_none() && !piece.trim().is_empty();
                        let parent_call_id = parent.map(str::to_owned);
                        out.push(MessageDelta { message_id, parent_call_id, text: piece.to_owned() }.into());
                    }
                    "thinking_delta" => {
                        let piece = known(text(delta, "thinking"))?;
                        let message_id = known(self.lanes.show(parent, index()?, Kind::Reasoning))?;
                        reasoning(message_id, parent, piece, out);
                    }
                    "input_json_delta" | "signature_delta" | "citations_delta" => {}
                    _ => return Err(Unknown),
                }
                Ok(())
            }
            "content_block_stop" | "message_delta" | "message_stop" | "ping" => Ok(()),
            _ => Err(Unknown),
        }
    }

    fn assistant(&mut self, line: &Value, out: &mut Vec<EventData>) -> Parsed {
        let parent = parent(line)?;
        let message = known(line.get("message"))?;
        let message_id = known(id(message, "id"))?;
        let blocks = known(message.get("content").and_then(Value::as_array))?;
        let failed = is_true(line, "is_api_error_message")
            || is_true(line, "isApiErrorMessage")
            || (text(message, "model") == Some("<synthetic>") && line.get("error").is_some_and(Value::is_string));
        if failed {
            return self.api_error(line, blocks, out);
        }
        let mut all_known = Ok(());
        for block in blocks {
            if self.block(parent, message_id, block, out).is_err() {
                all_known = Err(Unknown);
            }
        }
        all_known
    }

    /// Words that Claude puts into the model's mouth to tell of a failure: shown as a warning, never as the answer.
    fn api_error(&mut self, line: &Value, blocks: &[Value], out: &mut Vec<EventData>) -> Parsed {
        let name = text(line, "error").unwrap_or("unknown");
        self.error = Some(name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect());
        for block in blocks {
            warn("upstream", known(text(block, "text"))?.to_owned(), out);
        }
        Ok(())
    }

    fn block(&mut self, parent: Option<&str>, message: &str, block: &Value, out: &mut Vec<EventData>) -> Parsed {
        let parent_call_id = parent.map(str::to_owned);
        match known(text(block, "type"))? {
            "text" => {
                let whole_text = known(text(block, "text"))?;
                let whole = self.lanes.confirm(parent, message, Kind::Text, out);
                if whole.shown || !whole_text.is_empty() {
                    self.saw_text |= parent.is_none() && !whole_text.trim().is_empty();
                    let text = whole_text.to_owned();
                    out.push(MessageCompleted { message_id: whole.id, parent_call_id, text }.into());
                }
            }
            "thinking" => {
                let thought = known(text(block, "thinking"))?;
                let whole = self.lanes.confirm(parent, message, Kind::Reasoning, out);
                if !whole.shown {
                    reasoning(whole.id, parent, thought, out);
                }
            }
            "redacted_thinking" => {
                self.lanes.confirm(parent, message, Kind::Other, out);
            }
            "tool_use" | "server_tool_use" | "mcp_tool_use" => {
                let call_id = known(text(block, "id"))?.to_owned();
                let name = known(text(block, "name"))?.to_owned();
                let arguments = known(block.get("input"))?.clone();
                self.lanes.confirm(parent, message, Kind::Other, out);
                out.push(ToolCalled { call_id, name, arguments, parent_call_id }.into());
            }
            kind if kind.ends_with("_tool_result") => {
                let call_id = known(text(block, "tool_use_id"))?.to_owned();
                let result = known(block.get("content"))?.clone();
                self.lanes.confirm(parent, message, Kind::Other, out);
                let failed = text(&result, "type").is_some_and(|t| t.ends_with("_error"));
                out.push(ToolCompleted { call_id, result, is_error: failed || is_true(block, "is_error") }.into());
            }
            _ => return Err(Unknown),
        }
        Ok(())
    }

    /// What became of a message that it was sent.
    fn lifecycle(&mut self, line: &Value, out: &mut Vec<EventData>) -> Parsed {
        let message = known(id(line, "command_uuid"))?;
        let sum = crc32fast::hash(message.as_bytes());
        match known(text(line, "state"))? {
            "queued" | "started" => {
                if !self.queue.contains(&sum) {
                    if self.queue.len() == QUEUE_MAX {
                        self.queue.remove(0);
                    }
                    self.queue.push(sum);
                    out.push(InputDelivered { input_id: message.to_owned() }.into());
                }
            }
            "completed" | "cancelled" | "discarded" | "refused" => self.queue.retain(|known| *known != sum),
            _ => return Err(Unknown),
        }
        Ok(())
    }

    /// The user's side: what tools gave back. Its texts are Claude's own notes to the model and the prompt's echo.
    fn user(&mut self, line: &Value, out: &mut Vec<EventData>) -> Parsed {
        let parent = parent(line)?;
        let content = known(line.get("message").and_then(|m| m.get("content")))?;
        if is_true(line, "isSynthetic") {
            self.lanes.lose(parent, "the answer was cut off", out);
        }
        if content.is_string() {
            return Ok(());
        }
        let mut all_known = Ok(());
        for block in known(content.as_array())? {
            match text(block, "type") {
                Some("tool_result") => match text(block, "tool_use_id") {
                    Some(call_id) => out.push(
                        ToolCompleted {
                            call_id: call_id.to_owned(),
                            result: block.get("content").cloned().unwrap_or(Value::Null),
                            is_error: is_true(block, "is_error"),
                        }
                        .into(),
                    ),
                    None => all_known = Err(Unknown),
                },
                Some("text" | "image" | "document") => {}
                _ => all_known = Err(Unknown),
            }
        }
        all_known
    }

    fn result(&mut self, line: &Value, out: &mut Vec<EventData>) -> Parsed {
        let verdict = known(verdict(line, self.error.as_deref()))?;
        if let Some(answer) = line.get("structured_output").filter(|answer| !answer.is_null()) {
            // What was asked for by a schema, and met it. What the model said beside it is no part of it.
            self.saw_text = true;
            let (message_id, text) = (result_id(line), answer.to_string());
            out.push(MessageCompleted { message_id, parent_call_id: None, text }.into());
        } else if !self.saw_text
            && let Some(answer) = unshown_text(line)
        {
            self.saw_text = true;
            out.push(
                MessageCompleted { message_id: result_id(line), parent_call_id: None, text: answer.to_owned() }.into(),
            );
        }
        out.extend(usage(line, &mut self.used));
        out.push(verdict);
        Ok(())
    }
}

/// The id of a message that stands in a `result` line alone.
fn result_id(line: &Value) -> String {
    id(line, "uuid").map_or_else(|| "result".to_owned(), |uuid| format!("result/{uuid}"))
}

fn warn(code: &str, message: String, out: &mut Vec<EventData>) {
    out.push(Warning { code: code.to_owned(), message }.into());
}

fn reasoning(message_id: String, parent: Option<&str>, piece: &str, out: &mut Vec<EventData>) {
    if !piece.is_empty() {
        let parent_call_id = parent.map(str::to_owned);
        out.push(ReasoningDelta { message_id, parent_call_id, text: piece.to_owned() }.into());
    }
}

/// The answer to a cancel, of which the result tells; only a refusal says something new.
fn control_response(line: &Value, out: &mut Vec<EventData>) -> Parsed {
    let response = known(line.get("response"))?;
    match known(text(response, "subtype"))? {
        "success" => {}
        "error" => warn("source", known(text(response, "error"))?.to_owned(), out),
        _ => return Err(Unknown),
    }
    Ok(())
}

/// News of the subscription's limits; of interest only when a request was refused or will soon be.
fn rate_limit(line: &Value, out: &mut Vec<EventData>) -> Parsed {
    let info = known(line.get("rate_limit_info"))?;
    let status = known(text(info, "status"))?;
    if status != "allowed" {
        warn("rate_limit", format!("rate limit: {status}"), out);
    }
    Ok(())
}
