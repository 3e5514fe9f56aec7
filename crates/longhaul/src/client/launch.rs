//! Starting a server in the background.
//!
//! Job: one server per data directory however many commands want one at once; wait until it is ready; when it does not
//! come up, say what its log says. Owns: `start.lock` and `server.log` of the data directory.
//! Never: waits without end, leaves the new process tied to this terminal, session or directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use longhaul_supervise::kill::MARKER_ENV;
use longhaul_supervise::{FileLock, LockError};

use crate::serve::LISTEN_DEFAULT;

use super::error::ClientError;
use super::find::{LocalServer, local_server};

/// How long a server may take until it answers: recovery of many runs included.
pub const LAUNCH_PATIENCE: Duration = Duration::from_mins(1);

/// How often a starting server is asked.
const POLL: Duration = Duration::from_millis(15);

/// A log over this size is put aside when a server starts.
const LOG_BYTES_MAX: u64 = 10 << 20;

/// How much of a log is shown when a server does not come up.
const LOG_TAIL_BYTES: u64 = 2_000;

/// The exit status of a server whose address or directory is held by another. Source: DESIGN 9.
const HELD: i32 = 75;

/// The address for a server that may take any.
const ANY_PORT: &str = "127.0.0.1:0";

/// Where a new server is to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen<'a> {
    /// Here or nowhere.
    Only(&'a str),
    /// Here if it is free, else on any port: the address of the server before.
    Rather(&'a str),
    /// On the default port if it is free, else on any.
    Default,
}

/// What was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    /// Its process.
    pub pid: i32,
    /// Its address.
    pub address: String,
}

/// Why no server came up.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The data directory, its lock or its log cannot be made.
    #[error("could not prepare {}: {source}", .path.display())]
    Prepare {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program cannot be executed.
    #[error("could not execute {}: {source}", .path.display())]
    Execute {
        /// Our own program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended before it answered.
    #[error("the server ended at once ({status}); the end of {}:\n{tail}", .log.display())]
    Ended {
        /// How.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The end of that.
        tail: String,
    },
    /// It runs and does not answer.
    #[error("the server did not get ready within {waited_s} s; the end of {}:\n{tail}", .log.display())]
    Slow {
        /// How long it had.
        waited_s: u64,
        /// Its log.
        log: PathBuf,
        /// The end of that.
        tail: String,
    },
    /// Another command has been starting or stopping one for too long.
    #[error("{} is held by another longhaul command for more than {waited_s} s", .path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// How long it was waited for.
        waited_s: u64,
    },
}

/// The right to start or stop the server of a data directory.
#[derive(Debug)]
pub struct StartLock {
    _lock: FileLock,
}

