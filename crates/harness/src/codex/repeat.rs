//! Messages that Codex prints a second time.
//!
//! When a model's stream breaks after a whole message, Codex keeps the message, prints it, asks again, and the model
//! often says it again: the same text with another id. So after a retry notice a message with the text of one that was
//! printed since the last tool call or the last turn replaces that one. A text that differs stays beside it, since Codex
//! keeps both in its conversation. Source: recorded `failed-event` and the requests that reached the model.

use serde::{Deserialize, Serialize};

/// Messages that are remembered between two tool calls.
const MESSAGES_MAX: usize = 8;

/// A message that was printed: its id, the digest and length of its text, and whether a retry came after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Printed(String, u64, u64, bool);

/// The messages since the last tool call or the last turn.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Repeats(Vec<Printed>);

impl Repeats {
    /// A message is printed; the id of the one that it replaces, if it repeats one.
    pub fn message(&mut self, id: &str, text: &str) -> Option<String> {
        let (digest, length) = (fnv1a(text.as_bytes()), text.len() as u64);
        let same = |p: &Printed| p.3 && p.0 != id && (p.1, p.2) == (digest, length);
        let replaced = self.0.iter().position(same).map(|at| self.0.remove(at).0);
        if self.0.len() == MESSAGES_MAX {
            self.0.remove(0);
        }
        self.0.push(Printed(id.to_owned(), digest, length, false));
        replaced
    }

    /// Codex asks the model again.
    pub fn retry(&mut self) {
        for printed in &mut self.0 {
            printed.3 = true;
        }
    }

    /// What was printed so far can no longer be repeated.
    pub fn settle(&mut self) {
        self.0.clear();
    }
}

/// The 64-bit FNV-1a digest: stable over versions, which the standard library's hasher is not.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
