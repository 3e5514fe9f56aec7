//! The one configuration file, and the variables that stand above it.
//!
//! Job: every key with its type, its variable and its default; a file or an environment with mistakes is refused whole,
//! each mistake with its place. Never: reads the environment by itself, or the content of a token file; prints.

mod upstreams;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use longhaul_harness::Upstream;
use serde_json::json;
use toml::de::{DeTable, DeValue};

use crate::http::Origin;

pub(crate) use upstreams::is_base as is_plain_url;
pub use upstreams::{UPSTREAM_KEYS, show as show_upstream};

/// The largest file that is read; a configuration is a few lines.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A text that is shown nowhere.
    Secret,
    /// An absolute path.
    Path,
    /// `ADDR:PORT`.
    Address,
    /// `text` or `json`.
    Log,
    /// `own`, `off` or an absolute path.
    Cgroup,
    /// Origins; with commas in a variable.
    Origins,
    /// A whole number from this on.
    Number(u64),
    /// `NAME=COUNT`, several; with commas in a variable.
    Shares,
    /// A time, as `7d` or `12h`.
    Age,
}

/// A key of the file.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its table and its name, as `server.listen`.
    pub name: &'static str,
    /// The variable that stands above it.
    pub variable: Option<&'static str>,
    /// What it takes.
    pub kind: Kind,
    /// What it is for.
    pub about: &'static str,
}

const fn key(name: &'static str, variable: &'static str, kind: Kind, about: &'static str) -> Key {
    Key { name, variable: Some(variable), kind, about }
}

/// Every key, without those of the tables `[passthrough.NAME]`.
pub const KEYS: &[Key] = &[
    key("client.server", "LONGHAUL_SERVER", Kind::Text, "The server that commands speak to, HOST:PORT."),
    key("client.token", "LONGHAUL_TOKEN", Kind::Secret, "The token they send it."),
    Key { name: "client.token_file", variable: None, kind: Kind::Path, about: "A file with that token." },
    key("client.project", "LONGHAUL_PROJECT", Kind::Text, "The project of runs where nothing nearer names one."),
    key("server.listen", "LONGHAUL_LISTEN", Kind::Address, "The address to listen on; port 0 takes a free one."),
    key("server.data_dir", "LONGHAUL_DATA_DIR", Kind::Path, "Where everything durable goes."),
    key("server.token_file", "LONGHAUL_TOKEN_FILE", Kind::Path, "A file with the token that requests must carry."),
    key(
        "server.public_url",
        "LONGHAUL_PUBLIC_URL",
        Kind::Text,
        "Where others reach the server, as https://NAME: webhooks call back there.",
    ),
    key("server.allowed_origins", "LONGHAUL_ALLOWED_ORIGINS", Kind::Origins, "Origins whose pages may use the server."),
    key(
        "server.cgroup",
        "LONGHAUL_CGROUP",
        Kind::Cgroup,
        "Where control groups for runs are made: own, off or a path.",
    ),
    key(
        "server.long_poll_timeout",
        "LONGHAUL_LONG_POLL_TIMEOUT",
        Kind::Number(1),
        "Milliseconds that a long poll of a stream waits.",
    ),
    key(
        "server.client_timeout",
        "LONGHAUL_CLIENT_TIMEOUT",
        Kind::Number(1),
        "Milliseconds that a request's head may take; the body and idle connections have four times as long.",
    ),
    key("server.log", "LONGHAUL_LOG_FORMAT", Kind::Log, "The form of the log: text or json."),
    key("limits.live_max", "LONGHAUL_LIVE_MAX", Kind::Number(1), "Runs with a process at once."),
    key("limits.queue_max", "LONGHAUL_QUEUE_MAX", Kind::Number(0), "Runs that may wait for a place."),
    key("limits.connections_max", "LONGHAUL_CONNECTIONS_MAX", Kind::Number(1), "Connections at once."),
    key(
        "limits.harness_max",
        "LONGHAUL_HARNESS_MAX",
        Kind::Shares,
        "Runs of one harness with a process: HARNESS=COUNT.",
    ),
    key("limits.client_max", "LONGHAUL_CLIENT_MAX", Kind::Number(1), "Runs of one client with a process at once."),
    key("limits.reserve", "LONGHAUL_RESERVE", Kind::Shares, "Places that are kept for a project: PROJECT=COUNT."),
    key("limits.keep_output", "LONGHAUL_KEEP_OUTPUT", Kind::Age, "How long the files of a run's output are kept."),
    key("limits.keep_events", "LONGHAUL_KEEP_EVENTS", Kind::Age, "How long an ended run is kept."),
    key("limits.keep_bytes", "LONGHAUL_KEEP_BYTES", Kind::Number(0), "Bytes of files of ended runs that are kept."),
    key(
        "limits.disk_free_min_bytes",
        "LONGHAUL_DISK_FREE_MIN_BYTES",
        Kind::Number(0),
        "Bytes that must be free on the disk for a new run; 0 is no bound.",
    ),
    key(
        "limits.disk_free_min_percent",
        "LONGHAUL_DISK_FREE_MIN_PERCENT",
        Kind::Number(0),
        "Per cent of the disk that must be free for a new run, at most 99; 0 is no bound.",
    ),
    key("limits.output_limit", "LONGHAUL_OUTPUT_LIMIT", Kind::Number(1), "Bytes of output that one run may write."),
    // The variables are those that all programs of OpenTelemetry know.
    key("telemetry.traces", "OTEL_TRACES_EXPORTER", Kind::Text, "How traces are exported: otlp or none."),
    key(
        "telemetry.endpoint",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        Kind::Text,
        "A collector that takes OTLP over HTTP; traces go to /v1/traces below it. Without one nothing is exported.",
    ),
    key(
        "telemetry.traces_endpoint",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        Kind::Text,
        "The whole address for traces; stands above the endpoint.",
    ),
    key(
        "telemetry.protocol",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        Kind::Text,
        "http/json is what is spoken; http/protobuf is taken for it, grpc is not.",
    ),
    key(
        "telemetry.headers",
        "OTEL_EXPORTER_OTLP_HEADERS",
        Kind::Secret,
        "Headers that the collector wants: NAME=VALUE, with commas between them.",
    ),
    key("telemetry.service_name", "OTEL_SERVICE_NAME", Kind::Text, "The name under which traces are found."),
];

