//! The door: who may come in, and what is written down about each who did.
//!
//! A server on loopback answers those who call it by a loopback name; a server on any other address answers those with
//! the token. A web page of another origin gets nothing from either, unless its origin was allowed by name. A token with
//! bounds opens what it is for and nothing else. A process of a run is no operator, whoever's it is.

use axum::body::Body;
use axum::extract::{ConnectInfo, FromRequestParts as _, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use longhaul_api::{ErrorCode, Problem, Scope};
use longhaul_model::ProjectId;
use sha2::{Digest as _, Sha256};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;

use super::App;
use super::caller::{self, Caller};
use super::cors::{self, Origin, Origins};
use super::dialect;
use super::peer::Peer;
use super::query;
use super::reply::{Failure, write_failure};
use super::scope::{self, Names, Need};
use crate::access::{Refusal, Standing, Token};

/// Where streams are that people write.
const STREAMS: &str = "/v1/stream/";

/// What a request goes by, in its answer and in the log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Paths that tell nothing and need no token.
const OPEN: &[&str] = &["/livez", "/readyz"];

/// The rules of one server.
#[derive(Debug)]
pub struct Door {
    /// The digest of the token, if one is needed.
    token: Option<[u8; 32]>,
    /// Whether the server is bound to loopback only.
    loopback: bool,
    /// The user that the server runs as.
    own: u32,
    /// Whose pages may use it.
    origins: Origins,
}

/// Somebody who was let in.
struct Admitted {
    caller: Caller,
    /// What ends the streams of a token with bounds: its revocation, or its time.
    ends: Option<(CancellationToken, Duration)>,
}

impl Door {
    /// The rules for a server with this token on this kind of address.
    pub fn new(token: Option<&str>, loopback: bool, origins: Vec<Origin>) -> Self {
        let token = token.map(|t| Sha256::digest(t.as_bytes()).into());
        Self { token, loopback, own: rustix::process::geteuid().as_raw(), origins: Origins::new(origins) }
    }

    /// A loopback caller without a token must be this server's own user, or root.
    fn check_peer(&self, peer: Option<&Peer>, path: &str) -> Result<(), Problem> {
        if self.token.is_some() || OPEN.contains(&path) {
            return Ok(());
        }
        let own = self.own;
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

    /// The name in a request must be one that this server goes by.
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
        if self.loopback && !is_loopback_name(host_name(host)) {
            return Err(Problem::new(
                ErrorCode::ForbiddenHost,
                format!("this server answers on localhost, not as {host:?}"),
            )
            .param("Host"));
        }
        Ok(())
    }

    /// The names in a request must be those that this server goes by, and of pages it knows.
    fn check_names(&self, headers: &HeaderMap) -> Result<(), Problem> {
        self.check_host(headers)?;
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
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

    /// The server's own token, where it has one.
    fn check_token(&self, headers: &HeaderMap, path: &str) -> Result<Caller, Problem> {
        let Some(expected) = &self.token else { return Ok(Caller::default()) };
        let digest: Option<[u8; 32]> = bearer(headers).map(|token| Sha256::digest(token.as_bytes()).into());
        match digest {
            Some(digest) if bool::from(digest.ct_eq(expected)) => {
                Ok(Caller { name: hex(&digest[..8]), ..Caller::default() })
            }
            _ if OPEN.contains(&path) => Ok(Caller::default()),
            Some(_) => Err(Problem::new(ErrorCode::Unauthorized, "the bearer token is wrong").param("Authorization")),
            None => {
                Err(Problem::new(ErrorCode::Unauthorized, "this server wants a token: Authorization: Bearer TOKEN")
                    .param("Authorization"))
            }
        }
    }
}

/// The token of the Authorization header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let given = given.and_then(|v| v.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    given.map(|(_, token)| token.trim())
}

/// The token with bounds that a request carries, in its header or as `?token=`, which is taken out of its address.
fn given_token(parts: &mut Parts) -> Result<Option<String>, Failure> {
    let query = parts.uri.query().unwrap_or_default();
    let given = query::values(query, "token").into_iter().rfind(|text| Token::is_ours(text));
    let Some(text) = given else {
        return Ok(bearer(&parts.headers).filter(|text| Token::is_ours(text)).map(str::to_owned));
    };
    if !Token::may_be_in_an_address(&text) {
        let message = "a token goes into the header Authorization: Bearer; addresses are kept in logs and histories, \
                       and only the token of a share may be in one";
        return Err(Problem::new(ErrorCode::Unauthorized, message).param("token").into());
    }
    let rest = query::without(query, "token");
    set_query(parts, &rest)?;
    Ok(Some(text))
}

fn set_query(parts: &mut Parts, query: &str) -> Result<(), Failure> {
    let path = parts.uri.path();
    let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    let refused = || Failure::from(Problem::invalid("query", "the query string is not well formed"));
    parts.uri = target.parse::<Uri>().map_err(|_| refused())?;
    Ok(())
}

/// The id in a request's path.
async fn path_id(parts: &mut Parts) -> Option<String> {
    let params = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    params.iter().find(|(name, _)| *name == "id").map(|(_, value)| value.to_owned())
}

/// Whether a token lets its holder do this; its project becomes the request's.
async fn check_bounds(token: &Token, need: Need, parts: &mut Parts) -> Result<(), Failure> {
    let bounds = &token.bounds;
    if bounds.scope < need.scope {
        let text = format!("token {} has scope {}, this needs {}", token.name, bounds.scope, need.scope);
        return Err(Problem::new(ErrorCode::ForbiddenScope, text)
            .fact("scope", bounds.scope.as_str())
            .fact("needed", need.scope.as_str())
            .into());
    }
    if let Some(run) = token.shown() {
        let id = path_id(parts).await;
        if !need.shared || id.as_deref() != Some(run.run.as_str()) {
            let text =
                format!("this shares run {}: its snapshot, its events and its output, and nothing else", run.run);
            return Err(Problem::new(ErrorCode::ForbiddenScope, text)
                .fact("scope", "share")
                .fact("needed", need.scope.as_str())
                .into());
        }
    }
    if let (Some(own), Names::Query) = (&bounds.project, need.names) {
        let query = parts.uri.query().unwrap_or_default();
        let named = query::values(query, "project");
        if let Some(other) = named.iter().find(|name| *name != own.as_str()) {
            return Err(caller::forbidden_project(own, other));
        }
        if named.is_empty() {
            let and = if query.is_empty() { "" } else { "&" };
            let query = format!("{query}{and}project={own}");
            set_query(parts, &query)?;
        }
    }
    Ok(())
}

/// Refuses a process of a run what only operators may, except that it may end itself.
async fn check_standing(app: &App, need: Need, peer: Option<&Peer>, parts: &mut Parts) -> Result<(), Failure> {
    let Some(peer) = peer else { return Ok(()) };
    let own = match peer.standing(app).await {
        None | Some(Standing::Outside) => return Ok(()),
        // Whoever has the server's token and cannot be seen may be behind a tunnel or in a container.
        Some(Standing::Unseen) if app.door.token.is_some() => return Ok(()),
        Some(Standing::Unseen) => {
            let text = "the process that asks is gone, or this server cannot see it, so it may be an agent; wait for the \
                        answer, or give a token: longhaul token create";
            return Err(Failure::new(ErrorCode::ForbiddenPeer, text));
        }
        Some(Standing::Inside(own)) => own,
    };
    if let Some(own) = own.as_ref().filter(|_| need.own) {
        let named = query::values(parts.uri.query().unwrap_or_default(), "project");
        let default = ProjectId::default_project();
        let same = named.first().map_or(default.as_str(), String::as_str) == own.project.as_str();
        if same && path_id(parts).await.as_deref() == Some(own.run.as_str()) {
            return Ok(());
        }
    }
    let run = own.as_ref().map_or_else(|| "a run".to_owned(), |own| format!("run {}", own.run));
    let text = format!(
        "this request comes from inside {run}, and a run may look and may cancel itself, no more; give it a token: \
         longhaul token create --scope run, and start it with --env LONGHAUL_TOKEN=TOKEN"
    );
    Err(Problem::new(ErrorCode::AgentNotOperator, text).fact("run_id", own.map(|own| own.run.to_string())).into())
}

/// Decides about a request.
async fn admit(app: &App, peer: Option<&Peer>, pattern: Option<&str>, parts: &mut Parts) -> Result<Admitted, Failure> {
    app.door.check_names(&parts.headers)?;
    if OPEN.contains(&parts.uri.path()) {
        return Ok(Admitted { caller: Caller::default(), ends: None });
    }
    let need = scope::of(&parts.method, pattern);
    if need.open {
        return Ok(Admitted { caller: Caller::default(), ends: None });
    }
    if let Some(text) = given_token(parts)? {
        let now = app.engine.now();
        let (token, revoked) = app.tokens.check(&text, now).map_err(|refusal| match refusal {
            Refusal::Unknown => Problem::new(ErrorCode::Unauthorized, "there is no such token").param("Authorization"),
            Refusal::Expired(at) => Problem::new(ErrorCode::TokenExpired, format!("the token expired at {at}"))
                .fact("expired_at", at.to_string()),
        })?;
        check_bounds(&token, need, parts).await?;
        let left = token.expires_at.unix_ms().saturating_sub(now.unix_ms());
        let left = Duration::from_millis(left.unsigned_abs());
        return Ok(Admitted { caller: Caller::bounded(token), ends: Some((revoked, left)) });
    }
    let caller = app.door.check_token(&parts.headers, parts.uri.path())?;
    app.door.check_peer(peer, parts.uri.path())?;
    if need.scope > Scope::Read && !need.agents {
        check_standing(app, need, peer, parts).await?;
    }
    Ok(Admitted { caller, ends: None })
}

/// Ends a stream with the token that opened it.
fn end_with(response: Response, (revoked, left): (CancellationToken, Duration)) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if kind.is_none_or(|kind| !kind.starts_with(b"text/event-stream")) {
        return response;
    }
    let over = async move {
        tokio::select! {
            () = revoked.cancelled() => {}
            () = tokio::time::sleep(left) => {}
        }
    };
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(over))))
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

