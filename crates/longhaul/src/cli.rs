//! The command line: one file per verb.
//!
//! Job: parse, find the server, call it, show the answer, give the exit status of DESIGN 9.
//! Owns: the two output streams and the reading of the environment. Never: touches a run but through the server.

mod approve;
mod args;
mod attach;
mod backup;
mod bench;
mod cancel;
mod completions;
mod config;
mod doctor;
mod drain;
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
mod restore;
mod resume;
mod rm;
mod run;
mod screen;
mod send;
mod serve;
mod server;
mod service;
mod session;
mod sessions;
mod share;
mod stdin;
mod table;
mod token;
mod trouble;
mod verify;
mod version;
mod wait;
mod why;

pub use args::{Cli, main};

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let next = inner.to_string();
        // Some say their cause themselves.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = inner.source();
    }
    text
}
pub(crate) use duration::parse as age;
pub(crate) use serve::{cgroup, share};
