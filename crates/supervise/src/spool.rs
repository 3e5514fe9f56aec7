//! Reading the spool: lines of both streams in the order in which they were completed.
//!
//! Job: follows `stdout` and `stderr` along `order`, cuts them into lines and long lines into parts, and can go on after
//! any line from a small cursor. Owns: one read-ahead window per stream, slices of which are the lines.
//! Never: loses, invents or reorders a byte of a stream; never blocks; never goes back.
//!
//! The bytes of a stream's lines, with `\n` where [`Line::newline`] says so, are exactly the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::attempt::{self, AttemptDir};
use crate::order::{RECORD_BYTES, Stream, Switch};
use crate::record::Exit;

/// Bytes of one read of a spool.
const WINDOW_BYTES: usize = 256 * 1024;
/// An unfinished line up to this long is read again with what follows it, so that most lines are slices of one window.
const TAIL_BYTES: u64 = 64 * 1024;
/// Records of one read of `order`.
const ORDER_RECORDS: usize = 512;

/// How far one stream is consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LaneCursor {
    /// Where the first line, or part of a line, that was not handed out begins.
    pub start: u64,
    /// Up to where the stream was looked at; between `start` and here there is no line end.
    pub arrived: u64,
    /// The index of the part that begins at `start`; 0 at the beginning of a line.
    pub part: u32,
}

/// A position in a spool, after some line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SpoolCursor {
    /// In stdout.
    pub stdout: LaneCursor,
    /// In stderr.
    pub stderr: LaneCursor,
    /// In `order`, bytes.
    pub order: u64,
    /// The stream that is being read.
    pub current: Option<Stream>,
}

impl SpoolCursor {
    fn lane(&mut self, stream: Stream) -> &mut LaneCursor {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn at(&self, stream: Stream) -> LaneCursor {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }
}

/// How lines are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineLimits {
    /// A line of more bytes than this, its newline not counted, is handed out in parts of this size. At least 1. The
    /// same for the whole life of a spool, else its cursors have no meaning.
    pub part_bytes_max: usize,
}

/// The final lengths of a spool, once nobody appends any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolLengths {
    /// Of stdout.
    pub stdout: u64,
    /// Of stderr.
    pub stderr: u64,
}

impl From<&Exit> for SpoolLengths {
    fn from(exit: &Exit) -> Self {
        Self { stdout: exit.stdout_bytes, stderr: exit.stderr_bytes }
    }
}

/// A line, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it was printed.
    pub stream: Stream,
    /// Its bytes, without the newline.
    pub bytes: Bytes,
    /// Whether a newline follows; not so for a part before the last and for a last line that has none.
    pub newline: bool,
    /// Its index from 0 if the line is longer than the limit, on the last part too.
    pub part: Option<u32>,
    /// Where to go on after it.
    pub after: SpoolCursor,
}

/// A range of a stream that a cursor or an end says was there and is not: a power cut took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The stream.
    pub stream: Stream,
    /// The first byte that is missing.
    pub from: u64,
    /// The first byte after it.
    pub to: u64,
}

/// What one look at a spool gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Lines in the order of their completion.
    pub lines: Vec<Line>,
    /// What is not there and should be; each stream at most once per follower.
    pub missing: Vec<Missing>,
    /// Whether a bound ended the batch, so that there may be more at once. With `ended` given, `false` means all is read.
    pub more: bool,
}

/// Follows one spool from a cursor on.
#[derive(Debug)]
pub struct Follower {
    files: [File; 2],
    order: File,
    limits: LineLimits,
    cursor: SpoolCursor,
    windows: [Window; 2],
    switches: Switches,
    /// The lengths up to which this batch reads.
    visible: [u64; 2],
    reported: [bool; 2],
}

/// A piece of a file in memory.
#[derive(Debug, Default)]
struct Window {
    base: u64,
    bytes: Bytes,
}

impl Window {
    fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// The bytes from `from` to `to`, which lie in the window.
    fn slice(&self, from: u64, to: u64) -> Bytes {
        self.bytes.slice((from - self.base) as usize..(to - self.base) as usize)
    }

    fn tail(&self, from: u64, to: u64) -> &[u8] {
        &self.bytes[(from - self.base) as usize..(to - self.base) as usize]
    }
}

