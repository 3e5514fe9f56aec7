//! A run whose process is lost goes on by its policy, whatever is killed and whenever: in another attempt, through the
//! source's own session or with what its events tell, within the same budget, and never with two agents.
#![allow(missing_docs)]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::proc::{shim_of, signal, start_time};
use support::{Server, assert_log, assert_no_process, until};

/// A program that calls itself codex. Each start says so in `starts`, keeps its prompt, opens a tool call and stays in it until
/// `go-N` is there; one that finds an earlier one alive says so too.
const CODEX: &str = r#"
n=$(($(cat $dir/starts 2>/dev/null | wc -l) + 1))
opening
echo "$$ $* $resumed" >> $dir/starts
[ -n "$resumed" ] && [ -e $dir/forgotten ] && forgotten
[ -e $dir/nameless ] && exec sleep 1000
thread $dir/prompt-$n
[ -e $dir/mute-$n ] && exec sleep 1000
says item_0 "start $n"
calls item_1 work
while [ ! -e $dir/go-$n ]; do sleep 0.01; done
gives item_1 work
says item_2 "end $n"
over "$n"00 1
"#;

/// The same as one that calls itself claude and never tells a session.
const NAMELESS: &str = r#"
n=$(($(cat $dir/starts 2>/dev/null | wc -l) + 1))
keep $dir/prompt-$n
echo "$$ $*" >> $dir/starts
block() { echo '{"type":"assistant","message":{"id":"'"$1"'","content":['"$2"']}}'; }
block m-1 '{"type":"text","text":"start '$n'"}'
block m-1 '{"type":"tool_use","id":"item_1","name":"command_execution","input":{"command":"work"}}'
while [ ! -e $dir/go-$n ]; do sleep 0.01; done
echo '{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"item_1","content":"ok"}]}}'
block m-2 '{"type":"text","text":"end '$n'"}'
echo '{"type":"result","subtype":"success","is_error":false,"terminal_reason":"completed","result":"end '$n'"}'
"#;

/// What both begin with.
const BEGIN: &str = r#"case "$1" in --version) echo 0.0.1; exit;; esac
for pid in $(cut -d' ' -f1 $dir/starts 2>/dev/null); do
  case "$(cut -d' ' -f3 /proc/$pid/stat 2>/dev/null)" in ''|Z|X) ;; *) echo $pid >> $dir/overlap;; esac
done
"#;

/// The directory of one run's fake program.
struct Fake(PathBuf);

impl Fake {
    fn new(server: &Server, id: &str) -> Self {
        let dir = server.dir.path().join(format!("fake-{id}"));
        std::fs::create_dir_all(dir.join("bin")).unwrap();
        let speech = include_str!("support/fake_codex.sh");
        for (name, program) in [("codex", CODEX), ("claude", NAMELESS)] {
            let file = dir.join("bin").join(name);
            let script = format!("#!/bin/sh\ndir={}\n{speech}{BEGIN}{program}", dir.display());
            std::fs::write(&file, script).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(dir)
    }

    fn body(&self, id: &str) -> Value {
        let env = json!({ "PATH": format!("{}:/usr/bin:/bin", self.0.join("bin").display()) });
        json!({ "run_id": id, "harness": "codex", "prompt": "do it", "env": env, "on_lost": "resume" })
    }

    /// A run whose agent never tells a session.
    fn nameless(&self, id: &str) -> Value {
        let mut body = self.body(id);
        body["harness"] = json!("claude");
        body
    }

    fn touch(&self, name: &str) {
        std::fs::write(self.0.join(name), "").unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }

    /// The arguments of each start.
    fn starts(&self) -> Vec<String> {
        self.read("starts").lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kill {
    Shim,
    Agent,
    /// The host asks the supervisor to end.
    Host,
}

impl Kill {
    fn what(self, data: &Path, agent: i32) {
        let pid = match self {
            Self::Shim | Self::Host => shim_of(data, agent),
            Self::Agent => agent,
        };
        signal(pid, if self == Self::Host { Signal::TERM } else { Signal::KILL });
    }

    const fn cause(self) -> &'static str {
        match self {
            Self::Shim => "supervisor_lost",
            Self::Agent => "killed_by_signal",
            Self::Host => "shutdown",
        }
    }
}

async fn accept(server: &Server, body: &Value) {
    let (status, answer) = server.post("/v1/runs", body).await;
    assert_eq!(status, 201, "{answer}");
}

/// Waits until attempt `number` is in its tool call; the agent's pid.
async fn in_tool(server: &Server, id: &str, number: u64) -> i32 {
    until(&format!("attempt {number} of {id} to be in its tool call"), async || {
        let run = server.run(id).await;
        let there = run["attempts"] == number && run["tool_calls"] == number;
        there.then(|| run["pid"].as_i64().map(|pid| i32::try_from(pid).unwrap())).flatten()
    })
    .await
}

async fn pid(server: &Server, id: &str, attempt: u64) -> i32 {
    until(&format!("attempt {attempt} of {id} to run"), async || {
        let run = server.run(id).await;
        let pid = run["pid"].as_i64().filter(|_| run["attempts"] == attempt);
        pid.map(|pid| i32::try_from(pid).unwrap())
    })
    .await
}

fn of<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == kind).map(|event| &event["data"]).collect()
}

