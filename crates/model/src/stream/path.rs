//! The name of a stream.
//!
//! Job: what may be a path. Owns: the rule. Never: a URL; who decodes per cent does so before.

use std::fmt;

use crate::id::ProjectId;
use crate::limits;

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// There is nothing.
    #[error("a stream needs a path")]
    Empty,
    /// It is longer than [`limits::STREAM_PATH_BYTES_MAX`].
    #[error("a stream's path has at most {max} bytes, this one has {found}")]
    TooLong {
        /// Bytes allowed.
        max: usize,
        /// Bytes found.
        found: usize,
    },
    /// A segment that a file system or a proxy reads otherwise, or none between two slashes.
    #[error("a segment of a stream's path is neither empty nor . nor ..")]
    Segment,
    /// A control character.
    #[error("a stream's path holds no control characters")]
    Control,
    /// A name that the server keeps for itself.
    #[error("streams below {0:?} are the server's own")]
    Reserved(&'static str),
}

/// The path of a stream, decoded: segments with `/` between, none of them empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamPath(Box<str>);

impl StreamPath {
    /// Parses a decoded path without its leading slash.
    ///
    /// # Errors
    /// [`PathError`] names the rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        if text.len() > limits::STREAM_PATH_BYTES_MAX {
            return Err(PathError::TooLong { max: limits::STREAM_PATH_BYTES_MAX, found: text.len() });
        }
        if text.chars().any(char::is_control) {
            return Err(PathError::Control);
        }
        if text.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(PathError::Segment);
        }
        for reserved in ["__ds", "runs"] {
            if text.split('/').next() == Some(reserved) {
                return Err(PathError::Reserved(reserved));
            }
        }
        Ok(Self(text.into()))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A stream's full name: its project and its path in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey {
    /// The project.
    pub project: ProjectId,
    /// The path.
    pub path: StreamPath,
}

impl StreamKey {
    /// `PROJECT/PATH`, read back; `None` if it is none.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let (project, path) = text.split_once('/')?;
        Some(Self { project: ProjectId::parse(project).ok()?, path: StreamPath::parse(path).ok()? })
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_segments() {
        for good in ["a", "a/b", "events/abc", "ä/ö", "a b", "x__ds", "a/__ds", "runs2"] {
            assert_eq!(StreamPath::parse(good).map(|p| p.to_string()), Ok(good.to_owned()));
        }
        for (bad, error) in [
            ("", PathError::Empty),
            ("/a", PathError::Segment),
            ("a/", PathError::Segment),
            ("a//b", PathError::Segment),
            ("a/../b", PathError::Segment),
            (".", PathError::Segment),
            ("a\0", PathError::Control),
            ("__ds", PathError::Reserved("__ds")),
            ("__ds/jwks.json", PathError::Reserved("__ds")),
            ("runs/x", PathError::Reserved("runs")),
        ] {
            assert_eq!(StreamPath::parse(bad), Err(error), "{bad:?}");
        }
        let long = "x".repeat(limits::STREAM_PATH_BYTES_MAX + 1);
        assert!(matches!(StreamPath::parse(&long), Err(PathError::TooLong { .. })));
    }

    #[test]
    fn keys_read_back() {
        let key = StreamKey { project: ProjectId::default_project(), path: StreamPath::parse("a/b").unwrap() };
        assert_eq!(StreamKey::from_text(&key.to_string()), Some(key));
    }
}