/// Switch records read ahead.
#[derive(Debug, Default)]
struct Switches {
    base: u64,
    bytes: Vec<u8>,
    /// Nothing whole stands behind `bytes`, as of this batch.
    at_end: bool,
}

impl Follower {
    /// Opens the spool of an attempt at a cursor; [`SpoolCursor::default`] is its beginning.
    ///
    /// # Errors
    /// A file is not there or cannot be opened.
    pub fn open(dir: &AttemptDir, cursor: SpoolCursor, limits: LineLimits) -> io::Result<Self> {
        let limits = LineLimits { part_bytes_max: limits.part_bytes_max.max(1) };
        Ok(Self {
            files: [File::open(dir.file("stdout"))?, File::open(dir.file("stderr"))?],
            order: File::open(dir.file(attempt::ORDER))?,
            limits,
            cursor,
            windows: <[Window; 2]>::default(),
            switches: Switches::default(),
            visible: [0; 2],
            reported: [false; 2],
        })
    }

    /// Where it stands: after the last line it handed out, and what it looked at since.
    pub fn cursor(&self) -> SpoolCursor {
        self.cursor
    }

    /// The lines that are complete now, at most `lines_max` and about `bytes_max` bytes, at least one if there is one.
    /// With `ended`, also the unfinished last lines.
    ///
    /// # Errors
    /// A file cannot be read. Lines of this batch are lost with it: open a new follower at the last cursor.
    pub fn batch(&mut self, bytes_max: usize, lines_max: usize, ended: Option<SpoolLengths>) -> io::Result<Batch> {
        let mut batch = Batch::default();
        self.look(ended, &mut batch)?;
        let mut bytes = 0;
        loop {
            if batch.lines.len() >= lines_max.max(1) || bytes >= bytes_max.max(1) {
                batch.more = true;
                return Ok(batch);
            }
            let line = match self.cursor.current {
                Some(stream) => self.line(stream)?,
                None => None,
            };
            if let Some(line) = line {
                bytes += line.bytes.len() + 1;
                batch.lines.push(line);
            } else if !self.switch(ended.is_some())? {
                if ended.is_none() {
                    return Ok(batch);
                }
                let Some(line) = self.last_line()? else {
                    return Ok(batch);
                };
                bytes += line.bytes.len();
                batch.lines.push(line);
            }
        }
    }

    /// Takes the lengths, before `order` is read, and tells what a power cut took.
    fn look(&mut self, ended: Option<SpoolLengths>, batch: &mut Batch) -> io::Result<()> {
        for stream in Stream::BOTH {
            let index = stream.index();
            let len = self.files[index].metadata()?.len();
            let lane = self.cursor.at(stream);
            let whole = ended.map(|ended| [ended.stdout, ended.stderr][index]);
            self.visible[index] = whole.map_or(len, |whole| whole.min(len));
            let expected = whole.unwrap_or(0).max(lane.start).max(lane.arrived);
            if expected > len {
                // The unfinished line that was cut goes as far as the file does.
                self.cursor.lane(stream).arrived = lane.arrived.min(len.max(lane.start));
                if !self.reported[index] {
                    self.reported[index] = true;
                    batch.missing.push(Missing { stream, from: len, to: expected });
                }
            }
        }
        self.switches.at_end = false;
        Ok(())
    }

    /// The next line of the stream that completes before the next switch.
    fn line(&mut self, stream: Stream) -> io::Result<Option<Line>> {
        let index = stream.index();
        let limit = match self.peek()? {
            Some(switch) => switch.lens[index].min(self.visible[index]),
            None => self.visible[index],
        };
        let part_max = self.limits.part_bytes_max as u64;
        loop {
            let LaneCursor { start, arrived, part } = self.cursor.at(stream);
            if arrived >= limit {
                return Ok(None);
            }
            self.fill(stream)?;
            // One byte more than a part: only it tells a full line from a part.
            let to = limit.min(self.windows[index].end()).min(start + part_max + 1);
            let found = memchr::memchr(b'\n', self.windows[index].tail(arrived, to));
            if let Some(at) = found {
                let end = arrived + at as u64;
                let bytes = self.bytes(stream, start, end)?;
                *self.cursor.lane(stream) = LaneCursor { start: end + 1, arrived: end + 1, part: 0 };
                let part = (part > 0).then_some(part);
                return Ok(Some(Line { stream, bytes, newline: true, part, after: self.cursor }));
            }
            if to > start + part_max {
                let end = start + part_max;
                let bytes = self.bytes(stream, start, end)?;
                *self.cursor.lane(stream) = LaneCursor { start: end, arrived: end, part: part + 1 };
                return Ok(Some(Line { stream, bytes, newline: false, part: Some(part), after: self.cursor }));
            }
            self.cursor.lane(stream).arrived = to;
        }
    }

