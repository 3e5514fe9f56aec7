//! Positions in a stream.
//!
//! Job: one text for one position. Never: knows how many messages there are.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::Seq;

/// Digits of an offset: they hold every number below 2^53, so that texts compare as the numbers do.
const DIGITS: usize = 16;

/// The largest offset.
const MAX: u64 = 9_999_999_999_999_999;

/// The beginning as servers with a position of two numbers write it; clients have it written in.
const ZERO_OF_TWO: &str = "0000000000000000_0000000000000000";

/// A position between two messages: how many stand before it. On the wire 16 decimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Offset(u64);

/// What a reader may name: a position, or one of the two that only the server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// `-1`: before the first message that is kept.
    Beginning,
    /// `now`: after the last.
    Now,
    /// After so many messages.
    At(Offset),
}

/// Why a text is no offset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an offset is 16 digits as the server gave them, -1 or now")]
pub struct OffsetError;

impl Offset {
    /// Before the first message.
    pub const ZERO: Self = Self(0);

    /// After `messages` messages.
    #[must_use]
    pub const fn new(messages: u64) -> Self {
        Self(messages)
    }

    /// How many messages stand before it.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// So many messages further on.
    #[must_use]
    pub const fn plus(self, messages: u64) -> Self {
        Self(self.0 + messages)
    }

    /// Parses 16 digits, or fewer without a leading zero: the cursor of another face is one here too.
    ///
    /// # Errors
    /// [`OffsetError`] for every other text, the sentinels too.
    pub fn parse(text: &str) -> Result<Self, OffsetError> {
        if text == ZERO_OF_TWO {
            return Ok(Self::ZERO);
        }
        let canonical = text.len() == DIGITS || (text.len() < DIGITS && (text == "0" || !text.starts_with('0')));
        if !canonical || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(OffsetError);
        }
        text.parse().map(Self).map_err(|_| OffsetError)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every answer about a stream has one: written by hand, it costs a tenth of a format with a width.
        let (mut digits, mut left) = ([b'0'; DIGITS], self.0.min(MAX));
        for digit in digits.iter_mut().rev() {
            *digit += (left % 10) as u8;
            left /= 10;
        }
        f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

impl From<Seq> for Offset {
    fn from(seq: Seq) -> Self {
        Self(seq.get())
    }
}

impl Serialize for Offset {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Offset {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Position {
    /// Parses an offset or a sentinel.
    ///
    /// # Errors
    /// [`OffsetError`].
    pub fn parse(text: &str) -> Result<Self, OffsetError> {
        match text {
            "-1" => Ok(Self::Beginning),
            "now" => Ok(Self::Now),
            _ => Offset::parse(text).map(Self::At),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_sort_as_positions_do() {
        let numbers = [0, 1, 9, 10, 42, 99_999, MAX - 1, MAX];
        let texts: Vec<String> = numbers.iter().map(|n| Offset::new(*n).to_string()).collect();
        assert!(texts.is_sorted() && texts.iter().all(|text| text.len() == DIGITS));
        for (text, number) in texts.iter().zip(numbers) {
            assert_eq!(Offset::parse(text), Ok(Offset::new(number)));
        }
    }

    #[test]
    fn only_what_a_server_gave_is_an_offset() {
        assert_eq!(Position::parse("-1"), Ok(Position::Beginning));
        assert_eq!(Position::parse("now"), Ok(Position::Now));
        assert_eq!(Position::parse("42"), Ok(Position::At(Offset::new(42))));
        assert_eq!(Offset::parse(ZERO_OF_TWO), Ok(Offset::ZERO));
        for bad in ["", "-2", "Now", "042", "00000000000000001", "1,2", "+1", " 1", "1_2", "000000000000000x", "1/.."] {
            assert_eq!(Position::parse(bad), Err(OffsetError), "{bad}");
        }
    }
}
