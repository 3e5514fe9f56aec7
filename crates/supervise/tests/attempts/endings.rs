//! The model table: what each agent does, and what must be on record of it.

use longhaul_supervise::{AttemptSpec, Exit, How, Limits, Stdin, Stop};

use crate::rig::{Attempt, FIXTURE, fixture, shell};

/// What the record of an ending must say, times and usage left out.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    how: How,
    stop: Stop,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    lost: u64,
    killed: u32,
}

const QUIET: Seen =
    Seen { how: How::Exited { code: 0 }, stop: Stop::None, stdout: Vec::new(), stderr: Vec::new(), lost: 0, killed: 0 };

fn exited(code: i32) -> Seen {
    Seen { how: How::Exited { code }, ..QUIET }
}

fn signaled(signal: i32) -> Seen {
    Seen { how: How::Signaled { signal, core: false }, ..QUIET }
}

fn printed(stdout: impl AsRef<[u8]>) -> Seen {
    Seen { stdout: stdout.as_ref().to_vec(), ..QUIET }
}

fn flood(bytes: usize) -> Vec<u8> {
    b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n".iter().copied().cycle().take(bytes).collect()
}

fn seen(attempt: &mut Attempt) -> Seen {
    let exit = attempt.end();
    let (stdout, stderr) = (attempt.read("stdout"), attempt.read("stderr"));
    let lens = (stdout.len() as u64, stderr.len() as u64, attempt.len("order"));
    let Exit { stdout_bytes, stderr_bytes, order_bytes, unkilled, spool_error, .. } = &exit;
    assert_eq!((*stdout_bytes, *stderr_bytes, *order_bytes), lens);
    assert_eq!((unkilled.as_slice(), spool_error), (&[][..], &None));
    assert_eq!(exit.stop_asked_at_ms.is_some(), exit.stop != Stop::None);
    assert!(!attempt.file("control").exists());
    Seen {
        how: exit.how,
        stop: exit.stop,
        stdout,
        stderr,
        lost: exit.output_lost_bytes,
        killed: exit.killed_descendants,
    }
}

#[track_caller]
fn row(spec: AttemptSpec, expected: Seen) {
    let mut attempt = Attempt::start(spec);
    let seen = seen(&mut attempt);
    if seen.stdout.len() + expected.stdout.len() > 10_000 {
        assert!(
            seen.stdout == expected.stdout,
            "stdout differs, {} and {} bytes",
            seen.stdout.len(),
            expected.stdout.len()
        );
        let short = |seen: Seen| Seen { stdout: Vec::new(), ..seen };
        assert_eq!(short(seen), short(expected));
    } else {
        assert_eq!(seen, expected);
    }
}

#[test]
fn exits_and_signals() {
    row(fixture(&["exit", "0"]), exited(0));
    row(fixture(&["exit", "7"]), exited(7));
    row(fixture(&["exit", "255"]), exited(255));
    row(fixture(&["die-by", "SIGTERM"]), signaled(15));
    row(fixture(&["die-by", "SIGKILL"]), signaled(9));
    row(fixture(&["die-by", "SIGHUP"]), signaled(1));
    row(shell("kill -PIPE $$"), signaled(13));
}

#[test]
fn bytes_are_kept_as_they_are() {
    row(fixture(&["say", "no newline"]), printed("no newline"));
    row(fixture(&["hex", "ff00fe0a80c3280a00000a"]), printed([255, 0, 254, 10, 128, 195, 40, 10, 0, 0, 10]));
    row(fixture(&["flood", "3000001"]), printed(flood(3_000_001)));
    row(fixture(&["truncate"]), printed("before\nafter\n"));
    let mut long: Vec<u8> = (0..1 << 20).flat_map(|at: u32| format!("{at:016x}").into_bytes()).collect();
    long.push(b'\n');
    row(fixture(&["line", "16777216"]), printed(long));
}

#[test]
fn a_stream_that_is_closed_early_ends_nothing() {
    let spec = shell("echo out; exec >&-; sleep 0.05; echo err >&2; exec 2>&-; sleep 0.05; exit 3");
    row(spec, Seen { stdout: b"out\n".to_vec(), stderr: b"err\n".to_vec(), ..exited(3) });
}

#[test]
fn what_outlives_its_leader_is_killed() {
    let left = |killed| Seen { killed, ..printed("left\n") };
    row(fixture(&["leave", "session"]), left(1));
    row(fixture(&["leave", "keep", "session"]), left(1));
    row(fixture(&["leave", "session", "deaf-to-term"]), left(1));
    row(fixture(&["leave", "leave-not", "session"]).with_tree(), Seen { killed: 3, ..QUIET });
}

trait WithTree {
    fn with_tree(self) -> Self;
}

impl WithTree for AttemptSpec {
    /// Three descendants that sleep: a child, one in a session, one without its marker; the leader exits under them.
    fn with_tree(self) -> Self {
        let script = "sleep 100 & setsid sleep 100 & env -i /bin/sleep 100 & exec >&- 2>&-; sleep 0.05";
        AttemptSpec { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()], ..self }
    }
}

#[test]
fn a_grandchild_that_prints_on_is_read_for_a_bound_and_no_longer() {
    let spec = fixture(&["leave", "keep", "session", "chatter"]);
    let mut attempt = Attempt::start(AttemptSpec { drain_ms: 1_000, ..spec });
    let seen = seen(&mut attempt);
    let text = String::from_utf8(seen.stdout.clone()).unwrap();
    let lines: Vec<&str> = text.lines().filter(|&line| line != "left").collect();
    assert!(lines.len() > 5, "{lines:?}");
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(*line, at.to_string());
    }
    assert_eq!(Seen { stdout: Vec::new(), ..seen }, Seen { killed: 1, ..QUIET });
}

