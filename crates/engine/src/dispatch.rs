//! Dispatch: one run per id and digest, whoever asks how often.
//!
//! Order of writes: look (attach, refuse) → seal the request beside the run → commit `run.created` with the row → start
//! the owner. A crash before the commit leaves a directory that the next start sweeps; after it the run is accepted and
//! is carried out by whoever finds it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longhaul_harness::{Harness, PlanError};
use longhaul_model::event::{Driver, EventData, Home, InputDelivered, OnLost, RunCreated, Warning};
use longhaul_model::projection::Projection;
use longhaul_model::{Event, RunId, RunKey, Seq, SessionId, Status, StreamId, event};
use longhaul_store::{Commit, CommitError, RecordWrite};
use serde_json::{Map, Value};

use crate::admission::{self, Again, Around};
use crate::containment::{Confine, Site};
use crate::dirs::{self, Stay};
use crate::doc::{self, Doc, Origin};
use crate::engine::Engine;
use crate::error::DispatchError;
use crate::homes::{self, HomeOwner};
use crate::lanes::Turn;
use crate::owner::{Line, Owner};
use crate::places::{Place, Who};
use crate::resume::Resumed;
use crate::sealed::{self, Sealed};
use crate::session::{Session, SessionKey};
use crate::view::Shared;

/// A request to run something, checked for form by its face.
#[derive(Debug)]
pub struct NewRun {
    /// Its identity.
    pub key: RunKey,
    /// The digest that the id is bound to.
    pub digest: String,
    /// The session that it is a turn of.
    pub session: Option<SessionId>,
    /// The run that must be the session's last turn for this one to be the next.
    pub after: Option<RunId>,
    /// The harness's name; empty where its session's is meant.
    pub harness: String,
    /// What is needed to carry it out. An empty `cwd` means a private directory.
    pub sealed: Sealed,
    /// A name for people.
    pub name: Option<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// The caller's own words.
    pub metadata: Map<String, Value>,
    /// How it came to be.
    pub origin: Origin,
    /// Directories below which it may work, resolved; anywhere if there are none. A private directory always may be.
    pub allowed_roots: Vec<PathBuf>,
    /// What happens if its process is lost.
    pub on_lost: OnLost,
    /// The ended run that it goes on with; set by [`Engine::resume`].
    pub resumed: Option<Resumed>,
    /// Whether the last reader's leaving is a cancel.
    pub cancel_on_disconnect: bool,
    /// Whether another live run in the same directory is a refusal.
    pub refuse_busy_cwd: bool,
    /// Whether it waits until no other agent works in the same directory.
    pub wait_for_cwd: bool,
    /// Warnings that the face already has.
    pub warnings: Vec<Warning>,
    /// A place that was waited for; without one the run waits by itself.
    pub reserved: Option<Reserved>,
    /// Records of the face, in the same commit.
    pub records: Vec<RecordWrite>,
}

impl NewRun {
    /// A run with a digest, an agent or a command and what it needs, and nothing beside.
    pub fn new(key: RunKey, digest: String, harness: String, sealed: Sealed) -> Self {
        Self {
            key,
            digest,
            session: None,
            after: None,
            harness,
            sealed,
            name: None,
            tags: BTreeMap::new(),
            metadata: Map::new(),
            origin: Origin::default(),
            allowed_roots: vec![],
            on_lost: OnLost::Fail,
            resumed: None,
            cancel_on_disconnect: false,
            refuse_busy_cwd: false,
            wait_for_cwd: false,
            warnings: vec![],
            reserved: None,
            records: vec![],
        }
    }
}

/// What was waited for before a run is accepted.
#[derive(Debug)]
pub struct Reserved {
    pub(crate) turn: Option<Turn>,
    pub(crate) place: Place,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dispatched {
    /// The run is new.
    Created,
    /// The run was there: live, or over.
    Attached,
}

impl Engine {
    /// Whether the run is there already, with this digest.
    ///
    /// # Errors
    /// `Conflict`, `Gone`, or of the store.
    pub async fn attach(&self, key: &RunKey, digest: &str) -> Result<bool, DispatchError> {
        if let Some(row) = self.store().run(key).await? {
            if row.digest == digest {
                return Ok(true);
            }
            return Err(DispatchError::Conflict { expected: row.digest, received: digest.to_owned() });
        }
        if self.is_gone(key).await? {
            return Err(DispatchError::Gone);
        }
        Ok(false)
    }

