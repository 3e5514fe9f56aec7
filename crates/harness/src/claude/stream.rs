//! Which text blocks were shown and not yet confirmed.
//!
//! Claude shows a text block as it grows (`stream_event`) and then once whole (`assistant`). A block that was shown and
//! never came whole is lost: the answer starts anew after a retry. The main agent and each subagent have a lane of
//! their own, told apart by the tool call that a subagent works for.
//!
//! Owns: the ids of messages: the source's message id, a slash, the block's index. Bounded: so many lanes, so many
//! blocks of each, ids of bounded length.

use longhaul_model::event::{EventData, MessageDiscarded};
use serde::{Deserialize, Serialize};

/// Lanes that are remembered; the longest silent one is forgotten first.
const LANES_MAX: usize = 8;

/// Blocks of one message that are streamed and not yet confirmed; in all recorded runs it is one.
const BLOCKS_MAX: usize = 8;

/// The highest index a block may have, inclusive; keeps the state small.
pub(super) const INDEX_MAX: u64 = 99_999;

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// Text of the answer.
    #[serde(rename = "t")]
    Text,
    /// Reasoning.
    #[serde(rename = "r")]
    Reasoning,
    /// A tool call or anything else.
    #[serde(rename = "o")]
    Other,
}

/// A streamed block that did not come whole yet: its index, its kind, and whether anything of it was shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Block(u64, Kind, bool);

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Lane {
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    #[serde(rename = "m")]
    message: String,
    #[serde(rename = "n")]
    next: u64,
    #[serde(rename = "b")]
    blocks: Vec<Block>,
}

/// The lanes, the one that spoke last at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Lanes(Vec<Lane>);

/// A block that came whole.
pub(super) struct Whole {
    /// Its message id.
    pub id: String,
    /// Whether it, or a part of it, was shown before.
    pub shown: bool,
}

fn id_of(message: &str, index: u64) -> String {
    format!("{message}/{index}")
}

impl Lane {
    fn lose(&mut self, reason: &str, out: &mut Vec<EventData>) {
        for Block(index, kind, shown) in self.blocks.drain(..) {
            if shown && kind == Kind::Text {
                let message_id = id_of(&self.message, index);
                out.push(MessageDiscarded { message_id, reason: reason.to_owned() }.into());
            }
        }
    }

    fn turn_to(&mut self, message: &str, reason: &str, out: &mut Vec<EventData>) {
        if self.message != message {
            self.lose(reason, out);
            message.clone_into(&mut self.message);
            self.next = 0;
        }
    }
}

impl Lanes {
    /// The lane of `parent`, moved to the end; a new one if it is not known.
    fn lane(&mut self, parent: Option<&str>) -> &mut Lane {
        let lane = match self.0.iter().position(|l| l.parent.as_deref() == parent) {
            Some(at) => self.0.remove(at),
            None => Lane { parent: parent.map(str::to_owned), ..Lane::default() },
        };
        if self.0.len() >= LANES_MAX {
            // The main agent's lane stays: its text is the answer.
            let oldest = self.0.iter().position(|l| l.parent.is_some()).unwrap_or(0);
            self.0.remove(oldest);
        }
        self.0.push(lane);
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    /// A message begins to stream.
    pub fn begin(&mut self, parent: Option<&str>, message: &str, out: &mut Vec<EventData>) {
        let lane = self.lane(parent);
        lane.lose("the answer starts anew", out);
        lane.turn_to(message, "", out);
    }

    /// A block of the streamed message begins; `false` if no message does stream.
    pub fn open(&mut self, parent: Option<&str>, index: u64, kind: Kind) -> bool {
        let lane = self.lane(parent);
        if lane.message.is_empty() {
            return false;
        }
        lane.next = lane.next.max(index + 1);
        if lane.blocks.len() == BLOCKS_MAX {
            lane.blocks.remove(0);
        }
        lane.blocks.push(Block(index, kind, false));
        true
    }

    /// A piece of a block; the block's message id, if the block is known and of this kind.
    pub fn show(&mut self, parent: Option<&str>, index: u64, kind: Kind) -> Option<String> {
        let lane = self.lane(parent);
        let block = lane.blocks.iter_mut().rev().find(|b| b.0 == index && b.1 == kind)?;
        block.2 = true;
        Some(id_of(&lane.message, index))
    }

    /// A block came whole: the streamed one of its kind that is not yet confirmed, else the next of its message.
    pub fn confirm(&mut self, parent: Option<&str>, message: &str, kind: Kind, out: &mut Vec<EventData>) -> Whole {
        let lane = self.lane(parent);
        lane.turn_to(message, "another answer took its place", out);
        if let Some(at) = lane.blocks.iter().position(|b| b.1 == kind) {
            let Block(index, _, shown) = lane.blocks.remove(at);
            return Whole { id: id_of(message, index), shown };
        }
        let index = lane.next;
        lane.next = (index + 1).min(INDEX_MAX);
        Whole { id: id_of(message, index), shown: false }
    }

    /// What was shown and not confirmed is lost.
    pub fn lose(&mut self, parent: Option<&str>, reason: &str, out: &mut Vec<EventData>) {
        self.lane(parent).lose(reason, out);
    }
}
