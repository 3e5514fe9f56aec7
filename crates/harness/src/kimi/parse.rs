//! The parser of Kimi's JSON lines.
//!
//! Job: events of each line that is understood; a line that is not is kept. Owns: the session that is bound, the
//! numbers of the messages, and the failure that is told before the end.
//!
//! Its last line, the hint how to resume, is its word of success and the only one with a session id. A failure is told
//! on stderr alone, where the output of tools is copied too: it counts only where no hint came. A hint also follows a
//! goal that was not reached, so the line about the goal counts before it.

use longhaul_model::event::{
    EventData, Failure, MessageCompleted, OutputStream, SessionBound, ToolCalled, ToolCompleted, VerdictReported,
    Warning,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::NAME;
use crate::kept::Pieces;
use crate::parser::{Parser, SourceLine, StateError};
use crate::saved;
use crate::shape::{Parsed, Unknown, count, id, json, known, text};

const VERSION: u32 = 1;

/// Bytes of an error that are remembered until the end.
const ERROR_BYTES_MAX: usize = 512;

/// How the line on stderr begins that tells of a failure.
const FAILED: &str = "error: failed to run prompt: ";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    #[serde(rename = "k", default)]
    pieces: Pieces,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    /// Messages so far.
    #[serde(rename = "m", default)]
    messages: u64,
    /// Why the goal was not reached.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    goal: Option<String>,
    /// What stderr told of a failure.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    #[serde(rename = "v", default)]
    saw_verdict: bool,
}

/// Makes events of Kimi's lines.
pub(super) struct KimiParser {
    state: State,
}

impl KimiParser {
    pub fn new(saved: Option<&[u8]>) -> Result<Self, StateError> {
        Ok(Self { state: saved::decode(NAME, VERSION, saved)? })
    }
}

impl Parser for KimiParser {
    fn id(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        VERSION
    }

    fn line(&mut self, line: &SourceLine<'_>, out: &mut Vec<EventData>) {
        let parsed = json(line);
        if parsed.and_then(|value| self.state.take(&value, out)).is_err() {
            self.state.pieces.keep(line, out);
        }
        if line.stream == OutputStream::Stderr
            && line.part.is_none()
            && let Some(message) = String::from_utf8_lossy(line.bytes).strip_prefix(FAILED)
        {
            self.state.failure = Some(short(message));
        }
    }

    /// What only stderr told is the last word where Kimi gave no other.
    fn end(&mut self, out: &mut Vec<EventData>) {
        if let Some(message) = self.state.failure.take()
            && !self.state.saw_verdict
        {
            out.push(failed(code(&message), message));
        }
    }

    fn state(&self) -> Vec<u8> {
        saved::encode(NAME, VERSION, &self.state)
    }
}

impl State {
    fn take(&mut self, line: &Value, out: &mut Vec<EventData>) -> Parsed {
        match (text(line, "role"), text(line, "type")) {
            (Some("meta"), Some("system.version")) => Ok(()),
            (Some("meta"), Some("turn.step.retrying")) => retrying(line, out),
            (Some("meta"), Some("session.resume_hint")) => self.resume_hint(line, out),
            (Some("assistant"), _) => self.assistant(line, out),
            (Some("tool"), _) => tool(line, out),
            (None, Some("goal.summary")) => {
                self.goal = unreached(line)?;
                Ok(())
            }
            _ => Err(Unknown),
        }
    }

    fn resume_hint(&mut self, line: &Value, out: &mut Vec<EventData>) -> Parsed {
        let session = known(id(line, "session_id"))?;
        if self.session.as_deref() != Some(session) {
            self.session = Some(session.to_owned());
            out.push(SessionBound { session_id: None, source_session_id: session.to_owned() }.into());
        }
        self.saw_verdict = true;
        out.push(match self.goal.take() {
            None => VerdictReported { success: true, error: None }.into(),
            Some(message) => failed("agent_error", message),
        });
        Ok(())
    }

