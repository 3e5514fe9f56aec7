//! Following an attempt to its end, or taking over the one that is there.

use std::io;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use longhaul_harness::Harness;
use longhaul_model::event::{ProcessStarted, Warning};
use longhaul_model::run::{Command, Phase};
use longhaul_model::{AttemptNo, limits};
use longhaul_store::Urgency;
use longhaul_supervise as supervise;
use longhaul_supervise::{AttemptDir, AttemptError, AttemptState, Event, Settled, Started, StopReason};

use super::control::Control;
use super::ingest::Source;
use super::wire::Wire;
use super::{LetGo, Owner};
use crate::engine::attempt_path;
use crate::places::Wait;
use crate::probe::{Answer, Asked};
use crate::recovery::Fate;

/// How often a size poll looks for output that no hint announced, and for a shim that went without a word.
const POLL: Duration = Duration::from_millis(500);

/// How long a launched shim may take to open its socket before its lock and its exit are looked at again.
const CONNECT: Duration = Duration::from_millis(2);

/// How long a launched shim may take to its first act, the lock.
const LAUNCH_MAX: Duration = Duration::from_secs(30);

/// How long after its whole stop ladder a shim may take to prove that the tree is gone.
const STOP_MAX: Duration = Duration::from_secs(20);

/// How long the event that tells of the process waits for its version; the process itself runs already.
const VERSION_WAIT: Duration = Duration::from_millis(200);

/// The longest wait between two looks.
const CONNECT_MAX: Duration = Duration::from_millis(100);

impl Owner {
    /// Says once that the program is not of the version that was tested.
    async fn warn_of_version(&mut self) -> Result<(), LetGo> {
        let answer = self.asked.as_ref().and_then(Asked::now);
        let Some(answer) = answer else { return Ok(()) };
        self.asked = None;
        let Answer::Version(version) = answer else { return Ok(()) };
        let name = self.shared.with_doc(|doc| doc.run.harness.clone());
        let tested = longhaul_harness::find(&name).and_then(Harness::tested_version);
        let Some(tested) = tested.filter(|tested| *tested != version) else { return Ok(()) };
        let warning = Warning {
            code: "untested_version".to_owned(),
            message: format!("{name} is version {version}; {tested} is the one that was tested"),
        };
        self.apply(Command::Observe(vec![warning.into()]), Urgency::Ordinary).await
    }

    /// Takes over what an earlier server left.
    pub(super) async fn take_over(&mut self, wait: Option<Wait>) -> Result<(), LetGo> {
        match self.state.phase {
            Phase::Vacant | Phase::Ended { .. } => Ok(()),
            Phase::Queued => {
                self.account(Fate::Requeued);
                match wait {
                    Some(wait) => self.wait_for_place(wait).await,
                    None => Ok(()),
                }
            }
            Phase::Starting { attempt } | Phase::Running { attempt } => {
                if self.place.is_none() {
                    let who = self.shared.with_doc(|doc| doc.who(&self.shared.key));
                    self.place = Some(self.engine.inner.places.take(who));
                }
                self.follow(attempt, None).await
            }
        }
    }

