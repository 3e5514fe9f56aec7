//! The calls: one method per request of the bridge.
//!
//! Job: build the request, bound its time, tell an answer from a refusal.
//! Owns: the connection pool, the address and the token. Never: retries by itself, uses a proxy, follows a redirect.

mod access;

use std::time::Duration;

use longhaul_api::error::ErrorDetail;
use longhaul_api::{
    Approval, ApprovalList, CancelReply, ErrorBody, EventList, InputReply, LiveProof, RunRequest, Snapshot, Why,
};
use longhaul_model::event::Decision;
use longhaul_model::{ProjectId, RunId, Seq, SessionId};
use reqwest::header::{ACCEPT, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::serve::LISTEN_DEFAULT;

use super::error::ClientError;

/// How long a connection may take: loopback answers at once, a remote one within seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a backup may take: a store of hundreds of gigabytes on a slow disk.
const BACKUP_TIMEOUT: Duration = Duration::from_hours(24);

/// How long an ordinary call may take; waits in the request come on top.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A server and how to speak to it.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
    /// The headers of the trace that new runs belong to.
    trace: Vec<(&'static str, HeaderValue)>,
}

/// Which runs a list asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Only this project; all of them without it.
    pub project: Option<ProjectId>,
    /// Only these statuses, by wire name.
    pub status: Vec<String>,
    /// Only these tags, `k=v`.
    pub tags: Vec<String>,
    /// Only this harness.
    pub harness: Option<String>,
    /// How many, at most 100.
    pub limit: Option<usize>,
    /// The `next` of the page before.
    pub after: Option<String>,
}

