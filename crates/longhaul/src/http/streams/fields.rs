//! The headers of a request, strictly: each once, each in its one form.

use axum::http::header::AsHeaderName;
use axum::http::{HeaderMap, HeaderName, header};
use longhaul_api::streams::header as name;
use longhaul_api::{ErrorCode, Problem};
use longhaul_engine::streams::Fork;
use longhaul_model::limits;
use longhaul_model::stream::{ContentType, Keep, Lifetime, LifetimeError, Offset, Producer, ProducerError};

use super::target;
use crate::http::reply::Failure;

/// What the names of the protocol's own headers begin with.
const OWN: [&str; 2] = ["stream-", "producer-"];

/// The headers of a request, as this face reads them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    headers: &'a HeaderMap,
    /// Whether any of them is one of the protocol's own: most appends have none, and a look through all names costs less
    /// than a look for each.
    own: bool,
}

impl<'a> Fields<'a> {
    /// Of a request.
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let own = |name: &HeaderName| OWN.iter().any(|prefix| name.as_str().starts_with(prefix));
        Self { headers, own: headers.keys().any(own) }
    }

    /// The text of a header of the protocol's own that may be there once.
    pub(super) fn one(self, name: &'static str) -> Result<Option<&'a str>, Failure> {
        debug_assert!(OWN.iter().any(|prefix| name.starts_with(prefix)), "{name}");
        if self.own { self.only(name, name) } else { Ok(None) }
    }

    fn only(self, key: impl AsHeaderName, name: &'static str) -> Result<Option<&'a str>, Failure> {
        let mut values = self.headers.get_all(key).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Problem::invalid(name, format!("{name} is given twice")).into());
        }
        let text = std::str::from_utf8(value.as_bytes());
        text.map(Some).map_err(|_| Problem::invalid(name, format!("{name} is not UTF-8")).into())
    }

    /// `Content-Type`.
    pub(super) fn content_type(self) -> Result<Option<&'a str>, Failure> {
        Ok(self.only(header::CONTENT_TYPE, "content-type")?.map(str::trim).filter(|text| !text.is_empty()))
    }

    /// The same, as that of a new stream.
    pub(super) fn new_content_type(self) -> Result<Option<ContentType>, Failure> {
        let parse = |text| ContentType::parse(text).map_err(|e| Problem::invalid("Content-Type", e.to_string()).into());
        self.content_type()?.map(parse).transpose()
    }

    /// Whether the stream is to be closed. Only `true` counts, in any case; everything else is no header at all.
    pub(super) fn closes(self) -> bool {
        self.own && self.headers.get(name::CLOSED).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
    }

    /// The three headers of a producer.
    pub(super) fn producer(self) -> Result<Option<Producer<'a>>, Failure> {
        let [id, epoch, seq] = [name::PRODUCER_ID, name::PRODUCER_EPOCH, name::PRODUCER_SEQ].map(|name| self.one(name));
        Producer::parse(id?, epoch?, seq?).map_err(|error| {
            let param = match error {
                ProducerError::Incomplete | ProducerError::Id => "Producer-Id",
                ProducerError::Number(name) => name,
            };
            Problem::invalid(param, error.to_string()).into()
        })
    }

    /// `Stream-Seq`.
    pub(super) fn stream_seq(self) -> Result<Option<&'a str>, Failure> {
        let seq = self.one(name::SEQ)?;
        if seq.is_some_and(|text| text.is_empty() || text.len() > limits::STREAM_SEQ_BYTES_MAX) {
            let text = format!("Stream-Seq has 1 to {} bytes", limits::STREAM_SEQ_BYTES_MAX);
            return Err(Problem::invalid("Stream-Seq", text).into());
        }
        Ok(seq)
    }

    /// `Stream-Expected-Offset`.
    pub(super) fn expected_tail(self) -> Result<Option<Offset>, Failure> {
        self.offset(name::EXPECTED_OFFSET, "Stream-Expected-Offset")
    }

    fn offset(self, name: &'static str, shown: &'static str) -> Result<Option<Offset>, Failure> {
        let parse = |text| Offset::parse(text).map_err(|e| Problem::invalid(shown, e.to_string()).into());
        self.one(name)?.map(parse).transpose()
    }

    /// How long the stream lives.
    pub(super) fn lifetime(self) -> Result<Lifetime, Failure> {
        Lifetime::parse(self.one(name::TTL)?, self.one(name::EXPIRES_AT)?).map_err(lifetime)
    }

    /// How much of it is kept.
    pub(super) fn keep(self) -> Result<Keep, Failure> {
        let [messages, bytes, age] = [name::MAX_MESSAGES, name::MAX_BYTES, name::MAX_AGE].map(|name| self.one(name));
        Keep::parse(messages?, bytes?, age?).map_err(lifetime)
    }

    /// What the stream begins as, if it is a fork.
    pub(super) fn fork(self) -> Result<Option<Fork>, Failure> {
        let from = self.one(name::FORKED_FROM)?;
        let at = match self.one(name::FORK_OFFSET)? {
            // The sentinels are no divergence point but for the beginning.
            Some("-1") => Some(Offset::ZERO),
            _ => self.offset(name::FORK_OFFSET, "Stream-Fork-Offset")?,
        };
        let sub = self.one(name::FORK_SUB_OFFSET)?.map(sub_offset).transpose()?;
        let Some(from) = from else {
            let stray = [("Stream-Fork-Offset", at.is_some()), ("Stream-Fork-Sub-Offset", sub.is_some())];
            return match stray.into_iter().find(|(_, given)| *given) {
                Some((name, _)) => Err(Problem::invalid(name, format!("{name} needs Stream-Forked-From")).into()),
                None => Ok(None),
            };
        };
        if at.is_none() && sub.is_some_and(|sub| sub > 0) {
            let text = "Stream-Fork-Sub-Offset needs Stream-Fork-Offset, past which it counts";
            return Err(Problem::invalid("Stream-Fork-Sub-Offset", text).into());
        }
        let from = target::named(from).ok_or_else(|| {
            let text = "Stream-Forked-From is no path of a stream of this server";
            Failure::from(Problem::new(ErrorCode::StreamNotFound, text).param("Stream-Forked-From"))
        })?;
        Ok(Some(Fork { from, at, sub: sub.unwrap_or(0) }))
    }
}

