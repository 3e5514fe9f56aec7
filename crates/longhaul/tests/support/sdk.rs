//! What both SDKs must see, through scripts that print their facts as JSON.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};

use super::proxy::Proxy;
use super::{Server, assert_no_process, until};

/// A program that runs the scenarios of one SDK.
pub struct Sdk {
    pub program: PathBuf,
    /// The script.
    pub script: &'static str,
    /// What follows scenario and address.
    pub more: Vec<String>,
    /// How the SDK calls its errors.
    pub names: Names,
}

/// The names of an SDK's error classes.
#[derive(Clone, Copy)]
pub struct Names {
    pub internal: &'static str,
    pub rate_limit: &'static str,
}

impl Sdk {
    /// Runs a scenario against an address; its facts.
    pub async fn run(&self, scenario: &str, base: &str) -> Value {
        let script = format!("{}/tests/sdk/{}", env!("CARGO_MANIFEST_DIR"), self.script);
        let running = tokio::process::Command::new(&self.program)
            .arg(script)
            .args([scenario, base])
            .args(&self.more)
            .env("NO_PROXY", "*")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(super::PATIENCE, running).await.expect("a script ends").unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{scenario}: {} {error}", output.status);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{scenario}: {e}: {output:?}"))
    }

    /// Answers, streams, models, errors.
    pub async fn ordinary_use(&self) {
        let server = Server::start().await;
        let base = &server.base;
        assert_eq!(
            self.run("whole", base).await,
            json!({
                "object": "chat.completion",
                "model": "demo/echo",
                "role": "assistant",
                "text": "one two three",
                "finish": "stop",
                "tools": null,
                "usage": [100, 3, 103],
            })
        );
        let text = "There is a file\n\nI look at the files.\n\nThere is one file, README.md.";
        let reasoning = "I look at the files first, then I answer.";
        let facts =
            |usage: Value| json!({ "text": text, "usage": usage, "finishes": ["stop"], "reasoning": reasoning });
        assert_eq!(self.run("stream", base).await, json!([facts(json!([])), facts(json!([[100, 30, 0]]))]));
        let models = self.run("models", base).await;
        for model in ["demo", "demo/echo", "claude", "codex"] {
            assert!(models.as_array().unwrap().contains(&json!(model)), "{models}");
        }

        let before = server.stored().await.0.len();
        let error = |class: &str, status: u16, code: &str, kind: &str, param: Value| json!({ "class": class, "status": status, "code": code, "type": kind, "param": param, "request_id": true });
        let mut facts = self.run("errors", base).await;
        let streamed = facts.as_object_mut().unwrap().remove("failed_in_a_stream").unwrap();
        assert_eq!(
            (&streamed["class"], &streamed["code"], &streamed["type"]),
            (&json!("APIError"), &json!("run_failed"), &json!("upstream_error"))
        );
        assert_eq!(
            facts,
            json!({
                "unknown_harness": error("NotFoundError", 404, "unknown_harness", "not_found_error", json!("model")),
                "unknown_field": error("BadRequestError", 400, "unknown_field", "invalid_request_error", json!("temprature")),
                "bad_value": error("BadRequestError", 400, "invalid_field", "invalid_request_error", json!("timeout_ms")),
                "failed": error(self.names.internal, 502, "run_failed", "upstream_error", Value::Null),
                "conflict": error("ConflictError", 409, "run_conflict", "conflict_error", Value::Null),
            })
        );
        // Two that failed, one that conflicted: none of them was started again by the SDK's own retries.
        assert_eq!(server.stored().await.0.len(), before + 3);
        assert_no_process(&server.data()).await;
    }

    /// A read time-out shorter than the run.
    pub async fn time_outs(&self) {
        let server = Server::start().await;
        let counted: String = (1..=15).map(|n| format!("{n} ")).chain(["done.".to_owned()]).collect();
        let proxy = Proxy::cutting(server.base.strip_prefix("http://").unwrap(), 0, 0).await;
        let facts = self.run("retry_after_timeout", &format!("http://{}", proxy.address)).await;
        assert_eq!(facts, json!({ "text": counted, "finish": "stop" }));
        assert_eq!(server.stored().await.0.len(), 1, "its retries found the run that was there");
        assert!(proxy.connections() > 1, "it did ask again");
        assert_eq!(self.run("stream_timeout", &server.base).await, json!({ "text": counted }));
        assert_eq!(server.stored().await.0.len(), 2);
        assert_no_process(&server.data()).await;
    }

    /// A connection that drops in the middle of the answer's head, and in the middle of its body.
    pub async fn dropped_connections(&self) {
        let server = Server::start().await;
        let target = server.base.strip_prefix("http://").unwrap();
        let text = json!("one two three");
        let mut runs = 0;
        for bytes in [1, 100] {
            let proxy = Proxy::cutting(target, 2, bytes).await;
            let facts = self.run("retry", &format!("http://{}", proxy.address)).await;
            assert_eq!(facts, json!({ "text": text, "finish": "stop" }), "cut after {bytes} bytes");
            runs += 1;
            assert_eq!((proxy.cut(), server.stored().await.0.len()), (2, runs), "cut after {bytes} bytes");
        }
        // A stream that breaks before its head arrived whole is asked for again too.
        let proxy = Proxy::cutting(target, 2, 50).await;
        assert_eq!(self.run("retry_stream", &format!("http://{}", proxy.address)).await, json!({ "text": text }));
        assert_eq!((proxy.cut(), server.stored().await.0.len()), (2, runs + 1));
        assert_no_process(&server.data()).await;
    }

    /// No place, and then one.
    pub async fn saturation(&self) {
        let server = Server::start_with(&["--live-max", "1"], &[]).await;
        let gate = server.dir.path().join("gate");
        server.sh("blocker", &format!("while [ ! -e {} ]; do sleep 0.02; done", gate.display())).await;
        server.status("blocker", "running").await;
        // It is told to wait, asks again after as long, and then gives up with the right class.
        let facts = self.run("saturated", &server.base).await;
        assert_eq!(
            facts,
            json!({
                "class": self.names.rate_limit,
                "status": 429,
                "code": "saturated",
                "type": "rate_limit_error",
                "param": null,
                "request_id": true,
            })
        );
        assert_eq!(posts(&server), 2);
        assert_eq!(server.stored().await.0, ["blocker"], "nothing was started for it");

        // Where a place becomes free in between, its retry is the one that starts the run.
        let freeing = async {
            until("the first refusal", async || (server.log().matches("status=429").count() == 3).then_some(())).await;
            std::fs::write(&gate, "").unwrap();
            server.end("blocker").await;
        };
        let (facts, ()) = tokio::join!(self.run("saturated", &server.base), freeing);
        assert_eq!(facts, Value::Null, "no error");
        assert_eq!(server.stored().await.0.len(), 2);
        assert_no_process(&server.data()).await;
    }

    /// Two requests that are the same on purpose are two runs.
    pub async fn identical_requests(&self) {
        let server = Server::start().await;
        let facts = self.run("twice", &server.base).await;
        let echo = json!({ "text": "one two three", "finish": "stop" });
        let counted: String = (1..=10).map(|n| format!("{n} ")).chain(["done.".to_owned()]).collect();
        let counted = json!({ "text": counted, "finish": "stop" });
        assert_eq!(facts, json!({ "texts": [echo, echo, counted, counted], "ids": 2 }));
        assert_eq!(server.stored().await.0.len(), 4);
        assert_no_process(&server.data()).await;
    }

    /// A server that is stopped while it is asked, and its successor.
    pub async fn restarts(&self) {
        for kill in [false, true] {
            let mut server = Server::start().await;
            let base = server.base.clone();
            let asking = self.run("retry_after_timeout", &base);
            let restarting = async {
                until("the run to be there", async || (!server.stored().await.0.is_empty()).then_some(())).await;
                if kill {
                    server.kill9();
                } else {
                    server.term();
                }
                server.up().await;
            };
            let (facts, ()) = tokio::join!(asking, restarting);
            let counted: String = (1..=15).map(|n| format!("{n} ")).chain(["done.".to_owned()]).collect();
            assert_eq!(facts, json!({ "text": counted, "finish": "stop" }));
            assert_eq!(server.stored().await.0.len(), 1, "killed: {kill}");
            assert_no_process(&server.data()).await;
        }
    }
}

