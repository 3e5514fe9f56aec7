//! The tables `[passthrough.NAME]`: endpoints that runs of `passthrough` may call.
//!
//! Job: each key of such a table with what it takes; a table with mistakes is refused, each with its line. Never: holds
//! a key, only the name of the variable that does.

use std::fmt::Write as _;

use longhaul_harness::{Dialect, Upstream};
use serde_json::json;
use toml::de::{DeTable, DeValue};

/// The table's name.
pub(super) const TABLE: &str = "passthrough";

/// A key of such a table, and what it is for.
pub const UPSTREAM_KEYS: [(&str, &str); 5] = [
    ("kind", "How it speaks: openai or anthropic."),
    ("base_url", "Where it is, as the official SDKs take it."),
    ("key_env", "The variable that holds its key; without one no key is sent."),
    ("models", "Models it is known to have, the first of them for runs that name none."),
    ("max_tokens", "Tokens that an answer may have."),
];

/// Reads the table of the upstream `name`; mistakes go to `found`, each with its position in the file.
pub(super) fn take(name: &str, table: &DeTable<'_>, at: usize, found: &mut Vec<(usize, String)>) -> Option<Upstream> {
    let full = format!("{TABLE}.{name}");
    let before = found.len();
    if !is_word(name) {
        found.push((at, format!("`{full}`: a name is made of letters, digits, `-`, `_` and `.`")));
    }
    let (mut dialect, mut base_url, mut key_env, mut models, mut max_tokens) = (None, None, None, vec![], None);
    for (key, value) in table {
        let at = value.span().start;
        let key = &**key.get_ref();
        let value = value.get_ref();
        let mut wrong = |why: &str| found.push((at, format!("`{full}.{key}` {why}")));
        match key {
            "kind" => match value.as_str().and_then(Dialect::parse) {
                Some(known) => dialect = Some(known),
                None => wrong("must be openai or anthropic"),
            },
            "base_url" => match value.as_str().filter(|url| is_base(url)) {
                Some(url) => base_url = Some(url.to_owned()),
                None => wrong("must be an address as https://api.example/v1, without user, query and fragment"),
            },
            "key_env" => match value.as_str().filter(|name| is_variable(name)) {
                Some(name) => key_env = Some(name.to_owned()),
                None => wrong("must be the name of a variable, and none of LONGHAUL_*: never the key itself"),
            },
            "models" => match list(value) {
                Some(list) => models = list,
                None => wrong("must be a list of texts, each one word"),
            },
            "max_tokens" => match number(value) {
                Some(number) => max_tokens = Some(number),
                None => wrong("must be a whole number from 1"),
            },
            _ => found.push((at, format!("there is no key `{full}.{key}`"))),
        }
    }
    for needed in ["kind", "base_url"] {
        if !table.keys().any(|key| &**key.get_ref() == needed) {
            found.push((at, format!("`{full}` lacks `{needed}`")));
        }
    }
    if found.len() > before {
        return None;
    }
    Some(Upstream { name: name.to_owned(), dialect: dialect?, base_url: base_url?, key_env, models, max_tokens })
}

fn list(value: &DeValue<'_>) -> Option<Vec<String>> {
    let DeValue::Array(items) = value else { return None };
    let word = |text: &str| !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    items.iter().map(|item| item.get_ref().as_str().filter(|text| word(text)).map(str::to_owned)).collect()
}

fn number(value: &DeValue<'_>) -> Option<u64> {
    let DeValue::Integer(given) = value else { return None };
    u64::from_str_radix(given.as_str(), given.radix()).ok().filter(|number| *number > 0)
}

fn is_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_variable(name: &str) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    plain && !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.starts_with("LONGHAUL_")
}

/// Whether a text is the address of something on the web, without user, query and fragment.
pub(crate) fn is_base(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

/// The table as TOML.
pub fn show(upstream: &Upstream) -> String {
    let text = |text: &str| toml::Value::String(text.to_owned());
    let mut out = format!("[{TABLE}.{}]\n", toml_key(&upstream.name));
    let _ = writeln!(out, "kind = {}", text(upstream.dialect.as_str()));
    let _ = writeln!(out, "base_url = {}", text(&upstream.base_url));
    if let Some(name) = &upstream.key_env {
        let _ = writeln!(out, "key_env = {}", text(name));
    }
    if !upstream.models.is_empty() {
        let models = upstream.models.iter().map(|model| text(model)).collect();
        let _ = writeln!(out, "models = {}", toml::Value::Array(models));
    }
    if let Some(number) = upstream.max_tokens {
        let _ = writeln!(out, "max_tokens = {number}");
    }
    out
}

/// A name with a dot is one key only in quotes.
fn toml_key(name: &str) -> String {
    if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() }
}

/// The JSON Schema of the table that holds them.
pub(super) fn schema() -> serde_json::Value {
    let mut properties = serde_json::Map::new();
    for (name, about) in UPSTREAM_KEYS {
        let mut schema = match name {
            "kind" => json!({ "enum": ["openai", "anthropic"] }),
            "base_url" => json!({ "type": "string", "pattern": "^https?://" }),
            "key_env" => json!({ "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" }),
            "models" => json!({ "type": "array", "items": { "type": "string", "pattern": "^\\S+$" } }),
            _ => json!({ "type": "integer", "minimum": 1 }),
        };
        schema["description"] = about.into();
        properties.insert(name.to_owned(), schema);
    }
    json!({
        "type": "object",
        "propertyNames": { "pattern": "^[A-Za-z0-9._-]+$" },
        "additionalProperties": {
            "type": "object",
            "additionalProperties": false,
            "required": ["kind", "base_url"],
            "properties": properties,
        },
    })
}
