//! Who ended an attempt, and how: the ladder, the limits, and races with an ordinary end.

use std::time::{Duration, Instant};

use longhaul_supervise::control::Phase;
use longhaul_supervise::{
    AttemptSpec, ControlClient, Exit, How, Limits, Stdin, Stop, StopReason, StopSignal, StopStep, WriteFrame,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{Attempt, fixture, shell, wait_for};

fn signal(signal: StopSignal, wait_ms: u64) -> StopStep {
    StopStep::Signal { signal, wait_ms }
}

fn cancel(attempt: &Attempt) -> Stop {
    attempt.control(1).stop(StopReason::Cancel, 1).unwrap()
}

fn verdict(exit: &Exit) -> (How, Stop) {
    (exit.how.clone(), exit.stop)
}

/// Dead, and not yet reaped by its parent. Source: proc_pid_stat(5).
fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
}

const TERMED: How = How::Signaled { signal: 15, core: false };
const KILLED: How = How::Signaled { signal: 9, core: false };
const EXITED: How = How::Exited { code: 0 };

#[test]
fn the_ladder_goes_as_far_as_it_must() {
    let table = [
        (fixture(&["hang"]), TERMED),
        (fixture(&["trap-term"]), EXITED),
        (AttemptSpec { stop: vec![signal(StopSignal::Term, 300)], ..fixture(&["ignore-term"]) }, KILLED),
        (AttemptSpec { stop: vec![], ..fixture(&["hang"]) }, KILLED),
        (
            AttemptSpec { stop: vec![signal(StopSignal::Int, 30_000)], ..fixture(&["hang"]) },
            How::Signaled { signal: 2, core: false },
        ),
        (
            AttemptSpec { stop: vec![signal(StopSignal::Usr1, 30_000)], ..fixture(&["hang"]) },
            How::Signaled { signal: 10, core: false },
        ),
        // A process that was stopped must not outwait TERM.
        (shell("echo up; kill -STOP $$"), TERMED),
    ];
    for (spec, how) in table {
        let mut attempt = Attempt::start(spec);
        attempt.speaks();
        assert_eq!(cancel(&attempt), Stop::Cancel);
        let exit = attempt.end();
        assert_eq!(verdict(&exit), (how, Stop::Cancel), "{}", attempt.spec.attempt);
        assert!(exit.stop_asked_at_ms.unwrap() >= attempt.started().started_at_ms);
    }
}

#[test]
fn term_reaches_tools_in_sessions_of_their_own_and_int_does_not() {
    // The leader waits for its tool; the tool traps TERM and says so. The leader is ready before the tool is there.
    let script = "trap 'wait; exit 4' TERM; \
                  setsid sh -c 'trap \"echo tool got TERM; exit\" TERM; echo up; while :; do sleep 0.01; done' & \
                  wait; wait; exit 9";
    let mut attempt = Attempt::start(AttemptSpec { stop: vec![signal(StopSignal::Term, 20_000)], ..shell(script) });
    attempt.speaks();
    cancel(&attempt);
    let exit = attempt.end();
    assert_eq!(verdict(&exit), (How::Exited { code: 4 }, Stop::Cancel));
    assert_eq!(attempt.text("stdout"), "up\ntool got TERM\n");

    // Here the tool goes on until the leader has its INT, and would say in between that it got one.
    let temp = tempfile::tempdir().unwrap();
    let got = temp.path().join("got").display().to_string();
    let script = format!(
        "trap '>{got}; wait; echo leader got INT; exit 5' INT; \
         sh -c 'trap \"echo tool got INT\" INT; echo up; while [ ! -e {got} ]; do sleep 0.01; done' & \
         wait; wait; exit 9"
    );
    let mut attempt = Attempt::start(AttemptSpec { stop: vec![signal(StopSignal::Int, 20_000)], ..shell(&script) });
    attempt.speaks();
    cancel(&attempt);
    assert_eq!(verdict(&attempt.end()), (How::Exited { code: 5 }, Stop::Cancel));
    assert_eq!(attempt.text("stdout"), "up\nleader got INT\n");
}

