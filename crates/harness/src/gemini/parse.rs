//! The parser of Gemini's JSON lines.
//!
//! Job: events of each line that is understood; a line that is not is kept. Owns: the session that is bound, the
//! numbers of the messages, the last error until a verdict.
//!
//! Gemini gives a message in pieces that have no id and no end: a message is the pieces between two calls of tools.
//! What it says before it has a session it says on stderr alone, and so it does with its retries; stderr by itself is
//! never a failure where a verdict came.

use longhaul_model::event::{
    EventData, Failure, MessageCompleted, MessageDelta, OutputStream, SessionBound, ToolCalled, ToolCompleted, Usage,
    UsageReported, VerdictReported, Warning,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::NAME;
use crate::kept::Pieces;
use crate::parser::{Parser, SourceLine, StateError};
use crate::saved;
use crate::shape::{Parsed, Unknown, count, id, is_true, json, known, text};

const VERSION: u32 = 1;

/// Bytes of an error that are remembered until the end.
const ERROR_BYTES_MAX: usize = 512;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    #[serde(rename = "k", default)]
    pieces: Pieces,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    /// Messages that began.
    #[serde(rename = "m", default)]
    messages: u64,
    /// Whether the last of them goes on.
    #[serde(rename = "o", default)]
    open: bool,
    /// The last error that was no verdict.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// A failure that only stderr tells of, as code and message.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    failure: Option<(String, String)>,
    #[serde(rename = "v", default)]
    saw_verdict: bool,
}

/// Makes events of Gemini's lines.
pub(super) struct GeminiParser {
    state: State,
}

impl GeminiParser {
    pub fn new(saved: Option<&[u8]>) -> Result<Self, StateError> {
        Ok(Self { state: saved::decode(NAME, VERSION, saved)? })
    }
}

impl Parser for GeminiParser {
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
        if line.stream == OutputStream::Stderr && line.part.is_none() {
            self.state.stderr(&String::from_utf8_lossy(line.bytes), out);
        }
    }

    /// What only stderr told is the last word where Gemini gave no other.
    fn end(&mut self, out: &mut Vec<EventData>) {
        if let Some((code, message)) = self.state.failure.take()
            && !self.state.saw_verdict
        {
            out.push(failed(&code, message));
        }
    }

    fn state(&self) -> Vec<u8> {
        saved::encode(NAME, VERSION, &self.state)
    }
}

impl State {
    fn take(&mut self, line: &Value, out: &mut Vec<EventData>) -> Parsed {
        match known(text(line, "type"))? {
            "init" => {
                let session = known(id(line, "session_id"))?;
                if self.session.as_deref() != Some(session) {
                    self.session = Some(session.to_owned());
                    out.push(SessionBound { session_id: None, source_session_id: session.to_owned() }.into());
                }
            }
            "message" => return self.message(line, out),
            "tool_use" => {
                let call_id = known(text(line, "tool_id"))?.to_owned();
                let name = known(text(line, "tool_name"))?.to_owned();
                let arguments = known(line.get("parameters"))?.clone();
                self.goes_on(false);
                out.push(ToolCalled { call_id, name, arguments, parent_call_id: None }.into());
            }
            "tool_result" => {
                let call_id = known(text(line, "tool_id"))?.to_owned();
                let is_error = known(text(line, "status"))? != "success";
                self.goes_on(false);
                out.push(
                    ToolCompleted { call_id, result: only(line, &["status", "output", "error"]), is_error }.into(),
                );
            }
            "error" => {
                let message = known(text(line, "message"))?;
                let grave = known(text(line, "severity"))? == "error";
                if grave {
                    self.error = Some(short(message));
                }
                warn(if grave { "upstream" } else { "source" }, message, out);
            }
            "result" => {
                let verdict = known(self.verdict(line))?;
                out.extend(line.get("stats").and_then(usage));
                self.saw_verdict = true;
                self.open = false;
                self.error = None;
                out.push(verdict);
            }
            _ => return Err(Unknown),
        }
        Ok(())
    }

    /// The agent went on: an error before it was not the end.
    fn goes_on(&mut self, open: bool) {
        self.open = open;
        self.error = None;
    }

    fn message(&mut self, line: &Value, out: &mut Vec<EventData>) -> Parsed {
        let content = known(text(line, "content"))?;
        match known(text(line, "role"))? {
            // The prompt's echo.
            "user" => self.open = false,
            "assistant" => {
                let delta = is_true(line, "delta");
                if !delta || !self.open {
                    self.messages = self.messages.saturating_add(1);
                }
                self.goes_on(delta);
                let (message_id, text) = (format!("message_{}", self.messages), content.to_owned());
                out.push(if delta {
                    MessageDelta { message_id, parent_call_id: None, text }.into()
                } else {
                    MessageCompleted { message_id, parent_call_id: None, text }.into()
                });
            }
            _ => return Err(Unknown),
        }
        Ok(())
    }

