//! Streams that people write: names, positions, and what an append may do, without I/O.
//!
//! Job: parse what the wire says of a stream (path, offset, lifetime, producer, JSON body) and decide an append over the
//! state that the appends before it left. Owns: nothing that lives. Never: reads a clock or a store.

mod content_type;
mod decide;
mod json;
mod lifetime;
mod offset;
mod path;
mod producer;
mod state;

pub use content_type::{ContentType, ContentTypeError, Mode};
pub use decide::{Accepted, Body, Decision, Refusal, Request, decide};
pub use json::{JsonError, Messages, flatten};
pub use lifetime::{Keep, Lifetime, LifetimeError};
pub use offset::{Offset, OffsetError, Position};
pub use path::{PathError, StreamKey, StreamPath};
pub use producer::{Producer, ProducerError, ProducerState};
pub use state::{Closer, Closure, State, StateError};
