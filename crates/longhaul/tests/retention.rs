//! What is kept and for how long: the engine on a clock that the test moves.
#![allow(missing_docs)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use longhaul_engine::{
    DiskFloor, DispatchError, Engine, NewRun, Operation, Options, PlaceLimits, Removed, Retention, Sealed,
};
use longhaul_harness::Permissions;
use longhaul_model::time::Clock;
use longhaul_model::{ProjectId, RunId, RunKey, Timestamp};
use longhaul_store::{Commit, MemoryStore, RecordKey, RecordWrite, Store as _};
use serde_json::json;
use support::Server;

const DAY_MS: i64 = 86_400_000;

#[derive(Clone)]
struct Hands(Arc<AtomicI64>);

impl Hands {
    fn forward(&self, days: i64) {
        self.0.fetch_add(days * DAY_MS, Ordering::Relaxed);
    }
}

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.0.load(Ordering::Relaxed))
    }
}

fn key(id: &str) -> RunKey {
    RunKey { project: ProjectId::default_project(), run: RunId::parse(id).unwrap() }
}

async fn engine(store: &MemoryStore, clock: &Hands, dir: &Path, retention: Retention) -> Engine {
    for name in ["runs", "work"] {
        std::fs::create_dir_all(dir.join(name)).unwrap();
    }
    let options = Options {
        store: Arc::new(store.clone()),
        data_dir: dir.to_owned(),
        exe: env!("CARGO_BIN_EXE_longhaul").into(),
        places: PlaceLimits { live_max: 4, queue_max: 10, ..PlaceLimits::default() },
        retention,
        disk: DiskFloor::default(),
        output_bytes_max: 1 << 20,
        containment: longhaul_engine::Containment::default(),
        clock: Arc::new(clock.clone()),
        address: "127.0.0.1:1".to_owned(),
        environment: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        upstreams: Vec::new(),
    };
    Engine::start(options).await.unwrap()
}

/// A command in a directory of its own.
async fn dispatch(engine: &Engine, id: &str, script: &str) -> Result<(), DispatchError> {
    let sealed = Sealed {
        model: None,
        prompt: None,
        system: None,
        command: Some("/bin/sh".to_owned()),
        args: vec!["-c".to_owned(), script.to_owned()],
        stdin: None,
        cwd: "".into(),
        env: [].into(),
        captured_env: None,
        effort: None,
        permissions: Permissions::Cli,
        allowed_tools: vec![],
        approvals: None,
        schema: None,
        mcp: None,
        turns_max: None,
        budget: longhaul_model::event::Budget::default(),
        idle_ms: None,
        timeout_ms: 600_000,
        new_session: String::new(),
        contained: longhaul_engine::Contained::default(),
        trace: None,
        turn: None,
    };
    let new = NewRun::new(key(id), "d".to_owned(), "exec".to_owned(), sealed);
    engine.dispatch(new).await.map(drop)
}

async fn run_to_end(engine: &Engine, id: &str, script: &str) {
    dispatch(engine, id, script).await.unwrap();
    assert!(engine.wait_end(&key(id), Duration::from_secs(60)).await, "{id} ends");
}

fn start() -> (tempfile::TempDir, MemoryStore, Hands) {
    let clock = Hands(Arc::new(AtomicI64::new(1_795_000_000_000)));
    (tempfile::tempdir().unwrap(), MemoryStore::default(), clock)
}

/// Names below a directory of the data directory.
fn names(dir: &Path, below: &str) -> usize {
    std::fs::read_dir(dir.join(below)).map_or(0, |entries| entries.flatten().count())
}

