//! One subscription's task.
//!
//! Job: put what happens to it in one order: notes of its streams, questions, times, answers of its webhook. Each change is
//! committed before it is answered or anything follows from it. Owns: its state, and the one call of its webhook that may
//! be under way. Never: waits without an end; calls or tells before the wake is durable.
//!
//! | order of writes | a crash right after it leaves |
//! | --- | --- |
//! | commit of the wake | a wake to be called or offered: whoever starts next does it |
//! | the webhook's answer, or the event in the wake stream | the same: the webhook is called again with the same wake; the wake stream takes one event of a generation |
//! | commit of the acks, the lease, the end | what was answered to the worker |

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longhaul_model::limits;
use longhaul_model::stream::subscription::{
    self as rules, Ack, Context, Event, Head, Kind, Links, Outcome, Phase, Proof, Seen, SubscriptionKey, Told, Wake,
};
use longhaul_model::stream::{Offset, Producer, StreamKey, StreamPath};
use longhaul_model::{StreamId, Timestamp, limits::WEBHOOK_ANSWER};
use longhaul_store::{Commit, CommitError, StoreError};
use serde_json::json;
use std::collections::BTreeMap;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::error::AskError;
use super::moves::Post;
use super::records::{self, Gone, Record};
use super::{Answer, Call, Claimed, Followed, Inner, View};
use crate::streams::{Append, AppendError, OpenError, WriteError};

/// How long to wait before something that failed here is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Questions that wait for one subscription.
pub(super) const ASKS_MAX: usize = 64;

/// Streams of one page of a list.
const LIST_PAGE: usize = 1_000;

pub(super) type Reply<T> = oneshot::Sender<Result<T, AskError>>;

/// What a worker shows and brings.
pub(super) struct Work {
    pub(super) kind: Kind,
    pub(super) proof: Proof,
    pub(super) acks: Vec<Ack>,
    pub(super) done: bool,
}

/// A question to a subscription.
pub(super) enum Ask {
    Show(Reply<View>),
    Base(String, Reply<()>),
    Claim(String, Reply<Claimed>),
    Ack(Work, Reply<bool>),
    Release(Proof, Reply<()>),
    Link(Vec<StreamPath>, Reply<()>),
    Unlink(StreamPath, Reply<()>),
    End(Reply<()>),
}

struct Attempt {
    generation: u64,
    answer: JoinHandle<Result<Answer, String>>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

pub(super) struct Actor {
    pub(super) inner: Arc<Inner>,
    pub(super) key: SubscriptionKey,
    pub(super) post: Arc<Post>,
    pub(super) head: Head,
    pub(super) links: Links,
    pub(super) asks: mpsc::Receiver<Ask>,
    attempt: Option<Attempt>,
    /// The generation whose event is in the wake stream, as far as this task knows.
    offered: u64,
    /// The incarnation of the wake stream that has it.
    offered_in: Option<StreamId>,
    /// Whether the wake stream took nothing when it was last asked, and nothing is heard of it since.
    unheard: bool,
    /// What the webhook's last failure was.
    failure: Option<String>,
    /// Whether it was said that there are too many streams.
    full: bool,
    /// The store must be read again.
    stale: bool,
    again: Option<Instant>,
}

impl Actor {
    pub(super) fn new(
        inner: Arc<Inner>,
        key: SubscriptionKey,
        post: Arc<Post>,
        head: Head,
        asks: mpsc::Receiver<Ask>,
    ) -> Self {
        Self {
            inner,
            key,
            post,
            head,
            links: Links::default(),
            asks,
            attempt: None,
            offered: 0,
            offered_in: None,
            unheard: false,
            failure: None,
            full: false,
            stale: true,
            again: None,
        }
    }

    /// The same, with what is known of its streams.
    pub(super) fn with_links(mut self, links: Links) -> Self {
        self.links = links;
        self.stale = false;
        self
    }

