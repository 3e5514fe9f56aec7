//! Chat Completions over runs: the request, the reply, and the chunks that events become.
//!
//! Job: a pure encoder. The same events make the same bytes, whenever and however often they are read; the encoder's
//! version is part of every chunk's fingerprint. Never: shows the agent's own tools as `tool_calls`.

use longhaul_model::event::{Event, EventData, MessageCompleted, Usage};
use longhaul_model::projection::Projection;
use longhaul_model::{ProjectId, RunId, SessionId, Status};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{ErrorCode, Problem};
use crate::request::{Message, OnDisconnect, digest_of, parse_object, refuse_unknown};
use crate::sse;

/// The rule by which the digest of a chat request is made.
pub const CHAT_DIGEST_TAG: &str = "chat.v1";

/// The version of the chunk encoding, shown as `system_fingerprint`.
pub const ENCODER: &str = "longhaul-chat-1";

/// Members that are ids, waits and transport.
const NOT_DIGESTED: &[&str] = &["run_id", "project", "stream", "stream_options", "queue_timeout_ms"];

/// Members of OpenAI's request that an agent CLI has no use for. They are accepted and named in `X-Longhaul-Ignored`.
const IGNORED: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "n",
    "stop",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "user",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "service_tier",
    "store",
    "modalities",
    "prediction",
    "audio",
    "safety_identifier",
    "prompt_cache_key",
    "verbosity",
    "web_search_options",
];

const KNOWN: &[&str] = &[
    "model",
    "messages",
    "stream",
    "stream_options",
    "run_id",
    "session_id",
    "project",
    "queue_timeout_ms",
    "reasoning_effort",
    "metadata",
    "cwd",
    "env",
    "permissions",
    "allowed_tools",
    "timeout_ms",
    "limits",
    "confine",
    "home",
    "tags",
    "on_disconnect",
    "response_format",
    "name",
];

/// The body of `POST /v1/chat/completions`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // The fields are the wire's; docs/api.md describes each.
pub struct ChatRequest {
    pub model: String,
    pub messages: Vec<Message>,
    pub stream: bool,
    #[serde(deserialize_with = "crate::request::object")]
    pub stream_options: Option<StreamOptions>,
    pub run_id: Option<RunId>,
    pub session_id: Option<SessionId>,
    pub project: Option<ProjectId>,
    pub queue_timeout_ms: Option<u64>,
    pub reasoning_effort: Option<String>,
    pub metadata: Option<Map<String, Value>>,
    pub on_disconnect: Option<OnDisconnect>,
}

/// `stream_options`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    /// Whether a chunk with the usage comes before the end.
    pub include_usage: bool,
    /// Accepted; nothing is padded here.
    pub include_obfuscation: bool,
}

/// A parsed request with what follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedChat {
    /// The request.
    pub chat: ChatRequest,
    /// The same as a run request, without the prompt's fields.
    pub run: crate::RunRequest,
    /// Its digest.
    pub digest: String,
    /// What was accepted and has no effect.
    pub ignored: Vec<String>,
}

impl ChatRequest {
    /// Parses a body.
    ///
    /// # Errors
    /// A [`Problem`] that names the field.
    pub fn parse(body: &[u8]) -> Result<ParsedChat, Problem> {
        Self::parse_in(body, None)
    }

