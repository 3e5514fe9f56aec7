//! What the request asks of the conversation, and what that means for a mode and for a question.
//!
//! A parser knows nothing but the agent's lines. So the terms travel as the id of `initialize`, which every agent gives
//! back with its first answer: a number, because some agents take no other ids.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::request::Permissions;
use crate::shape::text;

/// The first id of `initialize`; its hundreds are the permissions, its tens whether a session is gone on with, its ones
/// whether a model is named.
const FIRST: u64 = 1000;

/// The order of the permissions in an id; never changed, only added to.
const PERMISSIONS: [Permissions; 5] =
    [Permissions::Cli, Permissions::ReadOnly, Permissions::Edit, Permissions::Full, Permissions::Ask];

/// What a run's conversation is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub(super) struct Terms {
    pub(super) permissions: Permissions,
    /// Whether an earlier session is gone on with.
    pub(super) resumes: bool,
    /// Whether the protocol is to name a model.
    pub(super) model: bool,
}

impl From<Terms> for u64 {
    fn from(terms: Terms) -> Self {
        let place = PERMISSIONS.iter().position(|p| *p == terms.permissions).unwrap_or(0);
        FIRST + 100 * place as u64 + 10 * Self::from(terms.resumes) + Self::from(terms.model)
    }
}

impl From<u64> for Terms {
    fn from(id: u64) -> Self {
        Self::of_id(id).unwrap_or_default()
    }
}

impl Terms {
    /// The terms in an id of `initialize`; `None` if it is another message's.
    pub(super) fn of_id(id: u64) -> Option<Self> {
        let digits = id.checked_sub(FIRST)?;
        let permissions = *PERMISSIONS.get(usize::try_from(digits / 100).ok()?)?;
        let (resumes, model) = (digits / 10 % 10, digits % 10);
        (resumes < 2 && model < 2).then_some(Self { permissions, resumes: resumes == 1, model: model == 1 })
    }

    /// The mode to take of those that the agent offers.
    pub(super) fn mode<'a>(self, offered: &[&'a str]) -> Mode<'a> {
        let wanted: &[&str] = match self.permissions {
            Permissions::Cli | Permissions::Ask => return Mode::AsItIs,
            Permissions::ReadOnly => &["readonly", "plan"],
            // At last one in which it asks for everything, and is answered by the kind of what it asks for.
            Permissions::Edit => &["autoedit", "acceptedits", "workspacewrite", "default", "agent"],
            // Else it asks for everything, and everything is allowed.
            Permissions::Full => &["yolo", "bypasspermissions", "agentfullaccess", "fullaccess"],
        };
        let found = wanted.iter().find_map(|name| offered.iter().find(|mode| plain(mode) == *name));
        match (found, self.permissions) {
            (Some(mode), _) => Mode::Take(mode),
            (None, Permissions::Full) => Mode::AsItIs,
            (None, _) => Mode::Missing,
        }
    }

    /// Whether the agent may do what it asks for; `None` if people are to say.
    pub(super) fn allows(self, kind: &str) -> Option<bool> {
        match self.permissions {
            Permissions::Ask => None,
            Permissions::Full => Some(true),
            Permissions::Edit => Some(["edit", "delete", "move", "read", "search", "think"].contains(&kind)),
            Permissions::Cli | Permissions::ReadOnly => Some(false),
        }
    }
}

/// What the permissions mean for the agent's modes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mode<'a> {
    /// It keeps its own.
    AsItIs,
    /// This one.
    Take(&'a str),
    /// It has none that keeps the promise.
    Missing,
}

/// A mode's name for comparing: `autoEdit`, `auto-edit` and `https://…#auto_edit` are the same.
fn plain(mode: &str) -> String {
    let name = mode.rsplit('#').next().unwrap_or(mode);
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Where an agent keeps something that can be chosen, and what can be.
#[derive(Debug)]
pub(super) struct Choice<'a> {
    /// The id of the option; `None` where the protocol has a method of its own.
    pub(super) config: Option<&'a str>,
    pub(super) current: Option<&'a str>,
    pub(super) offered: Vec<&'a str>,
}

