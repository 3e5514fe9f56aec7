//! A server, a model that says what a test tells it to, and what is made of a log.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::support::model_server::{Agent, ModelServer};
use super::support::{Server, assert_log, assert_no_process};

/// A prompt that a careless command line would take for an option.
pub const PROMPT: &str = "--version\nsay \"it\" in ünïcode, $HOME `id`\n\n-- ";

/// Each id by the order in which it was first seen, so that logs of two runs can be compared.
#[derive(Default)]
pub struct Names(HashMap<String, String>);

impl Names {
    pub fn mask(&mut self, value: &mut Value, kind: &str) {
        if let Some(text) = value.as_str() {
            let next = format!("{kind}{}", self.0.len() + 1);
            *value = json!(self.0.entry(text.to_owned()).or_insert(next));
        }
    }
}

/// What the agent said: everything between the start of its process and its exit, without ids of chance.
pub fn said(events: &[Value]) -> Vec<Value> {
    let mut names = Names::default();
    let begin = events.iter().position(|e| e["type"] == "run.started").unwrap() + 1;
    let end = events.iter().position(|e| e["type"] == "process.exited").unwrap();
    let mask = |event: &Value| {
        let mut data = event["data"].clone();
        for (name, kind) in [("message_id", "m"), ("call_id", "c"), ("source_session_id", "s")] {
            if let Some(id) = data.get_mut(name) {
                names.mask(id, kind);
            }
        }
        json!([event["type"], data])
    };
    events[begin..end].iter().map(mask).collect()
}

pub struct Stage {
    pub server: Server,
    pub model: ModelServer,
}

impl Stage {
    pub async fn new() -> Self {
        Self { server: Server::start().await, model: ModelServer::start() }
    }

    /// Starts a run whose model says `turns`; whether the program is there.
    pub async fn start(&self, agent: Agent, id: &str, turns: &Value) -> bool {
        let url = self.model.script(id, turns).await;
        let Some(body) = agent.request(id, self.server.dir.path(), &url, PROMPT) else { return false };
        let (status, answer) = self.server.post("/v1/runs", &body).await;
        assert_eq!(status, 201, "{answer}");
        true
    }

    /// Runs it to its end: its snapshot and its log.
    pub async fn run(&self, agent: Agent, id: &str, turns: &Value) -> Option<(Value, Vec<Value>)> {
        if !self.start(agent, id, turns).await {
            return None;
        }
        let run = self.server.end(id).await;
        let events = self.server.events(id).await;
        assert_log(&events);
        assert_no_process(&self.server.data()).await;
        Some((run, events))
    }
}

pub fn assert_completed(run: &Value, text: &str) {
    let told = [&run["status"], &run["reason"], &run["output_text"], &run["error"], &run["unknown_lines"]];
    assert_eq!(told, [&json!("completed"), &json!("verdict"), &json!(text), &Value::Null, &json!(0)], "{run}");
    assert!(run["source_session_id"].is_string(), "{run}");
}

pub fn text_turns() -> Value {
    let usage = json!({ "input": 1000, "output": 50, "cached": 400, "reasoning": 10 });
    json!([{ "reasoning": "Let me think.", "text": ["Hel", "lo ", "wörld"], "usage": usage }])
}

/// Whether it tells a call when it begins, and not only when it is over.
pub const fn tells_open_calls(agent: Agent) -> bool {
    !matches!(agent, Agent::Kimi | Agent::OpenCode)
}

/// The agent's calls and what came of them.
pub fn tools(events: &[Value]) -> Vec<Value> {
    said(events).into_iter().filter(|event| event[0].as_str().unwrap().starts_with("tool.")).collect()
}

pub const TOOL: &str = "exec 2>&1; echo hi-from-tool; echo err >&2; exit 3";

pub fn tool_turns(agent: Agent) -> Value {
    json!([{ "text": "I run it.", "tools": [agent.shell(TOOL)] }, { "text": "Done." }])
}

/// A schema as Chat Completions has it in `response_format`.
pub fn form() -> Value {
    let schema = json!({
        "type": "object",
        "properties": { "answer": { "type": "string" }, "n": { "type": "integer" } },
        "required": ["answer", "n"],
        "additionalProperties": false,
    });
    json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": schema, "strict": true } })
}
