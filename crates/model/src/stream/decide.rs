//! What an append may do.
//!
//! Job: one pure rule for every append and close, in the protocol's order of precedence:
//!
//! ```text
//! nothing to do → closed → content type → producer (zombie, duplicate, gap) → Stream-Seq → expected tail → body
//! ```
//!
//! A producer's duplicate is told as such wherever it is known, on a closed stream too: what was stored was stored.
//! Never: changes a state, waits or reads.

use crate::limits;
use crate::stream::content_type::ContentType;
use crate::stream::json::JsonError;
use crate::stream::offset::Offset;
use crate::stream::producer::{Producer, ProducerState};
use crate::stream::state::{Closure, State};

/// What an append brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// No byte.
    Empty,
    /// An empty JSON array.
    EmptyArray,
    /// Not what the stream holds.
    NotJson(&'a JsonError),
    /// Messages: how many, and their bytes together.
    Messages {
        /// How many, at least 1.
        count: u64,
        /// Their bytes together.
        bytes: u64,
    },
}

/// An append, a close, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// What it says its body is.
    pub content_type: Option<&'a str>,
    /// What it brings.
    pub body: Body<'a>,
    /// Whose it is.
    pub producer: Option<Producer<'a>>,
    /// The writer's own number, larger than the one before, byte by byte.
    pub stream_seq: Option<&'a str>,
    /// Whether it is the last.
    pub close: bool,
    /// The tail that the writer believes in.
    pub expected_tail: Option<Offset>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Store it.
    Accept(Accepted),
    /// Its producer's number was stored before; the last that was is named.
    Duplicate {
        /// What is remembered of the producer.
        producer: ProducerState,
    },
    /// A close of what is closed.
    AlreadyClosed,
}

/// What is stored beside the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// What is to be remembered of the producer.
    pub producer: Option<ProducerState>,
    /// Whether the stream did not know it.
    pub new_producer: bool,
}

/// Why an append is not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is nothing to append and nothing to close.
    #[error("the body is empty, and the stream is not to be closed")]
    Empty,
    /// The body is an empty array.
    #[error("the array holds no message")]
    EmptyArray,
    /// The body is not JSON.
    #[error(transparent)]
    NotJson(JsonError),
    /// The stream is closed.
    #[error("the stream is closed")]
    Closed,
    /// The body does not say what it is.
    #[error("a body needs a Content-Type")]
    ContentTypeMissing,
    /// The body is of another type than the stream.
    #[error("the stream has another content type")]
    ContentType,
    /// The producer was taken over.
    #[error("the producer's epoch is now {current}")]
    StaleEpoch {
        /// The epoch that counts.
        current: u64,
    },
    /// A new epoch begins with another number than 0.
    #[error("a new epoch begins with Producer-Seq 0")]
    EpochStart,
    /// Numbers are missing before this one.
    #[error("the producer's next number is {expected}, not {received}")]
    Gap {
        /// The next one that would be accepted.
        expected: u64,
        /// The one that came.
        received: u64,
    },
    /// The stream remembers as many producers as it may.
    #[error("the stream has {} producers", limits::STREAM_PRODUCERS_MAX)]
    TooManyProducers,
    /// `Stream-Seq` is not above the last one.
    #[error("Stream-Seq is not above the last one")]
    StreamSeq {
        /// The last one.
        last: Box<str>,
    },
    /// The stream ends elsewhere.
    #[error("the stream ends elsewhere")]
    Tail,
}

impl Body<'_> {
    /// How many messages.
    pub fn count(&self) -> u64 {
        match self {
            Self::Messages { count, .. } => *count,
            Self::Empty | Self::EmptyArray | Self::NotJson(_) => 0,
        }
    }

    /// Bytes of all messages.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Messages { bytes, .. } => *bytes,
            Self::Empty | Self::EmptyArray | Self::NotJson(_) => 0,
        }
    }
}

