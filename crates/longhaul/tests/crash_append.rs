//! Kill at every append: a run whose server dies at each single write of the store ends in the same log.
//!
//! The engine runs in this process on the memory store, which dies at a chosen commit, before or after that commit is
//! durable. The agent and its shim are real processes and live on, as they do when a server is killed.
#![allow(missing_docs)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use longhaul_engine::{DiskFloor, Engine, NewRun, Options, PlaceLimits, Retention, Sealed};
use longhaul_harness::Permissions;
use longhaul_model::event::{Event, EventData, OnLost};
use longhaul_model::time::Clock;
use longhaul_model::{ProjectId, RunId, RunKey, Seq, Timestamp};
use longhaul_store::{CrashPoint, MemoryStore, ReadLimit, Store};

const PATIENCE: Duration = Duration::from_secs(60);

struct Now;

impl Clock for Now {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp::from_unix_ms(since.as_millis() as i64)
    }
}

fn options(store: Arc<MemoryStore>, dir: &Path) -> Options {
    Options {
        store,
        data_dir: dir.to_owned(),
        exe: env!("CARGO_BIN_EXE_longhaul").into(),
        places: PlaceLimits { live_max: 4, queue_max: 10, ..PlaceLimits::default() },
        retention: Retention::default(),
        disk: DiskFloor::default(),
        output_bytes_max: longhaul_model::limits::SPOOL_BYTES_MAX,
        containment: longhaul_engine::Containment::default(),
        clock: Arc::new(Now),
        address: "127.0.0.1:1".to_owned(),
        environment: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        upstreams: Vec::new(),
    }
}

fn key() -> RunKey {
    RunKey { project: ProjectId::default_project(), run: RunId::parse("r").unwrap() }
}

#[derive(Clone, Copy)]
enum Script {
    /// A command that prints in several steps on both streams and fails.
    Command,
    /// The built-in agent with every kind of event.
    Agent,
    /// An agent that is killed in a tool call and goes on.
    Lost,
}

/// It calls itself codex, and kills itself unless it goes on with its session.
const LOST: &str = r#"
case "$1" in --version) echo codex-cli 0.169.0; exit;; esac
opening
echo "$* $resumed" >> "$STARTS"
thread /dev/null
sleep 0.02
if [ -n "$resumed" ]; then
  says item_0 'I go on.'
  sleep 0.02
  over 20 2
else
  says item_0 'I begin.'
  sleep 0.02
  calls item_1 x
  sleep 0.02
  kill -9 $$
fi
"#;

fn request(script: Script, dir: &Path) -> NewRun {
    let (harness, command, args, model) = match script {
        Script::Command => (
            "exec",
            Some("/bin/sh".to_owned()),
            vec!["-c".to_owned(), "for i in 1 2 3 4 5; do echo $i; sleep 0.02; done; echo e >&2; exit 3".to_owned()],
            None,
        ),
        Script::Agent => ("demo", None, vec![], Some("tools".to_owned())),
        Script::Lost => ("codex", None, vec![], None),
    };
    let path = format!("{}:/usr/bin:/bin", dir.join("bin").display());
    let starts = dir.join("starts").display().to_string();
    let sealed = Sealed {
        model,
        prompt: command.is_none().then(|| "look around".to_owned()),
        turn: None,
        system: None,
        command,
        args,
        stdin: None,
        cwd: "/".into(),
        env: [("PATH".to_owned(), path), ("STARTS".to_owned(), starts)].into(),
        captured_env: None,
        effort: None,
        permissions: Permissions::Cli,
        allowed_tools: vec![],
        turns_max: None,
        schema: None,
        mcp: None,
        approvals: None,
        budget: longhaul_model::event::Budget::default(),
        home: None,
        contained: longhaul_engine::Contained::default(),
        trace: None,
        idle_ms: None,
        timeout_ms: 60_000,
        new_session: String::new(),
    };
    let on_lost = if matches!(script, Script::Lost) { OnLost::Resume } else { OnLost::Fail };
    NewRun { on_lost, ..NewRun::new(key(), "d".to_owned(), harness.to_owned(), sealed) }
}

/// One server's life on a store; whether the run was over before the store died.
async fn live(store: &MemoryStore, dir: &Path, script: Script) -> bool {
    let Ok(engine) = Engine::start(options(Arc::new(store.clone()), dir)).await else { return false };
    // A client that got no answer asks again with the same id: the request attaches or is new.
    let _ = engine.dispatch(request(script, dir)).await;
    let deadline = Instant::now() + PATIENCE;
    let over = loop {
        if store.is_closed() {
            break false;
        }
        match engine.view(&key()).await {
            Ok(Some(view)) if view.doc.run.status.is_terminal() => break true,
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
        assert!(Instant::now() < deadline, "the run does not end");
    };
    // The process of a killed server is simply gone: here its tasks are told to stop, and its store is dead already.
    engine.shutdown().await;
    over
}

async fn log(store: &MemoryStore) -> Vec<Event> {
    let row = store.run(&key()).await.unwrap().expect("the run is there");
    let limit = ReadLimit { events_max: usize::MAX, bytes_max: usize::MAX };
    let page = store.read(row.stream, Seq::ZERO, limit).await.unwrap();
    let events: Vec<Event> = page.events.iter().map(|e| Event::decode(&e.wire).unwrap()).collect();
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event.seq, Seq::new(at as u64 + 1), "dense");
    }
    events
}

