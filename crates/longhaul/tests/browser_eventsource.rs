//! A browser's `EventSource` comes back by itself, over a crash and a stop of the server, and shows no gap and no repeat.

mod support;

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use support::{Server, assert_log, assert_no_process, tool};

/// Every type that the run's log can have: a page listens to each by its name.
const TYPES: &[&str] = &[
    "run.created",
    "run.started",
    "run.adopted",
    "run.attempt_started",
    "run.completed",
    "run.failed",
    "run.cancelled",
    "process.started",
    "process.exited",
    "output.line",
    "warning",
];

/// `EventSource.readyState`. Source: WHATWG HTML, section 9.2.2.
const CONNECTING: i64 = 0;
const CLOSED: i64 = 2;

/// A browser at a page, and what the page has said.
struct Page {
    node: Child,
    lines: Lines<BufReader<ChildStdout>>,
    events: Vec<Value>,
    opens: usize,
    errors: Vec<i64>,
    notes: Vec<String>,
}

impl Page {
    fn open(server: &Server, run: &str, types: &[&str]) -> Option<Self> {
        let (package, chromium) = (tool("playwright")?, tool("chromium")?);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/eventsource.mjs");
        let mut node = Command::new("node")
            .arg(script)
            .args([&package, &chromium, &server.dir.path().join("profile")])
            .args([&server.base, run])
            .args(types)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(node.stdout.take().unwrap()).lines();
        Some(Self { node, lines, events: vec![], opens: 0, errors: vec![], notes: vec![] })
    }

    /// Reads what the page says until `enough`.
    async fn until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            let line = tokio::time::timeout(support::PATIENCE, self.lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("waited in vain for {what}: {:?} {:?}", self.errors, self.notes));
            let facts: Value = serde_json::from_str(&line.unwrap().expect("the page is there")).unwrap();
            if let Some(state) = facts["error"].as_i64() {
                assert!(!self.errors.contains(&CLOSED), "closed is for ever");
                self.errors.push(state);
            } else if let Some(note) = facts["note"].as_str() {
                self.notes.push(note.to_owned());
            } else if facts["open"] == true {
                self.opens += 1;
            } else {
                self.events.push(facts);
            }
        }
    }

    async fn more(&mut self, count: usize) {
        let want = self.events.len() + count;
        self.until("more events", |page| page.events.len() >= want).await;
    }

    async fn close(mut self) {
        drop(self.node.stdin.take());
        let closed = tokio::time::timeout(support::PATIENCE, self.node.wait()).await;
        assert!(closed.expect("the browser closes").unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eventsource_follows_a_run_over_a_crash_and_a_stop_of_the_server() {
    let mut server = Server::start().await;
    let stop = server.dir.path().join("stop");
    let script = "n=0; while [ ! -e \"$STOP\" ]; do n=$((n+1)); echo \"line $n: zäh\"; sleep 0.01; done";
    let body = json!({ "run_id": "r", "command": "/bin/sh", "args": ["-c", script], "env": { "STOP": stop } });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    let pid = server.status("r", "running").await["pid"].clone();
    let Some(mut page) = Page::open(&server, "r", TYPES) else {
        server.post("/v1/runs/r/cancel?wait_ms=30000", &json!({})).await;
        return;
    };
    page.more(20).await;

    // A crash: the page finds nobody at least once before the next server is there.
    server.kill9();
    let errors = page.errors.len();
    page.until("the page to find nobody", |page| page.errors.len() >= errors + 2).await;
    server.up().await;
    page.until("the page to be back", |page| page.opens == 2).await;
    page.more(20).await;

    // A stop: it is told so.
    server.term();
    page.until("the page to be told", |page| page.notes.contains(&"draining".to_owned())).await;
    server.up().await;
    page.until("the page to be back again", |page| page.opens == 3).await;
    page.more(20).await;
    assert_eq!(server.run("r").await["pid"], pid);

    // The end: it comes back once more, is told that there is nothing more, and stays away.
    std::fs::write(stop, "").unwrap();
    page.until("the source to be closed", |page| page.errors.contains(&CLOSED)).await;
    let (last, before) = page.errors.split_last().unwrap();
    assert_eq!(*last, CLOSED);
    assert!(before.iter().all(|state| *state == CONNECTING), "{:?}", page.errors);
    assert_eq!(page.notes.iter().filter(|note| *note == "hello").count(), 3, "{:?}", page.notes);
    assert_eq!(page.notes.iter().filter(|note| *note == "draining").count(), 1);
    assert_eq!(page.opens, 3, "one for each server");
    assert!(!page.notes.iter().any(|note| note == "message"), "every event has a name");

    let log = server.events("r").await;
    assert_log(&log);
    let seen: Vec<(String, String, Value)> = page
        .events
        .iter()
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            (text("id"), text("type"), serde_json::from_str(&text("data")).unwrap())
        })
        .collect();
    let want: Vec<(String, String, Value)> = log
        .iter()
        .map(|event| (event["seq"].to_string(), event["type"].as_str().unwrap().to_owned(), event.clone()))
        .collect();
    assert_eq!(seen, want, "no gap and no repeat");
    page.close().await;
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_with_onmessage_alone_sees_every_event_and_what_was_refused() {
    let server = Server::start().await;
    server.sh("r", "echo one; echo two").await;
    server.end("r").await;
    let Some(mut page) = Page::open(&server, "r", &[]) else { return };
    page.until("the source to be closed", |page| page.errors.contains(&CLOSED)).await;
    assert_eq!(page.notes, ["hello"]);
    let log = server.events("r").await;
    let seen: Vec<Value> =
        page.events.iter().map(|e| serde_json::from_str(e["data"].as_str().unwrap()).unwrap()).collect();
    assert_eq!(seen, log);
    let ids: Vec<&str> = page.events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids, (1..=log.len()).map(|seq| seq.to_string()).collect::<Vec<_>>());
    page.close().await;

    // A run that was erased: the page is told, and its source is not closed for it.
    assert_eq!(server.http.delete(server.url("/v1/runs/r")).send().await.unwrap().status(), 200);
    let Some(mut page) = Page::open(&server, "r", &[]) else { return };
    page.until("the page to be told", |page| page.notes.contains(&"message".to_owned())).await;
    assert!(!page.errors.contains(&CLOSED), "{:?}", page.errors);
    page.close().await;
}
