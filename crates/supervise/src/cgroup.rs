//! Control groups: one per attempt, where the machine lets us have them.
//!
//! Job: finding where groups can be made, making one with its limits, killing and counting what is in it, removing it.
//! A process cannot leave its group by `setsid`, by a double fork or by clearing its environment, so an empty group is
//! proof that a tree is gone, also when the shim that knew the tree was killed.
//! Owns: directories called `longhaul-MARKER`, and those alone. Never: touches a group of another name, or a limit of
//! a group that it did not make.
//!
//! Version 2 is preferred: one directory with limits, `cgroup.kill` and `cgroup.events`. Where the controllers are
//! bound to version 1, memory and task limits are set there, and a version 2 hierarchy without controllers still kills.
//! Source: the kernel's admin-guide/cgroup-v2 and cgroup-v1, and measured on Linux 6.1 and 6.18.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::{exec_stage, limits, procfs};

/// What every group of an attempt is called before its marker.
pub const PREFIX: &str = "longhaul-";

/// Nanoseconds after which a group of a look is nobody's.
const LEFT_AFTER: u128 = 60_000_000_000;

/// The group that a server lives in below the one it may make groups in, so that controllers can be handed on.
const SERVER: &str = "longhaul-server";

const PROCS: &str = "cgroup.procs";

/// The groups of one attempt, part of its spec.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupSpec {
    /// Absolute directories, one per hierarchy; each one's name begins with [`PREFIX`].
    pub dirs: Vec<PathBuf>,
    /// Bytes of memory, swap included, of all processes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes_max: Option<u64>,
    /// Processes and threads at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks_max: Option<u64>,
}

impl GroupSpec {
    /// Whether every directory is one that this module may make and remove.
    pub(crate) fn is_ours(&self) -> bool {
        let ours = |dir: &PathBuf| {
            let name = dir.file_name().and_then(|name| name.to_str());
            dir.is_absolute() && name.is_some_and(|name| name.starts_with(PREFIX) && name != SERVER)
        };
        self.dirs.iter().all(ours)
    }

    /// Whether the attempt must not start without its group.
    pub fn is_limited(&self) -> bool {
        self.memory_bytes_max.is_some() || self.tasks_max.is_some()
    }
}

/// Where groups are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Where {
    /// In the server's own group.
    #[default]
    Own,
    /// In this directory of a version 2 hierarchy.
    Dir(PathBuf),
    /// Nowhere: process trees are held by their shims alone.
    Nowhere,
}

/// A directory in which groups can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Base {
    dir: PathBuf,
    version_2: bool,
    memory: bool,
    tasks: bool,
}

/// A directory that may become a [`Base`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    dir: PathBuf,
    version_2: bool,
    /// The root of what this process sees of the hierarchy.
    root: bool,
}

/// The places in which this server makes groups; none where the machine does not let it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grounds {
    bases: Vec<Base>,
}

impl Grounds {
    /// Looks where groups can be made, by making some: each is entered by a short-lived `exe` and removed again.
    /// Controllers of version 2 are handed on where no process stands in the way. A server alone in the root of a
    /// container moves itself out of the way; in a systemd unit it must not, since the unit's next start could put no
    /// process there while runs are alive: `DelegateSubgroup=longhaul-server` is for that.
    pub fn find(place: &Where, exe: &Path) -> Self {
        let candidates = match place {
            Where::Nowhere => Vec::new(),
            Where::Dir(dir) => vec![Candidate { dir: dir.clone(), version_2: true, root: false }],
            Where::Own => own_groups(),
        };
        let bases = candidates.into_iter().filter_map(|candidate| Base::probe(candidate, exe)).collect();
        Self { bases }
    }

    /// Whether a limit of memory can be kept.
    pub fn limits_memory(&self) -> bool {
        self.bases.iter().any(|base| base.memory)
    }

    /// Whether a limit of tasks can be kept.
    pub fn limits_tasks(&self) -> bool {
        self.bases.iter().any(|base| base.tasks)
    }

    /// Whether groups can be made at all.
    pub fn any(&self) -> bool {
        !self.bases.is_empty()
    }

