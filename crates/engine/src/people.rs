//! What faces ask of a run's owner on behalf of people: a message for the agent, an answer to its question.

use longhaul_model::event::{ApprovalAnswered, EventData, InputAccepted};
use longhaul_model::projection::ApprovalSeen;
use longhaul_model::run::LIVE;
use longhaul_model::{Event, RunKey, Seq};
use longhaul_store::{Commit, CommitError, ReadLimit, RecordKey, RecordWrite, StoreError, Urgency};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::cancel::{OPERATION, Operation};
use crate::doc::Doc;
use crate::engine::Engine;
use crate::erase::tombstone_key;
use crate::error::{AnswerError, InputError};
use crate::owner::{Message, NewAnswer, NewInput};
use crate::view::Live;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Its id.
    pub input_id: String,
    /// Where it goes: `live` or `next_turn`.
    pub delivery: String,
}

/// A question with what it is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Where it stands.
    pub seen: ApprovalSeen,
    /// What the tool would be called with; null if the event is no longer kept.
    pub arguments: Value,
    /// The directory it would work in.
    pub cwd: String,
    /// The source's words on why it asks.
    pub why: Option<String>,
}

/// An operation with the record of its first answer.
#[derive(Debug, Clone)]
pub(crate) struct Operated {
    record: RecordKey,
    digest: String,
}

#[derive(Serialize, Deserialize)]
struct First<T> {
    digest: String,
    answer: T,
}

impl Operated {
    fn new(key: &RunKey, verb: &str, operation: Operation) -> Self {
        Self { record: RecordKey::new(OPERATION, format!("{key}/{verb}/{}", operation.id)), digest: operation.digest }
    }

    /// The write that makes this answer the first.
    pub(crate) fn write<T: Serialize>(&self, answer: &T) -> RecordWrite {
        let value = serde_json::to_vec(&First { digest: self.digest.clone(), answer }).unwrap_or_default();
        RecordWrite { key: self.record.clone(), value: Some(value.into()), only_new: false, stamp: false }
    }
}

/// A question as a document has it.
pub(crate) fn seen<'a>(doc: &'a Doc, approval_id: &str) -> Option<&'a ApprovalSeen> {
    doc.run.approvals.iter().rev().find(|seen| seen.approval_id == approval_id)
}

/// Whether this answer is to be recorded; `false` if it has been.
///
/// # Errors
/// The question is not there, is another one than the answerer believes, has another answer, or waits for none.
pub(crate) fn check(
    seen: Option<&ApprovalSeen>,
    answer: &ApprovalAnswered,
    digest: Option<&str>,
) -> Result<bool, AnswerError> {
    let Some(seen) = seen else { return Err(AnswerError::NotFound) };
    if digest.is_some_and(|digest| digest != seen.digest) {
        let received = digest.unwrap_or_default().to_owned();
        return Err(AnswerError::Digest { expected: seen.digest.clone(), received });
    }
    match seen.decision {
        None if seen.is_open() => Ok(true),
        Some(given) if given == answer.decision && seen.status != "withdrawn" => Ok(false),
        decision => Err(AnswerError::Settled { status: seen.status.clone(), decision }),
    }
}

impl Engine {
    /// The first answer to an operation: `Some(None)` if its id was used with another body.
    pub(crate) async fn first_answer<T: DeserializeOwned>(
        &self,
        operation: &Operated,
    ) -> Result<Option<Option<T>>, StoreError> {
        let Some(bytes) = self.store().record(&operation.record).await? else { return Ok(None) };
        let first: Option<First<T>> = serde_json::from_slice(&bytes).ok();
        Ok(Some(first.filter(|first| first.digest == operation.digest).map(|first| first.answer)))
    }

    /// Makes records durable.
    pub(crate) async fn keep(&self, records: Vec<RecordWrite>) -> Result<(), CommitError> {
        if records.is_empty() {
            return Ok(());
        }
        self.store().commit(Commit { records, urgency: Urgency::Reserve, ..Commit::default() }).await.map(drop)
    }