#[test]
fn the_protocols_own_cancel_comes_first() {
    let write = |text: &str, wait_ms| StopStep::Write { frame: WriteFrame::new(text.as_bytes()), wait_ms };
    let channel = Stdin::Channel { close_when: None };
    let spec = AttemptSpec { stdin: channel, stop: vec![write("interrupt\n", 20_000)], ..fixture(&["protocol"]) };
    let mut attempt = Attempt::start(spec);
    attempt.started();
    cancel(&attempt);
    assert_eq!(verdict(&attempt.end()), (EXITED, Stop::Cancel));
    assert_eq!(attempt.text("stdout"), "{\"type\":\"interrupted\"}\n");
    // Without a channel the step is skipped, however long it would wait.
    let spec = AttemptSpec {
        stop: vec![write("interrupt\n", 600_000), signal(StopSignal::Term, 20_000)],
        ..fixture(&["hang"])
    };
    let mut attempt = Attempt::start(spec);
    attempt.speaks();
    cancel(&attempt);
    assert_eq!(verdict(&attempt.end()), (TERMED, Stop::Cancel));
}

#[test]
fn limits_of_time_are_enforced_without_a_server() {
    let begun = Instant::now();
    let mut attempt = Attempt::start(AttemptSpec { deadline_ms: Some(100), ..fixture(&["chatter", "5"]) });
    let exit = attempt.end();
    assert_eq!(verdict(&exit), (TERMED, Stop::Deadline));
    assert!(exit.ran_ms >= 100 && begun.elapsed() >= Duration::from_millis(100));

    let idle = Limits { output_bytes_max: 1 << 20, idle_ms: Some(1_000) };
    let mut attempt = Attempt::start(AttemptSpec { limits: idle, ..fixture(&["hang"]) });
    assert_eq!(verdict(&attempt.end()), (TERMED, Stop::Idle));
    assert_eq!(attempt.text("stdout"), "hanging\n");

    // Somebody who talks is not idle; the deadline ends him.
    let spec = AttemptSpec { limits: idle, deadline_ms: Some(2_500), ..fixture(&["chatter", "5"]) };
    assert_eq!(verdict(&Attempt::start(spec).end()), (TERMED, Stop::Deadline));
}

#[test]
fn signals_to_the_shim() {
    let mut attempt = Attempt::start(fixture(&["trap-term"]));
    attempt.speaks();
    let shim = Pid::from_raw(attempt.shim_pid()).unwrap();
    for harmless in [Signal::HUP, Signal::INT, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::ALARM, Signal::PIPE] {
        kill_process(shim, harmless).unwrap();
    }
    // It answers, so it has survived them.
    assert_eq!(attempt.control(1).status().unwrap().stop, Stop::None);
    kill_process(shim, Signal::TERM).unwrap();
    assert_eq!(verdict(&attempt.end()), (EXITED, Stop::Shutdown));
}

/// A host that goes down tells everybody at once: the leader may be dead before the shim has looked.
#[test]
fn a_host_that_ends_shim_and_agent_at_once_is_told_as_such() {
    let ended = |args: &[&str]| {
        let mut attempt = Attempt::start(fixture(args));
        attempt.speaks();
        let (shim, leader) = (attempt.shim_pid(), attempt.started().pid);
        let [shim, leader] = [shim, leader].map(|pid| Pid::from_raw(pid).unwrap());
        kill_process(shim, Signal::STOP).unwrap();
        kill_process(shim, Signal::TERM).unwrap();
        kill_process(leader, Signal::TERM).unwrap();
        wait_for("the leader's death", || is_zombie(attempt.started().pid).then_some(()));
        kill_process(shim, Signal::CONT).unwrap();
        verdict(&attempt.end())
    };
    assert_eq!(ended(&["hang"]), (TERMED, Stop::Shutdown));
    assert_eq!(ended(&["trap-term"]), (EXITED, Stop::Shutdown));

    // The leader's death first, while somebody holds its pipes; then the shim's turn.
    for (how, stop) in [("kill -TERM $$", Stop::Shutdown), ("exit 3", Stop::None)] {
        let mut attempt =
            Attempt::start(AttemptSpec { drain_ms: 600_000, ..shell(&format!("sleep 1000 & echo; {how}")) });
        let shim = Pid::from_raw(attempt.shim_pid()).unwrap();
        wait_for("the leader's end to be seen", || {
            (attempt.control(1).status().unwrap().phase == Phase::Draining).then_some(())
        });
        kill_process(shim, Signal::TERM).unwrap();
        assert_eq!(attempt.end().stop, stop, "{how}");
    }
}

