//! The body of `POST /v1/runs`: strict, bounded, digested.
//!
//! Job: parse a request, name the field that is wrong, and make the digest that binds a run id to it.
//! Never: fills in a default before the digest is made.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

pub use longhaul_model::event::{Home, OnLost};
use longhaul_model::policy::Policy;
use longhaul_model::{ProjectId, RunId, SessionId, canonical, limits};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::error::{ErrorCode, Problem};

/// The rule by which the digest of a run request is made; stored with the digest.
pub const RUN_DIGEST_TAG: &str = "run.v1";

/// Members that name, address or pace a request and do not change what it asks for.
pub const NOT_DIGESTED: &[&str] = &["run_id", "captured_env", "on_interrupt", "queue_timeout_ms"];

/// What the agent may do without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permissions {
    /// The CLI's own default for headless use.
    #[default]
    Cli,
    /// Look, do not touch.
    ReadOnly,
    /// Edit files in its directory.
    Edit,
    /// Everything. Never a default.
    Full,
    /// What the CLI would ask for at a terminal, it asks people for.
    Ask,
}

/// What the run may write and see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confine {
    /// Whatever the server's user may.
    #[default]
    None,
    /// Write its directory, its temporary files and its agent's own state, nothing else.
    Write,
    /// See the same and the system's programs, nothing else, and no network.
    Full,
}

/// What the last reader's leaving means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// Nothing.
    #[default]
    Continue,
    /// An ordinary durable cancel.
    Cancel,
}

/// What happens if another live run works in the same directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnCwdBusy {
    /// Both run; the later one carries a warning.
    #[default]
    Warn,
    /// It waits.
    Queue,
    /// It is refused.
    Refuse,
}

/// Limits of one run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunLimits {
    /// US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd_max: Option<f64>,
    /// Turns of the agent's loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns_max: Option<u32>,
    /// Tokens in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_max: Option<u64>,
    /// Milliseconds of silence before the run is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
    /// Bytes of memory of all its processes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes_max: Option<u64>,
    /// Processes and threads at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks_max: Option<u64>,
}

impl RunLimits {
    fn check(&self) -> Result<(), Problem> {
        let numbers = [
            ("limits.idle_ms", self.idle_ms, 1, u64::MAX),
            ("limits.memory_bytes_max", self.memory_bytes_max, limits::MEMORY_BYTES_MIN, limits::MEMORY_BYTES_MAX),
            ("limits.tasks_max", self.tasks_max, 1, limits::TASKS_MAX),
            ("limits.tokens_max", self.tokens_max, 1, u64::MAX),
            ("limits.turns_max", self.turns_max.map(u64::from), 1, u64::MAX),
        ];
        for (param, value, min, max) in numbers {
            if value.is_some_and(|value| !(min..=max).contains(&value)) {
                let text = if max == u64::MAX { "be positive".to_owned() } else { format!("be from {min} to {max}") };
                return Err(Problem::invalid(param, format!("{param} must {text}")));
            }
        }
        if self.cost_usd_max.is_some_and(|usd| !(usd.is_finite() && usd > 0.0)) {
            return Err(Problem::invalid("limits.cost_usd_max", "limits.cost_usd_max must be positive"));
        }
        Ok(())
    }
}

/// A message of a conversation, as Chat Completions has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Text, parts, or nothing.
    #[serde(default)]
    pub content: Value,
    /// Everything else that the wire of others may carry.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The body of `POST /v1/runs`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)] // The fields are the wire's; docs/api.md describes each.
