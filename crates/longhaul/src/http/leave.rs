//! Taking a connection out of the HTTP server once an answer's beginning is on its way.
//!
//! A reader who waits for events needs a socket and a position; what the HTTP server keeps for a connection, buffers
//! above all, is twenty times that. So the handler gives the beginning of its answer here, and what to do with the
//! socket then. The body ends for the server, which never writes that end nor reads on, and the socket goes on with
//! whoever took it, in the same chunked answer.
//!
//! ```text
//! Staying ── the body has given its beginning ─► Asked ── all was flushed ─► Leaving ─► the socket is handed over
//! ```
//!
//! Owns: nothing but that state. Never: loses a byte of the beginning; leaves a connection that speaks anything but
//! HTTP/1.1.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use axum::body::{Body, Bytes, HttpBody};
use futures_util::future::BoxFuture;
use hyper::body::Frame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

// Zero is staying.
const ASKED: u8 = 1;
const LEAVING: u8 = 2;

/// What is done with the socket.
type Then = Box<dyn FnOnce(TcpStream) -> BoxFuture<'static, ()> + Send>;

/// The way out of one connection. Cheap to clone.
#[derive(Clone, Default)]
pub struct Leave {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: AtomicU8,
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    /// Waits for the flush.
    body: Option<Waker>,
    then: Option<Then>,
    socket: Option<TcpStream>,
}

impl std::fmt::Debug for Leave {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leave").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Leave {
    /// A body that begins with these bytes; once they are sent, `then` has the socket and goes on with chunks of its own.
    pub(super) fn body(
        &self,
        opening: Bytes,
        then: impl FnOnce(TcpStream) -> BoxFuture<'static, ()> + Send + 'static,
    ) -> Body {
        self.parts().then = Some(Box::new(then));
        Body::new(Opening { leave: self.clone(), opening: Some(opening) })
    }

    /// The rest of the answer, if the connection left, for whoever drove the connection: once it is over, and as a task
    /// of its own.
    pub fn finish(&self) -> Option<BoxFuture<'static, ()>> {
        let (socket, then) = {
            let mut parts = self.parts();
            (parts.socket.take(), parts.then.take())
        };
        Some(then?(socket?))
    }

    fn state(&self) -> u8 {
        self.inner.state.load(Ordering::Acquire)
    }

    fn leaves(&self) -> bool {
        self.state() == LEAVING
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        // Nothing in here panics.
        self.inner.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body has given all and asks for the flush that lets the connection go.
    fn ask(&self, waker: &Waker) {
        self.parts().body = Some(waker.clone());
        self.inner.state.store(ASKED, Ordering::Release);
    }

    /// Everything that was written is on its way.
    fn flushed(&self) {
        if self.inner.state.compare_exchange(ASKED, LEAVING, Ordering::AcqRel, Ordering::Acquire).is_ok()
            && let Some(waker) = self.parts().body.take()
        {
            waker.wake();
        }
    }
}

/// The beginning of an answer.
struct Opening {
    leave: Leave,
    opening: Option<Bytes>,
}

impl HttpBody for Opening {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(opening) = self.opening.take() {
            return Poll::Ready(Some(Ok(Frame::data(opening))));
        }
        if self.leave.leaves() {
            return Poll::Ready(None);
        }
        self.leave.ask(cx.waker());
        Poll::Pending
    }
}

/// A connection's socket as the HTTP server sees it.
#[derive(Debug)]
pub struct Socket {
    /// Taken only when this is dropped.
    socket: Option<TcpStream>,
    leave: Leave,
}

impl Socket {
    /// A socket that can be left.
    pub fn new(socket: TcpStream, leave: Leave) -> Self {
        Self { socket: Some(socket), leave }
    }

    fn inner(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.socket.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.leave.leaves() {
            self.leave.parts().socket = self.socket.take();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.leave.leaves() {
            // To the HTTP server the client is gone.
            return Poll::Ready(Ok(()));
        }
        self.inner()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.leave.leaves() {
            // The end of the body, which is not the end of the answer.
            return Poll::Ready(Ok(bytes.len()));
        }
        self.inner()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.leave.leaves() {
            return Poll::Ready(Ok(bytes.iter().map(|slice| slice.len()).sum()));
        }
        self.inner()?.poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.leave.leaves() {
            std::task::ready!(self.inner()?.poll_flush(cx))?;
            self.leave.flushed();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.leave.leaves() {
            return Poll::Ready(Ok(()));
        }
        self.inner()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::{Request, Response};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// What a client reads from a server that leaves after `opening` and goes on with `rest`.
    async fn read(opening: &'static [u8], rest: &'static [u8]) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let leave = Leave::default();
            let service = hyper::service::service_fn(|_: Request<hyper::body::Incoming>| {
                let body = leave.body(Bytes::from_static(opening), move |mut socket: TcpStream| {
                    Box::pin(async move { socket.write_all(rest).await.unwrap() })
                });
                async move { Ok::<_, Infallible>(Response::new(body)) }
            });
            let socket = TokioIo::new(Socket::new(socket, leave.clone()));
            let served = hyper::server::conn::http1::Builder::new().serve_connection(socket, service).await;
            if let Some(rest) = leave.finish() {
                rest.await;
            }
            served
        });
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut got = Vec::new();
        tokio::time::timeout(Duration::from_secs(30), client.read_to_end(&mut got)).await.unwrap().unwrap();
        let _ = server.await.unwrap();
        got
    }

    fn body(answer: &[u8]) -> &[u8] {
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        &answer[end + 4..]
    }

    #[tokio::test]
    async fn what_comes_after_the_beginning_is_whoever_took_the_socket() {
        let answer = read(b"hello", b"6\r\n world\r\n0\r\n\r\n").await;
        assert_eq!(body(&answer), b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
    }

    #[tokio::test]
    async fn a_beginning_that_fills_every_buffer_is_sent_whole() {
        static LARGE: [u8; 8 << 20] = [b'x'; 8 << 20];
        let answer = read(&LARGE, b"1\r\ny\r\n0\r\n\r\n").await;
        let mut want = format!("{:X}\r\n", LARGE.len()).into_bytes();
        want.extend_from_slice(&LARGE);
        want.extend_from_slice(b"\r\n1\r\ny\r\n0\r\n\r\n");
        assert!(body(&answer) == want.as_slice(), "{} bytes, {} wanted", body(&answer).len(), want.len());
    }
}
