//! The spool as its reader sees it: order, exactness, and resuming anywhere.

use std::fs;
use std::path::Path;

use longhaul_supervise::order::Switch;
use longhaul_supervise::{
    AttemptDir, Exit, Follower, How, Line, LineLimits, Missing, SpoolCursor, SpoolLengths, StopReason, Stream,
};

use crate::rig::{Attempt, fixture, wait_for};

/// A small deterministic source of numbers (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % below
    }
}

/// A spool on disk, written as a shim writes it, piece by piece.
struct Spool {
    temp: tempfile::TempDir,
    data: [Vec<u8>; 2],
    order: Vec<u8>,
    last: Option<Stream>,
}

impl Spool {
    fn new() -> Self {
        let spool = Self { temp: tempfile::tempdir().unwrap(), data: [vec![], vec![]], order: vec![], last: None };
        spool.store();
        spool
    }

    fn append(&mut self, stream: Stream, bytes: &[u8]) {
        if self.last != Some(stream) {
            self.last = Some(stream);
            let lens = [self.data[0].len() as u64, self.data[1].len() as u64];
            self.order.extend_from_slice(&Switch { stream, lens }.encode());
        }
        self.data[usize::from(stream == Stream::Stderr)].extend_from_slice(bytes);
    }

    fn store(&self) {
        for (name, bytes) in [("stdout", &self.data[0]), ("stderr", &self.data[1]), ("order", &self.order)] {
            fs::write(self.temp.path().join(name), bytes).unwrap();
        }
    }

    fn lengths(&self) -> SpoolLengths {
        SpoolLengths { stdout: self.data[0].len() as u64, stderr: self.data[1].len() as u64 }
    }

    fn follow(&self, cursor: SpoolCursor, part_bytes_max: usize) -> Follower {
        follow(self.temp.path(), cursor, part_bytes_max)
    }
}

fn follow(dir: &Path, cursor: SpoolCursor, part_bytes_max: usize) -> Follower {
    Follower::open(&AttemptDir::open(dir).unwrap(), cursor, LineLimits { part_bytes_max }).unwrap()
}

/// Everything a follower gives until it is at the end.
fn all(
    follower: &mut Follower,
    bytes_max: usize,
    lines_max: usize,
    ended: Option<SpoolLengths>,
) -> (Vec<Line>, Vec<Missing>) {
    let (mut lines, mut missing) = (Vec::new(), Vec::new());
    loop {
        let batch = follower.batch(bytes_max, lines_max, ended).unwrap();
        assert!(batch.lines.len() <= lines_max);
        assert!(!batch.more || !batch.lines.is_empty(), "no progress");
        lines.extend(batch.lines);
        missing.extend(batch.missing);
        if !batch.more {
            return (lines, missing);
        }
    }
}

