//! Event streams: their frames, their cursors, their ends, and readers that go, come back, or never read.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use longhaul_api::sse::{Frame, Parser};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use support::sse::Reader;
use support::{Server, assert_log, assert_no_process, until};

/// A whole answer of a stream that ends by itself: status, headers, text.
async fn read_all(request: reqwest::RequestBuilder) -> (u16, reqwest::header::HeaderMap, String) {
    let answer = request.header("accept", "text/event-stream").send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let text = tokio::time::timeout(support::PATIENCE, answer.text()).await;
    (status, headers, text.expect("a stream of a run that is over ends").unwrap())
}

/// The stream of a run that is over, without what opens it.
async fn stream(server: &Server, id: &str, cursor: u64) -> String {
    let url = server.url(&format!("/v1/runs/{id}/events?after={cursor}"));
    let (status, _, text) = read_all(server.http.get(url)).await;
    assert_eq!(status, 200, "{text}");
    opened(&text).1.to_owned()
}

/// What opens a stream (the retry time and the hello), and the rest.
fn opened(text: &str) -> ((u64, Value), &str) {
    let rest = text.strip_prefix("retry: ").expect("a stream opens with its retry time");
    let (retry, rest) = rest.split_once("\n\nevent: hello\ndata: ").expect("and says hello, without an id");
    let (hello, rest) = rest.split_once("\n\n").unwrap();
    ((retry.parse().unwrap(), serde_json::from_str(hello).unwrap()), rest)
}

/// The bytes of a run's events as a JSON page has them.
async fn stored(server: &Server, id: &str) -> Vec<String> {
    let mut all: Vec<String> = vec![];
    loop {
        let url = server.url(&format!("/v1/runs/{id}/events?limit=1000&after={}", all.len()));
        let page: BTreeMap<String, Box<RawValue>> = server.http.get(url).send().await.unwrap().json().await.unwrap();
        let events: Vec<Box<RawValue>> = serde_json::from_str(page["data"].get()).unwrap();
        all.extend(events.iter().map(|event| event.get().to_owned()));
        if page["has_more"].get() == "false" {
            return all;
        }
    }
}

/// The frame that each event must be.
fn frames_of(events: &[String]) -> Vec<String> {
    let frame = |(at, wire): (usize, &String)| {
        let event: Value = serde_json::from_str(wire).unwrap();
        assert_eq!(event["seq"], at as u64 + 1);
        format!("id: {}\nevent: {}\ndata: {wire}\n\n", at + 1, event["type"].as_str().unwrap())
    };
    events.iter().enumerate().map(frame).collect()
}

