//! The body of `POST /v1/responses`.

use longhaul_model::{ProjectId, RunId, SessionId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{ErrorCode, Problem};
use crate::request::{Message, digest_of, parse_object, refuse_unknown};

/// The rule by which the digest of a request for a response is made.
pub const RESPONSE_DIGEST_TAG: &str = "response.v1";

/// Members that are ids, waits and transport.
const NOT_DIGESTED: &[&str] = &["run_id", "project", "stream", "stream_options", "background", "queue_timeout_ms"];

/// Members of OpenAI's request that an agent CLI has no use for. They are accepted and named in `X-Longhaul-Ignored`.
const IGNORED: &[&str] = &[
    "temperature",
    "top_p",
    "top_logprobs",
    "max_output_tokens",
    "max_tool_calls",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "store",
    "include",
    "truncation",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "service_tier",
    "context_management",
    "background_options",
    "image",
    "access_programs",
];

/// Members whose meaning would be lost with them.
const REFUSED: &[&str] = &["prompt", "moderation"];

const KNOWN: &[&str] = &[
    "model",
    "input",
    "instructions",
    "stream",
    "stream_options",
    "background",
    "previous_response_id",
    "conversation",
    "session_id",
    "run_id",
    "project",
    "queue_timeout_ms",
    "reasoning",
    "text",
    "metadata",
    "cwd",
    "env",
    "permissions",
    "allowed_tools",
    "timeout_ms",
    "limits",
    "tags",
    "on_disconnect",
    "name",
];

/// The body of `POST /v1/responses`, as far as it is not a run's.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // The fields are the wire's; docs/api.md describes each.
pub struct ResponseRequest {
    pub model: String,
    pub input: Value,
    pub instructions: Option<String>,
    pub stream: Option<bool>,
    pub background: Option<bool>,
    pub store: Option<bool>,
    pub previous_response_id: Option<String>,
    pub conversation: Option<Value>,
    pub run_id: Option<RunId>,
    pub project: Option<ProjectId>,
    pub queue_timeout_ms: Option<u64>,
    #[serde(deserialize_with = "crate::request::object")]
    pub reasoning: Option<Reasoning>,
    #[serde(deserialize_with = "crate::request::object")]
    pub text: Option<Text>,
}

/// `reasoning`: how hard to think. Its other members are ignored.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Reasoning {
    /// As `effort` of a run.
    pub effort: Option<String>,
}

/// `text`: the shape of the answer. Its other members are ignored.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Text {
    /// As `response_format` of a run.
    pub format: Option<Value>,
}

/// A parsed request with what follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedResponse {
    /// The request.
    pub response: ResponseRequest,
    /// The input as a conversation.
    pub messages: Vec<Message>,
    /// The run whose session it goes on with.
    pub previous: Option<RunId>,
    /// The same as a run request, without the prompt.
    pub run: crate::RunRequest,
    /// Its digest.
    pub digest: String,
    /// What was accepted and has no effect.
    pub ignored: Vec<String>,
}

