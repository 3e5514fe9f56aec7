//! Claude Code.

use serde_json::{Value, json};

use super::acts::{
    a_cancel_reaches_the_tool, a_provider_fails, an_ended_run_goes_on, asked, it_answers_in_form, it_asks,
    it_calls_a_server_of_tools, it_goes_on_after_a_loss,
};
use super::stage::{PROMPT, Stage, TOOL, assert_completed, said, text_turns, tool_turns, tools};
use super::support::model_server::Agent;
use super::support::{assert_log, assert_no_process, until};

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
async fn claude_tells_of_a_providers_error() {
    a_provider_fails(Agent::Claude, 1, ["API Error: 500 the provider broke", "API Error: 400 your request is bad"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_claudes_tool() {
    // Its own interrupt, then the end of input after the result.
    a_cancel_reaches_the_tool(Agent::Claude, json!({ "code": 1 })).await;
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
    // It does not say when it has read a message that was delivered: its call goes on for a while then.
    let tool = format!("while ! [ -e {} ]; do sleep 0.1; done; sleep 2", marker.display());
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
async fn claude_goes_on_after_a_loss() {
    it_goes_on_after_a_loss(Agent::Claude, "native_resume", Some("Bash")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_run_of_claude_goes_on() {
    an_ended_run_goes_on(Agent::Claude, "native_resume").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_answers_in_the_form_that_was_asked_for() {
    let call = |args: Value| json!({ "name": "StructuredOutput", "args": args });
    let good = json!([{ "text": "I think.", "tools": [call(json!({ "answer": "yes", "n": 2 }))] }, { "text": "done" }]);
    let bad = [json!([{ "text": "just text" }]), json!([{ "text": "{\"answer\":\"yes\"}" }])];
    it_answers_in_form(Agent::Claude, &good, &bad).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_calls_a_server_of_tools_whose_secret_is_nowhere() {
    let call = json!({ "name": "mcp__little__whisper", "args": {} });
    it_calls_a_server_of_tools(Agent::Claude, call, "mcp__little__whisper").await;
}
