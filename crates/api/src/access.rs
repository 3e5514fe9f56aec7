//! Tokens and shared runs on the wire.
//!
//! Job: what `/v1/tokens` and `/v1/runs/{id}/share` take and give. Never: holds a secret but in the one answer that
//! hands it out.

use std::fmt;

use longhaul_model::{ProjectId, RunId, Timestamp, limits};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Problem;
use crate::request::{decode, parse_object, refuse_unknown};

/// How far a token reaches. Each scope holds the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Look.
    Read,
    /// Start runs, send them input, cancel them.
    Run,
    /// Approve, settle, delete, prune, share.
    Operate,
    /// Make tokens, stop the server.
    Admin,
}

impl Scope {
    /// Every scope, the narrowest first.
    pub const ALL: &[Self] = &[Self::Read, Self::Run, Self::Operate, Self::Admin];

    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Run => "run",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }

    /// The scope of a name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|scope| scope.as_str() == text)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body of `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRequest {
    /// How far it reaches.
    pub scope: Scope,
    /// The one project it is for; every project without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// Directories below which its runs may work; anywhere if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_roots: Vec<String>,
    /// Runs with a process at once that its client may have, at least 1; what the server allows without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<usize>,
    /// Milliseconds it is good for, at least 1; [`limits::TOKEN_TTL_DEFAULT_MS`] if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// A name for people and for the scheduler; its id if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl TokenRequest {
    /// The names of all fields.
    pub const FIELDS: &[&str] = &["scope", "project", "allowed_roots", "lane", "ttl_ms", "name"];

    /// Parses a body.
    ///
    /// # Errors
    /// What is wrong with it, by field.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let map = parse_object(body)?;
        refuse_unknown(&map, Self::FIELDS)?;
        if map.get("scope").and_then(Value::as_str).and_then(Scope::parse).is_none() {
            let names = Scope::ALL.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Problem::invalid("scope", format!("scope must be one of {names}")));
        }
        let request: Self = decode(Value::Object(map))?;
        let name_fits = |name: &String| !name.is_empty() && name.len() <= limits::ID_BYTES_MAX;
        if request.name.as_ref().is_some_and(|name| !name_fits(name) || name.contains(char::is_control)) {
            return Err(Problem::invalid("name", "name has 1 to 255 bytes and no control characters"));
        }
        if request.allowed_roots.len() > limits::TOKEN_ROOTS_MAX {
            let text = format!("allowed_roots has at most {} members", limits::TOKEN_ROOTS_MAX);
            return Err(Problem::invalid("allowed_roots", text));
        }
        if request.scope == Scope::Admin && (request.project.is_some() || !request.allowed_roots.is_empty()) {
            let text = "a token of scope admin reaches the whole server; leave project and allowed_roots out";
            return Err(Problem::invalid("scope", text));
        }
        if request.lane == Some(0) {
            return Err(Problem::invalid("lane", "lane must be at least 1: no run could ever start").fact("min", 1));
        }
        within("ttl_ms", request.ttl_ms, limits::TOKEN_TTL_MAX_MS)?;
        Ok(request)
    }
}

/// The body of `POST /v1/runs/{id}/share`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareRequest {
    /// Milliseconds it is good for, at least 1; [`limits::SHARE_TTL_DEFAULT_MS`] if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

impl ShareRequest {
    /// The names of all fields.
    pub const FIELDS: &[&str] = &["ttl_ms"];

    /// Parses a body.
    ///
    /// # Errors
    /// What is wrong with it, by field.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let map = parse_object(body)?;
        refuse_unknown(&map, Self::FIELDS)?;
        let request: Self = decode(Value::Object(map))?;
        within("ttl_ms", request.ttl_ms, limits::SHARE_TTL_MAX_MS)?;
        Ok(request)
    }
}

fn within(name: &str, given: Option<u64>, max: u64) -> Result<(), Problem> {
    if given.is_some_and(|ms| !(1..=max).contains(&ms)) {
        let text = format!("{name} must be a whole number from 1 to {max}");
        return Err(Problem::invalid(name, text).fact("min", 1).fact("max", max));
    }
    Ok(())
}

/// A token as it is shown; its secret is in `token`, in the answer that made it and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Its id, which is no secret.
    pub id: String,
    /// `token`, or `share` for a read-only one of a single run.
    pub object: String,
    /// Its name.
    pub name: String,
    /// How far it reaches.
    pub scope: Scope,
    /// Its project; every one if null.
    pub project: Option<ProjectId>,
    /// The one run it shows, of a `share`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// Directories below which its runs may work, symbolic links resolved; anywhere if there are none.
    pub allowed_roots: Vec<String>,
    /// Runs with a process at once that its client may have, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<usize>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused.
    pub expires_at: Timestamp,
    /// The token itself, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// The answer of `GET /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenList {
    /// `list`.
    pub object: String,
    /// The oldest first.
    pub data: Vec<TokenInfo>,
}

/// The answer of `POST /v1/runs/{id}/share`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareReply {
    /// The token that was made.
    #[serde(flatten)]
    pub share: TokenInfo,
    /// Paths of the run's snapshot, events and output with the token in them.
    pub links: ShareLinks,
}

/// What a share opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareLinks {
    /// The snapshot.
    #[serde(rename = "self")]
    pub own: String,
    /// The events, for an EventSource too.
    pub events: String,
    /// The raw output.
    pub log: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;

    #[test]
    fn a_token_request_is_read_strictly() {
        let ok = TokenRequest::parse(br#"{"scope":"run","project":"p","allowed_roots":["/src"],"ttl_ms":5}"#).unwrap();
        assert_eq!((ok.scope, ok.ttl_ms, ok.allowed_roots.len()), (Scope::Run, Some(5), 1));
        for (body, param) in [
            (r"{}", "scope"),
            (r#"{"scope":"root"}"#, "scope"),
            (r#"{"scope":"admin","project":"p"}"#, "scope"),
            (r#"{"scope":"run","ttl_ms":0}"#, "ttl_ms"),
            (r#"{"scope":"run","name":""}"#, "name"),
            (r#"{"scope":"run","more":1}"#, "more"),
        ] {
            assert_eq!(TokenRequest::parse(body.as_bytes()).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
        assert_eq!(ShareRequest::parse(br#"{"ttl_ms":604800001}"#).unwrap_err().code, ErrorCode::InvalidField);
    }

    #[test]
    fn scopes_hold_one_another() {
        assert!(Scope::Admin > Scope::Operate && Scope::Operate > Scope::Run && Scope::Run > Scope::Read);
        assert!(Scope::ALL.iter().all(|scope| Scope::parse(scope.as_str()) == Some(*scope)));
    }
}