    /// Waits for the session's turn, if there is a session, and then for a place, before anything is stored; `None` if
    /// they did not come in time.
    ///
    /// # Errors
    /// `QueueFull`, `LaneFull` or `DiskLow`.
    pub async fn reserve(
        &self,
        who: Who,
        session: Option<&SessionId>,
        at_most: std::time::Duration,
    ) -> Result<Option<Reserved>, DispatchError> {
        self.inner.options.disk.check(&self.inner.options.data_dir)?;
        self.check_open()?;
        let both = async {
            let mut turn = match session {
                Some(id) => Some(self.inner.lanes.enter(&in_project(&who.key, id), &who.key)?),
                None => None,
            };
            if let Some(turn) = &mut turn {
                turn.come().await;
            }
            let place = self.inner.places.wait(who)?.ready().await;
            Ok(Reserved { turn, place })
        };
        tokio::time::timeout(at_most, both).await.ok().transpose()
    }

    /// Accepts a run, or attaches to the one that is there.
    ///
    /// # Errors
    /// [`DispatchError`]; nothing is stored and nothing was started then.
    ///
    /// # Cancel safety
    /// The caller's leaving changes nothing once the work has begun: it is done in a task of its own.
    pub async fn dispatch(&self, new: NewRun) -> Result<Dispatched, DispatchError> {
        let engine = self.clone();
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.spawn(async move {
            let _ = reply.send(engine.dispatch_once(new).await);
        });
        answer.await.unwrap_or(Err(DispatchError::Draining))
    }

    /// Whether new runs are taken.
    fn check_open(&self) -> Result<(), DispatchError> {
        if self.is_draining() {
            return Err(DispatchError::Draining);
        }
        if self.is_holding() {
            return Err(DispatchError::Holding);
        }
        Ok(())
    }

