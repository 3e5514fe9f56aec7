//! Where calls go: what the configuration says of one upstream. Never the key itself.

use serde::{Deserialize, Serialize};

/// How an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// OpenAI's Chat Completions, as many others have it too.
    OpenAi,
    /// Anthropic's Messages.
    Anthropic,
}

impl Dialect {
    /// The wire name: `openai` or `anthropic`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }

    /// Parses a wire name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::OpenAi, Self::Anthropic].into_iter().find(|dialect| dialect.as_str() == text)
    }
}

/// A configured endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its name: the second part of a model id.
    pub name: String,
    /// How it speaks.
    pub dialect: Dialect,
    /// Where it is, as the official SDKs take it: with `/v1` for OpenAI's, without for Anthropic's.
    pub base_url: String,
    /// The variable that holds its key; without one no key is sent.
    pub key_env: Option<String>,
    /// Models that are known, the first of them the one that is meant where none is named.
    pub models: Vec<String>,
    /// Tokens that an answer may have.
    pub max_tokens: Option<u64>,
}

impl Upstream {
    /// The address that a call is posted to.
    pub fn url(&self) -> String {
        let base = self.base_url.trim_end_matches('/');
        match self.dialect {
            Dialect::OpenAi => format!("{base}/chat/completions"),
            Dialect::Anthropic if base.ends_with("/v1") => format!("{base}/messages"),
            Dialect::Anthropic => format!("{base}/v1/messages"),
        }
    }
}
