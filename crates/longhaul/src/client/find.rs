//! Finding the server that a command should speak to.
//!
//! Job: the order of DESIGN 9: a named address, else `server.json` of the data directory if whoever listens there can
//! prove the nonce, else a server started in the background.
//! Owns: the decision whether one may be started. Never: sends a token or a request to an address it has not proved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use longhaul_api::ServerInfo;
use sha2::{Digest, Sha256};

use super::call::Client;
use super::error::ClientError;
use super::launch::{self, Launched, Listen};

/// How long a sign of life may take on this host.
const LIVEZ_TIMEOUT: Duration = Duration::from_secs(3);

/// How the address was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `--server`.
    Flag,
    /// `LONGHAUL_SERVER`.
    Variable,
    /// This configuration file.
    File(PathBuf),
}

/// Whether a server may be started if none runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starting {
    /// Yes.
    Allowed,
    /// No: the command asks about the server itself, or it was stopped on purpose.
    Refused,
}

/// Everything the search depends on.
#[derive(Debug, Clone)]
pub struct Finder {
    /// An address that was named, and how.
    pub named: Option<(String, Origin)>,
    /// The data directory, where one could be determined.
    pub data_dir: Option<PathBuf>,
    /// The bearer token.
    pub token: Option<String>,
    /// The run around us, if this is the inside of one.
    pub inside_run: Option<String>,
    /// Where a server that is started must listen, if the configuration says so.
    pub listen: Option<String>,
    /// The configuration file to name to it.
    pub config: Option<PathBuf>,
}

/// A server that answers.
#[derive(Debug, Clone)]
pub struct Found {
    /// The way to it.
    pub client: Client,
    /// Its version, where it was learnt on the way.
    pub version: Option<String>,
    /// What was started for it, if anything was.
    pub launched: Option<Launched>,
}

/// The server of a data directory, proved to be the one that wrote `server.json`.
#[derive(Debug, Clone)]
pub struct LocalServer {
    /// What it says about itself.
    pub info: ServerInfo,
    /// The way to it.
    pub client: Client,
}

impl Finder {
    /// Finds a server.
    ///
    /// # Errors
    /// [`ClientError`]; nothing was started unless it is [`ClientError::Launch`].
    pub async fn find(&self, starting: Starting) -> Result<Found, ClientError> {
        if let Some((address, _)) = &self.named {
            let client = Client::new(address, self.token.clone())?;
            let proof = client.livez(None, LIVEZ_TIMEOUT).await?;
            return Ok(Found { client, version: Some(proof.version), launched: None });
        }
        let data_dir = self.data_dir()?;
        if let Some(local) = local_server(data_dir, self.token.clone()).await? {
            return Ok(Found { client: local.client, version: Some(local.info.version), launched: None });
        }
        if let Some(run) = &self.inside_run {
            return Err(ClientError::InsideRun { run: run.clone(), data_dir: data_dir.to_owned() });
        }
        if starting == Starting::Refused {
            return Err(ClientError::NoServer { data_dir: data_dir.to_owned() });
        }
        let (local, launched) =
            launch::launch(data_dir, self.listen(), self.config.as_deref(), self.token.clone()).await?;
        Ok(Found { client: local.client, version: Some(local.info.version), launched })
    }

    /// Where a server that is started listens if its command does not say.
    pub fn listen(&self) -> Listen<'_> {
        self.listen.as_deref().map_or(Listen::Default, Listen::Only)
    }

    /// The data directory.
    ///
    /// # Errors
    /// [`ClientError::DataDir`] if neither an option nor the environment says where it is.
    pub fn data_dir(&self) -> Result<&Path, ClientError> {
        self.data_dir.as_deref().ok_or_else(|| ClientError::DataDir {
            path: PathBuf::from("~/.local/state/longhaul"),
            why: "HOME is not set".to_owned(),
        })
    }
}

/// The server that lives on a data directory, if one answers and proves itself.
///
/// # Errors
/// [`ClientError::DataDir`] if the directory belongs to somebody else.
pub async fn local_server(data_dir: &Path, token: Option<String>) -> Result<Option<LocalServer>, ClientError> {
    check_owner(data_dir)?;
    let Ok(text) = std::fs::read(data_dir.join("server.json")) else { return Ok(None) };
    let Ok(info) = serde_json::from_slice::<ServerInfo>(&text) else { return Ok(None) };
    let Ok(client) = Client::new(&info.address, token) else { return Ok(None) };
    let challenge = uuid::Uuid::new_v4().simple().to_string();
    match client.livez(Some(&challenge), LIVEZ_TIMEOUT).await {
        Ok(proof) if proof.proof.as_deref() == Some(&*proof_of(&info.nonce, &challenge)) => {
            Ok(Some(LocalServer { info, client }))
        }
        // Nobody, or a stranger on a port that was ours once.
        Ok(_) | Err(_) => Ok(None),
    }
}

/// The text that proves knowledge of a nonce.
fn proof_of(nonce: &str, challenge: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(format!("{nonce}:{challenge}")).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Whoever can write `server.json` can send our prompts where they like.
fn check_owner(data_dir: &Path) -> Result<(), ClientError> {
    use std::os::unix::fs::MetadataExt;
    let Ok(facts) = std::fs::metadata(data_dir) else { return Ok(()) };
    let us = rustix::process::geteuid().as_raw();
    if facts.uid() == us {
        return Ok(());
    }
    Err(ClientError::DataDir {
        path: data_dir.to_owned(),
        why: format!("it belongs to user {} and this is user {us}", facts.uid()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_the_hash_of_nonce_and_challenge() {
        // Source: printf 'n:c' | sha256sum
        assert_eq!(proof_of("n", "c"), "ca5ba889e6fa8190abf9670f81bcd886dc6c745da301f272f727f18d960116ea".to_owned());
    }

    #[test]
    fn inside_a_run_no_second_server_is_started() {
        let dir = tempfile::tempdir().unwrap();
        let finder = Finder {
            named: None,
            data_dir: Some(dir.path().to_owned()),
            token: None,
            inside_run: Some("outer".into()),
            listen: None,
            config: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(finder.find(Starting::Allowed)).unwrap_err();
        assert!(matches!(error, ClientError::InsideRun { ref run, .. } if run == "outer"), "{error:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