    async fn dispatch_once(&self, new: NewRun) -> Result<Dispatched, DispatchError> {
        let _one_at_a_time = self.shard(&new.key).lock().await;
        if self.attach(&new.key, &new.digest).await? {
            return Ok(Dispatched::Attached);
        }
        self.check_open()?;
        self.inner.options.disk.check(&self.inner.options.data_dir)?;
        let mut new = new;
        let session_key = new.session.as_ref().map(|id| in_project(&new.key, id));
        let _session_alone = match &session_key {
            Some(key) => Some(self.session_lock(key).lock().await),
            None => None,
        };
        let seed = new.resumed.as_ref().and_then(|resumed| resumed.seed.as_ref());
        if let (Some(key), Some(after)) = (&session_key, &new.after) {
            self.check_last(key, after, seed).await?;
        }
        self.is_there_to_resume(&new).await?;
        let (session, said) = match &session_key {
            Some(key) => {
                let (session, said) = self.join(key, &new.key, &mut new.harness, &mut new.sealed, seed).await?;
                (Some(session), said)
            }
            None => (None, vec![]),
        };
        let made_dir = session.as_ref().is_some_and(|session| session.turns == 1) && seed.is_none();
        if let Some(session) = session.as_ref().filter(|_| new.harness.is_empty()) {
            return Err(DispatchError::SessionNew { session: session.id.clone() });
        }
        let harness = longhaul_harness::find(&new.harness)
            .ok_or_else(|| DispatchError::UnknownHarness { name: new.harness.clone() })?;
        if new.on_lost == OnLost::Resume && harness.driver() == Driver::Exec {
            return Err(PlanError::Unsupported { harness: harness.name(), field: "on_lost" }.into());
        }
        let dir = uuid::Uuid::now_v7().simple().to_string();
        let own_cwd = match &session {
            Some(session) => session.dir.is_some(),
            None => new.sealed.cwd.as_os_str().is_empty(),
        };
        if !own_cwd {
            check_cwd(&new.sealed.cwd)?;
            check_roots(&new.sealed.cwd, &new.allowed_roots)?;
        } else if session.is_none() {
            new.sealed.cwd = self.work_dir(&dir);
        }
        let tmp = crate::engine::tmp_dir(&dir);
        let around = Around { upstreams: &self.inner.options.upstreams, tmp: &tmp };
        let plan = admission::plan(harness, &new.sealed, Again::default(), around)?;
        if let Some(session) = &session {
            // Whether the harness can go on with a session, whatever its id will be.
            let again = Again { resume: Some(&new.sealed.new_session), ..Again::default() };
            admission::plan(harness, &new.sealed, again, around)?;
            if Self::is_reshaped(session, &new.sealed) {
                new.warnings.push(Warning {
                    code: "session_profile".to_owned(),
                    message: "system, permissions, allowed_tools or effort differ from the session's first turn"
                        .to_owned(),
                });
            }
        }
        if new.sealed.home == Some(Home::Managed) {
            homes::check(&new.sealed)?;
        }
        self.check_format(&new.sealed).await?;
        self.inner.options.containment.check(&new.sealed.contained)?;
        self.check_confine(&new.sealed, harness.name(), own_cwd).await?;
        admission::installed(harness, &plan, &new.sealed, &self.inner.options.environment)?;
        new.warnings.extend(plan.warnings);
        let holder = self.holder_of(&new.sealed.cwd, harness, session_key.as_ref());
        if let Some(holder) = holder.filter(|_| !new.wait_for_cwd) {
            if new.refuse_busy_cwd {
                return Err(DispatchError::CwdBusy { holder });
            }
            new.warnings.push(Warning {
                code: "cwd_busy".to_owned(),
                message: format!("run {holder} works in the same directory at the same time"),
            });
        }
        let who = new.origin.who(&new.key, &new.harness);
        let stay = self.enter_dir(&new, harness)?;
        let (turn, line) = match (new.reserved.take(), &session_key) {
            // Who waits for a directory holds no place.
            (Some(Reserved { turn, .. }), _) if new.wait_for_cwd => (turn, Line::Later),
            (Some(Reserved { turn, place }), _) => (turn, Line::Placed(place)),
            // It gets in line for a place once its turn has come.
            (None, Some(session)) => (Some(self.inner.lanes.enter(session, &new.key)?), Line::Later),
            (None, None) if new.wait_for_cwd => (None, Line::Later),
            (None, None) => (None, Line::Waits(self.inner.places.wait(who)?)),
        };
        let _making = self.inner.making.read().await;
        let accepted = self.accept(&new, harness, &dir, own_cwd, session.as_ref(), said).await;
        if let (Err(error), Some(session)) = (&accepted, &session)
            && !matches!(error, DispatchError::Commit(CommitError::Unknown(_)))
            && made_dir
        {
            self.remove_dirs_of_session(session).await;
        }
        let doc = accepted?;
        let shared = Arc::new(Shared::new(new.key.clone(), doc.0, doc.1));
        metrics::counter!("longhaul_runs_created_total", "harness" => harness.name()).increment(1);
        self.adopt(Owner::fresh(self.clone(), shared, line, (turn, stay)));
        Ok(Dispatched::Created)
    }

    /// Whether the run can be confined as it asks.
    async fn check_confine(&self, sealed: &Sealed, harness: &'static str, own_cwd: bool) -> Result<(), DispatchError> {
        let (engine, cwd, confine) = (self.clone(), sealed.cwd.clone(), sealed.contained.confine);
        if confine == Confine::None {
            return Ok(());
        }
        let checked = tokio::task::spawn_blocking(move || {
            let (env, tmp, path) = (&[], Path::new("/"), engine.search_path());
            let site = Site { confine, home: None, harness, cwd: &cwd, own_cwd, tmp, env, path };
            engine.inner.options.containment.check_confine(&site)
        });
        let why = |error: tokio::task::JoinError| error.to_string();
        let failed = |why| DispatchError::ConfinementUnavailable { confine: confine.as_str(), why };
        checked.await.unwrap_or_else(|error| Err(failed(why(error))))
    }

    /// Gets in line for the directory, to wait or to be waited for. Runs of a session do so in the order of their turns.
    fn enter_dir(&self, new: &NewRun, harness: &dyn Harness) -> Result<Option<Stay>, DispatchError> {
        if !new.wait_for_cwd && harness.driver() == event::Driver::Exec {
            return Ok(None);
        }
        let entered = self.inner.dirs.enter(&dirs::name(&new.sealed.cwd), &new.key, new.wait_for_cwd);
        entered.map(Some).map_err(|first| DispatchError::CwdBusy { holder: first.run })
    }

