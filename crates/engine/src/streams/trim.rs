//! Messages that are not to be kept.
//!
//! Job: tell how many of the oldest go, by number and bytes with the append that is one too many, by age when it is looked.
//! Owns: nothing. Never: takes a message from a stream that has forks; keeps less than was asked for.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use longhaul_model::stream::{Keep, State};
use longhaul_model::{Seq, StreamId, Timestamp};
use longhaul_store::{Commit, StoreError, StreamWrite};

use crate::streams::Streams;
use crate::streams::config::{Second, TIME, delete, prefix, time_id};
use crate::streams::handle::{Handle, Live, Mark};

/// Parts of a bound that are told apart: what goes, goes in pieces of about so much.
const PARTS: u64 = 64;

/// A bound is exceeded by this part of it before anything goes.
const SLACK: u64 = 8;

/// Records of seconds that are looked at in one step.
const SECONDS_PAGE: usize = 1_000;

/// What an append cuts off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// Own messages that are no longer kept.
    pub(super) removed: u64,
}

impl Live {
    /// What goes with an append of `messages` after `tail` own ones. `state` is the one after it.
    pub(super) fn cut(&mut self, keep: &Keep, tail: u64, messages: &[Bytes], state: &mut State) -> Option<Cut> {
        if keep.is_endless() || self.forks > 0 {
            return None;
        }
        let kept = tail + messages.len() as u64 - self.removed;
        let too_many = keep.messages_max.filter(|max| kept > max.saturating_add(max / SLACK));
        let Some(bytes_max) = keep.bytes_max else {
            return too_many.map(|max| Cut { removed: self.removed + kept - max });
        };
        self.marks.truncate(self.marks.partition_point(|mark| mark.before <= tail));
        self.mark(keep, bytes_max, tail, messages, state.bytes);
        let bytes = state.bytes - state.bytes_gone;
        let too_large = Some(bytes_max).filter(|max| bytes > max.saturating_add(max / SLACK));
        if too_many.is_none() && too_large.is_none() {
            return None;
        }
        let total = tail + messages.len() as u64;
        let goes = |mark: &Mark| {
            too_many.is_some_and(|max| total - mark.before >= max)
                || too_large.is_some_and(|max| state.bytes - mark.bytes >= max)
        };
        let mark = *self.marks.get(self.marks.partition_point(goes).checked_sub(1)?)?;
        if mark.before <= self.removed {
            return None;
        }
        // Marks before the cut stay until the next one: this append may not be made.
        while self.marks.get(1).is_some_and(|next| next.before <= self.removed) {
            self.marks.pop_front();
        }
        state.bytes_gone = mark.bytes;
        Some(Cut { removed: mark.before })
    }

    /// Notes where the messages of an append begin, as far apart as matters.
    fn mark(&mut self, keep: &Keep, bytes_max: u64, tail: u64, messages: &[Bytes], bytes_after: u64) {
        let step_bytes = bytes_max / PARTS;
        let step = keep.messages_max.unwrap_or(u64::MAX) / PARTS;
        let mut bytes = bytes_after - messages.iter().map(|message| message.len() as u64).sum::<u64>();
        for (before, message) in (tail..).zip(messages) {
            let far =
                self.marks.back().is_none_or(|last| bytes - last.bytes > step_bytes || before - last.before > step);
            if far {
                self.marks.push_back(Mark { before, bytes });
            }
            bytes += message.len() as u64;
        }
    }
}

impl Streams {
    /// Notes that records of seconds of a stream may be of no use any more.
    pub(super) fn note_trimmed(&self, stream: StreamId, removed: u64) {
        let mut trimmed = self.inner.trimmed.lock().unwrap_or_else(PoisonError::into_inner);
        trimmed.insert(stream, removed);
    }

