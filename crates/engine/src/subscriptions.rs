//! Subscriptions: durable cursors over streams, and workers who are told when there is more.
//!
//! Job: make, show and delete subscriptions, carry the questions of workers to them, and take all of them over after a
//! restart. The rules are `model::stream::subscription`; here they are made durable, in time, and carried out.
//! Owns: one task for each subscription, one reader of the streams' notes, the keys. Never: opens a connection, which is the
//! [`Courier`]'s; answers before what it says is durable.

mod actor;
mod error;
mod keys;
mod moves;
mod records;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use longhaul_model::stream::subscription::{
    Ack, Config, Head, Kind, Links, Phase, Proof, Seen, Stored, SubscriptionId, SubscriptionKey, WebhookUrl,
};
use longhaul_model::stream::{Offset, StreamPath};
use longhaul_model::time::Clock;
use longhaul_model::{ProjectId, limits};
use longhaul_store::{BoxFuture, RecordKey, Store, StoreError};
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::streams::{Streams, WriteError};
use actor::{ASKS_MAX, Actor, Ask, Reply, Work};
pub use error::{AskError, SubscribeError};
pub use keys::Keys;
use moves::{Barrier, Post};
use records::Record;

/// How long nobody looks for what is left of deleted subscriptions.
const LOOK_MS: u64 = 3_600_000;

/// A request to a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Where to.
    pub url: WebhookUrl,
    /// The body, which the signature is about.
    pub body: Bytes,
    /// How long it may take, from when it is sent.
    pub within: std::time::Duration,
}

/// What a webhook answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body, or as much of it as was read.
    pub body: Bytes,
}

impl Answer {
    /// Whether all is done that the webhook was told of.
    pub fn is_done(&self) -> bool {
        let answer = serde_json::from_slice::<serde_json::Value>(&self.body).unwrap_or_default();
        answer["done"] == serde_json::Value::Bool(true)
    }
}

/// Carries requests to webhooks.
pub trait Courier: Send + Sync + 'static {
    /// Sends a request with the header `Webhook-Signature`, which is made when it is sent, and gives the answer, or says in
    /// words without an address why there is none. Ends.
    fn call<'a>(
        &'a self,
        call: Call,
        sign: &'a (dyn Fn(&[u8]) -> String + Send + Sync),
    ) -> BoxFuture<'a, Result<Answer, String>>;

    /// Where a webhook tells how far it is; `base` is the server's address.
    fn callback_url(&self, base: &str, key: &SubscriptionKey) -> String;
}

/// What subscriptions are made of.
pub struct Options {
    /// Where everything durable goes.
    pub store: Arc<dyn Store>,
    /// The streams that they are about.
    pub streams: Streams,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The file of their keys, made when it is first needed.
    pub keys: PathBuf,
    /// Who calls webhooks.
    pub courier: Arc<dyn Courier>,
}

/// A stream of a subscription, as workers are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// Its path.
    pub path: StreamPath,
    /// Whether it was asked for by name.
    pub explicit: bool,
    /// The last position that was acknowledged.
    pub acked: Offset,
    /// Its end.
    pub tail: Offset,
}

/// A subscription as it is now. All of it but the streams' ends is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its name.
    pub id: SubscriptionId,
    /// The state.
    pub head: Head,
    /// Its streams, those with work first, at most [`limits::SUBSCRIPTION_TOLD_MAX`].
    pub streams: Vec<Followed>,
    /// How many there are.
    pub streams_total: usize,
    /// What the webhook's last failure was, if this server saw it.
    pub failure: Option<String>,
}

/// A claim that was granted. Durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The wake.
    pub wake_id: String,
    /// Its generation.
    pub generation: u64,
    /// What the worker shows from now on.
    pub token: String,
    /// The streams.
    pub streams: Vec<Followed>,
    /// How long it may be silent.
    pub lease_ttl_ms: u64,
}

/// How far a worker is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The wake that it works on.
    pub wake_id: Option<String>,
    /// Its generation.
    pub generation: Option<u64>,
    /// Streams and positions, as they came.
    pub acks: Vec<(String, String)>,
    /// Whether it is done.
    pub done: bool,
}

