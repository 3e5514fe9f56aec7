//! Pages of other origins: which ones may use this server, and what their browser must be told for it.
//!
//! Job: the headers of CORS on every answer to an allowed origin, and the answer to a preflight. Never: lets every
//! origin in; stands in for the token or the check of the Host. Source: WHATWG Fetch, section 3.3.

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// What a page may send.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, PUT, POST, DELETE");

/// What a page may send with it: ours, the Durable Streams protocol's, and what OpenAI's SDK for browsers adds by itself.
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Range, X-Request-Id, X-Run-Id, \
     X-Session-Id, Stream-TTL, Stream-Expires-At, Stream-Closed, Stream-Seq, Stream-Forked-From, Stream-Fork-Offset, \
     Stream-Fork-Sub-Offset, Stream-Expected-Offset, Stream-Max-Messages, Stream-Max-Bytes, Stream-Max-Age, Producer-Id, \
     Producer-Epoch, Producer-Seq, \
     X-Stainless-Arch, X-Stainless-Helper-Method, X-Stainless-Lang, X-Stainless-OS, X-Stainless-Package-Version, \
     X-Stainless-Retry-Count, X-Stainless-Runtime, X-Stainless-Runtime-Version, X-Stainless-Timeout",
);

/// What a page may read besides the body.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Accept-Ranges, Content-Range, ETag, Location, Retry-After, WWW-Authenticate, X-Longhaul-Ignored, X-Request-Id, \
     X-Run-Id, X-Run-Request-Digest, X-Should-Retry, Stream-TTL, Stream-Expires-At, Stream-Closed, \
     Stream-Next-Offset, Stream-Up-To-Date, Stream-Cursor, Stream-SSE-Data-Encoding, Stream-Earliest-Offset, \
     Stream-Max-Messages, Stream-Max-Bytes, Stream-Max-Age, Producer-Epoch, Producer-Seq, Producer-Expected-Seq, \
     Producer-Received-Seq",
);

/// Seconds that a browser may remember the answer to a preflight; Chromium remembers none for longer.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// An origin as browsers write it: `https://app.example`, `http://localhost:5173`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

/// Why a text is no origin that can be allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// `*` or `null`: pages that anybody could have made.
    #[error("{0:?} cannot be allowed: any page could then use this server; name each origin")]
    Anybody(String),
    /// Something that no browser sends.
    #[error(
        "{0:?} is not an origin as browsers write it: http:// or https://, a name in lower case, a port unless it is the scheme's own, and nothing after it"
    )]
    Malformed(String),
}

impl Origin {
    /// An origin from its text.
    ///
    /// # Errors
    /// [`OriginError`].
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        if matches!(text, "*" | "null") {
            return Err(OriginError::Anybody(text.to_owned()));
        }
        let rest = [("http://", ":80"), ("https://", ":443")]
            .iter()
            .find_map(|(scheme, own_port)| text.strip_prefix(scheme).filter(|rest| !rest.ends_with(own_port)));
        let is_name = |name: &str| {
            let inner = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
            let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
            match inner {
                Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok_and(|a| a.to_string() == address),
                None => !name.is_empty() && name.bytes().all(known),
            }
        };
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|number| number > 0 && number.to_string() == port);
        let sound = rest.is_some_and(|rest| match rest.rsplit_once(':') {
            Some((name, port)) if !rest.ends_with(']') => is_name(name) && is_port(port),
            _ => is_name(rest),
        });
        if sound { Ok(Self(text.to_owned())) } else { Err(OriginError::Malformed(text.to_owned())) }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The origins that may use a server besides its own.
#[derive(Debug, Clone, Default)]
pub(super) struct Origins(Vec<Origin>);

impl Origins {
    /// These.
    pub(super) fn new(origins: Vec<Origin>) -> Self {
        Self(origins)
    }

    /// Whether the page that sent a request is of one of them.
    pub(super) fn allow(&self, origin: &HeaderValue) -> bool {
        self.0.iter().any(|allowed| allowed.0.as_bytes() == origin.as_bytes())
    }

    /// Whether a browser's question before the real one is answered: that of an allowed origin, and anybody's about a
    /// stream. Without the header that [`Origins::mark`] adds for allowed origins, a browser takes the answer for a no.
    pub(super) fn answers(&self, path: &str, headers: &HeaderMap) -> bool {
        headers.get(header::ORIGIN).is_some_and(|origin| self.allow(origin)) || path.starts_with("/v1/stream/")
    }

    /// Adds to an answer what the page's browser must be told.
    pub(super) fn mark(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin.filter(|origin| self.allow(origin)) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}

/// Whether a request is a browser's question before the real one.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    let asks = [header::ORIGIN, header::ACCESS_CONTROL_REQUEST_METHOD];
    method == Method::OPTIONS && asks.iter().all(|name| headers.contains_key(name))
}

/// The answer to a preflight; it tells nothing that is behind the token.
pub(super) fn preflight() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_may_use_all_of_the_streams_protocol() {
        use longhaul_api::streams::header;
        for (told, names) in [(HEADERS, header::REQUEST), (EXPOSED, header::RESPONSE)] {
            let told = told.to_str().unwrap().to_ascii_lowercase();
            let told: Vec<&str> = told.split(", ").collect();
            for name in names {
                assert!(told.contains(name), "{name}");
            }
        }
    }

    #[test]
    fn an_origin_is_what_a_browser_sends_and_nothing_wider() {
        for good in ["http://localhost:5173", "https://app.example", "http://127.0.0.1:8080", "http://[::1]:3000"] {
            assert_eq!(Origin::parse(good).map(|o| o.0), Ok(good.to_owned()));
        }
        for anybody in ["*", "null"] {
            assert_eq!(Origin::parse(anybody), Err(OriginError::Anybody(anybody.to_owned())));
        }
        for bad in [
            "",
            "app.example",
            "https://",
            "https://app.example/",
            "https://App.example",
            "https://app.example:443",
            "http://app.example:80",
            "https://*.example",
            "https://user@app.example",
            "ftp://app.example",
            "http://a.example http://b.example",
            "http://[::01]",
            "http://a:b:1",
            "http://a:0080",
            "http://127.0.0.1:80801",
        ] {
            assert_eq!(Origin::parse(bad), Err(OriginError::Malformed(bad.to_owned())));
        }
    }
}
