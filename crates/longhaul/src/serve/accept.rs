//! Accepting connections, until told to leave them to the kernel.
//!
//! Job: a listener that stops taking connections without closing the socket, so that those who come meanwhile wait in
//! the backlog for the next program, and that outlives whatever makes accepting fail. Owns: nothing. Never: closes a
//! connection.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long nothing is accepted after it failed, most likely for want of descriptors: whoever comes waits in the backlog.
const PAUSE: Duration = Duration::from_millis(200);

/// How often the log says so.
const SAY_EVERY: Duration = Duration::from_mins(1);

/// A listener that can be told to take no more.
#[derive(Debug)]
pub struct Accepting {
    listener: TcpListener,
    /// Cancelled when no more are to be taken.
    no_more: CancellationToken,
    /// When it was last said that nothing can be accepted.
    said: Option<Instant>,
}

impl Accepting {
    /// A listener until `no_more` is cancelled.
    pub(super) fn new(listener: TcpListener, no_more: CancellationToken) -> Self {
        Self { listener, no_more, said: None }
    }

    /// The next connection; never returns once no more are to be taken.
    pub(super) async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.no_more.cancelled() => std::future::pending().await,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok(accepted) => return accepted,
                // That one is gone, and the next one may be there. Source: accept(2).
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    if self.said.is_none_or(|said| said.elapsed() > SAY_EVERY) {
                        tracing::error!(%error, "connections cannot be accepted; they wait until they can");
                        self.said = Some(Instant::now());
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}
