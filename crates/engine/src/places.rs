//! Places: how many runs may have a process at once, and who is next.
//!
//! Job: one scheduler. A place is had when every limit that concerns a run has room: all places, those of its harness,
//! those of its client; some may be kept for a project and are never lent. Clients take turns, whatever each has in
//! line; a client's own runs keep their order. A place is held exactly as long as the run's tree exists.
//! Owns: the counts and the queue. Never: waits for anything itself; lets a run that cannot start hold up one that can.
//!
//! Turns: each run that gets in line has a tag, one above the last of its client and above what was served last. The
//! lowest tag that may start is next, so that a client with a thousand in line is no faster than one with a single run.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use longhaul_model::RunKey;
use tokio::sync::oneshot;

/// How long a place may be held before somebody must be seen to hold it: a request that has got one is about to be a run.
const GRACE: Duration = Duration::from_secs(30);

/// The limits of a scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlaceLimits {
    /// Runs with a process at once.
    pub live_max: usize,
    /// Runs that wait, at most.
    pub queue_max: usize,
    /// Runs of one harness with a process at once, by its name.
    pub harness_max: BTreeMap<String, usize>,
    /// Runs of one client with a process at once.
    pub client_max: Option<usize>,
    /// Places of `live_max` that are kept for a project, by its name.
    pub reserved: BTreeMap<String, usize>,
}

impl PlaceLimits {
    /// What is wrong with them, if anything: no run could ever start, or not every one.
    pub fn mistake(&self) -> Option<String> {
        let kept: usize = self.reserved.values().sum();
        if self.live_max == 0 {
            return Some("live_max must be at least 1".to_owned());
        }
        if kept >= self.live_max {
            return Some(format!(
                "{kept} places are reserved of {} in all; one at least must be left to everybody",
                self.live_max
            ));
        }
        let none = self.harness_max.iter().find(|(_, max)| **max == 0).map(|(name, _)| name);
        if let Some(name) = none {
            return Some(format!("harness {name} must have at least one place"));
        }
        (self.client_max == Some(0)).then(|| "a client must have at least one place".to_owned())
    }
}

/// Whom a place is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The run.
    pub key: RunKey,
    /// Its harness.
    pub harness: String,
    /// Who asked for it: the digest of a token, or nothing.
    pub caller: String,
    /// Places that the client may have at once, whatever the others may.
    pub lane: Option<usize>,
}

impl Who {
    fn client(&self) -> (String, String) {
        (self.key.project.to_string(), self.caller.clone())
    }
}

#[derive(Debug)]
struct Waiting {
    who: Who,
    ready: oneshot::Sender<Place>,
}

#[derive(Debug)]
struct Holder {
    who: Who,
    /// Whether the place is one that is kept for its project.
    kept: bool,
    since: Instant,
}

/// Clients, turns and places as they are now.
#[derive(Debug, Default)]
struct State {
    next: u64,
    /// The tag that was served last.
    served: u64,
    /// The last tag of each client that has, or had a moment ago, runs in line.
    tags: HashMap<(String, String), u64>,
    /// By tag and number.
    queue: BTreeMap<(u64, u64), Waiting>,
    holders: HashMap<u64, Holder>,
}

/// The places of one server.
#[derive(Debug, Clone)]
pub struct Places {
    limits: Arc<PlaceLimits>,
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
    number: u64,
}

/// A place in the queue; leaving it is dropping it.
#[derive(Debug)]
pub struct Wait {
    places: Places,
    at: (u64, u64),
    ready: oneshot::Receiver<Place>,
}

/// Why a run in line does not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InLine {
    /// Runs before it.
    pub before: usize,
    /// What has no room, in words.
    pub cause: String,
}

impl State {
    fn held(&self, which: impl Fn(&Holder) -> bool) -> usize {
        self.holders.values().filter(|holder| which(holder)).count()
    }

