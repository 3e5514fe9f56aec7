//! The handles that are held.
//!
//! Job: lead a key to the one handle of its stream, made from the store when it is asked for. Owns: which are held, and the
//! locks of paths. Never: lets go of a handle that somebody uses or that is not done.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longhaul_model::stream::{Lifetime, Offset, State, StreamKey};
use longhaul_model::{StreamId, Timestamp};
use longhaul_store::{RecordKey, StoreError};

use crate::streams::Streams;
use crate::streams::config::{Doc, TIME, stream_key, time_id};
use crate::streams::error::OpenError;
use crate::streams::handle::{Handle, Tip};
use crate::streams::line::Lines;

/// Maps of handles, so that look-ups do not wait for each other; a power of two.
const SHARDS: usize = 64;

/// Handles of one map that are held though nobody uses them.
const SHARD_HANDLES: usize = 1_024;

/// Locks of paths: against two loads, creations or deletions of one path at once; a power of two.
const PATHS: usize = 256;

pub(super) struct Shard {
    handles: HashMap<Arc<StreamKey>, Arc<Handle>>,
    pub(super) lines: Lines,
    /// When it is next looked for those that nobody uses.
    tidy_at: usize,
}

pub(super) struct Handles {
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    paths: Box<[tokio::sync::Mutex<()>]>,
}

impl Default for Handles {
    fn default() -> Self {
        let shard = || Mutex::new(Shard { handles: HashMap::new(), lines: Lines::default(), tidy_at: SHARD_HANDLES });
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| shard()).collect(),
            paths: (0..PATHS).map(|_| tokio::sync::Mutex::default()).collect(),
        }
    }
}

/// Locks of paths.
pub(super) struct Locks<'a>(#[expect(dead_code, reason = "held, not looked at")] Vec<tokio::sync::MutexGuard<'a, ()>>);

impl Handles {
    pub(super) fn shard(&self, key: &StreamKey) -> MutexGuard<'_, Shard> {
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        // A map is whole between its calls.
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &StreamKey) -> Option<Arc<Handle>> {
        self.shard(key).handles.get(key).cloned()
    }

    /// The handle of a stream that lives, if no append of the same order waits.
    pub(super) fn free(&self, key: &StreamKey, whose: Option<&str>) -> Option<Arc<Handle>> {
        let shard = self.shard(key);
        let handle = shard.handles.get(key).filter(|handle| !handle.is_dead())?;
        if whose.is_some_and(|whose| !shard.lines.is_free(|| self.line_of(key, whose))) {
            return None;
        }
        handle.hot.store(true, Ordering::Relaxed);
        Some(Arc::clone(handle))
    }

    pub(super) fn line_of(&self, key: &StreamKey, whose: &str) -> u64 {
        self.hasher.hash_one((key, whose))
    }

    /// Holds a handle of which nobody else has one; the caller has the path's lock.
    pub(super) fn hold(&self, handle: &Arc<Handle>) {
        let mut shard = self.shard(&handle.key);
        if shard.handles.len() >= shard.tidy_at {
            shard.tidy();
        }
        shard.handles.insert(Arc::clone(&handle.key), Arc::clone(handle));
    }

    /// Lets go of a handle, for another that takes its place if there is one.
    pub(super) fn replace(&self, old: &Arc<Handle>, new: Option<Arc<Handle>>) {
        let mut shard = self.shard(&old.key);
        if shard.handles.get(&old.key).is_some_and(|held| Arc::ptr_eq(held, old)) {
            match new {
                Some(new) => shard.handles.insert(Arc::clone(&new.key), new),
                None => shard.handles.remove(&old.key),
            };
        }
    }

    /// Locks paths, in an order that everybody keeps.
    pub(super) async fn lock(&self, keys: &[&StreamKey]) -> Locks<'_> {
        let mut at: Vec<usize> = keys.iter().map(|key| (self.hasher.hash_one(key) >> 32) as usize % PATHS).collect();
        at.sort_unstable();
        at.dedup();
        let mut locks = Vec::with_capacity(at.len());
        for at in at {
            locks.push(self.paths[at].lock().await);
        }
        Locks(locks)
    }

    /// How many are held.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).handles.len()).sum()
    }
}

impl Shard {
    /// Lets go of handles that nobody uses and nobody used since the last time.
    fn tidy(&mut self) {
        self.handles.retain(|_, handle| {
            // Nobody gets it but through this map, whose lock is held.
            if Arc::strong_count(handle) > 1 || !handle.is_quiet() {
                return true;
            }
            if handle.is_dead() {
                let Some(Some(successor)) = handle.successor.get().cloned() else { return false };
                *handle = successor;
                return true;
            }
            handle.hot.swap(false, Ordering::Relaxed)
        });
        self.tidy_at = SHARD_HANDLES.max(self.handles.len() + self.handles.len() / 4);
    }
}