    /// Whether the schema of the answer is one.
    async fn check_format(&self, sealed: &Sealed) -> Result<(), DispatchError> {
        let Some(schema) = sealed.schema.clone() else { return Ok(()) };
        let checked = tokio::task::spawn_blocking(move || crate::format::check(&schema));
        let checked = checked.await.unwrap_or_else(|_| Err("cannot be used as a schema".to_owned()));
        checked.map_err(|message| PlanError::Invalid { field: "response_format", message }.into())
    }

    /// The server's own `PATH`.
    pub(crate) fn search_path(&self) -> &str {
        self.inner.options.environment.get("PATH").map_or("/usr/bin:/bin", String::as_str)
    }

    /// Seals and commits.
    async fn accept(
        &self,
        new: &NewRun,
        harness: &dyn Harness,
        dir: &str,
        own_cwd: bool,
        session: Option<&Session>,
        said: Vec<String>,
    ) -> Result<(StreamId, Doc), DispatchError> {
        let created = RunCreated {
            project: new.key.project.clone(),
            driver: harness.driver(),
            harness: harness.name().to_owned(),
            command: new.sealed.command.as_deref().map(file_name),
            model: new.sealed.model.clone(),
            name: new.name.clone(),
            digest: new.digest.clone(),
            session_id: new.session.clone(),
            cwd: new.sealed.cwd.to_string_lossy().into_owned(),
            home: new.sealed.home.unwrap_or_default(),
            tags: new.tags.clone(),
            timeout_ms: new.sealed.timeout_ms,
            budget: new.sealed.budget,
            on_lost: new.on_lost,
            resumed_from: new.resumed.as_ref().map(|resumed| resumed.run.clone()),
            response_format: new.sealed.schema.as_ref().map(|_| crate::format::JSON_SCHEMA.to_owned()),
        };
        let mut data: Vec<EventData> = vec![created.into()];
        data.extend(session.map(|session| crate::turns::accepted(session, &new.sealed).into()));
        data.extend(said.into_iter().map(|input_id| InputDelivered { input_id }.into()));
        data.extend(new.warnings.iter().cloned().map(EventData::from));
        let now = self.now();
        let encoder = event::Encoder::new(&new.key.run, now, harness.name()).traced(new.sealed.trace.as_ref());
        let mut wires = Vec::with_capacity(data.len());
        let mut run: Option<Projection> = None;
        for (at, data) in data.into_iter().enumerate() {
            let seq = Seq::new(at as u64 + 1);
            wires.push(encoder.encode(seq, &data).into());
            let event = Event { run_id: new.key.run.clone(), seq, ts: now, data };
            match &mut run {
                None => run = Projection::begin(&event),
                Some(run) => run.apply(&event),
            }
        }
        let Some(run) = run else {
            return Err(DispatchError::Commit(CommitError::Invalid("a run begins with run.created")));
        };
        let doc = Doc {
            v: doc::VERSION,
            run,
            metadata: new.metadata.clone(),
            dir: dir.to_owned(),
            own_cwd,
            home: home_of(&new.sealed, dir, session),
            turn: session.map_or(0, |session| session.turns),
            origin: new.origin.clone(),
            cancel_on_disconnect: new.cancel_on_disconnect,
            waits_for_cwd: new.wait_for_cwd,
            trace: new.sealed.trace.clone(),
        };
        let run_dir = self.runs_dir().join(dir);
        let (sealed, key, path) = (new.sealed.clone(), new.key.clone(), run_dir.clone());
        let cwd = own_cwd.then(|| new.sealed.cwd.clone());
        let home = doc.home.as_ref().map(|name| (self.homes_dir(name), home_owner(&new.key, &doc)));
        let written = tokio::task::spawn_blocking(move || {
            prepare(&path, &key, &sealed, cwd.as_deref())?;
            home.map_or(Ok(()), |(dir, owner)| homes::make(&dir, &owner))
        });
        let written = written.await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        if let Err(source) = written {
            self.remove_dirs(dir).await;
            if source.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error()) {
                return Err(CommitError::Full.into());
            }
            return Err(DispatchError::Directory { path: run_dir, source });
        }
        let row = longhaul_store::RunRow {
            key: new.key.clone(),
            stream: StreamId::default(),
            status: Status::Queued,
            harness: harness.name().to_owned(),
            digest: new.digest.clone(),
            tags: new.tags.clone(),
            created_at: now,
            ended_at: None,
            last_seq: Seq::ZERO,
            doc: doc.encode(),
        };
        let create = longhaul_store::NewRun { row, epoch: self.inner.epoch, events: wires, feed: vec![0] };
        let mut records = new.records.clone();
        if let Some(session) = session {
            let key = in_project(&new.key, &session.id);
            records.extend([session.write(&key), crate::turns::write(&key, session.turns, &new.key.run)]);
        }
        let commit = Commit { create: Some(create), records, ..Commit::default() };
        match self.store().commit(commit).await {
            Ok(done) => match done.created {
                Some(stream) => Ok((stream, doc)),
                None => Err(DispatchError::Commit(CommitError::Invalid("a created run has a stream"))),
            },
            // It may be durable: the directory stays for whoever finds the run.
            Err(error @ CommitError::Unknown(_)) => Err(error.into()),
            Err(error) => {
                self.remove_dirs(dir).await;
                Err(error.into())
            }
        }
    }

