//! The `longhaul` binary.
//!
//! Job: the verbs that must come before anything else (the shim and its kin live beside every agent and stay small),
//! then the command line, then the exit status. Never: anything else.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use longhaul_harness::demo;
use longhaul_model::limits::PROMPT_BYTES_MAX;
use longhaul_supervise::{exec_stage, shim};

/// Much that one thread allocates another frees, all the time: the store's threads what connections read.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    match words.next().as_deref().and_then(|verb| verb.to_str()) {
        Some(shim::VERB) => shim::main(Path::new(&words.next().unwrap_or_default())),
        Some(exec_stage::VERB) => exec_stage::main(words),
        Some(longhaul_harness::passthrough::VERB) => longhaul::passthrough::main(),
        Some("demo-agent") => demo_agent(&words.next().unwrap_or_default(), words.next()),
        _ => ExitCode::from(longhaul::cli::main(std::env::args_os())),
    }
}

/// The built-in agent: its prompt on stdin, its lines on stdout.
fn demo_agent(variant: &OsString, session: Option<OsString>) -> ExitCode {
    let mut prompt = Vec::new();
    let read = io::stdin().take(PROMPT_BYTES_MAX as u64).read_to_end(&mut prompt);
    let mut out = io::BufWriter::new(io::stdout());
    let said = read.and_then(|_| {
        let prompt = String::from_utf8_lossy(&prompt);
        let (variant, sleep) = (variant.to_string_lossy(), &mut std::thread::sleep);
        match session {
            Some(session) => demo::agent::resume(&session.to_string_lossy(), &prompt, &mut out, sleep),
            None => demo::agent::run(&variant, &prompt, &mut out, sleep),
        }
    });
    match said.and_then(|status| out.flush().map(|()| status)) {
        Ok(status) => ExitCode::from(status),
        Err(_) => ExitCode::from(1),
    }
}