async fn run_demo(server: &Server, id: &str, variant: &str, prompt: &str) -> Value {
    let body = json!({ "run_id": id, "harness": "demo", "model": variant, "prompt": prompt });
    let (status, body) = server.post("/v1/runs", &body).await;
    assert_eq!(status, 201, "{body}");
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_the_log_frame_by_frame() {
    let mut server = Server::start().await;
    run_demo(&server, "r", "tools", "x").await;
    let end = server.end("r").await;
    assert_eq!(end["status"], "completed");
    let events = stored(&server, "r").await;
    let frames = frames_of(&events);
    let tail = events.len();
    assert!(tail > 20, "{tail}");

    // A late subscriber gets it all, and the end.
    let url = server.url("/v1/runs/r/events");
    let (status, headers, text) = read_all(server.http.get(&url)).await;
    let ((retry, hello), body) = opened(&text);
    assert_eq!((status, hello), (200, json!({ "earliest": 1, "tail": tail, "status": "completed" })));
    assert!((500..=1520).contains(&retry), "{retry}");
    assert_eq!(body, frames.concat());
    for (name, value) in [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-cache, no-transform"),
        ("x-accel-buffering", "no"),
        ("x-run-id", "r"),
        ("x-run-request-digest", end["digest"].as_str().unwrap()),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }

    // From every cursor there is the rest; at the last one nothing, for good; beyond it a refusal.
    for cursor in 0..tail {
        assert_eq!(stream(&server, "r", cursor as u64).await, frames[cursor..].concat(), "after {cursor}");
    }
    let (status, _, text) = read_all(server.http.get(&url).header("last-event-id", tail.to_string())).await;
    assert_eq!((status, text.as_str()), (204, ""));
    let (status, _, text) = read_all(server.http.get(&url).header("last-event-id", (tail + 1).to_string())).await;
    let error: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &error["error"]["code"], &error["error"]["tail"]), (409, &json!("cursor_ahead"), &json!(tail)));

    // Last-Event-ID beats after; an empty one is none.
    let after = format!("{url}?after=2");
    for (id, from) in [("4", 4), ("0", 0), ("", 2)] {
        let (_, _, text) = read_all(server.http.get(&after).header("last-event-id", id)).await;
        assert_eq!(opened(&text).1, frames[from..].concat(), "{id:?}");
    }

    // Pages of any size hold the same bytes.
    for limit in [1, 3, tail, 1000] {
        let (mut cursor, mut paged) = (0, vec![]);
        loop {
            let (status, page) = server.get(&format!("/v1/runs/r/events?after={cursor}&limit={limit}")).await;
            assert_eq!((status, &page["earliest"], &page["tail"]), (200, &json!(1), &json!(tail)));
            let data = page["data"].as_array().unwrap();
            assert!(data.len() <= limit);
            paged.extend(data.iter().cloned());
            assert_eq!(page["next"], paged.len());
            cursor = paged.len();
            if page["has_more"] == false {
                break;
            }
        }
        let want: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        assert_eq!(paged, want, "{limit} a page");
    }

    // The next server has the same bytes, and clients are told different times to come back.
    server.kill9();
    server.up().await;
    let mut retries = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let (_, _, text) = read_all(server.http.get(server.url("/v1/runs/r/events"))).await;
        let ((retry, _), body) = opened(&text);
        assert_eq!(body, frames.concat());
        retries.insert(retry);
    }
    assert!(retries.len() > 5, "{retries:?}");
    assert_eq!(server.run("r").await, end);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_stream_gives_each_event_as_it_comes_and_ends_with_the_run() {
    let server = Server::start().await;
    let gate = server.dir.path().join("gate");
    server.sh("r", &format!("echo one; while [ ! -e {} ]; do sleep 0.02; done; echo two", gate.display())).await;
    let mut reader = Reader::open(&server.http, &server.url("/v1/runs/r/events"), None).await.unwrap();
    let hello = reader.next().await.unwrap();
    assert_eq!((hello.id, hello.event.as_deref()), (None, Some("hello")));
    let mut seen = vec![];
    // The first line is there while the command still works.
    while !seen.iter().any(|frame: &Frame| frame.data.contains("\"text\":\"one\"")) {
        seen.push(reader.next().await.expect("a live stream goes on"));
    }
    assert_eq!(server.run("r").await["readers"], 1);
    std::fs::write(gate, "").unwrap();
    while let Some(frame) = reader.next().await {
        seen.push(frame);
    }
    let got: Vec<(Option<String>, String)> = seen.into_iter().map(|frame| (frame.id, frame.data)).collect();
    let want = stored(&server, "r").await.into_iter().enumerate().map(|(at, wire)| (Some((at + 1).to_string()), wire));
    assert_eq!(got, want.collect::<Vec<_>>());
    until("the reader to be counted out", async || (server.run("r").await["readers"] == 0).then_some(())).await;
}

