//! The two output streams and what they can show.
//!
//! Job: terminal facts, colours, and writing that survives a reader who leaves. Owns: stdout and stderr.
//! Never: panics on a closed pipe, colours what is not a terminal.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};

use super::environment::Environment;

/// The width that is assumed where there is no terminal to ask.
const WIDTH_UNKNOWN: usize = 160;

/// What the streams can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Stdout is a terminal.
    pub out_tty: bool,
    /// Stderr is a terminal.
    pub err_tty: bool,
    /// Colours are wanted on stdout.
    pub out_colour: bool,
    /// Colours are wanted on stderr.
    pub err_colour: bool,
    /// Columns.
    pub width: usize,
}

/// A piece of output and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ink {
    /// Stdout.
    Out(Vec<u8>),
    /// Stderr.
    Err(Vec<u8>),
}

/// How a piece of text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// As it is.
    Plain,
    /// Beside the point.
    Dim,
    /// A heading.
    Bold,
    /// Good.
    Green,
    /// Bad.
    Red,
    /// Look here.
    Yellow,
    /// In progress.
    Cyan,
}

impl Paint {
    /// The text in this paint, if `colour`.
    pub fn on(self, colour: bool, text: &str) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            Self::Dim => "2",
            Self::Bold => "1",
            Self::Green => "32",
            Self::Red => "31",
            Self::Yellow => "33",
            Self::Cyan => "36",
        };
        if colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Screen {
    /// As the streams are now.
    pub fn look(environment: &Environment) -> Self {
        let (out_tty, err_tty) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let colour = !environment.no_color();
        Self { out_tty, err_tty, out_colour: out_tty && colour, err_colour: err_tty && colour, width: width() }
    }

    /// Writes pieces in order. A stderr that cannot be written to is no reason to stop.
    ///
    /// # Errors
    /// Stdout could not be written; `BrokenPipe` if its reader left.
    #[expect(clippy::unused_self, reason = "only who looked at the screen writes to it")]
    pub fn put(&self, inks: &[Ink]) -> io::Result<()> {
        for ink in inks {
            match ink {
                Ink::Out(bytes) => write_all(io::stdout().as_fd(), bytes)?,
                Ink::Err(bytes) => {
                    let _ = write_all(io::stderr().as_fd(), bytes);
                }
            }
        }
        Ok(())
    }

    /// Writes text to stdout.
    ///
    /// # Errors
    /// See [`Screen::put`].
    pub fn out(&self, text: &str) -> io::Result<()> {
        self.put(&[Ink::Out(text.as_bytes().to_vec())])
    }

    /// Writes a line to stderr.
    pub fn note(&self, line: &str) {
        let _ = self.put(&[Ink::Err(format!("{line}\n").into_bytes())]);
    }

    /// Writes a line to stderr that matters to people only.
    pub fn hint(&self, line: &str) {
        if self.err_tty {
            self.note(&Paint::Dim.on(self.err_colour, line));
        }
    }
}

/// Unbuffered, and patient with a pipe that its other end made non-blocking.
fn write_all(fd: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(wrote) => bytes = &bytes[wrote..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None)?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    io::stdout().flush()
}

fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout()).or_else(|_| rustix::termios::tcgetwinsize(io::stderr()));
    size.map_or(WIDTH_UNKNOWN, |size| usize::from(size.ws_col)).clamp(40, 400)
}

/// A text of at most `max` characters; a longer one ends in `…`.
pub fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max.saturating_sub(1)).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_only_where_wanted() {
        assert_eq!(Paint::Red.on(true, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(Paint::Red.on(false, "x"), "x");
        assert_eq!(Paint::Dim.on(true, ""), "");
    }

    #[test]
    fn long_texts_are_cut_by_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
