//! Control groups: limits that hold, a tree that is found whatever it does, and no group that stays.

use std::path::{Path, PathBuf};
use std::time::Duration;

use longhaul_supervise::{Grounds, Group, GroupSpec, How, Settled, Where, find_marked};

use super::rig::{Attempt, FIXTURE, PATIENCE, fixture, shell, wait_for};

/// Where groups can be made here. Says why a test has nothing to look at, if it has not.
fn grounds(what: &str, enough: impl Fn(&Grounds) -> bool) -> Option<Grounds> {
    let grounds = Grounds::find(&Where::Own, Path::new(FIXTURE));
    if enough(&grounds) {
        return Some(grounds);
    }
    println!("this machine lets nobody here make control groups with {what}: {grounds:?}");
    None
}

fn left_of(group: &GroupSpec) -> Vec<&PathBuf> {
    group.dirs.iter().filter(|dir| dir.exists()).collect()
}

#[test]
fn a_memory_hog_is_killed_and_its_own_group_proves_it() {
    let Some(grounds) = grounds("a limit of memory", Grounds::limits_memory) else { return };
    let mut spec = shell("exec tail /dev/zero");
    spec.group = grounds.group(&spec.marker, Some(32 << 20), None);
    let group = spec.group.clone().unwrap();
    let exit = Attempt::start(spec).end();
    assert_eq!(exit.how, How::Signaled { signal: 9, core: false });
    assert!(exit.oom_kills > 0, "{exit:?}");
    assert!(left_of(&group).is_empty());
    // The same without memory: KILL alone proves nothing.
    let mut spec = shell("kill -9 $$");
    spec.group = grounds.group(&spec.marker, Some(64 << 20), None);
    let exit = Attempt::start(spec).end();
    assert_eq!((exit.how, exit.oom_kills), (How::Signaled { signal: 9, core: false }, 0));
}

#[test]
fn a_fork_bomb_is_held_by_its_limit() {
    let Some(grounds) = grounds("a limit of tasks", Grounds::limits_tasks) else { return };
    let mut spec = shell("bomb() { bomb & bomb & sleep 1000; }; echo on; bomb 2>/dev/null; sleep 1000");
    spec.group = grounds.group(&spec.marker, None, Some(20));
    let spec_of = spec.group.clone().unwrap();
    let group = Group::of(&spec_of);
    let mut attempt = Attempt::start(spec);
    let held = |dir: &PathBuf| {
        let events = std::fs::read_to_string(dir.join("pids.events")).unwrap_or_default();
        events.lines().any(|line| line.starts_with("max ") && line != "max 0")
    };
    wait_for("the bomb to reach its limit", || spec_of.dirs.iter().any(held).then_some(()));
    // A list is not read in one moment: who makes room for another may be in it beside that one.
    assert!((1..=40).contains(&group.pids().len()), "{:?}", group.pids());
    attempt.cancel();
    let exit = attempt.end();
    assert_eq!(exit.unkilled, [0_i32; 0]);
    assert!(left_of(&spec_of).is_empty());
}

#[test]
fn what_a_killed_shim_leaves_without_a_marker_is_found_by_its_group() {
    let Some(grounds) = grounds("anything", Grounds::any) else { return };
    let mut spec = shell("setsid env -i /bin/sleep 1000 & echo on; exec sleep 1000");
    spec.group = grounds.group(&spec.marker, None, None);
    let group = spec.group.clone().unwrap();
    let marker = spec.marker.clone();
    let mut attempt = Attempt::start(spec);
    attempt.speaks();
    let agent = attempt.started().pid;
    wait_for("the grandchild to clear its environment", || {
        let hidden = |pid: &i32| *pid != agent && !find_marked(&marker).unwrap().contains(pid);
        Group::of(&group).pids().iter().any(hidden).then_some(())
    });
    attempt.kill_shim();
    wait_for("the agent to die with its shim", || find_marked(&marker).unwrap().is_empty().then_some(()));
    let Settled::Exit(exit) = attempt.dir.settle().unwrap() else { panic!("the shim is gone") };
    assert_eq!(exit.how, How::Lost);
    assert!(!Group::of(&group).is_empty(), "no marker leads to it");
    let ended = Group::of(&group).end(PATIENCE);
    assert_eq!((ended.killed.len(), ended.remaining.len()), (1, 0), "{ended:?}");
    assert!(left_of(&group).is_empty());
}

