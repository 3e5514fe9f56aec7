//! Managed homes: sessions share neither state nor login, a conversation goes on in its own home, and a home goes with
//! whoever has it, whatever is killed meanwhile.
#![allow(missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::model_server::{Agent, ModelServer};
use support::proc::signal;
use support::{Server, assert_no_process, until};

/// A program that calls itself gemini: it keeps what it was told in its home and says all that it was ever told there. It
/// waits for `@DIR@/go`, and the one that is told `die` waits for its end, the first time.
const GEMINI: &str = r#"#!/bin/sh
case "$1" in --version) echo 0.61.0; exit;; esac
prompt=$(cat)
echo "$prompt" >> "$HOME/said"
env | grep -E '^(HOME|XDG_[A-Z]*_HOME|CLAUDE_CONFIG_DIR|CODEX_[A-Z_]*|KIMI_[A-Z_]*)=' | sort > "$HOME/env"
test -d "$CODEX_HOME" && test -w "$XDG_STATE_HOME" && echo "$$" > "@DIR@/pid-$prompt"
echo '{"type":"init","session_id":"6f1f7f0a-3f43-4f0e-9a5b-0d6a1c9f2b11","model":"m"}'
if [ "$prompt" = die ] && [ "$(cat "$HOME/said")" = die ]; then
  echo '{"type":"tool_use","tool_name":"run_shell_command","tool_id":"call_1","parameters":{"command":"work"}}'
  exec sleep 1000
fi
while [ ! -e "@DIR@/go" ]; do sleep 0.01; done
echo '{"type":"message","role":"assistant","content":"'$(echo $(cat "$HOME/said"))'","delta":true}'
echo '{"type":"result","status":"success","stats":{"total_tokens":2,"input_tokens":1,"output_tokens":1,"cached":0,"input":1,"duration_ms":1,"tool_calls":0}}'
"#;

struct Stage {
    server: Server,
    fake: PathBuf,
}

impl Stage {
    /// A server whose own variables lead elsewhere.
    async fn new() -> Self {
        let temp = tempfile::tempdir().unwrap().keep();
        let at = |name: &str| temp.join(name).to_str().unwrap().to_owned();
        std::fs::create_dir_all(at("home")).unwrap();
        let (home, codex, kimi) = (at("home"), at("codex"), at("kimi"));
        let env = [("HOME", &*home), ("CODEX_HOME", &codex), ("CODEX_SQLITE_HOME", &codex), ("KIMI_CODE_HOME", &kimi)];
        let server = Server::start_with(&[], &env).await;
        let fake = temp;
        let program = fake.join("gemini");
        std::fs::write(&program, GEMINI.replace("@DIR@", fake.to_str().unwrap())).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { server, fake }
    }

    fn body(&self, id: &str, session: Option<&str>, prompt: &str) -> Value {
        let env = json!({ "PATH": format!("{}:/usr/bin:/bin", self.fake.display()) });
        let mut body = json!({ "run_id": id, "harness": "gemini", "prompt": prompt, "env": env, "home": "managed" });
        if let Some(session) = session {
            body["session_id"] = json!(session);
        }
        body
    }

    async fn accept(&self, body: &Value) {
        let (status, answer) = self.server.post("/v1/runs", body).await;
        assert_eq!(status, 201, "{answer}");
    }

    fn go(&self) {
        std::fs::write(self.fake.join("go"), "").unwrap();
    }

    fn homes(&self) -> PathBuf {
        self.server.data().join("homes")
    }

