//! `longhaul prune`: erase ended runs by their age.

use std::time::Duration;

use longhaul_model::Status;

use super::duration;
use super::pick::short;
use super::session::Session;
use super::trouble::Trouble;
use super::why::now;
use crate::client::ListQuery;

/// Runs of one page.
const PAGE: usize = 100;

/// Erase ended runs that are older than a given age
///
/// The server does the same by itself to runs that ended 30 days ago.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only runs that ended longer ago than this, as 12h or 7d
    #[arg(long, value_name = "AGE", value_parser = duration::parse, required_unless_present = "all")]
    pub older_than: Option<Duration>,
    /// Every ended run
    #[arg(long, conflicts_with = "older_than")]
    pub all: bool,
    /// Runs of all projects
    #[arg(short = 'A', long, conflicts_with = "project")]
    pub all_projects: bool,
    /// Say what would be erased, and erase nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Does it.
///
/// # Errors
/// The server refuses. Runs named before that are erased.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let client = session.client().await?;
    let ended = Status::ALL.into_iter().filter(|status| status.is_terminal());
    let mut query = ListQuery {
        project: (!args.all_projects).then(|| session.project.clone()),
        status: ended.map(|status| status.as_str().to_owned()).collect(),
        limit: Some(PAGE),
        ..ListQuery::default()
    };
    let before = now().unix_ms().saturating_sub(args.older_than.map_or(0, |age| age.as_millis() as i64));
    let mut old = Vec::new();
    loop {
        let page = client.runs(&query).await?;
        old.extend(page.runs.into_iter().filter(|run| run.ended_at.is_some_and(|at| at.unix_ms() <= before)));
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    let word = if args.dry_run { "would be erased" } else { "erased" };
    for run in &old {
        if !args.dry_run {
            client.delete(&run.project, &run.id, Duration::ZERO).await?;
        }
        session.screen.out(&format!("{}  {word}\n", short(&run.id)))?;
    }
    if old.is_empty() {
        session.screen.hint("no ended run is that old");
    }
    Ok(0)
}
