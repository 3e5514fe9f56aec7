//! What a run may do to the machine: limits of memory and tasks, and what it may write and see.
//!
//! Job: what a request may ask for, whether this machine can keep it, the control group of an attempt, and the cell that
//! a confined one runs in.
//! Never: lets a run start without a limit or a confinement that it asked for; makes a group, which is the shim's.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use longhaul_supervise::confine::{self, Cell};
use longhaul_supervise::{AttemptSpec, Grounds, GroupSpec};
use serde::{Deserialize, Serialize};

use crate::admission;
use crate::error::DispatchError;

/// Directories of the system that no confined run may be given to write: others' sockets and files are in them.
const SHARED: [&str; 8] = ["/", "/run", "/tmp", "/dev", "/proc", "/sys", "/var", "/home"];

/// Directories in which nothing is a place to work in.
const KERNEL: [&str; 3] = ["/dev", "/proc", "/sys"];

/// What this server contains runs with.
#[derive(Debug, Clone, Default)]
pub struct Containment {
    /// Where control groups can be made.
    pub grounds: Grounds,
    /// The server's own files and directories, which no confined run sees: data, tokens, configuration.
    pub hidden: Vec<PathBuf>,
}

/// What a run may write and see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confine {
    /// Whatever the server's user may.
    #[default]
    None,
    /// Write its directory, its temporary files and its agent's own state; read everything but the server's.
    Write,
    /// See the same and the system's programs, nothing else, and no network.
    Full,
}

impl Confine {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Write => "write",
            Self::Full => "full",
        }
    }
}

/// Where a confined attempt works.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    pub(crate) confine: Confine,
    pub(crate) harness: &'a str,
    /// Its working directory, and whether Longhaul made that.
    pub(crate) cwd: &'a Path,
    pub(crate) own_cwd: bool,
    /// Its managed home, if it has one.
    pub(crate) home: Option<&'a Path>,
    /// Its private directory for temporary files.
    pub(crate) tmp: &'a Path,
    /// The agent's environment.
    pub(crate) env: &'a [(String, String)],
    /// The server's `PATH`, on which `bwrap` is looked for.
    pub(crate) path: &'a str,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Contained {
    /// Bytes of memory of all processes of the run together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes_max: Option<u64>,
    /// Processes and threads of the run at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks_max: Option<u64>,
    /// What it may write and see.
    pub confine: Confine,
}

impl Containment {
    /// Refuses what this machine cannot keep.
    ///
    /// # Errors
    /// `LimitUnenforceable` names the first limit.
    pub(crate) fn check(&self, wanted: &Contained) -> Result<(), DispatchError> {
        let missing = |limit| Err(DispatchError::LimitUnenforceable { limit });
        if wanted.memory_bytes_max.is_some() && !self.grounds.limits_memory() {
            return missing("memory_bytes_max");
        }
        if wanted.tasks_max.is_some() && !self.grounds.limits_tasks() {
            return missing("tasks_max");
        }
        Ok(())
    }

    /// Refuses a confinement that does not work here, or would give the run something of the server's to write.
    /// Blocks for some milliseconds.
    ///
    /// # Errors
    /// `ConfinementUnavailable` says why and what helps.
    pub(crate) fn check_confine(&self, site: &Site<'_>) -> Result<(), DispatchError> {
        if site.confine == Confine::None {
            return Ok(());
        }
        let unavailable = |why| DispatchError::ConfinementUnavailable { confine: site.confine.as_str(), why };
        let bwrap = bubblewrap(site.path).map_err(unavailable)?;
        confine::try_out(&bwrap, site.confine == Confine::Full).map_err(|said| {
            unavailable(format!(
                "bubblewrap does not work here ({said}); it needs user namespaces: see kernel.unprivileged_userns_clone, \
                 user.max_user_namespaces, AppArmor's apparmor_restrict_unprivileged_userns, or the container's profile"
            ))
        })?;
        if !site.own_cwd {
            self.may_be_written(&real(site.cwd).map_err(unavailable)?).map_err(unavailable)?;
        }
        Ok(())
    }