    /// The groups of the attempt with this marker: those that its limits need, and one that tells what is left of it.
    pub fn group(&self, marker: &str, memory_bytes_max: Option<u64>, tasks_max: Option<u64>) -> Option<GroupSpec> {
        let memory = self.bases.iter().find(|base| memory_bytes_max.is_some() && base.memory);
        let tasks = self.bases.iter().find(|base| tasks_max.is_some() && base.tasks);
        let proof =
            self.bases.iter().find(|base| base.version_2).or_else(|| memory.or(tasks).or(self.bases.first()))?;
        let mut dirs: Vec<PathBuf> = Vec::new();
        for base in [Some(proof), memory, tasks].into_iter().flatten() {
            let dir = base.dir.join(format!("{PREFIX}{marker}"));
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        Some(GroupSpec { dirs, memory_bytes_max, tasks_max })
    }

    /// The groups that the attempt with this marker may have, whatever its limits were: for one without a spec.
    pub fn every_group(&self, marker: &str) -> GroupSpec {
        let dirs = self.bases.iter().map(|base| base.dir.join(format!("{PREFIX}{marker}"))).collect();
        GroupSpec { dirs, ..GroupSpec::default() }
    }
}

impl Base {
    fn probe(candidate: Candidate, exe: &Path) -> Option<Self> {
        let Candidate { dir, version_2, root } = candidate;
        if version_2 {
            hand_on(&dir, root);
        }
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        for entry in fs::read_dir(&dir).ok()?.flatten() {
            if entry.file_name().to_str().is_some_and(|name| is_left(name, nanos)) {
                // Whoever made it was killed meanwhile; one that is in use cannot be removed.
                let _ = fs::remove_dir(entry.path());
            }
        }
        let probe = dir.join(format!("{PREFIX}probe-{}-{nanos}", std::process::id()));
        fs::create_dir(&probe).ok()?;
        let entered = Command::new(exe)
            .arg(exec_stage::VERB)
            .arg(exec_stage::ENTER)
            .arg(probe.join(PROCS))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let there = |name: &str| probe.join(name).exists();
        let memory = there(if version_2 { "memory.max" } else { "memory.limit_in_bytes" });
        let tasks = there("pids.max");
        let removed = fs::remove_dir(&probe);
        let usable = entered.is_ok_and(|status| status.success()) && removed.is_ok();
        usable.then_some(Self { dir, version_2, memory, tasks })
    }
}

/// Whether a group is one that a look left long ago. A look takes milliseconds.
fn is_left(name: &str, now: u128) -> bool {
    let made =
        name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix("probe-")).and_then(|rest| rest.rsplit_once('-'));
    made.and_then(|(_, nanos)| nanos.parse::<u128>().ok()).is_some_and(|made| made.saturating_add(LEFT_AFTER) < now)
}

/// Makes memory and pids controllers of a version 2 group available below it, if nobody else stands in the way.
fn hand_on(dir: &Path, may_move: bool) {
    let words = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let (offered, handed) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
    let has = |list: &str, name: &str| list.split_ascii_whitespace().any(|word| word == name);
    let tell = |word: String| drop(fs::write(dir.join("cgroup.subtree_control"), word));
    let own = std::process::id().to_string();
    // The root, which has no type, may hold processes and hand controllers on; no other group may do both.
    let bound = || dir.join("cgroup.type").exists() && !words(PROCS).trim().is_empty();
    if may_move && bound() && words(PROCS).trim() == own {
        let below = dir.join(SERVER);
        let _ = fs::create_dir(&below);
        let _ = fs::write(below.join(PROCS), &own);
    }
    if bound() {
        // The kernel refuses memory here, but takes pids, as it can count threads: that makes a threaded group of this
        // one, and no process may enter a group below it. An earlier version did it.
        if has(&handed, "pids") && !has(&handed, "memory") {
            tell("-pids".to_owned());
        }
        return;
    }
    for controller in ["memory", "pids"].into_iter().filter(|name| has(&offered, name) && !has(&handed, name)) {
        tell(format!("+{controller}"));
    }
}