    /// Parses a body whose session may be named beside it; the digest is that of a body that names it itself.
    ///
    /// # Errors
    /// A [`Problem`] that names the field.
    pub fn parse_in(body: &[u8], session: Option<&SessionId>) -> Result<ParsedChat, Problem> {
        let mut map = parse_object(body)?;
        if let Some(session) = session {
            let beside = Value::from(session.as_str());
            match map.get("session_id").filter(|v| !v.is_null()) {
                Some(own) if *own != beside => {
                    let text = "x-session-id and session_id name different sessions";
                    return Err(Problem::invalid("x-session-id", text));
                }
                _ => {
                    map.insert("session_id".into(), beside);
                }
            }
        }
        let known: Vec<&str> = KNOWN.iter().chain(IGNORED).copied().collect();
        refuse_unknown(&map, &known)?;
        let digest = digest_of(CHAT_DIGEST_TAG, &map, NOT_DIGESTED);
        let mut ignored: Vec<String> =
            map.keys().filter(|k| IGNORED.contains(&k.as_str()) && !map[*k].is_null()).cloned().collect();
        ignored.sort();
        let chat: Self = crate::request::decode(Value::Object(map.clone()))?;
        if chat.model.is_empty() {
            return Err(Problem::invalid("model", "model must be HARNESS/MODEL, for example claude/sonnet"));
        }
        if chat.messages.is_empty() {
            return Err(Problem::invalid("messages", "messages must hold at least one message"));
        }
        if chat.queue_timeout_ms.is_some_and(|ms| ms > 600_000) {
            return Err(Problem::invalid("queue_timeout_ms", "queue_timeout_ms must be at most 600000"));
        }
        let (harness, model) = named(&chat.model);
        // The rest are fields of a run request and are checked as such.
        let mut run: Map<String, Value> =
            map.into_iter().filter(|(k, v)| !v.is_null() && crate::RunRequest::FIELDS.contains(&k.as_str())).collect();
        run.insert("harness".into(), harness.into());
        run.remove("model");
        if let Some(model) = model {
            run.insert("model".into(), model.into());
        }
        if let Some(effort) = &chat.reasoning_effort {
            run.insert("effort".into(), effort.clone().into());
        }
        let bytes = serde_json::to_vec(&Value::Object(run)).unwrap_or_default();
        let (run, _) = crate::RunRequest::parse(&bytes).map_err(|mut problem| {
            if problem.param.as_deref() == Some("effort") {
                problem.param = Some("reasoning_effort".to_owned());
            }
            problem
        })?;
        Ok(ParsedChat { chat, run, digest, ignored })
    }
}

/// The harness and the model that HARNESS or HARNESS/MODEL names.
pub(crate) fn named(model: &str) -> (String, Option<String>) {
    match model.split_once('/') {
        Some((harness, model)) => (harness.to_owned(), Some(model.to_owned()).filter(|m| !m.is_empty())),
        None => (model.to_owned(), None),
    }
}

/// What comes after the last answer of a conversation, for a CLI whose own session holds the rest; `None` if that is
/// everything or nothing.
///
/// # Errors
/// As of [`prompt_of`].
pub fn turn_of(messages: &[Message]) -> Result<Option<String>, Problem> {
    let Some(last) = messages.iter().rposition(|message| message.role == "assistant") else { return Ok(None) };
    let said = |message: &&Message| matches!(message.role.as_str(), "user" | "tool");
    let rest: Vec<Message> = messages[last + 1..].iter().filter(said).cloned().collect();
    if rest.is_empty() { Ok(None) } else { prompt_of(&rest).map(|(prompt, _)| Some(prompt)) }
}

/// The text of a conversation as one prompt and one system text.
///
/// One user message is taken as it is; several become labelled blocks.
///
/// # Errors
/// A [`Problem`] that names the message whose content is of a kind that a CLI cannot take.
pub fn prompt_of(messages: &[Message]) -> Result<(String, Option<String>), Problem> {
    let mut system = Vec::new();
    let mut turns: Vec<(&str, String)> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        let text = text_of(&message.content, at)?;
        match message.role.as_str() {
            "system" | "developer" => system.push(text),
            role @ ("user" | "assistant" | "tool") => turns.push((role, text)),
            other => {
                return Err(Problem::invalid(
                    format!("messages[{at}].role"),
                    format!("{other:?} is not a role; system, developer, user, assistant and tool are"),
                ));
            }
        }
    }
    let prompt = match turns.as_slice() {
        [(_, only)] => only.clone(),
        turns => {
            let blocks: Vec<String> =
                turns.iter().filter(|(_, t)| !t.is_empty()).map(|(role, t)| format!("{role}:\n{t}")).collect();
            blocks.join("\n\n")
        }
    };
    if prompt.is_empty() {
        return Err(Problem::invalid("messages", "messages hold no text"));
    }
    Ok((prompt, (!system.is_empty()).then(|| system.join("\n\n"))))
}

fn text_of(content: &Value, at: usize) -> Result<String, Problem> {
    match content {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let mut out = Vec::new();
            for (part_at, part) in parts.iter().enumerate() {
                match (part.get("type").and_then(Value::as_str), part.get("text").and_then(Value::as_str)) {
                    (Some("text" | "input_text" | "output_text"), Some(text)) => out.push(text),
                    (kind, _) => {
                        let kind = kind.unwrap_or("nothing");
                        return Err(Problem::new(
                            ErrorCode::UnsupportedField,
                            format!("a part of type {kind:?} cannot be given to an agent CLI; only text can"),
                        )
                        .param(format!("messages[{at}].content[{part_at}]")));
                    }
                }
            }
            Ok(out.join("\n"))
        }
        _ => Err(Problem::invalid(format!("messages[{at}].content"), "content must be text, parts or null")),
    }
}

