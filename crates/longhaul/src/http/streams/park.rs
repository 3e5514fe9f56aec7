//! A live reader on a socket of its own, without the HTTP server around it.
//!
//! Job: the rest of an answer in chunks, written as it comes. Owns: the socket and one page. Never: reads a request; a
//! client that sends anything is not listened to, one that goes is noticed.

use std::convert::Infallible;
use std::io::{self, IoSlice};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{Method, Version};
use tokio::net::TcpStream;

use super::sse::Reader;
use crate::http::{Caller, Leave, Peer};

/// Bytes of a client's that are thrown away at once.
const IGNORED_BYTES: usize = 64;

/// How many looks a client gets that sends what nobody asked for.
const IGNORED_MAX: usize = 1_000;

/// The way out of the HTTP server, where there is one.
pub(super) struct Exit(pub(super) Option<Leave>);

impl<S: Send + Sync> FromRequestParts<S> for Exit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // Chunks are of HTTP/1.1; and a stream that a token with bounds opened ends with it, which the door sees to.
        let plain = parts.method == Method::GET && parts.version == Version::HTTP_11;
        let bounded = parts.extensions.get::<Caller>().is_none_or(|caller| caller.token.is_some());
        let known = parts.extensions.get::<ConnectInfo<Peer>>().is_some();
        let leave = parts.extensions.get::<Leave>().filter(|_| plain && known && !bounded);
        Ok(Self(leave.cloned()))
    }
}

/// Goes on with a reader's answer on its socket until it is over.
pub(super) async fn run(mut reader: Box<Reader>, socket: TcpStream) {
    loop {
        let next = tokio::select! {
            biased;
            next = reader.next() => next,
            () = gone(&socket) => return,
        };
        let chunk = next.as_deref().unwrap_or_default();
        let sent = tokio::time::timeout_at(reader.until(), send(&socket, chunk)).await;
        // Who does not read until the connection's time is over has nothing to come back to either.
        if next.is_none() || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

/// Waits until the client is gone.
async fn gone(socket: &TcpStream) {
    let mut ignored = [0; IGNORED_BYTES];
    for _ in 0..IGNORED_MAX {
        if socket.readable().await.is_err() {
            return;
        }
        match socket.try_read(&mut ignored) {
            Ok(0) => return,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            Ok(_) | Err(_) => {}
        }
    }
}

/// Sends one chunk; an empty one is the end of the answer.
async fn send(socket: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let head = format!("{:X}\r\n", bytes.len());
    let mut slices = [IoSlice::new(head.as_bytes()), IoSlice::new(bytes), IoSlice::new(b"\r\n")];
    let mut slices = &mut slices[..];
    while !slices.is_empty() {
        match socket.try_write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(wrote) => IoSlice::advance_slices(&mut slices, wrote),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn chunks_are_whole_however_slowly_they_are_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let large = vec![b'x'; 8 << 20];
        let sending = tokio::spawn(async move {
            send(&socket, &large).await.unwrap();
            send(&socket, b"").await.unwrap();
        });
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        sending.await.unwrap();
        let want = [b"800000\r\n".to_vec(), vec![b'x'; 8 << 20], b"\r\n0\r\n\r\n".to_vec()].concat();
        assert!(got == want, "{} bytes, {} wanted", got.len(), want.len());
    }

    #[tokio::test]
    async fn a_client_that_goes_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        client.writable().await.unwrap();
        client.try_write(b"what nobody asked for").unwrap();
        drop(client);
        tokio::time::timeout(std::time::Duration::from_secs(30), gone(&socket)).await.unwrap();
    }
}