/// A value that fits its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
    /// A list.
    List(Vec<String>),
}

impl fmt::Display for Value {
    /// As TOML has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &String| toml::Value::String(text.clone());
        match self {
            Self::Text(value) => text(value).fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::List(list) => toml::Value::Array(list.iter().map(text).collect()).fmt(f),
        }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A variable.
    Variable(&'static str),
    /// A line of the file.
    File(PathBuf, usize),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// What is wrong: one mistake a line, each with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration cannot be used:\n  {}", .0.join("\n  "))]
pub struct ConfigError(pub Vec<String>);

/// What file and variables say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Whether it was named, and must be named to a server that is started too.
    pub named: bool,
    in_file: BTreeMap<&'static str, (Value, usize)>,
    in_variables: BTreeMap<&'static str, Value>,
    upstreams: BTreeMap<String, (Upstream, usize)>,
}

impl Config {
    /// Reads the named file, else the first of `usual` that is there, and the variables.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake of both.
    pub fn load<'a>(
        named: Option<&Path>,
        usual: &[PathBuf],
        variable: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Self, ConfigError> {
        let file = named.or_else(|| usual.iter().map(PathBuf::as_path).find(|path| path.is_file()));
        let mut config = Self { file: file.map(Path::to_owned), named: named.is_some(), ..Self::default() };
        let mut mistakes = Vec::new();
        if let Some(path) = file {
            match read(path) {
                Ok(text) => config.take_file(path, &text, &mut mistakes),
                Err(why) => mistakes.push(format!("{}: {why}", path.display())),
            }
        }
        for key in KEYS {
            let Some((name, text)) = key.variable.and_then(|name| Some((name, variable(name)?))) else { continue };
            match key.kind.of_text(text) {
                Ok(value) => drop(config.in_variables.insert(key.name, value)),
                Err(why) => mistakes.push(format!("the variable {name}: {why}")),
            }
        }
        if mistakes.is_empty() { Ok(config) } else { Err(ConfigError(mistakes)) }
    }

