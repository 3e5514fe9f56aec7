//! What is said to Codex's app-server: its JSON-RPC, which leaves the member `jsonrpc` out.
//!
//! Ids are words, one for each request that a run makes. That of the thread tells the parser, which knows nothing but
//! the agent's lines, what the run asked for ([`Terms`]).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::channel::{Frame, Prepared, line};
use crate::request::{Permissions, Request};

pub(super) const INITIALIZE: &str = "initialize";
pub(super) const PROMPT: &str = "prompt";
pub(super) const INTERRUPT: &str = "interrupt";
/// What the id of a message begins with.
pub(super) const INPUT: &str = "input/";

/// What is not to be told: it says nothing that an event says, and a command's output comes again with its end.
const NOT_TOLD: [&str; 6] = [
    "account/rateLimits/updated",
    "item/commandExecution/outputDelta",
    "remoteControl/status/changed",
    "thread/started",
    "thread/status/changed",
    "turn/diff/updated",
];

/// JSON-RPC's code for a method that is not there.
const NO_METHOD: i64 = -32601;

/// What a run's conversation is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Terms {
    /// Whether an earlier thread is gone on with.
    #[serde(rename = "r")]
    pub(super) resumes: bool,
    /// Whether people answer what it asks.
    #[serde(rename = "a")]
    pub(super) asks: bool,
    /// Whether its answer has a form.
    #[serde(rename = "f")]
    pub(super) form: bool,
}

impl Terms {
    fn id(self) -> String {
        let first = if self.resumes { "resume" } else { "start" };
        format!("{first}{}{}", if self.asks { ".ask" } else { "" }, if self.form { ".form" } else { "" })
    }

    /// The terms in the id of the thread's request; `None` for an id of another request.
    pub(super) fn of_id(id: &str) -> Option<Self> {
        let flags = [false, true];
        let all = flags.iter().flat_map(|resumes| {
            flags.iter().flat_map(move |asks| flags.map(|form| Self { resumes: *resumes, asks: *asks, form }))
        });
        all.into_iter().find(|terms| terms.id() == id)
    }
}

fn request(id: &str, method: &str, params: Value) -> Value {
    json!({ "id": id, "method": method, "params": params })
}

/// Sandbox and approval policy in Codex's words. A sandbox that is not named is that of its configuration.
const fn bounds(permissions: Permissions) -> (Option<&'static str>, &'static str) {
    match permissions {
        Permissions::Cli => (None, "never"),
        Permissions::ReadOnly => (Some("read-only"), "never"),
        Permissions::Edit => (Some("workspace-write"), "never"),
        Permissions::Full => (Some("danger-full-access"), "never"),
        // It asks before every command that it does not know to be harmless, and before every edit.
        Permissions::Ask => (Some("workspace-write"), "untrusted"),
    }
}

/// The first messages. Codex reads one after another, so they need not wait for answers.
pub(super) fn opening(asked: &Request<'_>) -> Vec<Frame> {
    let client = json!({ "name": "longhaul", "title": "Longhaul", "version": env!("CARGO_PKG_VERSION") });
    let capabilities = json!({ "optOutNotificationMethods": NOT_TOLD });
    let initialize = request(INITIALIZE, "initialize", json!({ "clientInfo": client, "capabilities": capabilities }));
    let terms = Terms {
        resumes: asked.resume.is_some(),
        asks: asked.permissions == Permissions::Ask,
        form: asked.schema.is_some(),
    };
    let mut params = Map::new();
    let mut set = |name: &str, value: Value| drop(params.insert(name.to_owned(), value));
    let (sandbox, approvals) = bounds(asked.permissions);
    set("approvalPolicy", json!(approvals));
    for (name, value) in [("sandbox", sandbox), ("model", asked.model), ("developerInstructions", asked.system)] {
        if let Some(value) = value {
            set(name, json!(value));
        }
    }
    if !asked.cwd.is_empty() {
        set("cwd", json!(asked.cwd));
    }
    if let Some(effort) = asked.effort {
        set("config", json!({ "model_reasoning_effort": effort }));
    }
    let method = match asked.resume {
        None => "thread/start",
        Some(thread) => {
            set("threadId", json!(thread));
            // What was said before is not told again.
            set("excludeTurns", json!(true));
            "thread/resume"
        }
    };
    vec![
        Frame::line(INITIALIZE, &initialize),
        Frame::line("initialized", &json!({ "method": "initialized" })),
        Frame::line("thread", &request(&terms.id(), method, params.into())),
    ]
}

fn turn(id: &str, thread: Option<&str>, text: &str) -> Value {
    let input = json!([{ "type": "text", "text": text }]);
    request(id, "turn/start", json!({ "threadId": thread, "input": input }))
}

/// The prompt, once its thread is known.
pub(super) fn prompt(text: &str, schema: Option<&Value>) -> Prepared {
    let mut message = turn(PROMPT, None, text);
    if let Some(schema) = schema {
        message["params"]["outputSchema"] = schema.clone();
    }
    Prepared { id: PROMPT.to_owned(), message }
}

/// A person's message: a part of the turn that is open, else a turn of its own. Codex names it by the id when it takes
/// it.
pub(super) fn input(thread: &str, input_id: &str, text: &str) -> Vec<u8> {
    let mut message = turn(&format!("{INPUT}{input_id}"), Some(thread), text);
    message["params"]["clientUserMessageId"] = json!(input_id);
    line(&message)
}

/// The protocol's own cancel.
pub(super) fn interrupt(thread: &str, turn: &str) -> Vec<u8> {
    line(&request(INTERRUPT, "turn/interrupt", json!({ "threadId": thread, "turnId": turn })))
}

/// The answer to a request that nobody here can answer.
pub(super) fn refused(id: &Value, method: &str) -> Value {
    let message = format!("this client does not answer {}", crate::shape::short(method));
    json!({ "id": id, "error": { "code": NO_METHOD, "message": message } })
}

/// The answer to a request.
pub(super) fn answered(id: &Value, result: &Value) -> Value {
    json!({ "id": id, "result": result })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_term_comes_back_in_the_id() {
        for resumes in [false, true] {
            for (asks, form) in [(false, false), (false, true), (true, false), (true, true)] {
                let terms = Terms { resumes, asks, form };
                assert_eq!(Terms::of_id(&terms.id()), Some(terms));
            }
        }
        for id in ["", "prompt", "start.form.ask", "resume.", "input/1"] {
            assert_eq!(Terms::of_id(id), None, "{id}");
        }
    }
}
