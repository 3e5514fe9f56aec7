//! Making an attempt of a sealed request, and launching its shim.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use longhaul_harness::{CloseWhen, Harness, Plan, Program, StopStep};
use longhaul_model::event::{Driver, Rung};
use longhaul_model::run::{Command, Phase};
use longhaul_model::{AttemptNo, limits};
use longhaul_store::Urgency;
use longhaul_supervise as supervise;
use longhaul_supervise::{AttemptDir, AttemptError, AttemptSpec};

use super::{LetGo, Owner};
use crate::admission::{self, Again, Around};
use crate::containment::Confine;
use crate::engine::attempt_path;
use crate::environment;
use crate::error::DispatchError;
use crate::files;
use crate::homes::{self, HomeOwner};
use crate::probe::{Asked, Probes};
use crate::sealed::{self, Sealed};

/// The wait before another attempt, times the attempts that failed to start.
const AGAIN: Duration = Duration::from_millis(300);

/// The wait after a stop by the host: it is likely to go down, and this server with it.
const AFTER_SHUTDOWN: Duration = Duration::from_secs(3);

/// What an attempt is made of.
struct Planned {
    sealed: Sealed,
    harness: &'static dyn Harness,
    plan: Plan,
    /// How it goes on with what was begun before it.
    rung: Option<Rung>,
}

/// A managed home.
pub(super) struct Home {
    pub(super) dir: PathBuf,
    pub(super) owner: HomeOwner,
}

impl Owner {
    /// The request with its plan; none if there is none any more, and then the run is over.
    async fn planned(&mut self) -> Result<Option<Planned>, LetGo> {
        let dir = self.run_dir();
        let sealed = match sealed::read(&dir) {
            Ok(sealed) => sealed,
            Err(error) => {
                let text = format!("the sealed request cannot be read: {error}");
                return self.give_up("recovery_failed", text).await.map(|()| None);
            }
        };
        let harness_name = self.shared.with_doc(|doc| doc.run.harness.clone());
        let Some(harness) = longhaul_harness::find(&harness_name) else {
            let text = format!("this version has no harness called {harness_name:?}");
            return self.give_up("recovery_failed", text).await.map(|()| None);
        };
        (self.seen_live, self.stop_begun) = (None, None);
        let ask = self.ask(harness, &sealed).await?;
        let tmp = self.tmp_dir();
        let around = Around { upstreams: &self.engine.inner.options.upstreams, tmp: &tmp };
        let again = Again {
            resume: ask.resume.as_deref(),
            prompt: ask.prompt.as_deref(),
            new_session: ask.new_session.as_deref(),
        };
        let plan = match admission::plan(harness, &sealed, again, around) {
            Ok(plan) => plan,
            Err(error) => return self.cannot_be_planned(&error).await.map(|()| None),
        };
        Ok(Some(Planned { sealed, harness, plan, rung: ask.rung }))
    }

