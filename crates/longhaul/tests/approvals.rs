//! What an agent asks and is told while it works: answered once, delivered once, whatever is killed in between.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use support::proc::{self, attempt_of, signal};
use support::{Server, assert_log, assert_no_process, until};

/// Puts the program that speaks Claude's protocol into a directory, and gives the `PATH` to find it on.
fn fake_claude(dir: &Path) -> String {
    let bin = dir.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let python = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    let python = String::from_utf8(python.stdout).unwrap();
    let script = format!("#!{}\n{}", python.trim(), include_str!("support/fake_claude.py"));
    std::fs::write(bin.join("claude"), script).unwrap();
    std::fs::set_permissions(bin.join("claude"), std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:/usr/bin:/bin", bin.display())
}

struct Stage {
    server: Server,
    path: String,
    work: PathBuf,
}

impl Stage {
    async fn new() -> Self {
        let server = Server::start().await;
        let path = fake_claude(server.dir.path());
        let work = server.dir.path().join("work");
        std::fs::create_dir(&work).unwrap();
        Self { server, path, work }
    }

    /// A run whose agent does what the prompt says, in a directory of its own.
    async fn start(&self, id: &str, prompt: &str, more: Value) {
        let cwd = self.work.join(id);
        std::fs::create_dir_all(&cwd).unwrap();
        let mut body = json!({
            "run_id": id, "harness": "claude", "prompt": prompt, "permissions": "ask", "cwd": cwd,
            "env": { "PATH": self.path },
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = self.server.post("/v1/runs", &body).await;
        assert_eq!(status, 201, "{answer}");
    }

    async fn approvals(&self, id: &str) -> Vec<Value> {
        let (status, list) = self.server.get(&format!("/v1/runs/{id}/approvals")).await;
        assert_eq!((status, &list["object"]), (200, &json!("list")), "{list}");
        list["data"].as_array().unwrap().clone()
    }

    /// Waits until a question is there, in this status.
    async fn question(&self, id: &str, number: usize, status: &str) -> Value {
        until(&format!("question {number} of {id} to be {status}"), async || {
            self.approvals(id).await.get(number - 1).filter(|one| one["status"] == status).cloned()
        })
        .await
    }

    async fn answer(&self, id: &str, number: &str, body: &Value) -> (u16, Value) {
        self.server.post(&format!("/v1/runs/{id}/approvals/{number}"), body).await
    }

    /// What the agent was told, of one kind, as it read it.
    fn heard(&self, id: &str, kind: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.work.join(id).join("heard")).unwrap_or_default();
        let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.filter(|line| line["type"] == kind).collect()
    }
}

/// The types of the events that begin so, in order.
fn told(events: &[Value], prefix: &str) -> Vec<String> {
    let types = events.iter().map(|event| event["type"].as_str().unwrap().to_owned());
    types.filter(|kind| kind.starts_with(prefix)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_waits_for_people_and_has_one_answer() {
    let stage = Stage::new().await;
    stage.start("r", "ask q1 make all\nask q2 rm x", json!({})).await;
    let asked = stage.question("r", 1, "open").await;
    let cwd = stage.work.join("r").display().to_string();
    assert_eq!(
        (&asked["tool"], &asked["arguments"], &asked["cwd"], &asked["approval_id"]),
        (&json!("Bash"), &json!({ "command": "make all" }), &json!(cwd), &json!("1")),
    );
    let digest = longhaul_model::canonical::digest(
        "approval.v1",
        &json!({ "tool": "Bash", "arguments": { "command": "make all" }, "cwd": cwd }),
    );
    assert_eq!(asked["digest"], digest);
    let run = stage.server.run("r").await;
    assert_eq!(
        run["approvals"],
        json!([{ "approval_id": "1", "tool": "Bash", "digest": digest, "requested_at": asked["requested_at"] }])
    );
    let (_, why) = stage.server.get("/v1/runs/r/why").await;
    assert_eq!(
        (&why["cause"], &why["owner"], &why["since"]),
        (&json!("waits for an approval of Bash"), &json!("operator"), &asked["requested_at"])
    );
    let (_, list) = stage.server.get("/v1/runs").await;
    assert_eq!(list["data"][0]["approvals"][0]["approval_id"], "1");

    let allow = json!({ "decision": "allow", "digest": digest, "op_id": "op-1" });
    for (number, body, status, code) in [
        ("2", &allow, 404, "approval_not_found"),
        ("x", &allow, 404, "approval_not_found"),
        ("1", &json!({ "decision": "allow", "digest": "approval.v1:sha256:0" }), 409, "approval_conflict"),
        ("1", &json!({ "decision": "maybe" }), 400, "invalid_field"),
        ("1", &json!({}), 400, "invalid_field"),
    ] {
        let (found, answer) = stage.answer("r", number, body).await;
        assert_eq!((found, &answer["error"]["code"]), (status, &json!(code)), "{body}");
    }
    assert_eq!(stage.heard("r", "control_response"), [0; 0], "a refused answer is not sent");

    let (status, given) = stage.answer("r", "1", &allow).await;
    assert_eq!((status, &given["decision"], &given["by"]), (200, &json!("allow"), &json!("api")), "{given}");
    assert_eq!(stage.answer("r", "1", &allow).await.0, 200, "a repeat returns the first answer");
    assert_eq!(stage.answer("r", "1", &json!({ "decision": "allow" })).await.0, 200, "so does the same answer");
    let (status, other) = stage.answer("r", "1", &json!({ "decision": "deny" })).await;
    assert_eq!((status, &other["error"]["code"]), (409, &json!("approval_settled")), "{other}");
    let (status, other) = stage.answer("r", "1", &json!({ "decision": "deny", "op_id": "op-1" })).await;
    assert_eq!((status, &other["error"]["code"]), (409, &json!("operation_conflict")), "{other}");

    stage.question("r", 2, "open").await;
    assert_eq!(stage.answer("r", "2", &json!({ "decision": "deny", "reason": "too dangerous" })).await.0, 200);
    let run = stage.server.end("r").await;
    assert_eq!(
        (&run["status"], &run["output_text"]),
        (&json!("completed"), &json!("q1: allow\n\nq2: deny too dangerous")),
        "{run}"
    );
    assert_eq!(run["approvals"], json!([]));
    let events = stage.server.events("r").await;
    assert_log(&events);
    for id in ["1", "2"] {
        let own = events.iter().filter(|event| event["subject"] == json!({ "kind": "approval", "id": id }));
        let kinds: Vec<&str> = own.map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["approval.requested", "approval.answered", "approval.delivered"]);
    }
    let heard = stage.heard("r", "control_response");
    assert_eq!(heard.len(), 2, "each answer is sent once: {heard:?}");
    assert_eq!(
        heard[0]["response"]["response"],
        json!({ "behavior": "allow", "updatedInput": { "command": "make all" } })
    );
    let (status, late) = stage.answer("r", "2", &json!({ "decision": "allow" })).await;
    assert_eq!((status, &late["error"]["code"]), (409, &json!("approval_settled")), "{late}");
    assert_no_process(&stage.server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_answer_without_people_and_are_told() {
    let stage = Stage::new().await;
    let prompt = "ask a git log\nask b git log; rm -rf /\nask c curl x\nask d ls";
    let rules = json!([
        { "tool": "Bash", "match": "*rm -rf*", "decision": "deny", "reason": "never" },
        { "tool": "Bash", "match": "git *", "decision": "allow" },
        { "tool": "Bash", "match": "curl *", "decision": "ask" },
    ]);
    stage.start("r", prompt, json!({ "approvals": { "default": "allow", "rules": rules } })).await;
    assert_eq!(stage.question("r", 3, "open").await["arguments"]["command"], "curl x");
    assert_eq!(stage.answer("r", "3", &json!({ "decision": "allow" })).await.0, 200);
    let run = stage.server.end("r").await;
    assert_eq!(run["output_text"], "a: allow\n\nb: deny never\n\nc: allow\n\nd: allow");
    let by: Vec<Value> = stage.approvals("r").await.iter().map(|one| one["by"].clone()).collect();
    assert_eq!(by, ["rule", "rule", "api", "rule"]);
    let events = stage.server.events("r").await;
    assert_eq!(told(&events, "approval.answered").len(), 4, "an answer by rule is an event too");
}

/// The server is killed while a question is open, and right after its answer was accepted, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_outlives_servers_and_its_answer_is_delivered_once() {
    let mut stage = Stage::new().await;
    let questions: Vec<String> = (1..=6).map(|n| format!("ask q{n} step {n}")).collect();
    stage.start("r", &questions.join("\n"), json!({})).await;
    for n in 1..=6 {
        stage.question("r", n, "open").await;
        stage.server.kill9();
        stage.server.up().await;
        let asked = stage.question("r", n, "open").await;
        assert_eq!(asked["arguments"]["command"], format!("step {n}"));
        let decision = if n % 2 == 0 { "deny" } else { "allow" };
        let (status, answer) = stage.answer("r", &n.to_string(), &json!({ "decision": decision })).await;
        assert_eq!(status, 200, "{answer}");
        // Acknowledged, and perhaps not sent yet.
        stage.server.kill9();
        stage.server.up().await;
    }
    let run = stage.server.end("r").await;
    assert_eq!(run["status"], "completed", "{run}");
    let heard = stage.heard("r", "control_response");
    let of: Vec<&str> = heard.iter().map(|line| line["response"]["request_id"].as_str().unwrap()).collect();
    assert_eq!(of, ["q1", "q2", "q3", "q4", "q5", "q6"], "each answer came once, in order");
    let events = stage.server.events("r").await;
    assert_log(&events);
    for kind in ["requested", "answered", "delivered"] {
        assert_eq!(told(&events, &format!("approval.{kind}")).len(), 6, "{kind}");
    }
    assert_no_process(&stage.server.data()).await;
}

/// An answer that stands in the input log when the server dies is delivered by the shim alone, and told by the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_the_shim_has_not_read_yet_is_delivered_once() {
    let mut stage = Stage::new().await;
    stage.start("r", "ask q1 make", json!({})).await;
    stage.question("r", 1, "open").await;
    let shim = shim_of(&stage.server);
    let signal = |signal| rustix::process::kill_process(shim, signal).unwrap();
    signal(rustix::process::Signal::STOP);
    assert_eq!(stage.answer("r", "1", &json!({ "decision": "allow" })).await.0, 200);
    let frames = until("the answer in the log", async || {
        let log = find(&stage.server.data().join("runs"), "input")?;
        let text = String::from_utf8_lossy(&std::fs::read(log).ok()?).into_owned();
        text.contains("updatedInput").then_some(text)
    })
    .await;
    assert_eq!(stage.approvals("r").await[0]["status"], "answered", "what is not read is not told as delivered");
    assert_eq!(frames.matches("updatedInput").count(), 1);
    stage.server.kill9();
    stage.server.spawn();
    stage.server.ready().await;
    signal(rustix::process::Signal::CONT);
    let run = stage.server.end("r").await;
    assert_eq!((&run["status"], &run["output_text"]), (&json!("completed"), &json!("q1: allow")));
    assert_eq!(stage.heard("r", "control_response").len(), 1);
    assert_eq!(told(&stage.server.events("r").await, "approval.delivered").len(), 1);
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|n| n == name) {
            return Some(path);
        }
    }
    None
}

/// The shim of the only run with a channel.
fn shim_of(server: &Server) -> rustix::process::Pid {
    let input = find(&server.data().join("runs"), "input").unwrap();
    let started: Value = serde_json::from_slice(&std::fs::read(input.with_file_name("started")).unwrap()).unwrap();
    rustix::process::Pid::from_raw(i32::try_from(started["shim_pid"].as_i64().unwrap()).unwrap()).unwrap()
}

/// The verbs of the command line: `send`, `approve`, `deny`, `ps`, `why`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_answers_and_says() {
    let stage = Stage::new().await;
    let address = stage.server.base.strip_prefix("http://").unwrap().to_owned();
    let home = stage.server.dir.path().to_owned();
    let longhaul = async |words: &[&str]| {
        let mut command = Command::new(support::LONGHAUL);
        command.args(["--server", &address, "--project", "default"]).args(words);
        command.env_clear().env("HOME", &home).stdin(std::process::Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    stage.start("r", "ask q1 make all\nask q2 rm x\ntake", json!({})).await;
    stage.question("r", 1, "open").await;
    let (_, listed, _) = longhaul(&["ps"]).await;
    assert!(listed.contains("asking") && listed.contains("asks for Bash since"), "{listed}");
    let (_, why, _) = longhaul(&["why", "r"]).await;
    assert!(why.contains("waits for an approval of Bash") && why.contains("longhaul approve r"), "{why}");
    let (status, shown, _) = longhaul(&["approve", "r", "--show"]).await;
    assert!(status == 0 && shown.starts_with("1  open  Bash make all\n"), "{shown}");
    assert_eq!(stage.approvals("r").await[0]["status"], "open", "to look is no answer");
    assert_eq!(longhaul(&["approve", "r"]).await, (0, "r  allowed 1: Bash make all\n".to_owned(), String::new()));
    stage.question("r", 2, "open").await;
    let (status, out, _) = longhaul(&["deny", "r", "2", "--reason", "too dangerous"]).await;
    assert_eq!((status, &*out), (0, "r  denied 2: Bash rm x\n"));
    let (status, _, trouble) = longhaul(&["approve", "r", "2"]).await;
    assert!(status == 125 && trouble.contains("has its answer already: deny"), "{status} {trouble}");
    assert_eq!(longhaul(&["send", "r", "--hello"]).await, (0, "r  the agent is told\n".to_owned(), String::new()));
    let run = stage.server.end("r").await;
    assert_eq!(run["output_text"], "q1: allow\n\nq2: deny too dangerous\n\ntook --hello");
    assert_eq!(stage.approvals("r").await[1]["by"], "cli");
    let (status, told, _) = longhaul(&["attach", "r"]).await;
    assert_eq!(status, 0, "{told}");
    let (status, _, trouble) = longhaul(&["approve", "r"]).await;
    assert!(status == 125 && trouble.contains("asks for nothing"), "{trouble}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_takes_open_questions_with_it() {
    let stage = Stage::new().await;
    stage.start("r", "ask q1 make", json!({})).await;
    stage.question("r", 1, "open").await;
    let (status, answer) = stage.server.post("/v1/runs/r/cancel?wait_ms=30000", &json!({})).await;
    assert_eq!((status, &answer["run"]["status"]), (200, &json!("cancelled")), "{answer}");
    let interrupts = stage.heard("r", "control_request");
    assert_eq!(interrupts.len(), 1, "its own interrupt comes first");
    let events = stage.server.events("r").await;
    assert_log(&events);
    let withdrawn = events.iter().find(|event| event["type"] == "approval.withdrawn").unwrap();
    assert_eq!(withdrawn["data"], json!({ "approval_id": "1", "reason": "run_ended" }));
    assert_eq!(stage.approvals("r").await[0]["status"], "withdrawn");
    let (status, late) = stage.answer("r", "1", &json!({ "decision": "allow" })).await;
    assert_eq!((status, &late["error"]["code"]), (409, &json!("approval_settled")), "{late}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_reaches_a_live_agent_once() {
    let mut stage = Stage::new().await;
    stage.start("r", "say hi\ntake\ntake", json!({ "permissions": "cli" })).await;
    until("it to work", async || (stage.server.run("r").await["output_text"] == "hi").then_some(())).await;
    let body = json!({ "text": "first\n\"it\"", "op_id": "op-1" });
    let (status, first) = stage.server.post("/v1/runs/r/input", &body).await;
    assert_eq!((status, &first["delivery"], &first["run_id"]), (202, &json!("live"), &json!("r")), "{first}");
    // Acknowledged, and perhaps not sent yet.
    stage.server.kill9();
    stage.server.up().await;
    let (status, again) = stage.server.post("/v1/runs/r/input", &body).await;
    assert_eq!((status, &again), (202, &first), "a repeat returns the first answer");
    let (status, other) = stage.server.post("/v1/runs/r/input", &json!({ "text": "x", "op_id": "op-1" })).await;
    assert_eq!((status, &other["error"]["code"]), (409, &json!("operation_conflict")));
    for bad in
        [json!({}), json!({ "text": " " }), json!({ "text": "a\u{0}" }), json!({ "text": "x".repeat((1 << 20) + 1) })]
    {
        let (status, answer) = stage.server.post("/v1/runs/r/input", &bad).await;
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("text")));
    }
    until("the first to be told", async || {
        (stage.server.run("r").await["output_text"] == "hi\n\ntook first\n\"it\"").then_some(())
    })
    .await;
    assert_eq!(stage.server.post("/v1/runs/r/input", &json!({ "text": "second" })).await.0, 202);
    let run = stage.server.end("r").await;
    assert_eq!(
        (&run["status"], &run["output_text"]),
        (&json!("completed"), &json!("hi\n\ntook first\n\"it\"\n\ntook second"))
    );
    let messages = stage.heard("r", "user");
    assert_eq!(messages.len(), 3, "the prompt and each message once: {messages:?}");
    let events = stage.server.events("r").await;
    assert_eq!(told(&events, "input."), ["input.accepted", "input.delivered", "input.accepted", "input.delivered"]);
    let (status, late) = stage.server.post("/v1/runs/r/input", &json!({ "text": "late" })).await;
    assert_eq!((status, &late["error"]["code"]), (409, &json!("run_ended")), "{late}");
}

/// An agent that has given its result and not noticed a message yet is not let go: it may still ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_at_rest_is_kept_while_a_message_is_on_its_way() {
    let stage = Stage::new().await;
    stage.start("r", "deaf go\nsay hi\nwait sent\nrest\ntake\ntake\nask q1 make", json!({})).await;
    until("it to work", async || (stage.server.run("r").await["output_text"] == "hi").then_some(())).await;
    assert_eq!(stage.server.post("/v1/runs/r/input", &json!({ "text": "one more" })).await.0, 202);
    std::fs::write(stage.work.join("r/sent"), "").unwrap();
    until("its result", async || {
        stage.server.events("r").await.iter().any(|event| event["type"] == "verdict.reported").then_some(())
    })
    .await;
    let (status, answer) = stage.server.post("/v1/runs/r/input", &json!({ "text": "another" })).await;
    assert_eq!((status, &answer["delivery"]), (202, &json!("live")), "{answer}");
    std::fs::write(stage.work.join("r/go"), "").unwrap();
    stage.question("r", 1, "open").await;
    assert_eq!(stage.answer("r", "1", &json!({ "decision": "allow" })).await.0, 200);
    let run = stage.server.end("r").await;
    assert_eq!(
        (&run["status"], &run["output_text"]),
        (&json!("completed"), &json!("hi\n\ntook one more\n\ntook another\n\nq1: allow"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_cannot_reach_the_agent_is_for_the_next_turn_or_refused() {
    let stage = Stage::new().await;
    let (status, _) =
        stage.server.post("/v1/runs", &json!({ "run_id": "sleep", "command": "sleep", "args": ["1000"] })).await;
    assert_eq!(status, 201);
    let (status, answer) = stage.server.post("/v1/runs/sleep/input", &json!({ "text": "hello" })).await;
    assert_eq!(
        (status, &answer["error"]["code"], &answer["error"]["harness"]),
        (409, &json!("no_input_channel"), &json!("exec"))
    );

    // An agent that does not read: what it was sent is not lost with it.
    let session = json!({ "session_id": "s", "permissions": "cli", "cwd": stage.work });
    stage.start("one", "say hi\nwait go", session.clone()).await;
    until("it to work", async || (stage.server.run("one").await["output_text"] == "hi").then_some(())).await;
    let shim = shim_of(&stage.server);
    rustix::process::kill_process(shim, rustix::process::Signal::STOP).unwrap();
    for text in ["Mind the gap.", "And the step."] {
        let (status, answer) = stage.server.post("/v1/runs/one/input", &json!({ "text": text })).await;
        assert_eq!((status, &answer["delivery"]), (202, &json!("live")), "{answer}");
    }
    for _ in 2..16 {
        assert_eq!(stage.server.post("/v1/runs/one/input", &json!({ "text": "." })).await.0, 202);
    }
    let (status, full) = stage.server.post("/v1/runs/one/input", &json!({ "text": "one too many" })).await;
    assert_eq!(
        (status, &full["error"]["code"], &full["error"]["waiting"]),
        (429, &json!("input_queue_full"), &json!(16))
    );
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    let run = stage.server.end("one").await;
    assert_eq!(run["error"]["code"], "lost");
    let events = stage.server.events("one").await;
    assert_log(&events);
    let lost: Vec<&Value> = events.iter().filter(|event| event["type"] == "input.undelivered").collect();
    assert_eq!((lost.len(), &lost[0]["data"]["delivery"]), (16, &json!("next_turn")), "{lost:?}");
    stage.start("two", "say hi", session).await;
    stage.server.end("two").await;
    let all = std::fs::read_to_string(stage.work.join("heard")).unwrap();
    let last: Value = serde_json::from_str(all.lines().last().unwrap()).unwrap();
    let prompt = format!("Mind the gap.\n\nAnd the step.\n\n{}say hi", ".\n\n".repeat(14));
    assert_eq!(last["message"]["content"][0]["text"], prompt);
    let events = stage.server.events("two").await;
    assert_eq!(told(&events, "input."), ["input.delivered"; 16]);
    assert_eq!(stage.server.post("/v1/runs/sleep/cancel?wait_ms=30000", &json!({})).await.0, 200);
    assert_no_process(&stage.server.data()).await;
}

/// A run that goes on after a loss with a question open, and what its first attempt was asked.
async fn lost_with_a_question(stage: &Stage, id: &str, answered: bool) -> Value {
    std::fs::create_dir_all(stage.work.join(id)).unwrap();
    std::fs::write(stage.work.join(id).join("resumed"), "ask q2 make all").unwrap();
    stage.start(id, "say hello\nask q1 make all", json!({ "on_lost": "resume" })).await;
    let first = stage.question(id, 1, "open").await;
    let agent = i32::try_from(stage.server.run(id).await["pid"].as_i64().unwrap()).unwrap();
    let shim = proc::shim_of(&stage.server.data(), agent);
    if answered {
        // The supervisor passes nothing on any more: the answer is written, and nobody knows what became of it.
        signal(shim, rustix::process::Signal::STOP);
        let input = attempt_of(&stage.server.data(), agent).0.join("input");
        assert_eq!(stage.answer(id, "1", &json!({ "decision": "allow" })).await.0, 200);
        until("the answer to be written", async || {
            let written = String::from_utf8_lossy(&std::fs::read(&input).unwrap()).contains("\"q1\"");
            written.then_some(())
        })
        .await;
    }
    signal(shim, rustix::process::Signal::KILL);
    first
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_of_a_lost_attempt_is_asked_again_and_an_answer_that_was_under_way_is_not_used_again() {
    let stage = Stage::new().await;
    for (id, answered, reason) in [("open", false, "asked_again"), ("answered", true, "uncertain")] {
        let first = lost_with_a_question(&stage, id, answered).await;
        let second = stage.question(id, 2, "open").await;
        assert_eq!(second["digest"], first["digest"], "it is the same question");
        assert_eq!(stage.answer(id, "2", &json!({ "decision": "allow" })).await.0, 200);
        let run = stage.server.end(id).await;
        assert_eq!((&run["status"], &run["attempts"]), (&json!("completed"), &json!(2)), "{run}");
        assert_eq!(run["output_text"], "hello\n\nq2: allow");
        let events = stage.server.events(id).await;
        assert_log(&events);
        let gone: Vec<_> = events.iter().filter(|e| e["type"] == "approval.withdrawn").map(|e| &e["data"]).collect();
        assert_eq!(gone.len(), 1);
        assert_eq!((&gone[0]["approval_id"], &gone[0]["reason"]), (&json!("1"), &json!(reason)));
        assert_eq!(stage.heard(id, "control_response").len(), 1, "one answer reached an agent");
    }
    assert_no_process(&stage.server.data()).await;
}
