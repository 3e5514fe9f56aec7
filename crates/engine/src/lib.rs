//! Runs: accepting them, owning them while they live, and taking them over after a restart.
//!
//! Job: one owner task per live run turns commands, a shim's records and spooled output into committed events; dispatch
//! is idempotent by run id and request digest; places are fair; recovery is the ordinary claim path.
//! Owns: the live map, the places, the run directories below the data directory.
//! Never: shows an event before it is durable; touches a process but through its shim; knows HTTP.

mod admission;
mod cancel;
mod cursor;
mod dispatch;
mod doc;
mod engine;
mod environment;
mod erase;
mod error;
mod lanes;
mod owner;
mod people;
mod places;
mod questions;
mod recovery;
mod retention;
mod sealed;
mod session;
mod view;
mod why;

pub use cancel::{Cancelled, Operation};
pub use dispatch::{Dispatched, NewRun, Reserved};
pub use doc::{Doc, Origin};
pub use engine::{Drift, Engine, Options, ReaderGuard};
pub use error::{AnswerError, CancelError, DispatchError, EraseError, InputError, SessionEraseError};
pub use lanes::{LaneFull, Turn};
pub use people::{Accepted, Question};
pub use places::{InLine, Place, PlaceLimits, QueueFull, Who};
pub use recovery::Report;
pub use retention::{Removed, Retention};
pub use sealed::Sealed;
pub use session::{Session, SessionKey};
pub use view::View;
pub use why::Why;
