//! Bad input: one table of requests with the refusal of each. One shape for all, nothing stored, the server unharmed.

mod support;

use std::collections::BTreeSet;

use longhaul_api::ErrorCode;
use longhaul_model::limits;
use serde_json::{Value, json};

use support::wire::{self, Answer};
use support::{Server, assert_no_process};

/// A request and its refusal.
struct Row {
    what: String,
    request: Vec<u8>,
    status: u16,
    code: &'static str,
    param: Option<String>,
    /// Facts beside the common members.
    facts: Vec<(&'static str, Value)>,
}

/// Rows being made.
#[derive(Default)]
struct Table(Vec<Row>);

impl Table {
    fn raw(&mut self, what: &str, request: Vec<u8>, status: u16, code: &'static str, param: Option<&str>) -> &mut Row {
        let param = param.map(str::to_owned);
        self.0.push(Row { what: what.to_owned(), request, status, code, param, facts: vec![] });
        self.0.last_mut().unwrap()
    }

    fn get(&mut self, target: &str, status: u16, code: &'static str, param: Option<&str>) -> &mut Row {
        self.with("GET", target, &[], b"", status, code, param)
    }

    #[expect(clippy::too_many_arguments, reason = "a row is a row")]
    fn with(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &[u8])],
        body: &[u8],
        status: u16,
        code: &'static str,
        param: Option<&str>,
    ) -> &mut Row {
        let mut all: Vec<(&str, &[u8])> = vec![("host", b"localhost")];
        all.extend(headers);
        let shown: String = String::from_utf8_lossy(body).chars().take(200).collect();
        let shown_headers: Vec<_> = headers.iter().map(|(n, v)| (n, String::from_utf8_lossy(v))).collect();
        let target_shown: String = target.chars().take(100).collect();
        let what = format!("{method} {target_shown} {shown_headers:?} {shown}");
        self.raw(&what, wire::request(method, target, &all, body), status, code, param)
    }

    fn post(&mut self, target: &str, body: &[u8], status: u16, code: &'static str, param: Option<&str>) -> &mut Row {
        self.with("POST", target, &[], body, status, code, param)
    }

    /// A field of a run request with a value that is not allowed.
    fn field(&mut self, body: Value, code: &'static str, param: &str) -> &mut Row {
        self.post("/v1/runs", body.to_string().as_bytes(), 400, code, Some(param))
    }

    /// A chat request with a value that is not allowed.
    fn chat(&mut self, body: Value, status: u16, code: &'static str, param: Option<&str>) -> &mut Row {
        self.post("/v1/chat/completions", body.to_string().as_bytes(), status, code, param)
    }
}

impl Row {
    fn fact(&mut self, name: &'static str, value: Value) -> &mut Self {
        self.facts.push((name, value));
        self
    }
}

/// Codes that no request alone can bring about, and where they are tested.
const ELSEWHERE: &[(ErrorCode, &str)] = &[
    (ErrorCode::UpgradeRefused, "upgrade"),
    (ErrorCode::SessionConflict, "sessions"),
    (ErrorCode::SessionBusy, "sessions"),
    (ErrorCode::LogExpired, "retention"),
    (ErrorCode::SessionQueueFull, "sessions"),
    (ErrorCode::LimitUnenforceable, "containment"),
    (ErrorCode::ConfinementUnavailable, "confinement"),
    (ErrorCode::ApprovalNotFound, "approvals"),
    (ErrorCode::ApprovalSettled, "approvals"),
    (ErrorCode::ApprovalConflict, "approvals"),
    (ErrorCode::NoInputChannel, "approvals"),
    (ErrorCode::RunEnded, "approvals"),
    (ErrorCode::InputQueueFull, "approvals"),
    (ErrorCode::BodyTooLarge, "http_dispatch"),
    (ErrorCode::BodyTooSlow, "http_slow"),
    (ErrorCode::TooManyConnections, "http_slow"),
    (ErrorCode::RunConflict, "http_dispatch"),
    (ErrorCode::OperationConflict, "http_dispatch"),
    (ErrorCode::RunCancelled, "http_dispatch"),
    (ErrorCode::Saturated, "http_dispatch"),
    (ErrorCode::QueueFull, "http_dispatch"),
    (ErrorCode::RunFailed, "http_dispatch"),
    (ErrorCode::RunTimeout, "http_dispatch"),
    (ErrorCode::Unauthorized, "http_server"),
    (ErrorCode::Draining, "http_stream"),
    (ErrorCode::StoreFull, "fault_disk"),
    (ErrorCode::DiskLow, "fault_disk"),
    (ErrorCode::StoreBusy, "the store's own tests"),
    (ErrorCode::StoreFailed, "the store's own tests"),
    (ErrorCode::CursorExpired, "nothing expires yet"),
    (ErrorCode::ForbiddenPeer, "http_peer"),
    (ErrorCode::AgentNotOperator, "access_agents"),
    (ErrorCode::ForbiddenScope, "access"),
    (ErrorCode::ForbiddenProject, "access"),
    (ErrorCode::ForbiddenCwd, "access"),
    (ErrorCode::TokenExpired, "access"),
    (ErrorCode::TooManyTokens, "access"),
    (ErrorCode::StreamNotFound, "streams_http"),
    (ErrorCode::TailMoved, "streams_http"),
    (ErrorCode::StreamConflict, "streams_hostile"),
    (ErrorCode::StreamClosed, "streams_hostile"),
    (ErrorCode::StreamGone, "streams_hostile"),
    (ErrorCode::StreamSeqConflict, "streams_hostile"),
    (ErrorCode::ContentTypeMismatch, "streams_hostile"),
    (ErrorCode::ProducerGap, "streams_hostile"),
    (ErrorCode::ProducerFenced, "streams_hostile"),
    (ErrorCode::PathTooLong, "streams_hostile"),
    (ErrorCode::TooManyProducers, "model"),
    (ErrorCode::SubscriptionInvalid, "streams_subscriptions"),
    (ErrorCode::WebhookUrlRejected, "streams_subscriptions"),
    (ErrorCode::SubscriptionToken, "streams_subscriptions"),
    (ErrorCode::SubscriptionNotFound, "streams_subscriptions"),
    (ErrorCode::SubscriptionExists, "streams_subscriptions"),
    (ErrorCode::Fenced, "streams_subscriptions"),
    (ErrorCode::AlreadyClaimed, "streams_subscriptions"),
    (ErrorCode::NoPendingWork, "streams_subscriptions"),
    (ErrorCode::InvalidOffset, "streams_subscriptions"),
    (ErrorCode::TooManySubscriptions, "nobody has so many"),
    (ErrorCode::Internal, "a fault of ours"),
];

