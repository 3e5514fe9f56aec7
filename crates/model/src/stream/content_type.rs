//! The media type of a stream.
//!
//! Job: compare types as the protocol does, and tell how a stream of one is kept. Never: looks at content.

use std::fmt;

use crate::limits;

/// Why a text is no content type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a content type is TYPE/SUBTYPE, perhaps with parameters, of at most 255 bytes")]
pub struct ContentTypeError;

/// How the messages of a stream are kept and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Each message is a JSON value without white space outside its strings.
    Json,
    /// Each message is the bytes of one append.
    Bytes,
}

/// A content type as it was given, which is how it is shown; compared without parameters and case.
#[derive(Debug, Clone)]
pub struct ContentType(Box<str>);

impl ContentType {
    /// What a stream has that names none.
    pub const DEFAULT: &str = "application/octet-stream";

    /// Parses one.
    ///
    /// # Errors
    /// [`ContentTypeError`].
    pub fn parse(text: &str) -> Result<Self, ContentTypeError> {
        let text = text.trim();
        let shown =
            text.len() <= limits::STREAM_CONTENT_TYPE_BYTES_MAX && text.bytes().all(|b| (b' '..=b'~').contains(&b));
        let (kind, subtype) = essence(text).split_once('/').ok_or(ContentTypeError)?;
        let token = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        if shown && token(kind) && token(subtype) { Ok(Self(text.into())) } else { Err(ContentTypeError) }
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Type and subtype, in the case that was given.
    pub fn essence(&self) -> &str {
        essence(&self.0)
    }

    /// Whether a text names the same type.
    pub fn is(&self, text: &str) -> bool {
        self.essence().eq_ignore_ascii_case(essence(text))
    }

    /// How a stream of this type is kept.
    pub fn mode(&self) -> Mode {
        if self.is("application/json") { Mode::Json } else { Mode::Bytes }
    }
}

impl Default for ContentType {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl PartialEq for ContentType {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for ContentType {}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn essence(text: &str) -> &str {
    text.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_case_do_not_matter() {
        let json = ContentType::parse("Application/JSON; charset=utf-8").unwrap();
        assert_eq!(json.as_str(), "Application/JSON; charset=utf-8");
        assert_eq!(json.mode(), Mode::Json);
        assert!(json.is("application/json") && !json.is("application/jsonl"));
        assert_eq!(ContentType::default().mode(), Mode::Bytes);
        for bad in ["", "json", "a/", "/b", "a/b/c", "a/\nb", "ä/b"] {
            assert_eq!(ContentType::parse(bad), Err(ContentTypeError), "{bad:?}");
        }
    }
}
