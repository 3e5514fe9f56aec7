//! Rules by which an agent's questions are answered without a person.
//!
//! Job: the first rule that fits a call decides; none leaves it to `default`. Pure.
//! Never: lets an allowing pattern reach further than it reads: its `*` stops at what chains, redirects or expands
//! shell commands and at `..`, so that `git *` is no permission for `git log; rm -rf /`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::Decision;

/// What a rule, or no rule, makes of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// People are asked.
    #[default]
    Ask,
    /// Allowed.
    Allow,
    /// Refused.
    Deny,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The tool's name, with `*` for any text.
    pub tool: String,
    /// What the call is about (its command, path, address, …), with `*` for any text; absent is any call.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// What happens then.
    pub decision: Verdict,
    /// What the agent is told with a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The rules of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Where no rule fits.
    #[serde(default)]
    pub default: Verdict,
    /// In order: the first that fits decides.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// The members that say what a call is about, the best first.
const ABOUT: [&str; 8] = ["command", "cmd", "file_path", "notebook_path", "path", "url", "pattern", "query"];

/// What an allowing `*` does not pass over.
const STOPS: [char; 11] = [';', '&', '|', '<', '>', '$', '`', '(', ')', '\n', '\r'];

impl Policy {
    /// The answer to a call, with its reason; `None` if people are asked.
    pub fn answer(&self, tool: &str, arguments: &Value) -> Option<(Decision, Option<String>)> {
        let rule = self.rules.iter().find(|rule| rule.fits(tool, arguments));
        let verdict = rule.map_or(self.default, |rule| rule.decision);
        let reason = rule.and_then(|rule| rule.reason.clone());
        match verdict {
            Verdict::Ask => None,
            Verdict::Allow => Some((Decision::Allow, reason)),
            Verdict::Deny => Some((Decision::Deny, reason)),
        }
    }
}

impl Rule {
    fn fits(&self, tool: &str, arguments: &Value) -> bool {
        let any = |_: &str| true;
        if !glob(&self.tool, tool, &any) {
            return false;
        }
        let Some(pattern) = &self.pattern else { return true };
        let Some(about) = ABOUT.iter().find_map(|name| arguments.get(*name)?.as_str()) else { return false };
        let narrow = |passed: &str| !passed.contains(STOPS) && !passed.contains("..");
        if self.decision == Verdict::Allow { glob(pattern, about, &narrow) } else { glob(pattern, about, &any) }
    }
}

/// Whether `text` is `pattern`, where each `*` passes over text that `passes` likes.
fn glob(pattern: &str, text: &str, passes: &dyn Fn(&str) -> bool) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(before) else { return false };
    let Some((next, _)) = after.split_once('*') else {
        return rest.strip_suffix(after).is_some_and(passes);
    };
    // The earliest place of what follows a star leaves the most for the next: no other needs to be tried, but for one
    // where the star may not pass, and then none further on is better.
    match rest.find(next) {
        Some(at) => passes(&rest[..at]) && glob(after, &rest[at..], passes),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(value: Value) -> Policy {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = policy(json!({ "default": "deny", "rules": [
            { "tool": "Bash", "match": "git push*", "decision": "ask" },
            { "tool": "Bash", "match": "git *", "decision": "allow" },
            { "tool": "Bash", "match": "*rm -rf*", "decision": "deny", "reason": "never" },
            { "tool": "mcp__*", "decision": "allow" },
        ] }));
        let bash = |command: &str| policy.answer("Bash", &json!({ "command": command }));
        assert_eq!(bash("git push origin"), None);
        assert_eq!(bash("git log --oneline"), Some((Decision::Allow, None)));
        assert_eq!(bash("sudo rm -rf /; true"), Some((Decision::Deny, Some("never".to_owned()))));
        assert_eq!(bash("ls"), Some((Decision::Deny, None)));
        assert_eq!(policy.answer("mcp__files__read", &json!({})), Some((Decision::Allow, None)));
        assert_eq!(policy.answer("Bashful", &json!({ "command": "git log" })), Some((Decision::Deny, None)));
    }

    #[test]
    fn an_allowing_star_reaches_no_further_than_it_reads() {
        let policy = policy(json!({ "rules": [
            { "tool": "Bash", "match": "git *", "decision": "allow" },
            { "tool": "Write", "match": "/srv/src/*", "decision": "allow" },
        ] }));
        for command in [
            "git log; rm x",
            "git log && rm x",
            "git log | sh",
            "git log > /etc/passwd",
            "git $(rm x)",
            "git `rm x`",
            "git log\nrm x",
            "gitx",
            "",
        ] {
            assert_eq!(policy.answer("Bash", &json!({ "command": command })), None, "{command:?}");
        }
        let write = |path: &str| policy.answer("Write", &json!({ "file_path": path }));
        assert_eq!(write("/srv/src/a.rs"), Some((Decision::Allow, None)));
        assert_eq!(write("/srv/src/../../etc/passwd"), None);
        assert_eq!(policy.answer("Write", &json!({ "content": "x" })), None, "it is not known what it is about");
    }

    #[test]
    fn stars_stand_for_any_text() {
        let any = |_: &str| true;
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "ab", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("a**", "a", true),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*b", "ab", true),
        ] {
            assert_eq!(glob(pattern, text, &any), fits, "{pattern} {text}");
        }
    }
}
