//! The trace that a run belongs to.
//!
//! Job: the `traceparent` header, read and written. Source: W3C Trace Context, "traceparent Header Field Values" and
//! "Mutating the traceparent Field". Never: makes an id of its own; who does hands it in.

use serde::{Deserialize, Serialize};

/// The place of a run in somebody's trace: a span of its own below the caller's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The trace, 32 hex digits.
    pub trace_id: String,
    /// The run's span, 16 hex digits.
    pub span_id: String,
    /// The caller's span, 16 hex digits.
    pub parent_span_id: String,
    /// Whether the caller records it.
    pub sampled: bool,
}

/// The length of a header of version 00, and of that part of any later one.
const LENGTH: usize = 55;

impl Trace {
    /// Reads a header; the run's own span gets the id `span`. `None` if the header is not valid, or `span` is zero.
    pub fn parse(header: &str, span: u64) -> Option<Self> {
        let head = header.get(..LENGTH)?;
        let mut parts = head.split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, len| {
            text.len() == len && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let zero = |text: &str| text.bytes().all(|b| b == b'0');
        let sound = parts.next().is_none()
            && hex(version, 2)
            && version != "ff"
            && hex(trace, 32)
            && !zero(trace)
            && hex(parent, 16)
            && !zero(parent)
            && hex(flags, 2);
        // A later version may say more, after another dash.
        let rest = &header[LENGTH..];
        let ends = rest.is_empty() || (version != "00" && rest.starts_with('-'));
        if !sound || !ends || span == 0 {
            return None;
        }
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self {
            trace_id: trace.to_owned(),
            span_id: format!("{span:016x}"),
            parent_span_id: parent.to_owned(),
            sampled,
        })
    }

    /// The header for whoever works below the run's span.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    #[test]
    fn the_rules_of_the_header() {
        let good = format!("00-{TRACE}-{PARENT}-01");
        let trace = Trace::parse(&good, 10).unwrap();
        assert_eq!((trace.trace_id.as_str(), trace.parent_span_id.as_str(), trace.sampled), (TRACE, PARENT, true));
        assert_eq!(trace.traceparent(), format!("00-{TRACE}-000000000000000a-01"));
        assert!(!Trace::parse(&format!("00-{TRACE}-{PARENT}-02"), 1).unwrap().sampled);
        // A later version is read as far as this one goes.
        for later in [format!("01-{TRACE}-{PARENT}-01"), format!("cc-{TRACE}-{PARENT}-01-what-comes")] {
            assert!(Trace::parse(&later, 1).is_some(), "{later}");
        }
        for bad in [
            String::new(),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("cc-{TRACE}-{PARENT}-01.more"),
            format!("00-{TRACE}-{PARENT}"),
            format!("00-{TRACE}-{PARENT}-0"),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{}-{PARENT}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{PARENT}-{TRACE}-01"),
            format!("0x-{TRACE}-{PARENT}-01"),
            format!("00_{TRACE}-{PARENT}-01"),
            format!(" 00-{TRACE}-{PARENT}-01"),
            "ü".repeat(40),
        ] {
            assert_eq!(Trace::parse(&bad, 1), None, "{bad}");
        }
        assert_eq!(Trace::parse(&good, 0), None);
    }
}
