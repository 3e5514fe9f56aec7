//! The events of an answer, in the dialects of the upstreams: what each adds to what is known of it.
//!
//! Owns: which words of an upstream mean that its answer is whole. Never: takes a missing word for one.

use longhaul_model::event::{EventData, MessageDelta, ReasoningDelta, Usage, UsageReported};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::line::is_last;
use super::upstream::Dialect;
use crate::shape::{count, short, text};

/// The one message of a call.
const MESSAGE: &str = "message_1";

/// What is known of an answer so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    #[serde(rename = "u", default)]
    usage: Usage,
    /// The model that answers.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Why the model stopped, in the upstream's word.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// The data has a shape that is not known.
pub(super) struct Unknown;

/// What an event means for the whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It goes on.
    More,
    /// The upstream said its last word.
    Last,
    /// The upstream gave up: code and message.
    Failed(&'static str, String),
}

impl Answer {
    /// Takes the data of one event.
    pub fn take(&mut self, dialect: Dialect, data: &str, out: &mut Vec<EventData>) -> Result<Step, Unknown> {
        if is_last(dialect, data) {
            return Ok(Step::Last);
        }
        let value: Value = serde_json::from_str(data).map_err(|_| Unknown)?;
        if let Some(error) = value.get("error").filter(|error| !error.is_null()) {
            return Ok(failed(error));
        }
        match dialect {
            Dialect::OpenAi => self.chunk(&value, out),
            Dialect::Anthropic => self.event(&value, out),
        }
    }

    /// A chunk of Chat Completions. With the last one, of no choice, comes the usage.
    fn chunk(&mut self, chunk: &Value, out: &mut Vec<EventData>) -> Result<Step, Unknown> {
        let choices = chunk.get("choices").and_then(Value::as_array).ok_or(Unknown)?;
        let mut known = Ok(Step::More);
        self.model(chunk);
        for choice in choices.iter().filter(|choice| count(choice, "index").unwrap_or(0) == 0) {
            let delta = choice.get("delta").unwrap_or(&Value::Null);
            // Two names for the same, both without a standard.
            reasoning(text(delta, "reasoning_content").or_else(|| text(delta, "reasoning")), out);
            message(text(delta, "content"), out);
            message(text(delta, "refusal"), out);
            if ["tool_calls", "function_call"].iter().any(|name| delta.get(name).is_some_and(|call| !call.is_null())) {
                // Nobody offered a tool: what the model wants with one is kept as it came.
                known = Err(Unknown);
            }
            if text(delta, "refusal").is_some() {
                self.why = Some("refusal".to_owned());
            } else if let Some(why) = text(choice, "finish_reason")
                && self.why.as_deref() != Some("refusal")
            {
                self.why = Some(short(why));
            }
        }
        if let Some(usage) = chunk.get("usage").filter(|usage| usage.is_object()) {
            let read = usage.get("prompt_tokens_details").unwrap_or(&Value::Null);
            let wrote = usage.get("completion_tokens_details").unwrap_or(&Value::Null);
            let cached = count(read, "cached_tokens");
            self.usage = Usage {
                input_tokens: count(usage, "prompt_tokens").map(|all| all.saturating_sub(cached.unwrap_or(0))),
                output_tokens: count(usage, "completion_tokens"),
                cache_read_tokens: cached,
                cache_write_tokens: None,
                reasoning_tokens: count(wrote, "reasoning_tokens"),
            };
        }
        known
    }