/// What must be the same however often the server died: everything but who owned the run, attempts that provably
/// started nothing, and what differs between any two runs.
fn story(events: &[Event]) -> Vec<String> {
    let mut story: Vec<String> = Vec::new();
    for event in events {
        let line = match &event.data {
            EventData::RunAdopted(_) => continue,
            EventData::RunAttemptStarted(d) => format!("attempt {:?} {:?}", d.rung, d.lost.as_ref().map(|l| &l.tools)),
            EventData::ProcessExited(d) if d.how == "never_started" => {
                let before = story.pop().unwrap_or_default();
                assert!(before.starts_with("attempt "), "an attempt that started nothing says nothing: {before}");
                continue;
            }
            EventData::ProcessStarted(d) => format!("started {}", d.command),
            EventData::RunStarted(_) => "run.started".to_owned(),
            EventData::ProcessExited(d) => format!("exited {:?} {} {}", d.exit, d.how, d.stop),
            EventData::RunCompleted(d) => format!("completed {:?} {:?}", d.exit, d.totals.usage),
            EventData::RunFailed(d) => format!("failed {:?} {:?}", d.error, d.exit),
            EventData::OutputLine(d) => format!("{d:?}"),
            other => format!("{other:?}"),
        };
        story.push(unnumbered(&line));
    }
    story
}

/// Without the number of the attempt in its ids: one that started nothing has a number too.
fn unnumbered(line: &str) -> String {
    (2..100).fold(line.to_owned(), |line, number| line.replace(&format!("\"a{number}."), "\"a."))
}

/// An agent that goes on was started once before and once after, whatever its servers did.
fn assert_starts(script: Script, dir: &Path) {
    if matches!(script, Script::Lost) {
        let starts = std::fs::read_to_string(dir.join("starts")).unwrap();
        let resumed: Vec<bool> = starts.lines().map(|line| line.contains("resume t-1")).collect();
        assert_eq!(resumed, [false, true], "{starts}");
    }
}

fn both_streams_apart(story: &[String]) -> Vec<String> {
    // A line of stdout and one of stderr written at nearly the same time may arrive in either order.
    let (err, mut out): (Vec<_>, Vec<_>) = story.iter().cloned().partition(|line| line.contains("Stderr"));
    out.extend(err);
    out
}

async fn story_without_faults(script: Script) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let store = MemoryStore::new();
    assert!(live(&store, dir.path(), script).await);
    both_streams_apart(&story(&log(&store.reopen()).await))
}

fn make(dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(dir.join("bin")).unwrap();
    let script = format!("#!/bin/sh\n{}{LOST}", include_str!("support/fake_codex.sh"));
    std::fs::write(dir.join("bin/codex"), script).unwrap();
    std::fs::set_permissions(dir.join("bin/codex"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir_all(dir.join("runs")).unwrap();
    std::fs::create_dir_all(dir.join("work")).unwrap();
}

/// The server dies once, at each commit in turn.
async fn dies_once(script: Script, point: CrashPoint) {
    let expected = story_without_faults(script).await;
    for commits in 1.. {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        let store = MemoryStore::new();
        store.crash_after(commits, point);
        let over = live(&store, dir.path(), script).await;
        let store = store.reopen();
        assert!(live(&store, dir.path(), script).await);
        let found = both_streams_apart(&story(&log(&store.reopen()).await));
        assert_eq!(found, expected, "died at commit {commits}");
        assert_starts(script, dir.path());
        if over {
            assert!(commits > 5, "a run takes more than {commits} commits");
            return;
        }
    }
}

/// Every server dies, each after one or two commits of its own beside the one for its epoch.
async fn dies_always(script: Script, point: CrashPoint) {
    let expected = story_without_faults(script).await;
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let mut store = MemoryStore::new();
    for life in 0..500 {
        // By turns one and two: a server that always died between the intent to start and the start would never start.
        store.crash_after(2 + life % 2, point);
        let over = live(&store, dir.path(), script).await;
        store = store.reopen();
        if over {
            break;
        }
        assert!(life < 499, "the run gets nowhere");
    }
    assert!(live(&store, dir.path(), script).await);
    assert_eq!(both_streams_apart(&story(&log(&store.reopen()).await)), expected);
    assert_starts(script, dir.path());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_survives_the_loss_of_each_commit() {
    dies_once(Script::Command, CrashPoint::BeforeDurable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_survives_each_commit_that_nobody_heard_of() {
    dies_once(Script::Command, CrashPoint::AfterDurable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_survives_the_loss_of_each_commit() {
    dies_once(Script::Agent, CrashPoint::BeforeDurable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_survives_each_commit_that_nobody_heard_of() {
    dies_once(Script::Agent, CrashPoint::AfterDurable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_goes_on_survives_the_loss_of_each_commit() {
    dies_once(Script::Lost, CrashPoint::BeforeDurable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_goes_on_survives_each_commit_that_nobody_heard_of() {
    dies_once(Script::Lost, CrashPoint::AfterDurable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_every_server_dies_ends_all_the_same() {
    dies_always(Script::Command, CrashPoint::BeforeDurable).await;
    dies_always(Script::Agent, CrashPoint::AfterDurable).await;
    dies_always(Script::Lost, CrashPoint::BeforeDurable).await;
    dies_always(Script::Lost, CrashPoint::AfterDurable).await;
}
