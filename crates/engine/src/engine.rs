//! The engine's handle: what faces call.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longhaul_model::time::Clock;
use longhaul_model::{Epoch, RunKey, Seq, Status, Timestamp};
use longhaul_store::{Commit, CommitError, RecordKey, RecordWrite, Store, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::containment::Containment;
use crate::dirs::{self, Dirs};
use crate::doc::Doc;
use crate::lanes::Lanes;
use crate::owner::Owner;
use crate::places::{InLine, Place, PlaceLimits, Places};
use crate::recovery::{Counters, Report};
use crate::retention::Retention;
use crate::session::SessionKey;
use crate::view::{Live, Shared, View};

/// Locks against two dispatches of one run id; a power of two, far above the requests in flight.
const SHARDS: usize = 64;

/// What an engine is made of.
pub struct Options {
    /// Where everything durable goes.
    pub store: Arc<dyn Store>,
    /// Where run directories go, below `runs/`, and private working directories, below `work/`.
    pub data_dir: PathBuf,
    /// The program that is shim and demo agent; `/proc/self/exe` in the binary.
    pub exe: PathBuf,
    /// How many runs may have a process, and how many may wait.
    pub places: PlaceLimits,
    /// What is kept of ended runs.
    pub retention: Retention,
    /// What must be free on the disk for a new run.
    pub disk: crate::disk::DiskFloor,
    /// Bytes of output one run may write, stdout and stderr together, before it is stopped.
    pub output_bytes_max: u64,
    /// What runs are contained with.
    pub containment: Containment,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The server's address, `ADDR:PORT`, for clients inside runs.
    pub address: String,
    /// The server's environment, read once.
    pub environment: BTreeMap<String, String>,
    /// The endpoints that `passthrough` may call.
    pub upstreams: Vec<longhaul_harness::Upstream>,
}

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) epoch: Epoch,
    /// The last stream that came with a backup.
    pub(crate) restored: longhaul_model::StreamId,
    pub(crate) places: Places,
    pub(crate) lanes: Lanes,
    pub(crate) dirs: Dirs,
    pub(crate) recovery: Counters,
    pub(crate) probes: crate::probe::Probes,
    live: Mutex<HashMap<RunKey, Live>>,
    shards: Vec<tokio::sync::Mutex<()>>,
    /// Locks for whoever writes a session's record; taken after a run's, never before.
    session_shards: Vec<tokio::sync::Mutex<()>>,
    /// Shared by dispatches that make a directory, held alone by whoever takes one for nobody's.
    pub(crate) making: tokio::sync::RwLock<()>,
    pub(crate) draining: CancellationToken,
    refusing: AtomicBool,
    holding: AtomicBool,
    tasks: TaskTracker,
}

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("epoch", &self.inner.epoch).finish_non_exhaustive()
    }
}

impl Engine {
    /// Takes a new epoch and takes over every run that is not over. Returns as soon as the runs are listed; each is
    /// looked at by its own task, and [`Engine::recovery`] counts them.
    ///
    /// # Errors
    /// Of the store.
    pub async fn start(options: Options) -> Result<Self, StoreError> {
        let epoch = next_epoch(&*options.store).await?;
        let restored = crate::restored::last_stream(&*options.store).await?;
        let places = Places::new(options.places.clone());
        let inner = Arc::new(Inner {
            epoch,
            restored,
            places,
            lanes: Lanes::default(),
            dirs: Dirs::default(),
            recovery: Counters::default(),
            probes: crate::probe::Probes::default(),
            live: Mutex::default(),
            shards: (0..SHARDS).map(|_| tokio::sync::Mutex::default()).collect(),
            session_shards: (0..SHARDS).map(|_| tokio::sync::Mutex::default()).collect(),
            making: tokio::sync::RwLock::default(),
            draining: CancellationToken::new(),
            refusing: AtomicBool::new(false),
            holding: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            options,
        });
        let engine = Self { inner };
        engine.recover().await?;
        Ok(engine)
    }

