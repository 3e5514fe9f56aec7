//! Another program takes the server's place by exec: same pid, same socket, same lock, and every run goes on.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::live::{Live, values};
use support::proc::{signal, start_time};
use support::{LONGHAUL, Server, assert_log, assert_no_process, output_of, until};

/// Runs that live through the upgrades.
const RUNS: usize = 50;

fn longhaul(server: &Server, words: &[&str]) -> Output {
    Command::new(LONGHAUL)
        .env_clear()
        .env("HOME", server.dir.path())
        .arg("--data-dir")
        .arg(server.data())
        .args(words)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

/// A copy of the program under another name, in place of another version.
fn copy(server: &Server, name: &str) -> PathBuf {
    let path = server.dir.path().join(name);
    std::fs::copy(LONGHAUL, &path).unwrap();
    path
}

fn script(server: &Server, name: &str, text: &str) -> PathBuf {
    let path = server.dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn exe(pid: i32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

async fn epoch(server: &Server) -> u64 {
    server.get("/health").await.1["epoch"].as_u64().unwrap_or(0)
}

/// Waits until a later start of the same process answers.
async fn next_epoch(server: &Server, before: u64) -> Value {
    until("the next program to answer", async || {
        let answer = server.http.get(server.url("/health")).send().await.ok()?;
        let health: Value = answer.json().await.ok()?;
        (health["epoch"].as_u64()? > before).then_some(health)
    })
    .await
}

/// One thing done again and again in a thread until it is told to end; everything that it complained of.
struct Loop {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(usize, Vec<String>)>,
}

impl Loop {
    fn start(mut step: impl FnMut() -> Result<(), String> + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let (mut times, mut complaints) = (0, Vec::new());
            while !told.load(Ordering::Relaxed) {
                times += 1;
                complaints.extend(step().err());
                std::thread::sleep(Duration::from_millis(1));
            }
            (times, complaints)
        });
        Self { over, thread }
    }

    fn end(self) -> (usize, Vec<String>) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// A new connection with one request, answered whole.
fn connect_and_ask(address: &str) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).map_err(|error| format!("connect: {error}"))?;
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| format!("read: {error}"))?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(format!("answer: {answer:?}")) }
}

/// A second server on the same directory is turned away.
fn second_server(data: &Path) -> Result<(), String> {
    let output = Command::new(LONGHAUL)
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.code() == Some(75) { Ok(()) } else { Err(format!("{}: {}", output.status, said(&output))) }
}