fn sub_offset(text: &str) -> Result<u64, Failure> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or_else(|| {
        let text = "Stream-Fork-Sub-Offset is a plain decimal without sign or leading zero";
        Problem::invalid("Stream-Fork-Sub-Offset", text).into()
    })
}

fn lifetime(error: LifetimeError) -> Failure {
    let param = match error {
        LifetimeError::Number(name) => name,
        LifetimeError::Time => "Stream-Expires-At",
        LifetimeError::Both => "Stream-TTL",
    };
    Problem::invalid(param, error.to_string()).into()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use longhaul_model::stream::StreamPath;

    use super::*;

    fn map(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    /// The header at fault.
    fn param<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        result.unwrap_err().0.param.unwrap()
    }

    #[test]
    fn only_true_closes() {
        for (value, closes) in [
            ("true", true),
            ("TRUE", true),
            ("True", true),
            ("false", false),
            ("1", false),
            ("", false),
            ("yes", false),
        ] {
            assert_eq!(Fields::of(&map(&[("stream-closed", value.as_bytes())])).closes(), closes, "{value}");
        }
        assert!(!Fields::of(&HeaderMap::new()).closes());
    }

    #[test]
    fn a_header_stands_once_and_is_text() {
        for name in ["stream-seq", "producer-id", "stream-ttl", "stream-expected-offset"] {
            let twice = map(&[(name, b"1"), (name, b"1")]);
            assert!(Fields::of(&twice).one(name).is_err(), "{name}");
            assert!(Fields::of(&map(&[(name, b"\xff")])).one(name).is_err(), "{name}");
        }
        for bad in [&[("content-type", &b"1"[..]), ("content-type", b"1")][..], &[("content-type", b"\xff")]] {
            assert!(Fields::of(&map(bad)).content_type().is_err());
        }
        assert_eq!(Fields::of(&map(&[("stream-seq", "ä".as_bytes())])).stream_seq().unwrap(), Some("ä"));
        assert!(Fields::of(&map(&[("stream-seq", b"")])).stream_seq().is_err());
        let long = "x".repeat(limits::STREAM_SEQ_BYTES_MAX + 1);
        assert!(Fields::of(&map(&[("stream-seq", long.as_bytes())])).stream_seq().is_err());
    }

    #[test]
    fn the_header_at_fault_is_named() {
        let at_fault = |name, value: &[u8]| param(Fields::of(&map(&[(name, value)])).lifetime());
        assert_eq!(at_fault("stream-ttl", b"+1"), "Stream-TTL");
        assert_eq!(at_fault("stream-expires-at", b"tomorrow"), "Stream-Expires-At");
        let incomplete = map(&[("producer-id", b"p"), ("producer-seq", b"0")]);
        assert_eq!(param(Fields::of(&incomplete).producer()), "Producer-Id");
        let junk = map(&[("producer-id", b"p"), ("producer-seq", b"1.5"), ("producer-epoch", b"0")]);
        assert_eq!(param(Fields::of(&junk).producer()), "Producer-Seq");
        assert_eq!(param(Fields::of(&map(&[("stream-max-age", b"0")])).keep()), "Stream-Max-Age");
        assert_eq!(
            param(Fields::of(&map(&[("stream-expected-offset", b"now")])).expected_tail()),
            "Stream-Expected-Offset"
        );
    }

    #[test]
    fn a_fork_says_from_where() {
        let fork = |pairs: &[(&'static str, &[u8])]| Fields::of(&map(pairs)).fork();
        assert_eq!(fork(&[]).unwrap(), None);
        let found = fork(&[("stream-forked-from", b"/v1/stream/a"), ("stream-fork-offset", b"0000000000000002")]);
        let expected = Fork { from: StreamPath::parse("a").unwrap(), at: Some(Offset::new(2)), sub: 0 };
        assert_eq!(found.unwrap(), Some(expected));
        let nowhere = fork(&[("stream-forked-from", b"/v1/stream/../a")]).unwrap_err();
        assert_eq!(nowhere.0.code, ErrorCode::StreamNotFound);
        assert_eq!(param(fork(&[("stream-fork-offset", b"0000000000000002")])), "Stream-Fork-Offset");
        assert_eq!(param(fork(&[("stream-fork-sub-offset", b"0")])), "Stream-Fork-Sub-Offset");
        let from: (&'static str, &[u8]) = ("stream-forked-from", b"a");
        assert_eq!(param(fork(&[from, ("stream-fork-sub-offset", b"1")])), "Stream-Fork-Sub-Offset");
        for bad in [&b"-1"[..], b"+1", b"01", b"1.0", b"", b"x", b"99999999999999999999999"] {
            let given = [from, ("stream-fork-offset", b"0"), ("stream-fork-sub-offset", bad)];
            assert_eq!(param(fork(&given)), "Stream-Fork-Sub-Offset", "{bad:?}");
        }
        assert_eq!(param(fork(&[from, ("stream-fork-offset", b"now")])), "Stream-Fork-Offset");
    }
}
