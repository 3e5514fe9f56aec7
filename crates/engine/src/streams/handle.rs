//! The one writer of a stream.
//!
//! Job: hold the state that submitted appends will leave, submit the next one over it without waiting for them, and know
//! which are durable.
//!
//! ```text
//!            lock ─ decide ─ submit ─ unlock ─► flight ─┬─ durable: landed
//!                                                       └─ refused: the handle is dead; in their order
//!                                                          its flights go to the successor, then everybody:
//!                                                          of one producer, those who came first (`line`)
//! ```
//!
//! A commit that adds no message is made alone ([`Alone`]): the store could not tell that one before it failed.
//! Owns: the state, the numbers of the flights. Never: is there twice for one stream; answers before what it decided over
//! is durable.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longhaul_model::stream::{ContentType, Lifetime, Mode, Offset, ProducerState, State, StreamKey};
use longhaul_model::{Seq, StreamId, Timestamp};
use longhaul_store::{CommitError, Ticket};
use tokio::sync::{Notify, OnceCell, broadcast, watch};

use crate::streams::config::Doc;
use crate::streams::requests::{Move, Moved};

/// Producers that a handle holds; more are looked up again.
const PRODUCERS_HELD: usize = 4_096;

/// What readers of a stream are told beside its tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tip {
    Open,
    Closed,
    /// Another handle has taken over.
    Replaced,
    Gone,
}

/// A place where the oldest messages may be cut off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    /// Own messages before it.
    pub(super) before: u64,
    /// Their bytes.
    pub(super) bytes: u64,
}

/// The one writer of a stream. See the module.
pub(super) struct Handle {
    pub(super) key: Arc<StreamKey>,
    pub(super) stream: StreamId,
    /// Immutable but for `forks` and `deleted`, which [`Live`] has.
    pub(super) doc: Doc,
    pub(super) content_type: ContentType,
    pub(super) mode: Mode,
    live: Mutex<Live>,
    dead: AtomicBool,
    /// Whether it was used since somebody last looked for handles to forget.
    pub(super) hot: AtomicBool,
    /// Flights up to this one are durable, or their writers have gone to the successor.
    resolved: AtomicU64,
    durable_tail: AtomicU64,
    durable_gone: AtomicU64,
    changed: Notify,
    tip: watch::Sender<Tip>,
    moves: broadcast::Sender<Moved>,
    pub(super) successor: OnceCell<Option<Arc<Handle>>>,
}

/// What submitted commits will leave.
pub(super) struct Live {
    pub(super) state: State,
    pub(super) used_at: Timestamp,
    pub(super) forks: u32,
    pub(super) deleted: bool,
    /// Own messages that are no longer kept.
    pub(super) removed: u64,
    /// The last second that has a record.
    pub(super) second: i64,
    pub(super) marks: VecDeque<Mark>,
    /// Flights that were submitted.
    pub(super) submitted: u64,
    /// What is known of producers; `None` for one that the stream does not remember.
    producers: HashMap<Box<str>, Option<ProducerState>>,
    /// Whether a producer that is not held is not remembered either.
    all_producers: bool,
    /// Which time the producers are held; what was looked up in another is not taken.
    round: u64,
    /// Who waits to be alone.
    wanted: u32,
    held: bool,
}

/// What is known of a producer here.
pub(super) enum Known {
    Is(Option<ProducerState>),
    /// It must be looked up; the answer belongs to this round.
    LookUp(u64),
}

impl Handle {
    pub(super) fn new(
        key: Arc<StreamKey>,
        stream: StreamId,
        doc: Doc,
        state: State,
        removed: u64,
        moves: broadcast::Sender<Moved>,
    ) -> Self {
        let content_type = doc.content_type();
        let tip = if doc.deleted {
            Tip::Gone
        } else if state.is_closed() {
            Tip::Closed
        } else {
            Tip::Open
        };
        let tail = state.tail.get();
        let marks =
            [Mark { before: removed, bytes: state.bytes_gone }, Mark { before: tail - doc.base, bytes: state.bytes }];
        let live = Live {
            used_at: state.used_at,
            forks: doc.forks,
            deleted: doc.deleted,
            removed,
            second: 0,
            marks: if doc.keep.bytes_max.is_some() { marks.into() } else { VecDeque::new() },
            submitted: 0,
            producers: HashMap::new(),
            all_producers: state.producers == 0,
            round: 0,
            wanted: 0,
            held: false,
            state,
        };
        Self {
            mode: content_type.mode(),
            key,
            stream,
            content_type,
            live: Mutex::new(live),
            dead: AtomicBool::new(false),
            hot: AtomicBool::new(true),
            resolved: AtomicU64::new(0),
            durable_tail: AtomicU64::new(tail),
            durable_gone: AtomicU64::new(removed),
            changed: Notify::new(),
            tip: watch::Sender::new(tip),
            moves,
            successor: OnceCell::new(),
            doc,
        }
    }

