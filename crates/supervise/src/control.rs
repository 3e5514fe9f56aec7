//! What a server and a live shim say to each other: lines of JSON over the attempt's unix socket.
//!
//! Job: the messages, their encoding, and a small blocking client. The first line of a client is `hello`; a shim that
//! has seen a higher epoch refuses it and closes. Everything here is a hint or a wish: the truth is in the files.
//! Owns: the protocol's version. Never: carries output or input; those are in the spool and the input log.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::record::{Started, Stop};
use crate::{attempt, limits};

/// The version of the protocol that this build speaks.
pub const VERSION: u32 = 1;

/// Why a server stops an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Somebody cancelled the run.
    Cancel,
    /// The run's deadline passed and the shim's own clock did not say so.
    Deadline,
    /// The server gives its runs up.
    Shutdown,
    /// It was let go and did not go.
    Lingered,
}

impl From<StopReason> for Stop {
    fn from(reason: StopReason) -> Self {
        match reason {
            StopReason::Cancel => Self::Cancel,
            StopReason::Deadline => Self::Deadline,
            StopReason::Shutdown => Self::Shutdown,
            StopReason::Lingered => Self::Lingered,
        }
    }
}

/// From a client to the shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "c", rename_all = "snake_case")]
pub enum Request {
    /// The first line: who speaks. Answered by [`Event::Hello`] or [`Event::Refused`].
    Hello {
        /// [`VERSION`].
        v: u32,
        /// The server's epoch.
        epoch: u64,
    },
    /// Begin a stop. Answered by [`Event::Stopping`] or [`Event::Refused`].
    Stop {
        /// Why.
        reason: StopReason,
        /// The server's epoch.
        epoch: u64,
    },
    /// Answered by [`Event::Status`].
    Ping,
    /// Send events from now on. Those that already hold are sent at once.
    Watch,
    /// The input log has grown.
    Input,
}

/// From the shim to a client. To a watcher every event is a reason to look at the spool; growth just before the end
/// may be told by `exit` alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "e", rename_all = "snake_case")]
pub enum Event {
    /// The answer to hello.
    Hello {
        /// [`VERSION`] of the shim.
        v: u32,
        /// The release of the shim.
        version: String,
        /// The shim's process id.
        pid: i32,
    },
    /// The epoch is lower than one the shim has seen.
    Refused {
        /// The highest epoch seen.
        epoch: u64,
    },
    /// The answer to stop.
    Stopping {
        /// The stop that holds: the first one begun, or `none` if the leader is already dead.
        stop: Stop,
    },
    /// The answer to ping.
    Status(Status),
    /// The agent's process exists.
    Started(Started),
    /// The spool has grown.
    Grew,
    /// Input was forwarded or refused.
    Input {
        /// Length of the part of the log that is dealt with.
        bytes: u64,
        /// Frames refused so far.
        refused: u64,
    },
    /// The exit record is durable. The connection closes.
    Exit,
    /// A message of a later release.
    #[serde(other)]
    Unknown,
}

/// What a shim says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What it is at.
    pub phase: Phase,
    /// The stop that has begun.
    pub stop: Stop,
    /// Bytes of stdout kept so far.
    pub stdout_bytes: u64,
    /// Bytes of stderr kept so far.
    pub stderr_bytes: u64,
    /// Bytes read and not kept.
    pub output_lost_bytes: u64,
    /// Length of the part of the input log that is dealt with.
    pub input_bytes: u64,
    /// Input frames refused.
    pub input_refused: u64,
    /// Whether it waits for space on the disk.
    pub disk_full: bool,
}

/// What a shim is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The leader lives.
    Running,
    /// The leader is dead; what its descendants print is still read.
    Draining,
    /// The rest of the tree is being killed.
    Killing,
    /// The tree is gone; the pipes are emptied and the end is recorded.
    Ending,
}

/// A message as one line, newline included.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut line = attempt::json(message);
    line.push(b'\n');
    line
}

/// The message in a line, with or without its newline.
///
/// # Errors
/// It is longer than [`limits::CONTROL_LINE_BYTES_MAX`] or no such message.
pub fn decode<'a, T: Deserialize<'a>>(line: &'a [u8]) -> io::Result<T> {
    if line.len() > limits::CONTROL_LINE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "control line too long"));
    }
    Ok(serde_json::from_slice(line)?)
}

/// A connection to a live shim that blocks, each wait bounded.
#[derive(Debug)]
pub struct ControlClient {
    stream: BufReader<UnixStream>,
}

