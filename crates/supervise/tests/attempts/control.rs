//! The control socket: fencing, watching, and clients that misbehave.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use longhaul_supervise::control::{Phase, Status};
use longhaul_supervise::{ControlClient, Event, Request, Stdin, Stop, StopReason, limits};

use crate::rig::{Attempt, fixture, wait_for};

#[test]
fn a_lower_epoch_is_shut_out_for_good() {
    let mut attempt = Attempt::start(longhaul_supervise::AttemptSpec { epoch: 5, ..fixture(&["hang"]) });
    attempt.speaks();
    let mut old = attempt.control(5);
    assert_eq!(old.status().unwrap().stop, Stop::None);
    assert_eq!(ControlClient::connect(attempt.dir.path(), 4).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    let mut new = attempt.control(6);
    assert_eq!(old.stop(StopReason::Cancel, 5).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    assert_eq!(ControlClient::connect(attempt.dir.path(), 5).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    assert_eq!(new.status().unwrap().stop, Stop::None);
    assert_eq!(new.stop(StopReason::Cancel, 6).unwrap(), Stop::Cancel);
    assert_eq!(attempt.end().stop, Stop::Cancel);
}

#[test]
fn a_watcher_is_told_everything_once() {
    let mut attempt = Attempt::start(fixture(&["trap-term"]));
    attempt.speaks();
    let mut client = attempt.control(1);
    client.send(&Request::Watch).unwrap();
    let Some(Event::Started(started)) = client.next().unwrap() else { panic!("not started") };
    assert_eq!(started, attempt.started());
    // What was there before it watched counts as growth.
    assert_eq!(client.next().unwrap(), Some(Event::Grew));
    attempt.control(1).stop(StopReason::Cancel, 1).unwrap();
    // Growth just before the end may be told by the end alone.
    let mut event = client.next().unwrap();
    if event == Some(Event::Grew) {
        event = client.next().unwrap();
    }
    assert_eq!(event, Some(Event::Exit));
    assert!(attempt.dir.read_exit().unwrap().is_some(), "told before it was durable");
    assert_eq!(client.next().unwrap(), None);
    assert_eq!(attempt.end().stop, Stop::Cancel);
}

#[test]
fn a_watcher_that_does_not_read_harms_nobody() {
    let mut attempt = Attempt::start(fixture(&["chatter", "1"]));
    attempt.speaks();
    let mut stuck: Vec<_> = (0..4).map(|_| attempt.control(1)).collect();
    for client in &mut stuck {
        client.send(&Request::Watch).unwrap();
        // Answers pile up as well, until this one is dropped.
        for _ in 0..10_000 {
            if client.send(&Request::Ping).is_err() {
                break;
            }
        }
    }
    let before = attempt.len("stdout");
    wait_for("output to go on", || (attempt.len("stdout") > before + 100).then_some(()));
    attempt.control(1).stop(StopReason::Cancel, 1).unwrap();
    assert_eq!(attempt.end().stop, Stop::Cancel);
}

#[test]
fn garbage_closes_only_its_own_connection() {
    let mut attempt = Attempt::start(fixture(&["hang"]));
    attempt.speaks();
    let mut good = attempt.control(1);
    let too_long = vec![b'x'; limits::CONTROL_LINE_BYTES_MAX + 10];
    let lines: [&[u8]; 5] =
        [b"not json\n", b"{\"c\":\"hello\",\"v\":1,\"epoch\":1}\n", b"{\"c\":\"nonsense\"}\n", b"\n", &too_long];
    for line in lines {
        let mut stream = attempt.control(1).into_std();
        // The connection may be closed while it is written to.
        let _ = stream.write_all(line);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{line:?}");
    }
    let path = format!("{}/control", attempt.dir.path().display());
    let mut rude = std::os::unix::net::UnixStream::connect(&path).unwrap();
    rude.write_all(b"{\"c\":\"stop\",\"reason\":\"cancel\",\"epoch\":9}\n").unwrap();
    let mut rest = Vec::new();
    let _ = rude.read_to_end(&mut rest);
    assert!(rest.is_empty(), "a stop without a hello was answered");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        good.status().unwrap(),
        Status {
            phase: Phase::Running,
            stop: Stop::None,
            stdout_bytes: 8,
            stderr_bytes: 0,
            output_lost_bytes: 0,
            input_bytes: 0,
            input_refused: 0,
            disk_full: false
        }
    );
    good.stop(StopReason::Cancel, 1).unwrap();
    attempt.end();
}

#[test]
fn clients_are_bounded_and_slots_come_back() {
    let mut attempt = Attempt::start(fixture(&["hang"]));
    attempt.speaks();
    let held: Vec<_> = (0..limits::CONTROL_CLIENTS_MAX).map(|_| attempt.control(1)).collect();
    assert!(ControlClient::connect(attempt.dir.path(), 1).is_err());
    drop(held);
    attempt.control(1).stop(StopReason::Cancel, 1).unwrap();
    attempt.end();
}

#[test]
fn a_deep_directory_is_no_obstacle() {
    let temp = tempfile::tempdir().unwrap();
    let mut path = temp.path().to_owned();
    for _ in 0..5 {
        path.push("a-rather-long-name-of-a-directory-that-goes-beyond-any-socket-address");
    }
    std::fs::create_dir_all(&path).unwrap();
    path.push("attempt");
    let mut attempt = Attempt::create_at(temp, &path, fixture(&["hang"]), &[], None);
    attempt.launch();
    attempt.control(1).stop(StopReason::Cancel, 1).unwrap();
    attempt.end();
}

#[test]
fn a_live_shim_is_small() {
    let spec = longhaul_supervise::AttemptSpec {
        stdin: Stdin::Channel { close_when: None },
        ..fixture(&["both", "1000000000"])
    };
    let mut attempt = Attempt::start(spec);
    wait_for("output", || (attempt.len("stdout") > 1 << 20 && attempt.len("stderr") > 1 << 20).then_some(()));
    let mut client = attempt.control(1);
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", attempt.shim_pid())).unwrap();
    let private_kb: u64 = rollup
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
        .sum();
    println!("a live shim holds {private_kb} KiB of private memory");
    assert!(private_kb < 2048, "{private_kb} KiB");
    client.stop(StopReason::Cancel, 1).unwrap();
    attempt.end();
}
