//! A run retold to an agent that cannot go on with its own session.
//!
//! Job: a bounded text of what the events of a run tell: what was asked, said, called and answered, and what is not
//! known. Pure. Never: leaves anything out without saying so; shows more of one part than [`limits::RETOLD_PART_BYTES_MAX`].

use std::collections::VecDeque;

use longhaul_model::event::EventData;
use longhaul_model::limits;

/// What an agent is told that goes on with its own session.
pub(crate) const CONTINUE: &str = "Your process was interrupted before it had finished, and was started again. Go on \
    where you left off. A tool call that was under way may have taken effect, in part or wholly, or not at all: check \
    before you do it again.";

/// What an agent is told that goes on with an ended run, where the caller says nothing.
pub(crate) const GO_ON: &str = "Go on where you left off.";

/// A run as far as it was read.
#[derive(Debug, Default)]
pub(crate) struct Story {
    parts: VecDeque<Part>,
    bytes: usize,
    left_out: u64,
}

#[derive(Debug)]
struct Part {
    /// The message or call it is about.
    id: String,
    text: String,
    /// A message whose end is not there yet, or a call.
    open: bool,
}

impl Story {
    /// Takes the next event in.
    pub(crate) fn add(&mut self, event: &EventData) {
        match event {
            EventData::MessageDelta(d) if d.parent_call_id.is_none() => {
                let open = self.parts.iter_mut().rev().find(|part| part.open && part.id == d.message_id);
                if let Some(part) = open {
                    let before = part.text.len();
                    // One byte over says that there was more.
                    let room = (limits::RETOLD_PART_BYTES_MAX + 64).saturating_sub(before);
                    part.text.push_str(&d.text[..d.text.floor_char_boundary(room)]);
                    self.bytes += part.text.len() - before;
                } else {
                    self.push(&d.message_id, format!("You said: {}", d.text), true);
                }
            }
            EventData::MessageCompleted(d) if d.parent_call_id.is_none() => {
                self.remove(&d.message_id);
                self.push(&d.message_id, format!("You said: {}", d.text), false);
            }
            EventData::MessageDiscarded(d) => self.remove(&d.message_id),
            EventData::ToolCalled(d) if d.parent_call_id.is_none() => {
                let text = format!("You called the tool {} with {}", d.name, cut(&d.arguments.to_string()));
                self.push(&d.call_id, text, true);
            }
            EventData::ToolCompleted(d) => {
                if let Some(part) = self.parts.iter_mut().rev().find(|part| part.open && part.id == d.call_id) {
                    part.open = false;
                    let result = d.result.as_str().map_or_else(|| d.result.to_string(), str::to_owned);
                    let how = if d.is_error { "It failed with" } else { "It gave" };
                    let text = format!("\n{how}: {}", cut(&result));
                    part.text.push_str(&text);
                    self.bytes += text.len();
                    self.fit();
                }
            }
            _ => {}
        }
    }

    fn push(&mut self, id: &str, text: String, open: bool) {
        let text = cut(&text);
        self.bytes += text.len();
        self.parts.push_back(Part { id: id.to_owned(), text, open });
        self.fit();
    }

    /// What came first goes first.
    fn fit(&mut self) {
        while self.bytes > limits::RETOLD_BYTES_MAX && self.parts.len() > 1 {
            self.bytes -= self.parts.pop_front().map_or(0, |part| part.text.len());
            self.left_out += 1;
        }
    }