    fn take_file(&mut self, path: &Path, text: &str, mistakes: &mut Vec<String>) {
        let line = |at: usize| text.get(..at).unwrap_or(text).matches('\n').count() + 1;
        let mut found: Vec<(usize, String)> = Vec::new();
        let (document, broken) = DeTable::parse_recoverable(text);
        for error in &broken {
            found.push((line(error.span().map_or(0, |span| span.start)), error.message().to_owned()));
        }
        let mut tables: BTreeSet<&str> = KEYS.iter().filter_map(|key| Some(key.name.split_once('.')?.0)).collect();
        tables.insert(upstreams::TABLE);
        for (table, members) in document.get_ref() {
            let at = line(table.span().start);
            let DeValue::Table(members) = members.get_ref() else {
                found.push((at, format!("there is no key `{}` outside a table", table.get_ref())));
                continue;
            };
            if !tables.contains(&**table.get_ref()) {
                let known = tables.iter().copied().collect::<Vec<_>>().join("], [");
                found.push((at, format!("there is no table [{}]; there are [{known}]", table.get_ref())));
                continue;
            }
            for (name, value) in members {
                let at = line(name.span().start);
                let full = format!("{}.{}", table.get_ref(), name.get_ref());
                if &**table.get_ref() == upstreams::TABLE {
                    let DeValue::Table(upstream) = value.get_ref() else {
                        found.push((at, format!("`{full}` must be a table, as [{full}]")));
                        continue;
                    };
                    let mut mistakes = Vec::new();
                    if let Some(one) = upstreams::take(name.get_ref(), upstream, name.span().start, &mut mistakes) {
                        self.upstreams.insert(one.name.clone(), (one, at));
                    }
                    found.extend(mistakes.into_iter().map(|(at, why)| (line(at), why)));
                    continue;
                }
                let Some(key) = KEYS.iter().find(|key| key.name == full) else {
                    found.push((at, format!("there is no key `{full}`")));
                    continue;
                };
                match key.kind.of_toml(value.get_ref()) {
                    Ok(value) => drop(self.in_file.insert(key.name, (value, at))),
                    Err(why) => found.push((line(value.span().start), format!("`{full}` {why}"))),
                }
            }
        }
        found.sort();
        mistakes.extend(found.into_iter().map(|(line, why)| format!("{}:{line}: {why}", path.display())));
    }

    /// A key's value, and where it comes from: the variable, else the file.
    pub fn get(&self, name: &str) -> Option<(&Value, Source)> {
        if let Some((key, value)) = self.in_variables.get_key_value(name) {
            let variable = KEYS.iter().find(|k| k.name == *key).and_then(|k| k.variable).unwrap_or_default();
            return Some((value, Source::Variable(variable)));
        }
        let (value, line) = self.in_file.get(name)?;
        Some((value, Source::File(self.file.clone().unwrap_or_default(), *line)))
    }

    /// The endpoints of `passthrough`, by name.
    pub fn upstreams(&self) -> Vec<Upstream> {
        self.upstreams.values().map(|(upstream, _)| upstream.clone()).collect()
    }

    /// Where the table of an upstream begins.
    pub fn upstream_source(&self, name: &str) -> Option<Source> {
        let (_, line) = self.upstreams.get(name)?;
        Some(Source::File(self.file.clone().unwrap_or_default(), *line))
    }

    /// A text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|(value, _)| value.as_text())
    }

    /// A text of the file alone.
    pub fn text_of_file(&self, name: &str) -> Option<&str> {
        self.in_file.get(name).and_then(|(value, _)| value.as_text())
    }

    /// A number.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)?.0 {
            Value::Number(number) => Some(*number),
            Value::Text(_) | Value::List(_) => None,
        }
    }

    /// A list.
    pub fn list(&self, name: &str) -> Option<&[String]> {
        match self.get(name)?.0 {
            Value::List(list) => Some(list),
            Value::Text(_) | Value::Number(_) => None,
        }
    }
}

impl Value {
    /// The text that it is.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(_) | Self::List(_) => None,
        }
    }
}

impl Kind {
    fn of_text(self, text: &str) -> Result<Value, String> {
        self.fit(match self {
            Self::Number(min) => Value::Number(text.parse().map_err(|_| number(min))?),
            Self::Origins | Self::Shares => Value::List(text.split(',').map(|part| part.trim().to_owned()).collect()),
            _ => Value::Text(text.to_owned()),
        })
    }