    /// The endpoints that `passthrough` may call, each with what can be said of it without a call: `ready`, or `no_key`
    /// where its variable is not in the server's environment.
    pub fn upstreams(&self) -> Vec<(&longhaul_harness::Upstream, &'static str)> {
        let options = &self.inner.options;
        let known = |name: &String| options.environment.get(name).is_some_and(|key| !key.trim().is_empty());
        let state = |key: &Option<String>| if key.as_ref().is_none_or(known) { "ready" } else { "no_key" };
        options.upstreams.iter().map(|upstream| (upstream, state(&upstream.key_env))).collect()
    }

    async fn recover(&self) -> Result<(), StoreError> {
        let rows = self.store().live_runs().await?;
        self.inner.recovery.found(rows.len() as u64);
        // Whoever has a process has a place before anybody in line gets one.
        let mut held: HashMap<RunKey, Place> = HashMap::new();
        let mut runs = Vec::with_capacity(rows.len());
        for row in rows {
            let doc = Doc::decode(&row.doc)
                .map_err(|what| StoreError::Corrupt { place: format!("row of run {}", row.key), what })?;
            if row.status != Status::Queued {
                held.insert(row.key.clone(), self.inner.places.take(doc.who(&row.key)));
            }
            runs.push((row, doc));
        }
        // Whoever has a process keeps its session's lane and its directory; the others are in line in the order of their creation.
        let (mut turns, mut stays) = (HashMap::new(), HashMap::new());
        for waiting in [false, true] {
            for (row, doc) in runs.iter().filter(|(row, _)| (row.status == Status::Queued) == waiting) {
                if let Some(session) = session_key(&row.key, doc) {
                    turns.insert(row.key.clone(), self.inner.lanes.enter_accepted(&session, &row.key));
                }
                if doc.is_in_dir() {
                    let dir = dirs::name(Path::new(&doc.run.cwd));
                    let stay = self.inner.dirs.enter_accepted(&dir, &row.key, waiting && doc.waits_for_cwd);
                    if !waiting {
                        stay.work();
                    }
                    stays.insert(row.key.clone(), stay);
                }
            }
        }
        for (row, doc) in runs {
            let (turn, stay) = (turns.remove(&row.key), stays.remove(&row.key));
            // In line in the order in which they were accepted.
            // A run of a session gets in line for a place once its turn has come, and so does one that waits for its
            // directory.
            let waits = row.status == Status::Queued && turn.is_none() && !doc.waits_for_cwd;
            let wait = waits.then(|| self.inner.places.wait_accepted(doc.who(&row.key)));
            let shared = Arc::new(Shared::new(row.key.clone(), row.stream, doc));
            let place = held.remove(&row.key);
            self.adopt(Owner::recovering(self.clone(), shared, wait, place, (turn, stay)));
        }
        let engine = self.clone();
        self.spawn(async move {
            engine.sweep().await;
            engine.retain_for_ever().await;
        });
        Ok(())
    }

    /// Removes run directories that a crash left without a row.
    async fn sweep(&self) {
        let dir = self.runs_dir();
        let names = tokio::task::spawn_blocking(move || -> std::io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                let path = entry.path();
                // With a request the run is not over, or was never accepted; with nothing it is not a run's yet.
                if crate::sealed::is_there(&path) || !holds_more_than_a_request(&path) {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
            Ok(names)
        })
        .await;
        let Ok(Ok(names)) = names else { return };
        for name in names {
            if self.sweep_one(&name).await.is_err() {
                return;
            }
        }
        self.sweep_sessions().await;
        if let Ok(tombstones) = self.store().records(crate::erase::TOMBSTONE, "", usize::MAX).await {
            for (_, value) in tombstones {
                if let Ok(tombstone) = serde_json::from_slice::<crate::erase::Tombstone>(&value)
                    && !tombstone.dir.is_empty()
                {
                    self.remove_dirs_of(&tombstone).await;
                }
            }
        }
    }

