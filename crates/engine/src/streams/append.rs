//! Appending and closing.
//!
//! Job: bring a body into messages, decide over the stream's state, submit, and answer when all that the answer depends on
//! is durable. Owns: nothing. Never: spawns a task for an append that is waited for.

use std::sync::Arc;

use bytes::Bytes;
use longhaul_model::stream::{
    Accepted, Body, Decision, JsonError, Mode, ProducerState, Refusal, Request, State, StreamKey, decide, flatten,
};
use longhaul_model::{Seq, Timestamp, limits};
use longhaul_store::{Commit, CommitError, RecordWrite, StreamWrite, Ticket};

use crate::streams::config::{Second, producer_key, put};
use crate::streams::error::{AppendError, OpenError, WriteError};
use crate::streams::handle::{Alone, Flight, Handle, Known, Live, Tip};
use crate::streams::line::Place;
use crate::streams::requests::{Append, Appended, Move};
use crate::streams::{Streams, TRIES};

/// What a body is to a stream.
pub(super) enum Content {
    Empty,
    EmptyArray,
    NotJson(JsonError),
    Messages(Vec<Bytes>, u64),
}

/// Bodies up to this size are copied out of the buffer that they were read into: a message is kept for a while, and with it
/// the whole of what it is a slice of.
const COPIED_BYTES_MAX: usize = 64 * 1024;

impl Content {
    /// Brings a body into messages.
    pub(super) fn new(body: Option<&Bytes>, mode: Mode) -> Self {
        let Some(body) = body.filter(|body| !body.is_empty()) else { return Self::Empty };
        let copied;
        let body = if body.len() <= COPIED_BYTES_MAX {
            copied = Bytes::copy_from_slice(body);
            &copied
        } else {
            body
        };
        match mode {
            Mode::Json => match flatten(body) {
                Ok(messages) if messages.is_empty() => Self::EmptyArray,
                Ok(messages) => {
                    let bytes = messages.iter().map(|message| message.len() as u64).sum();
                    Self::Messages(messages, bytes)
                }
                Err(error) => Self::NotJson(error),
            },
            Mode::Bytes => {
                let max = limits::STREAM_MESSAGE_BYTES_MAX;
                let pieces = (0..body.len()).step_by(max).map(|at| body.slice(at..body.len().min(at + max)));
                Self::Messages(pieces.collect(), body.len() as u64)
            }
        }
    }

    fn body(&self) -> Body<'_> {
        match self {
            Self::Empty => Body::Empty,
            Self::EmptyArray => Body::EmptyArray,
            Self::NotJson(error) => Body::NotJson(error),
            Self::Messages(messages, bytes) => Body::Messages { count: messages.len() as u64, bytes: *bytes },
        }
    }
}

/// Where an append stands once its stream's state was looked at.
enum Begun {
    /// It is submitted.
    Flying(Flight, Appended),
    /// It is answered once this flight and all before it are durable.
    Answered(Result<Appended, AppendError>, u64),
    /// It closes and brings nothing: it is made alone.
    CloseOnly,
    /// What is remembered of its producer is to be looked up.
    LookUp(u64),
    /// Somebody is alone with the stream.
    Barred,
    /// The stream's time is over.
    Over,
    /// Another handle has taken over.
    Dead,
}

impl Begun {
    /// Whether it is not yet decided.
    fn must_wait(&self) -> bool {
        match self {
            Self::Flying(..) | Self::Answered(..) | Self::CloseOnly => false,
            Self::LookUp(_) | Self::Barred | Self::Over | Self::Dead => true,
        }
    }
}

/// What became of a close that is made alone.
enum Closed {
    Answered(Result<Appended, AppendError>),
    /// Decide again.
    Again,
}

