//! The shim's one loop.
//!
//! Job: takes in what a wait found, answers, enforces limits, and moves from stage to stage.
//! Owns: every part of the shim. Never: begins a stop after the leader's death was there to be seen, but for the host's,
//! which comes to both at once; never waits here, see `wake`, nor records the end, see `ending`.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::sys::signalfd::SignalFd;
use rustix::process::Signal;

use super::clients::Clients;
use super::closer::Closer;
use super::feed::Feed;
use super::leader::{self, Leader};
use super::pump::{Pump, Step};
use super::stop::{Due, Ladder, later};
use super::tree::{Left, Tree};
use super::wake::Ready;
use crate::attempt::{self, AttemptDir};
use crate::cgroup::Group;
use crate::control::{self, Event, Phase, Request, Status};
use crate::durable::{self, Reserve};
use crate::limits;
use crate::order::Stream;
use crate::record::{ExecError, Started, Stop, unix_ms};
use crate::spec::{AttemptSpec, StopSignal, StopStep};

/// Where an attempt is on its way to its end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    Running,
    Draining { until: Instant },
    Killing { until: Instant },
    Ending { until: Instant, read: u64 },
}

#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) dir: AttemptDir,
    pub(super) signals: SignalFd,
    pub(super) clients: Clients,
    pub(super) pump: Pump,
    pub(super) feed: Option<Feed>,
    pub(super) closer: Option<Closer>,
    pub(super) leader: Leader,
    /// From the exec stage; closed when it has become the agent.
    pub(super) stage_channel: Option<UnixStream>,
    pub(super) exec_error: Option<ExecError>,
    pub(super) reserve: Reserve,
    pub(super) started: Started,
    pub(super) started_at: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) idle_ms: Option<u64>,
    pub(super) drain_ms: u64,
    pub(super) last_output: Instant,
    pub(super) epoch: u64,
    pub(super) ladder: Ladder,
    pub(super) tree: Tree,
    /// The leader only holds the agent, which is behind it.
    pub(super) wrapped: bool,
    /// The control group that holds the tree, where there is one.
    pub(super) group: Option<Group>,
    pub(super) stage: Stage,
    pub(super) tick: Instant,
    /// The kernel said that nobody is left below.
    pub(super) childless: bool,
    /// A stop was asked for after the leader's end: what is left is not waited for.
    pub(super) hurry: bool,
    pub(super) unkilled: Vec<i32>,
}

