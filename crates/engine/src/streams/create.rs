//! Creating streams and forks.
//!
//! Job: make a stream with its first messages, or find it there as was asked; a fork counts with its source in the same
//! commit. Owns: nothing. Never: makes two of one name.

use std::sync::Arc;

use bytes::Bytes;
use longhaul_model::stream::{ContentType, Lifetime, Mode, Offset, State, StreamKey};
use longhaul_model::{Timestamp, limits};
use longhaul_store::{Commit, Form, NewStream, RecordKey, RecordWrite};

use crate::streams::append::Content;
use crate::streams::config::{Doc, EXPIRING, look_id, put, stream_key};
use crate::streams::error::{CreateError, WriteError};
use crate::streams::handle::{Alone, Handle, Tip};
use crate::streams::requests::{Create, Created, Fork, Info, Move};
use crate::streams::source::Beginning;
use crate::streams::{Streams, TRIES};

/// A source that stays as it is until its fork is made.
struct Forking {
    source: Alone,
    beginning: Beginning,
}

impl Streams {
    /// Creates a stream, or finds it there as was asked.
    ///
    /// # Errors
    /// [`CreateError`].
    ///
    /// # Cancel safety
    /// Dropping the future does not take anything back.
    pub async fn create(&self, key: &StreamKey, create: Create) -> Result<Created, CreateError> {
        let (streams, key) = (self.clone(), key.clone());
        self.to_the_end(async move { streams.create_here(&key, &create).await }).await?
    }

    async fn create_here(&self, key: &StreamKey, create: &Create) -> Result<Created, CreateError> {
        let source = create.fork.as_ref().map(|fork| fork_source(key, fork));
        for _ in 0..TRIES {
            // Whatever is over makes way first.
            for key in [Some(key), source.as_ref()].into_iter().flatten() {
                if let Some(handle) = self.find(key).await?
                    && handle.is_over(self.now())
                {
                    self.expire_here(&handle).await.map_err(CreateError::Write)?;
                }
            }
            let keys: Vec<&StreamKey> = [Some(key), source.as_ref()].into_iter().flatten().collect();
            let _locks = self.inner.handles.lock(&keys).await;
            if let Some(handle) = self.find_locked(key).await? {
                if handle.live().deleted {
                    return Err(CreateError::Gone);
                }
                if handle.is_over(self.now()) {
                    continue;
                }
                return self.compare(&handle, create).await;
            }
            let forking = match (&create.fork, &source) {
                (Some(fork), Some(source)) => match self.fork(source, fork, create).await? {
                    Some(forking) => Some(forking),
                    None => continue,
                },
                _ => None,
            };
            return self.make(key, create, forking).await;
        }
        Err(CreateError::Write(WriteError::Busy))
    }

    /// Looks at the source of a fork. `None` if it has changed hands meanwhile.
    async fn fork(&self, source: &StreamKey, fork: &Fork, create: &Create) -> Result<Option<Forking>, CreateError> {
        let Some(handle) = self.find_locked(source).await? else { return Err(CreateError::SourceNotFound) };
        if handle.live().deleted {
            return Err(CreateError::SourceGone);
        }
        if handle.is_over(self.now()) {
            return Err(CreateError::SourceNotFound);
        }
        if create.content_type.as_ref().is_some_and(|given| *given != handle.content_type) {
            return Err(CreateError::SourceContentType { expected: handle.content_type.clone() });
        }
        let Some(source) = handle.alone().await else { return Ok(None) };
        match self.beginning(&handle, fork).await {
            Ok(beginning) => Ok(Some(Forking { source, beginning })),
            Err(error) => {
                source.certain();
                Err(error)
            }
        }
    }

    async fn make(&self, key: &StreamKey, create: &Create, forking: Option<Forking>) -> Result<Created, CreateError> {
        let now = self.now();
        let (doc, part) = new_doc(create, forking.as_ref(), now);
        let content_type = doc.content_type();
        let events = match first_messages(create, content_type.mode(), part) {
            Ok(events) => events,
            Err(error) => {
                if let Some(forking) = forking {
                    forking.source.certain();
                }
                return Err(error);
            }
        };
        let mut state = State { tail: Offset::new(doc.base + events.len() as u64), used_at: now, ..State::default() };
        state.bytes = events.iter().map(|event| event.len() as u64).sum();
        if create.closed {
            state.closure = longhaul_model::stream::Closure::Closed(None);
        }
        let mut cursor = Vec::new();
        state.encode(&mut cursor);
        let form = match content_type.mode() {
            Mode::Json => Form::Lines,
            Mode::Bytes => Form::Opaque,
        };
        let name = RecordWrite { key: stream_key(key), value: Some(doc.encode()), only_new: true, stamp: true };
        let mut records = vec![name];
        records.extend(first_look(&doc, now).map(|at| put(RecordKey::new(EXPIRING, look_id(at, key)), Bytes::new())));
        if let Some(Forking { source, .. }) = &forking {
            let source = &source.handle;
            let mut doc = source.doc_now();
            doc.forks += 1;
            records.push(put(stream_key(&source.key), doc.stamped(source.stream)));
        }
        let epoch = self.inner.options.epoch;
        let open = NewStream { project: key.project.clone(), epoch, form, events, cursor: Some(cursor.into()) };
        let mut answer = self.store().commit(Commit { open: Some(open), records, ..Commit::default() }).await;
        if let Some(Forking { source, .. }) = forking {
            if answer.is_ok() {
                source.handle.live().forks += 1;
            }
            answer = source.settle(answer);
        }
        let committed = answer.map_err(WriteError::from)?;
        let Some(stream) = committed.created else {
            return Err(CreateError::Write(WriteError::Unknown("the store opened no stream".to_owned())));
        };
        let handle = Arc::new(Handle::new(Arc::new(key.clone()), stream, doc, state, 0));
        self.inner.handles.hold(&handle);
        self.tell(&handle, Move::Created);
        Ok(Created { new: true, info: self.info(&handle).await? })
    }

