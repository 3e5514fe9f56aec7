//! What the appends so far left.
//!
//! Job: the state that `decide` looks at and that every append writes again, in few bytes. Never: holds a message.

use crate::stream::decide::{Accepted, Request};
use crate::stream::offset::Offset;
use crate::time::Timestamp;

/// The first byte of the encoded form.
const VERSION: u8 = 1;

const CLOSED: u8 = 1;
const CLOSED_BY: u8 = 2;
const WITH_SEQ: u8 = 4;

/// The producer's append that closed a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closer {
    /// Its id.
    pub id: Box<str>,
    /// Its epoch.
    pub epoch: u64,
    /// Its number.
    pub seq: u64,
}

/// Whether a stream takes more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Closure {
    /// It does.
    #[default]
    Open,
    /// It never will again; who closed it, if a producer did.
    Closed(Option<Closer>),
}

/// The state of a stream but for its producers, which are kept one by one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// After the last message. Not in the encoded form: the store knows it.
    pub tail: Offset,
    /// Whether it takes more.
    pub closure: Closure,
    /// The last `Stream-Seq`.
    pub stream_seq: Option<Box<str>>,
    /// When it was last written, or last used as far as that was stored.
    pub used_at: Timestamp,
    /// How many producers it remembers.
    pub producers: u32,
    /// Bytes of all messages ever appended here, a fork's source aside.
    pub bytes: u64,
    /// Bytes of those that are no longer kept.
    pub bytes_gone: u64,
}

/// What was read is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the state of a stream cannot be read: {0}")]
pub struct StateError(pub &'static str);

impl State {
    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.closure != Closure::Open
    }

    /// The state after an append that was accepted.
    pub fn evolve(&mut self, request: &Request<'_>, accepted: Accepted, now: Timestamp) {
        self.tail = self.tail.plus(request.body.count());
        self.bytes += request.body.bytes();
        self.used_at = self.used_at.max(now);
        self.producers += u32::from(accepted.new_producer);
        if let Some(seq) = request.stream_seq
            && self.stream_seq.as_deref() != Some(seq)
        {
            self.stream_seq = Some(seq.into());
        }
        if request.close {
            let by = request.producer.map(|p| Closer { id: p.id.into(), epoch: p.epoch, seq: p.seq });
            self.closure = Closure::Closed(by);
        }
    }

    /// Bytes as a store keeps them, without the tail, written after what `out` holds.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let closer = match &self.closure {
            Closure::Closed(by) => by.as_ref(),
            Closure::Open => None,
        };
        let mut flags = if self.is_closed() { CLOSED } else { 0 };
        flags |= if closer.is_some() { CLOSED_BY } else { 0 };
        flags |= if self.stream_seq.is_some() { WITH_SEQ } else { 0 };
        out.extend([VERSION, flags]);
        out.extend(self.used_at.unix_ms().to_be_bytes());
        out.extend(self.producers.to_be_bytes());
        out.extend(self.bytes.to_be_bytes());
        out.extend(self.bytes_gone.to_be_bytes());
        let mut text = |text: &str| {
            out.extend((text.len() as u16).to_be_bytes());
            out.extend(text.as_bytes());
        };
        if let Some(seq) = &self.stream_seq {
            text(seq);
        }
        if let Some(by) = closer {
            text(&by.id);
            out.extend(by.epoch.to_be_bytes());
            out.extend(by.seq.to_be_bytes());
        }
    }

    /// What [`State::encode`] wrote, with the tail that the store knows.
    ///
    /// # Errors
    /// [`StateError`] if it is something else.
    pub fn decode(bytes: &[u8], tail: Offset) -> Result<Self, StateError> {
        let mut from = From(bytes);
        if from.take::<1>()? != [VERSION] {
            return Err(StateError("another version wrote it"));
        }
        let [flags] = from.take::<1>()?;
        let mut state = Self {
            tail,
            closure: Closure::Open,
            stream_seq: None,
            used_at: Timestamp::from_unix_ms(i64::from_be_bytes(from.take()?)),
            producers: u32::from_be_bytes(from.take()?),
            bytes: from.number()?,
            bytes_gone: from.number()?,
        };
        if flags & WITH_SEQ != 0 {
            state.stream_seq = Some(from.text()?);
        }
        if flags & CLOSED_BY != 0 {
            state.closure =
                Closure::Closed(Some(Closer { id: from.text()?, epoch: from.number()?, seq: from.number()? }));
        } else if flags & CLOSED != 0 {
            state.closure = Closure::Closed(None);
        }
        if from.0.is_empty() { Ok(state) } else { Err(StateError("there is more than there should be")) }
    }
}

/// What is still to be read.
struct From<'a>(&'a [u8]);

impl From<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(StateError("it is cut off"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn number(&mut self) -> Result<u64, StateError> {
        self.take().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Result<Box<str>, StateError> {
        let len = u16::from_be_bytes(self.take()?);
        let (head, rest) = self.0.split_at_checked(len.into()).ok_or(StateError("it is cut off"))?;
        self.0 = rest;
        std::str::from_utf8(head).map(Into::into).map_err(|_| StateError("a text is none"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_back() {
        let closer = Closer { id: "p".into(), epoch: 1, seq: 2 };
        for closure in [Closure::Open, Closure::Closed(None), Closure::Closed(Some(closer))] {
            for stream_seq in [None, Some("".into()), Some("ä9".into())] {
                let used_at = Timestamp::from_unix_ms(-5);
                let state = State {
                    tail: Offset::new(7),
                    closure: closure.clone(),
                    stream_seq,
                    used_at,
                    producers: 3,
                    bytes: 1 << 40,
                    bytes_gone: 9,
                };
                let mut bytes = Vec::new();
                state.encode(&mut bytes);
                assert_eq!(State::decode(&bytes, Offset::new(7)), Ok(state));
                for cut in 0..bytes.len() {
                    assert!(State::decode(&bytes[..cut], Offset::ZERO).is_err());
                }
                bytes.push(0);
                assert!(State::decode(&bytes, Offset::ZERO).is_err());
            }
        }
    }
}
