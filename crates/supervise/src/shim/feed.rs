//! From the input log to the agent's standard input.
//!
//! Job: forwards whole frames in their order, as fast as the agent reads; refuses frames of a lower epoch; writes stop
//! frames between two frames; closes the pipe when told. Owns: the pipe's write end and the position in the log.
//! Never: writes a part of a frame that is not whole in the log; never holds a frame in memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use crate::attempt::{self, AttemptDir};
use crate::input::{Kind, frame_at};
use crate::limits;

const PIECE_BYTES: usize = 16 * 1024;

/// The payload that is being written: from here to the frame's end.
#[derive(Debug, Clone, Copy)]
struct Sending {
    at: u64,
    end: u64,
}

#[derive(Debug)]
pub(super) struct Feed {
    pipe: Option<OwnedFd>,
    log: File,
    at: u64,
    sending: Option<Sending>,
    urgent: Vec<u8>,
    /// Where in the log a higher epoch became known: what stands before was appended by its rightful owner.
    raises: Vec<(u64, u64)>,
    epoch: u64,
    refused: u64,
    refused_ids: Vec<String>,
    closing: bool,
    blocked: bool,
}

enum Wrote {
    Some(usize),
    Full,
    Closed,
}

impl Feed {
    pub(super) fn open(dir: &AttemptDir, pipe: OwnedFd, epoch: u64) -> io::Result<Self> {
        Ok(Self {
            pipe: Some(pipe),
            log: File::open(dir.file(attempt::INPUT))?,
            at: 0,
            sending: None,
            urgent: Vec::new(),
            raises: Vec::new(),
            epoch,
            refused: 0,
            refused_ids: Vec::new(),
            closing: false,
            blocked: false,
        })
    }

    /// The pipe to poll for room, while the agent does not read.
    pub(super) fn wanted(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().filter(|_| self.blocked).map(AsFd::as_fd)
    }

    /// Length of the part of the log that was forwarded or refused.
    pub(super) fn bytes(&self) -> u64 {
        self.at
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    pub(super) fn refused_ids(&self) -> &[String] {
        &self.refused_ids
    }

    /// A server of this epoch has spoken: frames of a lower one that are appended after this moment are refused.
    pub(super) fn raise(&mut self, epoch: u64) {
        let len = self.log.metadata().map_or(self.at, |found| found.len());
        let many = self.raises.len() >= limits::CONTROL_CLIENTS_MAX;
        match self.raises.last_mut() {
            Some(last) if last.0 == len || many => {
                last.1 = last.1.max(epoch);
            }
            _ => self.raises.push((len, epoch)),
        }
    }

    /// Writes these bytes at the next frame boundary; `false` if the pipe is closed.
    pub(super) fn urge(&mut self, bytes: &[u8]) -> bool {
        self.urgent.extend_from_slice(bytes);
        self.pipe.is_some()
    }

    /// Closes the pipe when what the log holds is forwarded.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    /// Forwards what it can without waiting.
    pub(super) fn advance(&mut self) -> io::Result<()> {
        self.blocked = false;
        let len = self.log.metadata()?.len();
        while self.pipe.is_some() {
            if let Some(sending) = self.sending {
                if !self.send(sending)? {
                    return Ok(());
                }
            } else if !self.urgent.is_empty() {
                match self.write(&self.urgent) {
                    Wrote::Some(bytes) => drop(self.urgent.drain(..bytes)),
                    Wrote::Full => {
                        return {
                            let _: () = self.blocked = true;
                            Ok(())
                        };
                    }
                    Wrote::Closed => self.pipe = None,
                }
            } else if !self.next(len)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes up the next frame; `false` if there is none.
    fn next(&mut self, len: u64) -> io::Result<bool> {
        let Some(frame) = frame_at(&self.log, self.at, len)? else {
            if self.closing {
                self.pipe = None;
            }
            return Ok(false);
        };
        while self.raises.first().is_some_and(|raise| raise.0 <= self.at) {
            self.epoch = self.epoch.max(self.raises.remove(0).1);
        }
        if frame.epoch < self.epoch {
            self.at = frame.end;
            self.refused += 1;
            if self.refused_ids.len() < limits::REFUSED_IDS_MAX {
                self.refused_ids.push(frame.id);
            }
            return Ok(true);
        }
        self.epoch = frame.epoch;
        match frame.kind {
            Kind::Data => {
                self.sending = Some(Sending { at: frame.payload, end: frame.end });
            }
            Kind::Close => {
                self.at = frame.end;
                self.pipe = None;
            }
        }
        Ok(true)
    }

    /// Writes a piece of the frame in work; `false` if the pipe is full.
    fn send(&mut self, sending: Sending) -> io::Result<bool> {
        let mut piece = [0; PIECE_BYTES];
        let bytes = piece.len().min(usize::try_from(sending.end - sending.at).unwrap_or(PIECE_BYTES));
        if bytes == 0 {
            self.at = sending.end;
            self.sending = None;
            return Ok(true);
        }
        self.log.read_exact_at(&mut piece[..bytes], sending.at)?;
        match self.write(&piece[..bytes]) {
            Wrote::Some(written) => {
                self.sending = Some(Sending { at: sending.at + written as u64, ..sending });
                Ok(true)
            }
            Wrote::Full => {
                self.blocked = true;
                Ok(false)
            }
            Wrote::Closed => {
                self.pipe = None;
                Ok(false)
            }
        }
    }

    fn write(&self, bytes: &[u8]) -> Wrote {
        let Some(pipe) = &self.pipe else {
            return Wrote::Closed;
        };
        match rustix::io::write(pipe, bytes) {
            Ok(written) => Wrote::Some(written),
            Err(Errno::INTR) => Wrote::Some(0),
            Err(Errno::AGAIN) => Wrote::Full,
            Err(_) => Wrote::Closed,
        }
    }
}
