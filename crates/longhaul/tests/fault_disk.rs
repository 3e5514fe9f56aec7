//! A full disk: refusals are clear, reads go on, a cancel still works, nothing acknowledged is lost, and work goes on
//! when there is room again. On a small tmpfs of its own.
#![allow(missing_docs)]

mod support;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use support::{Server, assert_log, output_of, until};

/// A small file system of its own, gone when the test is.
struct Small {
    path: PathBuf,
}

impl Small {
    fn mount(path: PathBuf, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={mebibytes}m");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).output().unwrap();
        if done.status.success() {
            return Some(Self { path });
        }
        println!("skipped: no tmpfs can be mounted here: {}", String::from_utf8_lossy(&done.stderr).trim());
        None
    }

    /// Fills it to the last byte; the file that did.
    fn fill(&self) -> PathBuf {
        let path = self.path.join("filler");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        while file.write_all(&vec![0; 65536]).is_ok() {}
        while file.write_all(&[0; 512]).is_ok() {}
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn link_data_to(server_dir: &Path, small: &Path) {
    std::os::unix::fs::symlink(small.join("data"), server_dir.join("data")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_clearly_and_heals() {
    let place = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(place.path().join("small"), 48) else { return };
    let server = Server::start_prepared(|dir| {
        std::fs::create_dir_all(small.path.join("data")).unwrap();
        link_data_to(dir, &small.path);
    })
    .await;
    server.sh("before", "echo before").await;
    let before = server.end("before").await;
    let go = place.path().join("go");
    let script = format!("echo one; while [ ! -e {} ]; do sleep 0.02; done; seq 1 20000; echo done", go.display());
    server.sh("talker", &script).await;
    server.status("talker", "running").await;
    server.sh("sleeper", "sleep 1000").await;
    server.status("sleeper", "running").await;

    let filler = small.fill();
    let body = json!({ "run_id": "refused", "command": "/bin/true" });
    let (status, refusal) = until("a refusal for want of space", async || {
        let (status, body) = server.post("/v1/runs", &body).await;
        // What is already allocated may take a few more; fill that as well.
        small.fill();
        (status >= 400).then_some((status, body))
    })
    .await;
    assert_eq!((status, &refusal["error"]["code"]), (507, &json!("store_full")), "{refusal}");
    assert_eq!(server.run("before").await, before, "reads go on");
    std::fs::write(&go, "").unwrap();

    let (status, cancelled) = server.post("/v1/runs/sleeper/cancel?wait_ms=20000", &json!({})).await;
    assert_eq!(
        (status, &cancelled["run"]["status"]),
        (200, &json!("cancelled")),
        "a cancel has its reserve: {cancelled}"
    );

    std::fs::remove_file(&filler).unwrap();
    let talker = server.end("talker").await;
    assert_eq!(talker["status"], "completed", "{talker}");
    let events = server.events("talker").await;
    assert_log(&events);
    let expected: String = std::iter::once("one".to_owned())
        .chain((1..=20000).map(|n: u32| n.to_string()))
        .chain(["done".to_owned()])
        .map(|line| line + "\n")
        .collect();
    assert_eq!(output_of(&events, "stdout"), expected.as_bytes());
    assert_eq!(server.spool("talker", "stdout").await, expected.as_bytes());
    until("the refused run to be accepted", async || {
        let (status, _) = server.post("/v1/runs", &body).await;
        (status == 201 || status == 200).then_some(())
    })
    .await;
    assert_eq!(server.end("refused").await["status"], "completed");
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_the_bound_nothing_new_is_accepted_and_what_was_goes_on() {
    let mut server = Server::start_with(&["--live-max", "1"], &[]).await;
    let go = server.dir.path().join("go");
    server.sh("live", &format!("while [ ! -e {} ]; do sleep 0.02; done; echo through", go.display())).await;
    server.status("live", "running").await;
    server.sh("waits", "echo later").await;
    assert_eq!(server.get("/health").await.1["disk"]["low"], false);
    server.kill9();
    // More than any disk has.
    let bound = 1_u64 << 60;
    server.args.extend(["--disk-free-min-bytes".to_owned(), bound.to_string()]);
    server.up().await;

    let body = json!({ "run_id": "new", "command": "/bin/true" });
    let (status, answer) = server.post("/v1/runs", &body).await;
    let error = &answer["error"];
    assert_eq!((status, &error["code"], &error["dispatch"]), (507, &json!("disk_low"), &json!("not_started")));
    assert_eq!((&error["min_free_bytes"], &error["key"]), (&json!(bound), &json!("limits.disk_free_min_bytes")));
    let free = error["free_bytes"].as_u64().unwrap();
    let message = error["message"].as_str().unwrap();
    for told in
        [format!("{} MiB free", free >> 20), format!("{} MiB:", bound >> 20), error["key"].as_str().unwrap().to_owned()]
    {
        assert!(message.contains(&told), "{told} is told: {message}");
    }
    let chat = json!({ "model": "demo", "messages": [{ "role": "user", "content": "x" }] });
    let (status, answer) = server.post("/v1/chat/completions", &chat).await;
    assert_eq!((status, &answer["error"]["code"]), (507, &json!("disk_low")), "{answer}");
    let disk = server.get("/health").await.1["disk"].clone();
    assert_eq!((&disk["low"], &disk["min_free_bytes"]), (&json!(true), &json!(bound)), "{disk}");
    assert_eq!(server.get("/v1/runs/new").await.0, 404, "nothing was stored");
    let same = json!({ "run_id": "waits", "command": "/bin/sh", "args": ["-c", "echo later"] });
    assert_eq!(server.post("/v1/runs", &same).await.0, 200, "what is there is attached to");
    std::fs::write(&go, "").unwrap();
    for (id, text) in [("live", "through\n"), ("waits", "later\n")] {
        assert_eq!(server.end(id).await["output_text"], text);
    }

    // The last word is the option's: without a bound the same request is taken.
    server.kill9();
    server.args.truncate(2);
    server.args.extend(["--disk-free-min-bytes", "0", "--disk-free-min-percent", "0"].map(str::to_owned));
    server.env.push(("LONGHAUL_DISK_FREE_MIN_BYTES".to_owned(), bound.to_string()));
    server.up().await;
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    assert_eq!(server.end("new").await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bound_is_looked_at_for_each_run_and_not_once() {
    let place = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(place.path().join("small"), 64) else { return };
    let mut server = Server::start_prepared(|dir| {
        std::fs::create_dir_all(small.path.join("data")).unwrap();
        link_data_to(dir, &small.path);
    })
    .await;
    server.kill9();
    server.args.extend(["--disk-free-min-percent", "40"].map(str::to_owned));
    server.up().await;
    server.sh("before", "true").await;
    server.end("before").await;
    let filler = small.path.join("filler");
    std::fs::write(&filler, vec![0; 40 << 20]).unwrap();
    let body = json!({ "run_id": "again", "command": "/bin/true" });
    let (status, answer) = server.post("/v1/runs", &body).await;
    assert_eq!((status, &answer["error"]["key"]), (507, &json!("limits.disk_free_min_percent")), "{answer}");
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    assert_eq!(server.end("again").await["status"], "completed");
}
