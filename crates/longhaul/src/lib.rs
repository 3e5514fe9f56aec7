//! Longhaul keeps AI agent runs alive.
//!
//! Job: the binary's parts: server, HTTP faces, client and command line. Everything that lasts is in the crates below.
pub mod access;
pub mod backup;
pub mod bench;
pub mod cli;
pub mod client;
pub mod config;
pub mod http;
pub mod passthrough;
mod port_holder;
mod pulse;
pub mod serve;
pub mod telemetry;
pub mod traces;
mod webhook;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
