//! The agent's tool calls: each is told of once, when its arguments are known, and ends once.
//!
//! Job: agents announce a call before its arguments are there, or only when they ask for it, or only when it is over.
//! Owns: which calls are known, and how far. Never: grows; what it forgets is told of at once.
//!
//! ```text
//! seen ──arguments, a question, or the end──► told ──status completed or failed──► over
//! ```

use longhaul_model::event::{EventData, ToolCalled, ToolCompleted};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::shape::text;

/// Calls that are remembered, the latest ones: late news of an older one is passed over.
const KNOWN_MAX: usize = 32;

/// Calls whose arguments are waited for.
const SEEN_MAX: usize = 4;

/// Bytes of the texts that are remembered of such a call, in a saved state at most twice as many.
const NAME_BYTES_MAX: usize = 64;
/// See [`NAME_BYTES_MAX`].
const TITLE_BYTES_MAX: usize = 128;

/// A call whose arguments are waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    #[serde(rename = "i")]
    id: String,
    #[serde(rename = "n")]
    name: String,
    #[serde(rename = "t")]
    title: String,
}

/// How far a call is that was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    #[serde(rename = "t")]
    Told,
    #[serde(rename = "o")]
    Over,
}

/// The calls of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Calls {
    #[serde(rename = "s", default, skip_serializing_if = "Vec::is_empty")]
    seen: Vec<Seen>,
    /// By the checksum of the id.
    #[serde(rename = "k", default, skip_serializing_if = "Vec::is_empty")]
    known: Vec<(u32, Kind, Stage)>,
    /// The name of the one that was told of last: a question mostly follows.
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    last: Option<(u32, String)>,
}

/// The kind of a call, as far as permissions know it: by its place in [`KINDS`].
type Kind = u8;

const KINDS: [&str; 10] =
    ["other", "read", "edit", "delete", "move", "search", "execute", "think", "fetch", "switch_mode"];

fn kind_of(call: &Value) -> Option<Kind> {
    let name = text(call, "kind")?;
    Some(KINDS.iter().position(|kind| *kind == name).unwrap_or(0) as Kind)
}

/// The arguments in a call's news, once they are there. A directory alone are none: so opencode begins.
fn arguments(call: &Value) -> Option<&Value> {
    let input = call.get("rawInput").filter(|input| !input.is_null())?;
    let there = input.as_object().is_none_or(|members| members.keys().any(|name| name != "cwd"));
    there.then_some(input)
}

/// The name of the tool that an agent tells: in the protocol's own member, or in its own place.
fn tool_name(call: &Value) -> Option<&str> {
    let meta = call.get("_meta");
    let own = || meta.and_then(|meta| text(meta, "toolName"));
    let claude = || meta.and_then(|meta| text(meta.get("claudeCode")?, "toolName"));
    text(call, "name").or_else(own).or_else(claude).filter(|name| !name.trim().is_empty())
}

fn cut(text: &str, bytes_max: usize) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain[..plain.floor_char_boundary(bytes_max)].to_owned()
}

impl Calls {
    /// News of a call, by `tool_call` or by `tool_call_update`: what it tells.
    pub(super) fn news(&mut self, id: &str, call: &Value, first: bool, out: &mut Vec<EventData>) {
        let status = text(call, "status").unwrap_or_default();
        let ends = matches!(status, "completed" | "failed");
        // Who runs it from the start has asked nobody, and will tell no more of it.
        let begins = first && status == "in_progress";
        if ends || begins || arguments(call).is_some() {
            self.tell(id, call, out);
        } else {
            self.see(id, call, out);
        }
        if ends && self.stage(id) == Some(Stage::Told) {
            self.set(id, None, Stage::Over);
            let result = call.get("rawOutput").filter(|output| !output.is_null());
            let result = result.cloned().unwrap_or_else(|| content(call));
            out.push(ToolCompleted { call_id: id.to_owned(), result, is_error: status == "failed" }.into());
        }
    }

    /// The agent asks whether it may make this call.
    pub(super) fn asked(&mut self, id: &str, call: &Value, out: &mut Vec<EventData>) {
        let known = self.seen.iter().any(|seen| seen.id == id);
        if arguments(call).is_some() || !known {
            self.tell(id, call, out);
        }
    }

