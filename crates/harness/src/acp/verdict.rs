//! The end of a turn: what the agent says of it, and what its silence means.
//!
//! A stop reason of `end_turn` is a success only where the agent is not known to say it after a failure: kimi says it
//! when its model's provider failed and nothing else, copilot and codex-acp with the error as a message of the agent.

use longhaul_model::event::{Cost, EventData, Failure, Usage, UsageReported, VerdictReported};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::shape::{count, text};

/// The agents whose ways are known, by the name they give themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum Who {
    #[default]
    #[serde(rename = "?")]
    Other,
    #[serde(rename = "c")]
    Claude,
    #[serde(rename = "x")]
    Codex,
    #[serde(rename = "p")]
    Copilot,
    #[serde(rename = "k")]
    Kimi,
    #[serde(rename = "o")]
    OpenCode,
}

impl Who {
    /// The agent of this name.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "@agentclientprotocol/claude-agent-acp" => Self::Claude,
            "@agentclientprotocol/codex-acp" => Self::Codex,
            "Copilot" => Self::Copilot,
            "Kimi Code CLI" => Self::Kimi,
            "OpenCode" => Self::OpenCode,
            _ => Self::Other,
        }
    }

    /// Whether it takes a prompt into the turn that it is in. Source: real runs of opencode 1.18.33.
    pub(super) const fn takes_all(self) -> bool {
        matches!(self, Self::OpenCode)
    }
}

/// What the turn was like until its end.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) who: Who,
    /// Whether it said something after its last call.
    pub(super) said: bool,
    /// Whether it stopped when it was refused what its permissions do not allow.
    pub(super) denied: bool,
    /// An error that it told as a message.
    pub(super) error: Option<&'a str>,
}

/// The verdict in the answer to the prompt; `None` if the answer has another shape.
pub(super) fn verdict(result: &Value, turn: &Turn<'_>) -> Option<EventData> {
    let failure = match text(result, "stopReason")? {
        "end_turn" | "cancelled" if turn.denied => Some((
            "permission_denied",
            "the agent stopped when it was refused what its permissions do not allow".to_owned(),
        )),
        "end_turn" => match (turn.error, turn.who) {
            (Some(error), _) => Some((code(provider_status(error), "upstream"), error.to_owned())),
            (None, Who::Kimi) if !turn.said => Some((
                "empty_output",
                "kimi ended its turn without an answer, as it does when its model's provider fails".to_owned(),
            )),
            (None, _) => None,
        },
        "cancelled" => Some(("interrupted", "the agent says that it was cancelled".to_owned())),
        "max_turn_requests" => Some(("max_turns", "the agent used up its requests for one turn".to_owned())),
        "max_tokens" => Some(("upstream", "the model's answer was cut at its limit of tokens".to_owned())),
        "refusal" => Some(("upstream", "the model refused to answer".to_owned())),
        other => Some(("agent_error", format!("the agent stopped for a reason that is not known: {other}"))),
    };
    Some(match failure {
        None => VerdictReported { success: true, error: None }.into(),
        Some((code, message)) => failed(code, message),
    })
}

/// The verdict of an error that the agent gave instead of an answer; `None` if the error has another shape.
pub(super) fn error(error: &Value, resumes: bool) -> Option<EventData> {
    let number = error.get("code")?.as_i64()?;
    let words = text(error, "message")?;
    let data = error.get("data").unwrap_or(&Value::Null);
    let details = ["details", "message"].iter().find_map(|name| text(data, name)).filter(|more| !words.contains(more));
    let message = details.map_or_else(|| words.to_owned(), |more| format!("{words}: {more}"));
    let status = u64::try_from(number).ok().filter(|status| (400..600).contains(status));
    let code = match status.or_else(|| provider_status(&message)) {
        _ if number == -32000 => "not_logged_in",
        _ if resumes => "session_not_found",
        None if text(data, "errorName") == Some("APIError") || data.get("codex_error_info").is_some() => "upstream",
        status => code(status, "agent_error"),
    };
    Some(failed(code, message))
}

pub(super) fn failed(code: &str, message: String) -> EventData {
    let error = Failure { code: code.to_owned(), message, stderr_tail: None };
    VerdictReported { success: false, error: Some(error) }.into()
}

