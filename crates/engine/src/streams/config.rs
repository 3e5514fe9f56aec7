//! What a stream is, as its record says.
//!
//! Job: the record by which a path leads to a stream, and the names of the other records. Owns: their wire forms.
//! Never: what appends change; that is the stream's cursor.

use bytes::Bytes;
use longhaul_model::stream::{ContentType, Keep, Lifetime, StreamKey, StreamPath};
use longhaul_model::{ProjectId, StreamId, Timestamp};
use longhaul_store::{RecordKey, RecordWrite, StoreError};
use serde::{Deserialize, Serialize};

/// `PROJECT/PATH` → stream id and [`Doc`].
pub(super) const STREAM: &str = "stream";

/// `STREAM/PRODUCER` → what is remembered of it.
pub(super) const PRODUCER: &str = "stream_producer";

/// `STREAM/SECOND` → the first message of that second and the bytes before it.
pub(super) const TIME: &str = "stream_time";

/// `SECOND/PROJECT/PATH` → nothing: then at the latest somebody looks whether the stream is over.
pub(super) const EXPIRING: &str = "stream_expiring";

/// `STREAM` → nothing: its records of the kinds above are still to be removed.
pub(super) const GONE: &str = "stream_gone";

/// A part of a fork that is another stream's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Segment {
    /// The stream that has it.
    pub(super) stream: StreamId,
    /// The offset before that stream's first message.
    pub(super) base: u64,
    /// The last offset of the part.
    pub(super) upto: u64,
    /// When that stream was created.
    pub(super) created_at: Timestamp,
}

/// What a fork was asked to be, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    /// The source's path.
    pub(super) path: String,
    /// Its incarnation.
    pub(super) stream: StreamId,
    /// The fork offset as asked or found.
    pub(super) at: u64,
    /// The sub-offset as asked.
    pub(super) sub: u64,
    /// Whether the lifetime is the source's.
    pub(super) inherits_lifetime: bool,
    /// How many forks there are from it to a stream that is none.
    pub(super) depth: u32,
}

/// What a stream is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Doc {
    pub(super) content_type: String,
    #[serde(default)]
    pub(super) lifetime: Lifetime,
    #[serde(default)]
    pub(super) keep: Keep,
    pub(super) created_at: Timestamp,
    /// The offset before its own first message.
    #[serde(default)]
    pub(super) base: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<Source>,
    /// What lies before `base`, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) segments: Vec<Segment>,
    /// Forks of it that are there.
    #[serde(default)]
    pub(super) forks: u32,
    /// Whether it is there for its forks alone.
    #[serde(default)]
    pub(super) deleted: bool,
}