    fn assistant(&mut self, line: &Value, out: &mut Vec<EventData>) -> Parsed {
        let content = match line.get("content") {
            None | Some(Value::Null) => None,
            Some(_) => Some(known(text(line, "content"))?),
        };
        let calls = match line.get("tool_calls") {
            None | Some(Value::Null) => &[][..],
            Some(calls) => known(calls.as_array())?,
        };
        if content.is_none() && calls.is_empty() {
            return Err(Unknown);
        }
        if let Some(text) = content.filter(|text| !text.is_empty()) {
            self.messages = self.messages.saturating_add(1);
            let (message_id, text) = (format!("message_{}", self.messages), text.to_owned());
            out.push(MessageCompleted { message_id, parent_call_id: None, text }.into());
        }
        let mut all_known = Ok(());
        for call in calls {
            match called(call) {
                Some(event) => out.push(event),
                None => all_known = Err(Unknown),
            }
        }
        all_known
    }
}

fn called(call: &Value) -> Option<EventData> {
    let function = call.get("function")?;
    // A text that is no JSON is what the model wrote all the same.
    let written = text(function, "arguments")?;
    let arguments = serde_json::from_str(written).unwrap_or_else(|_| Value::from(written));
    let (call_id, name) = (text(call, "id")?.to_owned(), text(function, "name")?.to_owned());
    Some(ToolCalled { call_id, name, arguments, parent_call_id: None }.into())
}

/// What a tool gave back. Kimi does not say whether it failed, other than in the text.
fn tool(line: &Value, out: &mut Vec<EventData>) -> Parsed {
    let call_id = known(text(line, "tool_call_id"))?.to_owned();
    let result = known(line.get("content"))?.clone();
    out.push(ToolCompleted { call_id, result, is_error: false }.into());
    Ok(())
}

/// Of the answer that is lost at a retry Kimi has shown nothing yet.
fn retrying(line: &Value, out: &mut Vec<EventData>) -> Parsed {
    let why = known(text(line, "error_message"))?;
    let number = |name| count(line, name).map_or_else(|| "?".to_owned(), |n| n.to_string());
    let delay = line.get("delay_ms").and_then(Value::as_f64).map_or_else(|| "?".to_owned(), |n| format!("{n:.0}"));
    let message = format!(
        "model request failed ({why}); attempt {} of {} follows in {delay} ms",
        number("next_attempt"),
        number("max_attempts"),
    );
    out.push(Warning { code: "retry".to_owned(), message }.into());
    Ok(())
}

/// Why a goal was not reached; `None` if it was, or there was none.
fn unreached(line: &Value) -> Result<Option<String>, Unknown> {
    match known(line.get("status"))? {
        Value::Null => Ok(None),
        Value::String(status) if status == "complete" => Ok(None),
        Value::String(status) => {
            let reason = text(line, "reason").map_or_else(String::new, |reason| format!(": {reason}"));
            Ok(Some(short(&format!("the goal is {status}{reason}"))))
        }
        _ => Err(Unknown),
    }
}

fn failed(code: &str, message: String) -> EventData {
    let error = Failure { code: code.to_owned(), message, stderr_tail: None };
    VerdictReported { success: false, error: Some(error) }.into()
}

/// The code of a failure, from Kimi's own words: its name for the error comes first, where it has one.
fn code(message: &str) -> &'static str {
    let (name, rest) = message.split_once(": ").unwrap_or(("", message));
    let says = |words: &str| message.contains(words);
    if name == "provider.auth_error" || name.starts_with("auth.") {
        "not_logged_in"
    } else if name == "provider.rate_limit" || (name == "provider.api_error" && rest.starts_with("429 ")) {
        "rate_limited"
    } else if name.starts_with("provider.") || says("Provider safety policy") {
        "upstream"
    } else if says("has no credential configured") || says("use /login to sign in") {
        "not_logged_in"
    } else if message.starts_with("Session \"") && message.ends_with("\" not found.") {
        "session_not_found"
    } else {
        "agent_error"
    }
}

/// The beginning of `message`, of a known size in a saved state.
fn short(message: &str) -> String {
    let plain: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain[..plain.floor_char_boundary(ERROR_BYTES_MAX)].to_owned()
}