impl Refusal {
    /// Whether another state of the stream would have led to another answer.
    pub fn depends_on_state(&self) -> bool {
        match self {
            Self::Empty | Self::ContentTypeMissing => false,
            Self::EmptyArray
            | Self::NotJson(_)
            | Self::Closed
            | Self::ContentType
            | Self::StaleEpoch { .. }
            | Self::EpochStart
            | Self::Gap { .. }
            | Self::TooManyProducers
            | Self::StreamSeq { .. }
            | Self::Tail => true,
        }
    }
}

/// Decides an append over the state of its stream and what is remembered of its producer.
///
/// # Errors
/// [`Refusal`]; nothing is to be stored.
pub fn decide(
    state: &State,
    content_type: &ContentType,
    known: Option<ProducerState>,
    request: &Request<'_>,
) -> Result<Decision, Refusal> {
    if request.body == Body::Empty {
        if !request.close {
            return Err(Refusal::Empty);
        }
    } else if request.content_type.is_none() {
        return Err(Refusal::ContentTypeMissing);
    }
    if state.is_closed() {
        return closed(state, known, request);
    }
    if request.body != Body::Empty && !request.content_type.is_some_and(|given| content_type.is(given)) {
        return Err(Refusal::ContentType);
    }
    let accepted = match request.producer {
        None => Accepted { producer: None, new_producer: false },
        Some(producer) => match produced(state, known, producer)? {
            Ok(accepted) => accepted.after(state.tail.plus(request.body.count())),
            Err(producer) => return Ok(Decision::Duplicate { producer }),
        },
    };
    if let (Some(given), Some(last)) = (request.stream_seq, &state.stream_seq)
        && given.as_bytes() <= last.as_bytes()
    {
        return Err(Refusal::StreamSeq { last: last.clone() });
    }
    if request.expected_tail.is_some_and(|expected| expected != state.tail) {
        return Err(Refusal::Tail);
    }
    match request.body {
        Body::EmptyArray => Err(Refusal::EmptyArray),
        Body::NotJson(error) => Err(Refusal::NotJson(error.clone())),
        Body::Empty | Body::Messages { .. } => Ok(Decision::Accept(accepted)),
    }
}

/// An append to a stream that takes no more.
fn closed(state: &State, known: Option<ProducerState>, request: &Request<'_>) -> Result<Decision, Refusal> {
    let Some(producer) = request.producer else {
        return if request.body == Body::Empty { Ok(Decision::AlreadyClosed) } else { Err(Refusal::Closed) };
    };
    if let Closure::Closed(Some(by)) = &state.closure
        && *by.id == *producer.id
        && (by.epoch, by.seq) == (producer.epoch, producer.seq)
    {
        let producer = ProducerState { epoch: by.epoch, last_seq: by.seq, tail: state.tail.get() };
        return Ok(Decision::Duplicate { producer });
    }
    match known {
        Some(known) if producer.epoch < known.epoch => Err(Refusal::StaleEpoch { current: known.epoch }),
        Some(known) if !request.close && producer.epoch == known.epoch && producer.seq <= known.last_seq => {
            Ok(Decision::Duplicate { producer: known })
        }
        _ => Err(Refusal::Closed),
    }
}

/// What a producer's number means: something new, or a duplicate with what is remembered.
fn produced(
    state: &State,
    known: Option<ProducerState>,
    producer: Producer<'_>,
) -> Result<Result<Accepted, ProducerState>, Refusal> {
    let Producer { epoch, seq, .. } = producer;
    let accept = |new_producer| {
        let remembered = ProducerState { epoch, last_seq: seq, tail: 0 };
        Ok(Ok(Accepted { producer: Some(remembered), new_producer }))
    };
    match known {
        None if seq != 0 => Err(Refusal::Gap { expected: 0, received: seq }),
        None if state.producers >= limits::STREAM_PRODUCERS_MAX => Err(Refusal::TooManyProducers),
        None => accept(true),
        Some(known) if epoch < known.epoch => Err(Refusal::StaleEpoch { current: known.epoch }),
        Some(known) if epoch > known.epoch => {
            if seq == 0 {
                accept(false)
            } else {
                Err(Refusal::EpochStart)
            }
        }
        Some(known) if seq <= known.last_seq => Ok(Err(known)),
        Some(known) if seq == known.last_seq + 1 => accept(false),
        Some(known) => Err(Refusal::Gap { expected: known.last_seq + 1, received: seq }),
    }
}

