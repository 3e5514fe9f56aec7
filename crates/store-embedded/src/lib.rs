//! The embedded store: a SQLite journal with group commit in front of a SQLite library.
//!
//! Job: keep the promises of [`longhaul_store::Store`] in one directory, on one machine, through every crash.
//! Owns: `journal.db`, `longhaul.db`, `tail` and `ballast` in that directory, and two threads.
//! Never: locks the directory against other processes (whoever opens holds its lock), or shows what is not durable.
//!
//! ```text
//!  commit ─► queue ─► committer ─► journal.db (one row a group, synced) ─► memory ─► answers, watches
//!                                                                            │
//!  read ──► memory, else ──► readers ──► longhaul.db ◄── applier ◄───────────┘
//! ```
//!
//! What is durable and not applied is in memory, whole, so no reader ever waits for the applier.

mod applier;
mod backup;
mod ballast;
mod committer;
mod entry;
mod error;
mod journal;
mod library;
mod limits;
mod memory;
mod open;
mod options;
mod queue;
mod readers;
mod shared;
mod sqlite;
mod store;
mod stream_map;
mod verify;
mod wal;
mod witness;

pub use backup::{Cut, FILES as COPY_FILES, copy_closed, renew};
pub use error::OpenError;
pub use options::{Fatal, Options};
pub use store::EmbeddedStore;
pub use verify::{Finding, Report, can_open, verify};