    /// Whether a run may start, and then whether on a place that is kept for its project; else what has no room.
    fn room(&self, limits: &PlaceLimits, who: &Who) -> Result<bool, String> {
        if let Some(max) = limits.harness_max.get(&who.harness) {
            let used = self.held(|holder| holder.who.harness == who.harness);
            if used >= *max {
                return Err(format!("{used} of {max} places of harness {} taken", who.harness));
            }
        }
        if let Some(max) = limits.client_max.into_iter().chain(who.lane).min() {
            let client = who.client();
            let used = self.held(|holder| holder.who.client() == client);
            if used >= max {
                return Err(format!("{used} of {max} places of its client taken"));
            }
        }
        let project = who.key.project.as_str();
        if let Some(max) = limits.reserved.get(project) {
            let used = self.held(|holder| holder.kept && holder.who.key.project.as_str() == project);
            if used < *max {
                return Ok(true);
            }
        }
        let kept: usize = limits.reserved.values().sum();
        let common = limits.live_max.saturating_sub(kept);
        let used = self.held(|holder| !holder.kept);
        if used < common {
            return Ok(false);
        }
        Err(match kept {
            0 => format!("{used} of {common} places taken"),
            _ => format!("{used} of {common} places taken, {kept} more are reserved"),
        })
    }

    fn hold(&mut self, places: &Places, who: Who, kept: bool) -> Place {
        let number = self.next;
        self.next += 1;
        self.holders.insert(number, Holder { who, kept, since: Instant::now() });
        Place { places: places.clone(), number }
    }

    /// Gives out what can be given; the places of those who left in this very moment come back.
    fn serve(&mut self, places: &Places) -> Vec<Place> {
        let mut back = Vec::new();
        while let Some((at, kept)) =
            self.queue.iter().find_map(|(at, w)| self.room(&places.limits, &w.who).ok().map(|kept| (*at, kept)))
        {
            let Some(next) = self.queue.remove(&at) else { break };
            self.served = self.served.max(at.0);
            let served = self.served;
            self.tags.retain(|_, tag| *tag > served);
            let place = self.hold(places, next.who, kept);
            back.extend(next.ready.send(place).err());
        }
        back
    }
}