    /// Begins the next attempt and follows it to its end.
    pub(super) async fn start_attempt(&mut self) -> Result<(), LetGo> {
        if let Some(stay) = &self.stay {
            stay.work();
        }
        let Some(Planned { sealed, harness, plan, rung }) = self.planned().await? else { return Ok(()) };
        let dir = self.run_dir();
        if self.engine.inner.draining.is_cancelled() {
            return Err(LetGo::Draining);
        }
        self.let_it_pass().await?;
        if self.is_over() {
            return Ok(());
        }
        let attempt = AttemptNo::new(self.state.totals.attempts + 1);
        let spec = self.spec(attempt, &plan, &sealed);
        let tmp = self.tmp_dir();
        let tmp_text = tmp.to_string_lossy().into_owned();
        let confine = sealed.contained.confine;
        let private_tmp = self.state.driver == Driver::Harness || confine != Confine::None;
        let home = self.home();
        let inside = home.as_ref().map(|home| homes::inside(&home.dir));
        let env = environment::build(&environment::Source {
            key: &self.shared.key,
            driver: self.state.driver,
            plan: &plan,
            sealed: &sealed,
            server: &self.engine.inner.options.environment,
            address: &self.engine.inner.options.address,
            tmp: private_tmp.then_some(tmp_text.as_str()),
            home: inside.as_deref(),
        });
        self.asked = ask_version(self.engine.inner.probes.clone(), harness, &plan, &env).await;
        let path = attempt_path(&dir, attempt.get());
        let own_cwd = self.shared.with_doc(|doc| doc.own_cwd).then(|| sealed.cwd.clone());
        let (spec, env) = match self.confined(spec, env, &sealed).await {
            Ok(confined) => confined,
            // It was possible when the run was accepted. Never without.
            Err(why) => return self.give_up("confinement_unavailable", why).await,
        };
        let prepare = Arc::new(move || -> io::Result<AttemptDir> {
            if private_tmp {
                private_dir(&tmp)?;
            }
            if let Some(home) = &home {
                homes::make(&home.dir, &home.owner)?;
            }
            files::write(&tmp, &plan.files)?;
            if let Some(cwd) = &own_cwd {
                private_dir(cwd)?;
            }
            // Left by a crash, or by a try that ran out of something: nothing was launched from it, since that comes
            // after the commit.
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let dir = AttemptDir::create(&path, &spec, &env, plan.stdin.as_deref()).map_err(io_error)?;
            if let Some(channel) = &plan.channel {
                super::wire::prepare(&dir, channel, spec.epoch)?;
            }
            Ok(dir)
        });
        // The directory is made while the intent is committed; the launch waits for both.
        let mut making = tokio::task::spawn_blocking({
            let prepare = Arc::clone(&prepare);
            move || prepare()
        });
        let command = Command::StartAttempt { rung };
        let intended = self.apply(command, Urgency::Ordinary).await;
        let made = loop {
            let made = (&mut making).await.unwrap_or_else(|error| Err(io::Error::other(error)));
            if intended.is_err() || self.is_over() || !made.as_ref().is_err_and(passes) {
                break made;
            }
            let text = made.as_ref().err().map(|error| super::chain(error)).unwrap_or_default();
            self.trouble(&text).await?;
            if self.state.cancel.is_some() {
                break made;
            }
            let prepare = Arc::clone(&prepare);
            making = tokio::task::spawn_blocking(move || prepare());
        };
        intended?;
        if self.state.phase != (Phase::Starting { attempt }) {
            // Cancelled before it began.
            return Ok(());
        }
        let child = self.launch(made).await;
        self.follow(attempt, child).await
    }

    /// Launches the shim of an attempt that is made; what keeps it from that is logged, and the attempt settles it.
    async fn launch(&self, made: io::Result<AttemptDir>) -> Option<Child> {
        let exe = self.engine.inner.options.exe.clone();
        let child = match made {
            Ok(dir) if self.state.cancel.is_none() => tokio::task::spawn_blocking(move || dir.launch(&exe))
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error))),
            Ok(_) => Err(io::Error::other("it was cancelled before it was launched")),
            Err(error) => Err(error),
        };
        if let Err(error) = &child {
            tracing::error!(run = %self.shared.key, error = %super::chain(error), "could not launch an attempt");
        }
        child.ok()
    }

    /// Gives whatever kept the last attempt from starting, or ended it, a moment to pass.
    async fn let_it_pass(&mut self) -> Result<(), LetGo> {
        let failed = self.state.never_started + self.state.lost_attempts;
        if failed == 0 {
            return Ok(());
        }
        let shutdown = self.state.loss.as_ref().is_some_and(|loss| loss.cause == "shutdown");
        self.breathe(if shutdown { AFTER_SHUTDOWN } else { AGAIN * failed }).await
    }

    /// Ends a run whose harness refuses what it once accepted.
    async fn cannot_be_planned(&mut self, error: &DispatchError) -> Result<(), LetGo> {
        if self.state.loss.is_some() {
            return self.give_up("lost", format!("the run's process was lost and cannot go on: {error}")).await;
        }
        self.give_up("recovery_failed", error.to_string()).await
    }

    /// The managed home of the run, if it has one.
    pub(super) fn home(&self) -> Option<Home> {
        let (name, owner) = self
            .shared
            .with_doc(|doc| doc.home.clone().map(|name| (name, crate::dispatch::home_owner(&self.shared.key, doc))))?;
        Some(Home { dir: self.engine.homes_dir(&name), owner })
    }

    fn spec(&self, attempt: AttemptNo, plan: &Plan, sealed: &Sealed) -> AttemptSpec {
        let (program, mut args) = match &plan.program {
            Program::Path(path) => (path.clone(), vec![]),
            Program::Myself { verb } => {
                (self.engine.inner.options.exe.to_string_lossy().into_owned(), vec![(*verb).to_owned()])
            }
        };
        args.extend(plan.args.iter().cloned());
        let marker = self.marker(attempt);
        AttemptSpec {
            version: supervise::spec::VERSION,
            attempt: marker.clone(),
            wrapped: None,
            group: self.engine.inner.options.containment.group(&marker, &sealed.contained),
            marker,
            epoch: self.engine.inner.epoch.get(),
            program,
            args,
            cwd: sealed.cwd.to_string_lossy().into_owned(),
            stdin: match (&plan.channel, &plan.stdin) {
                (Some(channel), _) => supervise::Stdin::Channel { close_when: channel.close_when.map(close_when) },
                (None, Some(_)) => supervise::Stdin::File { name: "stdin".to_owned() },
                (None, None) => supervise::Stdin::Null,
            },
            limits: supervise::Limits {
                output_bytes_max: (self.engine.inner.options.output_bytes_max)
                    .saturating_sub(self.state.totals.stdout_bytes + self.state.totals.stderr_bytes)
                    .max(1),
                idle_ms: sealed.idle_ms,
            },
            deadline_ms: Some(self.state.budget_left_ms.max(1)),
            drain_ms: limits::DRAIN.as_millis() as u64,
            stop: plan.stop.iter().map(stop_step).collect(),
        }
    }
}

