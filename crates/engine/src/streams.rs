//! Streams that people write: durable, ordered, each with a name.
//!
//! Job: create, append, close, fork, expire, trim and delete streams of the store, and read them; everything that belongs
//! to an append (messages, closure, producer, numbers) is in its one commit, and appends to one stream are pipelined.
//! Owns: one handle for each stream in use, which is the only writer of it.
//! Never: shows what is not durable, or answers by it; knows HTTP.

mod append;
mod config;
mod create;
mod delete;
mod error;
mod handle;
mod handles;
mod line;
mod list;
mod reader;
mod requests;
mod source;
mod sweep;
mod trim;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longhaul_model::time::Clock;
use longhaul_model::{Epoch, StreamId, Timestamp};
use longhaul_store::{Store, StoreError};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::streams::handles::Handles;

pub use error::{AppendError, CreateError, DeleteError, OpenError, ReadError, WriteError};
pub use reader::{Happened, Page, Reader, SpanPage};
pub use requests::{Append, Appended, Create, Created, Fork, Info, ListPage, Listed, Move, Moved, Swept};

/// Notes of streams that moved, for a reader that is behind.
const MOVES_MAX: usize = 1_024;

/// How often it is looked what is over.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How often something is tried again when what it looked at has changed meanwhile.
const TRIES: usize = 8;

/// What streams are made of.
pub struct Options {
    /// Where everything durable goes.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The server's epoch, as the engine took it.
    pub epoch: Epoch,
    /// How often it is looked what is over; never by itself if absent.
    pub sweep_every: Option<Duration>,
}

impl Options {
    /// Those of a server.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, epoch: Epoch) -> Self {
        Self { store, clock, epoch, sweep_every: Some(SWEEP_EVERY) }
    }
}

struct Inner {
    options: Options,
    handles: Handles,
    moves: broadcast::Sender<Moved>,
    /// Streams of which messages went, with how many: the records of their seconds are to be looked at.
    trimmed: Mutex<HashMap<StreamId, u64>>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

/// All streams of a store. Cheap to clone.
#[derive(Clone)]
pub struct Streams {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("epoch", &self.inner.options.epoch).finish_non_exhaustive()
    }
}

impl Streams {
    /// Takes the streams of a store over. There is one of these for a store at a time.
    ///
    /// # Errors
    /// Of the store.
    pub async fn start(options: Options) -> Result<Self, StoreError> {
        let sweep_every = options.sweep_every;
        let inner = Inner {
            options,
            handles: Handles::default(),
            moves: broadcast::channel(MOVES_MAX).0,
            trimmed: Mutex::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let streams = Self { inner: Arc::new(inner) };
        // What is wrong with the records of streams is told now and not by the first request.
        streams.store().records(config::STREAM, "", 1).await?;
        if let Some(every) = sweep_every {
            streams.inner.tasks.spawn(streams.clone().sweep_for_ever(every));
        }
        Ok(streams)
    }

    /// Notes of streams that moved, from now on. Bounded: a reader that is too slow is told that it missed some.
    pub fn moves(&self) -> broadcast::Receiver<Moved> {
        self.inner.moves.subscribe()
    }

    /// Takes no more changes and waits for those that are under way. Readers are woken by the store's end.
    pub async fn close(&self) {
        self.inner.stopping.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    fn store(&self) -> &dyn Store {
        &*self.inner.options.store
    }

    fn now(&self) -> Timestamp {
        self.inner.options.clock.now()
    }

    /// Does something to its end, whether or not who asked for it still waits.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, WriteError> {
        if self.inner.stopping.is_cancelled() {
            return Err(WriteError::Stopping);
        }
        let done = self.inner.tasks.spawn(work).await;
        done.map_err(|_| WriteError::Unknown("the work on the stream broke off".to_owned()))
    }
}
