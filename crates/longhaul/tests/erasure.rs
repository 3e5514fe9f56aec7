//! An erasure says when the bytes are gone, and then no file of the data directory has them, whatever is killed meanwhile.
#![allow(missing_docs)]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::{LONGHAUL, Server, until};

/// What stands in everything of what will be erased.
const MARK: &str = "plum-7f3a-plum";

/// A program that calls itself gemini: it says its prompt, to both streams, and keeps it in every place it has.
const GEMINI: &str = r#"#!/bin/sh
case "$1" in --version) echo 0.61.0; exit;; esac
prompt=$(cat)
echo "$prompt" | tee -a "$HOME/said" "$PWD/said" "$TMPDIR/said" >&2
echo '{"type":"init","session_id":"6f1f7f0a-3f43-4f0e-9a5b-0d6a1c9f2b11","model":"m"}'
echo '{"type":"message","role":"assistant","content":"'$prompt'","delta":true}'
echo '{"type":"result","status":"success","stats":{"total_tokens":2,"input_tokens":1,"output_tokens":1,"cached":0,"input":1,"duration_ms":1,"tool_calls":0}}'
"#;

fn fake(server: &Server) -> PathBuf {
    let dir = server.dir.path().join("bin");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("gemini"), GEMINI).unwrap();
    std::fs::set_permissions(dir.join("gemini"), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// A run with `word` in its prompt, its output, its variables, its tags, its words about it and its files.
async fn say(server: &Server, id: &str, session: Option<&str>, word: &str) {
    let path = format!("{}:/usr/bin:/bin", fake(server).display());
    let mut body = json!({
        "run_id": id, "harness": "gemini", "prompt": format!("{word} {}", word.repeat(40)), "home": "managed",
        "env": { "PATH": path, "WORD": word }, "tags": { "word": word }, "metadata": { "word": word }, "name": word,
    });
    if let Some(session) = session {
        body["session_id"] = json!(session);
    }
    let (status, answer) = server.post("/v1/runs", &body).await;
    assert_eq!(status, 201, "{answer}");
    let run = server.end(id).await;
    assert_eq!(run["status"], "completed", "{run}");
    assert!(run["output_text"].as_str().unwrap().contains(word));
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.iter().enumerate().any(|(at, byte)| *byte == what[0] && bytes[at..].starts_with(what))
}

/// Files below a directory that hold the mark.
fn marked(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(marked(&path));
        } else if std::fs::read(&path).is_ok_and(|bytes| holds(&bytes, MARK.as_bytes())) {
            found.push(path);
        }
    }
    found
}

