//! `longhaul restore`: from a backup to a data directory.

use std::path::PathBuf;

use super::session::Session;
use super::trouble::Trouble;
use super::why::now;
use crate::backup;

/// Make the data directory anew from a backup
///
/// The directory must be empty or not there. The store gets an id of its own. Runs that were not over when the backup
/// was made end as lost with the next start: their processes, if they live, are the original's.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory that longhaul backup made
    #[arg(value_name = "BACKUP")]
    pub source: PathBuf,
}

/// Does it.
///
/// # Errors
/// Nothing is restored then.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let data_dir = session.data_dir()?;
    let source = session.absolute(&args.source)?;
    let done = backup::restore(&source, data_dir, now()).await.map_err(|error| Trouble::new(super::chain(&error)))?;
    let made = &done.manifest;
    let live = if made.live > 0 { format!("; {} were not over and end as lost", made.live) } else { String::new() };
    session.screen.out(&format!(
        "{}: {} runs of {}{live}; the new store is {}\n",
        data_dir.display(),
        made.runs,
        made.made_at,
        done.store_id
    ))?;
    session.screen.hint(&format!("start a server on it: longhaul server start --data-dir {}", data_dir.display()));
    Ok(0)
}