    /// Follows an attempt until its end is committed.
    pub(super) async fn follow(&mut self, attempt: AttemptNo, child: Option<Child>) -> Result<(), LetGo> {
        let path = attempt_path(&self.run_dir(), attempt.get());
        let mut child = Reaper::new(child);
        let dir = loop {
            match AttemptDir::open(&path) {
                Ok(dir) => break dir,
                Err(AttemptError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    return self.finish_unmade(attempt).await;
                }
                Err(error) => self.trouble(&super::chain(&error)).await?,
            }
        };
        let mut source = Source::closed();
        let mut wait = CONNECT;
        let launched = Instant::now();
        loop {
            let state = self.look(&dir).await?;
            self.shared.set_blocked(None, 0);
            match state {
                AttemptState::Dead { .. } => {
                    // Only settling proves that the record survives a power cut.
                    if let Some(exit) = self.settle(&dir).await? {
                        child.reap().await;
                        return self.finish(attempt, &dir, source, exit).await;
                    }
                }
                AttemptState::Empty | AttemptState::Unsettled { .. } => {
                    if child.is_running() {
                        if launched.elapsed() > LAUNCH_MAX {
                            tracing::error!(run = %self.shared.key, "a shim hangs before its first act; it is killed");
                            child.kill();
                        }
                    } else if let Some(exit) = self.settle(&dir).await? {
                        return self.finish(attempt, &dir, source, exit).await;
                    }
                }
                AttemptState::Alive { started } => {
                    // A shim that an earlier server launched may come to life only now.
                    self.apply(Command::Adopt, Urgency::Reserve).await?;
                    self.account(Fate::Adopted);
                    self.seen_live.get_or_insert_with(Instant::now);
                    if let Some(started) = &started {
                        self.process_started(attempt, started, &dir).await?;
                    }
                    match Control::connect(dir.path(), self.engine.inner.epoch).await {
                        Ok(control) => {
                            self.open_wire(&dir).await?;
                            source = self.accompany(attempt, &dir, control, source).await?;
                            wait = CONNECT;
                            continue;
                        }
                        // It does not listen, or not yet. Its output is read all the same, and a stop is not forgotten.
                        Err(_) if self.is_running() && wait == CONNECT_MAX => {
                            if self.stop_wanted().is_some() {
                                self.stop_begun.get_or_insert_with(Instant::now);
                            }
                            if self.poison.is_none() {
                                self.open_wire(&dir).await?;
                                (source, _) = self.ingest(attempt, &dir, source).await?;
                            }
                        }
                        Err(_) => {}
                    }
                    self.enforce(&dir).await;
                }
            }
            self.breathe(wait).await?;
            wait = (wait * 2).min(CONNECT_MAX);
        }
    }

    /// Why the run should be stopped now, if it should.
    pub(super) fn stop_wanted(&self) -> Option<StopReason> {
        // The shim keeps the deadline; a server that has itself seen more than all of it go by steps in.
        let budget = Duration::from_millis(self.state.budget_left_ms) + limits::DEADLINE_GRACE;
        if self.state.cancel.is_some() || self.state.exceeded.is_some() {
            Some(StopReason::Cancel)
        } else if self.poison.is_some() {
            Some(StopReason::Shutdown)
        } else if self.seen_live.is_some_and(|since| since.elapsed() > budget) {
            Some(StopReason::Deadline)
        } else if self.wire.as_ref().is_some_and(Wire::lingers) {
            Some(StopReason::Lingered)
        } else {
            None
        }
    }

    /// Ends a shim that was told to stop and did not end in time: stopped, hung, or deaf. Its agent dies with it, and
    /// the end is told as what it is: lost.
    async fn enforce(&mut self, dir: &AttemptDir) {
        let Some(elapsed) = self.stop_begun.map(|since| since.elapsed()).filter(|elapsed| *elapsed > STOP_MAX) else {
            return;
        };
        let ladder: u64 = dir.read_spec().ok().flatten().map_or(0, |spec| spec.stop.iter().map(step_ms).sum());
        if elapsed <= STOP_MAX + Duration::from_millis(ladder) {
            return;
        }
        let Some(started) = dir.read_started().ok().flatten() else { return };
        tracing::error!(run = %self.shared.key, shim = started.shim_pid, "a shim does not stop; it is killed");
        let path = dir.path().to_owned();
        let killed = tokio::task::spawn_blocking(move || kill_shim(started.shim_pid, &path)).await;
        if !matches!(killed, Ok(Ok(()))) {
            tracing::error!(run = %self.shared.key, ?killed, "could not kill a shim");
        }
        self.stop_begun = Some(Instant::now());
    }

