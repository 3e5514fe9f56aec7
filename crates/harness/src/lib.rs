//! Harnesses: one file per agent CLI. A command line in, events out.
//!
//! Job: for each agent CLI the plan that starts it ([`Harness::plan`]) and the parser of what it prints
//! ([`Harness::parser`]), for any other command the same (`exec`), for one call of a model ([`passthrough`]), and a
//! built-in agent that needs no CLI, key or network ([`demo`]).
//! Owns: the names of the harnesses and all knowledge about their CLIs.
//! Never: reads or writes anything, asks for the time, looks at the environment or starts a process. What a parser
//! says depends on nothing but the lines it was given, so that a later server can go on where an earlier one stopped.

mod acp;
mod channel;
mod claude;
mod cli;
mod codex;
pub mod demo;
mod exec;
mod gemini;
mod harness;
mod kept;
mod kimi;
mod login;
mod mcp;
mod opencode;
mod parser;
pub mod passthrough;
mod pi;
mod plan;
mod registry;
mod request;
mod saved;
mod shape;

pub use channel::{Channel, CloseWhen, FRAME_BYTES_MAX, Frame, Prepared, Reply};
pub use harness::Harness;
pub use login::{Login, login};
pub use mcp::{Mcp, McpServer};
pub use parser::{Parser, SourceLine, StateError};
pub use passthrough::upstream::{Dialect, Upstream};
pub use plan::{Plan, PlanFile, Program, StopStep};
pub use registry::{all, find};
pub use request::{Permissions, PlanError, Request};