/// Counts an answer. Looked up once for each status: a look costs more than the count.
fn measure(status: StatusCode, took: Duration) {
    static REQUESTS: [OnceLock<metrics::Counter>; 1_000] = [const { OnceLock::new() }; 1_000];
    static SECONDS: OnceLock<metrics::Histogram> = OnceLock::new();
    let code = status.as_u16();
    let count = || metrics::counter!("longhaul_http_requests_total", "status" => code.to_string());
    if let Some(requests) = REQUESTS.get(usize::from(code)) {
        requests.get_or_init(count).increment(1);
    }
    SECONDS.get_or_init(|| metrics::histogram!("longhaul_http_request_seconds")).record(took.as_secs_f64());
}

/// The id that a request came with, or a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|value| value.to_str().is_ok_and(is_request_id));
    given.cloned().unwrap_or_else(|| {
        let mut text = uuid::Uuid::encode_buffer();
        let text = uuid::Uuid::now_v7().hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-"))
    })
}

/// Checks a request, passes it on to the route it is for, and finishes its answer.
pub(super) async fn pass(State(app): State<App>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let peer = parts.extensions.get::<ConnectInfo<Peer>>().map(|info| info.0.clone());
    let pattern = parts.extensions.get::<MatchedPath>().cloned();
    let pattern = pattern.as_ref().map(MatchedPath::as_str);
    visit(&app, peer.as_ref(), pattern, parts, |mut parts, caller| {
        parts.extensions.insert(caller);
        next.run(Request::from_parts(parts, body))
    })
    .await
}

