//! The server killed at any moment between accepting a run and knowing its process: never two agents, never a run
//! without an end, and an answer that was given is true.

mod support;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use support::{Server, assert_log, assert_no_process, is_terminal, until};

/// Kills; each moment is a little later than the one before.
const ROUNDS: u32 = 60;

/// From one kill's moment to the next one's. The whole sweep is longer than the way from a request to its agent.
const STEP: Duration = Duration::from_micros(400);

/// Runs that are started at each kill.
const RUNS: usize = 3;

fn body(id: &str, dir: &Path) -> Value {
    // Each agent leaves its pid, and stays until it is let go.
    let script = format!(
        "echo $$ >> {pids}; while [ ! -e {go} ]; do sleep 0.01; done; echo done",
        pids = dir.join(id).display(),
        go = dir.join("go").display()
    );
    json!({ "run_id": id, "command": "/bin/sh", "args": ["-c", script] })
}

fn agents(id: &str, dir: &Path) -> usize {
    std::fs::read_to_string(dir.join(id)).unwrap_or_default().lines().count()
}

/// A request whose answer may be lost: its status, if it came.
async fn ask(http: reqwest::Client, url: String, body: Value) -> Option<u16> {
    let answer = http.post(url).body(body.to_string()).send().await.ok()?;
    Some(answer.status().as_u16())
}

/// The epoch that the log says owns the run.
fn owner(events: &[Value]) -> u64 {
    let mut epochs =
        events.iter().filter(|event| event["type"] == "run.attempt_started" || event["type"] == "run.adopted");
    epochs.next_back().map_or(0, |event| event["data"]["epoch"].as_u64().unwrap())
}

/// Where the kills met the runs: a sweep that misses a part of the window proves nothing about it.
#[derive(Debug, Default)]
struct Met {
    refused: usize,
    accepted_unanswered: usize,
    answered: usize,
    first_attempt_by_the_next: usize,
    second_attempt: usize,
    adopted: usize,
}

impl Met {
    fn count(&mut self, status: u16, answered: bool) {
        match (status, answered) {
            (404, _) => self.refused += 1,
            (_, false) => self.accepted_unanswered += 1,
            (_, true) => self.answered += 1,
        }
    }

    fn log(&mut self, events: &[Value]) {
        let count = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
        match (count("run.adopted"), count("run.attempt_started")) {
            (0, 1) => self.first_attempt_by_the_next += 1,
            (0, _) => self.second_attempt += 1,
            _ => self.adopted += 1,
        }
    }
}

