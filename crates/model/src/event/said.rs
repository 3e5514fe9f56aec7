//! The `data` of what a process and its agent say: output, messages, tools, sessions, verdicts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::Failure;
use crate::id::SessionId;

/// Which of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

impl OutputStream {
    /// `stdout` or `stderr`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// `output.line`: bytes as they came. Text where they are UTF-8, else base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputLine {
    /// Where it was written.
    pub stream: OutputStream,
    /// The line without its newline, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The line without its newline, base64, if it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_b64: Option<String>,
    /// Whether a newline followed these bytes.
    pub eol: bool,
    /// The piece's number, from 0, where a line is longer than the limit of a piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<u32>,
}

impl OutputLine {
    /// A line, or a piece of one, from its bytes without the newline.
    pub fn from_bytes(stream: OutputStream, bytes: &[u8], eol: bool, part: Option<u32>) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { stream, text: Some(text.to_owned()), bytes_b64: None, eol, part },
            Err(_) => Self { stream, text: None, bytes_b64: Some(STANDARD.encode(bytes)), eol, part },
        }
    }

    /// The bytes that were written, without the newline.
    ///
    /// # Errors
    /// The decoder's message if `bytes_b64` is not base64.
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        match (&self.text, &self.bytes_b64) {
            (Some(text), _) => Ok(text.clone().into_bytes()),
            (None, Some(b64)) => STANDARD.decode(b64).map_err(|e| e.to_string()),
            (None, None) => Ok(Vec::new()),
        }
    }
}

/// `message.delta`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageDelta {
    /// The message it belongs to.
    pub message_id: String,
    /// The tool call of the main agent that a subagent works for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_call_id: Option<String>,
    /// The text to append.
    pub text: String,
}

/// `message.completed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageCompleted {
    /// The message.
    pub message_id: String,
    /// The tool call of the main agent that a subagent works for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_call_id: Option<String>,
    /// The whole text; deltas of the same message are part of it, not besides it.
    pub text: String,
}

/// `message.discarded`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageDiscarded {
    /// The message whose deltas no longer count.
    pub message_id: String,
    /// Why, in the source's words.
    pub reason: String,
}

/// `reasoning.delta`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasoningDelta {
    /// The message it leads to.
    pub message_id: String,
    /// The tool call of the main agent that a subagent works for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_call_id: Option<String>,
    /// The text to append.
    pub text: String,
}

/// `tool.called`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCalled {
    /// The call.
    pub call_id: String,
    /// The tool's name.
    pub name: String,
    /// Its arguments as the model gave them.
    pub arguments: serde_json::Value,
    /// The tool call of the main agent that a subagent works for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_call_id: Option<String>,
}

/// `tool.completed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCompleted {
    /// The call.
    pub call_id: String,
    /// What it gave back.
    pub result: serde_json::Value,
    /// Whether the tool itself says it failed.
    pub is_error: bool,
}

/// `session.bound`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionBound {
    /// Our own session id, if the run has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// The source's own session id.
    pub source_session_id: String,
}

/// `verdict.reported`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictReported {
    /// Whether the source says that its work succeeded.
    pub success: bool,
    /// What went wrong, where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}
