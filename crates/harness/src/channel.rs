//! A protocol that an agent speaks over its standard input while it works: frames in, as plain data.
//!
//! Job: what is written first, what is kept ready for later, how the input ends, and what a parser wants written.
//! Owns: the rule that every frame has an id which follows from the request or from the agent's own lines, so that a
//! frame that is made again after a crash is written once. Never: writes.
//!
//! ```text
//! plan: opening ──► the agent's stdin, before it starts
//! a line ──► parser ──► Reply::{Frame, Prepared}            the protocol's own answers, a handshake among them
//! a person's answer ──► Harness::answer ──► bytes           to a question that an event told of
//! a person's message ──► Parser::input ──► bytes            once the parser knows how to send it
//! a cancel ──► the stop ladder, or Parser::interrupt ──► bytes
//! nothing more to say ──► Parser::at_rest ──► the end of input
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::request::PlanError;

/// Bytes of one frame: what the input log takes as one.
pub const FRAME_BYTES_MAX: usize = 8 << 20;

/// Bytes for an agent's standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its id in the attempt: a frame of an id that was written before is not written again. At most 200 bytes.
    pub id: String,
    /// What is written, whole.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// A message as one line of JSON.
    pub fn line(id: impl Into<String>, message: &Value) -> Self {
        Self { id: id.into(), bytes: line(message) }
    }
}

/// A message as one line of JSON.
pub(crate) fn line(message: &Value) -> Vec<u8> {
    let mut bytes = message.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

/// A frame that the request makes and that a later line of the agent completes: kept beside the attempt, because a
/// parser's state has no room for a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// Its id as a frame.
    pub id: String,
    /// The message, with a null at each place that is not known yet.
    pub message: Value,
}

/// When the input ends without being told, whether a server is there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseWhen {
    /// After a line of stdout that is a JSON object of this `type`. What was written before is still delivered.
    JsonType(&'static str),
}

/// The protocol of an attempt.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Channel {
    /// Written before the agent starts, in this order.
    pub opening: Vec<Frame>,
    /// Written when the parser says so.
    pub prepared: Vec<Prepared>,
    /// When the input ends by itself; `None` where [`Parser::at_rest`](crate::Parser::at_rest) says when.
    pub close_when: Option<CloseWhen>,
    /// Whether the parser tells of each message that the agent has taken, by `input.delivered` with its id, or with its
    /// number in the attempt, from 1, where the protocol gives no id back. Otherwise a message is delivered when it
    /// stands in the agent's standard input.
    pub acknowledges: bool,
}

impl Prepared {
    /// The frame, with these members set; pointers that lead nowhere are passed over.
    pub fn complete(mut self, set: Vec<(String, Value)>) -> Frame {
        for (pointer, value) in set {
            if let Some(member) = self.message.pointer_mut(&pointer) {
                *member = value;
            }
        }
        Frame::line(self.id, &self.message)
    }
}

impl Channel {
    /// Refuses a frame that cannot be written as one; the long part of every frame is the prompt.
    pub(crate) fn check(&self) -> Result<(), PlanError> {
        let prepared = self.prepared.iter().map(|frame| line(&frame.message).len());
        let lengths = self.opening.iter().map(|frame| frame.bytes.len()).chain(prepared);
        match lengths.into_iter().find(|bytes| *bytes > FRAME_BYTES_MAX) {
            Some(bytes) => Err(PlanError::TooLong { field: "prompt", bytes, bytes_max: FRAME_BYTES_MAX }),
            None => Ok(()),
        }
    }
}

/// What a parser wants written because of a line.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// This.
    Frame(Frame),
    /// The frame of this id that the plan prepared, with these members set.
    Prepared {
        /// Which one.
        id: String,
        /// JSON pointers to its nulls, and what goes there.
        set: Vec<(String, Value)>,
    },
}