    /// An event of the Messages API.
    fn event(&mut self, event: &Value, out: &mut Vec<EventData>) -> Result<Step, Unknown> {
        let part = |name: &str| event.get(name).unwrap_or(&Value::Null);
        match text(event, "type").ok_or(Unknown)? {
            "ping" | "content_block_stop" => {}
            "message_start" => {
                let message = event.get("message").ok_or(Unknown)?;
                self.model(message);
                // What was written is not known yet, whatever is said of it here.
                self.used(message.get("usage").unwrap_or(&Value::Null), false);
            }
            "content_block_start" => {
                let block = part("content_block");
                match text(block, "type").ok_or(Unknown)? {
                    "text" => message(text(block, "text"), out),
                    "thinking" => reasoning(text(block, "thinking"), out),
                    "redacted_thinking" => {}
                    _ => return Err(Unknown),
                }
            }
            "content_block_delta" => {
                let delta = part("delta");
                match text(delta, "type").ok_or(Unknown)? {
                    "text_delta" => message(text(delta, "text"), out),
                    "thinking_delta" => reasoning(text(delta, "thinking"), out),
                    "signature_delta" => {}
                    _ => return Err(Unknown),
                }
            }
            "message_delta" => {
                if let Some(why) = text(part("delta"), "stop_reason") {
                    self.why = Some(short(why));
                }
                self.used(part("usage"), true);
            }
            _ => return Err(Unknown),
        }
        Ok(Step::More)
    }

    fn model(&mut self, object: &Value) {
        if let Some(model) = text(object, "model").filter(|model| !model.is_empty()) {
            self.model = Some(short(model));
        }
    }

    /// The Messages API's sums so far: a later one stands for the earlier one.
    fn used(&mut self, usage: &Value, written: bool) {
        let newer = |old: &mut Option<u64>, name| *old = count(usage, name).or(*old);
        newer(&mut self.usage.input_tokens, "input_tokens");
        newer(&mut self.usage.cache_read_tokens, "cache_read_input_tokens");
        newer(&mut self.usage.cache_write_tokens, "cache_creation_input_tokens");
        if written {
            newer(&mut self.usage.output_tokens, "output_tokens");
        }
    }

    /// What was used, as far as it was told.
    pub fn report(&self, out: &mut Vec<EventData>) {
        if self.usage != Usage::default() {
            let (usage, model) = (self.usage.clone(), self.model.clone());
            out.push(UsageReported { scope: "run".to_owned(), usage, model, ..UsageReported::default() }.into());
        }
    }

    /// What the last word is worth: nothing, if the model was stopped rather than done.
    pub fn failure(&self) -> Option<(&'static str, String)> {
        match self.why.as_deref() {
            Some("stop" | "end_turn" | "stop_sequence") => None,
            Some(why @ ("length" | "max_tokens" | "model_context_window_exceeded")) => {
                Some(("agent_error", format!("the answer was cut off at its most tokens ({why})")))
            }
            Some(why @ ("content_filter" | "refusal")) => {
                Some(("upstream", format!("the upstream stopped the answer ({why})")))
            }
            Some(why) => Some(("agent_error", format!("the answer ended with {why}"))),
            None => Some(("upstream", "the answer ended without a word why".to_owned())),
        }
    }
}

fn message(text: Option<&str>, out: &mut Vec<EventData>) {
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        let (message_id, text) = (MESSAGE.to_owned(), text.to_owned());
        out.push(MessageDelta { message_id, parent_call_id: None, text }.into());
    }
}

fn reasoning(text: Option<&str>, out: &mut Vec<EventData>) {
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        let (message_id, text) = (MESSAGE.to_owned(), text.to_owned());
        out.push(ReasoningDelta { message_id, parent_call_id: None, text }.into());
    }
}

/// An error inside the stream, in either dialect.
fn failed(error: &Value) -> Step {
    let says = |name| text(error, "type") == Some(name) || text(error, "code") == Some(name);
    let code = if says("rate_limit_error") || says("rate_limit_exceeded") || count(error, "code") == Some(429) {
        "rate_limited"
    } else if says("authentication_error") || says("permission_error") || says("invalid_api_key") {
        "not_logged_in"
    } else {
        "upstream"
    };
    let message = text(error, "message").or(error.as_str()).unwrap_or("the upstream gave an error without words");
    Step::Failed(code, short(message))
}
