//! How fast a spool is read: short lines, one stream and alternating.

use std::fs;
use std::time::Instant;

use longhaul_supervise::order::Switch;
use longhaul_supervise::{AttemptDir, Follower, LineLimits, SpoolCursor, SpoolLengths, Stream};

const BYTES: usize = 256 << 20;

fn main() {
    let line: Vec<u8> = b"{\"type\":\"delta\",\"text\":\"a few words of output\",\"n\":1}\n".to_vec();
    for (name, lines_per_switch) in [("one stream", usize::MAX), ("a switch every line", 1), ("every 10 lines", 10)] {
        let temp = tempfile::tempdir().expect("a temp directory");
        let (mut data, mut order, mut current) = ([Vec::new(), Vec::new()], Vec::new(), 1);
        let mut count = 0_usize;
        while data[0].len() + data[1].len() < BYTES {
            if count == 0 || (lines_per_switch < usize::MAX && count.is_multiple_of(lines_per_switch)) {
                current = 1 - current;
                let lens = [data[0].len() as u64, data[1].len() as u64];
                order.extend_from_slice(&Switch { stream: Stream::BOTH[current], lens }.encode());
            }
            data[current].extend_from_slice(&line);
            count += 1;
        }
        for (file, bytes) in [("stdout", &data[0]), ("stderr", &data[1]), ("order", &order)] {
            fs::write(temp.path().join(file), bytes).expect("a writable directory");
        }
        let ended = SpoolLengths { stdout: data[0].len() as u64, stderr: data[1].len() as u64 };
        let dir = AttemptDir::open(temp.path()).expect("the directory");
        let limits = LineLimits { part_bytes_max: 64 * 1024 };
        let mut follower = Follower::open(&dir, SpoolCursor::default(), limits).expect("the spool");
        let begun = Instant::now();
        let mut lines = 0;
        loop {
            let batch = follower.batch(1 << 20, 4096, Some(ended)).expect("a batch");
            lines += batch.lines.len();
            if !batch.more {
                break;
            }
        }
        assert_eq!(lines, count);
        let seconds = begun.elapsed().as_secs_f64();
        println!("{name}: {:.0} MB/s, {:.1} M lines/s", BYTES as f64 / 1e6 / seconds, lines as f64 / 1e6 / seconds);
    }
}
