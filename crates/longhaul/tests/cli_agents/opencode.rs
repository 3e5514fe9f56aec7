//! OpenCode.

use serde_json::json;

use super::acts::{a_cancel_reaches_the_tool, it_calls_a_server_of_tools, it_goes_on_after_a_loss, turns_asked};
use super::stage::{PROMPT, Stage, TOOL, assert_completed, said, text_turns, tool_turns, tools};
use super::support::model_server::Agent;
use super::support::proc::start_time;
use super::support::{assert_log, assert_no_process, until};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_opencodes_tool() {
    // It leaves its tool behind when it dies of TERM; the shim does not.
    a_cancel_reaches_the_tool(Agent::OpenCode, json!({ "signal": 15 })).await;
}

/// OpenCode tells a call when it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_goes_on_after_a_loss() {
    it_goes_on_after_a_loss(Agent::OpenCode, "native_resume", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_calls_a_server_of_tools_whose_secret_is_nowhere() {
    let call = json!({ "name": "little_whisper", "args": {} });
    it_calls_a_server_of_tools(Agent::OpenCode, call, "little_whisper").await;
}
