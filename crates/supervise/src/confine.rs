//! Confinement by bubblewrap: what a program may see and write.
//!
//! Job: the command line of `bwrap`, and a trial that it works here. Every confined program gets a user, process, IPC
//! and host name space of its own, no capability, and dies with its shim.
//! Owns: nothing. Never: starts an agent; decides which directories are named; leaves out a mount that it was told.
//!
//! `bwrap` stays as the leader of the attempt and takes the agent's exit status on: 128 and the number for a signal. It
//! has no handler of its own, so a stop is signalled past it, see [`crate::AttemptSpec::wrapped`].
//! Source: bubblewrap 0.8's `bwrap(1)` and source; tried on Linux 6.1 and 6.18.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::limits;

/// The program.
pub const PROGRAM: &str = "bwrap";

/// What is shown of the system where not everything is: programs and libraries.
pub const SYSTEM: [&str; 9] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store"];

/// What is shown of `/etc` there: what programs need to start, to name users and hosts, and to trust certificates.
const ETC: [&str; 18] = [
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ld.so.preload",
    "alternatives",
    "passwd",
    "group",
    "nsswitch.conf",
    "hosts",
    "host.conf",
    "resolv.conf",
    "services",
    "protocols",
    "localtime",
    "timezone",
    "ssl",
    "ca-certificates",
    "pki",
];

/// What is shown of `/run`, which holds the sockets of everybody else: the resolver's file and NixOS's programs.
const RUN: [&str; 4] =
    ["/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager/resolv.conf", "/run/current-system"];

/// What of `/proc` root may write without any capability, a command that the kernel runs as root among it; bubblewrap
/// covers it for others alone.
const PROC: [&str; 9] = [
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/irq",
    "/proc/bus",
    "/proc/fs",
    "/proc/acpi",
    "/proc/scsi",
    "/proc/driver",
    "/proc/mtrr",
];

/// What one program may see and write. Every path is absolute and holds no symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cell {
    /// Whether only [`SYSTEM`] and what is named here is seen, and no network but an empty loopback. Otherwise all of
    /// the file system is there to be read.
    pub closed: bool,
    /// Directories and files that may be written.
    pub writable: Vec<PathBuf>,
    /// Files that are needed and may lie where nothing is seen.
    pub readable: Vec<PathBuf>,
    /// Directories and files that are seen as empty, even inside a writable one.
    pub hidden: Vec<PathBuf>,
    /// Writable directories that may lie in hidden ones.
    pub own: Vec<PathBuf>,
    /// The home directory: private and empty where not everything is seen.
    pub home: Option<PathBuf>,
}

impl Cell {
    /// The arguments of `bwrap` that make it, up to the program's name.
    pub fn args(&self, cwd: &Path) -> Result<Vec<String>, NotText> {
        let mut args = Args::new(self.closed);
        let tmpfs = |args: &mut Args, path: &str| args.plain(&["--tmpfs", path]);
        if self.closed {
            for path in SYSTEM {
                args.plain(&["--ro-bind-try", path, path]);
            }
            for name in ETC {
                let path = format!("/etc/{name}");
                args.plain(&["--ro-bind-try", &path, &path]);
            }
        } else {
            args.plain(&["--ro-bind", "/", "/"]);
        }
        args.plain(&["--dev", "/dev", "--proc", "/proc"]);
        for path in PROC {
            args.plain(&["--ro-bind-try", path, path]);
        }
        tmpfs(&mut args, "/run");
        for path in RUN {
            args.plain(&["--ro-bind-try", path, path]);
        }
        tmpfs(&mut args, "/tmp");
        if let Some(home) = self.home.as_ref().filter(|_| self.closed) {
            args.mount("--tmpfs", None, home)?;
        }
        for path in &self.readable {
            args.mount("--ro-bind", Some(path), path)?;
        }
        for path in &self.writable {
            args.mount("--bind", Some(path), path)?;
        }
        for path in &self.hidden {
            if path.is_dir() {
                args.mount("--tmpfs", None, path)?;
            } else {
                args.mount("--ro-bind", Some(Path::new("/dev/null")), path)?;
            }
        }
        for path in &self.own {
            args.mount("--bind", Some(path), path)?;
        }
        // What is written there would seem to be kept.
        for path in self.hidden.iter().filter(|path| path.is_dir()) {
            args.mount("--remount-ro", None, path)?;
        }
        if self.closed {
            args.plain(&["--remount-ro", "/"]);
        }
        args.mount("--chdir", None, cwd)?;
        args.plain(&["--"]);
        Ok(args.words)
    }
}

