//! A deadline belongs to the run: no restart of a server prolongs or shortens it.
#![allow(missing_docs)]

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{Server, assert_log, assert_no_process, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_is_kept_while_no_server_is_up() {
    let mut server = Server::start().await;
    let began = Instant::now();
    let body =
        json!({ "run_id": "r", "command": "/bin/sh", "args": ["-c", "echo on; exec sleep 1000"], "timeout_ms": 4000 });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    server.status("r", "running").await;
    server.kill9();
    let runs = server.data().join("runs");
    let exit = std::fs::read_dir(&runs).unwrap().next().unwrap().unwrap().path().join("a1/exit");
    until("the shim to end the run by itself", async || exit.exists().then_some(())).await;
    assert!(began.elapsed() >= Duration::from_millis(4000), "not before its time");
    server.up().await;
    let end = server.end("r").await;
    assert_eq!((&end["status"], &end["error"]["code"]), (&json!("failed"), &json!("timeout")), "{end}");
    let events = server.events("r").await;
    assert_log(&events);
    let exited = events.iter().find(|e| e["type"] == "process.exited").unwrap();
    assert_eq!(exited["data"]["stop"], "deadline");
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_neither_prolong_nor_shorten_it() {
    let mut server = Server::start().await;
    let body = json!({ "run_id": "r", "command": "/bin/sh", "args": ["-c", "exec sleep 1000"], "timeout_ms": 4000 });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    server.status("r", "running").await;
    for _ in 0..3 {
        server.kill9();
        server.up().await;
    }
    let end = server.end("r").await;
    assert_eq!(end["error"]["code"], "timeout", "{end}");
    let shim = server.data().join("runs");
    let exit = std::fs::read_dir(shim).unwrap().next().unwrap().unwrap().path().join("a1/exit");
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(exit).unwrap()).unwrap();
    let ran = record["ran_ms"].as_u64().unwrap();
    assert!((4000..10_000).contains(&ran), "it ran {ran} ms of 4000, and what its end took");
}
