//! Which agent programs are there and in which version: in the health report, in each run's log, and for people.

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::proc::start_time;
use support::{LONGHAUL, Server, assert_no_process, until};
use tempfile::TempDir;

/// A directory of programs that stand in for agent CLIs.
struct Bin {
    dir: TempDir,
}

impl Bin {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> String {
        format!("{}:/usr/bin:/bin", self.dir.path().display())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program that does `asked` when it is asked for its version, and `run` otherwise. It notes each question.
    fn add(&self, name: &str, asked: &str, run: &str) {
        let text = format!(
            "#!/bin/sh\ncase \"$1\" in --version) echo {name} $$ >> {dir}/asked; {asked};; esac\n{run}\n",
            dir = self.dir.path().display()
        );
        let new = self.file(&format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(new, self.file(name)).unwrap();
    }

    /// The pids that answered, by name.
    fn asked(&self) -> BTreeMap<String, Vec<i32>> {
        let mut all: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for line in std::fs::read_to_string(self.file("asked")).unwrap_or_default().lines() {
            let (name, pid) = line.split_once(' ').unwrap();
            all.entry(name.to_owned()).or_default().push(pid.parse().unwrap());
        }
        all
    }
}

fn states(health: &Value) -> BTreeMap<&str, &str> {
    let all = health["harnesses"].as_array().unwrap();
    all.iter().map(|one| (one["harness"].as_str().unwrap(), one["state"].as_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_of_a_full_server_asks_each_program_once_and_takes_no_place() {
    let bin = Bin::new();
    bin.add("claude", "echo '2.1.329 (Claude Code)'; exit 0", "exit 1");
    bin.add("codex", "echo 'codex-cli 0.0.1'; exit 0", "exit 1");
    bin.add("gemini", "exec sleep 1000", "exit 1");
    bin.add("pi", "exit 3", "exit 1");
    let mut server = Server::start_with(&["--live-max", "1"], &[("PATH", &bin.path())]).await;
    for id in ["running", "queued"] {
        server.sh(id, "exec sleep 600").await;
    }
    server.status("running", "running").await;
    let expected = BTreeMap::from([
        ("claude", "ready"),
        ("codex", "untested"),
        ("copilot", "missing"),
        ("gemini", "asking"),
        ("kimi", "missing"),
        ("opencode", "missing"),
        ("pi", "failed"),
        ("qwen", "missing"),
    ]);
    let health = until("every program that answers to have answered", async || {
        let many = (0..20).map(|_| server.get("/health"));
        let answers = futures_util::future::join_all(many).await;
        for (status, health) in &answers {
            assert_eq!((status, &health["busy"], &health["status"]), (&200, &json!(true), &json!("ok")));
            let runs = json!({ "live": 2, "processes": 1, "places_taken": 1, "places": 1, "queued": 1 });
            assert_eq!(health["runs"], runs);
        }
        let (_, health) = answers.into_iter().next()?;
        (states(&health) == expected).then_some(health)
    })
    .await;
    let claude = &health["harnesses"][0];
    let found = bin.file("claude");
    assert_eq!(
        claude,
        &json!({ "harness": "claude", "state": "ready", "path": found, "version": "2.1.329", "tested_version": "2.1.329" })
    );
    let delay = until("the event loop to be measured", async || {
        let (_, health) = server.get("/health").await;
        health["event_loop_delay_ms"]["worst_10s"].as_f64()
    })
    .await;
    assert!(delay < 10_000.0, "{delay}");
    // The one that hangs is being asked from before it runs.
    let asked =
        until("all to have been asked", async || Some(bin.asked()).filter(|asked| asked.contains_key("gemini"))).await;
    assert!(asked.values().all(|pids| pids.len() == 1) && asked.len() == 4, "{asked:?}");
    for id in ["queued", "running"] {
        assert_eq!(server.post(&format!("/v1/runs/{id}/cancel?wait_ms=30000"), &json!({})).await.0, 200);
    }
    assert!(server.term().success());
    let hung = asked["gemini"][0];
    until("the program that hangs to be gone with the server", async || start_time(hung).is_none().then_some(())).await;
    assert_no_process(&server.data()).await;
}

async fn run_claude(server: &Server, id: &str) -> Vec<Value> {
    let (status, body) = server.post("/v1/runs", &json!({ "run_id": id, "harness": "claude", "prompt": "hi" })).await;
    assert_eq!(status, 201, "{body}");
    server.end(id).await;
    server.events(id).await
}

fn version(events: &[Value]) -> &Value {
    &events.iter().find(|event| event["type"] == "process.started").unwrap()["data"]["version"]
}

fn warnings(events: &[Value]) -> Vec<&str> {
    let all = events.iter().filter(|event| event["data"]["code"] == "untested_version");
    all.map(|event| event["data"]["message"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_attempt_tells_the_version_and_an_untested_one_is_warned_of() {
    let bin = Bin::new();
    bin.add("claude", "echo '9.9.9 (Claude Code)'; exit 0", "exit 1");
    let mut server = Server::start_with(&[], &[("PATH", &bin.path())]).await;
    let known = async |state: &str| {
        let what = format!("claude to be {state}");
        until(&what, async || (states(&server.get("/health").await.1)["claude"] == state).then_some(())).await;
    };
    known("untested").await;
    let events = run_claude(&server, "untested").await;
    assert_eq!(version(&events), "9.9.9");
    assert_eq!(warnings(&events), ["claude is version 9.9.9; 2.1.329 is the one that was tested"]);
    // Another file under the same name is another program.
    bin.add("claude", "echo '2.1.329 (Claude Code)'; exit 0", "exit 1");
    known("ready").await;
    let events = run_claude(&server, "tested").await;
    assert_eq!((version(&events), warnings(&events).len()), (&json!("2.1.329"), 0));
    assert_eq!(bin.asked()["claude"].len(), 2, "the answers were remembered");
    // A program that does not say its version in time holds nobody up: it ends before it has said anything.
    bin.add("claude", "exec sleep 1000", "exit 7");
    let events = run_claude(&server, "slow").await;
    assert_eq!((version(&events), warnings(&events).len()), (&Value::Null, 0));
    let exited = events.iter().find(|event| event["type"] == "process.exited").unwrap();
    assert_eq!(exited["data"]["code"], 7);
    let hung = until("it to be asked", async || bin.asked()["claude"].get(2).copied()).await;
    assert!(start_time(hung).is_some(), "it is still being asked");
    assert!(server.term().success());
    until("it to be gone with the server", async || start_time(hung).is_none().then_some(())).await;
}

fn doctor(home: &Path, bin: &Bin, words: &[&str]) -> Output {
    Command::new(LONGHAUL)
        .env_clear()
        .env("HOME", home)
        .env("PATH", bin.path())
        .env("GEMINI_API_KEY", "a secret")
        .arg("doctor")
        .args(words)
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_looks_and_touches_nothing() {
    let (bin, home) = (Bin::new(), tempfile::tempdir().unwrap());
    bin.add("claude", "echo '2.1.329 (Claude Code)'; exit 0", "exit 1");
    bin.add("codex", "echo 'codex-cli 0.0.1'; exit 0", "exit 1");
    bin.add("gemini", "echo 0.61.0; exit 0", "exit 1");
    std::fs::create_dir(home.path().join(".claude")).unwrap();
    std::fs::write(home.path().join(".claude/.credentials.json"), "{}").unwrap();
    let before = std::fs::read_dir(home.path()).unwrap().count();
    let output = doctor(home.path(), &bin, &["--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("a secret"));
    let report: Value = serde_json::from_str(&text).unwrap();
    let one = |name: &str| report["harnesses"].as_array().unwrap().iter().find(|one| one["harness"] == name).unwrap();
    let facts = |name: &str| ["state", "version", "login"].map(|key| one(name)[key].clone());
    assert_eq!(facts("claude"), [json!("ready"), json!("2.1.329"), json!("file ~/.claude/.credentials.json")]);
    assert_eq!(facts("codex"), [json!("untested"), json!("0.0.1"), Value::Null]);
    assert_eq!(facts("gemini"), [json!("ready"), json!("0.61.0"), json!("variable GEMINI_API_KEY")]);
    assert_eq!(facts("kimi"), [json!("missing"), Value::Null, Value::Null]);
    assert!(one("kimi")["help"].as_str().unwrap().starts_with("install: npm install -g "));
    let names: Vec<&str> = report["checks"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["longhaul", "config", "data", "disk", "systemd", "cgroup", "server"]);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), before, "nothing was made");

    let text = String::from_utf8(doctor(home.path(), &bin, &[]).stdout).unwrap();
    for said in ["0.169.0 was tested", "kimi: install: npm install", "claude", "none runs"] {
        assert!(text.contains(said), "{said}: {text}");
    }

    // With a server that has another PATH.
    let server = Server::start_with(&[], &[("PATH", "/usr/bin:/bin")]).await;
    let data = server.data();
    let words = ["--data-dir", data.to_str().unwrap()];
    let text = String::from_utf8(doctor(home.path(), &bin, &words).stdout).unwrap();
    assert!(text.contains(&server.base) && text.contains("claude: a run over HTTP finds it nowhere"), "{text}");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = String::from_utf8(doctor(home.path(), &bin, &words).stdout).unwrap();
    assert!(text.contains("others can look into"), "{text}");
    let wrong = doctor(home.path(), &bin, &["--server", "127.0.0.1:1"]);
    assert_eq!(wrong.status.code(), Some(1), "a server that was named and does not answer is wrong");
}
