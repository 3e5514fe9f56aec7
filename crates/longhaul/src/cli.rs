//! The command line: one file per verb.
//!
//! Job: parse, find the server, call it, show the answer, give the exit status of DESIGN 9.
//! Owns: the two output streams and the reading of the environment. Never: touches a run but through the server.

mod approve;
mod args;
mod attach;
mod cancel;
mod completions;
mod config;
mod duration;
mod environment;
mod escape;
mod exit;
mod follow;
mod inspect;
mod logs;
mod pick;
mod project;
mod prune;
mod ps;
mod render;
mod request;
mod rm;
mod run;
mod screen;
mod send;
mod serve;
mod server;
mod session;
mod stdin;
mod table;
mod trouble;
mod verify;
mod version;
mod wait;
mod why;

pub use args::{Cli, main};
pub(crate) use duration::parse as age;
pub(crate) use serve::share;
