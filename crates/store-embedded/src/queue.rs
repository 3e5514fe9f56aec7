//! The queue in front of the committer.
//!
//! Job: take commits in order, bounded in number and bytes; a full queue makes a writer wait, then answers `Busy`.
//! Owns: commits that were submitted and not yet taken. Never: looks into one.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use longhaul_store::{Commit, CommitError, Committed, Ticket};
use tokio::sync::{Notify, oneshot};

use crate::limits;

pub(crate) type Reply = oneshot::Sender<Result<Committed, CommitError>>;

/// A commit on its way.
pub(crate) struct Job {
    pub(crate) commit: Commit,
    pub(crate) bytes: usize,
    /// Whether there are raw newlines in its events: looked for here, so that the committer need not.
    pub(crate) newlines: bool,
    pub(crate) reply: Reply,
}

impl Job {
    fn new(commit: Commit) -> (Self, Ticket) {
        let (reply, receive) = oneshot::channel();
        let (bytes, newlines) = (commit.bytes(), commit.has_newlines());
        (Self { commit, bytes, newlines, reply }, Ticket::awaited(receive))
    }
}

#[derive(Default)]
struct Waiting {
    jobs: Vec<Job>,
    bytes: usize,
    closed: bool,
    /// The committer sleeps until so many jobs wait.
    wake_at: usize,
}

/// What the committer gets.
pub(crate) enum Taken {
    Jobs(Vec<Job>),
    /// Nothing came for a while.
    Rest,
    Closed,
}

/// The queue.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    ready: Condvar,
    room: Notify,
    commits_max: usize,
    bytes_max: usize,
    busy_after: Duration,
}

impl Queue {
    pub(crate) fn new(commits_max: usize, bytes_max: usize, busy_after: Duration) -> Self {
        let waiting = Mutex::new(Waiting { wake_at: 1, ..Waiting::default() });
        Self { waiting, ready: Condvar::new(), room: Notify::new(), commits_max, bytes_max, busy_after }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics between two changes that belong together.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Submits a commit. Waits for room for a bounded time.
    pub(crate) async fn push(&self, commit: Commit) -> Result<Ticket, CommitError> {
        let (job, ticket) = Job::new(commit);
        let mut job = Some(job);
        if self.try_push(&mut job)? {
            return Ok(ticket);
        }
        let wait = async {
            loop {
                // Registered before the look, so that room made in between is not missed.
                let mut room = std::pin::pin!(self.room.notified());
                room.as_mut().enable();
                if self.try_push(&mut job)? {
                    return Ok(());
                }
                room.await;
            }
        };
        match tokio::time::timeout(self.busy_after, wait).await {
            Ok(pushed) => pushed.map(|()| ticket),
            Err(_) => Err(CommitError::Busy),
        }
    }

    /// Submits a commit if there is room now.
    pub(crate) fn submit(&self, commit: Commit) -> Result<Ticket, CommitError> {
        let (job, ticket) = Job::new(commit);
        if self.try_push(&mut Some(job))? { Ok(ticket) } else { Err(CommitError::Busy) }
    }

    fn try_push(&self, job: &mut Option<Job>) -> Result<bool, CommitError> {
        let wake = {
            let mut waiting = self.lock();
            if waiting.closed {
                return Err(CommitError::Closed);
            }
            let bytes = job.as_ref().map_or(0, |job| job.bytes);
            let full =
                waiting.jobs.len() >= self.commits_max || (waiting.bytes > 0 && waiting.bytes + bytes > self.bytes_max);
            if full {
                return Ok(false);
            }
            waiting.jobs.extend(job.take());
            waiting.bytes += bytes;
            let wake = waiting.jobs.len() == waiting.wake_at;
            if wake {
                waiting.wake_at = usize::MAX;
            }
            wake
        };
        if wake {
            self.ready.notify_one();
        }
        Ok(true)
    }

    /// Takes what waits, once something does. If the last group had many writers, they are given a moment to come back,
    /// so that the disk is not kept busy with the first of them alone.
    pub(crate) fn take(&self, last_group: usize) -> Taken {
        let mut waiting = self.lock();
        let rest_at = Instant::now() + limits::REST_AFTER;
        while waiting.jobs.is_empty() {
            if waiting.closed {
                return Taken::Closed;
            }
            waiting.wake_at = 1;
            let left = rest_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Taken::Rest;
            }
            waiting = self.ready.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let wanted = last_group * 3 / 4;
        if wanted > 2 && waiting.jobs.len() < wanted && !waiting.closed {
            waiting.wake_at = wanted;
            waiting = self.ready.wait_timeout(waiting, limits::GATHER_MAX).unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.wake_at = usize::MAX;
        let was_full = waiting.jobs.len() >= self.commits_max || waiting.bytes >= self.bytes_max / 2;
        let jobs = waiting.cut();
        drop(waiting);
        if was_full {
            self.room.notify_waiters();
        }
        Taken::Jobs(jobs)
    }

    /// No commit is taken in any more; those that wait are still made.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_one();
        self.room.notify_waiters();
    }

    /// No commit is taken in any more, and those that wait are answered `Closed`.
    pub(crate) fn fail(&self) {
        let jobs = {
            let mut waiting = self.lock();
            waiting.closed = true;
            waiting.bytes = 0;
            std::mem::take(&mut waiting.jobs)
        };
        for job in jobs {
            let _ = job.reply.send(Err(CommitError::Closed));
        }
        self.ready.notify_one();
        self.room.notify_waiters();
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().jobs.len()
    }
}

impl Waiting {
    /// The jobs of the next group: all, unless they are too many or too large.
    fn cut(&mut self) -> Vec<Job> {
        if self.jobs.len() <= limits::GROUP_COMMITS_MAX && self.bytes <= limits::GROUP_BYTES_MAX {
            self.bytes = 0;
            let room = Vec::with_capacity(self.jobs.len());
            return std::mem::replace(&mut self.jobs, room);
        }
        let mut bytes = 0;
        let mut count = 0;
        for job in self.jobs.iter().take(limits::GROUP_COMMITS_MAX) {
            if count > 0 && bytes + job.bytes > limits::GROUP_BYTES_MAX {
                break;
            }
            bytes += job.bytes;
            count += 1;
        }
        self.bytes -= bytes;
        self.jobs.drain(..count).collect()
    }
}
