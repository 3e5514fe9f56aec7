//! Servers of tools, by the Model Context Protocol, that an agent is given for one run.
//!
//! Never: shows an argument, a variable or a header: each may be a secret. `Debug` gives the names alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
