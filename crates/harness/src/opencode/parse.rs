//! The parser of OpenCode's JSON lines.
//!
//! Job: events of each line that is understood; a line that is not is kept. Owns: the session that is bound, how the
//! last step ended, the last error. OpenCode prints a part of a message when it is whole, and no line at its end: so
//! the verdict is given at the end of its output.

use longhaul_model::event::{
    Cost, EventData, Failure, MessageCompleted, OutputStream, ReasoningDelta, SessionBound, ToolCalled, ToolCompleted,
    Usage, UsageReported, VerdictReported, Warning,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::NAME;
use crate::kept::Pieces;
use crate::parser::{Parser, SourceLine, StateError};
use crate::saved;
use crate::shape::{Parsed, Unknown, count, id, json, known, short, text};

const VERSION: u32 = 1;

/// How a step ends after which another one follows: with calls of tools, or in a way OpenCode goes on from.
const GOES_ON: [&str; 2] = ["tool-calls", "unknown"];

/// What OpenCode says of a call that needed a permission: nobody is there to give it.
const DENIED: &str = "rejected permission";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    #[serde(rename = "k", default)]
    pieces: Pieces,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    finish: Option<String>,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    error: Option<Failed>,
    /// A call of the last step was not allowed.
    #[serde(rename = "d", default)]
    denied: bool,
}

/// A failure: its code and its message.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Failed(String, String);

/// Makes events of OpenCode's lines.
pub(super) struct OpenCodeParser {
    state: State,
}

impl OpenCodeParser {
    pub fn new(saved: Option<&[u8]>) -> Result<Self, StateError> {
        Ok(Self { state: saved::decode(NAME, VERSION, saved)? })
    }
}

impl Parser for OpenCodeParser {
    fn id(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        VERSION
    }

    fn line(&mut self, line: &SourceLine<'_>, out: &mut Vec<EventData>) {
        if line.stream == OutputStream::Stderr {
            self.state.complaint(line.bytes);
        }
        let parsed = json(line);
        if parsed.and_then(|value| self.state.take(&value, out)).is_err() {
            self.state.pieces.keep(line, out);
        }
    }

    fn end(&mut self, out: &mut Vec<EventData>) {
        let finish = self.state.finish.take();
        let verdict = match (self.state.error.take(), finish.as_deref()) {
            (Some(error), _) => failed(error),
            (None, Some("stop")) => VerdictReported { success: true, error: None }.into(),
            (None, Some(reason)) if !GOES_ON.contains(&reason) => {
                failed(Failed("agent_error".to_owned(), format!("opencode ended with {reason}")))
            }
            // OpenCode stops after such a call, with exit status 0.
            (None, Some(_)) if self.state.denied => {
                failed(Failed("agent_error".to_owned(), "opencode stopped after a tool was not allowed".to_owned()))
            }
            (None, _) => return,
        };
        out.push(verdict);
    }

    fn state(&self) -> Vec<u8> {
        saved::encode(NAME, VERSION, &self.state)
    }
}

impl State {
    fn take(&mut self, line: &Value, out: &mut Vec<EventData>) -> Parsed {
        let kind = known(text(line, "type"))?;
        let session = known(id(line, "sessionID"))?;
        let mut events = Vec::new();
        match kind {
            "step_start" => {
                known(line.get("part"))?;
                self.finish = None;
                self.denied = false;
            }
            "text" => {
                let (message_id, text) = said(line)?;
                events.push(MessageCompleted { message_id, parent_call_id: None, text }.into());
            }
            "reasoning" => {
                let (message_id, text) = said(line)?;
                if !text.is_empty() {
                    events.push(ReasoningDelta { message_id, parent_call_id: None, text }.into());
                }
            }
            "tool_use" => self.denied |= tool(known(line.get("part"))?, &mut events)?,
            "step_finish" => {
                let part = known(line.get("part"))?;
                let reason = known(text(part, "reason"))?;
                events.push(usage(part)?);
                self.finish = Some(short(reason));
            }
            "error" => self.error = Some(error(known(line.get("error"))?)?),
            _ => return Err(Unknown),
        }
        if self.session.as_deref() != Some(session) {
            self.session = Some(session.to_owned());
            out.push(SessionBound { session_id: None, source_session_id: session.to_owned() }.into());
        }
        out.append(&mut events);
        Ok(())
    }

