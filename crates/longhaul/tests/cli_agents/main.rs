//! The real agent programs, through the real server: what they say becomes the right events, success is their own word,
//! a cancel reaches their tools.

mod acts;
mod claude;
mod codex;
mod gemini;
mod kimi;
mod opencode;
mod pi;
mod stage;
#[path = "../support/mod.rs"]
mod support;

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use stage::{PROMPT, Stage, assert_completed, said, tool_turns};
use support::model_server::Agent;
use support::{Server, assert_log, assert_no_process};

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
    let script = format!("#!/bin/sh\n{}{script}", include_str!("../support/fake_codex.sh"));
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