/// Children of a process that have ended and wait to be reaped.
fn zombies(parent: i32) -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let fields: Vec<&str> = stat.rsplit_once(") ").map_or(vec![], |(_, rest)| rest.split(' ').collect());
        found += usize::from(fields.first() == Some(&"Z") && fields.get(1) == Some(&parent.to_string().as_str()));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_runs_live_through_upgrade_rollback_and_upgrade() {
    let server = Server::start_with(&["--live-max", "60"], &[]).await;
    let (pid, stop) = (server.pid, server.dir.path().join("stop"));
    let script =
        format!("n=0; while [ ! -e {} ]; do n=$((n+1)); echo line $n; sleep 0.3; done; echo last $n", stop.display());
    let ids: Vec<String> = (0..RUNS).map(|n| format!("run{n}")).collect();
    let mut readers = Vec::new();
    for id in &ids {
        server.sh(id, &script).await;
        readers.push(Live::follow(&server, id));
    }
    let mut agents = Vec::new();
    for reader in &readers {
        reader.wait_for("output.line", 1).await;
        let started = reader.events().into_iter().find(|event| event["type"] == "process.started").unwrap();
        let agent = i32::try_from(started["data"]["pid"].as_i64().unwrap()).unwrap();
        agents.push((agent, start_time(agent).expect("the agent lives")));
    }
    let address = server.base.strip_prefix("http://").unwrap().to_owned();
    let caller = Loop::start(move || connect_and_ask(&address));
    let data = server.data();
    let second = Loop::start(move || second_server(&data));

    let (new, old) = (copy(&server, "longhaul-next"), PathBuf::from(LONGHAUL).canonicalize().unwrap());
    for (step, program) in [(1, &new), (2, &old), (3, &new)] {
        let before = epoch(&server).await;
        let output = longhaul(&server, &["server", "upgrade", "--binary", program.to_str().unwrap()]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains(&format!("upgraded server pid {pid}")), "{}", said(&output));
        let health = next_epoch(&server, before).await;
        assert_eq!((&health["epoch"], &health["pid"]), (&json!(before + 1), &json!(pid)));
        assert_eq!(&exe(pid), program);
        assert_eq!(health["upgrade"], json!({ "binary": program, "failure": null }));
        let info: Value = serde_json::from_slice(&std::fs::read(server.data().join("server.json")).unwrap()).unwrap();
        assert_eq!(
            (&info["pid"], format!("http://{}", info["address"].as_str().unwrap())),
            (&json!(pid), server.base.clone())
        );
        for (reader, (agent, born)) in readers.iter().zip(&agents) {
            reader.wait_for("run.adopted", step).await;
            reader.wait_len(reader.len() + 1).await;
            assert_eq!(start_time(*agent), Some(*born), "the agent is the same process");
        }
    }

    let (asked, complaints) = caller.end();
    assert!(asked > 100, "{asked}");
    assert_eq!(complaints, Vec::<String>::new(), "every connection was taken and answered");
    let (tried, complaints) = second.end();
    assert!(tried > 5, "{tried}");
    assert_eq!(complaints, Vec::<String>::new(), "the lock was never free");

    std::fs::write(&stop, "").unwrap();
    for (id, reader) in ids.iter().zip(readers) {
        let seen = values(&reader.end().await);
        let stored = server.events(id).await;
        assert_eq!(seen, stored, "what the reader saw is what is stored");
        assert_log(&stored);
        let output = String::from_utf8(output_of(&stored, "stdout")).unwrap();
        let count = output.lines().count() - 1;
        let whole: String = (1..=count).map(|n| format!("line {n}\n")).chain([format!("last {count}\n")]).collect();
        assert_eq!(output, whole);
        let of = |kind: &str| stored.iter().filter(|event| event["type"] == kind).count();
        assert_eq!([of("process.started"), of("run.attempt_started"), of("run.adopted")], [1, 1, 3]);
        assert_eq!(server.end(id).await["status"], "completed");
    }
    assert_no_process(&server.data()).await;
    until("every shim of an earlier program to be reaped", async || (zombies(pid) == 0).then_some(())).await;
    let locks = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let lock = server.data().join("lock");
    let locks = locks.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == lock)).count();
    assert_eq!(locks, 1, "what was inherited is what is held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_cannot_take_over_changes_nothing() {
    let server = Server::start().await;
    server.sh("live", "echo begun; exec sleep 1000").await;
    server.status("live", "running").await;
    let before = epoch(&server).await;
    let no = script(&server, "no", "#!/bin/sh\necho the store is too new >&2\nexit 3\n");
    let silly = script(&server, "silly", "#!/bin/sh\necho hello\n");
    let other = script(&server, "other", "#!/bin/sh\necho '{\"handover\":99,\"version\":\"9.9.9\"}'\n");
    let open = script(&server, "open", "#!/bin/sh\n");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    let data = server.dir.path().join("data/lock");
    for (program, why) in [
        (no.as_path(), "the store is too new"),
        (&silly, "does not answer like Longhaul"),
        (&other, "in another way"),
        (&open, "can be written by anybody"),
        (&data, "is not a program"),
        (Path::new("/nowhere/longhaul"), "No such file"),
    ] {
        let (status, body) = server.post("/v1/upgrade", &json!({ "binary": program })).await;
        assert_eq!((status, &body["error"]["code"]), (409, &json!("upgrade_refused")), "{body}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains(why) && message.contains("goes on as it was"), "{message}");
        let output = longhaul(&server, &["server", "upgrade", "--binary", program.to_str().unwrap()]);
        assert!(!output.status.success() && said(&output).contains(why), "{}", said(&output));
    }
    let (status, body) = server.post("/v1/upgrade", &json!({ "binary": "longhaul" })).await;
    assert_eq!((status, &body["error"]["param"]), (400, &json!("binary")));
    assert_eq!(epoch(&server).await, before);
    assert_eq!(server.run("live").await["status"], "running");
    assert_eq!(server.post("/v1/runs/live/cancel?wait_ms=30000", &json!({})).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_exec_fails_the_old_program_goes_on() {
    let server = Server::start().await;
    server.sh("live", "echo begun; exec sleep 1000").await;
    server.status("live", "running").await;
    let (before, program) = (epoch(&server).await, exe(server.pid));
    // It agrees to take over and is gone when it should.
    let gone = server.dir.path().join("gone");
    script(&server, "gone", &format!("#!/bin/sh\nrm {}\nexec {LONGHAUL} \"$@\"\n", gone.display()));
    let (status, body) = server.post("/v1/upgrade", &json!({ "binary": gone })).await;
    assert_eq!((status, &body["status"], &body["pid"]), (202, &json!("upgrading"), &json!(server.pid)), "{body}");
    let health = next_epoch(&server, before).await;
    let failure = health["upgrade"]["failure"].as_str().unwrap_or_default();
    assert!(failure.contains("gone could not be executed"), "{health}");
    assert_eq!((exe(server.pid), &health["pid"]), (program, &json!(server.pid)));
    let live = Live::follow(&server, "live");
    live.wait_for("run.adopted", 1).await;
    // And the next one that can may.
    let other = copy(&server, "longhaul-next");
    let output = longhaul(&server, &["server", "upgrade", "--binary", other.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(exe(server.pid), other);
    live.wait_for("run.adopted", 2).await;
    assert_eq!(server.post("/v1/runs/live/cancel?wait_ms=30000", &json!({})).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_upgrades_to_what_was_installed_over_it() {
    let mut server = Server::start().await;
    let installed = copy(&server, "longhaul");
    let output = longhaul(&server, &["server", "upgrade", "--binary", installed.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    // As a package manager does it: the new file takes the name of the old one.
    let before = (epoch(&server).await, std::fs::metadata(&installed).unwrap());
    let new = copy(&server, "longhaul.new");
    std::fs::rename(&new, &installed).unwrap();
    assert!(exe(server.pid).to_string_lossy().ends_with(" (deleted)"));
    // More than one at a time is one.
    for _ in 0..3 {
        signal(server.pid, Signal::USR2);
    }
    next_epoch(&server, before.0).await;
    assert_eq!(exe(server.pid), installed);
    assert_eq!(server.get("/v1/runs").await.0, 200);
    assert!(server.term().success());
    assert!(!server.data().join("server.json").exists());
}