    /// Puts the attempt's program into its cell. The directories must be there.
    ///
    /// # Errors
    /// Why there is no cell for it; it must not be started then.
    pub(crate) fn confine(&self, spec: AttemptSpec, site: &Site<'_>) -> Result<AttemptSpec, String> {
        if site.confine == Confine::None {
            return Ok(spec);
        }
        let bwrap = bubblewrap(site.path)?;
        let (cwd, tmp) = (real(site.cwd)?, real(site.tmp)?);
        let value = |name: &str| site.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let mut own = vec![tmp];
        let (home, mut writable) = if let Some(home) = site.home {
            // All of the agent's state is in it.
            own.push(real(home)?);
            (None, vec![])
        } else {
            let home = value("HOME").and_then(|home| real(Path::new(home)).ok());
            let home = home.filter(|home| home.as_path() != Path::new("/"));
            let state = state_of(site.harness, home.as_deref(), value);
            (home, state)
        };
        if site.own_cwd {
            own.push(cwd.clone());
        } else {
            writable.push(cwd.clone());
        }
        writable.iter().try_for_each(|dir| self.may_be_written(dir))?;
        let program = own_program(&spec.program)?;
        let readable = program_file(&program, value("PATH").unwrap_or_default());
        let cell = Cell {
            closed: site.confine == Confine::Full,
            writable,
            readable,
            hidden: self.hidden.iter().filter_map(|path| fs::canonicalize(path).ok()).collect(),
            own,
            home,
        };
        let mut args = cell.args(&cwd).map_err(|error| error.to_string())?;
        args.push(program.clone());
        args.extend(spec.args);
        let text =
            |path: &Path| path.to_str().map(str::to_owned).ok_or_else(|| format!("{} is not UTF-8", path.display()));
        Ok(AttemptSpec {
            program: text(&bwrap)?,
            args,
            cwd: text(&cwd)?,
            wrapped: Some(crate::dispatch::file_name(&program)),
            ..spec
        })
    }

    /// Whether a confined run may write below this real path: nothing of the server's may be in it, not even behind a
    /// directory that could be moved away, and it may not be in anything of the server's.
    fn may_be_written(&self, dir: &Path) -> Result<(), String> {
        if SHARED.iter().any(|shared| dir == Path::new(shared)) || KERNEL.iter().any(|kernel| dir.starts_with(kernel)) {
            return Err(format!("{} is not a directory for one run; name one below it", dir.display()));
        }
        for hidden in self.hidden.iter().filter_map(|path| fs::canonicalize(path).ok()) {
            if hidden.starts_with(dir) || dir.starts_with(&hidden) {
                let text = "holds files of the server, or is one of them; name a directory beside it";
                return Err(format!("{} {text}", dir.display()));
            }
        }
        Ok(())
    }

    /// The control group of the attempt with this marker. Limits that can no longer be kept name no directory, and the
    /// shim refuses them.
    pub(crate) fn group(&self, marker: &str, wanted: &Contained) -> Option<GroupSpec> {
        let (memory, tasks) = (wanted.memory_bytes_max, wanted.tasks_max);
        let bare = || GroupSpec { dirs: vec![], memory_bytes_max: memory, tasks_max: tasks };
        self.grounds.group(marker, memory, tasks).or_else(|| Some(bare()).filter(GroupSpec::is_limited))
    }
}

fn bubblewrap(path: &str) -> Result<PathBuf, String> {
    admission::find(confine::PROGRAM, path).and_then(|file| fs::canonicalize(file).ok()).ok_or_else(|| {
        "bubblewrap is not installed on the server's PATH; install it, for example with: apt-get install bubblewrap"
            .to_owned()
    })
}

fn real(path: &Path) -> Result<PathBuf, String> {
    fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Where a harness's program keeps its login, sessions and settings, as far as it is there.
fn state_of<'a>(harness: &str, home: Option<&Path>, value: impl Fn(&str) -> Option<&'a str>) -> Vec<PathBuf> {
    let at = |variable: &str, usual: &str| match value(variable) {
        Some(dir) => Some(PathBuf::from(dir)),
        None => home.map(|home| home.join(usual)),
    };
    let below = |dir: Option<PathBuf>| dir.map(|dir| dir.join("opencode"));
    let dirs = match harness {
        "claude" => vec![at("CLAUDE_CONFIG_DIR", ".claude"), at("", ".claude.json")],
        "codex" => vec![at("CODEX_HOME", ".codex")],
        "copilot" => vec![at("COPILOT_HOME", ".copilot")],
        "gemini" => vec![at("", ".gemini")],
        "kimi" => vec![at("KIMI_CODE_HOME", ".kimi-code"), at("", ".kimi")],
        "pi" => vec![at("", ".pi")],
        "qwen" => vec![at("QWEN_HOME", ".qwen")],
        "opencode" => vec![
            below(at("XDG_DATA_HOME", ".local/share")),
            below(at("XDG_CONFIG_HOME", ".config")),
            below(at("XDG_CACHE_HOME", ".cache")),
            below(at("XDG_STATE_HOME", ".local/state")),
        ],
        _ => vec![],
    };
    dirs.into_iter().flatten().filter_map(|dir| fs::canonicalize(dir).ok()).collect()
}