    /// A live agent in the same directory. Commands are left out, since people run many in one place; and runs of the same
    /// session, which go one after another.
    fn holder_of(&self, cwd: &Path, harness: &dyn Harness, session: Option<&SessionKey>) -> Option<RunId> {
        if harness.driver() == event::Driver::Exec {
            return None;
        }
        let cwd = cwd.to_string_lossy();
        self.lock_live().values().find_map(|live| {
            live.shared.with_doc(|doc| {
                if session.is_some() && crate::engine::session_key(&live.shared.key, doc).as_ref() == session {
                    return None;
                }
                let same = doc.run.driver == event::Driver::Harness && doc.run.cwd == cwd;
                same.then(|| live.shared.key.run.clone())
            })
        })
    }
}

/// A session of the run's project.
fn in_project(run: &RunKey, id: &SessionId) -> SessionKey {
    SessionKey { project: run.project.clone(), id: id.clone() }
}

/// The name of the managed home that a run has, if it has one: its session's, or its own.
fn home_of(sealed: &Sealed, dir: &str, session: Option<&Session>) -> Option<String> {
    match session {
        Some(session) => session.home.clone(),
        None => (sealed.home == Some(Home::Managed)).then(|| dir.to_owned()),
    }
}

/// Whose a run's managed home is, where it must be made.
pub(crate) fn home_owner(key: &RunKey, doc: &Doc) -> HomeOwner {
    match &doc.run.session_id {
        Some(id) => HomeOwner::Session(in_project(key, id)),
        None => HomeOwner::Run(key.clone()),
    }
}

/// Makes the run's directory with its sealed request and its owner's name, and its private working directory.
fn prepare(run_dir: &Path, key: &RunKey, sealed: &Sealed, cwd: Option<&Path>) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    // First the one that says whose both are.
    sealed::write(run_dir, sealed, key)?;
    match cwd {
        Some(cwd) => std::fs::DirBuilder::new().recursive(true).mode(0o700).create(cwd),
        None => Ok(()),
    }
}

/// The last part of a program's path.
pub(crate) fn file_name(program: &str) -> String {
    Path::new(program).file_name().map_or(program.into(), std::ffi::OsStr::to_string_lossy).into_owned()
}

fn check_cwd(path: &Path) -> Result<(), DispatchError> {
    let refuse = |source: io::Error| DispatchError::Cwd { path: path.to_owned(), source };
    let found = std::fs::metadata(path).map_err(refuse)?;
    if !found.is_dir() {
        return Err(refuse(io::Error::from(io::ErrorKind::NotADirectory)));
    }
    Ok(())
}

/// The directory itself is used as it was given; what counts is where it leads.
fn check_roots(path: &Path, allowed: &[PathBuf]) -> Result<(), DispatchError> {
    if allowed.is_empty() {
        return Ok(());
    }
    let refuse = |source: io::Error| DispatchError::Cwd { path: path.to_owned(), source };
    let real = path.canonicalize().map_err(refuse)?;
    if allowed.iter().any(|root| real.starts_with(root)) {
        return Ok(());
    }
    Err(DispatchError::CwdForbidden { path: real, allowed: allowed.to_vec() })
}
