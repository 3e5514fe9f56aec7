//! The server: locks, store, engine, faces, and their orderly end.
//!
//! Order at start: lock the data directory → bind the port → open the store → take over runs → write `server.json` →
//! answer. Order at the end: refuse new work → tell readers → let go of runs without touching them → close the store.
//! An upgrade is the same end and the same start with lock and socket kept: by exec of another program, or, where that
//! fails, in this one.
//! Owns: the lock, the listener, `server.json`. Never: ends a run.

mod accept;
mod connections;
mod hold;
mod notify;
mod patience;
mod upgrade;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use longhaul_api::ServerInfo;
use longhaul_engine::{Containment, DiskFloor, Engine, PlaceLimits, Retention, Streams, Subscriptions};
use longhaul_model::time::Clock;
use longhaul_model::{Timestamp, limits};
use longhaul_store::{Commit, CommitError, RecordKey, RecordWrite, Store as _};
use longhaul_store_embedded::EmbeddedStore;
use longhaul_supervise::{Grounds, Where, handover, nofile};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Insiders, Token, Tokens};
use crate::http::{self, App, Door};
use crate::traces::{Exporter, Mistake, Target};
pub use accept::Accepting;
use hold::Hold;
use notify::Notifier;
pub use upgrade::{Next, Preflight, Refused, Upgrades};

/// The address of a server that is told none: the Durable Streams port.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:4437";

/// The file in the data directory that holds the keys of subscriptions. No backup takes it along.
const SUBSCRIPTION_KEYS: &str = "subscription-keys";

/// How long open requests may take to end once the server drains.
const DRAIN: Duration = Duration::from_secs(5);

/// How long connections that were accepted before an upgrade have to bring their request.
const LAST_REQUESTS: Duration = Duration::from_millis(100);

/// How long a signal takes at most from the kernel to the task that listens for it.
const LAST_SIGNALS: Duration = Duration::from_millis(20);

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
    /// Where others reach the server, if that is not where it is called.
    pub public_url: Option<http::Origin>,
    /// How long a long poll of a stream waits.
    pub long_poll: Duration,
    /// How long a request's head may take; what else a client may keep the server waiting with is a multiple of it.
    pub client_timeout: Duration,
    /// Connections at once, if not as many as descriptors allow.
    pub connections_max: Option<usize>,
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
    /// What must be free on the disk for a new run.
    pub disk: DiskFloor,
    /// Bytes of output one run may write.
    pub output_limit: Option<u64>,
    /// Where control groups for runs are made.
    pub cgroup: Where,
    /// Files and directories that no confined run sees besides the data directory: tokens, configuration.
    pub hidden: Vec<PathBuf>,
    /// The endpoints that `passthrough` may call.
    pub upstreams: Vec<longhaul_harness::Upstream>,
    /// Where traces go, if anywhere; or why a variable that says so is not heeded.
    pub traces: Result<Option<Target>, Mistake>,
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

/// Why a server let go of its runs.
enum End {
    /// It was told to stop.
    Stopped,
    /// This one is to take over.
    Upgrade(Next),
}

/// Serves until told to stop; the exit status.
pub fn run(options: Options) -> u8 {
    crate::telemetry::start(options.log_json);
    // Memory that a burst took goes back to the system although nothing comes after it.
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::debug!(%error, "the allocator gives memory back at its next use only");
    }
    let served = Hold::inherit(&options.data_dir).and_then(|hold| serve_on(&options, hold));
    match served {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("longhaul: {}", chain(&error));
            error.status()
        }
    }
}

