//! What a run costs: `cargo bench -p longhaul --bench runs`.
//!
//! Each figure stands beside a yardstick taken in the same minute on the same machine. Every server is a real one, on a
//! directory of its own, with the durability that it always has.
#![allow(missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use longhaul_model::{Epoch, ProjectId, RunId, RunKey, Seq, Status, StreamId, Timestamp};
use longhaul_store::{Commit, NewRun, RunRow, Store};
use serde_json::{Value, json};
use support::Server;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        println!("| what | figure | yardstick | ratio or goal |");
        println!("| --- | --- | --- | --- |");
        ingest().await;
        dispatch().await;
        memory().await;
        ready().await;
    });
}

fn row(what: &str, figure: &str, yardstick: &str, goal: &str) {
    println!("| {what} | {figure} | {yardstick} | {goal} |");
    std::io::stdout().flush().unwrap();
}

fn percentile(sorted: &[Duration], permille: usize) -> Duration {
    sorted[(sorted.len() - 1) * permille / 1000]
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

/// Syncs of a file that grows by 200 bytes at a time.
fn fdatasync(dir: &Path, count: u32) -> Duration {
    let file = std::fs::File::create(dir.join("yardstick")).unwrap();
    let began = Instant::now();
    for at in 0..count {
        file.write_all_at(&[b'x'; 200], u64::from(at) * 200).unwrap();
        file.sync_data().unwrap();
    }
    began.elapsed() / count
}

const LINES: u64 = 1_000_000;
const LINE: &str = "a line of output as agents print them, with some sixty bytes in it";

async fn ingest() {
    let server = Server::start().await;
    let flood = format!("yes '{LINE}' | head -n {LINES}");
    let file = server.dir.path().join("plain");
    let began = Instant::now();
    let status = Command::new("/bin/sh").args(["-c", &format!("{flood} > {}; sync -d {0}", file.display())]).status();
    assert!(status.unwrap().success());
    let plain = began.elapsed();
    let stop = Arc::new(AtomicBool::new(false));
    let reads = tokio::spawn({
        let (stop, http, url) = (Arc::clone(&stop), server.http.clone(), server.url("/v1/runs/quiet"));
        let flood_url = server.url("/v1/runs/flood");
        async move {
            let mut times = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                for url in [&url, &flood_url] {
                    let began = Instant::now();
                    let _ = http.get(url).send().await.unwrap().bytes().await.unwrap();
                    times.push(began.elapsed());
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            times
        }
    });
    server.sh("quiet", "echo quiet").await;
    server.end("quiet").await;
    let began = Instant::now();
    server.sh("flood", &flood).await;
    let end = server.end("flood").await;
    let took = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    let mut times = reads.await.unwrap();
    times.sort();
    assert_eq!(end["status"], "completed", "{end}");
    assert!(end["last_seq"].as_u64().unwrap() > LINES);
    let rate = |time: Duration| LINES as f64 / time.as_secs_f64();
    row(
        "durable ingest of a command's output, lines of 66 bytes",
        &format!("{:.0} lines/s", rate(took)),
        &format!("{:.0} lines/s into a plain file", rate(plain)),
        "≥ 50 000 lines/s",
    );
    row(
        "status read while ingesting at full speed, p50 / p99 / max",
        &format!(
            "{} / {} / {}",
            ms(percentile(&times, 500)),
            ms(percentile(&times, 990)),
            ms(percentile(&times, 1000))
        ),
        &format!("{} reads", times.len()),
        "p99 < 20 ms",
    );
}

async fn dispatch() {
    const ROUNDS: usize = 200;
    let server = Server::start().await;
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let printed = |text: &[u8]| Duration::from_nanos(String::from_utf8_lossy(text).trim().parse().unwrap());
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for at in 0..ROUNDS {
        let began = now();
        let out = Command::new("/bin/date").arg("+%s%N").stdin(Stdio::null()).output().unwrap();
        bare.push(printed(&out.stdout).saturating_sub(began));
        let id = format!("d{at}");
        let began = now();
        let body = json!({ "run_id": id, "command": "/bin/date", "args": ["+%s%N"] });
        server.post("/v1/runs", &body).await;
        let end = server.end(&id).await;
        ours.push(printed(end["output_text"].as_str().unwrap().as_bytes()).saturating_sub(began));
    }
    bare.sort();
    ours.sort();
    let over = |permille| percentile(&ours, permille).saturating_sub(percentile(&bare, permille));
    row(
        "request → process runs, over a bare spawn, p50 / p99",
        &format!("{} / {}", ms(over(500)), ms(over(990))),
        &format!("bare spawn {}, sync {}", ms(percentile(&bare, 500)), ms(fdatasync(server.dir.path(), 200))),
        "p50 < 15 ms",
    );
}

/// Private memory of a process, KiB. Source: proc(5), `smaps_rollup`.
fn private_kib(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    text.lines()
        .filter(|line| line.starts_with("Private_"))
        .map(|line| line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
        .sum()
}

fn resident_kib(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn memory() {
    let server = Server::start().await;
    row("server at rest, resident", &format!("{:.1} MiB", resident_kib(server.pid) as f64 / 1024.0), "", "< 25 MiB");
    server.sh("live", "sleep 1000").await;
    server.status("live", "running").await;
    let started: Value = server.events("live").await.into_iter().find(|e| e["type"] == "process.started").unwrap();
    let agent = started["data"]["pid"].as_i64().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{agent}/stat")).unwrap();
    let shim: i32 = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let private = private_kib(shim) as f64 / 1024.0;
    row("live shim, private", &format!("{private:.2} MiB"), "", "< 2 MiB");
    server.post("/v1/runs/live/cancel?wait_ms=20000", &json!({})).await;
}

async fn ready() {
    const RUNS: u64 = 100_000;
    let mut server = Server::start().await;
    server.sh("first", "echo first").await;
    server.end("first").await;
    let (_, sample) = server.get("/v1/runs/first").await;
    assert!(server.term().success());
    let store = longhaul_store_embedded::EmbeddedStore::open(longhaul_store_embedded::Options::new(
        server.data().join("store"),
    ))
    .unwrap();
    let key = RunKey { project: ProjectId::default_project(), run: RunId::parse("first").unwrap() };
    let real = store.run(&key).await.unwrap().unwrap();
    let store = Arc::new(store);
    let mut tasks = Vec::new();
    for writer in 0..64_u64 {
        let (store, real) = (Arc::clone(&store), real.clone());
        tasks.push(tokio::spawn(async move {
            for at in (writer..RUNS).step_by(64) {
                store.commit(stored(&real, at)).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let mut times = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        server.up().await;
        let (status, _) = server.get("/readyz").await;
        assert_eq!(status, 200);
        times.push(began.elapsed());
        let (_, same) = server.get("/v1/runs/first").await;
        assert_eq!(same, sample);
        server.kill9();
    }
    times.sort();
    row("start to ready with 100 000 stored runs, after kill -9, median of 5", &ms(times[2]), "", "< 1 s");
    server.up().await;
    server.get("/v1/runs?limit=100").await;
    row(
        "the same server at rest, resident",
        &format!("{:.1} MiB", resident_kib(server.pid) as f64 / 1024.0),
        "",
        "< 25 MiB",
    );
}

fn stored(real: &RunRow, at: u64) -> Commit {
    let key = RunKey { project: real.key.project.clone(), run: RunId::parse(&format!("stored-{at}")).unwrap() };
    let row = RunRow {
        key,
        stream: StreamId::default(),
        status: Status::Completed,
        last_seq: Seq::ZERO,
        created_at: Timestamp::from_unix_ms(real.created_at.unix_ms() + at as i64),
        ..real.clone()
    };
    let events = vec![bytes::Bytes::from_static(b"{}"); 3];
    Commit { create: Some(NewRun { row, epoch: Epoch::new(1), events, feed: vec![] }), ..Commit::default() }
}
