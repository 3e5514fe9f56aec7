//! Whether a caller is a process of a run.
//!
//! Job: from a socket to the process that holds it, from that to the runs it belongs to. /proc is read for this, so it is
//! asked only where the answer matters: for requests that change something and come without a token of their own.
//! Owns: how many look at once. Never: blocks a thread of the server; takes nobody for an operator because it could not
//! be seen.
//!
//! A process that is gone by the time it is looked for, that hides its descriptors, or that lives where this server
//! cannot see is [`Standing::Unseen`]: an agent could be that on purpose, a client that waits for its answer is not.

use std::path::Path;
use std::time::{Duration, Instant};

use longhaul_engine::Engine;
use longhaul_model::RunKey;
use longhaul_supervise::kin::{self, Sign};
use tokio::sync::Semaphore;

/// Who look at once; each reads all of /proc, and the others wait.
const LOOKERS: usize = 2;

/// How long one look may take: a machine with ten thousand processes needs a fraction of it.
const LOOK: Duration = Duration::from_secs(5);

/// Where a caller stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// In no run.
    Outside,
    /// In a run: of this server and live, and proved by its ancestors; or in another one.
    Inside(Option<RunKey>),
    /// Nobody knows.
    Unseen,
}

/// The looking.
#[derive(Debug)]
pub struct Insiders {
    /// The runs that this server itself is a part of: whoever shares them with it is no stranger to it.
    own: Vec<Sign>,
    lookers: Semaphore,
}

impl Insiders {
    /// For the server of this data directory.
    pub fn new(data_dir: &Path) -> Self {
        let mut own = kin::signs(std::process::id().cast_signed()).ok().flatten().unwrap_or_default();
        let runs = std::fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned()).join("runs");
        // A server that was started from inside one of its own runs does not make that run an operator.
        own.retain(|sign| match sign {
            Sign::Shim(attempt) => !attempt.starts_with(&runs),
            Sign::Marker(marker) => !marker.rsplit_once('.').is_some_and(|(dir, _)| runs.join(dir).exists()),
        });
        Self { own, lookers: Semaphore::new(LOOKERS) }
    }

    /// Where the process stands that holds the socket with this inode.
    ///
    /// # Cancel safety
    /// The look goes on to its end, and nobody hears of it.
    pub async fn standing(&self, engine: &Engine, inode: u64) -> Standing {
        let Ok(_turn) = self.lookers.acquire().await else { return Standing::Unseen };
        let looked = tokio::task::spawn_blocking(move || {
            let pid = kin::holder(inode, Instant::now() + LOOK)?;
            pid.map_or(Ok(None), kin::signs)
        });
        let signs = match looked.await {
            Ok(Ok(Some(signs))) => signs,
            Ok(Ok(None)) | Err(_) => return Standing::Unseen,
            Ok(Err(error)) => {
                tracing::warn!(%error, "could not look whose process asks");
                return Standing::Unseen;
            }
        };
        match signs.iter().find(|sign| !self.own.contains(sign)) {
            None => Standing::Outside,
            // Only ancestors prove which run it is; a marker can be anybody's, and says no more than that it is one.
            Some(sign @ Sign::Shim(_)) => Standing::Inside(engine.run_of(sign)),
            Some(Sign::Marker(_)) => Standing::Inside(None),
        }
    }
}
