//! `longhaul passthrough`, the hidden verb: one call of a model, run under a shim like any agent.
//!
//! Job: reads the call from standard input and the key from its variable, posts it, and prints what comes back: each
//! event's data on a line, and between them its own words (`longhaul_harness::passthrough::line`). Tries again only
//! while nothing was answered. Owns: nothing that lasts. Blocking, without a runtime; TERM ends it where it stands.
//! Never: prints the key, follows a redirect with it, or says more of an answer than was there.

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use longhaul_api::sse;
use longhaul_harness::Dialect;
use longhaul_harness::passthrough::call::Call;
use longhaul_harness::passthrough::line::{DATA, DATA_BYTES_MAX, Line, is_last};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Error, http};

/// Bytes of a call: the longest prompt, with every byte of it escaped.
const CALL_BYTES_MAX: u64 = 64 << 20;

/// Tries at most, the first included.
const TRIES_MAX: u32 = 4;

/// How long a connection may take to come about, name and TLS included.
const CONNECT_MAX: Duration = Duration::from_secs(20);

/// The wait after the first failed try; each later one is twice as long.
const WAIT_MIN: Duration = Duration::from_millis(500);

/// The shortest wait, whatever an upstream asks for.
const WAIT_LEAST: Duration = Duration::from_millis(50);

/// The longest wait that an upstream may ask for; who asks for more is not tried again.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Bytes of an upstream's refusal that are read.
const REFUSAL_BYTES_MAX: u64 = 64 << 10;

