//! Whose run a process belongs to, and which process a socket belongs to.
//!
//! Job: read the signs of runs along a process's ancestry (a shim above it, a marker in an environment), and find the
//! process that holds a socket. A process that called setsid, or whose parent died, is still found: the shim is
//! sub-reaper, so the chain of parents leads to it.
//! Owns: nothing. Never: signals anybody; believes a marker where a shim can be seen, since any process can give its
//! child a variable and none can choose its ancestors.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::kill::MARKER_ENV;
use crate::{limits, procfs, shim};

/// A sign that a process belongs to a run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sign {
    /// It stands below the shim of this attempt's directory.
    Shim(PathBuf),
    /// It, or a process above it, was started with this marker.
    Marker(String),
}

/// The signs of all runs that a process belongs to: shims, the nearest first, then markers, the nearest first. `None`
/// if it is gone, or if its ancestors changed whenever they were looked at.
///
/// # Errors
/// /proc cannot be read, or the ancestry is longer than [`limits::ANCESTRY_MAX`].
pub fn signs(pid: i32) -> io::Result<Option<Vec<Sign>>> {
    for _ in 0..limits::ANCESTRY_TRIES {
        if let Some(found) = climb(pid)? {
            return Ok(Some(found));
        }
        if procfs::stat(pid)?.is_none_or(|stat| stat.ended()) {
            return Ok(None);
        }
    }
    Ok(None)
}

/// One way up; `None` if somebody on it died meanwhile.
fn climb(pid: i32) -> io::Result<Option<Vec<Sign>>> {
    let (mut shims, mut markers) = (Vec::new(), Vec::new());
    let mut at = pid;
    let mut younger = u64::MAX;
    for _ in 0..limits::ANCESTRY_MAX {
        let Some(stat) = procfs::stat(at)? else { return Ok(None) };
        // A parent that is younger than its child is another process with the number of the one that died.
        if stat.start_time > younger {
            return Ok(None);
        }
        if let Some(dir) = shim_dir(at) {
            shims.push(Sign::Shim(dir));
        }
        if let Some(marker) = procfs::env(at, MARKER_ENV) {
            let marker = Sign::Marker(String::from_utf8_lossy(&marker).into_owned());
            if !markers.contains(&marker) {
                markers.push(marker);
            }
        }
        // What was read is this process's only if it is still there.
        match procfs::stat(at)? {
            Some(again) if again.start_time == stat.start_time && again.parent == stat.parent => {}
            _ => return Ok(None),
        }
        if stat.parent <= 0 {
            shims.append(&mut markers);
            return Ok(Some(shims));
        }
        (at, younger) = (stat.parent, stat.start_time);
    }
    // Whoever made it this long may hide a shim above the bound.
    Err(io::Error::other(format!("process {pid} has more than {} ancestors", limits::ANCESTRY_MAX)))
}

/// The attempt's directory, if the process is a shim by its command line, which names it from the shim's own directory.
fn shim_dir(pid: i32) -> Option<PathBuf> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0);
    let (_, verb, dir) = (words.next()?, words.next()?, words.next()?);
    let dir = Path::new(std::ffi::OsStr::from_bytes(dir));
    if verb != shim::VERB.as_bytes() || dir.as_os_str().is_empty() {
        return None;
    }
    Some(fs::read_link(format!("/proc/{pid}/cwd")).ok()?.join(dir))
}

/// A process that holds the socket with this inode; the newest processes are looked at first, since who asks for
/// something was mostly started for it. `None` if nobody who can be seen holds it, or time is up.
///
/// # Errors
/// /proc cannot be listed.
pub fn holder(inode: u64, until: Instant) -> io::Result<Option<i32>> {
    let socket = format!("socket:[{inode}]");
    let mut pids = procfs::pids()?;
    pids.sort_unstable_by(|a, b| b.cmp(a));
    for pid in pids {
        if Instant::now() > until {
            return Ok(None);
        }
        // Another user's process, or one that is gone.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let holds = |fd: &fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == socket.as_str());
        if descriptors.flatten().any(|fd| holds(&fd)) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_socket_is_found_with_whoever_holds_it() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap();
        let soon = Instant::now() + Duration::from_secs(30);
        assert_eq!(holder(inode, soon).unwrap(), Some(i32::try_from(std::process::id()).unwrap()));
        assert_eq!(holder(u64::MAX, soon).unwrap(), None);
    }

    #[test]
    fn a_marker_is_a_sign_and_a_process_that_is_gone_has_none() {
        let mut child = std::process::Command::new("sleep").arg("600").env(MARKER_ENV, "m.1").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let soon = Instant::now() + Duration::from_secs(30);
        // The kernel shows a new program's variables a moment after it runs.
        let is_marked = || signs(pid).unwrap().unwrap().contains(&Sign::Marker("m.1".to_owned()));
        while !is_marked() && Instant::now() < soon {
            std::thread::yield_now();
        }
        let marked = is_marked();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(marked);
        assert_eq!(signs(pid).unwrap(), None);
    }
}