async fn delete(server: &Server, path: &str) -> Value {
    let answer = server.http.delete(server.url(path)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

/// What is told of an erased run.
async fn erased(server: &Server, id: &str) -> Value {
    let (status, answer) = server.get(&format!("/v1/runs/{id}")).await;
    assert_eq!((status, &answer["error"]["code"]), (410, &json!("run_gone")), "{answer}");
    assert!(answer["error"]["erased_at"].is_string(), "{answer}");
    answer["error"]["bytes_gone_at"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_it_says_so_no_file_has_the_bytes() {
    let mut server = Server::start().await;
    for n in 0..6 {
        say(&server, &format!("other-{n}"), None, &format!("pear-{n}")).await;
        say(&server, &format!("mine-{n}"), None, MARK).await;
        for op in 0..3 {
            let cancel = json!({ "op_id": format!("{MARK}-{op}"), "reason": MARK });
            assert_eq!(server.post(&format!("/v1/runs/mine-{n}/cancel"), &cancel).await.0, 200);
        }
    }
    assert!(!marked(&server.data()).is_empty());
    for n in 0..5 {
        delete(&server, &format!("/v1/runs/mine-{n}")).await;
    }
    let answer = delete(&server, "/v1/runs/mine-5?wait_ms=30000").await;
    assert!(answer["bytes_gone_at"].is_string(), "{answer}");
    for n in 0..6 {
        let id = format!("mine-{n}");
        until("it is told of each", async || erased(&server, &id).await.is_string().then_some(())).await;
    }
    assert_eq!(erased(&server, "mine-5").await, answer["bytes_gone_at"]);
    assert_eq!(marked(&server.data()), [] as [PathBuf; 0]);
    // What is told survives, the others are whole, and the store is sound.
    server.kill9();
    server.up().await;
    assert_eq!(erased(&server, "mine-5").await, answer["bytes_gone_at"]);
    for n in 0..6 {
        let other = server.run(&format!("other-{n}")).await;
        assert!(other["output_text"].as_str().unwrap().contains(&format!("pear-{n}")), "{other}");
    }
    server.term();
    let verified = Command::new(LONGHAUL).arg("--data-dir").arg(server.data()).arg("verify").output().unwrap();
    assert!(verified.status.success(), "{verified:?}");
    assert_eq!(marked(&server.data()), [] as [PathBuf; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_erasure_and_its_end_is_made_good_by_the_next_start() {
    let mut server = Server::start().await;
    say(&server, "other", None, "pear").await;
    for round in 0..12_u64 {
        let id = format!("mine-{round}");
        say(&server, &id, None, MARK).await;
        delete(&server, &format!("/v1/runs/{id}")).await;
        tokio::time::sleep(Duration::from_micros(round * 900)).await;
        server.kill9();
        let said_before = round % 2 == 0;
        server.up().await;
        if said_before {
            // Whatever it says right after the start, it is the truth.
            let gone = erased(&server, &id).await;
            assert!(gone.is_null() || marked(&server.data()).is_empty(), "{gone}");
        }
        until("the bytes to be gone", async || erased(&server, &id).await.is_string().then_some(())).await;
        assert_eq!(marked(&server.data()), [] as [PathBuf; 0], "round {round}");
    }
    assert!(server.run("other").await["output_text"].as_str().unwrap().contains("pear"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_with_its_home_and_keeps_what_is_its_own_until_then() {
    let mut server = Server::start().await;
    say(&server, "first", Some("s"), MARK).await;
    say(&server, "second", Some("s"), MARK).await;
    for id in ["first", "second"] {
        let answer = delete(&server, &format!("/v1/runs/{id}?wait_ms=30000")).await;
        assert!(answer["bytes_gone_at"].is_string(), "{answer}");
    }
    let left = marked(&server.data());
    let of_the_session = |path: &PathBuf| {
        path.ends_with("home/said") || path.parent().unwrap().ends_with("work") || {
            path.starts_with(server.data().join("work"))
        }
    };
    assert!(!left.is_empty() && left.iter().all(of_the_session), "its home and its directory: {left:?}");
    let answer = delete(&server, "/v1/sessions/s?wait_ms=30000").await;
    assert!(answer["bytes_gone_at"].is_string(), "{answer}");
    assert_eq!(marked(&server.data()), [] as [PathBuf; 0]);

    // Killed in between, the next start makes it good: nobody is told, and nothing is left.
    say(&server, "third", Some("s"), MARK).await;
    delete(&server, "/v1/runs/third?wait_ms=30000").await;
    delete(&server, "/v1/sessions/s").await;
    server.kill9();
    server.up().await;
    until("the bytes to be gone", async || marked(&server.data()).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_waits_if_it_is_told_to() {
    let server = Server::start().await;
    say(&server, "mine", None, MARK).await;
    let rm = Command::new(LONGHAUL)
        .args(["--server", server.base.trim_start_matches("http://"), "--project", "default", "rm", "--wait", "mine"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&rm.stdout).into_owned();
    assert!(rm.status.success() && said.contains("its bytes are gone since 20"), "{rm:?}");
    assert_eq!(marked(&server.data()), [] as [PathBuf; 0]);
    assert!(erased(&server, "mine").await.is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_removed_is_not_said_to_be_gone() {
    let server = Server::start().await;
    say(&server, "mine", None, MARK).await;
    // A file that may not be removed, not even by root.
    let dir = std::fs::read_dir(server.data().join("homes")).unwrap().next().unwrap().unwrap().path();
    let file = dir.join("home/said");
    let flag = |word: &str| Command::new("chattr").arg(word).arg(&file).status().is_ok_and(|status| status.success());
    if !flag("+i") {
        println!("skipped: no file can be made immutable here");
        return;
    }
    let answer = delete(&server, "/v1/runs/mine?wait_ms=1500").await;
    let before = (answer["bytes_gone_at"].clone(), erased(&server, "mine").await);
    assert!(flag("-i"));
    assert_eq!(before, (Value::Null, Value::Null));
    until("the bytes to be gone", async || erased(&server, "mine").await.is_string().then_some(())).await;
    assert_eq!(marked(&server.data()), [] as [PathBuf; 0]);
}
