//! What a subscription is asked to be.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::pattern::Pattern;
use super::webhook::{UrlRefused, WebhookUrl};
use crate::id::ProjectId;
use crate::limits;
use crate::stream::path::StreamPath;

/// The name that whoever makes a subscription gives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct SubscriptionId(Box<str>);

impl SubscriptionId {
    /// Parses a name: 1 to 256 bytes without a slash or a control character.
    ///
    /// # Errors
    /// The rule, as a sentence.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let bad = text.is_empty()
            || text.len() > limits::SUBSCRIPTION_ID_BYTES_MAX
            || matches!(text, "." | "..")
            || text.chars().any(|c| c.is_control() || c == '/');
        if bad {
            Err("a subscription's id has 1 to 256 bytes, no slash and no control character")
        } else {
            Ok(Self(text.into()))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A subscription's full name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionKey {
    /// The project whose streams it is about.
    pub project: ProjectId,
    /// Its name there.
    pub id: SubscriptionId,
}

impl SubscriptionKey {
    /// `PROJECT/ID`, read back; `None` if it is none.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let (project, id) = text.split_once('/')?;
        Some(Self { project: ProjectId::parse(project).ok()?, id: SubscriptionId::parse(id).ok()? })
    }
}

impl fmt::Display for SubscriptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.id)
    }
}

/// How a subscription tells of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// By a request to an address.
    Webhook,
    /// By a message in a stream, after which workers claim.
    PullWake,
}

impl Kind {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::PullWake => "pull-wake",
        }
    }
}

/// What a subscription is: never changes while it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// How it tells.
    pub kind: Kind,
    /// Which streams it follows by their paths.
    pub pattern: Option<Pattern>,
    /// Which streams it was asked to follow by name.
    pub streams: BTreeSet<StreamPath>,
    /// Where it tells; there for a webhook.
    pub webhook: Option<WebhookUrl>,
    /// The stream in which it tells; there for pull-wake.
    pub wake_stream: Option<StreamPath>,
    /// How long a worker may be silent.
    pub lease_ttl_ms: u64,
    /// For people.
    pub description: Option<String>,
}

/// Why a request makes no subscription.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A member that there is not.
    #[error("there is no member {0:?}")]
    Unknown(String),
    /// A member with a value that is not allowed.
    #[error("{1}")]
    Member(&'static str, String),
    /// An address that is not called.
    #[error(transparent)]
    Url(#[from] UrlRefused),
}

const MEMBERS: &[&str] = &["type", "pattern", "streams", "webhook", "wake_stream", "lease_ttl_ms", "description"];

/// A member that is absent, null, or a text.
fn text<'a>(map: &'a Map<String, Value>, name: &'static str) -> Result<Option<&'a str>, ConfigError> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ConfigError::Member(name, format!("{name} must be a string"))),
    }
}

/// A path as subscriptions take it: slashes at its ends do not count.
fn path(text: &str, name: &'static str) -> Result<StreamPath, ConfigError> {
    StreamPath::parse(text.trim_matches('/')).map_err(|error| ConfigError::Member(name, format!("{text:?}: {error}")))
}

impl Config {
    /// Parses the body of a request. A member that is null counts as absent.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(map: &Map<String, Value>) -> Result<Self, ConfigError> {
        if let Some(name) = map.keys().find(|name| !MEMBERS.contains(&name.as_str())) {
            return Err(ConfigError::Unknown(name.clone()));
        }
        let wrong = |name, text: &str| Err(ConfigError::Member(name, text.to_owned()));
        let kind = match text(map, "type")? {
            Some("webhook") => Kind::Webhook,
            Some("pull-wake") => Kind::PullWake,
            _ => return wrong("type", "type must be webhook or pull-wake"),
        };
        let pattern = text(map, "pattern")?.filter(|text| !text.is_empty()).map(Pattern::parse).transpose();
        let pattern = pattern.map_err(|error| ConfigError::Member("pattern", error.to_string()))?;
        let streams = match map.get("streams") {
            None | Some(Value::Null) => BTreeSet::new(),
            Some(list) => Self::streams(list)?,
        };
        if pattern.is_none() && streams.is_empty() {
            return wrong("pattern", "a subscription needs a pattern, streams, or both");
        }
        let webhook = webhook(map.get("webhook"))?;
        if kind == Kind::Webhook && webhook.is_none() {
            return wrong("webhook", "a webhook subscription needs webhook.url");
        }
        let wake_stream = text(map, "wake_stream")?.filter(|text| !text.is_empty());
        let wake_stream = wake_stream.map(|text| path(text, "wake_stream")).transpose()?;
        if kind == Kind::PullWake && wake_stream.is_none() {
            return wrong("wake_stream", "a pull-wake subscription needs wake_stream");
        }
        let lease_ttl_ms = match map.get("lease_ttl_ms") {
            None | Some(Value::Null) => limits::LEASE_TTL_MS_DEFAULT,
            Some(value) => match value.as_u64() {
                Some(ms) if (limits::LEASE_TTL_MS_MIN..=limits::LEASE_TTL_MS_MAX).contains(&ms) => ms,
                _ => return wrong("lease_ttl_ms", "lease_ttl_ms must be a whole number from 1000 to 600000"),
            },
        };
        let description = text(map, "description")?.map(str::to_owned);
        if description.as_ref().is_some_and(|text| text.len() > limits::SUBSCRIPTION_TEXT_BYTES_MAX) {
            return wrong("description", "description has at most 1024 bytes");
        }
        Ok(Self { kind, pattern, streams, webhook, wake_stream, lease_ttl_ms, description })
    }

    /// Parses a list of paths, at most [`limits::SUBSCRIPTION_TOLD_MAX`] of them.
    ///
    /// # Errors
    /// [`ConfigError::Member`].
    pub fn streams(value: &Value) -> Result<BTreeSet<StreamPath>, ConfigError> {
        let wrong = || {
            let text = format!("streams must be a list of at most {} paths", limits::SUBSCRIPTION_TOLD_MAX);
            ConfigError::Member("streams", text)
        };
        let list = value.as_array().filter(|list| list.len() <= limits::SUBSCRIPTION_TOLD_MAX).ok_or_else(wrong)?;
        list.iter().map(|value| path(value.as_str().ok_or_else(wrong)?, "streams")).collect()
    }

    /// Whether the pattern takes a path in. The subscription's own wake stream is never work for it.
    pub fn matches(&self, path: &StreamPath) -> bool {
        self.wake_stream.as_ref() != Some(path)
            && self.pattern.as_ref().is_some_and(|pattern| pattern.matches(path.as_str()))
    }
}

