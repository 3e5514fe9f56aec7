//! Gemini.

use serde_json::{Value, json};

use super::acts::{
    a_cancel_reaches_the_tool, an_ended_run_goes_on, it_goes_on_after_a_loss, it_goes_on_with_its_session,
};
use super::stage::{PROMPT, Stage, TOOL, assert_completed, said, text_turns, tool_turns, tools};
use super::support::model_server::Agent;

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
async fn gemini_goes_on_with_its_session() {
    it_goes_on_with_its_session(Agent::Gemini, r#""status":"success""#).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_geminis_tool() {
    a_cancel_reaches_the_tool(Agent::Gemini, json!({ "code": 0 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gemini_goes_on_after_a_loss() {
    it_goes_on_after_a_loss(Agent::Gemini, "native_resume", Some("run_shell_command")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_run_of_gemini_goes_on() {
    an_ended_run_goes_on(Agent::Gemini, "native_resume").await;
}
