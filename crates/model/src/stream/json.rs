//! JSON bodies.
//!
//! Job: in one pass check a body, take one array level off it and take white space out: each message is then one line.
//! Never: builds a tree, recurses, or changes anything but white space between tokens.
//!
//! Source: RFC 8259.

use bytes::Bytes;

use crate::limits;

/// Why a body is no JSON that a stream takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the body is not valid JSON at byte {at}: {what}")]
pub struct JsonError {
    /// The byte, from 0.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// The messages of a body.
pub type Messages = Vec<Bytes>;

/// Splits a body into messages: the elements of the array that it is, or the one value that it is otherwise.
///
/// # Errors
/// [`JsonError`] with the place.
pub fn flatten(body: &Bytes) -> Result<Messages, JsonError> {
    let _ = (body, limits::STREAM_JSON_DEPTH_MAX);
    todo!()
}
