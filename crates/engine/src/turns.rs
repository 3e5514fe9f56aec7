//! The turns of a session: which run each of them is, and one sequence of events over all of them.
//!
//! Job: a record per turn, written in the commit that accepts it; a walk over the logs of a session's runs in the order
//! of its turns. Owns: nothing durable beside those records. Never: counts as a reader of a run: whoever follows a
//! session keeps no run alive and ends none by leaving.

use longhaul_model::event::{self, TurnAccepted};
use longhaul_model::{RunId, RunKey, Seq, StreamId};
use longhaul_store::{ReadLimit, RecordKey, RecordWrite, StoreError, StoredEvent};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::engine::Engine;
use crate::sealed::Sealed;
use crate::session::{Session, SessionKey};
use crate::view::View;

/// The kind of turns' records.
const KIND: &str = "session_turn";

/// What is durable of a turn beside its run.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The version of this form.
    v: u32,
    run: RunId,
}

fn record_key(session: &SessionKey, turn: u64) -> RecordKey {
    RecordKey::new(KIND, format!("{}/{}/{turn:012}", session.project, session.id))
}

/// The write that makes a turn known.
pub(crate) fn write(session: &SessionKey, turn: u64, run: &RunId) -> RecordWrite {
    let value = serde_json::to_vec(&Record { v: 1, run: run.clone() }).unwrap_or_default();
    RecordWrite { key: record_key(session, turn), value: Some(value.into()), only_new: false, stamp: false }
}

/// The write that forgets it.
pub(crate) fn erase(session: &SessionKey, turn: u64) -> RecordWrite {
    RecordWrite { key: record_key(session, turn), value: None, only_new: false, stamp: false }
}

/// The event that says what the user says in the turn: all that was sent if it is the session's first one, else what
/// is new.
pub(crate) fn accepted(session: &Session, sealed: &Sealed) -> TurnAccepted {
    let new = sealed.turn.as_ref().filter(|_| session.turns > 1);
    let text = new.or(sealed.prompt.as_ref()).cloned().unwrap_or_default();
    TurnAccepted { session_id: session.id.clone(), turn: session.turns, text }
}

/// A place in the events of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnPlace {
    /// The run.
    pub run: RunId,
    /// The last event of it that was seen.
    pub seq: Seq,
}

/// What is at a follower's place.
#[derive(Debug)]
pub enum TurnStep {
    /// Events of one run.
    Events(RunId, Vec<StoredEvent>),
    /// Nothing for now.
    Wait,
    /// The session was deleted.
    Gone,
}

/// What a session's cursor turned out to be.
#[derive(Debug)]
pub enum Followed {
    /// Events can be read from there on.
    Here(Box<Follower>),
    /// The run of the cursor is no turn of the session.
    NoTurn,
    /// The run of the cursor was erased; the first turn that is kept, if there is one.
    Erased(Option<RunId>),
    /// There is no such session.
    NotFound,
}

struct At {
    run: RunId,
    stream: StreamId,
    seq: Seq,
    tail: watch::Receiver<Seq>,
}

/// One reader of a session's events.
pub struct Follower {
    engine: Engine,
    session: SessionKey,
    /// The turn it is at, or the last one it has seen to the end.
    turn: u64,
    at: Option<At>,
    feed: watch::Receiver<Seq>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("session", &self.session).field("turn", &self.turn).finish_non_exhaustive()
    }
}

impl Engine {
    /// The run of a turn, if the turn is known; it may have been erased.
    ///
    /// # Errors
    /// Of the store.
    pub async fn turn_run(&self, session: &SessionKey, turn: u64) -> Result<Option<RunId>, StoreError> {
        let key = record_key(session, turn);
        let Some(bytes) = self.store().record(&key).await? else { return Ok(None) };
        let record: Record = serde_json::from_slice(&bytes)
            .map_err(|e| StoreError::Corrupt { place: format!("record of turn {}", key.id), what: e.to_string() })?;
        Ok(Some(record.run))
    }

    /// The run of a turn as it is now; `None` if it was erased, also if its id has been taken since.
    ///
    /// # Errors
    /// Of the store.
    pub async fn turn_view(&self, session: &SessionKey, turn: u64, run: &RunId) -> Result<Option<View>, StoreError> {
        let key = RunKey { project: session.project.clone(), run: run.clone() };
        let view = self.view(&key).await?;
        Ok(view.filter(|view| view.doc.turn == turn && view.doc.run.session_id.as_ref() == Some(&session.id)))
    }

    /// What the user says in a turn.
    ///
    /// # Errors
    /// Of the store.
    pub async fn turn_text(&self, view: &View) -> Result<Option<String>, StoreError> {
        // It is always the second event: both are of the commit that accepts the run.
        let page = self.store().read(view.stream, Seq::new(1), ReadLimit { events_max: 1, bytes_max: 1 }).await?;
        let Some(found) = page.events.first() else { return Ok(None) };
        match longhaul_model::Event::decode(&found.wire).map(|event| event.data) {
            Ok(event::EventData::TurnAccepted(turn)) => Ok(Some(turn.text)),
            _ => Ok(None),
        }
    }

