//! From process start to a running agent.
//!
//! Job: session, directory, descriptors, signals, lock; pipes and socket; the exec stage; the `started` record, durable
//! before the go byte. Owns: the order of these steps. Never: starts an agent for an attempt that has `started` or `exit`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, WaitOptions};

use super::clients::Clients;
use super::closer::Closer;
use super::feed::Feed;
use super::keeper::Keeper;
use super::leader::Leader;
use super::pump::Pump;
use crate::attempt::{self, AttemptDir, AttemptError};
use crate::cgroup::{Group, GroupSpec};
use crate::durable;
use crate::exec_stage::{self, of_io, of_step};
use crate::lock::{FileLock, Holder, LockError};
use crate::order::Stream;
use crate::record::{self, ExecError, Exit, How, Started, unix_ms};
use crate::spec::{AttemptSpec, CloseWhen, Stdin};
use crate::{limits, procfs, sys};

/// The verb the binary must route to [`main`].
pub const VERB: &str = "shim";

/// Runs a shim in the attempt's directory until the attempt has ended. To be called first thing in `main`, while the
/// process is single-threaded and holds no descriptor beyond 0–2.
pub fn main(dir: &Path) -> ExitCode {
    match run(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "longhaul shim: {}: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path) -> io::Result<()> {
    // Fails only for a process group leader, which has its own group already.
    let _ = rustix::process::setsid();
    // It was executed by a name that says nothing. Fails for no name as short as this.
    let _ = rustix::thread::set_name(c"longhaul-shim");
    crate::nofile::restore();
    std::env::set_current_dir(dir)?;
    sys::close_from(3)?;
    sys::default_signals();
    sys::ignore_write_signals();
    let signals = block_signals()?;
    let dir = AttemptDir::open(Path::new(".")).map_err(io::Error::other)?;
    let Some(lock) = take_lock(&dir)? else {
        return Ok(());
    };
    let _ = lock.write_holder(&Holder { pid: std::process::id(), address: attempt::CONTROL.to_owned() });
    let untouched =
        dir.read_exit().map_err(io::Error::other)?.is_none() && dir.read_started().map_err(io::Error::other)?.is_none();
    if !untouched {
        // It has ended, or an earlier shim was lost with its agent: never a second agent.
        return dir.settle_under(&lock).map(drop).map_err(io::Error::other);
    }
    match start(&dir, signals) {
        Ok(keeper) => keeper.run(),
        Err(error) => never_started(&dir, error),
    }
    // The lock goes with the process.
}

/// The signals that are read instead of taken. All others keep their default.
fn block_signals() -> io::Result<SignalFd> {
    let mut taken = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
        Signal::SIGCHLD,
    ] {
        taken.add(signal);
    }
    taken.thread_set_mask()?;
    Ok(SignalFd::with_flags(&taken, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

fn take_lock(dir: &AttemptDir) -> io::Result<Option<FileLock>> {
    let until = Instant::now() + limits::LOCK_WAIT;
    loop {
        match FileLock::try_exclusive(&dir.file(attempt::LOCK)) {
            Ok(lock) => return Ok(Some(lock)),
            Err(LockError::Held { .. }) if Instant::now() < until => {
                std::thread::sleep(limits::LOCK_RETRY);
            }
            Err(LockError::Held { .. }) => return Ok(None),
            Err(LockError::Io { source, .. }) => return Err(source),
        }
    }
}

fn never_started(dir: &AttemptDir, error: ExecError) -> io::Result<()> {
    durable::remove(&dir.file(attempt::ENV))?;
    durable::remove(&dir.file(attempt::CONTROL))?;
    let exit = Exit::bare(How::NeverStarted { exec_error: Some(error) }, unix_ms());
    dir.write_exit(&exit).map_err(io::Error::other)
}

fn start(dir: &AttemptDir, signals: SignalFd) -> Result<Keeper, ExecError> {
    let spec = dir.read_spec().map_err(|error| of_step("spec", &error))?;
    let spec = spec.ok_or_else(|| of_io("spec", attempt::SPEC, &io::ErrorKind::NotFound.into()))?;
    let setup = |what: &'static str| move |error: io::Error| of_io("setup", what, &error);
    // Orphans of the tree become children of this process.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|e| setup("sub-reaper")(e.into()))?;
    let reserve = dir.reserve_exit().map_err(|error| of_step("setup", &error))?;
    let clients = listen(dir).map_err(setup(attempt::CONTROL))?;
    let (stdout, stdout_end) = output_pipe().map_err(setup("stdout pipe"))?;
    let (stderr, stderr_end) = output_pipe().map_err(setup("stderr pipe"))?;
    let (stdin, stdin_end) = input(dir, &spec.stdin).map_err(setup("stdin"))?;
    let pump = Pump::open(dir, [stdout, stderr], spec.limits.output_bytes_max).map_err(setup("spool"))?;
    let feed = match stdin_end {
        Some(end) => Some(Feed::open(dir, end, spec.epoch).map_err(setup(attempt::INPUT))?),
        None => None,
    };
    let closer = match &spec.stdin {
        Stdin::Channel { close_when: Some(CloseWhen::JsonType { value }) } => {
            let spool = File::open(dir.file(Stream::Stdout.file_name())).map_err(setup("stdout"))?;
            Some(Closer::new(value.clone(), spool))
        }
        _ => None,
    };
    let group = make_group(&spec)?;
    let give_up = |error| {
        if let Some(group) = &group {
            let _ = group.end(limits::GROUP_REMOVAL_WAIT);
        }
        error
    };
    let spawned = spawn_stage(stdin, stdout_end, stderr_end);
    let (channel, mut stage) = spawned.map_err(|error| give_up(setup(exec_stage::VERB)(error)))?;
    let entered = enter_group(&spec, group.as_ref(), stage.pid);
    match entered.and_then(|group| Ok((group, record_started(dir, stage.pid).map_err(|e| of_step("setup", &e))?))) {
        Ok((group, started)) => {
            let _ = (&channel).write_all(b"g");
            let keeper = Keeper::new(
                dir.clone(),
                spec,
                signals,
                clients,
                pump,
                feed,
                closer,
                stage,
                channel,
                reserve,
                started,
                group,
            );
            Ok(keeper)
        }
        Err(error) => {
            // Without its go byte the stage leaves by itself.
            drop(channel);
            stage.signal(rustix::process::Signal::KILL);
            let _ = rustix::process::waitpid(procfs::pid(stage.pid), WaitOptions::empty());
            Err(give_up(error))
        }
    }
}

/// Makes the attempt's control group; without limits an attempt starts without one as well.
fn make_group(spec: &AttemptSpec) -> Result<Option<Group>, ExecError> {
    let Some(wanted) = &spec.group else { return Ok(None) };
    match Group::make(wanted) {
        Ok(group) => Ok(Some(group)),
        Err(error) if wanted.is_limited() => Err(of_group(wanted, &error)),
        Err(_) => Ok(None),
    }
}

/// Puts the stage, which waits for its go, into the group; the shim stays out of it.
fn enter_group(spec: &AttemptSpec, group: Option<&Group>, stage: i32) -> Result<Option<Group>, ExecError> {
    let (Some(wanted), Some(group)) = (&spec.group, group) else { return Ok(None) };
    match group.add(stage) {
        Ok(()) => Ok(Some(group.clone())),
        Err(error) if wanted.is_limited() => Err(of_group(wanted, &error)),
        Err(_) => {
            // It may be in one of several: what would be killed there is the agent.
            let back = wanted.dirs.iter().filter_map(|dir| dir.parent());
            back.for_each(|dir| drop(fs::write(dir.join("cgroup.procs"), stage.to_string())));
            let _ = group.remove();
            Ok(None)
        }
    }
}

/// A limit that cannot be kept is never left out: the agent is not started.
fn of_group(wanted: &GroupSpec, error: &io::Error) -> ExecError {
    let dir = wanted.dirs.first().map(|dir| dir.to_string_lossy().into_owned()).unwrap_or_default();
    let mut error = of_io("setup", &dir, error);
    // Not a trouble of the program, which the system's number would say.
    error.errno = 0;
    error.message = exec_stage::clip(&format!("the limits of its control group cannot be set: {}", error.message));
    error
}

fn listen(dir: &AttemptDir) -> io::Result<Clients> {
    let path = dir.file(attempt::CONTROL);
    durable::remove(&path)?;
    let listener = UnixListener::bind(attempt::CONTROL)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(Clients::new(listener))
}

/// A pipe whose read end does not block; the flag belongs to that end alone.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?;
    Ok((read, write))
}

fn input(dir: &AttemptDir, stdin: &Stdin) -> io::Result<(Stdio, Option<OwnedFd>)> {
    match stdin {
        Stdin::Null => Ok((Stdio::null(), None)),
        Stdin::File { name } => Ok((OpenOptions::new().read(true).open(dir.file(name))?.into(), None)),
        Stdin::Channel { .. } => {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            rustix::fs::fcntl_setfl(&write, OFlags::NONBLOCK)?;
            Ok((read.into(), Some(write)))
        }
    }
}

/// Starts the exec stage in a process group of its own; it waits for one byte on the returned channel.
fn spawn_stage(stdin: Stdio, stdout: OwnedFd, stderr: OwnedFd) -> io::Result<(UnixStream, Leader)> {
    let (channel, theirs) = UnixStream::pair()?;
    channel.set_nonblocking(true)?;
    // Only this one is inherited; nobody else can fork here meanwhile.
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
    let child = Command::new("/proc/self/exe")
        .arg0("longhaul")
        .arg(exec_stage::VERB)
        .arg(std::process::id().to_string())
        .arg(theirs.as_fd().as_raw_fd().to_string())
        .env_clear()
        .process_group(0)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let pidfd = procfs::pid(pid).ok_or(io::ErrorKind::NotFound)?;
    let pidfd = rustix::process::pidfd_open(pidfd, PidfdFlags::empty())?;
    Ok((channel, Leader::new(pid, pidfd)))
}

fn record_started(dir: &AttemptDir, pid: i32) -> Result<Started, AttemptError> {
    let io = |source| AttemptError::Io { path: dir.file(attempt::STARTED), source };
    let stat = procfs::stat(pid).map_err(io)?.ok_or_else(|| io(io::ErrorKind::NotFound.into()))?;
    let started = Started {
        version: record::VERSION,
        pid,
        boot_id: procfs::boot_id().map_err(io)?,
        start_time: stat.start_time,
        started_at_ms: unix_ms(),
        shim_pid: i32::try_from(std::process::id()).unwrap_or(0),
        shim_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    dir.replace(attempt::STARTED, &attempt::json(&started))?;
    Ok(started)
}