    /// The kind that a call was seen with, and its name.
    pub(super) fn kind(&self, id: &str, call: &Value) -> &'static str {
        let sum = sum(id);
        let known = || self.known.iter().find(|(known, ..)| *known == sum).map(|(_, kind, _)| *kind);
        KINDS[usize::from(kind_of(call).or_else(known).unwrap_or(0)).min(KINDS.len() - 1)]
    }

    /// The name of the tool.
    pub(super) fn name(&self, id: &str, call: &Value) -> String {
        let seen = || self.seen.iter().find(|seen| seen.id == id).map(|seen| seen.name.clone());
        let last = || self.last.iter().find(|(last, _)| *last == sum(id)).map(|(_, name)| name.clone());
        let name = tool_name(call).map(str::to_owned).or_else(seen).or_else(last);
        name.unwrap_or_else(|| self.kind(id, call).to_owned())
    }

    /// The turn is over: what was waited for will not come.
    pub(super) fn end(&mut self, out: &mut Vec<EventData>) {
        for seen in std::mem::take(&mut self.seen) {
            self.tell_seen(&seen, out);
        }
    }

    fn stage(&self, id: &str) -> Option<Stage> {
        let sum = sum(id);
        self.known.iter().find(|(known, ..)| *known == sum).map(|(.., stage)| *stage)
    }

    fn set(&mut self, id: &str, kind: Option<Kind>, stage: Stage) {
        let sum = sum(id);
        if let Some(known) = self.known.iter_mut().find(|(known, ..)| *known == sum) {
            (known.1, known.2) = (kind.unwrap_or(known.1), stage);
            return;
        }
        if self.known.len() == KNOWN_MAX {
            let over = self.known.iter().position(|(.., stage)| *stage == Stage::Over);
            self.known.remove(over.unwrap_or(0));
        }
        self.known.push((sum, kind.unwrap_or(0), stage));
    }

    fn see(&mut self, id: &str, call: &Value, out: &mut Vec<EventData>) {
        if self.stage(id).is_some() {
            return;
        }
        let title = text(call, "title").map(|title| cut(title, TITLE_BYTES_MAX));
        let name = tool_name(call).or_else(|| text(call, "kind")).map(|name| cut(name, NAME_BYTES_MAX));
        if let Some(seen) = self.seen.iter_mut().find(|seen| seen.id == id) {
            seen.title = title.unwrap_or(std::mem::take(&mut seen.title));
            return;
        }
        if self.seen.len() == SEEN_MAX {
            let oldest = self.seen.remove(0);
            self.tell_seen(&oldest, out);
        }
        let name = name.unwrap_or_else(|| KINDS[0].to_owned());
        self.seen.push(Seen { id: id.to_owned(), name, title: title.unwrap_or_default() });
    }

    fn tell(&mut self, id: &str, call: &Value, out: &mut Vec<EventData>) {
        if self.stage(id).is_some() {
            return;
        }
        let seen = self.seen.iter().position(|seen| seen.id == id).map(|at| self.seen.remove(at));
        let name = tool_name(call).map(str::to_owned).or_else(|| seen.as_ref().map(|seen| seen.name.clone()));
        let name = name.unwrap_or_else(|| KINDS[usize::from(kind_of(call).unwrap_or(0))].to_owned());
        let title = text(call, "title").map(str::to_owned).or_else(|| seen.map(|seen| seen.title));
        let arguments = arguments(call).cloned().unwrap_or_else(|| json!({ "title": title.unwrap_or_default() }));
        let kind = kind_of(call).or_else(|| KINDS.iter().position(|kind| *kind == name).map(|at| at as Kind));
        self.set(id, kind, Stage::Told);
        self.last = Some((sum(id), cut(&name, NAME_BYTES_MAX)));
        out.push(ToolCalled { call_id: id.to_owned(), name, arguments, parent_call_id: None }.into());
    }

    fn tell_seen(&mut self, seen: &Seen, out: &mut Vec<EventData>) {
        self.set(&seen.id, None, Stage::Told);
        let (call_id, name) = (seen.id.clone(), seen.name.clone());
        let arguments = json!({ "title": seen.title });
        out.push(ToolCalled { call_id, name, arguments, parent_call_id: None }.into());
    }
}

/// The checksum that stands for a call's id.
pub(super) fn sum(id: &str) -> u32 {
    crc32fast::hash(id.as_bytes())
}

/// What a call gave, where it tells no raw output: its text, else its blocks as they are, with what a terminal told.
fn content(call: &Value) -> Value {
    let blocks = call.get("content").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let texts: Option<Vec<&str>> =
        blocks.iter().map(|block| block.get("content").and_then(|content| text(content, "text"))).collect();
    let meta = call.get("_meta");
    let terminal = meta.and_then(|meta| Some((meta.get("terminal_output_delta")?, meta.get("terminal_exit")?)));
    match (texts, terminal) {
        (_, Some((output, exit))) => json!({ "output": output.get("data"), "exit_code": exit.get("exit_code") }),
        (Some(texts), None) => Value::String(texts.join("\n")),
        (None, None) => Value::Array(blocks.to_vec()),
    }
}
