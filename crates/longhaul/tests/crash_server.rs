//! kill -9 of the server in the middle of runs: agents go on, the next server adopts them, readers miss and repeat
//! nothing, and what ended meanwhile ends truthfully.

mod support;

use std::path::Path;

use longhaul_api::sse::Frame;
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use support::live::{Live, replay, values};
use support::model_server::{Agent, Gate, ModelServer};
use support::proc::{attempt_of, signal, start_time};
use support::{Server, assert_log, assert_no_process, output_of, until};

/// Kills in one run.
const KILLS: u64 = 10;

/// Prints numbered lines in bursts on both streams until it finds the file `stop`, then how many there were.
const PRINTER: &str = r#"
import os, sys, time
n = 0
while not os.path.exists("stop"):
    for _ in range(n * 7 % 40 + 1):
        n += 1
        (sys.stdout if n % 3 else sys.stderr).write(f"line {n:06} of this run\n")
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(0.01)
sys.stdout.write(f"last {n}")
"#;

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the printer printed, by its own last word.
fn printed(stdout: &[u8]) -> [Vec<u8>; 2] {
    let text = std::str::from_utf8(stdout).unwrap();
    let count: u32 = text.rsplit_once("last ").expect("the printer's last word").1.parse().unwrap();
    let mut streams = [Vec::new(), Vec::new()];
    for n in 1..=count {
        streams[usize::from(n % 3 == 0)].extend(format!("line {n:06} of this run\n").into_bytes());
    }
    streams[0].extend(format!("last {count}").into_bytes());
    streams
}

async fn start_printer(server: &Server, id: &str) {
    let cwd = server.dir.path().join(id);
    std::fs::create_dir(&cwd).unwrap();
    let body = json!({ "run_id": id, "command": "python3", "args": ["-c", PRINTER], "cwd": cwd });
    let (status, body) = server.post("/v1/runs", &body).await;
    assert_eq!(status, 201, "{body}");
}

fn stop_printer(server: &Server, id: &str) {
    std::fs::write(server.dir.path().join(id).join("stop"), "").unwrap();
}

/// The agent's pid and its start time.
async fn agent(live: &Live) -> (i32, u64) {
    live.wait_for("process.started", 1).await;
    let events = live.events();
    let started = events.iter().find(|event| event["type"] == "process.started").unwrap();
    let pid = i32::try_from(started["data"]["pid"].as_i64().unwrap()).unwrap();
    (pid, start_time(pid).expect("the agent lives"))
}

fn of<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == kind).map(|event| &event["data"]).collect()
}

/// What `kills` adoptions one after the other look like, if each server before was the one that owned the run.
fn adoptions(kills: u64) -> Vec<Value> {
    (1..=kills).map(|n| json!({ "attempt": 1, "previous_epoch": n, "epoch": n + 1 })).collect()
}

/// Every event exactly once, dense, in order, and a replay gives the same bytes.
async fn assert_seen_once(server: &Server, id: &str, live: &[Frame]) -> Vec<Value> {
    let stored = server.events(id).await;
    assert_log(&stored);
    assert_eq!(values(live), stored, "what the reader saw is what is stored");
    assert!(replay(server, id).await == live, "a replay gives the same frames, byte for byte");
    for (frame, event) in live.iter().zip(&stored) {
        assert_eq!(frame.id.as_deref(), Some(event["seq"].to_string().as_str()));
        assert_eq!(frame.event.as_deref(), event["type"].as_str());
    }
    stored
}

