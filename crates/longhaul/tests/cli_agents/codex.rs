//! Codex.

use serde_json::{Value, json};

use super::acts::{
    a_cancel_reaches_the_tool, a_provider_fails, an_ended_run_goes_on, it_answers_in_form, it_calls_a_server_of_tools,
    it_goes_on_after_a_loss,
};
use super::stage::{PROMPT, Stage, TOOL, assert_completed, said, text_turns, tool_turns, tools};
use super::support::model_server::Agent;

/// What Codex says first, because it does not know the scripted model.
fn codex_opening() -> [Value; 2] {
    let text = "Model metadata for `scripted` not found. Defaulting to fallback metadata; this can degrade performance \
                and cause issues.";
    [json!(["session.bound", { "source_session_id": "s1" }]), json!(["warning", { "code": "source", "message": text }])]
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
async fn codex_tells_of_a_providers_error() {
    let bad = r#"{"error":{"message":"your request is bad","type":"invalid_request_error","code":null}}"#;
    a_provider_fails(Agent::Codex, 0, ["We’re currently experiencing high demand", bad]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_codexs_tool() {
    // Its own interrupt, then the end of input; INT would be 1.
    a_cancel_reaches_the_tool(Agent::Codex, json!({ "code": 0 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_goes_on_after_a_loss() {
    it_goes_on_after_a_loss(Agent::Codex, "protocol_load", Some("command_execution")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_run_of_codex_goes_on() {
    an_ended_run_goes_on(Agent::Codex, "protocol_load").await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_calls_a_server_of_tools_whose_secret_is_nowhere() {
    let call = json!({ "namespace": "mcp__little", "name": "whisper", "args": {} });
    it_calls_a_server_of_tools(Agent::Codex, call, "mcp__little__whisper").await;
}
