//! The directory of one attempt: everything a server and a shim say to each other durably.
//!
//! Job: making it so that it survives a power cut, launching the shim, telling what state the attempt is in, and
//! settling an attempt whose shim is gone.
//! Owns: the file names below and the rule *alive means the lock is held*.
//! Never: touches a process; never writes `exit` without holding the lock.
//!
//! ```text
//! Empty ── create ──> Unsettled ── launch ──> Alive ──(exit is durable, shim leaves)──> Dead
//!                         └────── settle (shim never came, or was killed) ───────────────┘
//! ```

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::durable::Reserve;
use crate::lock::{FileLock, LockError};
use crate::order::Stream;
use crate::record::{Exit, How, Started, unix_ms};
use crate::spec::{AttemptSpec, Stdin};
use crate::{durable, limits, nofile, procfs, record};

/// What to start; written last, so that a directory with it is complete.
pub const SPEC: &str = "spec";
/// The agent's environment, a JSON list of pairs, removed when the agent has started.
pub const ENV: &str = "env";
/// The lock.
pub const LOCK: &str = "lock";
/// The agent's process, durable before it may exec.
pub const STARTED: &str = "started";
/// The end.
pub const EXIT: &str = "exit";
/// The order of the two streams, see [`crate::order`].
pub const ORDER: &str = "order";
/// The input log, see [`crate::input`].
pub const INPUT: &str = "input";
/// The default name of a stdin file.
pub const STDIN: &str = "stdin";
/// The control socket, see [`crate::control`].
pub const CONTROL: &str = "control";

/// Why an operation on an attempt's directory failed.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The system refused.
    #[error("could not use {}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what its writer wrote, or was written by a later release.
    #[error("{} is garbled: {why}", .path.display())]
    Garbled {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What is known of an attempt by looking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptState {
    /// The directory was never completed: no spec. No shim can have started an agent from it.
    Empty,
    /// Its shim lives.
    Alive {
        /// The agent, once it exists.
        started: Option<Started>,
    },
    /// It has ended.
    Dead {
        /// How.
        exit: Box<Exit>,
    },
    /// No shim lives and no end is recorded: it is about to come, or it was lost. [`AttemptDir::settle`] decides.
    Unsettled {
        /// The agent, if it ever existed.
        started: Option<Started>,
    },
}

/// What settling found or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The end, now durable for sure.
    Exit(Box<Exit>),
    /// Somebody holds the lock: the shim lives, or another server looks at this moment.
    StillAlive,
}

/// One attempt's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptDir {
    path: PathBuf,
}

