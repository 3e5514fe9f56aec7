//! What the threads of a store share.
//!
//! Job: the lock around [`Memory`], the signals between committer and applier, and the one way to break down.
//! Owns: whether the store still accepts anything. Never: touches a file.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longhaul_model::Seq;
use tokio::sync::watch;

use crate::memory::Memory;
use crate::options::Fatal;
use crate::queue::Queue;

/// How the applier is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Runs,
    /// Apply everything first.
    Drains,
    /// Now.
    Stops,
}

/// See the module.
pub(crate) struct Shared {
    memory: Mutex<Memory>,
    /// Something is to apply, or the ending changed.
    pub(crate) work: Condvar,
    /// Something was applied.
    pub(crate) room: Condvar,
    ending: Mutex<Ending>,
    pub(crate) queue: Queue,
    /// Un-applied bytes at which the applier starts.
    pub(crate) apply_bytes: usize,
    pub(crate) feed: watch::Sender<Seq>,
    closed: AtomicBool,
    broken: AtomicBool,
    copies: AtomicUsize,
    fatal: Fatal,
}

/// A copy of the store is being made, until this is dropped.
pub(crate) struct Copying(Arc<Shared>);

impl Drop for Copying {
    fn drop(&mut self) {
        self.0.copies.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    pub(crate) fn new(memory: Memory, queue: Queue, apply_bytes: usize, fatal: Fatal) -> Self {
        let feed = watch::Sender::new(Seq::new(memory.feed_tail));
        Self {
            memory: Mutex::new(memory),
            work: Condvar::new(),
            room: Condvar::new(),
            ending: Mutex::new(Ending::Runs),
            queue,
            apply_bytes,
            feed,
            closed: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            copies: AtomicUsize::new(0),
            fatal,
        }
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        // Whoever panicked in here has broken the store down; what is in memory is still what is durable.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ending(&self) -> Ending {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn end(&self, ending: Ending) {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = ending;
        // Under the lock, so that a thread between its look and its sleep hears it.
        let _memory = self.memory();
        self.work.notify_all();
        self.room.notify_all();
    }

    /// Has everything applied that is durable now.
    pub(crate) fn hurry(&self) {
        let mut memory = self.memory();
        memory.hurry = memory.durable;
        self.work.notify_all();
    }

    /// Waits for work or for `time`.
    pub(crate) fn wait_work<'a>(&self, memory: MutexGuard<'a, Memory>, time: Duration) -> MutexGuard<'a, Memory> {
        self.work.wait_timeout(memory, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits for room or for `time`.
    pub(crate) fn wait_room<'a>(&self, memory: MutexGuard<'a, Memory>, time: Duration) -> MutexGuard<'a, Memory> {
        self.room.wait_timeout(memory, time).unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Says that a copy is being made.
    pub(crate) fn copying(self: &Arc<Self>) -> Copying {
        self.copies.fetch_add(1, Ordering::AcqRel);
        Copying(Arc::clone(self))
    }

    /// Whether a copy is being made: its snapshot keeps the library's log from restarting.
    pub(crate) fn is_copied(&self) -> bool {
        self.copies.load(Ordering::Acquire) > 0
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// From now on every call answers `Closed`.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Something happened after which nothing more may be promised. Says so once; accepts nothing more.
    pub(crate) fn break_down(self: &Arc<Self>, why: &str) {
        self.close();
        if !self.broken.swap(true, Ordering::AcqRel) {
            tracing::error!(why, "the store breaks down");
            self.queue.fail();
            self.end(Ending::Stops);
            (self.fatal)(why.to_owned());
        }
        self.queue.fail();
    }
}