async fn it_goes_on_through_its_session(kill: Kill) {
    let server = Server::start().await;
    let fake = Fake::new(&server, "r");
    accept(&server, &fake.body("r")).await;
    let agent = in_tool(&server, "r", 1).await;
    kill.what(&server.data(), agent);
    in_tool(&server, "r", 2).await;
    assert_eq!(start_time(agent), None);
    fake.touch("go-2");
    let run = server.end("r").await;
    let told = [&run["status"], &run["output_text"], &run["attempts"], &run["on_lost"], &run["usage"]["input_tokens"]];
    let want = [json!("completed"), json!("start 1\n\nstart 2\n\nend 2"), json!(2), json!("resume"), json!(200)];
    assert_eq!(told, want.each_ref(), "{run}");
    let events = server.events("r").await;
    assert_log(&events);
    let attempts = of(&events, "run.attempt_started");
    assert_eq!((&attempts[0]["cause"], attempts[0].get("rung")), (&json!("first"), None));
    let lost = json!({ "attempt": 1, "tools": [{ "call_id": "item_1", "name": "command_execution" }] });
    let told = [&attempts[1]["cause"], &attempts[1]["rung"], &attempts[1]["lost"]];
    assert_eq!(told, [&json!(kill.cause()), &json!("protocol_load"), &lost]);
    let log = run["attempt_log"].as_array().unwrap();
    assert_eq!((log.len(), &log[1]["rung"], &log[1]["lost"]), (2, &json!("protocol_load"), &lost), "{run}");
    let how = if kill == Kill::Shim { "lost" } else { "signaled" };
    assert_eq!((&log[0]["how"], &log[1]["how"]), (&json!(how), &json!("exited")));
    // Each process counts its items from 0.
    let ids: Vec<_> = of(&events, "message.completed").iter().map(|d| d["message_id"].clone()).collect();
    assert_eq!(ids, ["item_0", "a2.item_0", "a2.item_2"]);
    let starts = fake.starts();
    assert!(starts.len() == 2 && starts[1].ends_with("resume t-1"), "{starts:?}");
    assert_eq!(fake.read("prompt-1"), "do it");
    assert!(fake.read("prompt-2").starts_with("Your process was interrupted"), "{}", fake.read("prompt-2"));
    assert_eq!(fake.read("overlap"), "");
    // Each attempt's output is its own.
    for (attempt, text) in [("1", "start 1"), ("2", "end 2")] {
        let url = server.url(&format!("/v1/runs/r/log?attempt={attempt}"));
        let log = server.http.get(url).send().await.unwrap().text().await.unwrap();
        assert!(log.contains(text), "{log}");
    }
    assert_eq!(server.get("/v1/runs/r/log?attempt=3").await.0, 400);
    let data = server.data();
    let words = ["--data-dir", data.to_str().unwrap(), "--project", "default", "logs", "r", "--stream", "stdout"];
    let printed = std::process::Command::new(support::LONGHAUL).args(words).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let at = |text: &str| printed.find(text).unwrap_or_else(|| panic!("no {text} in {printed}"));
    assert!(at("start 1") < at("start 2") && at("start 2") < at("end 2"), "all attempts, one after another");
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_goes_on_through_its_session() {
    it_goes_on_through_its_session(Kill::Agent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_shim_goes_on_through_its_session() {
    it_goes_on_through_its_session(Kill::Shim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_by_the_host_is_a_loss() {
    it_goes_on_through_its_session(Kill::Host).await;
}

/// Two attempts together write no more than one may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_output_limit_is_that_of_all_attempts() {
    let server = Server::start_with(&["--output-limit", "400"], &[]).await;
    let fake = Fake::new(&server, "r");
    accept(&server, &fake.body("r")).await;
    Kill::Agent.what(&server.data(), in_tool(&server, "r", 1).await);
    let run = server.end("r").await;
    assert_eq!((&run["error"]["code"], &run["attempts"]), (&json!("output_limit"), &json!(2)), "{run}");
    let events = server.events("r").await;
    let bytes: u64 = of(&events, "process.exited").iter().map(|d| d["stdout_bytes"].as_u64().unwrap()).sum();
    let totals = &events.last().unwrap()["data"]["totals"];
    assert_eq!((bytes, totals["stdout_bytes"].as_u64()), (400, Some(400)), "{totals}");
}

/// Everything that is known is in the new prompt, and nothing else goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_session_the_context_is_rebuilt() {
    let server = Server::start().await;
    let fake = Fake::new(&server, "r");
    accept(&server, &fake.nameless("r")).await;
    Kill::Agent.what(&server.data(), in_tool(&server, "r", 1).await);
    in_tool(&server, "r", 2).await;
    fake.touch("go-2");
    assert_eq!(server.end("r").await["status"], "completed");
    let events = server.events("r").await;
    let second = of(&events, "run.attempt_started")[1];
    assert_eq!(
        (&second["rung"], &second["lost"]["tools"][0]["call_id"]),
        (&json!("rebuilt_context"), &json!("item_1"))
    );
    assert!(!fake.starts()[1].contains("--resume"), "{:?}", fake.starts());
    let prompt = fake.read("prompt-2");
    for part in [
        "--- The task\ndo it\n",
        "You said: start 1\n",
        r#"command_execution with {"command":"work"}"#,
        "Its result is not known",
    ] {
        assert!(prompt.contains(part), "{part:?} is not in {prompt}");
    }
}

/// The next rung, where the source does not know its session any more; one attempt more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_gone_is_followed_by_a_rebuilt_context() {
    let server = Server::start().await;
    let fake = Fake::new(&server, "r");
    fake.touch("forgotten");
    accept(&server, &fake.body("r")).await;
    Kill::Agent.what(&server.data(), in_tool(&server, "r", 1).await);
    fake.touch("go-3");
    let run = server.end("r").await;
    assert_eq!((&run["status"], &run["attempts"]), (&json!("completed"), &json!(3)), "{run}");
    let events = server.events("r").await;
    let told: Vec<_> =
        of(&events, "run.attempt_started").iter().map(|d| (d["cause"].clone(), d["rung"].clone())).collect();
    let want = [
        (json!("first"), Value::Null),
        (json!("killed_by_signal"), json!("protocol_load")),
        (json!("resume_failed"), json!("rebuilt_context")),
    ];
    assert_eq!(told, want);
    assert!(fake.read("prompt-3").contains("You said: start 1\n"), "{}", fake.read("prompt-3"));
}

/// One that was lost before it did anything is asked again as at first: no session is known to have its prompt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_had_done_nothing_begins_anew() {
    let server = Server::start().await;
    let fake = Fake::new(&server, "r");
    fake.touch("mute-1");
    accept(&server, &fake.body("r")).await;
    until("the session to be told", async || server.run("r").await["source_session_id"].is_string().then_some(()))
        .await;
    until("the prompt to be there", async || (!fake.read("prompt-1").is_empty()).then_some(())).await;
    Kill::Agent.what(&server.data(), pid(&server, "r", 1).await);
    fake.touch("go-2");
    let run = server.end("r").await;
    assert_eq!(
        (&run["status"], &run["attempt_log"][1]["rung"]),
        (&json!("completed"), &json!("rebuilt_context")),
        "{run}"
    );
    assert!(fake.read("prompt-2").contains("do it"));
}

/// An agent that is killed as often as it may be: each attempt is told, and the end is `lost`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_of_losses_ends() {
    let server = Server::start().await;
    let fake = Fake::new(&server, "r");
    accept(&server, &fake.body("r")).await;
    for attempt in 1..=3 {
        let agent = in_tool(&server, "r", attempt).await;
        signal(agent, Signal::KILL);
    }
    let run = server.end("r").await;
    let told = [&run["status"], &run["error"]["code"], &run["attempts"], &run["tool_calls"]];
    assert_eq!(told, [&json!("failed"), &json!("lost"), &json!(3), &json!(3)], "{run}");
    let message = "the agent was ended by SIGKILL; it was lost as often as it may be";
    assert_eq!(run["error"]["message"], message);
    let events = server.events("r").await;
    assert_log(&events);
    let causes: Vec<_> = of(&events, "run.attempt_started").iter().map(|d| d["cause"].clone()).collect();
    assert_eq!(causes, ["first", "killed_by_signal", "killed_by_signal"]);
    assert_eq!(of(&events, "process.exited").len(), 3);
    assert_eq!(fake.starts().len(), 3);
    assert_no_process(&server.data()).await;
}