    fn remove(&mut self, id: &str) {
        let bytes = &mut self.bytes;
        self.parts.retain(|part| {
            let gone = part.id == id && part.text.starts_with("You said: ");
            *bytes -= if gone { part.text.len() } else { 0 };
            !gone
        });
    }

    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The text, with what was asked at first and what is asked now.
    pub(crate) fn tell(&self, asked: Option<&str>, now: &str) -> String {
        let mut out = String::new();
        if let Some(asked) = asked {
            out.push_str(
                "You were given the task below and were interrupted. Your own memory of it is lost; what is known of \
                 your work stands after it.\n\n--- The task\n",
            );
            out.push_str(asked);
        } else {
            out.push_str("You worked on something before. Your own memory of it is lost; what is known of it is this.");
        }
        out.push_str("\n\n--- What is known of your work\n");
        if self.left_out > 0 {
            out.push('[');
            out.push_str(&self.left_out.to_string());
            out.push_str(" earlier messages and tool calls are left out here]\n");
        }
        if self.parts.is_empty() {
            out.push_str("[Nothing. You may have begun all the same.]\n");
        }
        for part in &self.parts {
            out.push_str(&cut_at(&part.text, 2 * limits::RETOLD_PART_BYTES_MAX + 128));
            if part.open && part.text.starts_with("You called ") {
                out.push_str("\nIts result is not known: it may have taken effect, in part or wholly, or not at all.");
            }
            out.push('\n');
        }
        out.push_str("\n--- Now\n");
        out.push_str(now);
        out
    }
}

fn cut(text: &str) -> String {
    cut_at(text, limits::RETOLD_PART_BYTES_MAX)
}

/// At most so many bytes of a text, and how many are missing.
fn cut_at(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let kept = &text[..text.floor_char_boundary(bytes_max)];
    format!("{kept} [{} more bytes are left out here]", text.len() - kept.len())
}

#[cfg(test)]
mod tests {
    use longhaul_model::event::{MessageCompleted, MessageDelta, MessageDiscarded, ToolCalled, ToolCompleted};

    use super::*;

    fn delta(id: &str, text: &str) -> EventData {
        MessageDelta { message_id: id.into(), parent_call_id: None, text: text.into() }.into()
    }

    fn call(id: &str, command: &str) -> EventData {
        let arguments = serde_json::json!({ "command": command });
        ToolCalled { call_id: id.into(), name: "sh".into(), arguments, parent_call_id: None }.into()
    }

    fn result(id: &str, result: &str) -> EventData {
        ToolCompleted { call_id: id.into(), result: result.into(), is_error: false }.into()
    }

    fn story(events: &[EventData]) -> Story {
        let mut story = Story::default();
        for event in events {
            story.add(event);
        }
        story
    }

    #[test]
    fn it_tells_what_was_said_and_done_and_what_is_not_known() {
        let whole = MessageCompleted { message_id: "b".into(), parent_call_id: None, text: "I look.".into() };
        let gone = MessageDiscarded { message_id: "a".into(), reason: "x".into() };
        let told = story(&[
            delta("a", "lost"),
            delta("b", "I "),
            gone.into(),
            whole.into(),
            call("1", "ls"),
            result("1", "README"),
            call("2", "rm -r x"),
        ])
        .tell(Some("do it"), "go on");
        let (before, known) = told.split_once("--- What is known of your work\n").unwrap();
        assert!(before.ends_with("--- The task\ndo it\n\n"), "{before}");
        assert_eq!(
            known,
            "You said: I look.\nYou called the tool sh with {\"command\":\"ls\"}\nIt gave: README\n\
             You called the tool sh with {\"command\":\"rm -r x\"}\n\
             Its result is not known: it may have taken effect, in part or wholly, or not at all.\n\n--- Now\ngo on"
        );
    }

    #[test]
    fn it_is_bounded_and_says_what_is_left_out() {
        let long = "ü".repeat(50_000);
        let mut events = vec![delta("m", &long), delta("m", &long)];
        for n in 0..100 {
            events.push(call(&n.to_string(), &long));
            events.push(result(&n.to_string(), &long));
        }
        let told = story(&events).tell(None, "go on");
        assert!(told.len() < limits::RETOLD_BYTES_MAX + 4096, "{}", told.len());
        assert!(told.contains("earlier messages and tool calls are left out here]"), "{}", &told[..300]);
        assert!(told.contains("more bytes are left out here]"));
        let one = story(&events[..2]).tell(None, "go on");
        assert!(one.len() < 2 * limits::RETOLD_PART_BYTES_MAX, "{}", one.len());
    }
}
