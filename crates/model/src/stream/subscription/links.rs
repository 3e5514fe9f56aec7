//! The streams of a subscription.
//!
//! Job: what is acknowledged of each and what is known of its end, and which of them have work. What is acknowledged is
//! durable; ends are what was last seen and may be behind, never ahead.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::state::{Event, Told};
use crate::id::StreamId;
use crate::limits;
use crate::stream::offset::Offset;
use crate::stream::path::StreamPath;

/// What is stored of a link. A stream that the pattern takes in and of which nothing is stored is acknowledged up to its
/// beginning: it came after the subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stored {
    /// Whether it was asked for by name.
    #[serde(rename = "x", default, skip_serializing_if = "std::ops::Not::not")]
    pub explicit: bool,
    /// The incarnation of the stream that `acked` is about; another one has not been acknowledged at all.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<StreamId>,
    /// The last position that was acknowledged.
    #[serde(rename = "a")]
    pub acked: Offset,
}

/// A stream as it was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its incarnation.
    pub incarnation: StreamId,
    /// After its last message.
    pub tail: Offset,
}

/// A stream of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// Whether the pattern takes it in.
    pub matched: bool,
    /// What is stored of it.
    pub stored: Option<Stored>,
    /// The stream, if it is there.
    pub seen: Option<Seen>,
}

impl Link {
    /// Whether it was asked for by name.
    pub fn explicit(&self) -> bool {
        self.stored.is_some_and(|stored| stored.explicit)
    }

    /// What is acknowledged of the stream that is there.
    pub fn acked(&self) -> Offset {
        match (self.stored, self.seen) {
            (Some(stored), Some(seen)) if stored.incarnation != Some(seen.incarnation) => Offset::ZERO,
            (Some(stored), _) => stored.acked,
            (None, _) => Offset::ZERO,
        }
    }

    /// After the stream's last message; its beginning if it is not there.
    pub fn tail(&self) -> Offset {
        self.seen.map_or(Offset::ZERO, |seen| seen.tail)
    }

    /// Whether there are messages that are not acknowledged.
    pub fn pending(&self) -> bool {
        self.tail() > self.acked()
    }
}

/// The streams of a subscription, by path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Links {
    map: BTreeMap<StreamPath, Link>,
    pending: BTreeSet<StreamPath>,
    explicit: usize,
}

impl Links {
    /// One of them.
    pub fn get(&self, path: &StreamPath) -> Option<&Link> {
        self.map.get(path)
    }

    /// All of them, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&StreamPath, &Link)> {
        self.map.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// How many were asked for by name.
    pub fn explicit(&self) -> usize {
        self.explicit
    }

    /// Takes a link in as it was stored and as its stream was seen. False if it is left over: nobody named the stream, and
    /// it is gone or the pattern does not take it in.
    pub fn load(&mut self, path: StreamPath, stored: Stored, seen: Option<Seen>, matched: bool) -> bool {
        self.change(path.clone(), |link| *link = Link { matched, stored: Some(stored), seen });
        self.map.contains_key(&path)
    }

    /// Takes in how a stream was seen, or that it is not there; ends never go back. A stream beyond the bound is not taken
    /// in: the answer is false then.
    pub fn see(&mut self, path: &StreamPath, seen: Option<Seen>, matched: bool) -> bool {
        if !self.map.contains_key(path) {
            if seen.is_none() || !matched {
                return true;
            }
            if self.map.len() >= limits::SUBSCRIPTION_LINKS_MAX {
                return false;
            }
        }
        self.change(path.clone(), |link| {
            link.matched = matched;
            link.seen = match (link.seen, seen) {
                (Some(old), Some(new)) if old.incarnation == new.incarnation => {
                    Some(Seen { tail: old.tail.max(new.tail), ..new })
                }
                // What is told late of an earlier incarnation.
                (Some(old), Some(new)) if old.incarnation > new.incarnation => Some(old),
                (_, new) => new,
            };
        });
        true
    }

    /// What an event changes.
    pub fn evolve(&mut self, event: &Event) {
        match event {
            Event::Linked { path, stored } => self.change(path.clone(), |link| link.stored = Some(*stored)),
            Event::Unlinked { path } => self.change(path.clone(), |link| link.stored = None),
            Event::Woke { .. }
            | Event::Failed { .. }
            | Event::Delivered { .. }
            | Event::Claimed { .. }
            | Event::Extended { .. }
            | Event::Ended
            | Event::Moved { .. } => {}
        }
    }