/// The directories of this process's own groups: of version 2, and of version 1's memory and pids controllers.
fn own_groups() -> Vec<Candidate> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups_of(&mounts, &groups)
}

fn groups_of(mounts: &str, groups: &str) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let version_2 = number == "0" && controllers.is_empty();
        let wanted = |name: &&str| ["memory", "pids"].contains(name);
        let Some(controller) = controllers.split(',').find(wanted).or_else(|| version_2.then_some("")) else {
            continue;
        };
        let Some((root, mount)) = mount_of(mounts, controller) else { continue };
        // The path is told from the hierarchy's root, of which the mount may show a part alone.
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path).trim_start_matches('/');
        let mut dir = Path::new(&mount).join(below);
        if dir.file_name().is_some_and(|name| name == SERVER) {
            dir.pop();
        }
        if found.iter().all(|other| other.dir != dir) {
            found.push(Candidate { dir, version_2, root: path == "/" });
        }
    }
    found.sort_by_key(|candidate| !candidate.version_2);
    found
}

/// Root and mount point of version 1's `controller`, or of version 2 if that is empty. Source: `proc_pid_mountinfo(5)`.
fn mount_of(mounts: &str, controller: &str) -> Option<(String, String)> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let fits = match controller {
            "" => kind == "cgroup2",
            name => kind == "cgroup" && options.split(',').any(|option| option == name),
        };
        let mut fields = before.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        fits.then(|| (root.to_owned(), mount.to_owned()))
    })
}

/// The groups of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    dirs: Vec<PathBuf>,
}

impl Group {
    /// Points at groups that may be there.
    pub fn of(spec: &GroupSpec) -> Self {
        Self { dirs: if spec.is_ours() { spec.dirs.clone() } else { Vec::new() } }
    }

    /// Makes the groups with their limits.
    ///
    /// # Errors
    /// A group cannot be made or a limit cannot be set; nothing is left behind.
    pub fn make(spec: &GroupSpec) -> io::Result<Self> {
        let group = Self::of(spec);
        group.set_up(spec).inspect_err(|_| drop(group.remove()))?;
        Ok(group)
    }

    fn set_up(&self, spec: &GroupSpec) -> io::Result<()> {
        for dir in &self.dirs {
            match fs::create_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        if let Some(bytes) = spec.memory_bytes_max {
            let limit = bytes.to_string();
            self.set(&["memory.max", "memory.limit_in_bytes"], &limit)?;
            // Without these the rest would go to swap; they are not there where swap is not counted.
            for (name, limit) in [("memory.swap.max", "0"), ("memory.memsw.limit_in_bytes", &*limit)] {
                if let Some(file) = self.file(name) {
                    fs::write(file, limit)?;
                }
            }
        }
        if let Some(tasks) = spec.tasks_max {
            self.set(&["pids.max"], &tasks.to_string())?;
        }
        Ok(())
    }

    fn set(&self, names: &[&str], value: &str) -> io::Result<()> {
        let file = names.iter().find_map(|name| self.file(name));
        let unsupported = || io::Error::new(io::ErrorKind::Unsupported, format!("there is no {}", names.join(" nor ")));
        fs::write(file.ok_or_else(unsupported)?, value)
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.dirs.iter().map(|dir| dir.join(name)).find(|file| file.exists())
    }

    /// Puts a process in; all that it starts from now on is in as well.
    ///
    /// # Errors
    /// The kernel refuses; it may be in some of the groups.
    pub fn add(&self, pid: i32) -> io::Result<()> {
        self.dirs.iter().try_for_each(|dir| fs::write(dir.join(PROCS), pid.to_string()))
    }

    /// The processes in the groups and in those below them, as far as this process can see them.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self.tree().iter().flat_map(|dir| pids_in(dir)).collect();
        pids.sort_unstable();
        pids.dedup();
        pids.truncate(limits::TREE_PIDS_MAX);
        pids
    }

    /// Whether nobody is in any of them. A group that is not there is empty.
    pub fn is_empty(&self) -> bool {
        self.dirs.iter().all(|dir| match fs::read_to_string(dir.join("cgroup.events")) {
            Ok(events) => count_of(&events, "populated") == 0,
            Err(_) => Self { dirs: vec![dir.clone()] }.pids().is_empty(),
        })
    }

