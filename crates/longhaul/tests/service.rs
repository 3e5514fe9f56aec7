//! What a service manager sees of the server, and the unit that has one look after it.

mod support;

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;
use support::live::Live;
use support::proc::shim_of;
use support::{LONGHAUL, Server, assert_no_process, until};

/// A manager's end of the notifications.
struct Manager(UnixDatagram);

impl Manager {
    fn new(socket: UnixDatagram) -> Self {
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    fn next(&self) -> Option<String> {
        let mut bytes = [0; 1024];
        self.0.recv(&mut bytes).ok().map(|len| String::from_utf8_lossy(&bytes[..len]).into_owned())
    }

    /// Waits for a message with this line, and gives the lines of all before it.
    async fn wait(&self, line: &str) -> Vec<String> {
        let mut before: Vec<String> = Vec::new();
        until(&format!("the manager to be told {line}"), async || {
            while let Some(message) = self.next() {
                if message.lines().any(|said| said == line) {
                    return Some(());
                }
                before.extend(message.lines().map(str::to_owned));
            }
            None
        })
        .await;
        before
    }
}

async fn a_manager_is_told(name: &str, manager: Manager) {
    let variables = [("NOTIFY_SOCKET", name), ("WATCHDOG_USEC", "300000")];
    let mut server = Server::start_with(&[], &variables).await;
    let before = manager.wait("READY=1").await;
    assert!(before.is_empty(), "{before:?}");
    for _ in 0..3 {
        manager.wait("WATCHDOG=1").await;
    }
    // An agent knows nothing of it.
    server.sh("curious", "env").await;
    server.end("curious").await;
    let environment = String::from_utf8(server.spool("curious", "stdout").await).unwrap();
    assert!(!environment.contains("NOTIFY") && !environment.contains("WATCHDOG"), "{environment}");
    // The next program in the same process goes on with it, and nothing was stopped in between.
    let (status, body) = server.post("/v1/upgrade", &json!({})).await;
    assert_eq!(status, 202, "{body}");
    let before = manager.wait("READY=1").await;
    assert!(!before.iter().any(|line| line == "STOPPING=1"), "{before:?}");
    manager.wait("WATCHDOG=1").await;
    assert!(server.term().success());
    manager.wait("STOPPING=1").await;
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_at_a_path_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = Manager::new(UnixDatagram::bind(&path).unwrap());
    a_manager_is_told(path.to_str().unwrap(), manager).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_with_an_abstract_name_is_told() {
    let name = format!("longhaul-test-{}", uuid::Uuid::new_v4());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = Manager::new(UnixDatagram::bind_addr(&address).unwrap());
    a_manager_is_told(&format!("@{name}"), manager).await;
}

/// A server whose manager is gone serves all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_manager() {
    let mut server = Server::start_with(&[], &[("NOTIFY_SOCKET", "/nowhere/notify"), ("WATCHDOG_USEC", "1000")]).await;
    until("it to have tried", async || server.log().contains("was not told").then_some(())).await;
    assert_eq!(server.get("/readyz").await.0, 200);
    assert!(server.term().success());
}

fn longhaul(home: &Path, words: &[&str]) -> Output {
    Command::new(LONGHAUL)
        .env_clear()
        .env("HOME", home)
        .env("PATH", "/opt/a b:/usr/bin:/bin")
        .args(words)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

#[test]
fn a_unit_is_written_once_and_never_over_anothers() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".config/systemd/user/longhaul.service");
    let run = |words: &[&str]| {
        let output = longhaul(home.path(), &[&["service"], words].concat());
        (output.status.code().unwrap(), said(&output))
    };
    assert_eq!(run(&["status", "--user"]).0, 1);
    let (status, unit) = run(&["install", "--user", "--dry-run"]);
    assert_eq!((status, file.exists()), (0, false), "{unit}");
    let (status, text) = run(&["install", "--user"]);
    assert!(status == 0 && text.contains("systemctl --user enable --now longhaul"), "{text}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), unit);
    let program = Path::new(LONGHAUL).canonicalize().unwrap();
    for line in [
        "Type=notify",
        "WatchdogSec=30",
        "KillMode=process",
        "Delegate=yes",
        "DelegateSubgroup=longhaul-server",
        "Restart=on-failure",
        "Environment=\"PATH=/opt/a b:/usr/bin:/bin\"",
        "WantedBy=default.target",
        &format!("ExecStart={} serve --log json", program.display()),
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}: {unit}");
    }
    assert!(run(&["install", "--user"]).1.contains("installed already"));
    let (status, text) = run(&["status", "--user"]);
    assert!(status == 0 && text.contains("as this version writes it"), "{text}");
    // Changed by hand below its first line it is still ours, and told apart.
    std::fs::write(&file, unit.replace("WatchdogSec=30", "WatchdogSec=5")).unwrap();
    assert!(run(&["status", "--user"]).1.contains("not as this version would write it"));
    assert_eq!(run(&["uninstall", "--user", "--dry-run"]).0, 0);
    assert!(file.exists());
    assert_eq!(run(&["uninstall", "--user"]).0, 0);
    assert!(!file.exists());
    assert_eq!(run(&["uninstall", "--user"]).0, 0);

