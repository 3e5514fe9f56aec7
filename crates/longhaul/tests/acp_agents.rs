//! Real agent programs spoken to by ACP, through the real server: the whole conversation, questions, cancels, errors,
//! sessions, and a server that is killed in the middle.

mod support;

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

use support::acp::{SPEAKER, Subject};
use support::little::{Little, SECRET};
use support::model_server::ModelServer;
use support::proc::{shim_of, signal, start_time};
use support::{Server, assert_log, assert_no_process, until};

/// A prompt that a careless command line would take for an option.
const PROMPT: &str = "--version\nsay \"it\" in ünïcode, $HOME `id`\n\n-- ";

struct Stage {
    server: Server,
    model: ModelServer,
    /// What its runs do if their process is lost.
    on_lost: Option<&'static str>,
}

impl Stage {
    async fn new() -> Self {
        Self { server: Server::start().await, model: ModelServer::start(), on_lost: None }
    }

    /// Starts a run whose model says `turns`; whether the program is there.
    async fn start(&self, subject: Subject, id: &str, permissions: &str, turns: &Value) -> bool {
        let url = self.model.script(id, turns).await;
        let Some(mut body) = subject.request(id, self.server.dir.path(), &url, PROMPT, permissions) else {
            return false;
        };
        if let Some(on_lost) = self.on_lost {
            body["on_lost"] = json!(on_lost);
        }
        let (status, answer) = self.server.post("/v1/runs", &body).await;
        assert_eq!(status, 201, "{answer}");
        true
    }

    /// Waits for a run's end: its snapshot and its log.
    async fn end(&self, id: &str) -> (Value, Vec<Value>) {
        let run = self.server.end(id).await;
        let events = self.server.events(id).await;
        assert_log(&events);
        assert_no_process(&self.server.data()).await;
        (run, events)
    }

    async fn run(&self, subject: Subject, id: &str, permissions: &str, turns: &Value) -> Option<(Value, Vec<Value>)> {
        if self.start(subject, id, permissions, turns).await { Some(self.end(id).await) } else { None }
    }

    /// Whether the model was told this text.
    async fn was_told(&self, id: &str, text: &str) -> bool {
        let text = json!(text).to_string();
        let asked = self.model.bodies(id).await;
        asked.iter().any(|one| one["body"].to_string().contains(text.trim_matches('"')))
    }
}

/// What the agent said, without ids of chance and without its notes on stderr.
fn said(events: &[Value]) -> Vec<Value> {
    let mut names: HashMap<String, String> = HashMap::new();
    let begin = events.iter().position(|e| e["type"] == "run.started").unwrap() + 1;
    let end = events.iter().position(|e| e["type"] == "process.exited").unwrap();
    let mut said = Vec::new();
    for event in events[begin..end].iter().filter(|event| event["data"]["stream"] != "stderr") {
        let mut data = event["data"].clone();
        for (name, kind) in [("call_id", "c"), ("source_session_id", "s")] {
            if let Some(id) = data.get_mut(name) {
                let next = format!("{kind}{}", names.len() + 1);
                *id = json!(names.entry(id.as_str().unwrap().to_owned()).or_insert(next));
            }
        }
        said.push(json!([event["type"], data]));
    }
    said
}

fn assert_completed(run: &Value, text: &str) {
    let told = [&run["status"], &run["reason"], &run["output_text"], &run["error"], &run["unknown_lines"]];
    assert_eq!(told, [&json!("completed"), &json!("verdict"), &json!(text), &Value::Null, &json!(0)], "{run}");
    assert_eq!(run["exit"], json!({ "code": 0 }), "its input was closed, and it went by itself: {run}");
}

