//! Stops that race the work's own end: the shim's witness decides, once. A recorded cancel outlives its server, and
//! SIGTERM of the server ends nothing but the server.

mod support;

use std::time::Duration;

use serde_json::{Value, json};

use support::live::{Live, replay, values};
use support::proc::{attempt_of, start_time};
use support::{Server, assert_log, assert_no_process, is_terminal, output_of, until};

/// Runs of each race.
const RACES: usize = 500;

/// What the log says of a run's end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ending {
    status: String,
    code: Value,
    /// The witness's word, if there was a process to witness.
    stop: Option<String>,
    cancel_requested: bool,
}

async fn ending(server: &Server, id: &str) -> Ending {
    let run = server.end(id).await;
    let events = server.events(id).await;
    assert_log(&events);
    let terminal = |e: &&Value| ["run.completed", "run.failed", "run.cancelled"].contains(&e["type"].as_str().unwrap());
    assert_eq!(events.iter().filter(terminal).count(), 1, "{id}: one end");
    assert_eq!(events.last().unwrap()["type"], format!("run.{}", run["status"].as_str().unwrap()), "{id}");
    let exited: Vec<&Value> = events.iter().filter(|e| e["type"] == "process.exited").collect();
    assert!(exited.len() <= 1, "{id}: one exit");
    Ending {
        status: run["status"].as_str().unwrap().to_owned(),
        code: run["error"]["code"].clone(),
        stop: exited.first().map(|e| e["data"]["stop"].as_str().unwrap().to_owned()),
        cancel_requested: events.iter().any(|e| e["type"] == "run.cancel_requested"),
    }
}

/// Whether an ending follows from the witness's word, for a command that exits with 0 unless it is stopped.
fn assert_true(id: &str, ending: &Ending) {
    let want = match ending.stop.as_deref() {
        Some("none") => ("completed", Value::Null),
        Some("cancel") | None => ("cancelled", Value::Null),
        Some("deadline") => ("failed", json!("timeout")),
        Some(other) => panic!("{id}: nobody asked for {other}"),
    };
    assert_eq!((ending.status.as_str(), &ending.code), (want.0, &want.1), "{id}: {ending:?}");
    let by_cancel = ending.status == "cancelled";
    assert!(!by_cancel || ending.cancel_requested, "{id}: no cancel without somebody who asked for it");
}

