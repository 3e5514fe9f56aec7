//! Patterns over paths: `*` is one segment, `**` any number of them, none included.
//!
//! Never: takes time that grows faster than pattern times path.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits;

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// There is nothing.
    #[error("a pattern has at least one segment")]
    Empty,
    /// It is longer than [`limits::SUBSCRIPTION_TEXT_BYTES_MAX`].
    #[error("a pattern has at most {max} bytes", max = limits::SUBSCRIPTION_TEXT_BYTES_MAX)]
    TooLong,
    /// A segment is empty, or holds a star beside something else.
    #[error("the segments of a pattern are *, ** or names; a star in a name is written %2A")]
    Segment,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    One,
    Any,
    Name(Box<str>),
}

/// A pattern, without slashes at its ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    segments: Vec<Segment>,
}

impl Pattern {
    /// Parses a pattern; slashes at its ends do not count.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let text = text.trim_matches('/');
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > limits::SUBSCRIPTION_TEXT_BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        let mut segments = Vec::new();
        for segment in text.split('/') {
            let segment = match segment {
                "" | "." | ".." => return Err(PatternError::Segment),
                "*" => Segment::One,
                // Two in a row are one.
                "**" if segments.last() == Some(&Segment::Any) => continue,
                "**" => Segment::Any,
                name if name.contains('*') || name.chars().any(char::is_control) => return Err(PatternError::Segment),
                name => Segment::Name(name.replace("%2A", "*").replace("%2a", "*").into()),
            };
            segments.push(segment);
        }
        Ok(Self { text: text.into(), segments })
    }

    /// Whether a path matches.
    pub fn matches(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').collect();
        // Where the last `**` stands and how far into the path it reaches: going back to it once is enough, since a later
        // one can take all that an earlier one could.
        let (mut at, mut segment, mut back) = (0, 0, None);
        while at < path.len() {
            match self.segments.get(segment) {
                Some(Segment::Any) => {
                    back = Some((segment, at));
                    segment += 1;
                    continue;
                }
                Some(Segment::One) => {
                    (at, segment) = (at + 1, segment + 1);
                    continue;
                }
                Some(Segment::Name(name)) if **name == *path[at] => {
                    (at, segment) = (at + 1, segment + 1);
                    continue;
                }
                Some(Segment::Name(_)) | None => {}
            }
            let Some((any, reach)) = back else { return false };
            back = Some((any, reach + 1));
            (at, segment) = (reach + 1, any + 1);
        }
        self.segments[segment..].iter().all(|rest| *rest == Segment::Any)
    }

    /// What every path that matches begins with.
    pub fn prefix(&self) -> String {
        let mut prefix = String::new();
        for (at, segment) in self.segments.iter().enumerate() {
            let Segment::Name(name) = segment else { break };
            prefix.push_str(name);
            // A `**` after it may be nothing, slash included.
            let ends = at + 1 == self.segments.len() || self.segments[at + 1] == Segment::Any;
            if !ends {
                prefix.push('/');
            }
        }
        prefix
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule, told in the plainest way.
    fn plain(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern.split_first(), path.split_first()) {
            (None, None) => true,
            (Some((&"**", rest)), _) => (0..=path.len()).any(|skip| plain(rest, &path[skip..])),
            (Some((&"*", rest)), Some((_, path))) => plain(rest, path),
            (Some((name, rest)), Some((segment, path))) => name == segment && plain(rest, path),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_the_plain_rule_says(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "**"]), 1..6),
            path in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..7),
        ) {
            let parsed = Pattern::parse(&pattern.join("/")).unwrap();
            let joined = path.join("/");
            prop_assert_eq!(parsed.matches(&joined), plain(&pattern, &path));
            prop_assert!(!parsed.matches(&joined) || joined.starts_with(&parsed.prefix()));
        }
    }

    #[test]
    fn stars_stand_alone() {
        for (pattern, path) in [("/events/*/", "events/a"), ("a/**", "a"), ("**", "a/b/c"), ("a%2Ab", "a*b")] {
            assert!(Pattern::parse(pattern).unwrap().matches(path), "{pattern} {path}");
        }
        for bad in ["", "/", "a//b", "a*", "***", "..", "a/./b", "a\n"] {
            assert!(Pattern::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Pattern::parse("a/b/*").unwrap().prefix(), "a/b/");
        assert_eq!(Pattern::parse("a/**").unwrap().prefix(), "a");
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = Pattern::parse(&vec!["**/a"; 200].join("/")).unwrap();
        assert!(!pattern.matches(&vec!["a"; 199].join("/")));
        assert!(!pattern.matches(&format!("{}/b", vec!["a"; 500].join("/"))));
    }
}