/// Checks a request that is for the route `pattern`, has it answered, and finishes the answer.
pub(super) async fn visit<F: Future<Output = Response>>(
    app: &App,
    peer: Option<&Peer>,
    pattern: Option<&str>,
    mut parts: Parts,
    answer: impl FnOnce(Parts, Caller) -> F,
) -> Response {
    let began = Instant::now();
    let unnamed = dialect::is_asked(&parts);
    let id = request_id(&parts.headers);
    // The path alone: a share's token is in the query.
    let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
    let origin = parts.headers.get(header::ORIGIN).cloned();
    let preflight = cors::is_preflight(&method, &parts.headers);
    let appends = method == Method::POST && path.starts_with(STREAMS);
    let mut response = if preflight && app.door.origins.answers(&path, &parts.headers) {
        let named = app.door.check_host(&parts.headers);
        named.map_or_else(|problem| Failure::from(problem).into_response(), |()| cors::preflight())
    } else {
        match admit(app, peer, pattern, &mut parts).await {
            Ok(Admitted { caller, ends }) => {
                let response = answer(parts, caller).await;
                match ends {
                    Some(ends) => end_with(response, ends),
                    None => response,
                }
            }
            Err(failure) => failure.into_response(),
        }
    };
    // Only what may be in a header's text is ever in it.
    let request_id = id.to_str().unwrap_or_default();
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        tracing::debug!(request_id, code = failure.0.code.as_str(), message = %failure.0.message, "refused");
        response = if unnamed && dialect::must_be_said(&failure) {
            dialect::say(&failure, &response, request_id)
        } else {
            write_failure(response, &failure, request_id)
        };
        // What is refused now may be there in a moment.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    let status = response.status();
    let took = began.elapsed();
    measure(status, took);
    let took_us = took.as_micros() as u64;
    // Reads are many and change nothing; appends are many, and what they stored says so itself.
    let many = method.is_safe() || (appends && status.is_success());
    if many {
        tracing::debug!(request_id, %method, path, status = status.as_u16(), took_us, "request");
    } else {
        // Which run a request began or changed: from here on the log names that.
        let run = response.headers().get("x-run-id").and_then(|value| value.to_str().ok());
        tracing::info!(request_id, run, %method, path, status = status.as_u16(), took_us, "request");
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Pages of allowed origins ask by CORS, which this does not concern; nobody else may so much as embed an answer.
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    app.door.origins.mark(origin.as_ref(), headers);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse::<header::HeaderName>().unwrap(), v.parse().unwrap())).collect()
    }

    /// What a door without a look at the peer says.
    fn check(door: &Door, headers: &HeaderMap, path: &str) -> Result<Caller, Problem> {
        door.check_names(headers)?;
        door.check_token(headers, path)
    }

    #[test]
    fn a_loopback_server_answers_to_loopback_names_only() {
        let door = Door::new(None, true, vec![]);
        for host in ["localhost:4437", "127.0.0.1:4437", "127.0.0.1", "[::1]:4437", "LOCALHOST"] {
            assert!(check(&door, &headers(&[("host", host)]), "/v1/runs").is_ok(), "{host}");
        }
        for host in ["evil.example:4437", "", "127.0.0.1.evil.example"] {
            let problem = check(&door, &headers(&[("host", host)]), "/v1/runs").unwrap_err();
            assert_eq!(problem.code, ErrorCode::ForbiddenHost, "{host}");
        }
    }

    #[test]
    fn another_origin_gets_nothing() {
        let door = Door::new(None, true, vec![]);
        let ask = |origin| check(&door, &headers(&[("host", "127.0.0.1:4437"), ("origin", origin)]), "/v1/runs");
        assert!(ask("http://127.0.0.1:4437").is_ok());
        for origin in ["http://127.0.0.1:9999", "https://evil.example", "null"] {
            assert_eq!(ask(origin).unwrap_err().code, ErrorCode::ForbiddenHost, "{origin}");
        }
    }

    #[test]
    fn the_token_is_needed_and_compared() {
        let door = Door::new(Some("s3cret"), false, vec![]);
        let ask = |value: &str, path| check(&door, &headers(&[("host", "h"), ("authorization", value)]), path);
        assert!(ask("Bearer s3cret", "/v1/runs").is_ok());
        assert_eq!(ask("Bearer nope", "/v1/runs").unwrap_err().code, ErrorCode::Unauthorized);
        assert_eq!(ask("Basic s3cret", "/v1/runs").unwrap_err().code, ErrorCode::Unauthorized);
        assert!(ask("Bearer nope", "/livez").is_ok());
    }
}
