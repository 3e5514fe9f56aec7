//! The lines of appends that must wait.
//!
//! Job: keep one producer's appends in the order in which they came while some of them wait for a stream to be loaded, for
//! one that failed before them, or for somebody who is alone with it. Owns: who waits. Never: has a line in which nobody
//! stands; keeps anybody waiting for one who has gone.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use longhaul_model::stream::StreamKey;
use tokio::sync::oneshot;

use crate::streams::handles::Handles;

/// Lines by the number of whose they are. Two that share a number wait for each other, and that is all.
#[derive(Default)]
pub(super) struct Lines(HashMap<u64, VecDeque<oneshot::Sender<()>>>);

/// A place in a line. Whoever had it and goes lets the next one to the front.
pub(super) struct Place<'a> {
    handles: &'a Handles,
    key: &'a StreamKey,
    line: u64,
    /// How it is told that it stands in front; `None` once it does.
    told: Option<oneshot::Receiver<()>>,
}

impl Lines {
    /// Whether nobody stands in a line, which is asked for only if anybody stands anywhere.
    pub(super) fn is_free(&self, line: impl FnOnce() -> u64) -> bool {
        self.0.is_empty() || !self.0.contains_key(&line())
    }
}

impl Handles {
    /// The front of a line, once all are gone that stand in it now. It is joined when this is first polled.
    pub(super) async fn front<'a>(&'a self, key: &'a StreamKey, whose: &str) -> Place<'a> {
        let line = self.line_of(key, whose);
        let told = match self.shard(key).lines.0.entry(line) {
            Entry::Vacant(entry) => {
                entry.insert(VecDeque::new());
                None
            }
            Entry::Occupied(mut entry) => {
                let (tell, told) = oneshot::channel();
                entry.get_mut().push_back(tell);
                Some(told)
            }
        };
        let mut place = Place { handles: self, key, line, told };
        if let Some(told) = &mut place.told {
            // Nobody goes without a word.
            let _ = told.await;
            place.told = None;
        }
        place
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(told) = &mut self.told {
            told.close();
            if told.try_recv().is_err() {
                // It never stood in front: whoever lets it there finds that it has gone.
                return;
            }
        }
        let mut shard = self.handles.shard(self.key);
        let Some(line) = shard.lines.0.get_mut(&self.line) else { return };
        while let Some(tell) = line.pop_front() {
            if tell.send(()).is_ok() {
                return;
            }
        }
        shard.lines.0.remove(&self.line);
    }
}
