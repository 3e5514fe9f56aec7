//! What a parser is: lines in, events out, resumable at every line.

use longhaul_model::event::{EventData, OutputStream};

use crate::channel::Reply;

/// A line of a source's output, or a piece of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceLine<'a> {
    /// Where it was written.
    pub stream: OutputStream,
    /// Its bytes, without the newline.
    pub bytes: &'a [u8],
    /// Whether a newline followed these bytes.
    pub eol: bool,
    /// The piece's number, from 0, where the line is longer than [`line_bytes_max`](crate::Harness::line_bytes_max).
    pub part: Option<u32>,
}

/// Makes events of a source's lines.
///
/// Deterministic: the events follow from the lines alone. Resumable: a parser made from the state after line `k` says
/// for line `k + 1` and all later ones what the first parser would have said. Total: no bytes make it panic, and no line
/// of stdout is lost: what it does not understand it gives back as `output.line`.
pub trait Parser: Send + Sync {
    /// Its name in a cursor.
    fn id(&self) -> &'static str;

    /// The version of its state and of the events it makes; a cursor of another version is not taken.
    fn version(&self) -> u32;

    /// Appends to `out` what `line` says.
    fn line(&mut self, line: &SourceLine<'_>, out: &mut Vec<EventData>);

    /// Appends to `out` what the end of both streams says. Called once, after the last line.
    fn end(&mut self, out: &mut Vec<EventData>);

    /// What it must remember between two lines: at most 4096 bytes.
    fn state(&self) -> Vec<u8>;

    /// What the protocol must be answered for the lines since the last call, in order. Each is written before the
    /// events of its line are committed; the same lines give the same ids again.
    fn take_replies(&mut self) -> Vec<Reply> {
        Vec::new()
    }

    /// How many messages of people were written to the agent since it began, from its input log: what
    /// [`at_rest`](Self::at_rest), [`input`](Self::input) and [`end`](Self::end) are to know, and no line is read by.
    fn said(&mut self, _messages: u64) {}

    /// Whether the agent has dealt with all that it was told of and waits: without more input it may be let go.
    fn at_rest(&self) -> bool {
        false
    }

    /// What says this to the running agent, under an id of ours; `None` while it cannot be said.
    fn input(&self, _input_id: &str, _text: &str) -> Option<Vec<u8>> {
        None
    }

    /// The protocol's own cancel, where it depends on what the agent said; `None` where the plan's stop ladder has it.
    fn interrupt(&self) -> Option<Vec<u8>> {
        None
    }
}

/// Why saved bytes are not a parser's state.
#[derive(Debug, thiserror::Error)]
#[error("the saved state is not one of parser {parser} version {version}")]
pub struct StateError {
    /// The parser that was asked.
    pub parser: &'static str,
    /// Its version.
    pub version: u32,
    /// What is wrong with the bytes, if they could not even be read.
    pub source: Option<serde_json::Error>,
}
