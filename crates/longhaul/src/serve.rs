//! The server: locks, store, engine, faces, and their orderly end.
//!
//! Order at start: lock the data directory → open the store → bind the port → take over runs → write `server.json` →
//! answer. Order at the end: refuse new work → tell readers → let go of runs without touching them → close the store.
//! Owns: the lock, the listener, `server.json`. Never: ends a run.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use longhaul_api::ServerInfo;
use longhaul_engine::{Engine, PlaceLimits, Retention};
use longhaul_model::time::Clock;
use longhaul_model::{Timestamp, limits};
use longhaul_store::Store as _;
use longhaul_store_embedded::EmbeddedStore;
use longhaul_supervise::lock::{FileLock, Holder, LockError};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::access::{Insiders, Token, Tokens};
use crate::http::{self, App, Door};

/// The address of a server that is told none: the Durable Streams port.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:4437";

/// Connections that the kernel holds while the server is busy: thousands of readers come back at once after a restart.
const BACKLOG: u32 = 4096;

/// How long open requests may take to end once the server drains.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the lock of a dead holder is waited for: its unborn child executes within milliseconds.
const HEIR_LOCK_WAIT: Duration = Duration::from_secs(5);

/// How long a held port is waited for; short, since a living holder must be named within a second.
const HEIR_PORT_WAIT: Duration = Duration::from_millis(400);

/// How often.
const HEIR_RETRY: Duration = Duration::from_millis(5);

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything durable goes.
    pub data_dir: PathBuf,
    /// `ADDR:PORT`; port 0 takes a free one.
    pub listen: Option<String>,
    /// The token that every request must carry, needed for any address but loopback.
    pub token: Option<String>,
    /// Whose pages may use the server besides its own.
    pub allowed_origins: Vec<http::Origin>,
    /// Log as JSON.
    pub log_json: bool,
    /// Runs with a process at once.
    pub live_max: Option<usize>,
    /// Runs that may wait for a place.
    pub queue_max: Option<usize>,
    /// Runs of one harness with a process at once, by its name.
    pub harness_max: BTreeMap<String, usize>,
    /// Runs of one client with a process at once.
    pub client_max: Option<usize>,
    /// Places that are kept for a project, by its name.
    pub reserved: BTreeMap<String, usize>,
    /// What is kept of ended runs.
    pub retention: Retention,
    /// Bytes of output one run may write.
    pub output_limit: Option<u64>,
}

/// Runs with a process at once where nothing says how many: twice the cores, at least 4.
pub fn live_max_default() -> usize {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    (2 * cores).max(4)
}

/// Why a server did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody else has the data directory.
    #[error("the data directory {} is held by {holder}", .dir.display())]
    DirectoryHeld {
        /// The directory.
        dir: PathBuf,
        /// The process that the lock names.
        pid: Option<u32>,
        /// Who.
        holder: String,
    },
    /// Somebody else has the port.
    #[error(
        "the address {address} is held by {holder}; name another one with --listen, or 127.0.0.1:0 for a free port"
    )]
    AddressHeld {
        /// The address.
        address: String,
        /// Who.
        holder: String,
    },
    /// The configuration does not make sense.
    #[error("{0}")]
    Config(String),
    /// The system failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The store did not open.
    #[error("{0}")]
    Store(String),
}

impl ServeError {
    /// The exit status of `longhaul serve`: 75 held by another, 78 bad configuration, 125 trouble of our own.
    fn status(&self) -> u8 {
        match self {
            Self::DirectoryHeld { .. } | Self::AddressHeld { .. } => 75,
            Self::Config(_) => 78,
            Self::Io { .. } | Self::Store(_) => 125,
        }
    }
}

struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp::from_unix_ms(since.map_or(0, |d| d.as_millis() as i64))
    }
}

