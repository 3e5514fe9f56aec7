//! The domain of Longhaul, without I/O.
//!
//! Job: the words every other crate speaks: ids, sequence numbers, events and their wire form, the run state machine,
//! the projections that fold a run's events into what people see, canonical JSON and request digests, and all limits.
//! Owns: nothing that lives; every value here is plain data.
//! Never: reads a clock, a file, a socket or the environment. Time and ids come in as arguments.

pub mod canonical;
pub mod event;
pub mod id;
pub mod limits;
pub mod policy;
pub mod projection;
pub mod run;
pub mod stream;
pub mod time;
pub mod trace;

pub use event::{Event, EventData};
pub use id::{AttemptNo, Epoch, IdError, ProjectId, RunId, RunKey, Seq, SessionId, StreamId};
pub use run::{Command, Ctx, Rejection, RunState, Status};
pub use time::Timestamp;
pub use trace::Trace;
