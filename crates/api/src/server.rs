//! What a server says about itself in its data directory and at `/livez`.

use serde::{Deserialize, Serialize};

/// `server.json` in the data directory: how to find the server and how to know that it is the one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// The address really bound, `ADDR:PORT`.
    pub address: String,
    /// Its process.
    pub pid: i32,
    /// Its version.
    pub version: String,
    /// A random text; `/livez` proves that whoever listens knows it.
    pub nonce: String,
}

/// The answer of `/livez?challenge=TEXT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveProof {
    /// `ok`.
    pub status: String,
    /// The server's version.
    pub version: String,
    /// sha-256 over nonce, a colon and the challenge, in hex, if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}
