//! What the command line says when it cannot do what was asked: what happened, where, what to do.
//!
//! Job: one error type for all verbs, with its exit status. Never: shows a stack trace or prints by itself.

use std::fmt;

use longhaul_model::IdError;

use crate::client::{ClientError, LaunchError, SettingsError};
use crate::config::ConfigError;

/// Bad configuration. Source: sysexits.h, `EX_CONFIG`.
pub const BAD_CONFIG: u8 = 78;

/// Longhaul's own trouble. Source: DESIGN 9.
pub const OWN: u8 = 125;

/// An error for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The exit status.
    pub status: u8,
    /// What happened.
    pub what: String,
    /// What to do, one line each.
    pub help: Vec<String>,
}

impl Trouble {
    /// Own trouble.
    pub fn new(what: impl Into<String>) -> Self {
        Self { status: OWN, what: what.into(), help: Vec::new() }
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, line: impl Into<String>) -> Self {
        self.help.push(line.into());
        self
    }

    /// With another exit status.
    #[must_use]
    pub fn status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "longhaul: {}", self.what)?;
        self.help.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl From<SettingsError> for Trouble {
    fn from(error: SettingsError) -> Self {
        Self::new(error.to_string()).help("correct the file or move it away")
    }
}

impl From<ConfigError> for Trouble {
    fn from(error: ConfigError) -> Self {
        Self::new(error.to_string()).help("what there is: longhaul config schema")
    }
}

impl From<IdError> for Trouble {
    fn from(error: IdError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        // The reader of our output went away: the shell's status for a process that SIGPIPE ended, and no words.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self { status: 128 + 13, what: String::new(), help: Vec::new() };
        }
        Self::new(format!("could not write the output: {error}"))
    }
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        let trouble = Self::new(error.to_string());
        match &error {
            ClientError::Unreachable { .. } => trouble.help("see whether it runs: longhaul server status"),
            ClientError::Refused { detail, .. } => refusal(trouble, detail),
            ClientError::Strange { .. } => {
                trouble.help("if this client and the server differ in version: longhaul server restart")
            }
            ClientError::BadAddress { .. } => {
                trouble.help("it comes from --server, LONGHAUL_SERVER or the config file")
            }
            ClientError::NoServer { .. } => trouble.help("start one: longhaul server start"),
            ClientError::InsideRun { .. } => {
                trouble.help("a run never starts a second server; name the outer one: --server ADDR:PORT")
            }
            ClientError::DataDir { .. } => trouble.help("name another one: --data-dir DIR"),
            ClientError::Launch(LaunchError::Prepare { .. }) => {
                trouble.help("the data directory can be another one: --data-dir DIR")
            }
            ClientError::Launch(_) => trouble.help("see what it says in the foreground: longhaul serve"),
        }
    }
}

fn refusal(trouble: Trouble, detail: &longhaul_api::error::ErrorDetail) -> Trouble {
    let facts = |name: &str| detail.facts.get(name);
    let list = |name: &str| {
        let items = facts(name)?.as_array()?;
        Some(items.iter().filter_map(|item| item.as_str()).collect::<Vec<_>>().join(", "))
    };
    match detail.code.as_str() {
        "unknown_harness" => {
            let trouble = match list("harnesses") {
                Some(names) if !trouble.what.contains(&names) => trouble.help(format!("there are: {names}")),
                Some(_) | None => trouble,
            };
            trouble.help("to run a command: longhaul run -- COMMAND ARGS…")
        }
        "harness_missing" => match facts("install").and_then(|install| install.as_str()) {
            Some(install) if !trouble.what.contains(install) => trouble.help(format!("install it: {install}")),
            Some(_) | None => trouble,
        }
        .status(127),
        "unauthorized" => trouble.help("give a token: --token, LONGHAUL_TOKEN, or token_file in the config file"),
        "token_expired" => trouble.help("make another one: longhaul token create"),
        "run_not_ended" => trouble.help("both at once: longhaul rm -f RUN"),
        "run_conflict" => trouble.help("take another --id, or leave it out"),
        "saturated" | "queue_full" | "store_busy" => trouble.help("try again in a moment; see: longhaul ps"),
        "disk_low" => trouble.help("see: longhaul server status   erase old runs: longhaul prune --older-than 7d"),
        "store_full" => trouble.help("make room on the disk of the data directory; see: longhaul server status"),
        "internal" | "store_failed" => {
            trouble.help(format!("request {}; the server's log: longhaul server logs", detail.request_id))
        }
        _ => trouble,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        let problem = longhaul_api::Problem::new(longhaul_api::ErrorCode::UnknownHarness, "there is no harness \"ls\"")
            .fact("harnesses", vec!["claude", "demo"]);
        let body: longhaul_api::ErrorBody = serde_json::from_value(problem.body("r")).unwrap();
        let trouble = Trouble::from(ClientError::Refused { status: 404, detail: Box::new(body.error) });
        assert_eq!(
            trouble.to_string(),
            "longhaul: there is no harness \"ls\"\n  there are: claude, demo\n  to run a command: longhaul run -- COMMAND ARGS…"
        );
        assert_eq!(trouble.status, 125);
    }
}
