//! Cancel: a durable intent, recorded and then acted on.

use longhaul_model::RunKey;
use longhaul_model::event::RunCancelRequested;
use longhaul_store::{Commit, RecordKey, RecordWrite, Urgency};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::erase::tombstone_key;
use crate::error::CancelError;
use crate::owner::Message;

/// The kind of operations' records.
pub(crate) const OPERATION: &str = "operation";

/// A caller's name for one operation: a repeat returns the first answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The caller's id.
    pub id: String,
    /// The digest of what was asked.
    pub digest: String,
}

/// What became of a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled {
    /// Whether this operation recorded the intent; a later one finds it there.
    pub requested: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    digest: String,
    requested: bool,
}

/// Where the operations on a run begin.
pub(crate) fn operations_of(key: &RunKey) -> (&'static str, String) {
    (OPERATION, format!("{key}/"))
}

impl Engine {
    /// Records that the run shall end. The end itself is proven later, by the run's terminal event.
    ///
    /// # Errors
    /// [`CancelError`]; nothing is recorded then.
    pub async fn cancel(
        &self,
        key: &RunKey,
        intent: RunCancelRequested,
        operation: Option<Operation>,
    ) -> Result<Cancelled, CancelError> {
        let record = operation.as_ref().map(|o| RecordKey::new(OPERATION, format!("{key}/cancel/{}", o.id)));
        if let (Some(record), Some(operation)) = (&record, &operation)
            && let Some(bytes) = self.store().record(record).await?
        {
            let answer: Option<Answer> = serde_json::from_slice(&bytes).ok();
            return match answer {
                Some(answer) if answer.digest == operation.digest => Ok(Cancelled { requested: answer.requested }),
                _ => Err(CancelError::OperationConflict),
            };
        }
        let write = |requested: bool| -> Vec<RecordWrite> {
            record
                .iter()
                .zip(&operation)
                .map(|(record, operation)| {
                    let answer = Answer { digest: operation.digest.clone(), requested };
                    let value = serde_json::to_vec(&answer).unwrap_or_default();
                    RecordWrite { key: record.clone(), value: Some(value.into()), only_new: false, stamp: false }
                })
                .collect()
        };
        if let Some(live) = self.live(key).await {
            let (reply, answer) = oneshot::channel();
            let message = Message::Cancel { intent, records: write(true), reply };
            if live.inbox.send(message).await.is_ok() {
                match answer.await {
                    Ok(result) => return Ok(Cancelled { requested: result? }),
                    // The owner went away with the question open: it ended, or the server stops.
                    Err(_) if self.is_draining() => return Err(CancelError::Draining),
                    Err(_) => {}
                }
            } else if self.is_draining() {
                return Err(CancelError::Draining);
            }
        }
        match self.store().run(key).await? {
            Some(row) if row.status.is_terminal() => {
                let records = write(false);
                if !records.is_empty() {
                    self.store().commit(Commit { records, urgency: Urgency::Reserve, ..Commit::default() }).await?;
                }
                Ok(Cancelled { requested: false })
            }
            Some(_) => Err(CancelError::Draining),
            None if self.store().record(&tombstone_key(key)).await?.is_some() => Err(CancelError::Gone),
            None => Err(CancelError::NotFound),
        }
    }
}