fn demo(more: Value) -> Value {
    let mut body = json!({ "harness": "demo", "prompt": "hi" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn exec(more: Value) -> Value {
    let mut body = json!({ "command": "/bin/true" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn talk(more: Value) -> Value {
    let mut body = json!({ "model": "demo/echo", "messages": [{ "role": "user", "content": "hi" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// What is no JSON that a request can be made of.
fn malformed(table: &mut Table) {
    let deep = |open: &str, close: &str| format!("{{\"metadata\":{}1{}}}", open.repeat(10_000), close.repeat(10_000));
    let bodies: Vec<Vec<u8>> = vec![
        b"{".to_vec(),
        b"[]".to_vec(),
        b"null".to_vec(),
        b"\"run\"".to_vec(),
        b"{} {}".to_vec(),
        b"{'a':1}".to_vec(),
        br#"{"command":"true","command":"true"}"#.to_vec(),
        br#"{"command":"true","env":{"A":"1","A":"2"}}"#.to_vec(),
        br#"{"command":"true","metadata":{"n":1e400}}"#.to_vec(),
        br#"{"command":"true","metadata":{"n":9007199254740993}}"#.to_vec(),
        br#"{"command":"true","metadata":{"s":"\ud800"}}"#.to_vec(),
        b"{\"command\":\"\xff\xfe\"}".to_vec(),
        b"{\"command\":\"a\nb\"}".to_vec(),
        b"\x00".to_vec(),
        b"\x1f\x8b\x08\x00not json but gzip".to_vec(),
        deep("[", "]").into_bytes(),
        deep("{\"a\":", "}").into_bytes(),
        "[".repeat(10_000).into_bytes(),
    ];
    for body in &bodies {
        for target in ["/v1/runs", "/v1/chat/completions", "/v1/responses", "/v1/runs/live/cancel"] {
            table.post(target, body, 400, "invalid_json", None);
        }
    }
}

/// What a run may do to the machine.
fn containment_fields(table: &mut Table) {
    for wrong in [json!("maybe"), json!(true)] {
        table.field(demo(json!({ "confine": wrong })), "invalid_field", "confine");
    }
    for bytes in [json!(0), json!((16 << 20) - 1), json!("1G"), json!(-1)] {
        let limits = json!({ "limits": { "memory_bytes_max": bytes } });
        table.field(demo(limits), "invalid_field", "limits.memory_bytes_max");
    }
    table.field(demo(json!({ "limits": { "tasks_max": 0 } })), "invalid_field", "limits.tasks_max");
}

/// Fields of a run request.
fn run_fields(table: &mut Table) {
    containment_fields(table);
    table.field(json!({}), "invalid_field", "harness");
    table.field(demo(json!({ "promt": "hi" })), "unknown_field", "promt");
    table.field(demo(json!({ "limits": { "turns": 1 } })), "invalid_field", "limits.turns");
    for id in ["", "a/b", "a b", "ä", "a\u{0}b", &"x".repeat(256)] {
        table.field(demo(json!({ "run_id": id })), "invalid_field", "run_id");
        table.field(demo(json!({ "project": id })), "invalid_field", "project");
    }
    for (field, wrong) in [
        ("harness", json!(1)),
        ("prompt", json!(["hi"])),
        ("args", json!("x")),
        ("env", json!(["A=1"])),
        ("cwd", json!(1)),
        ("tags", json!(["a"])),
        ("metadata", json!("m")),
        ("timeout_ms", json!("5")),
        ("timeout_ms", json!(-1)),
        ("timeout_ms", json!(1.5)),
        ("timeout_ms", json!(0)),
        ("timeout_ms", json!(limits::TIMEOUT_MAX.as_millis() as u64 + 1)),
        ("permissions", json!("root")),
        ("on_lost", json!("retry")),
        ("on_disconnect", json!("explode")),
        ("on_cwd_busy", json!(true)),
        ("limits", json!([])),
        ("name", json!("a\u{7}b")),
        ("name", json!("x".repeat(256))),
        ("model", json!("")),
        ("effort", json!("x".repeat(256))),
        ("tags", json!({ "": "v" })),
        ("tags", json!({ "k": "v".repeat(256) })),
        ("tags", Value::Object((0..51).map(|n| (format!("t{n}"), json!("v"))).collect())),
        ("messages", json!([{ "role": "user", "content": "both" }])),
        ("prompt", json!("x".repeat(limits::PROMPT_BYTES_MAX + 1))),
    ] {
        table.field(demo(json!({ field: wrong })), "invalid_field", field);
    }
    for format in [
        json!("json"),
        json!({}),
        json!({ "type": "xml" }),
        json!({ "type": "text", "schema": {} }),
        json!({ "type": "json_schema" }),
        json!({ "type": "json_schema", "schema": true }),
        json!({ "type": "json_schema", "schema": {}, "name": "a b" }),
        json!({ "type": "json_schema", "schema": {}, "strict": 1 }),
        json!({ "type": "json_schema", "json_schema": { "schema": {}, "shape": 1 } }),
        json!({ "type": "json_schema", "schema": { "x": "x".repeat(limits::SCHEMA_BYTES_MAX) } }),
    ] {
        table.field(demo(json!({ "response_format": format })), "invalid_field", "response_format");
    }
    let one = |server: Value| json!({ "servers": { "s": server } });
    for (mcp, param) in [
        (json!([]), "mcp"),
        (json!({ "mcpServers": {} }), "mcp"),
        (json!({ "servers": {} }), "mcp.servers"),
        (json!({ "servers": { "a.b": { "command": "x" } } }), "mcp.servers"),
        (one(json!({ "command": "x", "url": "http://h" })), "mcp.servers.s"),
        (one(json!("x")), "mcp.servers.s"),
        (one(json!({ "command": "" })), "mcp.servers.s.command"),
        (one(json!({ "command": "x", "args": "y" })), "mcp.servers.s.args"),
        (one(json!({ "command": "x", "env": { "A=B": "secret" } })), "mcp.servers.s.env"),
        (one(json!({ "command": "x", "env": { "A": 1 } })), "mcp.servers.s.env"),
        (one(json!({ "url": "file:///etc" })), "mcp.servers.s.url"),
        (one(json!({ "url": "http://h", "headers": { "A": "b\nc" } })), "mcp.servers.s.headers"),
        (one(json!({ "command": "x", "args": ["y".repeat(limits::MCP_BYTES_MAX)] })), "mcp"),
    ] {
        table.field(demo(json!({ "mcp": mcp })), "invalid_field", param);
    }
    table.field(demo(json!({ "limits": { "idle_ms": 0 } })), "invalid_field", "limits.idle_ms");
    table.field(demo(json!({ "limits": { "turns_max": 0 } })), "invalid_field", "limits.turns_max");
    table.field(demo(json!({ "env": { "A": 1 } })), "invalid_field", "env.A");
    table.field(json!({ "harness": "demo", "messages": [] }), "invalid_field", "messages");
    table.field(
        json!({ "harness": "demo", "messages": [{ "role": "king", "content": "x" }] }),
        "invalid_field",
        "messages[0].role",
    );
}

/// Fields of a command, and those that a harness cannot honour.
fn command_fields(table: &mut Table, file: &str) {
    table.field(exec(json!({ "command": "" })), "invalid_field", "command");
    table.field(exec(json!({ "command": "/bin/\u{0}true" })), "invalid_field", "command");
    table.field(exec(json!({ "args": ["a", "b\u{0}c"] })), "invalid_field", "args[1]");
    table.field(exec(json!({ "args": ["a", 1] })), "invalid_field", "args[1]");
    table.field(exec(json!({ "args": vec!["x"; limits::ARGS_MAX + 1] })), "invalid_field", "args");
    table.field(exec(json!({ "args": ["x".repeat(limits::ARG_BYTES_MAX + 1)] })), "invalid_field", "args[0]");
    for name in ["", "A=B", "A\u{0}B"] {
        table.field(exec(json!({ "env": { name: "v" } })), "invalid_field", &format!("env.{name}"));
        table.field(exec(json!({ "captured_env": { name: "v" } })), "invalid_field", &format!("captured_env.{name}"));
    }
    table.field(exec(json!({ "env": { "A": "b\u{0}c" } })), "invalid_field", "env.A");
    for cwd in ["", "rel", "./here", "/tmp/\u{0}", "/nowhere/at/all", file] {
        table.field(exec(json!({ "cwd": cwd })), "invalid_field", "cwd");
    }

    // What this version or this harness cannot honour.
    for (field, value) in [
        ("mcp", json!({ "servers": { "s": { "command": "serve" } } })),
        ("response_format", json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": {} } })),
        ("response_format", json!({ "type": "json_object" })),
        ("args", json!(["x"])),
    ] {
        table.field(demo(json!({ field: value })), "unsupported_field", field);
    }
    table.field(demo(json!({ "limits": { "cost_usd_max": 1 } })), "unsupported_field", "limits.cost_usd_max");
    table.field(json!({ "harness": "exec", "command": "/bin/true", "prompt": "x" }), "unsupported_field", "prompt");
    table.field(exec(json!({ "on_lost": "resume" })), "unsupported_field", "on_lost");

    let names: Vec<&str> = longhaul_harness::all().iter().map(|h| h.name()).collect();
    for (target, body, param) in [
        ("/v1/runs", demo(json!({ "harness": "cluade" })), "harness"),
        ("/v1/chat/completions", talk(json!({ "model": "cluade/opus" })), "model"),
        ("/v1/chat/completions", talk(json!({ "model": "/" })), "model"),
    ] {
        table
            .post(target, body.to_string().as_bytes(), 404, "unknown_harness", Some(param))
            .fact("harnesses", json!(names));
    }
    for (harness, install) in [
        ("claude", "npm install -g @anthropic-ai/claude-code@2.1.329"),
        ("codex", "npm install -g @openai/codex@0.169.0"),
        ("gemini", "npm install -g @google/gemini-cli@0.61.0"),
        ("kimi", "npm install -g @moonshot-ai/kimi-code@2.1.0"),
    ] {
        for (target, body) in [
            ("/v1/runs", demo(json!({ "harness": harness }))),
            ("/v1/chat/completions", talk(json!({ "model": harness }))),
        ] {
            table
                .post(target, body.to_string().as_bytes(), 503, "harness_missing", None)
                .fact("install", json!(install))
                .fact("harness", json!(harness))
                .fact("dispatch", json!("not_started"));
        }
    }
}

/// Fields of a chat request.
fn chat_fields(table: &mut Table) {
    table.chat(json!({}), 400, "invalid_field", Some("model"));
    table.chat(json!({ "model": "demo" }), 400, "invalid_field", Some("messages"));
    table.chat(talk(json!({ "messages": [] })), 400, "invalid_field", Some("messages"));
    table.chat(talk(json!({ "messages": "hi" })), 400, "invalid_field", Some("messages"));
    table.chat(
        talk(json!({ "messages": [{ "role": "user", "content": "" }] })),
        400,
        "invalid_field",
        Some("messages"),
    );
    table.chat(talk(json!({ "messages": [{ "content": "x" }] })), 400, "invalid_field", Some("messages[0]"));
    table.chat(
        talk(json!({ "messages": [{ "role": "user", "content": 1 }] })),
        400,
        "invalid_field",
        Some("messages[0].content"),
    );
    let image = json!([{ "type": "text", "text": "see" }, { "type": "image_url", "image_url": { "url": "x" } }]);
    table.chat(
        talk(json!({ "messages": [{ "role": "user", "content": image }] })),
        400,
        "unsupported_field",
        Some("messages[0].content[1]"),
    );
    table.chat(talk(json!({ "stream": "yes" })), 400, "invalid_field", Some("stream"));
    table.chat(talk(json!({ "stream_options": 1 })), 400, "invalid_field", Some("stream_options"));
    table.chat(talk(json!({ "stream_options": [true] })), 400, "invalid_field", Some("stream_options"));
    table.chat(talk(json!({ "limits": [] })), 400, "invalid_field", Some("limits"));
    table.chat(talk(json!({ "reasoning_effort": "x".repeat(256) })), 400, "invalid_field", Some("reasoning_effort"));
    table.chat(talk(json!({ "temprature": 1 })), 400, "unknown_field", Some("temprature"));
    table.chat(talk(json!({ "prompt": "x" })), 400, "unknown_field", Some("prompt"));
    table.chat(talk(json!({ "queue_timeout_ms": 600_001 })), 400, "invalid_field", Some("queue_timeout_ms"));
    table.chat(talk(json!({ "run_id": "a/b" })), 400, "invalid_field", Some("run_id"));
    table.chat(talk(json!({ "timeout_ms": 0 })), 400, "invalid_field", Some("timeout_ms"));
    table.chat(talk(json!({ "cwd": "rel" })), 400, "invalid_field", Some("cwd"));
    table.chat(talk(json!({ "cwd": "/nowhere/at/all" })), 400, "invalid_field", Some("cwd"));
    table.chat(talk(json!({ "model": "demo/wat" })), 400, "invalid_field", Some("model"));
    table.chat(talk(json!({ "model": "acp/m" })), 404, "unknown_harness", Some("model"));
    table.chat(
        talk(json!({ "model": "exec", "messages": [{ "role": "user", "content": "ls" }] })),
        404,
        "unknown_harness",
        Some("model"),
    );
    let body = talk(json!({})).to_string();
    let chat = "/v1/chat/completions";
    table.with("POST", chat, &[("last-event-id", b"1")], body.as_bytes(), 400, "invalid_field", Some("Last-Event-ID"));
    table.with("POST", chat, &[("x-session-id", b"a/b")], body.as_bytes(), 400, "invalid_field", Some("x-session-id"));
    let named = talk(json!({ "session_id": "t" })).to_string();
    table.with("POST", chat, &[("x-session-id", b"s")], named.as_bytes(), 400, "invalid_field", Some("x-session-id"));
    let streamed = talk(json!({ "stream": true })).to_string();
    table.with(
        "POST",
        chat,
        &[("last-event-id", b"-1")],
        streamed.as_bytes(),
        400,
        "invalid_cursor",
        Some("Last-Event-ID"),
    );
    table.post("/v1/chat/completions?stream=true", body.as_bytes(), 400, "unknown_field", Some("stream"));
}

/// Fields of a request for a response.
fn response_fields(table: &mut Table) {
    let ask = |more: Value| {
        let mut body = json!({ "model": "demo/echo", "input": "hi" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let path = "/v1/responses";
    let image = json!([{ "role": "user", "content": [{ "type": "input_image", "image_url": "x" }] }]);
    for (more, code, param) in [
        (json!({ "model": null }), "invalid_field", "model"),
        (json!({ "model": "demo/wat" }), "invalid_field", "model"),
        (json!({ "input": null }), "invalid_field", "input"),
        (json!({ "input": "" }), "invalid_field", "input"),
        (json!({ "input": [] }), "invalid_field", "input"),
        (json!({ "input": { "role": "user" } }), "invalid_field", "input"),
        (json!({ "input": ["hi"] }), "invalid_field", "input[0].role"),
        (json!({ "input": [{ "role": "king", "content": "x" }] }), "invalid_field", "input[0].role"),
        (json!({ "input": [{ "role": "user", "content": 1 }] }), "invalid_field", "input[0].content"),
        (json!({ "input": image }), "unsupported_field", "input[0].content[0]"),
        (json!({ "input": [{ "type": "function_call_output" }] }), "unsupported_field", "input[0]"),
        (json!({ "stream": "yes" }), "invalid_field", "stream"),
        (json!({ "background": 1 }), "invalid_field", "background"),
        (json!({ "instructions": ["x"] }), "invalid_field", "instructions"),
        (json!({ "instructions": "x" }), "unsupported_field", "instructions"),
        (json!({ "instructions": "x".repeat(limits::PROMPT_BYTES_MAX + 1) }), "invalid_field", "instructions"),
        (json!({ "reasoning": [] }), "invalid_field", "reasoning"),
        (json!({ "reasoning": { "effort": "" } }), "invalid_field", "reasoning.effort"),
        (json!({ "text": { "format": { "type": "json_schema" } } }), "invalid_field", "text.format"),
        (json!({ "text": { "format": { "type": "json_schema", "schema": {} } } }), "unsupported_field", "text.format"),
        (json!({ "reasoning": { "effort": "high" } }), "unsupported_field", "reasoning.effort"),
        (json!({ "queue_timeout_ms": 600_001 }), "invalid_field", "queue_timeout_ms"),
        (json!({ "timeout_ms": 0 }), "invalid_field", "timeout_ms"),
        (json!({ "cwd": "rel" }), "invalid_field", "cwd"),
        (json!({ "run_id": "a/b" }), "invalid_field", "run_id"),
        (json!({ "conversation": "a/b" }), "invalid_field", "conversation"),
        (json!({ "conversation": {} }), "invalid_field", "conversation"),
        (json!({ "conversation": "a", "session_id": "b" }), "invalid_field", "conversation"),
        (json!({ "previous_response_id": "live" }), "invalid_field", "previous_response_id"),
        (json!({ "previous_response_id": "resp_done", "conversation": "s" }), "invalid_field", "previous_response_id"),
        (json!({ "prompt": { "id": "p" } }), "unsupported_field", "prompt"),
        (json!({ "moderation": {} }), "unsupported_field", "moderation"),
        (json!({ "messages": [] }), "unknown_field", "messages"),
        (json!({ "temprature": 1 }), "unknown_field", "temprature"),
    ] {
        table.post(path, ask(more).to_string().as_bytes(), 400, code, Some(param));
    }
    for (more, status, code, param) in [
        (json!({ "model": "cluade/opus" }), 404, "unknown_harness", Some("model")),
        (json!({ "model": "exec" }), 404, "unknown_harness", Some("model")),
        (json!({ "model": "claude" }), 503, "harness_missing", None),
        (json!({ "previous_response_id": "resp_nobody" }), 404, "run_not_found", Some("previous_response_id")),
        (json!({ "previous_response_id": "resp_gone" }), 410, "run_gone", Some("previous_response_id")),
        (json!({ "previous_response_id": "resp_done" }), 409, "not_resumable", Some("previous_response_id")),
        (json!({ "previous_response_id": "resp_live" }), 409, "run_not_ended", Some("previous_response_id")),
    ] {
        table.post(path, ask(more).to_string().as_bytes(), status, code, param);
    }
    let (plain, streamed) = (ask(json!({})).to_string(), ask(json!({ "stream": true })).to_string());
    for (name, value) in [("last-event-id", &b"1"[..]), ("x-session-id", b"a/b")] {
        let (code, param) = match value {
            b"1" => ("invalid_field", "Last-Event-ID"),
            _ => ("invalid_field", "x-session-id"),
        };
        table.with("POST", path, &[(name, value)], plain.as_bytes(), 400, code, Some(param));
    }
    let cursor: &[(&str, &[u8])] = &[("last-event-id", b"-1")];
    table.with("POST", path, cursor, streamed.as_bytes(), 400, "invalid_cursor", Some("Last-Event-ID"));
    table.post("/v1/responses?stream=true", plain.as_bytes(), 400, "unknown_field", Some("stream"));
}

/// Where responses are asked for, read and stopped.
fn response_addresses(table: &mut Table) {
    for id in ["live", "resp_", "resp_a%2Fb", "RESP_live", "%ff"] {
        table.get(&format!("/v1/responses/{id}"), 400, "invalid_field", Some("id"));
        table.post(&format!("/v1/responses/{id}/cancel"), b"", 400, "invalid_field", Some("id"));
        table.with("DELETE", &format!("/v1/responses/{id}"), &[], b"", 400, "invalid_field", Some("id"));
        table.get(&format!("/v1/responses/{id}/input_items"), 400, "invalid_field", Some("id"));
    }
    for stream in ["", "?stream=true"] {
        table.get(&format!("/v1/responses/resp_nobody{stream}"), 404, "run_not_found", None);
        table.get(&format!("/v1/responses/resp_gone{stream}"), 410, "run_gone", None);
    }
    let items = "/v1/responses/resp_live/input_items";
    for (query, code, param) in [
        ("?limit=0", "invalid_field", "limit"),
        ("?limit=101", "invalid_field", "limit"),
        ("?order=up", "invalid_field", "order"),
        ("?after=msg_live_in9", "invalid_cursor", "after"),
        ("?before=x", "unknown_field", "before"),
    ] {
        table.get(&format!("{items}{query}"), 400, code, Some(param));
    }
    table.get("/v1/responses/resp_nobody/input_items", 404, "run_not_found", None);
    table.get("/v1/responses/resp_gone/input_items", 410, "run_gone", None);
    table.get("/v1/responses/resp_live?project=other", 404, "run_not_found", None);
    table.get("/v1/responses/resp_live?nope=1", 400, "unknown_field", Some("nope"));
    table.get("/v1/responses/resp_live?stream=yes", 400, "invalid_field", Some("stream"));
    table.get("/v1/responses/resp_live?wait_ms=30001", 400, "invalid_field", Some("wait_ms"));
    table.get("/v1/responses/resp_live?starting_after=1", 400, "invalid_field", Some("starting_after"));
    for cursor in ["-1", "x", "01", ""] {
        let target = format!("/v1/responses/resp_live?stream=true&starting_after={cursor}");
        table.get(&target, 400, "invalid_cursor", Some("starting_after"));
    }
    let ahead = "/v1/responses/resp_live?stream=true&starting_after=999999";
    table.get(ahead, 409, "cursor_ahead", Some("starting_after"));
    let done = "/v1/responses/resp_done?stream=true&starting_after=999999";
    table.get(done, 409, "cursor_ahead", Some("starting_after"));
    table.with("DELETE", "/v1/responses/resp_live", &[], b"", 409, "run_not_ended", None);
    table.post("/v1/responses/resp_live/cancel", b"{\"reason\":1}", 400, "unknown_field", Some("reason"));
    table.post("/v1/responses/resp_live/cancel?wait_ms=x", b"", 400, "invalid_field", Some("wait_ms"));
    table.post("/v1/responses/resp_gone/cancel", b"", 410, "run_gone", None);
}

/// Ids, cursors and parameters.
fn addresses(table: &mut Table) {
    let long = "x".repeat(256);
    for suffix in ["", "/events", "/log", "/why"] {
        for id in ["a%2Fb", "a%20b", "%00", "%C3%A4", long.as_str()] {
            table.get(&format!("/v1/runs/{id}{suffix}"), 400, "invalid_field", Some("id"));
        }
        // Not UTF-8 once decoded.
        table.get(&format!("/v1/runs/%ff{suffix}"), 400, "invalid_field", Some("id"));
        if !suffix.is_empty() {
            table.get(&format!("/v1/runs/{suffix}"), 400, "invalid_field", Some("id"));
        }
        table.get(&format!("/v1/runs/nobody{suffix}"), 404, "run_not_found", None).fact("run_id", json!("nobody"));
        table.get(&format!("/v1/runs/live{suffix}?project=other"), 404, "run_not_found", None);
        table.get(&format!("/v1/runs/gone{suffix}"), 410, "run_gone", None).fact("run_id", json!("gone"));
        table.get(&format!("/v1/runs/live{suffix}?nope=1"), 400, "unknown_field", Some("nope"));
        table.get(&format!("/v1/runs/live{suffix}?project=a/b"), 400, "invalid_field", Some("project"));
        table.get(&format!("/v1/runs/live{suffix}?project=a&project=b"), 400, "invalid_field", Some("project"));
        table.get(&format!("/v1/runs/live{suffix}?project=%zz"), 400, "invalid_field", Some("query"));
        table.get(&format!("/v1/runs/live{suffix}?project=%ff"), 400, "invalid_field", Some("query"));
    }
    for target in ["/v1/runs/live/events", "/v1/events"] {
        for cursor in ["-1", "abc", "1.5", "01", "+1", "0x1", "%201", "9223372036854775808", "99999999999999999999", ""]
        {
            table.get(&format!("{target}?after={cursor}"), 400, "invalid_cursor", Some("after"));
        }
        for cursor in [&b"-1"[..], b"abc", b"1.5", b"01", b"\xff", b"1 2"] {
            for accept in [&b"application/json"[..], b"text/event-stream"] {
                let headers: &[(&str, &[u8])] = &[("last-event-id", cursor), ("accept", accept)];
                table.with("GET", target, headers, b"", 400, "invalid_cursor", Some("Last-Event-ID"));
            }
        }
        for limit in ["0", "1001", "-1", "x", ""] {
            table.get(&format!("{target}?limit={limit}"), 400, "invalid_field", Some("limit"));
        }
        table.get(&format!("{target}?after=999999"), 409, "cursor_ahead", None);
        table.with(
            "GET",
            &format!("{target}?after=999999"),
            &[("accept", b"text/event-stream")],
            b"",
            409,
            "cursor_ahead",
            None,
        );
        table.get(&format!("{target}?from=1"), 400, "unknown_field", Some("from"));
    }
    table.get("/v1/runs/done/events?after=999999", 409, "cursor_ahead", None);
    for (target, param) in [
        ("/v1/runs?status=wat", "status"),
        ("/v1/runs?tag=x", "tag"),
        ("/v1/runs?limit=101", "limit"),
        ("/v1/runs?limit=0", "limit"),
        ("/v1/runs?limit=5&limit=6", "limit"),
        ("/v1/runs?project=a%2Fb", "project"),
        ("/v1/runs/live?wait_ms=30001", "wait_ms"),
        ("/v1/runs/live?wait_ms=-1", "wait_ms"),
        ("/v1/runs/live/log?stream=stdin", "stream"),
    ] {
        table.get(target, 400, "invalid_field", Some(param));
    }
    for after in ["x", "-1", "01", "+1"] {
        table.get(&format!("/v1/runs?after={after}"), 400, "invalid_cursor", Some("after"));
    }
    table.get("/v1/runs?colour=red", 400, "unknown_field", Some("colour"));
    table.get("/v1/models?x=1", 400, "unknown_field", Some("x"));
    table.post("/v1/runs?wait=1", b"{}", 400, "unknown_field", Some("wait"));
    table.get(&format!("/livez?challenge={}", "x".repeat(256)), 400, "invalid_field", Some("challenge"));

    for range in [&b"bytes=999999-"[..], b"bytes=999999-1000000", b"bytes=-0"] {
        table.with("GET", "/v1/runs/done/log", &[("range", range)], b"", 416, "range_not_satisfiable", Some("Range"));
    }

    for (body, param, code) in [
        (json!({ "reason": 1 }), "reason", "invalid_field"),
        (json!({ "reason": "x".repeat(1025) }), "reason", "invalid_field"),
        (json!({ "op_id": "a/b" }), "op_id", "invalid_field"),
        (json!({ "by": "root" }), "by", "invalid_field"),
        (json!({ "force": true }), "force", "unknown_field"),
    ] {
        table.post("/v1/runs/live/cancel", body.to_string().as_bytes(), 400, code, Some(param));
    }
    table.post("/v1/runs/live/cancel?wait_ms=x", b"", 400, "invalid_field", Some("wait_ms"));
    table.post("/v1/runs/nobody/cancel", b"", 404, "run_not_found", None);
    table.post("/v1/runs/gone/cancel", b"", 410, "run_gone", None);
    table.with(
        "POST",
        "/v1/runs/live/cancel",
        &[("idempotency-key", b"a/b")],
        b"",
        400,
        "invalid_field",
        Some("Idempotency-Key"),
    );
    table.with("DELETE", "/v1/runs/live", &[], b"", 409, "run_not_ended", None);
    table.with("DELETE", "/v1/runs/nobody", &[], b"", 404, "run_not_found", None);
    table.with("DELETE", "/v1/runs/gone", &[], b"", 410, "run_gone", None);
}

/// Methods, paths and headers.
fn envelopes(table: &mut Table) {
    for (method, target) in [
        ("PUT", "/v1/runs"),
        ("DELETE", "/v1/runs"),
        ("PATCH", "/v1/runs/live"),
        ("POST", "/v1/runs/live"),
        ("GET", "/v1/chat/completions"),
        ("GET", "/v1/runs/live/cancel"),
        ("POST", "/v1/runs/live/events"),
        ("GET", "/v1/shutdown"),
        ("GET", "/v1/upgrade"),
        ("POST", "/health"),
        ("BREW", "/v1/runs"),
    ] {
        table.with(method, target, &[], b"", 405, "method_not_allowed", None);
    }
    for target in ["/", "/v1", "/v2/runs", "/v1/runs/a/b", "/v1/runs/", "//v1/runs", "/v1/runs/../runs", "/%", "/%ff"] {
        table.get(target, 404, "route_not_found", None);
    }

    let body = demo(json!({ "run_id": "one" })).to_string();
    for (header, value) in [
        ("x-run-id", &b"two"[..]),
        ("idempotency-key", b"two"),
        ("x-run-id", b"a/b"),
        ("x-run-id", b"\xff"),
        ("idempotency-key", b""),
    ] {
        table.with("POST", "/v1/runs", &[(header, value)], body.as_bytes(), 400, "invalid_field", Some(header));
    }
    for host in
        [&b"evil.example"[..], b"evil.example:80", b"localhost.evil.example", b"", b"\xff", b"127.0.0.1@evil.example"]
    {
        let request = wire::request("GET", "/v1/runs", &[("host", host)], b"");
        table.raw(&format!("host {}", String::from_utf8_lossy(host)), request, 403, "forbidden_host", Some("Host"));
    }
    table.raw("no host", wire::request("GET", "/v1/runs", &[], b""), 403, "forbidden_host", Some("Host"));
    for origin in [&b"http://evil.example"[..], b"null", b"http://localhost:1", b"", b"\xff", b"file://localhost"] {
        table.with("GET", "/v1/runs", &[("origin", origin)], b"", 403, "forbidden_host", Some("Origin"));
        table.with("POST", "/v1/runs", &[("origin", origin)], body.as_bytes(), 403, "forbidden_host", Some("Origin"));
    }
    // A body that ends before its length.
    let cut = b"POST /v1/runs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"com\r\nnonsense\r\n";
    table.raw("a chunk that is none", cut.to_vec(), 400, "invalid_json", None);
}

/// What is wrong with an answer; nothing if it is the refusal that the row wants.
fn wrong(row: &Row, answer: Option<&Answer>) -> Option<String> {
    let Some(answer) = answer else { return Some("no answer".to_owned()) };
    let Ok(body) = serde_json::from_slice::<Value>(&answer.body) else {
        return Some(format!(
            "{}, and a body that is no JSON: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        ));
    };
    let code = ErrorCode::ALL.iter().find(|code| code.as_str() == row.code).expect("a code of the catalogue");
    assert_eq!(code.status(), row.status, "{}", row.what);
    let error = &body["error"];
    let message = error["message"].as_str().filter(|message| !message.is_empty());
    let mut want = json!({
        "type": code.kind(),
        "code": row.code,
        "message": message,
        "param": row.param,
        "request_id": answer.headers.get("x-request-id"),
    });
    // Facts beside the common members are the row's to name or to leave.
    for (name, value) in error.as_object().into_iter().flatten() {
        let named = row.facts.iter().find(|(fact, _)| fact == name).map(|(_, value)| value);
        want.as_object_mut().unwrap().entry(name.clone()).or_insert_with(|| named.unwrap_or(value).clone());
    }
    let facts = row.facts.iter().all(|(name, _)| error.get(name).is_some());
    let retry = answer.headers.get("x-should-retry").map(String::as_str) == (!code.may_retry()).then_some("false");
    let json = answer.headers.get("content-type").map(String::as_str) == Some("application/json");
    let fine = answer.status == row.status && body == json!({ "error": want }) && facts && retry && json;
    (!fine || message.is_none())
        .then(|| format!("{} {:?} {body}\n   wanted {} {want}", answer.status, answer.headers, row.status))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_request_is_refused_by_name_and_leaves_nothing() {
    let server = Server::start_with(&[], &[("PATH", "/nowhere")]).await;
    let address = server.base.strip_prefix("http://").unwrap();
    let file = server.dir.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    for id in ["done", "gone"] {
        server.sh(id, "echo done").await;
        server.end(id).await;
    }
    let deleted = server.http.delete(server.url("/v1/runs/gone")).send().await.unwrap();
    assert_eq!(deleted.status(), 200);
    server.sh("live", "echo live; exec /bin/sleep 600").await;
    server.status("live", "running").await;
    let work = server.dir.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let body = json!({ "run_id": "busy", "harness": "demo", "model": "slow", "prompt": "600", "cwd": work });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    server.status("busy", "running").await;
    let (before, log) = (server.stored().await, server.events("done").await);

    let mut table = Table::default();
    malformed(&mut table);
    run_fields(&mut table);
    command_fields(&mut table, file.to_str().unwrap());
    chat_fields(&mut table);
    response_fields(&mut table);
    response_addresses(&mut table);
    addresses(&mut table);
    envelopes(&mut table);
    let nobody = table.with("DELETE", "/v1/tokens/nobody", &[], b"", 404, "token_not_found", None);
    nobody.fact("token_id", json!("nobody"));
    table.with("POST", "/v1/tokens", &[], b"{}", 400, "invalid_field", Some("scope"));
    table.with("POST", "/v1/runs/done/share", &[], br#"{"ttl_ms":604800001}"#, 400, "invalid_field", Some("ttl_ms"));
    table.with("POST", "/v1/runs/done/share", &[], br#"{"ttl":1}"#, 400, "unknown_field", Some("ttl"));
    table.get("/v1/sessions/nobody", 404, "unknown_session", None).fact("session_id", json!("nobody"));
    table.get("/v1/sessions/nobody/transcript", 404, "unknown_session", None);
    table.get("/v1/sessions/nobody/events", 404, "unknown_session", None);
    table.get("/v1/sessions/nobody/events?after=3", 400, "invalid_cursor", Some("after"));
    table.get("/v1/sessions/nobody/transcript?after=x", 400, "invalid_cursor", Some("after"));
    table.get("/v1/sessions/nobody/transcript?limit=101", 400, "invalid_field", Some("limit"));
    table.get("/v1/sessions/a%2Fb", 400, "invalid_field", Some("id"));
    table.get("/v1/sessions?after=a/b", 400, "invalid_cursor", Some("after"));
    table.get("/v1/sessions?limit=0", 400, "invalid_field", Some("limit"));
    table.field(json!({ "session_id": "new", "prompt": "x" }), "invalid_field", "harness");
    table.field(exec(json!({ "session_id": "s" })), "unsupported_field", "session_id");
    let same = demo(json!({ "cwd": work, "on_cwd_busy": "refuse" })).to_string();
    table.post("/v1/runs", same.as_bytes(), 409, "cwd_busy", None).fact("holder", json!("busy"));
    let mut mistakes = vec![];
    for row in &table.0 {
        let answer = wire::send(address, &row.request).await;
        mistakes.extend(wrong(row, answer.as_ref()).map(|mistake| format!("{}\n   {mistake}", row.what)));
    }
    assert!(mistakes.is_empty(), "{} of {}:\n{}", mistakes.len(), table.0.len(), mistakes.join("\n"));

    // Every code of the catalogue is in the table, or somewhere else that is named.
    let mut covered: BTreeSet<&str> = table.0.iter().map(|row| row.code).collect();
    for (code, place) in ELSEWHERE {
        assert!(covered.insert(code.as_str()), "{} is here and not only in {place}", code.as_str());
    }
    assert_eq!(covered, ErrorCode::ALL.iter().map(|code| code.as_str()).collect());

    assert_eq!(server.stored().await, before);
    assert_eq!(server.events("done").await, log);
    assert_eq!(server.get("/livez").await.0, 200);
    for id in ["live", "busy"] {
        assert_eq!(server.run(id).await["status"], "running", "nobody's mistake touches another's run");
        let (status, _) = server.post(&format!("/v1/runs/{id}/cancel?wait_ms=30000"), &json!({})).await;
        assert_eq!(status, 200);
    }
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_harms_nothing() {
    let server = Server::start().await;
    let address = server.base.strip_prefix("http://").unwrap();
    let big = "x".repeat(1 << 20);
    let many: String = (0..10_000).map(|n| format!("h{n}: v\r\n")).collect();
    for (what, request, status) in [
        ("a huge header", format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx: {big}\r\n\r\n"), 431),
        ("many headers", format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"), 431),
        ("a huge path", format!("GET /{big} HTTP/1.1\r\nhost: localhost\r\n\r\n"), 431),
        ("a long path", format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", &big[..70_000]), 414),
        ("no HTTP", "hello?\r\n\r\n".to_owned(), 400),
        ("another protocol", "\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), 400),
        ("a header without a name", "GET /livez HTTP/1.1\r\nhost: localhost\r\n: v\r\n\r\n".to_owned(), 400),
        (
            "two lengths",
            "POST /v1/runs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
            400,
        ),
        (
            "a length that is none",
            "POST /v1/runs HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n{}".to_owned(),
            400,
        ),
    ] {
        let answer = wire::send(address, request.as_bytes()).await;
        assert_eq!(answer.map(|a| a.status), Some(status), "{what}");
    }
    assert_eq!(server.stored().await, (vec![], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_model_is_passed_on_with_a_warning() {
    // A program of the right name that takes any model is all it needs.
    let bin = tempfile::tempdir().unwrap();
    let program = bin.path().join("claude");
    std::fs::write(&program, "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.path().display());
    let server = Server::start_with(&[], &[("PATH", &path)]).await;
    let body = json!({ "run_id": "m", "harness": "claude", "model": "opus-of-the-future", "prompt": "hi" });
    let (status, run) = server.post("/v1/runs", &body).await;
    assert_eq!((status, &run["model"]), (201, &json!("opus-of-the-future")));
    let end = server.end("m").await;
    assert_eq!(end["status"], "failed", "a program that says nothing has proven nothing");
    let events = server.events("m").await;
    let warnings: Vec<&Value> = events.iter().filter(|e| e["type"] == "warning").map(|e| &e["data"]).collect();
    let message = "claude may not know the model opus-of-the-future; it was asked for it all the same";
    let want = json!({ "code": "unknown_model", "message": message });
    assert_eq!(warnings.iter().filter(|warning| ***warning == want).count(), 1, "{warnings:?}");
    assert_no_process(&server.data()).await;
}