#[test]
fn a_fork_storm_is_put_out() {
    let mut attempt = Attempt::start(fixture(&["hydra", "0"]));
    let seen = seen(&mut attempt);
    assert!(seen.killed > 0);
    assert_eq!((seen.how, seen.stop, seen.stdout), (How::Exited { code: 0 }, Stop::None, b"first\n".to_vec()));
}

#[test]
fn the_output_limit_is_exact() {
    let limited = |args: &[&str], output_bytes_max| AttemptSpec {
        limits: Limits { output_bytes_max, idle_ms: None },
        ..fixture(args)
    };
    // All of it fits, to the last byte.
    row(limited(&["flood", "100000"], 100_000), printed(flood(100_000)));
    row(limited(&["exit", "0"], 0), exited(0));
    // One byte too many: kept are exactly so many as allowed.
    for max in [0, 1, 63, 64, 65_535, 65_536, 65_537, 99_999] {
        let mut attempt = Attempt::start(limited(&["flood", "100000"], max));
        let seen = seen(&mut attempt);
        // An agent that ended before its last byte was read was not stopped; what was lost is on record all the same.
        assert!(seen.stop == Stop::OutputLimit || (seen.stop, &seen.how) == (Stop::None, &How::Exited { code: 0 }));
        assert_eq!(seen.stdout.len() as u64, max);
        assert!(seen.stdout == flood(max as usize));
        assert!(seen.lost > 0 && seen.lost + max <= 100_000);
    }
    // Both streams count together, and one who prints for ever is stopped.
    let mut attempt = Attempt::start(limited(&["both", "1000000000"], 123_457));
    let seen = seen(&mut attempt);
    assert_eq!((seen.stop, seen.stdout.len() + seen.stderr.len()), (Stop::OutputLimit, 123_457));
}

#[test]
fn an_agent_sees_only_what_it_should() {
    let temp = tempfile::tempdir().unwrap();
    let cwd = temp.path().canonicalize().unwrap().to_str().unwrap().to_owned();
    let spec = AttemptSpec { cwd: cwd.clone(), ..fixture(&["inspect", "a b", ""]) };
    let marker = spec.marker.clone();
    let mut attempt = Attempt::create_with(spec, &[("B", "2 = two"), ("A", ""), ("PWD", "/wrong")], None);
    attempt.launch();
    let seen = seen(&mut attempt);
    let expected = [
        "args [\"a b\", \"\"]".to_owned(),
        format!("cwd {cwd}"),
        format!("env [\"A=\", \"B=2 = two\", \"LONGHAUL_RUN_MARKER={marker}\", \"PWD={cwd}\"]"),
        "fds [\"0\", \"1\", \"2\"]".to_owned(),
        "leads its group true".to_owned(),
        "SigBlk:\t0000000000000000".to_owned(),
        // Rust's own runtime in the fixture ignores SIGPIPE; nothing else is inherited as ignored.
        "SigIgn:\t0000000000001000".to_owned(),
        "death signal Some(9)".to_owned(),
    ];
    assert_eq!(String::from_utf8(seen.stdout).unwrap().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn programs_are_found_in_the_agents_own_path() {
    let temp = tempfile::tempdir().unwrap();
    let program = temp.path().join("only-here");
    std::os::unix::fs::symlink(FIXTURE, &program).unwrap();
    let spec = AttemptSpec { program: "only-here".into(), ..fixture(&["exit", "5"]) };
    let mut attempt = Attempt::create_with(spec, &[("PATH", temp.path().to_str().unwrap())], None);
    attempt.launch();
    assert_eq!(seen(&mut attempt), exited(5));
    let spec = AttemptSpec {
        program: "./only-here".into(),
        cwd: temp.path().to_str().unwrap().into(),
        ..fixture(&["exit", "6"])
    };
    row(spec, exited(6));
}

#[test]
fn what_cannot_be_started_says_why() {
    let temp = tempfile::tempdir().unwrap();
    let plain = temp.path().join("plain");
    std::fs::write(&plain, "no program").unwrap();
    let plain = plain.to_str().unwrap();
    let table = [
        (
            AttemptSpec { program: "no-such-program".into(), ..fixture(&[]) },
            "exec",
            libc::ENOENT,
            127,
            "no-such-program",
        ),
        (AttemptSpec { program: plain.into(), ..fixture(&[]) }, "exec", libc::EACCES, 126, plain),
        (
            AttemptSpec { cwd: "/no/such/directory".into(), ..fixture(&["exit", "0"]) },
            "cwd",
            libc::ENOENT,
            126,
            "/no/such/directory",
        ),
        (AttemptSpec { args: vec!["x".repeat(200_000)], ..fixture(&[]) }, "exec", libc::E2BIG, 126, FIXTURE),
    ];
    for (spec, step, errno, code, path) in table {
        let mut attempt = Attempt::start(spec);
        match attempt.end().how {
            How::NeverStarted { exec_error: Some(error) } => {
                assert_eq!((error.step.as_str(), error.errno, error.path.as_str()), (step, errno, path));
                assert_eq!(error.shell_code(), code);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn stdin_is_nothing_or_a_file() {
    row(fixture(&["echo"]), QUIET);
    let spec = AttemptSpec { stdin: Stdin::File { name: "stdin".into() }, ..fixture(&["echo"]) };
    let mut attempt = Attempt::create_with(spec, &[], Some(b"the prompt\n\xff"));
    attempt.launch();
    assert_eq!(seen(&mut attempt), printed(b"the prompt\n\xff"));
}
