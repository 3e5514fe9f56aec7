//! The connections of the HTTP faces.
//!
//! Job: accept, one task a connection, an orderly end: nothing is accepted any more, requests that are under way are
//! answered, idle connections close. Owns: the sockets until their handlers leave with them. Never: waits for a client.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::extract::Request;
use axum::serve::Listener as _;
use futures_util::FutureExt as _;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use super::Accepting;
use crate::http::{Leave, Peer, Socket};

/// Serves until `draining`, and then until every connection is over.
pub(super) async fn serve(mut listener: Accepting, router: Router, draining: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let (socket, remote) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = draining.cancelled() => break,
        };
        // An event must not wait for the acknowledgement of the one before.
        let _ = socket.set_nodelay(true);
        let peer = Peer::of(remote, socket.local_addr().ok());
        let rest = connections.clone();
        connections.spawn(serve_one(socket, peer, router.clone(), draining.clone(), rest));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// One connection. The answer that it left with goes on in a small task, since this one is as large as all it ever did.
async fn serve_one(
    socket: TcpStream,
    peer: Peer,
    router: Router,
    draining: CancellationToken,
    connections: TaskTracker,
) {
    let leave = Leave::default();
    let service = hyper::service::service_fn({
        let leave = leave.clone();
        move |request: Request<hyper::body::Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer.clone()));
            request.extensions_mut().insert(leave.clone());
            let answered = router.clone().call(request);
            answered.map(|answer| answer.map_err(|never: Infallible| never))
        }
    });
    {
        let io = TokioIo::new(Socket::new(socket, leave.clone()));
        let mut connection = std::pin::pin!(http1::Builder::new().serve_connection(io, service));
        tokio::select! {
            // What goes wrong with a connection is its client's to know.
            _ = connection.as_mut() => {}
            () = draining.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }
    if let Some(rest) = leave.finish() {
        connections.spawn(rest);
    }
}
