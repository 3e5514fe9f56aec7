//! The store: what durable state promises, without saying how.
//!
//! Job: the [`Store`] trait in terms of promises (commit with compare-and-set on tail and epoch, read after, live runs,
//! records, feed), its errors, the memory store, and the contract suite that every store must pass.
//! Owns: the promises. Never: SQL, files, threads.

pub mod commit;
#[cfg(feature = "testing")]
pub mod contract;
pub mod error;
pub mod limits;
pub mod memory;
pub mod page;
pub mod row;
pub mod ticket;
mod validate;

use std::future::Future;
use std::pin::Pin;

use tokio::sync::watch;

use longhaul_model::{RunKey, Seq, StreamId};

pub use commit::{Commit, Committed, Form, NewRun, NewStream, RecordKey, RecordWrite, StreamWrite, Urgency};
pub use error::{CommitError, StoreError};
pub use memory::{CrashPoint, MemoryStore};
pub use page::{EventPage, FeedEntry, FeedPage, ReadLimit, Span, StoredEvent};
pub use row::{Head, RunFilter, RunPage, RunRow};
pub use ticket::Ticket;

/// A boxed future, so that the trait can be an object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Durable state.
///
/// Every promise below is a case of the contract suite.
pub trait Store: Send + Sync + 'static {
    /// Commits all writes of `commit` or none, and answers once they are durable.
    ///
    /// Durable before visible: no reader, watcher or query sees any of it before a power cut could not take it back.
    ///
    /// # Errors
    /// [`CommitError`]: `Conflict`, `Fenced`, `Exists`, `Gone`, `Invalid`, `Full` and `Busy` are refusals, after which
    /// nothing has happened. `Unknown` means that it may or may not be durable; the owner drops its state and reloads.
    ///
    /// # Cancel safety
    /// Dropping the future does not take a submitted commit back.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>>;

    /// Submits a commit at once and gives the ticket that answers for it. Commits are made in the order in which they
    /// were submitted, so a writer may submit its next append, with the tail that this one will leave, before this one is
    /// durable: if this one is not made, the tail is another, and the next is refused as a `Conflict`.
    ///
    /// That holds behind a commit that adds an event. One that does not leaves the tail as it is, so that the next would
    /// be made without it: wait for its ticket first.
    ///
    /// # Errors
    /// As for [`Store::commit`], here or from the ticket. `Busy` if there is no room at this moment, without waiting for
    /// any.
    ///
    /// # Cancel safety
    /// Dropping the ticket does not take the commit back.
    fn submit(&self, commit: Commit) -> Result<Ticket, CommitError>;

    /// Events of a stream with a sequence number above `after`, in order and without a gap, at most `limit` of them but
    /// at least one if there is one. `after` may be the tail: the page is empty.
    ///
    /// # Errors
    /// `NotFound` if no such stream is kept; `Expired` if events above `after` were removed by retention; `Ahead` if
    /// `after` is beyond the durable tail.
    fn read(&self, stream: StreamId, after: Seq, limit: ReadLimit) -> BoxFuture<'_, Result<EventPage, StoreError>>;

    /// The same in bulk: messages above `after` as they lie in the store, whole ones, at most `bytes_max` bytes of them
    /// with their newlines, but at least one message if there is one. A span may end before its limit and before the
    /// tail.
    ///
    /// # Errors
    /// As for [`Store::read`].
    fn read_span(&self, stream: StreamId, after: Seq, bytes_max: usize) -> BoxFuture<'_, Result<Span, StoreError>>;

    /// The durable tail of a stream, and a watch that changes when it moves. Closes when the stream is erased.
    ///
    /// # Errors
    /// `NotFound` if no such stream is kept.
    fn watch(&self, stream: StreamId) -> BoxFuture<'_, Result<watch::Receiver<Seq>, StoreError>>;

    /// The state that the last commit to a stream left: tail, epoch, cursor, what is kept and how much there was.
    ///
    /// # Errors
    /// `NotFound` if no such stream is kept.
    fn head(&self, stream: StreamId) -> BoxFuture<'_, Result<Head, StoreError>>;

    /// A run's row; reads its own writes.
    fn run(&self, key: &RunKey) -> BoxFuture<'_, Result<Option<RunRow>, StoreError>>;

    /// Rows that match, newest first by creation order, older than `filter.before`. Reads its own writes.
    fn runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<RunPage, StoreError>>;

    /// Every row whose status is not terminal, oldest first.
    fn live_runs(&self) -> BoxFuture<'_, Result<Vec<RunRow>, StoreError>>;

    /// A record's value; reads its own writes.
    fn record(&self, key: &RecordKey) -> BoxFuture<'_, Result<Option<bytes::Bytes>, StoreError>>;

    /// Records of one kind whose id begins with `prefix`, in id order, at most `limit`. Reads its own writes.
    fn records(
        &self,
        kind: &'static str,
        prefix: &str,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<(RecordKey, bytes::Bytes)>, StoreError>>;

    /// The same from an id on, exclusive: the next page after the last id of the one before.
    fn records_after<'a>(
        &'a self,
        kind: &'static str,
        prefix: &'a str,
        after: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(RecordKey, bytes::Bytes)>, StoreError>> {
        Box::pin(async move {
            let all = self.records(kind, prefix, usize::MAX).await?;
            Ok(all.into_iter().filter(|(key, _)| key.id.as_str() > after).take(limit).collect())
        })
    }

    /// Entries of the lifecycle feed with a position above `after`, of one project if one is named. The page says how
    /// far it looked, so that a reader with a filter advances over what it does not see.
    ///
    /// # Errors
    /// `Expired` and `Ahead` as for [`Store::read`].
    fn feed(
        &self,
        after: Seq,
        project: Option<&longhaul_model::ProjectId>,
        limit: ReadLimit,
    ) -> BoxFuture<'_, Result<FeedPage, StoreError>>;

    /// The durable tail of the feed.
    fn watch_feed(&self) -> watch::Receiver<Seq>;

    /// What the health page shows of the store: name, position, sizes, in JSON members.
    fn health(&self) -> Vec<(&'static str, u64)>;

    /// Makes everything tidy and lets go of files and locks; later calls answer `Closed`.
    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>>;
}