    /// A reader of a session's events from a place on, or from the first.
    ///
    /// # Errors
    /// Of the store; `Ahead` if the place is beyond the end of its run's log.
    pub async fn follow_session(
        &self,
        session: &SessionKey,
        after: Option<&TurnPlace>,
    ) -> Result<Followed, StoreError> {
        let Some(found) = self.session(session).await? else { return Ok(Followed::NotFound) };
        let mut follower = Follower {
            engine: self.clone(),
            session: session.clone(),
            turn: 0,
            at: None,
            feed: self.store().watch_feed(),
        };
        let Some(place) = after else { return Ok(Followed::Here(Box::new(follower))) };
        let key = RunKey { project: session.project.clone(), run: place.run.clone() };
        let turn = self.view(&key).await?.filter(|view| view.doc.run.session_id.as_ref() == Some(&session.id));
        let Some(view) = turn.filter(|view| view.doc.turn > 0) else {
            return self.no_turn(session, found.turns, &place.run).await;
        };
        let tail = self.store().watch(view.stream).await?;
        let page = self.store().read(view.stream, place.seq, ReadLimit { events_max: 1, bytes_max: 1 }).await?;
        follower.turn = view.doc.turn;
        let ended = page.events.is_empty() && follower.is_end(view.stream, place.seq).await?;
        if !ended {
            follower.at = Some(At { run: place.run.clone(), stream: view.stream, seq: place.seq, tail });
        }
        Ok(Followed::Here(Box::new(follower)))
    }

    /// Whether a run that is not there was a turn.
    async fn no_turn(&self, session: &SessionKey, turns: u64, run: &RunId) -> Result<Followed, StoreError> {
        let (mut was, mut earliest) = (false, None);
        for turn in 1..=turns {
            let Some(found) = self.turn_run(session, turn).await? else { continue };
            was |= found == *run;
            if earliest.is_none() && self.turn_view(session, turn, &found).await?.is_some() {
                earliest = Some(found);
            }
        }
        Ok(if was { Followed::Erased(earliest) } else { Followed::NoTurn })
    }
}

impl Follower {
    /// The next events, at most `limit` of them.
    ///
    /// # Errors
    /// Of the store.
    pub async fn step(&mut self, limit: ReadLimit) -> Result<TurnStep, StoreError> {
        loop {
            // Marked before it is looked: what comes meanwhile wakes the wait.
            self.feed.borrow_and_update();
            let Some(at) = &mut self.at else {
                let Some(session) = self.engine.session(&self.session).await? else { return Ok(TurnStep::Gone) };
                if self.turn >= session.turns {
                    return Ok(TurnStep::Wait);
                }
                self.turn += 1;
                self.at = self.enter().await?;
                continue;
            };
            at.tail.borrow_and_update();
            let page = match self.engine.store().read(at.stream, at.seq, limit).await {
                Ok(page) => page,
                // Erased under the reader: what comes after it is still there.
                Err(StoreError::NotFound) => {
                    self.at = None;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(last) = page.events.last() else { return Ok(TurnStep::Wait) };
            at.seq = last.seq;
            let run = at.run.clone();
            if is_terminal(&last.wire) {
                self.at = None;
            }
            return Ok(TurnStep::Events(run, page.events));
        }
    }

    /// Waits until there may be more.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn wait(&mut self) {
        match &mut self.at {
            // A closed watch is an erased run: the next step finds out.
            Some(at) => drop(at.tail.changed().await),
            None => {
                if self.feed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    async fn enter(&self) -> Result<Option<At>, StoreError> {
        let Some(run) = self.engine.turn_run(&self.session, self.turn).await? else { return Ok(None) };
        let Some(view) = self.engine.turn_view(&self.session, self.turn, &run).await? else { return Ok(None) };
        match self.engine.store().watch(view.stream).await {
            Ok(tail) => Ok(Some(At { run, stream: view.stream, seq: Seq::ZERO, tail })),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the event at a place is its run's last.
    async fn is_end(&self, stream: StreamId, seq: Seq) -> Result<bool, StoreError> {
        let Some(before) = seq.get().checked_sub(1).map(Seq::new) else { return Ok(false) };
        let page = self.engine.store().read(stream, before, ReadLimit { events_max: 1, bytes_max: 1 }).await?;
        Ok(page.events.first().is_some_and(|event| is_terminal(&event.wire)))
    }
}

fn is_terminal(wire: &[u8]) -> bool {
    matches!(event::peek_type(wire), Some("run.completed" | "run.failed" | "run.cancelled"))
}
