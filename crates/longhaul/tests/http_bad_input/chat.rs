//! Chat requests.

use serde_json::json;

use super::table::{Table, talk};

/// Fields of a chat request.
pub fn chat_fields(table: &mut Table) {
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
