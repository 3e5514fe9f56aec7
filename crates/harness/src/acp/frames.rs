//! What is said to an agent: the frames of ACP version 1, as JSON-RPC.
//!
//! Ids are small numbers, one for each request that a run makes, because it makes each once.

use longhaul_model::event::{ApprovalAnswered, ApprovalRequested, Decision};
use serde_json::{Value, json};

use super::terms::Terms;
use crate::channel::{Frame, Prepared, line};
use crate::mcp::SHELL;
use crate::request::Request;
use crate::shape::text;

/// The version of the protocol.
pub(super) const VERSION: u64 = 1;

/// The id of `session/new`, `session/load` or `session/resume`.
pub(super) const SESSION: u64 = 2;
/// The id of what names the model.
pub(super) const MODEL: u64 = 3;
/// The id of what names the mode.
pub(super) const MODE: u64 = 4;
/// The id of the prompt.
pub(super) const PROMPT: u64 = 5;

/// What is added to the number of a message of people, from 1: its id.
const MESSAGE: u64 = 10_000;

/// Messages of one process; no answer of a higher number is one of ours.
const MESSAGES_MAX: u64 = 1_000_000;

/// JSON-RPC's code for a request that cannot be taken now: so kimi says that it is busy.
const NOT_NOW: i64 = -32600;

/// JSON-RPC's code for a method that is not there.
const NO_METHOD: i64 = -32601;

fn request(id: u64, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

/// The first message. No file and no terminal is lent: the agent works on its own host.
pub(super) fn initialize(terms: Terms) -> Frame {
    let capabilities = json!({ "fs": { "readTextFile": false, "writeTextFile": false }, "terminal": false });
    let client = json!({ "name": "longhaul", "title": "Longhaul", "version": env!("CARGO_PKG_VERSION") });
    let params = json!({ "protocolVersion": VERSION, "clientCapabilities": capabilities, "clientInfo": client });
    Frame::line("initialize", &request(terms.into(), "initialize", params))
}

/// The conversation's frames that the parser sends when it may: `session` or `resume`, `model` or `model_option`,
/// `prompt`. Servers of tools are names with scripts: each agent must take those that are commands.
pub(super) fn prepared(
    asked: &Request<'_>,
    prompt: &str,
    model: Option<&str>,
    servers: &[(&str, String)],
) -> Vec<Prepared> {
    let one = |id: &str, message: Value| Prepared { id: id.to_owned(), message };
    let (cwd, resume) = (asked.cwd, asked.resume);
    let server =
        |(name, script): &(&str, String)| json!({ "name": name, "command": SHELL, "args": [script], "env": [] });
    let servers: Value = servers.iter().map(server).collect();
    let mut frames = match resume {
        None => vec![one("session", request(SESSION, "session/new", json!({ "cwd": cwd, "mcpServers": servers })))],
        Some(session) => ["load", "resume"]
            .map(|how| {
                let params = json!({ "sessionId": session, "cwd": cwd, "mcpServers": servers });
                one(how, request(SESSION, &format!("session/{how}"), params))
            })
            .to_vec(),
    };
    if let Some(model) = model {
        let params = json!({ "sessionId": resume, "modelId": model });
        frames.push(one("model", request(MODEL, "session/set_model", params)));
        let params = json!({ "sessionId": resume, "configId": null, "value": model });
        frames.push(one("model_option", request(MODEL, "session/set_config_option", params)));
    }
    frames.push(one("prompt", say(PROMPT, resume, prompt)));
    frames
}

fn say(id: u64, session: Option<&str>, text: &str) -> Value {
    request(id, "session/prompt", json!({ "sessionId": session, "prompt": [{ "type": "text", "text": text }] }))
}

/// A message of people: a prompt like the first one.
pub(super) fn message(number: u64, session: &str, text: &str) -> Vec<u8> {
    line(&say(MESSAGE + number, Some(session), text))
}

/// The number of the message that this id is of.
pub(super) fn message_of(id: u64) -> Option<u64> {
    id.checked_sub(MESSAGE).filter(|number| (1..MESSAGES_MAX).contains(number))
}

/// Its words, if this is the error of a request that it did not take.
pub(super) fn not_now(error: &Value) -> Option<&str> {
    text(error, "message").filter(|_| error.get("code").and_then(Value::as_i64) == Some(NOT_NOW))
}

/// Takes a mode: by its own method, or by the option that holds it.
pub(super) fn mode(session: &str, config: Option<&str>, mode: &str) -> Frame {
    let message = match config {
        None => request(MODE, "session/set_mode", json!({ "sessionId": session, "modeId": mode })),
        Some(config) => {
            let params = json!({ "sessionId": session, "configId": config, "value": mode });
            request(MODE, "session/set_config_option", params)
        }
    };
    Frame::line("mode", &message)
}

/// The protocol's own cancel, and an end of the questions that wait: who cancels must answer them.
pub(super) fn cancel(session: &str, waiting: impl Iterator<Item = Value>) -> Vec<u8> {
    let message = json!({ "jsonrpc": "2.0", "method": "session/cancel", "params": { "sessionId": session } });
    let mut bytes = line(&message);
    for id in waiting {
        bytes.extend(line(&chosen(&id, None)));
    }
    bytes
}

/// The answer to a question: this option, or none.
pub(super) fn chosen(id: &Value, option: Option<&str>) -> Value {
    let outcome = match option {
        Some(option) => json!({ "outcome": "selected", "optionId": option }),
        None => json!({ "outcome": "cancelled" }),
    };
    json!({ "jsonrpc": "2.0", "id": id, "result": { "outcome": outcome } })
}

/// The answer to a request that nobody here can answer.
pub(super) fn refused(id: &Value, method: &str) -> Value {
    let message = format!("this client does not answer {}", crate::shape::short(method));
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": NO_METHOD, "message": message } })
}

/// What the agent must be told with an answer: the id of its question, and its options for yes and no.
pub(super) fn source_request(id: &Value, options: &Value) -> Value {
    json!({ "id": id, "allow": option(options, true), "deny": option(options, false) })
}

/// The answer of people to a question.
pub(super) fn answer(asked: &ApprovalRequested, answer: &ApprovalAnswered) -> Vec<u8> {
    let source = &asked.source_request;
    let name = match answer.decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
    };
    line(&chosen(source.get("id").unwrap_or(&Value::Null), text(source, name)))
}

/// The option that says yes or no: for this once where there is one.
pub(super) fn option(options: &Value, allow: bool) -> Option<&str> {
    let kinds = if allow { ["allow_once", "allow_always"] } else { ["reject_once", "reject_always"] };
    let options = options.as_array()?;
    let of = |kind: &str| options.iter().find(|option| text(option, "kind") == Some(kind));
    kinds.iter().find_map(|kind| text(of(kind)?, "optionId"))
}
