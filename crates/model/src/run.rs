//! The run state machine: what may happen to a run, and what a run is after it happened.
//!
//! Job: `decide` turns a command into events or a refusal; `evolve` folds an event into the state. Both are pure.
//! Never: fails on replay. `evolve` is total: an event that is in the log has happened.
//!
//! ```text
//!  vacant ──Create──► queued ──StartAttempt──► starting ──ProcessStarted──► running
//!                        ▲                        │  │                        │
//!                        ├──── never started ─────┘  └────────── Exit ────────┤
//!                        └──── lost, and on_lost is resume ────────────────────┤
//!  queued ──RequestCancel──► ended(cancelled)                                 ▼
//!  queued ──GiveUp─────────► ended(failed)              ended(completed | failed | cancelled)
//! ```

mod budget;
mod decide;
mod loss;
mod outcome;
mod talk;

use serde::{Deserialize, Serialize};

use crate::event::{
    ApprovalAnswered, Budget, BudgetExceeded, Driver, EventData, Failure, InputAccepted, OnLost, ProcessExited,
    ProcessStarted, ResourceUse, RunCancelRequested, RunCreated, Rung, Totals, VerdictReported,
};
use crate::id::{AttemptNo, Epoch};
use crate::projection::UsageBase;

pub use decide::{Rejection, decide};
pub use loss::{Loss, Open};
pub use talk::{Approval, DROPPED, LIVE, NEXT_TURN, Talk};

/// A run's status as the wire names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted; waits for a place.
    Queued,
    /// An attempt was begun; its process is not yet known to run.
    Starting,
    /// The process runs; its session must be acknowledged first.
    BindingSession,
    /// The process runs.
    Running,
    /// Proven success.
    Completed,
    /// The truth about a failure.
    Failed,
    /// A stop that was asked for took effect.
    Cancelled,
}

impl Status {
    /// Every status, in the order of a run's life.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Starting,
        Self::BindingSession,
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::BindingSession => "binding_session",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Parses a wire name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// Whether the run is over for good.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// What a command may need from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ctx {
    /// The epoch of the server that decides.
    pub epoch: Epoch,
}

/// How an attempt's process ended, as its witness recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitHow {
    /// It exited by itself with this status.
    Exited(i32),
    /// A signal ended it.
    Signaled(i32),
    /// It never ran; `error` says why if an `exec` was tried.
    NeverStarted {
        /// The failure of the `exec`, if one was tried.
        error: Option<ExecError>,
    },
    /// Its witness was lost.
    Lost,
}

/// Why a program could not be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecError {
    /// The operating system's error number.
    pub errno: i32,
    /// A sentence that names the path.
    pub message: String,
}

/// The stop that the witness had begun before the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// None: it ended by itself.
    None,
    /// Somebody cancelled it.
    Cancel,
    /// Its budget was used up.
    Deadline,
    /// It was silent for longer than it may be.
    Idle,
    /// It wrote more than it may.
    OutputLimit,
    /// Its host is going down.
    Shutdown,
    /// It had said its last word and did not go; what it said counts.
    Lingered,
    /// Its output could not be kept, for a reason that waiting does not heal.
    SpoolError,
}

impl Stop {
    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cancel => "cancel",
            Self::Deadline => "deadline",
            Self::Idle => "idle",
            Self::OutputLimit => "output_limit",
            Self::Shutdown => "shutdown",
            Self::Lingered => "lingered",
            Self::SpoolError => "spool_error",
        }
    }
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// How the leader ended.
    pub how: ExitHow,
    /// Which stop had been begun.
    pub stop: Stop,
    /// What it used, if measured.
    pub rusage: Option<ResourceUse>,
    /// Descendants that had to be killed.
    pub killed_descendants: u32,
    /// Processes that could not be killed.
    pub unkilled: Vec<i32>,
    /// Bytes in the spool.
    pub stdout_bytes: u64,
    /// Bytes in the spool.
    pub stderr_bytes: u64,
    /// Bytes that were printed and not kept.
    pub output_lost_bytes: u64,
    /// The end of stderr.
    pub stderr_tail: Option<String>,
    /// Why output could not be kept, with `Stop::SpoolError`.
    pub spool_error: Option<String>,
    /// Processes that the kernel killed for want of memory, as the run's own control group says.
    pub oom_kills: u64,
    /// What it used of the run's budget, in milliseconds; an estimate if its witness was lost.
    pub ran_ms: u64,
    /// Why the answer is not of the form that was asked for; none if it is, or if none was.
    pub unmet: Option<String>,
}