/// What the demo had begun to say is taken back before it says more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfinished_message_is_discarded() {
    let server = Server::start().await;
    accept(&server, &json!({ "run_id": "r", "harness": "demo", "model": "slow", "prompt": "60", "on_lost": "resume" }))
        .await;
    let agent = pid(&server, "r", 1).await;
    until("the demo to count", async || (server.run("r").await["output_text"] != "").then_some(())).await;
    Kill::Agent.what(&server.data(), agent);
    let run = server.end("r").await;
    assert_eq!((&run["status"], &run["attempts"]), (&json!("completed"), &json!(2)), "{run}");
    assert!(run["output_text"].as_str().unwrap().starts_with("Your process was interrupted"), "{run}");
    let events = server.events("r").await;
    let discarded = events.iter().position(|e| e["type"] == "message.discarded").unwrap();
    let exited = events.iter().position(|e| e["type"] == "process.exited").unwrap();
    assert_eq!(discarded, exited + 1);
    assert_eq!(events[discarded]["data"], json!({ "message_id": "message-0", "reason": "attempt 1 was lost" }));
    assert_eq!(events[discarded]["ts"], events[exited]["ts"], "one commit");
    let attempt = of(&events, "run.attempt_started")[1];
    assert_eq!(attempt["lost"], json!({ "attempt": 1, "messages": ["message-0"] }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_ends_the_second_attempt_and_a_wait_for_it() {
    let server = Server::start().await;
    let fake = Fake::new(&server, "r");
    accept(&server, &fake.body("r")).await;
    Kill::Shim.what(&server.data(), in_tool(&server, "r", 1).await);
    in_tool(&server, "r", 2).await;
    let (status, answer) = server.post("/v1/runs/r/cancel?wait_ms=30000", &json!({})).await;
    assert_eq!((status, &answer["run"]["status"]), (200, &json!("cancelled")), "{answer}");
    assert_eq!(fake.starts().len(), 2);

    // Between two attempts a run stays for less than half a second: it is met there sooner or later.
    for number in 0..20 {
        let id = format!("between-{number}");
        let fake = Fake::new(&server, &id);
        accept(&server, &fake.body(&id)).await;
        Kill::Agent.what(&server.data(), in_tool(&server, &id, 1).await);
        let met = until("the attempt to be over", async || {
            let run = server.run(&id).await;
            (run["status"] == "queued" || run["attempts"] == 2).then(|| run["status"] == "queued")
        })
        .await;
        let (status, answer) = server.post(&format!("/v1/runs/{id}/cancel?wait_ms=30000"), &json!({})).await;
        assert_eq!((status, &answer["run"]["status"]), (200, &json!("cancelled")), "{answer}");
        assert_no_process(&server.data()).await;
        assert_log(&server.events(&id).await);
        if met && answer["run"]["attempts"] == 1 {
            assert_eq!(fake.starts().len(), 1);
            return;
        }
    }
    panic!("no cancel came between two attempts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budget_is_that_of_all_attempts() {
    for kill in [Kill::Agent, Kill::Shim] {
        let server = Server::start().await;
        let fake = Fake::new(&server, "r");
        let mut body = fake.body("r");
        body["timeout_ms"] = json!(4000);
        accept(&server, &body).await;
        let agent = in_tool(&server, "r", 1).await;
        // Time is what is measured here.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        kill.what(&server.data(), agent);
        let run = server.end("r").await;
        assert_eq!((&run["error"]["code"], &run["attempts"]), (&json!("timeout"), &json!(2)), "{run}");
        let budget = run["attempt_log"][1]["budget_ms"].as_u64().unwrap();
        assert!((1..=2600).contains(&budget), "{budget} of 4000 are left after 1500");
        let events = server.events("r").await;
        let exits = of(&events, "process.exited");
        let ran = |at: usize| exits[at]["ran_ms"].as_u64().unwrap();
        assert_eq!(budget, 4000 - ran(0));
        let runs = std::fs::read_dir(server.data().join("runs")).unwrap().next().unwrap().unwrap().path();
        let spec: Value = serde_json::from_slice(&std::fs::read(runs.join("a2/spec")).unwrap()).unwrap();
        assert_eq!(spec["deadline_ms"], budget, "the supervisor is told what is left");
        assert!(ran(1) >= budget && exits[1]["stop"] == "deadline", "{exits:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_policy_a_loss_is_the_end() {
    for (kill, code) in [(Kill::Agent, "killed_by_signal"), (Kill::Shim, "lost")] {
        let server = Server::start().await;
        let fake = Fake::new(&server, "r");
        let mut body = fake.body("r");
        body["on_lost"] = json!("fail");
        accept(&server, &body).await;
        kill.what(&server.data(), in_tool(&server, "r", 1).await);
        let run = server.end("r").await;
        let told = [&run["status"], &run["error"]["code"], &run["attempts"], &run["on_lost"]];
        assert_eq!(told, [&json!("failed"), &json!(code), &json!(1), &json!("fail")], "{run}");
        assert_eq!(fake.starts().len(), 1);
    }
}

/// Rounds of the sweep, and the moments between the loss and the server's end: from the loss on, and around the second
/// attempt's start, which comes 300 ms after it.
const ROUNDS: u32 = 50;

fn moment(number: u32) -> Duration {
    if number.is_multiple_of(2) {
        Duration::from_micros(u64::from(number) * 400)
    } else {
        Duration::from_micros(295_000 + u64::from(number) * 1_000)
    }
}

/// The server is killed at any moment between the loss and the second attempt's first event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_killed_while_the_run_goes_on() {
    let mut server = Server::start().await;
    let mut met = std::collections::BTreeMap::<String, usize>::new();
    for number in 0..ROUNDS {
        let id = format!("r{number}");
        let fake = Fake::new(&server, &id);
        accept(&server, &fake.body(&id)).await;
        let agent = in_tool(&server, &id, 1).await;
        let kill = if number % 4 < 2 { Kill::Agent } else { Kill::Shim };
        kill.what(&server.data(), agent);
        // The moment is the point; nothing is concluded from it.
        std::thread::sleep(moment(number));
        server.kill9();
        server.up().await;
        until(&format!("{id} to go on"), async || {
            let run = server.run(&id).await;
            assert!(!support::is_terminal(&run), "{run}");
            (run["tool_calls"] == 2).then_some(())
        })
        .await;
        fake.touch("go-2");
        let run = server.end(&id).await;
        let text = json!("start 1\n\nstart 2\n\nend 2");
        assert_eq!((&run["status"], &run["output_text"]), (&json!("completed"), &text), "{run}");
        let events = server.events(&id).await;
        assert_log(&events);
        assert_eq!((of(&events, "process.started").len(), of(&events, "tool.called").len()), (2, 2), "{id}");
        assert_eq!((fake.starts().len(), fake.read("overlap")), (2, String::new()), "{id}: one agent at a time");
        let attempts = of(&events, "run.attempt_started");
        let last = attempts.last().unwrap();
        assert_eq!((&last["rung"], &last["lost"]["attempt"]), (&json!("protocol_load"), &json!(1)), "{id}: {last}");
        assert_eq!(last["lost"]["tools"][0]["call_id"], "item_1");
        let adopted = of(&events, "run.adopted").len();
        *met.entry(format!("{} attempts, {adopted} adopted", attempts.len())).or_default() += 1;
    }
    println!("{met:?}");
    assert_no_process(&server.data()).await;
}

async fn resume(server: &Server, id: &str, body: Value) -> (u16, Value) {
    server.post(&format!("/v1/runs/{id}/resume"), &body).await
}

/// Resumes and waits for the end: the new run.
async fn resumed(server: &Server, fake: &Fake, id: &str, new: &str, prompt: Option<&str>) -> Value {
    let mut body = json!({ "run_id": new, "env": fake.body(id)["env"] });
    if let Some(prompt) = prompt {
        body["prompt"] = json!(prompt);
    }
    let (status, run) = resume(server, id, body.clone()).await;
    assert_eq!((status, &run["id"], &run["resumed_from"]), (201, &json!(new), &json!(id)), "{run}");
    let run = server.end(new).await;
    assert_eq!(run["status"], "completed", "{run}");
    let (status, again) = resume(server, id, body.clone()).await;
    assert_eq!((status, &again["id"]), (200, &json!(new)), "{again}");
    body["prompt"] = json!("something else");
    let (status, other) = resume(server, id, body).await;
    assert_eq!((status, &other["error"]["code"]), (409, &json!("run_conflict")), "{other}");
    run
}

fn work_dirs(server: &Server) -> usize {
    std::fs::read_dir(server.data().join("work")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_run_goes_on_in_a_new_one() {
    let mut server = Server::start().await;
    let fake = Fake::new(&server, "r");
    for n in 1..=5 {
        fake.touch(&format!("go-{n}"));
    }
    accept(&server, &fake.body("r")).await;
    let first = server.end("r").await;
    assert_eq!((&first["session_id"], &first["resumed_from"]), (&Value::Null, &Value::Null));

    let second = resumed(&server, &fake, "r", "r2", Some("and now this")).await;
    let told = [&second["session_id"], &second["cwd"], &second["attempt_log"][0]["rung"], &second["attempts"]];
    assert_eq!(told, [&json!("run:r"), &first["cwd"], &json!("protocol_load"), &json!(1)], "{second}");
    assert_eq!(fake.read("prompt-2"), "and now this");
    assert!(fake.starts()[1].ends_with("resume t-1"), "{:?}", fake.starts());
    assert_eq!(of(&server.events("r2").await, "run.created")[0]["resumed_from"], "r");

    // From the new one, and from the old one again: the same session.
    let third = resumed(&server, &fake, "r2", "r3", None).await;
    assert_eq!(
        (&third["session_id"], fake.read("prompt-3")),
        (&json!("run:r"), "Go on where you left off.".to_owned())
    );

    // The directory is the session's now, and outlives the first run and a restart.
    assert_eq!(server.http.delete(server.url("/v1/runs/r")).send().await.unwrap().status(), 200);
    server.kill9();
    server.up().await;
    assert_eq!((work_dirs(&server), resume(&server, "r", json!({})).await.0), (1, 410));
    let fourth = resumed(&server, &fake, "r3", "r4", Some("more")).await;
    assert_eq!(fourth["cwd"], first["cwd"]);
    until("the lane to be free", async || {
        let gone = server.http.delete(server.url("/v1/sessions/run:r")).send().await.unwrap().status();
        (gone == 200).then_some(())
    })
    .await;
    assert_eq!(work_dirs(&server), 0);
    let (status, answer) = resume(&server, "r4", json!({})).await;
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("not_resumable")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("is no longer there"), "{answer}");
    assert_eq!(server.get("/v1/runs/r5").await.0, 404);
}

/// A name for the operation stands for the run that it makes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_resume_is_the_same_run() {
    let server = Server::start().await;
    accept(&server, &json!({ "run_id": "r", "harness": "demo", "prompt": "hi" })).await;
    server.end("r").await;
    let body = json!({ "op_id": "op", "prompt": "again" });
    let (status, run) = resume(&server, "r", body.clone()).await;
    assert_eq!((status, &run["resumed_from"]), (201, &json!("r")), "{run}");
    let (status, same) = resume(&server, "r", body).await;
    assert_eq!((status, &same["id"]), (200, &run["id"]));
    let (status, other) = resume(&server, "r", json!({ "op_id": "op", "prompt": "other" })).await;
    assert_eq!((status, &other["error"]["code"]), (409, &json!("operation_conflict")), "{other}");
    let ended = server.end(run["id"].as_str().unwrap()).await;
    assert_eq!((&ended["status"], &ended["output_text"]), (&json!("completed"), &json!("again")), "{ended}");
    assert_eq!(ended["source_session_id"], "demo-echo-2", "the first run's");
    let by_header = async |key: &str| {
        let call = server.http.post(server.url("/v1/runs/r/resume")).header("idempotency-key", key);
        let answer = call.body("{}").send().await.unwrap();
        answer.json::<Value>().await.unwrap()["id"].clone()
    };
    assert_eq!(by_header("a").await, by_header("a").await);
    assert_ne!(by_header("a").await, by_header("b").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_session_an_ended_run_is_retold() {
    let server = Server::start().await;
    let fake = Fake::new(&server, "r");
    fake.touch("go-2");
    let mut body = fake.nameless("r");
    body["on_lost"] = json!("fail");
    accept(&server, &body).await;
    Kill::Agent.what(&server.data(), in_tool(&server, "r", 1).await);
    assert_eq!(server.end("r").await["error"]["code"], "killed_by_signal");
    let run = resumed(&server, &fake, "r", "r2", Some("finish it")).await;
    assert_eq!(run["attempt_log"][0]["rung"], "rebuilt_context", "{run}");
    let prompt = fake.read("prompt-2");
    assert!(prompt.contains("You said: start 1\n") && prompt.ends_with("--- Now\nfinish it"), "{prompt}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_gone_on_with_is_refused() {
    let server = Server::start().await;
    let fake = Fake::new(&server, "mute");
    fake.touch("nameless");
    accept(&server, &fake.body("mute")).await;
    pid(&server, "mute", 1).await;
    let code = async |id: &str| {
        let (status, answer) = resume(&server, id, json!({ "run_id": "new" })).await;
        (status, answer["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(code("mute").await, (409, "run_not_ended".to_owned()));
    server.post("/v1/runs/mute/cancel?wait_ms=30000", &json!({})).await;
    assert_eq!(code("mute").await, (409, "not_resumable".to_owned()), "nothing is known of it");
    server.sh("sh", "true").await;
    server.end("sh").await;
    assert_eq!(code("sh").await, (409, "not_resumable".to_owned()));
    assert_eq!(code("nobody").await, (404, "run_not_found".to_owned()));
    // Its session's name is taken by one that is not its own.
    let taken = json!({ "run_id": "other", "harness": "demo", "prompt": "x", "session_id": "run:demo" });
    accept(&server, &taken).await;
    accept(&server, &json!({ "run_id": "demo", "harness": "demo", "prompt": "x" })).await;
    server.end("demo").await;
    assert_eq!(code("demo").await, (409, "session_conflict".to_owned()));
    for body in
        [json!({ "cwd": "/" }), json!({ "harness": "demo" }), json!({ "model": "x" }), json!({ "session_id": "s" })]
    {
        let (status, answer) = resume(&server, "mute", body).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("unknown_field")), "{answer}");
    }
    assert_eq!(server.get("/v1/runs/new").await.0, 404, "nothing is stored");
    assert_no_process(&server.data()).await;
}

/// The session is known before the new run has done anything in it, and the prompt is said again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_run_that_is_lost_at_once_keeps_its_session() {
    let server = Server::start().await;
    let fake = Fake::new(&server, "r");
    for name in ["go-1", "mute-2", "go-3"] {
        fake.touch(name);
    }
    accept(&server, &fake.body("r")).await;
    server.end("r").await;
    let body = json!({ "run_id": "r2", "env": fake.body("r")["env"], "prompt": "and now this", "on_lost": "resume" });
    assert_eq!(resume(&server, "r", body).await.0, 201);
    until("the session to be told", async || server.run("r2").await["source_session_id"].is_string().then_some(()))
        .await;
    until("the prompt to be there", async || (!fake.read("prompt-2").is_empty()).then_some(())).await;
    Kill::Agent.what(&server.data(), pid(&server, "r2", 1).await);
    let run = server.end("r2").await;
    assert_eq!(
        (&run["status"], &run["attempt_log"][1]["rung"]),
        (&json!("completed"), &json!("protocol_load")),
        "{run}"
    );
    assert!(fake.starts()[2].ends_with("resume t-1"), "{:?}", fake.starts());
    assert_eq!((fake.read("prompt-2"), fake.read("prompt-3")), ("and now this".to_owned(), "and now this".to_owned()));
}
