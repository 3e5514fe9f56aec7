//! The lines of `codex exec --json`, by which earlier releases started Codex.
//!
//! Job: events of each line that is understood. A run that such a release started is followed to its end by this one.
//! Owns: the thread that is bound, the calls that are open, the messages that may be repeated ([`super::repeat`]), the
//! last error until a verdict.

use longhaul_model::event::{
    EventData, MessageCompleted, MessageDiscarded, ReasoningDelta, SessionBound, Usage, UsageReported, VerdictReported,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::items::{called, completed, failed, warn};
use super::repeat::Repeats;
use crate::kept::Pieces;
use crate::shape::{Parsed, Unknown, count, id, known, text};

/// Calls that are open at once and remembered; past this the oldest is taken for done.
const CALLS_MAX: usize = 16;

/// Bytes of an error that are remembered until the end.
const ERROR_BYTES_MAX: usize = 512;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct State {
    #[serde(rename = "k", default)]
    pub(super) pieces: Pieces,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(rename = "c", default)]
    calls: Vec<String>,
    #[serde(rename = "r", default)]
    repeats: Repeats,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl State {
    /// Whether nothing was understood yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.session.is_none() && self.calls.is_empty() && self.error.is_none() && self.repeats == Repeats::default()
    }

    /// An error that no `turn.failed` followed is the last word all the same.
    pub(super) fn end(&mut self, out: &mut Vec<EventData>) {
        if let Some(message) = self.error.take() {
            out.push(failed(message));
        }
    }

    pub(super) fn take(&mut self, line: &Value, out: &mut Vec<EventData>) -> Parsed {
        match known(text(line, "type"))? {
            "thread.started" => {
                let thread = known(id(line, "thread_id"))?;
                if self.session.as_deref() != Some(thread) {
                    self.session = Some(thread.to_owned());
                    out.push(SessionBound { session_id: None, source_session_id: thread.to_owned() }.into());
                }
            }
            "turn.started" => self.repeats.settle(),
            "turn.completed" => {
                let usage = known(line.get("usage").filter(|u| u.is_object()))?;
                self.repeats.settle();
                self.error = None;
                out.push(session_usage(usage));
                out.push(VerdictReported { success: true, error: None }.into());
            }
            "turn.failed" => {
                let message = known(line.get("error").and_then(|e| text(e, "message")))?;
                self.repeats.settle();
                self.error = None;
                out.push(failed(message.to_owned()));
            }
            "error" => {
                let message = known(text(line, "message"))?;
                if message.starts_with("Reconnecting") {
                    self.repeats.retry();
                    warn("retry", message, out);
                } else {
                    self.error = Some(short(message));
                    warn("upstream", message, out);
                }
            }
            "item.started" => return self.item(Stage::Started, known(line.get("item"))?, out),
            "item.updated" => return self.item(Stage::Updated, known(line.get("item"))?, out),
            "item.completed" => return self.item(Stage::Completed, known(line.get("item"))?, out),
            _ => return Err(Unknown),
        }
        Ok(())
    }

    fn item(&mut self, stage: Stage, item: &Value, out: &mut Vec<EventData>) -> Parsed {
        let item_id = known(id(item, "id"))?;
        match (known(text(item, "type"))?, stage) {
            ("agent_message" | "reasoning", Stage::Started) => {}
            ("agent_message", Stage::Completed) => {
                let answer = known(text(item, "text"))?;
                if let Some(message_id) = self.repeats.message(item_id, answer) {
                    let reason = "the same text came again after a retry".to_owned();
                    out.push(MessageDiscarded { message_id, reason }.into());
                }
                let (message_id, text) = (item_id.to_owned(), answer.to_owned());
                out.push(MessageCompleted { message_id, parent_call_id: None, text }.into());
            }
            ("reasoning", Stage::Completed) => {
                let (message_id, text) = (item_id.to_owned(), known(text(item, "text"))?.to_owned());
                out.push(ReasoningDelta { message_id, parent_call_id: None, text }.into());
            }
            ("error", Stage::Completed) => warn("source", known(text(item, "message"))?, out),
            (
                kind @ ("command_execution" | "file_change" | "mcp_tool_call" | "collab_tool_call" | "web_search"
                | "todo_list"),
                stage,
            ) => {
                self.repeats.settle();
                self.tool(kind, stage, item_id, item, out);
            }
            _ => return Err(Unknown),
        }
        Ok(())
    }

    fn tool(&mut self, kind: &str, stage: Stage, item_id: &str, item: &Value, out: &mut Vec<EventData>) {
        let open = self.calls.iter().position(|call| call == item_id);
        if open.is_none() {
            out.push(called(kind, item_id, item));
        }
        match (stage, open) {
            (Stage::Completed, open) => {
                if let Some(at) = open {
                    self.calls.remove(at);
                }
                out.push(completed(kind, item_id, item));
            }
            (Stage::Started | Stage::Updated, Some(_)) => {}
            (Stage::Started | Stage::Updated, None) => {
                if self.calls.len() == CALLS_MAX {
                    self.calls.remove(0);
                }
                self.calls.push(item_id.to_owned());
            }
        }
    }
}

/// Where an item is in its life.
#[derive(Clone, Copy)]
enum Stage {
    Started,
    Updated,
    Completed,
}

/// `turn.completed.usage`: the whole thread's, over all its resumes; its input includes what came from the cache.
fn session_usage(usage: &Value) -> EventData {
    let cached = count(usage, "cached_input_tokens");
    let usage = Usage {
        input_tokens: count(usage, "input_tokens").map(|n| n.saturating_sub(cached.unwrap_or(0))),
        output_tokens: count(usage, "output_tokens"),
        cache_read_tokens: cached,
        cache_write_tokens: count(usage, "cache_write_input_tokens"),
        reasoning_tokens: count(usage, "reasoning_output_tokens"),
    };
    UsageReported { scope: "session".to_owned(), usage, ..UsageReported::default() }.into()
}

/// The beginning of `message`, of a known size in a saved state.
fn short(message: &str) -> String {
    let plain: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain[..plain.floor_char_boundary(ERROR_BYTES_MAX)].to_owned()
}
