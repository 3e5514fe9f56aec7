//! Runs: what no request can be made of, fields, ids, cursors and parameters.

use longhaul_model::limits;
use serde_json::{Value, json};

use super::table::{Table, demo, exec, talk};

/// What is no JSON that a request can be made of.
pub fn malformed(table: &mut Table) {
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

/// Fields of a run request.
pub fn run_fields(table: &mut Table) {
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

/// What a run may do to the machine.
pub fn containment_fields(table: &mut Table) {
    for wrong in [json!("maybe"), json!(true)] {
        table.field(demo(json!({ "confine": wrong })), "invalid_field", "confine");
    }
    for bytes in [json!(0), json!((16 << 20) - 1), json!("1G"), json!(-1)] {
        let limits = json!({ "limits": { "memory_bytes_max": bytes } });
        table.field(demo(limits), "invalid_field", "limits.memory_bytes_max");
    }
    table.field(demo(json!({ "limits": { "tasks_max": 0 } })), "invalid_field", "limits.tasks_max");
}

/// Fields of a command, and those that a harness cannot honour.
pub fn command_fields(table: &mut Table, file: &str) {
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

/// Ids, cursors and parameters.
pub fn addresses(table: &mut Table) {
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
