//! The real agent programs, through the real server: what they say becomes the right events, success is their own word,
//! a cancel reaches their tools.

mod support;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use support::little::{Little, SECRET};
use support::model_server::{Agent, ModelServer};
use support::proc::{shim_of, signal, start_time};
use support::{Server, assert_log, assert_no_process, until};

/// A prompt that a careless command line would take for an option.
const PROMPT: &str = "--version\nsay \"it\" in ünïcode, $HOME `id`\n\n-- ";

/// Each id by the order in which it was first seen, so that logs of two runs can be compared.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    fn mask(&mut self, value: &mut Value, kind: &str) {
        if let Some(text) = value.as_str() {
            let next = format!("{kind}{}", self.0.len() + 1);
            *value = json!(self.0.entry(text.to_owned()).or_insert(next));
        }
    }
}

/// What the agent said: everything between the start of its process and its exit, without ids of chance.
fn said(events: &[Value]) -> Vec<Value> {
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

struct Stage {
    server: Server,
    model: ModelServer,
}

impl Stage {
    async fn new() -> Self {
        Self { server: Server::start().await, model: ModelServer::start() }
    }

    /// Starts a run whose model says `turns`; whether the program is there.
    async fn start(&self, agent: Agent, id: &str, turns: &Value) -> bool {
        let url = self.model.script(id, turns).await;
        let Some(body) = agent.request(id, self.server.dir.path(), &url, PROMPT) else { return false };
        let (status, answer) = self.server.post("/v1/runs", &body).await;
        assert_eq!(status, 201, "{answer}");
        true
    }

    /// Runs it to its end: its snapshot and its log.
    async fn run(&self, agent: Agent, id: &str, turns: &Value) -> Option<(Value, Vec<Value>)> {
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

/// What Codex says first, because it does not know the scripted model.
fn codex_opening() -> [Value; 2] {
    let text = "Model metadata for `scripted` not found. Defaulting to fallback metadata; this can degrade performance \
                and cause issues.";
    [json!(["session.bound", { "source_session_id": "s1" }]), json!(["warning", { "code": "source", "message": text }])]
}

fn assert_completed(run: &Value, text: &str) {
    let told = [&run["status"], &run["reason"], &run["output_text"], &run["error"], &run["unknown_lines"]];
    assert_eq!(told, [&json!("completed"), &json!("verdict"), &json!(text), &Value::Null, &json!(0)], "{run}");
    assert!(run["source_session_id"].is_string(), "{run}");
}

fn text_turns() -> Value {
    let usage = json!({ "input": 1000, "output": 50, "cached": 400, "reasoning": 10 });
    json!([{ "reasoning": "Let me think.", "text": ["Hel", "lo ", "wörld"], "usage": usage }])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_gives_text_reasoning_usage_and_cost() {
    let stage = Stage::new().await;
    let Some((run, events)) = stage.run(Agent::Claude, "text", &text_turns()).await else { return };
    assert_completed(&run, "Hello wörld");
    let usage = json!({
        "input_tokens": 600, "output_tokens": 50, "cache_read_tokens": 400, "cache_write_tokens": 0, "reasoning_tokens": 0
    });
    let cost = json!({ "usd": 0.00348, "provenance": "estimate" });
    assert_eq!((&run["usage"], &run["cost"]), (&usage, &cost));
    let mut reported = usage;
    reported.as_object_mut().unwrap().extend(
        json!({ "scope": "run", "cost": cost, "cost_scope": "session", "model": "claude-opus-5-5" })
            .as_object()
            .unwrap()
            .clone(),
    );
    let delta = |text: &str| json!(["message.delta", { "message_id": "m3", "text": text }]);
    let want = [
        json!(["session.bound", { "source_session_id": "s1" }]),
        json!(["reasoning.delta", { "message_id": "m2", "text": "Let me think." }]),
        delta("Hel"),
        delta("lo "),
        delta("wörld"),
        json!(["message.completed", { "message_id": "m3", "text": "Hello wörld" }]),
        json!(["usage.reported", reported]),
        json!(["verdict.reported", { "success": true }]),
    ];
    assert_eq!(said(&events), want);
    let asked = stage.model.bodies("text").await;
    assert!(asked[0]["body"]["messages"].to_string().contains(json!(PROMPT.trim_end()).to_string().trim_matches('"')));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_gives_text_reasoning_and_usage() {
    let stage = Stage::new().await;
    let Some((run, events)) = stage.run(Agent::Codex, "text", &text_turns()).await else { return };
    assert_completed(&run, "Hello wörld");
    let usage = json!({
        "input_tokens": 600, "output_tokens": 50, "cache_read_tokens": 400, "cache_write_tokens": 0, "reasoning_tokens": 10
    });
    assert_eq!((&run["usage"], &run["cost"]), (&usage, &Value::Null), "a cost that is unknown stays unknown");
    let mut reported = usage;
    reported["scope"] = json!("session");
    let want = [
        &codex_opening()[..],
        &[
            json!(["reasoning.delta", { "message_id": "m2", "text": "Let me think." }]),
            json!(["message.delta", { "message_id": "m3", "text": "Hel" }]),
            json!(["message.delta", { "message_id": "m3", "text": "lo " }]),
            json!(["message.delta", { "message_id": "m3", "text": "wörld" }]),
            json!(["message.completed", { "message_id": "m3", "text": "Hello wörld" }]),
            json!(["usage.reported", reported]),
            json!(["verdict.reported", { "success": true }]),
        ],
    ]
    .concat();
    assert_eq!(said(&events), want);
    let asked = stage.model.bodies("text").await;
    assert!(asked[0]["body"]["input"].to_string().contains(json!(PROMPT.trim_end()).to_string().trim_matches('"')));
}

/// The same without the notes that Gemini writes to stderr in every run.
fn said_by_gemini(events: &[Value]) -> Vec<Value> {
    said(events).into_iter().filter(|e| e[0] != "output.line" || e[1]["stream"] != "stderr").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gemini_gives_text_and_usage() {
    let stage = Stage::new().await;
    let Some((run, events)) = stage.run(Agent::Gemini, "text", &text_turns()).await else { return };
    assert_completed(&run, "Hello wörld");
    let usage = json!({
        "input_tokens": 600, "output_tokens": 50, "cache_read_tokens": 400, "cache_write_tokens": null, "reasoning_tokens": null
    });
    for (name, tokens) in usage.as_object().unwrap() {
        assert_eq!(run["usage"].get(name).unwrap_or(&Value::Null), tokens, "{name}: {run}");
    }
    assert_eq!(run["cost"], Value::Null);
    let delta = |text: &str| json!(["message.delta", { "message_id": "m2", "text": text }]);
    let reported = json!({
        "scope": "run", "input_tokens": 600, "output_tokens": 50, "cache_read_tokens": 400, "model": "gemini-2.5-flash"
    });
    let want = [
        json!(["session.bound", { "source_session_id": "s1" }]),
        delta("Hel"),
        delta("lo "),
        delta("wörld"),
        json!(["usage.reported", reported]),
        json!(["verdict.reported", { "success": true }]),
    ];
    assert_eq!(said_by_gemini(&events), want);
    let asked = stage.model.bodies("text").await;
    assert!(asked[0]["body"]["contents"].to_string().contains(json!(PROMPT.trim_end()).to_string().trim_matches('"')));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kimi_gives_text_and_no_tokens() {
    let stage = Stage::new().await;
    let Some((run, events)) = stage.run(Agent::Kimi, "text", &text_turns()).await else { return };
    assert_completed(&run, "Hello wörld");
    assert_eq!((&run["usage"], &run["cost"]), (&Value::Null, &Value::Null), "what is unknown stays unknown");
    let want = [
        json!(["message.completed", { "message_id": "m1", "text": "Hello wörld" }]),
        json!(["session.bound", { "source_session_id": "s2" }]),
        json!(["verdict.reported", { "success": true }]),
    ];
    assert_eq!(said(&events), want);
    let asked = stage.model.bodies("text").await;
    assert!(asked[0]["body"]["messages"].to_string().contains(json!(PROMPT.trim_end()).to_string().trim_matches('"')));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pi_gives_text_reasoning_usage_and_cost() {
    let stage = Stage::new().await;
    let Some((run, events)) = stage.run(Agent::Pi, "text", &text_turns()).await else { return };
    assert_completed(&run, "Hello wörld");
    let usage = json!({ "input_tokens": 600, "output_tokens": 50, "cache_read_tokens": 400, "cache_write_tokens": 0 });
    let cost = json!({ "usd": 0.000_739_999_999_999_999_9, "provenance": "estimate" });
    assert_eq!((&run["usage"], &run["cost"]), (&usage, &cost));
    let mut reported = usage;
    let more = json!({ "scope": "step", "cost": cost, "model": "scripted" });
    reported.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let delta = |text: &str| json!(["message.delta", { "message_id": "m3", "text": text }]);
    let want = [
        json!(["session.bound", { "source_session_id": "s1" }]),
        json!(["reasoning.delta", { "message_id": "m2", "text": "Let me think." }]),
        delta("Hel"),
        delta("lo "),
        delta("wörld"),
        json!(["message.completed", { "message_id": "m3", "text": "Hello wörld" }]),
        json!(["usage.reported", reported]),
        json!(["verdict.reported", { "success": true }]),
    ];
    assert_eq!(said(&events), want);
    let asked = stage.model.bodies("text").await;
    assert!(asked[0]["body"]["messages"].to_string().contains(json!(PROMPT.trim_end()).to_string().trim_matches('"')));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_gives_text_reasoning_usage_and_cost() {
    let stage = Stage::new().await;
    let Some((run, events)) = stage.run(Agent::OpenCode, "text", &text_turns()).await else { return };
    assert_completed(&run, "Hello wörld");
    let usage = json!({
        "input_tokens": 600, "output_tokens": 50, "cache_read_tokens": 400, "cache_write_tokens": 0, "reasoning_tokens": 10
    });
    let cost = json!({ "usd": 0.0007, "provenance": "estimate" });
    assert_eq!((&run["usage"], &run["cost"]), (&usage, &cost));
    let mut reported = usage;
    reported.as_object_mut().unwrap().extend(json!({ "scope": "step", "cost": cost }).as_object().unwrap().clone());
    let want = [
        json!(["session.bound", { "source_session_id": "s1" }]),
        json!(["reasoning.delta", { "message_id": "m2", "text": "Let me think." }]),
        json!(["message.completed", { "message_id": "m3", "text": "Hello wörld" }]),
        json!(["usage.reported", reported]),
        json!(["verdict.reported", { "success": true }]),
    ];
    assert_eq!(said(&events), want);
    let asked = turns_asked(&stage, "text").await;
    assert!(asked[0]["messages"].to_string().contains(json!(PROMPT.trim_end()).to_string().trim_matches('"')));
}

/// The requests that offered tools: opencode asks for a title besides.
async fn turns_asked(stage: &Stage, id: &str) -> Vec<Value> {
    let asked = stage.model.bodies(id).await;
    asked.into_iter().map(|mut one| one["body"].take()).filter(|body| body["tools"].is_array()).collect()
}

/// Whether it tells a call when it begins, and not only when it is over.
const fn tells_open_calls(agent: Agent) -> bool {
    !matches!(agent, Agent::Kimi | Agent::OpenCode)
}

/// The agent's calls and what came of them.
fn tools(events: &[Value]) -> Vec<Value> {
    said(events).into_iter().filter(|event| event[0].as_str().unwrap().starts_with("tool.")).collect()
}

const TOOL: &str = "exec 2>&1; echo hi-from-tool; echo err >&2; exit 3";

fn tool_turns(agent: Agent) -> Value {
    json!([{ "text": "I run it.", "tools": [agent.shell(TOOL)] }, { "text": "Done." }])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_gives_tool_calls_and_results() {
    let stage = Stage::new().await;
    let Some((run, events)) = stage.run(Agent::Claude, "tool", &tool_turns(Agent::Claude)).await else { return };
    assert_completed(&run, "I run it.\n\nDone.");
    assert_eq!(run["tool_calls"], 1);
    let arguments = json!({ "command": TOOL, "description": "run a command" });
    let want = [
        json!(["tool.called", { "call_id": "c3", "name": "Bash", "arguments": arguments }]),
        json!(["tool.completed", { "call_id": "c3", "result": "Exit code 3\nhi-from-tool\nerr", "is_error": true }]),
    ];
    assert_eq!(tools(&events), want);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_gives_tool_calls_and_results() {
    let stage = Stage::new().await;
    let Some((run, events)) = stage.run(Agent::Codex, "tool", &tool_turns(Agent::Codex)).await else { return };
    assert_completed(&run, "I run it.\n\nDone.");
    assert_eq!(run["tool_calls"], 1);
    let arguments = json!({ "command": format!("/bin/bash -lc '{TOOL}'") });
    let result = json!({ "aggregated_output": "hi-from-tool\nerr\n", "exit_code": 3, "status": "failed" });
    let want = [
        json!(["tool.called", { "call_id": "c3", "name": "command_execution", "arguments": arguments }]),
        json!(["tool.completed", { "call_id": "c3", "result": result, "is_error": true }]),
    ];
    assert_eq!(tools(&events), want);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gemini_gives_tool_calls_and_results() {
    let stage = Stage::new().await;
    let Some((run, events)) = stage.run(Agent::Gemini, "tool", &tool_turns(Agent::Gemini)).await else { return };
    assert_completed(&run, "I run it.\n\nDone.");
    assert_eq!(run["tool_calls"], 1);
    let arguments = json!({ "command": TOOL, "description": "run a command", "is_background": false });
    // Status 3 is a success to gemini.
    let result = json!({ "output": "hi-from-tool\nerr", "status": "success" });
    let want = [
        json!(["tool.called", { "call_id": "c3", "name": "run_shell_command", "arguments": arguments }]),
        json!(["tool.completed", { "call_id": "c3", "result": result, "is_error": false }]),
    ];
    assert_eq!(tools(&events), want);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kimi_gives_tool_calls_and_results() {
    let stage = Stage::new().await;
    let Some((run, events)) = stage.run(Agent::Kimi, "tool", &tool_turns(Agent::Kimi)).await else { return };
    assert_completed(&run, "I run it.\n\nDone.");
    assert_eq!(run["tool_calls"], 1);
    let arguments = json!({ "command": TOOL, "description": "run a command" });
    let result = "hi-from-tool\nerr\nCommand failed with exit code: 3.";
    let want = [
        json!(["tool.called", { "call_id": "c2", "name": "Bash", "arguments": arguments }]),
        json!(["tool.completed", { "call_id": "c2", "result": result, "is_error": false }]),
    ];
    assert_eq!(tools(&events), want);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pi_gives_tool_calls_and_results() {
    let stage = Stage::new().await;
    let Some((run, events)) = stage.run(Agent::Pi, "tool", &tool_turns(Agent::Pi)).await else { return };
    assert_completed(&run, "I run it.\n\nDone.");
    assert_eq!(run["tool_calls"], 1);
    let arguments = json!({ "command": TOOL, "description": "run a command" });
    let text = "hi-from-tool\nerr\n\n\nCommand exited with code 3";
    let result = json!({ "content": [{ "type": "text", "text": text }], "details": {} });
    let want = [
        json!(["tool.called", { "call_id": "c3", "name": "bash", "arguments": arguments }]),
        json!(["tool.completed", { "call_id": "c3", "result": result, "is_error": true }]),
    ];
    assert_eq!(tools(&events), want);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_gives_tool_calls_and_results() {
    let stage = Stage::new().await;
    let Some((run, events)) = stage.run(Agent::OpenCode, "tool", &tool_turns(Agent::OpenCode)).await else { return };
    assert_completed(&run, "I run it.\n\nDone.");
    assert_eq!(run["tool_calls"], 1);
    let arguments = json!({ "command": TOOL, "description": "run a command" });
    let metadata = json!({ "exit": 3, "truncated": false });
    let result = json!({ "status": "completed", "output": "hi-from-tool\nerr\n", "metadata": metadata });
    let want = [
        json!(["tool.called", { "call_id": "c3", "name": "bash", "arguments": arguments }]),
        json!(["tool.completed", { "call_id": "c3", "result": result, "is_error": true }]),
    ];
    assert_eq!(tools(&events), want);
}

/// A provider's error is a failure with the program's own words, whatever its exit status.
async fn a_provider_fails(agent: Agent, status_of_exit: i32, messages: [&str; 2]) {
    let stage = Stage::new().await;
    for ((status, text), message) in
        [(500, "the provider broke"), (400, "your request is bad")].into_iter().zip(messages)
    {
        let id = format!("e{status}");
        let turns = json!([{ "error": status, "message": text }]);
        let Some((run, events)) = stage.run(agent, &id, &turns).await else { return };
        let told = [&run["status"], &run["error"]["code"], &run["output_text"], &run["exit"]];
        assert_eq!(
            told,
            [&json!("failed"), &json!("upstream"), &json!(""), &json!({ "code": status_of_exit })],
            "{run}"
        );
        let said_message = run["error"]["message"].as_str().unwrap();
        assert!(said_message.starts_with(message), "{said_message}");
        let said = said(&events);
        let verdict = json!({ "success": false, "error": { "code": "upstream", "message": said_message } });
        assert_eq!(said.last(), Some(&json!(["verdict.reported", verdict])));
        assert!(said.contains(&json!(["warning", { "code": "upstream", "message": said_message }])));
        let retried = said.iter().any(|event| event[1]["code"] == "retry");
        assert_eq!(retried, status == 500, "the program's retries are told: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_tells_of_a_providers_error() {
    a_provider_fails(Agent::Claude, 1, ["API Error: 500 the provider broke", "API Error: 400 your request is bad"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_tells_of_a_providers_error() {
    let bad = r#"{"error":{"message":"your request is bad","type":"invalid_request_error","code":null}}"#;
    a_provider_fails(Agent::Codex, 0, ["We’re currently experiencing high demand", bad]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gemini_tells_of_a_providers_error() {
    let stage = Stage::new().await;
    for (status, code) in [(400, "upstream"), (401, "not_logged_in"), (429, "rate_limited"), (500, "upstream")] {
        let id = format!("e{status}");
        let turns = json!([{ "error": status, "message": "the provider said no" }]);
        let Some((run, events)) = stage.run(Agent::Gemini, &id, &turns).await else { return };
        // Its exit status is the provider's, modulo 256.
        let told = [&run["status"], &run["error"]["code"], &run["output_text"], &run["exit"], &run["usage"]];
        let exit = json!({ "code": status % 256 });
        assert_eq!(told, [&json!("failed"), &json!(code), &json!(""), &exit, &Value::Null], "{run}");
        let said_message = run["error"]["message"].as_str().unwrap();
        assert!(said_message.contains("the provider said no"), "{said_message}");
        let verdict = json!({ "success": false, "error": { "code": code, "message": said_message } });
        assert!(said(&events).contains(&json!(["verdict.reported", verdict])));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kimi_tells_of_a_providers_error() {
    let stage = Stage::new().await;
    for (status, code) in [(400, "upstream"), (401, "not_logged_in"), (429, "rate_limited"), (500, "upstream")] {
        let id = format!("e{status}");
        let turns = json!([{ "error": status, "message": "the provider said no" }]);
        let Some((run, events)) = stage.run(Agent::Kimi, &id, &turns).await else { return };
        let told = [&run["status"], &run["error"]["code"], &run["output_text"], &run["exit"], &run["usage"]];
        assert_eq!(told, [&json!("failed"), &json!(code), &json!(""), &json!({ "code": 1 }), &Value::Null], "{run}");
        let said_message = run["error"]["message"].as_str().unwrap();
        assert!(said_message.ends_with(&format!(": {status} the provider said no")), "{said_message}");
        let said = said(&events);
        let verdict = json!({ "success": false, "error": { "code": code, "message": said_message } });
        assert!(said.contains(&json!(["verdict.reported", verdict])), "{said:?}");
        let retried = said.iter().any(|event| event[1]["code"] == "retry");
        assert_eq!(retried, status == 429 || status == 500, "the program's retries are told: {said:?}");
    }
}

/// What the harness plans for a session to go on with is what the program takes.
async fn it_goes_on_with_its_session(agent: Agent, good: &str) {
    let stage = Stage::new().await;
    let turns = json!([{ "text": "Hello Ada." }]);
    let Some((run, _)) = stage.run(agent, "first", &turns).await else { return };
    let session = run["source_session_id"].as_str().unwrap();
    let url = stage.model.script("again", &json!([{ "text": "You are Ada." }])).await;
    let dir = stage.server.dir.path();
    let told = agent.request("first", dir, &url, "").unwrap();
    let request = longhaul_harness::Request {
        model: told["model"].as_str(),
        prompt: Some("Who am I?"),
        resume: Some(session),
        ..longhaul_harness::Request::default()
    };
    let plan = longhaul_harness::find(agent.name()).unwrap().plan(&request).unwrap();
    assert_eq!(plan.source_session_id.as_deref(), Some(session));
    let env = told["env"].as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.as_str().unwrap()));
    std::fs::write(dir.join("prompt"), plan.stdin.as_deref().unwrap_or_default()).unwrap();
    let mut command = std::process::Command::new(support::tool(agent.name()).unwrap());
    command.args(&plan.args).env_clear().envs(env).envs(plan.env.iter().map(|(name, value)| (name, value)));
    command.current_dir(run["cwd"].as_str().unwrap()).stdin(std::fs::File::open(dir.join("prompt")).unwrap());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains(good) && printed.contains(session), "{printed}");
    let asked = stage.model.bodies("again").await;
    let body = asked[0]["body"].to_string();
    for text in [json!(PROMPT.trim_end()).to_string().trim_matches('"'), "Hello Ada.", "Who am I?"] {
        assert!(body.contains(text), "the model is not told {text}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gemini_goes_on_with_its_session() {
    it_goes_on_with_its_session(Agent::Gemini, r#""status":"success""#).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kimi_goes_on_with_its_session() {
    it_goes_on_with_its_session(Agent::Kimi, "session.resume_hint").await;
}

/// It tries for more than a minute after a 500, and says nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_tells_of_a_providers_error() {
    let stage = Stage::new().await;
    for (status, code) in [(400, "upstream"), (401, "not_logged_in")] {
        let id = format!("e{status}");
        let turns = json!([{ "error": status, "message": "your request is bad" }]);
        let Some((run, events)) = stage.run(Agent::OpenCode, &id, &turns).await else { return };
        let told = [&run["status"], &run["error"]["code"], &run["output_text"], &run["exit"]];
        assert_eq!(told, [&json!("failed"), &json!(code), &json!(""), &json!({ "code": 1 })], "{run}");
        let message = run["error"]["message"].as_str().unwrap();
        assert!(message.contains("your request is bad"), "{message}");
        let verdict = json!({ "success": false, "error": { "code": code, "message": message } });
        assert_eq!(said(&events).last(), Some(&json!(["verdict.reported", verdict])));
    }
}

/// The server is killed while a tool of opencode runs: the agent goes on, and the next server reads on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_outlives_a_kill_of_the_server() {
    let mut stage = Stage::new().await;
    let (marker, go) = (stage.server.dir.path().join("marker"), stage.server.dir.path().join("go"));
    let tool = format!("echo $$ > {}; while ! test -e {}; do sleep 0.1; done", marker.display(), go.display());
    let turns = json!([{ "text": "I wait.", "tools": [Agent::OpenCode.shell(&tool)] }, { "text": "Done." }]);
    if !stage.start(Agent::OpenCode, "kill", &turns).await {
        return;
    }
    let tool: i32 = until("the tool to run", async || std::fs::read_to_string(&marker).ok()?.trim().parse().ok()).await;
    stage.server.kill9();
    assert!(start_time(tool).is_some(), "the tool goes on");
    std::fs::write(&go, "").unwrap();
    until("the tool to end", async || start_time(tool).is_none().then_some(())).await;
    stage.server.up().await;
    let run = stage.server.end("kill").await;
    assert_completed(&run, "I wait.\n\nDone.");
    assert_eq!((&run["attempts"], &run["tool_calls"]), (&json!(1), &json!(1)), "{run}");
    let events = stage.server.events("kill").await;
    assert_log(&events);
    assert_eq!(events.iter().filter(|event| event["type"] == "run.adopted").count(), 1);
    let kinds: Vec<_> = said(&events).iter().map(|event| event[0].as_str().unwrap().to_owned()).collect();
    for kind in ["session.bound", "tool.called", "tool.completed", "verdict.reported"] {
        assert_eq!(kinds.iter().filter(|one| *one == kind).count(), 1, "{kind} once: {kinds:?}");
    }
    assert_eq!(turns_asked(&stage, "kill").await.len(), 2);
    assert_no_process(&stage.server.data()).await;
}

/// Pi exits with status 0 after each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pi_tells_of_a_providers_error() {
    let stage = Stage::new().await;
    for (status, code) in [(400, "upstream"), (401, "not_logged_in")] {
        let id = format!("e{status}");
        let turns = json!([{ "error": status, "message": "your request is bad" }]);
        let Some((run, events)) = stage.run(Agent::Pi, &id, &turns).await else { return };
        let told = [&run["status"], &run["error"]["code"], &run["output_text"], &run["exit"]];
        assert_eq!(told, [&json!("failed"), &json!(code), &json!(""), &json!({ "code": 0 })], "{run}");
        let message = format!("{status} your request is bad");
        let verdict = json!({ "success": false, "error": { "code": code, "message": message } });
        assert_eq!(said(&events).last(), Some(&json!(["verdict.reported", verdict])));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_pi_lost_is_discarded() {
    let stage = Stage::new().await;
    let turns = json!([{ "text": ["This ", "is ", "cut ", "off."], "drop": 4 }, { "text": "Whole." }]);
    let Some((run, events)) = stage.run(Agent::Pi, "drop", &turns).await else { return };
    assert_completed(&run, "Whole.");
    let kinds: Vec<_> = said(&events).iter().map(|event| event[0].as_str().unwrap().to_owned()).collect();
    let lost = kinds.iter().position(|kind| kind == "message.discarded").expect("a discarded message");
    assert_eq!((&*kinds[lost - 2], &*kinds[lost - 1]), ("message.delta", "warning"), "{kinds:?}");
}

/// A cancel in a tool call reaches the tool, which has left the agent's process group and session.
async fn a_cancel_reaches_the_tool(agent: Agent, exit: Value) {
    let stage = Stage::new().await;
    let marker = stage.server.dir.path().join("marker");
    let tool = format!("echo $$ > {}; sleep 1000; echo woke", marker.display());
    let turns = json!([{ "text": "I sleep.", "tools": [agent.shell(&tool)] }, { "text": "never said" }]);
    if !stage.start(agent, "cancel", &turns).await {
        return;
    }
    let server = &stage.server;
    let tool: i32 = until("the tool to run", async || std::fs::read_to_string(&marker).ok()?.trim().parse().ok()).await;
    if tells_open_calls(agent) {
        until("the call to be told", async || (server.run("cancel").await["tool_calls"] == 1).then_some(())).await;
    } else {
        until("the text to be told", async || (server.run("cancel").await["output_text"] != "").then_some(())).await;
    }
    assert!(start_time(tool).is_some());
    let (status, answer) = server.post("/v1/runs/cancel/cancel?wait_ms=30000", &json!({ "reason": "enough" })).await;
    assert_eq!((status, &answer["terminal"], &answer["requested"]), (200, &json!(true), &json!(true)), "{answer}");
    assert_eq!(start_time(tool), None, "when the cancel is proven the tool is gone");
    let run = server.run("cancel").await;
    let told = [&run["status"], &run["reason"], &run["exit"], &run["error"], &run["output_text"]];
    assert_eq!(told, [&json!("cancelled"), &json!("api"), &exit, &Value::Null, &json!("I sleep.")], "{run}");
    let events = server.events("cancel").await;
    assert_log(&events);
    let exited = events.iter().find(|e| e["type"] == "process.exited").unwrap();
    assert_eq!((&exited["data"]["stop"], exited["data"].get("unkilled")), (&json!("cancel"), None));
    assert_eq!(turns_asked(&stage, "cancel").await.len(), 1, "the model is not asked again");
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_claudes_tool() {
    // Its own interrupt, then the end of input after the result.
    a_cancel_reaches_the_tool(Agent::Claude, json!({ "code": 1 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_codexs_tool() {
    // Its own interrupt, then the end of input; INT would be 1.
    a_cancel_reaches_the_tool(Agent::Codex, json!({ "code": 0 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_geminis_tool() {
    a_cancel_reaches_the_tool(Agent::Gemini, json!({ "code": 0 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_opencodes_tool() {
    // It leaves its tool behind when it dies of TERM; the shim does not.
    a_cancel_reaches_the_tool(Agent::OpenCode, json!({ "signal": 15 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_pis_tool() {
    // Its own abort, then the end of input; TERM would be 143.
    a_cancel_reaches_the_tool(Agent::Pi, json!({ "code": 0 })).await;
}

/// A run of the real claude that asks; `None` if it is not installed.
async fn it_asks(stage: &Stage, id: &str, turns: &Value) -> Option<Value> {
    let url = stage.model.script(id, turns).await;
    let mut body = Agent::Claude.request(id, stage.server.dir.path(), &url, PROMPT)?;
    body["permissions"] = json!("ask");
    let (status, answer) = stage.server.post("/v1/runs", &body).await;
    assert_eq!(status, 201, "{answer}");
    Some(answer)
}

/// Waits until the run asks its question of this number.
async fn asked(server: &Server, id: &str, number: &str) -> Value {
    until("a question", async || {
        let run = server.run(id).await;
        assert!(!support::is_terminal(&run), "it ended before it asked: {run}");
        run["approvals"].as_array().unwrap().iter().find(|one| one["approval_id"] == number).cloned()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_asks_and_does_what_it_is_allowed_over_a_killed_server() {
    let mut stage = Stage::new().await;
    let turns = json!([
        { "text": "One.", "tools": [Agent::Claude.shell("touch allowed")] },
        { "text": "Two.", "tools": [Agent::Claude.shell("touch refused")] },
        { "text": "Done." },
    ]);
    let Some(created) = it_asks(&stage, "ask", &turns).await else { return };
    let cwd = std::path::PathBuf::from(created["cwd"].as_str().unwrap());
    let question = asked(&stage.server, "ask", "1").await;
    assert_eq!(question["tool"], "Bash");
    stage.server.kill9();
    stage.server.up().await;
    assert_eq!(asked(&stage.server, "ask", "1").await, question, "the next server has the same question");
    assert!(!cwd.join("allowed").exists());
    let body = json!({ "decision": "allow", "digest": question["digest"] });
    let (status, answer) = stage.server.post("/v1/runs/ask/approvals/1", &body).await;
    assert_eq!((status, &answer["decision"]), (200, &json!("allow")), "{answer}");
    asked(&stage.server, "ask", "2").await;
    assert!(cwd.join("allowed").exists(), "what was allowed is done");
    let body = json!({ "decision": "deny", "reason": "not today" });
    assert_eq!(stage.server.post("/v1/runs/ask/approvals/2", &body).await.0, 200);
    let run = stage.server.end("ask").await;
    assert_completed(&run, "One.\n\nTwo.\n\nDone.");
    assert!(!cwd.join("refused").exists(), "what was refused is not done");
    let events = stage.server.events("ask").await;
    assert_log(&events);
    let results: Vec<&Value> = events.iter().filter(|e| e["type"] == "tool.completed").map(|e| &e["data"]).collect();
    assert_eq!((&results[0]["is_error"], &results[1]["is_error"]), (&json!(false), &json!(true)));
    assert_eq!(results[1]["result"], "not today", "the agent is told why");
    let count = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    let counts = ["approval.requested", "approval.answered", "approval.delivered", "approval.withdrawn"].map(count);
    assert_eq!(counts, [2, 2, 2, 0]);
    assert_no_process(&stage.server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_takes_a_message_while_it_works() {
    let stage = Stage::new().await;
    let marker = stage.server.dir.path().join("go");
    let tool = format!("while ! [ -e {} ]; do sleep 0.1; done", marker.display());
    let turns =
        json!([{ "text": "I wait.", "tools": [Agent::Claude.shell(&tool)] }, { "text": "Done." }, { "text": "More." }]);
    if !stage.start(Agent::Claude, "input", &turns).await {
        return;
    }
    let server = &stage.server;
    until("the call to be told", async || (server.run("input").await["tool_calls"] == 1).then_some(())).await;
    let (status, answer) = server.post("/v1/runs/input/input", &json!({ "text": "Also say \"please\"." })).await;
    assert_eq!((status, &answer["delivery"]), (202, &json!("live")), "{answer}");
    until("it to have the message", async || {
        server.events("input").await.iter().any(|event| event["type"] == "input.delivered").then_some(())
    })
    .await;
    std::fs::write(&marker, "").unwrap();
    let run = server.end("input").await;
    assert_eq!((&run["status"], &run["unknown_lines"]), (&json!("completed"), &json!(0)), "{run}");
    let asked = stage.model.bodies("input").await;
    let told: Vec<bool> = asked.iter().map(|one| one["body"].to_string().contains("Also say")).collect();
    assert_eq!(told[..2], [false, true], "the model is told with the tool's result: {told:?}");
    assert_log(&server.events("input").await);
    assert_no_process(&server.data()).await;
}

/// A message with the last word makes a turn of its own, in which it may still ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_may_ask_after_its_result() {
    let stage = Stage::new().await;
    let turns = json!([
        { "text": "Slow.", "delay": 2 },
        { "text": "More.", "tools": [Agent::Claude.shell("touch late")] },
        { "text": "Done." },
    ]);
    let Some(created) = it_asks(&stage, "late", &turns).await else { return };
    let server = &stage.server;
    until("the model to be asked", async || (!stage.model.requests("late").await.is_empty()).then_some(())).await;
    assert_eq!(server.post("/v1/runs/late/input", &json!({ "text": "And more." })).await.0, 202);
    asked(server, "late", "1").await;
    assert_eq!(server.post("/v1/runs/late/approvals/1", &json!({ "decision": "allow" })).await.0, 200);
    let run = server.end("late").await;
    assert_completed(&run, "Slow.\n\nMore.\n\nDone.");
    assert!(std::path::Path::new(created["cwd"].as_str().unwrap()).join("late").exists());
    let verdicts = server.events("late").await.iter().filter(|e| e["type"] == "verdict.reported").count();
    assert_eq!(verdicts, 2);
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_uses_more_than_it_may_is_stopped_where_it_is() {
    let stage = Stage::new().await;
    for (id, limits, limit) in [
        ("tokens", json!({ "tokens_max": 119 }), "tokens_max"),
        ("cost", json!({ "cost_usd_max": 0.0001 }), "cost_usd_max"),
    ] {
        let turns = json!([{ "text": "I sleep.", "tools": [Agent::Pi.shell("sleep 1000")] }, { "text": "never said" }]);
        let url = stage.model.script(id, &turns).await;
        let Some(mut body) = Agent::Pi.request(id, stage.server.dir.path(), &url, PROMPT) else { return };
        body["limits"] = limits.clone();
        let (status, answer) = stage.server.post("/v1/runs", &body).await;
        assert_eq!(status, 201, "{answer}");
        let run = stage.server.end(id).await;
        assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("budget_exceeded")), "{run}");
        let events = stage.server.events(id).await;
        assert_log(&events);
        let at = events.iter().position(|e| e["type"] == "budget.exceeded").unwrap();
        assert_eq!(events[at - 1]["type"], "usage.reported", "the report and what it means are one commit");
        let told = &events[at]["data"];
        assert_eq!((&told["limit"], &told["max"]), (&json!(limit), &limits[limit]));
        assert!(told["used"].as_f64() > told["max"].as_f64(), "{told}");
        assert_eq!(stage.model.requests(id).await.len(), 1, "the model is not asked again");
        assert_no_process(&stage.server.data()).await;
        let (again, same) = stage.server.post("/v1/runs", &body).await;
        assert_eq!((again, &same["status"]), (200, &json!("failed")));
    }
    // Enough is no matter.
    let url = stage.model.script("enough", &tool_turns(Agent::Pi)).await;
    let mut body = Agent::Pi.request("enough", stage.server.dir.path(), &url, PROMPT).unwrap();
    body["limits"] = json!({ "tokens_max": 100_000, "cost_usd_max": 5 });
    assert_eq!(stage.server.post("/v1/runs", &body).await.0, 201);
    assert_completed(&stage.server.end("enough").await, "I run it.\n\nDone.");
    // Who tells of its use only at the end cannot be held to it.
    let (status, refused) = stage
        .server
        .post("/v1/runs", &json!({ "harness": "demo", "prompt": "x", "limits": { "tokens_max": 5 } }))
        .await;
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("limits.tokens_max")), "{refused}");
}

/// Kills the supervisor or the program itself inside a tool call: the run goes on in a second attempt, which says how, and
/// that nobody knows what became of the call.
async fn it_goes_on_after_a_loss(agent: Agent, rung: &str, tool: Option<&str>) {
    let stage = Stage::new().await;
    for (id, supervisor) in [("agent", false), ("shim", true)] {
        let marker = stage.server.dir.path().join(format!("marker-{id}"));
        let command = format!("echo $$ > {}; sleep 1000", marker.display());
        let turns = json!([{ "text": "I run it.", "tools": [agent.shell(&command)] }, { "text": "Done." }]);
        let url = stage.model.script(id, &turns).await;
        let Some(mut body) = agent.request(id, stage.server.dir.path(), &url, PROMPT) else { return };
        body["on_lost"] = json!("resume");
        let (status, answer) = stage.server.post("/v1/runs", &body).await;
        assert_eq!(status, 201, "{answer}");
        let server = &stage.server;
        let sleeper: i32 =
            until("the tool to run", async || std::fs::read_to_string(&marker).ok()?.trim().parse().ok()).await;
        if tool.is_some() {
            until("the call to be told", async || (server.run(id).await["tool_calls"] == 1).then_some(())).await;
        }
        let pid = i32::try_from(server.run(id).await["pid"].as_i64().unwrap()).unwrap();
        signal(if supervisor { shim_of(&server.data(), pid) } else { pid }, rustix::process::Signal::KILL);
        let run = server.end(id).await;
        let told = [&run["status"], &run["attempts"], &run["error"]];
        assert_eq!(told, [&json!("completed"), &json!(2), &Value::Null], "{run}");
        assert!(run["output_text"].as_str().unwrap().ends_with("Done."), "{run}");
        assert_eq!(start_time(sleeper), None, "the tool of the lost attempt is gone");
        let events = server.events(id).await;
        assert_log(&events);
        let second = &events.iter().rfind(|e| e["type"] == "run.attempt_started").unwrap()["data"];
        let cause = if supervisor { "supervisor_lost" } else { "killed_by_signal" };
        assert_eq!((&second["cause"], &second["rung"]), (&json!(cause), &json!(rung)));
        let lost: Vec<_> =
            second["lost"]["tools"].as_array().into_iter().flatten().map(|t| t["name"].clone()).collect();
        assert_eq!(lost, tool.map(Value::from).into_iter().collect::<Vec<_>>(), "{second}");
        let asked = turns_asked(&stage, id).await;
        assert_eq!(asked.len(), 2);
        let body = asked[1].to_string();
        for text in [json!(PROMPT.trim_end()).to_string().trim_matches('"'), "Your process was interrupted"] {
            assert!(body.contains(text), "the model is not told {text}: {body}");
        }
        assert_no_process(&server.data()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_goes_on_after_a_loss() {
    it_goes_on_after_a_loss(Agent::Claude, "native_resume", Some("Bash")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_goes_on_after_a_loss() {
    it_goes_on_after_a_loss(Agent::Codex, "protocol_load", Some("command_execution")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gemini_goes_on_after_a_loss() {
    it_goes_on_after_a_loss(Agent::Gemini, "native_resume", Some("run_shell_command")).await;
}

/// Kimi tells its session at its end, and a call when it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kimi_goes_on_after_a_loss() {
    it_goes_on_after_a_loss(Agent::Kimi, "rebuilt_context", None).await;
}

/// OpenCode tells a call when it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_goes_on_after_a_loss() {
    it_goes_on_after_a_loss(Agent::OpenCode, "native_resume", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pi_goes_on_after_a_loss() {
    it_goes_on_after_a_loss(Agent::Pi, "native_resume", Some("bash")).await;
}

/// A run that was killed and is over goes on in a new one, through the program's own session.
async fn an_ended_run_goes_on(agent: Agent, rung: &str) {
    let stage = Stage::new().await;
    let marker = stage.server.dir.path().join("marker");
    let command = format!("echo $$ > {}; sleep 1000", marker.display());
    let turns = json!([{ "text": "I run it.", "tools": [agent.shell(&command)] }, { "text": "Done." }]);
    if !stage.start(agent, "ended", &turns).await {
        return;
    }
    let server = &stage.server;
    until("the tool to run", async || std::fs::read_to_string(&marker).ok().filter(|text| !text.is_empty())).await;
    until("the call to be told", async || (server.run("ended").await["tool_calls"] == 1).then_some(())).await;
    let pid = i32::try_from(server.run("ended").await["pid"].as_i64().unwrap()).unwrap();
    signal(pid, rustix::process::Signal::KILL);
    let ended = server.end("ended").await;
    assert_eq!(ended["error"]["code"], "killed_by_signal", "{ended}");
    let url = format!("{}/s/ended", stage.model.address());
    let told = agent.request("ended", server.dir.path(), &url, "").unwrap();
    let body = json!({ "run_id": "new", "prompt": "And now?", "env": told["env"], "permissions": "full" });
    let (status, answer) = server.post("/v1/runs/ended/resume", &body).await;
    assert_eq!(status, 201, "{answer}");
    let run = server.end("new").await;
    assert_completed(&run, "Done.");
    let told = [&run["source_session_id"], &run["cwd"], &run["attempt_log"][0]["rung"]];
    assert_eq!(told, [&ended["source_session_id"], &ended["cwd"], &json!(rung)], "{run}");
    let asked = stage.model.bodies("ended").await;
    let body = asked.last().unwrap()["body"].to_string();
    assert!(body.contains("I run it.") && body.contains("And now?"), "{body}");
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_run_of_claude_goes_on() {
    an_ended_run_goes_on(Agent::Claude, "native_resume").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_run_of_codex_goes_on() {
    an_ended_run_goes_on(Agent::Codex, "protocol_load").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_run_of_gemini_goes_on() {
    an_ended_run_goes_on(Agent::Gemini, "native_resume").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_run_of_pi_goes_on() {
    an_ended_run_goes_on(Agent::Pi, "native_resume").await;
}

/// A schema as Chat Completions has it in `response_format`.
fn form() -> Value {
    let schema = json!({
        "type": "object",
        "properties": { "answer": { "type": "string" }, "n": { "type": "integer" } },
        "required": ["answer", "n"],
        "additionalProperties": false,
    });
    json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": schema, "strict": true } })
}

/// The answer is the JSON that was asked for, or the run has failed: whatever the program says of itself.
async fn it_answers_in_form(agent: Agent, good: &Value, bad: &[Value]) {
    let stage = Stage::new().await;
    let turns = std::iter::once(good).chain(bad);
    for (at, turns) in turns.enumerate() {
        let id = format!("form{at}");
        let url = stage.model.script(&id, turns).await;
        let Some(mut body) = agent.request(&id, stage.server.dir.path(), &url, PROMPT) else { return };
        body["response_format"] = form();
        let (status, answer) = stage.server.post("/v1/runs", &body).await;
        assert_eq!(status, 201, "{answer}");
        let run = stage.server.end(&id).await;
        assert_log(&stage.server.events(&id).await);
        if at == 0 {
            assert_eq!(run["status"], "completed", "{run}");
            assert_eq!(run["output_text"], r#"{"answer":"yes","n":2}"#);
        } else {
            assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("format_not_met")), "{run}");
        }
    }
    // The same form as Responses has it; the answer is the last message there as well.
    let url = stage.model.script("face", good).await;
    let mut body = agent.request("face", stage.server.dir.path(), &url, PROMPT).unwrap();
    let members = body.as_object_mut().unwrap();
    let (prompt, harness) = (members.remove("prompt").unwrap(), members.remove("harness").unwrap());
    members.extend([("input".to_owned(), prompt), ("model".to_owned(), harness)]);
    let mut format = form()["json_schema"].clone();
    format["type"] = json!("json_schema");
    body["text"] = json!({ "format": format });
    let (status, response) = stage.server.post("/v1/responses", &body).await;
    assert_eq!((status, &response["status"]), (200, &json!("completed")), "{response}");
    let said = |item: &Value| item["type"] == "message";
    let said: Vec<&Value> = response["output"].as_array().unwrap().iter().filter(|item| said(item)).collect();
    assert_eq!(said.len(), 1, "{response}");
    assert_eq!(said[0]["content"][0]["text"], r#"{"answer":"yes","n":2}"#);
    assert_no_process(&stage.server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_answers_in_the_form_that_was_asked_for() {
    let call = |args: Value| json!({ "name": "StructuredOutput", "args": args });
    let good = json!([{ "text": "I think.", "tools": [call(json!({ "answer": "yes", "n": 2 }))] }, { "text": "done" }]);
    let bad = [json!([{ "text": "just text" }]), json!([{ "text": "{\"answer\":\"yes\"}" }])];
    it_answers_in_form(Agent::Claude, &good, &bad).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_answers_in_the_form_that_was_asked_for() {
    let good = json!([
        { "text": "I look.", "tools": [Agent::Codex.shell("true")] },
        { "text": ["{\"answer\":\"yes\"", ",\"n\":2}"] },
    ]);
    let bad = [json!([{ "text": "just text" }]), json!([{ "text": "{\"answer\":\"yes\",\"n\":\"2\"}" }])];
    it_answers_in_form(Agent::Codex, &good, &bad).await;
}

/// The server is listed and called, lives through a crash of ours, and its secret is nowhere afterwards.
async fn it_calls_a_server_of_tools(agent: Agent, call: Value, name: &str) {
    let mut stage = Stage::new().await;
    let little = Little::new(stage.server.dir.path());
    let url = stage.model.script("mcp", &little.turns(|command| agent.shell(command), call)).await;
    let Some(body) = agent.request("mcp", stage.server.dir.path(), &url, PROMPT) else { return };
    little.it_is_called(&mut stage.server, body, name).await;
    let asked = stage.model.bodies("mcp").await;
    assert!(!json!(asked).to_string().contains(SECRET), "the model does not see it either");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_calls_a_server_of_tools_whose_secret_is_nowhere() {
    let call = json!({ "name": "mcp__little__whisper", "args": {} });
    it_calls_a_server_of_tools(Agent::Claude, call, "mcp__little__whisper").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_calls_a_server_of_tools_whose_secret_is_nowhere() {
    let call = json!({ "namespace": "mcp__little", "name": "whisper", "args": {} });
    it_calls_a_server_of_tools(Agent::Codex, call, "mcp__little__whisper").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_calls_a_server_of_tools_whose_secret_is_nowhere() {
    let call = json!({ "name": "little_whisper", "args": {} });
    it_calls_a_server_of_tools(Agent::OpenCode, call, "little_whisper").await;
}

/// A program that calls itself codex and says things that no codex has said yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_are_not_known_are_kept_and_counted() {
    let server = Server::start().await;
    let bin = server.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let script = r#"
opening
echo '{"type":"thread.dreamed","of":"sheep"}'
thread prompt
echo '{"method":"thought/dreamed","params":{"of":"sheep"}}'
echo 'not JSON at all'
echo 'a note' >&2
says item_0 hi
over 5 1
printf '{"method":"torn'
"#;
    let script = format!("#!/bin/sh\n{}{script}", include_str!("support/fake_codex.sh"));
    std::fs::write(bin.join("codex"), script).unwrap();
    std::fs::set_permissions(bin.join("codex"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let env = json!({ "PATH": format!("{}:/usr/bin:/bin", bin.display()) });
    let body = json!({ "run_id": "odd", "harness": "codex", "prompt": PROMPT, "env": env });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    let run = server.end("odd").await;
    assert_eq!(
        (&run["status"], &run["output_text"], &run["unknown_lines"]),
        (&json!("completed"), &json!("hi"), &json!(4))
    );
    let events = server.events("odd").await;
    assert_log(&events);
    let kept: Vec<Value> = said(&events).into_iter().filter(|event| event[0] == "output.line").collect();
    let line =
        |stream: &str, text: &str, eol: bool| json!(["output.line", { "stream": stream, "text": text, "eol": eol }]);
    let out: Vec<&Value> = kept.iter().filter(|event| event[1]["stream"] == "stdout").collect();
    let want = [
        line("stdout", r#"{"type":"thread.dreamed","of":"sheep"}"#, true),
        line("stdout", r#"{"method":"thought/dreamed","params":{"of":"sheep"}}"#, true),
        line("stdout", "not JSON at all", true),
        line("stdout", r#"{"method":"torn"#, false),
    ];
    assert_eq!(out, want.iter().collect::<Vec<_>>());
    assert_eq!(kept.len(), 5);
    assert!(kept.contains(&line("stderr", "a note", true)));
    let cwd = run["cwd"].as_str().unwrap();
    assert_eq!(std::fs::read_to_string(format!("{cwd}/prompt")).unwrap(), PROMPT, "the prompt arrives byte for byte");
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_not_there_is_named_with_its_remedy() {
    let server = Server::start().await;
    for (harness, install) in [
        ("claude", "npm install -g @anthropic-ai/claude-code@2.1.329"),
        ("codex", "npm install -g @openai/codex@0.169.0"),
        ("gemini", "npm install -g @google/gemini-cli@0.61.0"),
        ("kimi", "npm install -g @moonshot-ai/kimi-code@2.1.0"),
        ("opencode", "npm install -g opencode-ai@1.18.33"),
        ("pi", "npm install -g @earendil-works/pi-coding-agent@0.74.2"),
    ] {
        let body = json!({ "run_id": "absent", "harness": harness, "prompt": "hi", "env": { "PATH": "/nonexistent" } });
        let (status, answer) = server.post("/v1/runs", &body).await;
        let error = &answer["error"];
        let told = [&error["code"], &error["harness"], &error["install"], &error["dispatch"]];
        assert_eq!(
            (status, told),
            (503, [&json!("harness_missing"), &json!(harness), &json!(install), &json!("not_started")])
        );
        assert!(error["message"].as_str().unwrap().ends_with(install), "{answer}");
        assert_eq!(server.get("/v1/runs/absent").await.0, 404, "nothing is stored for a refused request");
    }
    for kind in ["runs", "work"] {
        assert_eq!(std::fs::read_dir(server.data().join(kind)).unwrap().count(), 0);
    }
}