/// The version of the Messages API that is spoken. Source: Anthropic's API reference, "Versions".
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// The verb: exit status 0 after a whole answer, 1 after anything else.
pub fn main() -> ExitCode {
    let mut bytes = Vec::new();
    let read = io::stdin().take(CALL_BYTES_MAX).read_to_end(&mut bytes);
    let call = read.and_then(|_| Ok(Call::from_bytes(&bytes)?));
    let whole = call.and_then(|call| {
        let key = call.key_env.as_ref().and_then(std::env::var_os).and_then(|key| key.into_string().ok());
        let key = key.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
        let mut caller = Caller { call, key, out: io::stdout().lock() };
        caller.run()
    });
    match whole {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("passthrough: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Caller<W> {
    call: Call,
    key: Option<String>,
    out: W,
}

/// What came of one try.
enum Tried {
    /// An answer.
    Answered(http::Response<Body>),
    /// Nothing, and it may be tried again after this time, or the usual one.
    Again { why: Line, wait: Option<Duration> },
    /// Nothing, for good.
    Failed(Line),
}

impl<W: Write> Caller<W> {
    /// Whether there was a whole answer.
    fn run(&mut self) -> io::Result<bool> {
        if let Some(name) = self.call.key_env.clone().filter(|_| self.key.is_none()) {
            let why = format!("the variable {name} is not set");
            self.say(&Line::Unsent { upstream: self.call.upstream.clone(), why, lacks: Some(name) })?;
            return Ok(false);
        }
        let mut wait = WAIT_MIN;
        for attempt in 1..=TRIES_MAX {
            match self.try_once() {
                Tried::Answered(response) => return self.relay(response),
                Tried::Again { why, wait: asked }
                    if attempt < TRIES_MAX && asked.is_none_or(|asked| asked <= WAIT_MAX) =>
                {
                    let delay = asked.map_or(wait, |asked| asked.max(WAIT_LEAST));
                    self.say(&Line::Retry {
                        upstream: self.call.upstream.clone(),
                        attempt,
                        max: TRIES_MAX,
                        why: words(&why),
                        delay_ms: delay.as_millis() as u64,
                    })?;
                    std::thread::sleep(delay);
                    wait *= 2;
                }
                Tried::Again { why, .. } | Tried::Failed(why) => {
                    self.say(&why)?;
                    break;
                }
            }
        }
        Ok(false)
    }

    fn try_once(&self) -> Tried {
        let upstream = || self.call.upstream.clone();
        let unsent = |why: String| Line::Unsent { upstream: upstream(), why, lacks: None };
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent: Agent = Agent::config_builder()
            .tls_config(tls)
            .timeout_resolve(Some(CONNECT_MAX))
            .timeout_connect(Some(CONNECT_MAX))
            // A key is for the address that was configured and for no other.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(format!("longhaul/{}", crate::VERSION))
            .build()
            .into();
        let mut request =
            agent.post(&self.call.url).header("content-type", "application/json").header("accept", "text/event-stream");
        request = match (self.call.dialect, &self.key) {
            (Dialect::OpenAi, Some(key)) => request.header("authorization", format!("Bearer {key}")),
            (Dialect::Anthropic, Some(key)) => request.header("x-api-key", key),
            (_, None) => request,
        };
        if self.call.dialect == Dialect::Anthropic {
            request = request.header("anthropic-version", ANTHROPIC_VERSION);
        }
        let response = match request.send(self.call.body.to_string()) {
            Ok(response) => response,
            // Nothing was sent: another try cannot be a second call.
            Err(error) if never_connected(&error) => {
                return Tried::Again { why: unsent(format!("no connection: {error}")), wait: None };
            }
            Err(error) => return Tried::Failed(unsent(format!("no answer: {error}"))),
        };
        let status = response.status().as_u16();
        if status == 200 && is_stream(&response) {
            return Tried::Answered(response);
        }
        let asked = header(&response, "retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let answered = header(&response, "content-type").unwrap_or_else(|| "nothing".to_owned());
        let why = refusal(response);
        if (200..300).contains(&status) {
            return Tried::Failed(unsent(format!("it answered with {answered} in place of a stream: {why}")));
        }
        let why = Line::Refused { upstream: upstream(), status, why, key_env: self.call.key_env.clone() };
        match status {
            408 | 429 | 500..=599 => Tried::Again { why, wait: asked },
            _ => Tried::Failed(why),
        }
    }

    /// Prints an answer as it comes. After its first byte nothing is tried again.
    fn relay(&mut self, response: http::Response<Body>) -> io::Result<bool> {
        let request_id = header(&response, "x-request-id").or_else(|| header(&response, "request-id"));
        let (upstream, dialect) = (self.call.upstream.clone(), self.call.dialect);
        self.say(&Line::Open { upstream, dialect, status: response.status().as_u16(), request_id })?;
        let mut body = response.into_body().into_reader();
        let (mut parser, mut buffer, mut since) = (sse::Parser::default(), vec![0; 64 << 10], 0);
        let broken = loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break None,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Some(error.to_string()),
            };
            let frames = parser.push(&buffer[..read]);
            since = if frames.is_empty() { since + read } else { read };
            for frame in frames {
                // A newline in JSON is a blank between two of its words.
                let data = frame.data.replace('\n', " ");
                self.print(&format!("{DATA}{data}"))?;
                if is_last(self.call.dialect, &data) {
                    self.say(&Line::End { broken: None })?;
                    return Ok(true);
                }
            }
            if since > DATA_BYTES_MAX {
                break Some(format!("an event has more than {DATA_BYTES_MAX} bytes"));
            }
        };
        self.say(&Line::End { broken })?;
        Ok(false)
    }

    fn say(&mut self, line: &Line) -> io::Result<()> {
        let text = serde_json::to_string(line)?;
        self.print(&text)
    }

    /// One line, at once. An upstream that repeats the key does not get it into the log.
    fn print(&mut self, line: &str) -> io::Result<()> {
        match &self.key {
            Some(key) if line.contains(key.as_str()) => writeln!(self.out, "{}", line.replace(key.as_str(), "[key]"))?,
            Some(_) | None => writeln!(self.out, "{line}")?,
        }
        self.out.flush()
    }
}

/// Whether an error proves that nothing was sent.
fn never_connected(error: &Error) -> bool {
    match error {
        Error::HostNotFound | Error::ConnectionFailed => true,
        Error::Timeout(at) => matches!(at, ureq::Timeout::Resolve | ureq::Timeout::Connect),
        Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        _ => false,
    }
}

fn header(response: &http::Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

fn is_stream(response: &http::Response<Body>) -> bool {
    header(response, "content-type").is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/event-stream"))
}

/// The upstream's own words, from the shapes that errors have, else the beginning of what it sent.
fn refusal(response: http::Response<Body>) -> String {
    let mut bytes = Vec::new();
    // What can be read of it is told; a refusal that breaks off is one all the same.
    let _ = response.into_body().into_reader().take(REFUSAL_BYTES_MAX).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let error = value.get("error").unwrap_or(&value);
    let said = error["message"].as_str().or_else(|| error.as_str()).unwrap_or(text.trim());
    if said.is_empty() { "without a word".to_owned() } else { said.to_owned() }
}

/// What a line says of why a try failed.
fn words(line: &Line) -> String {
    match line {
        Line::Refused { status, why, .. } => format!("status {status}: {why}"),
        Line::Unsent { why, .. } | Line::Retry { why, .. } => why.clone(),
        Line::Open { .. } | Line::End { .. } => String::new(),
    }
}