impl Accepted {
    fn after(mut self, tail: Offset) -> Self {
        if let Some(producer) = &mut self.producer {
            producer.tail = tail.get();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::state::Closer;
    use crate::time::Timestamp;

    const TEXT: &str = "text/plain";

    fn request(producer: Option<(u64, u64)>) -> Request<'static> {
        Request {
            content_type: Some(TEXT),
            body: Body::Messages { count: 1, bytes: 1 },
            producer: producer.map(|(epoch, seq)| Producer { id: "p", epoch, seq }),
            stream_seq: None,
            close: false,
            expected_tail: None,
        }
    }

    fn close_only(producer: Option<(u64, u64)>) -> Request<'static> {
        Request { content_type: None, body: Body::Empty, close: true, ..request(producer) }
    }

    fn ask(state: &State, known: Option<ProducerState>, request: &Request<'_>) -> Result<Decision, Refusal> {
        decide(state, &ContentType::parse(TEXT).unwrap(), known, request)
    }

    #[expect(clippy::unnecessary_wraps, reason = "tables read better")]
    fn known(epoch: u64, last_seq: u64) -> Option<ProducerState> {
        Some(ProducerState { epoch, last_seq, tail: 7 })
    }

    fn closed(by: Option<(u64, u64)>) -> State {
        let by = by.map(|(epoch, seq)| Closer { id: "p".into(), epoch, seq });
        State { tail: Offset::new(7), closure: Closure::Closed(by), ..State::default() }
    }

    #[test]
    fn producers_are_fenced_deduplicated_and_dense() {
        let state = State { tail: Offset::new(7), ..State::default() };
        let accepted = |epoch, last_seq, new_producer| {
            let producer = Some(ProducerState { epoch, last_seq, tail: 8 });
            Ok(Decision::Accept(Accepted { producer, new_producer }))
        };
        let duplicate = |epoch, last| Ok(Decision::Duplicate { producer: known(epoch, last).unwrap() });
        for (before, tuple, expected) in [
            (None, (5, 0), accepted(5, 0, true)),
            (None, (0, 1), Err(Refusal::Gap { expected: 0, received: 1 })),
            (known(1, 3), (0, 0), Err(Refusal::StaleEpoch { current: 1 })),
            (known(1, 3), (2, 0), accepted(2, 0, false)),
            (known(1, 3), (2, 1), Err(Refusal::EpochStart)),
            (known(1, 3), (1, 0), duplicate(1, 3)),
            (known(1, 3), (1, 3), duplicate(1, 3)),
            (known(1, 3), (1, 4), accepted(1, 4, false)),
            (known(1, 3), (1, 5), Err(Refusal::Gap { expected: 4, received: 5 })),
        ] {
            assert_eq!(ask(&state, before, &request(Some(tuple))), expected, "{before:?} {tuple:?}");
        }
        let full = State { producers: limits::STREAM_PRODUCERS_MAX, ..state };
        assert_eq!(ask(&full, None, &request(Some((0, 0)))), Err(Refusal::TooManyProducers));
        assert_eq!(ask(&full, known(0, 0), &request(Some((0, 1)))), accepted(0, 1, false));
    }

