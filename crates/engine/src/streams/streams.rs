//! The handle that faces call.

use std::sync::Arc;

use longhaul_model::stream::{StreamKey, StreamPath};
use longhaul_model::time::Clock;
use longhaul_model::{Epoch, ProjectId};
use longhaul_store::{Store, StoreError};
use tokio::sync::broadcast;

use crate::streams::error::{AppendError, CreateError, DeleteError, OpenError};
use crate::streams::reader::Reader;
use crate::streams::requests::{Append, Appended, Create, Created, Info, ListPage, Moved, Swept};

/// What streams are made of.
pub struct Options {
    /// Where everything durable goes.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The server's epoch, as the engine took it.
    pub epoch: Epoch,
}

/// All streams of a store. Cheap to clone.
#[derive(Clone)]
pub struct Streams {
    _options: Arc<Options>,
}

impl Streams {
    /// Takes the streams of a store over. There is one of these for a store at a time.
    ///
    /// # Errors
    /// Of the store.
    pub async fn start(options: Options) -> Result<Self, StoreError> {
        Ok(Self { _options: Arc::new(options) })
    }

    /// Creates a stream, or finds it there as was asked.
    ///
    /// # Errors
    /// [`CreateError`].
    ///
    /// # Cancel safety
    /// Dropping the future does not take anything back.
    pub async fn create(&self, key: &StreamKey, create: Create) -> Result<Created, CreateError> {
        let _ = (key, create);
        todo!()
    }

    /// Appends, closes, or both; answers once it is durable.
    ///
    /// # Errors
    /// [`AppendError`].
    ///
    /// # Cancel safety
    /// Dropping the future does not take a submitted append back.
    pub async fn append(&self, key: &StreamKey, append: Append<'_>) -> Result<Appended, AppendError> {
        let _ = (key, append);
        todo!()
    }

    /// Deletes a stream; one with forks is kept for them.
    ///
    /// # Errors
    /// [`DeleteError`].
    ///
    /// # Cancel safety
    /// Dropping the future does not take anything back.
    pub async fn delete(&self, key: &StreamKey) -> Result<(), DeleteError> {
        let _ = key;
        todo!()
    }

    /// What can be said of a stream; does not count as use of it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn head(&self, key: &StreamKey) -> Result<Info, OpenError> {
        let _ = key;
        todo!()
    }

    /// Opens a stream for reading; counts as use of it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(&self, key: &StreamKey) -> Result<Reader, OpenError> {
        let _ = key;
        todo!()
    }

    /// Streams of a project whose path begins with `prefix`, by path, after one; at most `limit`.
    ///
    /// # Errors
    /// Of the store.
    pub async fn list(
        &self,
        project: &ProjectId,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<ListPage, StoreError> {
        let _ = (project, prefix, after, limit, StreamPath::parse(""));
        todo!()
    }

    /// Notes of streams that moved, from now on. Bounded: a reader that is too slow is told that it missed some.
    pub fn moves(&self) -> broadcast::Receiver<Moved> {
        todo!()
    }

    /// Looks once at what is over: lifetimes, messages that are not to be kept, records of streams that are no more.
    /// The server does so now and then by itself.
    ///
    /// # Errors
    /// Of the store.
    pub async fn sweep(&self) -> Result<Swept, StoreError> {
        todo!()
    }

    /// Takes no more appends and waits for those that are under way. Readers are woken by the store's end.
    pub async fn close(&self) {
        todo!()
    }
}
