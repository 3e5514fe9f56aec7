//! What /proc says about processes.
//!
//! Job: boot id, `stat` fields, children, environment markers. Owns: nothing. Never: signals anybody.

use std::fs;
use std::io::{self, BufRead, BufReader};

use rustix::process::Pid;

use crate::limits;

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// One letter: R, S, D, Z (dead, not reaped), X, T, t, I.
    pub(crate) state: u8,
    /// Parent.
    pub(crate) parent: i32,
    /// Process group.
    pub(crate) group: i32,
    /// Field 22: clock ticks after boot at which the process started.
    pub(crate) start_time: u64,
}

impl Stat {
    /// Whether the process has ended, reaped or not.
    pub(crate) fn ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn parse_stat(text: &[u8]) -> Option<Stat> {
    // The command name stands in parentheses and may itself hold blanks and parentheses.
    let after = memchr::memrchr(b')', text)?;
    let rest = std::str::from_utf8(text.get(after + 2..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    // Field 6 (session) is next; start time is field 22.
    let start_time = fields.nth(16)?.parse().ok()?;
    Some(Stat { state, parent, group, start_time })
}

/// Reads `/proc/PID/stat`; `None` if there is no such process.
pub(crate) fn stat(pid: i32) -> io::Result<Option<Stat>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => match parse_stat(&text) {
            Some(stat) => Ok(Some(stat)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not understood"))),
        },
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The number of a process in the innermost pid namespace that it is in. Source: `proc_pid_status(5)`, `NSpid`.
pub(crate) fn inner_pid(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_ascii_whitespace().last()?.parse().ok()
}

/// The kernel's id of this boot.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

/// All process ids that are visible.
pub(crate) fn pids() -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Adds the direct children of all threads of `pid`; none if it is gone. An error if the kernel does not offer it.
fn children(pid: i32, into: &mut Vec<i32>) -> io::Result<()> {
    let threads = match fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(threads) => threads,
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for thread in threads {
        let Ok(thread) = thread else { break };
        let mut path = thread.path();
        path.push("children");
        match fs::read_to_string(&path) {
            Ok(text) => into.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            Err(error) if gone(&error) => {
                if stat(pid)?.is_some() && thread.path().exists() {
                    return Err(io::ErrorKind::Unsupported.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A process below another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descendant {
    /// Its id.
    pub(crate) pid: i32,
    /// Its parent when it was found.
    pub(crate) parent: i32,
}

/// All processes below `root`, nearest first, at most [`limits::TREE_PIDS_MAX`]. A tree that forks meanwhile may be
/// seen in part; the caller repeats until nothing is left.
pub(crate) fn descendants(root: i32) -> io::Result<Vec<Descendant>> {
    let mut found: Vec<Descendant> = Vec::new();
    let mut next = 0;
    let mut parent = root;
    let mut level = Vec::new();
    loop {
        level.clear();
        match children(parent, &mut level) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return scan(root),
            Err(error) => return Err(error),
        }
        found.extend(level.iter().map(|&pid| Descendant { pid, parent }));
        if found.len() >= limits::TREE_PIDS_MAX {
            found.truncate(limits::TREE_PIDS_MAX);
            return Ok(found);
        }
        let Some(following) = found.get(next) else {
            return Ok(found);
        };
        parent = following.pid;
        next += 1;
    }
}

/// The same without `/proc/PID/task/TID/children`, by the parent of every process.
fn scan(root: i32) -> io::Result<Vec<Descendant>> {
    let mut all = Vec::new();
    for pid in pids()? {
        if let Ok(Some(stat)) = stat(pid) {
            all.push(Descendant { pid, parent: stat.parent });
        }
    }
    let mut found: Vec<Descendant> = Vec::new();
    let mut next = 0;
    let mut parent = root;
    loop {
        found.extend(all.iter().filter(|one| one.parent == parent));
        if found.len() >= limits::TREE_PIDS_MAX {
            return Ok(found);
        }
        let Some(following) = found.get(next) else {
            return Ok(found);
        };
        parent = following.pid;
        next += 1;
    }
}

/// Whether a process was started with `entry` (`NAME=value`) in its environment. Unreadable or gone is no.
pub(crate) fn has_env(pid: i32, entry: &[u8]) -> bool {
    let Ok(file) = fs::File::open(format!("/proc/{pid}/environ")) else {
        return false;
    };
    BufReader::new(file).split(0).map_while(Result::ok).any(|one| one == entry)
}

/// The value of a variable that a process was started with. Unreadable or gone is none.
pub(crate) fn env(pid: i32, name: &str) -> Option<Vec<u8>> {
    let file = fs::File::open(format!("/proc/{pid}/environ")).ok()?;
    let value = |entry: Vec<u8>| Some(entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?.to_vec());
    BufReader::new(file).split(0).map_while(Result::ok).find_map(value)
}

/// A process id as rustix wants it.
pub(crate) fn pid(raw: i32) -> Option<Pid> {
    Pid::from_raw(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_hostile_names() {
        let text = b"42 (a) b (c)) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        assert_eq!(parse_stat(text), Some(Stat { state: b'S', parent: 7, group: 42, start_time: 987_654 }));
        assert_eq!(parse_stat(b"42 (a"), None);
    }

    #[test]
    fn this_process_is_its_parents_descendant() {
        let own = i32::try_from(std::process::id()).unwrap();
        let parent = stat(own).unwrap().unwrap().parent;
        assert!(descendants(parent).unwrap().contains(&Descendant { pid: own, parent }));
        assert!(scan(parent).unwrap().contains(&Descendant { pid: own, parent }));
    }
}