    pub(super) async fn run(mut self) {
        let stopping = self.inner.stopping.clone();
        loop {
            if let Err(error) = self.step().await {
                tracing::warn!(subscription = %self.key, %error, "a subscription cannot go on at the moment");
                self.again = Some(Instant::now() + AGAIN);
            }
            let wait = self.wait();
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                answer = answer_of(&mut self.attempt) => self.answered(answer).await,
                ask = self.asks.recv() => {
                    let Some(ask) = ask else { return };
                    if self.ask(ask).await {
                        return;
                    }
                }
                () = self.post.news.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Everything that is due, durably.
    async fn step(&mut self) -> Result<(), WriteError> {
        if self.again.is_some_and(|again| again > Instant::now()) {
            return Ok(());
        }
        self.again = None;
        self.refresh().await?;
        self.begin();
        self.offer().await
    }

    /// How long there is nothing to do.
    fn wait(&self) -> Duration {
        if let Some(again) = self.again {
            return again.saturating_duration_since(Instant::now());
        }
        let deadline = rules::deadline(&self.head, &self.links, self.attempt.is_some());
        let left = deadline.map(|at| at.unix_ms().saturating_sub(self.inner.now().unix_ms()));
        // A clock that is set back makes no lease last for ever.
        Duration::from_millis(left.unwrap_or(i64::MAX).clamp(0, limits::LEASE_TTL_MS_MAX as i64).unsigned_abs())
    }

    fn context(&self) -> Context {
        let random = uuid::Uuid::new_v4();
        let chance = f64::from(random.as_fields().0) / f64::from(u32::MAX) * 2.0 - 1.0;
        let wake_id = format!("w_{}", uuid::Uuid::new_v4().simple());
        Context { now: self.inner.now(), wake_id, chance, calling: self.attempt.is_some() }
    }

    /// Takes in what is heard of the streams, and what has become due.
    async fn refresh(&mut self) -> Result<(), WriteError> {
        let dirty = self.post.take();
        if self.stale || dirty.all {
            self.stale = true;
            self.load().await?;
            self.stale = false;
            // The note of the wake stream may have been among what was missed: that it is there, or there again. What it has
            // it does not take twice.
            (self.unheard, self.offered) = (false, 0);
        }
        for (path, seen) in dirty.streams {
            if let Err(error) = self.hear(&path, seen).await {
                self.stale = true;
                return Err(error);
            }
        }
        let events = rules::look(&self.head, &self.links, &self.context());
        self.apply(events).await
    }

    async fn hear(&mut self, path: &StreamPath, seen: Option<Seen>) -> Result<(), WriteError> {
        if self.head.config.wake_stream.as_ref() == Some(path) {
            self.unheard = false;
            // Made again it has no event.
            if self.offered_in.is_some_and(|had| seen.is_some_and(|seen| seen.incarnation != had)) {
                self.offered = 0;
            }
        }
        let known = self.links.get(path).and_then(|link| link.seen);
        let same = seen.is_some_and(|seen| known.is_some_and(|known| known.incarnation == seen.incarnation));
        // Notes come in any order: what is new or gone is looked at.
        let seen = if same { seen } else { self.inner.seen(&self.key, path).await? };
        let matched = self.head.config.matches(path);
        let leaves = seen.is_none() && self.links.would_leave(path);
        if !self.links.see(path, seen, matched) && !std::mem::replace(&mut self.full, true) {
            let text = "the subscription follows as many streams as one may, and those that come now not";
            tracing::warn!(subscription = %self.key, %path, text);
        }
        if leaves {
            let record = records::remove(records::link_key(&self.head.uid, path));
            records::write(&*self.inner.options.store, vec![record]).await?;
        }
        Ok(())
    }

    /// Reads the store again.
    async fn load(&mut self) -> Result<(), WriteError> {
        let store = &*self.inner.options.store;
        let value = store.record(&records::head_key(&self.key)).await?.unwrap_or_default();
        if let Record::Head(head) = Record::decode(&self.key.to_string(), &value)? {
            self.head = *head;
        }
        let mut there = self.inner.matching(&self.key, &self.head).await?;
        let mut links = Links::default();
        let mut left = Vec::new();
        for (path, stored) in records::links(store, &self.head.uid).await? {
            self.post.name([&path]);
            let matched = self.head.config.matches(&path);
            let seen = match there.remove(&path) {
                Some(seen) => Some(seen),
                None => self.inner.seen(&self.key, &path).await?,
            };
            if !links.load(path.clone(), stored, seen, matched) {
                left.push(records::remove(records::link_key(&self.head.uid, &path)));
            }
        }
        for (path, seen) in there {
            links.see(&path, Some(seen), true);
        }
        self.links = links;
        records::write(store, left).await?;
        Ok(())
    }

    /// Makes events durable, and then true.
    async fn apply(&mut self, events: Vec<Event>) -> Result<(), WriteError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut head = self.head.clone();
        let mut writes = Vec::new();
        for event in &events {
            head.evolve(event);
            match event {
                Event::Linked { path, stored } => {
                    writes.push(records::put(records::link_key(&head.uid, path), stored));
                }
                Event::Unlinked { path } => writes.push(records::remove(records::link_key(&head.uid, path))),
                Event::Woke { .. }
                | Event::Failed { .. }
                | Event::Delivered { .. }
                | Event::Claimed { .. }
                | Event::Extended { .. }
                | Event::Ended
                | Event::Moved { .. } => {}
            }
        }
        if head != self.head {
            writes.push(records::put(records::head_key(&self.key), &Record::Head(Box::new(head.clone()))));
        }
        let commit = Commit { records: writes, ..Commit::default() };
        if let Err(error) = self.inner.options.store.commit(commit).await {
            self.stale |= matches!(error, CommitError::Unknown(_));
            return Err(error.into());
        }
        self.head = head;
        for event in &events {
            self.links.evolve(event);
        }
        Ok(())
    }

    /// Calls the webhook if it is to be called. One call at a time: the next one waits for its end.
    fn begin(&mut self) {
        let now = self.inner.now();
        let (None, Some(wake)) = (&self.attempt, rules::due(&self.head, now)) else { return };
        let Some(url) = &self.head.config.webhook else { return };
        let Some(keys) = self.inner.keys.get() else { return };
        let streams: Vec<_> = self.told(wake).iter().map(Followed::document).collect();
        let body = json!({
            "subscription_id": self.key.id,
            "wake_id": wake.id,
            "generation": self.head.generation,
            "streams": streams,
            "callback_url": self.inner.options.courier.callback_url(&self.head.base, &self.key),
            "callback_token": keys.token(&self.head.uid, self.head.generation, &wake.id),
        });
        let call = Call {
            url: url.clone(),
            body: Bytes::from(body.to_string()),
            within: WEBHOOK_ANSWER.min(Duration::from_millis(self.head.config.lease_ttl_ms)),
        };
        let generation = self.head.generation;
        let inner = Arc::clone(&self.inner);
        let answer = tokio::spawn(async move {
            let sign = |body: &[u8]| inner.keys.get().map(|keys| keys.sign(body, inner.now())).unwrap_or_default();
            inner.options.courier.call(call, &sign).await
        });
        self.attempt = Some(Attempt { generation, answer });
    }

    async fn answered(&mut self, (generation, answer): (u64, Result<Answer, String>)) {
        self.attempt = None;
        let outcome = match answer {
            Ok(answer) if (200..300).contains(&answer.status) => {
                self.failure = None;
                if answer.is_done() { Outcome::Done } else { Outcome::Accepted }
            }
            Ok(answer) => self.failed(format!("it answered {}", answer.status)),
            Err(why) => self.failed(why),
        };
        // What came since belongs to the next wake, so nothing is taken in before this.
        let events = rules::answered(&self.head, &self.links, generation, outcome, &self.context());
        if let Err(error) = self.apply(events).await {
            // The wake is still to be called, and will be.
            tracing::warn!(subscription = %self.key, %error, "a webhook's answer was not stored");
            self.again = Some(Instant::now() + AGAIN);
        }
    }

    fn failed(&mut self, why: String) -> Outcome {
        tracing::warn!(subscription = %self.key, why, "a webhook failed");
        self.failure = Some(why);
        Outcome::Failed
    }

    /// Puts the wake's event into the wake stream, once.
    async fn offer(&mut self) -> Result<(), WriteError> {
        let Phase::Offered { wake } = &self.head.phase else { return Ok(()) };
        if self.offered == self.head.generation || self.unheard {
            return Ok(());
        }
        let Some(path) = self.head.config.wake_stream.clone() else { return Ok(()) };
        let generation = self.head.generation;
        let stream = wake.told.first().map(|told| &told.path);
        let event = json!({
            "type": "wake",
            "subscription_id": self.key.id,
            "stream": stream,
            "generation": generation,
            "ts": wake.at.unix_ms(),
        });
        match self.inner.tell(&self.key, &self.head.uid, path, generation, event.to_string()).await {
            Ok(incarnation) => {
                (self.offered, self.offered_in) = (generation, Some(incarnation));
                Ok(())
            }
            Err(AppendError::Write(error)) => Err(error),
            Err(error) => {
                let text = "a wake stream takes no events; the wake waits until it does";
                tracing::warn!(subscription = %self.key, %error, "{text}");
                self.unheard = true;
                Ok(())
            }
        }
    }

    /// Answers a question. Whether the subscription is over.
    async fn ask(&mut self, ask: Ask) -> bool {
        // Nobody waits any more: nothing to answer.
        match ask {
            Ask::Show(reply) => drop(reply.send(self.show().await)),
            Ask::Base(base, reply) => {
                drop(reply.send(self.apply(vec![Event::Moved { base }]).await.map_err(Into::into)));
            }
            Ask::Claim(worker, reply) => drop(reply.send(self.claim(&worker).await)),
            Ask::Ack(work, reply) => drop(reply.send(self.ack(&work).await)),
            Ask::Release(proof, reply) => drop(reply.send(self.release(&proof).await)),
            Ask::Link(paths, reply) => drop(reply.send(self.link(paths).await)),
            Ask::Unlink(path, reply) => {
                let events = rules::unlink(&self.links, &path).into_iter().collect();
                let unlinked = self.apply(events).await.map_err(Into::into);
                self.unname([&path]);
                drop(reply.send(unlinked));
            }
            Ask::End(reply) => {
                let ended = self.end().await;
                let over = ended.is_ok();
                drop(reply.send(ended));
                return over;
            }
        }
        false
    }

    async fn show(&mut self) -> Result<View, AskError> {
        self.refresh().await?;
        let streams = self.followed();
        Ok(View {
            id: self.key.id.clone(),
            head: self.head.clone(),
            streams,
            streams_total: self.links.len(),
            failure: self.failure.clone(),
        })
    }

    async fn claim(&mut self, worker: &str) -> Result<Claimed, AskError> {
        self.refresh().await?;
        let events = rules::claim(&self.head, &self.links, worker, &self.context())?;
        self.apply(events).await?;
        let wake_id = self.head.phase.wake().map(|wake| wake.id.clone()).unwrap_or_default();
        let generation = self.head.generation;
        // It is claimed: its event would call others for nothing.
        (self.offered, self.offered_in) = (generation, None);
        let keys = self.inner.keys().await?;
        Ok(Claimed {
            token: keys.token(&self.head.uid, generation, &wake_id),
            wake_id,
            generation,
            streams: self.followed(),
            lease_ttl_ms: self.head.config.lease_ttl_ms,
        })
    }

    async fn ack(&mut self, work: &Work) -> Result<bool, AskError> {
        self.refresh().await?;
        let ctx = self.context();
        let (events, next) = rules::ack(&self.head, &self.links, work.kind, &work.proof, &work.acks, work.done, &ctx)?;
        self.apply(events).await?;
        Ok(next)
    }

    async fn release(&mut self, proof: &Proof) -> Result<(), AskError> {
        self.refresh().await?;
        let events = rules::release(&self.head, &self.links, proof, &self.context())?;
        Ok(self.apply(events).await?)
    }

    async fn link(&mut self, paths: Vec<StreamPath>) -> Result<(), AskError> {
        // What comes from now on is heard, so that nothing is missed behind the end that is looked at next.
        self.post.name(&paths);
        self.refresh().await?;
        let mut streams = BTreeMap::new();
        for path in paths {
            let seen = self.inner.seen(&self.key, &path).await?;
            streams.insert(path, seen);
        }
        let linked = match rules::link(&self.links, &streams) {
            Ok(events) => self.apply(events).await.map_err(AskError::from),
            Err(refusal) => Err(refusal.into()),
        };
        if let Err(error) = linked {
            self.unname(streams.keys());
            return Err(error);
        }
        for (path, seen) in streams {
            let matched = self.head.config.matches(&path);
            self.links.see(&path, seen, matched);
        }
        Ok(())
    }

    /// Notes of those that are not followed by name do not come in any more.
    fn unname<'a>(&self, paths: impl IntoIterator<Item = &'a StreamPath>) {
        let named = |path: &StreamPath| self.links.get(path).is_some_and(rules::Link::explicit);
        self.post.unname(paths.into_iter().filter(|path| !named(path)));
    }