impl Streams {
    /// Appends, closes, or both; answers once it is durable.
    ///
    /// # Errors
    /// [`AppendError`].
    ///
    /// # Cancel safety
    /// Dropping the future does not take a submitted append back.
    pub async fn append(&self, key: &StreamKey, append: Append<'_>) -> Result<Appended, AppendError> {
        if self.inner.stopping.is_cancelled() {
            return Err(WriteError::Stopping.into());
        }
        // An order among appends is one producer's, or that of the numbers they carry.
        let whose = append.producer.map(|producer| producer.id).or(append.stream_seq.map(|_| ""));
        let mut place = None;
        let mut handle = self.arrive(key, whose, &mut place).await?;
        let mut mode = handle.mode;
        let mut content = Content::new(append.body, mode);
        // The place in the line of a handle that died.
        let mut turn: Option<Flight> = None;
        let mut tries = 0;
        while tries < TRIES {
            if handle.mode != mode {
                mode = handle.mode;
                content = Content::new(append.body, mode);
            }
            if let Content::Messages(messages, _) = &content
                && messages.len() > limits::STREAM_APPEND_MESSAGES_MAX
            {
                let max = limits::STREAM_APPEND_MESSAGES_MAX;
                return Err(AppendError::TooManyMessages { max, found: messages.len() });
            }
            let begun = self.begin(&handle, &append, &mut content);
            if !begun.must_wait() {
                // Whoever comes after it goes on.
                place = None;
                if let Some(flight) = turn.take() {
                    flight.done();
                }
            } else if let Some(whose) = whose
                && turn.is_none()
                && place.is_none()
            {
                place = Some(self.inner.handles.front(key, whose).await);
                continue;
            }
            match begun {
                Begun::Flying(mut flight, appended) => {
                    let Err(error) = flight.land().await else {
                        handle.tell(Move::Appended);
                        return Ok(appended);
                    };
                    flight.turn().await;
                    if !matches!(error, CommitError::Conflict { .. } | CommitError::Gone) {
                        flight.done();
                        return Err(WriteError::from(error).into());
                    }
                    // One before it was not made, so nothing of it was: decide again, in its turn.
                    turn = Some(flight);
                    handle = self.successor(&handle).await?.ok_or(AppendError::NotFound)?;
                    content = Content::new(append.body, mode);
                    tries += 1;
                }
                Begun::Answered(answer, flight) => {
                    handle.until_resolved(flight).await;
                    if handle.is_dead() {
                        handle = self.arrive(key, whose, &mut place).await?;
                        tries += 1;
                        continue;
                    }
                    self.touch(&handle).await;
                    return answer;
                }
                Begun::CloseOnly => {
                    match self.close_alone(&handle, &append).await? {
                        Closed::Answered(answer) => return answer,
                        Closed::Again => handle = self.arrive(key, whose, &mut place).await?,
                    }
                    tries += 1;
                }
                Begun::LookUp(round) => self.look_up(&handle, append.producer.map_or("", |p| p.id), round).await?,
                Begun::Barred => handle.until_open().await,
                Begun::Over | Begun::Dead if turn.is_some() => {
                    // Whoever comes anew waits for this one, so it goes along the line itself.
                    if !handle.is_dead() || handle.tip() == Tip::Gone {
                        return Err(AppendError::NotFound);
                    }
                    handle.until_drained().await;
                    handle = self.successor(&handle).await?.ok_or(AppendError::NotFound)?;
                    tries += 1;
                }
                Begun::Over | Begun::Dead => {
                    handle = self.open_to_append(key).await?;
                    tries += 1;
                }
            }
        }
        Err(WriteError::Busy.into())
    }

