//! The lines of the caller: its own words as JSON, and between them the data of the upstream's events, each after
//! [`DATA`] on a line of its own.
//!
//! ```text
//! retry*  ──►  unsent | refused                      nothing was answered
//!         └─►  open ──► data* ──► end                an answer, whole or broken
//! ```

use serde::{Deserialize, Serialize};

use super::upstream::Dialect;

/// What a line with an event's data begins with.
pub const DATA: &str = "data: ";

/// Bytes of the data of one event; more breaks the answer. Below the longest line that is read whole.
pub const DATA_BYTES_MAX: usize = 8 << 20;

/// The caller's own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Line {
    /// A try failed before anything was answered, and there will be another.
    Retry {
        /// The upstream.
        upstream: String,
        /// The number of the try that failed, from 1.
        attempt: u32,
        /// Tries at most.
        max: u32,
        /// Why it failed.
        why: String,
        /// Milliseconds until the next.
        delay_ms: u64,
    },
    /// There was no call, or nothing that is an answer.
    Unsent {
        /// The upstream.
        upstream: String,
        /// Why.
        why: String,
        /// The variable that should hold the key and does not, where that is why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lacks: Option<String>,
    },
    /// The upstream refused.
    Refused {
        /// The upstream.
        upstream: String,
        /// Its status.
        status: u16,
        /// Its words.
        why: String,
        /// The variable that the key came from; without one no key was sent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_env: Option<String>,
    },
    /// The upstream answers with a stream.
    Open {
        /// The upstream.
        upstream: String,
        /// How it speaks.
        dialect: Dialect,
        /// Its status.
        status: u16,
        /// Its name for the call, to ask it about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
    },
    /// The stream is over.
    End {
        /// What broke it; absent where it was ended by the upstream.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        broken: Option<String>,
    },
}

/// Whether an event's data is the last word of an answer, after which nothing is waited for.
pub fn is_last(dialect: Dialect, data: &str) -> bool {
    match dialect {
        Dialect::OpenAi => data.trim() == "[DONE]",
        Dialect::Anthropic => {
            let says_stop = |value: serde_json::Value| value["type"] == "message_stop";
            data.contains("message_stop") && serde_json::from_str(data).is_ok_and(says_stop)
        }
    }
}