impl Places {
    /// Places within these limits.
    pub fn new(limits: PlaceLimits) -> Self {
        Self { limits: Arc::new(limits), state: Arc::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place whether one is free or not: for a process that is there already.
    pub fn take(&self, who: Who) -> Place {
        let mut state = self.state();
        let kept = state.room(&self.limits, &who) == Ok(true);
        state.hold(self, who, kept)
    }

    /// Gets in line. The place may be ready at once.
    ///
    /// # Errors
    /// [`QueueFull`], and then nobody is in line.
    pub fn wait(&self, who: Who) -> Result<Wait, QueueFull> {
        self.enter(who, self.limits.queue_max)
    }

    /// Gets in line although the queue may be full: for a run that was accepted by an earlier server.
    pub fn wait_accepted(&self, who: Who) -> Wait {
        match self.enter(who, usize::MAX) {
            Ok(wait) => wait,
            Err(_) => unreachable!("a queue without a bound is never full"),
        }
    }

    fn enter(&self, who: Who, queue_max: usize) -> Result<Wait, QueueFull> {
        let (ready, receiver) = oneshot::channel();
        let mut state = self.state();
        if state.queue.len() >= queue_max && state.room(&self.limits, &who).is_err() {
            let (queued, live) = (state.queue.len(), state.holders.len());
            return Err(QueueFull { queued, live, live_max: self.limits.live_max });
        }
        let number = state.next;
        state.next += 1;
        let client = who.client();
        let tag = state.tags.get(&client).copied().unwrap_or(0).max(state.served) + 1;
        state.tags.insert(client, tag);
        let at = (tag, number);
        state.queue.insert(at, Waiting { who, ready });
        let back = state.serve(self);
        drop(state);
        drop(back);
        Ok(Wait { places: self.clone(), at, ready: receiver })
    }

    /// Where a run is in line and what it waits for, if it waits.
    pub fn in_line(&self, key: &RunKey) -> Option<InLine> {
        let state = self.state();
        let (before, waiting) = state.queue.values().enumerate().find(|(_, w)| w.who.key == *key)?;
        let cause = state.room(&self.limits, &waiting.who).err().unwrap_or_else(|| "its turn is next".to_owned());
        Some(InLine { before, cause })
    }

    /// Places taken, places in all, runs that wait.
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.state();
        (state.holders.len(), self.limits.live_max, state.queue.len())
    }

    /// Who has a place, and whether for longer than it takes a request to become a run.
    pub(crate) fn holders(&self) -> Vec<(RunKey, bool)> {
        let state = self.state();
        state.holders.values().map(|holder| (holder.who.key.clone(), holder.since.elapsed() > GRACE)).collect()
    }

    fn give_back(&self, number: u64) {
        let mut state = self.state();
        state.holders.remove(&number);
        let back = state.serve(self);
        drop(state);
        // Outside the lock: each gives its place to the next.
        drop(back);
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
        let left = self.places.state().queue.remove(&self.at);
        drop(left);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.give_back(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longhaul_model::{ProjectId, RunId};

    fn key(name: &str) -> RunKey {
        RunKey { project: ProjectId::default_project(), run: RunId::parse(name).unwrap() }
    }

    fn who(name: &str) -> Who {
        Who { key: key(name), harness: "demo".to_owned(), caller: String::new(), lane: None }
    }

    fn by(caller: &str, name: &str) -> Who {
        Who { caller: caller.to_owned(), ..who(name) }
    }

    fn of(project: &str, harness: &str, name: &str) -> Who {
        let key = RunKey { project: ProjectId::parse(project).unwrap(), run: RunId::parse(name).unwrap() };
        Who { key, harness: harness.to_owned(), caller: String::new(), lane: None }
    }

    fn limits(live_max: usize, queue_max: usize) -> PlaceLimits {
        PlaceLimits { live_max, queue_max, ..PlaceLimits::default() }
    }

    /// Whether the place is there now; keeps it.
    fn has(wait: &mut Wait) -> Option<Place> {
        wait.ready.try_recv().ok()
    }

    #[tokio::test]
    async fn first_come_first_served() {
        let places = Places::new(limits(1, 2));
        let first = places.wait(who("a")).unwrap().ready().await;
        let mut b = places.wait(who("b")).unwrap();
        let mut c = places.wait(who("c")).unwrap();
        let before = |name: &str| places.in_line(&key(name)).map(|line| line.before);
        assert_eq!((before("b"), before("c")), (Some(0), Some(1)));
        assert_eq!(places.wait(who("d")).unwrap_err(), QueueFull { queued: 2, live: 1, live_max: 1 });
        drop(first);
        let second = b.ready().await;
        assert_eq!(before("c"), Some(0));
        drop(second);
        drop(c.ready().await);
        assert_eq!(places.counts(), (0, 1, 0));
    }

    #[tokio::test]
    async fn leaving_the_line_gives_nothing_away() {
        let places = Places::new(limits(1, 2));
        let first = places.take(who("a"));
        let b = places.wait(who("b")).unwrap();
        let mut c = places.wait(who("c")).unwrap();
        drop(b);
        drop(first);
        drop(c.ready().await);
        assert_eq!(places.counts(), (0, 1, 0));
        // A place that was handed over and never looked at comes back too.
        let first = places.take(who("a"));
        let b = places.wait(who("b")).unwrap();
        drop(first);
        drop(b);
        assert_eq!(places.counts(), (0, 1, 0));
    }

    #[test]
    fn clients_take_turns() {
        let places = Places::new(limits(1, 100));
        let mut held = Some(places.take(by("many", "m")));
        let mut waits: Vec<(String, Wait)> = Vec::new();
        for n in 0..6 {
            let name = format!("m{n}");
            waits.push((name.clone(), places.wait(by("many", &name)).unwrap()));
        }
        for name in ["x0", "x1"] {
            waits.push((name.to_owned(), places.wait(by("few", name)).unwrap()));
        }
        let mut order = Vec::new();
        while !waits.is_empty() {
            drop(held.take());
            let (at, place) = waits
                .iter_mut()
                .enumerate()
                .find_map(|(at, (_, wait))| Some((at, has(wait)?)))
                .expect("somebody's turn");
            order.push(waits.remove(at).0);
            held = Some(place);
        }
        assert_eq!(order, ["m0", "x0", "m1", "x1", "m2", "m3", "m4", "m5"]);
        drop(held);
        assert!(places.state().tags.is_empty(), "nothing is remembered of those who are done");
    }

    #[test]
    fn a_run_that_cannot_start_holds_nobody_up() {
        let mut limits = limits(3, 10);
        limits.harness_max.insert("claude".to_owned(), 1);
        let places = Places::new(limits);
        let mut first = places.wait(of("default", "claude", "a")).unwrap();
        let first = has(&mut first).expect("a place");
        let mut second = places.wait(of("default", "claude", "b")).unwrap();
        assert!(has(&mut second).is_none());
        let line = places.in_line(&key("b")).unwrap();
        assert_eq!((line.before, line.cause.as_str()), (0, "1 of 1 places of harness claude taken"));
        let mut other = places.wait(of("default", "codex", "c")).unwrap();
        assert!(has(&mut other).is_some(), "another harness goes past");
        drop(first);
        assert!(has(&mut second).is_some());
    }

    #[test]
    fn a_client_has_its_share_and_no_more() {
        let places = Places::new(PlaceLimits { client_max: Some(1), ..limits(3, 10) });
        let _one = places.take(by("a", "a1"));
        let mut two = places.wait(by("a", "a2")).unwrap();
        assert!(has(&mut two).is_none());
        let mut other = places.wait(by("b", "b1")).unwrap();
        assert!(has(&mut other).is_some());
    }

    #[test]
    fn a_reserved_place_is_never_lent() {
        let mut limits = limits(3, 10);
        limits.reserved.insert("review".to_owned(), 1);
        let places = Places::new(limits);
        let mut bulk: Vec<Wait> = (0..3).map(|n| places.wait(of("bulk", "demo", &format!("b{n}"))).unwrap()).collect();
        let held: Vec<Place> = bulk.iter_mut().filter_map(has).collect();
        assert_eq!(held.len(), 2, "the third place is empty rather than lent");
        let cause = places.in_line(&of("bulk", "demo", "b2").key).unwrap().cause;
        assert_eq!(cause, "2 of 2 places taken, 1 more are reserved");
        let mut review = places.wait(of("review", "demo", "r0")).unwrap();
        let kept = has(&mut review).expect("at once");
        let mut more = places.wait(of("review", "demo", "r1")).unwrap();
        assert!(has(&mut more).is_none(), "beyond its own it waits like everybody");
        drop(kept);
        assert!(has(&mut more).is_some());
        assert!(has(&mut bulk[2]).is_none());
        drop(held);
        assert!(has(&mut bulk[2]).is_some());
    }

    #[test]
    fn limits_that_let_nobody_in_are_named() {
        assert_eq!(limits(1, 0).mistake(), None);
        assert!(limits(0, 0).mistake().unwrap().contains("live_max"));
        let all = PlaceLimits { reserved: [("p".to_owned(), 2)].into(), ..limits(2, 0) };
        assert!(all.mistake().unwrap().contains("2 places are reserved of 2"));
        let none = PlaceLimits { harness_max: [("claude".to_owned(), 0)].into(), ..limits(2, 0) };
        assert!(none.mistake().unwrap().contains("harness claude"));
        assert!(PlaceLimits { client_max: Some(0), ..limits(2, 0) }.mistake().is_some());
    }
}