/// What somebody wants to happen to a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Accept it.
    Create(Box<RunCreated>),
    /// Begin an attempt.
    StartAttempt {
        /// How it goes on with what was begun before it, if it does.
        rung: Option<Rung>,
    },
    /// The witness says that the process exists.
    ProcessStarted(ProcessStarted),
    /// The source said these things, in this order.
    Observe(Vec<EventData>),
    /// This server takes the live attempt over.
    Adopt,
    /// Somebody wants the end.
    RequestCancel(RunCancelRequested),
    /// Somebody says something to the agent.
    AcceptInput(InputAccepted),
    /// Somebody answers a question of the agent.
    AnswerApproval(ApprovalAnswered),
    /// The witness says that the whole tree is gone.
    Exit(Box<Exit>),
    /// It will never be started.
    GiveUp(Failure),
}

/// Where a run is in its life.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Not yet accepted.
    Vacant,
    /// Accepted, with no process, or between two attempts.
    Queued,
    /// An attempt was begun.
    Starting {
        /// Its number.
        attempt: AttemptNo,
    },
    /// The process runs.
    Running {
        /// Its attempt.
        attempt: AttemptNo,
    },
    /// Over for good.
    Ended {
        /// `Completed`, `Failed` or `Cancelled`.
        status: Status,
    },
}

/// The state that decisions need; what people see is in [`crate::projection`].
#[derive(Debug, Clone, PartialEq)]
pub struct RunState {
    /// Where it is in its life.
    pub phase: Phase,
    /// What proves its success.
    pub driver: Driver,
    /// The cancel that was asked for.
    pub cancel: Option<RunCancelRequested>,
    /// The source's own last word.
    pub verdict: Option<VerdictReported>,
    /// Whether it gave text.
    pub saw_text: bool,
    /// The last owner.
    pub epoch: Epoch,
    /// Attempts of the last owner that provably started nothing. Those of an owner that died in between do not count
    /// against the run: it was not the run's fault.
    pub never_started: u32,
    /// Sums so far.
    pub totals: Totals,
    /// The exit of the last attempt, between `process.exited` and the terminal event.
    pub last_exit: Option<ProcessExited>,
    /// What it may use.
    pub budget: Budget,
    /// The report that went beyond that.
    pub exceeded: Option<BudgetExceeded>,
    /// Whether it is a turn of a session.
    pub in_session: bool,
    /// What is open between the agent and people.
    pub talk: Talk,
    /// What happens if its process is lost.
    pub on_lost: OnLost,
    /// What is left of its budget at the start of the last attempt, or after it; milliseconds.
    pub budget_left_ms: u64,
    /// Attempts that had a process and are over.
    pub lost_attempts: u32,
    /// What the last of those left, until the next attempt has a process.
    pub loss: Option<Loss>,
    /// How the last attempt goes on.
    pub rung: Option<Rung>,
    /// Whether the source did anything in the last attempt: said, thought, called.
    pub worked: bool,
    /// Whether the source did anything since its session began: its session has the prompt.
    pub session_has_prompt: bool,
    /// What is under way in the last attempt.
    pub open: Open,
    /// The source's own session, once it told.
    pub source_session: Option<String>,
    /// What had been used before.
    pub base: UsageBase,
}

impl Default for RunState {
    fn default() -> Self {
        Self {
            phase: Phase::Vacant,
            driver: Driver::Exec,
            cancel: None,
            verdict: None,
            saw_text: false,
            epoch: Epoch::default(),
            never_started: 0,
            totals: Totals::default(),
            last_exit: None,
            budget: Budget::default(),
            exceeded: None,
            in_session: false,
            talk: Talk::default(),
            on_lost: OnLost::Fail,
            budget_left_ms: 0,
            lost_attempts: 0,
            loss: None,
            rung: None,
            worked: false,
            session_has_prompt: false,
            open: Open::default(),
            source_session: None,
            base: UsageBase::default(),
        }
    }
}

impl RunState {
    /// The status that the wire shows.
    pub fn status(&self) -> Status {
        match &self.phase {
            Phase::Vacant | Phase::Queued => Status::Queued,
            Phase::Starting { .. } => Status::Starting,
            Phase::Running { .. } => Status::Running,
            Phase::Ended { status } => *status,
        }
    }

    /// The attempt in flight.
    pub fn attempt(&self) -> Option<AttemptNo> {
        match &self.phase {
            Phase::Starting { attempt } | Phase::Running { attempt } => Some(*attempt),
            Phase::Vacant | Phase::Queued | Phase::Ended { .. } => None,
        }
    }