    /// The one word on stderr that says more than the exit status: the session that was to go on is not there.
    fn complaint(&mut self, line: &[u8]) {
        let says = String::from_utf8_lossy(line);
        if self.session.is_none() && self.error.is_none() && says.trim_end().ends_with("Session not found") {
            self.error = Some(Failed("session_not_found".to_owned(), "Session not found".to_owned()));
        }
    }
}

/// The id and the text of a part.
fn said(line: &Value) -> Result<(String, String), Unknown> {
    let part = known(line.get("part"))?;
    Ok((known(id(part, "id"))?.to_owned(), known(text(part, "text"))?.to_owned()))
}

/// A call, which is printed when it has ended; whether it was not allowed.
fn tool(part: &Value, out: &mut Vec<EventData>) -> Result<bool, Unknown> {
    let call_id = known(text(part, "callID"))?.to_owned();
    let name = known(text(part, "tool"))?.to_owned();
    let state = known(part.get("state"))?;
    let status = known(text(state, "status"))?;
    let arguments = state.get("input").cloned().unwrap_or(Value::Null);
    let mut result = Map::new();
    for member in ["status", "output", "error"] {
        if let Some(value) = state.get(member) {
            result.insert(member.to_owned(), value.clone());
        }
    }
    let mut exit = None;
    if let Some(Value::Object(metadata)) = state.get("metadata") {
        let mut metadata = metadata.clone();
        // The same once more.
        metadata.remove("output");
        exit = metadata.get("exit").and_then(Value::as_i64);
        result.insert("metadata".to_owned(), metadata.into());
    }
    let is_error = status != "completed" || exit.is_some_and(|exit| exit != 0);
    let denial = text(state, "error").filter(|error| error.contains(DENIED));
    let message = denial.map(|error| format!("{name}: {error}"));
    let denied = message.is_some();
    out.push(ToolCalled { call_id: call_id.clone(), name, arguments, parent_call_id: None }.into());
    out.extend(message.map(|message| Warning { code: "permission_denied".to_owned(), message }.into()));
    out.push(ToolCompleted { call_id, result: result.into(), is_error }.into());
    Ok(denied)
}

/// The tokens and the cost of a step. OpenCode counts reasoning apart from output; a cost of nothing for tokens is one
/// that it has no price for.
fn usage(part: &Value) -> Result<EventData, Unknown> {
    let tokens = known(part.get("tokens").filter(|t| t.is_object()))?;
    let cache = tokens.get("cache").unwrap_or(&Value::Null);
    let reasoning_tokens = count(tokens, "reasoning");
    let usage = Usage {
        input_tokens: count(tokens, "input"),
        output_tokens: count(tokens, "output").map(|n| n.saturating_add(reasoning_tokens.unwrap_or(0))),
        cache_read_tokens: count(cache, "read"),
        cache_write_tokens: count(cache, "write"),
        reasoning_tokens,
    };
    let cost = part.get("cost").and_then(Value::as_f64).filter(|usd| *usd > 0.0);
    let cost = cost.map(|usd| Cost { usd, provenance: "estimate".to_owned() });
    Ok(UsageReported { scope: "step".to_owned(), usage, cost, ..UsageReported::default() }.into())
}

fn error(error: &Value) -> Result<Failed, Unknown> {
    let name = known(text(error, "name"))?;
    let data = error.get("data").unwrap_or(&Value::Null);
    let message = text(data, "message").filter(|m| !m.trim().is_empty()).unwrap_or(name);
    let code = match (name, count(data, "statusCode")) {
        ("ProviderAuthError", _) | (_, Some(401 | 403)) => "not_logged_in",
        ("MessageAbortedError", _) => "interrupted",
        (_, Some(429)) => "rate_limited",
        _ if message.to_ascii_lowercase().contains("api key is missing") => "not_logged_in",
        _ => "upstream",
    };
    Ok(Failed(code.to_owned(), short(message)))
}

fn failed(Failed(code, message): Failed) -> EventData {
    let error = Failure { code, message, stderr_tail: None };
    VerdictReported { success: false, error: Some(error) }.into()
}