    /// Gemini's own word; `None` if the line has another shape.
    ///
    /// A success right after a grave error is none: so it ends when its turns are used up.
    fn verdict(&self, line: &Value) -> Option<EventData> {
        let success = match text(line, "status")? {
            "success" => true,
            "error" => false,
            _ => return None,
        };
        if success && self.error.is_none() {
            return Some(VerdictReported { success, error: None }.into());
        }
        let error = line.get("error").unwrap_or(&Value::Null);
        let message = text(error, "message").or(self.error.as_deref()).unwrap_or("gemini ended with an error");
        Some(failed(code(text(error, "type").unwrap_or_default(), message), message.to_owned()))
    }

    fn stderr(&mut self, line: &str, out: &mut Vec<EventData>) {
        if line.starts_with("Attempt ")
            && let Some((attempt, _)) = line.split_once(" Retrying with backoff")
        {
            warn("retry", &format!("{attempt} Retrying with backoff"), out);
        } else if line.starts_with("Error resuming session:") {
            self.failure = Some(("session_not_found".to_owned(), short(line)));
        } else if line.contains("you must specify the GEMINI_API_KEY") || line.starts_with("Please set an Auth method")
        {
            self.failure = Some(("not_logged_in".to_owned(), short(line)));
        }
    }
}

/// The members of `line` that are in `names`.
fn only(line: &Value, names: &[&str]) -> Value {
    let members = line.as_object().into_iter().flatten();
    members
        .filter(|(k, _)| names.contains(&k.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect::<Map<_, _>>()
        .into()
}

/// `result.stats`: this run's; its input includes what came from the cache. Of a request that failed Gemini does not
/// know what it used, and says 0.
fn usage(stats: &Value) -> Option<EventData> {
    count(stats, "total_tokens").filter(|total| *total > 0)?;
    let cached = count(stats, "cached");
    let usage = Usage {
        input_tokens: count(stats, "input_tokens").map(|n| n.saturating_sub(cached.unwrap_or(0))),
        output_tokens: count(stats, "output_tokens"),
        cache_read_tokens: cached,
        ..Usage::default()
    };
    let models = stats.get("models").and_then(Value::as_object).filter(|models| models.len() == 1);
    let model = models.and_then(|models| models.keys().next().cloned());
    Some(UsageReported { scope: "run".to_owned(), usage, model, ..UsageReported::default() }.into())
}

fn failed(code: &str, message: String) -> EventData {
    let error = Failure { code: code.to_owned(), message, stderr_tail: None };
    VerdictReported { success: false, error: Some(error) }.into()
}

/// The code of a failure, from the error's type and from the provider's answer that Gemini puts into the message.
fn code(kind: &str, message: &str) -> &'static str {
    let says = |words: &str| message.contains(words);
    match kind {
        "FatalCancellationError" => return "interrupted",
        "FatalTurnLimitedError" => return "max_turns",
        "FatalAuthenticationError" => return "not_logged_in",
        "FatalToolExecutionError" | "FatalInputError" | "FatalSandboxError" | "FatalConfigError" => {
            return "agent_error";
        }
        _ => {}
    }
    match provider_status(message) {
        Some(401 | 403) => "not_logged_in",
        Some(429) => "rate_limited",
        _ if says("API key not valid") => "not_logged_in",
        _ if says("Please wait and try again later") || says("exhausted your") => "rate_limited",
        _ if says("Maximum session turns exceeded") => "max_turns",
        _ => "upstream",
    }
}

/// The status in `[API Error: {"error":{"code":401,…}}]`.
fn provider_status(message: &str) -> Option<u64> {
    let (from, to) = (message.find('{')?, message.rfind('}')?);
    let answer: Value = serde_json::from_str(message.get(from..=to)?).ok()?;
    count(answer.get("error")?, "code")
}

fn warn(code: &str, message: &str, out: &mut Vec<EventData>) {
    out.push(Warning { code: code.to_owned(), message: message.to_owned() }.into());
}

/// The beginning of `message`, of a known size in a saved state.
fn short(message: &str) -> String {
    let plain: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain[..plain.floor_char_boundary(ERROR_BYTES_MAX)].to_owned()
}
