//! The committer: the one thread that decides what is committed.
//!
//! Job: take what waits, check each commit against what the ones before it leave, write one journal row, and only when
//! that is durable publish, acknowledge and wake. Owns: the journal, the witness, the ballast, the next ids.
//! Never: shows, acknowledges or refuses by anything that is not durable.
//!
//! ```text
//! take ─► room? ─► check each ─► encode ─► journal row ─► durable ─► witness ─► publish ─► answer ─► wake
//!                                             │ full: give the ballast up for a reserve, else refuse all
//!                                             └ any other error: answer Unknown, break down
//! ```

mod check;

use std::sync::Arc;
use std::time::{Duration, Instant};

use longhaul_store::{CommitError, Committed, Urgency};

use crate::ballast::Ballast;
use crate::entry::{self, Entry};
use crate::error::Fault;
use crate::journal::Journal;
use crate::memory::Group;
use crate::queue::{Job, Reply, Taken};
use crate::shared::{Ending, Shared};
use crate::witness::Witness;

pub(crate) use check::Ledger;

/// How long a reserve commit waits for the ballast's blocks to come free.
const BALLAST_FREED: Duration = Duration::from_secs(1);

/// The thread's state.
pub(crate) struct Committer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) journal: Journal,
    pub(crate) witness: Witness,
    pub(crate) ballast: Ballast,
    pub(crate) ledger: Ledger,
    pub(crate) unapplied_bytes_max: usize,
    pub(crate) busy_after: Duration,
}

/// A group in the making.
#[derive(Default)]
struct Draft {
    body: Vec<u8>,
    entries: Vec<Entry>,
    bytes: usize,
    reserve: bool,
    replies: Vec<(Reply, Result<Committed, CommitError>)>,
}

impl Committer {
    /// Runs until the queue is closed and empty. Gives the journal back unless the store broke down.
    pub(crate) fn run(mut self) -> Option<Journal> {
        let mut last_group = 0;
        loop {
            match self.shared.queue.take(last_group) {
                Taken::Jobs(jobs) => {
                    last_group = jobs.len();
                    self.group(jobs);
                }
                Taken::Rest => {
                    last_group = 0;
                    self.checkpoint();
                }
                Taken::Closed => break,
            }
            if self.shared.is_broken() {
                break;
            }
        }
        if self.shared.is_broken() {
            // Closing would write and sync once more on a handle that failed.
            std::mem::forget(self.journal);
            return None;
        }
        Some(self.journal)
    }

    fn group(&mut self, jobs: Vec<Job>) {
        if !self.wait_for_room() {
            refuse(jobs, &CommitError::Busy);
            return;
        }
        let room = !self.shared.memory().starved && self.ballast.held();
        let id = self.journal.span().last.max(self.ledger.position()) + 1;
        let mut draft = Draft::default();
        draft.body.push(entry::VERSION);
        for job in jobs {
            let reserve = job.commit.urgency == Urgency::Reserve;
            if !room && !reserve {
                draft.replies.push((job.reply, Err(CommitError::Full)));
                continue;
            }
            match self.ledger.admit(job.commit, job.newlines, id, &self.shared) {
                Ok((entry, committed)) => {
                    entry.encode(&mut draft.body);
                    draft.entries.push(entry);
                    draft.bytes += job.bytes;
                    draft.reserve |= reserve;
                    draft.replies.push((job.reply, Ok(committed)));
                }
                Err(check::No::Refused(error)) => draft.replies.push((job.reply, Err(error))),
                Err(check::No::Broken(fault)) => {
                    draft.replies.push((job.reply, Err(CommitError::Closed)));
                    fail_all(draft, &CommitError::Closed);
                    self.shared.break_down(&fault.to_string());
                    return;
                }
            }
        }
        if draft.entries.is_empty() {
            answer(draft.replies);
            return;
        }
        match self.append(id, &draft) {
            Ok(()) => self.settle(id, draft),
            Err(Fault::Full) => {
                self.ledger.undo();
                fail_all(draft, &CommitError::Full);
            }
            Err(fault) => {
                let why = fault.to_string();
                fail_all(draft, &CommitError::Unknown(why.clone()));
                self.shared.break_down(&why);
            }
        }
    }

    /// Waits until the applier has made room, for a bounded time.
    fn wait_for_room(&self) -> bool {
        let until = Instant::now() + self.busy_after;
        let mut memory = self.shared.memory();
        // While the disk is full the applier makes no room, and only reserve commits pass.
        while memory.pending_bytes >= self.unapplied_bytes_max && !memory.starved {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.shared.ending() == Ending::Stops {
                return false;
            }
            memory = self.shared.wait_room(memory, left);
        }
        true
    }

    fn append(&mut self, id: u64, draft: &Draft) -> Result<(), Fault> {
        let applied = self.shared.memory().applied;
        let first = self.journal.append(id, &draft.body, applied);
        if first != Err(Fault::Full) || !draft.reserve || !self.ballast.give_up() {
            return first;
        }
        tracing::warn!("the disk is full; the ballast is given up for the end of things");
        // A file system may take a moment to hand the blocks out again.
        let until = Instant::now() + BALLAST_FREED;
        loop {
            let again = self.journal.append(id, &draft.body, applied);
            if again != Err(Fault::Full) || Instant::now() >= until {
                return again;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn settle(&mut self, id: u64, draft: Draft) {
        if let Err(fault) = self.witness.write(id) {
            // The witness may be behind: that is what it is allowed to be.
            tracing::warn!(%fault, "the witness file could not be written");
        }
        self.ledger.keep(id);
        let group = Arc::new(Group { id, bytes: draft.bytes.max(draft.body.len()), entries: draft.entries });
        let wake = {
            let mut memory = self.shared.memory();
            let before = memory.pending_bytes;
            let wake = memory.publish(&group);
            if before == 0 || (before < self.shared.apply_bytes && memory.pending_bytes >= self.shared.apply_bytes) {
                self.shared.work.notify_one();
            }
            wake
        };
        // One watch for all: before the answers, so that a writer who was answered finds its entry counted.
        if let Some(tail) = wake.feed {
            self.shared.feed.send_replace(tail);
        }
        answer(draft.replies);
        for (watcher, tail) in &wake.tails {
            watcher.send_if_modified(|seen| {
                let moved = *seen < *tail;
                *seen = (*seen).max(*tail);
                moved
            });
        }
        drop(wake);
        if self.journal.wants_checkpoint() {
            self.checkpoint();
        }
    }

    fn checkpoint(&mut self) {
        match self.journal.checkpoint() {
            Ok(()) => {}
            Err(fault @ (Fault::Full | Fault::Locked { .. })) => {
                tracing::warn!(%fault, "the journal's log could not be folded back; it grows");
            }
            Err(fault) => self.shared.break_down(&fault.to_string()),
        }
    }
}

fn fail_all(draft: Draft, error: &CommitError) {
    for (reply, _) in draft.replies {
        let _ = reply.send(Err(error.clone()));
    }
}

fn answer(replies: Vec<(Reply, Result<Committed, CommitError>)>) {
    for (reply, answer) in replies {
        // The writer may have gone; its commit stands.
        let _ = reply.send(answer);
    }
}

fn refuse(jobs: Vec<Job>, error: &CommitError) {
    for job in jobs {
        let _ = job.reply.send(Err(error.clone()));
    }
}
