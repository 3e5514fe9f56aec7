//! The shim's one wait.
//!
//! Job: waits for the first of all things that can happen, or until the next one is due. Owns: nothing.
//! Never: changes anything; never waits longer than a tick.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::feed::Feed;
use super::keeper::{Keeper, Stage};
use super::stop::later;
use crate::limits;
use crate::order::Stream;
use crate::record::Stop;

/// What a wait found ready.
#[derive(Debug, Default)]
pub(super) struct Ready {
    pub(super) signals: bool,
    pub(super) listener: bool,
    pub(super) leader: bool,
    pub(super) pipes: [bool; 2],
    pub(super) clients: Vec<usize>,
}

/// What one poll entry stands for.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Client(usize),
    Pipe(Stream),
    Leader,
    /// Looked at in any case; its entry is there to end the wait.
    Other,
}

impl Keeper {
    /// Waits for the first thing to happen, at most until the next thing that is due.
    pub(super) fn wait(&self, now: Instant) -> Ready {
        let mut sources = vec![Source::Signals, Source::Listener];
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::from_borrowed_fd(self.clients.listener(), PollFlags::IN),
        ];
        let mut add = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        for (index, (fd, sending)) in self.clients.wanted().enumerate() {
            let flags = if sending { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            add(Source::Client(index), fd, flags);
        }
        for stream in Stream::BOTH {
            if let Some(fd) = self.pump.wanted(stream) {
                add(Source::Pipe(stream), fd, PollFlags::IN);
            }
        }
        if let Some(fd) = self.feed.as_ref().and_then(Feed::wanted) {
            add(Source::Other, fd, PollFlags::OUT);
        }
        if let Some(fd) = self.leader.wanted() {
            add(Source::Leader, fd, PollFlags::IN);
        }
        if let Some(channel) = &self.stage_channel {
            add(Source::Other, channel.as_fd(), PollFlags::IN);
        }
        let mut ready = Ready::default();
        if poll(&mut fds, Some(&timespec(self.due_at().saturating_duration_since(now)))).is_err() {
            return ready;
        }
        for (source, fd) in sources.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()) {
            match source {
                Source::Signals => ready.signals = true,
                Source::Listener => ready.listener = true,
                Source::Leader => ready.leader = true,
                Source::Pipe(stream) => ready.pipes[stream.index()] = true,
                Source::Client(index) if fd.revents() != PollFlags::OUT => {
                    ready.clients.push(*index);
                }
                Source::Client(_) | Source::Other => {}
            }
        }
        ready
    }

    fn due_at(&self) -> Instant {
        let stage = match self.stage {
            Stage::Running => None,
            Stage::Killing { .. } => Some(Instant::now() + limits::KILL_ROUND),
            Stage::Draining { until } | Stage::Ending { until, .. } => Some(until),
        };
        let limits = if matches!(self.stage, Stage::Running) && self.ladder.stop() == Stop::None {
            [self.deadline, self.idle_ms.map(|ms| later(self.last_output, ms))]
        } else {
            [None, None]
        };
        let ladder = if matches!(self.stage, Stage::Running) { self.ladder.due_at() } else { None };
        [stage, limits[0], limits[1], ladder, self.pump.retry_at(), self.clients.due()]
            .into_iter()
            .flatten()
            .fold(self.tick, Instant::min)
    }
}

fn timespec(time: Duration) -> Timespec {
    // Rounded up, so that what is due is due when the wait is over.
    let time = time + Duration::from_micros(1);
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
}