    #[test]
    fn a_closed_stream_knows_its_closer() {
        let last = |seq| Ok(Decision::Duplicate { producer: ProducerState { epoch: 1, last_seq: seq, tail: 7 } });
        let with_close = |tuple| Request { close: true, ..request(tuple) };
        for (by, before, request, expected) in [
            (None, None, request(None), Err(Refusal::Closed)),
            (None, None, with_close(None), Err(Refusal::Closed)),
            (None, None, close_only(None), Ok(Decision::AlreadyClosed)),
            (Some((1, 4)), known(1, 4), close_only(None), Ok(Decision::AlreadyClosed)),
            (Some((1, 4)), known(1, 4), with_close(Some((1, 4))), last(4)),
            (Some((1, 4)), known(1, 4), close_only(Some((1, 4))), last(4)),
            (Some((1, 4)), known(1, 4), with_close(Some((1, 3))), Err(Refusal::Closed)),
            (Some((1, 4)), known(1, 4), with_close(Some((1, 5))), Err(Refusal::Closed)),
            (Some((1, 4)), known(1, 4), request(Some((1, 3))), last(4)),
            (Some((1, 4)), known(1, 4), request(Some((0, 9))), Err(Refusal::StaleEpoch { current: 1 })),
            (Some((1, 4)), None, request(Some((0, 0))), Err(Refusal::Closed)),
        ] {
            assert_eq!(ask(&closed(by), before, &request), expected, "{by:?} {before:?} {request:?}");
        }
    }

    #[test]
    fn the_first_of_several_reasons_counts() {
        let state = State { tail: Offset::new(7), stream_seq: Some("b".into()), ..State::default() };
        let wrong = JsonError { at: 0, what: "x" };
        let mut all = Request {
            content_type: Some("text/html"),
            body: Body::NotJson(&wrong),
            stream_seq: Some("a"),
            expected_tail: Some(Offset::new(6)),
            ..request(Some((1, 9)))
        };
        assert_eq!(ask(&closed(None), None, &all), Err(Refusal::Closed));
        assert_eq!(ask(&state, known(1, 7), &all), Err(Refusal::ContentType));
        all.content_type = Some("TEXT/plain; charset=utf-8");
        assert_eq!(ask(&state, known(1, 7), &all), Err(Refusal::Gap { expected: 8, received: 9 }));
        assert!(matches!(ask(&state, known(1, 9), &all), Ok(Decision::Duplicate { .. })));
        assert_eq!(ask(&state, known(1, 8), &all), Err(Refusal::StreamSeq { last: "b".into() }));
        all.stream_seq = Some("ba");
        assert_eq!(ask(&state, known(1, 8), &all), Err(Refusal::Tail));
        all.expected_tail = Some(Offset::new(7));
        assert_eq!(ask(&state, known(1, 8), &all), Err(Refusal::NotJson(wrong.clone())));
        all.body = Body::EmptyArray;
        assert_eq!(ask(&state, known(1, 8), &all), Err(Refusal::EmptyArray));
        all.content_type = None;
        assert_eq!(ask(&closed(None), None, &all), Err(Refusal::ContentTypeMissing));
        all.body = Body::Empty;
        assert_eq!(ask(&closed(None), None, &all), Err(Refusal::Empty));
    }

    #[test]
    fn an_append_leaves_its_traces() {
        let mut state = State::default();
        let close = Request { stream_seq: Some("s"), close: true, ..request(Some((2, 0))) };
        let Ok(Decision::Accept(accepted)) = ask(&state, None, &close) else { panic!("it was not accepted") };
        state.evolve(&close, accepted, Timestamp::from_unix_ms(5));
        let closer = Closer { id: "p".into(), epoch: 2, seq: 0 };
        let expected = State {
            tail: Offset::new(1),
            closure: Closure::Closed(Some(closer)),
            stream_seq: Some("s".into()),
            used_at: Timestamp::from_unix_ms(5),
            producers: 1,
            bytes: 1,
            bytes_gone: 0,
        };
        assert_eq!(state, expected);
    }
}
