//! Runs in control groups of their own: limits that the kernel keeps, and trees that nothing can flee from.
#![allow(missing_docs)]

mod support;

use std::path::Path;

use longhaul_supervise::{Grounds, Group, Where};
use serde_json::{Value, json};
use support::proc::start_time;
use support::{LONGHAUL, Server, assert_log, assert_no_process, groups_of, until};

/// What a server can do here; a test that needs more says so and ends.
fn grounds(what: &str, enough: impl Fn(&Grounds) -> bool) -> bool {
    let grounds = Grounds::find(&Where::Own, Path::new(LONGHAUL));
    let enough = enough(&grounds);
    if !enough {
        println!("this machine lets nobody here make control groups with {what}: {grounds:?}");
    }
    enough
}

/// The refusal of a machine that cannot keep a limit.
async fn assert_refused(server: &Server, limits: Value, param: &str) {
    let body = json!({ "run_id": "refused", "command": "true", "limits": limits });
    let (status, answer) = server.post("/v1/runs", &body).await;
    let error = &answer["error"];
    assert_eq!(
        (status, &error["code"], &error["param"]),
        (422, &json!("limit_unenforceable"), &json!(param)),
        "{error}"
    );
    assert_eq!(error["dispatch"], "not_started");
    assert!(error["message"].as_str().unwrap().contains("control group"), "{error}");
    assert_eq!(server.get("/v1/runs/refused").await.0, 404, "nothing refused is stored");
}

fn code_of(end: &Value) -> &str {
    end["error"]["code"].as_str().unwrap_or_default()
}

fn assert_no_group(server: &Server) {
    let dirs: Vec<_> = groups_of(&server.data()).into_iter().flat_map(|group| group.dirs).collect();
    let left: Vec<_> = dirs.into_iter().filter(|dir| dir.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_hog_ends_as_oom_killed() {
    let server = Server::start().await;
    let limits = json!({ "memory_bytes_max": 64 << 20 });
    if !grounds("a limit of memory", Grounds::limits_memory) {
        return assert_refused(&server, limits, "limits.memory_bytes_max").await;
    }
    for (id, script) in [("leader", "exec tail /dev/zero"), ("child", "tail /dev/zero; exit 7")] {
        let body = json!({ "run_id": id, "command": "/bin/sh", "args": ["-c", script], "limits": limits });
        assert_eq!(server.post("/v1/runs", &body).await.0, 201);
        let end = server.end(id).await;
        assert_eq!((&end["status"], code_of(&end)), (&json!("failed"), "oom_killed"), "{end}");
        let events = server.events(id).await;
        assert_log(&events);
        let warned = events.iter().any(|e| e["type"] == "warning" && e["data"]["code"] == "oom_kill");
        assert!(warned, "{events:?}");
    }
    // A tool that dies for want of memory does not make a failure of work that went well.
    let script = "tail /dev/zero; echo done";
    let body = json!({ "run_id": "fine", "command": "/bin/sh", "args": ["-c", script], "limits": limits });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    assert_eq!(server.end("fine").await["status"], "completed");
    // Nor is KILL alone a proof.
    let body = json!({ "run_id": "k", "command": "/bin/sh", "args": ["-c", "kill -9 $$"], "limits": limits });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    assert_eq!(code_of(&server.end("k").await), "killed_by_signal");
    assert_no_process(&server.data()).await;
    assert_no_group(&server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_bomb_is_held_and_harms_no_other_run() {
    let server = Server::start().await;
    let limits = json!({ "tasks_max": 20 });
    if !grounds("a limit of tasks", Grounds::limits_tasks) {
        return assert_refused(&server, limits, "limits.tasks_max").await;
    }
    let script = "bomb() { bomb & bomb & sleep 1000; }; bomb 2>/dev/null; sleep 1000";
    let body = json!({ "run_id": "bomb", "command": "/bin/sh", "args": ["-c", script], "limits": limits });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    server.status("bomb", "running").await;
    let group = groups_of(&server.data()).pop().unwrap();
    let refused = |dir: &std::path::PathBuf| {
        let events = std::fs::read_to_string(dir.join("pids.events")).unwrap_or_default();
        events.lines().any(|line| line.starts_with("max ") && line != "max 0")
    };
    until("a fork to be refused", async || group.dirs.iter().any(refused).then_some(())).await;
    // A list is not read in one moment: who makes room for another may be in it beside that one.
    assert!(Group::of(&group).pids().len() <= 40);
    server.sh("other", "echo fine").await;
    assert_eq!(server.end("other").await["output_text"], "fine\n");
    let (status, _) = server.post("/v1/runs/bomb/cancel?wait_ms=30000", &json!({})).await;
    assert_eq!(status, 200);
    assert_no_process(&server.data()).await;
    assert_no_group(&server);
}

/// A grandchild in a session of its own and without an environment carries no marker and has no shim any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_run_leaves_nothing_although_its_processes_hide() {
    if !grounds("anything", Grounds::any) {
        return;
    }
    let mut server = Server::start().await;
    let pid_file = server.dir.path().join("pid");
    let hide =
        format!("setsid env -i /bin/sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000'", pid_file.display());
    server.sh("r", &format!("{hide} & exec sleep 1000")).await;
    let agent = server.status("r", "running").await["pid"].as_i64().unwrap();
    let hidden: i32 =
        until("the hidden process", async || std::fs::read_to_string(&pid_file).ok()).await.trim().parse().unwrap();
    server.kill9();
    let shim = support::proc::shim_of(&server.data(), i32::try_from(agent).unwrap());
    support::proc::signal(shim, rustix::process::Signal::KILL);
    until("the agent to die with its shim", async || start_time(i32::try_from(agent).unwrap()).is_none().then_some(()))
        .await;
    assert!(start_time(hidden).is_some(), "nobody has looked for it yet");
    server.up().await;
    assert_eq!(code_of(&server.end("r").await), "lost");
    assert_eq!(start_time(hidden), None, "an end is told when nothing is left");
    assert_no_group(&server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_control_groups_runs_work_and_limits_are_refused() {
    let server = Server::start_with(&["--cgroup", "off"], &[]).await;
    assert_refused(&server, json!({ "memory_bytes_max": 64 << 20 }), "limits.memory_bytes_max").await;
    assert_refused(&server, json!({ "tasks_max": 20 }), "limits.tasks_max").await;
    server.sh("r", "setsid sleep 1000 & echo fine").await;
    let end = server.end("r").await;
    assert_eq!((&end["status"], &end["output_text"]), (&json!("completed"), &json!("fine\n")));
    assert!(groups_of(&server.data()).is_empty());
    assert_no_process(&server.data()).await;
}
