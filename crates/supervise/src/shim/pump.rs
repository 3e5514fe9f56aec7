//! From the agent's pipes to the spool.
//!
//! Job: appends what the pipes give, exactly up to the output limit; writes a switch to `order` before the stream
//! changes; waits when the disk is full. Owns: `stdout`, `stderr`, `order` and one read buffer per stream.
//! Never: drops a byte without counting it; never blocks on a pipe.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use rustix::io::Errno;

use crate::attempt::{self, AttemptDir};
use crate::limits;
use crate::order::{RECORD_BYTES, Stream, Switch};

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The pipe holds nothing now.
    Idle,
    /// The pipe is closed.
    Closed,
    /// Bytes were taken from the pipe and are kept or counted as lost.
    Moved,
    /// The disk is full; bytes wait.
    Blocked,
}

#[derive(Debug)]
struct Lane {
    pipe: Option<OwnedFd>,
    file: File,
    len: u64,
    buffer: Box<[u8]>,
    /// The part of the buffer that is not written yet.
    pending: Range<usize>,
    /// How much of the buffer was kept of the last read.
    kept: usize,
    retry_at: Option<Instant>,
}

/// A switch record on its way to `order`, and how much of it is there.
#[derive(Debug)]
struct Torn {
    stream: Stream,
    record: [u8; RECORD_BYTES],
    written: usize,
}

#[derive(Debug)]
pub(super) struct Pump {
    lanes: [Lane; 2],
    order: File,
    order_len: u64,
    torn: Option<Torn>,
    last: Option<Stream>,
    budget: u64,
    lost: u64,
    over_limit: bool,
    fault: Option<String>,
}

impl Pump {
    pub(super) fn open(dir: &AttemptDir, pipes: [OwnedFd; 2], output_bytes_max: u64) -> io::Result<Self> {
        let open = |name: &str| OpenOptions::new().append(true).create(true).mode(0o600).open(dir.file(name));
        let [stdout, stderr] = pipes;
        let lane = |stream: Stream, pipe| -> io::Result<Lane> {
            Ok(Lane {
                pipe: Some(pipe),
                file: open(stream.file_name())?,
                len: 0,
                buffer: vec![0; limits::PIPE_READ_BYTES].into_boxed_slice(),
                pending: 0..0,
                kept: 0,
                retry_at: None,
            })
        };
        Ok(Self {
            lanes: [lane(Stream::Stdout, stdout)?, lane(Stream::Stderr, stderr)?],
            order: open(attempt::ORDER)?,
            order_len: 0,
            torn: None,
            last: None,
            budget: output_bytes_max,
            lost: 0,
            over_limit: false,
            fault: None,
        })
    }

    /// The pipe to poll: open, and nothing of it waits for the disk.
    pub(super) fn wanted(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        let lane = &self.lanes[stream.index()];
        lane.pipe.as_ref().filter(|_| lane.pending.is_empty()).map(AsFd::as_fd)
    }

