//! One run per id and request: whoever asks how often, before and after its end, and in a full house.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use longhaul_api::sse::Frame;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use support::proc::{shim_of, signal};
use support::sse::Reader;
use support::{Server, assert_log, assert_no_process, until};

/// Clients that ask at once.
const CLIENTS: usize = 20;

/// A command that notes each start of itself in one file and works until another one is there.
struct Job {
    starts: PathBuf,
    stop: PathBuf,
}

impl Job {
    fn new(server: &Server, name: &str) -> Self {
        Self {
            starts: server.dir.path().join(format!("{name}.starts")),
            stop: server.dir.path().join(format!("{name}.stop")),
        }
    }

    fn body(&self, id: &str) -> Value {
        let script = "echo start >> \"$STARTS\"; while [ ! -e \"$STOP\" ]; do sleep 0.02; done; echo over";
        json!({
            "run_id": id,
            "command": "/bin/sh",
            "args": ["-c", script],
            "env": { "STARTS": self.starts, "STOP": self.stop },
            "timeout_ms": 600_000,
        })
    }

    fn stop(&self) {
        std::fs::write(&self.stop, "").unwrap();
    }

    fn starts(&self) -> usize {
        std::fs::read_to_string(&self.starts).unwrap_or_default().lines().count()
    }

    async fn started(&self) {
        until("the command to start", async || (self.starts() > 0).then_some(())).await;
    }
}

/// A POST as it came back: status, headers, body.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The error without the parts that differ from request to request.
    fn error(&self) -> Value {
        let mut error = self.body["error"].clone();
        assert_eq!(error["request_id"], self.header("x-request-id").unwrap());
        error.as_object_mut().unwrap().remove("request_id");
        error
    }
}

async fn post(server: &Server, path: &str, body: String) -> Answer {
    send(server.http.post(server.url(path)).body(body)).await
}

async fn send(request: reqwest::RequestBuilder) -> Answer {
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Answer { status, headers, body: answer.json().await.unwrap() }
}

fn chat(id: &str, model: &str, prompt: &str) -> Value {
    json!({ "run_id": id, "model": model, "messages": [{ "role": "user", "content": prompt }] })
}