    /// Whether a stream that is there is what was asked for.
    async fn compare(&self, handle: &Handle, create: &Create) -> Result<Created, CreateError> {
        let doc = &handle.doc;
        let forked = doc.source.as_ref();
        let default = ContentType::default();
        let same_type = match (&create.content_type, &create.fork) {
            (None, Some(_)) => true,
            (given, _) => *given.as_ref().unwrap_or(&default) == handle.content_type,
        };
        let inherits = forked.is_some_and(|forked| forked.inherits_lifetime);
        let same_lifetime = match create.lifetime {
            Lifetime::Endless if inherits => true,
            asked => asked == doc.lifetime && !inherits,
        };
        let asked = create.fork.as_ref();
        let differs = [
            (!same_type, "content type"),
            (!same_lifetime, "lifetime"),
            (create.keep != doc.keep, "retention"),
            (asked.map(|fork| fork.from.as_str()) != forked.map(|source| source.path.as_str()), "source"),
            (
                asked.and_then(|fork| fork.at).is_some_and(|at| forked.is_none_or(|source| source.at != at.get())),
                "fork offset",
            ),
            (asked.map_or(0, |fork| fork.sub) != forked.map_or(0, |source| source.sub), "fork sub-offset"),
            (create.closed != (handle.tip() == Tip::Closed), "closure"),
        ];
        match differs.into_iter().find(|(differs, _)| *differs) {
            Some((_, what)) => Err(CreateError::Exists { what }),
            None => Ok(Created { new: false, info: self.info(handle).await? }),
        }
    }

    /// What can be said of a stream.
    pub(super) async fn info(&self, handle: &Handle) -> Result<Info, longhaul_store::StoreError> {
        // Before the tail: a stream that is seen as closed is seen with its last message.
        let closed = handle.tip() == Tip::Closed;
        Ok(Info {
            incarnation: handle.stream,
            content_type: handle.content_type.clone(),
            mode: handle.mode,
            tail: handle.tail(),
            earliest: self.earliest(handle).await?,
            closed,
            lifetime: handle.doc.lifetime,
            keep: handle.doc.keep,
            created_at: handle.doc.created_at,
        })
    }
}

fn fork_source(key: &StreamKey, fork: &Fork) -> StreamKey {
    StreamKey { project: key.project.clone(), path: fork.from.clone() }
}

fn new_doc(create: &Create, forking: Option<&Forking>, now: Timestamp) -> (Doc, Option<Bytes>) {
    let content_type = create.content_type.as_ref().or_else(|| forking.map(|f| &f.source.handle.content_type));
    let mut doc = Doc {
        content_type: content_type.map_or(ContentType::DEFAULT, ContentType::as_str).to_owned(),
        lifetime: create.lifetime,
        keep: create.keep,
        created_at: now,
        base: 0,
        source: None,
        segments: Vec::new(),
        forks: 0,
        deleted: false,
    };
    let mut part = None;
    if let Some(Forking { source, beginning }) = forking {
        let inherits_lifetime = create.lifetime == Lifetime::Endless;
        if inherits_lifetime {
            doc.lifetime = source.handle.doc.lifetime;
        }
        doc.base = beginning.base;
        doc.segments.clone_from(&beginning.segments);
        doc.source = Some(crate::streams::config::Source { inherits_lifetime, ..beginning.source.clone() });
        part.clone_from(&beginning.part);
    }
    (doc, part)
}

/// The messages that a stream is created with.
fn first_messages(create: &Create, mode: Mode, part: Option<Bytes>) -> Result<Vec<Bytes>, CreateError> {
    let mut events: Vec<Bytes> = part.into_iter().collect();
    match Content::new(Some(&create.body), mode) {
        Content::Empty | Content::EmptyArray => {}
        Content::NotJson(error) => return Err(error.into()),
        Content::Messages(messages, _) => {
            let (max, found) = (limits::STREAM_APPEND_MESSAGES_MAX - 1, messages.len());
            if found > max {
                return Err(CreateError::TooManyMessages { max, found });
            }
            events.extend(messages);
        }
    }
    Ok(events)
}

/// When a stream is first looked at.
fn first_look(doc: &Doc, now: Timestamp) -> Option<Timestamp> {
    let trimmed = doc.keep.age_max_seconds.and_then(|seconds| Lifetime::TtlSeconds(seconds).ends(now));
    let over = doc.lifetime.ends(now);
    over.into_iter().chain(trimmed).min()
}