/// What `demo/slow` counts in so many seconds.
fn counted(seconds: u32) -> String {
    (1..=seconds * 5).map(|n| format!("{n} ")).chain(["done.".to_owned()]).collect()
}

/// A response of the demo agent that completed.
fn completed(model: &str, text: &str, kinds: &[&str], usage: [u32; 3], metadata: &Value) -> Value {
    json!({
        "status": "completed",
        "text": text,
        "kinds": kinds,
        "model": model,
        "metadata": metadata,
        "usage": usage,
        "error": null,
    })
}

impl Sdk {
    /// Responses: created, streamed, in the background, cancelled, failed.
    pub async fn responses(&self) {
        let server = Server::start().await;
        let base = &server.base;
        let text = "I look at the files.\n\nThere is one file, README.md.";
        assert_eq!(
            self.run("responses", base).await,
            json!({
                "whole": completed("demo/echo", "one two three", &["message"], [100, 3, 103], &json!({ "a": "b" })),
                // The first message was lost at a retry.
                "done": ["", "I look at the files.", "\n\nThere is one file, README.md."],
                "final": completed(
                    "demo/tools", text, &["reasoning", "message", "message", "message"], [100, 30, 130], &json!({})
                ),
                "waited": true,
                "background": true,
                "ended": completed("demo/slow", &counted(1), &["message"], [100, 5, 105], &json!({})),
            })
        );
        let error = |class: &str, status: u16, code: &str, kind: &str, param: Value| json!({ "class": class, "status": status, "code": code, "type": kind, "param": param, "request_id": true });
        let cancelled = self.run("responses_cancelled", base).await;
        let gone = &cancelled["deleted"];
        assert_eq!((&gone["status"], &gone["code"]), (&json!(410), &json!("run_gone")), "{gone}");
        assert_eq!(
            cancelled,
            json!({
                "status": "cancelled",
                "items": ["incomplete"],
                "last": "response.incomplete",
                "last_status": "cancelled",
                "deleted": gone,
            })
        );
        let before = server.stored().await.0.len();
        let mut facts = self.run("responses_errors", base).await;
        let failed = facts.as_object_mut().unwrap().remove("failed_later").unwrap();
        assert_eq!((&failed["status"], &failed["error"][0]), (&json!("failed"), &json!("server_error")), "{failed}");
        assert_eq!(
            facts,
            json!({
                "unknown_harness": error("NotFoundError", 404, "unknown_harness", "not_found_error", json!("model")),
                "unknown_field": error("BadRequestError", 400, "unknown_field", "invalid_request_error", json!("temprature")),
                "other_model": error("ConflictError", 409, "session_conflict", "conflict_error", json!("model")),
                "nobody": error("NotFoundError", 404, "run_not_found", "not_found_error", Value::Null),
                "failed": error(self.names.internal, 502, "run_failed", "upstream_error", Value::Null),
                "failed_in_a_stream": "response.failed",
            })
        );
        assert_eq!(server.stored().await.0.len(), before + 3, "nothing was started twice");

        let want = completed("demo/slow", &counted(3), &["message"], [100, 15, 115], &json!({}));
        assert_eq!(self.run("responses_retry", base).await, want);
        assert_eq!(server.stored().await.0.len(), before + 4, "its retries found the run that was there");
        assert_no_process(&server.data()).await;
    }