/// Has a harness's program asked for its version, beside everything else.
async fn ask_version(
    probes: Probes,
    harness: &'static dyn Harness,
    plan: &Plan,
    env: &[(String, String)],
) -> Option<Asked> {
    if harness.install().is_none() || !matches!(plan.program, Program::Path(_)) {
        return None;
    }
    let (env, runtime) = (env.to_vec(), tokio::runtime::Handle::current());
    let asking = tokio::task::spawn_blocking(move || {
        let _runtime = runtime.enter();
        probes.ask(harness, &env)
    });
    asking.await.ok().flatten()
}

/// The system's own error inside an attempt's.
fn io_error(error: AttemptError) -> io::Error {
    match error {
        AttemptError::Io { path, source } => {
            let text = format!("{}: {source}", path.display());
            match source.raw_os_error() {
                Some(number) if passes(&source) => io::Error::from_raw_os_error(number),
                _ => io::Error::new(source.kind(), text),
            }
        }
        error @ AttemptError::Garbled { .. } => io::Error::other(error),
    }
}

/// Whether an error is one that time may heal: no room, no memory, no descriptors.
fn passes(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let healing = [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN];
    error.raw_os_error().is_some_and(|number| healing.iter().any(|errno| errno.raw_os_error() == number))
}

fn stop_step(step: &StopStep) -> supervise::StopStep {
    match step {
        StopStep::Signal { name, wait_ms } => supervise::StopStep::Signal {
            signal: if *name == "INT" { supervise::StopSignal::Int } else { supervise::StopSignal::Term },
            wait_ms: *wait_ms,
        },
        StopStep::Write { bytes, wait_ms } => {
            supervise::StopStep::Write { frame: supervise::WriteFrame::new(bytes), wait_ms: *wait_ms }
        }
    }
}

fn close_when(when: CloseWhen) -> supervise::CloseWhen {
    match when {
        CloseWhen::JsonType(value) => supervise::CloseWhen::JsonType { value: value.to_owned() },
    }
}

pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Err(_) | Ok(()) => {
            // Somebody else's directory of this name is not ours to use.
            use std::os::unix::fs::MetadataExt as _;
            let found = std::fs::symlink_metadata(path)?;
            if found.is_dir() && found.uid() == rustix::process::getuid().as_raw() {
                Ok(())
            } else {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} is not ours", path.display())))
            }
        }
    }
}
