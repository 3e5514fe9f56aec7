//! Backups of a live server under load, of a directory that a kill left, and the way back.
#![allow(missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use support::{ANY_DISK, LONGHAUL, Server, assert_log, until};

/// The command line: status, stdout, stderr.
fn longhaul(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(LONGHAUL).args(args).envs(ANY_DISK).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Restores a backup and starts a server on it.
async fn restored(backup: &Path) -> Server {
    Server::start_prepared(|dir| {
        let (status, out, error) = longhaul(&["restore", text(backup), "--data-dir", text(&dir.join("data"))]);
        assert_eq!(status, Some(0), "{out}{error}");
        assert_eq!(longhaul(&["verify", text(&dir.join("data"))]).0, Some(0));
    })
    .await
}

/// Every file below a directory with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.file_type().unwrap().is_file() {
            found.insert(entry.path(), std::fs::read(entry.path()).unwrap());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_a_backup_under_load_is_in_it_and_the_original_goes_on() {
    let server = Server::start_with(&["--live-max", "6"], &[]).await;
    let place = tempfile::tempdir().unwrap();
    let go = place.path().join("go");
    for n in 0..10 {
        server.sh(&format!("ended-{n}"), &format!("seq {} ; echo error >&2", 100 * n)).await;
    }
    for n in 0..10 {
        server.end(&format!("ended-{n}")).await;
    }
    // Runs that print all the while, one that waits for a place, and somebody who begins and ends more of them.
    let talk = format!(
        "i=0; while [ ! -e {} ]; do i=$((i+1)); echo line $i of a talker; sleep 0.01; done; echo done",
        go.display()
    );
    for n in 0..5 {
        let body = json!({
            "run_id": format!("talker-{n}"), "command": "/bin/sh", "args": ["-c", talk],
            "env": { "SECRET": "plum-7f3a-secret" }, "limits": {},
        });
        assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    }
    for n in 0..5 {
        until("a talker to talk", async || {
            (server.run(&format!("talker-{n}")).await["last_seq"].as_u64()? > 50).then_some(())
        })
        .await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let busy = tokio::spawn({
        let (stop, http, url) = (Arc::clone(&stop), server.http.clone(), server.url("/v1/runs"));
        async move {
            let mut made = 0;
            while !stop.load(Ordering::Relaxed) {
                let body = json!({ "run_id": format!("busy-{made}"), "command": "/bin/echo", "args": ["hello"] });
                assert_eq!(http.post(&url).body(body.to_string()).send().await.unwrap().status(), 201);
                made += 1;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            made
        }
    });
    let mut before = BTreeMap::new();
    for id in (0..10).map(|n| format!("ended-{n}")).chain((0..5).map(|n| format!("talker-{n}"))) {
        before.insert(id.clone(), server.events(&id).await);
    }
    let dest = place.path().join("backup");
    let (status, made) = server.post("/v1/backup", &json!({ "dest": dest })).await;
    assert_eq!((status, &made["output"]), (200, &json!(true)), "{made}");
    stop.store(true, Ordering::Relaxed);
    assert!(busy.await.unwrap() > 0);

    assert_eq!(longhaul(&["verify", text(&dest)]).0, Some(0));
    for (path, bytes) in files(&dest) {
        assert!(!holds(&bytes, b"plum-7f3a-secret"), "a secret is in {}", path.display());
    }
    let copy = restored(&dest).await;
    for (id, events) in &before {
        let there = copy.events(id).await;
        assert_log(&there);
        assert_eq!(&there[..events.len()], events, "{id}: all that was acknowledged, as it was");
        if id.starts_with("ended") {
            assert_eq!(&there, events);
            for stream in ["stdout", "stderr"] {
                assert_eq!(copy.spool(id, stream).await, server.spool(id, stream).await, "{id} {stream}");
            }
            continue;
        }
        let end = copy.end(id).await;
        assert_eq!((&end["status"], &end["error"]["code"]), (&json!("failed"), &json!("lost")), "{end}");
        let told = copy.events(id).await;
        assert!(told.iter().any(|e| e["type"] == "warning" && e["data"]["code"] == "restored"), "{id}");
        assert_log(&told);
    }
    // The copy has touched nothing of the original: its runs talk on and end well.
    std::fs::write(&go, "").unwrap();
    for n in 0..5 {
        assert_eq!(server.end(&format!("talker-{n}")).await["status"], "completed");
    }
    // It is another store, and takes new runs.
    let tail = |dir: &Path| std::fs::read(dir.join("store/tail")).unwrap()[..16].to_vec();
    assert_eq!(tail(&dest), tail(&server.data()));
    assert_ne!(tail(&dest), tail(&copy.data()));
    copy.sh("new", "echo new").await;
    assert_eq!(copy.end("new").await["output_text"], "new\n");
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queued_run_and_one_that_outlives_the_backup_are_lost_in_the_copy_also_over_a_restart() {
    let server = Server::start_with(&["--live-max", "1"], &[]).await;
    let place = tempfile::tempdir().unwrap();
    let (go, mark) = (place.path().join("go"), place.path().join("mark"));
    server.sh("live", &format!("while [ ! -e {} ]; do sleep 0.02; done", go.display())).await;
    server.status("live", "running").await;
    server.sh("queued", &format!("echo once >> {}", mark.display())).await;
    let dest = place.path().join("backup");
    let (status, made) = server.post("/v1/backup", &json!({ "dest": dest, "output": false })).await;
    assert_eq!((status, &made["live"]), (200, &json!(2)), "{made}");
    assert!(!dest.join("runs").exists(), "no output was asked for");
    let mut copy = restored(&dest).await;
    for id in ["live", "queued"] {
        assert_eq!(copy.end(id).await["error"]["code"], "lost");
    }
    // A run of the copy's own is its own, over a kill as ever.
    copy.sh("own", &format!("while [ ! -e {} ]; do sleep 0.02; done; echo kept", go.display())).await;
    copy.status("own", "running").await;
    copy.kill9();
    copy.up().await;
    std::fs::write(&go, "").unwrap();
    assert_eq!(copy.end("own").await["output_text"], "kept\n");
    assert_eq!(server.end("live").await["status"], "completed");
    assert_eq!(server.end("queued").await["status"], "completed");
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "once\n", "what waited was done once, by the original");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_a_kill_left_is_backed_up_without_a_server_and_stays_as_it_is() {
    let mut server = Server::start().await;
    for n in 0..20 {
        server.sh(&format!("r{n}"), "echo words").await;
        server.end(&format!("r{n}")).await;
    }
    let before = server.events("r19").await;
    server.kill9();
    // The start of a server would find what is not applied yet in the journal; so must a backup.
    let stored = |server: &Server| files(&server.data().join("store"));
    let was = stored(&server);
    let place = tempfile::tempdir().unwrap();
    let dest = place.path().join("backup");
    let (status, out, error) = longhaul(&["--data-dir", text(&server.data()), "backup", text(&dest), "--json"]);
    assert_eq!(status, Some(0), "{error}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["runs"], 20, "{out}");
    assert!(stored(&server) == was, "the source is only read");
    assert_eq!(longhaul(&["verify", text(&dest)]).0, Some(0));
    let copy = restored(&dest).await;
    assert_eq!(copy.events("r19").await, before);
    assert_eq!(copy.spool("r19", "stdout").await, b"words\n");
    // The same by the command line beside a live server.
    let again = place.path().join("again");
    let (status, out, error) = longhaul(&["--data-dir", text(&copy.data()), "backup", text(&again), "--no-output"]);
    assert_eq!(status, Some(0), "{error}");
    assert!(out.contains("20 runs"), "{out}");
    assert_eq!(longhaul(&["verify", text(&again)]).0, Some(0));
}

/// What the refusal names, why, and how it comes about.
type Damage<'a> = (&'a str, &'a str, Box<dyn Fn() + 'a>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_is_refused_by_the_name_of_what_is_damaged() {
    let server = Server::start().await;
    server.sh("r", "echo words").await;
    server.end("r").await;
    let place = tempfile::tempdir().unwrap();
    let dest = place.path().join("backup");
    assert_eq!(server.post("/v1/backup", &json!({ "dest": dest })).await.0, 200);
    let stdout = files(&dest).into_keys().find(|path| path.ends_with("stdout")).unwrap();
    let spool = text(stdout.strip_prefix(&dest).unwrap()).to_owned();
    let manifest = dest.join("manifest.json");
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let edit = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&manifest).unwrap();
        assert!(text.contains(from), "{from} is in {text}");
        std::fs::write(&manifest, text.replacen(from, to, 1)).unwrap();
    };
    let damages: Vec<Damage<'_>> = vec![
        ("store/longhaul.db", "its sha-256 is", Box::new(|| flip(&dest.join("store/longhaul.db")))),
        ("store/journal.db", "its sha-256 is", Box::new(|| flip(&dest.join("store/journal.db")))),
        (&spool, "its sha-256 is", Box::new(|| flip(&stdout))),
        (&spool, "it has 0 bytes, 6 were", Box::new(|| std::fs::write(&stdout, "").unwrap())),
        ("store/tail", "the file is missing", Box::new(|| std::fs::remove_file(dest.join("store/tail")).unwrap())),
        ("manifest.json", "is not a backup", Box::new(|| std::fs::remove_file(&manifest).unwrap())),
        ("manifest.json", "is not a backup", Box::new(|| std::fs::write(&manifest, "{").unwrap())),
        ("its form is 2", "is not a backup", Box::new(|| edit("\"format\": 1", "\"format\": 2"))),
        ("../../elsewhere", "leads out", Box::new(|| edit("store/tail", "../../elsewhere"))),
    ];
    let whole = files(&dest);
    let into = place.path().join("into");
    for (name, why, damage) in &damages {
        damage();
        let (status, _, error) = longhaul(&["restore", text(&dest), "--data-dir", text(&into)]);
        assert_eq!(status, Some(125), "{name}");
        assert!(error.contains(name) && error.contains(why), "{name}, {why}: {error}");
        let left: Vec<_> = std::fs::read_dir(place.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["backup"], "nothing is left of it");
        for (path, bytes) in &whole {
            std::fs::write(path, bytes).unwrap();
        }
    }
    // A directory that holds anything is left alone.
    std::fs::create_dir(&into).unwrap();
    std::fs::write(into.join("mine"), "").unwrap();
    let (status, _, error) = longhaul(&["restore", text(&dest), "--data-dir", text(&into)]);
    assert_eq!(status, Some(125));
    assert!(error.contains("is not empty"), "{error}");
    std::fs::remove_file(into.join("mine")).unwrap();
    assert_eq!(longhaul(&["restore", text(&dest), "--data-dir", text(&into)]).0, Some(0));

    // Where a backup cannot be, none is made.
    for (path, why) in [
        (json!("relative"), "must be absolute"),
        (json!(dest), "there is something"),
        (json!(place.path().join("none/backup")), "is not there"),
        (json!("/"), "has no name"),
    ] {
        let (status, answer) = server.post("/v1/backup", &json!({ "dest": path })).await;
        let error = &answer["error"];
        assert_eq!((status, &error["code"], &error["param"]), (400, &json!("invalid_field"), &json!("dest")), "{path}");
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    }
    assert_eq!(server.post("/v1/backup", &json!({})).await.0, 400);
    assert_eq!(server.post("/v1/backup", &json!({ "dest": "/x", "to": 1 })).await.1["error"]["code"], "unknown_field");
}

/// What a backup under way is called.
fn partial(place: &Path) -> Option<PathBuf> {
    let mut entries = std::fs::read_dir(place).unwrap().flatten();
    entries.find(|entry| entry.file_name().to_string_lossy().contains(".partial-")).map(|entry| entry.path())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_the_middle_leaves_nothing_that_looks_like_a_backup() {
    let mut server = Server::start().await;
    for n in 0..8 {
        server.sh(&format!("r{n}"), "seq 20000").await;
    }
    for n in 0..8 {
        server.end(&format!("r{n}")).await;
    }
    let place = tempfile::tempdir().unwrap();
    let dest = place.path().join("backup");
    let mut killed = 0;
    for _ in 0..20 {
        let asked =
            tokio::spawn(server.http.post(server.url("/v1/backup")).body(json!({ "dest": dest }).to_string()).send());
        until("the backup to begin", async || (partial(place.path()).is_some() || dest.exists()).then_some(())).await;
        server.kill9();
        let _ = asked.await.unwrap();
        if dest.exists() {
            assert_eq!(longhaul(&["verify", text(&dest)]).0, Some(0), "what has the name is whole");
            std::fs::remove_dir_all(&dest).unwrap();
        } else {
            let left = partial(place.path()).expect("it was killed in the middle");
            let into = place.path().join("into");
            let (status, _, error) = longhaul(&["restore", text(&left), "--data-dir", text(&into)]);
            assert_eq!(status, Some(125), "{error}");
            assert!(!into.exists());
            std::fs::remove_dir_all(&left).unwrap();
            killed += 1;
        }
        server.up().await;
        if killed == 3 {
            break;
        }
    }
    assert!(killed > 0, "no kill was in the middle of one");
    // One that is asked for and not waited for is given up without a trace.
    let impatient = server.http.post(server.url("/v1/backup")).body(json!({ "dest": dest }).to_string());
    let _ = impatient.timeout(std::time::Duration::from_millis(15)).send().await;
    until("the partial one to go", async || partial(place.path()).is_none().then_some(())).await;
    assert!(!dest.exists() || longhaul(&["verify", text(&dest)]).0 == Some(0), "all of it or nothing");
    let _ = std::fs::remove_dir_all(&dest);
    assert_eq!(server.post("/v1/backup", &json!({ "dest": dest })).await.0, 200);
    assert_eq!(longhaul(&["verify", text(&dest)]).0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_are_erased_meanwhile_are_in_it_whole_or_without_their_output() {
    let server = Server::start().await;
    let ids: Vec<String> = (0..40).map(|n| format!("r{n}")).collect();
    for id in &ids {
        server.sh(id, "seq 3000; seq 3000 >&2").await;
    }
    let mut expected = BTreeMap::new();
    for id in &ids {
        server.end(id).await;
        expected
            .insert(id, (server.events(id).await, server.spool(id, "stdout").await, server.spool(id, "stderr").await));
    }
    let place = tempfile::tempdir().unwrap();
    let dest = place.path().join("backup");
    let made =
        tokio::spawn(server.http.post(server.url("/v1/backup")).body(json!({ "dest": dest }).to_string()).send());
    until("the backup to begin", async || (partial(place.path()).is_some() || dest.exists()).then_some(())).await;
    for id in &ids {
        let gone = server.http.delete(server.url(&format!("/v1/runs/{id}"))).send().await.unwrap();
        assert_eq!(gone.status(), 200);
    }
    assert_eq!(made.await.unwrap().unwrap().status(), 200);
    let copy = restored(&dest).await;
    let mut whole = 0;
    for (id, (events, stdout, stderr)) in expected {
        let (status, _) = copy.get(&format!("/v1/runs/{id}")).await;
        if status == 410 {
            continue;
        }
        assert_eq!(copy.events(id).await, events);
        let log = copy.http.get(copy.url(&format!("/v1/runs/{id}/log"))).send().await.unwrap();
        if log.status() == 200 {
            assert_eq!(log.bytes().await.unwrap(), stdout);
            assert_eq!(copy.spool(id, "stderr").await, stderr);
            whole += 1;
        } else {
            assert_eq!(log.status(), 410, "it is said to be gone");
        }
    }
    println!("{whole} runs with their output");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_that_webhooks_are_signed_with_is_in_no_backup_and_a_restored_server_has_another() {
    let server = Server::start().await;
    let kid = async |server: &Server| {
        let (status, keys) = server.get("/v1/stream/__ds/jwks.json").await;
        assert_eq!(status, 200, "{keys}");
        keys["keys"][0]["kid"].as_str().unwrap().to_owned()
    };
    let made = kid(&server).await;
    let file = server.data().join("subscription-keys");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let keys = std::fs::read(&file).unwrap();
    let place = tempfile::tempdir().unwrap();
    let backup = place.path().join("backup");
    let (status, out, error) = longhaul(&["--data-dir", text(&server.data()), "backup", text(&backup)]);
    assert_eq!(status, Some(0), "{out}{error}");
    for (path, bytes) in files(&backup).iter().chain(&files(&server.data().join("store"))) {
        for secret in keys.chunks(32) {
            assert!(!bytes.windows(32).any(|found| found == secret), "{} holds a key", path.display());
        }
    }
    assert_ne!(kid(&restored(&backup).await).await, made);
    assert_eq!(kid(&server).await, made);
}