    /// Goes on to the next switch, if the current stream is read up to it; `false` if there is none (yet).
    fn switch(&mut self, ended: bool) -> io::Result<bool> {
        if let Some(switch) = self.peek()? {
            let reached = match self.cursor.current {
                Some(stream) => self.cursor.at(stream).arrived >= switch.lens[stream.index()],
                None => true,
            };
            // After the end a length that is not reached is missing, and never will be.
            if reached || ended {
                self.cursor.order += RECORD_BYTES as u64;
                self.cursor.current = Some(switch.stream);
                return Ok(true);
            }
            return Ok(false);
        }
        // What `order` does not know of after a power cut comes last, stdout first.
        let behind = |stream: &Stream| self.cursor.at(*stream).arrived < self.visible[stream.index()];
        match Stream::BOTH.into_iter().find(behind) {
            Some(stream) if ended => {
                self.cursor.current = Some(stream);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// An unfinished line at the very end.
    fn last_line(&mut self) -> io::Result<Option<Line>> {
        for stream in Stream::BOTH {
            let LaneCursor { start, arrived, part } = self.cursor.at(stream);
            if arrived > start {
                let bytes = self.bytes(stream, start, arrived)?;
                *self.cursor.lane(stream) = LaneCursor { start: arrived, arrived, part: 0 };
                let part = (part > 0).then_some(part);
                return Ok(Some(Line { stream, bytes, newline: false, part, after: self.cursor }));
            }
        }
        Ok(None)
    }

    /// Makes the window hold the byte at `arrived`, and the unfinished line before it unless that is long.
    fn fill(&mut self, stream: Stream) -> io::Result<()> {
        let index = stream.index();
        let LaneCursor { start, arrived, .. } = self.cursor.at(stream);
        let window = &self.windows[index];
        if window.base <= arrived && arrived < window.end() {
            return Ok(());
        }
        let base = if arrived - start <= TAIL_BYTES { start } else { arrived };
        let bytes = (self.visible[index] - base).min((arrived - base) + WINDOW_BYTES as u64);
        let bytes = self.read(stream, base, bytes as usize)?;
        self.windows[index] = Window { base, bytes };
        Ok(())
    }

    /// The bytes of a line: a slice of the window, or read anew if it began before the window.
    fn bytes(&self, stream: Stream, from: u64, to: u64) -> io::Result<Bytes> {
        let window = &self.windows[stream.index()];
        if from >= window.base && to <= window.end() {
            return Ok(window.slice(from, to));
        }
        self.read(stream, from, (to - from) as usize)
    }

    fn read(&self, stream: Stream, from: u64, bytes: usize) -> io::Result<Bytes> {
        let mut buffer = vec![0; bytes];
        self.files[stream.index()].read_exact_at(&mut buffer, from)?;
        Ok(buffer.into())
    }

    /// The next switch, if a whole one is there.
    fn peek(&mut self) -> io::Result<Option<Switch>> {
        loop {
            let ahead = self.cursor.order.checked_sub(self.switches.base).map(|at| at as usize);
            if let Some(record) = ahead.and_then(|at| self.switches.bytes.get(at..at + RECORD_BYTES)) {
                let record = record.try_into().map_err(io::Error::other)?;
                return Ok(Switch::decode(record));
            }
            if self.switches.at_end {
                return Ok(None);
            }
            self.switches.refill(&self.order, self.cursor.order)?;
        }
    }
}

impl Switches {
    fn refill(&mut self, order: &File, from: u64) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(ORDER_RECORDS * RECORD_BYTES, 0);
        let mut filled = 0;
        while filled < bytes.len() {
            match order.read_at(&mut bytes[filled..], from + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.at_end = filled < bytes.len();
        bytes.truncate(filled);
        self.bytes = bytes;
        self.base = from;
        Ok(())
    }
}
