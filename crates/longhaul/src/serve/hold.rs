//! What one server holds alone: the lock of its data directory and its listening socket.
//!
//! Job: takes both, or takes them over from the program that ran in this process before; hands them to the next one.
//! Owns: both, from the first to the last moment of a process, whichever program it is. Never: lets go of one in
//! between: the socket stays open and the directory locked while nobody accepts.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use longhaul_supervise::handover;
use longhaul_supervise::lock::{FileLock, Holder, LockError};
use tokio::net::{TcpListener, TcpSocket};

use super::ServeError;

/// Connections that the kernel holds while the server is busy: thousands of readers come back at once after a restart.
const BACKLOG: u32 = 4096;

/// How long the lock of a dead holder is waited for: its unborn child executes within milliseconds.
const HEIR_LOCK_WAIT: Duration = Duration::from_secs(5);

/// How long a held port is waited for; short, since a living holder must be named within a second.
const HEIR_PORT_WAIT: Duration = Duration::from_millis(400);

/// How long a program is waited for that somebody still has open for writing.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// How often.
const HEIR_RETRY: Duration = Duration::from_millis(5);

/// The lock and the socket.
#[derive(Debug)]
pub(super) struct Hold {
    lock: FileLock,
    listener: std::net::TcpListener,
    /// The address that is bound.
    pub(super) bound: SocketAddr,
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> ServeError {
    let what = what.into();
    move |source| ServeError::Io { what, source }
}

impl Hold {
    /// Takes over what the program before handed on, if there was one. To be called before any thread is started.
    ///
    /// # Errors
    /// What was handed on is not what it should be.
    pub(super) fn inherit(data_dir: &Path) -> Result<Option<Self>, ServeError> {
        let Some(value) = std::env::var_os(handover::VARIABLE) else { return Ok(None) };
        let taken = handover::take(&value, &data_dir.join("lock"));
        let Some((listener, lock)) = taken.map_err(io_error("could not take over from the program before"))? else {
            return Ok(None);
        };
        Self::new(lock, listener).map(Some)
    }

    /// Takes both: the lock first, since whoever has it may touch the directory.
    ///
    /// # Errors
    /// Another holds one of them, or the system refuses.
    pub(super) async fn take(data_dir: &Path, address: SocketAddr) -> Result<Self, ServeError> {
        let lock = lock(data_dir).await?;
        let listener = bind_patiently(address).await?.into_std().map_err(io_error("no socket"))?;
        Self::new(lock, listener)
    }

    fn new(lock: FileLock, listener: std::net::TcpListener) -> Result<Self, ServeError> {
        listener.set_nonblocking(true).map_err(io_error("no socket"))?;
        let bound = listener.local_addr().map_err(io_error("no address"))?;
        let holder = Holder { pid: std::process::id(), address: bound.to_string() };
        if let Err(error) = lock.write_holder(&holder) {
            // The kernel's lock is what counts; the note in it only helps whoever is refused.
            tracing::warn!(%error, "could not write who holds the data directory");
        }
        Ok(Self { lock, listener, bound })
    }

    /// A way to accept from the socket; it stays open when that is dropped.
    ///
    /// # Errors
    /// Of the system.
    pub(super) fn listener(&self) -> Result<TcpListener, ServeError> {
        self.listener.try_clone().and_then(TcpListener::from_std).map_err(io_error("could not accept"))
    }

    /// Becomes another program, which takes over. Returns only if that failed.
    pub(super) fn hand_to(&self, program: &Path, args: &[OsString]) -> io::Error {
        let until = Instant::now() + BUSY_WAIT;
        loop {
            let error = handover::exec(program, args, std::env::vars_os(), &self.listener, &self.lock);
            if error.kind() != io::ErrorKind::ExecutableFileBusy || Instant::now() > until {
                return error;
            }
            std::thread::sleep(HEIR_RETRY);
        }
    }
}

/// Takes the data directory. A killed server may have been about to launch a shim: then its unborn child holds the lock
/// for a moment more, until it executes, although the holder that the lock names is dead.
async fn lock(data_dir: &Path) -> Result<FileLock, ServeError> {
    let until = Instant::now() + HEIR_LOCK_WAIT;
    loop {
        match try_lock(data_dir) {
            Err(ServeError::DirectoryHeld { pid, .. }) if !pid.is_some_and(is_alive) && Instant::now() < until => {
                tokio::time::sleep(HEIR_RETRY).await;
            }
            locked => return locked,
        }
    }
}

/// Whether a process is there and not dead already.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Listens; the same unborn child may hold the port for a moment more than the lock.
async fn bind_patiently(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let until = Instant::now() + HEIR_PORT_WAIT;
    loop {
        match bind(address) {
            Err(ServeError::AddressHeld { .. }) if Instant::now() < until => tokio::time::sleep(HEIR_RETRY).await,
            bound => return bound,
        }
    }
}

fn try_lock(data_dir: &Path) -> Result<FileLock, ServeError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let io = |what: String| move |source| ServeError::Io { what, source };
    for dir in [data_dir.to_owned(), data_dir.join("runs"), data_dir.join("work")] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(io(format!("could not make the directory {}", dir.display())))?;
    }
    match FileLock::try_exclusive(&data_dir.join("lock")) {
        Ok(lock) => Ok(lock),
        Err(LockError::Held { holder, .. }) => Err(ServeError::DirectoryHeld {
            dir: data_dir.to_owned(),
            pid: holder.as_ref().map(|h| h.pid),
            holder: holder.map_or_else(
                || "another server that is starting".to_owned(),
                |h| format!("the server with pid {} at {}", h.pid, h.address),
            ),
        }),
        Err(LockError::Io { path, source }) => Err(io(format!("could not lock {}", path.display()))(source)),
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let listening = socket.and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    });
    listening.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::AddressHeld {
            address: address.to_string(),
            holder: crate::port_holder::find(address).unwrap_or_else(|| "another process".to_owned()),
        },
        _ => ServeError::Io { what: format!("could not listen on {address}"), source },
    })
}
