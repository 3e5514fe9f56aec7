//! What is said to Pi in its rpc mode: commands, a line of JSON each.
//!
//! Ids are words; that of a prompt says whether Pi may take it for a command of its own, which starts no turn.

use serde_json::{Value, json};

use crate::channel::{Frame, line};

pub(super) const STATE: &str = "state";
/// What the id of the question whether it is at rest begins with.
pub(super) const REST: &str = "rest/";
pub(super) const ABORT: &str = "abort";
const PROMPT: &str = "prompt";
const INPUT: &str = "input/";
/// What an id ends with whose text begins with a slash.
const COMMAND: &str = ".command";

fn prompt(id: &str, text: &str) -> Value {
    let command = if text.trim_start().starts_with('/') { COMMAND } else { "" };
    // While it works the text joins the turn; else it begins one.
    json!({ "id": format!("{id}{command}"), "type": "prompt", "message": text, "streamingBehavior": "steer" })
}

/// The first messages: the answer to the first tells the session.
pub(super) fn opening(text: &str) -> Vec<Frame> {
    let state = json!({ "id": STATE, "type": "get_state" });
    vec![Frame::line(STATE, &state), Frame::line(PROMPT, &prompt(PROMPT, text))]
}

/// A person's message.
pub(super) fn input(input_id: &str, text: &str) -> Vec<u8> {
    line(&prompt(&format!("{INPUT}{input_id}"), text))
}

/// What an answer's id is about: a person's message, or the prompt; and whether it may be a command of Pi's.
pub(super) fn asked(id: &str) -> Option<(Option<&str>, bool)> {
    let (id, command) = id.strip_suffix(COMMAND).map_or((id, false), |id| (id, true));
    match id.strip_prefix(INPUT) {
        Some(input) => Some((Some(input), command)),
        None => (id == PROMPT).then_some((None, command)),
    }
}

/// Asks how it is.
pub(super) fn rest(number: u32) -> Frame {
    let id = format!("{REST}{number}");
    let message = json!({ "id": id, "type": "get_state" });
    Frame::line(id, &message)
}

/// Its own cancel.
pub(super) fn abort() -> Vec<u8> {
    line(&json!({ "id": ABORT, "type": "abort" }))
}

/// The answer to a question of an extension that nobody here can answer.
pub(super) fn cancelled(id: &str) -> Frame {
    let message = json!({ "type": "extension_ui_response", "id": id, "cancelled": true });
    Frame::line(format!("reply/{id}"), &message)
}
