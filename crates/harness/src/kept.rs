//! Lines that are kept as they came.
//!
//! Job: turns a line into `output.line` events that reproduce its bytes, in pieces where it is longer than a piece may
//! be. Owns: the numbers of the pieces.

use longhaul_model::event::{EventData, OutputLine, OutputStream};
use longhaul_model::limits::LINE_PART_BYTES_MAX;
use serde::{Deserialize, Serialize};

use crate::parser::SourceLine;

/// The number of the next piece of a long line, for each stream: the pieces that come in are numbered by their source,
/// and each may have to be cut once more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pieces {
    #[serde(rename = "o", default, skip_serializing_if = "is_zero")]
    stdout: u32,
    #[serde(rename = "e", default, skip_serializing_if = "is_zero")]
    stderr: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Pieces {
    /// Keeps `line`.
    pub fn keep(&mut self, line: &SourceLine<'_>, out: &mut Vec<EventData>) {
        let next = match line.stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        if line.part.unwrap_or(0) == 0 {
            *next = 0;
        }
        let whole = line.part.is_none() && line.bytes.len() <= LINE_PART_BYTES_MAX;
        let mut rest = line.bytes;
        loop {
            let (piece, after) = rest.split_at(cut(rest));
            rest = after;
            let last = rest.is_empty();
            let part = (!whole).then_some(*next);
            out.push(OutputLine::from_bytes(line.stream, piece, last && line.eol, part).into());
            *next = if whole || (last && line.eol) { 0 } else { next.saturating_add(1) };
            if last {
                return;
            }
        }
    }
}

/// Where to cut the next piece: at the limit, or up to three bytes before it so that a character stays whole.
fn cut(bytes: &[u8]) -> usize {
    if bytes.len() <= LINE_PART_BYTES_MAX {
        return bytes.len();
    }
    let continues = |at: usize| bytes[at] & 0b1100_0000 == 0b1000_0000;
    (LINE_PART_BYTES_MAX - 3..=LINE_PART_BYTES_MAX).rev().find(|at| !continues(*at)).unwrap_or(LINE_PART_BYTES_MAX)
}