impl Streams {
    /// The handle of a stream that is there, deleted ones with forks and ones whose time is over included.
    pub(super) async fn find(&self, key: &StreamKey) -> Result<Option<Arc<Handle>>, StoreError> {
        let handles = &self.inner.handles;
        if let Some(handle) = handles.get(key)
            && !handle.is_dead()
        {
            handle.hot.store(true, Ordering::Relaxed);
            return Ok(Some(handle));
        }
        let _lock = handles.lock(&[key]).await;
        self.find_locked(key).await
    }

    /// The same for who has the path's lock.
    pub(super) async fn find_locked(&self, key: &StreamKey) -> Result<Option<Arc<Handle>>, StoreError> {
        let handles = &self.inner.handles;
        loop {
            let Some(handle) = handles.get(key) else {
                let loaded = self.load(key).await?;
                if let Some(handle) = &loaded {
                    handles.hold(handle);
                }
                return Ok(loaded);
            };
            if !handle.is_dead() {
                return Ok(Some(handle));
            }
            if handle.tip() == Tip::Gone {
                handles.replace(&handle, None);
                continue;
            }
            // Its writers go on before anybody who comes now.
            handle.until_drained().await;
            let successor = self.successor(&handle).await?;
            handles.replace(&handle, successor);
        }
    }

    /// The handle that takes a dead one's place; for its own writers, who have their order.
    pub(super) async fn successor(&self, dead: &Handle) -> Result<Option<Arc<Handle>>, StoreError> {
        dead.successor.get_or_try_init(|| self.load(&dead.key)).await.cloned()
    }

    /// A handle over what the store has. Nobody else has one of that stream.
    async fn load(&self, key: &StreamKey) -> Result<Option<Arc<Handle>>, StoreError> {
        let Some(value) = self.store().record(&stream_key(key)).await? else { return Ok(None) };
        let (stream, doc) = Doc::decode(key, &value)?;
        let head = self.store().head(stream).await?;
        let state = match &head.cursor {
            Some(cursor) => State::decode(cursor, Offset::new(doc.base + head.tail.get()))
                .map_err(|error| damaged(stream, error.to_string()))?,
            None => return Err(damaged(stream, "it has no state".to_owned())),
        };
        let used_at = used_at(&doc, state.used_at, self.now());
        // The last second that has a record is the one of the last append, unless a read was later.
        let last = state.used_at.unix_ms().div_euclid(1_000);
        let recorded = self.store().record(&RecordKey::new(TIME, time_id(stream, last))).await?.is_some();
        let removed = head.earliest.get() - 1;
        let moves = self.inner.moves.clone();
        let handle = Handle::new(Arc::new(key.clone()), stream, doc, state, removed, moves);
        {
            let mut live = handle.live();
            live.used_at = used_at;
            live.second = if recorded { last } else { last - 1 };
        }
        Ok(Some(Arc::new(handle)))
    }

    /// The handle of a stream that can be used.
    pub(super) async fn open_handle(&self, key: &StreamKey) -> Result<Arc<Handle>, OpenError> {
        for _ in 0..super::TRIES {
            let Some(handle) = self.find(key).await? else { return Err(OpenError::NotFound) };
            if handle.live().deleted {
                return Err(OpenError::Gone);
            }
            if !handle.is_over(self.now()) {
                return Ok(handle);
            }
            self.expire(&handle).await;
            if self.find(key).await?.is_some_and(|now| now.stream == handle.stream && !now.live().deleted) {
                // It could not be removed, and is over all the same.
                return Err(OpenError::NotFound);
            }
        }
        Err(OpenError::NotFound)
    }
}

/// When a stream was last used, if nobody remembers: reads are stored only now and then, so it may have been later than
/// was stored, by so much at most, and is never taken for over too early.
fn used_at(doc: &Doc, stored: Timestamp, now: Timestamp) -> Timestamp {
    match doc.lifetime {
        Lifetime::TtlSeconds(seconds) => {
            let slack = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000) / 8;
            let latest = Timestamp::from_unix_ms(stored.unix_ms().saturating_add(slack));
            latest.min(now.max(stored))
        }
        Lifetime::Endless | Lifetime::Until(_) => stored,
    }
}

fn damaged(stream: StreamId, what: String) -> StoreError {
    StoreError::Corrupt { place: format!("cursor of stream {stream}"), what }
}