#[test]
fn the_first_stop_wins() {
    // The deadline passes between the first stop and the kill.
    let stop = vec![signal(StopSignal::Term, 3_000)];
    let spec = AttemptSpec { stop, deadline_ms: Some(2_500), ..fixture(&["ignore-term"]) };
    let mut attempt = Attempt::start(spec);
    attempt.speaks();
    let mut client = attempt.control(1);
    assert_eq!(client.stop(StopReason::Shutdown, 1).unwrap(), Stop::Shutdown);
    assert_eq!(client.stop(StopReason::Cancel, 1).unwrap(), Stop::Shutdown);
    assert_eq!(verdict(&attempt.end()), (KILLED, Stop::Shutdown));
}

#[test]
fn a_stop_after_the_end_does_not_begin_but_hurries() {
    let spec = AttemptSpec { drain_ms: 600_000, ..fixture(&["leave", "keep", "session"]) };
    let mut attempt = Attempt::start(spec);
    let mut client = attempt.control(1);
    let draining = || (client.status().unwrap().phase == Phase::Draining).then_some(());
    wait_for("the drain", draining);
    assert_eq!(client.stop(StopReason::Cancel, 1).unwrap(), Stop::None);
    assert_eq!(verdict(&attempt.end()), (EXITED, Stop::None));
}

/// A stop that is asked for around the moment of an ordinary end.
fn race(rounds: u32, spec: impl Fn(u32) -> AttemptSpec, ask: impl Fn(u32, &mut ControlClient)) {
    let (mut before, mut after) = (0, 0);
    for round in 0..rounds {
        let mut attempt = Attempt::start(spec(round));
        // The shim may be gone before it is reached: that is one of the outcomes.
        let reached = wait_for("a shim or its end", || {
            ControlClient::connect(attempt.dir.path(), 1)
                .map(Some)
                .ok()
                .or_else(|| attempt.dir.read_exit().unwrap().map(|_| None))
        });
        if let Some(mut client) = reached {
            ask(round, &mut client);
        }
        let exit = attempt.end();
        match verdict(&exit) {
            (How::Exited { code: 7 }, Stop::None) => after += 1,
            // Stopped in its last instructions, after the look and before the signal: begun first all the same.
            (How::Exited { code: 7 } | How::Signaled { signal: 15 | 9, .. }, Stop::Cancel | Stop::Deadline) => {
                before += 1;
            }
            other => panic!("round {round}: {other:?}"),
        }
    }
    assert!(before + after == rounds);
    println!("{before} stops came before the end, {after} after it");
}

const ROUNDS: u32 = 200;

#[test]
fn a_cancel_races_an_ordinary_end() {
    race(
        ROUNDS,
        |round| fixture(&["exit-after", &(round * 50 % 5000).to_string(), "7"]),
        |round, client| {
            // Spreads the wish over the time around the end; proves nothing.
            std::thread::sleep(Duration::from_micros(u64::from(round) * 97 % 6000));
            let _ = client.stop(StopReason::Cancel, 1);
        },
    );
}

#[test]
fn a_deadline_races_an_ordinary_end() {
    let spec = |round: u32| AttemptSpec {
        deadline_ms: Some(u64::from(round % 8)),
        ..fixture(&["exit-after", &(round * 37 % 4000).to_string(), "7"])
    };
    race(ROUNDS, spec, |_, _| {});
}

#[test]
fn a_limit_races_an_ordinary_end() {
    // One byte too many as the last act.
    for _ in 0..ROUNDS {
        let limits = Limits { output_bytes_max: 10, idle_ms: None };
        let mut attempt = Attempt::start(AttemptSpec { limits, ..fixture(&["say", "0123456789x", "7"]) });
        let exit = attempt.end();
        match verdict(&exit) {
            (How::Exited { code: 7 }, Stop::None | Stop::OutputLimit) | (TERMED, Stop::OutputLimit) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!((attempt.text("stdout").as_str(), exit.output_lost_bytes), ("0123456789", 1));
    }
}