/// One server after the other on the same lock and socket: the next one after an upgrade that did not come about.
fn serve_on(options: &Options, mut hold: Option<Hold>) -> Result<(), ServeError> {
    let upgrades = Arc::new(Upgrades::new());
    // A signal that comes while no server listens for it waits for the next one.
    handover::hold_signals().map_err(|source| ServeError::Io { what: "could not hold signals".to_owned(), source })?;
    loop {
        // Each reader and each live run costs descriptors; agents get the old limit back.
        let descriptors = nofile::raise();
        tracing::debug!(descriptors, "descriptors that may be open");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(512 << 10).build();
        let runtime =
            runtime.map_err(|source| ServeError::Io { what: "could not start the runtime".to_owned(), source })?;
        let ended = runtime.block_on(serve(options, &mut hold, &upgrades));
        // A reader of a slow disk must not hold the end up.
        runtime.shutdown_timeout(Duration::from_secs(1));
        let (next, held) = match (ended?, &hold) {
            (End::Upgrade(next), Some(held)) => (next, held),
            (End::Stopped | End::Upgrade(_), _) => return Ok(()),
        };
        nofile::lower();
        let error = held.hand_to(&next.program, upgrades.args());
        tracing::error!(program = %next.program.display(), %error, "could not become another program; going on");
        upgrades.set_failure(Some(format!("{} could not be executed: {error}", next.program.display())));
        upgrades.withdraw();
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

/// What must hold of the options before anything is touched; the address to listen on.
fn check(options: &Options) -> Result<SocketAddr, ServeError> {
    if let Err(mistake) = &options.traces
        && !mistake.in_variable
    {
        return Err(ServeError::Config(mistake.to_string()));
    }
    if options.token.as_deref().is_some_and(Token::is_ours) {
        return Err(ServeError::Config(
            "a token that longhaul token create made cannot be the server's own; give another one, or none".to_owned(),
        ));
    }
    let listen = options.listen.as_deref().unwrap_or(LISTEN_DEFAULT);
    if let Some(mistake) = place_limits(options).mistake() {
        return Err(ServeError::Config(mistake));
    }
    if let Some(name) = options.harness_max.keys().find(|name| longhaul_harness::find(name).is_none()) {
        return Err(ServeError::Config(format!("there is no harness called {name:?} to limit")));
    }
    if options.disk.percent > 99 {
        return Err(ServeError::Config(format!(
            "limits.disk_free_min_percent must be from 0 to 99, {} is not",
            options.disk.percent
        )));
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
    Ok(address)
}

/// Whether this program could take the place of the server that runs on the data directory; the exit status. Touches
/// nothing.
pub fn preflight(options: &Options) -> u8 {
    let store = || {
        longhaul_store_embedded::can_open(options.data_dir.join("store"))
            .map_err(|error| ServeError::Store(chain(&error)))
    };
    match check(options).and_then(|_| store()) {
        Ok(()) => {
            println!("{}", serde_json::json!(Preflight::own()));
            0
        }
        Err(error) => {
            eprintln!("longhaul: {}", chain(&error));
            error.status()
        }
    }
}

/// Whether the address that is really bound is one to serve on.
fn check_bound(options: &Options, address: SocketAddr, bound: SocketAddr) -> Result<(), ServeError> {
    if address.port() != 0 && address != bound {
        tracing::warn!(%bound, configured = %address, "an upgrade keeps the address; a restart takes the configured one");
    }
    if !bound.ip().is_loopback() && options.token.is_none() {
        return Err(ServeError::Config(format!("the server listens on {bound} and needs a token: give --token-file")));
    }
    Ok(())
}

async fn serve(options: &Options, hold: &mut Option<Hold>, upgrades: &Arc<Upgrades>) -> Result<End, ServeError> {
    let started = Instant::now();
    let address = check(options)?;
    let metrics = crate::telemetry::metrics();
    let stop = CancellationToken::new();
    let ended = signals(stop.clone(), Arc::clone(upgrades))?;
    let inherited = reap_inherited()?;
    let hold = match hold {
        Some(hold) => hold,
        none @ None => none.insert(Hold::take(&options.data_dir, address).await?),
    };
    let bound = hold.bound;
    check_bound(options, address, bound)?;
    let store = Arc::new(open_store(&options.data_dir)?);
    let target = target(options);
    let traced = Exporter::cursor(&*store, target).await;
    let engine = Engine::start(engine_options(options, Arc::clone(&store), bound))
        .await
        .map_err(|error| ServeError::Store(error.to_string()))?;
    let streams = streams(&engine, Arc::clone(&store)).await?;
    let subscriptions = subscriptions(&streams, Arc::clone(&store), options).await?;
    let tokens = Arc::new(Tokens::load(&engine).await.map_err(|error| ServeError::Store(error.to_string()))?);
    let info = own_info(&options.data_dir, bound);
    let (pulse, beating) = crate::pulse::Pulse::start();
    let (draining, no_more) = (CancellationToken::new(), CancellationToken::new());
    let app = App::new(http::Parts {
        engine: engine.clone(),
        streams: streams.clone(),
        subscriptions: subscriptions.clone(),
        fans: http::StreamFans::default(),
        door: Arc::new(Door::new(options.token.as_deref(), bound.ip().is_loopback(), options.allowed_origins.clone())),
        tokens,
        insiders: Arc::new(Insiders::new(&options.data_dir)),
        long_poll: options.long_poll,
        public_url: options.public_url.clone(),
        draining: draining.clone(),
        stop: stop.clone(),
        metrics,
        started,
        nonce: info.nonce.as_str().into(),
        address: info.address.as_str().into(),
        chat_retries: Arc::default(),
        responses: Arc::default(),
        backups: Arc::new(http::Backups::new(Arc::clone(&store), &options.data_dir)),
        pulse,
        upgrades: Arc::clone(upgrades),
        traces: target.is_some(),
        connections: TaskTracker::new(),
    });
    let exporter = target.map(|target| Exporter::start(engine.clone(), target.clone(), traced));
    // What was recorded is kept one by one until somebody folds it: without this, until somebody scrapes.
    let folded = tokio::spawn(crate::telemetry::fold(app.metrics.clone()));
    let listener = Accepting::new(hold.listener()?, no_more.clone());
    let (open, rules) = (app.connections.clone(), connection_rules(options, &draining));
    let face = tokio::spawn(connections::serve(listener, http::Faces::new(app), open, rules));
    let announced = tokio::spawn(announce(options.data_dir.clone(), info.clone()));
    let recovery = engine.recovery();
    tracing::info!(address = %bound, pid = info.pid, version = crate::VERSION, epoch = engine.epoch().get(),
        recovered = recovery.recovered, ready_ms = started.elapsed().as_millis() as u64, "ready");
    let notifier = Arc::new(Notifier::from_environment());
    notifier.say(&format!("READY=1\nSTATUS=version {} serves on {bound}", crate::VERSION));
    let watched = tokio::spawn({
        let (notifier, store) = (Arc::clone(&notifier), Arc::clone(&store));
        async move { notifier.keep_alive(|| answers(&store)).await }
    });
    let end = tokio::select! {
        biased;
        () = stop.cancelled() => End::Stopped,
        next = upgrades.wanted() => End::Upgrade(next),
    };
    say_end(&end, &notifier, &no_more).await;
    engine.refuse();
    draining.cancel();
    if tokio::time::timeout(DRAIN, face).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
    subscriptions.close().await;
    tokio::join!(engine.shutdown(), streams.close());
    if let Some(exporter) = exporter {
        exporter.end().await;
    }
    for task in [announced, watched, beating, folded] {
        task.abort();
    }
    // From here on a signal waits for the next listener; what came before is still heard.
    handover::hold_signals().map_err(|source| ServeError::Io { what: "could not hold signals".to_owned(), source })?;
    tokio::time::sleep(LAST_SIGNALS).await;
    for task in [ended, inherited] {
        task.abort();
    }
    // A stop that came in the middle of an upgrade is a stop.
    let end = if stop.is_cancelled() { End::Stopped } else { end };
    if matches!(end, End::Stopped) {
        notifier.say("STOPPING=1");
        remove_info(&options.data_dir, &info);
    }
    store.close().await.map_err(|error| ServeError::Store(error.to_string()))?;
    if matches!(end, End::Stopped) {
        tracing::info!("stopped");
    }
    Ok(end)
}

/// What holds of connections.
fn connection_rules(options: &Options, draining: &CancellationToken) -> connections::Rules {
    let max = options.connections_max.unwrap_or_else(|| connections::max_for(nofile::raise()));
    connections::Rules { max, waits: patience::Waits::of(options.client_timeout), draining: draining.clone() }
}

/// Where traces go. A variable that cannot be heeded was set for other programs, and is no reason not to serve.
fn target(options: &Options) -> Option<&Target> {
    match &options.traces {
        Ok(target) => target.as_ref(),
        Err(ignored) => {
            tracing::warn!(why = %ignored, "no traces are exported");
            None
        }
    }
}

/// Says how the server ends; before an upgrade whoever is here may ask their last.
async fn say_end(end: &End, notifier: &Notifier, no_more: &CancellationToken) {
    if let End::Upgrade(next) = end {
        tracing::info!(program = %next.program.display(), version = next.version, "handing over; runs go on");
        notifier.say("WATCHDOG=1\nSTATUS=handing over to another version");
        // From here on whoever comes waits in the socket's queue; those who are here may ask their last.
        no_more.cancel();
        tokio::time::sleep(LAST_REQUESTS).await;
    } else {
        notifier.say("STOPPING=1\nSTATUS=draining; runs go on");
        tracing::info!("draining; runs go on");
    }
}

/// Whether the store takes a commit and gives it back. A refusal for want of room is an answer.
async fn answers(store: &EmbeddedStore) -> bool {
    let key = RecordKey::new("node", "alive");
    let write =
        RecordWrite { key: key.clone(), value: Some(bytes::Bytes::from_static(b"1")), only_new: false, stamp: false };
    let committed = store.commit(Commit { records: vec![write], ..Commit::default() }).await;
    let taken = !matches!(committed, Err(CommitError::Unknown(_) | CommitError::Closed));
    taken && store.record(&key).await.is_ok()
}

/// Waits for the shims that the program before started in this process: nobody else can.
fn reap_inherited() -> Result<tokio::task::JoinHandle<()>, ServeError> {
    let mut children = handover::children().unwrap_or_default();
    let mut ended = signal(SignalKind::child())
        .map_err(|source| ServeError::Io { what: "could not listen for signals".to_owned(), source })?;
    Ok(tokio::spawn(async move {
        loop {
            handover::reap(&mut children);
            if children.is_empty() || ended.recv().await.is_none() {
                return;
            }
        }
    }))
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

/// What this server says of itself.
fn own_info(data_dir: &Path, bound: SocketAddr) -> ServerInfo {
    ServerInfo {
        address: bound.to_string(),
        pid: std::process::id().cast_signed(),
        version: crate::VERSION.to_owned(),
        nonce: nonce_of(data_dir, bound),
    }
}

/// The subscriptions to streams, taken over by this start of the server.
async fn subscriptions(
    streams: &Streams,
    store: Arc<EmbeddedStore>,
    serve: &Options,
) -> Result<Subscriptions, ServeError> {
    let options = longhaul_engine::subscriptions::Options {
        store,
        streams: streams.clone(),
        clock: Arc::new(SystemClock),
        keys: serve.data_dir.join(SUBSCRIPTION_KEYS),
        courier: Arc::new(crate::webhook::Webhooks::new(serve.public_url.clone())),
    };
    Subscriptions::start(options).await.map_err(|error| ServeError::Store(error.to_string()))
}

/// The streams that people write, taken over by this start of the server.
async fn streams(engine: &Engine, store: Arc<EmbeddedStore>) -> Result<Streams, ServeError> {
    let options = longhaul_engine::streams::Options::new(store, Arc::new(SystemClock), engine.epoch());
    Streams::start(options).await.map_err(|error| ServeError::Store(error.to_string()))
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
        disk: options.disk,
        output_bytes_max: options.output_limit.unwrap_or(limits::SPOOL_BYTES_MAX),
        containment: containment(options),
        clock: Arc::new(SystemClock),
        address: bound.to_string(),
        environment,
        upstreams: options.upstreams.clone(),
    }
}

/// What runs can be contained with here.
fn containment(options: &Options) -> Containment {
    let grounds = Grounds::find(&options.cgroup, Path::new("/proc/self/exe"));
    let (memory, tasks) = (grounds.limits_memory(), grounds.limits_tasks());
    tracing::info!(groups = grounds.any(), memory, tasks, "looked for control groups");
    let hidden = [&options.data_dir].into_iter().chain(&options.hidden).cloned().collect();
    Containment { grounds, hidden }
}

/// Turns SIGTERM and SIGINT into the server's end, and SIGUSR2 into an upgrade to what is installed. SIGHUP means a
/// terminal went away, which is nobody's wish.
fn signals(stop: CancellationToken, upgrades: Arc<Upgrades>) -> Result<tokio::task::JoinHandle<()>, ServeError> {
    let io = |source| ServeError::Io { what: "could not listen for signals".to_owned(), source };
    let mut term = signal(SignalKind::terminate()).map_err(io)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(io)?;
    let mut upgrade = signal(SignalKind::user_defined2()).map_err(io)?;
    handover::release_signals().map_err(io)?;
    Ok(tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {}
                _ = upgrade.recv() => drop(tokio::spawn(upgrade_installed(Arc::clone(&upgrades)))),
            }
        }
        stop.cancel();
    }))
}

async fn upgrade_installed(upgrades: Arc<Upgrades>) {
    if let Err(refused) = upgrades.ask(None).await {
        tracing::error!(why = %refused, "no upgrade");
    }
}

/// The nonce that `/livez` proves: that of the program before in this process, so that a client which read it meanwhile
/// knows the server again.
fn nonce_of(data_dir: &Path, bound: SocketAddr) -> String {
    let before =
        std::fs::read(info_path(data_dir)).ok().and_then(|text| serde_json::from_slice::<ServerInfo>(&text).ok());
    let ours = before.filter(|info| info.pid == std::process::id().cast_signed() && info.address == bound.to_string());
    match ours {
        Some(info) if !info.nonce.is_empty() => info.nonce,
        _ => format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()),
    }
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
