//! The door: who may come in, and what is written down about each who did.
//!
//! A server on loopback answers those who call it by a loopback name; a server on any other address answers those with
//! the token. A web page of another origin gets nothing from either, unless its origin was allowed by name.

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use longhaul_api::{ErrorCode, Problem};
use sha2::{Digest as _, Sha256};
use std::time::Instant;
use subtle::ConstantTimeEq as _;

use super::App;
use super::cors::{self, Origin, Origins};
use super::dialect;
use super::peer::Peer;
use super::reply::{Failure, write_failure};

/// Paths that tell nothing and need no token.
const OPEN: &[&str] = &["/livez", "/readyz"];

/// The rules of one server.
#[derive(Debug)]
pub struct Door {
    /// The digest of the token, if one is needed.
    token: Option<[u8; 32]>,
    /// Whether the server is bound to loopback only.
    loopback: bool,
    /// Whose pages may use it.
    origins: Origins,
}

/// Who calls: a digest of the token, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller(pub String);

impl Door {
    /// The rules for a server with this token on this kind of address.
    pub fn new(token: Option<&str>, loopback: bool, origins: Vec<Origin>) -> Self {
        let token = token.map(|t| Sha256::digest(t.as_bytes()).into());
        Self { token, loopback, origins: Origins::new(origins) }
    }

    /// A loopback caller without a token must be this server's own user, or root.
    fn check_peer(&self, peer: Option<&Peer>, path: &str) -> Result<(), Problem> {
        if self.token.is_some() || OPEN.contains(&path) {
            return Ok(());
        }
        let own = rustix::process::geteuid().as_raw();
        match peer.filter(|peer| peer.is_loopback()).and_then(Peer::uid) {
            Some(uid) if uid == own || uid == 0 => Ok(()),
            Some(uid) => Err(Problem::new(
                ErrorCode::ForbiddenPeer,
                format!(
                    "this server belongs to user {own} and answers user {uid} only with a token; start it with --token-file"
                ),
            )),
            None => Err(Problem::new(
                ErrorCode::ForbiddenPeer,
                "the kernel does not say who calls; start the server with --token-file and give the token",
            )),
        }
    }

    /// The names in a request must be those that this server goes by, and of pages it knows.
    fn check_names(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
        if self.loopback && !is_loopback_name(host_name(host)) {
            return Err(Problem::new(
                ErrorCode::ForbiddenHost,
                format!("this server answers on localhost, not as {host:?}"),
            )
            .param("Host"));
        }
        if let Some(origin) = headers.get(header::ORIGIN).filter(|origin| !self.origins.allow(origin)) {
            let origin = origin.to_str().unwrap_or_default();
            let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            if own != Some(host) {
                return Err(Problem::new(
                    ErrorCode::ForbiddenHost,
                    format!("pages of {origin:?} may not use this server"),
                )
                .param("Origin"));
            }
        }
        Ok(())
    }

    fn check(&self, headers: &HeaderMap, path: &str) -> Result<Caller, Problem> {
        self.check_names(headers)?;
        let Some(expected) = &self.token else { return Ok(Caller::default()) };
        let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let given = given.and_then(|v| v.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let digest: Option<[u8; 32]> = given.map(|(_, token)| Sha256::digest(token.trim().as_bytes()).into());
        match digest {
            Some(digest) if bool::from(digest.ct_eq(expected)) => Ok(Caller(hex(&digest[..8]))),
            _ if OPEN.contains(&path) => Ok(Caller::default()),
            Some(_) => Err(Problem::new(ErrorCode::Unauthorized, "the bearer token is wrong").param("Authorization")),
            None => {
                Err(Problem::new(ErrorCode::Unauthorized, "this server wants a token: Authorization: Bearer TOKEN")
                    .param("Authorization"))
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The name in a Host header, without the port.
fn host_name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

fn is_loopback_name(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a text can be a request id that a caller chose.
fn is_request_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
}

/// Checks a request, passes it on, and finishes its answer.
pub(super) async fn pass(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let headers = request.headers();
    let given = headers.get("x-request-id").and_then(|v| v.to_str().ok()).filter(|text| is_request_id(text));
    let id = given.map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let unnamed = dialect::is_asked(&request);
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|info| &info.0);
    let origin = headers.get(header::ORIGIN).cloned();
    let preflight = app.door.origins.is_preflight(&method, headers);
    let checked = app.door.check(headers, &path).and_then(|caller| app.door.check_peer(peer, &path).map(|()| caller));
    let mut response = match checked {
        _ if preflight => {
            app.door.check_names(headers).map_or_else(|p| Failure::from(p).into_response(), |()| cors::preflight())
        }
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => Failure::from(problem).into_response(),
    };
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        tracing::debug!(request_id = %id, code = failure.0.code.as_str(), message = %failure.0.message, "refused");
        response = if unnamed && dialect::must_be_said(&failure) {
            dialect::say(&failure, &response, &id)
        } else {
            write_failure(response, &failure, &id)
        };
    }
    let status = response.status();
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    app.door.origins.mark(origin.as_ref(), response.headers_mut());
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let took = began.elapsed();
    metrics::counter!("longhaul_http_requests_total", "status" => status.as_u16().to_string()).increment(1);
    metrics::histogram!("longhaul_http_request_seconds").record(took.as_secs_f64());
    let took_us = took.as_micros() as u64;
    // Reads are many and change nothing.
    if method.is_safe() {
        tracing::debug!(request_id = %id, %method, path, status = status.as_u16(), took_us, "request");
    } else {
        // Which run a request began or changed: from here on the log names that.
        let run = response.headers().get("x-run-id").and_then(|value| value.to_str().ok());
        tracing::info!(request_id = %id, run, %method, path, status = status.as_u16(), took_us, "request");
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse::<header::HeaderName>().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn a_loopback_server_answers_to_loopback_names_only() {
        let door = Door::new(None, true, vec![]);
        for host in ["localhost:4437", "127.0.0.1:4437", "127.0.0.1", "[::1]:4437", "LOCALHOST"] {
            assert!(door.check(&headers(&[("host", host)]), "/v1/runs").is_ok(), "{host}");
        }
        for host in ["evil.example:4437", "", "127.0.0.1.evil.example"] {
            let problem = door.check(&headers(&[("host", host)]), "/v1/runs").unwrap_err();
            assert_eq!(problem.code, ErrorCode::ForbiddenHost, "{host}");
        }
    }

    #[test]
    fn another_origin_gets_nothing() {
        let door = Door::new(None, true, vec![]);
        let ask = |origin| door.check(&headers(&[("host", "127.0.0.1:4437"), ("origin", origin)]), "/v1/runs");
        assert!(ask("http://127.0.0.1:4437").is_ok());
        for origin in ["http://127.0.0.1:9999", "https://evil.example", "null"] {
            assert_eq!(ask(origin).unwrap_err().code, ErrorCode::ForbiddenHost, "{origin}");
        }
    }

    #[test]
    fn the_token_is_needed_and_compared() {
        let door = Door::new(Some("s3cret"), false, vec![]);
        let ask = |value: &str, path| door.check(&headers(&[("host", "h"), ("authorization", value)]), path);
        assert!(ask("Bearer s3cret", "/v1/runs").is_ok());
        assert_eq!(ask("Bearer nope", "/v1/runs").unwrap_err().code, ErrorCode::Unauthorized);
        assert_eq!(ask("Basic s3cret", "/v1/runs").unwrap_err().code, ErrorCode::Unauthorized);
        assert!(ask("Bearer nope", "/livez").is_ok());
    }
}
