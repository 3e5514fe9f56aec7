//! What ties a run to the request that began it: the trace in its events and in its agent's environment, the ids in the
//! log.

mod support;

use serde_json::{Value, json};
use support::{Server, assert_no_process, output_of, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

async fn post(server: &Server, path: &str, traceparent: &[&str], body: Value) -> reqwest::Response {
    let mut request = server.http.post(server.url(path)).body(body.to_string());
    for header in traceparent {
        request = request.header("traceparent", *header);
    }
    request.send().await.unwrap()
}

fn shell(id: &str, script: &str) -> Value {
    json!({ "run_id": id, "command": "/bin/sh", "args": ["-c", script] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_reaches_every_event_and_the_agent() {
    let mut server = Server::start().await;
    let header = format!("00-{TRACE}-{PARENT}-01");
    let go = server.dir.path().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.02; done; echo $TRACEPARENT", go.display());
    let answer = post(&server, "/v1/runs", &[&header], shell("traced", &script)).await;
    assert_eq!(answer.status(), 201);
    server.status("traced", "running").await;
    // The next server writes the same.
    server.kill9();
    server.up().await;
    std::fs::write(&go, "").unwrap();
    server.end("traced").await;
    let events = server.events("traced").await;
    let span = events[0]["trace"]["span_id"].as_str().unwrap().to_owned();
    assert!(span.len() == 16 && span != PARENT && span.bytes().all(|b| b.is_ascii_hexdigit()), "{span}");
    let trace = json!({ "trace_id": TRACE, "span_id": span });
    assert!(events.iter().any(|event| event["type"] == "run.adopted"));
    assert!(events.iter().all(|event| event["trace"] == trace), "{events:?}");
    assert_eq!(output_of(&events, "stdout"), format!("00-{TRACE}-{span}-01\n").into_bytes());

    // The same request with another trace, or with none, is the same run.
    let again = post(&server, "/v1/runs", &[], shell("traced", &script)).await;
    assert_eq!(again.status(), 200);

    // What is not valid begins no trace, and is said.
    for (id, headers) in [
        ("bad", vec!["00-zz-00f067aa0ba902b7-01"]),
        ("zero", vec!["00-00000000000000000000000000000000-00f067aa0ba902b7-01"]),
        ("two", vec![header.as_str(), header.as_str()]),
    ] {
        let answer = post(&server, "/v1/runs", &headers, shell(id, "echo \"[$TRACEPARENT]\"")).await;
        assert_eq!(answer.status(), 201);
        server.end(id).await;
        let events = server.events(id).await;
        assert!(events.iter().all(|event| event.get("trace").is_none()), "{id}");
        assert_eq!(events.iter().filter(|event| event["data"]["code"] == "traceparent_ignored").count(), 1, "{id}");
        assert_eq!(output_of(&events, "stdout"), b"[]\n", "{id}");
    }

    // A chat is a run too.
    let body = json!({ "model": "demo/echo", "run_id": "chat", "messages": [{ "role": "user", "content": "hi" }] });
    assert_eq!(post(&server, "/v1/chat/completions", &[&header], body).await.status(), 200);
    assert_eq!(server.events("chat").await[0]["trace"]["trace_id"], TRACE);
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_ties_requests_to_runs() {
    let server = Server::start_with(&["--log", "json"], &[]).await;
    let request = server.http.post(server.url("/v1/runs")).header("x-request-id", "asked-by-me");
    let answer = request.body(shell("logged", "echo a secret; exit 3").to_string()).send().await.unwrap();
    assert_eq!(answer.headers()["x-request-id"], "asked-by-me");
    server.end("logged").await;
    let lines = until("the request to be logged", async || {
        let log = server.log();
        let lines: Vec<Value> =
            log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
        lines.iter().any(|line| line["fields"]["request_id"] == "asked-by-me").then_some(lines)
    })
    .await;
    let line = lines.iter().find(|line| line["fields"]["request_id"] == "asked-by-me").unwrap();
    assert_eq!((&line["fields"]["run"], &line["fields"]["status"]), (&json!("logged"), &json!(201)), "{line}");
    assert!(line["timestamp"].is_string() && line["level"] == "INFO");
    assert!(!server.log().contains("a secret"), "neither arguments nor output are logged");
}