async fn delete(server: &Server, id: &str) -> Answer {
    send(server.http.delete(server.url(&format!("/v1/runs/{id}")))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_clients_at_once_start_one_process() {
    let mut server = Server::start().await;
    let job = Job::new(&server, "one");
    let body = job.body("one").to_string();
    let barrier = Arc::new(tokio::sync::Barrier::new(CLIENTS));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (barrier, body, url) = (Arc::clone(&barrier), body.clone(), server.url("/v1/runs"));
        clients.spawn(async move {
            // Each client has a connection of its own.
            let request = reqwest::Client::new().post(url).body(body);
            barrier.wait().await;
            send(request).await
        });
    }
    let answers = clients.join_all().await;
    let mut statuses: Vec<u16> = answers.iter().map(|a| a.status).collect();
    statuses.sort_unstable();
    let mut want = vec![200; CLIENTS - 1];
    want.push(201);
    assert_eq!(statuses, want);
    let digest = answers[0].body["digest"].as_str().unwrap().to_owned();
    for answer in &answers {
        let named = (answer.header("x-run-id"), answer.header("x-run-request-digest"), answer.header("location"));
        assert_eq!(named, (Some("one"), Some(digest.as_str()), Some("/v1/runs/one")));
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert_eq!((&answer.body["id"], &answer.body["digest"]), (&json!("one"), &json!(digest)));
    }
    job.started().await;

    // Another spelling of the same JSON is the same request.
    let plain = job.body("one");
    let respelled = format!(
        "{{ \"timeout_ms\" : 6.0e5,\n\"env\":{{\"STOP\":{},\"STARTS\":{}}},\"args\":{},\"command\":\"\\u002fbin/sh\",\"run_id\":\"one\"}}",
        plain["env"]["STOP"], plain["env"]["STARTS"], plain["args"]
    );
    let attached = post(&server, "/v1/runs", respelled).await;
    assert_eq!((attached.status, &attached.body["digest"]), (200, &json!(digest)));
    // The id may be a header instead.
    let mut bare = plain.clone();
    bare.as_object_mut().unwrap().remove("run_id");
    for header in ["x-run-id", "idempotency-key"] {
        let request = server.http.post(server.url("/v1/runs")).header(header, "one").body(bare.to_string());
        assert_eq!(send(request).await.status, 200, "{header}");
    }

    // Another request is not.
    let mut other = plain.clone();
    other["timeout_ms"] = json!(600_001);
    let conflict = post(&server, "/v1/runs", other.to_string()).await;
    let received = conflict.error()["received_digest"].as_str().unwrap().to_owned();
    assert_ne!(received, digest);
    assert_eq!(
        (conflict.status, conflict.header("x-should-retry"), conflict.error()),
        (
            409,
            Some("false"),
            json!({
                "type": "conflict_error",
                "code": "run_conflict",
                "message": "run one is bound to another request",
                "param": null,
                "run_id": "one",
                "expected_digest": digest,
                "received_digest": received,
            })
        )
    );
    // In another project it is another run.
    let mut elsewhere = plain.clone();
    elsewhere["project"] = json!("elsewhere");
    elsewhere["command"] = json!("/bin/true");
    assert_eq!(post(&server, "/v1/runs", elsewhere.to_string()).await.status, 201);

    // A live run is not deleted.
    let refused = delete(&server, "one").await;
    assert_eq!((refused.status, &refused.body["error"]["code"]), (409, &json!("run_not_ended")));

    job.stop();
    let end = server.end("one").await;
    assert_eq!((&end["status"], &end["exit"]["code"]), (&json!("completed"), &json!(0)));
    // After the end, and at the next server, the same request has the stored answer.
    let again = post(&server, "/v1/runs", body.clone()).await;
    assert_eq!((again.status, &again.body), (200, &end));
    server.term();
    server.up().await;
    let later = post(&server, "/v1/runs", body.clone()).await;
    assert_eq!((later.status, &later.body), (200, &end));
    assert_eq!(post(&server, "/v1/runs", other.to_string()).await.status, 409);

    // A deleted id stays taken, over a restart too.
    let erased = delete(&server, "one").await;
    assert_eq!((erased.status, &erased.body["deleted"]), (200, &json!(true)));
    for _ in 0..2 {
        for gone in [
            post(&server, "/v1/runs", body.clone()).await,
            delete(&server, "one").await,
            send(server.http.get(server.url("/v1/runs/one"))).await,
            send(server.http.get(server.url("/v1/runs/one/events"))).await,
            post(&server, "/v1/chat/completions", chat("one", "demo/echo", "hi").to_string()).await,
        ] {
            assert_eq!((gone.status, &gone.body["error"]["code"]), (410, &json!("run_gone")));
            assert_eq!(gone.header("x-should-retry"), Some("false"));
        }
        server.kill9();
        server.up().await;
    }
    assert_eq!(job.starts(), 1, "one process, whoever asked how often");
    assert_eq!(server.stored().await.0, ["one"], "of the other project");
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_chats_at_once_are_one_run_and_one_answer() {
    let server = Server::start().await;
    let barrier = Arc::new(tokio::sync::Barrier::new(CLIENTS));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (barrier, url) = (Arc::clone(&barrier), server.url("/v1/chat/completions"));
        clients.spawn(async move {
            let request = reqwest::Client::new().post(url).body(chat("talk", "demo/echo", "one two three").to_string());
            barrier.wait().await;
            send(request).await
        });
    }
    let answers = clients.join_all().await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (200, &answers[0].body));
        assert_eq!(answer.body["choices"][0]["message"]["content"], "one two three");
    }
    assert_eq!(server.stored().await, (vec!["talk".to_owned()], 1));
    // The same words over the other face are another request.
    let conflict = post(&server, "/v1/runs", json!({ "run_id": "talk", "harness": "demo" }).to_string()).await;
    assert_eq!((conflict.status, &conflict.body["error"]["code"]), (409, &json!("run_conflict")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_house_refuses_without_a_trace_and_takes_the_same_id_later() {
    let server = Server::start_with(&["--live-max", "1", "--queue-max", "1"], &[]).await;
    let (a, b, c) = (Job::new(&server, "a"), Job::new(&server, "b"), Job::new(&server, "c"));
    assert_eq!(post(&server, "/v1/runs", a.body("a").to_string()).await.status, 201);
    a.started().await;

    // With a place in the queue a chat waits for its turn, no longer than it wants to.
    let mut impatient = chat("talk", "demo/echo", "at last");
    impatient["queue_timeout_ms"] = json!(100);
    let saturated = post(&server, "/v1/chat/completions", impatient.to_string()).await;
    let retry_after: u64 = saturated.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&retry_after), "{retry_after}");
    assert_eq!(
        (saturated.status, saturated.header("x-should-retry"), saturated.error()),
        (
            429,
            None,
            json!({
                "type": "rate_limit_error",
                "code": "saturated",
                "message": "no place became free in time; nothing was started",
                "param": null,
                "dispatch": "not_started",
                "live": 1,
                "live_max": 1,
                "queued": 0,
                "waited_ms": 100,
            })
        )
    );

    let queued = post(&server, "/v1/runs", b.body("b").to_string()).await;
    assert_eq!(
        (queued.status, &queued.body["status"], &queued.body["queue"]),
        (201, &json!("queued"), &json!({ "position": 0 }))
    );
    let before = server.stored().await;
    assert_eq!(before, (vec!["b".to_owned(), "a".to_owned()], 2));
    for (path, body) in [("/v1/runs", c.body("c")), ("/v1/chat/completions", impatient.clone())] {
        let full = post(&server, path, body.to_string()).await;
        let retry_after: u64 = full.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&retry_after), "{retry_after}");
        assert_eq!(
            (full.status, full.header("x-should-retry"), full.error()),
            (
                503,
                None,
                json!({
                    "type": "rate_limit_error",
                    "code": "queue_full",
                    "message": "1 runs wait already, more may not",
                    "param": null,
                    "dispatch": "not_started",
                    "queued": 1,
                    "live": 1,
                    "live_max": 1,
                })
            ),
            "{path}"
        );
    }
    assert_eq!(server.stored().await, before, "a refused request leaves nothing");
    // Who is in already gets in again, however full it is.
    assert_eq!(post(&server, "/v1/runs", b.body("b").to_string()).await.status, 200);

    for job in [&a, &b, &c] {
        job.stop();
    }
    server.end("b").await;
    assert_eq!(post(&server, "/v1/runs", c.body("c").to_string()).await.status, 201);
    assert_eq!(server.end("c").await["status"], "completed");
    impatient["queue_timeout_ms"] = json!(30_000);
    let answer = post(&server, "/v1/chat/completions", impatient.to_string()).await;
    assert_eq!((answer.status, &answer.body["choices"][0]["message"]["content"]), (200, &json!("at last")));
    assert_eq!((a.starts(), b.starts(), c.starts()), (1, 1, 1));
    assert_no_process(&server.data()).await;
}