    /// The handle to append over: at once, or behind those of one order that came before and wait.
    async fn arrive<'a>(
        &'a self,
        key: &'a StreamKey,
        whose: Option<&str>,
        place: &mut Option<Place<'a>>,
    ) -> Result<Arc<Handle>, AppendError> {
        let handles = &self.inner.handles;
        if let Some(handle) = handles.free(key, whose) {
            return Ok(handle);
        }
        if let Some(whose) = whose {
            *place = Some(handles.front(key, whose).await);
        }
        self.open_to_append(key).await
    }

    async fn open_to_append(&self, key: &StreamKey) -> Result<Arc<Handle>, AppendError> {
        self.open_handle(key).await.map_err(|error| match error {
            OpenError::NotFound => AppendError::NotFound,
            OpenError::Gone => AppendError::Gone,
            OpenError::Store(error) => error.into(),
        })
    }

    /// Decides an append and submits it if it is accepted, in one step that nothing comes between.
    fn begin(&self, handle: &Arc<Handle>, append: &Append<'_>, content: &mut Content) -> Begun {
        let now = self.now();
        let mut live = handle.live();
        if handle.is_dead() {
            return Begun::Dead;
        }
        if live.is_barred() {
            return Begun::Barred;
        }
        if live.deleted {
            return Begun::Answered(Err(AppendError::Gone), 0);
        }
        if live.ends(handle.doc.lifetime).is_some_and(|end| end <= now) {
            return Begun::Over;
        }
        let known = match append.producer.map(|producer| live.producer(producer.id)) {
            None => None,
            Some(Known::Is(known)) => known,
            Some(Known::LookUp(round)) => return Begun::LookUp(round),
        };
        let request = request(append, content.body());
        let accepted = match decide(&live.state, &handle.content_type, known, &request) {
            Ok(Decision::Accept(accepted)) => accepted,
            Ok(Decision::Duplicate { producer }) => {
                return Begun::Answered(Ok(repeated(&live.state, Some(producer))), live.submitted);
            }
            Ok(Decision::AlreadyClosed) => {
                return Begun::Answered(Ok(repeated(&live.state, None)), live.submitted);
            }
            Err(refusal) => {
                let upto = if refusal.depends_on_state() { live.submitted } else { 0 };
                return Begun::Answered(Err(refused(refusal, &live, handle)), upto);
            }
        };
        let mut state = live.state.clone();
        state.evolve(&request, accepted, now);
        let Content::Messages(messages, _) = content else { return Begun::CloseOnly };
        let messages = std::mem::take(messages);
        match self.submit(handle, &mut live, state, (append, accepted), messages, now) {
            Ok((ticket, closes)) => {
                let appended = Appended {
                    new: true,
                    next: live.state.tail,
                    closed: live.state.is_closed(),
                    producer: accepted.producer,
                };
                Begun::Flying(handle.fly(&mut live, ticket, closes), appended)
            }
            Err(error) => Begun::Answered(Err(WriteError::from(error).into()), 0),
        }
    }

    fn submit(
        &self,
        handle: &Handle,
        live: &mut Live,
        mut state: State,
        (append, accepted): (&Append<'_>, Accepted),
        messages: Vec<Bytes>,
        now: Timestamp,
    ) -> Result<(Ticket, bool), CommitError> {
        let expected_tail = handle.seq(live.state.tail);
        let mut records = Vec::new();
        if let (Some(producer), Some(remembered)) = (append.producer, accepted.producer) {
            records.push(remember(handle, producer.id, &remembered));
        }
        let second = now.unix_ms().div_euclid(1_000);
        if second > live.second {
            let first = expected_tail.get() + 1;
            records.push(Second { at: second, first, bytes_before: live.state.bytes }.write(handle.stream));
        }
        let cut = live.cut(&handle.doc.keep, expected_tail.get(), &messages, &mut state);
        let write = StreamWrite {
            events: messages,
            keep_after: cut.map(|cut| Seq::new(cut.removed)),
            ..self.write(handle, expected_tail, &state)
        };
        let ticket = self.store().submit(Commit { streams: vec![write], records, ..Commit::default() })?;
        let closes = state.is_closed();
        live.second = live.second.max(second);
        live.used_at = live.used_at.max(now);
        live.state = state;
        if let Some(cut) = cut {
            live.removed = cut.removed;
            self.note_trimmed(handle.stream, cut.removed);
        }
        if let (Some(producer), Some(remembered)) = (append.producer, accepted.producer) {
            let quiet = handle.is_resolved(live.submitted);
            live.remember(producer.id, remembered, quiet);
        }
        Ok((ticket, closes))
    }

    /// A write to a stream that brings it to a state.
    pub(super) fn write(&self, handle: &Handle, expected_tail: Seq, state: &State) -> StreamWrite {
        let mut cursor = Vec::with_capacity(64);
        state.encode(&mut cursor);
        StreamWrite {
            stream: handle.stream,
            project: handle.key.project.clone(),
            expected_tail,
            epoch: self.inner.options.epoch,
            events: Vec::new(),
            feed: Vec::new(),
            cursor: Some(cursor.into()),
            row: None,
            keep_after: None,
        }
    }

    async fn look_up(&self, handle: &Handle, producer: &str, round: u64) -> Result<(), AppendError> {
        let key = producer_key(handle.stream, producer);
        let found = match self.store().record(&key).await? {
            None => None,
            Some(value) => Some(ProducerState::decode(&value).ok_or_else(|| longhaul_store::StoreError::Corrupt {
                place: format!("record {}/{}", key.kind, key.id),
                what: "it is no producer's state".to_owned(),
            })?),
        };
        handle.live().looked_up(producer, found, round);
        Ok(())
    }

    /// Closes a stream with nothing before, once all is durable that was submitted.
    async fn close_alone(&self, handle: &Arc<Handle>, append: &Append<'_>) -> Result<Closed, WriteError> {
        let producer = append.producer.map(|p| (p.id.to_owned(), p.epoch, p.seq));
        let stream_seq = append.stream_seq.map(str::to_owned);
        let expected_tail = append.expected_tail;
        let (streams, handle) = (self.clone(), Arc::clone(handle));
        self.to_the_end(async move {
            let Some(alone) = handle.alone().await else { return Closed::Again };
            let producer = producer.as_ref().map(|(id, epoch, seq)| longhaul_model::stream::Producer {
                id,
                epoch: *epoch,
                seq: *seq,
            });
            let stream_seq = stream_seq.as_deref();
            let append = Append { producer, stream_seq, close: true, expected_tail, ..Append::default() };
            streams.close_here(alone, &append).await
        })
        .await
    }

    async fn close_here(&self, alone: Alone, append: &Append<'_>) -> Closed {
        let handle = Arc::clone(&alone.handle);
        let now = self.now();
        let (commit, state, accepted) = {
            let live = handle.live();
            let known = match append.producer.map(|producer| live.producer(producer.id)) {
                None => None,
                Some(Known::Is(known)) => known,
                // It was forgotten meanwhile.
                Some(Known::LookUp(_)) => return release(alone, Closed::Again),
            };
            let request = request(append, Body::Empty);
            let Ok(Decision::Accept(accepted)) = decide(&live.state, &handle.content_type, known, &request) else {
                return release(alone, Closed::Again);
            };
            let mut state = live.state.clone();
            state.evolve(&request, accepted, now);
            let write = self.write(&handle, handle.seq(live.state.tail), &state);
            let mut records = Vec::new();
            if let (Some(producer), Some(remembered)) = (append.producer, accepted.producer) {
                records.push(remember(&handle, producer.id, &remembered));
            }
            (Commit { streams: vec![write], records, ..Commit::default() }, state, accepted)
        };
        let answer = self.store().commit(commit).await;
        if answer.is_ok() {
            let mut live = handle.live();
            live.state = state;
            live.used_at = live.used_at.max(now);
            if let (Some(producer), Some(remembered)) = (append.producer, accepted.producer) {
                live.remember(producer.id, remembered, true);
            }
        }
        let next = handle.live().state.tail;
        if answer.is_ok() {
            handle.set_tip(Tip::Closed);
            handle.tell(Move::Appended);
        }
        let appended = Appended { new: true, next, closed: true, producer: accepted.producer };
        let answer = alone.settle(answer).map(|_| appended).map_err(|error| WriteError::from(error).into());
        Closed::Answered(answer)
    }

    /// Counts as use of the stream. What a lifetime needs of it is stored now and then.
    pub(super) async fn touch(&self, handle: &Arc<Handle>) {
        let longhaul_model::stream::Lifetime::TtlSeconds(seconds) = handle.doc.lifetime else { return };
        let now = self.now();
        let stored = {
            let mut live = handle.live();
            if live.ends(handle.doc.lifetime).is_some_and(|end| end <= now) {
                // It is over, though nobody has removed it yet.
                return;
            }
            live.used_at = live.used_at.max(now);
            live.state.used_at
        };
        let age = u64::try_from(now.unix_ms() - stored.unix_ms()).unwrap_or(0);
        if age <= seconds.saturating_mul(1_000) / 8 {
            return;
        }
        let (streams, handle) = (self.clone(), Arc::clone(handle));
        // A read is not refused because its time could not be stored; the next one tries again.
        let _ = self
            .to_the_end(async move {
                let Some(alone) = handle.alone().await else { return };
                let (state, write) = {
                    let live = handle.live();
                    if live.deleted || live.state.used_at >= now {
                        drop(live);
                        return alone.certain();
                    }
                    let state = State { used_at: now, ..live.state.clone() };
                    let write = streams.write(&handle, handle.seq(live.state.tail), &state);
                    (state, write)
                };
                let answer = streams.store().commit(Commit { streams: vec![write], ..Commit::default() }).await;
                if answer.is_ok() {
                    handle.live().state = state;
                }
                let _ = alone.settle(answer);
            })
            .await;
    }
}

fn request<'a>(append: &Append<'a>, body: Body<'a>) -> Request<'a> {
    Request {
        content_type: append.content_type,
        body,
        producer: append.producer,
        stream_seq: append.stream_seq,
        close: append.close,
        expected_tail: append.expected_tail,
    }
}

fn remember(handle: &Handle, id: &str, producer: &ProducerState) -> RecordWrite {
    put(producer_key(handle.stream, id), Bytes::copy_from_slice(&producer.encode()))
}

/// The answer to what was stored before.
fn repeated(state: &State, producer: Option<ProducerState>) -> Appended {
    Appended { new: false, next: state.tail, closed: state.is_closed(), producer }
}

fn refused(refusal: Refusal, live: &Live, handle: &Handle) -> AppendError {
    AppendError::Refused {
        refusal,
        tail: live.state.tail,
        closed: live.state.is_closed(),
        content_type: handle.content_type.clone(),
    }
}

fn release(alone: Alone, closed: Closed) -> Closed {
    alone.certain();
    closed
}
