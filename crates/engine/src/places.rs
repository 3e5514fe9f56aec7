//! Places: how many runs may have a process at once, and who is next.
//!
//! Job: a fair queue in front of a fixed number of places, with visible positions. A place is held exactly as long as
//! the run's tree exists. Owns: the count and the queue. Never: waits for anything itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use longhaul_model::RunKey;

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    key: RunKey,
    ready: oneshot::Sender<Place>,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    next_ticket: u64,
    queue: VecDeque<Waiting>,
}

/// The places of one server.
#[derive(Debug, Clone)]
pub struct Places {
    max: usize,
    queue_max: usize,
    state: Arc<Mutex<State>>,
}

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{queued} runs wait already, more may not")]
pub struct QueueFull {
    /// Runs that wait.
    pub queued: usize,
    /// Places taken.
    pub live: usize,
    /// Places in all.
    pub live_max: usize,
}

/// A place; it is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
}

/// A place in the queue; leaving it is dropping it.
#[derive(Debug)]
pub struct Wait {
    places: Places,
    ticket: u64,
    ready: oneshot::Receiver<Place>,
}

impl Places {
    /// `max` places with room for `queue_max` to wait.
    pub fn new(max: usize, queue_max: usize) -> Self {
        Self { max, queue_max, state: Arc::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place whether one is free or not: for a process that is there already.
    pub fn take(&self) -> Place {
        self.state().used += 1;
        Place { places: self.clone() }
    }

    /// Gets in line. The place may be ready at once.
    ///
    /// # Errors
    /// [`QueueFull`], and then nobody is in line.
    pub fn wait(&self, key: &RunKey) -> Result<Wait, QueueFull> {
        self.enter(key, self.queue_max)
    }

    /// Gets in line although the queue may be full: for a run that was accepted by an earlier server.
    pub fn wait_accepted(&self, key: &RunKey) -> Wait {
        match self.enter(key, usize::MAX) {
            Ok(wait) => wait,
            Err(_) => unreachable!("a queue without a bound is never full"),
        }
    }

    fn enter(&self, key: &RunKey, queue_max: usize) -> Result<Wait, QueueFull> {
        let (ready, receiver) = oneshot::channel();
        let mut state = self.state();
        let ticket = state.next_ticket;
        let at_once = state.used < self.max && state.queue.is_empty();
        if !at_once && state.queue.len() >= queue_max {
            return Err(QueueFull { queued: state.queue.len(), live: state.used, live_max: self.max });
        }
        state.next_ticket += 1;
        if at_once {
            state.used += 1;
            let _ = ready.send(Place { places: self.clone() });
        } else {
            state.queue.push_back(Waiting { ticket, key: key.clone(), ready });
        }
        drop(state);
        Ok(Wait { places: self.clone(), ticket, ready: receiver })
    }

    /// How many runs are before this one, if it waits.
    pub fn position(&self, key: &RunKey) -> Option<usize> {
        self.state().queue.iter().position(|w| w.key == *key)
    }

    /// Places taken, places in all, runs that wait.
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.state();
        (state.used, self.max, state.queue.len())
    }

    fn give_back(&self) {
        let mut freed = vec![];
        {
            let mut state = self.state();
            state.used -= 1;
            while state.used < self.max {
                let Some(next) = state.queue.pop_front() else { break };
                state.used += 1;
                // One who left in this very moment gives the place back by dropping it, below, outside the lock.
                if let Err(place) = next.ready.send(Place { places: self.clone() }) {
                    freed.push(place);
                }
            }
        }
        drop(freed);
    }
}

impl Wait {
    /// Waits for the place.
    ///
    /// # Cancel safety
    /// Dropping the future keeps the place in line; dropping the [`Wait`] leaves it.
    pub async fn ready(&mut self) -> Place {
        match (&mut self.ready).await {
            Ok(place) => place,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut state = self.places.state();
        state.queue.retain(|w| w.ticket != self.ticket);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longhaul_model::{ProjectId, RunId};

    fn key(name: &str) -> RunKey {
        RunKey { project: ProjectId::default_project(), run: RunId::parse(name).unwrap() }
    }

    #[tokio::test]
    async fn first_come_first_served() {
        let places = Places::new(1, 2);
        let first = places.wait(&key("a")).unwrap().ready().await;
        let mut b = places.wait(&key("b")).unwrap();
        let mut c = places.wait(&key("c")).unwrap();
        assert_eq!((places.position(&key("b")), places.position(&key("c"))), (Some(0), Some(1)));
        assert_eq!(places.wait(&key("d")).unwrap_err(), QueueFull { queued: 2, live: 1, live_max: 1 });
        drop(first);
        let second = b.ready().await;
        assert_eq!(places.position(&key("c")), Some(0));
        drop(second);
        drop(c.ready().await);
        assert_eq!(places.counts(), (0, 1, 0));
    }

    #[tokio::test]
    async fn leaving_the_line_gives_nothing_away() {
        let places = Places::new(1, 2);
        let first = places.take();
        let b = places.wait(&key("b")).unwrap();
        let mut c = places.wait(&key("c")).unwrap();
        drop(b);
        drop(first);
        drop(c.ready().await);
        assert_eq!(places.counts(), (0, 1, 0));
        // A place that was handed over and never looked at comes back too.
        let first = places.take();
        let b = places.wait(&key("b")).unwrap();
        drop(first);
        drop(b);
        assert_eq!(places.counts(), (0, 1, 0));
    }
}