    async fn look(&mut self, dir: &AttemptDir) -> Result<AttemptState, LetGo> {
        loop {
            let dir = dir.clone();
            let looked = tokio::task::spawn_blocking(move || dir.state()).await;
            match looked {
                Ok(Ok(state)) => return Ok(state),
                Ok(Err(error)) => self.trouble(&super::chain(&error)).await?,
                Err(error) => self.trouble(&error.to_string()).await?,
            }
        }
    }

    async fn settle(&mut self, dir: &AttemptDir) -> Result<Option<supervise::Exit>, LetGo> {
        loop {
            let dir = dir.clone();
            let settled = tokio::task::spawn_blocking(move || dir.settle()).await;
            match settled {
                Ok(Ok(Settled::Exit(exit))) => return Ok(Some(*exit)),
                Ok(Ok(Settled::StillAlive)) => return Ok(None),
                Ok(Err(error)) => self.trouble(&super::chain(&error)).await?,
                Err(error) => self.trouble(&error.to_string()).await?,
            }
        }
    }

    /// An attempt's files cannot be read: say so, where `why` shows it, and look again. Never a guess.
    pub(super) async fn trouble(&mut self, what: &str) -> Result<(), LetGo> {
        tracing::error!(run = %self.shared.key, error = what, "an attempt's files cannot be used");
        self.shared.set_blocked(Some(format!("the run's files: {what}")), self.now_ms());
        self.breathe(Duration::from_secs(1)).await
    }

    /// Waits a little, answering questions meanwhile.
    pub(super) async fn breathe(&mut self, wait: Duration) -> Result<(), LetGo> {
        let draining = self.engine.inner.draining.clone();
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            Some(message) = self.inbox.recv() => self.answer(message).await,
            () = draining.cancelled() => Err(LetGo::Draining),
        }
    }

    /// Stays with a live shim until it is gone or its exit is recorded.
    async fn accompany(
        &mut self,
        attempt: AttemptNo,
        dir: &AttemptDir,
        mut control: Control,
        mut source: Source,
    ) -> Result<Source, LetGo> {
        let draining = self.engine.inner.draining.clone();
        let mut stop_sent = None;
        let mut more = false;
        let mut silent_since = Instant::now();
        let mut warned = false;
        loop {
            let wanted = self.stop_wanted();
            if wanted != stop_sent
                && let Some(reason) = wanted
            {
                stop_sent = wanted;
                self.stop_begun.get_or_insert_with(Instant::now);
                if let Some(bytes) = source.interrupt() {
                    self.write("interrupt".to_owned(), bytes).await?;
                }
                if let Err(error) = control.stop(reason).await {
                    tracing::warn!(run = %self.shared.key, %error, "could not reach a shim to stop it");
                    return Ok(source);
                }
            }
            self.enforce(dir).await;
            self.open_wire(dir).await?;
            self.talk(attempt, &mut control, &mut source).await?;
            tokio::select! {
                biased;
                () = draining.cancelled() => return Err(LetGo::Draining),
                Some(message) = self.inbox.recv() => {
                    self.answer(message).await?;
                    continue;
                }
                event = control.next() => match event {
                    Some(Event::Started(started)) => self.process_started(attempt, &started, dir).await?,
                    Some(Event::Exit) | None => return Ok(source),
                    Some(Event::Input { bytes, .. }) => self.passed(bytes),
                    Some(Event::Status(status)) => self.passed(status.input_bytes),
                    Some(Event::Refused { epoch }) => {
                        return Err(LetGo::Fenced(format!("the shim has seen epoch {epoch}")));
                    }
                    Some(_) => {}
                },
                () = tokio::time::sleep(if more { Duration::ZERO } else { POLL }) => {}
            }
            if !self.is_running() || self.poison.is_some() {
                continue;
            }
            let (next, progress) = self.ingest(attempt, dir, source).await?;
            (source, more) = (next, progress.more);
            self.warn_of_version().await?;
            if progress.any {
                silent_since = Instant::now();
                warned = false;
            } else if !warned
                && self.state.talk.open().next().is_none()
                && silent_since.elapsed() >= limits::SILENCE_WARNING
            {
                warned = true;
                self.warn_of_silence().await?;
            }
        }
    }

    async fn warn_of_silence(&mut self) -> Result<(), LetGo> {
        let minutes = limits::SILENCE_WARNING.as_secs() / 60;
        let warning = Warning {
            code: "silence".to_owned(),
            message: format!("the agent has printed nothing for {minutes} minutes; it is left alone"),
        };
        self.apply(Command::Observe(vec![warning.into()]), Urgency::Ordinary).await
    }

    /// Commits that the process exists.
    pub(super) async fn process_started(
        &mut self,
        attempt: AttemptNo,
        started: &Started,
        dir: &AttemptDir,
    ) -> Result<(), LetGo> {
        if !matches!(self.state.phase, Phase::Starting { .. }) {
            return Ok(());
        }
        let spec = dir.read_spec().ok().flatten();
        let program = spec.map_or(String::new(), |spec| spec.wrapped.unwrap_or(spec.program));
        let own = program == self.engine.inner.options.exe.to_string_lossy();
        let command = if own { "longhaul".to_owned() } else { crate::dispatch::file_name(&program) };
        let version = match &mut self.asked {
            Some(asked) => match asked.within(VERSION_WAIT).await {
                Some(Answer::Version(version)) => Some(version),
                Some(Answer::Nothing(_)) | None => None,
            },
            None => own.then(|| env!("CARGO_PKG_VERSION").to_owned()),
        };
        let event = ProcessStarted {
            attempt,
            pid: started.pid,
            command,
            version,
            cwd: self.shared.with_doc(|doc| doc.run.cwd.clone()),
        };
        self.apply(Command::ProcessStarted(event), Urgency::Reserve).await?;
        self.warn_of_version().await
    }
}

