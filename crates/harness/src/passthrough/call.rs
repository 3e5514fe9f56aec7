//! What the caller is told on its standard input: where to call, how, with what. Never the key.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::upstream::Dialect;

/// A call as one JSON document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The upstream's name, for messages.
    pub upstream: String,
    /// How it speaks.
    pub dialect: Dialect,
    /// Where the body is posted.
    pub url: String,
    /// The variable that holds the key; none is sent without it.
    pub key_env: Option<String>,
    /// The body.
    pub body: Value,
}

impl Call {
    /// The document's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// A call from such bytes.
    ///
    /// # Errors
    /// They are none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}