    /// Turns of a conversation that nobody named, and their input.
    pub async fn responses_in_turns(&self) {
        let server = Server::start().await;
        let mut facts = self.run("responses_in_turns", &server.base).await;
        let branch = facts.as_object_mut().unwrap().remove("branch").unwrap();
        assert_eq!(
            (&branch["class"], &branch["code"]),
            (&json!("ConflictError"), &json!("session_conflict")),
            "{branch}"
        );
        let item = |text: &str| json!(["user", "input_text", text]);
        assert_eq!(
            facts,
            json!({
                "texts": ["one", "five"],
                "previous": true,
                "conversations": [true, true],
                "items": [item("two"), item("three"), item("four")],
                "newest": ["one"],
            })
        );
        assert_eq!(server.stored().await.0.len(), 3);
        assert_no_process(&server.data()).await;
    }

    /// A background stream whose connection is cut again and again, after whatever number of bytes.
    pub async fn broken_responses(&self) {
        let server = Server::start().await;
        let target = server.base.strip_prefix("http://").unwrap();
        for (runs, bytes) in [1_500, 2_311, 4_096].into_iter().enumerate() {
            let proxy = Proxy::cutting(target, 4, bytes).await;
            let facts = self.run("responses_resumed", &format!("http://{}", proxy.address)).await;
            let breaks = facts["breaks"].as_u64().unwrap();
            assert!(breaks > 0 && proxy.cut() > 0, "cut after {bytes} bytes: {facts}");
            assert_eq!(facts, resumed(breaks), "cut after {bytes} bytes");
            assert_eq!(server.stored().await.0.len(), runs + 1);
        }
        assert_no_process(&server.data()).await;
    }

