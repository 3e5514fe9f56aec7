//! `longhaul share`: an address that shows one run for a while.

use std::time::Duration;

use longhaul_api::ShareRequest;

use super::duration;
use super::pick::pick;
use super::session::Session;
use super::trouble::Trouble;

/// Print an address that shows a run's events for a while
///
/// Whoever has the address can read this run, and nothing else. It ends with its time, with
/// `longhaul token revoke ID`, or with the run's erasure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run: its id, the beginning or end of it, or its name [default: the newest of the project]
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// How long it is good for, at most 7d [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub ttl: Option<Duration>,
    /// Print all about it as JSON
    #[arg(long)]
    pub json: bool,
}

/// Does it.
///
/// # Errors
/// The run is not there, or the server refuses.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let client = session.client().await?;
    let picked = pick(session, &client, args.run.as_deref()).await?;
    let ttl_ms = args.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    let shared = client.share(&picked.project, &picked.id, &ShareRequest { ttl_ms }).await?;
    if args.json {
        let text = serde_json::to_string(&shared).unwrap_or_default();
        session.screen.out(&format!("{text}\n"))?;
        return Ok(0);
    }
    session.screen.out(&format!("{}{}\n", client.address(), shared.links.events))?;
    let share = &shared.share;
    session.screen.hint(&format!("good until {}.  end it: longhaul token revoke {}", share.expires_at, share.id));
    Ok(0)
}