#[tokio::test(flavor = "multi_thread")]
async fn output_goes_first_then_the_run_then_its_tombstone_and_a_live_run_stays() {
    let (dir, store, clock) = start();
    let engine = engine(&store, &clock, dir.path(), Retention::default()).await;
    run_to_end(&engine, "old", "echo words; echo more > file").await;
    dispatch(&engine, "live", "echo here; exec sleep 600").await.unwrap();
    assert_eq!(engine.retain().await.unwrap(), Removed::default());
    assert_eq!((names(dir.path(), "runs"), names(dir.path(), "work")), (2, 2));

    clock.forward(8);
    let removed = engine.retain().await.unwrap();
    assert_eq!((removed.outputs, removed.runs, removed.tombstones), (1, 0, 0));
    assert!(removed.bytes >= 6, "{removed:?}");
    assert_eq!((names(dir.path(), "runs"), names(dir.path(), "work")), (1, 2), "the directory of the work stays");
    let view = engine.view(&key("old")).await.unwrap().expect("the run is there");
    assert_eq!(view.doc.run.output_text(), "words\n", "with its events");
    assert_eq!(engine.retain().await.unwrap(), Removed::default(), "once");

    clock.forward(23);
    let removed = engine.retain().await.unwrap();
    assert_eq!((removed.outputs, removed.runs), (0, 1));
    assert!(engine.view(&key("old")).await.unwrap().is_none());
    assert_eq!(names(dir.path(), "work"), 1);
    assert!(matches!(dispatch(&engine, "old", "true").await, Err(DispatchError::Gone)), "its id stays taken");

    clock.forward(91);
    assert_eq!(engine.retain().await.unwrap(), Removed { tombstones: 1, ..Removed::default() });
    run_to_end(&engine, "old", "true").await;

    // The run that is not over has outlived every age.
    let live = engine.view(&key("live")).await.unwrap().expect("the live run");
    assert!(!live.doc.run.status.is_terminal());
    let intent = longhaul_model::event::RunCancelRequested { by: "test".to_owned(), reason: None };
    engine.cancel(&key("live"), intent, None).await.unwrap();
    assert!(engine.wait_end(&key("live"), Duration::from_secs(60)).await);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_a_removal_takes_nothing_else() {
    let (dir, store, clock) = start();
    let first = engine(&store, &clock, dir.path(), Retention::default()).await;
    run_to_end(&first, "old", "echo words; echo more > file").await;
    first.shutdown().await;
    // What a power cut may leave of a removal: the directory under its other name, with something in it or empty.
    let name = std::fs::read_dir(dir.path().join("runs")).unwrap().flatten().next().unwrap().file_name();
    let runs = dir.path().join("runs");
    std::fs::rename(runs.join(&name), runs.join(format!("going-{}", name.to_str().unwrap()))).unwrap();
    std::fs::create_dir(runs.join("going-empty")).unwrap();
    let store = store.reopen();
    let second = engine(&store, &clock, dir.path(), Retention::default()).await;
    support::until("the removal to be finished", async || (names(dir.path(), "runs") == 0).then_some(())).await;
    assert_eq!(names(dir.path(), "work"), 1, "the run's working directory stays as long as the run");
    assert!(second.view(&key("old")).await.unwrap().is_some());
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_their_bound_the_oldest_runs_go_and_no_more_than_must() {
    let (dir, store, clock) = start();
    let keep = Retention { bytes_max: 250_000, ..Retention::default() };
    let engine = engine(&store, &clock, dir.path(), keep).await;
    for id in ["a", "b", "c"] {
        run_to_end(&engine, id, "head -c 100000 /dev/zero > file").await;
        clock.forward(1);
    }
    let removed = engine.retain().await.unwrap();
    assert_eq!((removed.runs, removed.outputs), (1, 0));
    assert!((100_000..120_000).contains(&removed.bytes), "{removed:?}");
    assert!(engine.view(&key("a")).await.unwrap().is_none(), "the oldest");
    assert!(engine.view(&key("b")).await.unwrap().is_some());
    assert_eq!(engine.retain().await.unwrap(), Removed::default());
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_is_not_kept_is_said_to_be_gone_and_prune_erases_by_age() {
    let mut server = Server::start_with(&["--keep-output", "1ms"], &[]).await;
    for id in ["loud", "mute"] {
        server.sh(id, if id == "loud" { "echo words" } else { "true" }).await;
        server.status(id, "completed").await;
    }
    assert_eq!(server.http.get(server.url("/v1/runs/loud/log")).send().await.unwrap().text().await.unwrap(), "words\n");
    // A server looks when it starts.
    server.kill9();
    server.up().await;
    support::until("the output to go", async || {
        let answer = server.http.get(server.url("/v1/runs/loud/log")).send().await.unwrap();
        (answer.status() == 410).then_some(())
    })
    .await;
    let (status, answer) = server.get("/v1/runs/loud/log").await;
    assert_eq!((status, &answer["error"]["code"]), (410, &json!("log_expired")));
    let mute = server.http.get(server.url("/v1/runs/mute/log")).send().await.unwrap();
    assert_eq!((mute.status().as_u16(), mute.text().await.unwrap().as_str()), (200, ""), "there was nothing to keep");
    let (_, run) = server.get("/v1/runs/loud").await;
    assert_eq!(run["output_text"], "words\n");

    let prune = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_longhaul"))
            .args(["--data-dir", server.data().to_str().unwrap(), "--project", "default", "prune"])
            .args(args)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).lines().count())
    };
    assert_eq!(prune(&[]), (Some(125), 0), "an age must be given");
    assert_eq!(prune(&["--older-than", "1d"]), (Some(0), 0));
    assert_eq!(prune(&["--all", "--dry-run"]), (Some(0), 2));
    assert_eq!(server.get("/v1/runs/loud").await.0, 200);
    assert_eq!(prune(&["--all"]), (Some(0), 2));
    for id in ["loud", "mute"] {
        assert_eq!(server.get(&format!("/v1/runs/{id}")).await.0, 410);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_go_with_their_run_and_chat_requests_after_their_window() {
    let (dir, store, clock) = start();
    let engine = engine(&store, &clock, dir.path(), Retention::default()).await;
    for id in ["one", "one-more"] {
        run_to_end(&engine, id, "true").await;
        for op in ["a", "b"] {
            let intent = longhaul_model::event::RunCancelRequested { by: "test".to_owned(), reason: None };
            let operation = Operation { id: op.to_owned(), digest: "d".to_owned() };
            engine.cancel(&key(id), intent, Some(operation)).await.unwrap();
        }
    }
    let chat = |id: &str, at: Timestamp| RecordWrite {
        key: RecordKey::new("chat_retry", format!("default/c/d/{id}")),
        value: Some(json!({ "run": key(id), "at": at, "taken": 0 }).to_string().into()),
        only_new: false,
        stamp: false,
    };
    let records = vec![chat("one", clock.now())];
    store.commit(Commit { records, ..Commit::default() }).await.unwrap();
    engine.erase(&key("one")).await.unwrap();
    let left = async |kind| -> Vec<String> {
        store.records(kind, "", 100).await.unwrap().into_iter().map(|(key, _)| key.id).collect()
    };
    assert_eq!(left("operation").await, ["default/one-more/cancel/a", "default/one-more/cancel/b"]);
    engine.retain().await.unwrap();
    assert_eq!(left("chat_retry").await.len(), 1, "it may still be asked for");
    clock.forward(1);
    let records = vec![chat("one-more", clock.now())];
    store.commit(Commit { records, ..Commit::default() }).await.unwrap();
    engine.retain().await.unwrap();
    assert_eq!(left("chat_retry").await, ["default/c/d/one-more"]);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_sessions_are_listed_however_many_there_are() {
    let (dir, store, clock) = start();
    let engine = engine(&store, &clock, dir.path(), Retention::default()).await;
    let count = longhaul_store::limits::RECORDS_MAX + 50;
    let session = |n: usize| RecordWrite {
        key: RecordKey::new("session", format!("default/s{n:06}")),
        value: Some(
            json!({
                "v": 1, "id": format!("s{n:06}"), "project": "default", "harness": "claude", "model": null, "cwd": "/",
                "dir": null, "profile": "", "source_session_id": null, "turns": 1, "created_at": clock.now(),
                "last_run": "r",
            })
            .to_string()
            .into(),
        ),
        only_new: false,
        stamp: false,
    };
    for part in (0..count).collect::<Vec<_>>().chunks(4000) {
        let records = part.iter().map(|n| session(*n)).collect();
        store.commit(Commit { records, ..Commit::default() }).await.unwrap();
    }
    let (mut seen, mut after) = (0, None);
    loop {
        let (page, more) = engine.sessions(&ProjectId::default_project(), after.as_ref(), 1000).await.unwrap();
        for session in &page {
            assert_eq!(session.id.as_str(), format!("s{seen:06}"));
            seen += 1;
        }
        after = page.last().map(|session| session.id.clone());
        if !more {
            break;
        }
    }
    assert_eq!(seen, count);
    engine.shutdown().await;
}
