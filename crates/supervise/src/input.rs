//! The `input` log: what a server sends into an agent's standard input, durable before it is delivered.
//!
//! Job: the frames, the server's writer (idempotent by id, repairs a torn tail) and the look at the next frame that the
//! shim forwards. Owns: the frame's layout. Never: forwards; never rewrites a whole frame.
//!
//! ```text
//! length u32 │ crc u32 │ epoch u64 │ kind u8 │ id length u8 │ id │ payload      (little endian; length and crc
//!                      └──────────── body: length bytes ────────────┘            are of the body)
//! ```

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::attempt::{self, AttemptDir};
use crate::limits;

const HEAD_BYTES: u64 = 8;
const FIXED_BYTES: usize = 10;
const DATA: u8 = 1;
const CLOSE: u8 = 2;

/// Why an input was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Its id or payload, or the whole log, is over its bound. Nothing was written.
    #[error("{what} has at most {max} bytes")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// The bound.
        max: u64,
    },
    /// The log was closed for input by [`InputLog::close`]. Nothing was written.
    #[error("the input was closed")]
    Closed,
    /// The system refused. After a failed write the frame is not there and a full disk may be tried again; after a
    /// failed sync it may be there, and the writer takes no more: open it again.
    #[error("could not use the input log {}", .path.display())]
    Io {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The frame is durable and ends here in the log; delivered when the shim's input length reaches it.
    New {
        /// The log's length after it.
        end: u64,
    },
    /// A frame of this id is already there.
    AlreadyThere,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Close,
}

/// A whole frame that was found in the log, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) epoch: u64,
    pub(crate) kind: Kind,
    pub(crate) id: String,
    /// Where the payload begins.
    pub(crate) payload: u64,
    /// Where the frame, and its payload, ends.
    pub(crate) end: u64,
}

/// The whole frame at `at`, checked in small pieces; `None` if there is none (yet), or it is torn.
pub(crate) fn frame_at(log: &File, at: u64, len: u64) -> io::Result<Option<Frame>> {
    let body_max = FIXED_BYTES + limits::INPUT_ID_BYTES_MAX + limits::INPUT_PAYLOAD_BYTES_MAX;
    let mut head = [0; HEAD_BYTES as usize];
    if at + HEAD_BYTES + FIXED_BYTES as u64 > len || !filled(log, &mut head, at)? {
        return Ok(None);
    }
    let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
    let body = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let crc = u32::from_le_bytes([c0, c1, c2, c3]);
    let end = at + HEAD_BYTES + body as u64;
    if !(FIXED_BYTES..=body_max).contains(&body) || end > len {
        return Ok(None);
    }
    let mut hasher = crc32fast::Hasher::new();
    let mut piece = [0; 4096];
    let mut from = at + HEAD_BYTES;
    while from < end {
        let bytes = piece.len().min((end - from) as usize);
        if !filled(log, &mut piece[..bytes], from)? {
            return Ok(None);
        }
        hasher.update(&piece[..bytes]);
        from += bytes as u64;
    }
    if hasher.finalize() != crc {
        return Ok(None);
    }
    let mut fixed = [0; FIXED_BYTES + limits::INPUT_ID_BYTES_MAX];
    let bytes = fixed.len().min(body);
    if !filled(log, &mut fixed[..bytes], at + HEAD_BYTES)? {
        return Ok(None);
    }
    let epoch = u64::from_le_bytes(fixed[..8].try_into().map_err(io::Error::other)?);
    let kind = if fixed[8] == CLOSE { Kind::Close } else { Kind::Data };
    let id_end = FIXED_BYTES + usize::from(fixed[9]);
    if id_end > body {
        return Ok(None);
    }
    let id = String::from_utf8_lossy(&fixed[FIXED_BYTES..id_end]).into_owned();
    Ok(Some(Frame { epoch, kind, id, payload: at + HEAD_BYTES + id_end as u64, end }))
}