    /// Sends KILL to everybody in the groups; once over, a caller repeats it until they are empty.
    pub fn kill(&self) {
        // Nobody may be born meanwhile.
        for dir in &self.dirs {
            let pids_max = dir.join("pids.max");
            if pids_max.exists() {
                let _ = fs::write(pids_max, "0");
            }
        }
        for dir in &self.dirs {
            if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
                continue;
            }
            let group = Self { dirs: vec![dir.clone()] };
            // Held first, looked at then: a number that was given to another in between is in another group.
            let held: Vec<_> = group
                .pids()
                .into_iter()
                .filter_map(|pid| Some((pid, pidfd_open(procfs::pid(pid)?, PidfdFlags::empty()).ok()?)))
                .collect();
            let still = group.pids();
            for (_, handle) in held.iter().filter(|(pid, _)| still.binary_search(pid).is_ok()) {
                let _ = pidfd_send_signal(handle, Signal::KILL);
            }
        }
    }

    /// How many processes of the groups the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let counted = |name: &str| {
            let text = self.file(name).and_then(|file| fs::read_to_string(file).ok())?;
            Some(count_of(&text, "oom_kill"))
        };
        counted("memory.events").or_else(|| counted("memory.oom_control")).unwrap_or(0)
    }

    /// Removes the groups and those below them.
    ///
    /// # Errors
    /// Somebody is still in one.
    pub fn remove(&self) -> io::Result<()> {
        let mut last = Ok(());
        for dir in self.tree().iter().rev() {
            match fs::remove_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => last = Err(error),
                _ => {}
            }
        }
        last
    }

    /// Kills everybody in the groups until they are empty or `bound` is over, and removes them. For an attempt whose
    /// shim is gone; the answer says whom it found.
    pub fn end(&self, bound: Duration) -> Ended {
        let until = Instant::now() + bound;
        let mut ended = Ended::default();
        loop {
            let pids = self.pids();
            let empty = self.is_empty();
            for pid in &pids {
                if !ended.killed.contains(pid) {
                    ended.killed.push(*pid);
                }
            }
            // A group is empty a moment before it may be removed.
            if empty && self.remove().is_ok() {
                return ended;
            }
            if Instant::now() >= until {
                ended.remaining = pids;
                return ended;
            }
            self.kill();
            std::thread::sleep(limits::KILL_ROUND);
        }
    }

    /// Every directory, each before those below it.
    fn tree(&self) -> Vec<PathBuf> {
        let mut all = self.dirs.clone();
        let mut next = 0;
        while let Some(dir) = all.get(next) {
            let below = fs::read_dir(dir).into_iter().flatten().flatten();
            let dirs: Vec<_> = below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect();
            all.extend(dirs);
            next += 1;
        }
        all
    }
}

/// What [`Group::end`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ended {
    /// Processes that were sent KILL.
    pub killed: Vec<i32>,
    /// Those still there when the bound was reached.
    pub remaining: Vec<i32>,
}

fn pids_in(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join(PROCS)).unwrap_or_default();
    // 0 is a process of a pid namespace that cannot be seen from here.
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != 0).collect()
}

