//! Codex's tool calls as events, and its last words.
//!
//! Job: the names, arguments and results of the calls, and the codes of failures, the same whichever way Codex was
//! started. An item is as `codex exec` prints it: [`super::talk`] makes those of the app-server alike.

use longhaul_model::event::{EventData, Failure, ToolCalled, ToolCompleted, VerdictReported, Warning};
use serde_json::{Map, Value};

use crate::shape::text;

/// The members of `item` without those in `names`.
fn without(item: &Value, names: &[&str]) -> Value {
    let members = item.as_object().into_iter().flatten();
    members
        .filter(|(k, _)| !names.contains(&k.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect::<Map<_, _>>()
        .into()
}

/// The members of `item` that are in `names`.
fn only(item: &Value, names: &[&str]) -> Value {
    let members = item.as_object().into_iter().flatten();
    members
        .filter(|(k, _)| names.contains(&k.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect::<Map<_, _>>()
        .into()
}

pub(super) fn called(kind: &str, item_id: &str, item: &Value) -> EventData {
    let (name, arguments) = match kind {
        "command_execution" => (kind.to_owned(), only(item, &["command"])),
        "mcp_tool_call" => {
            let (server, tool) = (text(item, "server").unwrap_or("?"), text(item, "tool").unwrap_or("?"));
            (format!("mcp__{server}__{tool}"), item.get("arguments").cloned().unwrap_or(Value::Null))
        }
        _ => (kind.to_owned(), without(item, &["id", "type", "status"])),
    };
    ToolCalled { call_id: item_id.to_owned(), name, arguments, parent_call_id: None }.into()
}

pub(super) fn completed(kind: &str, item_id: &str, item: &Value) -> EventData {
    let result = match kind {
        "command_execution" => only(item, &["aggregated_output", "exit_code", "status"]),
        "mcp_tool_call" => only(item, &["result", "error", "status"]),
        _ => without(item, &["id", "type"]),
    };
    let is_error = text(item, "status").is_some_and(|status| status != "completed");
    ToolCompleted { call_id: item_id.to_owned(), result, is_error }.into()
}

/// A failure with no other sign than its words.
pub(super) fn failed(message: String) -> EventData {
    failed_as(code(&message), message)
}

pub(super) fn failed_as(code: &str, message: String) -> EventData {
    let error = Failure { code: code.to_owned(), message, stderr_tail: None };
    VerdictReported { success: false, error: Some(error) }.into()
}

/// The code of a failure, from Codex's own words: it gives no other sign.
pub(super) fn code(message: &str) -> &'static str {
    let says = |words: &str| message.contains(words);
    if says("401 Unauthorized") || says("Missing environment variable") {
        "not_logged_in"
    } else if says("429 Too Many Requests") {
        "rate_limited"
    } else {
        "upstream"
    }
}

pub(super) fn warn(code: &str, message: &str, out: &mut Vec<EventData>) {
    out.push(Warning { code: code.to_owned(), message: message.to_owned() }.into());
}