fn webhook(value: Option<&Value>) -> Result<Option<WebhookUrl>, ConfigError> {
    let wrong = || ConfigError::Member("webhook", "webhook must be an object with a url and nothing else".to_owned());
    let map = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value.as_object().ok_or_else(wrong)?,
    };
    match map.get("url") {
        Some(Value::String(url)) if map.len() == 1 => Ok(Some(WebhookUrl::parse(url)?)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: Value) -> Result<Config, ConfigError> {
        Config::parse(value.as_object().unwrap())
    }

    fn member(value: Value) -> &'static str {
        match parse(value) {
            Err(ConfigError::Member(name, _)) => name,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn two_spellings_of_one_configuration_are_one() {
        let hook = json!({"url": "https://w.example/"});
        let one = parse(json!({"type": "webhook", "pattern": "/e/*/", "streams": ["b", "/a/", "b"], "webhook": hook}));
        let two = parse(json!({"type": "webhook", "pattern": "e/*", "streams": ["a", "b"], "webhook": hook,
            "lease_ttl_ms": 30_000, "wake_stream": null, "description": null}));
        assert_eq!(one, two);
        let config = one.unwrap();
        assert_eq!(serde_json::from_value::<Config>(serde_json::to_value(&config).unwrap()).unwrap(), config);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let hook = json!({"url": "https://w.example/"});
        assert_eq!(member(json!({})), "type");
        assert_eq!(member(json!({"type": "push"})), "type");
        assert_eq!(member(json!({"type": "webhook", "webhook": hook})), "pattern");
        assert_eq!(member(json!({"type": "webhook", "pattern": "a*", "webhook": hook})), "pattern");
        assert_eq!(member(json!({"type": "webhook", "pattern": "a"})), "webhook");
        assert_eq!(member(json!({"type": "webhook", "pattern": "a", "webhook": {"url": 1}})), "webhook");
        assert_eq!(member(json!({"type": "pull-wake", "pattern": "a"})), "wake_stream");
        assert_eq!(member(json!({"type": "pull-wake", "streams": ["__ds/x"], "wake_stream": "w"})), "streams");
        assert_eq!(member(json!({"type": "pull-wake", "streams": [1], "wake_stream": "w"})), "streams");
        for ttl in [json!(999), json!(600_001), json!(1.5), json!("5000")] {
            let value = json!({"type": "pull-wake", "pattern": "a", "wake_stream": "w", "lease_ttl_ms": ttl});
            assert_eq!(member(value), "lease_ttl_ms");
        }
        let unknown = parse(json!({"type": "pull-wake", "pattern": "a", "wake_stream": "w", "x": 1}));
        assert_eq!(unknown, Err(ConfigError::Unknown("x".to_owned())));
        let inside = parse(json!({"type": "webhook", "pattern": "a", "webhook": {"url": "https://10.0.0.1/"}}));
        assert_eq!(inside, Err(ConfigError::Url(UrlRefused::Private)));
    }

    #[test]
    fn a_wake_stream_is_no_work() {
        let config = parse(json!({"type": "pull-wake", "pattern": "**", "wake_stream": "w/p"})).unwrap();
        assert!(config.matches(&StreamPath::parse("w/q").unwrap()));
        assert!(!config.matches(&StreamPath::parse("w/p").unwrap()));
    }

    #[test]
    fn names_read_back() {
        let key = SubscriptionKey { project: ProjectId::default_project(), id: SubscriptionId::parse("a b").unwrap() };
        assert_eq!(SubscriptionKey::from_text(&key.to_string()), Some(key));
        for bad in ["", "a/b", "a\n", ".."] {
            assert!(SubscriptionId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
