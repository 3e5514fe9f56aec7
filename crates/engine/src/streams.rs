//! Streams that people write: durable, ordered, each with a name.
//!
//! Job: create, append, close, fork, expire, trim and delete streams of the store, and read them; everything that belongs
//! to an append (messages, closure, producer, numbers) is in its one commit, and appends to one stream are pipelined.
//! Owns: one [`handle`](handle) for each stream in use, which is the only writer of it.
//! Never: shows what is not durable, or answers by it; knows HTTP.

mod error;
mod reader;
mod requests;
mod streams;

pub use error::{AppendError, CreateError, DeleteError, OpenError, ReadError, WriteError};
pub use reader::{Happened, Page, Reader, SpanPage};
pub use requests::{Append, Appended, Create, Created, Fork, Info, ListPage, Listed, Move, Moved, Swept};
pub use streams::{Options, Streams};