/// Live, replayed, spooled: the same bytes, and those the agent says it wrote.
async fn assert_output(server: &Server, id: &str, live: &[Frame], events: &[Value]) {
    let whole = printed(&output_of(events, "stdout"));
    let (dir, _) =
        attempt_of(&server.data(), i32::try_from(of(events, "process.started")[0]["pid"].as_i64().unwrap()).unwrap());
    for (stream, whole) in ["stdout", "stderr"].into_iter().zip(whole) {
        let sums = [
            sha(&whole),
            sha(&output_of(&values(live), stream)),
            sha(&output_of(events, stream)),
            sha(&server.spool(id, stream).await),
            sha(&std::fs::read(dir.join(stream)).unwrap()),
        ];
        assert_eq!(
            sums,
            std::array::from_fn(|_| sums[0].clone()),
            "{stream}: written, live, replayed, served, on disk"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_outlives_ten_kills_of_its_server() {
    let mut server = Server::start().await;
    start_printer(&server, "printer").await;
    let live = Live::follow(&server, "printer");
    let (pid, born) = agent(&live).await;
    let spool = attempt_of(&server.data(), pid).0.join("stdout");
    let spooled = || std::fs::metadata(&spool).unwrap().len();
    for kill in 1..=KILLS {
        live.wait_len(live.len() + 20 * kill as usize).await;
        server.kill9();
        let before = spooled();
        until("the agent to print while no server is up", async || (spooled() > before).then_some(())).await;
        server.up().await;
        live.wait_for("run.adopted", kill as usize).await;
        assert_eq!(start_time(pid), Some(born), "the agent is the same process");
        let snapshot = server.run("printer").await;
        assert_eq!((&snapshot["status"], &snapshot["pid"]), (&json!("running"), &json!(pid)));
    }
    stop_printer(&server, "printer");
    let connections = live.connections();
    let frames = live.end().await;
    let events = assert_seen_once(&server, "printer", &frames).await;
    assert_output(&server, "printer", &frames, &events).await;
    assert!(connections as u64 > KILLS, "the reader came back each time");
    let adopted: Vec<Value> = of(&events, "run.adopted").into_iter().cloned().collect();
    assert_eq!(adopted, adoptions(KILLS));
    assert_eq!(of(&events, "process.started").len(), 1);
    assert_eq!(of(&events, "run.attempt_started").len(), 1);
    assert_eq!(server.end("printer").await["status"], "completed");
    assert_no_process(&server.data()).await;
}

/// The kill comes at many moments of the next server's own start and recovery, so that adoption itself is cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_outlives_servers_that_die_while_they_recover() {
    let mut server = Server::start().await;
    start_printer(&server, "printer").await;
    let live = Live::follow(&server, "printer");
    let (pid, born) = agent(&live).await;
    for at in 0..30 {
        server.kill9();
        server.spawn();
        // No fact is waited for: the moment is the point, and it moves through the whole start.
        tokio::time::sleep(std::time::Duration::from_millis(at * 4)).await;
    }
    server.kill9();
    server.up().await;
    live.wait_len(live.len() + 50).await;
    assert_eq!(start_time(pid), Some(born), "the agent is the same process");
    stop_printer(&server, "printer");
    let frames = live.end().await;
    let events = assert_seen_once(&server, "printer", &frames).await;
    assert_output(&server, "printer", &frames, &events).await;
    let epochs: Vec<(u64, u64)> = of(&events, "run.adopted")
        .iter()
        .map(|data| (data["previous_epoch"].as_u64().unwrap(), data["epoch"].as_u64().unwrap()))
        .collect();
    assert!(!epochs.is_empty());
    assert!(epochs.windows(2).all(|pair| pair[0].1 == pair[1].0), "each owner names the one before: {epochs:?}");
    assert!(epochs.iter().all(|(before, now)| before < now), "epochs only grow: {epochs:?}");
    assert_eq!(of(&events, "process.started").len(), 1);
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_end_while_no_server_is_up_end_truthfully() {
    let endings = [
        ("zero", "exit 0", "completed", json!({ "code": 0 }), Value::Null),
        ("seven", "exit 7", "failed", json!({ "code": 7 }), json!("exit_nonzero")),
        ("signal", "kill -USR1 $$", "failed", json!({ "signal": 10 }), json!("killed_by_signal")),
    ];
    let mut server = Server::start().await;
    let go = server.dir.path().join("go");
    for (id, ending, ..) in &endings {
        let script = format!(
            "echo before; while [ ! -e {go} ]; do sleep 0.01; done; seq 1 20000; echo oops >&2; printf end; {ending}",
            go = go.display()
        );
        server.sh(id, &script).await;
    }
    let mut pids = Vec::new();
    for (id, ..) in &endings {
        let live = Live::follow(&server, id);
        pids.push(agent(&live).await.0);
        live.wait_for("output.line", 1).await;
    }
    let exits: Vec<_> = pids.iter().map(|pid| attempt_of(&server.data(), *pid).0.join("exit")).collect();
    server.kill9();
    std::fs::write(&go, "").unwrap();
    until("every run to end", async || exits.iter().all(|exit| exit.exists()).then_some(())).await;
    assert_no_process(&server.data()).await;
    server.up().await;
    let numbers: String = (1..=20000).map(|n| format!("{n}\n")).collect();
    for (id, _, status, exit, code) in endings {
        let run = server.end(id).await;
        assert_eq!((&run["status"], &run["exit"], &run["error"]["code"]), (&json!(status), &exit, &code), "{run}");
        let events = server.events(id).await;
        assert_log(&events);
        assert_eq!(sha(&output_of(&events, "stdout")), sha(format!("before\n{numbers}end").as_bytes()));
        assert_eq!(output_of(&events, "stderr"), b"oops\n");
        assert_eq!(output_of(&events, "stdout"), server.spool(id, "stdout").await);
        let exited = of(&events, "process.exited");
        assert_eq!(exited.len(), 1);
        assert_eq!(exited[0]["stop"], "none");
        assert_eq!(of(&events, "run.adopted").len(), 0, "there was nothing to adopt");
    }
}

/// A real agent program, its server killed five times in a tool call and five times in the text that follows.
async fn an_agent_outlives_its_servers(agent_program: Agent) {
    let mut server = Server::start().await;
    let model = ModelServer::start();
    let dir = server.dir.path().to_owned();
    let (marker, go) = (dir.join("marker"), dir.join("go"));
    let gate = Gate::new(&dir.join("gate"));
    let words: Vec<String> = (1..=12).map(|n| format!("word{n} ")).collect();
    let tool = format!(
        "echo $$ > {marker}; while [ ! -e {go} ]; do sleep 0.02; done; echo slept",
        marker = marker.display(),
        go = go.display()
    );
    let turns = json!([
        { "text": "I will sleep.", "tools": [agent_program.shell(&tool)] },
        { "text": words, "gate": gate.dir() },
    ]);
    let url = model.script("crash", &turns).await;
    let Some(body) = agent_program.request("real", &dir, &url, "sleep, then speak") else { return };
    let (status, answer) = server.post("/v1/runs", &body).await;
    assert_eq!(status, 201, "{answer}");
    let live = Live::follow(&server, "real");
    let (pid, born) = agent(&live).await;

    live.wait_for("tool.called", 1).await;
    let tool_pid: i32 =
        until("the tool to run", async || std::fs::read_to_string(&marker).ok()?.trim().parse().ok()).await;
    let tool_born = start_time(tool_pid).expect("the tool runs");
    for kill in 1..=5 {
        server.kill9();
        server.up().await;
        live.wait_for("run.adopted", kill).await;
        assert_eq!((start_time(pid), start_time(tool_pid)), (Some(born), Some(tool_born)), "agent and tool go on");
    }
    assert_eq!(live.count("tool.completed"), 0, "all five kills were inside the tool call");
    std::fs::write(&go, "").unwrap();
    until("the model to be asked again", async || (model.requests("crash").await.len() == 2).then_some(())).await;

    // Both protocols have the first pieces of the text among their first five stream events.
    let told = live.count("message.delta");
    (1..=4).for_each(|n| gate.open(n));
    if agent_program == Agent::Claude {
        live.wait_for("message.delta", told + 1).await;
    }
    for kill in 6..=10 {
        server.kill9();
        // A piece more while no server is up.
        gate.open(kill - 1);
        server.up().await;
        live.wait_for("run.adopted", kill).await;
        assert_eq!(start_time(pid), Some(born), "the agent goes on");
    }
    assert_eq!(live.count("run.completed") + live.count("run.failed"), 0, "all five kills were inside the text");
    gate.open_all();
    let frames = live.end().await;
    let events = assert_seen_once(&server, "real", &frames).await;
    assert_ends_whole(&server, &events, &words.concat()).await;
    assert_eq!(model.requests("crash").await.len(), 2, "the model was asked no more than it would be without kills");
    assert!(start_time(tool_pid).is_none());
    assert_no_process(&server.data()).await;
}

/// The log of a real agent's run after ten kills, in what matters.
async fn assert_ends_whole(server: &Server, events: &[Value], answer: &str) {
    let run = server.end("real").await;
    assert_eq!((&run["status"], &run["reason"]), (&json!("completed"), &json!("verdict")), "{run}");
    assert_eq!(run["output_text"], format!("I will sleep.\n\n{answer}"));
    assert_eq!(run["unknown_lines"], 0);
    let adopted: Vec<Value> = of(events, "run.adopted").into_iter().cloned().collect();
    assert_eq!(adopted, adoptions(KILLS));
    assert_eq!(of(events, "process.started").len(), 1);
    assert_eq!((of(events, "tool.called").len(), of(events, "tool.completed").len()), (1, 1));
    assert!(of(events, "tool.completed")[0]["result"].to_string().contains("slept"));
    let texts: Vec<&str> = of(events, "message.completed").iter().map(|data| data["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["I will sleep.", answer]);
    let deltas: String = of(events, "message.delta").iter().map(|data| data["text"].as_str().unwrap()).collect();
    assert!(deltas.is_empty() || deltas == format!("I will sleep.{answer}"), "{deltas}");
    assert_eq!(of(events, "verdict.reported").len(), 1);
    assert_eq!(of(events, "session.bound").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_outlives_ten_kills_of_its_server() {
    an_agent_outlives_its_servers(Agent::Claude).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_outlives_ten_kills_of_its_server() {
    an_agent_outlives_its_servers(Agent::Codex).await;
}

/// Nobody reads, and the server is killed with the agent's own death close by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_and_server_killed_together() {
    let mut server = Server::start().await;
    server.sh("both", "echo alive; exec sleep 1000").await;
    let live = Live::follow(&server, "both");
    let (pid, _) = agent(&live).await;
    live.wait_for("output.line", 1).await;
    signal(pid, Signal::KILL);
    server.kill9();
    server.up().await;
    let run = server.end("both").await;
    assert_eq!(
        (&run["status"], &run["error"]["code"], &run["exit"]),
        (&json!("failed"), &json!("killed_by_signal"), &json!({ "signal": 9 }))
    );
    let frames = live.end().await;
    let events = assert_seen_once(&server, "both", &frames).await;
    assert_eq!(output_of(&events, "stdout"), b"alive\n");
    assert_no_process(Path::new(&server.data())).await;
}
