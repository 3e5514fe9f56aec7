//! Another version takes this one's place: what it must prove before, and what became of it.
//!
//! Job: finds the program, has it look at command line, configuration and store (`serve … --preflight`), and then asks
//! the server to hand over. Owns: one upgrade at a time. Never: touches anything before the new program has agreed.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use longhaul_supervise::handover;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::watch;

/// The option by which a program is asked whether it could take over.
const PREFLIGHT: &str = "--preflight";

/// How long it may take to say so: it reads a configuration and the head of a store.
const PREFLIGHT_MAX: Duration = Duration::from_secs(20);

/// How often a file is tried that somebody still has open for writing.
const BUSY_RETRY: Duration = Duration::from_millis(10);

/// Bytes of its complaint that are passed on.
const COMPLAINT_BYTES: usize = 2_000;

/// What a program says that could take over: the one line of `--preflight`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preflight {
    /// How it wants to be handed lock and socket.
    pub handover: u32,
    /// Its version.
    pub version: String,
}

impl Preflight {
    /// What this program says.
    pub fn own() -> Self {
        Self { handover: handover::VERSION, version: crate::VERSION.to_owned() }
    }
}

/// A program that has agreed to take over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// Where it is.
    pub program: PathBuf,
    /// Its version.
    pub version: String,
}

/// Why nothing is handed over. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[error("{what}; this server goes on as it was")]
pub struct Refused {
    /// A sentence.
    pub what: String,
}

fn refused(what: impl Into<String>) -> Refused {
    Refused { what: what.into() }
}

/// Upgrades of one process, over all the programs that run in it.
#[derive(Debug)]
pub struct Upgrades {
    /// The path of this program; another file may be there by now, which is how an upgrade is installed.
    installed: PathBuf,
    /// This program's own arguments, which the next one gets.
    args: Vec<OsString>,
    asking: tokio::sync::Mutex<()>,
    wanted: watch::Sender<Option<Next>>,
    failed: Mutex<Option<String>>,
}

impl Upgrades {
    /// Those of this process. To be made at the start, while the file at this program's path is this program.
    pub fn new() -> Self {
        let installed = std::env::current_exe().unwrap_or_default();
        // What the kernel says of a file that was replaced between exec and this line.
        let installed =
            installed.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map(PathBuf::from).unwrap_or(installed);
        Self {
            installed,
            args: std::env::args_os().skip(1).collect(),
            asking: tokio::sync::Mutex::default(),
            wanted: watch::Sender::default(),
            failed: Mutex::default(),
        }
    }

    /// The path whose program takes over if none is named.
    pub fn installed(&self) -> &Path {
        &self.installed
    }

    /// The arguments that the next program gets.
    pub(super) fn args(&self) -> &[OsString] {
        &self.args
    }

    /// Why the last upgrade came to nothing after it had been accepted.
    pub fn failure(&self) -> Option<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_failure(&self, why: Option<String>) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Asks a program whether it can take over, and if so has the server hand over to it.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed.
    pub async fn ask(&self, program: Option<&Path>) -> Result<Next, Refused> {
        let Ok(_alone) = self.asking.try_lock() else { return Err(refused("another upgrade is under way")) };
        if self.wanted.borrow().is_some() {
            return Err(refused("another upgrade is under way"));
        }
        let program = program.unwrap_or(&self.installed);
        check_file(program)?;
        let version = self.preflight(program).await?;
        let next = Next { program: program.to_owned(), version };
        self.wanted.send_replace(Some(next.clone()));
        Ok(next)
    }

    async fn preflight(&self, program: &Path) -> Result<String, Refused> {
        let name = program.display();
        let mut command = Command::new(program);
        command.args(&self.args).arg(PREFLIGHT).stdin(Stdio::null()).kill_on_drop(true);
        // These are this process's alone.
        for variable in [handover::VARIABLE, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(variable);
        }
        let output = async {
            loop {
                match command.output().await {
                    // Whoever installed it has not closed it in every process yet.
                    Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => tokio::time::sleep(BUSY_RETRY).await,
                    output => break output,
                }
            }
        };
        let output = match tokio::time::timeout(PREFLIGHT_MAX, output).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(refused(format!("{name} cannot be executed: {error}"))),
            Err(_) => return Err(refused(format!("{name} did not answer within {} s", PREFLIGHT_MAX.as_secs()))),
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: String = said.trim().chars().take(COMPLAINT_BYTES).collect();
            return Err(refused(format!("{name} would not take over ({}): {said}", output.status)));
        }
        match serde_json::from_slice::<Preflight>(&output.stdout) {
            Ok(said) if said.handover == handover::VERSION => Ok(said.version),
            Ok(said) => Err(refused(format!(
                "{name}, version {}, takes over in another way than this version hands over; use longhaul server restart",
                said.version
            ))),
            Err(_) => Err(refused(format!("{name} does not answer like Longhaul"))),
        }
    }

    /// Waits until somebody wants the server to hand over.
    pub(super) async fn wanted(&self) -> Next {
        let mut wanted = self.wanted.subscribe();
        match wanted.wait_for(Option::is_some).await.map(|next| (*next).clone()) {
            Ok(Some(next)) => next,
            // The sender is ours, and what was waited for is there.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Forgets what was wanted, since it came to nothing.
    pub(super) fn withdraw(&self) {
        self.wanted.send_replace(None);
    }
}

impl Default for Upgrades {
    fn default() -> Self {
        Self::new()
    }
}

/// A file that anybody may write, or that is somebody else's, is not executed in the place of this program.
fn check_file(program: &Path) -> Result<(), Refused> {
    let name = program.display();
    if !program.is_absolute() {
        return Err(refused(format!("{name} is not an absolute path")));
    }
    let facts = std::fs::metadata(program).map_err(|error| refused(format!("{name}: {error}")))?;
    if !facts.is_file() || facts.mode() & 0o111 == 0 {
        return Err(refused(format!("{name} is not a program")));
    }
    let us = rustix::process::geteuid().as_raw();
    if facts.uid() != 0 && facts.uid() != us {
        return Err(refused(format!("{name} belongs to user {}, neither to root nor to user {us}", facts.uid())));
    }
    if facts.mode() & 0o002 != 0 {
        return Err(refused(format!("{name} can be written by anybody")));
    }
    Ok(())
}
