//! The store itself: the [`Store`] trait over memory, committer, applier and readers.
//!
//! Job: send commits to the committer; answer from memory what is there and from the library what is below. Owns: the
//! threads and the end of them. Never: decides a commit.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use longhaul_model::{ProjectId, RunKey, Seq, StreamId};
use longhaul_store::{
    BoxFuture, Commit, CommitError, Committed, EventPage, FeedEntry, FeedPage, Head, ReadLimit, RecordKey, RunFilter,
    RunPage, RunRow, Span, Store, StoreError, Ticket,
};
use tokio::sync::watch;

use crate::applier::Applier;
use crate::ballast::Ballast;
use crate::committer::{Committer, Ledger};
use crate::error::{At, OpenError};
use crate::journal::Journal;
use crate::library::chunks::Stretch;
use crate::library::streams::StreamHead;
use crate::library::{self, chunks, feed, records, runs, streams};
use crate::limits;
use crate::memory::{Answer, Known, Unapplied};
use crate::open::{self, Held};
use crate::options::Options;
use crate::queue::Queue;
use crate::readers::Readers;
use crate::shared::{Ending, Shared};
use crate::sqlite::Access;
use crate::witness::Witness;

/// The embedded store. Dropping it without [`Store::close`] is safe and loses nothing: the next open goes on.
pub struct EmbeddedStore {
    dir: PathBuf,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    threads: Mutex<Option<Threads>>,
    read_only: bool,
    held: Mutex<Option<Held>>,
}

struct Threads {
    committer: JoinHandle<Option<Journal>>,
    applier: JoinHandle<()>,
}