fn filled(log: &File, into: &mut [u8], at: u64) -> io::Result<bool> {
    match log.read_exact_at(into, at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The server's end of an attempt's input log.
#[derive(Debug)]
pub struct InputLog {
    file: File,
    path: PathBuf,
    len: u64,
    /// Each input's id, and where it ends.
    seen: HashMap<String, u64>,
    closed: bool,
    broken: bool,
}

impl InputLog {
    /// Opens the log, reads which inputs it holds, and cuts off a torn tail.
    ///
    /// # Errors
    /// The file cannot be read or cut; the attempt has no channel.
    pub fn open(dir: &AttemptDir) -> Result<Self, InputError> {
        let path = dir.file(attempt::INPUT);
        let io = |source| InputError::Io { path: path.clone(), source };
        let file = OpenOptions::new().read(true).append(true).mode(0o600).open(&path).map_err(io)?;
        let found = file.metadata().map_err(io)?.len();
        let mut log = Self { file, path: path.clone(), len: 0, seen: HashMap::new(), closed: false, broken: false };
        while let Some(frame) = frame_at(&log.file, log.len, found).map_err(io)? {
            log.len = frame.end;
            log.closed |= frame.kind == Kind::Close;
            log.seen.insert(frame.id, frame.end);
        }
        if log.len < found {
            log.file.set_len(log.len).and_then(|()| log.file.sync_all()).map_err(io)?;
        }
        Ok(log)
    }

    /// Appends one input and makes it durable; then send [`crate::Request::Input`] to the shim. An id is taken once.
    ///
    /// # Errors
    /// [`InputError`] says whether anything may have been written.
    pub fn append(&mut self, id: &str, epoch: u64, payload: &[u8]) -> Result<Appended, InputError> {
        self.write(id, epoch, DATA, payload)
    }

    /// Appends the end of input: the shim closes the agent's standard input when it gets there.
    ///
    /// # Errors
    /// [`InputError`] says whether anything may have been written.
    pub fn close(&mut self, id: &str, epoch: u64) -> Result<Appended, InputError> {
        self.write(id, epoch, CLOSE, b"")
    }

    /// Whether an input of this id is in the log.
    pub fn holds(&self, id: &str) -> bool {
        self.seen.contains_key(id)
    }

    /// Where the input of this id ends in the log, if it is there: the shim has dealt with it once its own length of the
    /// input reaches this.
    pub fn end_of(&self, id: &str) -> Option<u64> {
        self.seen.get(id).copied()
    }

    /// Ids of the inputs that begin so, in their order.
    pub fn ids(&self, prefix: &str) -> Vec<&str> {
        let mut ids: Vec<(u64, &str)> =
            self.seen.iter().filter(|(id, _)| id.starts_with(prefix)).map(|(id, end)| (*end, &**id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Whether no more input is taken.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The log's length, all of it whole frames.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    fn write(&mut self, id: &str, epoch: u64, kind: u8, payload: &[u8]) -> Result<Appended, InputError> {
        if self.seen.contains_key(id) {
            return Ok(Appended::AlreadyThere);
        }
        if self.closed {
            return Err(InputError::Closed);
        }
        let bound = |what, len: usize, max: usize| {
            if len <= max { Ok(()) } else { Err(InputError::TooLong { what, max: max as u64 }) }
        };
        bound("an input id", id.len(), limits::INPUT_ID_BYTES_MAX)?;
        bound("an input", payload.len(), limits::INPUT_PAYLOAD_BYTES_MAX)?;
        let frame = encode(id, epoch, kind, payload);
        if self.len + frame.len() as u64 > limits::INPUT_LOG_BYTES_MAX {
            return Err(InputError::TooLong { what: "the input log", max: limits::INPUT_LOG_BYTES_MAX });
        }
        self.append_synced(&frame).map_err(|source| InputError::Io { path: self.path.clone(), source })?;
        self.closed = kind == CLOSE;
        self.seen.insert(id.to_owned(), self.len);
        Ok(Appended::New { end: self.len })
    }

    fn append_synced(&mut self, frame: &[u8]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write failed"));
        }
        if let Err(error) = self.file.write_all(frame) {
            // A full disk leaves a torn frame, which the shim does not forward; cut off it blocks nobody.
            self.broken = self.file.set_len(self.len).is_err();
            return Err(error);
        }
        // Until the sync is proven nobody knows what a power cut would leave, so a failure is final.
        self.broken = true;
        self.file.sync_data()?;
        // Not the old length plus the frame: a server that lost its epoch may still have appended.
        self.len = self.file.stream_position()?;
        self.broken = false;
        Ok(())
    }
}

fn encode(id: &str, epoch: u64, kind: u8, payload: &[u8]) -> Vec<u8> {
    let body = FIXED_BYTES + id.len() + payload.len();
    let mut frame = Vec::with_capacity(HEAD_BYTES as usize + body);
    frame.extend_from_slice(&(body as u32).to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&epoch.to_le_bytes());
    frame.push(kind);
    frame.push(id.len() as u8);
    frame.extend_from_slice(id.as_bytes());
    frame.extend_from_slice(payload);
    let crc = crc32fast::hash(&frame[HEAD_BYTES as usize..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame
}

/// Reads the log as the frames in it: id, epoch and payload, for people and tests.
///
/// # Errors
/// The file cannot be read.
pub fn read_all(dir: &AttemptDir) -> io::Result<Vec<(String, u64, Vec<u8>)>> {
    let file = File::open(dir.file(attempt::INPUT))?;
    let len = file.metadata()?.len();
    let mut at = 0;
    let mut frames = Vec::new();
    while let Some(frame) = frame_at(&file, at, len)? {
        let mut payload = vec![0; (frame.end - frame.payload) as usize];
        file.read_exact_at(&mut payload, frame.payload)?;
        at = frame.end;
        frames.push((frame.id, frame.epoch, payload));
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, AttemptDir) {
        let temp = tempfile::tempdir().unwrap();
        File::create(temp.path().join(attempt::INPUT)).unwrap();
        let dir = AttemptDir::open(temp.path()).unwrap();
        (temp, dir)
    }

    #[test]
    fn an_id_is_taken_once() {
        let (_temp, dir) = dir();
        let mut log = InputLog::open(&dir).unwrap();
        let Appended::New { end } = log.append("a", 1, b"one\n").unwrap() else { panic!() };
        assert_eq!(log.append("a", 2, b"other\n").unwrap(), Appended::AlreadyThere);
        drop(log);
        let mut log = InputLog::open(&dir).unwrap();
        assert_eq!(log.bytes(), end);
        assert_eq!(log.append("a", 2, b"other\n").unwrap(), Appended::AlreadyThere);
        log.append("b", 2, b"").unwrap();
        log.close("c", 2).unwrap();
        assert!(matches!(log.append("d", 2, b"x"), Err(InputError::Closed)));
        let all = read_all(&dir).unwrap();
        assert_eq!(all, [("a".into(), 1, b"one\n".to_vec()), ("b".into(), 2, vec![]), ("c".into(), 2, vec![])]);
    }

    #[test]
    fn every_torn_tail_is_cut_and_written_again() {
        let whole = encode("two", 1, DATA, b"second\n");
        for keep in 0..whole.len() {
            let (_temp, dir) = dir();
            let mut log = InputLog::open(&dir).unwrap();
            log.append("one", 1, b"first\n").unwrap();
            log.file.write_all(&whole[..keep]).unwrap();
            let mut log = InputLog::open(&dir).unwrap();
            assert!(!log.holds("two"), "{keep}");
            log.append("two", 1, b"second\n").unwrap();
            let ids: Vec<_> = read_all(&dir).unwrap().into_iter().map(|frame| (frame.0, frame.2)).collect();
            assert_eq!(ids, [("one".into(), b"first\n".to_vec()), ("two".into(), b"second\n".to_vec())]);
        }
    }

    #[test]
    fn bounds_are_refused_before_anything_is_written() {
        let (_temp, dir) = dir();
        let mut log = InputLog::open(&dir).unwrap();
        assert!(log.append(&"x".repeat(256), 1, b"").is_err());
        assert!(log.append("x", 1, &vec![0; limits::INPUT_PAYLOAD_BYTES_MAX + 1]).is_err());
        assert_eq!(log.bytes(), 0);
        assert!(matches!(log.append("x", 1, b"ok"), Ok(Appended::New { .. })));
    }
}
