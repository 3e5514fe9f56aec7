//! The last steps of an agent's process before it becomes the agent: `longhaul shim-exec`.
//!
//! Job: dies with the shim, takes default signals, the agent's directory and environment, waits for the go byte, execs.
//! Owns: the channel to the shim; it closes by itself when the exec succeeds, and carries an [`ExecError`] if it does not.
//! Never: runs without the shim; never passes a descriptor beyond 0–2.

use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::attempt::{AttemptDir, AttemptError};
use crate::kill::MARKER_ENV;
use crate::record::ExecError;
use crate::{attempt, limits, sys};

/// The hidden verb the binary must route to [`main`].
pub const VERB: &str = "shim-exec";

/// The argument after which a path is named: to enter a control group and leave, which proves that it can be entered.
pub(crate) const ENTER: &str = "enter";

/// Runs the stage in the attempt's directory. `args` is what follows the verb: the shim's pid and the number of the
/// inherited channel. Returns only if the agent did not start.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter().peekable();
    if args.next_if(|arg| arg == ENTER).is_some() {
        let entered = args.next().is_some_and(|procs| std::fs::write(procs, "0").is_ok());
        return if entered { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let mut numbers = args.map_while(|arg| arg.to_str()?.parse::<i32>().ok());
    let (Some(shim), Some(channel)) = (numbers.next(), numbers.next()) else {
        return ExitCode::from(126);
    };
    let Ok(channel) = sys::inherited(channel) else {
        return ExitCode::from(126);
    };
    let mut channel = UnixStream::from(channel);
    let mut go = [0];
    let error = match enter(shim).map_err(|error| of_io("setup", "", &error)).and_then(|()| prepare()) {
        // An end instead of the byte: the shim is gone or gave up.
        Ok(mut agent) => match channel.read_exact(&mut go) {
            Ok(()) => exec(&mut agent),
            Err(_) => return ExitCode::from(126),
        },
        Err(error) => error,
    };
    let code = u8::try_from(error.shell_code()).unwrap_or(126);
    let _ = channel.write_all(&attempt::json(&error));
    ExitCode::from(code)
}

fn enter(shim: i32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The shim may have died before the line above took effect.
    if getppid().map(rustix::process::Pid::as_raw_pid) != Some(shim) {
        return Err(io::Error::other("the shim is gone"));
    }
    sys::default_signals();
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    sys::close_on_exec_from(3)
}

struct Agent {
    command: Command,
    program: String,
}

fn prepare() -> Result<Agent, ExecError> {
    let dir = AttemptDir::open(Path::new(".")).map_err(|error| of_attempt("spec", &error))?;
    let spec = dir.read_spec().map_err(|error| of_attempt("spec", &error))?;
    let spec = spec.ok_or_else(|| of_io("spec", attempt::SPEC, &io::ErrorKind::NotFound.into()))?;
    let environment = dir.read_env().map_err(|error| of_attempt("env", &error))?;
    let bad = |pair: &&(String, String)| pair.0.is_empty() || pair.0.contains(['=', '\0']) || pair.1.contains('\0');
    if let Some((name, _)) = environment.iter().find(bad) {
        let why = io::Error::new(io::ErrorKind::InvalidInput, "not an environment variable");
        return Err(of_io("env", name, &why));
    }
    env::set_current_dir(&spec.cwd).map_err(|error| of_io("cwd", &spec.cwd, &error))?;
    let mut command = Command::new(&spec.program);
    command.args(&spec.args).env_clear().envs(environment);
    command.env("PWD", &spec.cwd).env(MARKER_ENV, &spec.marker);
    Ok(Agent { command, program: spec.program })
}

/// With an environment of its own the program is looked up in that environment's `PATH`. Source: std, `do_exec`.
fn exec(agent: &mut Agent) -> ExecError {
    let error = agent.command.exec();
    of_io("exec", &agent.program, &error)
}

fn of_attempt(step: &str, error: &AttemptError) -> ExecError {
    match error {
        AttemptError::Io { path, source } => of_io(step, &path.to_string_lossy(), source),
        AttemptError::Garbled { path, why } => {
            ExecError { errno: 0, message: clip(why), path: clip(&path.to_string_lossy()), step: step.to_owned() }
        }
    }
}

/// The error of a step, bounded for the exit record.
pub(crate) fn of_io(step: &str, path: &str, error: &io::Error) -> ExecError {
    ExecError {
        errno: error.raw_os_error().unwrap_or(0),
        message: clip(&error.to_string()),
        path: clip(path),
        step: step.to_owned(),
    }
}

/// The beginning of a text, at most [`limits::MESSAGE_BYTES_MAX`].
pub(crate) fn clip(text: &str) -> String {
    text[..text.floor_char_boundary(limits::MESSAGE_BYTES_MAX)].to_owned()
}

/// The error of a step on the attempt's directory, for the shim's own use.
pub(crate) fn of_step(step: &str, error: &AttemptError) -> ExecError {
    of_attempt(step, error)
}
