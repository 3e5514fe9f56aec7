//! What people and a running agent say to each other: questions with their answers, and messages.
//!
//! Job: commits what people say and only then sends it; says what was delivered. Owns: nothing; all of it is in the run's state, which is the fold of its log.
//! Never: sends what is not committed; uses an answer twice, or for another call than it was given for.
//!
//! Order of writes, and what a crash after each leaves to the next owner:
//!
//! ```text
//! commit approval.requested with the cursor    the question is open
//! commit approval.answered, input.accepted     it is written by whoever finds it, once by its id
//! the frame in the input log                   it is delivered by the shim, and told as delivered by whoever sees that
//! commit approval.delivered, input.delivered   settled
//! ```

use longhaul_model::event::{
    ApprovalAnswered, ApprovalDelivered, ApprovalWithdrawn, EventData, InputAccepted, InputDelivered,
};
use longhaul_model::run::{Command, NEXT_TURN, Phase, decide};
use longhaul_model::{AttemptNo, Rejection, limits};
use longhaul_store::{RecordWrite, Urgency};
use longhaul_supervise::{AttemptDir, How, Stdin};
use tokio::sync::oneshot;

use super::commit::Refused;
use super::control::Control;
use super::ingest::Source;
use super::wire::{Wire, Wrote, input_frame};
use super::{Events, LetGo, Owner};
use crate::engine::attempt_path;
use crate::error::{AnswerError, InputError};
use crate::people::{self, Accepted};
use crate::questions;

/// The id of a question's answer in an input log.
fn answer_frame(approval_id: &str) -> String {
    format!("approval/{approval_id}")
}

/// A message that somebody sends.
#[derive(Debug)]
pub(crate) struct NewInput {
    pub(crate) input: InputAccepted,
    pub(crate) operation: Option<people::Operated>,
    pub(crate) reply: oneshot::Sender<Result<Accepted, InputError>>,
}

/// An answer that somebody gives.
#[derive(Debug)]
pub(crate) struct NewAnswer {
    pub(crate) answer: ApprovalAnswered,
    /// What the answerer believes to answer.
    pub(crate) digest: Option<String>,
    pub(crate) operation: Option<people::Operated>,
    pub(crate) reply: oneshot::Sender<Result<(), AnswerError>>,
}

impl Owner {
    /// A parser's events as they are committed.
    pub(super) fn fit(&mut self, attempt: AttemptNo, mut events: Events) -> Events {
        if !events.iter().any(questions::concerns) {
            return events;
        }
        for event in &mut events {
            if let (EventData::InputDelivered(told), Some(wire)) = (event, &self.wire)
                && let Some(input_id) = wire.input_of(&told.input_id)
            {
                told.input_id = input_id;
            }
        }
        let dir = self.run_dir();
        let rules = || crate::sealed::read(&dir).ok().and_then(|sealed| sealed.approvals).unwrap_or_default();
        let policy = self.policy.get_or_insert_with(rules);
        let cwd = self.shared.with_doc(|doc| doc.run.cwd.clone());
        questions::fit(&self.state.talk, policy, attempt, &cwd, events)
    }

    /// Says to a live agent what it has not been told: answers, messages, and the end of input once it has dealt with
    /// everything. Then tells what it has been told.
    pub(super) async fn talk(
        &mut self,
        attempt: AttemptNo,
        control: &mut Control,
        source: &mut Source,
    ) -> Result<(), LetGo> {
        if self.wire.is_none() || !self.is_running() {
            return Ok(());
        }
        self.tell_delivered(attempt).await?;
        for (id, bytes) in self.unsaid(attempt, source) {
            match self.write(id, bytes).await? {
                Wrote::There => {}
                Wrote::Later => return Ok(()),
                Wrote::Never => break,
            }
        }
        source.said(self.messages());
        if self.is_to_go(source) {
            self.close_input().await?;
        }
        if self.wire.as_mut().is_some_and(Wire::take_untold)
            && let Err(error) = control.input().await
        {
            tracing::debug!(run = %self.shared.key, %error, "could not tell a shim of input; it looks by itself");
        }
        Ok(())
    }

