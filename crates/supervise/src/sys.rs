//! The few system calls that have no safe wrapper.
//!
//! Job: closing inherited descriptors, taking over one by number, and default signal dispositions.
//! Owns: nothing. Never: is called by anything but the first lines of the shim, of its exec stage and of a server that
//! takes another's place, while these are the only thread and hold no descriptor of their own.
#![expect(unsafe_code, reason = "close_range, sigaction and from_raw_fd have no safe form in std, rustix or nix")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The highest signal number on Linux. Source: signal(7).
const SIGNAL_MAX: libc::c_int = 64;

fn close_range(first: RawFd, flags: libc::c_uint) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: close_range takes three integers and touches no memory. The callers own no descriptor in the range.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor from `first` on. To be called before the process opens its first own one.
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    close_range(first, 0)
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    close_range(first, libc::CLOSE_RANGE_CLOEXEC)
}

/// Takes over a descriptor that was inherited under a known number.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads a flag and touches no memory; it fails if the number is not open.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the descriptor is open, was passed to this process for this one purpose, and nothing else here owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives every signal its default disposition; an ignored one would be inherited through exec. By the system call
/// itself: libc keeps its hands on 32 and 33, which a careless ancestor may have left ignored (seen in the wild).
pub(crate) fn default_signals() {
    /// The kernel's `struct sigaction`, all zero on every architecture: SIG_DFL, no flags, empty mask.
    const DEFAULT: [u64; 8] = [0; 8];
    /// Bytes of the kernel's `sigset_t`.
    const SET_BYTES: usize = 8;
    for signal in 1..=SIGNAL_MAX {
        let old = std::ptr::null_mut::<u64>();
        // SAFETY: the kernel reads at most 40 bytes of DEFAULT and writes nothing. No handler is installed. KILL and
        // STOP are refused, which is harmless.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), old, SET_BYTES) };
    }
}

/// Ignores the two signals by which a failed write would kill the shim: a closed pipe and a file over its size limit.
pub(crate) fn ignore_write_signals() {
    for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
        // SAFETY: SIG_IGN installs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