    async fn end(&mut self) -> Result<(), AskError> {
        let gone = Gone { gone: self.head.generation, at: self.inner.now() };
        let write = records::put(records::head_key(&self.key), &gone);
        let commit = Commit { records: vec![write], ..Commit::default() };
        if let Err(error) = self.inner.options.store.commit(commit).await {
            self.stale |= matches!(error, CommitError::Unknown(_));
            return Err(WriteError::from(error).into());
        }
        self.attempt = None;
        Ok(())
    }

    /// The streams of a webhook's wake: those that it is about, up to where it is about them, and then those without work.
    /// What came since is for the next one, since `done` acknowledges what was told.
    fn told(&self, wake: &Wake) -> Vec<Followed> {
        let there = |told: &&Told| self.links.get(&told.path).and_then(|link| link.seen);
        let same = wake.told.iter().filter(|told| there(told).is_some_and(|seen| seen.incarnation == told.incarnation));
        let with_work = same.filter_map(|told| {
            let link = self.links.get(&told.path)?;
            Some(Followed { path: told.path.clone(), explicit: link.explicit(), acked: link.acked(), tail: told.tail })
        });
        let without = self.links.iter().filter(|(_, link)| !link.pending()).map(Followed::of);
        with_work.chain(without).take(limits::SUBSCRIPTION_TOLD_MAX).collect()
    }

