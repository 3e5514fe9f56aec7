//! What faces ask of streams and what they get.

use bytes::Bytes;
use longhaul_model::stream::{
    ContentType, Keep, Lifetime, Mode, Offset, Producer, ProducerState, StreamKey, StreamPath,
};
use longhaul_model::{StreamId, Timestamp};

/// A stream to create.
#[derive(Debug, Clone, Default)]
pub struct Create {
    /// Its content type; absent for the default, or for the source's.
    pub content_type: Option<ContentType>,
    /// How long it lives; a fork that names nothing inherits the source's.
    pub lifetime: Lifetime,
    /// How much of it is kept.
    pub keep: Keep,
    /// Whether it takes no more after `body`.
    pub closed: bool,
    /// Its first messages: a body as of an append; empty for none, and so is an empty JSON array.
    pub body: Bytes,
    /// What it is a fork of.
    pub fork: Option<Fork>,
}

/// Where a fork begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The stream to fork, of the same project.
    pub from: StreamPath,
    /// The last position that it shares; the source's tail if absent.
    pub at: Option<Offset>,
    /// So much further: messages of a JSON stream, bytes of another. More than zero needs `at`.
    pub sub: u64,
}

/// A stream that is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Whether it was made by this request; otherwise it was there and is as was asked.
    pub new: bool,
    /// The stream.
    pub info: Info,
}

/// What can be said of a stream without its messages. All of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its incarnation: another one for every stream that ever had this name.
    pub incarnation: StreamId,
    /// Its content type, as it was given.
    pub content_type: ContentType,
    /// How its messages are kept.
    pub mode: Mode,
    /// After its last message.
    pub tail: Offset,
    /// Before its first message that is kept.
    pub earliest: Offset,
    /// Whether it takes no more.
    pub closed: bool,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// How much of it is kept.
    pub keep: Keep,
    /// When it was created.
    pub created_at: Timestamp,
}

/// An append, a close, or both.
#[derive(Debug, Clone, Copy, Default)]
pub struct Append<'a> {
    /// The body as it came; a JSON stream takes one array level off it.
    pub body: Option<&'a Bytes>,
    /// Its content type as it came.
    pub content_type: Option<&'a str>,
    /// Whose it is.
    pub producer: Option<Producer<'a>>,
    /// `Stream-Seq`, at most `STREAM_SEQ_BYTES_MAX` bytes.
    pub stream_seq: Option<&'a str>,
    /// Whether it is the last; without a body it closes alone.
    pub close: bool,
    /// The tail that the writer believes in.
    pub expected_tail: Option<Offset>,
}

/// What an append did. Durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Whether anything was stored by this request: false for a producer's duplicate and for a close of what is closed.
    pub new: bool,
    /// After the last message that it stored; of a duplicate the stream's tail.
    pub next: Offset,
    /// Whether the stream is closed.
    pub closed: bool,
    /// What is remembered of the producer, if one was named: its epoch and its last number.
    pub producer: Option<ProducerState>,
}

/// A stream in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its path.
    pub path: StreamPath,
    /// What can be said of it.
    pub info: Info,
}

/// A page of a list, by path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListPage {
    /// The streams.
    pub streams: Vec<Listed>,
    /// The `after` of the next page, if there may be more.
    pub next: Option<String>,
}

/// A stream has moved. Readers of these notes may miss some when they are slow; they look at the streams then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The stream.
    pub key: std::sync::Arc<StreamKey>,
    /// Its incarnation.
    pub incarnation: StreamId,
    /// After its last durable message.
    pub tail: Offset,
    /// What it was.
    pub what: Move,
}

/// How a stream has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// It is new.
    Created,
    /// It has more messages, or is closed.
    Appended,
    /// It is no longer there.
    Deleted,
}

/// What one look at the lifetimes did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Streams that were over.
    pub expired: u64,
    /// Streams of which messages went.
    pub trimmed: u64,
    /// Records of streams that are no more.
    pub records: u64,
}
