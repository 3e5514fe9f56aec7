//! The lines of the demo agent.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One line of the demo agent's output, JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line<'a> {
    /// It began.
    Session {
        /// Its session.
        id: Cow<'a, str>,
    },
    /// A piece of reasoning.
    Thought {
        /// The message it leads to.
        message: u32,
        /// The piece.
        text: Cow<'a, str>,
    },
    /// A piece of a message.
    Delta {
        /// The message.
        message: u32,
        /// The piece.
        text: Cow<'a, str>,
    },
    /// A whole message.
    Message {
        /// The message.
        message: u32,
        /// The whole text.
        text: Cow<'a, str>,
    },
    /// A model request failed and is made again; the message it was in starts anew.
    Retry {
        /// The message that was lost.
        message: u32,
        /// Why.
        reason: Cow<'a, str>,
    },
    /// A tool is called.
    Call {
        /// The call.
        id: Cow<'a, str>,
        /// The tool.
        name: Cow<'a, str>,
        /// Its arguments.
        arguments: Value,
    },
    /// A tool call ended.
    Return {
        /// The call.
        id: Cow<'a, str>,
        /// What it gave.
        result: Value,
        /// Whether it failed.
        is_error: bool,
    },
    /// Tokens and money.
    Usage {
        /// Tokens read.
        input: u64,
        /// Tokens written.
        output: u64,
        /// Tokens of reasoning.
        reasoning: u64,
        /// US dollars, from a price list of its own.
        usd: f64,
    },
    /// The end.
    Done {
        /// What went wrong; absent after a success.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Cow<'a, str>>,
    },
}