fn usage_json(usage: &Usage) -> Option<Value> {
    // Chat's prompt tokens include the cached ones; ours do not.
    let cached = usage.cache_read_tokens.unwrap_or(0);
    let input = usage.input_tokens? + cached + usage.cache_write_tokens.unwrap_or(0);
    let output = usage.output_tokens?;
    let mut out = json!({ "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output });
    if usage.cache_read_tokens.is_some() {
        out["prompt_tokens_details"] = json!({ "cached_tokens": cached });
    }
    if let Some(reasoning) = usage.reasoning_tokens {
        out["completion_tokens_details"] = json!({ "reasoning_tokens": reasoning });
    }
    Some(out)
}

/// The problem that a run's bad end is, on this face; `None` if it completed or is not over.
pub fn problem_of(run: &Projection) -> Option<Problem> {
    let problem = match run.status {
        Status::Failed => {
            let failure = run.error.as_ref();
            let code = failure.map_or("failed", |f| f.code.as_str());
            let message = failure.map_or("the run failed", |f| f.message.as_str());
            let kind = if code == "timeout" { ErrorCode::RunTimeout } else { ErrorCode::RunFailed };
            Problem::new(kind, format!("{}: {message}", run.harness))
                .fact("failure", serde_json::to_value(failure).unwrap_or_default())
        }
        Status::Cancelled => Problem::new(ErrorCode::RunCancelled, "the run was cancelled"),
        Status::Completed | Status::Queued | Status::Starting | Status::BindingSession | Status::Running => {
            return None;
        }
    };
    Some(problem.fact("run_id", run.id.as_str()))
}

/// The body of a reply that is not streamed, of a completed run.
pub fn completion(run: &Projection) -> Value {
    let mut message = json!({ "role": "assistant", "content": run.output_text(), "refusal": null });
    let reasoning = run.reasoning_text();
    if !reasoning.is_empty() {
        message["reasoning_content"] = reasoning.into();
    }
    let mut body = json!({
        "id": chunk_id(&run.id),
        "object": "chat.completion",
        "created": run.created_at.unix_ms() / 1000,
        "model": model_of(run),
        "system_fingerprint": ENCODER,
        "choices": [{ "index": 0, "message": message, "logprobs": null, "finish_reason": "stop" }],
    });
    if let Some(usage) = run.totals.usage.as_ref().and_then(usage_json) {
        body["usage"] = usage;
    }
    if let Some(cost) = &run.totals.cost {
        body["cost"] = serde_json::to_value(cost).unwrap_or_default();
    }
    body
}

fn chunk_id(run: &RunId) -> String {
    format!("chatcmpl-{run}")
}

pub(crate) fn model_of(run: &Projection) -> String {
    match &run.model {
        Some(model) => format!("{}/{model}", run.harness),
        None => run.harness.clone(),
    }
}

/// Turns a run's events into the frames of a chat stream.
#[derive(Debug, Clone)]
pub struct Encoder {
    include_usage: bool,
    run: Option<Projection>,
    began: bool,
    said: bool,
    open: Option<(String, usize)>,
    /// The answer so far, where it has a form: only the last message is it, and which one that is, is known at the end.
    held: Option<MessageCompleted>,
}

impl Encoder {
    /// An encoder before the first event.
    pub fn new(include_usage: bool) -> Self {
        Self { include_usage, run: None, began: false, said: false, open: None, held: None }
    }

    /// The frames of the next event; the last of them carries its seq as id. Most events make none.
    pub fn push(&mut self, event: &Event) -> String {
        match &mut self.run {
            None => self.run = Projection::begin(event),
            Some(run) => run.apply(event),
        }
        let mut frames: Vec<String> = Vec::new();
        let formed = self.run.as_ref().is_some_and(|run| run.response_format.is_some());
        match &event.data {
            EventData::MessageCompleted(d) if formed && d.parent_call_id.is_none() => self.held = Some(d.clone()),
            EventData::MessageDelta(_) | EventData::MessageCompleted(_) if formed => {}
            EventData::MessageDelta(d) if d.parent_call_id.is_none() => {
                self.begin(&mut frames);
                let text = self.text(&d.message_id, &d.text);
                frames.push(self.chunk(&json!({ "content": text }), None));
            }
            EventData::MessageCompleted(d) if d.parent_call_id.is_none() => {
                let sent = self.open.as_ref().filter(|(id, _)| *id == d.message_id).map_or(0, |(_, len)| *len);
                if let Some(rest) = d.text.get(sent..).filter(|rest| !rest.is_empty()) {
                    self.begin(&mut frames);
                    let text = self.text(&d.message_id, rest);
                    frames.push(self.chunk(&json!({ "content": text }), None));
                }
                self.open = None;
            }
            EventData::MessageDiscarded(_) => self.open = None,
            EventData::ReasoningDelta(d) if d.parent_call_id.is_none() => {
                self.begin(&mut frames);
                frames.push(self.chunk(&json!({ "reasoning_content": d.text }), None));
            }
            EventData::RunCompleted(_) => {
                self.begin(&mut frames);
                if let Some(answer) = self.held.take() {
                    frames.push(self.chunk(&json!({ "content": answer.text }), None));
                }
                frames.push(self.chunk(&json!({}), Some("stop")));
                if self.include_usage {
                    frames.push(self.usage());
                }
                frames.push("[DONE]".to_owned());
            }
            EventData::RunFailed(_) | EventData::RunCancelled(_) => {
                if let Some(problem) = self.run.as_ref().and_then(problem_of) {
                    frames.push(problem.body("").to_string());
                }
            }
            _ => {}
        }
        let last = frames.len().saturating_sub(1);
        frames
            .iter()
            .enumerate()
            .map(|(at, data)| {
                if at == last {
                    sse::frame(&event.seq.to_string(), None, data)
                } else {
                    sse::frame_without_id(None, data)
                }
            })
            .collect()
    }

    fn begin(&mut self, frames: &mut Vec<String>) {
        if !std::mem::replace(&mut self.began, true) {
            frames.push(self.chunk(&json!({ "role": "assistant", "content": "" }), None));
        }
    }

    /// The text of a piece, parted from an earlier message by a blank line.
    fn text(&mut self, id: &str, piece: &str) -> String {
        match &mut self.open {
            Some((open, len)) if open == id => {
                *len += piece.len();
                piece.to_owned()
            }
            _ => {
                self.open = Some((id.to_owned(), piece.len()));
                let gap = if std::mem::replace(&mut self.said, true) { "\n\n" } else { "" };
                format!("{gap}{piece}")
            }
        }
    }

    fn chunk(&self, delta: &Value, finish: Option<&str>) -> String {
        let choices = json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]);
        self.envelope(&choices, None)
    }

    fn usage(&self) -> String {
        let usage = self.run.as_ref().and_then(|run| run.totals.usage.as_ref()).and_then(usage_json);
        self.envelope(&json!([]), Some(usage.unwrap_or(Value::Null)))
    }

    fn envelope(&self, choices: &Value, usage: Option<Value>) -> String {
        let Some(run) = &self.run else { return "{}".to_owned() };
        let mut chunk = json!({
            "id": chunk_id(&run.id),
            "object": "chat.completion.chunk",
            "created": run.created_at.unix_ms() / 1000,
            "model": model_of(run),
            "system_fingerprint": ENCODER,
            "choices": choices,
        });
        if self.include_usage {
            chunk["usage"] = usage.unwrap_or(Value::Null);
        }
        chunk.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longhaul_model::event::{
        Driver, MessageCompleted, MessageDelta, ReasoningDelta, RunCompleted, RunCreated, Totals, UsageReported,
    };
    use longhaul_model::{Seq, Timestamp};

    fn log() -> Vec<Event> {
        let delta = |id: &str, text: &str| -> EventData {
            MessageDelta { message_id: id.into(), parent_call_id: None, text: text.into() }.into()
        };
        let whole = |id: &str, text: &str| -> EventData {
            MessageCompleted { message_id: id.into(), parent_call_id: None, text: text.into() }.into()
        };
        let usage = Usage {
            input_tokens: Some(600),
            output_tokens: Some(50),
            cache_read_tokens: Some(400),
            ..Usage::default()
        };
        let data: Vec<EventData> = vec![
            RunCreated {
                project: ProjectId::default_project(),
                driver: Driver::Harness,
                harness: "claude".into(),
                command: None,
                model: Some("opus".into()),
                name: None,
                digest: "d".into(),
                session_id: None,
                cwd: "/".into(),
                tags: std::collections::BTreeMap::default(),
                timeout_ms: 1,
                budget: longhaul_model::event::Budget::default(),
                on_lost: longhaul_model::event::OnLost::Fail,
                home: longhaul_model::event::Home::User,
                resumed_from: None,
                response_format: None,
            }
            .into(),
            ReasoningDelta { message_id: "m1".into(), parent_call_id: None, text: "hm".into() }.into(),
            delta("m1", "one "),
            delta("m1", "two"),
            whole("m1", "one two"),
            whole("m2", "three"),
            UsageReported { scope: "run".into(), usage: usage.clone(), ..UsageReported::default() }.into(),
            RunCompleted {
                reason: "verdict".into(),
                exit: None,
                totals: Totals { usage: Some(usage), ..Totals::default() },
            }
            .into(),
        ];
        data.into_iter()
            .enumerate()
            .map(|(at, data)| Event {
                run_id: RunId::parse("r1").unwrap(),
                seq: Seq::new(at as u64 + 1),
                ts: Timestamp::from_unix_ms(1_795_254_000_000),
                data,
            })
            .collect()
    }

    #[test]
    fn the_stream_and_the_reply_say_the_same() {
        let mut encoder = Encoder::new(true);
        let mut run: Option<Projection> = None;
        let mut content = String::new();
        let mut ids = Vec::new();
        let mut parser = sse::Parser::default();
        let mut done = false;
        for event in log() {
            match &mut run {
                None => run = Projection::begin(&event),
                Some(run) => run.apply(&event),
            }
            for frame in parser.push(encoder.push(&event).as_bytes()) {
                ids.extend(frame.id);
                if frame.data == "[DONE]" {
                    done = true;
                    continue;
                }
                let chunk: Value = serde_json::from_str(&frame.data).unwrap();
                if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str() {
                    content.push_str(text);
                }
            }
        }
        let body = completion(run.as_ref().unwrap());
        assert!(done);
        assert_eq!(ids, ["2", "3", "4", "6", "8"]);
        assert_eq!(content, "one two\n\nthree");
        assert_eq!(body["choices"][0]["message"]["content"], "one two\n\nthree");
        assert_eq!(body["choices"][0]["message"]["reasoning_content"], "hm");
        assert_eq!(body["usage"]["prompt_tokens"], 1000);
        assert_eq!(body["model"], "claude/opus");
    }

    #[test]
    fn an_answer_of_a_form_is_the_last_message_alone() {
        let mut log = log();
        if let EventData::RunCreated(created) = &mut log[0].data {
            created.response_format = Some("json_schema".to_owned());
        }
        let (mut chat, mut response) =
            (Encoder::new(false), crate::responses::Encoder::new(crate::responses::Note::default(), 0));
        let mut run = Projection::begin(&log[0]).unwrap();
        let (mut said, mut told) = (String::new(), String::new());
        for event in &log {
            if event.seq.get() > 1 {
                run.apply(event);
            }
            said.push_str(&chat.push(event));
            told.push_str(&response.push(event));
        }
        assert_eq!(run.output_text(), "three");
        assert!(said.contains("three") && !said.contains("one") && !told.contains("one two"), "{said}{told}");
        let texts: Vec<Value> =
            response.object()["output"].as_array().unwrap().iter().map(|o| o["content"][0]["text"].clone()).collect();
        assert_eq!(texts.last(), Some(&json!("three")));
        assert_eq!(response.object()["text"]["format"]["type"], "json_schema");
    }

    #[test]
    fn what_is_ignored_is_named_and_what_is_unknown_refused() {
        let parsed = ChatRequest::parse(
            br#"{"model":"demo/echo","messages":[{"role":"user","content":"hi"}],"temperature":0.5,"tools":[]}"#,
        )
        .unwrap();
        assert_eq!(parsed.ignored, ["temperature", "tools"]);
        assert_eq!((parsed.run.harness.as_deref(), parsed.run.model.as_deref()), (Some("demo"), Some("echo")));
        let unknown = ChatRequest::parse(br#"{"model":"demo","messages":[{"role":"user"}],"wat":1}"#).unwrap_err();
        assert_eq!(unknown.code, ErrorCode::UnknownField);
    }

    #[test]
    fn conversations_become_prompts() {
        let messages = |text: &str| serde_json::from_str::<Vec<Message>>(text).unwrap();
        let one = messages(
            r#"[{"role":"system","content":"be brief"},{"role":"user","content":[{"type":"text","text":"hi"}]}]"#,
        );
        assert_eq!(prompt_of(&one).unwrap(), ("hi".into(), Some("be brief".into())));
        let many = messages(
            r#"[{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":[]},{"role":"user","content":"b"}]"#,
        );
        assert_eq!(prompt_of(&many).unwrap().0, "user:\na\n\nuser:\nb");
        let image = messages(r#"[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]"#);
        assert_eq!(prompt_of(&image).unwrap_err().param.as_deref(), Some("messages[0].content[0]"));
    }
}