    async fn sweep_one(&self, name: &str) -> Result<(), StoreError> {
        let dir = self.runs_dir().join(name);
        let known = || self.lock_live().values().any(|live| live.shared.with_doc(|doc| doc.dir == name));
        if known() {
            return Ok(());
        }
        // A sealed request without a live run: the run ended, or was never accepted. Whichever, unless it was
        // accepted this very moment, the file is of no use.
        if let Some(key) = crate::sealed::owner(&dir) {
            let _guard = self.shard(&key).lock().await;
            if known() {
                return Ok(());
            }
            match self.store().run(&key).await? {
                Some(row) if Doc::decode(&row.doc).is_ok_and(|doc| doc.dir == name) => {
                    // A run that is not over may have another attempt, whoever owns it now.
                    if row.status.is_terminal() {
                        // In this order: what is left by a crash in between is found by the next sweep.
                        crate::erase::remove_dir(&tmp_dir(name)).await;
                        crate::sealed::remove(&dir);
                    }
                }
                _ => self.remove_dirs(name).await,
            }
            return Ok(());
        }
        // It has no request that can be read, so it does not say whose it is: a dispatch is at it, or was killed at it.
        let _alone = self.inner.making.write().await;
        // Whole by now, it names a run that may be accepted although nobody heard of it: the next start asks the store.
        if known() || crate::sealed::owner(&dir).is_some() {
            return Ok(());
        }
        if holds_more_than_a_request(&dir) {
            crate::sealed::remove(&dir);
        } else {
            self.remove_dirs(name).await;
        }
        Ok(())
    }

    /// Removes the directories that were made for one run: its own, and the one it worked in.
    pub(crate) async fn remove_dirs(&self, name: &str) {
        crate::erase::remove_dir(&self.runs_dir().join(name)).await;
        crate::erase::remove_dir(&self.work_dir(name)).await;
        crate::erase::remove_dir(&tmp_dir(name)).await;
    }

    /// The same for a run that was erased.
    pub(crate) async fn remove_dirs_of(&self, erased: &crate::erase::Tombstone) {
        crate::erase::remove_dir(&self.runs_dir().join(&erased.dir)).await;
        if !erased.keeps_work {
            crate::erase::remove_dir(&self.work_dir(&erased.dir)).await;
        }
        crate::erase::remove_dir(&tmp_dir(&erased.dir)).await;
    }

    /// The private directory that a run works in if it names none.
    pub(crate) fn work_dir(&self, name: &str) -> PathBuf {
        self.inner.options.data_dir.join("work").join(name)
    }

    /// Starts an owner's task and makes it known.
    pub(crate) fn adopt(&self, (owner, live): (Owner, Live)) {
        self.lock_live().insert(live.shared.key.clone(), live);
        self.spawn(owner.run());
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.tasks.spawn(task);
    }

    /// Does something that nobody waits for, before the server ends.
    pub fn spawn_task(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(task);
    }

    /// Forgets a run that is over.
    pub(crate) fn forget(&self, key: &RunKey) {
        self.lock_live().remove(key);
    }

