//! The command line against a real server and real processes, each test in a data directory of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A data directory, its working directory and, at its end, no server and no run.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("work/.git")).unwrap();
        Self { dir }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longhaul"));
        command
            .args(words)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("XDG_STATE_HOME", self.dir.path())
            .env("LONGHAUL_DISK_FREE_MIN_BYTES", "0")
            .env("LONGHAUL_DISK_FREE_MIN_PERCENT", "0")
            .current_dir(self.dir.path().join("work"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn longhaul(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn status(&self, words: &[&str]) -> Option<i32> {
        self.longhaul(words).status.code()
    }

    fn server_pid(&self) -> i32 {
        let text = fs::read(self.dir.path().join("longhaul/server.json")).unwrap();
        let info: Value = serde_json::from_slice(&text).unwrap();
        i32::try_from(info["pid"].as_i64().unwrap()).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let live = self.longhaul(&["ps", "-A", "-q"]).stdout;
        let live: Vec<&str> = std::str::from_utf8(&live).unwrap_or_default().lines().collect();
        if !live.is_empty() {
            self.longhaul(&[&["cancel"], &live[..]].concat());
        }
        self.longhaul(&["server", "stop"]);
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Lines of a child's stdout until one holds `mark`.
fn read_until(child: &mut Child, mark: &str) -> (Vec<String>, BufReader<std::process::ChildStdout>) {
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "{mark} did not come; there is {lines:?}");
        lines.push(line);
        if lines.last().unwrap().contains(mark) {
            return (lines, reader);
        }
    }
}

#[test]
fn exit_statuses_are_those_of_the_design() {
    let place = Place::new();
    for (words, want) in [
        (&["run", "-q", "demo", "hi"][..], 0),
        (&["run", "-q", "demo/fail"], 3),
        (&["run", "--", "true"], 0),
        (&["run", "--", "sh", "-c", "exit 7"], 7),
        (&["run", "--", "sh", "-c", "kill -9 $$"], 137),
        (&["run", "--", "no-such-command-here"], 127),
        (&["run", "--", "/etc/passwd"], 126),
        (&["run", "--timeout", "300ms", "--", "sleep", "60"], 124),
        (&["run", "no-such-harness", "hi"], 125),
        (&["run"], 125),
        (&["run", "--no-such-option"], 125),
        (&["attach", "no-such-run"], 125),
        (&["--help"], 0),
    ] {
        assert_eq!(place.status(words), Some(want), "{words:?}");
    }
    let id = place.longhaul(&["run", "-d", "--", "sleep", "60"]).stdout;
    let id = text(&id).trim();
    assert_eq!(place.status(&["cancel", id]), Some(0));
    assert_eq!(place.status(&["wait", id]), Some(143));
    assert_eq!(place.status(&["wait", id, "--timeout", "1s"]), Some(143));
    assert_eq!(place.status(&["rm", id]), Some(0));
    assert_eq!(place.status(&["inspect", id]), Some(125));
}

#[test]
fn a_command_keeps_its_bytes_its_streams_and_its_stdin() {
    let place = Place::new();
    let ran = place.longhaul(&["run", "-q", "--", "sh", "-c", r"printf 'a\033[1m\377\nb'; printf 'err\n' >&2"]);
    assert_eq!(ran.stdout, b"a\x1b[1m\xff\nb");
    assert!(text(&ran.stderr).ends_with("err\n"), "{:?}", text(&ran.stderr));

    let mut child = place.command(&["run", "-q", "--", "tr", "a-z", "A-Z"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"FROM A PIPE\n");
}

#[test]
fn an_agent_gives_its_answer_on_stdout_alone() {
    let place = Place::new();
    let ran = place.longhaul(&["run", "demo", "hello", "there"]);
    assert_eq!(text(&ran.stdout), "hello there\n");
    assert!(text(&ran.stderr).contains("started server pid"), "{:?}", text(&ran.stderr));
}

#[test]
fn many_first_commands_start_one_server() {
    let place = Place::new();
    let children: Vec<Child> = (0..6).map(|_| place.command(&["run", "demo", "hi"]).spawn().unwrap()).collect();
    let ended: Vec<Output> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    let started = ended.iter().filter(|output| text(&output.stderr).contains("started server pid")).count();
    assert!(ended.iter().all(|output| output.status.code() == Some(0)), "{ended:?}");
    assert_eq!(started, 1, "{ended:?}");
}

#[test]
fn a_follower_sees_each_event_once_over_kill_9_and_restart_of_the_server() {
    let place = Place::new();
    let mut child = place.command(&["run", "--json", "demo/slow", "4"]).spawn().unwrap();
    let (mut lines, mut reader) = read_until(&mut child, "\"text\":\"3");
    signal(place.server_pid(), Signal::KILL);
    loop {
        let mut line = String::new();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the stream ended early: {lines:?}");
        lines.push(line);
        if lines.last().unwrap().contains("\"text\":\"8") {
            break;
        }
    }
    assert_eq!(place.status(&["server", "restart"]), Some(0));
    lines.extend(reader.lines().map(|line| line.unwrap()));
    let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    assert_eq!(events.last().unwrap()["type"], "run.completed");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_server_that_is_stopped_stays_stopped_and_the_run_goes_on() {
    let place = Place::new();
    let mut child = place.command(&["run", "--json", "--id", "r", "demo/slow", "20"]).spawn().unwrap();
    let (_, _reader) = read_until(&mut child, "message.delta");
    assert_eq!(place.status(&["server", "stop"]), Some(0));
    assert_eq!(place.status(&["server", "status"]), Some(1));
    assert_eq!(child.wait().unwrap().code(), Some(125));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(
        said.ends_with("longhaul: the server was stopped\n  the run goes on; come back: longhaul attach r\n"),
        "{said}"
    );
    assert_eq!(place.status(&["attach", "-q", "r"]), Some(0));
}

/// Whether this process was started with SIGINT ignored, as a script's background job is; its children then are too.
fn interrupts_are_ignored() -> bool {
    let status = fs::read_to_string(Path::new("/proc/self/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 0b10 != 0
}

#[test]
fn an_interrupt_detaches_or_cancels() {
    let place = Place::new();
    if interrupts_are_ignored() {
        return;
    }
    let pid = |child: &Child| i32::try_from(child.id()).unwrap();
    let mut child = place.command(&["run", "--json", "--id", "d", "demo/slow", "20"]).spawn().unwrap();
    let (_, _reader) = read_until(&mut child, "message.delta");
    signal(pid(&child), Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("detached; the run goes on.  come back: longhaul attach d   stop it: longhaul cancel d"));

    let words = ["attach", "--json", "d", "--on-interrupt", "cancel"];
    let mut child = place.command(&words).spawn().unwrap();
    let (_, mut reader) = read_until(&mut child, "message.delta");
    signal(pid(&child), Signal::INT);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("run.cancelled"), "{rest}");
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn inside_a_run_no_second_server_is_started() {
    let place = Place::new();
    let script = format!(
        "{0} run -q demo inner && LONGHAUL_SERVER= {0} --data-dir {1} run demo x; echo $?",
        env!("CARGO_BIN_EXE_longhaul"),
        place.dir.path().join("other").display()
    );
    let made = place.longhaul(&["token", "create", "--scope", "run"]);
    let token = format!("LONGHAUL_TOKEN={}", text(&made.stdout).trim());
    let ran = place.longhaul(&["run", "-q", "--env", &token, "--", "sh", "-c", &script]);
    assert_eq!(text(&ran.stdout), "inner\n125\n");
    assert!(text(&ran.stderr).contains("a run never starts a second server"), "{:?}", text(&ran.stderr));
    assert!(!place.dir.path().join("other").exists());
}

#[test]
fn an_ended_run_is_gone_on_with() {
    let place = Place::new();
    assert_eq!(place.status(&["run", "demo/echo", "hello", "--on-lost", "resume", "--id", "r1"]), Some(0));
    let second = place.longhaul(&["resume", "r1", "and", "again", "--id", "r2"]);
    assert_eq!((second.status.code(), String::from_utf8_lossy(&second.stdout).trim()), (Some(0), "and again"));
    let detached = place.longhaul(&["resume", "r2", "-d", "--id", "r3"]);
    assert_eq!(String::from_utf8_lossy(&detached.stdout).trim(), "r3");
    assert_eq!(place.status(&["wait", "r3"]), Some(0));
    let page = place.longhaul(&["inspect", "r3"]);
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.lines().any(|line| line.starts_with("resumes") && line.ends_with("r2")), "{page}");
    assert_eq!(place.status(&["run", "--id", "sh", "--", "true"]), Some(0));
    let refused = place.longhaul(&["resume", "sh"]);
    assert_eq!(refused.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("it is a command"), "{refused:?}");
    let refused = place.longhaul(&["run", "--on-lost", "resume", "--", "true"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--on-lost means nothing to a command"), "{refused:?}");
}
