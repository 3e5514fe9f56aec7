//! The connections of the HTTP faces.
//!
//! Job: accept, one task a connection, an end for every client that keeps the server waiting, an answer for those that
//! are too many, an orderly end: nothing is accepted any more, requests that are under way are answered, idle
//! connections close. Owns: the sockets until their handlers leave with them. Never: waits for a client without an end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::extract::Request;
use futures_util::FutureExt as _;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use longhaul_api::{ErrorCode, Problem};
use longhaul_model::limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Accepting;
use super::patience::{Late, Patience, Waits, Watch, Watched};
use crate::http::{Faces, Leave, Peer, Socket};

/// What a client gets whose head does not come: RFC 9110 section 15.5.9.
const HEAD_TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Connections that are told at the same time that they are too many; until one of them is gone nothing is accepted.
const REFUSED_AT_ONCE: usize = 32;

/// How long one of them has to ask and to read.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// What holds of all connections.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// How many there may be.
    pub(super) max: usize,
    /// How long their clients are waited for.
    pub(super) waits: Waits,
    /// Ends when the server drains.
    pub(super) draining: CancellationToken,
}

/// How many connections a process may have that may open so many files: the store and the runs need some as well.
pub(super) fn max_for(descriptors: Option<u64>) -> usize {
    let Some(descriptors) = descriptors else { return limits::CONNECTIONS_MAX };
    let kept = (descriptors / 4).max(limits::DESCRIPTORS_KEPT).min(descriptors / 2);
    let left = usize::try_from(descriptors - kept).unwrap_or(usize::MAX);
    left.saturating_sub(REFUSED_AT_ONCE).clamp(1, limits::CONNECTIONS_MAX)
}

/// Serves until the server drains, and then until every connection is over.
pub(super) async fn serve(mut listener: Accepting, faces: Faces, connections: TaskTracker, rules: Rules) {
    let (refusing, rules) = (Arc::new(Semaphore::new(REFUSED_AT_ONCE)), Arc::new(rules));
    let accept = async {
        loop {
            let (socket, remote) = listener.accept().await;
            // An event must not wait for the acknowledgement of the one before.
            let _ = socket.set_nodelay(true);
            if connections.len() >= rules.max {
                metrics::counter!("longhaul_connections_refused_total").increment(1);
                tracing::debug!(%remote, max = rules.max, "a connection too many");
                let Ok(permit) = Arc::clone(&refusing).acquire_owned().await else { continue };
                tokio::spawn(async move {
                    let _ = refuse(socket).await;
                    drop(permit);
                });
                continue;
            }
            let (faces, rules, rest) = (faces.clone(), Arc::clone(&rules), connections.clone());
            connections.spawn(async move {
                if says_something(&socket, &rules).await {
                    let peer = Peer::of(remote, socket.local_addr().ok());
                    // What an HTTP server keeps for a connection is many times what one costs that says nothing.
                    Box::pin(serve_one(socket, peer, faces, &rules, rest)).await;
                }
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = rules.draining.cancelled() => {}
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Tells a client that it is one too many, whatever it asks.
async fn refuse(mut socket: TcpStream) -> io::Result<()> {
    let text = "the server has as many connections as it may have; try again in a moment";
    let problem = Problem::new(ErrorCode::TooManyConnections, text);
    let body = problem.body(&uuid::Uuid::now_v7().to_string()).to_string();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: {}\r\n\
         cache-control: no-store\r\nx-content-type-options: nosniff\r\ncross-origin-resource-policy: same-origin\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        problem.retry_after.unwrap_or(5),
        body.len()
    );
    let until = tokio::time::Instant::now() + REFUSED_FOR;
    let mut asked = [0; 4096];
    // An answer to no question breaks clients that have not asked yet.
    let first = tokio::time::timeout_at(until, socket.read(&mut asked)).await;
    if matches!(first, Ok(Ok(0) | Err(_))) {
        return Ok(());
    }
    let answer = format!("{head}{body}");
    let _ = tokio::time::timeout_at(until, socket.write_all(answer.as_bytes())).await;
    socket.shutdown().await?;
    // To close on what was not read takes the answer away from the client.
    while tokio::time::timeout_at(until, socket.read(&mut asked)).await.is_ok_and(|read| read.is_ok_and(|n| n > 0)) {}
    Ok(())
}

/// Waits for a client's first word; false if there is none.
async fn says_something(socket: &TcpStream, rules: &Rules) -> bool {
    let mut first = [0];
    tokio::select! {
        biased;
        word = socket.peek(&mut first) => word.is_ok_and(|bytes| bytes > 0),
        () = tokio::time::sleep(rules.waits.idle()) => false,
        () = rules.draining.cancelled() => false,
    }
}

/// One connection. The answer that it left with goes on in a small task, since this one is as large as all it ever did.
async fn serve_one(socket: TcpStream, peer: Peer, faces: Faces, rules: &Rules, connections: TaskTracker) {
    let (leave, watch) = (Leave::default(), Watch::default());
    let service = hyper::service::service_fn({
        let (leave, watch) = (leave.clone(), watch.clone());
        move |request: Request<hyper::body::Incoming>| {
            let answered = faces.answer(&peer, &leave, request.map(|body| watch.asked(body)));
            let watch = watch.clone();
            answered.map(move |answer| Ok::<_, Infallible>(answer.map(|body| watch.answered(body))))
        }
    });
    {
        let io = TokioIo::new(Watched { socket: Socket::new(socket, leave.clone()), watch: watch.clone() });
        let mut http = http1::Builder::new();
        http.max_header_size(limits::HEAD_BYTES_MAX);
        let mut connection = http.serve_connection(io, service);
        let timer = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        let mut patience = Patience::new(watch, rules.waits, timer);
        let mut draining = std::pin::pin!(rules.draining.cancelled().fuse());
        let late = poll_fn(|cx| {
            loop {
                if draining.as_mut().poll(cx).is_ready() {
                    std::pin::Pin::new(&mut connection).graceful_shutdown();
                    patience.last();
                }
                // What goes wrong with a connection is its client's to know.
                if connection.poll_unpin(cx).is_ready() {
                    return Poll::Ready(None);
                }
                match std::task::ready!(patience.poll_late(cx)) {
                    Late::Body => {}
                    late => return Poll::Ready(Some(late)),
                }
            }
        })
        .await;
        if late == Some(Late::Head) {
            let mut io = connection.into_parts().io.into_inner();
            let _ = tokio::time::timeout(REFUSED_FOR, io.write_all(HEAD_TOO_SLOW)).await;
        }
    }
    if let Some(rest) = leave.finish() {
        connections.spawn(rest);
    }
}
