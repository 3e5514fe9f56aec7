//! A small TCP proxy that breaks connections on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A proxy in front of one address.
pub struct Proxy {
    pub address: String,
    cut: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Passes everything on, but for the first `count` answers: of each of them it passes `bytes` bytes and hangs up.
    pub async fn cutting(target: &str, count: usize, bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (cut, target) = (Arc::new(AtomicUsize::new(0)), target.to_owned());
        let (counter, connections) = (Arc::clone(&cut), Arc::new(AtomicUsize::new(0)));
        let accepted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                let server = TcpStream::connect(&target).await.unwrap();
                tokio::spawn(pass(client, server, Arc::clone(&counter), count, bytes));
            }
        });
        Self { address, cut, connections, task }
    }

    /// Connections that were made.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Connections that were cut.
    pub fn cut(&self) -> usize {
        self.cut.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(client: TcpStream, server: TcpStream, cut: Arc<AtomicUsize>, count: usize, bytes: usize) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let asking = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
    };
    let answering = async {
        let (mut buffer, mut passed) = (vec![0; 64 << 10], 0);
        loop {
            let read = from_server.read(&mut buffer).await.unwrap_or(0);
            if read == 0 {
                let _ = to_client.shutdown().await;
                return;
            }
            let cutting = cut.load(Ordering::SeqCst) < count;
            let allowed = if cutting { read.min(bytes - passed) } else { read };
            if to_client.write_all(&buffer[..allowed]).await.is_err() {
                return;
            }
            passed += allowed;
            if cutting && passed >= bytes {
                cut.fetch_add(1, Ordering::SeqCst);
                return;
            }
        }
    };
    // Whoever is done first ends both: the connection is gone for both sides.
    tokio::select! {
        () = asking => {}
        () = answering => {}
    }
}