/// Serves until told to stop; the exit status.
pub fn run(options: Options) -> u8 {
    crate::telemetry::start(options.log_json);
    // Each reader and each live run costs descriptors; agents get the old limit back.
    let descriptors = longhaul_supervise::nofile::raise();
    tracing::debug!(descriptors, "descriptors that may be open");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(512 << 10).build();
    let served = match runtime {
        Ok(runtime) => {
            let served = runtime.block_on(serve(&options));
            // A reader of a slow disk must not hold the end up.
            runtime.shutdown_timeout(Duration::from_secs(1));
            served
        }
        Err(source) => Err(ServeError::Io { what: "could not start the runtime".to_owned(), source }),
    };
    match served {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("longhaul: {}", chain(&error));
            error.status()
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

async fn serve(options: &Options) -> Result<(), ServeError> {
    let started = Instant::now();
    let listen = options.listen.as_deref().unwrap_or(LISTEN_DEFAULT);
    if let Some(mistake) = place_limits(options).mistake() {
        return Err(ServeError::Config(mistake));
    }
    if let Some(name) = options.harness_max.keys().find(|name| longhaul_harness::find(name).is_none()) {
        return Err(ServeError::Config(format!("there is no harness called {name:?} to limit")));
    }
    let address: SocketAddr = listen.parse().map_err(|_| {
        ServeError::Config(format!(
            "{listen:?} is not an address to listen on; it must be ADDR:PORT, as 127.0.0.1:4437"
        ))
    })?;
    if !address.ip().is_loopback() && options.token.is_none() {
        return Err(ServeError::Config(format!(
            "{address} can be reached from elsewhere and needs a token: give --token-file, or listen on 127.0.0.1"
        )));
    }
    if options.token.as_deref().is_some_and(Token::is_ours) {
        return Err(ServeError::Config(
            "a token that longhaul token create made cannot be the server's own; give another one, or none".to_owned(),
        ));
    }
    let metrics = crate::telemetry::metrics();
    let lock = lock(&options.data_dir).await?;
    let listener = bind_patiently(address).await?;
    let bound = listener.local_addr().map_err(|source| ServeError::Io { what: "no address".to_owned(), source })?;
    let holder = Holder { pid: std::process::id(), address: bound.to_string() };
    if let Err(error) = lock.write_holder(&holder) {
        // The kernel's lock is what counts; the note in it only helps whoever is refused.
        tracing::warn!(%error, "could not write who holds the data directory");
    }
    let store = Arc::new(open_store(&options.data_dir)?);
    let engine = Engine::start(engine_options(options, Arc::clone(&store), bound))
        .await
        .map_err(|error| ServeError::Store(error.to_string()))?;
    let tokens = Arc::new(Tokens::load(&engine).await.map_err(|error| ServeError::Store(error.to_string()))?);
    let info = ServerInfo {
        address: bound.to_string(),
        pid: std::process::id().cast_signed(),
        version: crate::VERSION.to_owned(),
        nonce: format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()),
    };
    let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
    let app = App {
        engine: engine.clone(),
        door: Arc::new(Door::new(options.token.as_deref(), bound.ip().is_loopback(), options.allowed_origins.clone())),
        tokens,
        insiders: Arc::new(Insiders::new(&options.data_dir)),
        draining: draining.clone(),
        stop: stop.clone(),
        metrics,
        started,
        nonce: info.nonce.as_str().into(),
        address: info.address.as_str().into(),
        chat_retries: Arc::default(),
        data_dir: options.data_dir.as_path().into(),
    };
    let ended = signals(stop.clone())?;
    let face = axum::serve(listener, http::router(app).into_make_service_with_connect_info::<http::Peer>())
        .with_graceful_shutdown({
            let draining = draining.clone();
            async move { draining.cancelled().await }
        });
    let face = tokio::spawn(face.into_future());
    let announced = tokio::spawn(announce(options.data_dir.clone(), info.clone()));
    let recovery = engine.recovery();
    tracing::info!(address = %bound, pid = info.pid, version = crate::VERSION, epoch = engine.epoch().get(),
        recovered = recovery.recovered, ready_ms = started.elapsed().as_millis() as u64, "ready");
    stop.cancelled().await;
    tracing::info!("draining; runs go on");
    engine.refuse();
    draining.cancel();
    if tokio::time::timeout(DRAIN, face).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
    engine.shutdown().await;
    announced.abort();
    remove_info(&options.data_dir, &info);
    store.close().await.map_err(|error| ServeError::Store(error.to_string()))?;
    ended.abort();
    drop(lock);
    tracing::info!("stopped");
    Ok(())
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

fn open_store(data_dir: &Path) -> Result<EmbeddedStore, ServeError> {
    let options = longhaul_store_embedded::Options::new(data_dir.join("store")).on_fatal(|why| {
        // What is durable is not known any more. Ending at once is the safe answer: runs live outside this process, and
        // the next start reads what is really there.
        tracing::error!(why, "the store is broken; ending at once so that the next start recovers");
        eprintln!("longhaul: the store is broken: {why}");
        std::process::abort();
    });
    EmbeddedStore::open(options).map_err(|error| ServeError::Store(chain(&error)))
}

fn place_limits(options: &Options) -> PlaceLimits {
    PlaceLimits {
        live_max: options.live_max.unwrap_or_else(live_max_default),
        queue_max: options.queue_max.unwrap_or(limits::QUEUE_MAX),
        harness_max: options.harness_max.clone(),
        client_max: options.client_max,
        reserved: options.reserved.clone(),
    }
}

fn engine_options(options: &Options, store: Arc<EmbeddedStore>, bound: SocketAddr) -> longhaul_engine::Options {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    longhaul_engine::Options {
        store,
        data_dir: options.data_dir.clone(),
        exe: PathBuf::from("/proc/self/exe"),
        places: place_limits(options),
        retention: options.retention,
        output_bytes_max: options.output_limit.unwrap_or(limits::SPOOL_BYTES_MAX),
        clock: Arc::new(SystemClock),
        address: bound.to_string(),
        environment,
    }
}

/// Turns SIGTERM and SIGINT into the server's end. SIGHUP means a terminal went away, which is nobody's wish.
fn signals(stop: CancellationToken) -> Result<tokio::task::JoinHandle<()>, ServeError> {
    let io = |source| ServeError::Io { what: "could not listen for signals".to_owned(), source };
    let mut term = signal(SignalKind::terminate()).map_err(io)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(io)?;
    Ok(tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {}
            }
        }
        stop.cancel();
    }))
}

fn info_path(data_dir: &Path) -> PathBuf {
    data_dir.join("server.json")
}

/// Writes `server.json`, however long it takes: a full disk must not keep a server from looking after its runs.
async fn announce(data_dir: PathBuf, info: ServerInfo) {
    while let Err(error) = write_info(&data_dir, &info) {
        tracing::warn!(error = %chain(&error), "clients cannot find this server by its data directory yet");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn write_info(data_dir: &Path, info: &ServerInfo) -> Result<(), ServeError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let (path, temp) = (info_path(data_dir), data_dir.join("server.json.new"));
    let write = || -> io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
        file.write_all(&serde_json::to_vec(info)?)?;
        std::fs::rename(&temp, &path)
    };
    write().map_err(|source| ServeError::Io { what: format!("could not write {}", path.display()), source })
}

fn remove_info(data_dir: &Path, info: &ServerInfo) {
    let path = info_path(data_dir);
    let ours = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<ServerInfo>(&bytes).ok());
    if ours.is_some_and(|found| found.nonce == info.nonce) {
        let _ = std::fs::remove_file(path);
    }
}