impl Keeper {
    #[expect(clippy::too_many_arguments, reason = "the parts are made one by one, each with its own failure")]
    pub(super) fn new(
        dir: AttemptDir,
        spec: AttemptSpec,
        signals: SignalFd,
        clients: Clients,
        pump: Pump,
        feed: Option<Feed>,
        closer: Option<Closer>,
        leader: Leader,
        stage_channel: UnixStream,
        reserve: Reserve,
        started: Started,
        group: Option<Group>,
    ) -> Self {
        let now = Instant::now();
        Self {
            dir,
            signals,
            clients,
            pump,
            feed,
            closer,
            leader,
            stage_channel: Some(stage_channel),
            exec_error: None,
            reserve,
            started,
            started_at: now,
            deadline: spec.deadline_ms.map(|ms| later(now, ms)),
            idle_ms: spec.limits.idle_ms,
            drain_ms: spec.drain_ms,
            last_output: now,
            epoch: spec.epoch,
            ladder: Ladder::new(spec.stop),
            tree: Tree::new(),
            wrapped: spec.wrapped.is_some(),
            group,
            stage: Stage::Running,
            tick: now,
            childless: false,
            hurry: false,
            unkilled: Vec::new(),
        }
    }

    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            let ready = self.wait(Instant::now());
            let now = Instant::now();
            self.take_in(ready, now);
            let over = self.advance(now);
            self.clients.flush(now);
            if over {
                return self.finish();
            }
        }
    }

    /// Takes in what came: the end of the leader before any client's wish to stop it.
    fn take_in(&mut self, ready: Ready, now: Instant) {
        let ticked = now >= self.tick;
        if ticked {
            self.tick = now + limits::TICK;
        }
        let asked_to_leave = ready.signals && self.read_signals();
        let seen_dead = self.leader.ended.is_some();
        if ready.signals || ready.leader || ticked {
            self.reap(now);
        }
        self.read_stage_channel();
        for stream in Stream::BOTH {
            if ready.pipes[stream.index()] || self.pump.disk_full() {
                self.pump_once(stream, now);
            }
        }
        if asked_to_leave {
            self.leave(seen_dead, now);
        }
        if ready.listener {
            self.clients.accept();
        }
        let mut input = ticked || self.feed.as_ref().is_some_and(|feed| feed.wanted().is_some());
        for index in ready.clients {
            for request in self.clients.read(index) {
                input |= request == Request::Input;
                self.answer(index, request, now);
            }
        }
        if input {
            self.feed();
        }
    }

    /// Whether SIGTERM was among them; HUP, INT and the rest mean nothing to a shim.
    fn read_signals(&self) -> bool {
        let mut term = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            term |= signal.ssi_signo == libc::SIGTERM as u32;
        }
        term
    }

    fn reap(&mut self, now: Instant) {
        let leader = &mut self.leader;
        let left = Tree::reap(|pid, status| {
            if pid == leader.pid {
                leader.ended = Some((status, now));
            }
        });
        self.childless = left == Left::Nobody;
    }

    /// An error of the exec stage, or its end, which means that the agent runs and its environment has been read.
    pub(super) fn read_stage_channel(&mut self) {
        let Some(channel) = &mut self.stage_channel else {
            return;
        };
        let mut report = [0; 4096];
        match channel.read(&mut report) {
            Ok(0) => {}
            Ok(read) => self.exec_error = serde_json::from_slice(&report[..read]).ok(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => {}
        }
        self.stage_channel = None;
        let _ = durable::remove(&self.dir.file(attempt::ENV));
    }

    fn pump_once(&mut self, stream: Stream, now: Instant) -> Step {
        let before = self.pump.len(stream);
        let step = self.pump.step(stream, now);
        if step == Step::Moved {
            self.last_output = now;
            let (kept, base) = self.pump.kept(stream);
            if stream == Stream::Stdout && self.closer.as_mut().is_some_and(|closer| closer.sees(kept, base)) {
                self.closer = None;
                if let Some(feed) = &mut self.feed {
                    feed.close();
                }
                self.feed();
            }
        }
        if self.pump.disk_full() {
            // The agent is silent because it is made to wait.
            self.last_output = now;
        }
        if self.pump.len(stream) > before {
            self.clients.grew(now);
        }
        step
    }

    fn feed(&mut self) {
        let Some(feed) = &mut self.feed else { return };
        let before = feed.bytes();
        // A log that cannot be read now is looked at again with the next tick.
        let _ = feed.advance();
        if feed.bytes() > before {
            self.clients.tell(&Event::Input { bytes: feed.bytes(), refused: feed.refused() });
        }
    }

    fn answer(&mut self, index: usize, request: Request, now: Instant) {
        match request {
            Request::Hello { epoch, .. } => {
                if self.fenced(index, epoch) {
                    self.clients.dismiss(index);
                    return;
                }
                let version = env!("CARGO_PKG_VERSION").to_owned();
                self.clients.push(index, &Event::Hello { v: control::VERSION, version, pid: self.started.shim_pid });
            }
            Request::Stop { reason, epoch } => {
                if !self.fenced(index, epoch) {
                    let stop = self.begin_stop(reason.into(), now);
                    self.clients.push(index, &Event::Stopping { stop });
                }
            }
            Request::Ping => self.clients.push(index, &Event::Status(self.status())),
            Request::Watch => {
                self.clients.watch(index);
                self.clients.push(index, &Event::Started(self.started.clone()));
                self.clients.grew(now);
            }
            Request::Input => {}
        }
    }

    /// Refuses a lower epoch than the highest seen; remembers a higher one.
    fn fenced(&mut self, index: usize, epoch: u64) -> bool {
        if epoch < self.epoch {
            self.clients.push(index, &Event::Refused { epoch: self.epoch });
            return true;
        }
        if epoch > self.epoch {
            self.epoch = epoch;
            if let Some(feed) = &mut self.feed {
                feed.raise(epoch);
            }
        }
        false
    }

    fn status(&self) -> Status {
        Status {
            phase: match self.stage {
                Stage::Running => Phase::Running,
                Stage::Draining { .. } => Phase::Draining,
                Stage::Killing { .. } => Phase::Killing,
                Stage::Ending { .. } => Phase::Ending,
            },
            stop: self.ladder.stop(),
            stdout_bytes: self.pump.len(Stream::Stdout),
            stderr_bytes: self.pump.len(Stream::Stderr),
            output_lost_bytes: self.pump.lost(),
            input_bytes: self.feed.as_ref().map_or(0, Feed::bytes),
            input_refused: self.feed.as_ref().map_or(0, Feed::refused),
            disk_full: self.pump.disk_full(),
        }
    }

    /// Begins a stop unless the leader is dead already; says which stop holds.
    fn begin_stop(&mut self, stop: Stop, now: Instant) -> Stop {
        if self.leader.is_dead() {
            self.hurry = true;
        } else {
            self.ladder.begin(stop, now, unix_ms());
        }
        self.ladder.stop()
    }

    /// SIGTERM came. A host that goes down sends it to everybody in any order, so the leader may have died of it before
    /// the shim could look: an end that is seen in the same look, or was one by such a signal, is the host's doing.
    fn leave(&mut self, seen_dead: bool, now: Instant) {
        let by_itself = seen_dead && self.leader.ended.is_some_and(|(status, _)| !leader::was_told(status));
        if !by_itself {
            self.ladder.begin(Stop::Shutdown, now, unix_ms());
        }
        self.hurry |= self.leader.is_dead();
    }

    /// Moves on as far as possible; whether it is over.
    fn advance(&mut self, now: Instant) -> bool {
        loop {
            match self.stage {
                Stage::Running => {
                    if self.leader.ended.is_some() {
                        self.stage = Stage::Draining { until: later(now, self.drain_ms) };
                    } else {
                        self.enforce(now);
                        if matches!(self.stage, Stage::Running) {
                            return false;
                        }
                    }
                }
                Stage::Draining { until } => {
                    if !(self.pump.closed() || self.childless || self.hurry || now >= until) {
                        return false;
                    }
                    self.stage = Stage::Killing { until: now + limits::KILL_WAIT };
                }
                Stage::Killing { until } => {
                    self.reap(now);
                    let gone = self.childless && self.group.as_ref().is_none_or(Group::is_empty);
                    if gone || now >= until {
                        self.unkilled = if gone { Vec::new() } else { self.left() };
                        self.stage = Stage::Ending { until: now + limits::FULL_DISK_WAIT, read: 0 };
                    } else {
                        self.kill();
                        return false;
                    }
                }
                Stage::Ending { until, mut read } => {
                    let dry = self.drain(now, &mut read);
                    self.stage = Stage::Ending { until, read };
                    if !dry && (self.hurry || now >= until) {
                        self.pump.abandon("the disk was full");
                    } else if !dry {
                        return false;
                    }
                    return true;
                }
            }
        }
    }

    /// Empties the pipes without waiting; `false` if the disk is full.
    fn drain(&mut self, now: Instant, read: &mut u64) -> bool {
        let mut dry = true;
        for stream in Stream::BOTH {
            loop {
                let before = self.pump.len(stream) + self.pump.lost();
                let step = self.pump_once(stream, now);
                *read += self.pump.len(stream) + self.pump.lost() - before;
                match step {
                    Step::Moved if *read < limits::RESIDUE_BYTES_MAX => {}
                    Step::Blocked => {
                        dry = false;
                        break;
                    }
                    Step::Moved | Step::Idle | Step::Closed => break,
                }
            }
        }
        dry
    }

    /// Begins the stops that nobody has to ask for, and climbs the ladder.
    fn enforce(&mut self, now: Instant) {
        if self.ladder.stop() == Stop::None {
            let idle = self.idle_ms.is_some_and(|ms| now >= later(self.last_output, ms));
            let reached = if self.pump.fault().is_some() {
                Some(Stop::SpoolError)
            } else if self.pump.over_limit() {
                Some(Stop::OutputLimit)
            } else if self.deadline.is_some_and(|at| now >= at) {
                Some(Stop::Deadline)
            } else if idle {
                Some(Stop::Idle)
            } else {
                None
            };
            if let Some(stop) = reached {
                self.begin_stop(stop, now);
            }
        }
        loop {
            match self.ladder.next(now) {
                Due::Nothing => return,
                Due::Step(StopStep::Signal { signal, .. }) => self.signal(signal),
                Due::Step(StopStep::Write { frame, .. }) => {
                    let bytes = frame.bytes().unwrap_or_default();
                    if self.feed.as_mut().is_some_and(|feed| feed.urge(&bytes)) {
                        self.feed();
                    } else {
                        self.ladder.skip(now);
                    }
                }
                Due::Kill => self.kill(),
                Due::GiveUp => {
                    self.unkilled = self.left();
                    self.stage = Stage::Ending { until: now + limits::FULL_DISK_WAIT, read: 0 };
                    return;
                }
            }
        }
    }

    /// Sends KILL to all that is below the shim or in its group, once over.
    fn kill(&mut self) {
        self.tree.kill();
        if let Some(group) = &self.group {
            group.kill();
        }
    }

    /// The processes that are still there, the first of many.
    fn left(&self) -> Vec<i32> {
        let mut left = self.tree.left();
        left.extend(self.group.iter().flat_map(Group::pids));
        left.sort_unstable();
        left.dedup();
        left.truncate(limits::UNKILLED_MAX);
        left
    }

    fn signal(&mut self, signal: StopSignal) {
        if self.wrapped && signal != StopSignal::Kill && self.signal_wrapped(signal) {
            return;
        }
        match signal {
            // The CLIs take it as Ctrl-C and tell their tools themselves.
            StopSignal::Int => self.leader.signal(Signal::INT),
            StopSignal::Kill => self.kill(),
            // A stopped process would not see TERM before it continues.
            StopSignal::Term => {
                for signal in [Signal::TERM, Signal::CONT] {
                    self.leader.signal_group(signal);
                    self.tree.signal_outside(self.leader.pid, signal);
                }
            }
            StopSignal::Hup | StopSignal::Quit | StopSignal::Usr1 | StopSignal::Usr2 => {
                self.leader.signal_group(signal.signal());
            }
        }
    }

    /// The same past a wrapper, which would die of it and take the agent with it before that could act; `false` if
    /// there is no agent behind it yet.
    fn signal_wrapped(&self, signal: StopSignal) -> bool {
        let Some(agent) = Tree::wrapped(self.leader.pid) else {
            return false;
        };
        match signal {
            StopSignal::Term => {
                for signal in [Signal::TERM, Signal::CONT] {
                    self.tree.signal_besides(self.leader.pid, signal);
                }
            }
            other => drop(self.tree.signal(agent, other.signal())),
        }
        true
    }
}
