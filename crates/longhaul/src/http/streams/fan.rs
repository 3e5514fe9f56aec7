//! Frames of a stream that many readers get: encoded once.
//!
//! Readers of a live stream stand at the same place nearly all the time. The first of them that comes to a new page
//! encodes it; the others send the same bytes. Owns: the last few pages of each stream that somebody follows. Never:
//! keeps a page for a stream that nobody follows; holds up a reader who stands elsewhere.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use axum::body::Bytes;
use longhaul_model::StreamId;
use longhaul_model::stream::Offset;

/// Pages of a stream that are kept: enough for readers that are one wake-up apart.
const KEPT: usize = 4;

/// Fewer fans than this are not looked through.
const LOOK_AT_LEAST: usize = 64;

/// A page as it goes over the wire.
#[derive(Debug, Clone)]
pub(super) struct Encoded {
    /// The frames.
    pub(super) frames: Bytes,
    /// The cursor in them.
    pub(super) cursor: u64,
    /// Where the next page begins.
    pub(super) next: Offset,
    /// Whether the page reached the tail.
    pub(super) up_to_date: bool,
    /// Whether there will be no more.
    pub(super) closed: bool,
}

/// What all readers of one stream share.
#[derive(Debug, Default)]
pub(super) struct Fan {
    pages: Mutex<VecDeque<(Offset, Encoded)>>,
}

/// The fans of all streams that somebody follows.
#[derive(Debug, Default)]
pub struct Fans(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    fans: HashMap<StreamId, Weak<Fan>>,
    /// At so many it is looked whose readers have all gone.
    look_at: usize,
}

impl Fans {
    /// That of a stream.
    pub(super) fn of(&self, stream: StreamId) -> Arc<Fan> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fan) = known.fans.get(&stream).and_then(Weak::upgrade) {
            return fan;
        }
        if known.fans.len() >= known.look_at {
            known.fans.retain(|_, fan| fan.strong_count() > 0);
            known.look_at = (known.fans.len() * 2).max(LOOK_AT_LEAST);
        }
        let fan = Arc::new(Fan::default());
        known.fans.insert(stream, Arc::downgrade(&fan));
        fan
    }
}

impl Fan {
    /// The page after this place with a cursor that is not below this one, if somebody has encoded it.
    pub(super) fn page(&self, after: Offset, cursor: u64) -> Option<Encoded> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.iter().find(|(at, page)| *at == after && page.cursor >= cursor).map(|(_, page)| page.clone())
    }

    /// Keeps a page for the others.
    pub(super) fn keep(&self, after: Offset, page: &Encoded) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.retain(|(at, _)| *at != after);
        pages.truncate(KEPT - 1);
        pages.push_front((after, page.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(next: u64, cursor: u64) -> Encoded {
        let frames = Bytes::from(format!("to {next}"));
        Encoded { frames, cursor, next: Offset::new(next), up_to_date: true, closed: false }
    }

    #[test]
    fn readers_of_a_stream_share_and_leave_nothing() {
        let fans = Fans::default();
        let (one, two) = (fans.of(StreamId::new(1)), fans.of(StreamId::new(1)));
        assert!(Arc::ptr_eq(&one, &two));
        assert!(!Arc::ptr_eq(&one, &fans.of(StreamId::new(2))));
        drop((one, two));
        for n in 0..10 * LOOK_AT_LEAST as u64 {
            drop(fans.of(StreamId::new(n)));
        }
        assert!(fans.0.lock().unwrap().fans.len() <= LOOK_AT_LEAST);
    }

    #[test]
    fn a_page_is_for_those_who_stand_before_it_and_whose_cursor_it_does_not_turn_back() {
        let fan = Fans::default().of(StreamId::new(1));
        fan.keep(Offset::new(3), &page(4, 10));
        assert_eq!(fan.page(Offset::new(3), 10).map(|page| page.next), Some(Offset::new(4)));
        assert!(fan.page(Offset::new(3), 11).is_none());
        assert!(fan.page(Offset::new(2), 10).is_none());
        for n in 10..20 {
            fan.keep(Offset::new(n), &page(n + 1, 10));
        }
        assert!(fan.page(Offset::new(3), 10).is_none());
        assert!(fan.page(Offset::new(19), 10).is_some());
        assert_eq!(fan.pages.lock().unwrap().len(), KEPT);
    }
}
