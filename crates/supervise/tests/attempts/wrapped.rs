//! Agents behind a wrapper that holds them in a pid namespace: bubblewrap, where it works.

use std::path::Path;

use longhaul_supervise::confine::{Cell, try_out};
use longhaul_supervise::{AttemptSpec, How, Settled, StopSignal, StopStep};

use super::rig::{Attempt, shell, wait_for};

/// The spec in a cell of its own; `None` and the reason where there can be none.
fn celled(script: &str) -> Option<AttemptSpec> {
    let Some(bwrap) = ["/usr/bin/bwrap", "/usr/local/bin/bwrap"].into_iter().find(|path| Path::new(path).exists())
    else {
        println!("bubblewrap is not installed here; as root, ./dev setup installs it");
        return None;
    };
    if let Err(why) = try_out(Path::new(bwrap), true) {
        println!("bubblewrap does not work here: {why}");
        return None;
    }
    let inner = shell(script);
    let mut args = Cell { closed: true, ..Cell::default() }.args(Path::new("/")).unwrap();
    args.push(inner.program.clone());
    args.extend(inner.args.clone());
    Some(AttemptSpec { program: bwrap.to_owned(), args, wrapped: Some("sh".to_owned()), ..inner })
}

fn step(signal: StopSignal) -> Vec<StopStep> {
    vec![StopStep::Signal { signal, wait_ms: 20_000 }]
}

#[test]
fn a_signal_goes_past_the_wrapper_to_the_agent() {
    for (name, signal) in [("INT", StopSignal::Int), ("TERM", StopSignal::Term), ("USR1", StopSignal::Usr1)] {
        let script = format!("trap 'echo bye; exit 5' {name}; echo on; while :; do sleep 0.02; done");
        let Some(mut spec) = celled(&script) else { return };
        spec.stop = step(signal);
        let mut attempt = Attempt::start(spec);
        attempt.speaks();
        attempt.cancel();
        let exit = attempt.end();
        assert_eq!((exit.how, attempt.text("stdout")), (How::Exited { code: 5 }, "on\nbye\n".to_owned()), "{name}");
    }
}

#[test]
fn the_wrapper_takes_the_agents_end_on() {
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("setsid sleep 1000 & exit 3", 3)] {
        let Some(spec) = celled(script) else { return };
        let exit = Attempt::start(spec).end();
        assert_eq!((exit.how, exit.unkilled), (How::Exited { code }, vec![]), "{script}");
    }
    let Some(mut spec) =
        celled("trap '' TERM; setsid env -i sh -c \"trap '' TERM; sleep 1000\" & echo on; sleep 1000; sleep 1000")
    else {
        return;
    };
    spec.stop = vec![StopStep::Signal { signal: StopSignal::Term, wait_ms: 100 }];
    let mut attempt = Attempt::start(spec);
    attempt.speaks();
    attempt.cancel();
    assert_eq!(attempt.end().unkilled, [0_i32; 0]);
}

#[test]
fn a_cell_dies_with_its_shim() {
    let Some(spec) = celled("setsid env -i /bin/sleep 987654 & echo on; exec sleep 1000") else { return };
    let marker = spec.marker.clone();
    let mut attempt = Attempt::start(spec);
    attempt.speaks();
    let pid = attempt.started().pid;
    let below = |pid: i32| {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
    };
    let hidden = wait_for("a process that hides", || {
        let all: Vec<i32> = below(pid).into_iter().flat_map(|reaper| [below(reaper), vec![reaper]].concat()).collect();
        let all: Vec<i32> = all.iter().flat_map(|pid| [below(*pid), vec![*pid]].concat()).collect();
        let named = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|text| text.contains("987654"))
                && !longhaul_supervise::find_marked(&marker).unwrap().contains(pid)
        };
        all.into_iter().find(named)
    });
    attempt.kill_shim();
    let gone = || {
        let stat = std::fs::read_to_string(format!("/proc/{hidden}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ") || !stat.contains("(sleep)")).then_some(())
    };
    wait_for("the cell to die", gone);
    let Settled::Exit(exit) = attempt.dir.settle().unwrap() else { panic!("the shim is gone") };
    assert_eq!(exit.how, How::Lost);
}
