//! How far a conversation with Pi is, and which messages it has taken.
//!
//! Pi names no message that it takes: it takes them in the order in which it accepted them. It tells an end of its work
//! before it tells that it tries again, so after each end it is asked how it is, and rests when it then does nothing.
//!
//! ```text
//! Begun ──it starts──► Works ──an end──► Asked ──it does nothing──► Rests ──it starts──► Works
//!                        ▲                 └──it tries again──► Retries ──it starts──► Works
//! ```

use longhaul_model::event::{EventData, InputDelivered};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::frames;
use crate::channel::Reply;
use crate::shape::{count, is_true};

/// Messages that are remembered as accepted and not taken; more may not be on their way.
const SENT_MAX: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Stage {
    #[default]
    #[serde(rename = "b")]
    Begun,
    #[serde(rename = "w")]
    Works,
    #[serde(rename = "a")]
    Asked,
    #[serde(rename = "t")]
    Retries,
    #[serde(rename = "r")]
    Rests,
}

/// The conversation.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Talk {
    #[serde(rename = "g", default)]
    stage: Stage,
    /// What it accepted and has not taken, oldest first; the prompt has no name.
    #[serde(rename = "q", default, skip_serializing_if = "Vec::is_empty")]
    sent: Vec<String>,
    /// How often it was asked how it is.
    #[serde(rename = "a", default)]
    asked: u32,
}

impl Talk {
    pub(super) fn at_rest(&self) -> bool {
        self.stage == Stage::Rests
    }

    /// Whether a message is taken as one now: not between an end and what follows it.
    pub(super) fn hears(&self) -> bool {
        matches!(self.stage, Stage::Works | Stage::Rests)
    }

    pub(super) fn starts(&mut self) {
        self.stage = Stage::Works;
    }

    pub(super) fn retries(&mut self) {
        self.stage = Stage::Retries;
    }

    /// It ended, or it may have done what it was asked without a turn.
    pub(super) fn asks(&mut self, replies: &mut Vec<Reply>) {
        self.stage = Stage::Asked;
        self.asked = self.asked.saturating_add(1);
        replies.push(Reply::Frame(frames::rest(self.asked)));
    }

    /// It made its context shorter: what it was doing before may be over by now.
    pub(super) fn compacted(&mut self, replies: &mut Vec<Reply>) {
        if self.stage == Stage::Asked {
            self.asks(replies);
        }
    }

    /// It was told a text that it could not take.
    pub(super) fn fails(&mut self) {
        self.stage = Stage::Rests;
    }

    /// It accepted a message, or the prompt.
    pub(super) fn accepts(&mut self, input: Option<&str>, command: bool, replies: &mut Vec<Reply>) {
        if self.sent.len() == SENT_MAX {
            self.sent.remove(0);
        }
        self.sent.push(input.unwrap_or_default().to_owned());
        if command && self.stage != Stage::Works {
            self.asks(replies);
        } else if self.stage == Stage::Rests {
            self.stage = Stage::Begun;
        }
    }

    /// A message of people begins in its conversation.
    pub(super) fn takes(&mut self, out: &mut Vec<EventData>) {
        if !self.sent.is_empty() {
            let input_id = self.sent.remove(0);
            if !input_id.is_empty() {
                out.push(InputDelivered { input_id }.into());
            }
        }
    }

    /// How it is, as it says. What it has accepted and will not tell of, it has dealt with.
    pub(super) fn is(&mut self, id: &str, state: &Value, out: &mut Vec<EventData>) {
        let current = id.strip_prefix(frames::REST) == Some(&*self.asked.to_string());
        if self.stage != Stage::Asked || !current || is_true(state, "isCompacting") {
            return;
        }
        if is_true(state, "isStreaming") || count(state, "pendingMessageCount").is_some_and(|waiting| waiting > 0) {
            self.stage = Stage::Works;
            return;
        }
        self.stage = Stage::Rests;
        for input_id in std::mem::take(&mut self.sent).into_iter().filter(|id| !id.is_empty()) {
            out.push(InputDelivered { input_id }.into());
        }
    }
}