/// A path that no spec can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not UTF-8", .0.display())]
pub struct NotText(PathBuf);

struct Args {
    words: Vec<String>,
}

impl Args {
    fn new(closed: bool) -> Self {
        let mut args = Self { words: Vec::new() };
        args.plain(&["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]);
        if closed {
            args.plain(&["--unshare-net"]);
        }
        // Root would keep all of them, and could mount and unmount as it likes.
        args.plain(&["--cap-drop", "ALL", "--die-with-parent"]);
        args
    }

    fn plain(&mut self, words: &[&str]) {
        self.words.extend(words.iter().map(|word| (*word).to_owned()));
    }

    fn mount(&mut self, option: &str, source: Option<&Path>, target: &Path) -> Result<(), NotText> {
        self.plain(&[option]);
        for path in source.into_iter().chain([target]) {
            self.words.push(path.to_str().ok_or_else(|| NotText(path.to_owned()))?.to_owned());
        }
        Ok(())
    }
}

/// Whether `bwrap` can make cells here, by making one for a program that ends at once.
///
/// # Errors
/// What it said, or why it could not be started.
pub fn try_out(bwrap: &Path, closed: bool) -> Result<(), String> {
    let mut args = Args::new(closed);
    args.plain(&["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--", "true"]);
    let child = Command::new(bwrap)
        .args(args.words)
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/run/current-system/sw/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| format!("{}: {error}", bwrap.display()))?;
    let until = Instant::now() + limits::TRIAL_WAIT;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(None) if Instant::now() < until => std::thread::sleep(limits::KILL_ROUND),
            Ok(Some(_)) | Err(_) => break,
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{} did not end in time", bwrap.display()));
            }
        }
    }
    // It has ended, and it says a line at most.
    let said = child.wait_with_output().map(|output| String::from_utf8_lossy(&output.stderr).trim().to_owned());
    Err(said.ok().filter(|said| !said.is_empty()).unwrap_or_else(|| format!("{} failed", bwrap.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(cell: &Cell) -> String {
        cell.args(Path::new("/w")).unwrap().join(" ")
    }

    #[test]
    fn what_is_hidden_is_hidden_after_what_may_be_written_and_before_ones_own() {
        let cell = Cell {
            writable: vec!["/home/me".into()],
            hidden: vec!["/".into(), "/nothing".into()],
            own: vec!["/data/own".into()],
            ..Cell::default()
        };
        let line = line(&cell);
        let at = |text: &str| line.find(text).unwrap_or_else(|| panic!("{text} is not in {line}"));
        let order = [
            "--cap-drop ALL --die-with-parent --ro-bind / /",
            "--tmpfs /run",
            "--tmpfs /tmp",
            "--bind /home/me /home/me",
            "--tmpfs / --ro-bind /dev/null /nothing",
            "--bind /data/own /data/own",
            "--chdir /w --",
        ];
        assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{line}");
        assert!(!line.contains("--unshare-net"));
    }

    #[test]
    fn a_closed_cell_shows_the_system_alone_and_no_network() {
        let line = line(&Cell { closed: true, home: Some("/home/me".into()), ..Cell::default() });
        assert!(line.contains("--unshare-net") && line.contains("--tmpfs /home/me"), "{line}");
        assert!(line.contains("--ro-bind-try /usr /usr") && line.contains("--remount-ro /"), "{line}");
        assert!(!line.contains("--ro-bind / /") && !line.contains("shadow"), "{line}");
    }

    #[test]
    fn a_trial_tells_why_it_failed() {
        let error = try_out(Path::new("/no/such/bwrap"), true).unwrap_err();
        assert!(error.starts_with("/no/such/bwrap: "), "{error}");
        assert_eq!(try_out(Path::new("/bin/true"), false), Ok(()));
        assert!(try_out(Path::new("/bin/false"), false).unwrap_err().contains("failed"));
    }
}