    /// The state after `event`. Total: whatever is in the log has happened.
    #[must_use]
    pub fn evolve(mut self, event: &EventData) -> Self {
        match event {
            EventData::RunCreated(d) => {
                self.phase = Phase::Queued;
                self.driver = d.driver;
                self.in_session = d.session_id.is_some();
                self.budget = d.budget;
                self.on_lost = d.on_lost;
                self.budget_left_ms = d.timeout_ms;
            }
            EventData::RunAttemptStarted(d) => {
                self.phase = Phase::Starting { attempt: d.attempt };
                if d.epoch != self.epoch {
                    self.never_started = 0;
                }
                self.epoch = d.epoch;
                self.totals.attempts = d.attempt.get();
                self.verdict = None;
                self.rung = d.rung;
                self.session_has_prompt &= d.rung.is_some_and(Rung::keeps_session);
                self.base.begin(&self.totals, d.rung);
            }
            EventData::ProcessStarted(d) => {
                self.phase = Phase::Running { attempt: d.attempt };
                (self.loss, self.worked, self.open) = (None, false, Open::default());
            }
            EventData::RunAdopted(d) => self.epoch = d.epoch,
            EventData::RunCancelRequested(d) => {
                self.cancel.get_or_insert_with(|| d.clone());
            }
            EventData::ProcessExited(d) => {
                if d.how == "never_started" {
                    self.never_started += 1;
                } else {
                    self.lost_attempts += 1;
                    self.loss = Some(Loss::of(d, std::mem::take(&mut self.open)));
                }
                self.budget_left_ms = self.budget_left_ms.saturating_sub(d.ran_ms);
                self.totals.stdout_bytes += d.stdout_bytes;
                self.totals.stderr_bytes += d.stderr_bytes;
                self.phase = Phase::Queued;
                self.last_exit = Some(d.clone());
            }
            EventData::RunCompleted(d) => self.end(Status::Completed, &d.totals),
            EventData::RunFailed(d) => self.end(Status::Failed, &d.totals),
            EventData::RunCancelled(d) => self.end(Status::Cancelled, &d.totals),
            EventData::OutputLine(d) => {
                let harness_stdout = self.driver == Driver::Harness && d.stream == crate::event::OutputStream::Stdout;
                if harness_stdout && d.part.unwrap_or(0) == 0 {
                    self.totals.unknown_lines += 1;
                }
            }
            // A verdict is about what came before it. Whoever works on after it has not given one yet.
            EventData::MessageDelta(d) => {
                self.saw_text |= !d.text.trim().is_empty();
                self.open.message(&d.message_id);
                self.works();
            }
            EventData::MessageCompleted(d) => {
                self.saw_text |= !d.text.trim().is_empty();
                self.open.message_ended(&d.message_id);
                self.works();
            }
            EventData::ToolCalled(d) => {
                self.totals.tool_calls += 1;
                self.open.tool(&d.call_id, &d.name);
                self.works();
            }
            EventData::ToolCompleted(d) => {
                self.open.tool_ended(&d.call_id);
                self.works();
            }
            EventData::ReasoningDelta(_) => self.works(),
            EventData::MessageDiscarded(d) => self.open.message_ended(&d.message_id),
            EventData::SessionBound(d) => self.source_session = Some(d.source_session_id.clone()),
            EventData::UsageReported(d) => crate::projection::add_usage(&mut self.totals, &self.base, d),
            EventData::BudgetExceeded(d) => self.exceeded = Some(d.clone()),
            EventData::VerdictReported(d) => self.verdict = Some(d.clone()),
            EventData::ApprovalRequested(_)
            | EventData::ApprovalAnswered(_)
            | EventData::ApprovalDelivered(_)
            | EventData::ApprovalWithdrawn(_)
            | EventData::InputAccepted(_)
            | EventData::InputDelivered(_)
            | EventData::InputUndelivered(_) => self.talk.evolve(event),
            EventData::RunStarted(_)
            | EventData::TurnAccepted(_)
            | EventData::Warning(_)
            | EventData::Unknown { .. } => {}
        }
        self
    }

    fn works(&mut self) {
        (self.worked, self.session_has_prompt) = (true, true);
        self.verdict = None;
    }

    fn end(&mut self, status: Status, totals: &Totals) {
        self.phase = Phase::Ended { status };
        self.totals = totals.clone();
    }
}
