//! Looking after one process tree per attempt, whether or not a server lives.
//!
//! Job: the shim that starts an agent, spools what it prints, stops it and records its end; the attempt directory through
//! which a server and the shim speak; the spool reader that restores arrival order; start identity, process-tree kill
//! and kernel locks.
//! Owns: the formats of every file in an attempt directory and of the control socket, all versioned.
//! Never: knows a store, a run, an API or an async runtime.
//!
//! A server's way through: [`AttemptDir::create`], [`AttemptDir::launch`], [`ControlClient::connect`] and
//! [`Follower::batch`] until the exit is there, [`AttemptDir::settle`] for proof. After a restart:
//! [`AttemptDir::open`], [`AttemptDir::state`], then the same from the stored [`SpoolCursor`].

pub mod attempt;
pub mod cgroup;
pub mod confine;
pub mod control;
mod durable;
pub mod exec_stage;
pub mod handover;
pub mod input;
pub mod kill;
pub mod kin;
pub mod limits;
pub mod lock;
pub mod nofile;
pub mod order;
mod procfs;
pub mod record;
pub mod shim;
pub mod spec;
pub mod spool;
mod sys;

pub use attempt::{AttemptDir, AttemptError, AttemptState, Settled};
pub use cgroup::{Ended, Grounds, Group, GroupSpec, Where};
pub use confine::Cell;
pub use control::{ControlClient, Event, Request, StopReason};
pub use input::{Appended, InputError, InputLog};
pub use kill::{Identity, MarkedReport, find_marked, kill_marked};
pub use lock::{FileLock, Holder, LockError};
pub use order::Stream;
pub use record::{ExecError, Exit, How, Started, Stop};
pub use spec::{AttemptSpec, CloseWhen, Limits, SpecError, Stdin, StopSignal, StopStep, WriteFrame};
pub use spool::{Batch, Follower, Line, LineLimits, Missing, SpoolCursor, SpoolLengths};
