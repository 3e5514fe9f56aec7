//! Bad input: one table of requests with the refusal of each. One shape for all, nothing stored, the server unharmed.

mod chat;
mod envelopes;
mod responses;
mod runs;
#[path = "../support/mod.rs"]
mod support;
mod table;

use std::collections::BTreeSet;

use longhaul_api::ErrorCode;
use serde_json::{Value, json};

use support::wire::{self, Answer};
use support::{Server, assert_no_process};
use table::{Row, Table, demo, exec};

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
    runs::malformed(&mut table);
    runs::run_fields(&mut table);
    runs::command_fields(&mut table, file.to_str().unwrap());
    chat::chat_fields(&mut table);
    responses::response_fields(&mut table);
    responses::response_addresses(&mut table);
    runs::addresses(&mut table);
    envelopes::envelopes(&mut table);
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