    /// The streams that a claim or a document tells of: those with work first, as many as may be.
    fn followed(&self) -> Vec<Followed> {
        let all = |pending: bool| self.links.iter().filter(move |(_, link)| link.pending() == pending);
        all(true).chain(all(false)).take(limits::SUBSCRIPTION_TOLD_MAX).map(Followed::of).collect()
    }
}

async fn answer_of(attempt: &mut Option<Attempt>) -> (u64, Result<Answer, String>) {
    match attempt {
        Some(attempt) => {
            let answer = (&mut attempt.answer).await;
            (attempt.generation, answer.unwrap_or_else(|_| Err("the call broke off".to_owned())))
        }
        None => std::future::pending().await,
    }
}

impl Inner {
    pub(super) fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    /// A stream as it is now.
    pub(super) async fn seen(&self, key: &SubscriptionKey, path: &StreamPath) -> Result<Option<Seen>, StoreError> {
        let key = StreamKey { project: key.project.clone(), path: path.clone() };
        match self.options.streams.head(&key).await {
            Ok(info) => Ok(Some(Seen { incarnation: info.incarnation, tail: info.tail })),
            Err(OpenError::NotFound | OpenError::Gone) => Ok(None),
            Err(OpenError::Store(error)) => Err(error),
        }
    }

