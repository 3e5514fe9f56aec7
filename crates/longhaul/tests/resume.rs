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
const CODEX: &str = r#"#!/bin/sh
dir=@DIR@
for pid in $(cut -d' ' -f1 $dir/starts 2>/dev/null); do
  case "$(cut -d' ' -f3 /proc/$pid/stat 2>/dev/null)" in ''|Z|X) ;; *) echo $pid >> $dir/overlap;; esac
done
n=$(($(cat $dir/starts 2>/dev/null | wc -l) + 1))
cat > $dir/prompt-$n
echo "$$ $*" >> $dir/starts
case "$*" in *resume*) if [ -e $dir/forgotten ]; then echo 'no such session' >&2; exit 1; fi;; esac
[ -e $dir/nameless ] || echo '{"type":"thread.started","thread_id":"t-1"}'
[ -e $dir/mute-$n ] && exec sleep 1000
echo '{"type":"item.completed","item":{"id":"item_0","type":"agent_message","text":"start '$n'"}}'
echo '{"type":"item.started","item":{"id":"item_1","type":"command_execution","command":"work","status":"in_progress"}}'
while [ ! -e $dir/go-$n ]; do sleep 0.01; done
echo '{"type":"item.completed","item":{"id":"item_1","type":"command_execution","command":"work","aggregated_output":"ok","exit_code":0,"status":"completed"}}'
echo '{"type":"item.completed","item":{"id":"item_2","type":"agent_message","text":"end '$n'"}}'
echo '{"type":"turn.completed","usage":{"input_tokens":'$n'00,"cached_input_tokens":0,"output_tokens":1}}'
"#;

/// The directory of one run's fake program.
struct Fake(PathBuf);

impl Fake {
    fn new(server: &Server, id: &str) -> Self {
        let dir = server.dir.path().join(format!("fake-{id}"));
        std::fs::create_dir_all(dir.join("bin")).unwrap();
        let program = dir.join("bin/codex");
        std::fs::write(&program, CODEX.replace("@DIR@", dir.to_str().unwrap())).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    fn body(&self, id: &str) -> Value {
        let env = json!({ "PATH": format!("{}:/usr/bin:/bin", self.0.join("bin").display()) });
        json!({ "run_id": id, "harness": "codex", "prompt": "do it", "env": env, "on_lost": "resume" })
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
}

impl Kill {
    fn what(self, data: &Path, agent: i32) {
        let pid = match self {
            Self::Shim => shim_of(data, agent),
            Self::Agent => agent,
        };
        signal(pid, Signal::KILL);
    }

    const fn cause(self) -> &'static str {
        match self {
            Self::Shim => "supervisor_lost",
            Self::Agent => "killed_by_signal",
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
    assert_eq!(told, [&json!(kill.cause()), &json!("native_resume"), &lost]);
    let log = run["attempt_log"].as_array().unwrap();
    assert_eq!((log.len(), &log[1]["rung"], &log[1]["lost"]), (2, &json!("native_resume"), &lost), "{run}");
    let how = if kill == Kill::Shim { "lost" } else { "signaled" };
    assert_eq!((&log[0]["how"], &log[1]["how"]), (&json!(how), &json!("exited")));
    // Each process counts its items from 0.
    let ids: Vec<_> = of(&events, "message.completed").iter().map(|d| d["message_id"].clone()).collect();
    assert_eq!(ids, ["item_0", "a2.item_0", "a2.item_2"]);
    let starts = fake.starts();
    assert!(starts.len() == 2 && starts[1].ends_with("resume t-1 -"), "{starts:?}");
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

/// Everything that is known is in the new prompt, and nothing else goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_session_the_context_is_rebuilt() {
    let server = Server::start().await;
    let fake = Fake::new(&server, "r");
    fake.touch("nameless");
    accept(&server, &fake.body("r")).await;
    Kill::Agent.what(&server.data(), in_tool(&server, "r", 1).await);
    in_tool(&server, "r", 2).await;
    fake.touch("go-2");
    assert_eq!(server.end("r").await["status"], "completed");
    let events = server.events("r").await;
    let second = of(&events, "run.attempt_started")[1];
    assert_eq!((&second["rung"], &second["lost"]["tools"][0]["call_id"]), (&json!("rebuilt_context"), &json!("item_1")));
    assert!(fake.starts()[1].ends_with("json --skip-git-repo-check -"), "{:?}", fake.starts());
    let prompt = fake.read("prompt-2");
    for part in ["--- The task\ndo it\n", "You said: start 1\n", r#"command_execution with {"command":"work"}"#, "Its result is not known"] {
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
    let told: Vec<_> = of(&events, "run.attempt_started").iter().map(|d| (d["cause"].clone(), d["rung"].clone())).collect();
    let want = [
        (json!("first"), Value::Null),
        (json!("killed_by_signal"), json!("native_resume")),
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
    until("the session to be told", async || server.run("r").await["source_session_id"].is_string().then_some(())).await;
    Kill::Agent.what(&server.data(), pid(&server, "r", 1).await);
    fake.touch("go-2");
    let run = server.end("r").await;
    assert_eq!((&run["status"], &run["attempt_log"][1]["rung"]), (&json!("completed"), &json!("rebuilt_context")), "{run}");
    assert!(fake.read("prompt-2").contains("do it"));
}

/// The demo is killed as often as it may be: each attempt is told, and the end is `lost`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_of_losses_ends() {
    let server = Server::start().await;
    let body = json!({ "run_id": "r", "harness": "codex", "prompt": "x", "on_lost": "resume" });
    let fake = Fake::new(&server, "r");
    let mut body = body;
    body["env"] = fake.body("r")["env"].clone();
    accept(&server, &body).await;
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
    accept(&server, &json!({ "run_id": "r", "harness": "demo", "model": "slow", "prompt": "60", "on_lost": "resume" })).await;
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

    let fake = Fake::new(&server, "between");
    accept(&server, &fake.body("between")).await;
    Kill::Agent.what(&server.data(), in_tool(&server, "between", 1).await);
    server.status("between", "queued").await;
    let (status, answer) = server.post("/v1/runs/between/cancel", &json!({})).await;
    assert_eq!((status, &answer["run"]["status"]), (200, &json!("cancelled")), "{answer}");
    assert_no_process(&server.data()).await;
    assert_eq!(fake.starts().len(), 1);
    assert_log(&server.events("between").await);
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
    if number % 2 == 0 {
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
        assert_eq!((&last["rung"], &last["lost"]["attempt"]), (&json!("native_resume"), &json!(1)), "{id}: {last}");
        assert_eq!(last["lost"]["tools"][0]["call_id"], "item_1");
        let adopted = of(&events, "run.adopted").len();
        *met.entry(format!("{} attempts, {adopted} adopted", attempts.len())).or_default() += 1;
    }
    println!("{met:?}");
    assert_no_process(&server.data()).await;
}