    fn change(&mut self, path: StreamPath, change: impl FnOnce(&mut Link)) {
        let link = self.map.entry(path.clone()).or_default();
        let before = link.explicit();
        change(link);
        let link = *link;
        self.explicit = self.explicit + usize::from(link.explicit()) - usize::from(before);
        if link.pending() {
            self.pending.insert(path.clone());
        } else {
            self.pending.remove(&path);
        }
        if !link.explicit() && (!link.matched || link.seen.is_none()) {
            self.map.remove(&path);
            self.pending.remove(&path);
        }
    }

    /// Whether something is stored of a stream that would be left over once it is gone.
    pub fn would_leave(&self, path: &StreamPath) -> bool {
        self.map.get(path).is_some_and(|link| link.stored.is_some_and(|stored| !stored.explicit))
    }

    /// Streams with work, were these acknowledged; as many as a wake tells of.
    pub fn work(&self, acks: &BTreeMap<StreamPath, Offset>) -> Vec<Told> {
        let told = |path: &StreamPath| {
            let link = self.map.get(path)?;
            let seen = link.seen?;
            let acked = acks.get(path).copied().unwrap_or_default().max(link.acked());
            (seen.tail > acked).then(|| Told { path: path.clone(), incarnation: seen.incarnation, tail: seen.tail })
        };
        self.pending.iter().filter_map(told).take(limits::SUBSCRIPTION_TOLD_MAX).collect()
    }

    /// Whether there is work.
    pub fn has_work(&self) -> bool {
        !self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> StreamPath {
        StreamPath::parse(text).unwrap()
    }

    #[expect(clippy::unnecessary_wraps, reason = "what a look at a stream gives")]
    fn seen(incarnation: u64, tail: u64) -> Option<Seen> {
        Some(Seen { incarnation: StreamId::new(incarnation), tail: Offset::new(tail) })
    }

    fn stored(explicit: bool, incarnation: u64, acked: u64) -> Stored {
        Stored { explicit, incarnation: Some(StreamId::new(incarnation)), acked: Offset::new(acked) }
    }

    #[test]
    fn work_is_what_is_not_acknowledged() {
        let mut links = Links::default();
        assert!(links.load(path("a"), stored(true, 1, 3), None, false));
        assert!(!links.has_work());
        links.see(&path("a"), seen(1, 3), false);
        assert!(!links.has_work());
        links.see(&path("a"), seen(1, 5), false);
        links.see(&path("a"), seen(1, 4), false);
        assert_eq!(links.work(&BTreeMap::new())[0].tail, Offset::new(5), "ends never go back");
        links.evolve(&Event::Linked { path: path("a"), stored: stored(true, 1, 5) });
        assert!(!links.has_work());
    }

    #[test]
    fn another_incarnation_is_not_acknowledged() {
        let mut links = Links::default();
        assert!(links.load(path("a"), stored(true, 1, 3), None, false));
        links.see(&path("a"), seen(2, 1), false);
        assert!(links.has_work());
        links.see(&path("a"), seen(1, 9), false);
        assert_eq!(links.get(&path("a")).unwrap().tail(), Offset::new(1), "the earlier one is over");
    }

    #[test]
    fn what_only_the_pattern_holds_goes_with_its_stream() {
        let mut links = Links::default();
        links.see(&path("a"), seen(1, 1), true);
        assert!(links.load(path("b"), stored(true, 2, 0), seen(2, 1), true));
        assert!(!links.load(path("d"), stored(false, 4, 1), None, true), "its stream is gone");
        assert!(!links.load(path("d"), stored(false, 4, 1), seen(4, 1), false), "nobody takes it in");
        links.see(&path("c"), seen(3, 1), false);
        assert_eq!((links.len(), links.explicit()), (2, 1));
        links.see(&path("a"), None, true);
        links.see(&path("b"), None, true);
        assert_eq!((links.len(), links.has_work()), (1, false));
        links.see(&path("b"), seen(2, 1), true);
        links.evolve(&Event::Unlinked { path: path("b") });
        assert!(links.get(&path("b")).is_some_and(|link| !link.explicit()), "the pattern still takes it in");
    }
}
