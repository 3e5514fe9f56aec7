//! `longhaul cancel`: ask for the end of runs and wait for the proof.

use std::time::Duration;

use longhaul_api::CancelReply;
use longhaul_model::Status;

use super::pick::{Picked, pick, short};
use super::session::Session;
use super::trouble::Trouble;
use super::wait::outcome;
use crate::client::{Client, ClientError};

/// How long the proof is waited for: the agent's own way to stop, TERM and KILL all fit.
const PATIENCE: Duration = Duration::from_secs(20);

/// Cancel runs and wait until they are gone
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Runs: ids, beginnings or ends of them, or names
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<String>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Return as soon as the cancel is recorded
    #[arg(long)]
    pub no_wait: bool,
}

/// Does it.
///
/// # Errors
/// A run is not there, or the server refuses. Runs named before it are cancelled.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let client = session.client().await?;
    let patience = if args.no_wait { Duration::ZERO } else { PATIENCE };
    let mut picked = Vec::new();
    for word in &args.runs {
        picked.push(pick(session, &client, Some(word)).await?);
    }
    // All are asked before any is waited for.
    if picked.len() > 1 {
        for one in &picked {
            cancel(&client, one, args.reason.as_deref(), Duration::ZERO).await?;
        }
    }
    for one in &picked {
        let reply = cancel(&client, one, args.reason.as_deref(), patience).await?;
        let before = one.run.status.is_terminal();
        session.screen.out(&format!("{}  {}\n", short(&one.id), said(&reply, before)))?;
    }
    Ok(0)
}

/// One cancel; a repeat is the same cancel.
///
/// # Errors
/// As the call.
pub async fn cancel(
    client: &Client,
    picked: &Picked,
    reason: Option<&str>,
    patience: Duration,
) -> Result<CancelReply, ClientError> {
    let op = uuid::Uuid::new_v4().to_string();
    client.cancel(&picked.project, &picked.id, reason, &op, patience).await
}

fn said(reply: &CancelReply, before: bool) -> String {
    match (reply.terminal, reply.run.status) {
        (true, _) if before => format!("had ended before: {}", outcome(&reply.run)),
        (true, Status::Cancelled) => "cancelled".to_owned(),
        (true, _) => format!("ended by itself meanwhile: {}", outcome(&reply.run)),
        (false, _) => "cancel recorded; the run has not ended yet".to_owned(),
    }
}
