//! Headers and bodies of answers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use longhaul_api::streams::header as name;
use longhaul_engine::streams::{Info, SpanPage};
use longhaul_model::stream::{Lifetime, Mode, Offset};

/// What is true now and may not be in a moment.
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// A range that can never be another one: a minute without a question, as the protocol has it.
pub(super) const SETTLED: HeaderValue = HeaderValue::from_static("private, max-age=60, stale-while-revalidate=300");
/// A range that ends at the tail: kept, and asked about each time. A minute of silence would hide what was appended.
pub(super) const AT_TAIL: HeaderValue = HeaderValue::from_static("private, no-cache");

const TRUE: HeaderValue = HeaderValue::from_static("true");

/// Sets a header to what can be one.
pub(super) fn set(headers: &mut HeaderMap, name: &'static str, value: impl std::fmt::Display) {
    if let Ok(value) = HeaderValue::try_from(value.to_string()) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// Where a reader or writer goes on, and whether that is the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) next: Offset,
    pub(super) up_to_date: bool,
    pub(super) closed: bool,
    pub(super) earliest: Offset,
}

impl Place {
    /// The end of a stream.
    pub(super) fn end_of(info: &Info) -> Self {
        Self { next: info.tail, up_to_date: true, closed: info.closed, earliest: info.earliest }
    }

    /// The end of a page.
    pub(super) fn after(page: &SpanPage) -> Self {
        let SpanPage { next, up_to_date, closed_at_end: closed, earliest, .. } = *page;
        Self { next, up_to_date, closed, earliest }
    }

    /// Tells of it.
    pub(super) fn tell(self, headers: &mut HeaderMap) {
        set(headers, name::NEXT_OFFSET, self.next);
        if self.up_to_date {
            headers.insert(name::UP_TO_DATE, TRUE);
        }
        if self.closed {
            headers.insert(name::CLOSED, TRUE);
        }
        if self.earliest > Offset::ZERO {
            set(headers, name::EARLIEST_OFFSET, self.earliest);
        }
    }
}

/// Marks a stream as closed.
pub(super) fn closed(headers: &mut HeaderMap) {
    headers.insert(name::CLOSED, TRUE);
}

/// What holds of a stream whatever is in it.
pub(super) fn describe(headers: &mut HeaderMap, info: &Info) {
    if let Ok(value) = HeaderValue::from_str(info.content_type.as_str()) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    match info.lifetime {
        Lifetime::Endless => {}
        Lifetime::TtlSeconds(seconds) => set(headers, name::TTL, seconds),
        Lifetime::Until(at) => set(headers, name::EXPIRES_AT, at),
    }
    let keep = [
        (name::MAX_MESSAGES, info.keep.messages_max),
        (name::MAX_BYTES, info.keep.bytes_max),
        (name::MAX_AGE, info.keep.age_max_seconds),
    ];
    for (name, bound) in keep {
        if let Some(bound) = bound {
            set(headers, name, bound);
        }
    }
}

/// The messages of a page as a reader gets them: a JSON array, or the bytes as they are.
pub(super) fn body(mode: Mode, page: SpanPage) -> Pieces {
    match mode {
        Mode::Bytes => Pieces::new(page.body),
        Mode::Json => Pieces::new(vec![Bytes::from(array(&page.body))]),
    }
}

/// Whole lines as one JSON array. A message has no line break, so each one that is there ends a message.
pub(super) fn array(lines: &[Bytes]) -> Vec<u8> {
    let len: usize = lines.iter().map(Bytes::len).sum();
    let mut out = Vec::with_capacity(len + 2);
    out.push(b'[');
    for piece in lines {
        // Each byte is written whatever it is: that is done for many at once.
        out.extend(piece.iter().map(|byte| if *byte == b'\n' { b',' } else { *byte }));
    }
    if len > 0 {
        out.pop();
    }
    out.push(b']');
    out
}

/// A body whose pieces are handed on as they lie in memory, and whose length is known.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    rest: VecDeque<Bytes>,
    bytes: u64,
}

impl Pieces {
    fn new(pieces: Vec<Bytes>) -> Self {
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { rest: pieces.into_iter().filter(|piece| !piece.is_empty()).collect(), bytes }
    }

    /// As the body of an answer.
    pub(super) fn into_body(self) -> Body {
        Body::new(self)
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        let piece = self.rest.pop_front();
        self.bytes -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(hyper::body::Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_any_pieces_are_one_array() {
        let wire = b"{\"a\":1}\n2\n\"x\\ny\"\n";
        for cut in 0..=wire.len() {
            let pieces = [Bytes::from_static(&wire[..cut]), Bytes::from_static(&wire[cut..])];
            assert_eq!(array(&pieces), b"[{\"a\":1},2,\"x\\ny\"]", "cut at {cut}");
        }
        assert_eq!(array(&[]), b"[]");
    }
}
