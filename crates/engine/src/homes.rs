//! Managed homes: a private home for each session, so that agents share neither login nor database.
//!
//! Job: make one, say which variables lead into it, and remove those that nobody has any more.
//! Owns: `homes/NAME/` below the data directory: `owner` says whose it is, and `home/` is what the agent gets.
//! Never: removes one of a run or a session that is there.
//!
//! Order: it is made before the commit that accepts its first run, and removed after the commit that erases its owner.
//! What a crash leaves in between is found by the next start, by `owner`.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use longhaul_harness::PlanError;
use longhaul_model::RunKey;
use longhaul_store::StoreError;
use serde::{Deserialize, Serialize};

use crate::doc::Doc;
use crate::engine::Engine;
use crate::error::DispatchError;
use crate::sealed::Sealed;
use crate::session::SessionKey;

/// The file that says whose a home is.
const OWNER: &str = "owner";

/// The directory that is the home.
const HOME: &str = "home";

/// Variables that lead into a managed home, and where.
const VARIABLES: [(&str, &str); 7] = [
    ("HOME", ""),
    ("XDG_CONFIG_HOME", ".config"),
    ("XDG_DATA_HOME", ".local/share"),
    ("XDG_STATE_HOME", ".local/state"),
    ("XDG_CACHE_HOME", ".cache"),
    ("CLAUDE_CONFIG_DIR", ".claude"),
    ("CODEX_HOME", ".codex"),
];

/// Variables by which agents keep state elsewhere. Without them it lies below `HOME`.
const ELSEWHERE: [&str; 10] = [
    "CLAUDE_SECURESTORAGE_CONFIG_DIR",
    "CODEX_SQLITE_HOME",
    "COPILOT_HOME",
    "GEMINI_CLI_HOME",
    "KIMI_CODE_HOME",
    "KIMI_SHARE_DIR",
    "OPENCODE_DB",
    "PI_CODING_AGENT_DIR",
    "PI_CODING_AGENT_SESSION_DIR",
    "QWEN_HOME",
];

/// Whose a home is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HomeOwner {
    /// A run's, until a session takes it over.
    Run(RunKey),
    /// A session's.
    Session(SessionKey),
}

/// Whether a managed home says what this variable is.
pub(crate) fn rules(name: &str) -> bool {
    VARIABLES.iter().any(|(known, _)| *known == name) || ELSEWHERE.contains(&name)
}

/// The variables that lead into `home`.
pub(crate) fn variables(home: &Path) -> impl Iterator<Item = (String, String)> + use<'_> {
    let below = |at: &str| if at.is_empty() { home.to_owned() } else { home.join(at) };
    VARIABLES.iter().map(move |(name, at)| ((*name).to_owned(), below(at).to_string_lossy().into_owned()))
}

/// Refuses variables of the request that would lead out of a managed home.
pub(crate) fn check(sealed: &Sealed) -> Result<(), DispatchError> {
    let Some(name) = sealed.env.keys().find(|name| rules(name)) else { return Ok(()) };
    let message = format!("sets {name}, which a managed home sets itself; leave it out, or ask for home user");
    Err(PlanError::Invalid { field: "env", message }.into())
}

/// Where the home of a directory of homes is.
pub(crate) fn inside(dir: &Path) -> PathBuf {
    dir.join(HOME)
}

/// Makes a home, or what is missing of it. That it is `owner`'s survives a power cut once this returns.
///
/// # Errors
/// Of the file system; something else than a directory of ours in its place is one.
pub(crate) fn make(dir: &Path, owner: &HomeOwner) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        private(parent)?;
    }
    private(dir)?;
    let file = dir.join(OWNER);
    if !file.try_exists()? {
        let new = dir.join("owner.new");
        let mut to = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        to.write_all(&serde_json::to_vec(owner)?)?;
        to.sync_all()?;
        fs::rename(&new, &file)?;
        fs::File::open(dir)?.sync_all()?;
        if let Some(parent) = dir.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
    }
    let home = inside(dir);
    private(&home)?;
    // Some programs want theirs to be there. What the agent put in the place of one is its own matter.
    for (_, at) in VARIABLES.iter().filter(|(_, at)| !at.is_empty()) {
        let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(home.join(at));
    }
    Ok(())
}

/// A directory of ours, for us alone.
fn private(dir: &Path) -> io::Result<()> {
    crate::owner::private_dir(dir)?;
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
}

