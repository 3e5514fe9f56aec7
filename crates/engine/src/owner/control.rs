//! The owner's end of a shim's control socket, without blocking.

use std::io;
use std::path::{Path, PathBuf};

use longhaul_model::Epoch;
use longhaul_supervise::{ControlClient, Event, Request, StopReason, control};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// A connection that watches a shim.
#[derive(Debug)]
pub(super) struct Control {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    epoch: Epoch,
}

impl Control {
    /// Connects and asks to be told what happens.
    pub(super) async fn connect(dir: &Path, epoch: Epoch) -> io::Result<Self> {
        let dir: PathBuf = dir.to_owned();
        let connect = move || ControlClient::connect(&dir, epoch.get());
        let client = tokio::task::spawn_blocking(connect).await.map_err(io::Error::other)??;
        let socket = client.into_std();
        socket.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(socket)?.into_split();
        let mut control = Self { lines: BufReader::with_capacity(512, reader).lines(), writer, epoch };
        control.send(&Request::Watch).await?;
        // How much of the input it has dealt with so far.
        control.send(&Request::Ping).await?;
        Ok(control)
    }

    async fn send(&mut self, request: &Request) -> io::Result<()> {
        self.writer.write_all(&control::encode(request)).await
    }

    /// Asks the shim to begin its stop ladder.
    pub(super) async fn stop(&mut self, reason: StopReason) -> io::Result<()> {
        self.send(&Request::Stop { reason, epoch: self.epoch.get() }).await
    }

    /// Says that there is more input.
    pub(super) async fn input(&mut self) -> io::Result<()> {
        self.send(&Request::Input).await
    }

    /// What the shim says next; `None` once it is gone.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            match self.lines.next_line().await {
                Ok(Some(line)) => match control::decode_event(line.as_bytes()) {
                    Ok(event) => return Some(event),
                    Err(error) => tracing::warn!(%error, "a shim sent a line that is no event"),
                },
                Ok(None) | Err(_) => return None,
            }
        }
    }
}