/// A subscription as the others see it.
struct Entry {
    uid: String,
    post: Arc<Post>,
    asks: mpsc::Sender<Ask>,
}

struct Inner {
    options: Options,
    keys: OnceCell<Keys>,
    entries: Mutex<HashMap<SubscriptionKey, Entry>>,
    posts: RwLock<HashMap<ProjectId, Vec<Arc<Post>>>>,
    barriers: mpsc::Sender<Barrier>,
    /// One at a time makes or deletes a subscription.
    changing: tokio::sync::Mutex<()>,
    /// When somebody last looked for what is left of deleted ones, in unix milliseconds.
    looked_at: AtomicI64,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

/// All subscriptions of a store. Cheap to clone.
#[derive(Clone)]
pub struct Subscriptions {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriptions").finish_non_exhaustive()
    }
}

impl Inner {
    fn entries(&self) -> MutexGuard<'_, HashMap<SubscriptionKey, Entry>> {
        // A map is whole between its calls, here and below.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_posts(&self) -> RwLockReadGuard<'_, HashMap<ProjectId, Vec<Arc<Post>>>> {
        self.posts.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_posts(&self) -> RwLockWriteGuard<'_, HashMap<ProjectId, Vec<Arc<Post>>>> {
        self.posts.write().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keys(&self) -> Result<&Keys, WriteError> {
        self.keys.get_or_try_init(|| Keys::load(self.options.keys.clone())).await
    }

    /// Makes a subscription known: from now on it hears of its streams.
    fn register(&self, key: &SubscriptionKey, head: &Head) -> (Arc<Post>, mpsc::Receiver<Ask>) {
        let post = Arc::new(Post::new(Arc::clone(&head.config)));
        let (asks, receive) = mpsc::channel(ASKS_MAX);
        let entry = Entry { uid: head.uid.clone(), post: Arc::clone(&post), asks };
        self.entries().insert(key.clone(), entry);
        self.write_posts().entry(key.project.clone()).or_default().push(Arc::clone(&post));
        (post, receive)
    }

    fn forget(&self, key: &SubscriptionKey) {
        let Some(entry) = self.entries().remove(key) else { return };
        let mut posts = self.write_posts();
        if let Some(of_project) = posts.get_mut(&key.project) {
            of_project.retain(|post| !Arc::ptr_eq(post, &entry.post));
            if of_project.is_empty() {
                posts.remove(&key.project);
            }
        }
    }

    /// Waits until all that happened to streams before is known to whom it concerns.
    async fn catch_up(&self) {
        let (send, receive) = oneshot::channel();
        if self.barriers.send(send).await.is_ok() {
            // It answers unless the server ends, and then nobody is answered.
            let _ = receive.await;
        }
    }
}

