//! A shim that does not answer: stopped, or deaf. A cancel must come to an end all the same.
#![allow(missing_docs)]

mod support;

use serde_json::{Value, json};
use support::proc::{attempt_of, start_time};
use support::{Server, assert_log, assert_no_process, until};

fn parent_of(pid: i64) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

fn signal(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_shim_does_not_hold_a_cancel_up_for_ever() {
    let server = Server::start().await;
    server.sh("r", "echo on; setsid sleep 1000 & exec sleep 1000").await;
    let pid = server.status("r", "running").await["pid"].as_i64().unwrap();
    until("the output", async || (server.run("r").await["output_text"] == "on\n").then_some(())).await;
    let shim = parent_of(pid);
    signal(shim, rustix::process::Signal::STOP);
    let (status, body) = server.post("/v1/runs/r/cancel", &json!({})).await;
    assert_eq!((status, &body["requested"]), (202, &json!(true)));
    let end = server.end("r").await;
    assert_eq!(end["status"], "cancelled", "{end}");
    let events = server.events("r").await;
    assert_log(&events);
    let exited: &Value = events.iter().find(|e| e["type"] == "process.exited").unwrap();
    assert_eq!((&exited["data"]["how"], &exited["data"]["stop"]), (&json!("lost"), &json!("none")));
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deaf_shim_is_still_read() {
    let server = Server::start().await;
    let go = server.dir.path().join("go");
    server.sh("r", &format!("echo on; until [ -e {} ]; do sleep 0.05; done; echo off", go.display())).await;
    server.status("r", "running").await;
    // A client of the same user, as an agent is, may take the socket's name away.
    let runs = std::fs::read_dir(server.data().join("runs")).unwrap().next().unwrap().unwrap().path();
    let mut server = server;
    server.kill9();
    std::fs::remove_file(runs.join("a1/control")).unwrap();
    server.up().await;
    until("the output", async || (server.run("r").await["output_text"] == "on\n").then_some(())).await;
    std::fs::write(go, "").unwrap();
    let end = server.end("r").await;
    assert_eq!((&end["status"], &end["output_text"]), (&json!("completed"), &json!("on\noff\n")), "{end}");
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_attempt_whose_directory_is_gone_is_lost_and_not_started_twice() {
    let mut server = Server::start().await;
    let count = server.dir.path().join("count");
    server.sh("r", &format!("echo x >> {}; exec sleep 1000", count.display())).await;
    server.status("r", "running").await;
    until("the agent to begin", async || count.exists().then_some(())).await;
    let run = std::fs::read_dir(server.data().join("runs")).unwrap().next().unwrap().unwrap().path();
    server.kill9();
    std::fs::remove_dir_all(run.join("a1")).unwrap();
    server.up().await;
    let end = server.end("r").await;
    assert_eq!((&end["status"], &end["error"]["code"]), (&json!("failed"), &json!("lost")), "{end}");
    assert_eq!(std::fs::read_to_string(count).unwrap(), "x\n", "one agent");
    assert_no_process(&server.data()).await;
}

/// How often the owner of a run started over in this server.
async fn restarts(server: &Server) -> u64 {
    let text = server.http.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("longhaul_owner_restarts_total "));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_breaks_starts_over_alone() {
    let mut server = Server::start().await;
    let go = server.dir.path().join("go");
    let ids = ["broken", "one", "two", "three"];
    for id in ids {
        server
            .sh(id, &format!("echo {id} on; until [ -e {} ]; do sleep 0.02; done; echo {id} off", go.display()))
            .await;
        until("the output", async || (server.run(id).await["output_text"] == format!("{id} on\n")).then_some(())).await;
    }
    let pid = i32::try_from(server.run("broken").await["pid"].as_i64().unwrap()).unwrap();
    let (dir, _) = attempt_of(&server.data(), pid);
    let born = start_time(pid).unwrap();
    server.kill9();
    // The next server cannot read what this run printed.
    std::fs::rename(dir.join("stdout"), dir.join("aside")).unwrap();
    std::fs::create_dir(dir.join("stdout")).unwrap();
    server.up().await;
    until("its owner to start over more than once", async || (restarts(&server).await > 2).then_some(())).await;

    // All others end as they should, and new ones are taken.
    std::fs::write(&go, "").unwrap();
    for id in &ids[1..] {
        let end = server.end(id).await;
        let told = (&end["status"], end["output_text"].as_str().unwrap().to_owned());
        assert_eq!(told, (&json!("completed"), format!("{id} on\n{id} off\n")), "{end}");
        assert_log(&server.events(id).await);
    }
    server.sh("new", "echo new").await;
    assert_eq!(server.end("new").await["status"], "completed");
    // The broken one is neither ended by guess nor started twice, and says what is wrong.
    let run = server.run("broken").await;
    assert_eq!(
        (&run["status"], &run["attempts"], &run["output_text"]),
        (&json!("running"), &json!(1), &json!("broken on\n"))
    );
    let (_, why) = server.get("/v1/runs/broken/why").await;
    assert!(why.to_string().contains("the spool cannot be read"), "{why}");
    assert!(start_time(pid).is_none_or(|now| now == born), "nobody took its process's place");

    // It goes on by itself once that is put right.
    let before = restarts(&server).await;
    std::fs::remove_dir(dir.join("stdout")).unwrap();
    std::fs::rename(dir.join("aside"), dir.join("stdout")).unwrap();
    let end = server.end("broken").await;
    assert_eq!(
        (&end["status"], &end["output_text"]),
        (&json!("completed"), &json!("broken on\nbroken off\n")),
        "{end}"
    );
    assert_log(&server.events("broken").await);
    assert!(before >= 2 && server.is_up());
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_no_commit_can_hold_in_one_piece_is_kept() {
    // NUL bytes are valid UTF-8 and grow sixfold in JSON.
    let server = Server::start().await;
    server.sh("r", "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2").await;
    let end = server.end("r").await;
    assert_eq!(end["status"], "completed", "{}", end["error"]);
    assert_eq!(server.spool("r", "stdout").await.len(), 20_000_000);
    let events = server.events("r").await;
    assert_eq!(support::output_of(&events, "stderr").len(), 20_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_starts_nothing_from_its_queue() {
    for _ in 0..8 {
        let mut server = Server::start_with(&["--live-max", "1"], &[]).await;
        server.sh("live", "exec sleep 1000").await;
        server.status("live", "running").await;
        for at in 0..5 {
            server.sh(&format!("q{at}"), "exec sleep 1000").await;
        }
        assert!(server.term().success());
        server.up().await;
        for at in 0..5 {
            let queued = server.run(&format!("q{at}")).await;
            assert_eq!((&queued["status"], &queued["queue"]["position"]), (&json!("queued"), &json!(at)), "{queued}");
        }
        assert_eq!(server.run("live").await["status"], "running");
    }
}
