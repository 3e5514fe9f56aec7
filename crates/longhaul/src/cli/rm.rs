//! `longhaul rm`: erase ended runs.

use std::time::{Duration, Instant};

use super::cancel::cancel;
use super::exit;
use super::pick::{pick, short};
use super::session::Session;
use super::trouble::Trouble;
use super::wait::ended;

/// How long `-f` waits for a run to be gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Erase ended runs: events, output and secrets
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Runs: ids, beginnings or ends of them, or names
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<String>,
    /// Cancel a run first if it has not ended
    #[arg(short, long)]
    pub force: bool,
    /// Wait until nothing of them is left in the data directory, 30 s each; status 124 if something may be
    #[arg(long)]
    pub wait: bool,
}

/// Does it.
///
/// # Errors
/// A run is not there or not over. Runs named before it are erased.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let client = session.client().await?;
    let (mut picked, mut status) = (Vec::new(), 0);
    for word in &args.runs {
        picked.push(pick(session, &client, Some(word)).await?);
    }
    for one in &picked {
        let id = short(&one.id);
        if args.force && !one.run.status.is_terminal() {
            cancel(&client, one, Some("rm -f"), PATIENCE).await?;
            if ended(session, &client, one, Some(Instant::now() + PATIENCE)).await?.is_none() {
                return Err(Trouble::new(format!("run {id} was cancelled and is not gone yet; it was not erased"))
                    .help(format!("see what it waits for: longhaul why {id}")));
            }
        }
        let wait = if args.wait { PATIENCE } else { Duration::ZERO };
        let erased = client.delete(&one.project, &one.id, wait).await?;
        let said = match (args.wait, erased["bytes_gone_at"].as_str()) {
            (false, _) => "erased".to_owned(),
            (true, Some(at)) => format!("erased; its bytes are gone since {at}"),
            (true, None) => {
                status = exit::DEADLINE;
                "erased; its bytes may still be there".to_owned()
            }
        };
        session.screen.out(&format!("{id}  {said}\n"))?;
    }
    Ok(status)
}
