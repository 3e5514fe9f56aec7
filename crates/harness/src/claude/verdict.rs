//! Claude's own word: the `result` line.
//!
//! `subtype` alone says nothing: a provider's error has `subtype: success` with `is_error: true`, and an interrupt
//! after the last piece of text has `subtype: success` with `is_error: false`. So a success needs all three: no error,
//! the subtype, and a terminal reason of `completed` (or none, from versions and commands that give none).

use longhaul_model::event::{Cost, EventData, Failure, Usage, UsageReported, VerdictReported};
use serde_json::Value;

use crate::shape::{count, is_true, text};

/// The verdict in a `result` line; `None` if the line has another shape.
///
/// `said` is the name of the error that Claude gave with its last words, such as `rate_limit`.
pub(super) fn verdict(line: &Value, said: Option<&str>) -> Option<EventData> {
    let subtype = text(line, "subtype")?;
    let is_error = line.get("is_error")?.as_bool()?;
    let reason = text(line, "terminal_reason").unwrap_or("completed");
    if !is_error && subtype == "success" && reason == "completed" {
        return Some(VerdictReported { success: true, error: None }.into());
    }
    let message = message(line, subtype, reason);
    let code = code(line, subtype, reason, said, &message).to_owned();
    let error = Failure { code, message, stderr_tail: None };
    Some(VerdictReported { success: false, error: Some(error) }.into())
}

fn message(line: &Value, subtype: &str, reason: &str) -> String {
    if reason.starts_with("aborted") {
        return "claude was interrupted".to_owned();
    }
    let result = text(line, "result").filter(|t| !t.trim().is_empty()).map(str::to_owned);
    result.or_else(|| errors(line)).unwrap_or_else(|| format!("claude ended with {subtype} ({reason})"))
}

fn errors(line: &Value) -> Option<String> {
    let texts: Vec<_> = line.get("errors")?.as_array()?.iter().filter_map(Value::as_str).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn code(line: &Value, subtype: &str, reason: &str, said: Option<&str>, message: &str) -> &'static str {
    if reason.starts_with("aborted") {
        return "interrupted";
    }
    match subtype {
        "error_max_turns" => return "max_turns",
        "error_max_budget_usd" => return "budget_exceeded",
        _ => {}
    }
    match (count(line, "api_error_status"), said) {
        (Some(401), _) | (None, Some("authentication_failed")) => "not_logged_in",
        (Some(429), _) | (None, Some("rate_limit")) => "rate_limited",
        (Some(_), _) | (None, Some(_)) => "upstream",
        (None, None) if reason == "api_error" => "upstream",
        (None, None) if message.starts_with("No conversation found") => "session_not_found",
        (None, None) => "agent_error",
    }
}

/// Adds what was used since the last `result` line to `sum`, and reports the sum; `None` if the line does not say.
///
/// `model_usage_since_last_result` has the subagents' tokens too, `usage` has not; older versions have only `usage`.
/// `total_cost_usd` is a price list times tokens, over the whole session with all its resumes.
pub(super) fn usage(line: &Value, sum: &mut Usage) -> Option<EventData> {
    let since = line.get("model_usage_since_last_result").and_then(Value::as_object);
    if let Some(models) = since {
        for one in models.values() {
            add(&mut sum.input_tokens, count(one, "inputTokens"));
            add(&mut sum.output_tokens, count(one, "outputTokens"));
            add(&mut sum.cache_read_tokens, count(one, "cacheReadInputTokens"));
            add(&mut sum.cache_write_tokens, count(one, "cacheCreationInputTokens"));
            add(&mut sum.reasoning_tokens, count(one, "thinkingTokens"));
        }
    } else {
        let one = line.get("usage").filter(|u| u.is_object())?;
        add(&mut sum.input_tokens, count(one, "input_tokens"));
        add(&mut sum.output_tokens, count(one, "output_tokens"));
        add(&mut sum.cache_read_tokens, count(one, "cache_read_input_tokens"));
        add(&mut sum.cache_write_tokens, count(one, "cache_creation_input_tokens"));
        let details = one.get("output_tokens_details").unwrap_or(&Value::Null);
        add(&mut sum.reasoning_tokens, count(details, "thinking_tokens"));
    }
    let models = line.get("modelUsage").and_then(Value::as_object).filter(|models| models.len() == 1);
    let model = models.and_then(|models| models.keys().next().cloned());
    let cost = line.get("total_cost_usd").and_then(Value::as_f64);
    let cost = cost.map(|usd| Cost { usd, provenance: "estimate".to_owned() });
    let cost_scope = cost.is_some().then(|| "session".to_owned());
    Some(UsageReported { scope: "run".to_owned(), usage: sum.clone(), cost, cost_scope, model }.into())
}

fn add(sum: &mut Option<u64>, more: Option<u64>) {
    if let Some(more) = more {
        *sum = Some(sum.unwrap_or(0).saturating_add(more));
    }
}

/// Whether a `result` line speaks of a success whose text nobody showed.
pub(super) fn unshown_text(line: &Value) -> Option<&str> {
    let good = !is_true(line, "is_error") && text(line, "subtype") == Some("success");
    text(line, "result").filter(|t| good && !t.trim().is_empty())
}