/// A chat request without an id, numbered as the SDKs number their retries; the run that answered it.
async fn nameless(server: &Server, retry: u32, stream: bool, prompt: &str) -> String {
    let body = json!({ "model": "demo/echo", "messages": [{ "role": "user", "content": prompt }], "stream": stream });
    let request = server.http.post(server.url("/v1/chat/completions")).header("x-stainless-retry-count", retry);
    let answer = request.body(body.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let run = answer.headers()["x-run-id"].to_str().unwrap().to_owned();
    assert!(answer.text().await.unwrap().contains("stop"));
    run
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_without_an_id_takes_what_was_not_received_and_nothing_else() {
    let retried = |stream: bool| async move {
        let server = Server::start().await;
        let prompt = "one two three four five six seven eight nine ten";
        let first = nameless(&server, 0, stream, prompt).await;
        // What is the same on purpose is another run, also while the first answer may be on its way.
        let client = reqwest::Client::new();
        let body =
            json!({ "model": "demo/echo", "messages": [{ "role": "user", "content": prompt }], "stream": stream });
        let request = client.post(server.url("/v1/chat/completions")).body(body.to_string());
        let leaving = tokio::spawn(async move { request.send().await.unwrap().text().await });
        let second = until("the second run to be there", async || {
            let (ids, _) = server.stored().await;
            (ids.len() == 2).then(|| ids[0].clone())
        })
        .await;
        assert_ne!(second, first);
        leaving.abort();
        let _ = leaving.await;
        // Its retry finds it, rather than the first one, and the next retry of somebody else the first one.
        assert_eq!(nameless(&server, 1, stream, prompt).await, second);
        assert_eq!(nameless(&server, 1, stream, prompt).await, first, "given, but perhaps not received");
        assert_eq!(server.stored().await.0.len(), 2);
        // Another request, or another project, is none of theirs.
        let other = nameless(&server, 1, stream, "something else").await;
        assert!(![&first, &second].contains(&&other));
        // An answer that was given is forgotten after a while.
        let mut number = 1;
        until("a retry to be nobody's", async || {
            number += 1;
            let run = nameless(&server, number, stream, prompt).await;
            (![&first, &second].contains(&&run)).then_some(())
        })
        .await;
        assert_eq!(server.stored().await.0.len(), 4);
    };
    tokio::join!(retried(false), retried(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_of_what_got_no_place_does_not_take_its_twin_s_run() {
    let server = Server::start_with(&["--live-max", "1"], &[]).await;
    let ask = |retry: u32, wait_ms: u64| {
        let body = json!({
            "model": "demo/slow",
            "messages": [{ "role": "user", "content": "3" }],
            "queue_timeout_ms": wait_ms,
        });
        let request = reqwest::Client::new().post(server.url("/v1/chat/completions"));
        request.header("x-stainless-retry-count", retry).body(body.to_string())
    };
    let twin = tokio::spawn(send(ask(0, 30_000)));
    until("the twin to be there", async || (server.stored().await.0.len() == 1).then_some(())).await;
    // One is refused, another one goes away while it waits; their retries get runs of their own.
    assert_eq!(send(ask(0, 0)).await.status, 429);
    let leaving = tokio::spawn(ask(0, 60_000).send());
    until("it to wait", async || (server.get("/health").await.1["runs"]["queued"] == 1).then_some(())).await;
    leaving.abort();
    until("it to be gone", async || (server.get("/health").await.1["runs"]["queued"] == 0).then_some(())).await;
    let (one, two) = tokio::join!(send(ask(1, 30_000)), send(ask(1, 30_000)));
    let twin = twin.await.unwrap();
    let mut runs: Vec<String> = [&one, &two, &twin].iter().map(|a| a.header("x-run-id").unwrap().to_owned()).collect();
    assert_eq!([one.status, two.status, twin.status], [200; 3]);
    runs.sort_unstable();
    runs.dedup();
    assert_eq!(runs.len(), 3, "three were wanted");
    // Each refusal counts once: the next retry finds what was given and perhaps not received, as ever.
    let late = send(ask(2, 30_000)).await;
    assert!(runs.contains(&late.header("x-run-id").unwrap().to_owned()));
    assert_eq!(server.stored().await.0.len(), 3);
    assert_no_process(&server.data()).await;
}

/// All frames of a chat stream.
async fn chat_frames(server: &Server, mut body: Value, cursor: Option<&str>) -> Vec<Frame> {
    body["stream"] = json!(true);
    let mut request = server.http.post(server.url("/v1/chat/completions")).body(body.to_string());
    if let Some(cursor) = cursor {
        request = request.header("last-event-id", cursor);
    }
    let mut reader = Reader::of(request).await.unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = reader.next().await {
        frames.push(frame);
    }
    frames
}

/// Asserts that a chat stream ends in an error and never in a success.
fn assert_failed(frames: &[Frame], code: &str) {
    for frame in frames {
        assert_ne!(frame.data, "[DONE]");
        let chunk: Value = serde_json::from_str(&frame.data).unwrap();
        assert!(chunk["choices"][0]["finish_reason"].is_null(), "{chunk}");
    }
    let last: Value = serde_json::from_str(&frames.last().unwrap().data).unwrap();
    assert_eq!(
        (&last["error"]["code"], &last["error"]["failure"]["code"]),
        (&json!("run_failed"), &json!(code)),
        "{last}"
    );
}

/// The statuses that a run may end in and the failure that says so, for each way to kill.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Agent,
    Shim,
    AgentWithoutServer,
    ShimWithoutServer,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_killed_is_never_a_success() {
    for (victim, failure) in [
        (Victim::Agent, "killed_by_signal"),
        (Victim::Shim, "lost"),
        (Victim::AgentWithoutServer, "killed_by_signal"),
        (Victim::ShimWithoutServer, "lost"),
    ] {
        let mut server = Server::start().await;
        let body = chat("doomed", "demo/slow", "600");
        // One client waits for the whole, another one reads along.
        let (whole, mut streamed) = (body.to_string(), body.clone());
        streamed["stream"] = json!(true);
        let request = server.http.post(server.url("/v1/chat/completions")).body(whole.clone());
        let waiting = tokio::spawn(async move { request.send().await.map(|answer| answer.status().as_u16()).ok() });
        let request = server.http.post(server.url("/v1/chat/completions")).body(streamed.to_string());
        let mut reader = Reader::of(request).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.push(reader.next().await.expect("text while it runs"));
        }
        let pid = i32::try_from(server.status("doomed", "running").await["pid"].as_i64().unwrap()).unwrap();
        let shim = shim_of(&server.data(), pid);
        match victim {
            Victim::Agent => signal(pid, Signal::KILL),
            Victim::Shim => signal(shim, Signal::KILL),
            Victim::AgentWithoutServer | Victim::ShimWithoutServer => {
                server.kill9();
                signal(if matches!(victim, Victim::AgentWithoutServer) { pid } else { shim }, Signal::KILL);
                server.up().await;
            }
        }
        while let Some(frame) = reader.next().await {
            seen.push(frame);
        }
        let waited = waiting.await.unwrap();
        match victim {
            Victim::Agent | Victim::Shim => {
                assert_eq!(waited, Some(502), "{victim:?}");
                assert_failed(&seen, failure);
            }
            // The connection broke with the server. What came before is no success.
            Victim::AgentWithoutServer | Victim::ShimWithoutServer => {
                assert_eq!(waited, None, "{victim:?}");
                assert!(seen.iter().all(|frame| frame.data != "[DONE]" && !frame.data.contains("\"stop\"")));
            }
        }
        let end = server.end("doomed").await;
        assert_eq!((&end["status"], &end["error"]["code"]), (&json!("failed"), &json!(failure)), "{victim:?}");
        assert!(end["output_text"].as_str().unwrap().starts_with("1 2 "), "what it said is kept");

        // Whoever retries hears the same, now, later and at the next server.
        for _ in 0..2 {
            let retry = post(&server, "/v1/chat/completions", whole.clone()).await;
            assert_eq!((retry.status, retry.header("x-should-retry")), (502, Some("false")), "{victim:?}");
            assert_eq!(retry.body["error"]["failure"]["code"], failure);
            assert_eq!(retry.body["error"]["run_id"], "doomed");
            assert!(retry.body.get("choices").is_none());
            let frames = chat_frames(&server, body.clone(), None).await;
            assert_failed(&frames, failure);
            // A reader that goes on from where it was gets the rest, and the same end.
            let cursor = seen.iter().rev().find_map(|frame| frame.id.clone()).unwrap();
            if seen.last().unwrap().id.as_deref() != frames.last().unwrap().id.as_deref() {
                let rest = chat_frames(&server, body.clone(), Some(&cursor)).await;
                let at = frames.iter().position(|frame| frame.id.as_deref() == Some(&cursor)).unwrap();
                assert_eq!(rest, frames[at + 1..]);
            }
            server.term();
            server.up().await;
        }
        assert_eq!(server.stored().await.0, ["doomed"], "{victim:?}: nothing new was started");
        assert_log(&server.events("doomed").await);
        assert_no_process(&server.data()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_s_own_failure_is_a_502_and_a_cancel_a_409() {
    let server = Server::start().await;
    let failed = post(&server, "/v1/chat/completions", chat("f", "demo/fail", "x").to_string()).await;
    assert_eq!(
        (failed.status, failed.header("x-should-retry"), failed.error()),
        (
            502,
            Some("false"),
            json!({
                "type": "upstream_error",
                "code": "run_failed",
                "message": "demo: the demo was asked to fail",
                "param": null,
                "failure": { "code": "agent_error", "message": "the demo was asked to fail" },
                "run_id": "f",
            })
        )
    );
    assert_failed(&chat_frames(&server, chat("f", "demo/fail", "x"), None).await, "agent_error");

    let body = chat("c", "demo/slow", "600");
    let request = server.http.post(server.url("/v1/chat/completions")).body(body.to_string());
    let waiting = tokio::spawn(send(request));
    until("the run to be there", async || (server.get("/v1/runs/c").await.0 == 200).then_some(())).await;
    server.status("c", "running").await;
    let (status, _) = server.post("/v1/runs/c/cancel?wait_ms=30000", &json!({})).await;
    assert_eq!(status, 200);
    let cancelled = waiting.await.unwrap();
    assert_eq!(
        (cancelled.status, cancelled.header("x-should-retry"), &cancelled.error()["code"]),
        (409, Some("false"), &json!("run_cancelled"))
    );

    let mut late = chat("t", "demo/slow", "600");
    late["timeout_ms"] = json!(300);
    let timeout = post(&server, "/v1/chat/completions", late.to_string()).await;
    assert_eq!(
        (
            timeout.status,
            timeout.header("x-should-retry"),
            &timeout.error()["code"],
            &timeout.error()["failure"]["code"]
        ),
        (504, Some("false"), &json!("run_timeout"), &json!("timeout"))
    );
    assert_no_process(&server.data()).await;
}

/// A body over the limit: as JSON it would be fine.
fn huge() -> String {
    let words = "x".repeat(longhaul_model::limits::BODY_BYTES_MAX);
    json!({ "run_id": "huge", "harness": "demo", "prompt": words }).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_its_limit_is_refused_with_the_limit() {
    let server = Server::start().await;
    let limit = longhaul_model::limits::BODY_BYTES_MAX;
    for path in ["/v1/runs", "/v1/chat/completions", "/v1/runs/x/cancel"] {
        for chunked in [false, true] {
            let address = server.base.strip_prefix("http://").unwrap();
            let request = over_the_wire(path, &huge(), chunked);
            let answer = support::wire::send(address, &request).await.expect("an answer before the connection ends");
            let mut error = answer.json()["error"].clone();
            assert_eq!(error["request_id"], answer.headers["x-request-id"].as_str());
            error.as_object_mut().unwrap().remove("request_id");
            assert_eq!(
                (answer.status, error),
                (
                    413,
                    json!({
                        "type": "invalid_request_error",
                        "code": "body_too_large",
                        "message": format!("the body has more than {limit} bytes"),
                        "param": null,
                        "limit_bytes": limit,
                    })
                ),
                "{path} chunked {chunked}"
            );
        }
    }
    assert_eq!(server.stored().await, (vec![], 0));
}

fn over_the_wire(path: &str, body: &str, chunked: bool) -> Vec<u8> {
    if !chunked {
        return support::wire::request("POST", path, &[("host", b"localhost")], body.as_bytes());
    }
    let mut out =
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
    for chunk in body.as_bytes().chunks(1 << 20) {
        out.extend([&format!("{:x}\r\n", chunk.len()), std::str::from_utf8(chunk).unwrap(), "\r\n"]);
    }
    out.push_str("0\r\n\r\n");
    out.into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_is_one_cancel_however_often_it_is_asked_for() {
    let server = Server::start().await;
    let job = Job::new(&server, "a");
    assert_eq!(post(&server, "/v1/runs", job.body("a").to_string()).await.status, 201);
    job.started().await;
    let ask = async |body: Value| post(&server, "/v1/runs/a/cancel?wait_ms=30000", body.to_string()).await;
    let first = ask(json!({ "op_id": "op-1", "reason": "enough" })).await;
    assert_eq!((first.status, &first.body["terminal"], &first.body["requested"]), (200, &json!(true), &json!(true)));
    assert_eq!(first.body["run"]["status"], "cancelled");
    let repeat = ask(json!({ "op_id": "op-1", "reason": "enough" })).await;
    assert_eq!((repeat.status, &repeat.body), (200, &first.body), "a repeat has the first answer");
    let other = ask(json!({ "op_id": "op-1", "reason": "something else" })).await;
    assert_eq!((other.status, &other.error()["code"]), (409, &json!("operation_conflict")));
    let late = ask(json!({})).await;
    assert_eq!((late.status, &late.body["requested"]), (200, &json!(false)));
    let asked = server.events("a").await.into_iter().filter(|e| e["type"] == "run.cancel_requested").count();
    assert_eq!(asked, 1);
    assert!(Path::new(&server.data().join("runs")).exists());
    assert_no_process(&server.data()).await;
}
