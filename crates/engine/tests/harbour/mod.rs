//! What tests of streams share: a store in memory, a clock that stands still, and short ways to ask.
#![allow(dead_code)] // Each test file uses its part.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use longhaul_engine::streams::{
    Append, AppendError, Appended, Create, CreateError, Created, Fork, OpenError, Options, Page, ReadError, Streams,
};
use longhaul_model::stream::{ContentType, Offset, Producer, StreamKey, StreamPath};
use longhaul_model::time::Clock;
use longhaul_model::{Epoch, Timestamp};
use longhaul_store::{MemoryStore, ReadLimit, RecordKey, Store};

/// A time that moves when it is told to.
pub struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.0.load(Ordering::SeqCst))
    }
}

impl Hand {
    pub fn pass(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

pub struct World {
    pub store: MemoryStore,
    pub clock: Arc<Hand>,
    pub streams: Streams,
    epoch: u64,
}

impl World {
    pub async fn new() -> Self {
        Self::over(MemoryStore::new(), Arc::new(Hand(AtomicI64::new(1_795_254_000_000))), 1).await
    }

    async fn over(store: MemoryStore, clock: Arc<Hand>, epoch: u64) -> Self {
        let options = Options {
            store: Arc::new(store.clone()),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            epoch: Epoch::new(epoch),
            sweep_every: None,
        };
        let streams = Streams::start(options).await.expect("streams start");
        Self { store, clock, streams, epoch }
    }

    /// As after a kill: another server over what was durable.
    pub async fn killed(&mut self) {
        let store = self.store.reopen();
        *self = Self::over(store, Arc::clone(&self.clock), self.epoch + 1).await;
    }

    pub async fn create(&self, path: &str, content_type: &str) -> Created {
        self.create_as(path, Create { content_type: Some(kind(content_type)), ..Create::default() }).await.expect(path)
    }

    pub async fn create_as(&self, path: &str, create: Create) -> Result<Created, CreateError> {
        self.streams.create(&key(path), create).await
    }

    pub async fn fork(&self, path: &str, from: &str, at: Option<u64>, sub: u64) -> Result<Created, CreateError> {
        let from = StreamPath::parse(from).expect("a path");
        let fork = Fork { from, at: at.map(Offset::new), sub };
        self.create_as(path, Create { fork: Some(fork), ..Create::default() }).await
    }

    pub async fn append(&self, path: &str, body: &str) -> Result<Appended, AppendError> {
        self.append_as(path, body, None).await
    }

    pub async fn append_as(
        &self,
        path: &str,
        body: &str,
        by: Option<(&str, u64, u64)>,
    ) -> Result<Appended, AppendError> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let content_type = self.streams.head(&key(path)).await.map(|info| info.content_type);
        let content_type = content_type.unwrap_or_default();
        let producer = by.map(|(id, epoch, seq)| Producer { id, epoch, seq });
        let content_type = Some(content_type.as_str());
        let append = Append { body: Some(&body), content_type, producer, ..Append::default() };
        self.streams.append(&key(path), append).await
    }

    pub async fn close(&self, path: &str, by: Option<(&str, u64, u64)>) -> Result<Appended, AppendError> {
        let producer = by.map(|(id, epoch, seq)| Producer { id, epoch, seq });
        self.streams.append(&key(path), Append { close: true, producer, ..Append::default() }).await
    }

    /// All that is after a position, with small pages, and the last of them.
    pub async fn read(&self, path: &str, after: u64) -> Result<(Vec<String>, Page), ReadError> {
        let reader = self.streams.open(&key(path)).await.map_err(|error| match error {
            OpenError::NotFound => ReadError::NotFound,
            OpenError::Gone => ReadError::Gone,
            OpenError::Store(error) => ReadError::Store(error),
        })?;
        let limit = ReadLimit { events_max: 2, bytes_max: 1 << 20 };
        let mut texts = Vec::new();
        let mut after = Offset::new(after);
        loop {
            let page = reader.read(after, limit).await?;
            texts.extend(page.messages.iter().map(|m| String::from_utf8(m.to_vec()).expect("text")));
            after = page.next;
            if page.up_to_date {
                return Ok((texts, page));
            }
        }
    }

    pub async fn texts(&self, path: &str) -> Vec<String> {
        let earliest = self.streams.head(&key(path)).await.expect(path).earliest;
        self.read(path, earliest.get()).await.expect(path).0
    }

    /// The same by spans of few bytes; JSON messages have a newline after each.
    pub async fn bytes(&self, path: &str) -> Vec<u8> {
        let earliest = self.streams.head(&key(path)).await.expect(path).earliest;
        self.bytes_after(path, earliest.get()).await
    }

    pub async fn bytes_after(&self, path: &str, after: u64) -> Vec<u8> {
        let reader = self.streams.open(&key(path)).await.expect(path);
        let mut after = Offset::new(after);
        let mut all = Vec::new();
        loop {
            let span = reader.read_span(after, 16).await.expect(path);
            all.extend(span.body.iter().flatten());
            after = span.next;
            if span.up_to_date {
                return all;
            }
        }
    }

    /// How many records of a kind there are.
    pub async fn records(&self, kind: &'static str) -> Vec<RecordKey> {
        let found = self.store.records(kind, "", usize::MAX).await.expect("records");
        found.into_iter().map(|(key, _)| key).collect()
    }
}

pub fn key(path: &str) -> StreamKey {
    StreamKey::from_text(&format!("default/{path}")).expect("a path")
}

pub fn kind(text: &str) -> ContentType {
    ContentType::parse(text).expect("a content type")
}