/// The name of a provider's status.
fn code(status: Option<u64>, unknown: &'static str) -> &'static str {
    match status {
        Some(401 | 403) => "not_logged_in",
        Some(429) => "rate_limited",
        Some(_) => "upstream",
        None => unknown,
    }
}

/// The status that an error's text begins with, after the agent's own words: `Internal error: API Error: 429 …`.
fn provider_status(message: &str) -> Option<u64> {
    let mut words = message.split([' ', ':', '(', '"']).filter(|word| !word.is_empty()).take(6);
    words.find_map(|word| (word.len() == 3).then(|| word.parse().ok()).flatten().filter(|n| (400..600).contains(n)))
}

/// What was used, in the answer to the prompt.
///
/// A run is one process. copilot counts over all of it; claude, codex and gemini count each turn by itself, so that
/// `used` is added, which is what turns used before. Of the agents that are not known the sum may be the session's.
/// opencode counts its last request alone: that is no sum.
pub(super) fn usage(result: &Value, who: Who, used: &mut Usage) -> Option<EventData> {
    let quota = result.get("_meta").and_then(|meta| meta.get("quota"));
    let models = quota.and_then(|quota| quota.get("model_usage")).and_then(Value::as_array);
    let model = models.filter(|models| models.len() == 1).and_then(|models| text(models.first()?, "model"));
    let model = model.map(str::to_owned);
    let told = result.get("usage").filter(|usage| usage.is_object());
    let (scope, usage) = match (told, who) {
        (Some(_), Who::OpenCode) => return None,
        (Some(told), Who::Copilot) => ("run", tokens(told)?),
        (Some(told), Who::Claude | Who::Codex) => ("run", add(used, &tokens(told)?)),
        (Some(told), _) => ("session", tokens(told)?),
        // gemini: its input includes what came from the cache, and how much that was it does not tell.
        (None, _) => {
            let output_tokens = count(quota?.get("token_count")?, "output_tokens").filter(|tokens| *tokens > 0);
            ("run", add(used, &Usage { output_tokens: Some(output_tokens?), ..Usage::default() }))
        }
    };
    Some(UsageReported { scope: scope.to_owned(), usage, model, ..UsageReported::default() }.into())
}

/// Adds a turn's to what was used before it.
fn add(used: &mut Usage, turn: &Usage) -> Usage {
    let sum = |before: Option<u64>, new: Option<u64>| match (before, new) {
        (None, None) => None,
        (before, new) => Some(before.unwrap_or(0).saturating_add(new.unwrap_or(0))),
    };
    *used = Usage {
        input_tokens: sum(used.input_tokens, turn.input_tokens),
        output_tokens: sum(used.output_tokens, turn.output_tokens),
        cache_read_tokens: sum(used.cache_read_tokens, turn.cache_read_tokens),
        cache_write_tokens: sum(used.cache_write_tokens, turn.cache_write_tokens),
        reasoning_tokens: sum(used.reasoning_tokens, turn.reasoning_tokens),
    };
    used.clone()
}

/// What one request of the model used, where a chunk of text tells it: so does qwen.
pub(super) fn step(update: &Value) -> Option<EventData> {
    let usage = tokens(update.get("_meta")?.get("usage")?)?;
    Some(UsageReported { scope: "step".to_owned(), usage, ..UsageReported::default() }.into())
}

/// What the session cost so far, where `usage_update` tells it in dollars.
pub(super) fn cost(update: &Value) -> Option<EventData> {
    let cost = update.get("cost").filter(|cost| text(cost, "currency") == Some("USD"))?;
    let usd = cost.get("amount")?.as_f64().filter(|usd| *usd > 0.0)?;
    let cost = Some(Cost { usd, provenance: "estimate".to_owned() });
    Some(UsageReported { scope: "session".to_owned(), cost, ..UsageReported::default() }.into())
}

/// Tokens in the protocol's words. Where they do not add up without it, the input includes what came from the cache.
fn tokens(told: &Value) -> Option<Usage> {
    let (input, output) = (count(told, "inputTokens")?, count(told, "outputTokens")?);
    let (read, write) = (count(told, "cachedReadTokens"), count(told, "cachedWriteTokens"));
    let cached = read.unwrap_or(0).saturating_add(write.unwrap_or(0));
    let all = input.saturating_add(output).saturating_add(cached);
    let includes = count(told, "totalTokens").is_some_and(|total| all > total);
    Some(Usage {
        input_tokens: Some(if includes { input.saturating_sub(cached) } else { input }),
        output_tokens: Some(output),
        cache_read_tokens: read,
        cache_write_tokens: write,
        reasoning_tokens: count(told, "thoughtTokens"),
    })
}
