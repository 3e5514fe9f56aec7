//! Places: who may have a process, and what those in line are told.
#![allow(missing_docs)]

mod support;

use serde_json::json;
use support::{Server, assert_no_process};

/// Starts a command in a project that ends when it is told to.
async fn sleeper(server: &Server, project: &str, id: &str) {
    let body = json!({ "run_id": id, "project": project, "harness": "exec", "command": "sleep", "args": ["600"] });
    let (status, answer) = server.post("/v1/runs", &body).await;
    assert_eq!(status, 201, "{answer}");
}

async fn status(server: &Server, project: &str, id: &str) -> String {
    let (_, run) = server.get(&format!("/v1/runs/{id}?project={project}")).await;
    run["status"].as_str().unwrap_or_default().to_owned()
}

async fn running(server: &Server, project: &str, id: &str) {
    support::until(&format!("{id} to run"), async || (status(server, project, id).await == "running").then_some(()))
        .await;
}

async fn end(server: &Server, project: &str, id: &str) {
    let (status, answer) =
        server.post(&format!("/v1/runs/{id}/cancel?wait_ms=30000&project={project}"), &json!({})).await;
    assert_eq!(status, 200, "{answer}");
}

async fn cause(server: &Server, project: &str, id: &str) -> String {
    let (_, why) = server.get(&format!("/v1/runs/{id}/why?project={project}")).await;
    why["cause"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_each_by_itself_and_over_a_crash() {
    let args = ["--live-max", "4", "--reserve", "review=1", "--harness-max", "demo=1", "--client-max", "2"];
    let mut server = Server::start_with(&args, &[]).await;
    // One client has two places and no third, although there is room.
    for id in ["b1", "b2", "b3"] {
        sleeper(&server, "bulk", id).await;
    }
    running(&server, "bulk", "b1").await;
    running(&server, "bulk", "b2").await;
    assert_eq!(cause(&server, "bulk", "b3").await, "waits for a place: 0 before it, 2 of 2 places of its client taken");
    // Another client goes past it and takes the last common place.
    sleeper(&server, "other", "o1").await;
    running(&server, "other", "o1").await;
    sleeper(&server, "other", "o2").await;
    let text = "waits for a place: 1 before it, 3 of 3 places taken, 1 more are reserved";
    assert_eq!(cause(&server, "other", "o2").await, text);
    // The reserved one was kept.
    sleeper(&server, "review", "r1").await;
    running(&server, "review", "r1").await;

    // The next server counts those who have a process and keeps the others where they were.
    server.kill9();
    server.up().await;
    support::until("the adoption", async || {
        let (_, health) = server.get("/health").await;
        (health["recovery"]["adopted"] == 4).then_some(())
    })
    .await;
    let (_, health) = server.get("/health").await;
    assert_eq!((&health["runs"]["places_taken"], &health["runs"]["queued"]), (&json!(4), &json!(2)));
    assert_eq!(health["drift"], json!({ "idle_places": 0, "uncounted_runs": 0 }));
    assert_eq!(status(&server, "bulk", "b3").await, "queued");

    // A reserved place that is free again is not lent; a common one goes to whoever may have it.
    end(&server, "review", "r1").await;
    assert_eq!(status(&server, "other", "o2").await, "queued");
    end(&server, "bulk", "b1").await;
    running(&server, "bulk", "b3").await;
    // Those who wait can be cancelled and leave the line.
    end(&server, "other", "o2").await;
    support::until("the line to be empty", async || {
        (server.get("/health").await.1["runs"]["queued"] == 0).then_some(())
    })
    .await;
    for (project, id) in [("bulk", "b2"), ("bulk", "b3"), ("other", "o1")] {
        end(&server, project, id).await;
    }
    let (_, health) = server.get("/health").await;
    assert_eq!(health["drift"], json!({ "idle_places": 0, "uncounted_runs": 0 }));
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_harness_has_its_own_limit_and_holds_nobody_else_up() {
    let server = Server::start_with(&["--live-max", "4", "--harness-max", "demo=1"], &[]).await;
    for id in ["d1", "d2"] {
        let body = json!({ "run_id": id, "harness": "demo", "model": "slow", "prompt": "600" });
        assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    }
    running(&server, "default", "d1").await;
    sleeper(&server, "default", "e1").await;
    running(&server, "default", "e1").await;
    let text = "waits for a place: 0 before it, 1 of 1 places of harness demo taken";
    assert_eq!(cause(&server, "default", "d2").await, text);
    end(&server, "default", "d1").await;
    running(&server, "default", "d2").await;
    end(&server, "default", "d2").await;
    end(&server, "default", "e1").await;
    assert_no_process(&server.data()).await;
}

/// One after another in one directory, over a crash, without a place while they wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_waited_for_in_order_and_without_a_place() {
    let mut server = Server::start_with(&["--live-max", "2"], &[]).await;
    let dir = server.dir.path().join("shared");
    std::fs::create_dir(&dir).unwrap();
    let agent = json!({ "run_id": "a", "harness": "demo", "model": "slow", "prompt": "3000", "cwd": dir });
    assert_eq!(server.post("/v1/runs", &agent).await.0, 201);
    running(&server, "default", "a").await;
    for id in ["b", "c", "d", "e"] {
        let script = format!("touch {id}; while ! [ -e go-{id} ]; do sleep 0.02; done");
        let body = json!({
            "run_id": id, "command": "/bin/sh", "args": ["-c", script], "cwd": dir, "on_cwd_busy": "queue",
        });
        let (status, run) = server.post("/v1/runs", &body).await;
        assert_eq!((status, &run["status"], &run["warnings"]), (201, &json!("queued"), &json!(0)), "{run}");
    }
    let place = format!("in {}", dir.display());
    // Whose end was told may be in line for a moment more, until the server has tidied up after it.
    let waits = async |server: &Server, id: &str, other: &str, before: usize| {
        let cause = format!("waits until run {other} no longer works {place}");
        let facts = json!([format!("{before} runs in this directory are before it")]);
        support::until(&format!("{id} to be told: {cause}, {facts}"), async || {
            let (_, why) = server.get(&format!("/v1/runs/{id}/why")).await;
            (why["cause"] == cause && why["facts"] == facts).then_some(())
        })
        .await;
    };
    waits(&server, "b", "a", 1).await;
    waits(&server, "e", "a", 4).await;
    // They hold no place: another gets the second one.
    sleeper(&server, "default", "elsewhere").await;
    running(&server, "default", "elsewhere").await;

    server.kill9();
    server.up().await;
    waits(&server, "c", "a", 2).await;
    // Who waits can be cancelled, and nobody is woken by it.
    end(&server, "default", "c").await;
    assert_eq!(status(&server, "default", "c").await, "cancelled");
    waits(&server, "d", "a", 2).await;

    end(&server, "default", "a").await;
    for (id, next) in [("b", Some("d")), ("d", Some("e")), ("e", None)] {
        running(&server, "default", id).await;
        if let Some(next) = next {
            waits(&server, next, id, 1).await;
            assert!(!dir.join(next).exists(), "{next} works at the same time as {id}");
        }
        std::fs::write(dir.join(format!("go-{id}")), "").unwrap();
        assert_eq!(server.end(id).await["status"], "completed");
    }
    assert!(!dir.join("c").exists());
    end(&server, "default", "elsewhere").await;
    // Nobody is there: it begins at once.
    let body = json!({ "run_id": "f", "command": "/bin/true", "cwd": dir, "on_cwd_busy": "queue" });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    assert_eq!(server.end("f").await["status"], "completed");
    assert_no_process(&server.data()).await;
}