/// The modes that an agent's answer to the session offers.
pub(super) fn modes(session: &Value) -> Option<Choice<'_>> {
    let modes = session.get("modes").filter(|modes| modes.is_object());
    if let Some(modes) = modes {
        let offered = modes.get("availableModes")?.as_array()?.iter().filter_map(|mode| text(mode, "id")).collect();
        return Some(Choice { config: None, current: text(modes, "currentModeId"), offered });
    }
    config(session, "mode")
}

/// Where a model is named: by its own method where the agent tells of models, else by an option.
pub(super) fn models(session: &Value) -> Option<Choice<'_>> {
    if session.get("models").is_some_and(Value::is_object) {
        return Some(Choice { config: None, current: None, offered: Vec::new() });
    }
    config(session, "model")
}

/// The option of this category.
fn config<'a>(session: &'a Value, category: &str) -> Option<Choice<'a>> {
    let options = session.get("configOptions")?.as_array()?;
    let option =
        options.iter().find(|option| text(option, "category").or_else(|| text(option, "id")) == Some(category));
    let option = option?;
    let offered = option.get("options")?.as_array()?.iter().filter_map(|value| text(value, "value")).collect();
    Some(Choice { config: Some(text(option, "id")?), current: text(option, "currentValue"), offered })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_term_comes_back_in_the_id() {
        for permissions in PERMISSIONS {
            for (resumes, model) in [(false, false), (false, true), (true, false), (true, true)] {
                let terms = Terms { permissions, resumes, model };
                assert_eq!(Terms::of_id(terms.into()), Some(terms));
            }
        }
        for id in [0, 1, 999, 1002, 1020, 1500, 9999, u64::MAX] {
            assert_eq!(Terms::of_id(id), None, "{id}");
        }
    }

    #[test]
    fn permissions_are_the_agents_own_modes() {
        let mode = |permissions, offered: &[&'static str]| Terms { permissions, ..Terms::default() }.mode(offered);
        let gemini = ["default", "autoEdit", "yolo", "plan"];
        let codex = ["read-only", "workspace-write", "agent", "agent-full-access"];
        let copilot = ["https://a.b/c#agent", "https://a.b/c#plan", "https://a.b/c#autopilot"];
        assert_eq!(mode(Permissions::ReadOnly, &gemini), Mode::Take("plan"));
        assert_eq!(mode(Permissions::Edit, &gemini), Mode::Take("autoEdit"));
        assert_eq!(mode(Permissions::Full, &gemini), Mode::Take("yolo"));
        assert_eq!(mode(Permissions::Cli, &gemini), Mode::AsItIs);
        assert_eq!(mode(Permissions::Ask, &gemini), Mode::AsItIs);
        assert_eq!(mode(Permissions::ReadOnly, &codex), Mode::Take("read-only"));
        assert_eq!(mode(Permissions::Edit, &codex), Mode::Take("workspace-write"));
        assert_eq!(mode(Permissions::Full, &codex), Mode::Take("agent-full-access"));
        assert_eq!(mode(Permissions::ReadOnly, &copilot), Mode::Take("https://a.b/c#plan"));
        assert_eq!(mode(Permissions::Edit, &copilot), Mode::Take("https://a.b/c#agent"));
        assert_eq!(mode(Permissions::Full, &copilot), Mode::AsItIs, "it asks, and is allowed");
        assert_eq!(mode(Permissions::ReadOnly, &["build"]), Mode::Missing);
        assert_eq!(mode(Permissions::Edit, &["build", "plan"]), Mode::Missing);
        assert_eq!(mode(Permissions::Edit, &[]), Mode::Missing);
    }

    #[test]
    fn a_question_is_answered_by_the_kind_of_what_is_asked_for() {
        let allows = |permissions, kind| Terms { permissions, ..Terms::default() }.allows(kind);
        assert_eq!(allows(Permissions::Edit, "edit"), Some(true));
        assert_eq!(allows(Permissions::Edit, "execute"), Some(false));
        assert_eq!(allows(Permissions::Edit, "fetch"), Some(false));
        assert_eq!(allows(Permissions::Edit, ""), Some(false));
        assert_eq!(allows(Permissions::Cli, "read"), Some(false));
        assert_eq!(allows(Permissions::ReadOnly, "edit"), Some(false));
        assert_eq!(allows(Permissions::Full, "execute"), Some(true));
        assert_eq!(allows(Permissions::Ask, "read"), None);
    }
}
