//! How many descriptors a process may have open.
//!
//! Job: a server takes all that it may have; what it starts gets what the server was started with, since a program that
//! uses select(2) breaks above 1024. Owns: the limit that was there before. Never: raises a hard limit.

use std::process::Command;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The variable by which a shim is told; no agent sees it.
const VARIABLE: &str = "LONGHAUL_NOFILE";

/// The soft limit that this process was started with, once it has another.
static BEFORE: OnceLock<u64> = OnceLock::new();

/// Raises the soft limit to the hard one; what it is now, if there is one.
pub fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let Some(before) = limit.current.filter(|before| limit.maximum.is_none_or(|most| most > *before)) else {
        return limit.current;
    };
    // No privilege is needed up to the hard limit; where the kernel refuses nevertheless, all stays as it was.
    if setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).is_err() {
        return Some(before);
    }
    let _ = BEFORE.set(before);
    limit.maximum
}

/// Puts the soft limit back to what it was before [`raise`], for a program that is to take this one's place.
pub fn lower() {
    if let Some(before) = BEFORE.get() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        // Lowering a soft limit cannot fail, and descriptors beyond it stay open.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(*before), maximum });
    }
}

/// Tells a shim that is about to be started what to put back.
pub(crate) fn pass_on(command: &mut Command) {
    if let Some(before) = BEFORE.get() {
        command.env(VARIABLE, before.to_string());
    }
}

/// Puts back what a server told.
#[expect(
    clippy::disallowed_methods,
    reason = "a shim's first lines are the edge, and its environment holds nothing else"
)]
pub(crate) fn restore() {
    let told = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok());
    if let Some(before) = told {
        let maximum = getrlimit(Resource::Nofile).maximum;
        // Lowering a soft limit cannot fail; without it the agent merely has more.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(before), maximum });
    }
}