    fn of_toml(self, value: &DeValue<'_>) -> Result<Value, String> {
        self.fit(match (self, value) {
            (Self::Number(min), DeValue::Integer(given)) => {
                Value::Number(u64::from_str_radix(given.as_str(), given.radix()).map_err(|_| number(min))?)
            }
            (Self::Number(min), _) => return Err(number(min)),
            (Self::Origins | Self::Shares, DeValue::Array(list)) => {
                let texts = list.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
                Value::List(texts.collect::<Option<_>>().ok_or("must be a list of texts")?)
            }
            (Self::Origins | Self::Shares, _) => return Err("must be a list of texts".to_owned()),
            (_, DeValue::String(text)) => Value::Text(text.to_string()),
            _ => return Err("must be a text".to_owned()),
        })
    }

    fn fit(self, value: Value) -> Result<Value, String> {
        match (self, &value) {
            (_, Value::Text(text)) if text.is_empty() => return Err("must not be empty".to_owned()),
            (Self::Path, Value::Text(text)) if !Path::new(text).is_absolute() => {
                return Err(format!("must be an absolute path, {text:?} is not"));
            }
            (Self::Address, Value::Text(text)) if text.parse::<SocketAddr>().is_err() => {
                return Err(format!("must be ADDR:PORT as 127.0.0.1:4437, {text:?} is not"));
            }
            (Self::Log, Value::Text(text)) if !matches!(text.as_str(), "text" | "json") => {
                return Err(format!("must be text or json, not {text:?}"));
            }
            (Self::Origins, Value::List(list)) => {
                list.iter().try_for_each(|text| Origin::parse(text).map(drop)).map_err(|error| error.to_string())?;
            }
            (Self::Shares, Value::List(list)) => {
                list.iter().try_for_each(|text| crate::cli::share(text).map(drop))?;
            }
            (Self::Cgroup, Value::Text(text)) => drop(crate::cli::cgroup(text)?),
            (Self::Age, Value::Text(text)) => drop(crate::cli::age(text)?),
            (Self::Number(min), Value::Number(given)) if *given < min || usize::try_from(*given).is_err() => {
                return Err(number(min));
            }
            _ => {}
        }
        Ok(value)
    }

    fn schema(self) -> serde_json::Value {
        match self {
            Self::Text | Self::Secret => json!({ "type": "string", "minLength": 1 }),
            Self::Path => json!({ "type": "string", "pattern": "^/" }),
            Self::Address => json!({ "type": "string", "pattern": ":[0-9]+$" }),
            Self::Cgroup => json!({ "type": "string", "pattern": "^(own|off|/.*)$" }),
            Self::Log => json!({ "enum": ["text", "json"] }),
            Self::Origins => json!({ "type": "array", "items": { "type": "string", "pattern": "^https?://" } }),
            Self::Number(min) => json!({ "type": "integer", "minimum": min }),
            Self::Shares => json!({ "type": "array", "items": { "type": "string", "pattern": "^.+=[0-9]+$" } }),
            Self::Age => json!({ "type": "string", "pattern": "^([0-9]+(d|h|m|s|ms))+$" }),
        }
    }
}

fn number(min: u64) -> String {
    format!("must be a whole number from {min}")
}

fn read(path: &Path) -> Result<String, String> {
    match std::fs::metadata(path) {
        Ok(facts) if facts.len() > FILE_BYTES_MAX => return Err("the file is over 1 MiB".to_owned()),
        Ok(_) => {}
        Err(error) => return Err(error.to_string()),
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

/// The JSON Schema of the file.
pub fn schema() -> serde_json::Value {
    let mut tables = serde_json::Map::new();
    for key in KEYS {
        let Some((table, name)) = key.name.split_once('.') else { continue };
        let table = tables
            .entry(table)
            .or_insert_with(|| json!({ "type": "object", "additionalProperties": false, "properties": {} }));
        let mut schema = key.kind.schema();
        schema["description"] = key.about.into();
        table["properties"][name] = schema;
    }
    tables.insert(upstreams::TABLE.to_owned(), upstreams::schema());
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Longhaul's config.toml",
        "type": "object",
        "additionalProperties": false,
        "properties": tables,
    })
}
