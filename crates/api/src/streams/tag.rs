//! Entity tags of catch-up answers.

use std::fmt;

/// What an answer was made of: the incarnation of the stream, where the answer begins and ends, and whether it tells of
/// the end, so that a tag from before a close is none of after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// The stream's own number; another one after it was deleted and made again.
    pub incarnation: u64,
    /// The offset that was asked for, as its number.
    pub start: u64,
    /// The offset to read on from, as its number.
    pub end: u64,
    /// Whether the answer says that it is up to date.
    pub up_to_date: bool,
    /// Whether the answer says that the stream is closed.
    pub closed: bool,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.closed, self.up_to_date) {
            (true, _) => ":c",
            (false, true) => "",
            (false, false) => ":p",
        };
        write!(f, "\"{:x}:{}:{}{state}\"", self.incarnation, self.start, self.end)
    }
}

impl Tag {
    /// Whether an `If-None-Match` names it. Weak tags match too (RFC 9110, section 13.1.2).
    #[must_use]
    pub fn is_in(&self, if_none_match: &str) -> bool {
        let own = self.to_string();
        let strong = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag) == own;
        if_none_match.split(',').map(str::trim).any(|tag| tag == "*" || strong(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_tells_a_close_from_none() {
        let open = Tag { incarnation: 31, start: 0, end: 5, up_to_date: true, closed: false };
        let closed = Tag { closed: true, ..open };
        let partial = Tag { up_to_date: false, ..open };
        assert_eq!(open.to_string(), "\"1f:0:5\"");
        assert_eq!(closed.to_string(), "\"1f:0:5:c\"");
        assert_eq!(partial.to_string(), "\"1f:0:5:p\"");
        assert!(open.is_in("\"x\", \"1f:0:5\"") && open.is_in("W/\"1f:0:5\"") && open.is_in("*"));
        for other in ["", "\"1f:0:5:c\"", "1f:0:5", "\"1f:0:55\""] {
            assert!(!open.is_in(other), "{other}");
        }
        assert!(!closed.is_in(&open.to_string()));
    }
}