/// One kill, `after` some runs were asked for; with `again`, the next server is killed in its start too.
async fn round(server: &mut Server, number: u32, after: Duration, again: Option<Duration>, met: &mut Met) {
    let dir = server.dir.path().join(format!("round-{number}"));
    std::fs::create_dir(&dir).unwrap();
    let ids: Vec<String> = (0..RUNS).map(|n| format!("r{number}-{n}")).collect();
    let asked: Vec<_> =
        ids.iter().map(|id| tokio::spawn(ask(server.http.clone(), server.url("/v1/runs"), body(id, &dir)))).collect();
    // The moment is the point; nothing is concluded from it.
    std::thread::sleep(after);
    server.kill9();
    if let Some(again) = again {
        server.spawn();
        std::thread::sleep(again);
        server.kill9();
    }
    server.up().await;
    for (id, asked) in ids.iter().zip(asked) {
        let answered = asked.await.unwrap();
        let (status, _) = server.get(&format!("/v1/runs/{id}")).await;
        met.count(status, answered.is_some());
        assert!(
            answered.is_none() || (answered == Some(201) && status == 200),
            "{id}: answered {answered:?}, then {status}"
        );
        let retried = ask(server.http.clone(), server.url("/v1/runs"), body(id, &dir)).await;
        assert_eq!(retried, Some(if status == 404 { 201 } else { 200 }), "{id}: a retry finds what is there");
    }
    for id in &ids {
        until(&format!("{id} to run"), async || {
            let run = server.run(id).await;
            assert!(!is_terminal(&run), "{run}");
            (run["status"] == "running" && agents(id, &dir) > 0).then_some(())
        })
        .await;
    }
    let epoch = until("it to be known what became of each run, while all run", async || {
        let (_, health) = server.get("/health").await;
        (health["recovery"]["pending"] == 0).then(|| health["epoch"].clone())
    })
    .await;
    for id in &ids {
        assert_eq!(Value::from(owner(&server.events(id).await)), epoch, "{id}: the log names its owner");
    }
    std::fs::write(dir.join("go"), "").unwrap();
    for id in &ids {
        met.log(&server.events(id).await);
    }
    for id in &ids {
        let run = server.end(id).await;
        assert_eq!((&run["status"], &run["output_text"]), (&json!("completed"), &json!("done\n")), "{run}");
        let events = server.events(id).await;
        assert_log(&events);
        let count = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
        assert_eq!((count("run.created"), count("process.started"), count("run.completed")), (1, 1, 1), "{id}");
        assert_eq!(agents(id, &dir), 1, "{id}: one agent");
        assert_eq!(server.spool(id, "stdout").await, b"done\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_killed_in_the_spawn_window() {
    let mut server = Server::start().await;
    let mut met = Met::default();
    for number in 0..ROUNDS {
        let again = (number % 4 == 3).then(|| STEP * (number * 5));
        round(&mut server, number, STEP * number, again, &mut met).await;
    }
    println!("{met:?}");
    assert_no_process(&server.data()).await;
    assert_swept(&server, ROUNDS as usize * RUNS).await;
    for id in (0..ROUNDS).flat_map(|number| (0..RUNS).map(move |n| format!("r{number}-{n}"))) {
        assert_eq!(server.spool(&id, "stdout").await, b"done\n", "later starts take nothing of it");
        let answer = server.http.delete(server.url(&format!("/v1/runs/{id}"))).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert_swept(&server, 0).await;
}

/// Only the directories of accepted runs are there.
async fn assert_swept(server: &Server, runs: usize) {
    for kind in ["runs", "work"] {
        let dir = server.data().join(kind);
        let count = || std::fs::read_dir(&dir).unwrap().count();
        until(&format!("{kind} to hold {runs} directories"), async || (count() == runs).then_some(())).await;
    }
}

/// What a dispatch leaves behind that was killed after each of its steps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_sweeps_what_was_never_accepted() {
    let mut server = Server::start().await;
    server.sh("kept", "echo done").await;
    server.end("kept").await;
    server.sh("live", &format!("while [ ! -e {} ]; do sleep 0.01; done", server.dir.path().join("go").display())).await;
    server.status("live", "running").await;
    server.kill9();
    let (runs, work) = (server.data().join("runs"), server.data().join("work"));
    let request = r#"{"version":1,"run":{"project":"default","run":"never"},"request":{"env":{"SECRET":"x"}}}"#;
    for (name, request) in
        [("made", None), ("opened", Some("")), ("torn", Some(&request[..70])), ("sealed", Some(request))]
    {
        std::fs::create_dir(runs.join(name)).unwrap();
        if let Some(bytes) = request {
            std::fs::write(runs.join(name).join("request.json"), bytes).unwrap();
        }
    }
    std::fs::create_dir(work.join("sealed")).unwrap();
    server.up().await;
    assert_swept(&server, 2).await;
    std::fs::write(server.dir.path().join("go"), "").unwrap();
    for id in ["kept", "live"] {
        assert_eq!(server.end(id).await["status"], "completed");
    }
    assert_eq!(server.spool("kept", "stdout").await, b"done\n");
    assert_no_process(&server.data()).await;
}

/// A killed server leaves a child between fork and exec for a moment: it holds the lock, and the port.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_outwaits_what_a_dead_server_left() {
    let mut server = Server::start().await;
    server.kill9();
    let lock = std::fs::File::open(server.data().join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let port = std::net::TcpListener::bind(server.base.strip_prefix("http://").unwrap()).unwrap();
    server.spawn();
    // Nothing can be seen of a wait: it is long enough that a server which does not wait is gone.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(server.is_up(), "{}", server.log());
    drop(lock);
    drop(port);
    server.ready().await;
}
