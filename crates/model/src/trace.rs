//! The trace that a run belongs to.
//!
//! Job: the headers `traceparent` and `tracestate`, read and written. Source: W3C Trace Context, "traceparent Header Field
//! Values", "Mutating the traceparent Field", "tracestate Header Field Values". Never: makes an id of its own; who does
//! hands it in.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The place of a run in a trace: a span of its own, below the caller's if there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The trace, 32 hex digits.
    pub trace_id: String,
    /// The run's span, 16 hex digits.
    pub span_id: String,
    /// The caller's span, 16 hex digits; absent where the run begins the trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_span_id: Option<String>,
    /// Whether it is recorded.
    pub sampled: bool,
    /// What the systems before us say to those after us: the header `tracestate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// The length of a header of version 00, and of that part of any later one.
const LENGTH: usize = 55;

/// Bytes of a `tracestate` that is carried along; 512 is what everybody should carry.
const STATE_BYTES_MAX: usize = 1024;

/// Members of a `tracestate`, by its rules.
const STATE_MEMBERS_MAX: usize = 32;

/// Bytes of a key or a value in it, by its rules.
const STATE_PART_BYTES_MAX: usize = 256;

impl Trace {
    /// A trace that begins with a run; `None` if an id is zero.
    pub fn begin(trace: u128, span: u64) -> Option<Self> {
        (trace != 0 && span != 0).then(|| Self {
            trace_id: format!("{trace:032x}"),
            span_id: format!("{span:016x}"),
            parent_span_id: None,
            sampled: true,
            state: None,
        })
    }

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
            parent_span_id: Some(parent.to_owned()),
            sampled,
            state: None,
        })
    }

    /// Reads a `tracestate`, several headers joined by commas. `None` if it is not valid or too long to be carried.
    pub fn parse_state(header: &str) -> Option<String> {
        let members: Vec<&str> =
            header.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|m| !m.is_empty()).collect();
        let mut keys = BTreeSet::new();
        let sound = members.iter().all(|member| {
            member.split_once('=').is_some_and(|(key, value)| {
                let first = key.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
                let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/@".contains(&b);
                let said = |b: u8| (b' '..=b'~').contains(&b) && b != b'=';
                first
                    && key.bytes().all(rest)
                    && key.len() <= STATE_PART_BYTES_MAX
                    && !value.is_empty()
                    && value.bytes().all(said)
                    && value.len() <= STATE_PART_BYTES_MAX
                    && keys.insert(key)
            })
        });
        let state = members.join(",");
        let fits = (1..=STATE_MEMBERS_MAX).contains(&members.len()) && state.len() <= STATE_BYTES_MAX;
        (sound && fits).then_some(state)
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
        assert_eq!(
            (trace.trace_id.as_str(), trace.parent_span_id.as_deref(), trace.sampled),
            (TRACE, Some(PARENT), true)
        );
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

    #[test]
    fn the_rules_of_the_state() {
        let good = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";
        assert_eq!(Trace::parse_state(good).as_deref(), Some(good));
        assert_eq!(Trace::parse_state(" a=1 ,,\tt@v-1*/_=x y").as_deref(), Some("a=1,t@v-1*/_=x y"));
        let many = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        assert!(Trace::parse_state(&many(32)).is_some());
        for bad in ["", ",", "a", "a=", "=1", "A=1", "_a=1", "a=1=2", "a=ü", "a=1,a=2", "a b=1", "a=\u{7f}", &many(33)]
        {
            assert_eq!(Trace::parse_state(bad), None, "{bad}");
        }
        for (key, value, whole) in [(256, 256, true), (257, 1, false), (1, 257, false)] {
            let one = format!("{}={}", "k".repeat(key), "v".repeat(value));
            assert_eq!(Trace::parse_state(&one).is_some(), whole, "{key} {value}");
        }
        let long = format!("a={0},b={0},c={0},d={0}", "v".repeat(256));
        assert_eq!(Trace::parse_state(&long), None, "{} bytes", long.len());
    }

    #[test]
    fn a_trace_that_begins_here_has_no_parent() {
        let trace = Trace::begin(1, 2).unwrap();
        assert_eq!(trace.traceparent(), "00-00000000000000000000000000000001-0000000000000002-01");
        assert_eq!(trace.parent_span_id, None);
        assert_eq!((Trace::begin(0, 2), Trace::begin(1, 0)), (None, None));
        // As it was stored before there was a state.
        let old = r#"{"trace_id":"a","span_id":"b","parent_span_id":"c","sampled":true}"#;
        assert_eq!(serde_json::from_str::<Trace>(old).unwrap().parent_span_id.as_deref(), Some("c"));
    }
}
