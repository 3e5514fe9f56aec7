//! What kill -9, late shims, double launches, full disks and torn files leave behind.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use longhaul_supervise::{
    AttemptDir, AttemptError, AttemptState, FileLock, How, Identity, Settled, Stop, StopReason, find_marked,
    kill_marked,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{Attempt, PATIENCE, fixture, shell, wait_for};

fn settled(attempt: &Attempt) -> How {
    match attempt.dir.settle().unwrap() {
        Settled::Exit(exit) => exit.how,
        Settled::StillAlive => panic!("still alive"),
    }
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn states_follow_each_other() {
    let mut attempt = Attempt::create(fixture(&["hang"]));
    assert_eq!(attempt.dir.state().unwrap(), AttemptState::Unsettled { started: None });
    attempt.launch();
    attempt.speaks();
    let started = attempt.started();
    assert_eq!(attempt.dir.state().unwrap(), AttemptState::Alive { started: Some(started.clone()) });
    assert_eq!(attempt.dir.settle().unwrap(), Settled::StillAlive);
    assert_eq!(Identity::of(started.pid).unwrap(), Some(started.identity()));
    assert!(!attempt.file("env").exists(), "the agent runs and its secrets are still there");
    attempt.control(1).stop(StopReason::Cancel, 1).unwrap();
    attempt.end();
    assert!(!started.identity().alive().unwrap());
}

#[test]
fn an_agent_dies_with_its_shim_and_is_lost() {
    let mut attempt = Attempt::start(fixture(&["chatter", "1"]));
    attempt.speaks();
    let started = attempt.started();
    kill(attempt.shim_pid());
    attempt.shim.take().unwrap().wait().unwrap();
    wait_for("the agent's death", || (!started.identity().alive().unwrap()).then_some(()));
    assert_eq!(attempt.dir.state().unwrap(), AttemptState::Unsettled { started: Some(started) });
    let len = attempt.len("stdout");
    let exit = attempt.end();
    assert_eq!((exit.how, exit.stop, exit.stdout_bytes), (How::Lost, Stop::None, len));
}

/// What ext4 leaves of an appended file whose length was kept and whose last bytes were not.
#[test]
fn zeros_that_a_power_cut_left_are_nobodys_output() {
    for (same_boot, printed, zeros) in [(false, 3, 200_000), (false, 0, 70_000), (false, 3, 0), (true, 3, 100)] {
        let mut attempt = Attempt::start(shell("echo ab; exec sleep 1000"));
        attempt.speaks();
        let started = attempt.started();
        kill(attempt.shim_pid());
        attempt.shim.take().unwrap().wait().unwrap();
        wait_for("the agent's death", || (!started.identity().alive().unwrap()).then_some(()));
        let mut left = b"ab\n"[..printed].to_vec();
        left.resize(printed + zeros, 0);
        std::fs::write(attempt.file("stdout"), &left).unwrap();
        if !same_boot {
            let record = std::fs::read_to_string(attempt.file("started")).unwrap();
            std::fs::write(attempt.file("started"), record.replace(&started.boot_id, "an earlier one")).unwrap();
        }
        let exit = attempt.end();
        assert_eq!((exit.how, exit.stdout_bytes), (How::Lost, left.len() as u64));
        let kept = if same_boot { &left[..] } else { &left[..printed] };
        assert!(attempt.read("stdout") == kept, "{same_boot} {printed} {zeros}");
    }
}

#[test]
fn a_tree_whose_shim_is_lost_is_found_by_its_marker() {
    let script = "setsid sleep 100 & sh -c 'env -i sh -c \"echo \\$\\$; exec sleep 100\" & wait' & sleep 100 & wait";
    let mut attempt = Attempt::start(shell(script));
    attempt.speaks();
    let unmarked = wait_for("a whole line", || attempt.text("stdout").strip_suffix('\n').map(str::to_owned));
    let unmarked = Identity::of(unmarked.parse().unwrap()).unwrap().unwrap();
    let agent = attempt.started().identity();
    let marker = attempt.spec.marker.clone();
    wait_for("the whole tree", || (find_marked(&marker).unwrap().len() == 4).then_some(()));
    kill(attempt.shim_pid());
    attempt.shim.take().unwrap().wait().unwrap();
    wait_for("the agent's death", || (!agent.alive().unwrap()).then_some(()));
    assert_eq!(find_marked(&marker).unwrap().len(), 3, "PDEATHSIG reaches the leader alone");
    let report = kill_marked(&marker, PATIENCE).unwrap();
    assert_eq!(report.remaining, Vec::<i32>::new());
    assert!(report.killed.contains(&unmarked.pid), "the unmarked one is killed under its parent");
    wait_for("its death", || (!unmarked.alive().unwrap()).then_some(()));
    assert_eq!(attempt.end().how, How::Lost);
}

#[test]
fn a_shim_that_comes_after_the_settlement_leaves() {
    let mut attempt = Attempt::create(shell("echo ran >&2; echo ran"));
    assert_eq!(settled(&attempt), How::NeverStarted { exec_error: None });
    let before = attempt.read("exit");
    attempt.launch();
    assert_eq!(attempt.end().how, How::NeverStarted { exec_error: None });
    assert_eq!((attempt.read("exit"), attempt.len("stdout"), attempt.len("stderr")), (before, 0, 0));
}

#[test]
fn settlers_and_a_shim_race_to_one_truth() {
    for _ in 0..50 {
        let mut attempt = Attempt::create(fixture(&["say", "ran"]));
        attempt.launch();
        let first = wait_for("a settlement", || match attempt.dir.settle().unwrap() {
            Settled::Exit(exit) => Some(exit),
            Settled::StillAlive => None,
        });
        let exit = attempt.end();
        assert_eq!(*first, exit);
        match exit.how {
            How::NeverStarted { exec_error: None } => assert_eq!(attempt.len("stdout"), 0),
            How::Exited { code: 0 } => assert_eq!(attempt.text("stdout"), "ran"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn launched_twice_starts_one_agent() {
    for round in 0..20 {
        let mut attempt = Attempt::create(shell("echo $$"));
        let mut others: Vec<_> = (0..3).map(|_| attempt.launch_one()).collect();
        attempt.launch();
        for other in &mut others {
            wait_for("the other shim's end", || other.try_wait().unwrap());
        }
        assert_eq!(attempt.end().how, How::Exited { code: 0 });
        assert_eq!(attempt.text("stdout").lines().count(), 1, "round {round}");
    }
}

#[test]
fn a_second_shim_of_a_lost_one_starts_nothing() {
    let mut attempt = Attempt::start(fixture(&["hang"]));
    attempt.speaks();
    kill(attempt.shim_pid());
    attempt.shim.take().unwrap().wait().unwrap();
    attempt.launch();
    wait_for("the second shim", || attempt.shim.as_mut().unwrap().try_wait().unwrap());
    assert_eq!(attempt.end().how, How::Lost);
    assert_eq!(attempt.text("stdout"), "hanging\n");
}

#[test]
fn a_directory_that_was_not_completed_is_empty() {
    let temp = tempfile::tempdir().unwrap();
    let dir = AttemptDir::open(temp.path()).unwrap();
    assert_eq!(dir.state().unwrap(), AttemptState::Empty);
    let spec = fixture(&["exit", "0"]);
    assert!(matches!(AttemptDir::create(temp.path(), &spec, &[], None), Err(AttemptError::Io { .. })), "it exists");
    let bad = longhaul_supervise::AttemptSpec { cwd: "relative".into(), ..spec };
    assert!(matches!(AttemptDir::create(&temp.path().join("x"), &bad, &[], None), Err(AttemptError::Garbled { .. })));
    assert!(!temp.path().join("x").exists());
}

#[test]
fn garbled_files_are_named_not_guessed() {
    let attempt = Attempt::create(fixture(&["exit", "0"]));
    let good =
        r#"{"version":1,"pid":1,"boot_id":"b","start_time":1,"started_at_ms":1,"shim_pid":1,"shim_version":"1"}"#;
    for (name, later) in
        [("started", good.replace("\"version\":1", "\"version\":2")), ("exit", "{\"version\":9}".into())]
    {
        for text in ["", "{", &good[..good.len() - 1], "\0\0\0\0", "{}", &later] {
            std::fs::write(attempt.file(name), text).unwrap();
            for result in [attempt.dir.state().map(drop), attempt.dir.settle().map(drop)] {
                match result {
                    Err(error @ AttemptError::Garbled { .. }) => {
                        let path = attempt.file(name);
                        assert!(error.to_string().starts_with(&format!("{} is garbled: ", path.display())), "{error}");
                    }
                    other => panic!("{name} {text:?}: {other:?}"),
                }
            }
        }
        std::fs::remove_file(attempt.file(name)).unwrap();
    }
}

#[test]
fn a_garbled_spec_is_an_end_with_a_reason() {
    let mut attempt = Attempt::create(fixture(&["say", "ran"]));
    let whole = attempt.read("spec");
    std::fs::write(attempt.file("spec"), &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(attempt.dir.read_spec(), Err(AttemptError::Garbled { .. })));
    attempt.launch();
    match attempt.end().how {
        How::NeverStarted { exec_error: Some(error) } => {
            assert_eq!((error.step.as_str(), error.errno), ("spec", 0));
            assert!(error.path.ends_with("spec"), "{error:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_shim_waits_for_a_look_at_its_lock() {
    let mut attempt = Attempt::create(fixture(&["say", "ran"]));
    let look = FileLock::try_exclusive(&attempt.file("lock")).unwrap();
    attempt.launch();
    // The shim is up when it is in a session of its own, and cannot have the lock.
    wait_for("the shim's session", || {
        // Read from /proc: `getsid` of a session that began outside this pid namespace is 0, which rustix takes for a fault.
        let pid = attempt.shim_pid();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let session = stat.rsplit(')').next().unwrap().split_ascii_whitespace().nth(3).unwrap();
        (session == pid.to_string()).then_some(())
    });
    drop(look);
    assert_eq!(attempt.end().how, How::Exited { code: 0 });
}

/// A small file system of its own, unmounted in the end.
struct Small {
    at: PathBuf,
    temp: Option<tempfile::TempDir>,
}

impl Small {
    fn mount(kib: u32) -> Option<Self> {
        let temp = tempfile::tempdir().unwrap();
        let at = temp.path().to_owned();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "supervise-test"])
            .arg(&at)
            .output();
        match mounted {
            Ok(out) if out.status.success() => Some(Self { at, temp: Some(temp) }),
            other => {
                println!("skipped, no tmpfs can be mounted here: {other:?}");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        drop(self.temp.take());
    }
}

fn on_small(small: &Small, spec: longhaul_supervise::AttemptSpec) -> Attempt {
    let path = small.at.join("attempt");
    let mut attempt = Attempt::create_at(tempfile::tempdir().unwrap(), &path, spec, &[], None);
    attempt.launch();
    attempt
}

fn fill(path: &Path) {
    // As far as it goes.
    let _ = std::fs::write(path, vec![0; 4 << 20]);
}

#[test]
fn an_agent_waits_while_the_disk_is_full() {
    let Some(small) = Small::mount(512) else {
        return;
    };
    let mut attempt = on_small(&small, fixture(&["both", "600000"]));
    attempt.speaks();
    let filler = small.at.join("filler");
    fill(&filler);
    let mut client = attempt.control(1);
    wait_for("a full disk", || client.status().unwrap().disk_full.then_some(()));
    assert!(attempt.started().identity().alive().unwrap());
    std::fs::remove_file(&filler).unwrap();
    // 1 200 000 bytes do not fit 512 KiB: it gets full again, by its own output, and bigger again.
    wait_for("a full disk again", || {
        let status = client.status().unwrap();
        (status.disk_full && status.stdout_bytes + status.stderr_bytes > 400_000).then_some(())
    });
    assert!(Command::new("mount").args(["-o", "remount,size=4m"]).arg(&small.at).status().unwrap().success());
    let exit = attempt.end();
    assert_eq!((&exit.how, exit.stop, exit.output_lost_bytes), (&How::Exited { code: 0 }, Stop::None, 0));
    assert_eq!(attempt.text("stdout"), "stdout 89abcdef\n".repeat(600_000 / 16));
    assert_eq!(attempt.text("stderr"), "stderr 89abcdef\n".repeat(600_000 / 16));
    let mut lines = 0;
    let mut follower = attempt.follower();
    loop {
        let batch = follower.batch(1 << 16, 1000, Some((&exit).into())).unwrap();
        assert!(batch.missing.is_empty());
        lines += batch.lines.len();
        if !batch.more {
            break;
        }
    }
    assert_eq!(lines, 2 * (600_000 / 16));
}

#[test]
fn an_end_is_recorded_on_a_full_disk() {
    let Some(small) = Small::mount(512) else {
        return;
    };
    let mut attempt = on_small(&small, fixture(&["both", "10000000"]));
    let mut client = attempt.control(1);
    wait_for("a full disk", || client.status().unwrap().disk_full.then_some(()));
    fill(&small.at.join("filler"));
    client.stop(StopReason::Cancel, 1).unwrap();
    // The leader is dead, what it printed waits for space; a second wish gives it up.
    wait_for("the leader's end", || {
        (client.status().ok()?.phase == longhaul_supervise::control::Phase::Ending).then_some(())
    });
    client.stop(StopReason::Cancel, 1).unwrap();
    let exit = attempt.end();
    assert_eq!((exit.how, exit.stop), (How::Signaled { signal: 15, core: false }, Stop::Cancel));
    assert!(exit.output_lost_bytes > 0);
    assert_eq!(exit.spool_error.as_deref(), Some("the disk was full"));
    assert_eq!((exit.stdout_bytes, exit.stderr_bytes), (attempt.len("stdout"), attempt.len("stderr")));
}

#[test]
fn an_attempt_is_settled_on_a_full_disk() {
    let Some(small) = Small::mount(512) else {
        return;
    };
    let path = small.at.join("attempt");
    let attempt = Attempt::create_at(tempfile::tempdir().unwrap(), &path, fixture(&["exit", "0"]), &[], None);
    fill(&small.at.join("filler"));
    assert_eq!(settled(&attempt), How::NeverStarted { exec_error: None });
    assert_eq!(settled(&attempt), How::NeverStarted { exec_error: None });
}

#[test]
fn a_spool_that_cannot_be_written_stops_the_run_and_says_why() {
    // A file size limit of the shim is an error that waiting does not heal.
    let mut attempt = Attempt::create(fixture(&["both", "1000000000"]));
    let script = format!("ulimit -f 64; exec {} shim {}", crate::rig::FIXTURE, attempt.dir.path().display());
    attempt.shim = Some(Command::new("/bin/sh").args(["-c", &script]).env_clear().spawn().unwrap());
    let exit = attempt.end();
    assert_eq!(exit.stop, Stop::SpoolError);
    assert!(exit.spool_error.unwrap().contains("too large"), "EFBIG is named");
    assert!(exit.output_lost_bytes > 0 && exit.stdout_bytes.max(exit.stderr_bytes) == 64 * 512);
}

#[test]
fn a_tree_is_gone_within_its_bound() {
    let mut attempt = Attempt::start(fixture(&["leave", "session", "deaf-to-term"]));
    let exit = attempt.end();
    assert!(exit.ran_ms < Duration::from_secs(20).as_millis() as u64);
    assert_eq!((exit.killed_descendants, exit.unkilled), (1, vec![]));
}

#[test]
fn a_thousand_cancels_and_kills_leave_nothing() {
    // Each spends most of its time waiting, so several go on side by side.
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| (0..100).for_each(cancel_or_kill));
        }
    });
}

/// Ends an agent with two sessions of their own below it, the inner one without the marker.
fn cancel_or_kill(cycle: u32) {
    let script = "setsid sh -c 'setsid env -i sleep 1000 & echo $!; wait' & wait";
    let mut attempt = Attempt::start(shell(script));
    let inner = wait_for("the inner session", || attempt.text("stdout").strip_suffix('\n').map(str::to_owned));
    let inner = Identity::of(inner.parse().unwrap()).unwrap();
    let agent = attempt.started();
    let cancelled = cycle.is_multiple_of(2);
    if cancelled {
        attempt.control(1).stop(StopReason::Cancel, 1).unwrap();
    } else {
        kill(agent.pid);
    }
    let exit = attempt.end();
    assert_eq!(exit.unkilled, Vec::<i32>::new(), "cycle {cycle}");
    assert_eq!(exit.stop, if cancelled { Stop::Cancel } else { Stop::None }, "cycle {cycle}");
    assert!(!agent.identity().alive().unwrap(), "cycle {cycle}: the agent");
    assert!(!inner.is_some_and(|inner| inner.alive().unwrap()), "cycle {cycle}: what left its session");
}
