//! The input log as an agent sees it.

use longhaul_supervise::{
    Appended, AttemptSpec, CloseWhen, Event, Exit, How, InputLog, Request, Stdin, Stop, StopReason,
};

use crate::rig::{Attempt, fixture, wait_for};

fn channel(args: &[&str]) -> AttemptSpec {
    AttemptSpec { stdin: Stdin::Channel { close_when: None }, ..fixture(args) }
}

fn inputs(exit: &Exit) -> (u64, u64, Vec<String>) {
    (exit.input_bytes, exit.input_refused, exit.input_refused_ids.clone())
}

#[test]
fn inputs_are_delivered_in_order_once_each() {
    let mut attempt = Attempt::create(channel(&["echo"]));
    let mut log = InputLog::open(&attempt.dir).unwrap();
    log.append("before", 1, b"before the start\n").unwrap();
    attempt.launch();
    let mut client = attempt.control(1);
    client.send(&Request::Watch).unwrap();
    for at in 0..100 {
        log.append(&format!("id-{at}"), 1, format!("line {at}\n").as_bytes()).unwrap();
        assert_eq!(log.append(&format!("id-{at}"), 1, b"again\n").unwrap(), Appended::AlreadyThere);
        client.send(&Request::Input).unwrap();
    }
    let Appended::New { end } = log.close("end", 1).unwrap() else { panic!() };
    client.send(&Request::Input).unwrap();
    let mut told = 0;
    while let Ok(Some(event)) = client.next() {
        if let Event::Input { bytes, refused: 0 } = event {
            assert!(bytes > told);
            told = bytes;
        }
    }
    assert_eq!(told, end);
    let exit = attempt.end();
    let expected: Vec<String> = (0..100).map(|at| format!("line {at}")).collect();
    assert_eq!(attempt.text("stdout"), format!("before the start\n{}\n", expected.join("\n")));
    assert_eq!((exit.how.clone(), inputs(&exit)), (How::Exited { code: 0 }, (end, 0, vec![])));
}

#[test]
fn input_reaches_an_agent_without_any_wake_up() {
    let mut attempt = Attempt::start(channel(&["echo"]));
    attempt.started();
    let mut log = InputLog::open(&attempt.dir).unwrap();
    log.append("a", 1, b"found by the tick\n").unwrap();
    attempt.speaks();
    log.close("b", 1).unwrap();
    assert_eq!(attempt.end().how, How::Exited { code: 0 });
}

#[test]
fn a_torn_frame_is_never_forwarded() {
    let mut attempt = Attempt::create(channel(&["echo"]));
    let mut log = InputLog::open(&attempt.dir).unwrap();
    log.append("a", 1, b"whole\n").unwrap();
    log.append("b", 1, b"torn, then repaired\n").unwrap();
    drop(log);
    let whole = attempt.read("input");
    std::fs::write(attempt.file("input"), &whole[..whole.len() - 3]).unwrap();
    attempt.launch();
    attempt.speaks();
    let mut client = attempt.control(1);
    client.send(&Request::Input).unwrap();
    let at = client.status().unwrap().input_bytes;
    let mut log = InputLog::open(&attempt.dir).unwrap();
    assert_eq!(at, log.bytes());
    assert!(log.holds("a") && !log.holds("b"));
    log.append("b", 1, b"repaired\n").unwrap();
    log.close("c", 1).unwrap();
    client.send(&Request::Input).unwrap();
    attempt.end();
    assert_eq!(attempt.text("stdout"), "whole\nrepaired\n");
}

#[test]
fn frames_of_a_lower_epoch_are_refused_from_the_moment_a_higher_one_is_known() {
    let mut attempt = Attempt::create(channel(&["echo"]));
    attempt.launch();
    let mut log = InputLog::open(&attempt.dir).unwrap();
    log.append("old", 1, b"old, in time\n").unwrap();
    let mut client = attempt.control(2);
    client.send(&Request::Input).unwrap();
    // The server that was deposed and does not know it.
    log.append("zombie", 1, b"old, too late\n").unwrap();
    log.append("new", 2, b"new\n").unwrap();
    log.append("zombie again", 1, b"old, after the new one\n").unwrap();
    log.close("old end", 1).unwrap_or(Appended::AlreadyThere);
    let mut log = InputLog::open(&attempt.dir).unwrap();
    assert!(log.append("after", 2, b"x").is_err(), "the log itself was closed");
    client.send(&Request::Input).unwrap();
    wait_for("the refusals", || (client.status().unwrap().input_refused == 3).then_some(()));
    wait_for("the echo", || (attempt.text("stdout") == "old, in time\nnew\n").then_some(()));
    client.stop(StopReason::Cancel, 2).unwrap();
    let exit = attempt.end();
    assert_eq!(attempt.text("stdout"), "old, in time\nnew\n");
    let refused = ["zombie", "zombie again", "old end"].map(str::to_owned).to_vec();
    assert_eq!(inputs(&exit), (log.bytes(), 3, refused));
}

#[test]
fn a_deaf_agent_blocks_nothing_and_gets_every_byte() {
    let temp = tempfile::tempdir().unwrap();
    let hears = temp.path().join("hears");
    let mut attempt = Attempt::create(channel(&["deaf", hears.to_str().unwrap()]));
    let mut log = InputLog::open(&attempt.dir).unwrap();
    let big: Vec<u8> = (0..3_000_000_u32).map(|at| (at * 7 % 251) as u8).collect();
    log.append("big", 1, &big).unwrap();
    log.append("small", 1, b"tail").unwrap();
    log.close("end", 1).unwrap();
    attempt.launch();
    // The pipe is full, and the shim answers.
    let mut client = attempt.control(1);
    assert_eq!(client.status().unwrap().input_bytes, 0);
    std::fs::write(&hears, b"").unwrap();
    let exit = attempt.end();
    let mut all = big;
    all.extend_from_slice(b"tail");
    assert_eq!(attempt.text("stdout"), format!("deaf\n{} {:08x}\n", all.len(), crc32fast::hash(&all)));
    assert_eq!((exit.how, exit.input_bytes), (How::Exited { code: 0 }, log.bytes()));
}

#[test]
fn an_agent_that_never_reads_is_stopped_all_the_same() {
    let mut attempt = Attempt::create(channel(&["hang"]));
    let mut log = InputLog::open(&attempt.dir).unwrap();
    log.append("big", 1, &vec![b'x'; 1 << 20]).unwrap();
    attempt.launch();
    attempt.speaks();
    attempt.control(1).stop(StopReason::Cancel, 1).unwrap();
    let exit = attempt.end();
    assert_eq!((exit.stop, exit.input_bytes), (Stop::Cancel, 0), "a frame that was cut off was not delivered");
}

#[test]
fn a_protocol_ends_its_turn_without_a_server() {
    let close_when = Some(CloseWhen::JsonType { value: "result".into() });
    let spec = AttemptSpec { stdin: Stdin::Channel { close_when }, ..fixture(&["protocol"]) };
    let mut attempt = Attempt::create(spec);
    let mut log = InputLog::open(&attempt.dir).unwrap();
    log.append("a", 1, b"hello\n").unwrap();
    attempt.launch();
    let exit = attempt.end();
    assert_eq!(exit.how, How::Exited { code: 0 });
    let turn = "{\"echo\":\"hello\",\"type\":\"assistant\"}\n{\"n\":1,\"type\":\"result\"}\n";
    assert_eq!(attempt.text("stdout"), format!("{turn}end of input\n"));
}
