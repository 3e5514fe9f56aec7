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
    let epochs = events.iter().filter(|event| event["type"] == "run.attempt_started" || event["type"] == "run.adopted");
    epochs.last().map_or(0, |event| event["data"]["epoch"].as_u64().unwrap())
}

/// One kill, `after` some runs were asked for; with `again`, the next server is killed in its start too.
async fn round(server: &mut Server, number: u32, after: Duration, again: Option<Duration>) {
    let dir = server.dir.path().join(format!("round-{number}"));
    std::fs::create_dir(&dir).unwrap();
    let ids: Vec<String> = (0..RUNS).map(|n| format!("r{number}-{n}")).collect();
    let asked: Vec<_> = ids
        .iter()
        .map(|id| tokio::spawn(ask(server.http.clone(), server.url("/v1/runs"), body(id, &dir))))
        .collect();
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
        assert!(answered.is_none() || (answered == Some(201) && status == 200), "{id}: answered {answered:?}, then {status}");
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
    let (_, health) = server.get("/health").await;
    assert_eq!(health["recovery"]["pending"], 0, "what became of each run is known while it runs: {health}");
    for id in &ids {
        assert_eq!(Value::from(owner(&server.events(id).await)), health["epoch"], "{id}: the log names its owner");
    }
    std::fs::write(dir.join("go"), "").unwrap();
    for id in &ids {
        let run = server.end(id).await;
        assert_eq!((&run["status"], &run["output_text"]), (&json!("completed"), &json!("done\n")), "{run}");
        let events = server.events(id).await;
        assert_log(&events);
        let count = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
        assert_eq!((count("run.created"), count("process.started"), count("run.completed")), (1, 1, 1), "{id}");
        assert_eq!(agents(id, &dir), 1, "{id}: one agent");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_killed_in_the_spawn_window() {
    let mut server = Server::start().await;
    for number in 0..ROUNDS {
        let again = (number % 4 == 3).then(|| STEP * (number * 5));
        round(&mut server, number, STEP * number, again).await;
    }
    assert_no_process(&server.data()).await;
    let runs = std::fs::read_dir(server.data().join("runs")).unwrap().count();
    assert_eq!(runs, ROUNDS as usize * RUNS, "what was never accepted has left no directory");
}
