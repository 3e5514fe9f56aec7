//! `longhaul shim DIR`: the small process that owns one agent's process tree and outlives the server.
//!
//! Job: takes the attempt's lock, starts the agent, spools its output, feeds its input, stops it when asked or when a
//! limit says so, kills what is left of its tree, and records the end.
//! Owns: `started`, `stdout`, `stderr`, `order`, `exit` and the socket `control` of its directory; the agent's tree.
//! Never: has a second thread, a buffer that grows with the output, or a wait without an end; never writes anything
//! without holding the lock, and never lets go of the lock but by exiting.
//!
//! ```text
//! Running ──leader reaped──> Draining ──EOF, nobody left, or bound──> Killing ──ECHILD or bound──> Ending ──> exit
//!    │ deadline, idle, limit, cancel, SIGTERM: the stop ladder, at last KILL of the tree ┘
//! ```

mod clients;
mod closer;
mod ending;
mod feed;
mod keeper;
mod launch;
mod leader;
mod pump;
mod stop;
mod tree;
mod wake;

pub use launch::{VERB, main};
