//! The protocol's own clients, for JavaScript and for Python, unmodified, tail live runs over a crash and a stop of the
//! server: every event once, in order, to the end.

mod support;

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use support::{Server, tool};

/// A client of the protocol.
#[derive(Clone, Copy)]
enum Client {
    Node,
    Python,
}

impl Client {
    /// The program that tails with it; what follows are the address and the way of reading.
    fn program(self) -> Option<Command> {
        let script = |name| format!("{}/tests/streams/{name}", env!("CARGO_MANIFEST_DIR"));
        match self {
            Self::Node => {
                let modules = tool("conformance")?.join("../..");
                let mut node = Command::new("node");
                node.arg(script("tail.mjs")).arg(modules.canonicalize().unwrap());
                Some(node)
            }
            Self::Python => {
                let mut python = Command::new(tool("python")?);
                python.arg(script("tail.py"));
                Some(python)
            }
        }
    }
}

/// A client that tails.
struct Tail {
    client: Child,
    lines: Lines<BufReader<ChildStdout>>,
    seen: Vec<Value>,
}

impl Tail {
    fn begin(client: Client, server: &Server, path: &str, live: &str) -> Option<Self> {
        let mut client = client
            .program()?
            .args([&server.url(path), live])
            .env("NO_PROXY", "*")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(client.stdout.take().unwrap()).lines();
        Some(Self { client, lines, seen: vec![] })
    }

    /// Reads until an event of which something holds came.
    async fn until(&mut self, what: &str, holds: impl Fn(&Value) -> bool) {
        loop {
            let event = self.next(what).await.unwrap_or_else(|| panic!("the client ended before {what}"));
            let found = holds(&event);
            self.seen.push(event);
            if found {
                return;
            }
        }
    }

    /// Reads to the end.
    async fn rest(&mut self) {
        while let Some(event) = self.next("the end").await {
            self.seen.push(event);
        }
        assert!(self.client.wait().await.unwrap().success());
    }

    async fn next(&mut self, what: &str) -> Option<Value> {
        let line = tokio::time::timeout(support::PATIENCE, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("waited in vain for {what} after {:?}", self.seen.last()));
        line.unwrap().map(|line| serde_json::from_str(&line).unwrap())
    }
}

/// A command whose lines the test calls up: one that is said before the kill, one while no server is there, one while none
/// is there again.
async fn tails(client: Client, live: &str) {
    let mut server = Server::start_with(&["--long-poll-timeout", "1000"], &[]).await;
    let file = |name: &str| server.dir.path().join(name);
    let (second, third) = (file("second"), file("third"));
    let wait = |path: &std::path::Path| format!("while [ ! -e {} ]; do sleep 0.02; done", path.display());
    let script = format!("echo one; {}; echo two; {}; echo three", wait(&second), wait(&third));
    server.sh("r", &script).await;
    let Some(mut tail) = Tail::begin(client, &server, "/v1/stream/runs/r", live) else { return };
    tail.until("one", |event| event["data"]["text"] == "one").await;
    server.kill9();
    std::fs::write(&second, "").unwrap();
    server.up().await;
    tail.until("two", |event| event["data"]["text"] == "two").await;
    server.term();
    std::fs::write(&third, "").unwrap();
    server.up().await;
    tail.rest().await;
    server.end("r").await;
    assert_eq!(tail.seen, server.events("r").await, "every event once, in order");
}

/// An agent that says a word now and then, whether there is a server or not.
async fn tails_an_agent(client: Client, live: &str) {
    let mut server = Server::start_with(&["--long-poll-timeout", "1000"], &[]).await;
    let body = json!({"run_id": "r", "harness": "demo", "model": "slow", "prompt": "15"});
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    let Some(mut tail) = Tail::begin(client, &server, "/v1/stream/runs/r", live) else { return };
    for graceful in [false, true] {
        let begun = tail.seen.len();
        tail.until("a word", |event| event["type"] == "message.delta").await;
        assert!(tail.seen.len() > begun && !support::is_terminal(&server.run("r").await), "the agent is at work");
        if graceful {
            server.term();
        } else {
            server.kill9();
        }
        server.up().await;
    }
    tail.rest().await;
    assert_eq!(server.end("r").await["status"], "completed");
    let events = server.events("r").await;
    support::assert_log(&events);
    assert_eq!(tail.seen, events, "every event once, in order");
}

macro_rules! tails {
    ($($name:ident: $tails:ident($client:ident, $live:literal),)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $tails(Client::$client, $live).await;
        }
    )*};
}

tails! {
    node_polls_a_command: tails(Node, "long-poll"),
    node_follows_events_of_a_command: tails(Node, "sse"),
    node_polls_an_agent: tails_an_agent(Node, "long-poll"),
    node_follows_events_of_an_agent: tails_an_agent(Node, "sse"),
    python_polls_a_command: tails(Python, "long-poll"),
    python_follows_events_of_a_command: tails(Python, "sse"),
    python_polls_an_agent: tails_an_agent(Python, "long-poll"),
    python_follows_events_of_an_agent: tails_an_agent(Python, "sse"),
}
