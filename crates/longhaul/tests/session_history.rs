//! What a session leaves to read: its transcript, the events of all its runs on one cursor, the command line over both;
//! and what its runs share: a lane that holds no place, a directory that goes with it.
#![allow(missing_docs)]

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::sse::Reader;
use support::{LONGHAUL, Server, until};

/// Speaks as Claude does, and waits while the prompt says so and no file of that name is there.
const AGENT: &str = r#"#!/bin/sh
case "$1" in --version) echo "2.1.329 (Claude Code)"; exit;; esac
while [ $# -gt 0 ]; do
  case "$1" in --session-id|--resume) id=$2 ;; esac
  shift
done
read -r line
prompt=$(printf '%s' "$line" | sed 's/.*"text":"\([^"]*\)".*/\1/')
echo '{"type":"system","subtype":"init","session_id":"'"$id"'"}'
case "$prompt" in wait*) : > "ready-${prompt#wait }"; while [ ! -e "${prompt#wait }" ]; do sleep 0.05; done ;; esac
echo '{"type":"assistant","message":{"id":"m-'"$$"'","role":"assistant","content":[{"type":"text","text":"heard: '"$prompt"'"}]},"session_id":"'"$id"'"}'
echo '{"type":"result","subtype":"success","is_error":false,"result":"heard: '"$prompt"'","session_id":"'"$id"'"}'
"#;

struct Stage {
    server: Server,
    _bin: tempfile::TempDir,
    path: String,
}

impl Stage {
    async fn new(args: &[&str]) -> Self {
        let bin = tempfile::tempdir().unwrap();
        let program = bin.path().join("claude");
        std::fs::write(&program, AGENT).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.path().display());
        Self { server: Server::start_with(args, &[("PATH", &path)]).await, _bin: bin, path }
    }

    /// Accepts a turn of session `s`.
    async fn accept(&self, id: &str, prompt: &str) {
        let body = json!({ "run_id": id, "session_id": "s", "harness": "claude", "prompt": prompt });
        let (status, answer) = self.server.post("/v1/runs", &body).await;
        assert_eq!(status, 201, "{answer}");
    }

    async fn turn(&self, id: &str, prompt: &str) {
        self.accept(id, prompt).await;
        let end = self.server.end(id).await;
        assert_eq!(end["status"], "completed", "{end}");
    }

    async fn delete(&self, path: &str) -> (u16, Value) {
        let answer = self.server.http.delete(self.server.url(path)).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn cwd(&self) -> std::path::PathBuf {
        let (_, session) = self.server.get("/v1/sessions/s").await;
        session["cwd"].as_str().unwrap().into()
    }

    /// Waits until the agent of a prompt `wait NAME` waits.
    async fn waits(&self, name: &str) {
        let cwd = self.cwd().await;
        until("the agent to wait", async || cwd.join(format!("ready-{name}")).exists().then_some(())).await;
    }

    async fn release(&self, name: &str) {
        std::fs::write(self.cwd().await.join(name), "").unwrap();
    }
}

