//! Kimi.

use serde_json::{Value, json};

use super::acts::{it_goes_on_after_a_loss, it_goes_on_with_its_session};
use super::stage::{PROMPT, Stage, TOOL, assert_completed, said, text_turns, tool_turns, tools};
use super::support::model_server::Agent;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kimi_goes_on_with_its_session() {
    it_goes_on_with_its_session(Agent::Kimi, "session.resume_hint").await;
}

/// Kimi tells its session at its end, and a call when it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kimi_goes_on_after_a_loss() {
    it_goes_on_after_a_loss(Agent::Kimi, "rebuilt_context", None).await;
}
