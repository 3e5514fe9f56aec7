//! What the path of a request names.
//!
//! Job: decode each segment by itself, so that no escape makes two segments of one or climbs. Never: normalises; two
//! spellings that a proxy might take for one are one stream here or refused.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use longhaul_api::{ErrorCode, Problem};
use longhaul_model::stream::{PathError, StreamPath};

use crate::http::reply::Failure;

/// Where the face begins.
pub(super) const ROOT: &str = "/v1/stream/";

/// The stream that a path names.
#[derive(Debug)]
pub(in crate::http) struct Target(pub(super) StreamPath);

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Self::of(parts)
    }
}

impl Target {
    /// What a request names.
    pub(super) fn of(parts: &Parts) -> Result<Self, Failure> {
        let path = parts.uri.path();
        let writes = !parts.method.is_safe();
        decode(path.strip_prefix(ROOT).unwrap_or_default()).map(Self).map_err(|error| refused(error, writes))
    }
}

/// Why a path names no stream.
#[derive(Debug, PartialEq, Eq)]
enum Bad {
    /// Its escapes make no text, or a slash.
    Escape,
    /// It breaks a rule.
    Rule(PathError),
}

/// A path as it stands in an address, below the face's root.
fn decode(raw: &str) -> Result<StreamPath, Bad> {
    if !raw.contains('%') {
        return StreamPath::parse(raw).map_err(Bad::Rule);
    }
    let mut out = String::with_capacity(raw.len());
    for (at, segment) in raw.split('/').enumerate() {
        if at > 0 {
            out.push('/');
        }
        let segment = unescape(segment).ok_or(Bad::Escape)?;
        if segment.contains('/') {
            return Err(Bad::Escape);
        }
        out.push_str(&segment);
    }
    StreamPath::parse(&out).map_err(Bad::Rule)
}

/// The path of a stream that a header names: absolute as addresses of this face are, or below its root.
pub(super) fn named(text: &str) -> Option<StreamPath> {
    decode(text.strip_prefix(ROOT).unwrap_or(text)).ok()
}

fn unescape(segment: &str) -> Option<String> {
    let mut out = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            out.push((high * 16 + low) as u8);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

fn refused(bad: Bad, writes: bool) -> Failure {
    let error = match bad {
        Bad::Escape => {
            let text = "the escapes in the path are no UTF-8, or one is a slash; a slash is written as itself";
            return Problem::invalid("path", text).into();
        }
        Bad::Rule(error) => error,
    };
    match error {
        PathError::TooLong { max, .. } => {
            Problem::new(ErrorCode::PathTooLong, error.to_string()).param("path").fact("limit_bytes", max).into()
        }
        PathError::Reserved(_) if writes => Failure::new(ErrorCode::MethodNotAllowed, error.to_string()),
        PathError::Reserved(_) => Failure::new(ErrorCode::RouteNotFound, error.to_string()),
        PathError::Empty | PathError::Segment | PathError::Control => {
            Problem::invalid("path", error.to_string()).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_taken_out_of_each_segment_by_itself() {
        for (raw, path) in [("a/b", "a/b"), ("a%20b", "a b"), ("%C3%A4/x", "ä/x"), ("a%3Fb", "a?b"), ("a+b", "a+b")] {
            assert_eq!(decode(raw).unwrap().as_str(), path);
        }
        for raw in ["a%2Fb", "a%2fb", "%2F", "..%2f..", "a%", "a%2", "a%zz", "%ff", "%c0%af"] {
            assert_eq!(decode(raw), Err(Bad::Escape), "{raw}");
        }
        for raw in
            ["", "/", "a/", "/a", "a//b", "..", "%2e%2e/a", "a/%2E", "a%00", "a%0a", "__ds/x", "%5f_ds/x", "runs/x"]
        {
            assert!(matches!(decode(raw), Err(Bad::Rule(_))), "{raw}");
        }
    }

    #[test]
    fn a_header_may_name_a_stream_by_its_address_or_below_the_root() {
        for text in ["/v1/stream/a/b", "a/b"] {
            assert_eq!(named(text).unwrap().as_str(), "a/b");
        }
        for text in ["", "/a", "/v1/stream/", "http://h/v1/stream/a", "../a"] {
            assert!(named(text).is_none(), "{text}");
        }
    }
}