    pub(crate) fn lock_live(&self) -> std::sync::MutexGuard<'_, HashMap<RunKey, Live>> {
        self.inner.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn shard(&self, key: &RunKey) -> &tokio::sync::Mutex<()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        &self.inner.shards[hasher.finish() as usize % SHARDS]
    }

    /// The lock of whoever writes the session's record.
    pub(crate) fn session_lock(&self, key: &SessionKey) -> &tokio::sync::Mutex<()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        &self.inner.session_shards[hasher.finish() as usize % SHARDS]
    }

    /// The live run, after any dispatch of it that is under way.
    pub(crate) async fn live(&self, key: &RunKey) -> Option<Live> {
        if let Some(live) = self.lock_live().get(key) {
            return Some(live.clone());
        }
        let _dispatched = self.shard(key).lock().await;
        self.lock_live().get(key).cloned()
    }

    /// The store below.
    pub fn store(&self) -> &dyn Store {
        &*self.inner.options.store
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.inner.options.clock.now()
    }

    pub(crate) fn runs_dir(&self) -> PathBuf {
        self.inner.options.data_dir.join("runs")
    }

    /// This server's epoch.
    pub fn epoch(&self) -> Epoch {
        self.inner.epoch
    }

    /// What the start found and did.
    pub fn recovery(&self) -> Report {
        self.inner.recovery.report()
    }

    /// Places taken, places in all, runs that wait.
    pub fn places(&self) -> (usize, usize, usize) {
        self.inner.places.counts()
    }

    /// Where a run is in line for a place and what it waits for, if it waits.
    pub fn in_line(&self, key: &RunKey) -> Option<InLine> {
        self.inner.places.in_line(key)
    }

    /// The disk of the data directory; `None` if it cannot be told.
    pub fn disk(&self) -> Option<crate::disk::Disk> {
        self.inner.options.disk.look(&self.inner.options.data_dir)
    }

    /// Compares the places that are counted with the runs that really have a process.
    pub fn drift(&self) -> Drift {
        let holders = self.inner.places.holders();
        let live = self.lock_live();
        let idle = holders.iter().filter(|(key, long)| *long && !live.contains_key(key)).count();
        let has = |key: &RunKey| holders.iter().any(|(held, _)| held == key);
        let uncounted = live.values().filter(|live| {
            let process = live.shared.with_doc(|doc| doc.run.pid.is_some());
            process && !has(&live.shared.key)
        });
        Drift { idle, uncounted: uncounted.count() }
    }

    /// The harnesses as runs that come over HTTP find their programs; versions as far as they are known. Nothing of it
    /// takes a place.
    pub async fn harnesses(&self, at_most: Duration) -> Vec<crate::probe::Readiness> {
        crate::probe::readiness(&self.inner.probes, &self.inner.options.environment, at_most).await
    }

    /// Runs that have a process.
    pub fn process_count(&self) -> usize {
        self.lock_live().values().filter(|live| live.shared.with_doc(|doc| doc.run.pid.is_some())).count()
    }

    /// Runs that are not over.
    pub fn live_count(&self) -> usize {
        self.lock_live().len()
    }

    /// A run as it is now, live or stored.
    ///
    /// # Errors
    /// Of the store; a row that cannot be read is `Corrupt`.
    pub async fn view(&self, key: &RunKey) -> Result<Option<View>, StoreError> {
        let live = self.lock_live().get(key).cloned();
        if let Some(live) = live {
            let queue = self.inner.places.in_line(key).map(|line| line.before);
            let shared = live.shared;
            return Ok(Some(View { stream: shared.stream, doc: shared.doc(), queue, readers: shared.readers() }));
        }
        let Some(row) = self.store().run(key).await? else { return Ok(None) };
        let doc =
            Doc::decode(&row.doc).map_err(|what| StoreError::Corrupt { place: format!("row of run {key}"), what })?;
        Ok(Some(View { stream: row.stream, doc, queue: None, readers: 0 }))
    }

    /// A watch of status and tail while the run is live; `None` once it is over.
    pub fn progress(&self, key: &RunKey) -> Option<watch::Receiver<(Status, Seq)>> {
        self.lock_live().get(key).map(|live| live.shared.progress.subscribe())
    }

    /// Waits until the run is over, at most `at_most`; whether it is.
    pub async fn wait_end(&self, key: &RunKey, at_most: Duration) -> bool {
        let Some(live) = self.live(key).await else { return true };
        let mut progress = live.shared.progress.subscribe();
        drop(live);
        let ended = progress.wait_for(|(status, _)| status.is_terminal());
        // A closed watch is an owner that let go: over, or the server stops.
        tokio::time::timeout(at_most, ended).await.is_ok_and(|seen| seen.is_ok() || !self.is_draining())
    }

    /// Counts a reader of the run's events in, until the guard is dropped.
    pub async fn reader(&self, key: &RunKey) -> Option<ReaderGuard> {
        let live = self.live(key).await?;
        live.shared.readers.fetch_add(1, Ordering::Relaxed);
        Some(ReaderGuard { engine: self.clone(), live })
    }

    /// Whether a tombstone says that the run was deleted.
    ///
    /// # Errors
    /// Of the store.
    pub async fn is_gone(&self, key: &RunKey) -> Result<bool, StoreError> {
        Ok(self.store().record(&crate::erase::tombstone_key(key)).await?.is_some())
    }

    /// The directory of a run's attempt, where its spool is.
    pub fn attempt_dir(&self, doc: &Doc, attempt: u32) -> Option<PathBuf> {
        (attempt > 0).then(|| attempt_path(&self.runs_dir().join(&doc.dir), attempt))
    }

    /// Whether the server stops.
    pub fn is_draining(&self) -> bool {
        self.inner.refusing.load(Ordering::Relaxed) || self.inner.draining.is_cancelled()
    }

    /// What runs can be contained with here.
    pub fn containment(&self) -> &crate::containment::Containment {
        &self.inner.options.containment
    }

    /// Whether new runs are refused while everything else goes on.
    pub fn is_holding(&self) -> bool {
        self.inner.holding.load(Ordering::Relaxed)
    }

    /// Refuses new runs from now on, or takes them again. What was accepted is carried out, also what waits in line.
    pub fn hold(&self, on: bool) {
        self.inner.holding.store(on, Ordering::Relaxed);
    }

    /// Accepts nothing more.
    pub fn refuse(&self) {
        self.inner.refusing.store(true, Ordering::Relaxed);
    }

    /// Lets go of every run without touching its process, and waits until all owners have let go.
    pub async fn shutdown(&self) {
        self.refuse();
        self.inner.draining.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

/// Places that are counted and runs that are there, where the two differ. Both are zero in a sound server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drift {
    /// Places that nobody's run has had for half a minute.
    pub idle: usize,
    /// Runs with a process and without a place.
    pub uncounted: usize,
}