/// A page of runs as the server sent it: rows decoded, and as they came.
#[derive(Debug, Clone)]
pub struct RunPage {
    /// Newest first.
    pub runs: Vec<Snapshot>,
    /// The same rows, with members this version does not know.
    pub raw: Vec<Value>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

impl Client {
    /// A client of the server at `address`: `HOST:PORT` or `http://HOST:PORT`.
    ///
    /// # Errors
    /// [`ClientError::BadAddress`].
    pub fn new(address: &str, token: Option<String>) -> Result<Self, ClientError> {
        let base = base_of(address)?;
        let bad = |why| ClientError::BadAddress { address: address.to_owned(), why };
        if let Some(token) = &token
            && HeaderValue::from_str(&format!("Bearer {token}")).is_err()
        {
            return Err(bad("its token holds a character that a header cannot carry"));
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .user_agent(concat!("longhaul/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| bad("the HTTP client could not be set up"))?;
        Ok(Self { http, base, token, trace: Vec::new() })
    }

    /// The same, for runs that belong to the trace of whoever calls: what its variables `TRACEPARENT` and `TRACESTATE`
    /// say. What cannot be a header is left out.
    #[must_use]
    pub fn in_trace(mut self, parent: Option<&str>, state: Option<&str>) -> Self {
        let parent = parent.map(|text| ("traceparent", text));
        let state = state.filter(|_| parent.is_some()).map(|text| ("tracestate", text));
        let headers = parent.into_iter().chain(state);
        self.trace = headers.filter_map(|(name, text)| Some((name, HeaderValue::from_str(text).ok()?))).collect();
        self
    }

    /// `http://HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.base
    }

    /// Whether the server is on this host, by its address.
    pub fn is_local(&self) -> bool {
        let host = self.base.trim_start_matches("http://");
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host).trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Asks for a sign of life; with a challenge also for proof. Sends no token.
    pub async fn livez(&self, challenge: Option<&str>, timeout: Duration) -> Result<LiveProof, ClientError> {
        let mut request = self.http.get(format!("{}/livez", self.base)).timeout(timeout);
        if let Some(challenge) = challenge {
            request = request.query(&[("challenge", challenge)]);
        }
        self.decode(self.send(request).await?).await
    }

    /// Whether the server takes requests: a 200 of `/readyz`.
    pub async fn is_ready(&self) -> Result<bool, ClientError> {
        match self.get::<Value>("/readyz", &[], Duration::ZERO).await {
            Ok(_) => Ok(true),
            Err(ClientError::Refused { status: 503, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The full report.
    pub async fn health(&self) -> Result<Value, ClientError> {
        self.get("/health", &[], Duration::ZERO).await
    }

    /// Starts a run or attaches to the same one; the flag says whether it is new.
    pub async fn start_run(&self, request: &RunRequest) -> Result<(Snapshot, bool), ClientError> {
        let call = self.traced(self.request(Method::POST, "/v1/runs", &[])).timeout(CALL_TIMEOUT).json(request);
        let response = self.send(call).await?;
        let new = response.status() == StatusCode::CREATED;
        Ok((self.decode(response).await?, new))
    }

    /// Goes on with an ended run in a new one; the flag says whether it is new.
    pub async fn resume(
        &self,
        project: &ProjectId,
        run: &RunId,
        body: &Map<String, Value>,
    ) -> Result<(Snapshot, bool), ClientError> {
        let pairs = [("project", project.to_string())];
        let path = format!("/v1/runs/{run}/resume");
        let call = self.traced(self.request(Method::POST, &path, &pairs)).timeout(CALL_TIMEOUT).json(body);
        let response = self.send(call).await?;
        let new = response.status() == StatusCode::CREATED;
        Ok((self.decode(response).await?, new))
    }

    /// A page of runs.
    pub async fn runs(&self, query: &ListQuery) -> Result<RunPage, ClientError> {
        let mut pairs: Vec<(&str, String)> = Vec::new();
        pairs.extend(query.project.iter().map(|p| ("project", p.to_string())));
        pairs.extend(query.status.iter().map(|s| ("status", s.clone())));
        pairs.extend(query.tags.iter().map(|t| ("tag", t.clone())));
        pairs.extend(query.harness.iter().map(|h| ("harness", h.clone())));
        pairs.extend(query.limit.iter().map(|n| ("limit", n.to_string())));
        pairs.extend(query.after.iter().map(|a| ("after", a.clone())));
        let mut page: Value = self.get("/v1/runs", &pairs, Duration::ZERO).await?;
        let next = page["next"].as_str().map(ToOwned::to_owned).filter(|_| page["has_more"] == true);
        let Value::Array(raw) = page["data"].take() else { return Err(self.strange("a list of runs without `data`")) };
        let runs = raw.iter().map(serde::Deserialize::deserialize).collect::<Result<_, _>>();
        let runs = runs.map_err(|error| self.strange(&format!("a list of runs this version cannot read ({error})")))?;
        Ok(RunPage { runs, raw, next })
    }

    /// A run; with `wait` the answer comes at its end or after that time, whichever is first.
    pub async fn run(&self, project: &ProjectId, run: &RunId, wait: Duration) -> Result<Snapshot, ClientError> {
        let mut pairs = vec![("project", project.to_string())];
        if !wait.is_zero() {
            pairs.push(("wait_ms", wait.as_millis().to_string()));
        }
        self.get(&format!("/v1/runs/{run}"), &pairs, wait).await
    }

    /// A run as the server sent it.
    pub async fn run_raw(&self, project: &ProjectId, run: &RunId) -> Result<Value, ClientError> {
        self.get(&format!("/v1/runs/{run}"), &[("project", project.to_string())], Duration::ZERO).await
    }

    /// What a run waits for or why it ended.
    pub async fn why(&self, project: &ProjectId, run: &RunId) -> Result<Why, ClientError> {
        self.get(&format!("/v1/runs/{run}/why"), &[("project", project.to_string())], Duration::ZERO).await
    }

    /// A page of events after a cursor.
    pub async fn events(&self, project: &ProjectId, run: &RunId, after: Seq) -> Result<EventList, ClientError> {
        let pairs = [("project", project.to_string()), ("after", after.to_string())];
        self.get(&format!("/v1/runs/{run}/events"), &pairs, Duration::ZERO).await
    }

    /// The event stream after a cursor, open; `None` if the cursor stands at the terminal event.
    pub async fn event_stream(
        &self,
        project: &ProjectId,
        run: &RunId,
        after: Seq,
    ) -> Result<Option<Response>, ClientError> {
        let pairs = [("project", project.to_string())];
        let request = self
            .request(Method::GET, &format!("/v1/runs/{run}/events"), &pairs)
            .header(ACCEPT, "text/event-stream")
            .header("last-event-id", after.to_string());
        // The whole stream has no time limit, so only the wait for its head is bounded here.
        let response = match tokio::time::timeout(CALL_TIMEOUT, self.send(request)).await {
            Ok(response) => response?,
            Err(_) => return Err(self.unreachable("no answer in time")),
        };
        Ok((response.status() != StatusCode::NO_CONTENT).then_some(response))
    }

    /// Raw output of an attempt, numbered from 1, from a byte on: a response whose body is the bytes; `None` if there are none beyond it.
    pub async fn log(
        &self,
        project: &ProjectId,
        run: &RunId,
        stream: &str,
        attempt: u32,
        from: u64,
    ) -> Result<Option<Response>, ClientError> {
        let pairs = [("project", project.to_string()), ("stream", stream.to_owned()), ("attempt", attempt.to_string())];
        let mut request = self.request(Method::GET, &format!("/v1/runs/{run}/log"), &pairs);
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        match self.send(request).await {
            Ok(response) if from > 0 && response.status() != StatusCode::PARTIAL_CONTENT => {
                Err(self.strange("a whole log where a part was asked for"))
            }
            Ok(response) => Ok(Some(response)),
            Err(ClientError::Refused { status: 416, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Cancels a run and waits that long for proof that it is gone.
    pub async fn cancel(
        &self,
        project: &ProjectId,
        run: &RunId,
        reason: Option<&str>,
        op_id: &str,
        wait: Duration,
    ) -> Result<CancelReply, ClientError> {
        let pairs = [("project", project.to_string()), ("wait_ms", wait.as_millis().to_string())];
        let mut body = Map::new();
        body.insert("op_id".into(), op_id.into());
        body.insert("by".into(), "cli".into());
        if let Some(reason) = reason {
            body.insert("reason".into(), reason.into());
        }
        let call = self
            .request(Method::POST, &format!("/v1/runs/{run}/cancel"), &pairs)
            .timeout(CALL_TIMEOUT + wait)
            .json(&body);
        self.decode(self.send(call).await?).await
    }

    /// Says something to a run's agent.
    pub async fn input(
        &self,
        project: &ProjectId,
        run: &RunId,
        text: &str,
        op_id: &str,
    ) -> Result<InputReply, ClientError> {
        let body = serde_json::json!({ "text": text, "op_id": op_id, "by": "cli" });
        let call = self
            .request(Method::POST, &format!("/v1/runs/{run}/input"), &[("project", project.to_string())])
            .timeout(CALL_TIMEOUT)
            .json(&body);
        self.decode(self.send(call).await?).await
    }

    /// What a run's agent asked.
    pub async fn approvals(&self, project: &ProjectId, run: &RunId) -> Result<ApprovalList, ClientError> {
        self.get(&format!("/v1/runs/{run}/approvals"), &[("project", project.to_string())], Duration::ZERO).await
    }

    /// Answers this very question.
    pub async fn answer(
        &self,
        project: &ProjectId,
        run: &RunId,
        asked: &Approval,
        decision: Decision,
        reason: Option<&str>,
        op_id: &str,
    ) -> Result<Approval, ClientError> {
        let mut body = serde_json::json!({
            "decision": decision, "digest": asked.digest, "op_id": op_id, "by": "cli",
        });
        if let Some(reason) = reason {
            body["reason"] = reason.into();
        }
        let path = format!("/v1/runs/{run}/approvals/{}", asked.approval_id);
        let call =
            self.request(Method::POST, &path, &[("project", project.to_string())]).timeout(CALL_TIMEOUT).json(&body);
        self.decode(self.send(call).await?).await
    }

    /// Erases an ended run, and waits for its bytes to be gone, at most `wait`.
    pub async fn delete(&self, project: &ProjectId, run: &RunId, wait: Duration) -> Result<Value, ClientError> {
        let pairs = [("project", project.to_string()), ("wait_ms", wait.as_millis().to_string())];
        let call = self.request(Method::DELETE, &format!("/v1/runs/{run}"), &pairs).timeout(CALL_TIMEOUT + wait);
        self.decode(self.send(call).await?).await
    }

    /// A page of sessions after an id, and where the next one begins.
    pub async fn sessions(
        &self,
        project: &ProjectId,
        after: Option<&str>,
    ) -> Result<(Vec<Value>, Option<String>), ClientError> {
        let mut pairs = vec![("project", project.to_string()), ("limit", "100".to_owned())];
        pairs.extend(after.map(|after| ("after", after.to_owned())));
        let mut page: Value = self.get("/v1/sessions", &pairs, Duration::ZERO).await?;
        let Value::Array(data) = page["data"].take() else {
            return Err(self.strange("a list of sessions without `data`"));
        };
        Ok((data, page["next"].as_str().map(ToOwned::to_owned)))
    }

    /// A session.
    pub async fn session(&self, project: &ProjectId, id: &SessionId) -> Result<Value, ClientError> {
        self.get(&format!("/v1/sessions/{id}"), &[("project", project.to_string())], Duration::ZERO).await
    }

    /// A page of what was said in a session, after a turn.
    pub async fn transcript(
        &self,
        project: &ProjectId,
        id: &SessionId,
        after: Option<u64>,
    ) -> Result<Value, ClientError> {
        let mut pairs = vec![("project", project.to_string())];
        pairs.extend(after.map(|after| ("after", after.to_string())));
        self.get(&format!("/v1/sessions/{id}/transcript"), &pairs, Duration::ZERO).await
    }

    /// Forgets a session.
    pub async fn delete_session(&self, project: &ProjectId, id: &SessionId) -> Result<Value, ClientError> {
        let pairs = [("project", project.to_string())];
        let call = self.request(Method::DELETE, &format!("/v1/sessions/{id}"), &pairs).timeout(CALL_TIMEOUT);
        self.decode(self.send(call).await?).await
    }

    /// Has the server back its store up into a directory of its host.
    pub async fn backup(&self, dest: &std::path::Path, output: bool) -> Result<Value, ClientError> {
        let body = serde_json::json!({ "dest": dest, "output": output });
        let call = self.request(Method::POST, "/v1/backup", &[]).timeout(BACKUP_TIMEOUT).json(&body);
        self.decode(self.send(call).await?).await
    }

    /// Has the server refuse new runs, or take them again; what it says then.
    pub async fn drain(&self, on: bool) -> Result<Value, ClientError> {
        let method = if on { Method::POST } else { Method::DELETE };
        self.decode(self.send(self.request(method, "/v1/drain", &[]).timeout(CALL_TIMEOUT)).await?).await
    }

    /// Asks the server to drain and exit; runs go on.
    pub async fn shutdown(&self) -> Result<(), ClientError> {
        let call = self.request(Method::POST, "/v1/shutdown", &[]).timeout(CALL_TIMEOUT).json(&Map::new());
        self.send(call).await.map(drop)
    }

    /// Asks the server to hand over to a program, the installed one if none is named; runs go on. What it says then.
    pub async fn upgrade(&self, binary: Option<&std::path::Path>) -> Result<Value, ClientError> {
        let mut body = Map::new();
        body.extend(binary.map(|path| ("binary".to_owned(), path.to_string_lossy().into())));
        let call = self.request(Method::POST, "/v1/upgrade", &[]).timeout(CALL_TIMEOUT).json(&body);
        self.decode(self.send(call).await?).await
    }

    /// The next bytes of a response; `None` at its end.
    pub async fn piece(&self, response: &mut Response) -> Result<Option<bytes::Bytes>, ClientError> {
        response.chunk().await.map_err(|error| self.unreachable(&root_cause(&error)))
    }

    /// An error that says what is wrong with an answer of this server.
    pub fn strange(&self, what: &str) -> ClientError {
        ClientError::Strange { address: self.base.clone(), what: what.to_owned() }
    }

    /// An error that says why this server did not answer.
    pub fn unreachable(&self, why: &str) -> ClientError {
        ClientError::Unreachable { address: self.base.clone(), why: why.to_owned() }
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, String)]) -> reqwest::RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if !query.is_empty() {
            request = request.query(query);
        }
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    fn traced(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        self.trace.iter().fold(request, |request, (name, value)| request.header(*name, value))
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        wait: Duration,
    ) -> Result<T, ClientError> {
        let call = self.request(Method::GET, path, query).timeout(CALL_TIMEOUT + wait);
        self.decode(self.send(call).await?).await
    }

    /// Sends a request; anything but a 2xx is an error.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.unreachable(&root_cause(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => Err(ClientError::Refused { status: status.as_u16(), detail: Box::new(body.error) }),
            Err(_) if status.as_u16() == 503 => {
                let detail = ErrorDetail {
                    kind: "server_error".to_owned(),
                    code: "draining".to_owned(),
                    message: "the server is starting or stopping".to_owned(),
                    param: None,
                    request_id: String::new(),
                    facts: Map::new(),
                };
                Err(ClientError::Refused { status: 503, detail: Box::new(detail) })
            }
            Err(_) => {
                Err(self.strange(&format!("HTTP {status}, which is not Longhaul's way; is another program there?")))
            }
        }
    }

    async fn decode<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        let body = response.bytes().await.map_err(|error| self.unreachable(&root_cause(&error)))?;
        serde_json::from_slice(&body)
            .map_err(|error| self.strange(&format!("something this version cannot read ({error})")))
    }
}

/// The innermost reason of a network error, which is the one that helps.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let mut text = cause.to_string();
    if let Some(cut) = text.find(" (os error") {
        text.truncate(cut);
    }
    text
}

fn base_of(address: &str) -> Result<String, ClientError> {
    let bad = |why| ClientError::BadAddress { address: address.to_owned(), why };
    if address.starts_with("https://") {
        return Err(bad("this client speaks plain HTTP; use http:// through a tunnel or a local proxy that adds TLS"));
    }
    let rest = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    if rest.is_empty() || rest.contains(['/', '@', '?', '#', ' ']) {
        return Err(bad("write HOST:PORT or http://HOST:PORT"));
    }
    let mut base = format!("http://{rest}");
    let port = if rest.starts_with('[') {
        rest.rsplit_once("]:").map(|(_, p)| p)
    } else {
        rest.split_once(':').map(|(_, p)| p)
    };
    match port {
        None => base.push_str(LISTEN_DEFAULT.trim_start_matches(|c| c != ':')),
        Some(port) if port.parse::<u16>().is_ok_and(|p| p > 0) => {}
        Some(_) => return Err(bad("the port must be a number from 1 to 65535")),
    }
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_strictly() {
        for (given, want) in [
            ("127.0.0.1:4437", "http://127.0.0.1:4437"),
            ("http://host:80/", "http://host:80"),
            ("host", "http://host:4437"),
            ("[::1]:9", "http://[::1]:9"),
            ("http://[::1]", "http://[::1]:4437"),
        ] {
            assert_eq!(base_of(given).unwrap(), want, "{given}");
        }
        for bad in ["", "https://host", "host:0", "host:x", "http://", "host/path", "user@host:1", "a b"] {
            assert!(base_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn local_is_loopback() {
        for (address, local) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("localhost:1", true),
            ("10.0.0.1:1", false),
            ("example.org", false),
        ] {
            assert_eq!(Client::new(address, None).unwrap().is_local(), local, "{address}");
        }
    }
}
