//! `longhaul backup`: a consistent copy of a data directory, of a live server's or of one that no server has.

use std::path::PathBuf;

use serde_json::Value;

use super::session::Session;
use super::trouble::Trouble;
use super::verify::lock;
use super::why::now;
use crate::backup::{self, BackupError, Request};
use crate::client::{ClientError, Starting};

/// Copy runs, events and output of ended runs into a new directory, while the server goes on
///
/// The copy is of one moment: whatever was acknowledged before it is in it. Secrets and working directories are not.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to make; it must not be there. With --server it is one of the server's host
    #[arg(value_name = "DEST")]
    pub dest: PathBuf,
    /// Leave out the files of the runs' output; the events have it too, as far as they show it
    #[arg(long)]
    pub no_output: bool,
    /// Print what was made as JSON
    #[arg(long)]
    pub json: bool,
}

/// Does it.
///
/// # Errors
/// There is no backup then.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let dest = session.absolute(&args.dest)?;
    let made = match session.finder.find(Starting::Refused).await {
        Ok(found) => found.client.backup(&dest, !args.no_output).await?,
        Err(ClientError::NoServer { data_dir }) => {
            let _lock = lock(&data_dir)?;
            let request = Request { dest: dest.clone(), output: !args.no_output };
            let made = backup::closed(&data_dir, &request, now()).await.map_err(|error| trouble(&error))?;
            serde_json::json!({
                "object": "backup", "dest": dest, "made_at": made.made_at, "store_id": made.store_id,
                "position": made.position, "runs": made.runs, "live": made.live, "output": made.output,
                "files": made.files.len(), "bytes": made.bytes(),
            })
        }
        Err(error) => return Err(error.into()),
    };
    session.screen.out(&if args.json { format!("{made}\n") } else { line(&made) })?;
    Ok(0)
}

fn line(made: &Value) -> String {
    let dest = made["dest"].as_str().unwrap_or_default();
    let live = made["live"].as_u64().filter(|live| *live > 0);
    let live = live.map(|live| format!(", {live} of them not over")).unwrap_or_default();
    let mebibytes = made["bytes"].as_u64().unwrap_or(0) >> 20;
    format!("{dest}: {} runs{live}; {} files, {mebibytes} MiB, all read again\n", made["runs"], made["files"])
}

/// An error with its causes.
fn trouble(error: &BackupError) -> Trouble {
    Trouble::new(super::chain(error))
}
