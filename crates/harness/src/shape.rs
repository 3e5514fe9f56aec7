//! Members of JSON objects whose shape is somebody else's promise: each read answers `None` where the shape is another.

use longhaul_model::event::OutputStream;
use serde_json::Value;

use crate::parser::SourceLine;

/// Bytes of the ids that a parser remembers between lines: twice the longest that any CLI was seen to use.
const ID_BYTES_MAX: usize = 96;

/// A line, or a part of it, has a shape that is not known.
pub(crate) struct Unknown;

/// Whether a line was understood.
pub(crate) type Parsed = Result<(), Unknown>;

/// What a line must have to be understood.
pub(crate) fn known<T>(shape: Option<T>) -> Result<T, Unknown> {
    shape.ok_or(Unknown)
}

/// A line of stdout that is one JSON value.
pub(crate) fn json(line: &SourceLine<'_>) -> Result<Value, Unknown> {
    match (line.stream, line.part) {
        (OutputStream::Stdout, None) => serde_json::from_slice(line.bytes).map_err(|_| Unknown),
        (OutputStream::Stdout, Some(_)) | (OutputStream::Stderr, _) => Err(Unknown),
    }
}

/// A member that is a string.
pub(crate) fn text<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str()
}

/// A member that is a non-negative whole number.
pub(crate) fn count(object: &Value, name: &str) -> Option<u64> {
    object.get(name)?.as_u64()
}

/// A member that is `true`.
pub(crate) fn is_true(object: &Value, name: &str) -> bool {
    object.get(name).and_then(Value::as_bool) == Some(true)
}

/// A member that is an id: short, printable ASCII, nothing that JSON escapes. So a remembered id has a known size.
pub(crate) fn id<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    let id = text(object, name)?;
    let fits = (1..=ID_BYTES_MAX).contains(&id.len());
    (fits && id.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')).then_some(id)
}

/// Bytes of a text of unknown length that is remembered between lines.
const SHORT_BYTES_MAX: usize = 512;

/// The beginning of `text` without control characters, of a known size in a saved state.
pub(crate) fn short(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain[..plain.floor_char_boundary(SHORT_BYTES_MAX)].to_owned()
}
