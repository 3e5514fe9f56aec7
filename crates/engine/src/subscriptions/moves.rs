//! Who is to look at which stream.
//!
//! Job: hand each note of a stream that moved to the subscriptions it may concern. Owns: the one reader of the notes, while
//! there are subscriptions. Never: waits for a subscription: what it has to look at is a set, not a queue.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longhaul_model::stream::StreamPath;
use longhaul_model::stream::subscription::{Config, Seen};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

use super::Inner;
use crate::streams::{Move, Moved};

/// Streams that one subscription has to look at one by one; beyond that it looks at all.
const DIRTY_MAX: usize = 4_096;

/// What one subscription wants to hear of and what it has not looked at yet.
pub(super) struct Post {
    config: Arc<Config>,
    named: Mutex<HashSet<StreamPath>>,
    dirty: Mutex<Dirty>,
    pub(super) news: Notify,
}

/// What a subscription has to look at.
#[derive(Default)]
pub(super) struct Dirty {
    /// These, as they were last seen; `None` for one that is no more.
    pub(super) streams: HashMap<StreamPath, Option<Seen>>,
    /// Everything.
    pub(super) all: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Sets and maps are whole between their calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Post {
    pub(super) fn new(config: Arc<Config>) -> Self {
        let named = Mutex::new(config.streams.iter().chain(&config.wake_stream).cloned().collect());
        Self { config, named, dirty: Mutex::default(), news: Notify::new() }
    }

    /// From now on notes of these streams come in.
    pub(super) fn name<'a>(&self, paths: impl IntoIterator<Item = &'a StreamPath>) {
        lock(&self.named).extend(paths.into_iter().cloned());
    }

    /// Notes of these come in no longer, but for the wake stream's.
    pub(super) fn unname<'a>(&self, paths: impl IntoIterator<Item = &'a StreamPath>) {
        let mut named = lock(&self.named);
        for path in paths.into_iter().filter(|path| self.config.wake_stream.as_ref() != Some(path)) {
            named.remove(path);
        }
    }

    pub(super) fn take(&self) -> Dirty {
        std::mem::take(&mut *lock(&self.dirty))
    }

    /// Everything is to be looked at.
    pub(super) fn all(&self) {
        *lock(&self.dirty) = Dirty { streams: HashMap::new(), all: true };
        self.news.notify_one();
    }

    fn deliver(&self, moved: &Moved) {
        let path = &moved.key.path;
        if !self.config.matches(path) && !lock(&self.named).contains(path) {
            return;
        }
        let seen = match moved.what {
            Move::Created | Move::Appended => Some(Seen { incarnation: moved.incarnation, tail: moved.tail }),
            Move::Deleted => None,
        };
        let mut dirty = lock(&self.dirty);
        if !dirty.all {
            if dirty.streams.len() >= DIRTY_MAX {
                *dirty = Dirty { streams: HashMap::new(), all: true };
            } else {
                dirty.streams.insert(path.clone(), seen);
            }
        }
        drop(dirty);
        self.news.notify_one();
    }
}

/// Asks that everything that was told before is handed out.
pub(super) type Barrier = oneshot::Sender<()>;

impl Inner {
    fn deliver(&self, moved: &Moved) {
        if let Some(posts) = self.read_posts().get(&moved.key.project) {
            for post in posts {
                post.deliver(moved);
            }
        }
    }

    fn deliver_all(&self) {
        for post in self.read_posts().values().flatten() {
            post.all();
        }
    }

    /// Hands notes out until the server ends.
    pub(super) async fn hand_out(self: Arc<Self>, mut barriers: mpsc::Receiver<Barrier>) {
        let stopping = self.stopping.clone();
        let mut moves: Option<broadcast::Receiver<Moved>> = None;
        loop {
            // Whoever made the first subscription waits behind a barrier for this.
            match (self.read_posts().is_empty(), moves.is_some()) {
                (true, true) => moves = None,
                (false, false) => moves = Some(self.options.streams.moves()),
                (true, false) | (false, true) => {}
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                barrier = barriers.recv() => {
                    let Some(barrier) = barrier else { return };
                    if let Some(moves) = &mut moves {
                        self.drain(moves);
                    } else if !self.read_posts().is_empty() {
                        moves = Some(self.options.streams.moves());
                    }
                    // Nobody waits any more: nothing to tell.
                    let _ = barrier.send(());
                }
                moved = next(&mut moves) => match moved {
                    Ok(moved) => {
                        self.deliver(&moved);
                        if let Some(moves) = &mut moves {
                            self.drain(moves);
                        }
                    }
                    Err(RecvError::Lagged(_)) => self.deliver_all(),
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    fn drain(&self, moves: &mut broadcast::Receiver<Moved>) {
        loop {
            match moves.try_recv() {
                Ok(moved) => self.deliver(&moved),
                Err(broadcast::error::TryRecvError::Lagged(_)) => self.deliver_all(),
                Err(_) => return,
            }
        }
    }
}

async fn next(moves: &mut Option<broadcast::Receiver<Moved>>) -> Result<Moved, RecvError> {
    match moves {
        Some(moves) => moves.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_that_nobody_follows_are_not_kept() {
        let path = |text: &str| StreamPath::parse(text).unwrap();
        let config = json!({"type": "pull-wake", "streams": ["a"], "wake_stream": "w"});
        let post = Post::new(Arc::new(Config::parse(config.as_object().unwrap()).unwrap()));
        for at in 0..100 {
            let refused = [path(&format!("x/{at}")), path("w")];
            post.name(&refused);
            post.unname(&refused);
        }
        let named: HashSet<StreamPath> = lock(&post.named).clone();
        assert_eq!(named, HashSet::from([path("a"), path("w")]), "the wake stream is always heard of");
    }
}
