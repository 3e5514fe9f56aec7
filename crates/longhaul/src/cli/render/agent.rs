//! Messages and reasoning of an agent.
//!
//! Job: text once, whether it comes in pieces, whole, or in pieces and then whole. Owns: what was shown of each message.

use std::collections::BTreeMap;

use longhaul_model::event::{MessageCompleted, MessageDelta, MessageDiscarded, ReasoningDelta};

use super::{Block, Renderer};
use crate::cli::escape::{self, Filter};
use crate::cli::screen::{Ink, Paint};

/// Messages that are not finished.
#[derive(Debug, Default)]
pub(super) struct Messages {
    open: BTreeMap<String, Open>,
    /// The message whose text the cursor stands in.
    current: Option<String>,
    /// Whether stdout has a whole message already, into a pipe.
    any: bool,
}

#[derive(Debug, Default)]
struct Open {
    /// The text so far, as it came.
    text: String,
    filter: Filter,
}

impl Renderer {
    pub(super) fn delta(&mut self, inks: &mut Vec<Ink>, delta: &MessageDelta) {
        if delta.parent_call_id.is_some() {
            return;
        }
        let open = self.messages.open.entry(delta.message_id.clone()).or_default();
        open.text.push_str(&delta.text);
        if self.screen.out_tty {
            let shown = if self.taste.raw { delta.text.clone() } else { open.filter.strip(&delta.text) };
            self.text(inks, &delta.message_id, &shown);
        }
    }

    pub(super) fn completed(&mut self, inks: &mut Vec<Ink>, message: &MessageCompleted) {
        if message.parent_call_id.is_some() {
            self.subagent(inks, &message.text);
            return;
        }
        let mut open = self.messages.open.remove(&message.message_id).unwrap_or_default();
        if !self.screen.out_tty {
            self.whole(inks, &message.text);
            return;
        }
        // What was streamed is a part of the whole; where it is not, the whole is shown and counts.
        let rest = message.text.strip_prefix(&*open.text);
        if rest.is_none() {
            self.end_text(inks);
            open.filter = Filter::default();
        }
        let rest = rest.unwrap_or(&message.text);
        let shown = if self.taste.raw { rest.to_owned() } else { open.filter.strip(rest) };
        self.text(inks, &message.message_id, &shown);
        self.end_text(inks);
    }

    pub(super) fn discarded(&mut self, inks: &mut Vec<Ink>, message: &MessageDiscarded) {
        let shown = self.messages.open.remove(&message.message_id).is_some() && self.screen.out_tty;
        self.end_text(inks);
        let why = escape::one_line(&message.reason);
        if shown {
            self.note(inks, Paint::Yellow, &format!("! the text above does not count: {why}"));
        } else {
            self.detail(inks, &format!("a message was lost: {why}"));
        }
    }

    pub(super) fn reasoning(&mut self, inks: &mut Vec<Ink>, delta: &ReasoningDelta) {
        let wanted = self.screen.out_tty && self.screen.err_tty && !self.taste.quiet;
        if !wanted || delta.parent_call_id.is_some() {
            return;
        }
        let shown = if self.taste.raw { delta.text.clone() } else { self.filters[1].strip(&delta.text) };
        if shown.is_empty() {
            return;
        }
        self.end_text(inks);
        self.begin(inks, Block::Reasoning);
        self.line_open = !shown.ends_with('\n');
        inks.push(Ink::Err(Paint::Dim.on(self.screen.err_colour, &shown).into_bytes()));
    }

    /// Text of messages that nobody will finish any more.
    pub(super) fn flush_messages(&mut self, inks: &mut Vec<Ink>) {
        let open = std::mem::take(&mut self.messages.open);
        self.end_text(inks);
        if !self.screen.out_tty {
            for message in open.values() {
                self.whole(inks, &message.text);
            }
        }
    }

    /// A whole message into a pipe; messages are parted by a blank line, as in `output_text`.
    fn whole(&mut self, inks: &mut Vec<Ink>, text: &str) {
        let mut shown = if self.taste.raw { text.to_owned() } else { escape::strip(text) };
        if shown.is_empty() {
            return;
        }
        if std::mem::replace(&mut self.messages.any, true) {
            shown.insert(0, '\n');
        }
        if !shown.ends_with('\n') {
            shown.push('\n');
        }
        inks.push(Ink::Out(shown.into_bytes()));
    }

    fn text(&mut self, inks: &mut Vec<Ink>, message: &str, shown: &str) {
        if shown.is_empty() {
            return;
        }
        if self.messages.current.as_deref() != Some(message) {
            self.end_text(inks);
            // Two messages in a row are parted like two kinds of things.
            if self.block == Block::Text {
                self.block = Block::Note;
            }
            self.messages.current = Some(message.to_owned());
        }
        self.begin(inks, Block::Text);
        self.line_open = !shown.ends_with('\n');
        inks.push(Ink::Out(shown.as_bytes().to_vec()));
    }

    fn end_text(&mut self, inks: &mut Vec<Ink>) {
        if self.messages.current.take().is_some() {
            self.close_line(inks);
        }
    }

    /// What a subagent says stands aside.
    fn subagent(&mut self, inks: &mut Vec<Ink>, text: &str) {
        if self.taste.quiet {
            return;
        }
        self.begin(inks, Block::Tool);
        for line in escape::strip(text).lines() {
            self.say(inks, Paint::Dim, &format!("  │ {line}"));
        }
    }
}