    /// Removes messages that are older than a stream keeps. Answers whether any went, and when to look again.
    pub(super) async fn trim_by_age(
        &self,
        handle: &Arc<Handle>,
        age_seconds: u64,
    ) -> Result<(bool, Timestamp), StoreError> {
        let age_ms = i64::try_from(age_seconds).unwrap_or(i64::MAX).saturating_mul(1_000);
        let now = self.now();
        let oldest = now.unix_ms().saturating_sub(age_ms).div_euclid(1_000);
        let after = |ms: i64| Timestamp::from_unix_ms(ms.saturating_add(age_ms).saturating_add(1_000));
        let first = self.second_from(handle.stream, oldest).await?;
        // Nobody appends between the look at the state and the commit.
        let Some(alone) = handle.alone().await else { return Ok((false, after(now.unix_ms()))) };
        let (state, removed, forks) = {
            let live = handle.live();
            (live.state.clone(), live.removed, live.forks)
        };
        let tail = handle.seq(state.tail);
        let created = handle.doc.created_at.unix_ms().div_euclid(1_000);
        let (upto, bytes) = match first {
            // What came with the creation has no second of its own.
            _ if removed == 0 && created >= oldest => (0, 0),
            Some(second) => (second.first - 1, second.bytes_before),
            None => (tail.get(), state.bytes),
        };
        let next =
            after(first.map_or(now.unix_ms(), |second| second.at.saturating_mul(1_000)).max(now.unix_ms() - age_ms));
        if upto <= removed || forks > 0 {
            alone.certain();
            return Ok((false, next));
        }
        let state = State { bytes_gone: bytes, ..state };
        let write = StreamWrite { keep_after: Some(Seq::new(upto)), ..self.write(handle, tail, &state) };
        let answer = self.store().commit(Commit { streams: vec![write], ..Commit::default() }).await;
        if answer.is_ok() {
            let mut live = handle.live();
            live.removed = upto;
            live.marks.retain(|mark| mark.before >= upto);
            if handle.doc.keep.bytes_max.is_some() && live.marks.front().is_none_or(|mark| mark.before > upto) {
                live.marks.push_front(Mark { before: upto, bytes });
            }
            live.state = state;
            drop(live);
            handle.landed(0, upto, false);
            self.note_trimmed(handle.stream, upto);
        }
        match alone.settle(answer) {
            Ok(_) => Ok((true, next)),
            Err(error) => Err(StoreError::Unavailable(error.to_string())),
        }
    }

    /// The first second of a stream, from one on, in which messages came.
    pub(super) async fn second_from(&self, stream: StreamId, second: i64) -> Result<Option<Second>, StoreError> {
        let prefix = prefix(stream);
        // The page after an id begins with the next one; the second before may be one.
        let after = if second > 0 { time_id(stream, second - 1) } else { String::new() };
        let page = self.store().records_after(TIME, &prefix, &after, 1).await?;
        Ok(page.first().and_then(|(key, value)| Second::decode(&key.id, value)))
    }

    /// Removes records of seconds of which no message is kept. Answers how many went.
    pub(super) async fn forget_seconds(&self) -> Result<u64, StoreError> {
        let trimmed: Vec<(StreamId, u64)> =
            self.inner.trimmed.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
        let mut gone = 0;
        for (stream, removed) in trimmed {
            loop {
                let page = self.store().records(TIME, &prefix(stream), SECONDS_PAGE).await?;
                let seconds: Vec<_> = page.iter().map(|(key, value)| (key, Second::decode(&key.id, value))).collect();
                // A second goes once the next one begins with what is kept, or before it.
                let goes = |pair: &&[(_, Option<Second>)]| pair[1].1.is_none_or(|next| next.first <= removed + 1);
                let records: Vec<_> =
                    seconds.windows(2).take_while(goes).map(|pair| delete(pair[0].0.clone())).collect();
                let count = records.len();
                if count == 0 {
                    break;
                }
                let commit = Commit { records, ..Commit::default() };
                self.store().commit(commit).await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
                gone += count as u64;
            }
        }
        Ok(gone)
    }
}
