//! What every request has: methods, paths and headers.

use serde_json::json;

use super::support::wire;
use super::table::{Table, demo};

/// Methods, paths and headers.
pub fn envelopes(table: &mut Table) {
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