    /// Tells whoever listens that the stream has moved.
    pub(super) fn tell(&self, what: Move) {
        if self.moves.receiver_count() > 0 {
            // Nobody listens any more: nobody is told.
            let _ = self.moves.send(Moved {
                key: Arc::clone(&self.key),
                incarnation: self.stream,
                tail: self.tail(),
                what,
            });
        }
    }

    pub(super) fn live(&self) -> MutexGuard<'_, Live> {
        // Each change is whole before anything in it could panic.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The durable tail, as far as appends were answered here.
    pub(super) fn tail(&self) -> Offset {
        Offset::new(self.durable_tail.load(Ordering::Acquire))
    }

    /// How many own messages are durably removed.
    pub(super) fn removed(&self) -> u64 {
        self.durable_gone.load(Ordering::Acquire)
    }

    pub(super) fn tip(&self) -> Tip {
        *self.tip.borrow()
    }

    pub(super) fn watch_tip(&self) -> watch::Receiver<Tip> {
        self.tip.subscribe()
    }

    pub(super) fn set_tip(&self, tip: Tip) {
        self.tip.send_if_modified(|now| std::mem::replace(now, tip) != tip);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// The own sequence number of an offset.
    pub(super) fn seq(&self, offset: Offset) -> Seq {
        Seq::new(offset.get().saturating_sub(self.doc.base))
    }

    /// Nothing is submitted over this state any more.
    pub(super) fn die(&self, tip: Tip) {
        {
            // Under the lock: whoever submits has seen that it lives.
            let _live = self.live();
            self.dead.store(true, Ordering::Release);
        }
        self.changed.notify_waiters();
        self.set_tip(tip);
    }

    /// Whether its lifetime is over.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.doc.lifetime != Lifetime::Endless && self.live().ends(self.doc.lifetime).is_some_and(|end| end <= now)
    }

    /// What its record says now.
    pub(super) fn doc_now(&self) -> Doc {
        let (forks, deleted) = {
            let live = self.live();
            (live.forks, live.deleted)
        };
        Doc { forks, deleted, ..self.doc.clone() }
    }

    /// Whether no flight is under way and nobody is alone with it.
    pub(super) fn is_quiet(&self) -> bool {
        let live = self.live();
        self.is_resolved(live.submitted) && !live.held && live.wanted == 0
    }

    /// Whether a flight and all before it are durable, or given up.
    pub(super) fn is_resolved(&self, flight: u64) -> bool {
        self.resolved.load(Ordering::Acquire) >= flight
    }

    /// Waits until a flight and all before it are durable, or given up.
    pub(super) async fn until_resolved(&self, flight: u64) {
        self.until(|handle| handle.is_resolved(flight)).await;
    }

    /// Waits until all flights of a dead handle have gone on.
    pub(super) async fn until_drained(&self) {
        let submitted = self.live().submitted;
        self.until_resolved(submitted).await;
    }

    /// Waits until somebody who is or wants to be alone is done.
    pub(super) async fn until_open(&self) {
        self.until(|handle| {
            let live = handle.live();
            handle.is_dead() || (!live.held && live.wanted == 0)
        })
        .await;
    }

    async fn until(&self, ready: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            // Registered before the look, so that no change in between is missed.
            changed.as_mut().enable();
            if ready(self) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until no flight is under way, and keeps others from submitting. `None` if the handle is dead.
    pub(super) async fn alone(self: &Arc<Self>) -> Option<Alone> {
        let wanting = Wanting::new(self);
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            {
                let mut live = self.live();
                if self.is_dead() {
                    return None;
                }
                if !live.held && self.is_resolved(live.submitted) {
                    live.held = true;
                    drop(live);
                    drop(wanting);
                    return Some(Alone { handle: Arc::clone(self), certain: false });
                }
            }
            changed.await;
        }
    }

    /// A commit with messages that this state was submitted with.
    pub(super) fn fly(self: &Arc<Self>, live: &mut Live, ticket: Ticket, closes: bool) -> Flight {
        live.submitted += 1;
        Flight {
            handle: Arc::clone(self),
            number: live.submitted,
            tail: live.state.tail.get(),
            removed: live.removed,
            closes,
            adopted: false,
            stage: Stage::Flying(ticket),
        }
    }