/// Turn, run, role and text of what was said.
fn said(page: &Value) -> Vec<(u64, &str, &str, &str)> {
    let mut all = vec![];
    for one in page["data"].as_array().unwrap() {
        let text = |name: &str| one[name].as_str().unwrap();
        all.push((one["turn"].as_u64().unwrap(), text("run_id"), text("role"), text("text")));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transcript_tells_all_turns_in_order_over_a_kill_and_an_erasure() {
    let mut stage = Stage::new(&[]).await;
    assert_eq!(stage.server.get("/v1/sessions/s/transcript").await.1["error"]["code"], "unknown_session");
    stage.turn("a", "plum").await;
    let messages = json!([
        { "role": "user", "content": "plum" }, { "role": "assistant", "content": "heard: plum" },
        { "role": "user", "content": "pear" },
    ]);
    let body = json!({ "run_id": "b", "session_id": "s", "messages": messages });
    assert_eq!(stage.server.post("/v1/runs", &body).await.0, 201);
    stage.server.end("b").await;
    stage.accept("c", "wait here").await;
    stage.waits("here").await;
    stage.server.kill9();
    stage.server.up().await;
    let (status, page) = stage.server.get("/v1/sessions/s/transcript").await;
    assert_eq!((status, &page["has_more"], &page["next"]), (200, &json!(false), &Value::Null));
    let told = [
        (1, "a", "user", "plum"),
        (1, "a", "assistant", "heard: plum"),
        (2, "b", "user", "pear"),
        (2, "b", "assistant", "heard: pear"),
        (3, "c", "user", "wait here"),
    ];
    assert_eq!(said(&page), told, "{page}");
    stage.release("here").await;
    stage.server.end("c").await;

    // Page by page it is the same, with what came meanwhile.
    let (mut all, mut after) = (vec![], 0);
    loop {
        let (_, page) = stage.server.get(&format!("/v1/sessions/s/transcript?limit=1&after={after}")).await;
        all.extend(page["data"].as_array().unwrap().clone());
        assert!(said(&page).iter().all(|one| one.0 == after + 1), "a turn a page: {page}");
        match page["next"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    let all = json!({ "data": all });
    assert_eq!(said(&all)[..5], told);
    assert_eq!(said(&all)[5], (3, "c", "assistant", "heard: wait here"));

    // A run that was erased is told to be missing, and what was said in it is gone.
    assert_eq!(stage.delete("/v1/runs/b").await.0, 200);
    let (_, page) = stage.server.get("/v1/sessions/s/transcript").await;
    assert_eq!(page["missing"], json!([{ "turn": 2, "run_id": "b" }]));
    assert!(!page["data"].to_string().contains("pear"), "{page}");
    assert_eq!(said(&page).len(), 4);

    // Forgotten and begun anew it has the new turns alone.
    assert_eq!(stage.delete("/v1/sessions/s").await.0, 200);
    stage.turn("d", "fig").await;
    let (_, page) = stage.server.get("/v1/sessions/s/transcript").await;
    assert_eq!(said(&page), [(1, "d", "user", "fig"), (1, "d", "assistant", "heard: fig")]);
}

/// The id of each of a session's events, as a reader must see them.
async fn expected(server: &Server, runs: &[&str]) -> Vec<(String, Value)> {
    let mut all = vec![];
    for run in runs {
        for event in server.events(run).await {
            all.push((format!("{run}/{}", event["seq"]), event));
        }
    }
    all
}

/// Reads events until one that ends `run`; what comes after the last one may not be there yet.
async fn read_to_end(reader: &mut Reader, run: &str, into: &mut Vec<(String, Value)>) {
    loop {
        let frame = reader.next().await.expect("the stream goes on");
        let Some(id) = frame.id else { continue };
        let event: Value = serde_json::from_str(&frame.data).unwrap();
        let over =
            event["run_id"] == run && ["run.completed", "run.cancelled"].contains(&event["type"].as_str().unwrap());
        into.push((id, event));
        if over {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_follows_all_turns_over_kills_and_loses_nothing() {
    let mut stage = Stage::new(&[]).await;
    stage.turn("a", "one").await;
    stage.accept("b", "wait here").await;
    stage.waits("here").await;
    // Over before it began, and told after the turn before it all the same.
    stage.accept("c", "three").await;
    assert_eq!(stage.server.post("/v1/runs/c/cancel?wait_ms=30000", &json!({})).await.0, 200);

    let url = |stage: &Stage| stage.server.url("/v1/sessions/s/events");
    let mut seen = vec![];
    let mut reader = Reader::open(&stage.server.http, &url(&stage), None).await.unwrap();
    let hello = reader.next().await.unwrap();
    let told: Value = serde_json::from_str(&hello.data).unwrap();
    assert_eq!((hello.id, told), (None, json!({ "session_id": "s", "turns": 3, "live_run": "b" })));
    read_to_end(&mut reader, "a", &mut seen).await;
    stage.server.kill9();
    while let Some(frame) = reader.next().await {
        if let Some(id) = frame.id {
            seen.push((id, serde_json::from_str(&frame.data).unwrap()));
        }
    }
    stage.server.up().await;
    let last = seen.last().unwrap().0.clone();
    let mut reader = Reader::open(&stage.server.http, &url(&stage), Some(&last)).await.unwrap();
    stage.release("here").await;
    read_to_end(&mut reader, "c", &mut seen).await;
    // A turn that comes later is followed by the same reader.
    stage.accept("d", "four").await;
    read_to_end(&mut reader, "d", &mut seen).await;
    let whole = expected(&stage.server, &["a", "b", "c", "d"]).await;
    assert_eq!(seen, whole);

    // The same in pages, whatever their size; from the end there is nothing, and no error.
    for limit in [1, 3, 1000] {
        let (mut paged, mut after) = (vec![], String::new());
        loop {
            let path = format!("/v1/sessions/s/events?limit={limit}{after}");
            let (status, page) = stage.server.get(&path).await;
            assert_eq!(status, 200, "{page}");
            paged.extend(page["data"].as_array().unwrap().clone());
            after = format!("&after={}", page["next"].as_str().unwrap());
            if page["has_more"] == false {
                break;
            }
        }
        assert_eq!(paged, whole.iter().map(|(_, event)| event.clone()).collect::<Vec<_>>(), "{limit}");
    }
    let end = &whole.last().unwrap().0;
    let (_, page) = stage.server.get(&format!("/v1/sessions/s/events?after={end}")).await;
    assert_eq!(page, json!({ "object": "list", "data": [], "has_more": false, "next": end }));

    // The stream of a session that is forgotten ends.
    assert_eq!(stage.delete("/v1/sessions/s").await.0, 200);
    stage.server.sh("wake", "true").await;
    while let Some(frame) = reader.next().await {
        assert_eq!(frame.id, None, "nothing more of it: {frame:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_leads_nowhere_is_refused_by_its_reason() {
    let stage = Stage::new(&[]).await;
    for id in ["a", "b", "c"] {
        stage.turn(id, id).await;
    }
    stage.server.sh("other", "true").await;
    stage.server.end("other").await;
    assert_eq!(stage.delete("/v1/runs/a").await.0, 200);
    for (after, status, code) in [
        ("7", 400, "invalid_cursor"),
        ("b", 400, "invalid_cursor"),
        ("b/x", 400, "invalid_cursor"),
        ("other/1", 400, "invalid_cursor"),
        ("nobody/1", 400, "invalid_cursor"),
        ("b/999", 409, "cursor_ahead"),
        ("a/1", 410, "cursor_expired"),
    ] {
        let (found, answer) = stage.server.get(&format!("/v1/sessions/s/events?after={after}")).await;
        assert_eq!((found, &answer["error"]["code"]), (status, &json!(code)), "{after}: {answer}");
        if code == "cursor_expired" {
            assert_eq!(answer["error"]["earliest"], "b/0");
        }
    }
    let (_, page) = stage.server.get("/v1/sessions/s/events?after=b/0&limit=1000").await;
    let whole = expected(&stage.server, &["b", "c"]).await;
    assert_eq!(page["data"], json!(whole.iter().map(|(_, event)| event).collect::<Vec<_>>()));
    let (_, page) = stage.server.get("/v1/sessions/s/events?limit=1000").await;
    assert_eq!(page["data"].as_array().unwrap().len(), whole.len(), "what is erased is passed over");
    // A page with nothing but `onmessage` is told in its own way.
    let said = stage.server.http.get(stage.server.url("/v1/sessions/s/events?client=eventsource&after=b/999"));
    let said = said.send().await.unwrap();
    assert_eq!(said.status(), 200);
    assert!(said.text().await.unwrap().contains("cursor_ahead"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_waits_for_its_session_holds_no_place() {
    let stage = Stage::new(&["--live-max", "2"]).await;
    stage.accept("first", "wait here").await;
    stage.waits("here").await;
    for id in ["second", "third"] {
        stage.accept(id, id).await;
    }
    // With a place held by one of those who wait there would be none left for this one.
    stage.server.sh("other", "echo through").await;
    assert_eq!(stage.server.end("other").await["output_text"], "through\n");
    let (_, health) = stage.server.get("/health").await;
    let (_, why) = stage.server.get("/v1/runs/second/why").await;
    assert_eq!(why["cause"], "waits for run first of session s", "{health}");
    stage.release("here").await;
    for id in ["first", "second", "third"] {
        assert_eq!(stage.server.end(id).await["status"], "completed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_of_another_profile_is_warned_of() {
    let stage = Stage::new(&[]).await;
    stage.turn("a", "one").await;
    stage.turn("b", "two").await;
    let body = json!({ "run_id": "c", "session_id": "s", "prompt": "three", "system": "be brief" });
    assert_eq!(stage.server.post("/v1/runs", &body).await.0, 201);
    stage.server.end("c").await;
    for (run, warned) in [("a", 0), ("b", 0), ("c", 1)] {
        let events = stage.server.events(run).await;
        let of = |e: &&Value| e["type"] == "warning" && e["data"]["code"] == "session_profile";
        assert_eq!(events.iter().filter(of).count(), warned, "{run}: {events:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_no_session_has_is_swept_and_one_that_it_has_stays() {
    let mut stage = Stage::new(&[]).await;
    stage.turn("a", "one").await;
    let cwd = stage.cwd().await;
    std::fs::write(cwd.join("kept"), "words").unwrap();
    stage.server.kill9();
    // What a crash leaves between the making of a directory and the commit that accepts its session.
    let orphan = stage.server.data().join("work/session-00000000000070008000000000000000");
    std::fs::create_dir(&orphan).unwrap();
    std::fs::write(orphan.join("file"), "").unwrap();
    stage.server.up().await;
    until("the orphan to go", async || (!orphan.exists()).then_some(())).await;
    assert_eq!(std::fs::read_to_string(cwd.join("kept")).unwrap(), "words");
    stage.turn("b", "two").await;
}

/// The command line on the stage's server, in a directory: status and both outputs.
fn cli(stage: &Stage, cwd: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(LONGHAUL)
        .args(["--data-dir", stage.server.data().to_str().unwrap(), "--project", "default"])
        .args(args)
        .current_dir(cwd)
        .env("PATH", &stage.path)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_talks_in_a_session_and_shows_and_forgets_it() {
    let stage = Stage::new(&[]).await;
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (status, out, error) = cli(&stage, here.path(), &["sessions"]);
    assert_eq!((status, out.as_str()), (Some(0), ""), "{error}");
    for (cwd, prompt) in [(&here, "plum"), (&there, "pear")] {
        let (status, out, error) = cli(&stage, cwd.path(), &["run", "--session", "talk", "claude", prompt]);
        assert_eq!(status, Some(0), "{error}");
        assert!(out.contains(&format!("heard: {prompt}")), "{out}");
    }
    // Wherever it is asked from, a turn works where its session does.
    let (_, found) = stage.server.get("/v1/sessions/talk").await;
    let cwd = std::fs::canonicalize(here.path()).unwrap();
    assert_eq!((found["cwd"].as_str(), &found["turns"]), (cwd.to_str(), &json!(2)), "{found}");
    let (status, _, error) =
        cli(&stage, here.path(), &["run", "--session", "talk", "--cwd", there.path().to_str().unwrap(), "claude", "x"]);
    assert_eq!(status, Some(125), "a directory that is named must be the session's: {error}");

    let (status, out, _) = cli(&stage, here.path(), &["sessions"]);
    assert_eq!(status, Some(0));
    assert!(out.contains("talk") && out.contains("claude"), "{out}");
    let (_, out, _) = cli(&stage, here.path(), &["sessions", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(out.trim()).unwrap()["id"], "talk");
    let (status, out, _) = cli(&stage, here.path(), &["sessions", "show", "talk"]);
    let at = |text: &str| out.find(text).unwrap_or_else(|| panic!("{text} is in {out}"));
    assert_eq!(status, Some(0));
    assert!(at("1. user") < at("plum") && at("plum") < at("heard: plum") && at("heard: plum") < at("2. user"), "{out}");
    assert!(at("  pear") < at("heard: pear"), "{out}");
    let (_, out, _) = cli(&stage, here.path(), &["sessions", "show", "talk", "--json"]);
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["id"], &lines[4]["text"]), (5, &json!("talk"), &json!("heard: pear")));

    assert_eq!(cli(&stage, here.path(), &["sessions", "rm", "talk"]).0, Some(0));
    let (status, _, error) = cli(&stage, here.path(), &["sessions", "show", "talk"]);
    assert_eq!(status, Some(125));
    assert!(error.contains("there is no session talk"), "{error}");
    assert_eq!(stage.server.get("/v1/runs?limit=10").await.1["data"].as_array().unwrap().len(), 2, "its runs stay");
}