#[test]
fn groups_that_an_agent_makes_in_its_own_go_as_well() {
    let Some(grounds) = grounds("anything", Grounds::any) else { return };
    let mut spec = fixture(&[]);
    let group = grounds.group(&spec.marker, None, None).unwrap();
    let own = group.dirs[0].display();
    spec = shell(&format!("mkdir {own}/inner && (echo 0 > {own}/inner/cgroup.procs; setsid sleep 1000 & echo on)"));
    spec.group = Some(group.clone());
    let exit = Attempt::start(spec).end();
    assert_eq!((exit.how, exit.killed_descendants), (How::Exited { code: 0 }, 1));
    assert!(left_of(&group).is_empty());
}

#[test]
fn a_limit_that_cannot_be_set_starts_nothing_and_a_group_without_limits_is_done_without() {
    let nowhere = tempfile::tempdir().unwrap();
    let dirs = vec![nowhere.path().join("missing").join("longhaul-x")];
    let mut spec = shell("echo on");
    spec.group = Some(GroupSpec { dirs: dirs.clone(), ..GroupSpec::default() });
    assert_eq!(Attempt::start(spec.clone()).end().how, How::Exited { code: 0 });
    spec.group = Some(GroupSpec { dirs, tasks_max: Some(9), ..GroupSpec::default() });
    let How::NeverStarted { exec_error: Some(error) } = Attempt::start(spec.clone()).end().how else {
        panic!("an agent without its limit")
    };
    assert!(error.errno == 0 && error.message.contains("cannot be set"), "{error:?}");
    // A plain directory is no control group: there is no such limit in it.
    let plain = nowhere.path().join("longhaul-y");
    spec.group = Some(GroupSpec { dirs: vec![plain.clone()], memory_bytes_max: Some(1 << 30), tasks_max: None });
    assert!(matches!(Attempt::start(spec).end().how, How::NeverStarted { exec_error: Some(_) }));
    assert!(!plain.exists());
}

/// Ends of every kind with escapees, many at a time: no process and no group stays.
#[test]
fn nothing_is_left_of_a_thousand_groups() {
    const LANES: usize = 4;
    let Some(grounds) = grounds("anything", Grounds::any) else { return };
    let lane = |lane: usize| {
        for count in 0..1000 / LANES {
            let mut spec = shell("setsid env -i /bin/sleep 1000 & echo on; exec sleep 1000");
            spec.drain_ms = 0;
            spec.stop.clear();
            let limit = grounds.limits_tasks() && count % 2 == 0;
            spec.group = grounds.group(&spec.marker, None, limit.then_some(50));
            let group = spec.group.clone().unwrap();
            let mut attempt = Attempt::start(spec);
            attempt.speaks();
            match (count + lane) % 3 {
                0 => {
                    attempt.cancel();
                    assert_eq!(attempt.end().unkilled, [0_i32; 0]);
                }
                1 => {
                    attempt.started().identity().signal(rustix::process::Signal::KILL).unwrap();
                    assert_eq!(attempt.end().unkilled, [0_i32; 0]);
                }
                _ => {
                    attempt.kill_shim();
                    let ended = Group::of(&group).end(Duration::from_secs(20));
                    assert!(ended.remaining.is_empty(), "{ended:?}");
                }
            }
            assert!(left_of(&group).is_empty(), "{group:?}");
        }
    };
    std::thread::scope(|scope| (0..LANES).for_each(|at| drop(scope.spawn(move || lane(at)))));
}