impl Subscriptions {
    /// Takes the subscriptions of a store over: what was due while no server ran is done now.
    ///
    /// # Errors
    /// Of the store.
    pub async fn start(options: Options) -> Result<Self, WriteError> {
        let (barriers, receive) = mpsc::channel(ASKS_MAX);
        let inner = Arc::new(Inner {
            options,
            keys: OnceCell::new(),
            entries: Mutex::default(),
            posts: RwLock::default(),
            barriers,
            changing: tokio::sync::Mutex::default(),
            looked_at: AtomicI64::new(0),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let mut actors = Vec::new();
        let mut after = String::new();
        loop {
            let page = inner.options.store.records_after(records::HEAD, "", &after, records::HEADS_PAGE).await?;
            let full = page.len() == records::HEADS_PAGE;
            for (record, value) in page {
                after.clone_from(&record.id);
                inner.take_over(&record, &value, &mut actors)?;
            }
            if !full {
                break;
            }
        }
        if !actors.is_empty() {
            inner.keys().await?;
        }
        inner.tasks.spawn(Arc::clone(&inner).hand_out(receive));
        // Notes come in before anybody looks at a stream.
        inner.catch_up().await;
        for actor in actors {
            inner.tasks.spawn(actor.run());
        }
        let subscriptions = Self { inner };
        subscriptions.inner.tasks.spawn(subscriptions.clone().sweep());
        Ok(subscriptions)
    }

    async fn sweep(self) {
        let inner = &self.inner;
        let is_there = |uid: &str| inner.entries().values().any(|entry| entry.uid == uid);
        let swept = records::sweep(&*inner.options.store, is_there).await;
        if let Err(error) = swept {
            tracing::warn!(%error, "links of deleted subscriptions are left over until the next start");
        }
        let _alone = inner.changing.lock().await;
        if let Err(error) = inner.sweep_gone().await {
            tracing::warn!(%error, "what is left of deleted subscriptions was not looked through");
        }
    }

    /// Makes a subscription, or finds it there as was asked; whether it is new.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub async fn subscribe(
        &self,
        key: &SubscriptionKey,
        config: Config,
        base: &str,
    ) -> Result<(View, bool), SubscribeError> {
        let work = self.clone().subscribe_alone(key.clone(), config, base.to_owned());
        // Whoever asked may go; it is done to its end.
        let done = self.inner.tasks.spawn(work).await;
        done.map_err(|_| WriteError::Unknown("the work on the subscription broke off".to_owned()))?
    }

    async fn subscribe_alone(
        self,
        key: SubscriptionKey,
        config: Config,
        base: String,
    ) -> Result<(View, bool), SubscribeError> {
        let inner = &self.inner;
        let _alone = inner.changing.lock().await;
        let there = match self.show(&key).await {
            Ok(view) => Some(view),
            Err(AskError::NotFound) => None,
            Err(error) => return Err(write_error(error).into()),
        };
        if let Some(view) = there {
            if *view.head.config != config {
                return Err(SubscribeError::Exists);
            }
            if view.head.base != base {
                let moved = self.ask(&key, |reply| Ask::Base(base.clone(), reply)).await;
                moved.map_err(|error| SubscribeError::Write(write_error(error)))?;
            }
            return Ok((View { head: Head { base, ..view.head }, ..view }, false));
        }
        if inner.entries().len() >= limits::SUBSCRIPTIONS_MAX {
            return Err(SubscribeError::TooMany);
        }
        inner.keys().await?;
        let generation = inner.last_generation(&key).await?;
        let head = Head {
            uid: uuid::Uuid::new_v4().simple().to_string(),
            config: Arc::new(config),
            base,
            created_at: inner.now(),
            generation,
            retry: None,
            phase: Phase::Idle,
        };
        let (post, asks) = inner.register(&key, &head);
        match inner.found(&key, &head).await {
            Ok(links) => {
                let actor = Actor::new(Arc::clone(inner), key.clone(), post, head, asks).with_links(links);
                inner.tasks.spawn(actor.run());
                let view = self.show(&key).await.map_err(|error| SubscribeError::Write(write_error(error)))?;
                Ok((view, true))
            }
            Err(error) => {
                inner.forget(&key);
                Err(error)
            }
        }
    }

    /// A subscription as it is now.
    ///
    /// # Errors
    /// [`AskError::NotFound`], [`AskError::Write`].
    pub async fn show(&self, key: &SubscriptionKey) -> Result<View, AskError> {
        self.inner.catch_up().await;
        self.ask(key, Ask::Show).await
    }

    /// Deletes a subscription; one that is not there is deleted.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn delete(&self, key: &SubscriptionKey) -> Result<(), WriteError> {
        let (this, key) = (self.clone(), key.clone());
        let work = async move {
            let inner = &this.inner;
            let _alone = inner.changing.lock().await;
            let uid = inner.entries().get(&key).map(|entry| entry.uid.clone()).unwrap_or_default();
            match this.ask(&key, Ask::End).await {
                Ok(()) => {}
                Err(AskError::NotFound) => return Ok(()),
                Err(error) => return Err(write_error(error)),
            }
            inner.forget(&key);
            // It is over; what is left of it now, the next start removes.
            if let Err(error) = records::forget(&*inner.options.store, &uid).await {
                tracing::warn!(%error, "links of a deleted subscription are left over until the next start");
            }
            if let Err(error) = inner.sweep_gone().await {
                tracing::warn!(%error, "what is left of deleted subscriptions was not looked through");
            }
            Ok(())
        };
        let done = self.inner.tasks.spawn(work).await;
        done.map_err(|_| WriteError::Unknown("the work on the subscription broke off".to_owned()))?
    }

