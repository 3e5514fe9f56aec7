//! `longhaul drain`: no new runs, and wait for those that are there.
//!
//! Never: ends a run.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::duration;
use super::session::Session;
use super::trouble::Trouble;
use crate::client::{Client, ClientError, Starting};

/// Runs are left when the time is over. Source: timeout(1).
const TIMED_OUT: u8 = 124;

/// How often it is looked whether they have ended.
const POLL: Duration = Duration::from_millis(200);

/// Take no new runs and wait until those that were accepted have ended
///
/// Everything else goes on: readers, cancels, input. Until it is undone, or another server starts, new runs are refused
/// with `draining`. The exit status is 124 if runs are left when the time is over.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long to wait [default: until they have ended]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// Stop the server once all have ended
    #[arg(long, conflicts_with = "undo")]
    pub stop: bool,
    /// Take new runs again
    #[arg(long)]
    pub undo: bool,
}

/// Does it.
///
/// # Errors
/// No server answers.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let client = session.finder.find(Starting::Refused).await?.client;
    if args.undo {
        client.drain(false).await?;
        session.screen.out("new runs are taken again\n")?;
        return Ok(0);
    }
    let began = Instant::now();
    let mut left = live(&client.drain(true).await?);
    let mut said = None;
    while left > 0 {
        if args.timeout.is_some_and(|at_most| began.elapsed() >= at_most) {
            session
                .screen
                .out(&format!("{left} runs are left; new ones are refused (undo: longhaul drain --undo)\n"))?;
            return Ok(TIMED_OUT);
        }
        if said != Some(left) {
            said = Some(left);
            session.screen.note(&format!("waiting for {left} runs"));
        }
        tokio::time::sleep(POLL).await;
        left = look(&client).await?;
    }
    if args.stop {
        client.shutdown().await?;
        session.screen.out("no run is left; the server stops\n")?;
    } else {
        session.screen.out("no run is left; new ones are refused (undo: longhaul drain --undo)\n")?;
    }
    Ok(0)
}

fn live(state: &Value) -> u64 {
    state["live"].as_u64().unwrap_or(0)
}

async fn look(client: &Client) -> Result<u64, ClientError> {
    Ok(client.health().await?["runs"]["live"].as_u64().unwrap_or(0))
}
