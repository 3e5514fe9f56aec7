//! Many runs at once: `cargo bench -p longhaul --bench load`.
//!
//! 200 runs of the built-in agent are live all the time for 60 s, each 5 to 10 s long, one of ten cancelled in the
//! middle; 50 readers follow one run after the other to its end. Counted: what went wrong, and what the server holds at
//! each third of the time and after all.
#![allow(missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::Server;
use support::sse::Reader;

const RUNS: u64 = 200;
const READERS: u64 = 50;
const LASTS: Duration = Duration::from_secs(60);

/// Counts of everything that happened.
#[derive(Default)]
struct Counts {
    runs: AtomicU64,
    cancelled: AtomicU64,
    events: AtomicU64,
    streams: AtomicU64,
    errors: AtomicU64,
    over: AtomicBool,
}

impl Counts {
    fn wrong(&self, what: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        eprintln!("wrong: {what}");
    }
}

/// What a server holds at one moment.
struct Held {
    resident_mib: f64,
    descriptors: usize,
}

impl Held {
    fn of(pid: i32) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let kib: f64 = line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self { resident_mib: kib / 1024.0, descriptors }
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, load());
}

async fn load() {
    let live = RUNS.to_string();
    let server = Arc::new(Server::start_with(&["--live-max", &live], &[]).await);
    // One run first, and many reads at once, so that what is made once is there.
    server.post("/v1/runs", &json!({ "run_id": "first", "harness": "demo", "model": "echo", "prompt": "one" })).await;
    server.end("first").await;
    let reads: Vec<_> = (0..READERS)
        .map(|_| {
            let server = Arc::clone(&server);
            tokio::task::spawn_local(async move { server.events("first").await })
        })
        .collect();
    for read in reads {
        read.await.unwrap();
    }
    let before = Held::of(server.pid);
    let counts = Arc::new(Counts::default());
    let began = Instant::now();
    let keepers: Vec<_> =
        (0..RUNS).map(|at| tokio::task::spawn_local(keep(Arc::clone(&server), Arc::clone(&counts), at))).collect();
    let readers: Vec<_> =
        (0..READERS).map(|at| tokio::task::spawn_local(follow(Arc::clone(&server), Arc::clone(&counts), at))).collect();
    let (mut thirds, mut reads, mut peak) = (Vec::new(), Vec::new(), 0);
    while began.elapsed() < LASTS {
        let asked = Instant::now();
        let (status, health) = server.get("/health").await;
        reads.push(asked.elapsed());
        if status != 200 {
            counts.wrong(&format!("/health answers {status}: {health}"));
        }
        peak = peak.max(health["runs"]["live"].as_u64().unwrap());
        if began.elapsed() >= LASTS / 3 * (thirds.len() as u32 + 1) {
            thirds.push(Held::of(server.pid));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    thirds.push(Held::of(server.pid));
    counts.over.store(true, Ordering::Relaxed);
    for task in keepers.into_iter().chain(readers) {
        task.await.unwrap();
    }
    support::assert_no_process(&server.data()).await;
    // The connections that this client kept alive are closed with it.
    let mut server = Arc::into_inner(server).unwrap();
    server.http = reqwest::Client::new();
    let settled = support::until("the server to let go of descriptors", async || {
        let held = Held::of(server.pid);
        (held.descriptors <= before.descriptors).then_some(held)
    })
    .await;
    report(&counts, &before, &thirds, &settled, reads, peak);
}

fn report(counts: &Counts, before: &Held, thirds: &[Held], after: &Held, mut reads: Vec<Duration>, peak: u64) {
    let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
    reads.sort();
    let ms = |permille: usize| reads[(reads.len() - 1) * permille / 1000].as_secs_f64() * 1000.0;
    let held = |held: &Held| format!("{:.1} MiB, {} descriptors", held.resident_mib, held.descriptors);
    println!("| what | figure |");
    println!("| --- | --- |");
    println!("| runs ended, of them cancelled | {}, {} |", get(&counts.runs), get(&counts.cancelled));
    println!("| streams read to their end, events in them | {}, {} |", get(&counts.streams), get(&counts.events));
    println!("| errors | {} |", get(&counts.errors));
    println!("| live at once, as /health said at most | {peak} |");
    println!("| /health under load, p50 / p99 / max | {:.1} / {:.1} / {:.1} ms |", ms(500), ms(990), ms(1000));
    println!("| server before | {} |", held(before));
    for (at, third) in thirds.iter().enumerate() {
        println!("| server at {} s | {} |", LASTS.as_secs() / 3 * (at as u64 + 1), held(third));
    }
    println!("| server after, no process of a run left | {} |", held(after));
}

/// Keeps one run live until the time is over.
async fn keep(server: Arc<Server>, counts: Arc<Counts>, at: u64) {
    for round in 0_u64.. {
        if counts.over.load(Ordering::Relaxed) {
            return;
        }
        let seconds = 5 + (at + round) % 6;
        let id = format!("load-{at}-{round}");
        let request = json!({ "run_id": id, "harness": "demo", "model": "slow", "prompt": seconds.to_string() });
        let (status, body) = server.post("/v1/runs", &request).await;
        if status != 201 {
            counts.wrong(&format!("{id} is answered {status}: {body}"));
            continue;
        }
        let cancelled = (at + round).is_multiple_of(10);
        if cancelled {
            tokio::time::sleep(Duration::from_secs(seconds / 2)).await;
            server.post(&format!("/v1/runs/{id}/cancel?wait_ms=30000"), &json!({})).await;
            counts.cancelled.fetch_add(1, Ordering::Relaxed);
        }
        let end = server.end(&id).await;
        counts.runs.fetch_add(1, Ordering::Relaxed);
        let whole = end["output_text"].as_str().unwrap_or_default().ends_with(&format!(" {} done.", seconds * 5));
        if end["status"] != if cancelled { "cancelled" } else { "completed" } || !(cancelled || whole) {
            counts.wrong(&format!("{id} ends {} with {}", end["status"], end["output_text"]));
        }
    }
}

/// Follows live runs, one after the other, each from its first event to its end.
async fn follow(server: Arc<Server>, counts: Arc<Counts>, at: u64) {
    for turn in 0.. {
        if counts.over.load(Ordering::Relaxed) {
            return;
        }
        let (_, list) = server.get("/v1/runs?status=running&limit=100").await;
        let runs = list["data"].as_array().cloned().unwrap_or_default();
        let Some(run) =
            runs.get((at * 7 + turn) as usize % runs.len().max(1)).and_then(|run: &Value| run["id"].as_str())
        else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut reader = match Reader::open(&server.http, &server.url(&format!("/v1/runs/{run}/events")), None).await {
            Ok(reader) => reader,
            Err(status) => {
                counts.wrong(&format!("the stream of {run} answers {status}"));
                continue;
            }
        };
        let (mut seq, mut ended) = (0, false);
        while let Some(frame) = reader.next().await {
            let Some(id) = frame.id.as_deref().and_then(|id| id.parse::<u64>().ok()) else { continue };
            if id != seq + 1 {
                counts.wrong(&format!("the stream of {run} goes from {seq} to {id}"));
            }
            seq = id;
            counts.events.fetch_add(1, Ordering::Relaxed);
            let name = frame.event.as_deref().unwrap_or_default();
            ended = ["run.completed", "run.failed", "run.cancelled"].contains(&name);
        }
        counts.streams.fetch_add(1, Ordering::Relaxed);
        if !ended {
            counts.wrong(&format!("the stream of {run} stops after {seq} without an end"));
        }
    }
}