pub struct RunRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub harness: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// Variables of the invoking shell; not part of the digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub captured_env: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effort: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Permissions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approvals: Option<Policy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_tools: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mcp: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "object")]
    pub limits: Option<RunLimits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confine: Option<Confine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<Home>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_lost: Option<OnLost>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_disconnect: Option<OnDisconnect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_cwd_busy: Option<OnCwdBusy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl RunRequest {
    /// Every field name.
    pub const FIELDS: &[&str] = &[
        "run_id",
        "project",
        "session_id",
        "harness",
        "model",
        "prompt",
        "messages",
        "system",
        "command",
        "args",
        "stdin",
        "cwd",
        "env",
        "captured_env",
        "effort",
        "permissions",
        "approvals",
        "allowed_tools",
        "mcp",
        "response_format",
        "timeout_ms",
        "limits",
        "confine",
        "home",
        "on_lost",
        "on_disconnect",
        "on_cwd_busy",
        "tags",
        "metadata",
        "name",
    ];

    /// Parses a body and makes its digest.
    ///
    /// # Errors
    /// A [`Problem`] that names the field.
    pub fn parse(body: &[u8]) -> Result<(Self, String), Problem> {
        let value = parse_object(body)?;
        refuse_unknown(&value, Self::FIELDS)?;
        let digest = digest_of(RUN_DIGEST_TAG, &value, NOT_DIGESTED);
        let request: Self = decode(Value::Object(value))?;
        request.check()?;
        Ok((request, digest))
    }

    /// The body with its digest, for a client that wants to know both.
    pub fn digest(&self) -> String {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => digest_of(RUN_DIGEST_TAG, &map, NOT_DIGESTED),
            _ => String::new(),
        }
    }

    fn check(&self) -> Result<(), Problem> {
        let too_long = |param: &str, found: usize, max: usize| {
            Err(Problem::invalid(param, format!("{param} has {found} bytes, at most {max} are allowed"))
                .fact("limit_bytes", max))
        };
        for (param, text) in [("prompt", &self.prompt), ("system", &self.system), ("stdin", &self.stdin)] {
            if let Some(text) = text
                && text.len() > limits::PROMPT_BYTES_MAX
            {
                return too_long(param, text.len(), limits::PROMPT_BYTES_MAX);
            }
        }
        for (param, text) in [("name", &self.name), ("effort", &self.effort), ("model", &self.model)] {
            if let Some(text) = text {
                if text.len() > limits::ID_BYTES_MAX {
                    return too_long(param, text.len(), limits::ID_BYTES_MAX);
                }
                if text.is_empty() || text.chars().any(char::is_control) {
                    return Err(Problem::invalid(param, format!("{param} must be text without control characters")));
                }
            }
        }
        if let Some(policy) = &self.approvals {
            self.check_policy(policy)?;
        }
        if self.prompt.is_some() && self.messages.is_some() {
            return Err(Problem::invalid("messages", "give either prompt or messages, not both"));
        }
        let args = self.args.as_deref().unwrap_or_default();
        if args.len() > limits::ARGS_MAX {
            return Err(Problem::invalid("args", format!("at most {} arguments are allowed", limits::ARGS_MAX)));
        }
        let numbered = args.iter().enumerate().map(|(at, arg)| (format!("args[{at}]"), arg));
        for (param, arg) in numbered.chain(self.command.iter().map(|command| ("command".to_owned(), command))) {
            if arg.len() > limits::ARG_BYTES_MAX {
                return too_long(&param, arg.len(), limits::ARG_BYTES_MAX);
            }
            if arg.contains('\0') {
                return Err(Problem::invalid(param, "an argument cannot hold a NUL byte"));
            }
        }
        if self.command.as_deref() == Some("") {
            return Err(Problem::invalid("command", "command must not be empty"));
        }
        for (param, env) in [("env", &self.env), ("captured_env", &self.captured_env)] {
            for (key, value) in env.iter().flatten() {
                if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                    return Err(Problem::invalid(
                        format!("{param}.{key}"),
                        "a variable's name must not be empty or hold '=', and neither part may hold a NUL byte",
                    ));
                }
            }
        }
        if let Some(cwd) = &self.cwd
            && (!cwd.starts_with('/') || cwd.contains('\0'))
        {
            return Err(Problem::invalid("cwd", "cwd must be an absolute path"));
        }
        if let Some(ms) = self.timeout_ms
            && (ms == 0 || u128::from(ms) > limits::TIMEOUT_MAX.as_millis())
        {
            return Err(Problem::invalid(
                "timeout_ms",
                format!("timeout_ms must be from 1 to {}", limits::TIMEOUT_MAX.as_millis()),
            ));
        }
        if let Some(limits) = &self.limits {
            limits.check()?;
        }
        let tags = self.tags.iter().flatten();
        if tags.clone().count() > limits::TAGS_MAX {
            return Err(Problem::invalid("tags", format!("at most {} tags are allowed", limits::TAGS_MAX)));
        }
        for (key, value) in tags {
            if key.is_empty() || key.len() > limits::TAG_BYTES_MAX || value.len() > limits::TAG_BYTES_MAX {
                return Err(Problem::invalid(
                    "tags",
                    format!(
                        "a tag's key and value have at most {} bytes, and the key at least one",
                        limits::TAG_BYTES_MAX
                    ),
                ));
            }
        }
        Ok(())
    }

    fn check_policy(&self, policy: &Policy) -> Result<(), Problem> {
        if self.permissions != Some(Permissions::Ask) {
            return Err(Problem::invalid("approvals", "approvals are for permissions ask"));
        }
        if policy.rules.len() > limits::APPROVAL_RULES_MAX {
            let text = format!("at most {} rules are allowed", limits::APPROVAL_RULES_MAX);
            return Err(Problem::invalid("approvals.rules", text));
        }
        for (at, rule) in policy.rules.iter().enumerate() {
            let texts = [Some(&rule.tool), rule.pattern.as_ref(), rule.reason.as_ref()];
            let long = texts.into_iter().flatten().any(|text| text.len() > limits::APPROVAL_RULE_BYTES_MAX);
            if rule.tool.is_empty() || long {
                let text = format!(
                    "a rule names a tool, and each of its texts has at most {} bytes",
                    limits::APPROVAL_RULE_BYTES_MAX
                );
                return Err(Problem::invalid(format!("approvals.rules[{at}]"), text));
            }
        }
        Ok(())
    }
}