impl EmbeddedStore {
    /// Opens the store in a directory, or makes one there if it is empty.
    ///
    /// # Errors
    /// [`OpenError`]; nothing that was stored is changed. `Corrupt` names the place.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let dir = options.dir.clone();
        open::prepare(&dir)?;
        let held = Held::take(&dir)?;
        Self::start(options, held).map_err(|fault| fault.open(&dir))
    }

    fn start(options: Options, held: Held) -> crate::error::Result<Self> {
        let dir = options.dir;
        open::create_missing(&dir)?;
        let opened = open::open(&dir, Access::Write)?;
        let lookup = library::FILE.connect(&dir, Access::Read)?;
        let position = opened.journal.span().last;
        let witness = Witness::open(&dir, opened.store, position)?;
        let ballast = Ballast::open(&dir, options.ballast_bytes);
        let feed_tail = opened.memory.feed_tail;
        let queue = Queue::new(options.queue_commits_max, options.queue_bytes_max, options.busy_after);
        let apply_bytes = limits::APPLY_BYTES.min(options.unapplied_bytes_max / 2);
        let shared = Arc::new(Shared::new(opened.memory, queue, apply_bytes, options.fatal));
        let committer = Committer {
            shared: Arc::clone(&shared),
            journal: opened.journal,
            witness,
            ballast,
            ledger: Ledger::new(lookup, position, opened.streams_made, feed_tail),
            unapplied_bytes_max: options.unapplied_bytes_max,
            busy_after: options.busy_after,
        };
        let applier = Applier {
            shared: Arc::clone(&shared),
            library: opened.library,
            meta: opened.meta,
            apply_after: options.apply_after,
            log_bytes: 0,
        };
        let committer = thread(&shared, "store-committer", move || committer.run())?;
        let applier = thread(&shared, "store-applier", move || applier.run())?;
        Ok(Self {
            readers: Readers::new(dir.clone(), Access::Read),
            dir,
            shared,
            threads: Mutex::new(Some(Threads { committer, applier })),
            read_only: false,
            held: Mutex::new(Some(held)),
        })
    }

    /// Opens the store in a directory for reading alone: changes nothing stored and accepts no commit. Nobody may have
    /// the directory open for writing meanwhile. A directory that cannot be written is readable if its store was closed
    /// in order; one that a crash left needs room for SQLite's index of the log beside it.
    ///
    /// # Errors
    /// [`OpenError`]: `Absent` if there is no store, `Corrupt` names the place.
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        let dir = dir.as_ref();
        if !dir.join(library::FILE.name).exists() && !dir.join(crate::journal::FILE.name).exists() {
            return Err(OpenError::Absent { dir: dir.to_path_buf() });
        }
        let held = Held::take(dir)?;
        let opened = open::open(dir, Access::Still).map_err(|fault| fault.open(dir))?;
        let queue = Queue::new(1, 1, limits::BUSY_AFTER);
        let shared = Arc::new(Shared::new(opened.memory, queue, 0, Arc::new(|_| {})));
        Ok(Self {
            dir: dir.to_path_buf(),
            shared,
            readers: Readers::new(dir.to_path_buf(), Access::Still),
            threads: Mutex::new(None),
            read_only: true,
            held: Mutex::new(Some(held)),
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Ends the store on this thread, with everything applied. For one that only this process has ever seen.
    pub(crate) fn drain_here(&self) -> crate::error::Result<()> {
        self.shared.close();
        self.shared.queue.close();
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let drained = threads.map_or(Ok(()), |threads| threads.drain(&self.shared));
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        drained
    }

    fn may_commit(&self, commit: &Commit) -> Result<(), CommitError> {
        if self.read_only {
            return Err(CommitError::Invalid("the store is open for reading alone"));
        }
        if self.shared.is_closed() {
            return Err(CommitError::Closed);
        }
        commit.validate()
    }

    fn open_still(&self) -> Result<(), StoreError> {
        if self.shared.is_closed() { Err(StoreError::Closed) } else { Ok(()) }
    }

    async fn read_below(
        &self,
        stream: StreamId,
        after: Seq,
        limit: ReadLimit,
        known: Option<Known>,
    ) -> Result<EventPage, StoreError> {
        let found = self
            .readers
            .ask(move |conn| {
                let Some(head) = streams::find(conn, stream)? else { return Ok(None) };
                if after > head.tail {
                    return Ok(Some((head, Vec::new())));
                }
                let from = after.max(Seq::new(head.earliest.get() - 1));
                let events = chunks::read(conn, stream, from, head.tail, limit)?;
                Ok(Some((head, events)))
            })
            .await?;
        let Some((head, events)) = found else { return Err(StoreError::NotFound) };
        let Known { tail, earliest } = newest(&head, known);
        Known { tail, earliest }.check(after)?;
        Ok(EventPage { earliest, tail, events })
    }

    async fn span_below(
        &self,
        stream: StreamId,
        after: Seq,
        bytes_max: usize,
        known: Option<Known>,
    ) -> Result<Span, StoreError> {
        let found = self
            .readers
            .ask(move |conn| {
                let Some(head) = streams::find(conn, stream)? else { return Ok(None) };
                if after.next() < head.earliest {
                    return Ok(Some((head, Stretch::default())));
                }
                let stretch = chunks::read_stretch(conn, stream, after, head.tail, bytes_max)?;
                Ok(Some((head, stretch)))
            })
            .await?;
        let Some((head, Stretch { body, lengths })) = found else { return Err(StoreError::NotFound) };
        let Known { tail, earliest } = newest(&head, known);
        Known { tail, earliest }.check(after)?;
        let last = after.plus(lengths.len() as u64);
        Ok(Span { earliest, tail, first: after.next(), last, body, lengths })
    }

    async fn head_of(&self, stream: StreamId) -> Result<Head, StoreError> {
        loop {
            let live = {
                let memory = self.shared.memory();
                if memory.is_erased(stream) {
                    return Err(StoreError::NotFound);
                }
                memory.head(stream)
            };
            if let Some((head, true)) = live {
                return Ok(head);
            }
            let stored = self.readers.ask(move |conn| streams::find(conn, stream)).await?;
            let Some(stored) = stored else { return Err(StoreError::NotFound) };
            let Some((head, _)) = live else {
                let bytes = stored.content_bytes();
                let StreamHead { tail, epoch, cursor, earliest, .. } = stored;
                return Ok(Head { tail, epoch, cursor, earliest, bytes });
            };
            // The cursor is the library's: unless another commit came between, it belongs to this tail.
            let same =
                self.shared.memory().head(stream).is_none_or(|(now, _)| now.tail == head.tail && now.cursor.is_none());
            if same && stored.tail <= head.tail {
                return Ok(Head { cursor: stored.cursor, ..head });
            }
        }
    }

    async fn watch_of(&self, stream: StreamId) -> Result<watch::Receiver<Seq>, StoreError> {
        // Registered before the tail is looked up, so that no move in between is missed.
        let watcher = self.shared.memory().watcher(stream);
        match self.head_of(stream).await {
            Ok(head) => {
                watcher.send_if_modified(|seen| {
                    let moved = *seen < head.tail;
                    *seen = (*seen).max(head.tail);
                    moved
                });
                Ok(watcher.subscribe())
            }
            Err(error) => {
                self.shared.memory().unwatch(stream);
                Err(error)
            }
        }
    }

    async fn run_of(&self, key: RunKey) -> Result<Option<RunRow>, StoreError> {
        let unapplied = {
            let memory = self.shared.memory();
            memory.run(&key)
        };
        match unapplied {
            Unapplied::Is(row) => Ok(Some(RunRow::clone(&row))),
            Unapplied::Gone => Ok(None),
            Unapplied::Silent => self.readers.ask(move |conn| runs::find(conn, &key)).await,
        }
    }

    async fn records_of(
        &self,
        kind: &'static str,
        prefix: String,
        after: String,
        limit: usize,
    ) -> Result<Vec<(RecordKey, Bytes)>, StoreError> {
        let mut newer = self.shared.memory().records(kind, &prefix);
        newer.retain(|(id, _)| after.is_empty() || *id > after);
        let ask_for = limit.saturating_add(newer.len());
        let mut found = self.readers.ask(move |conn| records::list(conn, kind, &prefix, &after, ask_for)).await?;
        for (id, value) in newer {
            match value {
                Some(value) => found.insert(id, value),
                None => found.remove(&id),
            };
        }
        Ok(found.into_iter().take(limit).map(|(id, value)| (RecordKey::new(kind, id), value)).collect())
    }

    async fn feed_of(&self, after: Seq, project: Option<ProjectId>, limit: ReadLimit) -> Result<FeedPage, StoreError> {
        let (mut gather, below, erased) = {
            let memory = self.shared.memory();
            let tail = Seq::new(memory.feed_tail);
            if after > tail {
                return Err(StoreError::Ahead { tail });
            }
            let mut gather = FeedGather { project, limit, bytes: 0, tail, upto: after, entries: Vec::new() };
            if after.get() + 1 >= memory.feed_first() {
                let mut slots = memory.feed_from(after.get() + 1).take(limits::FEED_SCAN_MAX as usize);
                while slots.next().is_some_and(|(position, slot)| gather.take(position, slot)) {}
                return Ok(gather.page());
            }
            // Noted before the library is asked: it may answer from before an erasure that memory forgets meanwhile.
            (gather, memory.feed_first() - 1, memory.erased())
        };
        let upto = Seq::new(below.min(after.get() + limits::FEED_SCAN_MAX));
        let mut gather = self
            .readers
            .ask(move |conn| {
                feed::scan(conn, after, upto, |position, slot| gather.take(position, &slot))?;
                Ok(gather)
            })
            .await?;
        gather.entries.retain(|(stream, _)| !erased.contains(stream));
        Ok(gather.page())
    }

    async fn end(&self) -> Result<(), StoreError> {
        self.shared.close();
        self.shared.queue.close();
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.readers.close().await;
        let shared = Arc::clone(&self.shared);
        let ended = tokio::task::spawn_blocking(move || threads.map_or(Ok(()), |threads| threads.drain(&shared))).await;
        self.shared.memory().drop_watchers();
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        match ended {
            Ok(ended) => ended.map_err(StoreError::from),
            Err(error) => Err(StoreError::Unavailable(format!("the store did not close in order: {error}"))),
        }
    }
}

/// What is durable of a stream. The library may be ahead of the look at memory, and behind what is durable.
fn newest(head: &StreamHead, known: Option<Known>) -> Known {
    let known = known.unwrap_or(Known { tail: head.tail, earliest: head.earliest });
    Known { tail: known.tail.max(head.tail), earliest: known.earliest.max(head.earliest) }
}

/// A page of the feed in the making.
struct FeedGather {
    project: Option<ProjectId>,
    limit: ReadLimit,
    bytes: usize,
    tail: Seq,
    upto: Seq,
    entries: Vec<(StreamId, FeedEntry)>,
}

impl FeedGather {
    /// Looks at the next slot; answers whether the page has room for more.
    fn take(&mut self, position: u64, slot: &feed::Slot) -> bool {
        if let Some(wire) = &slot.wire
            && self.project.as_ref().is_none_or(|project| *project == slot.project)
        {
            let bytes = self.bytes + wire.len();
            let full = self.entries.len() >= self.limit.events_max || bytes > self.limit.bytes_max;
            if full && !self.entries.is_empty() {
                return false;
            }
            self.bytes = bytes;
            let entry = FeedEntry { position: Seq::new(position), project: slot.project.clone(), wire: wire.clone() };
            self.entries.push((slot.stream, entry));
        }
        self.upto = Seq::new(position);
        true
    }

    fn page(self) -> FeedPage {
        let entries = self.entries.into_iter().map(|(_, entry)| entry).collect();
        FeedPage { earliest: Seq::new(1), tail: self.tail, upto: self.upto, entries }
    }
}

fn thread<T: Send + 'static>(
    shared: &Arc<Shared>,
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> crate::error::Result<JoinHandle<T>> {
    let shared = Arc::clone(shared);
    let body = move || {
        let guard = Panicked(shared);
        let result = body();
        std::mem::forget(guard);
        result
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(body).at(name)
}

/// A thread of the store that panics breaks the store down: its writers would wait for ever.
struct Panicked(Arc<Shared>);

impl Drop for Panicked {
    fn drop(&mut self) {
        self.0.break_down("a thread of the store panicked");
    }
}

impl Threads {
    /// Makes what was submitted, applies all, folds both logs back.
    fn drain(self, shared: &Shared) -> crate::error::Result<()> {
        let journal = self.committer.join();
        shared.end(Ending::Drains);
        let applied = self.applier.join();
        match (journal, applied) {
            (Ok(Some(journal)), Ok(())) => {
                let applied = shared.memory().applied;
                journal.close(applied)
            }
            _ => Ok(()),
        }
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shared.close();
        self.shared.queue.close();
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(threads) = threads {
            // What was submitted is made durable; it is applied by the next open.
            let journal = threads.committer.join();
            self.shared.end(Ending::Stops);
            let _ = threads.applier.join();
            drop(journal);
        }
        self.shared.memory().drop_watchers();
    }
}

impl Store for EmbeddedStore {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>> {
        Box::pin(async move {
            self.may_commit(&commit)?;
            self.shared.queue.push(commit).await?.await
        })
    }

    fn submit(&self, commit: Commit) -> Result<Ticket, CommitError> {
        self.may_commit(&commit)?;
        self.shared.queue.submit(commit)
    }

    fn read(&self, stream: StreamId, after: Seq, limit: ReadLimit) -> BoxFuture<'_, Result<EventPage, StoreError>> {
        Box::pin(async move {
            self.open_still()?;
            let answer = self.shared.memory().read(stream, after, limit)?;
            match answer {
                Answer::Here(page) => Ok(page),
                Answer::Below(known) => self.read_below(stream, after, limit, known).await,
            }
        })
    }

    fn read_span(&self, stream: StreamId, after: Seq, bytes_max: usize) -> BoxFuture<'_, Result<Span, StoreError>> {
        Box::pin(async move {
            self.open_still()?;
            let answer = self.shared.memory().parts(stream, after, bytes_max)?;
            match answer {
                Answer::Here(parts) => Ok(parts.span()),
                Answer::Below(known) => self.span_below(stream, after, bytes_max, known).await,
            }
        })
    }

    fn watch(&self, stream: StreamId) -> BoxFuture<'_, Result<watch::Receiver<Seq>, StoreError>> {
        Box::pin(async move {
            self.open_still()?;
            self.watch_of(stream).await
        })
    }

    fn head(&self, stream: StreamId) -> BoxFuture<'_, Result<Head, StoreError>> {
        Box::pin(async move {
            self.open_still()?;
            self.head_of(stream).await
        })
    }

    fn run(&self, key: &RunKey) -> BoxFuture<'_, Result<Option<RunRow>, StoreError>> {
        let key = key.clone();
        Box::pin(async move {
            self.open_still()?;
            self.run_of(key).await
        })
    }

    fn runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<RunPage, StoreError>> {
        Box::pin(async move {
            self.open_still()?;
            let shadow = self.shared.memory().shadow();
            self.readers.ask(move |conn| runs::list(conn, &filter, &shadow)).await
        })
    }

    fn live_runs(&self) -> BoxFuture<'_, Result<Vec<RunRow>, StoreError>> {
        Box::pin(async move {
            self.open_still()?;
            let shadow = self.shared.memory().shadow();
            self.readers.ask(move |conn| runs::live(conn, &shadow)).await
        })
    }

    fn record(&self, key: &RecordKey) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        let key = key.clone();
        Box::pin(async move {
            self.open_still()?;
            let unapplied = self.shared.memory().record(key.kind, &key.id);
            match unapplied {
                Unapplied::Is(value) => Ok(Some(value)),
                Unapplied::Gone => Ok(None),
                Unapplied::Silent => self.readers.ask(move |conn| records::find(conn, key.kind, &key.id)).await,
            }
        })
    }

    fn records(
        &self,
        kind: &'static str,
        prefix: &str,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(RecordKey, Bytes)>, StoreError>> {
        let prefix = prefix.to_owned();
        Box::pin(async move {
            self.open_still()?;
            self.records_of(kind, prefix, String::new(), limit).await
        })
    }

    fn records_after<'a>(
        &'a self,
        kind: &'static str,
        prefix: &'a str,
        after: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(RecordKey, Bytes)>, StoreError>> {
        Box::pin(async move {
            self.open_still()?;
            self.records_of(kind, prefix.to_owned(), after.to_owned(), limit).await
        })
    }

    fn feed(
        &self,
        after: Seq,
        project: Option<&ProjectId>,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<FeedPage, StoreError>> {
        let project = project.cloned();
        Box::pin(async move {
            self.open_still()?;
            self.feed_of(after, project, limit).await
        })
    }

    fn watch_feed(&self) -> watch::Receiver<Seq> {
        self.shared.feed.subscribe()
    }

    fn health(&self) -> Vec<(&'static str, u64)> {
        let mut sizes = self.shared.memory().sizes();
        sizes.push(("queued_commits", self.shared.queue.len() as u64));
        sizes.push(("broken", u64::from(self.shared.is_broken())));
        sizes
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.end())
    }
}