/// How long a step of a stop ladder waits.
const fn step_ms(step: &supervise::StopStep) -> u64 {
    match step {
        supervise::StopStep::Signal { wait_ms, .. } | supervise::StopStep::Write { wait_ms, .. } => *wait_ms,
    }
}

/// Kills the process that is the shim of this directory: it works in the directory, or its command line names it, so that
/// a number that now belongs to somebody else is left alone.
fn kill_shim(pid: i32, dir: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return Ok(()) };
    let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))?;
    let dir = std::fs::canonicalize(dir)?;
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
    let mut words = command.split(|b| *b == 0);
    let ours = words.clone().nth(1) == Some(supervise::shim::VERB.as_bytes());
    // Shims of earlier versions name it and work in it too, once they have begun.
    if (ours && cwd.is_ok_and(|cwd| cwd == dir)) || words.any(|word| word == dir.as_os_str().as_bytes()) {
        rustix::process::pidfd_send_signal(handle, rustix::process::Signal::KILL)?;
    }
    Ok(())
}

/// The launched shim, reaped when it is gone. Letting go of it does not end it.
struct Reaper {
    child: Option<Child>,
}

impl Reaper {
    fn new(child: Option<Child>) -> Self {
        Self { child }
    }

    /// Whether the shim that this server launched still runs.
    fn is_running(&mut self) -> bool {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(None)) => true,
            Some(Ok(Some(_)) | Err(_)) => {
                self.child = None;
                false
            }
            None => false,
        }
    }

    fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
        }
    }

    /// Waits for the shim's own exit, which follows its record at once.
    async fn reap(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let waited = tokio::task::spawn_blocking(move || child.wait()).await;
        if !matches!(waited, Ok(Ok(_))) {
            tracing::warn!("could not reap a shim");
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        // The owner lets go while the shim lives, or the shim is gone and nobody waited: both leave no zombie behind
        // longer than this process lives.
        if let Some(child) = self.child.as_mut() {
            let _ = child.try_wait();
        }
    }
}