    /// A stream that is kept alive while nothing is said.
    pub async fn quiet_responses(&self) {
        let server = Server::start().await;
        let gate = server.dir.path().join("gate");
        server.sh("quiet", &format!("echo one; while [ ! -e {} ]; do sleep 0.1; done; echo two", gate.display())).await;
        server.status("quiet", "running").await;
        let waiting = async {
            until("the SDK to read", async || (server.run("quiet").await["readers"] == 1).then_some(())).await;
            // Whoever came after it is kept alive after it.
            let mut answer = server.http.get(server.url("/v1/responses/resp_quiet?stream=true")).send().await.unwrap();
            let mut told = String::new();
            while !told.contains(": keep-alive") {
                told.push_str(&String::from_utf8_lossy(&answer.chunk().await.unwrap().expect("it goes on")));
            }
            std::fs::write(&gate, "").unwrap();
        };
        let (text, ()) = tokio::join!(self.run("responses_quiet", &server.base), waiting);
        assert_eq!(text, json!("one\ntwo\n"));
        assert_no_process(&server.data()).await;
    }

    /// A background stream whose server is killed or stopped in the middle, at several places, and its successor.
    pub async fn responses_over_a_kill(&self) {
        let mut server = Server::start().await;
        let base = server.base.clone();
        for (runs, (pieces, kill)) in [(0, true), (3, true), (6, false), (9, true)].into_iter().enumerate() {
            let asking = self.run("responses_resumed", &base);
            let killing = async {
                until("so many pieces", async || {
                    let newest = server.stored().await.0;
                    let newest = newest.first().filter(|_| newest.len() == runs + 1)?;
                    let events = server.events(newest).await;
                    (events.iter().filter(|e| e["type"] == "message.delta").count() >= pieces).then_some(())
                })
                .await;
                if kill {
                    server.kill9();
                } else {
                    assert!(server.term().success());
                }
                server.up().await;
            };
            let (facts, ()) = tokio::join!(asking, killing);
            // Before its first event has come it does not know what to ask for, and its retry does that.
            let breaks = facts["breaks"].as_u64().unwrap();
            assert!(pieces == 0 || breaks > 0, "{facts}");
            assert_eq!(facts, resumed(breaks), "ended after {pieces} pieces");
            assert_eq!(server.stored().await.0.len(), runs + 1, "ended after {pieces} pieces");
        }
        assert_no_process(&server.data()).await;
    }
}

/// The facts of a stream that was broken so many times: no gap, no repeat.
fn resumed(breaks: u64) -> Value {
    let text = counted(3);
    let last = completed("demo/slow", &text, &["message"], [100, 15, 115], &json!({}));
    json!({ "dense": true, "text": text, "final": last, "breaks": breaks })
}

/// Chat requests that the server has seen to their end.
fn posts(server: &Server) -> usize {
    server.log().lines().filter(|line| line.contains("path=\"/v1/chat/completions\"")).count()
}
