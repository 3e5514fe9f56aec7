//! OTLP over HTTP, as JSON: the body, the call, and what its answer means.
//!
//! Source: the OpenTelemetry Protocol, "JSON Protobuf Encoding" (ids in hex, 64-bit numbers as texts, enums as numbers)
//! and "OTLP/HTTP Response". Never: prints a header, follows a redirect with one, or repeats what a collector said.

use std::io::Read as _;
use std::time::Duration;

use serde_json::{Value, json};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, http};

use super::spans::{Attribute, Span};
use super::target::Target;

/// How long a call may take. Source: the default of `OTEL_EXPORTER_OTLP_TIMEOUT`.
const CALL_MAX: Duration = Duration::from_secs(10);

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// What came of a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The spans are there, but for so many.
    Taken {
        /// Spans that the collector did not want.
        rejected: u64,
    },
    /// It may go another time, not before so long.
    Later {
        /// Why it did not.
        why: String,
        /// What the collector asked for.
        wait: Option<Duration>,
    },
    /// It will not go.
    Refused {
        /// Why.
        why: String,
    },
}

/// The spans of one trace.
pub(super) struct Run {
    pub(super) trace_id: String,
    pub(super) state: Option<String>,
    pub(super) spans: Vec<Span>,
}

/// The body for the spans of several runs.
pub(super) fn body(service: &str, runs: &[Run]) -> Value {
    let spans: Vec<Value> = runs.iter().flat_map(|run| run.spans.iter().map(|span| one(run, span))).collect();
    let resource = [
        attribute("service.name", &Attribute::Text(service.to_owned())),
        attribute("service.version", &Attribute::Text(crate::VERSION.to_owned())),
    ];
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{ "scope": { "name": "longhaul", "version": crate::VERSION }, "spans": spans }],
    }] })
}

fn one(run: &Run, span: &Span) -> Value {
    let attributes: Vec<Value> = span.attributes.iter().map(|(name, value)| attribute(name, value)).collect();
    let nanos = |at: longhaul_model::Timestamp| (i128::from(at.unix_ms()) * 1_000_000).to_string();
    // The root answers somebody's request; what is below it is our own.
    let (server, internal) = (2, 1);
    let root = run.spans.first().is_some_and(|first| first.id == span.id);
    let mut out = json!({
        "traceId": run.trace_id,
        "spanId": span.id,
        "name": span.name,
        "kind": if root { server } else { internal },
        "startTimeUnixNano": nanos(span.start),
        "endTimeUnixNano": nanos(span.end),
        "attributes": attributes,
        "status": match span.success {
            None => json!({}),
            Some(true) => json!({ "code": 1 }),
            Some(false) => json!({ "code": 2 }),
        },
    });
    if let Some(parent) = &span.parent {
        out["parentSpanId"] = json!(parent);
    }
    if let Some(state) = &run.state {
        out["traceState"] = json!(state);
    }
    if !span.notes.is_empty() {
        let notes = span.notes.iter().map(|note| json!({ "name": note.name, "timeUnixNano": nanos(note.at) }));
        out["events"] = notes.collect();
    }
    out
}

fn attribute(name: &str, value: &Attribute) -> Value {
    let value = match value {
        Attribute::Text(text) => json!({ "stringValue": text }),
        Attribute::Number(number) => json!({ "intValue": number.to_string() }),
        Attribute::Real(number) => json!({ "doubleValue": number }),
        Attribute::Flag(flag) => json!({ "boolValue": flag }),
    };
    json!({ "key": name, "value": value })
}

/// What makes the calls; it keeps a connection open between them.
pub(super) fn agent() -> Agent {
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(CALL_MAX))
        // Headers are for the address that was configured and for no other.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent(format!("longhaul/{}", crate::VERSION))
        .build()
        .into()
}

/// Posts a body; blocks for a while at most.
pub(super) fn post(agent: &Agent, target: &Target, body: &str) -> Answer {
    let mut request = agent.post(target.url()).header("content-type", "application/json");
    for (name, value) in target.headers() {
        request = request.header(name, value);
    }
    match request.send(body) {
        Ok(response) => read(response),
        Err(error) => Answer::Later { why: error.to_string(), wait: None },
    }
}

fn read(response: http::Response<Body>) -> Answer {
    let status = response.status().as_u16();
    let asked = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    match status {
        200..=299 => {
            let mut bytes = Vec::new();
            let _ = response.into_body().into_reader().take(ANSWER_BYTES_MAX).read_to_end(&mut bytes);
            let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let rejected = &said["partialSuccess"]["rejectedSpans"];
            let rejected = rejected.as_u64().or_else(|| rejected.as_str()?.parse().ok()).unwrap_or(0);
            Answer::Taken { rejected }
        }
        // All others must not be tried again.
        429 | 502 | 503 | 504 => {
            Answer::Later { why: format!("it answered with status {status}"), wait: asked.map(Duration::from_secs) }
        }
        _ => Answer::Refused { why: format!("it answered with status {status}") },
    }
}