/// The whole of a run with reasoning, text and tokens.
async fn it_gives_text(subject: Subject, reasoning: &str, usage: Option<Value>) {
    let stage = Stage::new().await;
    let tokens = json!({ "input": 1000, "output": 50, "cached": 400, "reasoning": 10 });
    let turns = json!([{ "reasoning": "Let me think.", "text": ["Hel", "lo ", "wörld"], "usage": tokens }]);
    let Some((run, events)) = stage.run(subject, "text", "cli", &turns).await else { return };
    assert_completed(&run, "Hello wörld");
    let delta = |kind: &str, text: &str| json!([kind, { "message_id": "message_1", "text": text }]);
    let mut want = vec![
        json!(["session.bound", { "source_session_id": "s1" }]),
        delta("reasoning.delta", reasoning),
        delta("message.delta", "Hel"),
        delta("message.delta", "lo "),
        delta("message.delta", "wörld"),
    ];
    want.extend(usage.map(|usage| json!(["usage.reported", usage])));
    want.push(json!(["verdict.reported", { "success": true }]));
    assert_eq!(said(&events), want);
    assert!(stage.was_told("text", PROMPT.trim_end()).await, "the prompt arrives as it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gemini_gives_text() {
    // Of what came from the cache it tells nothing, so that the input is not known.
    let usage = json!({ "scope": "run", "output_tokens": 50, "model": "gemini-2.5-flash" });
    it_gives_text(Subject::Gemini, "****\nLet me think.", Some(usage)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kimi_gives_text() {
    it_gives_text(Subject::Kimi, "Let me think.", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qwen_gives_text() {
    let usage = json!({
        "scope": "step", "input_tokens": 600, "output_tokens": 50, "cache_read_tokens": 400, "reasoning_tokens": 10
    });
    it_gives_text(Subject::Qwen, "Let me think.", Some(usage)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copilot_gives_text() {
    let usage = json!({
        "scope": "run", "input_tokens": 600, "output_tokens": 50, "cache_read_tokens": 400, "cache_write_tokens": 0,
        "reasoning_tokens": 10,
    });
    it_gives_text(Subject::Copilot, "Let me think.", Some(usage)).await;
}

/// A shell command that leaves a file, and says so.
fn touch(dir: &Path) -> (String, Value) {
    let command = format!("touch {}; echo hi-from-tool", dir.join("made").display());
    let turns = json!([{ "text": "I run it.", "tools": [{ "shell": command }] }, { "text": "Done." }]);
    (command, turns)
}

/// What an agent asks for is done or not, as the permissions say: `full` runs commands and `edit` does not.
async fn permissions_are_kept(subject: Subject, calls: bool) {
    let stage = Stage::new().await;
    let made = stage.server.dir.path().join("made");
    let (_, turns) = touch(stage.server.dir.path());
    for (permissions, allowed) in [("edit", false), ("full", true)] {
        let Some((run, events)) = stage.run(subject, permissions, permissions, &turns).await else { return };
        if !allowed && [Subject::Copilot, Subject::Qwen].contains(&subject) {
            // It ends its turn then, and says nothing to it.
            assert_eq!(
                (&run["status"], &run["error"]["code"]),
                (&json!("failed"), &json!("permission_denied")),
                "{run}"
            );
        } else {
            assert_completed(&run, "I run it.\n\nDone.");
        }
        assert_eq!(made.exists(), allowed, "{subject:?} {permissions}");
        let denied = events.iter().filter(|event| event["data"]["code"] == "permission_denied").count();
        assert_eq!(denied, usize::from(!allowed), "{subject:?} {permissions}");
        assert_eq!(run["tool_calls"], 1, "{run}");
        let result = said(&events).into_iter().find(|event| event[0] == "tool.completed");
        if let Some(result) = result.filter(|_| calls) {
            assert_eq!(result[1]["is_error"], json!(!allowed), "{result}");
            assert_eq!(result.to_string().contains("hi-from-tool"), allowed, "{result}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn geminis_permissions_are_kept() {
    // It tells neither the end of a call that was refused nor what a command printed.
    permissions_are_kept(Subject::Gemini, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copilots_permissions_are_kept() {
    permissions_are_kept(Subject::Copilot, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kimis_permissions_are_kept() {
    permissions_are_kept(Subject::Kimi, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qwens_permissions_are_kept() {
    permissions_are_kept(Subject::Qwen, true).await;
}

/// A question waits for people over a kill of the server, and the agent gets the answer from the next one.
async fn people_answer_after_a_kill(subject: Subject, decision: &str) {
    let mut stage = Stage::new().await;
    let made = stage.server.dir.path().join("made");
    let (command, turns) = touch(stage.server.dir.path());
    if !stage.start(subject, "ask", "ask", &turns).await {
        return;
    }
    let open = until("the question", async || {
        let (_, list) = stage.server.get("/v1/runs/ask/approvals").await;
        list["data"].get(0).filter(|one| one["status"] == "open").cloned()
    })
    .await;
    assert!(open["arguments"].to_string().contains(json!(command).to_string().trim_matches('"')), "{open}");
    stage.server.kill9();
    stage.server.up().await;
    assert!(!made.exists(), "nothing happens while nobody has answered");
    let answer = json!({ "decision": decision, "digest": open["digest"] });
    let (status, given) = stage.server.post("/v1/runs/ask/approvals/1", &answer).await;
    assert_eq!(status, 200, "{given}");
    let (run, events) = stage.end("ask").await;
    assert_completed(&run, "I run it.\n\nDone.");
    assert_eq!(made.exists(), decision == "allow");
    let kinds: Vec<&str> =
        events.iter().filter_map(|e| e["type"].as_str()).filter(|k| k.starts_with("approval.")).collect();
    assert_eq!(kinds, ["approval.requested", "approval.answered", "approval.delivered"]);
    assert_eq!(events.iter().filter(|event| event["type"] == "run.adopted").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_answer_gemini_after_a_kill() {
    people_answer_after_a_kill(Subject::Gemini, "allow").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_refuse_kimi_after_a_kill() {
    people_answer_after_a_kill(Subject::Kimi, "deny").await;
}

/// A tool that runs until it is let go or killed, and its pid.
async fn in_a_tool(stage: &Stage, subject: Subject, id: &str) -> Option<i32> {
    let marker = stage.server.dir.path().join("marker");
    let go = stage.server.dir.path().join("go");
    let tool =
        format!("echo $$ > {}; while ! test -e {}; do sleep 0.1; done; echo woke", marker.display(), go.display());
    let turns = json!([{ "text": "I wait.", "tools": [{ "shell": tool }] }, { "text": "Done." }]);
    if !stage.start(subject, id, "full", &turns).await {
        return None;
    }
    let pid = until("the tool to run", async || std::fs::read_to_string(&marker).ok()?.trim().parse().ok()).await;
    assert!(start_time(pid).is_some());
    Some(pid)
}

/// The protocol's own cancel reaches the tool, and the agent goes by itself when its input is closed.
async fn a_cancel_reaches_the_tool(subject: Subject) {
    let stage = Stage::new().await;
    let Some(tool) = in_a_tool(&stage, subject, "cancel").await else { return };
    let (status, answer) =
        stage.server.post("/v1/runs/cancel/cancel?wait_ms=30000", &json!({ "reason": "enough" })).await;
    assert_eq!((status, &answer["terminal"]), (200, &json!(true)), "{answer}");
    assert_eq!(start_time(tool), None, "when the cancel is proven the tool is gone");
    let (run, events) = stage.end("cancel").await;
    let told = [&run["status"], &run["reason"], &run["error"], &run["output_text"]];
    assert_eq!(told, [&json!("cancelled"), &json!("api"), &Value::Null, &json!("I wait.")], "{run}");
    // Qwen is busy for seconds after its input was closed, and is helped by a signal.
    assert!(subject == Subject::Qwen || run["exit"] == json!({ "code": 0 }), "{run}");
    let message = "the agent says that it was cancelled";
    let verdict = json!({ "success": false, "error": { "code": "interrupted", "message": message } });
    assert!(said(&events).contains(&json!(["verdict.reported", verdict])), "its own word: {events:#?}");
    let exited = events.iter().find(|e| e["type"] == "process.exited").unwrap();
    assert_eq!((&exited["data"]["stop"], exited["data"].get("unkilled")), (&json!("cancel"), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_geminis_tool() {
    a_cancel_reaches_the_tool(Subject::Gemini).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_copilots_tool() {
    a_cancel_reaches_the_tool(Subject::Copilot).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_kimis_tool() {
    a_cancel_reaches_the_tool(Subject::Kimi).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_qwens_tool() {
    a_cancel_reaches_the_tool(Subject::Qwen).await;
}

/// The server is killed while a tool runs: the agent goes on, the next server reads on and closes its input.
async fn it_outlives_a_kill_of_the_server(subject: Subject) {
    let mut stage = Stage::new().await;
    let Some(tool) = in_a_tool(&stage, subject, "kill").await else { return };
    stage.server.kill9();
    assert!(start_time(tool).is_some(), "the tool goes on");
    std::fs::write(stage.server.dir.path().join("go"), "").unwrap();
    until("the tool to end", async || start_time(tool).is_none().then_some(())).await;
    stage.server.up().await;
    let (run, events) = stage.end("kill").await;
    assert_completed(&run, "I wait.\n\nDone.");
    let count = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    assert_eq!((count("run.adopted"), count("process.started"), count("tool.called")), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gemini_outlives_a_kill_of_the_server() {
    it_outlives_a_kill_of_the_server(Subject::Gemini).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copilot_outlives_a_kill_of_the_server() {
    it_outlives_a_kill_of_the_server(Subject::Copilot).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kimi_outlives_a_kill_of_the_server() {
    it_outlives_a_kill_of_the_server(Subject::Kimi).await;
}

/// The program is killed while its tool runs: another one loads the session, is told that it was interrupted, and nothing
/// old is told again as its own.
async fn it_loads_its_session_after_a_loss(subject: Subject, supervisor: bool) {
    let stage = Stage { on_lost: Some("resume"), ..Stage::new().await };
    let Some(tool) = in_a_tool(&stage, subject, "lost").await else { return };
    let server = &stage.server;
    until("the call to be told", async || (server.run("lost").await["tool_calls"] == 1).then_some(())).await;
    let pid = i32::try_from(server.run("lost").await["pid"].as_i64().unwrap()).unwrap();
    signal(if supervisor { shim_of(&server.data(), pid) } else { pid }, rustix::process::Signal::KILL);
    let (run, events) = stage.end("lost").await;
    assert_eq!((&run["status"], &run["attempts"]), (&json!("completed"), &json!(2)), "{run}");
    assert!(run["output_text"].as_str().unwrap().ends_with("Done."), "{run}");
    assert_eq!(start_time(tool), None, "the tool of the lost attempt is gone");
    let second = &events.iter().rfind(|e| e["type"] == "run.attempt_started").unwrap()["data"];
    assert_eq!(
        (&second["rung"], &second["lost"]["tools"].as_array().map(Vec::len)),
        (&json!("protocol_load"), &Some(1))
    );
    let count = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    // Copilot tells of the open call that it counts it as failed.
    let calls = if subject == Subject::Copilot { 2 } else { 1 };
    assert_eq!(count("tool.called"), calls, "what was loaded is not told again");
    assert!(stage.was_told("lost", "Your process was interrupted").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copilot_loads_its_session_after_a_loss() {
    it_loads_its_session_after_a_loss(Subject::Copilot, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kimi_loads_its_session_after_a_loss() {
    it_loads_its_session_after_a_loss(Subject::Kimi, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qwen_loads_its_session_after_a_loss() {
    it_loads_its_session_after_a_loss(Subject::Qwen, true).await;
}

/// A provider's error is a failure, also where the agent says that its turn ended well.
async fn it_tells_of_a_providers_error(subject: Subject, rows: &[(u16, &str)], message: &str) {
    let stage = Stage::new().await;
    for (status, code) in rows {
        let id = format!("e{status}");
        // After a call too: then there was something, and it is no success all the same.
        let turns = json!([
            { "text": "I look.", "tools": [{ "shell": "echo hi" }] },
            { "error": status, "message": "the provider said no", "times": 99 },
        ]);
        let Some((run, _)) = stage.run(subject, &id, "full", &turns).await else { return };
        let told = [&run["status"], &run["error"]["code"], &run["output_text"], &run["tool_calls"]];
        assert_eq!(told, [&json!("failed"), &json!(code), &json!("I look."), &json!(1)], "{run}");
        assert!(run["error"]["message"].as_str().unwrap().contains(message), "{run}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gemini_tells_of_a_providers_error() {
    let rows = [(400, "upstream"), (401, "not_logged_in"), (429, "rate_limited"), (500, "upstream")];
    it_tells_of_a_providers_error(Subject::Gemini, &rows, "the provider said no").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kimi_is_not_believed_when_its_provider_fails() {
    it_tells_of_a_providers_error(Subject::Kimi, &[(400, "empty_output")], "without an answer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qwen_tells_of_a_providers_error() {
    it_tells_of_a_providers_error(Subject::Qwen, &[(400, "upstream")], "the provider said no").await;
}

/// Each agent must take servers of tools that are commands; the secret of one is in no frame.
async fn it_calls_a_server_of_tools(subject: Subject, tool: &str, name: &str) {
    let mut stage = Stage::new().await;
    let little = Little::new(stage.server.dir.path());
    let call = json!({ "name": tool, "args": {} });
    let url = stage.model.script("mcp", &little.turns(|command| json!({ "shell": command }), call)).await;
    let Some(body) = subject.request("mcp", stage.server.dir.path(), &url, PROMPT, "full") else { return };
    little.it_is_called(&mut stage.server, body, name).await;
    assert!(!stage.was_told("mcp", SECRET).await, "the model does not see it either");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copilot_calls_a_server_of_tools_whose_secret_is_nowhere() {
    it_calls_a_server_of_tools(Subject::Copilot, "little-whisper", "other").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gemini_calls_a_server_of_tools_whose_secret_is_nowhere() {
    it_calls_a_server_of_tools(Subject::Gemini, "mcp_little_whisper", "other").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kimi_calls_a_server_of_tools_whose_secret_is_nowhere() {
    it_calls_a_server_of_tools(Subject::Kimi, "mcp__little__whisper", "other").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qwen_calls_a_server_of_tools_whose_secret_is_nowhere() {
    it_calls_a_server_of_tools(Subject::Qwen, "mcp__little__whisper", "mcp__little__whisper").await;
}

/// The next turn of a session loads it: the model is told all, and nothing old is told again as this run's.
async fn it_goes_on_with_its_session(subject: Subject) {
    let stage = Stage::new().await;
    let url = stage.model.script("talk", &json!([{ "text": "Hello Ada." }])).await;
    let Some(mut body) = subject.request("talk", stage.server.dir.path(), &url, PROMPT, "full") else { return };
    body["session_id"] = json!("s");
    assert_eq!(stage.server.post("/v1/runs", &body).await.0, 201);
    let (first, _) = stage.end("talk").await;
    assert_completed(&first, "Hello Ada.");
    // What the first turn leaves behind it in the background has asked the model by now.
    let url = stage.model.script("again", &json!([{ "text": "You are Ada." }])).await;
    let mut body = subject.request("talk", stage.server.dir.path(), &url, PROMPT, "full").unwrap();
    body["run_id"] = json!("again");
    body["session_id"] = json!("s");
    body["prompt"] = json!("Who am I?");
    let (status, answer) = stage.server.post("/v1/runs", &body).await;
    assert_eq!(status, 201, "{answer}");
    let (second, events) = stage.end("again").await;
    assert_completed(&second, "You are Ada.");
    assert_eq!(second["source_session_id"], first["source_session_id"], "it is the same session");
    let kinds: Vec<Value> = said(&events).into_iter().map(|event| event[0].clone()).collect();
    let kinds: Vec<Value> = kinds.into_iter().filter(|kind| kind != "usage.reported").collect();
    assert_eq!(kinds, ["session.bound", "message.delta", "verdict.reported"], "nothing is told again");
    for text in [PROMPT.trim_end(), "Hello Ada.", "Who am I?"] {
        assert!(stage.was_told("again", text).await, "the model is not told {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kimi_goes_on_with_its_session() {
    it_goes_on_with_its_session(Subject::Kimi).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qwen_goes_on_with_its_session() {
    it_goes_on_with_its_session(Subject::Qwen).await;
}

/// Gemini keeps no session that it had by ACP, and says so when it is asked to load it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_cannot_be_loaded_is_a_failure() {
    let stage = Stage::new().await;
    let url = stage.model.script("talk", &json!([{ "text": "one" }])).await;
    for (id, status, code) in [("one", "completed", Value::Null), ("two", "failed", json!("session_not_found"))] {
        let Some(mut body) = Subject::Gemini.request("talk", stage.server.dir.path(), &url, PROMPT, "full") else {
            return;
        };
        (body["run_id"], body["session_id"]) = (json!(id), json!("s"));
        assert_eq!(stage.server.post("/v1/runs", &body).await.0, 201);
        let (run, _) = stage.end(id).await;
        assert_eq!((&run["status"], &run["error"]["code"]), (&json!(status), &code), "{run}");
    }
    assert_eq!(stage.model.requests("talk").await.len(), 1, "nothing is asked in another session");
}

/// Copilot and qwen are named with what installs them; a command of one's own that is not there is the run's failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_not_there_is_named() {
    let server = Server::start().await;
    for (harness, install) in
        [("copilot", "npm install -g @github/copilot@1.0.102"), ("qwen", "npm install -g @qwen-code/qwen-code@0.24.4")]
    {
        let body = json!({ "harness": harness, "prompt": "hi", "env": { "PATH": "/nonexistent" } });
        let (status, answer) = server.post("/v1/runs", &body).await;
        let error = &answer["error"];
        assert_eq!((status, &error["code"], &error["install"]), (503, &json!("harness_missing"), &json!(install)));
    }
    let body = json!({ "run_id": "none", "harness": "acp", "command": "no-such-agent", "prompt": "hi" });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    assert_eq!(server.end("none").await["error"]["code"], "command_not_found");
}

/// A program that speaks the protocol and does what a test wants: it notes what it hears in `heard`, and answers the
/// message of number N when the file `goN` is there.
const PUPPET: &str = r#"
import json, os, sys, time
n, lingers = 0, os.path.exists("linger")
def say(message):
    message["jsonrpc"] = "2.0"
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
def hear():
    global n
    line = sys.stdin.readline()
    if not line:
        return None
    n += 1
    with open("heard", "a") as heard:
        heard.write(line)
    while not os.path.exists(f"go{n}") and not os.path.exists("go"):
        time.sleep(0.01)
    return json.loads(line)
def update(kind, **more):
    say({"method": "session/update", "params": {"sessionId": "s1", "update": {"sessionUpdate": kind, **more}}})
while (message := hear()) is not None:
    method = message.get("method")
    if method == "initialize":
        say({"id": message["id"], "result": {"protocolVersion": 1, "agentCapabilities": {}}})
    elif method == "session/new":
        modes = [{"id": "default", "name": "d"}, {"id": "plan", "name": "p"}]
        say({"id": message["id"], "result": {"sessionId": "s1", "modes": {"currentModeId": "plan", "availableModes": modes}}})
    elif method == "session/set_mode":
        say({"id": message["id"], "result": {}})
    elif method == "session/prompt":
        prompt = message["id"]
        call = {"toolCallId": "c1", "title": "write f", "kind": "edit", "rawInput": {"path": "f"}}
        options = [{"optionId": "y", "name": "y", "kind": "allow_once"}, {"optionId": "n", "name": "n", "kind": "reject_once"}]
        say({"id": 0, "method": "session/request_permission", "params": {"sessionId": "s1", "toolCall": call, "options": options}})
    elif message.get("id") == 0:
        update("tool_call_update", toolCallId="c1", status="completed")
        update("agent_message_chunk", content={"type": "text", "text": message["result"]["outcome"]["optionId"]})
        say({"id": prompt, "result": {"stopReason": "end_turn"}})
while lingers:
    time.sleep(1)
"#;

/// Begins a run of the puppet in a directory of its own.
async fn puppet(server: &Server, id: &str, lingers: bool) -> std::path::PathBuf {
    let cwd = server.dir.path().join(id);
    std::fs::create_dir(&cwd).unwrap();
    if lingers {
        std::fs::write(cwd.join("linger"), "").unwrap();
        std::fs::write(cwd.join("go"), "").unwrap();
    }
    let body = json!({
        "run_id": id, "harness": "acp", "command": "python3", "args": ["-c", PUPPET], "prompt": PROMPT, "cwd": cwd,
        "permissions": "edit",
    });
    let (status, answer) = server.post("/v1/runs", &body).await;
    assert_eq!(status, 201, "{answer}");
    cwd
}

/// The server is killed at each step, and the agent answers while nobody is there: everything is said once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_outlives_a_kill_at_each_step() {
    let mut server = Server::start().await;
    let cwd = puppet(&server, "puppet", false).await;
    let heard = || -> Vec<Value> {
        let text = std::fs::read_to_string(cwd.join("heard")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for step in 1..=5 {
        until(&format!("the agent to hear message {step}"), async || (heard().len() == step).then_some(())).await;
        server.kill9();
        std::fs::write(cwd.join(format!("go{step}")), "").unwrap();
        server.up().await;
    }
    let run = server.end("puppet").await;
    assert_completed(&run, "y");
    let heard = heard();
    let methods: Vec<&str> = heard.iter().map(|message| message["method"].as_str().unwrap_or("answer")).collect();
    assert_eq!(methods, ["initialize", "session/new", "session/set_mode", "session/prompt", "answer"]);
    assert_eq!(heard[1]["params"]["cwd"], json!(cwd), "it is told where it works");
    assert_eq!(heard[3]["params"]["prompt"][0]["text"], PROMPT);
    let events = server.events("puppet").await;
    assert_log(&events);
    let kinds: Vec<Value> =
        said(&events).into_iter().map(|event| event[0].clone()).filter(|kind| kind != "run.adopted").collect();
    assert_eq!(kinds, ["session.bound", "tool.called", "tool.completed", "message.delta", "verdict.reported"]);
    assert_no_process(&server.data()).await;
}

/// An agent that stays when its input is closed is sent away, and what it said counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_go_is_sent_away() {
    let server = Server::start().await;
    puppet(&server, "lingers", true).await;
    let run = server.end("lingers").await;
    let told = [&run["status"], &run["reason"], &run["output_text"], &run["exit"]];
    assert_eq!(told, [&json!("completed"), &json!("verdict"), &json!("y"), &json!({ "signal": 15 })], "{run}");
    let events = server.events("lingers").await;
    let exited = events.iter().find(|event| event["type"] == "process.exited").unwrap();
    assert_eq!(exited["data"]["stop"], "lingered");
    assert_no_process(&server.data()).await;
}

/// An agent that asks one thing after another: each answer is with it at once, and not when its shim next looks.
const ASKER: &str = r#"
asked = 0
for line in sys.stdin:
    message = json.loads(line)
    method = message.get("method")
    if method == "initialize":
        say({"id": message["id"], "result": {"protocolVersion": 1, "agentCapabilities": {}}})
    elif method == "session/new":
        say({"id": message["id"], "result": {"sessionId": "s1"}})
    elif method == "session/prompt":
        prompt = message["id"]
    if method == "session/prompt" or (method is None and asked < 40):
        asked += 1
        say({"id": "q%d" % asked, "method": "_any/thing", "params": {}})
    elif method is None:
        update = {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "asked %d" % asked}}
        say({"method": "session/update", "params": {"sessionId": "s1", "update": update}})
        say({"id": prompt, "result": {"stopReason": "end_turn"}})
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_protocols_own_answers_are_with_the_agent_at_once() {
    let server = Server::start().await;
    let body = json!({ "run_id": "asks", "harness": "acp", "command": "python3", "args": ["-c", format!("{SPEAKER}{ASKER}")], "prompt": PROMPT });
    let begun = std::time::Instant::now();
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    assert_completed(&server.end("asks").await, "asked 40");
    // Who is not told looks once a second: 42 answers would take as many seconds.
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_no_process(&server.data()).await;
}
