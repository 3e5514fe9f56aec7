//! Agents that misbehave or are struck, and shims that are: each run ends as it must, keeps every byte that was
//! printed, and leaves no process.

mod support;

use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use support::live::Live;
use support::proc::{attempt_of, shim_of, signal, signal_group, start_time};
use support::{Server, assert_log, assert_no_process, is_terminal, output_of, until};

/// Bytes of output one run may write in these tests: more than the longest line of the table.
const OUTPUT_MAX: u64 = 20 << 20;

/// What is done to a run once it has printed a line.
#[derive(Clone, Copy)]
enum Strike {
    Nothing,
    Agent(Signal),
    Group(Signal),
    Cancel,
}

/// One misbehaviour and what must come of it.
struct Row {
    name: &'static str,
    /// A script for `sh -c`, unless `body` says otherwise.
    script: &'static str,
    body: Value,
    strike: Strike,
    status: &'static str,
    code: Option<&'static str>,
    exit: Value,
    /// `process.exited` without what it used.
    exited: Value,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Row {
    fn new(name: &'static str, script: &'static str) -> Self {
        Self {
            name,
            script,
            body: json!({}),
            strike: Strike::Nothing,
            status: "completed",
            code: None,
            exit: json!({ "code": 0 }),
            exited: json!({ "attempt": 1, "code": 0, "how": "exited", "stop": "none", "killed_descendants": 0 }),
            stdout: vec![],
            stderr: vec![],
        }
    }

    fn body(self, body: Value) -> Self {
        Self { body, ..self }
    }

    fn python(self, script: &str) -> Self {
        self.body(json!({ "command": "python3", "args": ["-c", script] }))
    }

    fn strike(self, strike: Strike) -> Self {
        Self { strike, ..self }
    }

    fn stdout(self, bytes: impl Into<Vec<u8>>) -> Self {
        Self { stdout: bytes.into(), ..self }
    }

    fn stderr(self, bytes: impl Into<Vec<u8>>) -> Self {
        Self { stderr: bytes.into(), ..self }
    }

    fn failed(self, code: &'static str) -> Self {
        Self { status: "failed", code: Some(code), ..self }
    }

    fn cancelled(self) -> Self {
        Self { status: "cancelled", ..self }.stop("cancel")
    }

    fn exits(mut self, status: i32) -> Self {
        self.exit = json!({ "code": status });
        self.exited["code"] = json!(status);
        self
    }

    fn dies(mut self, signal: i32) -> Self {
        self.exit = json!({ "signal": signal });
        let exited = self.exited.as_object_mut().unwrap();
        exited.remove("code");
        exited.extend([("signal".to_owned(), json!(signal)), ("how".to_owned(), json!("signaled"))]);
        self
    }

    /// The program could not be started.
    fn never(mut self) -> Self {
        self.exit = Value::Null;
        self.exited = json!({ "attempt": 1, "how": "never_started", "stop": "none", "killed_descendants": 0 });
        self
    }

    fn stop(mut self, stop: &str) -> Self {
        self.exited["stop"] = json!(stop);
        self
    }

    fn descendants(mut self, killed: u32) -> Self {
        self.exited["killed_descendants"] = json!(killed);
        self
    }
}

#[expect(clippy::too_many_lines, reason = "one row for each way to behave")]
fn rows() -> Vec<Row> {
    let long = [vec![b'x'; 16 << 20], b"\nend\n".to_vec()].concat();
    vec![
        Row::new("exit-0", "echo out; echo err >&2").stdout("out\n").stderr("err\n"),
        Row::new("exit-3", "echo out; echo why >&2; exit 3")
            .failed("exit_nonzero")
            .exits(3)
            .stdout("out\n")
            .stderr("why\n"),
        Row::new("killed", "echo up; exec sleep 1000")
            .strike(Strike::Agent(Signal::KILL))
            .failed("killed_by_signal")
            .dies(9)
            .stdout("up\n"),
        Row::new("terminated", "echo up; exec sleep 1000")
            .strike(Strike::Agent(Signal::TERM))
            .failed("killed_by_signal")
            .dies(15)
            .stdout("up\n"),
        Row::new("group-killed", "sleep 1000 & echo up; wait")
            .strike(Strike::Group(Signal::KILL))
            .failed("killed_by_signal")
            .dies(9)
            .stdout("up\n"),
        Row::new("kills-itself", "printf up; kill -SEGV $$").failed("killed_by_signal").dies(11).stdout("up"),
        Row::new("cancelled", "echo up; exec sleep 1000")
            .strike(Strike::Cancel)
            .cancelled()
            .dies(15)
            .stdout("up\n"),
        Row::new("ignores-term", "trap '' TERM; echo up; sleep 1000")
            .strike(Strike::Cancel)
            .cancelled()
            .dies(9)
            .descendants(1)
            .stdout("up\n"),
        Row::new("obeys-term-with-0", "exec 2>/dev/null; trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
            .strike(Strike::Cancel)
            .cancelled()
            .stdout("up\nbye\n"),
        Row::new("obeys-term-with-4", "exec 2>/dev/null; trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done")
            .strike(Strike::Cancel)
            .cancelled()
            .exits(4)
            .stdout("up\n"),
        Row::new("opens-stdout-anew", "echo one; echo two > /dev/stdout; echo three > /proc/self/fd/1; : > /dev/stdout; echo four")
            .stdout("one\ntwo\nthree\nfour\n"),
        Row::new("grandchild-holds-stdout", "sleep 1000 & echo done").descendants(1).stdout("done\n"),
        Row::new("grandchild-in-own-session", "setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo done")
            .descendants(1)
            .stdout("done\n"),
        Row::new("grandchild-in-own-session-holds-stdout", "setsid sleep 1000 & echo done; exit 5")
            .failed("exit_nonzero")
            .exits(5)
            .descendants(1)
            .stdout("done\n"),
        Row::new("daemon", "").python(
            "import os, sys\nr, w = os.pipe()\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  os.close(r); \
             os.write(w, b'x'); os.execvp('sleep', ['sleep', '1000'])\n os._exit(0)\nos.close(w)\nos.read(r, 1)\n\
             print('parent done')",
        )
        .descendants(1)
        .stdout("parent done\n"),
        Row::new("flood", "exec yes $(printf %01023d 0)")
            .failed("output_limit")
            .stop("output_limit")
            .dies(15)
            .stdout(format!("{:01023}\n", 0).repeat((OUTPUT_MAX / 1024) as usize)),
        Row::new("silent", ":"),
        Row::new("long-line", "").python("print('x' * (16 << 20)); print('end')").stdout(long),
        Row::new("no-newline", "printf 'a\\n\\nb'").stdout("a\n\nb"),
        Row::new("invalid-utf8", "printf 'a\\377\\376b\\n\\303'; printf '\\200\\n' >&2")
            .stdout(*b"a\xff\xfeb\n\xc3")
            .stderr(*b"\x80\n"),
        Row::new("nul-bytes", "printf 'a\\0b\\n\\0\\0'").stdout(*b"a\0b\n\0\0"),
        Row::new("cr-and-escapes", "printf 'a\\r\\n\\033[31mred\\r50%%\\r100%%\\n'").stdout("a\r\n\x1b[31mred\r50%\r100%\n"),
        Row::new("closes-its-output", "echo before; exec 1>&- 2>&-; sleep 0.7; exit 6")
            .failed("exit_nonzero")
            .exits(6)
            .stdout("before\n"),
        Row::new("not-found", "")
            .body(json!({ "command": "/nonexistent/program" }))
            .failed("command_not_found")
            .never(),
        Row::new("not-in-path", "").body(json!({ "command": "no-such-program-of-ours" })).failed("command_not_found").never(),
        Row::new("not-executable", "")
            .body(json!({ "command": "/etc/passwd" }))
            .failed("command_not_executable")
            .never(),
        Row::new("deadline", "echo up; exec sleep 1000")
            .body(json!({ "timeout_ms": 5_000 }))
            .failed("timeout")
            .stop("deadline")
            .dies(15)
            .stdout("up\n"),
        Row::new("idle", "echo up; sleep 0.2; echo still; exec sleep 1000")
            .body(json!({ "limits": { "idle_ms": 4_000 } }))
            .failed("idle_timeout")
            .stop("idle")
            .dies(15)
            .stdout("up\nstill\n"),
        Row::new("reads-stdin", "cat; read x || echo end")
            .body(json!({ "stdin": "l1\nl2\u{0}" }))
            .stdout("l1\nl2\0end\n"),
    ]
}

async fn begin(server: &Server, row: &Row) {
    let mut body = row.body.as_object().unwrap().clone();
    body.insert("run_id".to_owned(), json!(row.name));
    body.entry("command").or_insert_with(|| json!("/bin/sh"));
    if !row.script.is_empty() {
        body.insert("args".to_owned(), json!(["-c", row.script]));
    }
    let (status, answer) = server.post("/v1/runs", &Value::Object(body)).await;
    assert_eq!(status, 201, "{}: {answer}", row.name);
}

/// Does to a run what is to be done to it, once it has printed its first line.
async fn strike(server: &Server, row: &Row) {
    if matches!(row.strike, Strike::Nothing) {
        return;
    }
    let pid = until(&format!("{} to print", row.name), async || {
        let run = server.run(row.name).await;
        assert!(!is_terminal(&run), "{run}");
        (run["output_text"] == "up\n").then(|| i32::try_from(run["pid"].as_i64().unwrap()).unwrap())
    })
    .await;
    match row.strike {
        Strike::Nothing => {}
        Strike::Agent(what) => signal(pid, what),
        Strike::Group(what) => signal_group(pid, what),
        Strike::Cancel => {
            let (status, answer) = server.post(&format!("/v1/runs/{}/cancel", row.name), &json!({})).await;
            let truth = (status, answer["terminal"].as_bool().unwrap());
            assert!([(202, false), (200, true)].contains(&truth), "{truth:?} {answer}");
            assert_eq!(answer["requested"], true);
        }
    }
}

async fn assert_row(server: &Server, row: &Row) {
    let run = server.end(row.name).await;
    let events = server.events(row.name).await;
    let name = row.name;
    assert_log(&events);
    let told = [&run["status"], &run["error"]["code"], &run["exit"], &run["pid"]];
    assert_eq!(told, [&json!(row.status), &json!(row.code), &row.exit, &Value::Null], "{name}: {run}");
    let (exited, end) = (&events[events.len() - 2], &events[events.len() - 1]);
    assert_eq!(
        (&exited["type"], &end["type"]),
        (&json!("process.exited"), &json!(format!("run.{}", row.status))),
        "{name}"
    );
    let mut facts = exited["data"].clone();
    let members = facts.as_object_mut().unwrap();
    let used = members.remove("rusage");
    for name in ["ran_ms", "stdout_bytes", "stderr_bytes"] {
        members.remove(name);
    }
    if matches!(row.strike, Strike::Group(_)) {
        // Leader and child die of the same signal; whether the child is gone when the leader is found dead is chance.
        assert!([json!(0), json!(1)].contains(&facts["killed_descendants"]));
        facts["killed_descendants"] = json!(0);
    }
    assert_eq!(facts, row.exited, "{name}");
    assert_eq!(used.is_some(), row.exited["how"] != "never_started", "{name}: what it used is known if it ran");
    for (stream, printed) in [("stdout", &row.stdout), ("stderr", &row.stderr)] {
        let replayed = output_of(&events, stream);
        assert!(
            replayed == *printed,
            "{name}: {stream} has {} bytes, not the {} that were printed",
            replayed.len(),
            printed.len()
        );
        if row.exited["how"] != "never_started" {
            assert!(server.spool(name, stream).await == *printed, "{name}: the spool of {stream}");
        }
        assert_eq!(end["data"]["totals"][format!("{stream}_bytes")], printed.len(), "{name}");
    }
    if row.status == "failed" {
        let tail = &run["error"]["stderr_tail"];
        let said = String::from_utf8_lossy(&row.stderr).into_owned();
        assert_eq!(*tail, if said.is_empty() { Value::Null } else { json!(said) }, "{name}");
        assert!(!run["error"]["message"].as_str().unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_misbehaviour_ends_as_it_must() {
    let limit = OUTPUT_MAX.to_string();
    let server = Server::start_with(&["--output-limit", &limit, "--live-max", "16"], &[]).await;
    let rows = rows();
    for row in &rows {
        begin(&server, row).await;
    }
    for row in &rows {
        strike(&server, row).await;
    }
    for row in &rows {
        assert_row(&server, row).await;
    }
    assert_no_process(&server.data()).await;
    until("every place to be free again", async || {
        (server.get("/health").await.1["runs"]["places_taken"] == 0).then_some(())
    })
    .await;
}

/// A run that went on after it closed its output really went on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_closed_its_output_is_left_alone() {
    let server = Server::start().await;
    let go = server.dir.path().join("go");
    let script = format!("echo before; exec 1>&- 2>&-; while [ ! -e {} ]; do sleep 0.02; done; exit 0", go.display());
    server.sh("quiet", &script).await;
    let live = Live::follow(&server, "quiet");
    live.wait_for("output.line", 1).await;
    let pid = i32::try_from(server.run("quiet").await["pid"].as_i64().unwrap()).unwrap();
    assert!(start_time(pid).is_some());
    std::fs::write(go, "").unwrap();
    let run = server.end("quiet").await;
    assert_eq!((&run["status"], &run["output_text"]), (&json!("completed"), &json!("before\n")));
    assert_no_process(&server.data()).await;
}

/// An agent with a grandchild in its group and one in a session of its own, both known by pid.
const FAMILY: &str = "sleep 1000 & a=$!; setsid sleep 1000 & b=$!; echo family $a $b; seq 1 5000; printf tail; wait";

async fn family(server: &Server, id: &str) -> (i32, i32, Vec<i32>) {
    server.sh(id, FAMILY).await;
    let live = Live::follow(server, id);
    live.wait_for("output.line", 5001).await;
    let run = server.run(id).await;
    let pid = i32::try_from(run["pid"].as_i64().unwrap()).unwrap();
    let first = run["output_text"].as_str().unwrap().lines().next().unwrap().to_owned();
    let family: Vec<i32> = first.split(' ').skip(1).map(|pid| pid.parse().unwrap()).collect();
    until("the last word to be in the spool", async || {
        std::fs::read(attempt_of(&server.data(), pid).0.join("stdout")).unwrap().ends_with(b"tail").then_some(())
    })
    .await;
    (pid, shim_of(&server.data(), pid), family)
}

/// The run is lost, keeps what was printed, and nothing of it is left.
async fn assert_lost(server: &Server, id: &str, family: &[i32]) {
    let run = server.end(id).await;
    let told = [&run["status"], &run["error"]["code"], &run["exit"]];
    assert_eq!(told, [&json!("failed"), &json!("lost"), &Value::Null], "{run}");
    let events = server.events(id).await;
    assert_log(&events);
    let numbers: String = (1..=5000).map(|n| format!("{n}\n")).collect();
    let printed = format!("family {} {}\n{numbers}tail", family[0], family[1]);
    assert_eq!(String::from_utf8(output_of(&events, "stdout")).unwrap(), printed);
    assert_eq!(server.spool(id, "stdout").await, printed.as_bytes());
    let exited = &events[events.len() - 2];
    assert_eq!(exited["type"], "process.exited");
    assert_eq!((&exited["data"]["how"], &exited["data"]["stop"]), (&json!("lost"), &json!("none")));
    assert!(exited["data"].get("code").is_none() && exited["data"].get("signal").is_none());
    assert!(family.iter().all(|pid| start_time(*pid).is_none()), "no process is left when the run is over");
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_shim_loses_its_run_and_nothing_else() {
    let server = Server::start().await;
    let (pid, shim, family) = family(&server, "shim").await;
    signal(shim, Signal::KILL);
    assert_lost(&server, "shim", &family).await;
    assert_eq!(start_time(pid), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_killed_while_no_server_is_up_loses_its_run() {
    let mut server = Server::start().await;
    let (_, shim, family) = family(&server, "down").await;
    server.kill9();
    signal(shim, Signal::KILL);
    server.up().await;
    assert_lost(&server, "down", &family).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shim_and_server_killed_together() {
    let mut server = Server::start().await;
    let (_, shim, family) = family(&server, "both").await;
    signal(shim, Signal::KILL);
    server.kill9();
    server.up().await;
    assert_lost(&server, "both", &family).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_runs_shim_is_killed() {
    let mut server = Server::start().await;
    let (_, shim, family) = family(&server, "adopted").await;
    server.kill9();
    server.up().await;
    until("the run to be adopted", async || {
        let (_, health) = server.get("/health").await;
        (health["recovery"]["adopted"] == 1).then_some(())
    })
    .await;
    signal(shim, Signal::KILL);
    assert_lost(&server, "adopted", &family).await;
}

/// Shim, agent, group and server at once: only the files are left to tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_killed_at_once() {
    let mut server = Server::start().await;
    let (pid, shim, family) = family(&server, "all").await;
    server.kill9();
    signal(shim, Signal::KILL);
    for pid in support::processes_of(Path::new(&server.data())) {
        if start_time(pid).is_some() {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
    }
    until("the agent to be gone", async || start_time(pid).is_none().then_some(())).await;
    server.up().await;
    assert_lost(&server, "all", &family).await;
}
