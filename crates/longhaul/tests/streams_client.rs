//! The protocol's own client, unmodified, tails a live run over a crash and a stop of the server: every event once, in
//! order, to the end.

mod support;

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use support::{Server, tool};

/// A client that tails.
struct Tail {
    node: Child,
    lines: Lines<BufReader<ChildStdout>>,
    seen: Vec<Value>,
}

impl Tail {
    fn begin(server: &Server, path: &str, live: &str) -> Option<Self> {
        let modules = tool("conformance")?.join("../..");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/streams/tail.mjs");
        let mut node = Command::new("node")
            .arg(script)
            .arg(modules.canonicalize().unwrap())
            .args([&server.url(path), live])
            .env("NO_PROXY", "*")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(node.stdout.take().unwrap()).lines();
        Some(Self { node, lines, seen: vec![] })
    }

    /// Reads until a line of the agent came, or to the end.
    async fn until(&mut self, text: Option<&str>) {
        loop {
            let line = tokio::time::timeout(support::PATIENCE, self.lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("waited in vain for {text:?} after {:?}", self.seen.last()));
            let Some(line) = line.unwrap() else {
                assert_eq!(text, None, "the client ended");
                assert!(self.node.wait().await.unwrap().success());
                return;
            };
            let event: Value = serde_json::from_str(&line).unwrap();
            let found = event["data"]["text"].as_str() == text && text.is_some();
            self.seen.push(event);
            if found {
                return;
            }
        }
    }
}

async fn tails(live: &str) {
    let mut server = Server::start_with(&["--long-poll-timeout", "1000"], &[]).await;
    let file = |name: &str| server.dir.path().join(name);
    let (second, third) = (file("second"), file("third"));
    let wait = |path: &std::path::Path| format!("while [ ! -e {} ]; do sleep 0.02; done", path.display());
    let script = format!("echo one; {}; echo two; {}; echo three", wait(&second), wait(&third));
    server.sh("r", &script).await;
    let Some(mut tail) = Tail::begin(&server, "/v1/stream/runs/r", live) else { return };
    tail.until(Some("one")).await;
    server.kill9();
    std::fs::write(&second, "").unwrap();
    server.up().await;
    tail.until(Some("two")).await;
    server.term();
    std::fs::write(&third, "").unwrap();
    server.up().await;
    tail.until(None).await;
    server.end("r").await;
    assert_eq!(tail.seen, server.events("r").await, "every event once, in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_polls_misses_nothing_over_restarts() {
    tails("long-poll").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_follows_events_misses_nothing_over_restarts() {
    tails("sse").await;
}
