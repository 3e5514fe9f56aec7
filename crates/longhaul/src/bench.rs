//! `longhaul bench`: what a server of the Durable Streams protocol does in a second, and what a kill does to it.
//!
//! Job: drive any server of the protocol by its address, ours and others alike, and tell what was measured. Owns: the
//! servers that it starts and their directories. Never: averages over errors silently; knows the inside of any server,
//! ours included; asserts a time.
//!
//! Servers are interleaved: each round does one row after the other, and each row every server in turn, so that what
//! else the machine does falls on all of them. Beside each round stands the raw figure of the disk.

mod append;
mod catch_up;
mod deliver;
mod disk;
mod idle;
mod kill;
mod limits;
mod load;
mod plan;
mod reader;
mod report;
mod request;
mod sample;
mod storm;
mod target;
mod wire;

pub use kill::{KillOptions, KillReport};
pub use plan::{Options, run};
pub use report::Report;
pub use target::{BenchError, Given, Source, command_words};

pub use kill::run as run_kills;
