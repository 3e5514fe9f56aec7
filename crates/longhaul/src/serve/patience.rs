//! How long one connection may keep the server waiting.
//!
//! ```text
//! Idle ── a first byte ──► Head ── all of it ──► Body ── all of it ──► Answering ── given ──► Idle
//! ```
//!
//! Each of these but `Answering` has an end, and so has a client that takes nothing of what is written to it. What
//! happens on a connection changes one number; the connection's task looks at it when it was woken anyway, and at the
//! clock only if the number is another one than before: a request costs no timer. Owns: that number and one timer a
//! connection. Never: ends a connection that waits for the server.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use longhaul_model::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::http::{BodyTooSlow, Socket};

/// No byte of the next request is here.
const IDLE: u32 = 0;
/// Some of a request's head is here.
const HEAD: u32 = 1;
/// The head is here, the body is not.
const BODY: u32 = 2;
/// It is the server's turn.
const ANSWERING: u32 = 3;
/// Which of these it is.
const PHASE: u32 = 3;
/// The client takes nothing of what is written.
const STALLED: u32 = 4;
/// The body took too long, and whoever reads it is told.
const GIVEN_UP: u32 = 8;
/// One more change; the rest of the number counts them.
const CHANGE: u32 = 16;

/// How long a client is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits {
    head: Duration,
    body: Duration,
    idle: Duration,
    stalled: Duration,
}

impl Waits {
    /// From the time that a request's head may take.
    pub(super) fn of(head: Duration) -> Self {
        Self {
            head,
            body: head * limits::CLIENT_BODY_TIMES,
            idle: head * limits::CLIENT_IDLE_TIMES,
            stalled: head * limits::CLIENT_STALLED_TIMES,
        }
    }

    /// How long a connection may be idle.
    pub(super) fn idle(&self) -> Duration {
        self.idle
    }

    /// While the server stops: whoever has not asked yet may ask the next one.
    fn last(self) -> Self {
        let soon = limits::CLIENT_LAST_HEAD;
        Self { head: self.head.min(soon), idle: self.idle.min(soon), ..self }
    }

    /// How long a client is waited for in this state; `None` for as long as it lasts.
    fn during(&self, state: u32) -> Option<Duration> {
        match state & PHASE {
            // Whatever else is awaited, what was written must be taken first.
            _ if state & STALLED != 0 => Some(self.stalled),
            IDLE => Some(self.idle),
            HEAD => Some(self.head),
            BODY if state & GIVEN_UP == 0 => Some(self.body),
            _ => None,
        }
    }
}

/// What a connection is at.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch(Arc<AtomicU32>);

impl Watch {
    fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn change(&self, to: impl Fn(u32) -> Option<u32>) {
        let to = |state| Some(to(state)?.wrapping_add(CHANGE));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, to);
    }

    fn go(&self, from: u32, to: u32) {
        self.change(|state| (state & PHASE == from).then_some(state & !PHASE & !GIVEN_UP | to));
    }

    /// A request is here, but perhaps its body: what is to be made of it.
    pub(super) fn asked(&self, body: Incoming) -> Body {
        let whole = body.is_end_stream();
        self.change(|state| Some(state & !PHASE & !GIVEN_UP | if whole { ANSWERING } else { BODY }));
        if whole { Body::empty() } else { Body::new(Arriving { body, watch: self.clone() }) }
    }

    /// An answer is there: what the client gets of it.
    pub(super) fn answered(&self, body: Body) -> Given {
        Given { body, watch: self.clone() }
    }

    fn read(&self) {
        if self.now() & PHASE == IDLE {
            self.go(IDLE, HEAD);
        }
    }

    fn wrote<T>(&self, wrote: &Poll<T>) {
        let stalled = self.now() & STALLED != 0;
        if stalled != wrote.is_pending() {
            self.change(|state| Some(state ^ STALLED));
        }
    }
}

/// What a client was waited for in vain for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// The rest of a head.
    Head,
    /// The rest of a body, whose reader is told and answers.
    Body,
    /// The next request, or room for an answer.
    Rest,
}

/// The clock of one connection.
pub(super) struct Patience<'a> {
    watch: Watch,
    waits: Waits,
    timer: Pin<&'a mut Sleep>,
    /// The state when it was last looked at, and when it became so.
    seen: u32,
    since: Instant,
}

impl<'a> Patience<'a> {
    /// Of a connection that was accepted now, with a timer that is set to anything.
    pub(super) fn new(watch: Watch, waits: Waits, timer: Pin<&'a mut Sleep>) -> Self {
        let (seen, since) = (watch.now(), Instant::now());
        Self { watch, waits, timer, seen, since }
    }

    /// Whoever has not asked yet may hurry.
    pub(super) fn last(&mut self) {
        self.waits = self.waits.last();
    }

    /// Waits until the client is late. To be asked each time that the connection has nothing more to do.
    pub(super) fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        let state = self.watch.now();
        if state != self.seen {
            (self.seen, self.since) = (state, Instant::now());
        }
        let Some(wait) = self.waits.during(state) else { return Poll::Pending };
        let due = self.since + wait;
        loop {
            // An earlier one is left: it is looked at again then, and most clients have done more by then.
            if self.timer.is_elapsed() || due < self.timer.deadline() {
                self.timer.as_mut().reset(due);
            }
            ready!(self.timer.as_mut().poll(cx));
            if due <= Instant::now() {
                break;
            }
        }
        let late = match state & PHASE {
            HEAD => Late::Head,
            BODY if state & STALLED == 0 => {
                self.watch.change(|state| Some(state | GIVEN_UP));
                Late::Body
            }
            _ => Late::Rest,
        };
        Poll::Ready(late)
    }
}

/// A request's body on its way.
struct Arriving {
    body: Incoming,
    watch: Watch,
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if self.watch.now() & GIVEN_UP != 0 {
            return Poll::Ready(Some(Err(BodyTooSlow.into())));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.watch.go(BODY, ANSWERING);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.watch.go(BODY, ANSWERING);
    }
}

/// An answer's body on its way.
pub(super) struct Given {
    body: Body,
    watch: Watch,
}

impl HttpBody for Given {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        self.watch.change(|state| Some(state & !PHASE & !GIVEN_UP | IDLE));
    }
}

/// A socket that tells what happens on it.
pub(super) struct Watched {
    pub(super) socket: Socket,
    pub(super) watch: Watch,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.watch.read();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.watch.wrote(&wrote);
        wrote
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.socket).poll_write_vectored(cx, bytes);
        self.watch.wrote(&wrote);
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