    let foreign = "[Service]\nExecStart=/bin/true\n";
    std::fs::write(&file, foreign).unwrap();
    for verb in ["install", "uninstall"] {
        let (status, text) = run(&[verb, "--user"]);
        assert!(status == 125 && text.contains("is left alone"), "{status} {text}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), foreign);

    let (status, unit) = run(&["install", "--system", "--dry-run", "--run-as", "somebody"]);
    assert_eq!(status, 0);
    for line in ["StateDirectory=longhaul", "User=somebody", "WantedBy=multi-user.target"] {
        assert!(unit.lines().any(|found| found == line), "{line}: {unit}");
    }
    assert_eq!(run(&["install", "--system", "--dry-run", "--run-as", "a\nb"]).0, 125);
}

/// A `systemctl` in `dir` that writes down how it was called, and fails at `fails`.
fn systemctl(dir: &Path, fails: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let script = format!(
        "#!/bin/sh\nfor word; do printf '[%s]' \"$word\"; done >>\"${{0%/*}}/calls\"\necho >>\"${{0%/*}}/calls\"\n\
         case \"$*\" in *'{fails}'*) echo 'Failed to do it: no bus' >&2; exit 4;; esac\n"
    );
    std::fs::write(dir.join("systemctl"), script).unwrap();
    std::fs::set_permissions(dir.join("systemctl"), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_service_is_started_by_systemd_where_it_can_be() {
    let home = tempfile::tempdir().unwrap();
    let bin = tempfile::tempdir().unwrap();
    let file = home.path().join(".config/systemd/user/longhaul.service");
    let install = |words: &[&str]| {
        let output = Command::new(LONGHAUL)
            .env_clear()
            .env("HOME", home.path())
            .env("PATH", bin.path())
            .args(["service", "install", "--user"])
            .args(words)
            .output()
            .unwrap();
        let calls = std::fs::read_to_string(bin.path().join("calls")).unwrap_or_default();
        let _ = std::fs::remove_file(bin.path().join("calls"));
        (output.status.code().unwrap(), said(&output), calls)
    };
    // Nobody is called unless it is asked for.
    systemctl(bin.path(), "nothing");
    for words in [&[][..], &["--dry-run"]] {
        let (status, text, calls) = install(words);
        assert_eq!((status, calls.as_str()), (0, ""), "{text}");
    }
    std::fs::remove_file(&file).unwrap();
    let (status, text, calls) = install(&["--now"]);
    assert_eq!((status, calls.as_str()), (0, "[--user][daemon-reload]\n[--user][enable][--now][longhaul]\n"), "{text}");
    assert!(text.contains("systemd has started it") && file.exists(), "{text}");
    assert!(!text.contains("restart"), "{text}");
    // Who reads the unit again is told that a running service does not.
    let unit = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, unit.replace("WatchdogSec=30", "WatchdogSec=5")).unwrap();
    assert!(install(&["--now"]).1.contains("systemctl --user restart longhaul"));

    // What fails is said with its own words and with what to do, and ends it there.
    for (fails, count) in [("daemon-reload", 1), ("enable --now", 2)] {
        systemctl(bin.path(), fails);
        let (status, text, calls) = install(&["--now"]);
        assert_eq!((status, calls.lines().count()), (125, count), "{text}");
        assert!(text.contains(&format!("`systemctl --user {fails}")) && text.contains("no bus"), "{text}");
        assert!(text.contains("longhaul server st") && !text.contains("has started"), "{text}");
        assert!(file.exists());
    }
    std::fs::remove_file(bin.path().join("systemctl")).unwrap();
    let (status, text, _) = install(&["--now"]);
    assert!(status == 125 && text.contains("longhaul server start") && text.contains("the unit is written"), "{text}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), unit);
}

/// systemd itself reads the units, where it is installed.
#[test]
fn systemd_takes_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("systemd is not installed here: nobody but this test has read the units");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    for (whose, more) in [("--user", &[][..]), ("--system", &["--run-as", "root"])] {
        let words = [&["service", "install", whose, "--dry-run"], more].concat();
        let output = longhaul(home.path(), &words);
        assert!(output.status.success(), "{}", said(&output));
        let file = home.path().join(format!("longhaul-{}.service", &whose[2..]));
        std::fs::write(&file, &output.stdout).unwrap();
        let verified = Command::new("systemd-analyze")
            .args([whose, "verify", "--man=no"])
            .arg(&file)
            .env("XDG_RUNTIME_DIR", home.path())
            .output()
            .unwrap();
        // A line that systemd knows from 254 on, and may be ignored before.
        let complaints = String::from_utf8_lossy(&verified.stderr);
        let complaints: Vec<_> =
            complaints.lines().filter(|line| !line.contains("'DelegateSubgroup' in section")).collect();
        assert!(verified.status.success() && complaints.is_empty(), "{whose}: {}", said(&verified));
    }
    // It would have said so.
    let broken = home.path().join("broken.service");
    std::fs::write(&broken, "[Service]\nExecStart=/nowhere/at-all\n").unwrap();
    let verified =
        Command::new("systemd-analyze").args(["--system", "verify", "--man=no"]).arg(&broken).output().unwrap();
    assert!(!verified.status.success() || !verified.stderr.is_empty());
}

fn client(server: &Server, words: &[&str]) -> Output {
    let data = server.data();
    longhaul(server.dir.path(), &[&["--data-dir", data.to_str().unwrap()], words].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_carries_out_what_was_accepted_and_takes_nothing_new() {
    let mut server = Server::start_with(&["--live-max", "1"], &[]).await;
    let go = server.dir.path().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.02; done; echo done", go.display());
    for id in ["first", "in-line"] {
        server.sh(id, &script).await;
    }
    let live = Live::follow(&server, "first");
    live.wait_for("run.started", 1).await;
    let late = client(&server, &["drain", "--timeout", "1ms"]);
    assert!(late.status.code() == Some(124) && said(&late).contains("2 runs are left"), "{}", said(&late));
    let new = json!({ "run_id": "new", "command": "/bin/true" });
    let (status, body) = server.post("/v1/runs", &new).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("draining")), "{body}");
    let chat = json!({ "model": "demo/echo", "messages": [{ "role": "user", "content": "hi" }] });
    assert_eq!(server.post("/v1/chat/completions", &chat).await.0, 503);
    assert_eq!((server.get("/readyz").await.0, server.get("/livez").await.0), (503, 200));
    assert_eq!(server.get("/health").await.1["status"], "draining");
    // Attaching starts nothing.
    assert_eq!(server.sh("first", &script).await["id"], "first");

    assert!(client(&server, &["drain", "--undo"]).status.success());
    assert_eq!((server.get("/readyz").await.0, server.post("/v1/runs", &new).await.0), (200, 201));

    let data = server.data();
    let home = server.dir.path().to_owned();
    let draining = tokio::task::spawn_blocking(move || {
        longhaul(&home, &["--data-dir", data.to_str().unwrap(), "drain", "--timeout", "60s", "--stop"])
    });
    until("the drain to begin", async || (server.get("/readyz").await.0 == 503).then_some(())).await;
    std::fs::write(&go, "").unwrap();
    let done = draining.await.unwrap();
    assert!(done.status.success() && said(&done).contains("the server stops"), "{}", said(&done));
    until("the server to be gone", async || (!server.is_up()).then_some(())).await;
    assert!(live.end().await.iter().any(|frame| frame.event.as_deref() == Some("run.completed")));
    let _ = server.exited();
    server.up().await;
    for id in ["first", "in-line", "new"] {
        assert_eq!(server.run(id).await["status"], "completed", "{id}");
    }
    assert_no_process(&server.data()).await;
}

/// Other tools clean up by broad patterns; what people see of a shim holds nothing of the agent's or of theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_broad_pattern_hits_a_shim() {
    let server = Server::start().await;
    let body = json!({
        "run_id": "claude-node", "command": "/bin/sh", "args": ["-c", "exec sleep 600", "longhaul run claude node codex"],
    });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    let run = server.status("claude-node", "running").await;
    let shim = shim_of(&server.data(), i32::try_from(run["pid"].as_i64().unwrap()).unwrap());
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{shim}/{name}")).unwrap();
    assert_eq!(read("comm"), "longhaul-shim\n");
    let (cmdline, dir) = (read("cmdline"), std::fs::read_link(format!("/proc/{shim}/cwd")).unwrap());
    let words: Vec<&str> = cmdline.trim_end_matches('\0').split('\0').collect();
    let name = dir.strip_prefix(server.data().join("runs").canonicalize().unwrap()).unwrap().to_str().unwrap();
    assert_eq!(words, ["longhaul", "shim", name]);
    assert!(name.bytes().all(|b| b.is_ascii_hexdigit() || b == b'/'), "{name}");
    let pid = server.pid;
    let cmdline = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(cmdline.split('\0').nth(1), Some("serve"));
    assert_eq!(server.post("/v1/runs/claude-node/cancel?wait_ms=30000", &json!({})).await.0, 200);
    assert_no_process(&server.data()).await;
}