/// A chat stream of a run that is over, without the comment that opens it.
async fn chat(server: &Server, body: &Value, cursor: Option<&str>) -> (u16, String) {
    let mut request = server.http.post(server.url("/v1/chat/completions")).body(body.to_string());
    if let Some(cursor) = cursor {
        request = request.header("last-event-id", cursor);
    }
    let (status, _, text) = read_all(request).await;
    let rest = text.strip_prefix(": run c ").map(|rest| rest.split_once("\n\n").unwrap().1.to_owned());
    (status, rest.unwrap_or(text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_stream_has_the_same_bytes_whenever_it_is_read() {
    let mut server = Server::start().await;
    let body = json!({
        "run_id": "c",
        "model": "demo/tools",
        "messages": [{ "role": "user", "content": "x" }],
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    // Live first.
    let (status, live) = chat(&server, &body, None).await;
    assert_eq!(status, 200);
    let frames = Parser::default().push(live.as_bytes());
    assert_eq!(frames.last().unwrap().data, "[DONE]");
    assert!(frames.last().unwrap().id.is_some(), "the last frame of the last event carries its id");
    assert!(frames.iter().all(|frame| frame.event.is_none()), "a chat client knows no event names");
    let chunks: Vec<Value> =
        frames[..frames.len() - 1].iter().map(|frame| serde_json::from_str(&frame.data).unwrap()).collect();
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    let whole = json!({ "run_id": "c", "model": "demo/tools", "messages": [{ "role": "user", "content": "x" }] });
    let (status, reply) = server.post("/v1/chat/completions", &whole).await;
    assert_eq!(status, 200);
    // What was sent before the agent's own retry cannot be taken back from a chat client; the whole answer has it not.
    let answer = reply["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(text, format!("There is a file\n\n{answer}"));
    assert_eq!(chunks.last().unwrap()["usage"], reply["usage"]);
    let finishes: Vec<&str> = chunks.iter().filter_map(|chunk| chunk["choices"][0]["finish_reason"].as_str()).collect();
    assert_eq!(finishes, ["stop"]);
    assert!(chunks.iter().all(|chunk| chunk["choices"][0]["delta"].get("tool_calls").is_none()));

    for _ in 0..2 {
        assert_eq!(chat(&server, &body, None).await, (200, live.clone()));
        let ids: Vec<String> = frames.iter().filter_map(|frame| frame.id.clone()).collect();
        for id in &ids[..ids.len() - 1] {
            let (_, rest) = live.split_once(&format!("id: {id}\n")).unwrap();
            let (_, rest) = rest.split_once("\n\n").unwrap();
            assert_eq!(chat(&server, &body, Some(id)).await, (200, rest.to_owned()), "after {id}");
        }
        let last = ids.last().unwrap();
        assert_eq!(chat(&server, &body, Some(last)).await, (204, String::new()));
        let (status, refused) = chat(&server, &body, Some("999999")).await;
        assert!(status == 409 && refused.contains("cursor_ahead"), "{status} {refused}");
        server.kill9();
        server.up().await;
    }
}

/// Reads a stream until at least `bytes` of its body came and leaves; the frames in exactly so many bytes.
async fn read_and_leave(server: &Server, id: &str, cursor: &str, bytes: usize) -> Vec<Frame> {
    let request = server.http.get(server.url(&format!("/v1/runs/{id}/events"))).header("accept", "text/event-stream");
    let mut answer = request.header("last-event-id", cursor).send().await.unwrap();
    if answer.status() == 204 {
        return vec![];
    }
    assert_eq!(answer.status(), 200);
    let mut body = Vec::new();
    while body.len() < bytes {
        let Some(chunk) = answer.chunk().await.unwrap() else { break };
        body.extend_from_slice(&chunk);
    }
    body.truncate(bytes);
    Parser::default().push(&body)
}

fn last_id(frames: &[Frame]) -> Option<String> {
    frames.iter().rev().find_map(|frame| frame.id.clone())
}

fn only_events(frames: impl IntoIterator<Item = Frame>) -> Vec<(String, String)> {
    frames.into_iter().filter_map(|frame| Some((frame.id?, frame.data))).collect()
}

async fn log_of(server: &Server, id: &str) -> Vec<(String, String)> {
    stored(server, id).await.into_iter().enumerate().map(|(at, wire)| ((at + 1).to_string(), wire)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_go_at_any_byte_of_a_stream() {
    let server = Server::start().await;
    server.sh("r", "echo one; echo two >&2; printf three").await;
    let end = server.end("r").await;
    let log = log_of(&server, "r").await;
    let (_, _, whole) = read_all(server.http.get(server.url("/v1/runs/r/events"))).await;
    for bytes in (0..whole.len() + 7).step_by(7) {
        let mut seen = read_and_leave(&server, "r", "0", bytes).await;
        let cursor = last_id(&seen).unwrap_or("0".into());
        seen.extend(read_and_leave(&server, "r", &cursor, usize::MAX).await);
        assert_eq!(only_events(seen), log, "cut after {bytes} bytes");
    }
    assert_eq!(server.run("r").await, end);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_go_at_any_byte_of_a_live_run() {
    let server = Server::start().await;
    let stop = server.dir.path().join("stop");
    let script = "n=0; while [ ! -e \"$STOP\" ]; do n=$((n+1)); echo line $n; sleep 0.005; done";
    let body = json!({ "run_id": "r", "command": "/bin/sh", "args": ["-c", script], "env": { "STOP": stop } });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    let pid = server.status("r", "running").await["pid"].clone();
    let (mut seen, mut cursor) = (Vec::new(), "0".to_owned());
    for cut in 0..80 {
        let frames = read_and_leave(&server, "r", &cursor, 100 + cut * 17).await;
        cursor = last_id(&frames).unwrap_or(cursor);
        seen.extend(frames);
    }
    let run = server.run("r").await;
    assert_eq!((&run["status"], &run["pid"], &run["attempts"]), (&json!("running"), &pid, &json!(1)));
    std::fs::write(stop, "").unwrap();
    let end = server.end("r").await;
    assert_eq!((&end["status"], &end["exit"]["code"]), (&json!("completed"), &json!(0)));
    seen.extend(read_and_leave(&server, "r", &cursor, usize::MAX).await);
    // The page holds a thousand events at most; the stream is compared with itself, read in one go, and with its text.
    let whole = only_events(read_and_leave(&server, "r", "0", usize::MAX).await);
    assert_eq!(only_events(seen), whole);
    let events = server.events("r").await;
    assert_log(&events);
    let output = support::output_of(&events, "stdout");
    assert_eq!(output, server.spool("r", "stdout").await);
    assert_no_process(&server.data()).await;
}

/// Readers of one run at once.
const READERS: usize = 200;

/// Lines of that run.
const LINES: usize = 50_000;

/// Memory that the server may use for them, KiB.
const MEMORY_KIB: u64 = 200 << 10;

/// Reads a stream to its end: how it opened, and the hash of all that came after.
async fn hash_stream(mut answer: reqwest::Response, opened: tokio::sync::mpsc::Sender<()>) -> (String, usize) {
    let (mut head, mut hash, mut bytes, mut blanks) = (Vec::new(), Sha256::new(), 0, 0);
    while let Some(chunk) = answer.chunk().await.unwrap() {
        let mut rest = &chunk[..];
        while blanks < 2 && !rest.is_empty() {
            head.push(rest[0]);
            rest = &rest[1..];
            if head.ends_with(b"\n\n") {
                blanks += 1;
                if blanks == 2 {
                    opened.send(()).await.unwrap();
                }
            }
        }
        hash.update(rest);
        bytes += rest.len();
    }
    assert!(head.starts_with(b"retry: "));
    (hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), bytes)
}

/// A line of a process's status, KiB.
fn memory_kib(pid: i32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_readers_and_one_that_never_reads() {
    let server = Server::start().await;
    let gate = server.dir.path().join("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.02; done; seq 1 {LINES}", gate.display());
    server.sh("r", &script).await;
    server.status("r", "running").await;

    // One asks and never reads.
    let address = server.base.strip_prefix("http://").unwrap();
    let mut stuck = tokio::net::TcpStream::connect(address).await.unwrap();
    let ask = "GET /v1/runs/r/events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n";
    stuck.write_all(ask.as_bytes()).await.unwrap();

    let (opened, mut openings) = tokio::sync::mpsc::channel(READERS);
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let request = server.http.get(server.url("/v1/runs/r/events?after=0")).header("accept", "text/event-stream");
        let opened = opened.clone();
        readers.spawn(async move { hash_stream(request.send().await.unwrap(), opened).await });
    }
    for _ in 0..READERS {
        openings.recv().await.unwrap();
    }
    until("all readers to be counted", async || (server.run("r").await["readers"] == READERS + 1).then_some(())).await;
    std::fs::write(gate, "").unwrap();

    // Whoever asks how it stands is answered meanwhile.
    let (http, url) = (reqwest::Client::new(), server.url("/v1/runs/r"));
    let asking = tokio::spawn(async move {
        let mut times = Vec::new();
        loop {
            let asked = Instant::now();
            let answer = http.get(&url).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let run: Value = answer.json().await.unwrap();
            times.push(asked.elapsed());
            if support::is_terminal(&run) {
                return times;
            }
        }
    });
    let hashes = tokio::time::timeout(10 * support::PATIENCE, readers.join_all()).await.expect("every reader ends");
    let mut times = asking.await.unwrap();
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], *times.last().unwrap());
    let (peak, now) = (memory_kib(server.pid, "VmHWM"), memory_kib(server.pid, "VmRSS"));
    println!(
        "{} reads of the status, median {median:?}, worst {worst:?}; memory {now} KiB, peak {peak} KiB",
        times.len()
    );
    assert!(peak < MEMORY_KIB, "{peak} KiB");
    assert!(median < Duration::from_secs(1), "{median:?}");

    // Everything, once, in order, to each of them.
    let whole = stream(&server, "r", 0).await;
    let want = (Sha256::digest(&whole).iter().map(|byte| format!("{byte:02x}")).collect::<String>(), whole.len());
    for (at, hash) in hashes.into_iter().enumerate() {
        assert_eq!(hash, want, "reader {at}");
    }
    let events = server.events("r").await;
    assert_log(&events);
    let lines: String = (1..=LINES).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8(support::output_of(&events, "stdout")).unwrap(), lines);
    assert_eq!(server.run("r").await["status"], "completed");
    drop(stuck);
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_feed_tells_of_every_run_once_and_in_order() {
    let mut server = Server::start().await;
    let start = async |server: &Server, id: &str, project: &str| {
        let body = json!({ "run_id": id, "project": project, "command": "/bin/sh", "args": ["-c", "echo x"] });
        assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    };
    for n in 0..5 {
        start(&server, &format!("before-{n}"), "default").await;
    }
    // List, then watch: what happens in between is not missed.
    let (_, list) = server.get("/v1/runs?limit=100").await;
    let cursor = list["feed"].as_u64().unwrap();
    let listed: BTreeMap<String, String> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| (run["id"].as_str().unwrap().to_owned(), run["status"].as_str().unwrap().to_owned()))
        .collect();
    start(&server, "between", "default").await;
    let url = server.url(&format!("/v1/events?after={cursor}"));
    let mut reader = Reader::open(&server.http, &url, None).await.unwrap();
    let hello = reader.next().await.unwrap();
    assert_eq!((hello.id, hello.event.as_deref()), (None, Some("hello")));
    for n in 0..5 {
        start(&server, &format!("after-{n}"), if n % 2 == 0 { "default" } else { "other" }).await;
    }
    let mut known = listed.clone();
    let mut seen: Vec<Frame> = vec![];
    let is_over = |status: &String| ["completed", "failed", "cancelled"].contains(&status.as_str());
    while known.len() < 11 || !known.values().all(is_over) {
        let frame = reader.next().await.expect("the feed goes on");
        let event: Value = serde_json::from_str(&frame.data).unwrap();
        assert_eq!(frame.event.as_deref(), event["type"].as_str());
        let status = match event["type"].as_str().unwrap() {
            "run.created" => "queued",
            "run.completed" => "completed",
            _ => "running",
        };
        known.insert(event["run_id"].as_str().unwrap().to_owned(), status.to_owned());
        seen.push(frame);
    }
    assert!(known.values().all(|status| status == "completed"), "{known:?}");

    // Positions only grow; pages hold the same; a project's feed is the part of it; a later server has the same.
    let ids: Vec<u64> = seen.iter().map(|frame| frame.id.as_ref().unwrap().parse().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    assert!(ids[0] > cursor);
    let pages = async |server: &Server, query: &str| {
        let (mut cursor, mut all) = (0, vec![]);
        loop {
            let (status, page) = server.get(&format!("/v1/events?after={cursor}&limit=7{query}")).await;
            assert_eq!(status, 200, "{page}");
            all.extend(page["data"].as_array().unwrap().iter().cloned());
            cursor = page["next"].as_u64().unwrap();
            if page["has_more"] == false {
                return all;
            }
        }
    };
    let all = pages(&server, "").await;
    let watched: Vec<Value> = seen.iter().map(|frame| serde_json::from_str(&frame.data).unwrap()).collect();
    assert_eq!(all[all.len() - watched.len()..], watched);
    for (id, count) in known.keys().map(|id| (id, all.iter().filter(|e| e["run_id"] == **id))) {
        let types: Vec<&str> = count.map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!((types.first(), types.last()), (Some(&"run.created"), Some(&"run.completed")), "{id}");
        let ends = types.iter().filter(|kind| **kind == "run.completed").count();
        assert_eq!(ends, 1, "{id}");
    }
    let of_other: Vec<Value> =
        all.iter().filter(|e| e["run_id"] == "after-1" || e["run_id"] == "after-3").cloned().collect();
    assert_eq!(pages(&server, "&project=other").await, of_other);
    assert!(pages(&server, "&project=nobody").await.is_empty());

    // The same reader goes on at the next server.
    let last = seen.last().unwrap().id.clone().unwrap();
    server.term();
    let farewell = reader.next().await.expect("a frame that says so");
    assert_eq!((farewell.id, farewell.event.as_deref()), (None, Some("draining")));
    assert_eq!(reader.next().await, None);
    server.up().await;
    assert_eq!(pages(&server, "").await, all);
    let mut reader = Reader::open(&server.http, &server.url("/v1/events?project=default"), Some(&last)).await.unwrap();
    assert_eq!(reader.next().await.unwrap().event.as_deref(), Some("hello"));
    start(&server, "elsewhere", "other").await;
    until("the other project's run to end", async || {
        let (status, run) = server.get("/v1/runs/elsewhere?project=other&wait_ms=5000").await;
        assert_eq!(status, 200);
        support::is_terminal(&run).then_some(())
    })
    .await;
    start(&server, "here", "default").await;
    let next = reader.next().await.unwrap();
    let event: Value = serde_json::from_str(&next.data).unwrap();
    assert_eq!(
        (&event["run_id"], &event["type"]),
        (&json!("here"), &json!("run.created")),
        "other projects are left out"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_says_so_and_the_next_one_goes_on() {
    let mut server = Server::start().await;
    run_demo(&server, "r", "slow", "8").await;
    let pid = server.status("r", "running").await["pid"].clone();
    let chat = json!({ "run_id": "c", "model": "demo/slow", "messages": [{ "role": "user", "content": "8" }] });
    let waiting = server.http.post(server.url("/v1/chat/completions")).body(chat.to_string());
    let waiting = tokio::spawn(async move {
        let answer = waiting.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        (status, headers, answer.json::<Value>().await.unwrap())
    });
    until("the chat to run", async || (server.get("/v1/runs/c").await.0 == 200).then_some(())).await;
    server.status("c", "running").await;
    let mut streamed = chat.clone();
    streamed["stream"] = json!(true);
    let request = server.http.post(server.url("/v1/chat/completions")).body(streamed.to_string());
    let mut chatting = Reader::of(request).await.unwrap();
    let mut said = vec![chatting.next().await.unwrap(), chatting.next().await.unwrap()];
    let mut reader = Reader::open(&server.http, &server.url("/v1/runs/r/events"), None).await.unwrap();
    let mut seen = vec![];
    while seen.len() < 5 {
        seen.push(reader.next().await.unwrap());
    }

    assert!(server.term().success());
    while let Some(frame) = reader.next().await {
        seen.push(frame);
    }
    let farewell = seen.pop().unwrap();
    let facts: Value = serde_json::from_str(&farewell.data).unwrap();
    let cursor = last_id(&seen).unwrap();
    assert_eq!(
        (farewell.id, farewell.event.as_deref(), &facts["cursor"]),
        (None, Some("draining"), &json!(cursor.parse::<u64>().unwrap()))
    );
    while let Some(frame) = chatting.next().await {
        said.push(frame);
    }
    let farewell = said.pop().unwrap();
    let error: Value = serde_json::from_str(&farewell.data).unwrap();
    assert_eq!((farewell.id, &error["error"]["code"]), (None, &json!("draining")));
    assert!(said.iter().all(|frame| frame.data != "[DONE]"));
    // Whoever waits for a whole answer is told to ask again, and why that is safe.
    let (status, headers, body) = waiting.await.unwrap();
    assert_eq!((status, &body["error"]["code"], &body["error"]["run_id"]), (503, &json!("draining"), &json!("c")));
    assert!(headers.contains_key("retry-after"));

    server.up().await;
    assert_eq!(server.run("r").await["pid"], pid, "the agent went on");
    let mut reader = Reader::open(&server.http, &server.url("/v1/runs/r/events"), Some(&cursor)).await.unwrap();
    while let Some(frame) = reader.next().await {
        seen.push(frame);
    }
    assert_eq!(only_events(seen), log_of(&server, "r").await);
    let (status, reply) = server.post("/v1/chat/completions", &chat).await;
    assert_eq!(status, 200);
    let whole: String = (1..=40).map(|n| format!("{n} ")).chain(["done.".to_owned()]).collect();
    assert_eq!(reply["choices"][0]["message"]["content"], whole);
    let request = server.http.post(server.url("/v1/chat/completions")).body(streamed.to_string());
    let mut rest = Reader::of(request.header("last-event-id", last_id(&said).unwrap())).await.unwrap();
    while let Some(frame) = rest.next().await {
        said.push(frame);
    }
    assert_eq!(said.pop().unwrap().data, "[DONE]");
    let text: String = said
        .iter()
        .filter_map(|frame| {
            Some(
                serde_json::from_str::<Value>(&frame.data).unwrap()["choices"][0]["delta"]["content"]
                    .as_str()?
                    .to_owned(),
            )
        })
        .collect();
    assert_eq!(text, whole);
    assert_eq!(server.stored().await.0, ["c", "r"]);
    assert_no_process(&server.data()).await;
}

async fn start_watched(server: &Server, id: &str, on_disconnect: &str) {
    let body = json!({
        "run_id": id,
        "command": "/bin/sleep",
        "args": ["600"],
        "on_disconnect": on_disconnect,
    });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    server.status(id, "running").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_reader_s_leaving_is_a_cancel_only_where_that_was_asked_for() {
    let mut server = Server::start().await;
    start_watched(&server, "cancel", "cancel").await;
    start_watched(&server, "continue", "continue").await;
    let open = async |server: &Server, id: &str| {
        let mut reader =
            Reader::open(&reqwest::Client::new(), &server.url(&format!("/v1/runs/{id}/events")), None).await.unwrap();
        reader.next().await.unwrap();
        reader
    };
    let readers = async |server: &Server, id: &str, count: u64| {
        until("the readers to be counted", async || (server.run(id).await["readers"] == count).then_some(())).await;
    };
    // A restart is no leaving, whether it says goodbye or not.
    for gently in [true, false] {
        let reader = open(&server, "cancel").await;
        if gently {
            server.term();
        } else {
            server.kill9();
        }
        drop(reader);
        server.up().await;
        assert_eq!(server.status("cancel", "running").await["readers"], 0);
    }
    // A reader that is refused was never there, and one that has seen a page neither.
    for after in ["999999", "x"] {
        let refused = Reader::open(&server.http, &server.url("/v1/runs/cancel/events"), Some(after)).await.err();
        assert_eq!(refused, Some(if after == "x" { 400 } else { 409 }));
    }
    assert_eq!(server.get("/v1/runs/cancel/events").await.0, 200);
    // One of two is not the last one.
    let (one, two) = (open(&server, "cancel").await, open(&server, "cancel").await);
    readers(&server, "cancel", 2).await;
    drop(one);
    readers(&server, "cancel", 1).await;
    let other = open(&server, "continue").await;
    drop(other);
    readers(&server, "continue", 0).await;
    assert_eq!(server.run("cancel").await["cancel_requested"], false);
    drop(two);
    let end = server.end("cancel").await;
    assert_eq!((&end["status"], &end["reason"]), (&json!("cancelled"), &json!("disconnect")));
    let run = server.run("continue").await;
    assert_eq!((&run["status"], &run["cancel_requested"]), (&json!("running"), &json!(false)));
    server.post("/v1/runs/continue/cancel?wait_ms=30000", &json!({})).await;

    // A chat that is waited for.
    for stream in [false, true] {
        let id = format!("chat-{stream}");
        let body = json!({
            "run_id": id,
            "model": "demo/slow",
            "messages": [{ "role": "user", "content": "600" }],
            "on_disconnect": "cancel",
            "stream": stream,
        });
        let request = reqwest::Client::new().post(server.url("/v1/chat/completions")).body(body.to_string());
        let waiting = tokio::spawn(async move { request.send().await.unwrap().text().await });
        until("the run to be there", async || (server.get(&format!("/v1/runs/{id}")).await.0 == 200).then_some(()))
            .await;
        server.status(&id, "running").await;
        readers(&server, &id, 1).await;
        waiting.abort();
        assert_eq!(server.end(&id).await["status"], "cancelled");
    }
    assert_no_process(&server.data()).await;
}
