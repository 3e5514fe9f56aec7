//! A parser that goes on from a saved state says what the first one would have said, at every line.

mod replay;

use longhaul_harness::{Harness, find};
use longhaul_model::event::OutputStream;

fn resumes(name: &str, harness: &dyn Harness, lines: &[longhaul_harness::SourceLine<'_>]) {
    let whole = replay::steps(&mut *harness.parser(None).unwrap(), lines);
    let mut parser = harness.parser(None).unwrap();
    for at in 0..=lines.len() {
        let state = parser.state();
        let mut later = harness.parser(Some(&state)).unwrap();
        assert_eq!(later.state(), state, "{name}: the state of line {at} is not kept");
        let rest = replay::steps(&mut *later, &lines[at..]);
        assert_eq!(rest, whole[at..], "{name}: resumed after line {at}");
        if let Some(line) = lines.get(at) {
            parser.line(line, &mut Vec::new());
        }
    }
}

#[test]
fn every_recorded_run_resumes_at_every_line() {
    for recorded in replay::all() {
        resumes(&recorded.name, recorded.harness, &recorded.lines());
    }
}

#[test]
fn the_demo_resumes_at_every_line() {
    for variant in ["echo", "tools", "slow", "fail"] {
        let mut stdout = Vec::new();
        longhaul_harness::demo::agent::run(variant, "3", &mut stdout, &mut |_| ()).unwrap();
        resumes(variant, find("demo").unwrap(), &replay::lines(&stdout));
    }
}

#[test]
fn the_pieces_of_a_long_line_are_numbered_on_after_a_resume() {
    for harness in longhaul_harness::all() {
        let long = vec![b'x'; 3 << 16];
        let mut lines = replay::lines(&long);
        lines[0].part = Some(0);
        lines.push(longhaul_harness::SourceLine { part: Some(1), eol: true, ..lines[0] });
        lines.push(longhaul_harness::SourceLine { stream: OutputStream::Stderr, ..lines[1] });
        let whole = replay::steps(&mut *harness.parser(None).unwrap(), &lines);
        let mut first = harness.parser(None).unwrap();
        first.line(&lines[0], &mut Vec::new());
        let rest = replay::steps(&mut *harness.parser(Some(&first.state())).unwrap(), &lines[1..]);
        assert_eq!(rest, whole[1..], "{}", harness.name());
    }
}

#[test]
fn a_foreign_state_is_refused() {
    for harness in longhaul_harness::all() {
        let other = longhaul_harness::all().iter().find(|h| h.name() != harness.name()).unwrap();
        let foreign = other.parser(None).unwrap().state();
        let own = String::from_utf8(harness.parser(None).unwrap().state()).unwrap();
        for saved in [&foreign[..], b"", b"{}", b"nonsense", own.replace("\"v\":1", "\"v\":2").as_bytes()] {
            assert!(harness.parser(Some(saved)).is_err(), "{}: {saved:?}", harness.name());
        }
    }
}
