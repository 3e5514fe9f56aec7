//! What is between the agent and people: its questions, their answers and messages.

use longhaul_model::event::{ApprovalAnswered, ApprovalRequested, Decision};
use longhaul_model::{Event, EventData};

use super::Renderer;
use super::tool::about;
use crate::cli::escape;
use crate::cli::pick::short;
use crate::cli::screen::{Ink, Paint, cut};

impl Renderer {
    pub(super) fn talk(&mut self, inks: &mut Vec<Ink>, event: &Event) {
        match &event.data {
            EventData::ApprovalRequested(d) => {
                self.asks(inks, d);
                let run = short(&event.run_id);
                self.detail(
                    inks,
                    &format!("  answer: longhaul approve {run} {0}, longhaul deny {run} {0}", d.approval_id),
                );
            }
            EventData::ApprovalAnswered(d) => self.answered(inks, d),
            EventData::ApprovalDelivered(d) => self.detail(inks, &format!("the agent has answer {}", d.approval_id)),
            EventData::ApprovalWithdrawn(d) => {
                let text = format!("question {} is not waited for any more ({})", d.approval_id, d.reason);
                self.note(inks, Paint::Yellow, &text);
            }
            EventData::InputAccepted(d) => {
                let room = self.screen.width.saturating_sub(4);
                self.note(inks, Paint::Cyan, &format!("» {}", cut(&escape::one_line(&d.text), room)));
            }
            EventData::InputUndelivered(d) => {
                let what = if d.delivery == "next_turn" { "goes to the session's next turn" } else { "was dropped" };
                let text = format!("! the agent ended before it had message {}; it {what}", d.input_id);
                self.note(inks, Paint::Yellow, &text);
            }
            _ => {}
        }
    }

    fn asks(&mut self, inks: &mut Vec<Ink>, asked: &ApprovalRequested) {
        let name = escape::one_line(&asked.tool);
        let head = format!("? {} asks to use {name}", asked.approval_id);
        let room = self.screen.width.saturating_sub(head.chars().count() + 2);
        self.note(inks, Paint::Yellow, format!("{head}  {}", cut(&about(&asked.arguments), room)).trim_end());
    }

    fn answered(&mut self, inks: &mut Vec<Ink>, answer: &ApprovalAnswered) {
        let (paint, word) = match answer.decision {
            Decision::Allow => (Paint::Green, "allowed"),
            Decision::Deny => (Paint::Red, "denied"),
        };
        let why = answer.reason.as_ref().map(|why| format!(": {}", escape::one_line(why))).unwrap_or_default();
        let text = format!("  {} {word} by {}{why}", answer.approval_id, escape::one_line(&answer.by));
        self.note(inks, paint, &text);
    }
}