impl ResponseRequest {
    /// Parses a body whose session may be named beside it.
    ///
    /// # Errors
    /// A [`Problem`] that names the field.
    pub fn parse_in(body: &[u8], session: Option<&SessionId>) -> Result<ParsedResponse, Problem> {
        let mut map = parse_object(body)?;
        for field in REFUSED {
            if map.get(*field).is_some_and(|value| !value.is_null()) {
                let text = format!("{field} is not supported by this version");
                return Err(Problem::new(ErrorCode::UnsupportedField, text).param(*field));
            }
        }
        let known: Vec<&str> = [KNOWN, IGNORED, REFUSED].concat();
        refuse_unknown(&map, &known)?;
        bind_session(&mut map, session)?;
        let digest = digest_of(RESPONSE_DIGEST_TAG, &map, NOT_DIGESTED);
        let mut ignored: Vec<String> =
            map.keys().filter(|k| IGNORED.contains(&k.as_str()) && !map[*k].is_null()).cloned().collect();
        for (field, used) in [("reasoning", "effort"), ("text", "format")] {
            let members = map.get(field).and_then(Value::as_object).into_iter().flatten();
            let unused = members.filter(|(name, value)| *name != used && !value.is_null());
            ignored.extend(unused.map(|(name, _)| format!("{field}.{name}")));
        }
        let response: Self = crate::request::decode(Value::Object(map.clone()))?;
        if response.model.is_empty() {
            return Err(Problem::invalid("model", "model must be HARNESS/MODEL, for example claude/sonnet"));
        }
        if response.queue_timeout_ms.is_some_and(|ms| ms > 600_000) {
            return Err(Problem::invalid("queue_timeout_ms", "queue_timeout_ms must be at most 600000"));
        }
        let (messages, unread) = messages_of(&response.input)?;
        ignored.extend(unread);
        ignored.sort();
        let previous = response.previous_response_id.as_deref();
        let previous = previous.map(|id| super::run_of(id, "previous_response_id")).transpose()?;
        if previous.is_some() && map.get("session_id").is_some_and(|session| !session.is_null()) {
            let text = "previous_response_id names the session already; leave conversation and session_id out";
            return Err(Problem::invalid("previous_response_id", text));
        }
        let run = run_request(map, &response)?;
        Ok(ParsedResponse { response, messages, previous, run, digest, ignored })
    }
}

/// Makes `session_id` of what names the session: `conversation`, the header, or itself.
fn bind_session(map: &mut Map<String, Value>, header: Option<&SessionId>) -> Result<(), Problem> {
    let conversation = match map.get("conversation") {
        None | Some(Value::Null) => None,
        Some(Value::Object(object)) => Some(object.get("id").cloned().unwrap_or(Value::Null)),
        Some(other) => Some(other.clone()),
    };
    if let Some(id) = &conversation {
        let id = id.as_str().unwrap_or_default();
        SessionId::parse(id).map_err(|error| Problem::invalid("conversation", error.to_string()))?;
    }
    let beside = header.map(|session| Value::from(session.as_str()));
    for (name, value) in [("conversation", conversation), ("x-session-id", beside)] {
        let Some(value) = value else { continue };
        match map.get("session_id").filter(|v| !v.is_null()) {
            Some(own) if *own != value => {
                let text = format!("{name} and session_id name different sessions");
                return Err(Problem::invalid(name, text));
            }
            _ => {
                map.insert("session_id".into(), value);
            }
        }
    }
    Ok(())
}

/// The rest are fields of a run request and are checked as such.
fn run_request(map: Map<String, Value>, response: &ResponseRequest) -> Result<crate::RunRequest, Problem> {
    let (harness, model) = crate::chat::named(&response.model);
    let mut run: Map<String, Value> =
        map.into_iter().filter(|(k, v)| !v.is_null() && crate::RunRequest::FIELDS.contains(&k.as_str())).collect();
    run.insert("harness".into(), harness.into());
    run.remove("model");
    let format = response.text.as_ref().and_then(|text| text.format.clone());
    let effort = response.reasoning.as_ref().and_then(|reasoning| reasoning.effort.clone());
    for (name, value) in [
        ("model", model.map(Value::from)),
        ("system", response.instructions.clone().map(Value::from)),
        ("effort", effort.map(Value::from)),
        ("response_format", format.filter(|format| !format.is_null())),
    ] {
        if let Some(value) = value {
            run.insert(name.into(), value);
        }
    }
    let bytes = serde_json::to_vec(&Value::Object(run)).unwrap_or_default();
    crate::RunRequest::parse(&bytes).map(|(run, _)| run).map_err(|mut problem| {
        let own = match problem.param.as_deref() {
            Some("effort") => "reasoning.effort",
            Some("system") => "instructions",
            Some("response_format") => "text.format",
            _ => return problem,
        };
        problem.param = Some(own.to_owned());
        problem
    })
}

