//! Which run a chat request repeats, if it says that it is a retry and names no id.
//!
//! Unmodified SDKs send the same POST again after a time-out with nothing that links the two but a count. A run that was
//! started without an id leaves a record until its answer was given to the end; a retry numbered N takes the oldest such
//! run of the same caller and digest that no retry numbered N or higher has taken. So two wanted requests are never
//! merged, and a chain of retries keeps to its run.
//!
//! Given is not received: what the kernel took may be lost on the way, and the SDK asks again a moment later. So the
//! record outlives the answer by [`limits::CHAT_RETRY_GRACE`]; until then the run is the last that a retry takes.
//!
//! A request that was refused for want of a place, or that went away while it waited for one, has no run, so its retry
//! must not take that of its twin: this is remembered for [`limits::CHAT_REFUSED_FOR`], and the retry with the next
//! number is new.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use longhaul_model::{ProjectId, RunId, RunKey, Timestamp, limits};
use longhaul_store::{Commit, RecordKey, RecordWrite};
use serde::{Deserialize, Serialize};

use super::App;
use super::reply::Failure;

/// The kind of the records.
const KIND: &str = "chat_retry";

/// Runs of one digest that are looked at.
const LOOK: usize = 1000;

/// What one server remembers beside the records.
#[derive(Debug, Default)]
pub struct Recent {
    /// Runs whose answers were given a moment ago. One retry looks for its run at a time, holding this.
    given: tokio::sync::Mutex<HashSet<RunKey>>,
    /// Requests that got no place a moment ago, the oldest first.
    refused: Mutex<VecDeque<Refused>>,
}

#[derive(Debug)]
struct Refused {
    prefix: String,
    retry: u32,
    at: Instant,
}

impl Recent {
    /// Whether retry number `retry` repeats a request that got no place; that is then settled.
    fn take_refused(&self, prefix: &str, retry: u32) -> bool {
        let mut list = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|refused| refused.at.elapsed() < limits::CHAT_REFUSED_FOR);
        let at = list.iter().position(|refused| refused.prefix == prefix && refused.retry + 1 == retry);
        at.and_then(|at| list.remove(at)).is_some()
    }
}

/// A request without an id that has no run yet. Dropped as it is, it is remembered as one that got no place.
pub(super) struct Placeless {
    recent: Arc<Recent>,
    refused: Option<Refused>,
}

impl Placeless {
    pub(super) fn new(app: &App, project: &ProjectId, caller: &str, digest: &str, retry: u32) -> Self {
        let refused = Refused { prefix: prefix(project, caller, digest), retry, at: Instant::now() };
        Self { recent: Arc::clone(&app.chat_retries), refused: Some(refused) }
    }

    /// It has a run, or is about to.
    pub(super) fn has_a_run(mut self) {
        self.refused = None;
    }
}

impl Drop for Placeless {
    fn drop(&mut self) {
        let Some(refused) = self.refused.take() else { return };
        let mut list = self.recent.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() >= LOOK {
            list.pop_front();
        }
        list.push_back(Refused { at: Instant::now(), ..refused });
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Undelivered {
    run: RunKey,
    at: Timestamp,
    /// The highest retry that has taken it.
    taken: u32,
}

fn prefix(project: &ProjectId, caller: &str, digest: &str) -> String {
    format!("{project}/{caller}/{digest}/")
}

/// The record that goes with a run started without an id.
pub(super) fn record(key: &RunKey, caller: &str, digest: &str, at: Timestamp, retry: u32) -> RecordWrite {
    let value = Undelivered { run: key.clone(), at, taken: retry };
    RecordWrite {
        key: record_key(key, caller, digest),
        value: Some(serde_json::to_vec(&value).unwrap_or_default().into()),
        only_new: false,
        stamp: false,
    }
}

fn record_key(key: &RunKey, caller: &str, digest: &str) -> RecordKey {
    RecordKey::new(KIND, format!("{}{}", prefix(&key.project, caller, digest), key.run))
}

/// Forgets a run whose answer was given to the end, once nobody can ask for it again.
pub(super) async fn delivered(app: App, key: RunKey, caller: String, digest: String) {
    app.chat_retries.given.lock().await.insert(key.clone());
    tokio::select! {
        () = tokio::time::sleep(limits::CHAT_RETRY_GRACE) => {}
        () = app.draining.cancelled() => {}
    }
    let write = RecordWrite { key: record_key(&key, &caller, &digest), value: None, only_new: false, stamp: false };
    if let Err(error) = app.engine.store().commit(Commit { records: vec![write], ..Commit::default() }).await {
        tracing::warn!(run = %key, %error, "could not note that an answer was delivered");
    }
    app.chat_retries.given.lock().await.remove(&key);
}

/// The run that retry number `retry` repeats.
pub(super) async fn find(
    app: &App,
    project: &ProjectId,
    caller: &str,
    digest: &str,
    retry: u32,
) -> Result<Option<RunId>, Failure> {
    let given = app.chat_retries.given.lock().await;
    if app.chat_retries.take_refused(&prefix(project, caller, digest), retry) {
        return Ok(None);
    }
    let store = app.engine.store();
    let now = app.engine.now();
    let mut writes = Vec::new();
    let mut found: Option<Undelivered> = None;
    let order = |record: &Undelivered| (given.contains(&record.run), record.at);
    for (key, value) in store.records(KIND, &prefix(project, caller, digest), LOOK).await? {
        let Ok(record) = serde_json::from_slice::<Undelivered>(&value) else { continue };
        let age = now.unix_ms().saturating_sub(record.at.unix_ms());
        if age > limits::CHAT_RETRY_WINDOW.as_millis() as i64 {
            writes.push(RecordWrite { key, value: None, only_new: false, stamp: false });
        } else if record.taken < retry && found.as_ref().is_none_or(|f| order(&record) < order(f)) {
            found = Some(record);
        }
    }
    if let Some(found) = &found {
        writes.push(self::record(&found.run, caller, digest, found.at, retry));
    }
    if !writes.is_empty() {
        store.commit(Commit { records: writes, ..Commit::default() }).await?;
    }
    Ok(found.map(|found| found.run.run))
}