/// The program by a name that means the same inside: this one's is a link that would lead to the wrapper.
fn own_program(program: &str) -> Result<String, String> {
    if program != "/proc/self/exe" {
        return Ok(program.to_owned());
    }
    let file = fs::read_link(program).map_err(|error| format!("{program}: {error}"))?;
    match file.to_str() {
        Some(path) if file.exists() => Ok(path.to_owned()),
        _ => Err("the server's own program was replaced; restart the server".to_owned()),
    }
}

/// The program's file under both its names, where a cell may not show it.
fn program_file(program: &str, path: &str) -> Vec<PathBuf> {
    let shown = |file: &Path| confine::SYSTEM.iter().any(|system| file.starts_with(system));
    let Some(found) = admission::find(program, path).filter(|file| file.is_absolute()) else { return vec![] };
    let mut files: Vec<PathBuf> = fs::canonicalize(&found).into_iter().chain([found]).collect();
    files.dedup();
    files.retain(|file| !shown(file) && file.file_name() != Some(OsStr::new("..")));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_servers_may_be_written_nor_moved_away() {
        let home = tempfile::tempdir().unwrap();
        let home = fs::canonicalize(home.path()).unwrap();
        let data = home.join("state/longhaul");
        for dir in [&data.join("runs"), &home.join("project")] {
            fs::create_dir_all(dir).unwrap();
        }
        let containment = Containment { hidden: vec![data.clone()], ..Containment::default() };
        let allowed = |dir: &Path| containment.may_be_written(dir).is_ok();
        assert!(allowed(&home.join("project")));
        for dir in [&home, &home.join("state"), &data, &data.join("runs"), Path::new("/"), Path::new("/tmp")] {
            assert!(!allowed(dir), "{}", dir.display());
        }
        assert!(!allowed(Path::new("/proc/1/root")));
    }

    #[test]
    fn a_harness_keeps_its_own_state_and_no_others() {
        let home = tempfile::tempdir().unwrap();
        let home = fs::canonicalize(home.path()).unwrap();
        for dir in [".codex", ".claude", "elsewhere"] {
            fs::create_dir(home.join(dir)).unwrap();
        }
        let elsewhere = home.join("elsewhere").to_str().unwrap().to_owned();
        assert_eq!(state_of("codex", Some(&home), |_| None), [home.join(".codex")]);
        let moved = |name: &str| (name == "CODEX_HOME").then_some(elsewhere.as_str());
        assert_eq!(state_of("codex", Some(&home), moved), [home.join("elsewhere")]);
        assert!(state_of("exec", Some(&home), |_| None).is_empty());
        // Every harness of a program has state, but for `acp`, whose program is anybody's.
        for harness in longhaul_harness::all().iter().filter(|harness| harness.program().is_some()) {
            let everywhere = |_: &str| Some(elsewhere.as_str());
            std::fs::create_dir_all(home.join("elsewhere/opencode")).unwrap();
            for usual in [".gemini", ".pi", ".qwen"] {
                std::fs::create_dir_all(home.join(usual)).unwrap();
            }
            assert!(!state_of(harness.name(), Some(&home), everywhere).is_empty(), "{}", harness.name());
        }
    }

    #[test]
    fn a_limit_is_never_dropped_in_silence() {
        let nowhere = Containment::default();
        let wanted = Contained { tasks_max: Some(5), ..Contained::default() };
        let refused = nowhere.check(&wanted).unwrap_err();
        assert!(matches!(refused, DispatchError::LimitUnenforceable { limit: "tasks_max" }), "{refused}");
        let group = nowhere.group("r.1", &wanted).unwrap();
        assert!(group.dirs.is_empty() && group.is_limited());
        assert_eq!(nowhere.group("r.1", &Contained::default()), None);
        assert!(nowhere.check(&Contained::default()).is_ok());
    }
}
