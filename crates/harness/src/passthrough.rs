//! Passthrough: one call of a model over HTTP as a durable run, at any OpenAI-compatible or Anthropic endpoint.
//!
//! Job: the plan that starts the house's own binary as the caller of a configured upstream, and the parser of what that
//! prints. The two know each other's lines by one set of types (`line`); the upstream's own events pass as they came.
//! Never: calls anybody, or holds a key: a plan names the variable that does.

pub mod call;
pub mod line;
mod parse;
mod stream;
pub mod upstream;

use longhaul_model::event::Driver;
use longhaul_model::limits;
use serde_json::json;

use crate::harness::Harness;
use crate::parser::{Parser, StateError};
use crate::plan::{ENV_BASE, Plan, Program, stop_by_term};
use crate::request::{PlanError, Request, plain_word};
use call::Call;
use upstream::{Dialect, Upstream};

/// Its name: the part before the first slash of a model id.
pub const NAME: &str = "passthrough";

/// The hidden verb of the house's own binary.
pub const VERB: &str = "passthrough";

/// Tokens that an answer may have where the upstream must be told and nobody configured a number. Every model of the
/// Anthropic API that is still served takes it.
const MAX_TOKENS_DEFAULT: u64 = 8_192;

const ENV_ALLOW: [&str; 18] = [
    ENV_BASE[0],
    ENV_BASE[1],
    ENV_BASE[2],
    ENV_BASE[3],
    ENV_BASE[4],
    ENV_BASE[5],
    ENV_BASE[6],
    ENV_BASE[7],
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

/// One call of a model.
pub(crate) struct Passthrough;

impl Harness for Passthrough {
    fn name(&self) -> &'static str {
        NAME
    }

    fn driver(&self) -> Driver {
        Driver::Harness
    }

    fn summary(&self) -> &'static str {
        "One call of a model at a configured OpenAI-compatible or Anthropic endpoint."
    }

    fn fields(&self) -> &'static [&'static str] {
        &["model", "prompt", "system"]
    }

    fn plan(&self, request: &Request<'_>) -> Result<Plan, PlanError> {
        request.check(NAME, self.fields())?;
        let prompt = request.prompt(NAME)?;
        let Some(named) = request.model else { return Err(PlanError::Missing { harness: NAME, field: "model" }) };
        let (upstream, model) = choose(request.upstreams, named)?;
        let call = Call {
            upstream: upstream.name.clone(),
            dialect: upstream.dialect,
            url: upstream.url(),
            key_env: upstream.key_env.clone(),
            body: body(upstream, model, prompt, request.system),
        };
        Ok(Plan {
            files: Vec::new(),
            program: Program::Myself { verb: VERB },
            args: Vec::new(),
            stdin: Some(call.to_bytes()),
            channel: None,
            env: Vec::new(),
            env_allow: &ENV_ALLOW,
            keys: upstream.key_env.iter().cloned().collect(),
            stop: stop_by_term(),
            source_session_id: None,
            warnings: Vec::new(),
        })
    }

    fn line_bytes_max(&self) -> usize {
        limits::HARNESS_LINE_BYTES_MAX
    }

    fn parser(&self, saved: Option<&[u8]>) -> Result<Box<dyn Parser>, StateError> {
        Ok(Box::new(parse::PassthroughParser::new(saved)?))
    }
}

/// The upstream and its model that `UPSTREAM/MODEL` or `UPSTREAM` names.
fn choose<'a>(upstreams: &'a [Upstream], named: &'a str) -> Result<(&'a Upstream, &'a str), PlanError> {
    let invalid = |message: String| PlanError::Invalid { field: "model", message };
    let (name, model) = named.split_once('/').map_or((named, None), |(name, model)| (name, Some(model)));
    let Some(upstream) = upstreams.iter().find(|upstream| upstream.name == name) else {
        let known: Vec<&str> = upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
        return Err(invalid(if known.is_empty() {
            format!(
                "must name an upstream, and none is configured: add a table [passthrough.{name}] and restart the server"
            )
        } else {
            format!("must be UPSTREAM/MODEL with one of the upstreams {}; {name:?} is none", known.join(", "))
        }));
    };
    let Some(model) = model.or(upstream.models.first().map(String::as_str)) else {
        return Err(invalid(format!("must be {name}/MODEL: no models of that upstream are configured")));
    };
    plain_word("model", model)?;
    Ok((upstream, model))
}

/// The request's body in the upstream's dialect.
fn body(upstream: &Upstream, model: &str, prompt: &str, system: Option<&str>) -> serde_json::Value {
    let user = json!({ "role": "user", "content": prompt });
    match upstream.dialect {
        Dialect::OpenAi => {
            let system = system.map(|text| json!({ "role": "system", "content": text }));
            let messages: Vec<_> = system.into_iter().chain([user]).collect();
            let mut body = json!({
                "model": model,
                "messages": messages,
                "stream": true,
                "stream_options": { "include_usage": true },
            });
            if let Some(max) = upstream.max_tokens {
                body["max_tokens"] = max.into();
            }
            body
        }
        Dialect::Anthropic => {
            let mut body = json!({
                "model": model,
                "max_tokens": upstream.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT),
                "messages": [user],
                "stream": true,
            });
            if let Some(text) = system {
                body["system"] = text.into();
            }
            body
        }
    }
}
