//! Traces that go to a collector: the spans of a run over the death of its server, a collector that is away or refuses,
//! and what is never sent.

mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::collector::{Collector, attribute};
use support::{LONGHAUL, Server, assert_no_process, output_of, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const SECRET: &str = "s3cret-of-the-collector";

/// A server that exports to `address`. It logs all that can be logged.
async fn server(address: &str, more: &[(&str, &str)]) -> Server {
    let endpoint = format!("http://{address}");
    let headers = format!("authorization=Bearer%20{SECRET},x-team=red");
    let mut env = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", headers.as_str()),
        ("OTEL_SERVICE_NAME", "tested"),
        ("LONGHAUL_LOG", "trace"),
        ("NO_PROXY", "*"),
        ("no_proxy", "*"),
    ];
    env.extend(more);
    Server::start_with(&[], &env).await
}

async fn start(server: &Server, headers: &[(&str, &str)], body: Value) {
    let mut request = server.http.post(server.url("/v1/runs")).body(body.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
}

async fn spans_of(collector: &Collector, id: &str) -> Vec<Value> {
    until(&format!("the spans of {id}"), async || collector.run(id)).await
}

fn one<'a>(spans: &'a [Value], name: &str) -> &'a Value {
    let found: Vec<&Value> = spans.iter().filter(|span| span["name"] == name).collect();
    assert_eq!(found.len(), 1, "{name}: {spans:#?}");
    found[0]
}

/// When an event was committed, as OTLP has it.
fn nanos(event: &Value) -> String {
    let ts: longhaul_model::Timestamp = serde_json::from_value(event["ts"].clone()).unwrap();
    format!("{}000000", ts.unix_ms())
}