/// Parses a body that must be one JSON object; an empty body is an empty object.
///
/// # Errors
/// `invalid_json`.
pub fn parse_object(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match canonical::parse(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Problem::new(ErrorCode::InvalidJson, "the body must be a JSON object")),
        Err(error) => Err(Problem::new(ErrorCode::InvalidJson, format!("the body is not usable JSON: {error}"))),
    }
}

/// Refuses members that are not in `known`.
///
/// # Errors
/// `unknown_field`, naming it and the known ones.
pub fn refuse_unknown(map: &Map<String, Value>, known: &[&str]) -> Result<(), Problem> {
    for key in map.keys() {
        if !known.contains(&key.as_str()) {
            return Err(Problem::new(ErrorCode::UnknownField, format!("there is no field {key:?}"))
                .param(key.clone())
                .fact("known", known.to_vec()));
        }
    }
    Ok(())
}

/// Decodes a value, naming the field that does not fit.
///
/// # Errors
/// `invalid_field`.
pub fn decode<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let param = if path == "." { String::new() } else { path };
        Problem::invalid(param.clone(), format!("{param}: {}", error.into_inner()))
    })
}

/// An object or null. What serde derives takes an array for a struct as well, and `[]` for all defaults.
pub(crate) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(de: D) -> Result<Option<T>, D::Error> {
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }

    de.deserialize_any(Object(PhantomData))
}

/// The digest of an object's members but for some.
pub fn digest_of(tag: &str, map: &Map<String, Value>, without: &[&str]) -> String {
    let kept: Map<String, Value> =
        map.iter().filter(|(k, _)| !without.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
    canonical::digest(tag, &Value::Object(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_ignores_ids_and_spelling() {
        let (_, a) = RunRequest::parse(br#"{"run_id":"a","harness":"exec","command":"ls","timeout_ms":5000}"#).unwrap();
        let (_, b) = RunRequest::parse(br#"{"timeout_ms":5e3,"command":"ls","harness":"exec","run_id":"b"}"#).unwrap();
        let (_, c) = RunRequest::parse(br#"{"harness":"exec","command":"ls"}"#).unwrap();
        assert_eq!(a, b);
        assert_ne!(a, c, "what the caller sent counts, not the default");
    }

    #[test]
    fn every_mistake_names_its_field() {
        for (body, code, param) in [
            (&br#"{"nope":1}"#[..], "unknown_field", Some("nope")),
            (br#"{"limits":{"x":1}}"#, "invalid_field", Some("limits.x")),
            (br#"{"limits":[]}"#, "invalid_field", Some("limits")),
            (br#"{"run_id":"a b"}"#, "invalid_field", Some("run_id")),
            (br#"{"timeout_ms":0}"#, "invalid_field", Some("timeout_ms")),
            (br#"{"timeout_ms":-1}"#, "invalid_field", Some("timeout_ms")),
            (br#"{"cwd":"rel"}"#, "invalid_field", Some("cwd")),
            (br#"{"args":[1]}"#, "invalid_field", Some("args[0]")),
            (br#"{"args":["a","\u0000"]}"#, "invalid_field", Some("args[1]")),
            (br#"{"permissions":"root"}"#, "invalid_field", Some("permissions")),
            (br#"{"a":1,"a":2}"#, "invalid_json", None),
            (b"[]", "invalid_json", None),
            (b"{", "invalid_json", None),
        ] {
            let problem = RunRequest::parse(body).unwrap_err();
            assert_eq!((problem.code.as_str(), problem.param.as_deref()), (code, param), "{problem:?}");
        }
    }

    #[test]
    fn the_field_list_is_the_struct() {
        let map: Map<String, Value> = RunRequest::FIELDS.iter().map(|f| ((*f).to_owned(), Value::Null)).collect();
        assert!(decode::<RunRequest>(Value::Object(map)).is_ok(), "every listed field is a field");
    }
}