    /// Frames that are committed and not written, in the order of their commits.
    fn unsaid(&self, attempt: AttemptNo, source: &mut Source) -> Vec<(String, Vec<u8>)> {
        let Some(wire) = self.wire.as_ref().filter(|wire| !wire.is_closed()) else { return vec![] };
        let name = self.shared.with_doc(|doc| doc.run.harness.clone());
        let Some(harness) = longhaul_harness::find(&name) else { return vec![] };
        let talk = &self.state.talk;
        let answers = talk.approvals.iter().filter(|known| known.asked.attempt == attempt).filter_map(|known| {
            let id = answer_frame(&known.asked.approval_id);
            let answer = known.answer.as_ref().filter(|_| !wire.holds(&id))?;
            Some((id, harness.answer(&known.asked, answer)?))
        });
        let mut said = self.messages();
        let inputs = talk.inputs.iter().filter_map(|input| {
            let id = input_frame(&input.input_id);
            source.said(said);
            let bytes = if wire.holds(&id) { None } else { source.input(&input.input_id, &input.text) };
            said += u64::from(bytes.is_some());
            Some((id, bytes?))
        });
        answers.chain(inputs).collect()
    }

    /// Commits what stands in the agent's standard input.
    async fn tell_delivered(&mut self, attempt: AttemptNo) -> Result<(), LetGo> {
        let events = self.passed_events(attempt);
        if events.is_empty() {
            return Ok(());
        }
        self.apply(Command::Observe(events), Urgency::Ordinary).await
    }

    fn passed_events(&self, attempt: AttemptNo) -> Events {
        let Some(wire) = &self.wire else { return vec![] };
        let talk = &self.state.talk;
        let answers = talk.approvals.iter().filter(|known| known.asked.attempt == attempt && known.answer.is_some());
        let answers =
            answers.map(|known| known.asked.approval_id.clone()).filter(|id| wire.has_passed(&answer_frame(id)));
        let answers = answers.map(|approval_id| ApprovalDelivered { approval_id }.into());
        let inputs = talk.inputs.iter().filter(|_| !wire.acknowledges()).map(|input| input.input_id.clone());
        let inputs = inputs.filter(|id| wire.has_passed(&input_frame(id)));
        answers.chain(inputs.map(|input_id| InputDelivered { input_id }.into())).collect()
    }

    /// What an ended attempt was told, as its record proves. An answer that was written, and whose delivery nobody
    /// witnessed, is never used again.
    pub(super) async fn settle_talk(
        &mut self,
        attempt: AttemptNo,
        dir: &AttemptDir,
        record: &longhaul_supervise::Exit,
        last: &[EventData],
    ) -> Events {
        // What the last lines said comes first; it is committed together with what is said here.
        let talk = self.state.talk.clone();
        for event in last {
            self.state.talk.evolve(event);
        }
        let events = self.settled(attempt, dir, record).await;
        self.state.talk = talk;
        events
    }

    async fn settled(&mut self, attempt: AttemptNo, dir: &AttemptDir, record: &longhaul_supervise::Exit) -> Events {
        if self.state.talk.approvals.is_empty() && self.state.talk.inputs.is_empty() {
            return vec![];
        }
        self.open_wire_if_there(dir).await;
        if record.how != How::Lost {
            self.passed(record.input_bytes);
        }
        let mut events = self.passed_events(attempt);
        if record.how == How::Lost
            && let Some(wire) = &self.wire
        {
            for known in self.state.talk.approvals.iter().filter(|known| known.asked.attempt == attempt) {
                let id = &known.asked.approval_id;
                if wire.holds(&answer_frame(id)) && !wire.has_passed(&answer_frame(id)) {
                    let reason = "uncertain".to_owned();
                    events.push(ApprovalWithdrawn { approval_id: id.clone(), reason, source_request_id: None }.into());
                }
            }
        }
        events
    }

    /// Takes a message.
    pub(super) async fn take_input(&mut self, new: NewInput) -> Result<(), LetGo> {
        let NewInput { mut input, operation, reply } = new;
        match self.repeated(operation.as_ref()).await {
            Ok(None) => {}
            Ok(Some(first)) => {
                let _ = reply.send(first.ok_or(InputError::OperationConflict));
                return Ok(());
            }
            Err(error) => {
                let _ = reply.send(Err(error.into()));
                return Ok(());
            }
        }
        let session = self.shared.with_doc(|doc| crate::engine::session_key(&self.shared.key, doc));
        if !self.hears() {
            let Some(session) = &session else {
                let harness = self.shared.with_doc(|doc| doc.run.harness.clone());
                let _ = reply.send(Err(InputError::NoChannel { harness }));
                return Ok(());
            };
            let waiting = match self.engine.session(session).await {
                Ok(known) => known.map_or(0, |known| known.pending.len()),
                Err(error) => {
                    let _ = reply.send(Err(error.into()));
                    return Ok(());
                }
            };
            if waiting >= limits::INPUTS_OPEN_MAX {
                let _ = reply.send(Err(InputError::Full { waiting }));
                return Ok(());
            }
            NEXT_TURN.clone_into(&mut input.delivery);
        }
        let accepted = Accepted { input_id: input.input_id.clone(), delivery: input.delivery.clone() };
        let records: Vec<RecordWrite> = operation.iter().map(|operation| operation.write(&accepted)).collect();
        let events = match decide(&self.state, Command::AcceptInput(input), &self.ctx()) {
            Ok(events) => events,
            Err(Rejection::Fenced { owner }) => return Err(LetGo::Fenced(format!("epoch {owner} owns it"))),
            Err(rejection) => {
                let _ = reply.send(Err(match rejection {
                    Rejection::InputsFull { waiting } => InputError::Full { waiting },
                    _ => InputError::Ended,
                }));
                return Ok(());
            }
        };
        match self.commit(events, None, records, Urgency::Ordinary).await {
            Ok(()) => drop(reply.send(Ok(accepted))),
            Err(Refused::Later(error)) => drop(reply.send(Err(error.into()))),
            Err(Refused::LetGo(error)) => return Err(error),
        }
        Ok(())
    }

