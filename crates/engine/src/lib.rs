//! Runs: accepting them, owning them while they live, and taking them over after a restart.
//!
//! Job: one owner task per live run turns commands, a shim's records and spooled output into committed events; dispatch
//! is idempotent by run id and request digest; places are fair; recovery is the ordinary claim path.
//! Owns: the live map, the places, the run directories below the data directory.
//! Never: shows an event before it is durable; touches a process but through its shim; knows HTTP.

mod admission;
mod cancel;
mod containment;
mod cursor;
mod dirs;
mod disk;
mod dispatch;
mod doc;
mod engine;
mod environment;
mod erase;
mod error;
mod files;
mod format;
mod kin;
mod lanes;
mod owner;
mod people;
mod places;
pub mod probe;
mod questions;
mod recovery;
mod restored;
mod resume;
mod retell;
mod retention;
mod sealed;
mod session;
pub mod streams;
mod turns;
mod view;
mod why;

pub use cancel::{Cancelled, Operation};
pub use containment::{Confine, Contained, Containment};
pub use disk::{Disk, DiskFloor, DiskLow};
pub use dispatch::{Dispatched, NewRun, Reserved};
pub use doc::{Doc, Origin};
pub use engine::{Drift, Engine, Options, ReaderGuard};
pub use error::{AnswerError, CancelError, DispatchError, EraseError, InputError, ResumeError, SessionEraseError};
pub use lanes::{LaneFull, Turn};
pub use people::{Accepted, Question};
pub use places::{InLine, Place, PlaceLimits, QueueFull, Who};
pub use recovery::Report;
pub use restored::restored;
pub use resume::Resumed;
pub use retention::{Removed, Retention};
pub use sealed::Sealed;
pub use session::{Session, SessionKey};
pub use streams::Streams;
pub use turns::{Followed, Follower, TurnPlace, TurnStep};
pub use view::View;
pub use why::Why;
