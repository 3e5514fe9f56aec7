//! The memory store: all promises but survival of the process.
//!
//! Job: the reference for every other store, and what the engine's tests run on: it can be told to refuse, to hold, or
//! to die in a given commit, and be opened again with what was durable then.
//! Owns: its state behind one lock. Never: touches a file.

mod faults;
mod state;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longhaul_model::{ProjectId, RunKey, Seq, StreamId};
use tokio::sync::{oneshot, watch};

use crate::commit::{Commit, Committed, RecordKey};
use crate::error::{CommitError, StoreError};
use crate::page::{EventPage, FeedPage, ReadLimit, Span};
use crate::row::{Head, RunFilter, RunPage, RunRow};
use crate::{BoxFuture, Store, Ticket};

pub use faults::CrashPoint;
use faults::{Fate, Faults};
use state::State;

type Reply = oneshot::Sender<Result<Committed, CommitError>>;

/// A store in memory. Clones share it.
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
    feed: Arc<watch::Sender<Seq>>,
}

struct Inner {
    state: State,
    faults: Faults,
    /// Commits that wait while the store is held; `None` if it is not.
    held: Option<VecDeque<(Commit, Reply)>>,
    closed: bool,
    /// Whether a look at a record takes a while.
    slow: bool,
    watchers: HashMap<StreamId, watch::Sender<Seq>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::over(State::default())
    }

    fn over(state: State) -> Self {
        let feed = watch::Sender::new(state.feed_tail());
        let inner = Inner {
            state,
            faults: Faults::default(),
            held: None,
            closed: false,
            slow: false,
            watchers: HashMap::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)), feed: Arc::new(feed) }
    }

    /// The next commit that would be made is answered with `error` and not made, whatever the error says: a planted
    /// `Unknown` is one that is not durable. Several queue up.
    pub fn fail_next(&self, error: CommitError) {
        self.lock().faults.fail_next(error);
    }

    /// After `commits` more commits the next one answers `Unknown` and the store is dead: every later call answers
    /// `Closed` until [`MemoryStore::reopen`]. Refused commits do not count.
    pub fn crash_after(&self, commits: u64, point: CrashPoint) {
        self.lock().faults.crash_after(commits, point);
    }

    /// Dies at once, as under SIGKILL.
    pub fn crash(&self) {
        self.lock().die();
    }

    /// Whether the store is closed or has died.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// From now on commits wait: submitted, not durable, not visible, until [`MemoryStore::release`].
    pub fn hold(&self) {
        self.lock().held.get_or_insert_default();
    }

    /// Whether from now on nobody gets a record at once: others come first.
    pub fn slow_records(&self, slow: bool) {
        self.lock().slow = slow;
    }

    /// How many commits wait.
    pub fn held(&self) -> usize {
        self.lock().held.as_ref().map_or(0, VecDeque::len)
    }

    /// Makes the commits that wait, in the order in which they came.
    pub fn release(&self) {
        let mut inner = self.lock();
        for (commit, reply) in inner.held.take().unwrap_or_default() {
            let answer = inner.commit(commit, &self.feed);
            // The writer may have gone; its commit is made all the same.
            let _ = reply.send(answer);
        }
    }

    /// Makes the commit, or puts it to those that are held. A planted `Busy` is answered at once.
    fn submit_here(&self, commit: Commit) -> Result<Ticket, CommitError> {
        let mut inner = self.lock();
        match &mut inner.held {
            Some(held) => {
                let (send, receive) = oneshot::channel();
                held.push_back((commit, send));
                Ok(Ticket::awaited(receive))
            }
            None => match inner.commit(commit, &self.feed) {
                Err(CommitError::Busy) => Err(CommitError::Busy),
                answer => Ok(Ticket::known(answer)),
            },
        }
    }

    /// Ends this store, if it still lives, and gives a new one over what was durable. No fault is planted in it.
    #[must_use]
    pub fn reopen(&self) -> Self {
        let mut inner = self.lock();
        inner.die();
        Self::over(inner.state.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The state changes only in `State::apply`, which does not panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask<T>(&self, answer: impl FnOnce(&State) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let inner = self.lock();
        if inner.closed { Err(StoreError::Closed) } else { answer(&inner.state) }
    }
}

impl Inner {
    fn die(&mut self) {
        self.closed = true;
        self.held = None;
        self.watchers.clear();
    }

    fn commit(&mut self, commit: Commit, feed: &watch::Sender<Seq>) -> Result<Committed, CommitError> {
        if self.closed {
            return Err(CommitError::Closed);
        }
        self.state.check(&commit)?;
        match self.faults.next() {
            Fate::Go => {}
            Fate::Refuse(error) => return Err(error),
            Fate::Die { durable, error } => {
                if durable {
                    self.state.apply(commit);
                }
                self.die();
                return Err(error);
            }
        }
        let (committed, moved) = self.state.apply(commit);
        for stream in moved.erased {
            self.watchers.remove(&stream);
        }
        for (stream, tail) in moved.tails {
            if let Some(watcher) = self.watchers.get(&stream) {
                watcher.send_if_modified(|seen| std::mem::replace(seen, tail) != tail);
            }
        }
        if moved.feed {
            feed.send_replace(self.state.feed_tail());
        }
        Ok(committed)
    }
}

impl Store for MemoryStore {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>> {
        Box::pin(async move { self.submit_here(commit)?.await })
    }

    fn submit(&self, commit: Commit) -> Result<Ticket, CommitError> {
        if self.is_closed() {
            return Err(CommitError::Closed);
        }
        commit.validate()?;
        self.submit_here(commit)
    }

    fn read(&self, stream: StreamId, after: Seq, limit: ReadLimit) -> BoxFuture<'_, Result<EventPage, StoreError>> {
        Box::pin(async move { self.ask(|state| state.read(stream, after, limit)) })
    }

    fn read_span(&self, stream: StreamId, after: Seq, bytes_max: usize) -> BoxFuture<'_, Result<Span, StoreError>> {
        Box::pin(async move { self.ask(|state| state.read_span(stream, after, bytes_max)) })
    }

    fn watch(&self, stream: StreamId) -> BoxFuture<'_, Result<watch::Receiver<Seq>, StoreError>> {
        Box::pin(async move {
            let mut inner = self.lock();
            if inner.closed {
                return Err(StoreError::Closed);
            }
            let tail = inner.state.tail(stream)?;
            Ok(inner.watchers.entry(stream).or_insert_with(|| watch::Sender::new(tail)).subscribe())
        })
    }

    fn head(&self, stream: StreamId) -> BoxFuture<'_, Result<Head, StoreError>> {
        Box::pin(async move { self.ask(|state| state.head(stream)) })
    }

    fn run(&self, key: &RunKey) -> BoxFuture<'_, Result<Option<RunRow>, StoreError>> {
        let key = key.clone();
        Box::pin(async move { self.ask(|state| Ok(state.run(&key))) })
    }

    fn runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<RunPage, StoreError>> {
        Box::pin(async move { self.ask(|state| Ok(state.runs(&filter))) })
    }

    fn live_runs(&self) -> BoxFuture<'_, Result<Vec<RunRow>, StoreError>> {
        Box::pin(async move { self.ask(|state| Ok(state.live_runs())) })
    }

    fn record(&self, key: &RecordKey) -> BoxFuture<'_, Result<Option<bytes::Bytes>, StoreError>> {
        let key = key.clone();
        Box::pin(async move {
            let slow = self.lock().slow;
            if slow {
                tokio::task::yield_now().await;
            }
            self.ask(|state| Ok(state.record(&key)))
        })
    }

    fn records(
        &self,
        kind: &'static str,
        prefix: &str,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(RecordKey, bytes::Bytes)>, StoreError>> {
        let prefix = prefix.to_owned();
        Box::pin(async move { self.ask(|state| Ok(state.records(kind, &prefix, limit))) })
    }

    fn feed(
        &self,
        after: Seq,
        project: Option<&ProjectId>,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<FeedPage, StoreError>> {
        let project = project.cloned();
        Box::pin(async move { self.ask(|state| state.feed(after, project.as_ref(), limit)) })
    }

    fn watch_feed(&self) -> watch::Receiver<Seq> {
        self.feed.subscribe()
    }

    fn scrub(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        // What is dropped is nobody's.
        Box::pin(async move { self.ask(|_| Ok(())) })
    }

    fn health(&self) -> Vec<(&'static str, u64)> {
        self.lock().state.sizes()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let mut inner = self.lock();
            // A commit that was submitted is made, held or not.
            for (commit, reply) in inner.held.take().unwrap_or_default() {
                let answer = inner.commit(commit, &self.feed);
                let _ = reply.send(answer);
            }
            inner.die();
            Ok(())
        })
    }
}