    /// When the next write to a full disk is due.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.lanes.iter().filter(|lane| !lane.pending.is_empty()).filter_map(|lane| lane.retry_at).min()
    }

    /// Whether bytes wait for space on the disk.
    pub(super) fn disk_full(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.pending.is_empty())
    }

    /// Whether both pipes are closed and all of them is written.
    pub(super) fn closed(&self) -> bool {
        self.lanes.iter().all(|lane| lane.pipe.is_none() && lane.pending.is_empty())
    }

    pub(super) fn len(&self, stream: Stream) -> u64 {
        self.lanes[stream.index()].len
    }

    pub(super) fn order_len(&self) -> u64 {
        self.order_len
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether a byte beyond the limit arrived.
    pub(super) fn over_limit(&self) -> bool {
        self.over_limit
    }

    /// Why the spool cannot be written any more, if so.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// What the last step that moved has kept, and where in the spool it stands.
    pub(super) fn kept(&self, stream: Stream) -> (&[u8], u64) {
        let lane = &self.lanes[stream.index()];
        (&lane.buffer[..lane.kept], lane.len - lane.kept as u64)
    }

    /// Writes what waits, else reads once and writes it.
    pub(super) fn step(&mut self, stream: Stream, now: Instant) -> Step {
        let lane = &mut self.lanes[stream.index()];
        if !lane.pending.is_empty() {
            return match lane.retry_at {
                Some(at) if now < at => Step::Blocked,
                _ => self.flush(stream, now),
            };
        }
        let Some(pipe) = &lane.pipe else {
            return Step::Closed;
        };
        let read = match rustix::io::read(pipe, &mut *lane.buffer) {
            Ok(0) => {
                lane.pipe = None;
                return Step::Closed;
            }
            Ok(read) => read,
            Err(Errno::AGAIN | Errno::INTR) => return Step::Idle,
            Err(errno) => {
                lane.pipe = None;
                self.fail(&io::Error::from(errno));
                return Step::Closed;
            }
        };
        let room = if self.fault.is_some() { 0 } else { self.budget };
        let keep = usize::try_from(room).map_or(read, |room| room.min(read));
        self.over_limit |= keep < read && self.fault.is_none();
        self.budget -= keep as u64;
        self.lost += (read - keep) as u64;
        lane.pending = 0..keep;
        lane.kept = keep;
        self.flush(stream, now)
    }

    fn flush(&mut self, stream: Stream, now: Instant) -> Step {
        match self.write(stream) {
            Ok(()) => {
                self.lanes[stream.index()].retry_at = None;
                Step::Moved
            }
            Err(error) if full(&error) => {
                self.lanes[stream.index()].retry_at = Some(now + limits::FULL_DISK_RETRY);
                Step::Blocked
            }
            Err(error) => {
                self.fail(&error);
                self.lanes[stream.index()].kept = 0;
                Step::Moved
            }
        }
    }

    fn write(&mut self, stream: Stream) -> io::Result<()> {
        if self.lanes[stream.index()].pending.is_empty() {
            return Ok(());
        }
        self.switch_to(stream)?;
        let lane = &mut self.lanes[stream.index()];
        while !lane.pending.is_empty() {
            let written = append(&mut lane.file, &lane.buffer[lane.pending.clone()])?;
            lane.pending.start += written;
            lane.len += written as u64;
        }
        Ok(())
    }

    /// Appends the switch record if the last bytes went to the other stream. A record that a full disk tore is completed
    /// first, whichever stream it was for: no data was written since, so its lengths still hold.
    fn switch_to(&mut self, stream: Stream) -> io::Result<()> {
        loop {
            match &mut self.torn {
                Some(torn) if torn.written < RECORD_BYTES => {
                    let written = append(&mut self.order, &torn.record[torn.written..])?;
                    torn.written += written;
                    self.order_len += written as u64;
                }
                Some(torn) => {
                    self.last = Some(torn.stream);
                    self.torn = None;
                }
                None if self.last == Some(stream) => return Ok(()),
                None => {
                    let record = Switch { stream, lens: [self.lanes[0].len, self.lanes[1].len] }.encode();
                    self.torn = Some(Torn { stream, record, written: 0 });
                }
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        if self.fault.is_none() {
            self.fault = Some(crate::exec_stage::clip(&error.to_string()));
        }
        self.lose_pending();
    }

    fn lose_pending(&mut self) {
        for lane in &mut self.lanes {
            self.lost += lane.pending.len() as u64;
            lane.pending = 0..0;
        }
    }

    /// Gives up what waits for the disk and what the pipes still hold.
    pub(super) fn abandon(&mut self, why: &str) {
        self.fault.get_or_insert_with(|| why.to_owned());
        self.lose_pending();
        for lane in &mut self.lanes {
            lane.pipe = None;
        }
    }

    /// Makes the spool durable.
    pub(super) fn sync(&mut self) {
        let files = [&self.lanes[0].file, &self.lanes[1].file, &self.order];
        if let Some(error) = files.iter().find_map(|file| file.sync_all().err()) {
            self.fail(&error);
        }
    }
}

fn append(file: &mut File, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Whether waiting may heal this error.
pub(super) fn full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}