fn bytes_of(lines: &[Line], stream: Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines.iter().filter(|line| line.stream == stream) {
        bytes.extend_from_slice(&line.bytes);
        if line.newline {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// The lines by the simplest way: byte after byte in the order of arrival.
fn by_hand(pieces: &[(Stream, Vec<u8>)], part_max: usize) -> Vec<(Stream, Vec<u8>, bool, Option<u32>)> {
    let mut open: [(Vec<u8>, u32); 2] = Default::default();
    let mut lines = Vec::new();
    for (stream, bytes) in pieces {
        let (line, part) = &mut open[usize::from(*stream == Stream::Stderr)];
        for &byte in bytes {
            if byte == b'\n' {
                lines.push((*stream, std::mem::take(line), true, (*part > 0).then_some(*part)));
                *part = 0;
                continue;
            }
            if line.len() == part_max {
                lines.push((*stream, std::mem::take(line), false, Some(*part)));
                *part += 1;
            }
            line.push(byte);
        }
    }
    for (stream, (line, part)) in Stream::BOTH.into_iter().zip(open) {
        if !line.is_empty() {
            lines.push((stream, line, false, (part > 0).then_some(part)));
        }
    }
    lines
}

fn pieces(dice: &mut Dice, count: u64) -> Vec<(Stream, Vec<u8>)> {
    (0..count)
        .map(|_| {
            let stream = Stream::BOTH[dice.roll(2) as usize];
            let newlines = 1 + dice.roll(12);
            let len = dice.roll(24);
            (
                stream,
                (0..len).map(|_| if dice.roll(newlines) == 0 { b'\n' } else { b'a' + dice.roll(26) as u8 }).collect(),
            )
        })
        .collect()
}

#[test]
fn any_spool_is_read_whole_in_order_and_resumed_after_any_line() {
    for seed in 0..300 {
        let mut dice = Dice(seed);
        let count = 1 + dice.roll(30);
        let pieces = pieces(&mut dice, count);
        let part_max = 1 + dice.roll(20) as usize;
        let mut spool = Spool::new();
        for (stream, bytes) in &pieces {
            if !bytes.is_empty() {
                spool.append(*stream, bytes);
            }
        }
        spool.store();
        let ended = Some(spool.lengths());
        let (lines, missing) = all(&mut spool.follow(SpoolCursor::default(), part_max), 1 << 20, 1 << 20, ended);
        assert_eq!(missing, []);
        let plain: Vec<_> = lines.iter().map(|l| (l.stream, l.bytes.to_vec(), l.newline, l.part)).collect();
        assert_eq!(plain, by_hand(&pieces, part_max), "seed {seed}");
        for stream in Stream::BOTH {
            assert_eq!(bytes_of(&lines, stream), spool.data[usize::from(stream == Stream::Stderr)], "seed {seed}");
        }
        // Small batches are the same batch in small.
        let small = all(&mut spool.follow(SpoolCursor::default(), part_max), 1 + dice.roll(40) as usize, 3, ended);
        assert_eq!(small.0, lines, "seed {seed}");
        // The cursor after any line, through its stored form, leads to the rest.
        for (at, line) in lines.iter().enumerate() {
            let stored = serde_json::to_string(&line.after).unwrap();
            let cursor = serde_json::from_str(&stored).unwrap();
            let (rest, missing) = all(&mut spool.follow(cursor, part_max), 1 << 20, 1 << 20, ended);
            assert_eq!((rest.as_slice(), missing.as_slice()), (&lines[at + 1..], &[][..]), "seed {seed} line {at}");
        }
    }
}

#[test]
fn a_growing_spool_gives_the_same_lines_however_often_it_is_looked_at() {
    for seed in 1000..1200 {
        let mut dice = Dice(seed);
        let count = 1 + dice.roll(30);
        let pieces = pieces(&mut dice, count);
        let part_max = 1 + dice.roll(20) as usize;
        let mut spool = Spool::new();
        let mut follower = spool.follow(SpoolCursor::default(), part_max);
        let mut lines: Vec<Line> = Vec::new();
        for (stream, bytes) in pieces.iter().filter(|piece| !piece.1.is_empty()) {
            spool.append(*stream, bytes);
            spool.store();
            lines.extend(all(&mut follower, 1 + dice.roll(40) as usize, 2, None).0);
            match dice.roll(4) {
                0 => {
                    follower =
                        spool.follow(lines.last().map_or_else(SpoolCursor::default, |line| line.after), part_max);
                }
                1 => follower = spool.follow(follower.cursor(), part_max),
                _ => {}
            }
        }
        lines.extend(all(&mut follower, 1 << 20, 1 << 20, Some(spool.lengths())).0);
        let plain: Vec<_> = lines.iter().map(|l| (l.stream, l.bytes.to_vec(), l.newline, l.part)).collect();
        assert_eq!(plain, by_hand(&pieces, part_max), "seed {seed}");
    }
}

#[test]
fn long_lines_cross_windows() {
    let mut spool = Spool::new();
    let mut dice = Dice(5);
    let mut expected = Vec::new();
    for at in 0..40 {
        let stream = Stream::BOTH[at % 2];
        let mut bytes: Vec<u8> = (0..dice.roll(200_000)).map(|at| b'a' + (at % 26) as u8).collect();
        expected.push((stream, bytes.clone()));
        bytes.push(b'\n');
        // The line comes in two pieces, with the other stream's in between.
        let cut = dice.roll(bytes.len() as u64) as usize;
        spool.append(stream, &bytes[..cut]);
        spool.append(stream, &bytes[cut..]);
    }
    spool.store();
    let (lines, _) = all(&mut spool.follow(SpoolCursor::default(), 1 << 20), 100_000, 10, Some(spool.lengths()));
    let plain: Vec<_> = lines.iter().map(|line| (line.stream, line.bytes.to_vec())).collect();
    assert!(plain == expected);
}

#[test]
fn what_a_power_cut_took_is_named_and_the_rest_is_read() {
    let mut spool = Spool::new();
    spool.append(Stream::Stdout, b"one\ntwo\n");
    spool.append(Stream::Stderr, b"err\n");
    spool.append(Stream::Stdout, b"three\nfour");
    spool.store();
    let ended = Some(spool.lengths());
    let (lines, _) = all(&mut spool.follow(SpoolCursor::default(), 100), 1000, 1000, ended);
    assert_eq!(lines.len(), 5);
    let after_three = lines[3].after;

    // The file is shorter than the cursor.
    fs::write(spool.temp.path().join("stdout"), b"one\nt").unwrap();
    let short = SpoolLengths { stdout: 5, stderr: 4 };
    let (rest, missing) = all(&mut spool.follow(after_three, 100), 1000, 1000, Some(short));
    assert_eq!(rest, []);
    assert_eq!(missing, [Missing { stream: Stream::Stdout, from: 5, to: 14 }]);

    // The file is shorter than the end that was recorded; what is there is read, the cut line without a newline.
    let (rest, missing) = all(&mut spool.follow(SpoolCursor::default(), 100), 1000, 1000, ended);
    let texts: Vec<_> =
        rest.iter().map(|l| (l.stream, String::from_utf8_lossy(&l.bytes).into_owned(), l.newline)).collect();
    let line = |stream, text: &str, newline| (stream, text.to_owned(), newline);
    assert_eq!(
        texts,
        [line(Stream::Stdout, "one", true), line(Stream::Stderr, "err", true), line(Stream::Stdout, "t", false)]
    );
    assert_eq!(missing, [Missing { stream: Stream::Stdout, from: 5, to: 18 }]);

    // `order` is torn: every byte is still read, the unknown order made up at the end.
    spool.store();
    fs::write(spool.temp.path().join("order"), &spool.order[..30]).unwrap();
    let (rest, missing) = all(&mut spool.follow(SpoolCursor::default(), 100), 1000, 1000, ended);
    assert_eq!(missing, []);
    for stream in Stream::BOTH {
        assert_eq!(bytes_of(&rest, stream), spool.data[usize::from(stream == Stream::Stderr)]);
    }
}

fn ended(exit: &Exit) -> SpoolLengths {
    exit.into()
}

#[test]
fn arrival_order_between_the_streams_is_kept() {
    let mut attempt = Attempt::start(fixture(&["alternate", "400"]));
    let exit = attempt.end();
    assert_eq!(exit.how, How::Exited { code: 0 });
    let (lines, _) = all(&mut attempt.follower(), 1 << 20, 7, Some(ended(&exit)));
    let seen: Vec<_> = lines.iter().map(|l| (l.stream, String::from_utf8_lossy(&l.bytes).into_owned())).collect();
    let expected: Vec<_> = (0..400).map(|at| (Stream::BOTH[at % 2], format!("line {at}"))).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_live_spool_is_followed_to_its_end() {
    let mut attempt = Attempt::start(fixture(&["both", "8000000"]));
    let mut follower = attempt.follower();
    let mut lines = Vec::new();
    let exit = wait_for("the end", || {
        lines.extend(all(&mut follower, 50_000, 1000, None).0);
        attempt.dir.read_exit().unwrap()
    });
    lines.extend(all(&mut follower, 50_000, 1000, Some(ended(&exit))).0);
    attempt.end();
    for stream in Stream::BOTH {
        assert!(bytes_of(&lines, stream) == attempt.read(stream.file_name()));
    }
    // Read again at once it is the very same.
    let (again, _) = all(&mut attempt.follower(), 1 << 20, 1 << 20, Some(ended(&exit)));
    assert!(again == lines);
}

#[test]
fn a_new_reader_goes_on_where_the_old_one_was_killed() {
    let mut attempt = Attempt::start(fixture(&["both", "400000"]));
    let mut lines: Vec<Line> = Vec::new();
    let mut cursor = SpoolCursor::default();
    let exit = wait_for("the end", || {
        // A server that lives for one batch, and loses what it read beyond its cursor.
        let mut follower = Follower::open(&attempt.dir, cursor, LineLimits { part_bytes_max: 65_536 }).unwrap();
        let batch = follower.batch(3000, 100, None).unwrap();
        let keep = batch.lines.len().div_ceil(2);
        lines.extend(batch.lines.into_iter().take(keep));
        cursor = lines.last().map_or(cursor, |line| line.after);
        attempt.dir.read_exit().unwrap()
    });
    let mut follower = Follower::open(&attempt.dir, cursor, LineLimits { part_bytes_max: 65_536 }).unwrap();
    lines.extend(all(&mut follower, 1 << 20, 1 << 20, Some(ended(&exit))).0);
    attempt.end();
    let (whole, _) = all(&mut attempt.follower(), 1 << 20, 1 << 20, Some(ended(&exit)));
    assert!(whole == lines);
}

#[test]
fn a_reader_of_an_unstarted_spool_waits() {
    let mut attempt = Attempt::create(fixture(&["hang"]));
    let mut follower = attempt.follower();
    assert_eq!(follower.batch(1000, 1000, None).unwrap(), longhaul_supervise::Batch::default());
    attempt.launch();
    let lines = wait_for("a line", || Some(follower.batch(1000, 1000, None).unwrap().lines).filter(|l| !l.is_empty()));
    assert_eq!((lines.len(), &lines[0].bytes[..]), (1, &b"hanging"[..]));
    attempt.control(1).stop(StopReason::Cancel, 1).unwrap();
    attempt.end();
}