impl Doc {
    /// The record's value but for the stream's id, which the store puts before it.
    pub(super) fn encode(&self) -> Bytes {
        // A struct of texts and numbers always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// The record's value.
    pub(super) fn stamped(&self, stream: StreamId) -> Bytes {
        [&stream.get().to_be_bytes()[..], &self.encode()].concat().into()
    }

    /// Reads a record's value.
    pub(super) fn decode(key: &StreamKey, value: &[u8]) -> Result<(StreamId, Self), StoreError> {
        let damaged = |what: String| StoreError::Corrupt { place: format!("record {STREAM}/{key}"), what };
        let (id, json) = value.split_first_chunk::<8>().ok_or_else(|| damaged("it is cut off".to_owned()))?;
        let doc: Self = serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
        ContentType::parse(&doc.content_type).map_err(|error| damaged(error.to_string()))?;
        Ok((StreamId::new(u64::from_be_bytes(*id)), doc))
    }

    /// The content type; `decode` has looked at it.
    pub(super) fn content_type(&self) -> ContentType {
        ContentType::parse(&self.content_type).unwrap_or_default()
    }

    /// The key of the source.
    pub(super) fn source_key(&self, project: &ProjectId) -> Option<StreamKey> {
        let path = StreamPath::parse(&self.source.as_ref()?.path).ok()?;
        Some(StreamKey { project: project.clone(), path })
    }
}

/// The record of a stream's name.
pub(super) fn stream_key(key: &StreamKey) -> RecordKey {
    RecordKey::new(STREAM, key.to_string())
}

/// What the ids of the records of a stream begin with.
pub(super) fn prefix(stream: StreamId) -> String {
    format!("{:016x}/", stream.get())
}

/// The record of a producer.
pub(super) fn producer_key(stream: StreamId, producer: &str) -> RecordKey {
    use std::fmt::Write as _;
    let mut id = String::with_capacity(17 + producer.len());
    let _ = write!(id, "{:016x}/{producer}", stream.get());
    RecordKey { kind: PRODUCER, id }
}

/// The id of a second of a stream.
pub(super) fn time_id(stream: StreamId, second: i64) -> String {
    format!("{:016x}/{:012}", stream.get(), second.max(0))
}

/// The id of a look at a stream, no sooner than a point in time.
pub(super) fn look_id(at: Timestamp, key: &StreamKey) -> String {
    // Rounded up, so that what is due is over.
    let second = at.unix_ms().div_euclid(1_000).saturating_add(1).clamp(0, 999_999_999_999);
    format!("{second:012}/{key}")
}

/// Where messages of a second begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Second {
    /// Which.
    pub(super) at: i64,
    /// The first own message of it.
    pub(super) first: u64,
    /// Bytes of the own messages before.
    pub(super) bytes_before: u64,
}

impl Second {
    pub(super) fn write(&self, stream: StreamId) -> RecordWrite {
        let value = [self.first.to_be_bytes(), self.bytes_before.to_be_bytes()].concat();
        put(RecordKey::new(TIME, time_id(stream, self.at)), value.into())
    }

    pub(super) fn decode(id: &str, value: &[u8]) -> Option<Self> {
        let value: &[u8; 16] = value.try_into().ok()?;
        let (first, bytes) = value.split_at(8);
        Some(Self {
            at: id.rsplit('/').next()?.parse().ok()?,
            first: u64::from_be_bytes(first.try_into().ok()?),
            bytes_before: u64::from_be_bytes(bytes.try_into().ok()?),
        })
    }
}

/// A record to put.
pub(super) fn put(key: RecordKey, value: Bytes) -> RecordWrite {
    RecordWrite { key, value: Some(value), only_new: false, stamp: false }
}

/// A record to delete.
pub(super) fn delete(key: RecordKey) -> RecordWrite {
    RecordWrite { key, value: None, only_new: false, stamp: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back() {
        let key = StreamKey::from_text("default/a/b").unwrap();
        let doc = Doc {
            content_type: "text/plain".to_owned(),
            lifetime: Lifetime::TtlSeconds(5),
            keep: Keep { messages_max: Some(3), ..Keep::default() },
            created_at: Timestamp::from_unix_ms(7),
            base: 3,
            source: None,
            segments: Vec::new(),
            forks: 1,
            deleted: true,
        };
        assert_eq!(Doc::decode(&key, &doc.stamped(StreamId::new(9))), Ok((StreamId::new(9), doc)));
        assert!(matches!(Doc::decode(&key, b"1234567"), Err(StoreError::Corrupt { .. })));
        let second = Second { at: 1_795_254_000, first: 4, bytes_before: 99 };
        let write = second.write(StreamId::new(1));
        assert_eq!(Second::decode(&write.key.id, &write.value.unwrap()), Some(second));
    }

    #[test]
    fn a_look_is_never_before_its_time() {
        let key = StreamKey::from_text("p/a").unwrap();
        assert_eq!(look_id(Timestamp::from_unix_ms(1_000), &key), "000000000002/p/a");
        assert_eq!(look_id(Timestamp::from_unix_ms(1_999), &key), "000000000002/p/a");
        assert_eq!(look_id(Timestamp::from_unix_ms(i64::MAX), &key), "999999999999/p/a");
    }
}