async fn begin(server: &Server, id: &str, more: Value) {
    let mut body = json!({ "run_id": id, "command": "sleep", "args": ["0.01"] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (status, answer) = server.post("/v1/runs", &body).await;
    assert_eq!(status, 201, "{answer}");
}

/// Cancels, and says what was answered: requested here, over already.
async fn cancel(server: &Server, id: &str) -> (bool, bool) {
    let (status, answer) = server.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await;
    let terminal = answer["terminal"].as_bool().unwrap();
    assert_eq!(status, if terminal { 200 } else { 202 }, "{answer}");
    assert_eq!(is_terminal(&answer["run"]), terminal, "{answer}");
    (answer["requested"].as_bool().unwrap(), terminal)
}

/// Races one after the other, each moved towards the point where both may win.
async fn cancel_races(server: &Server, lane: usize) -> Vec<Ending> {
    let mut delay = Duration::from_millis(10);
    let mut all = Vec::new();
    for n in 0..RACES / 3 {
        let id = format!("cancel-{lane}-{n}");
        begin(server, &id, json!({})).await;
        tokio::time::sleep(delay).await;
        let (requested, terminal) = cancel(server, &id).await;
        let ending = ending(server, &id).await;
        assert_true(&id, &ending);
        assert_eq!(requested, ending.cancel_requested, "{id}: the answer is the truth");
        assert!(requested || terminal, "{id}: a cancel is recorded, or there is nothing left to cancel");
        // In proportion, so that it gets there however slow the machine is.
        let step = (delay / 8).max(Duration::from_millis(1));
        delay = if ending.status == "cancelled" { delay + step } else { delay.saturating_sub(step) };
        all.push(ending);
    }
    all
}

fn assert_both(endings: &[Ending], statuses: [&str; 2]) {
    let count = |status: &str| endings.iter().filter(|ending| ending.status == status).count();
    let counts = statuses.map(count);
    println!("{statuses:?}: {counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "a race that only one can win is none: {counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_races_a_normal_exit() {
    let server = Server::start().await;
    let (a, b, c) = tokio::join!(cancel_races(&server, 0), cancel_races(&server, 1), cancel_races(&server, 2));
    assert_both(&[a, b, c].concat(), ["cancelled", "completed"]);
    assert_no_process(&server.data()).await;
}

/// The same with the deadline, and every third time with a cancel as well.
async fn deadline_races(server: &Server, lane: usize) -> Vec<Ending> {
    let mut budget = 10_u64;
    let mut all = Vec::new();
    for n in 0..RACES / 3 {
        let id = format!("deadline-{lane}-{n}");
        begin(server, &id, json!({ "timeout_ms": budget })).await;
        let requested = n % 3 == 2 && {
            tokio::time::sleep(Duration::from_millis(budget)).await;
            cancel(server, &id).await.0
        };
        let ending = ending(server, &id).await;
        assert_true(&id, &ending);
        assert_eq!(requested, ending.cancel_requested, "{id}");
        let step = (budget / 8).max(1);
        budget = if ending.status == "completed" { (budget - step).max(1) } else { budget + step };
        all.push(ending);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_races_a_normal_exit() {
    let server = Server::start().await;
    let (a, b, c) = tokio::join!(deadline_races(&server, 0), deadline_races(&server, 1), deadline_races(&server, 2));
    assert_both(&[a, b, c].concat(), ["failed", "completed"]);
    assert_no_process(&server.data()).await;
}

/// The server is killed right after it has answered; whether it told the shim is its secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_outlives_the_server_that_recorded_it() {
    let mut server = Server::start().await;
    for n in 0..5 {
        let id = format!("recorded-{n}");
        server.sh(&id, "echo up; exec sleep 1000").await;
        let pid = server.status(&id, "running").await["pid"].as_i64().unwrap();
        assert_eq!(cancel(&server, &id).await, (true, false));
        server.kill9();
        server.up().await;
        let ending = ending(&server, &id).await;
        assert_eq!((ending.status.as_str(), ending.stop.as_deref()), ("cancelled", Some("cancel")));
        assert_eq!(start_time(i32::try_from(pid).unwrap()), None, "the agent is gone");
    }
    assert_no_process(&server.data()).await;
}

/// The server that records the cancel cannot reach the shim at all: only the next one can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_server_carries_a_recorded_cancel_out() {
    let mut server = Server::start().await;
    server.sh("later", "echo up; exec sleep 1000").await;
    let pid = i32::try_from(server.status("later", "running").await["pid"].as_i64().unwrap()).unwrap();
    let socket = attempt_of(&server.data(), pid).0.join("control");
    let hidden = socket.with_file_name("hidden");
    server.kill9();
    std::fs::rename(&socket, &hidden).unwrap();
    server.up().await;
    assert_eq!(cancel(&server, "later").await, (true, false));
    assert_eq!(cancel(&server, "later").await, (false, false), "a repeated cancel is the same cancel");
    server.kill9();
    assert!(start_time(pid).is_some(), "nobody has told the agent");
    std::fs::rename(&hidden, &socket).unwrap();
    server.up().await;
    let ending = ending(&server, "later").await;
    assert_eq!((ending.status.as_str(), ending.stop.as_deref()), ("cancelled", Some("cancel")));
    let events = server.events("later").await;
    assert_eq!(events.iter().filter(|e| e["type"] == "run.cancel_requested").count(), 1);
    assert_no_process(&server.data()).await;
}

/// A deadline is the run's, not the server's: it strikes while no server is up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_strikes_while_no_server_is_up() {
    let mut server = Server::start().await;
    let body = json!({ "run_id": "late", "command": "sleep", "args": ["1000"], "timeout_ms": 4000 });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    let pid = i32::try_from(server.status("late", "running").await["pid"].as_i64().unwrap()).unwrap();
    let exit = attempt_of(&server.data(), pid).0.join("exit");
    server.kill9();
    until("the deadline to strike", async || exit.exists().then_some(())).await;
    server.up().await;
    let ending = ending(&server, "late").await;
    assert_eq!(
        (ending.status.as_str(), ending.code, ending.stop.as_deref()),
        ("failed", json!("timeout"), Some("deadline"))
    );
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_the_server_and_nothing_else() {
    let mut server = Server::start().await;
    let stop = server.dir.path().join("stop");
    let script = format!("i=0; while [ ! -e {} ]; do i=$((i+1)); echo $i; sleep 0.005; done; echo end", stop.display());
    server.sh("drained", &script).await;
    let live = Live::follow(&server, "drained");
    live.wait_for("output.line", 3).await;
    let pid = i32::try_from(server.run("drained").await["pid"].as_i64().unwrap()).unwrap();
    let born = start_time(pid).unwrap();
    for n in 1..=3 {
        assert_eq!(server.term().code(), Some(0), "{}", server.log());
        until("the reader to be told", async || {
            let drained = live.notes().iter().filter(|note| note.event.as_deref() == Some("draining")).count();
            (drained == n).then_some(())
        })
        .await;
        assert!(!server.data().join("server.json").exists(), "nobody is sent to a server that is gone");
        assert_eq!(start_time(pid), Some(born), "the agent goes on");
        server.up().await;
        live.wait_for("run.adopted", n).await;
        live.wait_len(live.len() + 5).await;
    }
    let note = live.notes().into_iter().find(|note| note.event.as_deref() == Some("draining")).unwrap();
    let data: Value = serde_json::from_str(&note.data).unwrap();
    assert!(data["retry_ms"].as_u64().is_some_and(|ms| (500..=1520).contains(&ms)), "{data}");
    std::fs::write(stop, "").unwrap();
    let frames = live.end().await;
    let stored = server.events("drained").await;
    assert_log(&stored);
    assert_eq!(values(&frames), stored);
    assert!(replay(&server, "drained").await == frames);
    let text = String::from_utf8(output_of(&stored, "stdout")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let want: Vec<String> = (1..lines.len()).map(|n| n.to_string()).chain(["end".to_owned()]).collect();
    assert_eq!(lines, want);
    let epochs: Vec<&Value> =
        stored.iter().filter(|e| e["type"] == "run.adopted").map(|e| &e["data"]["epoch"]).collect();
    assert_eq!(epochs, [&json!(2), &json!(3), &json!(4)]);
    assert_eq!(server.end("drained").await["status"], "completed");
    assert_no_process(&server.data()).await;
}