    /// Follows more streams by name, from their ends on.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn link(&self, key: &SubscriptionKey, paths: Vec<StreamPath>) -> Result<(), AskError> {
        self.inner.catch_up().await;
        self.ask(key, |reply| Ask::Link(paths, reply)).await
    }

    /// Follows a stream by name no longer; one that is not followed so is no mistake.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn unlink(&self, key: &SubscriptionKey, path: StreamPath) -> Result<(), AskError> {
        self.ask(key, |reply| Ask::Unlink(path, reply)).await
    }

    /// A worker wants to work.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn claim(&self, key: &SubscriptionKey, worker: String) -> Result<Claimed, AskError> {
        self.inner.catch_up().await;
        self.ask(key, |reply| Ask::Claim(worker, reply)).await
    }

    /// A worker has come further, is alive, or is done; `kind` is the way that its request came. Whether another wake
    /// follows.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ack(
        &self,
        key: &SubscriptionKey,
        kind: Kind,
        token: &str,
        progress: Progress,
    ) -> Result<bool, AskError> {
        self.inner.catch_up().await;
        let proof = self.proof(key, token, &progress).await?;
        let one = |(path, text): &(String, String)| {
            let unknown = |_| longhaul_model::stream::subscription::Refusal::InvalidOffset {
                path: path.clone(),
                why: "the subscription does not follow this stream",
            };
            let parsed = StreamPath::parse(path.trim_matches('/')).map_err(unknown)?;
            Ok::<_, AskError>(Ack { path: parsed, offset: actor::offset(path, text)? })
        };
        let acks = progress.acks.iter().map(one).collect::<Result<_, _>>()?;
        let work = Work { kind, proof, acks, done: progress.done };
        self.ask(key, |reply| Ask::Ack(work, reply)).await
    }

    /// A worker gives its wake back.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn release(&self, key: &SubscriptionKey, token: &str, progress: Progress) -> Result<(), AskError> {
        self.inner.catch_up().await;
        let proof = self.proof(key, token, &progress).await?;
        self.ask(key, |reply| Ask::Release(proof, reply)).await
    }

    /// What a worker shows, if its token is one of this subscription.
    async fn proof(&self, key: &SubscriptionKey, token: &str, progress: &Progress) -> Result<Proof, AskError> {
        let uid = self.inner.entries().get(key).map(|entry| entry.uid.clone()).ok_or(AskError::NotFound)?;
        let of = self.inner.keys().await?.check(token).filter(|of| of.uid == uid).ok_or(AskError::TokenInvalid)?;
        Ok(Proof {
            token_generation: of.generation,
            token_wake: of.wake_id,
            generation: progress.generation,
            wake_id: progress.wake_id.clone(),
        })
    }

    /// The subscription that a token belongs to, wherever it is.
    pub async fn owner(&self, token: &str) -> Option<SubscriptionKey> {
        let uid = self.inner.keys().await.ok()?.check(token)?.uid;
        let entries = self.inner.entries();
        entries.iter().find(|(_, entry)| entry.uid == uid).map(|(key, _)| key.clone())
    }

    /// The keys; made if there are none yet.
    ///
    /// # Errors
    /// Of the store.
    pub async fn keys(&self) -> Result<&Keys, WriteError> {
        self.inner.keys().await
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.inner.entries().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets all of them go. What is under way is taken up by the next start.
    pub async fn close(&self) {
        self.inner.stopping.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    async fn ask<T>(&self, key: &SubscriptionKey, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, AskError> {
        let asks = self.inner.entries().get(key).map(|entry| entry.asks.clone()).ok_or(AskError::NotFound)?;
        let (send, receive) = oneshot::channel();
        let over = || {
            let stopping = self.inner.stopping.is_cancelled();
            if stopping { AskError::Write(WriteError::Stopping) } else { AskError::NotFound }
        };
        asks.send(ask(send)).await.map_err(|_| over())?;
        receive.await.map_err(|_| over())?
    }
}

fn write_error(error: AskError) -> WriteError {
    match error {
        AskError::Write(error) => error,
        AskError::NotFound | AskError::TokenInvalid | AskError::Refused(_) => WriteError::Unknown(error.to_string()),
    }
}

impl Inner {
    /// Takes over what one record tells of.
    fn take_over(
        self: &Arc<Self>,
        record: &RecordKey,
        value: &[u8],
        actors: &mut Vec<Actor>,
    ) -> Result<(), StoreError> {
        let Some(key) = SubscriptionKey::from_text(&record.id) else { return Ok(()) };
        if let Record::Head(head) = Record::decode(&record.id, value)? {
            let (post, asks) = self.register(&key, &head);
            actors.push(Actor::new(Arc::clone(self), key, post, *head, asks));
        }
        Ok(())
    }

    /// Removes what was left long ago of subscriptions that were deleted, if nobody looked for an hour. Only deletions leave
    /// anything, so only they look. Whoever calls it changes subscriptions alone.
    async fn sweep_gone(&self) -> Result<(), WriteError> {
        let now = self.now().unix_ms();
        let looked = self.looked_at.swap(now, Ordering::Relaxed);
        if now.saturating_sub(looked).unsigned_abs() < LOOK_MS {
            self.looked_at.store(looked, Ordering::Relaxed);
            return Ok(());
        }
        let mut after = String::new();
        loop {
            let page = self.options.store.records_after(records::HEAD, "", &after, records::HEADS_PAGE).await?;
            let full = page.len() == records::HEADS_PAGE;
            let mut left = Vec::new();
            for (record, value) in page {
                after.clone_from(&record.id);
                if let Record::Gone(gone) = Record::decode(&record.id, &value)? {
                    let age = now.saturating_sub(gone.at.unix_ms()).max(0).unsigned_abs();
                    if u128::from(age) > limits::SUBSCRIPTION_TOMBSTONE.as_millis() {
                        left.push(records::remove(record));
                    }
                }
            }
            records::write(&*self.options.store, left).await?;
            if !full {
                return Ok(());
            }
        }
    }

    /// The last generation of a subscription that had this id.
    async fn last_generation(&self, key: &SubscriptionKey) -> Result<u64, StoreError> {
        let Some(value) = self.options.store.record(&records::head_key(key)).await? else { return Ok(0) };
        Ok(match Record::decode(&key.to_string(), &value)? {
            Record::Gone(gone) => gone.gone,
            Record::Head(head) => head.generation,
        })
    }

    /// Links a new subscription to the streams that are there, from their ends on, and makes it durable: the links first.
    async fn found(&self, key: &SubscriptionKey, head: &Head) -> Result<Links, SubscribeError> {
        self.catch_up().await;
        let mut streams: BTreeMap<StreamPath, Option<Seen>> =
            self.matching(key, head).await?.into_iter().map(|(path, seen)| (path, Some(seen))).collect();
        for path in &head.config.streams {
            if !streams.contains_key(path) {
                streams.insert(path.clone(), self.seen(key, path).await?);
            }
        }
        if streams.len() > limits::SUBSCRIPTION_LINKS_MAX {
            return Err(SubscribeError::TooManyStreams);
        }
        let mut links = Links::default();
        let mut writes = Vec::new();
        for (path, seen) in streams {
            let (explicit, matched) = (head.config.streams.contains(&path), head.config.matches(&path));
            let incarnation = seen.map(|seen| seen.incarnation);
            let stored = Stored { explicit, incarnation, acked: seen.map_or(Offset::ZERO, |seen| seen.tail) };
            // A stream of the pattern without messages is as one that comes later.
            if explicit || stored.acked > Offset::ZERO {
                writes.push(records::put(records::link_key(&head.uid, &path), &stored));
                links.load(path, stored, seen, matched);
            } else {
                links.see(&path, seen, matched);
            }
        }
        writes.push(records::put(records::head_key(key), head));
        records::write(&*self.options.store, writes).await?;
        Ok(links)
    }
}