    /// The streams that a subscription's pattern takes in, as they are now.
    pub(super) async fn matching(
        &self,
        key: &SubscriptionKey,
        head: &Head,
    ) -> Result<BTreeMap<StreamPath, Seen>, StoreError> {
        let mut found = BTreeMap::new();
        let Some(pattern) = &head.config.pattern else { return Ok(found) };
        let (prefix, mut after) = (pattern.prefix(), String::new());
        loop {
            let page = self.options.streams.list(&key.project, &prefix, &after, LIST_PAGE).await?;
            for listed in page.streams.into_iter().filter(|listed| head.config.matches(&listed.path)) {
                let seen = Seen { incarnation: listed.info.incarnation, tail: listed.info.tail };
                found.insert(listed.path, seen);
            }
            match page.next {
                Some(next) => after = next,
                None => return Ok(found),
            }
        }
    }

    /// Appends the event of a generation to a wake stream. The stream takes one of each generation, and none of a
    /// generation before: the subscription is a producer whose epoch is the generation. The stream's incarnation.
    async fn tell(
        &self,
        key: &SubscriptionKey,
        uid: &str,
        path: StreamPath,
        generation: u64,
        event: String,
    ) -> Result<StreamId, AppendError> {
        let key = StreamKey { project: key.project.clone(), path };
        let info = self.options.streams.head(&key).await.map_err(|error| match error {
            OpenError::NotFound => AppendError::NotFound,
            OpenError::Gone => AppendError::Gone,
            OpenError::Store(error) => error.into(),
        })?;
        // In a stream of bytes a line is an event.
        let body = Bytes::from(event + "\n");
        let id = format!("subscription-{uid}");
        let append = Append {
            body: Some(&body),
            content_type: Some(info.content_type.as_str()),
            producer: Some(Producer { id: &id, epoch: generation, seq: 0 }),
            ..Append::default()
        };
        self.options.streams.append(&key, append).await.map(|_| info.incarnation)
    }
}

impl Followed {
    fn of((path, link): (&StreamPath, &rules::Link)) -> Self {
        Self { path: path.clone(), explicit: link.explicit(), acked: link.acked(), tail: link.tail() }
    }

    /// What a wake says of it.
    pub fn document(&self) -> serde_json::Value {
        json!({
            "path": self.path,
            "link_type": self.link_type(),
            "acked_offset": self.acked,
            "tail_offset": self.tail,
            "has_pending": self.tail > self.acked,
        })
    }

    /// How it came in: `explicit` beats `glob`.
    pub const fn link_type(&self) -> &'static str {
        if self.explicit { "explicit" } else { "glob" }
    }
}

/// Offsets of workers as they come: `-1` and the like are none.
pub(super) fn offset(path: &str, text: &str) -> Result<Offset, rules::Refusal> {
    let why = "the offset is not one that a stream gave";
    Offset::parse(text).map_err(|_| rules::Refusal::InvalidOffset { path: path.to_owned(), why })
}
