//! What the engine shows of a run, live or stored.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use longhaul_model::{RunKey, Seq, Status, StreamId};
use tokio::sync::{mpsc, watch};

use crate::doc::Doc;
use crate::owner::Message;

/// A run as it is now.
#[derive(Debug, Clone)]
pub struct View {
    /// Its stream in the store.
    pub stream: StreamId,
    /// The document, with the answer's text.
    pub doc: Doc,
    /// Its place in the queue, if it waits.
    pub queue: Option<usize>,
    /// Readers of its events.
    pub readers: usize,
}

/// What an owner shares with those who ask.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) key: RunKey,
    pub(crate) stream: StreamId,
    doc: Mutex<Doc>,
    pub(crate) progress: watch::Sender<(Status, Seq)>,
    pub(crate) readers: AtomicUsize,
    /// When output was last seen, Unix milliseconds; zero before the first.
    pub(crate) last_output_ms: AtomicI64,
    /// What the owner waits for, if it is not the agent: a sentence and since when.
    pub(crate) blocked: Mutex<Option<(String, i64)>>,
}

impl Shared {
    pub(crate) fn new(key: RunKey, stream: StreamId, doc: Doc) -> Self {
        let progress = watch::Sender::new((doc.run.status, doc.run.last_seq));
        Self {
            key,
            stream,
            doc: Mutex::new(doc),
            progress,
            readers: AtomicUsize::new(0),
            last_output_ms: AtomicI64::new(0),
            blocked: Mutex::default(),
        }
    }

    pub(crate) fn doc(&self) -> Doc {
        self.with_doc(|doc| doc.clone())
    }

    pub(crate) fn with_doc<T>(&self, read: impl FnOnce(&mut Doc) -> T) -> T {
        read(&mut self.doc.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_blocked(&self, cause: Option<String>, now_ms: i64) {
        let mut blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        match cause {
            Some(cause) => {
                let since = blocked.take().map_or(now_ms, |(_, since)| since);
                *blocked = Some((cause, since));
            }
            None => *blocked = None,
        }
    }

    pub(crate) fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }
}

/// A live run: how to reach its owner.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) shared: Arc<Shared>,
    pub(crate) inbox: mpsc::Sender<Message>,
}