/// The number behind a name, in a file with one of both a line.
fn count_of(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.split_once(' ').filter(|(key, _)| *key == name)?.1.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_a_look_that_was_killed_is_found() {
        let now = 1_800_000_000_000_000_000;
        let made = |seconds: u128| format!("{PREFIX}probe-77-{}", now - seconds * 1_000_000_000);
        assert!(is_left(&made(61), now));
        for other in [made(59), format!("{PREFIX}01a1.2"), format!("{PREFIX}probe-77"), "probe-77-1".to_owned()] {
            assert!(!is_left(&other, now), "{other}");
        }
    }

    #[test]
    fn a_group_that_holds_processes_hands_nothing_on() {
        let dir = tempfile::tempdir().unwrap();
        let handed = |procs: &str, before: &str| {
            for (name, text) in [("cgroup.controllers", "cpu memory pids"), ("cgroup.type", "domain"), (PROCS, procs)] {
                fs::write(dir.path().join(name), text).unwrap();
            }
            fs::write(dir.path().join("cgroup.subtree_control"), before).unwrap();
            hand_on(dir.path(), false);
            fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap()
        };
        assert_eq!(handed("", ""), "+pids");
        assert_eq!(handed("", "memory pids"), "memory pids");
        assert_eq!(handed("7\n", ""), "", "the kernel would make a threaded group of it");
        assert_eq!(handed("7\n", "pids"), "-pids", "which an earlier version did");
        assert_eq!(handed("7\n", "memory pids"), "memory pids");
    }

    fn dirs(mounts: &str, groups: &str) -> Vec<(String, bool)> {
        let plain = |found: Candidate| (found.dir.to_string_lossy().into_owned(), found.version_2);
        groups_of(mounts, groups).into_iter().map(plain).collect()
    }

    #[test]
    fn own_groups_are_found_on_every_kind_of_machine() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let service = "0::/system.slice/longhaul.service\n";
        assert_eq!(dirs(unified, service), [("/sys/fs/cgroup/system.slice/longhaul.service".to_owned(), true)]);
        // A server that has moved below its delegated group still makes groups in that.
        let moved = "0::/system.slice/longhaul.service/longhaul-server\n";
        assert_eq!(dirs(unified, moved), dirs(unified, service));
        // Version 1, with version 2 beside it and without controllers.
        let hybrid = "1 2 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      3 2 0:2 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      4 2 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      5 2 0:4 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
        assert_eq!(
            dirs(hybrid, "9:name=systemd:/\n4:memory:/a/b\n8:pids:/\n1:cpu:/x\n0::/\n"),
            [
                ("/sys/fs/cgroup/unified/".to_owned(), true),
                ("/sys/fs/cgroup/memory/a/b".to_owned(), false),
                ("/sys/fs/cgroup/pids/".to_owned(), false),
            ]
        );
        // A container sees a part of the hierarchy.
        let part = "1 2 0:1 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(dirs(part, "4:memory:/docker/x/y\n"), [("/sys/fs/cgroup/memory/y".to_owned(), false)]);
        assert_eq!(dirs("", "0::/\n"), []);
    }

    #[test]
    fn limits_need_their_controller_and_a_group_has_a_name_of_ours() {
        let base = |dir: &str, version_2, memory, tasks| Base { dir: dir.into(), version_2, memory, tasks };
        let grounds = Grounds {
            bases: vec![base("/u", true, false, false), base("/m", false, true, false), base("/p", false, false, true)],
        };
        let dirs = |memory, tasks| grounds.group("r.1", memory, tasks).unwrap().dirs;
        assert_eq!(dirs(None, None), [PathBuf::from("/u/longhaul-r.1")]);
        assert_eq!(dirs(Some(1), None), [PathBuf::from("/u/longhaul-r.1"), "/m/longhaul-r.1".into()]);
        assert_eq!(dirs(Some(1), Some(1)).len(), 3);
        let two = Grounds { bases: vec![base("/u", true, true, true)] };
        assert_eq!(two.group("r.1", Some(1), Some(1)).unwrap().dirs, [PathBuf::from("/u/longhaul-r.1")]);
        assert_eq!(Grounds::default().group("r.1", None, None), None);
        for dir in ["/sys/fs/cgroup", "longhaul-x", "/sys/fs/cgroup/longhaul-server", "/"] {
            let spec = GroupSpec { dirs: vec![dir.into()], ..GroupSpec::default() };
            assert!(!spec.is_ours() && Group::of(&spec).dirs.is_empty(), "{dir}");
        }
    }

    #[test]
    fn counts_are_read_by_their_whole_name() {
        assert_eq!(count_of("low 0\noom 3\noom_kill 2\noom_group_kill 9\n", "oom_kill"), 2);
        assert_eq!(count_of("oom_kill_disable 1\nunder_oom 0\noom_kill 4", "oom_kill"), 4);
        assert_eq!(count_of("", "oom_kill"), 0);
    }
}
