//! Tool calls: `▸ Bash  echo hi` and the first lines of what came back.

use longhaul_model::event::{ToolCalled, ToolCompleted};
use serde_json::Value;

use super::{Block, Renderer};
use crate::cli::escape;
use crate::cli::screen::{Ink, Paint, cut};

/// Lines of a result that are shown.
const RESULT_LINES: usize = 3;

/// Arguments that say best what a call is about, the best first.
const TELLING: [&str; 12] = [
    "command",
    "cmd",
    "file_path",
    "path",
    "pattern",
    "query",
    "url",
    "description",
    "prompt",
    "name",
    "text",
    "input",
];

impl Renderer {
    pub(super) fn called(&mut self, inks: &mut Vec<Ink>, call: &ToolCalled) {
        let name = escape::one_line(&call.name);
        self.last_call = Some((call.call_id.clone(), name.clone()));
        if self.taste.quiet {
            return;
        }
        self.begin(inks, Block::Tool);
        let indent = if call.parent_call_id.is_some() { "  │ " } else { "" };
        let room = self.screen.width.saturating_sub(indent.chars().count() + name.chars().count() + 4);
        let about = cut(&about(&call.arguments), room);
        let colour = self.screen.err_colour;
        let head = format!("{indent}{} {}", Paint::Cyan.on(colour, "▸"), Paint::Bold.on(colour, &name));
        self.say(inks, Paint::Plain, format!("{head}  {about}").trim_end());
    }

    pub(super) fn returned(&mut self, inks: &mut Vec<Ink>, result: &ToolCompleted) {
        if self.taste.quiet {
            return;
        }
        self.begin(inks, Block::Tool);
        let colour = self.screen.err_colour;
        let mark = if result.is_error { Paint::Red.on(colour, "✗") } else { Paint::Green.on(colour, "✓") };
        let text = escape::strip(&text_of(&result.result));
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        // With several calls at once a result may stand under another call.
        let other = match &self.last_call {
            Some((id, _)) if *id == result.call_id => "",
            Some(_) | None => "(an earlier call) ",
        };
        let room = self.screen.width.saturating_sub(5 + other.chars().count());
        let first = lines.first().map(|line| cut(&line.replace('\t', " "), room)).unwrap_or_default();
        self.say(inks, Paint::Plain, format!("  {mark} {other}{}", Paint::Dim.on(colour, &first)).trim_end());
        for line in lines.iter().skip(1).take(RESULT_LINES - 1) {
            self.say(inks, Paint::Dim, &format!("    {}", cut(&line.replace('\t', " "), room)));
        }
        if lines.len() > RESULT_LINES {
            self.say(inks, Paint::Dim, &format!("    … {} more lines", lines.len() - RESULT_LINES));
        }
    }
}

/// What a call is about, on one line.
pub(super) fn about(arguments: &Value) -> String {
    let telling = |map: &serde_json::Map<String, Value>| {
        TELLING.iter().find_map(|key| match map.get(*key)? {
            Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
            Value::Array(words) => {
                let words: Option<Vec<&str>> = words.iter().map(Value::as_str).collect();
                words.map(|words| words.join(" "))
            }
            _ => None,
        })
    };
    let text = match arguments {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(map) if map.is_empty() => String::new(),
        Value::Object(map) => telling(map).unwrap_or_else(|| arguments.to_string()),
        other => other.to_string(),
    };
    escape::one_line(&text)
}

/// What a tool gave back, as text: a text, the text parts of a list, or JSON.
fn text_of(result: &Value) -> String {
    match result {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(parts) if parts.iter().all(|part| part["text"].is_string()) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        Value::Object(map) => {
            let known =
                ["content", "output", "aggregated_output", "text", "stdout"].iter().find_map(|key| map.get(*key));
            match known {
                Some(inner @ (Value::String(_) | Value::Array(_))) => {
                    let mut text = text_of(inner);
                    if let Some(status) = map.get("exit_code").and_then(Value::as_i64).filter(|status| *status != 0) {
                        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
                        text = format!("{text}{gap}exit status {status}");
                    }
                    text
                }
                _ => result.to_string(),
            }
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_shows_its_telling_argument() {
        for (arguments, want) in [
            (json!({"command": "echo hi\n&& ls", "timeout": 3}), "echo hi && ls"),
            (json!({"command": ["bash", "-lc", "ls"]}), "bash -lc ls"),
            (json!({"file_path": "/a/b"}), "/a/b"),
            (json!({"n": 1}), "{\"n\":1}"),
            (json!({}), ""),
            (json!("\u{1b}[31mred"), "red"),
        ] {
            assert_eq!(about(&arguments), want);
        }
    }

    #[test]
    fn results_of_all_shapes_are_text() {
        for (result, want) in [
            (json!("plain"), "plain"),
            (json!([{"type": "text", "text": "a"}, {"text": "b"}]), "a\nb"),
            (json!({"content": [{"text": "c"}]}), "c"),
            (json!({"exit": 1}), "{\"exit\":1}"),
            (json!(null), ""),
        ] {
            assert_eq!(text_of(&result), want);
        }
    }
}