impl AttemptDir {
    /// Makes the directory with everything the shim needs. When it returns the attempt survives a power cut.
    ///
    /// # Errors
    /// The spec breaks a rule, the directory exists, or a file cannot be written; what was made so far stays and is
    /// [`AttemptState::Empty`].
    pub fn create(
        path: &Path,
        spec: &AttemptSpec,
        env: &[(String, String)],
        stdin: Option<&[u8]>,
    ) -> Result<Self, AttemptError> {
        spec.check().map_err(|rule| garbled(path.join(SPEC), rule))?;
        let dir = Self { path: path.to_owned() };
        durable::make_dir(path).map_err(|source| AttemptError::Io { path: path.to_owned(), source })?;
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.file(name);
            durable::write_synced(&path, bytes).map_err(|source| AttemptError::Io { path, source })
        };
        for empty in [LOCK, "stdout", "stderr", ORDER] {
            write(empty, b"")?;
        }
        match (&spec.stdin, stdin) {
            (Stdin::File { name }, bytes) => write(name, bytes.unwrap_or_default())?,
            (Stdin::Channel { .. }, _) => write(INPUT, b"")?,
            (Stdin::Null, _) => {}
        }
        write(ENV, &json(env))?;
        dir.reserve_exit()?;
        dir.replace(SPEC, &json(spec))?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        durable::sync_dir(parent).map_err(|source| AttemptError::Io { path: parent.to_owned(), source })?;
        Ok(dir)
    }

    /// Points at a directory that was made before.
    ///
    /// # Errors
    /// It is no directory.
    pub fn open(path: &Path) -> Result<Self, AttemptError> {
        let is_dir = std::fs::metadata(path).map(|found| found.is_dir());
        match is_dir {
            Ok(true) => Ok(Self { path: path.to_owned() }),
            Ok(false) => Err(AttemptError::Io { path: path.to_owned(), source: io::ErrorKind::NotADirectory.into() }),
            Err(source) => Err(AttemptError::Io { path: path.to_owned(), source }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Starts `exe shim DIR` with null stdio and an environment that holds at most its limit of descriptors. `exe` is
    /// normally `/proc/self/exe`. DIR are the last two names of the directory's path: what people see of the process
    /// holds no name of theirs, which somebody's `pkill -f` could hit.
    /// The caller reaps the returned shim; dropping the handle does not end it. Launching twice starts one agent.
    ///
    /// # Errors
    /// The process could not be made; the attempt stays as it was.
    pub fn launch(&self, exe: &Path) -> io::Result<Child> {
        let dir = std::fs::canonicalize(&self.path)?;
        let base = dir.ancestors().nth(2).unwrap_or(Path::new("/"));
        let mut command = Command::new(exe);
        command.env_clear();
        nofile::pass_on(&mut command);
        command
            .arg0("longhaul")
            .arg("shim")
            .arg(dir.strip_prefix(base).unwrap_or(&dir))
            .current_dir(base)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    }

    /// What state the attempt is in. The lock is looked at first: a shim that holds it may already have named its end.
    ///
    /// # Errors
    /// A file cannot be read, or is garbled.
    pub fn state(&self) -> Result<AttemptState, AttemptError> {
        let lock = self.file(LOCK);
        if FileLock::is_held(&lock).map_err(|source| AttemptError::Io { path: lock, source })? {
            return Ok(AttemptState::Alive { started: self.read_started()? });
        }
        if let Some(exit) = self.read_exit()? {
            return Ok(AttemptState::Dead { exit: Box::new(exit) });
        }
        if !self.file(SPEC).exists() {
            return Ok(AttemptState::Empty);
        }
        Ok(AttemptState::Unsettled { started: self.read_started()? })
    }

    /// Gives an attempt whose shim is gone its end, under the lock, without waiting: `never_started` if no agent was
    /// ever recorded, else `lost`. A shim that comes later sees it and leaves. An end that is there already is made
    /// durable and returned.
    ///
    /// # Errors
    /// A file cannot be read or written, or is garbled.
    pub fn settle(&self) -> Result<Settled, AttemptError> {
        match FileLock::try_exclusive(&self.file(LOCK)) {
            Ok(lock) => self.settle_under(&lock).map(|exit| Settled::Exit(Box::new(exit))),
            Err(LockError::Held { .. }) => Ok(Settled::StillAlive),
            Err(LockError::Io { path, source }) => Err(AttemptError::Io { path, source }),
        }
    }

    pub(crate) fn settle_under(&self, _lock: &FileLock) -> Result<Exit, AttemptError> {
        if let Some(exit) = self.read_exit()? {
            // Its writer may have died between naming the file and making the name durable.
            durable::sync_dir(&self.path).map_err(|source| self.io(".", source))?;
            return Ok(exit);
        }
        let started = self.read_started()?;
        let how = match &started {
            Some(_) => How::Lost,
            None => How::NeverStarted { exec_error: None },
        };
        let len = |name: &str| match std::fs::metadata(self.file(name)) {
            Ok(found) => Ok(found.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(self.io(name, source)),
        };
        let exit = Exit {
            stdout_bytes: len("stdout")?,
            stderr_bytes: len("stderr")?,
            order_bytes: len(ORDER)?,
            ..Exit::bare(how, unix_ms())
        };
        if let Some(started) = started {
            self.cut_unprinted(&started)?;
        }
        durable::remove(&self.file(ENV)).map_err(|source| self.io(ENV, source))?;
        self.write_exit(&exit)?;
        Ok(exit)
    }

    /// A power cut can leave a file as long as it was with zeros in place of its last bytes. They are nobody's output:
    /// what is cut off here is missing by the lengths of the end.
    fn cut_unprinted(&self, started: &Started) -> Result<(), AttemptError> {
        let boot_id = procfs::boot_id().map_err(|source| self.io(STARTED, source))?;
        if started.boot_id == boot_id {
            return Ok(());
        }
        Stream::BOTH.map(Stream::file_name).into_iter().try_for_each(|name| {
            let cut = durable::cut_zeros(&self.file(name));
            cut.map_err(|source| self.io(name, source))
        })
    }

    /// What was to be started; `None` if the directory was never completed.
    ///
    /// # Errors
    /// The file cannot be read, is garbled, or breaks a rule.
    pub fn read_spec(&self) -> Result<Option<AttemptSpec>, AttemptError> {
        let spec: Option<AttemptSpec> = self.read(SPEC, limits::SPEC_BYTES_MAX)?;
        if let Some(spec) = &spec {
            spec.check().map_err(|rule| garbled(self.file(SPEC), rule))?;
        }
        Ok(spec)
    }

    /// The agent's process, once recorded.
    ///
    /// # Errors
    /// The file cannot be read or is garbled.
    pub fn read_started(&self) -> Result<Option<Started>, AttemptError> {
        let started: Option<Started> = self.read(STARTED, limits::RECORD_BYTES_MAX)?;
        self.known(STARTED, started, |started| started.version)
    }

    /// The end, once recorded. Only [`AttemptDir::settle`] proves that it is durable.
    ///
    /// # Errors
    /// The file cannot be read or is garbled.
    pub fn read_exit(&self) -> Result<Option<Exit>, AttemptError> {
        let exit: Option<Exit> = self.read(EXIT, limits::RECORD_BYTES_MAX)?;
        self.known(EXIT, exit, |exit| exit.version)
    }

    pub(crate) fn read_env(&self) -> Result<Vec<(String, String)>, AttemptError> {
        Ok(self.read(ENV, limits::SPEC_BYTES_MAX)?.unwrap_or_default())
    }

    /// The blocks of the exit record, held since the attempt was made.
    pub(crate) fn reserve_exit(&self) -> Result<Reserve, AttemptError> {
        Reserve::open(&self.path, EXIT, limits::EXIT_RESERVE_BYTES).map_err(|source| self.io(EXIT, source))
    }

    /// To be called under the lock only.
    pub(crate) fn write_exit(&self, exit: &Exit) -> Result<(), AttemptError> {
        let reserve = self.reserve_exit()?;
        reserve.commit(&self.path, EXIT, &json(exit)).map_err(|source| self.io(EXIT, source))
    }

    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), AttemptError> {
        durable::replace(&self.path, name, bytes).map_err(|source| self.io(name, source))
    }

    fn known<T>(&self, name: &str, record: Option<T>, version: fn(&T) -> u32) -> Result<Option<T>, AttemptError> {
        match record.as_ref().map(version) {
            Some(found) if found == 0 || found > record::VERSION => {
                Err(garbled(self.file(name), format!("it has version {found}, this build knows {}", record::VERSION)))
            }
            _ => Ok(record),
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str, bytes_max: u64) -> Result<Option<T>, AttemptError> {
        let path = self.file(name);
        match durable::read_small(&path, bytes_max) {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => serde_json::from_slice(&bytes).map(Some).map_err(|error| garbled(path, error)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(garbled(path, error)),
            Err(source) => Err(AttemptError::Io { path, source }),
        }
    }

    fn io(&self, name: &str, source: io::Error) -> AttemptError {
        AttemptError::Io { path: self.file(name), source }
    }
}

fn garbled(path: PathBuf, why: impl ToString) -> AttemptError {
    AttemptError::Garbled { path, why: why.to_string() }
}

/// Plain data with string keys: rendering it cannot fail.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records are plain data")
}