/// What the file says: nothing if there is none.
fn owner_of(dir: &Path) -> io::Result<Option<HomeOwner>> {
    match fs::read(dir.join(OWNER)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Engine {
    /// The directory of the home with this name.
    pub(crate) fn homes_dir(&self, name: &str) -> PathBuf {
        self.inner.options.data_dir.join("homes").join(name)
    }

    /// Removes homes that no run and no session has: a crash came between their making and the commit, or between the
    /// erasure of their owner and their end.
    pub(crate) async fn sweep_homes(&self) {
        let homes = self.homes_dir("");
        let found = tokio::task::spawn_blocking(move || -> Vec<PathBuf> {
            fs::read_dir(homes).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
        });
        for dir in found.await.unwrap_or_default() {
            // Nobody makes one meanwhile.
            let _alone = self.inner.making.write().await;
            match self.is_home_of_somebody(&dir).await {
                Ok(false) => crate::erase::remove_dir(&dir).await,
                Ok(true) => {}
                Err(why) => tracing::warn!(dir = %dir.display(), %why, "whose home it is cannot be told; it stays"),
            }
        }
    }

    async fn is_home_of_somebody(&self, dir: &Path) -> Result<bool, String> {
        let Some(name) = dir.file_name().and_then(|name| name.to_str()) else { return Ok(true) };
        let path = dir.to_owned();
        let owner = tokio::task::spawn_blocking(move || owner_of(&path)).await.map_err(|error| error.to_string())?;
        let has = match owner.map_err(|error| error.to_string())? {
            Some(HomeOwner::Run(key)) => self.run_has_home(&key, name).await,
            Some(HomeOwner::Session(key)) => self.session_has_home(&key, name).await,
            // Its making was interrupted, or its removal; unless the agent of a run that is there threw the file away.
            None => self.anybody_has_home(name).await,
        };
        has.map_err(|error| error.to_string())
    }

    async fn run_has_home(&self, key: &RunKey, name: &str) -> Result<bool, StoreError> {
        if let Some(row) = self.store().run(key).await? {
            let corrupt = |what| StoreError::Corrupt { place: format!("row of run {key}"), what };
            if Doc::decode(&row.doc).map_err(corrupt)?.home.as_deref() == Some(name) {
                return Ok(true);
            }
        }
        self.session_has_home(&crate::resume::session_of(key), name).await
    }

    async fn session_has_home(&self, key: &SessionKey, name: &str) -> Result<bool, StoreError> {
        Ok(self.session(key).await?.is_some_and(|session| session.home.as_deref() == Some(name)))
    }

    async fn anybody_has_home(&self, name: &str) -> Result<bool, StoreError> {
        if self.lock_live().values().any(|live| live.shared.with_doc(|doc| doc.home.as_deref() == Some(name))) {
            return Ok(true);
        }
        if self.all_sessions().await?.iter().any(|session| session.home.as_deref() == Some(name)) {
            return Ok(true);
        }
        self.any_run(|doc| doc.home.as_deref() == Some(name)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longhaul_model::{ProjectId, RunId};
    use std::os::unix::fs::PermissionsExt as _;

    fn owner() -> HomeOwner {
        HomeOwner::Run(RunKey { project: ProjectId::default_project(), run: RunId::parse("a").unwrap() })
    }

    #[test]
    fn it_is_private_and_names_its_owner() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("homes/x");
        make(&dir, &owner()).unwrap();
        assert_eq!(owner_of(&dir).unwrap(), Some(owner()));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&dir), mode(&inside(&dir)), mode(&inside(&dir).join(".codex"))], [0o700; 3]);
        fs::write(inside(&dir).join("kept"), "x").unwrap();
        fs::remove_dir_all(inside(&dir).join(".config")).unwrap();
        make(&dir, &owner()).unwrap();
        assert!(inside(&dir).join("kept").exists() && inside(&dir).join(".config").is_dir());
    }

    #[test]
    fn nothing_else_is_taken_for_one() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, elsewhere) = (tmp.path().join("homes/x"), tmp.path().join("elsewhere"));
        make(&dir, &owner()).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        fs::remove_dir_all(inside(&dir)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, inside(&dir)).unwrap();
        assert!(make(&dir, &owner()).is_err());
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }

    #[test]
    fn every_variable_of_a_home_leads_into_it() {
        let home = Path::new("/h");
        let all: Vec<_> = variables(home).collect();
        assert_eq!(all[0], ("HOME".to_owned(), "/h".to_owned()));
        assert!(all.iter().all(|(name, value)| rules(name) && Path::new(value).starts_with(home)));
        assert!(rules("KIMI_CODE_HOME") && !rules("PATH") && !rules("XDG_RUNTIME_DIR"));
    }
}