impl StartLock {
    /// Waits for the right; makes the data directory (0700) if needed.
    ///
    /// # Errors
    /// [`LaunchError::Prepare`], [`LaunchError::Locked`].
    pub async fn take(data_dir: &Path) -> Result<Self, LaunchError> {
        let prepare = |source| LaunchError::Prepare { path: data_dir.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(prepare)?;
        let path = data_dir.join("start.lock");
        let deadline = Instant::now() + LAUNCH_PATIENCE;
        loop {
            match FileLock::try_exclusive(&path) {
                Ok(lock) => return Ok(Self { _lock: lock }),
                Err(LockError::Held { .. }) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                Err(LockError::Held { .. }) => {
                    return Err(LaunchError::Locked { path, waited_s: LAUNCH_PATIENCE.as_secs() });
                }
                Err(LockError::Io { path, source }) => return Err(LaunchError::Prepare { path, source }),
            }
        }
    }
}

/// The log of the background server of a data directory.
pub fn log_path(data_dir: &Path) -> PathBuf {
    data_dir.join("server.log")
}

/// Starts a server on a data directory unless one is there by now.
///
/// # Errors
/// [`ClientError::Launch`].
pub async fn launch(
    data_dir: &Path,
    listen: Listen<'_>,
    config: Option<&Path>,
    token: Option<String>,
) -> Result<(LocalServer, Option<Launched>), ClientError> {
    let lock = StartLock::take(data_dir).await?;
    launch_under(&lock, data_dir, listen, config, token).await
}

/// The same, under a lock that is already held.
///
/// # Errors
/// [`ClientError::Launch`].
pub async fn launch_under(
    _lock: &StartLock,
    data_dir: &Path,
    listen: Listen<'_>,
    config: Option<&Path>,
    token: Option<String>,
) -> Result<(LocalServer, Option<Launched>), ClientError> {
    if let Some(server) = local_server(data_dir, token.clone()).await? {
        return Ok((server, None));
    }
    let log = log_path(data_dir);
    let mut address = match listen {
        Listen::Only(address) | Listen::Rather(address) => address,
        Listen::Default => LISTEN_DEFAULT,
    };
    if listen == Listen::Default && TcpListener::bind(address).is_err() {
        address = ANY_PORT;
    }
    let mut child = spawn(data_dir, address, config, &log)?;
    let deadline = Instant::now() + LAUNCH_PATIENCE;
    loop {
        if let Some(server) = local_server(data_dir, token.clone()).await?
            && !matches!(server.client.is_ready().await, Ok(false) | Err(ClientError::Unreachable { .. }))
        {
            let mine = i64::from(server.info.pid) == i64::from(child.id());
            let launched = Launched { pid: server.info.pid, address: server.info.address.clone() };
            return Ok((server, mine.then_some(launched)));
        }
        if let Ok(Some(status)) = child.try_wait() {
            // A server that somebody started by hand at the same moment is as good as ours.
            if let Some(server) = local_server(data_dir, token.clone()).await? {
                return Ok((server, None));
            }
            // Somebody took the port between the look and the bind.
            if status.code() == Some(HELD) && !matches!(listen, Listen::Only(_)) && address != ANY_PORT {
                address = ANY_PORT;
                child = spawn(data_dir, address, config, &log)?;
                continue;
            }
            return Err(LaunchError::Ended { status: status.to_string(), tail: tail(&log), log }.into());
        }
        if Instant::now() > deadline {
            let tail = tail(&log);
            return Err(LaunchError::Slow { waited_s: LAUNCH_PATIENCE.as_secs(), tail, log }.into());
        }
        tokio::time::sleep(POLL).await;
    }
}

fn spawn(data_dir: &Path, listen: &str, config: Option<&Path>, log: &Path) -> Result<Child, LaunchError> {
    let prepare = |source| LaunchError::Prepare { path: log.to_owned(), source };
    if std::fs::metadata(log).is_ok_and(|facts| facts.len() > LOG_BYTES_MAX) {
        std::fs::rename(log, log.with_extension("log.1")).map_err(prepare)?;
    }
    let out = OpenOptions::new().create(true).append(true).mode(0o600).open(log).map_err(prepare)?;
    let err = out.try_clone().map_err(prepare)?;
    let program = program();
    let mut command = Command::new(&program);
    command.arg("serve").arg("--background").arg("--data-dir").arg(data_dir).args(["--listen", listen]);
    if let Some(file) = config {
        command.arg("--config").arg(file);
    }
    // What names a server, a run or a secret of this caller is not the server's.
    for name in ["LONGHAUL_TOKEN", "LONGHAUL_SERVER", "LONGHAUL_RUN_ID", "LONGHAUL_PROJECT", MARKER_ENV] {
        command.env_remove(name);
    }
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(|source| LaunchError::Execute { path: program, source })
}

/// This very program, also where its file was replaced while it runs.
fn program() -> PathBuf {
    match std::env::current_exe() {
        Ok(path) if path.exists() => path,
        Ok(_) | Err(_) => PathBuf::from("/proc/self/exe"),
    }
}

/// The end of a log, whole lines, indented.
fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(8);
    if lines.is_empty() {
        return "  (it is empty)".to_owned();
    }
    lines[from..].iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
