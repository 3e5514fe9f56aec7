//! What a fork shares with its source.
//!
//! Job: find where a fork begins, and lead an offset of it to the stream that has the message. Owns: nothing.
//! Never: copies more than a part of one message.

use bytes::Bytes;
use longhaul_model::StreamId;
use longhaul_model::limits;
use longhaul_model::stream::{Mode, Offset, StreamKey};
use longhaul_store::ReadLimit;

use crate::streams::Streams;
use crate::streams::config::{Segment, Source};
use crate::streams::error::{CreateError, ReadError};
use crate::streams::handle::Handle;
use crate::streams::requests::Fork;

/// Where a fork begins.
pub(super) struct Beginning {
    pub(super) source: Source,
    pub(super) base: u64,
    pub(super) segments: Vec<Segment>,
    /// The part of a message that it shares, as its own first one.
    pub(super) part: Option<Bytes>,
}

/// The stream that has the messages after an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) stream: StreamId,
    /// The offset before that stream's first message.
    pub(super) base: u64,
    /// The offset up to which it is to be read; `None` for as far as it goes.
    pub(super) upto: Option<u64>,
}

impl Handle {
    /// Where the messages after an offset are.
    pub(super) fn place(&self, after: Offset) -> Place {
        match self.doc.segments.iter().find(|segment| segment.upto > after.get()) {
            Some(segment) => Place { stream: segment.stream, base: segment.base, upto: Some(segment.upto) },
            None => Place { stream: self.stream, base: self.doc.base, upto: None },
        }
    }
}

impl Streams {
    /// Where a fork of a stream begins, as far as its source goes now. The caller is alone with the source.
    pub(super) async fn beginning(&self, source: &Handle, fork: &Fork) -> Result<Beginning, CreateError> {
        let tail = source.live().state.tail;
        let at = fork.at.unwrap_or(tail);
        if at > tail {
            return Err(CreateError::ForkOffset { tail });
        }
        let earliest = self.earliest(source).await?;
        if at < earliest {
            return Err(CreateError::ForkExpired { earliest });
        }
        if fork.sub > 0 && fork.at.is_none() {
            return Err(CreateError::ForkSubOffset);
        }
        let depth = source.doc.source.as_ref().map_or(0, |source| source.depth) + 1;
        if depth as usize > limits::STREAM_FORK_DEPTH_MAX {
            return Err(CreateError::ForkDepth);
        }
        let (base, part) = match source.mode {
            Mode::Json => {
                let base = at.get().checked_add(fork.sub).filter(|base| *base <= tail.get());
                (base.ok_or(CreateError::ForkSubOffset)?, None)
            }
            Mode::Bytes => self.bytes_after(source, at, fork.sub).await?,
        };
        let own =
            Segment { stream: source.stream, base: source.doc.base, upto: base, created_at: source.doc.created_at };
        let mut segments: Vec<Segment> = Vec::new();
        for mut segment in source.doc.segments.iter().cloned().chain([own]) {
            segment.upto = segment.upto.min(base);
            if segment.upto > segments.last().map_or(0, |last| last.upto) {
                segments.push(segment);
            }
        }
        let source = Source {
            path: source.key.path.as_str().to_owned(),
            stream: source.stream,
            at: at.get(),
            sub: fork.sub,
            inherits_lifetime: false,
            depth,
        };
        Ok(Beginning { source, base, segments, part })
    }

    /// The offset that is so many bytes after another, and the part of the next message that is left over.
    async fn bytes_after(&self, source: &Handle, at: Offset, bytes: u64) -> Result<(u64, Option<Bytes>), CreateError> {
        let (mut at, mut left) = (at, bytes);
        while left > 0 {
            let page = self.page(source, at, ReadLimit::default()).await.map_err(|error| match error {
                ReadError::Store(error) => CreateError::from(error),
                ReadError::NotFound | ReadError::Gone => CreateError::SourceNotFound,
                ReadError::Expired { earliest } => CreateError::ForkExpired { earliest },
                ReadError::Ahead { tail } => CreateError::ForkOffset { tail },
            })?;
            if page.messages.is_empty() {
                return Err(CreateError::ForkSubOffset);
            }
            for message in page.messages {
                if left == 0 {
                    break;
                }
                if (message.len() as u64) > left {
                    return Ok((at.get(), Some(message.slice(..left as usize))));
                }
                left -= message.len() as u64;
                at = at.plus(1);
            }
        }
        Ok((at.get(), None))
    }

    /// The offset before the first message that is kept.
    pub(super) async fn earliest(&self, handle: &Handle) -> Result<Offset, longhaul_store::StoreError> {
        let removed = handle.removed();
        match handle.doc.segments.first() {
            // Without its own first messages a fork has none of its source either: there would be a gap.
            Some(segment) if removed == 0 => {
                let head = self.store().head(segment.stream).await?;
                Ok(Offset::new(segment.base + head.earliest.get() - 1))
            }
            _ => Ok(Offset::new(handle.doc.base + removed)),
        }
    }

    /// The streams that a stream is a fork of, one above the other, as far as they are there.
    pub(super) async fn line(&self, handle: &Handle) -> Result<Vec<StreamKey>, longhaul_store::StoreError> {
        let mut keys = vec![StreamKey::clone(&handle.key)];
        let mut above = handle.doc.source_key(&handle.key.project);
        while let Some(key) = above.take() {
            if let Some(source) = self.find(&key).await? {
                above = source.doc.source_key(&key.project);
            }
            keys.push(key);
        }
        Ok(keys)
    }
}
