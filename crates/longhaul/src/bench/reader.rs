//! A reader of a live stream by server-sent events.
//!
//! Job: lines as they come, whatever the framing. Owns: one connection. Never: keeps more than an unfinished line.

use std::sync::Arc;

use super::request::Path;
use super::target::Target;
use super::wire::{Connection, Head, WireError};

/// Why a reader stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The server refused.
    #[error("{0}")]
    Status(u16),
    /// The server ended the stream.
    #[error("stream ended")]
    Ended,
}

/// One reader.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    head: Head,
    lines: Lines,
}

impl Reader {
    /// Follows a stream from its beginning.
    ///
    /// # Errors
    /// There is no connection, or the server refused.
    pub async fn open(target: &Target, stream: &Arc<Path>) -> Result<Self, ReadError> {
        let mut connection = Connection::open(target.address).await?;
        let head = connection.begin(&stream.follow()).await?;
        if head.status != 200 {
            return Err(ReadError::Status(head.status));
        }
        Ok(Self { connection, head, lines: Lines::default() })
    }

    /// Waits for bytes and gives `line` each line that they complete, without its end.
    ///
    /// # Errors
    /// The stream is over.
    pub async fn next(&mut self, mut line: impl FnMut(&[u8])) -> Result<(), ReadError> {
        let Self { connection, head, lines } = self;
        let mut sink = |bytes: &[u8]| lines.push(bytes, &mut line);
        if head.framing.is_done() || !connection.body(&mut head.framing, &mut sink).await? {
            return Err(ReadError::Ended);
        }
        Ok(())
    }

    /// Waits until the server said where the reader stands, which it does at once.
    ///
    /// # Errors
    /// The stream is over.
    pub async fn greeted(&mut self) -> Result<(), ReadError> {
        let mut greeted = false;
        while !greeted {
            self.next(|line| greeted |= is_control(line)).await?;
        }
        Ok(())
    }
}

/// Whether a line says that a control event begins.
pub fn is_control(line: &[u8]) -> bool {
    line.strip_prefix(b"event:").is_some_and(|name| name.trim_ascii() == b"control")
}

/// Bytes to lines.
#[derive(Debug, Default)]
struct Lines {
    open: Vec<u8>,
}

impl Lines {
    fn push(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            if self.open.is_empty() {
                line(&bytes[..end]);
            } else {
                self.open.extend_from_slice(&bytes[..end]);
                line(&self.open);
                self.open.clear();
            }
            bytes = &bytes[end + 1..];
        }
        self.open.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_wherever_they_are_split() {
        let text = b"event: control\ndata:{}\n\n";
        for at in 0..=text.len() {
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            lines.push(&text[..at], &mut |line: &[u8]| seen.push(line.to_vec()));
            lines.push(&text[at..], &mut |line: &[u8]| seen.push(line.to_vec()));
            assert_eq!(seen, [&b"event: control"[..], b"data:{}", b""], "{at}");
        }
        assert!(is_control(b"event: control") && is_control(b"event:control\r") && !is_control(b"event: data"));
    }
}