    /// The first answer to an operation: `Some(None)` if it was another one.
    async fn repeated<T: serde::de::DeserializeOwned>(
        &self,
        operation: Option<&people::Operated>,
    ) -> Result<Option<Option<T>>, longhaul_store::StoreError> {
        match operation {
            Some(operation) => self.engine.first_answer(operation).await,
            None => Ok(None),
        }
    }

    /// Whether a message would reach the agent of this attempt, or of the one that is about to start.
    fn hears(&self) -> bool {
        let name = self.shared.with_doc(|doc| doc.run.harness.clone());
        if !longhaul_harness::find(&name).is_some_and(longhaul_harness::Harness::takes_input) {
            return false;
        }
        match (self.state.phase.clone(), &self.wire) {
            (Phase::Queued, _) => true,
            (Phase::Starting { .. } | Phase::Running { .. }, Some(wire)) => wire.hears(),
            (Phase::Starting { attempt } | Phase::Running { attempt }, None) => {
                let dir = AttemptDir::open(&attempt_path(&self.run_dir(), attempt.get()));
                let spec = dir.ok().and_then(|dir| dir.read_spec().ok().flatten());
                // An agent that an earlier release started has a file for its standard input.
                spec.is_none_or(|spec| matches!(spec.stdin, Stdin::Channel { .. }))
            }
            (Phase::Vacant | Phase::Ended { .. }, _) => false,
        }
    }

    /// Takes an answer.
    pub(super) async fn take_answer(&mut self, new: NewAnswer) -> Result<(), LetGo> {
        let NewAnswer { answer, digest, operation, reply } = new;
        match self.repeated::<()>(operation.as_ref()).await {
            Ok(None) => {}
            Ok(Some(first)) => {
                let _ = reply.send(first.ok_or(AnswerError::OperationConflict));
                return Ok(());
            }
            Err(error) => {
                let _ = reply.send(Err(error.into()));
                return Ok(());
            }
        }
        let seen = self.shared.with_doc(|doc| people::seen(doc, &answer.approval_id).cloned());
        let checked = people::check(seen.as_ref(), &answer, digest.as_deref());
        let events = match checked {
            Err(error) => {
                let _ = reply.send(Err(error));
                return Ok(());
            }
            Ok(true) => match decide(&self.state, Command::AnswerApproval(answer), &self.ctx()) {
                Ok(events) => events,
                Err(Rejection::Fenced { owner }) => return Err(LetGo::Fenced(format!("epoch {owner} owns it"))),
                Err(_) => {
                    let _ = reply.send(Err(AnswerError::NotFound));
                    return Ok(());
                }
            },
            // The same answer as before.
            Ok(false) => vec![],
        };
        let records: Vec<RecordWrite> = operation.iter().map(|operation| operation.write(&())).collect();
        let done = if events.is_empty() {
            self.engine.keep(records).await.map_err(AnswerError::from)
        } else {
            match self.commit(events, None, records, Urgency::Reserve).await {
                Ok(()) => Ok(()),
                Err(Refused::Later(error)) => Err(error.into()),
                Err(Refused::LetGo(error)) => return Err(error),
            }
        };
        let _ = reply.send(done);
        Ok(())
    }

    /// Messages that a commit hands to the session's next turn, with what they say.
    pub(super) fn handed_on(&self, events: &[EventData]) -> Vec<(String, String)> {
        let pair = |input: &InputAccepted| (input.input_id.clone(), input.text.clone());
        let of = |event: &EventData| match event {
            EventData::InputAccepted(input) if input.delivery == NEXT_TURN => Some(pair(input)),
            EventData::InputUndelivered(lost) if lost.delivery == NEXT_TURN => {
                self.state.talk.inputs.iter().find(|input| input.input_id == lost.input_id).map(pair)
            }
            _ => None,
        };
        events.iter().filter_map(of).collect()
    }
}