fn event<'a>(events: &'a [Value], kind: &str) -> &'a Value {
    events.iter().find(|event| event["type"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_one_trace_over_the_death_of_its_server() {
    let collector = Collector::start();
    let mut server = server(&collector.address, &[]).await;
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let headers = [("traceparent", traceparent.as_str()), ("tracestate", "congo=t61"), ("tracestate", "rojo=1")];
    let body = json!({ "run_id": "tour", "harness": "demo", "model": "tour", "prompt": "" });
    start(&server, &headers, body).await;
    until("the tool to be called", async || {
        let events = server.events("tour").await;
        events.iter().any(|event| event["type"] == "tool.called").then_some(())
    })
    .await;
    server.kill9();
    // Whoever takes the spans and dies before it says so gets them again.
    collector.answer(503);
    server.up().await;
    let refused = until("the spans to be sent", async || collector.spans(503).first().cloned()).await;
    server.kill9();
    collector.answer(200);
    server.up().await;
    let spans = spans_of(&collector, "tour").await;
    assert_eq!(refused, spans, "the same spans under the same ids");

    let events = &server.events("tour").await;
    assert!(events.iter().any(|event| event["type"] == "run.adopted"));
    let root = &spans[0];
    assert_eq!((&root["traceId"], &root["parentSpanId"]), (&json!(TRACE), &json!(PARENT)));
    assert_eq!((&root["spanId"], &root["name"]), (&events[0]["trace"]["span_id"], &json!("run demo")));
    assert_eq!((&root["status"]["code"], &root["kind"]), (&json!(1), &json!(2)));
    assert_eq!(root["startTimeUnixNano"], nanos(&events[0]));
    assert_eq!(root["endTimeUnixNano"], nanos(events.last().unwrap()));
    for (name, value) in [
        ("longhaul.run.id", "tour"),
        ("longhaul.project", "default"),
        ("longhaul.harness", "demo"),
        ("longhaul.status", "completed"),
        ("longhaul.attempts", "1"),
        ("longhaul.tool_calls", "1"),
        ("gen_ai.agent.name", "demo"),
        ("gen_ai.request.model", "tour"),
        ("error.type", ""),
    ] {
        assert_eq!(attribute(root, name), value, "{name}");
    }
    let (queue, attempt, tool) = (one(&spans, "queue"), one(&spans, "attempt"), one(&spans, "execute_tool count"));
    assert_eq!(spans.len(), 4, "{spans:#?}");
    for (span, above, from, to) in [
        (queue, root, "run.created", "run.attempt_started"),
        (attempt, root, "run.attempt_started", "process.exited"),
        (tool, attempt, "tool.called", "tool.completed"),
    ] {
        assert_eq!(span["parentSpanId"], above["spanId"], "{span}");
        assert_eq!((&span["traceId"], &span["traceState"]), (&json!(TRACE), &json!("congo=t61,rojo=1")));
        assert_eq!(span["startTimeUnixNano"], nanos(event(events, from)), "{span}");
        assert_eq!(span["endTimeUnixNano"], nanos(event(events, to)), "{span}");
    }
    assert_eq!(tool["status"]["code"], 1);
    let post = &collector.posts()[0];
    assert_eq!(post.headers["authorization"], format!("Bearer {SECRET}"));
    assert_eq!(post.headers["x-team"], "red");
    let resource = &post.body["resourceSpans"][0]["resource"];
    assert_eq!(attribute(resource, "service.name"), "tested");

    // What was taken is not sent again, by no later server. That it was taken is durable before anything later is sent.
    start(&server, &[], json!({ "run_id": "later", "harness": "demo", "model": "tools", "prompt": "" })).await;
    let later = spans_of(&collector, "later").await;
    server.kill9();
    server.up().await;
    start(&server, &[], json!({ "run_id": "last", "harness": "demo", "model": "echo", "prompt": "" })).await;
    spans_of(&collector, "last").await;
    let taken = collector.spans(200).concat();
    assert_eq!(taken.iter().filter(|span| span["traceId"] == TRACE).count(), spans.len());
    // Of a call that failed it is told that it did, and nothing of what was called or came back.
    let failed = later.iter().find(|span| attribute(span, "error.type") == "tool_error").expect("a failed call");
    assert_eq!(failed["status"]["code"], 2);
    let sent: String = collector.posts().iter().map(|post| post.body.to_string()).collect();
    assert!(!sent.contains("notes.txt") && !sent.contains("README"), "{sent}");
    assert!(!server.log().contains(SECRET), "a header is in the log");
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_in_nobodys_trace_begins_one() {
    let collector = Collector::start();
    let server = server(&collector.address, &[]).await;
    let script = "echo \"$TRACEPARENT/$TRACESTATE/$OTEL_EXPORTER_OTLP_HEADERS\"; exit 3";
    start(&server, &[], json!({ "run_id": "own", "command": "/bin/sh", "args": ["-c", script] })).await;
    let spans = spans_of(&collector, "own").await;
    let events = server.events("own").await;
    let (trace, span) = (spans[0]["traceId"].as_str().unwrap(), spans[0]["spanId"].as_str().unwrap());
    assert_eq!(events[0]["trace"], json!({ "trace_id": trace, "span_id": span }));
    assert_eq!(output_of(&events, "stdout"), format!("00-{trace}-{span}-01//\n").into_bytes());
    assert!(spans[0].get("parentSpanId").is_none());
    assert_eq!(spans[0]["status"]["code"], 2);
    assert_eq!(attribute(&spans[0], "error.type"), "exit_nonzero");
    assert_eq!(attribute(one(&spans, "attempt"), "process.exit.code"), "3");

    // A header that is not valid is nobody's trace; a state that is not valid takes nothing from one.
    let sh = |id: &str| json!({ "run_id": id, "command": "/bin/sh", "args": ["-c", "echo $TRACESTATE"] });
    start(&server, &[("traceparent", "00-zz-00f067aa0ba902b7-01"), ("tracestate", "a=1")], sh("bad")).await;
    let bad = spans_of(&collector, "bad").await;
    assert!(bad[0].get("parentSpanId").is_none() && bad[0].get("traceState").is_none());
    let good = format!("00-{TRACE}-{PARENT}-01");
    start(&server, &[("traceparent", &good), ("tracestate", "a")], sh("state")).await;
    assert_eq!(spans_of(&collector, "state").await[0]["traceId"], TRACE);
    for (id, code) in [("bad", "traceparent_ignored"), ("state", "tracestate_ignored")] {
        let events = server.events(id).await;
        assert_eq!(events.iter().filter(|event| event["data"]["code"] == code).count(), 1, "{id}");
        assert_eq!(output_of(&events, "stdout"), b"\n", "{id}");
    }
    // A command line that is in a trace itself hands it on, and a shell's state is no part of another trace.
    for (id, shell, shown) in [
        ("cli", vec![("TRACEPARENT", good.as_str()), ("TRACESTATE", "b=2")], "b=2"),
        ("alone", vec![("TRACESTATE", "b=2")], ""),
    ] {
        let said = Command::new(LONGHAUL)
            .args(["run", "--id", id, "--project", "default", "--", "/bin/sh", "-c", "echo state:$TRACESTATE"])
            .env("LONGHAUL_SERVER", &server.base)
            .envs(shell)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), format!("state:{shown}\n"), "{said:?}");
        assert_eq!(spans_of(&collector, id).await[0]["traceId"] == TRACE, id == "cli");
    }
    // The state is the agent's too, and a caller that does not record gets no spans.
    let unsampled = format!("00-{PARENT}{PARENT}-{PARENT}-00");
    start(&server, &[("traceparent", &unsampled), ("tracestate", "a=1")], sh("unsampled")).await;
    server.end("unsampled").await;
    assert_eq!(output_of(&server.events("unsampled").await, "stdout"), b"a=1\n");
    start(&server, &[], sh("last")).await;
    spans_of(&collector, "last").await;
    assert!(collector.run("unsampled").is_none());
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_harms_nothing() {
    let away = support::collector::socket();
    let address = away.local_addr().unwrap().to_string();
    let mut server = server(&address, &[]).await;
    for id in ["a", "b", "c"] {
        start(&server, &[], json!({ "run_id": id, "command": "/bin/true" })).await;
        assert_eq!(server.end(id).await["status"], "completed");
    }
    let failures = async || {
        let text = server.http.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("longhaul_trace_export_failures_total "));
        line.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0)
    };
    until("a second try", async || (failures().await >= 2).then_some(())).await;
    let warned = server.log().lines().filter(|line| line.contains("WARN") && line.contains("traces")).count();
    assert_eq!(warned, 1, "{}", server.log());
    assert!(server.term().success());
    assert!(!server.log().contains(SECRET), "a header is in the log");

    // The store is the queue: what nobody took is there when somebody does.
    let collector = Collector::start_on(away);
    server.up().await;
    for id in ["a", "b", "c"] {
        spans_of(&collector, id).await;
    }
    // What is refused for good is not sent for ever.
    collector.answer(400);
    start(&server, &[], json!({ "run_id": "refused", "command": "/bin/true" })).await;
    until("the refusal", async || collector.spans(400).first().cloned()).await;
    collector.answer(200);
    start(&server, &[], json!({ "run_id": "d", "command": "/bin/true" })).await;
    spans_of(&collector, "d").await;
    assert!(collector.run("refused").is_none());
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_exported_unless_something_says_so() {
    let collector = Collector::start();
    let mut server = server(&collector.address, &[]).await;
    let sh = |id: &str| json!({ "run_id": id, "command": "/bin/true" });
    start(&server, &[], sh("before")).await;
    spans_of(&collector, "before").await;
    // For a while nothing is exported, and what ends then is not afterwards either.
    server.term();
    server.env.push(("OTEL_TRACES_EXPORTER".to_owned(), "none".to_owned()));
    server.up().await;
    start(&server, &[], sh("meanwhile")).await;
    server.end("meanwhile").await;
    assert!(server.events("meanwhile").await[0].get("trace").is_none());
    server.term();
    server.env.pop();
    server.up().await;
    start(&server, &[], sh("after")).await;
    spans_of(&collector, "after").await;
    assert!(collector.run("meanwhile").is_none());

    // A variable that is for other programs is no reason not to serve; a line of our own file is.
    server.term();
    server.env.push(("OTEL_EXPORTER_OTLP_PROTOCOL".to_owned(), "grpc".to_owned()));
    server.up().await;
    assert!(server.log().contains("OTEL_EXPORTER_OTLP_PROTOCOL: OTLP is spoken over HTTP only"), "{}", server.log());
    server.term();
    server.env.retain(|(name, _)| !name.starts_with("OTEL_"));
    let file = server.dir.path().join("config.toml");
    let table = |more: &str| format!("[telemetry]\nendpoint = \"http://{}\"\n{more}", collector.address);
    server.args = vec!["--config".to_owned(), file.to_str().unwrap().to_owned()];
    std::fs::write(&file, table(&format!("headers = \"x-team=blue,{SECRET}\"\n"))).unwrap();
    server.spawn();
    assert_eq!(server.exited().code(), Some(78));
    assert!(server.log().contains("config.toml:3: header 2 is not NAME=VALUE"), "{}", server.log());
    std::fs::write(&file, table(&format!("headers = \"x-team={SECRET}\"\nservice_name = \"ours\"\n"))).unwrap();
    server.up().await;
    start(&server, &[], sh("file")).await;
    spans_of(&collector, "file").await;
    let post = collector.posts().pop().unwrap();
    assert_eq!(post.headers["x-team"], SECRET);
    assert_eq!(attribute(&post.body["resourceSpans"][0]["resource"], "service.name"), "ours");
    assert!(!server.log().contains(SECRET), "a header is in the log");
    assert_no_process(&server.data()).await;
}
