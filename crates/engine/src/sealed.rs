//! What a run needs to be started, kept beside it until it can have no further attempt.
//!
//! Job: the request with its environment values in one file, mode 0600, durable before the run is accepted.
//! Owns: `DIR/request.json`. Never: reaches an event, a row or a log line.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use longhaul_harness::{Mcp, Permissions};
use longhaul_model::RunKey;
use longhaul_model::event::{Budget, Home};
use longhaul_model::policy::Policy;
use serde::{Deserialize, Serialize};

use crate::containment::Contained;

/// The version of the file's form.
const VERSION: u32 = 1;

/// The file's name.
pub(crate) const FILE: &str = "request.json";

/// A request as it will be carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sealed {
    /// The model asked for.
    pub model: Option<String>,
    /// The prompt, for an agent.
    pub prompt: Option<String>,
    /// The prompt where the source's own session already holds what came before it; otherwise `prompt` is.
    #[serde(default)]
    pub turn: Option<String>,
    /// Instructions beside the prompt.
    pub system: Option<String>,
    /// The program, for a command.
    pub command: Option<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// What it reads.
    pub stdin: Option<String>,
    /// The directory it works in.
    pub cwd: PathBuf,
    /// Variables named by the request.
    pub env: BTreeMap<String, String>,
    /// Variables of the invoking shell, if one was there.
    pub captured_env: Option<BTreeMap<String, String>>,
    /// How hard the model should think.
    pub effort: Option<String>,
    /// What the agent may do.
    #[serde(with = "permissions")]
    pub permissions: Permissions,
    /// Tools it may use without asking.
    pub allowed_tools: Vec<String>,
    /// Rules by which its questions are answered, where it asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvals: Option<Policy>,
    /// The JSON Schema that the answer must meet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Value>,
    /// Servers of tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp: Option<Mcp>,
    /// Turns at most.
    pub turns_max: Option<u32>,
    /// Tokens and money at most.
    #[serde(default)]
    pub budget: Budget,
    /// Silence at most, milliseconds.
    pub idle_ms: Option<u64>,
    /// The budget, milliseconds.
    pub timeout_ms: u64,
    /// The session id that we choose for a CLI that lets us.
    pub new_session: String,
    /// Whose home it has. Nothing is that of its session, or the user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<Home>,
    /// What it may do to the machine.
    #[serde(default)]
    pub contained: Contained,
    /// The trace that the run belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<longhaul_model::Trace>,
}

mod permissions {
    //! Permissions by name: the harness crate's type knows no serde.

    use longhaul_harness::Permissions;
    use serde::{Deserialize as _, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(value: &Permissions, ser: S) -> Result<S::Ok, S::Error> {
        ser.serialize_str(value.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(de: D) -> Result<Permissions, D::Error> {
        let name = String::deserialize(de)?;
        Permissions::parse(&name).ok_or_else(|| serde::de::Error::custom(format!("no permissions are called {name:?}")))
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

#[derive(Serialize, Deserialize)]
struct File<T> {
    version: u32,
    run: RunKey,
    request: T,
}

/// Makes `dir` and writes the file in it; both survive a power cut once this returns.
///
/// # Errors
/// Of the file system. The directory may be there and must be removed by the caller.
pub(crate) fn write(dir: &Path, sealed: &Sealed, run: &RunKey) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir)?;
    let sealed = File { version: VERSION, run: run.clone(), request: sealed };
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path(dir))?;
    file.write_all(&serde_json::to_vec(&sealed)?)?;
    file.sync_all()?;
    fs::File::open(dir)?.sync_all()?;
    if let Some(parent) = dir.parent() {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Reads the file back.
///
/// # Errors
/// Of the file system, or `InvalidData` if it is not what was written.
pub(crate) fn read(dir: &Path) -> io::Result<Sealed> {
    let file: File<Sealed> = serde_json::from_slice(&fs::read(path(dir))?)?;
    if file.version != VERSION {
        let text = format!("{} has version {}, this program knows {VERSION}", path(dir).display(), file.version);
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(file.request)
}

/// Whether there is a request, readable or not.
pub(crate) fn is_there(dir: &Path) -> bool {
    path(dir).exists()
}

/// Whose request it is; `None` if it cannot be told.
pub(crate) fn owner(dir: &Path) -> Option<RunKey> {
    let file: File<serde::de::IgnoredAny> = serde_json::from_slice(&fs::read(path(dir)).ok()?).ok()?;
    Some(file.run)
}

/// Removes the file: the run can have no further attempt.
pub(crate) fn remove(dir: &Path) {
    match fs::remove_file(path(dir)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(dir = %dir.display(), %error, "could not remove a sealed request"),
    }
}
