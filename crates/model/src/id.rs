//! Ids and positions as types, so that a run is never passed where a session is meant.
//!
//! Job: strict parsing and plain rendering of every id. Never: makes up an id without being handed its randomness.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("an id must not be empty")]
    Empty,
    /// The text is longer than [`limits::ID_BYTES_MAX`].
    #[error("an id has at most {max} characters, this one has {found}")]
    TooLong {
        /// Characters allowed.
        max: usize,
        /// Characters found.
        found: usize,
    },
    /// The text holds a character outside `[A-Za-z0-9._:~@-]`.
    #[error("{found:?} at position {at} is not allowed in an id; letters, digits and . _ : ~ @ - are")]
    Character {
        /// The first character that is not allowed.
        found: char,
        /// Its position in characters, from 0.
        at: usize,
    },
}

fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > limits::ID_BYTES_MAX {
        return Err(IdError::TooLong { max: limits::ID_BYTES_MAX, found: text.chars().count() });
    }
    for (at, found) in text.chars().enumerate() {
        if !(found.is_ascii_alphanumeric() || matches!(found, '.' | '_' | ':' | '~' | '@' | '-')) {
            return Err(IdError::Character { found, at });
        }
    }
    Ok(())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(Box<str>);

        impl $name {
            /// Parses an id of 1 to 255 characters of `[A-Za-z0-9._:~@-]`.
            ///
            /// # Errors
            /// [`IdError`] names the rule that the text breaks.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
                let text = String::deserialize(de)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id! {
    /// The namespace of run and session ids, limits, retention and deletion.
    ProjectId
}
text_id! {
    /// A run's id, unique in its project; UUIDv7 where the caller names none.
    RunId
}
text_id! {
    /// A conversation that spans runs.
    SessionId
}

impl ProjectId {
    /// The project of a request that names none.
    #[must_use]
    pub fn default_project() -> Self {
        Self("default".into())
    }
}

impl RunId {
    /// A run id from a UUID the caller drew.
    #[must_use]
    pub fn from_uuid(uuid: uuid::Uuid) -> Self {
        Self(uuid.to_string().into())
    }
}

/// A run's full identity: its project and its id in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunKey {
    /// The project.
    pub project: ProjectId,
    /// The run in that project.
    pub run: RunId,
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.run)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($inner);

        impl $name {
            /// Wraps the number.
            #[must_use]
            pub const fn new(number: $inner) -> Self {
                Self(number)
            }

            /// The number itself.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }

            /// The next one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// The number of an event in its stream: dense from 1. Zero stands before the first event.
    Seq(u64)
}
number! {
    /// The store's own id of one incarnation of a stream; never shown, never a path.
    StreamId(u64)
}
number! {
    /// The fencing number of an owner: a higher one shuts out a lower one for good.
    Epoch(u64)
}
number! {
    /// The number of an attempt in its run, from 1.
    AttemptNo(u32)
}

impl Seq {
    /// Before the first event.
    pub const ZERO: Self = Self(0);

    /// Parses a cursor from the wire: a canonical non-negative decimal.
    ///
    /// # Errors
    /// The text, if it has a sign, a leading zero, anything but digits, or does not fit 63 bits.
    pub fn parse(text: &str) -> Result<Self, String> {
        let canonical =
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        match text.parse::<u64>() {
            Ok(number) if canonical && i64::try_from(number).is_ok() => Ok(Self(number)),
            _ => Err(text.to_owned()),
        }
    }

    /// This many events further on.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_strict() {
        assert_eq!(RunId::parse("a.b_c:d~e@f-1").unwrap().as_str(), "a.b_c:d~e@f-1");
        assert_eq!(RunId::parse(""), Err(IdError::Empty));
        assert_eq!(RunId::parse("a/b"), Err(IdError::Character { found: '/', at: 1 }));
        assert_eq!(RunId::parse("ä"), Err(IdError::Character { found: 'ä', at: 0 }));
        assert!(RunId::parse(&"x".repeat(255)).is_ok());
        assert_eq!(RunId::parse(&"x".repeat(256)), Err(IdError::TooLong { max: 255, found: 256 }));
    }

    #[test]
    fn cursors_are_canonical_decimals() {
        assert_eq!(Seq::parse("0"), Ok(Seq::ZERO));
        assert_eq!(Seq::parse("42"), Ok(Seq::new(42)));
        for bad in ["", "-1", "+1", "01", "1.0", " 1", "9223372036854775808", "x"] {
            assert_eq!(Seq::parse(bad), Err(bad.to_owned()));
        }
    }
}
