//! What is between a running agent and people: questions that wait for an answer, messages that wait to be taken.
//!
//! Job: the fold of `approval.*` and `input.*`, and what a run's end does to what is still open. Pure.
//!
//! ```text
//! requested ──answered──► answered ──delivered──► (settled)
//!     │                      └─ its process is gone ─► unused: answers the same question of the next attempt, once
//!     ├─ withdrawn by the source, asked again by the next attempt, or the run is over ─► (settled)
//! accepted ──delivered──► (settled)        accepted ── the run is over ─► undelivered (settled)
//! ```

use crate::event::{
    ApprovalAnswered, ApprovalRequested, ApprovalWithdrawn, EventData, InputAccepted, InputUndelivered,
};

/// A question that is not settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Approval {
    /// The question.
    pub asked: ApprovalRequested,
    /// The answer, until the agent has it.
    pub answer: Option<ApprovalAnswered>,
}

/// Everything that is not settled, and how many questions there were.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Talk {
    /// Questions so far; the last one's number.
    pub asked: u64,
    /// Open questions, and answers that no agent got yet, oldest first.
    pub approvals: Vec<Approval>,
    /// Messages for the agent that it does not have yet, oldest first; those for the next turn are not among them.
    pub inputs: Vec<InputAccepted>,
}

impl Talk {
    /// The question of this number, if it is not settled.
    pub fn approval(&self, id: &str) -> Option<&Approval> {
        self.approvals.iter().find(|a| a.asked.approval_id == id)
    }

    /// Questions without an answer.
    pub fn open(&self) -> impl Iterator<Item = &Approval> {
        self.approvals.iter().filter(|a| a.answer.is_none())
    }

    /// Folds an event in.
    pub fn evolve(&mut self, event: &EventData) {
        match event {
            EventData::ApprovalRequested(d) => {
                self.asked += 1;
                self.approvals.push(Approval { asked: d.clone(), answer: None });
            }
            EventData::ApprovalAnswered(d) => {
                if let Some(used) = &d.answer_of {
                    self.settle(used);
                }
                if let Some(approval) = self.approvals.iter_mut().find(|a| a.asked.approval_id == d.approval_id) {
                    approval.answer.get_or_insert_with(|| d.clone());
                }
            }
            EventData::ApprovalDelivered(d) => self.settle(&d.approval_id),
            EventData::ApprovalWithdrawn(d) => self.settle(&d.approval_id),
            EventData::InputAccepted(d) if d.delivery == LIVE => self.inputs.push(d.clone()),
            EventData::InputDelivered(d) => self.inputs.retain(|i| i.input_id != d.input_id),
            EventData::InputUndelivered(d) => self.inputs.retain(|i| i.input_id != d.input_id),
            _ => {}
        }
    }

    fn settle(&mut self, id: &str) {
        self.approvals.retain(|a| a.asked.approval_id != id);
    }

    /// What the end of the run does to what is open. With a session a message goes to its next turn.
    pub(super) fn end(&self, in_session: bool) -> Vec<EventData> {
        let mut events = Vec::new();
        for approval in &self.approvals {
            let approval_id = approval.asked.approval_id.clone();
            events.push(
                ApprovalWithdrawn { approval_id, reason: "run_ended".to_owned(), source_request_id: None }.into(),
            );
        }
        for input in &self.inputs {
            let delivery = if in_session { NEXT_TURN } else { DROPPED }.to_owned();
            events.push(InputUndelivered { input_id: input.input_id.clone(), delivery }.into());
        }
        events
    }
}

/// Into the running process.
pub const LIVE: &str = "live";
/// In front of the prompt of the session's next turn.
pub const NEXT_TURN: &str = "next_turn";
/// To nobody.
pub const DROPPED: &str = "dropped";