/// The input as a conversation, and what of it has no effect.
fn messages_of(input: &Value) -> Result<(Vec<Message>, Vec<String>), Problem> {
    let message = |role: &str, content: Value| Message { role: role.to_owned(), content, rest: Map::new() };
    let items = match input {
        Value::String(text) if !text.is_empty() => return Ok((vec![message("user", json!(text))], vec![])),
        Value::Array(items) if !items.is_empty() => items,
        _ => return Err(Problem::invalid("input", "input must be text, or a list of messages, and not empty")),
    };
    let (mut messages, mut unread) = (Vec::new(), Vec::new());
    for (at, item) in items.iter().enumerate() {
        match item.get("type").map_or(Some("message"), Value::as_str) {
            Some("message") => {
                let role =
                    item.get("role").and_then(Value::as_str).filter(|role| *role != "tool").ok_or_else(|| {
                        let text = "a message has a role: system, developer, user or assistant";
                        Problem::invalid(format!("input[{at}].role"), text)
                    })?;
                messages.push(message(role, item.get("content").cloned().unwrap_or(Value::Null)));
            }
            // An earlier answer's own reasoning comes back with it; agents make theirs anew.
            Some("reasoning") => unread.push(format!("input[{at}]")),
            kind => {
                let kind = kind.unwrap_or("nothing");
                let text = format!("an item of type {kind:?} cannot be given to an agent CLI; messages can");
                return Err(Problem::new(ErrorCode::UnsupportedField, text).param(format!("input[{at}]")));
            }
        }
    }
    Ok((messages, unread))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &Value) -> Result<ParsedResponse, Problem> {
        ResponseRequest::parse_in(body.to_string().as_bytes(), None)
    }

    #[test]
    fn a_request_is_a_run_s() {
        let parsed = parse(&json!({
            "model": "claude/sonnet", "input": "hi", "instructions": "be brief", "reasoning": { "effort": "high",
            "summary": "auto" }, "text": { "format": { "type": "text" } }, "conversation": { "id": "c" },
            "store": false, "tools": [], "temperature": null, "background": true,
        }))
        .unwrap();
        let run = &parsed.run;
        assert_eq!((run.harness.as_deref(), run.model.as_deref()), (Some("claude"), Some("sonnet")));
        assert_eq!((run.system.as_deref(), run.effort.as_deref()), (Some("be brief"), Some("high")));
        assert_eq!(run.session_id.as_ref().map(SessionId::as_str), Some("c"));
        assert_eq!(parsed.ignored, ["reasoning.summary", "store", "tools"]);
        assert_eq!(parsed.messages.len(), 1);
    }

    #[test]
    fn waits_and_ids_do_not_change_the_digest() {
        let a = parse(&json!({ "model": "demo", "input": "hi" })).unwrap();
        let b = parse(&json!({ "model": "demo", "input": "hi", "stream": true, "background": true, "run_id": "r" }));
        assert_eq!(a.digest, b.unwrap().digest);
        assert!(a.digest.starts_with("response.v1:"));
    }

    #[test]
    fn an_earlier_answer_may_be_part_of_the_input() {
        let parsed = parse(&json!({ "model": "demo", "input": [
            { "role": "user", "content": [{ "type": "input_text", "text": "a" }] },
            { "type": "reasoning", "id": "rs_1", "summary": [] },
            { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "b" }] },
            { "role": "user", "content": "c" },
        ]}))
        .unwrap();
        assert_eq!(parsed.ignored, ["input[1]"]);
        assert_eq!(crate::chat::prompt_of(&parsed.messages).unwrap().0, "user:\na\n\nassistant:\nb\n\nuser:\nc");
        assert_eq!(crate::chat::turn_of(&parsed.messages).unwrap().as_deref(), Some("c"));
    }
}
