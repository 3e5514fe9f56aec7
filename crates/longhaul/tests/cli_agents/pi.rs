//! Pi.

use serde_json::json;

use super::acts::{
    a_cancel_reaches_the_tool, an_ended_run_goes_on, it_calls_a_server_of_tools, it_goes_on_after_a_loss,
};
use super::stage::{PROMPT, Stage, TOOL, assert_completed, said, text_turns, tool_turns, tools};
use super::support::model_server::Agent;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_pis_tool() {
    // Its own abort, then the end of input; TERM would be 143.
    a_cancel_reaches_the_tool(Agent::Pi, json!({ "code": 0 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pi_goes_on_after_a_loss() {
    it_goes_on_after_a_loss(Agent::Pi, "native_resume", Some("bash")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_run_of_pi_goes_on() {
    an_ended_run_goes_on(Agent::Pi, "native_resume").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pi_calls_a_server_of_tools_whose_secret_is_nowhere() {
    let call = json!({ "name": "mcp__little__whisper", "args": {} });
    it_calls_a_server_of_tools(Agent::Pi, call, "mcp__little__whisper").await;
}

/// A server that does not start is no tool fewer: nothing is asked of the model.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pi_does_not_begin_without_its_servers() {
    let stage = Stage::new().await;
    let url = stage.model.script("none", &json!([{ "text": "Never." }])).await;
    let Some(mut body) = Agent::Pi.request("none", stage.server.dir.path(), &url, PROMPT) else { return };
    body["mcp"] = json!({ "servers": { "broken": { "command": "/bin/sh", "args": ["-c", "exit 3"] } } });
    let (status, answer) = stage.server.post("/v1/runs", &body).await;
    assert_eq!(status, 201, "{answer}");
    let run = stage.server.end("none").await;
    assert_eq!(run["status"], "failed", "{run}");
    let message = run["error"].to_string();
    assert!(message.contains("server broken of tools"), "{run}");
    assert!(stage.model.requests("none").await.is_empty());
}