    async fn delete(&self, path: &str) -> u16 {
        self.server.http.delete(self.server.url(path)).send().await.unwrap().status().as_u16()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.fake);
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn only(dir: &Path) -> PathBuf {
    let all = names(dir);
    assert_eq!(all.len(), 1, "{all:?}");
    dir.join(all.first().unwrap())
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sessions_at_once_have_nothing_in_common() {
    let mut stage = Stage::new().await;
    for (id, session) in [("a1", "a"), ("b1", "b")] {
        stage.accept(&stage.body(id, Some(session), &format!("{id}-told"))).await;
    }
    // Both are at work before either goes on.
    for id in ["a1", "b1"] {
        let pid = stage.fake.join(format!("pid-{id}-told"));
        until("both to be at work", async || pid.exists().then_some(())).await;
    }
    stage.go();
    for id in ["a1", "b1"] {
        let run = stage.server.end(id).await;
        assert_eq!((&run["output_text"], &run["home"]), (&json!(format!("{id}-told")), &json!("managed")), "{run}");
    }
    let homes: Vec<PathBuf> = names(&stage.homes()).iter().map(|name| stage.homes().join(name)).collect();
    assert_eq!(homes.len(), 2);
    for dir in &homes {
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let home = dir.join("home");
        assert_eq!((mode(dir), mode(&home)), (0o700, 0o700));
        let h = home.display();
        let want = format!(
            "CLAUDE_CONFIG_DIR={h}/.claude\nCODEX_HOME={h}/.codex\nHOME={h}\nXDG_CACHE_HOME={h}/.cache\n\
             XDG_CONFIG_HOME={h}/.config\nXDG_DATA_HOME={h}/.local/share\nXDG_STATE_HOME={h}/.local/state\n"
        );
        assert_eq!(std::fs::read_to_string(home.join("env")).unwrap(), want, "and nothing that leads elsewhere");
    }

    // The next turn is in the same home, unasked, by another server too.
    stage.server.kill9();
    stage.server.up().await;
    let mut second = stage.body("a2", Some("a"), "a2-told");
    second.as_object_mut().unwrap().remove("home");
    stage.accept(&second).await;
    let run = stage.server.end("a2").await;
    assert_eq!((&run["output_text"], &run["home"]), (&json!("a1-told a2-told"), &json!("managed")), "{run}");
    let (_, session) = stage.server.get("/v1/sessions/a").await;
    assert_eq!(session["home"], "managed");

    // Another one is refused, and so is a variable that would lead out of it.
    let mut other = stage.body("refused", Some("a"), "x");
    other["home"] = json!("user");
    let (status, answer) = stage.server.post("/v1/runs", &other).await;
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("session_conflict")), "{answer}");
    let facts = ["param", "expected", "received"].map(|name| answer["error"][name].clone());
    assert_eq!(facts, [json!("home"), json!("managed"), json!("user")]);
    second["run_id"] = json!("refused");
    second["env"]["KIMI_CODE_HOME"] = json!("/elsewhere");
    let (status, answer) = stage.server.post("/v1/runs", &second).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("env")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("KIMI_CODE_HOME"), "{answer}");

    // A home goes with its session, and no other does.
    assert_eq!(stage.delete("/v1/sessions/a").await, 200);
    let left = only(&stage.homes()).join("home/said");
    assert_eq!(std::fs::read_to_string(left).unwrap(), "b1-told\n");
    for id in ["b1", "a1", "a2"] {
        assert_eq!(stage.delete(&format!("/v1/runs/{id}")).await, 200);
    }
    assert_eq!(names(&stage.homes()).len(), 1, "a session outlives its runs");
    assert_eq!(stage.delete("/v1/sessions/b").await, 200);
    assert_eq!(names(&stage.homes()).len(), 0);
    assert_eq!(files(&stage.fake.join("home")), [] as [PathBuf; 0], "nothing in the home of the server's user");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_the_users_home_keeps_it() {
    let stage = Stage::new().await;
    stage.go();
    let mut first = stage.body("first", Some("s"), "one");
    first.as_object_mut().unwrap().remove("home");
    stage.accept(&first).await;
    let run = stage.server.end("first").await;
    assert_eq!(run["home"], "user");
    assert!(stage.fake.join("home/said").exists() && names(&stage.homes()).is_empty());
    let (status, answer) = stage.server.post("/v1/runs", &stage.body("second", Some("s"), "two")).await;
    assert_eq!((status, &answer["error"]["received"]), (409, &json!("managed")), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_run_goes_on_in_its_home_and_a_resumed_one_takes_it_over() {
    let stage = Stage::new().await;
    stage.go();
    let mut body = stage.body("lost", None, "die");
    body["on_lost"] = json!("resume");
    stage.accept(&body).await;
    let pid = until("the agent to be in its tool call", async || {
        let run = stage.server.run("lost").await;
        (run["tool_calls"] == 1).then(|| i32::try_from(run["pid"].as_i64().unwrap()).unwrap())
    })
    .await;
    signal(pid, Signal::KILL);
    let run = stage.server.end("lost").await;
    assert_eq!((&run["status"], &run["attempts"]), (&json!("completed"), &json!(2)), "{run}");
    assert!(run["output_text"].as_str().unwrap().starts_with("die "), "it is in the home of the first attempt: {run}");

    let prompt = json!({ "run_id": "next", "prompt": "more", "env": body["env"] });
    let (status, answer) = stage.server.post("/v1/runs/lost/resume", &prompt).await;
    assert_eq!(status, 201, "{answer}");
    let next = stage.server.end("next").await;
    let text = next["output_text"].as_str().unwrap();
    assert!(text.starts_with("die ") && text.ends_with(" more"), "{text}");
    assert_eq!((names(&stage.homes()).len(), &next["home"]), (1, &json!("managed")));

    // The session has taken it over: the run that it was made for can go.
    assert_eq!(stage.delete("/v1/runs/lost").await, 200);
    assert_eq!(names(&stage.homes()).len(), 1);
    let session = next["session_id"].as_str().unwrap();
    assert_eq!(stage.delete(&format!("/v1/sessions/{session}")).await, 200);
    assert_eq!(names(&stage.homes()).len(), 0);
    let (status, answer) = stage.server.post("/v1/runs/next/resume", &json!({ "prompt": "again" })).await;
    assert_eq!(status, 409, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("no longer there"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claudes_of_two_sessions_have_their_own_state_and_find_it_again() {
    let mut stage = Stage::new().await;
    let model = ModelServer::start();
    let mut bodies = Vec::new();
    for name in ["a", "b"] {
        let url = model.script(name, &json!([{ "text": "one", "delay": 0.2 }, { "text": "two" }])).await;
        let Some(mut body) = Agent::Claude.request(name, stage.server.dir.path(), &url, &format!("the word of {name}"))
        else {
            return;
        };
        body["env"].as_object_mut().unwrap().remove("HOME");
        body["session_id"] = json!(name);
        body["home"] = json!("managed");
        bodies.push(body);
    }
    for body in &bodies {
        stage.accept(body).await;
    }
    let mut sources = BTreeSet::new();
    for name in ["a", "b"] {
        let run = stage.server.end(name).await;
        assert_eq!((&run["status"], &run["output_text"]), (&json!("completed"), &json!("one")), "{run}");
        sources.insert(run["source_session_id"].as_str().unwrap().to_owned());
    }
    // Each home holds the record of its own conversation and of no other.
    let mut found = BTreeSet::new();
    for name in names(&stage.homes()) {
        let records = files(&stage.homes().join(name).join("home/.claude/projects"));
        let ids = records.iter().filter(|path| path.extension().is_some_and(|e| e == "jsonl"));
        let ids: Vec<_> = ids.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        assert_eq!(ids.len(), 1, "{records:?}");
        found.extend(ids);
    }
    assert_eq!(found, sources);
    assert_eq!(files(&stage.fake.join("home")), [] as [PathBuf; 0], "nothing in the home of the server's user");

    stage.server.kill9();
    stage.server.up().await;
    for (body, name) in bodies.iter_mut().zip(["a", "b"]) {
        body["run_id"] = json!(format!("{name}-next"));
        body["prompt"] = json!("which word was it");
        stage.accept(body).await;
        let run = stage.server.end(&format!("{name}-next")).await;
        assert_eq!((&run["status"], &run["output_text"]), (&json!("completed"), &json!("two")), "{run}");
        let asked = model.bodies(name).await;
        let last = asked.last().unwrap()["body"].to_string();
        assert!(last.contains(&format!("the word of {name}")), "it found its session: {last}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confined_run_writes_its_home_and_sees_no_other() {
    let stage = Stage::new().await;
    let script = "echo mine > $HOME/mine && cat $HOME/mine && ls $HOME/../.. ; echo x > $HOME/../owner || echo held";
    let body = |id: &str, confine: &str| json!({ "run_id": id, "command": "/bin/sh", "args": ["-c", script], "confine": confine, "home": "managed" });
    let (status, answer) = stage.server.post("/v1/runs", &body("first", "none")).await;
    assert_eq!(status, 201, "{answer}");
    stage.server.end("first").await;
    for confine in ["write", "full"] {
        let (status, answer) = stage.server.post("/v1/runs", &body(confine, confine)).await;
        if status == 422 && std::env::var_os("CI").is_none() {
            println!("nothing can be confined here: {answer}");
            return;
        }
        assert_eq!(status, 201, "{answer}");
        let run = stage.server.end(confine).await;
        let lines: Vec<&str> = run["output_text"].as_str().unwrap().lines().collect();
        assert_eq!((lines.len(), lines[0], lines[2]), (3, "mine", "held"), "its own and no other: {run}");
    }
    assert_eq!(names(&stage.homes()).len(), 3);
    for id in ["first", "write", "full"] {
        assert_eq!(stage.delete(&format!("/v1/runs/{id}")).await, 200);
    }
    assert_eq!(names(&stage.homes()).len(), 0);
}

/// Whose a home is, by its own word: the id of a run.
fn run_of(home: &Path) -> Option<String> {
    let owner: Value = serde_json::from_slice(&std::fs::read(home.join("owner")).ok()?).ok()?;
    Some(owner["run"]["run"].as_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_leaves_no_home_without_somebody_who_has_it() {
    let mut stage = Stage::new().await;
    let script = "mkdir -p $HOME/deep/deeper; echo x > $HOME/deep/deeper/file";
    let mut next = 0;
    for round in 0..10_u64 {
        let ids: Vec<String> = (next..next + 6).map(|n| format!("r{n}")).collect();
        next += 6;
        let url = stage.server.base.clone();
        let work = tokio::spawn({
            let (http, ids) = (stage.server.http.clone(), ids.clone());
            async move {
                for id in &ids {
                    let body = json!({ "run_id": id, "command": "/bin/sh", "args": ["-c", script], "home": "managed" });
                    if http.post(format!("{url}/v1/runs")).body(body.to_string()).send().await.is_err() {
                        return;
                    }
                }
                for id in &ids {
                    let _ = http.get(format!("{url}/v1/runs/{id}?wait_ms=5000")).send().await;
                    let _ = http.delete(format!("{url}/v1/runs/{id}")).send().await;
                }
            }
        });
        tokio::time::sleep(std::time::Duration::from_millis(round * 17)).await;
        stage.server.kill9();
        work.abort();
        stage.server.up().await;
    }
    // One whose making was interrupted, and one of a run that never was.
    stage.server.kill9();
    std::fs::create_dir_all(stage.homes().join("bare/home")).unwrap();
    std::fs::create_dir_all(stage.homes().join("foreign/home")).unwrap();
    let owner = json!({ "run": { "project": "default", "run": "never" } }).to_string();
    std::fs::write(stage.homes().join("foreign/owner"), owner).unwrap();
    stage.server.up().await;
    let mut there = BTreeSet::new();
    for n in 0..next {
        let id = format!("r{n}");
        let (status, _) = stage.server.get(&format!("/v1/runs/{id}")).await;
        if status == 200 {
            stage.server.end(&id).await;
            there.insert(id);
        }
    }
    until("every home to have somebody", async || {
        let homes: Vec<_> = names(&stage.homes()).iter().map(|name| run_of(&stage.homes().join(name))).collect();
        let owners: BTreeSet<String> = homes.iter().flatten().cloned().collect();
        (homes.len() == there.len() && owners == there).then_some(())
    })
    .await;
    for id in &there {
        assert_eq!(stage.delete(&format!("/v1/runs/{id}")).await, 200);
    }
    assert_eq!(names(&stage.homes()).len(), 0);
    assert_no_process(&stage.server.data()).await;
}
