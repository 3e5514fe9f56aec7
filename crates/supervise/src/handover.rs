//! One program takes another's place in the same process: exec, with a lock and a listening socket.
//!
//! Job: hands two descriptors on under their numbers and takes them over on the other side, after their identity was
//! checked. Owns: the form of the variable that names them. Never: leaves any other descriptor open over the exec, or
//! believes a variable that was meant for another process.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::sys::signal::{SigSet, Signal};
use rustix::io::FdFlags;

use crate::lock::FileLock;
use crate::sys;

/// The variable that names the descriptors to the next program, as `VERSION:PID:LISTENER:LOCK`.
pub const VARIABLE: &str = "LONGHAUL_HANDOVER";

/// The version of this way of handing over; a program that knows another one must not be handed anything.
pub const VERSION: u32 = 1;

/// Signals that wait while no program of ours listens for them: over the exec, and until the next one is ready.
const HELD: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2];

/// Puts off the signals that end a server or have it upgraded, for this thread and those it starts. What is started by
/// `std::process` has none put off.
///
/// # Errors
/// Of the system call, which knows none for these arguments.
pub fn hold_signals() -> io::Result<()> {
    Ok(SigSet::from_iter(HELD).thread_block()?)
}

/// Lets this thread take them again; those that came meanwhile come now.
///
/// # Errors
/// Of the system call, which knows none for these arguments.
pub fn release_signals() -> io::Result<()> {
    Ok(SigSet::from_iter(HELD).thread_unblock()?)
}

/// Becomes `program`, which inherits the lock and the socket and nothing else beyond descriptors 0–2. Returns only if
/// that failed; everything is then as it was.
pub fn exec(
    program: &Path,
    args: &[OsString],
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    listener: &TcpListener,
    lock: &FileLock,
) -> io::Error {
    match try_exec(program, args, environment, listener, lock) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

fn try_exec(
    program: &Path,
    args: &[OsString],
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    listener: &TcpListener,
    lock: &FileLock,
) -> io::Result<Infallible> {
    let text = |text: Vec<u8>| CString::new(text).map_err(io::Error::from);
    let path = text(program.as_os_str().as_bytes().to_vec())?;
    let words = std::iter::once(program.as_os_str()).chain(args.iter().map(OsString::as_os_str));
    let argv = words.map(|word| text(word.as_bytes().to_vec())).collect::<io::Result<Vec<_>>>()?;
    let (listener, lock) = (listener.as_fd(), lock.as_fd());
    let value = format!("{VERSION}:{}:{}:{}", std::process::id(), listener.as_raw_fd(), lock.as_raw_fd());
    let mut variables = Vec::new();
    for (name, value) in environment.into_iter().filter(|(name, _)| name != VARIABLE) {
        variables.push(text([name.into_vec(), b"=".to_vec(), value.into_vec()].concat())?);
    }
    variables.push(text(format!("{VARIABLE}={value}").into_bytes())?);
    // From here on a failure must put the flags back.
    for fd in [listener, lock] {
        rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
    }
    let error = nix::unistd::execve(&path, &argv, &variables);
    for fd in [listener, lock] {
        rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
    }
    Ok(error?)
}

/// Takes over what the program before handed on; `None` if the variable was meant for another process, which it is in
/// everything that a server starts. To be called once, in the first lines of a program.
///
/// # Errors
/// The variable cannot be read, or a descriptor is not what it should be: a listening socket, the lock of `lock_path`.
pub fn take(value: &OsStr, lock_path: &Path) -> io::Result<Option<(TcpListener, FileLock)>> {
    let numbers: Option<Vec<u32>> =
        value.to_str().and_then(|text| text.split(':').map(|part| part.parse().ok()).collect());
    let Some([version, pid, listener, lock]) = numbers.as_deref() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{VARIABLE} cannot be read")));
    };
    if *pid != std::process::id() {
        return Ok(None);
    }
    if *version != VERSION {
        let text = format!("{VARIABLE} is of version {version}, and this program knows {VERSION}");
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let listener = inherited(*listener)?;
    let lock = inherited(*lock)?;
    let listens = rustix::net::sockopt::socket_acceptconn(&listener).unwrap_or(false);
    if !listens {
        return Err(wrong("the first is no listening socket"));
    }
    let (found, expected) = (rustix::fs::fstat(&lock)?, rustix::fs::stat(lock_path)?);
    if (found.st_dev, found.st_ino) != (expected.st_dev, expected.st_ino) {
        return Err(wrong(&format!("the second is not {}", lock_path.display())));
    }
    Ok(Some((TcpListener::from(listener), FileLock::from_fd(lock)?)))
}

fn inherited(number: u32) -> io::Result<OwnedFd> {
    let fd = sys::inherited(RawFd::try_from(number).map_err(io::Error::other)?)?;
    rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("of the descriptors in {VARIABLE}, {what}"))
}

/// The processes that this one has as children, by the kernel's own account: those of the program before, when asked in
/// the first lines. Nobody else waits for them.
///
/// # Errors
/// `/proc` cannot be read.
pub fn children() -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("children"))?;
        found.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    Ok(found)
}

/// Reaps those of `children` that have ended, and forgets them. A number stays taken until it is reaped here.
pub fn reap(children: &mut Vec<i32>) {
    use rustix::process::{Pid, WaitOptions, waitpid};
    children.retain(|pid| {
        Pid::from_raw(*pid).is_some_and(|pid| matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None)))
    });
}
