//! The Durable Streams protocol on the wire: names of headers, frames of a live reader, cursors, entity tags.
//!
//! Job: pure functions from what was read to bytes, shared by server, client and bench.
//! Never: does I/O, asks for the time, knows a store. Source: the Durable Streams protocol 1.0, sections 5, 8 and 10.

mod cursor;
mod frame;
pub mod header;
mod tag;

pub use cursor::{cursor, interval};
pub use frame::{Control, Encoding, comment, control, data};
pub use tag::Tag;