/// A reader of a run's events, while it is there.
#[derive(Debug)]
pub struct ReaderGuard {
    engine: Engine,
    live: Live,
}

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        let shared = &self.live.shared;
        let last = shared.readers.fetch_sub(1, Ordering::Relaxed) == 1;
        let ended = shared.progress.borrow().0.is_terminal();
        if !last || ended || self.engine.is_draining() || !shared.with_doc(|doc| doc.cancel_on_disconnect) {
            return;
        }
        let (engine, key) = (self.engine.clone(), shared.key.clone());
        self.engine.spawn(async move {
            let intent = longhaul_model::event::RunCancelRequested {
                by: "disconnect".to_owned(),
                reason: Some("the last reader left".to_owned()),
            };
            if let Err(error) = engine.cancel(&key, intent, None).await {
                tracing::warn!(run = %key, %error, "could not cancel a run whose last reader left");
            }
        });
    }
}

/// The session that a run is a turn of.
pub(crate) fn session_key(run: &RunKey, doc: &Doc) -> Option<SessionKey> {
    let id = doc.run.session_id.clone()?;
    Some(SessionKey { project: run.project.clone(), id })
}

/// Whether a run's directory has attempts in it, or anything else that a dispatch does not make.
fn holds_more_than_a_request(dir: &Path) -> bool {
    // What cannot be read is left alone.
    std::fs::read_dir(dir)
        .map_or(true, |entries| entries.flatten().any(|entry| entry.file_name().to_str() != Some(crate::sealed::FILE)))
}

/// The private directory for an agent's temporary files. A short path: sockets lie in it, and a socket's path holds 107
/// bytes.
pub(crate) fn tmp_dir(name: &str) -> PathBuf {
    let tail = &name[name.len().saturating_sub(12)..];
    Path::new("/tmp").join(format!("longhaul-{tail}"))
}

/// The directory of attempt `number` in a run's directory.
pub(crate) fn attempt_path(run_dir: &Path, number: u32) -> PathBuf {
    run_dir.join(format!("a{number}"))
}

/// Writes and returns the epoch of this start.
async fn next_epoch(store: &dyn Store) -> Result<Epoch, StoreError> {
    let key = RecordKey::new("node", "epoch");
    let last: u64 = match store.record(&key).await? {
        None => 0,
        Some(bytes) => std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
            StoreError::Corrupt { place: "record node/epoch".to_owned(), what: "not a number".to_owned() }
        })?,
    };
    let next = last + 1;
    let write = RecordWrite { key, value: Some(next.to_string().into_bytes().into()), only_new: false, stamp: false };
    let commit = Commit { records: vec![write], urgency: longhaul_store::Urgency::Reserve, ..Commit::default() };
    match store.commit(commit).await {
        Ok(_) => Ok(Epoch::new(next)),
        Err(CommitError::Full) => Err(StoreError::Unavailable("the disk is full".to_owned())),
        Err(error) => Err(StoreError::Unavailable(error.to_string())),
    }
}
