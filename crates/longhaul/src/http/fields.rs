//! `response_format` and `mcp` of a request, out of the shapes that others gave them.
//!
//! Never: repeats a value of `mcp` in an error: each may be a secret.

use std::collections::BTreeMap;

use longhaul_api::{ErrorCode, Problem};
use longhaul_harness::{Mcp, McpServer};
use longhaul_model::limits;
use serde_json::{Map, Value};

/// The schema of the answer, or none where text will do. Chat Completions has the schema in a member `json_schema`,
/// Responses beside the type; both are taken.
///
/// # Errors
/// `unsupported_field` for a form that no agent program keeps to, `invalid_field` for what has no form.
pub(super) fn schema(format: Option<&Value>) -> Result<Option<Value>, Problem> {
    let wrong = |message: &str| Err(Problem::invalid("response_format", format!("response_format {message}")));
    let Some(format) = format.filter(|format| !format.is_null()) else { return Ok(None) };
    let Some(format) = format.as_object() else { return wrong("must be an object") };
    let plain = |members: &Map<String, Value>, known: &[&str]| members.keys().all(|name| known.contains(&&**name));
    match format.get("type").and_then(Value::as_str) {
        Some("text") if plain(format, &["type"]) => return Ok(None),
        Some("text") => return wrong("text has no other members"),
        Some("json_schema") => {}
        Some("json_object") => {
            let message = "response_format json_object is kept to by no agent program; json_schema is by some";
            return Err(Problem::new(ErrorCode::UnsupportedField, message).param("response_format"));
        }
        _ => return wrong("has the type text or json_schema"),
    }
    let own = ["type", "name", "description", "schema", "strict"];
    let asked = match format.get("json_schema") {
        Some(Value::Object(asked)) if plain(format, &["type", "json_schema"]) && plain(asked, &own[1..]) => asked,
        None if plain(format, &own) => format,
        _ => return wrong("json_schema has the members name, description, schema and strict, and no others"),
    };
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name = asked
        .get("name")
        .is_none_or(|name| name.as_str().is_some_and(|name| (1..=64).contains(&name.len()) && name.chars().all(word)));
    let text = asked.get("description").is_none_or(|text| text.is_string() || text.is_null());
    let strict = asked.get("strict").is_none_or(|strict| strict.is_boolean() || strict.is_null());
    if !(name && text && strict) {
        return wrong(
            "has a name of 1 to 64 letters, digits, _ and -, a description of text, and strict is true or false",
        );
    }
    let Some(schema) = asked.get("schema").filter(|schema| schema.is_object()) else {
        return wrong("needs a schema, an object");
    };
    if schema.to_string().len() > limits::SCHEMA_BYTES_MAX {
        return wrong(&format!("has a schema of more than {} bytes", limits::SCHEMA_BYTES_MAX));
    }
    Ok(Some(schema.clone()))
}

/// The servers of tools; none where nothing is asked for.
///
/// # Errors
/// `invalid_field` with the member that is at fault.
pub(super) fn mcp(asked: Option<&Value>) -> Result<Option<Mcp>, Problem> {
    let Some(asked) = asked.filter(|asked| !asked.is_null()) else { return Ok(None) };
    let wrong = |param: &str, message: String| Err(Problem::invalid(param.to_owned(), format!("{param} {message}")));
    let servers = match asked.as_object() {
        Some(asked) if asked.len() == 1 => asked.get("servers").and_then(Value::as_object),
        _ => None,
    };
    let Some(servers) = servers else { return wrong("mcp", "is an object with one member, servers".to_owned()) };
    if !(1..=limits::MCP_SERVERS_MAX).contains(&servers.len()) {
        return wrong("mcp.servers", format!("must name 1 to {} servers", limits::MCP_SERVERS_MAX));
    }
    if asked.to_string().len() > limits::MCP_BYTES_MAX {
        return wrong("mcp", format!("has more than {} bytes", limits::MCP_BYTES_MAX));
    }
    let mut known = BTreeMap::new();
    for (name, server) in servers {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !(1..=limits::MCP_NAME_BYTES_MAX).contains(&name.len()) || !name.chars().all(word) {
            let max = limits::MCP_NAME_BYTES_MAX;
            return wrong("mcp.servers", format!("have names of 1 to {max} letters, digits, _ and -"));
        }
        known.insert(name.clone(), one(&format!("mcp.servers.{name}"), server)?);
    }
    Ok(Some(Mcp { servers: known }))
}

fn one(param: &str, server: &Value) -> Result<McpServer, Problem> {
    let wrong = |member: &str, message: &str| {
        let param = if member.is_empty() { param.to_owned() } else { format!("{param}.{member}") };
        Problem::invalid(param.clone(), format!("{param} {message}"))
    };
    let forms = "is {\"command\", \"args\", \"env\"} or {\"url\", \"headers\"}";
    let members = server.as_object().ok_or_else(|| wrong("", forms))?;
    let only = |names: &[&str]| members.keys().all(|name| names.contains(&&**name));
    let texts = |member: &str| -> Result<BTreeMap<String, String>, Problem> {
        let none = Map::new();
        let map = match members.get(member) {
            None | Some(Value::Null) => &none,
            Some(Value::Object(map)) => map,
            Some(_) => return Err(wrong(member, "must be a map of text")),
        };
        let fit = |(name, value): (&String, &Value)| {
            let value = value.as_str().filter(|value| !value.contains('\0'))?;
            let name = Some(name).filter(|name| !name.is_empty() && !name.contains(['=', '\0', '\n', '\r']))?;
            Some((name.clone(), value.to_owned()))
        };
        let map: Option<_> = map.iter().map(fit).collect();
        map.ok_or_else(|| wrong(member, "must be a map of text: names without '=', neither part with a NUL byte"))
    };
    let text = |member: &str| {
        let text = members.get(member).and_then(Value::as_str).filter(|text| !text.is_empty());
        text.filter(|text| !text.contains('\0')).ok_or_else(|| wrong(member, "must be text without NUL bytes"))
    };
    if members.contains_key("command") && only(&["command", "args", "env"]) {
        let args = match members.get("args") {
            None | Some(Value::Null) => Some(vec![]),
            Some(Value::Array(args)) => {
                args.iter().map(|arg| arg.as_str().filter(|arg| !arg.contains('\0')).map(str::to_owned)).collect()
            }
            Some(_) => None,
        };
        let args = args.ok_or_else(|| wrong("args", "must be a list of text without NUL bytes"))?;
        return Ok(McpServer::Command { command: text("command")?.to_owned(), args, env: texts("env")? });
    }
    if members.contains_key("url") && only(&["url", "headers"]) {
        let url = text("url")?;
        let http = url.starts_with("http://") || url.starts_with("https://");
        if !http || url.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(wrong("url", "must be an http or https address"));
        }
        let headers = texts("headers")?;
        if headers.values().any(|value| value.contains(['\n', '\r'])) {
            return Err(wrong("headers", "must each be one line"));
        }
        return Ok(McpServer::Url { url: url.to_owned(), headers });
    }
    Err(wrong("", forms))
}