    /// Says something to the run's agent: durable when this returns, and sent after that.
    ///
    /// # Errors
    /// [`InputError`]; nothing is recorded and nothing is sent then.
    pub async fn input(
        &self,
        key: &RunKey,
        text: String,
        by: &str,
        operation: Option<Operation>,
    ) -> Result<Accepted, InputError> {
        let operation = operation.map(|operation| Operated::new(key, "input", operation));
        if let Some(operation) = &operation
            && let Some(first) = self.first_answer(operation).await?
        {
            return first.ok_or(InputError::OperationConflict);
        }
        let input_id = uuid::Uuid::now_v7().to_string();
        let input = InputAccepted { input_id, text, delivery: LIVE.to_owned(), by: by.to_owned() };
        let asked = |reply| Message::Input(NewInput { input, operation, reply });
        match self.ask_owner(key, asked).await {
            Asked::Answered(answer) => answer,
            Asked::Draining => Err(InputError::Draining),
            Asked::Nobody => match self.store().run(key).await? {
                Some(row) if row.status.is_terminal() => Err(InputError::Ended),
                Some(_) => Err(InputError::Draining),
                None if self.store().record(&tombstone_key(key)).await?.is_some() => Err(InputError::Gone),
                None => Err(InputError::NotFound),
            },
        }
    }

    /// Answers a question of the run's agent, once: durable when this returns, and sent after that.
    ///
    /// # Errors
    /// [`AnswerError`]; nothing is recorded and nothing is sent then.
    pub async fn answer(
        &self,
        key: &RunKey,
        answer: ApprovalAnswered,
        digest: Option<String>,
        operation: Option<Operation>,
    ) -> Result<(), AnswerError> {
        let verb = format!("approvals/{}", answer.approval_id);
        let operation = operation.map(|operation| Operated::new(key, &verb, operation));
        if let Some(operation) = &operation
            && let Some(first) = self.first_answer::<()>(operation).await?
        {
            return first.ok_or(AnswerError::OperationConflict);
        }
        let (given, believed) = (answer.clone(), digest.clone());
        let asked = |reply| Message::Answer(NewAnswer { answer, digest, operation, reply });
        match self.ask_owner(key, asked).await {
            Asked::Answered(answer) => answer,
            Asked::Draining => Err(AnswerError::Draining),
            Asked::Nobody => match self.view(key).await? {
                Some(view) if view.doc.run.status.is_terminal() => {
                    check(seen(&view.doc, &given.approval_id), &given, believed.as_deref()).map(drop)
                }
                Some(_) => Err(AnswerError::Draining),
                None if self.store().record(&tombstone_key(key)).await?.is_some() => Err(AnswerError::Gone),
                None => Err(AnswerError::RunNotFound),
            },
        }
    }

    /// What a run's agent asked, with what each question is about.
    ///
    /// # Errors
    /// Of the store.
    pub async fn questions(&self, key: &RunKey) -> Result<Option<Vec<Question>>, StoreError> {
        let Some(view) = self.view(key).await? else { return Ok(None) };
        let mut questions = Vec::with_capacity(view.doc.run.approvals.len());
        for seen in view.doc.run.approvals {
            let after = Seq::new(seen.seq.get().saturating_sub(1));
            let limit = ReadLimit { events_max: 1, ..ReadLimit::default() };
            let page = self.store().read(view.stream, after, limit).await.ok();
            let event = page.and_then(|page| Event::decode(&page.events.first()?.wire).ok());
            let (arguments, cwd, why) = match event.map(|event| event.data) {
                Some(EventData::ApprovalRequested(asked)) if asked.approval_id == seen.approval_id => {
                    (asked.arguments, asked.cwd, asked.reason)
                }
                _ => (Value::Null, view.doc.run.cwd.clone(), None),
            };
            questions.push(Question { seen, arguments, cwd, why });
        }
        Ok(Some(questions))
    }

    async fn ask_owner<T>(&self, key: &RunKey, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Asked<T> {
        let Some(Live { inbox, .. }) = self.live(key).await else { return Asked::Nobody };
        let (reply, answer) = oneshot::channel();
        if inbox.send(message(reply)).await.is_ok()
            && let Ok(answer) = answer.await
        {
            return Asked::Answered(answer);
        }
        // The owner went away with the question open: the run ended, or the server stops.
        if self.is_draining() { Asked::Draining } else { Asked::Nobody }
    }
}

enum Asked<T> {
    Answered(T),
    Draining,
    Nobody,
}
