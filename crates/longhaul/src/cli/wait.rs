//! `longhaul wait`: until runs have ended.

use std::time::{Duration, Instant};

use longhaul_api::Snapshot;
use longhaul_model::limits::WAIT_MS_MAX;

use super::duration;
use super::exit;
use super::pick::{Picked, pick, short};
use super::session::Session;
use super::trouble::Trouble;
use crate::client::Client;

/// The longest wait in one request; shorter than what proxies cut.
const ROUND: Duration = Duration::from_millis(WAIT_MS_MAX - 5_000);

/// How long the server may be away before the wait ends with an error.
const AWAY_MAX: Duration = Duration::from_mins(5);

/// Wait until runs have ended
///
/// Prints each run's id and how it ended. The exit status is that of the run, as `longhaul run` gives it; of several the
/// first that is not 0.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Runs: ids, beginnings or ends of them, or names [default: the newest of the project]
    #[arg(value_name = "RUN")]
    pub runs: Vec<String>,
    /// Give up after this time, with status 124; the runs go on
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// Print the run as JSON, one a line
    #[arg(long)]
    pub json: bool,
}

/// Does it.
///
/// # Errors
/// A run is not there, or the server stays away.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let client = session.client().await?;
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let mut picked = Vec::new();
    if args.runs.is_empty() {
        picked.push(pick(session, &client, None).await?);
    }
    for word in &args.runs {
        picked.push(pick(session, &client, Some(word)).await?);
    }
    let mut first_bad = 0;
    for one in &picked {
        let Some(run) = ended(session, &client, one, deadline).await? else {
            return Err(Trouble::new(format!("run {} has not ended in time; it goes on", short(&one.id)))
                .status(exit::DEADLINE)
                .help(format!("see what it waits for: longhaul why {}", short(&one.id))));
        };
        let line = if args.json {
            client.run_raw(&one.project, &one.id).await?.to_string()
        } else {
            format!("{}  {}", run.id, outcome(&run))
        };
        session.screen.out(&format!("{line}\n"))?;
        let status = exit::of_snapshot(&run).unwrap_or_default();
        first_bad = if first_bad == 0 { status } else { first_bad };
    }
    Ok(first_bad)
}

/// Waits for the end of a run; `None` if the deadline comes first.
///
/// # Errors
/// A refusal, or a server that stays away.
pub async fn ended(
    session: &Session,
    client: &Client,
    picked: &Picked,
    deadline: Option<Instant>,
) -> Result<Option<Snapshot>, Trouble> {
    let mut client = client.clone();
    let mut away_since: Option<Instant> = None;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let round = left.map_or(ROUND, |left| left.min(ROUND)).max(Duration::from_millis(1));
        match client.run(&picked.project, &picked.id, round).await {
            Ok(run) if run.status.is_terminal() => return Ok(Some(run)),
            Ok(_) => away_since = None,
            Err(error) if error.is_passing() && away_since.get_or_insert_with(Instant::now).elapsed() < AWAY_MAX => {
                tokio::time::sleep(Duration::from_millis(250)).await;
                if let Ok(found) = session.client().await {
                    client = found;
                }
            }
            Err(error) => return Err(error.into()),
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(None);
        }
    }
}

/// How a run ended or where it is: `completed`, `failed: exit_nonzero: …`.
pub fn outcome(run: &Snapshot) -> String {
    match &run.error {
        Some(error) => {
            let text = format!("{}: {}: {}", run.status.as_str(), error.code, error.message);
            super::escape::one_line(&text)
        }
        None => run.status.as_str().to_owned(),
    }
}
