//! Accepting connections, until told to leave them to the kernel.
//!
//! Job: a listener that stops taking connections without closing the socket, so that those who come meanwhile wait in
//! the backlog for the next program. Owns: nothing. Never: closes a connection.

use std::io;
use std::net::SocketAddr;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A listener that can be told to take no more.
#[derive(Debug)]
pub struct Accepting {
    /// The socket.
    pub(super) listener: TcpListener,
    /// Cancelled when no more are to be taken.
    pub(super) no_more: CancellationToken,
}

impl Listener for Accepting {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        tokio::select! {
            biased;
            () = self.no_more.cancelled() => std::future::pending().await,
            accepted = Listener::accept(&mut self.listener) => accepted,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