impl ControlClient {
    /// Connects and says hello. The path goes through `/proc/self/fd`, so that the directory's may be of any length.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` if no shim listens (not yet, or no more); `PermissionDenied` if it refused
    /// the epoch.
    pub fn connect(dir: &Path, epoch: u64) -> io::Result<Self> {
        let handle = File::open(dir)?;
        let stream = UnixStream::connect(format!("/proc/self/fd/{}/{}", handle.as_raw_fd(), attempt::CONTROL))?;
        let mut client = Self { stream: BufReader::new(stream) };
        client.set_wait(limits::CONTROL_ANSWER_WAIT)?;
        client.send(&Request::Hello { v: VERSION, epoch })?;
        match client.next()? {
            Some(Event::Hello { .. }) => Ok(client),
            Some(Event::Refused { epoch }) => Err(refused(epoch)),
            Some(other) => Err(unexpected(&other)),
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// How long a read or a write may block.
    ///
    /// # Errors
    /// The time is zero.
    pub fn set_wait(&mut self, wait: Duration) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(wait))?;
        self.stream.get_ref().set_write_timeout(Some(wait))
    }

    /// Sends one request and waits for nothing.
    ///
    /// # Errors
    /// The shim is gone.
    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        self.stream.get_mut().write_all(&encode(request))
    }

    /// The next event; `None` when the shim has closed. A message of a later release is [`Event::Unknown`].
    ///
    /// # Errors
    /// `WouldBlock` if none came in time.
    #[expect(clippy::should_implement_trait, reason = "an iterator over io::Result would hide the time-out")]
    pub fn next(&mut self) -> io::Result<Option<Event>> {
        let mut line = Vec::new();
        let bytes_max = limits::CONTROL_LINE_BYTES_MAX as u64 + 1;
        self.stream.by_ref().take(bytes_max).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return if line.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        decode_event(&line).map(Some)
    }

    /// Begins a stop and says which stop holds.
    ///
    /// # Errors
    /// The epoch is refused, the shim is gone, or no answer came in time.
    pub fn stop(&mut self, reason: StopReason, epoch: u64) -> io::Result<Stop> {
        self.send(&Request::Stop { reason, epoch })?;
        loop {
            match self.next()? {
                Some(Event::Stopping { stop }) => return Ok(stop),
                Some(Event::Refused { epoch }) => return Err(refused(epoch)),
                Some(_) => {}
                None => return Err(io::ErrorKind::ConnectionReset.into()),
            }
        }
    }

    /// Asks how it goes. Events that arrive before the answer are dropped; ask on a connection that does not watch.
    ///
    /// # Errors
    /// The shim is gone, or no answer came in time.
    pub fn status(&mut self) -> io::Result<Status> {
        self.send(&Request::Ping)?;
        loop {
            match self.next()? {
                Some(Event::Status(status)) => return Ok(status),
                Some(_) => {}
                None => return Err(io::ErrorKind::ConnectionReset.into()),
            }
        }
    }

    /// The socket, for an async runtime. Nothing may have been read ahead: hand it over before asking for `watch`.
    pub fn into_std(self) -> UnixStream {
        self.stream.into_inner()
    }
}

/// The event in a line; a kind this build does not know is [`Event::Unknown`], whatever its fields.
///
/// # Errors
/// The line is not JSON, too long, or a known event with wrong fields.
pub fn decode_event(line: &[u8]) -> io::Result<Event> {
    decode(line)
}

fn refused(epoch: u64) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("the shim has seen the higher epoch {epoch}"))
}

fn unexpected(event: &Event) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("expected hello, got {event:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_short_lines() {
        assert_eq!(encode(&Request::Hello { v: 1, epoch: 7 }), b"{\"c\":\"hello\",\"v\":1,\"epoch\":7}\n");
        assert_eq!(encode(&Event::Grew), b"{\"e\":\"grew\"}\n");
        let stop = Request::Stop { reason: StopReason::Cancel, epoch: 7 };
        assert_eq!(decode::<Request>(&encode(&stop)).unwrap(), stop);
    }

    #[test]
    fn later_events_are_unknown_not_errors() {
        assert_eq!(decode_event(b"{\"e\":\"later\",\"x\":[1]}\n").unwrap(), Event::Unknown);
        assert!(decode_event(b"{\"e\":\n").is_err());
        assert!(decode_event(&[b' '; limits::CONTROL_LINE_BYTES_MAX + 1]).is_err());
    }
}
