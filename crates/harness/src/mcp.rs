//! Servers of tools, by the Model Context Protocol, that an agent is given for one run.
//!
//! Job: what was asked for, and a script for each server that is a command. Most agents would tell a server's variables
//! and arguments on: on a command line, in a frame that is kept, in a log of their own. So they are told of the script.
//! Never: shows an argument, a variable or a header: each may be a secret. `Debug` gives the names alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::plan::PlanFile;
use crate::request::PlanError;

/// The program that runs a server's script.
pub(crate) const SHELL: &str = "/bin/sh";

/// The servers of a request, by their names: letters, digits, `_` and `-`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mcp {
    /// The servers, at least one.
    pub servers: BTreeMap<String, McpServer>,
}

/// How a server is reached.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum McpServer {
    /// It is started by the agent and spoken to over its standard input and output.
    Command {
        /// The program.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// Variables for it alone.
        env: BTreeMap<String, String>,
    },
    /// It listens; streamable HTTP.
    Url {
        /// Where, `http` or `https`.
        url: String,
        /// What each request to it carries.
        headers: BTreeMap<String, String>,
    },
}

impl std::fmt::Debug for Mcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.servers.keys()).finish()
    }
}

/// A server as an agent is told of it.
pub(crate) enum Told<'a> {
    /// A command: [`SHELL`] with the path of this script, which is among the plan's files.
    Script(String),
    /// An address, and the headers that a request to it carries.
    Url(&'a str, &'a BTreeMap<String, String>),
}

impl Mcp {
    /// Each server as an agent is told of it, and the scripts, which are to lie in `files_dir`.
    ///
    /// # Errors
    /// A variable that a script cannot set.
    #[expect(clippy::type_complexity, reason = "names with what they stand for, and files: taken apart at once")]
    pub(crate) fn told(&self, files_dir: &str) -> Result<(Vec<(&str, Told<'_>)>, Vec<PlanFile>), PlanError> {
        let (mut told, mut files) = (Vec::new(), Vec::new());
        for (name, server) in &self.servers {
            told.push((
                &**name,
                match server {
                    McpServer::Url { url, headers } => Told::Url(url, headers),
                    McpServer::Command { command, args, env } => {
                        let file =
                            PlanFile { name: format!("mcp-{name}.sh"), bytes: script(name, command, args, env)? };
                        let path = format!("{files_dir}/{}", file.name);
                        files.push(file);
                        Told::Script(path)
                    }
                },
            ));
        }
        Ok((told, files))
    }
}

/// The refusal of a server that is no command, by an agent that would keep or show its address and its headers.
pub(crate) fn only_commands(harness: &str, name: &str) -> PlanError {
    let message = format!("names server {name} by an address, which {harness} is not told; give a command");
    PlanError::Invalid { field: "mcp", message }
}

/// A script that becomes the server.
fn script(name: &str, command: &str, args: &[String], env: &BTreeMap<String, String>) -> Result<Vec<u8>, PlanError> {
    let mut script = String::new();
    for (variable, value) in env {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !variable.chars().all(plain) || variable.starts_with(|c: char| c.is_ascii_digit()) {
            let message = format!("gives server {name} a variable whose name a shell cannot set");
            return Err(PlanError::Invalid { field: "mcp", message });
        }
        let written = writeln!(script, "export {variable}={}", shell_text(value));
        debug_assert!(written.is_ok(), "a string takes all");
    }
    script.push_str("exec");
    for word in std::iter::once(command).chain(args.iter().map(String::as_str)) {
        script.push(' ');
        script.push_str(&shell_text(word));
    }
    script.push('\n');
    Ok(script.into_bytes())
}

/// `text` as one word of a shell. Source: POSIX, "Single-Quotes".
fn shell_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One server of each kind, each with a secret.
    pub(crate) fn two_servers() -> Mcp {
        let text = |text: &str| text.to_owned();
        let near = McpServer::Command {
            command: text("serve"),
            args: vec![text("it's")],
            env: [(text("TOKEN"), text("s3cr'3t"))].into(),
        };
        let far =
            McpServer::Url { url: text("https://h/mcp"), headers: [(text("Authorization"), text("s3cr3t"))].into() };
        Mcp { servers: [(text("near"), near), (text("far"), far)].into() }
    }

    #[test]
    fn servers_are_read_as_they_were_written() {
        let written = serde_json::to_string(&two_servers()).unwrap();
        assert_eq!(serde_json::from_str::<Mcp>(&written).unwrap(), two_servers());
        assert_eq!(format!("{:?}", two_servers()), r#"{"far", "near"}"#);
    }
}