    fn resolve(&self, number: u64) {
        self.resolved.fetch_max(number, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Makes what a durable commit left visible.
    pub(super) fn landed(&self, tail: u64, removed: u64, closes: bool) {
        self.durable_tail.fetch_max(tail, Ordering::AcqRel);
        self.durable_gone.fetch_max(removed, Ordering::AcqRel);
        if closes {
            self.set_tip(Tip::Closed);
        }
    }
}

impl Live {
    /// Whether somebody is or wants to be alone.
    pub(super) fn is_barred(&self) -> bool {
        self.held || self.wanted > 0
    }

    /// When the stream is over, if nobody uses it again.
    pub(super) fn ends(&self, lifetime: Lifetime) -> Option<Timestamp> {
        lifetime.ends(self.used_at)
    }

    pub(super) fn producer(&self, id: &str) -> Known {
        match self.producers.get(id) {
            Some(known) => Known::Is(*known),
            None if self.all_producers => Known::Is(None),
            None => Known::LookUp(self.round),
        }
    }

    /// Takes what was looked up, if nothing was forgotten since.
    pub(super) fn looked_up(&mut self, id: &str, found: Option<ProducerState>, round: u64) {
        if round == self.round && !self.producers.contains_key(id) {
            self.producers.insert(id.into(), found);
        }
    }

    /// Remembers a producer's append that was submitted; `quiet`: nothing else is under way.
    pub(super) fn remember(&mut self, id: &str, state: ProducerState, quiet: bool) {
        if quiet && self.producers.len() >= PRODUCERS_HELD {
            // All of it is durable, so the store knows it.
            self.producers.clear();
            self.all_producers = false;
            self.round += 1;
        }
        match self.producers.get_mut(id) {
            Some(known) => *known = Some(state),
            None => {
                self.producers.insert(id.into(), Some(state));
            }
        }
    }
}

/// Somebody who waits to be alone.
struct Wanting<'a>(&'a Handle);

impl<'a> Wanting<'a> {
    fn new(handle: &'a Handle) -> Self {
        handle.live().wanted += 1;
        Self(handle)
    }
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.live().wanted -= 1;
        self.0.changed.notify_waiters();
    }
}

/// A handle that nobody else submits over until this is dropped.
pub(super) struct Alone {
    pub(super) handle: Arc<Handle>,
    certain: bool,
}

impl Alone {
    /// What is durable is known and the handle's state says so.
    pub(super) fn certain(mut self) {
        self.certain = true;
    }

    /// The answer to a commit that was made alone: whether it happened. If that is not known the handle dies.
    pub(super) fn settle<T>(self, answer: Result<T, CommitError>) -> Result<T, CommitError> {
        if !matches!(answer, Err(CommitError::Unknown(_))) {
            self.certain();
        }
        answer
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if !self.certain {
            self.handle.die(Tip::Replaced);
        }
        self.handle.live().held = false;
        self.handle.changed.notify_waiters();
    }
}

/// A submitted append whose answer is still to come. If it is dropped, somebody else waits for it.
pub(super) struct Flight {
    handle: Arc<Handle>,
    number: u64,
    tail: u64,
    removed: u64,
    closes: bool,
    /// Whether its writer has gone and the runtime waits for it.
    adopted: bool,
    stage: Stage,
}

enum Stage {
    Flying(Ticket),
    /// It was not made, and those before it may still be on their way.
    Failed,
    Done,
}

impl Flight {
    /// Waits for the answer. After an error the flight holds its place in the line until it is dropped.
    pub(super) async fn land(&mut self) -> Result<(), CommitError> {
        let Stage::Flying(ticket) = &mut self.stage else { return Ok(()) };
        match ticket.await {
            Ok(_) => {
                self.stage = Stage::Done;
                self.handle.landed(self.tail, self.removed, self.closes);
                self.handle.resolve(self.number);
                Ok(())
            }
            Err(error) => {
                self.stage = Stage::Failed;
                self.handle.die(Tip::Replaced);
                Err(error)
            }
        }
    }

    /// Waits until all that were submitted before are durable or have gone on.
    pub(super) async fn turn(&self) {
        self.handle.until_resolved(self.number - 1).await;
    }

    /// Lets the next one go on.
    pub(super) fn done(mut self) {
        self.stage = Stage::Done;
        self.handle.resolve(self.number);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Done);
        if matches!(stage, Stage::Done) {
            return;
        }
        let runtime = tokio::runtime::Handle::try_current().ok().filter(|_| !self.adopted);
        let Some(runtime) = runtime else {
            // Nobody is left to wait: the runtime ends, and with it whoever would come after.
            self.handle.die(Tip::Replaced);
            return;
        };
        let mut flight = Self { handle: Arc::clone(&self.handle), adopted: true, stage, ..*self };
        runtime.spawn(async move {
            // Whoever appended has gone; whoever listens is told all the same.
            if flight.land().await.is_ok() {
                flight.handle.tell(Move::Appended);
            }
            if !matches!(flight.stage, Stage::Done) {
                flight.turn().await;
                flight.done();
            }
        });
    }
}
