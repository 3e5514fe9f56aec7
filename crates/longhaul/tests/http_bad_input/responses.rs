//! Responses.

use longhaul_model::limits;
use serde_json::{Value, json};

use super::table::Table;

/// Fields of a request for a response.
pub fn response_fields(table: &mut Table) {
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
pub fn response_addresses(table: &mut Table) {
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
