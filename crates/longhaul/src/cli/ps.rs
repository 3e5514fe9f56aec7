//! `longhaul ps`: the runs there are.

use std::time::Duration;

use longhaul_api::Snapshot;
use longhaul_model::{Status, Timestamp};
use serde_json::Value;

use super::duration;
use super::escape::one_line;
use super::pick::{agent, short};
use super::request::tags;
use super::screen::Paint;
use super::session::Session;
use super::table::{Cell, Table};
use super::trouble::Trouble;
use super::why::now;
use crate::client::ListQuery;

/// Runs of one page.
const PAGE: usize = 100;

/// List runs that are not over, with -a all of them, the newest first
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Ended runs too
    #[arg(short, long)]
    pub all: bool,
    /// Runs of all projects
    #[arg(short = 'A', long, conflicts_with = "project")]
    pub all_projects: bool,
    /// Only runs in this status; may be repeated
    #[arg(long, value_name = "STATUS", value_parser = status)]
    pub status: Vec<Status>,
    /// Only runs with this tag; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub tag: Vec<String>,
    /// Only runs of this harness
    #[arg(long)]
    pub harness: Option<String>,
    /// At most this many
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50)]
    pub limit: usize,
    /// Print the runs as JSON, one a line
    #[arg(long, conflicts_with = "quiet")]
    pub json: bool,
    /// Print full ids only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Does it.
///
/// # Errors
/// The server refuses, or the output cannot be written.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    tags(&args.tag)?;
    let Some(client) = session.client_if_any().await? else {
        session.screen.hint("no run yet; the first one: longhaul run demo");
        return Ok(0);
    };
    let mut query = ListQuery {
        project: (!args.all_projects).then(|| session.project.clone()),
        status: wanted(&args).iter().map(|status| status.as_str().to_owned()).collect(),
        tags: args.tag.clone(),
        harness: args.harness.clone(),
        limit: Some(args.limit.clamp(1, PAGE)),
        after: None,
    };
    let (mut runs, mut raw, mut more) = (Vec::new(), Vec::new(), true);
    while more && runs.len() < args.limit {
        let page = client.runs(&query).await?;
        runs.extend(page.runs);
        raw.extend(page.raw);
        more = page.next.is_some();
        query.after = page.next;
    }
    more |= runs.len() > args.limit;
    runs.truncate(args.limit);
    raw.truncate(args.limit);
    session.screen.out(&text(&args, session, &runs, &raw))?;
    if more {
        session.screen.hint(&format!("there are more; to see them add: -n {}", args.limit.saturating_mul(4)));
    } else if runs.is_empty() {
        session.screen.hint(&nothing(&args, session));
    }
    Ok(0)
}

fn text(args: &Args, session: &Session, runs: &[Snapshot], raw: &[Value]) -> String {
    if args.json {
        return lines(raw);
    }
    if args.quiet {
        return lines(runs.iter().map(|run| &run.id));
    }
    if runs.is_empty() {
        return String::new();
    }
    table(runs, args.all_projects, now()).show(session.screen.width, session.screen.out_colour)
}

fn lines(items: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    items.into_iter().fold(String::new(), |text, item| text + &item.to_string() + "\n")
}

fn table(runs: &[Snapshot], projects: bool, now: Timestamp) -> Table {
    let mut table = Table::new(&["RUN", "PROJECT", "STATUS", "AGENT", "AGE", "TOOK", "NAME", "TAGS", "NOTE"]);
    for run in runs {
        let plain = |text: String| -> Cell { (text, Paint::Plain) };
        let (status, paint) = shown_status(run);
        let tags: Vec<String> = run.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        table.row(vec![
            plain(short(&run.id).to_owned()),
            plain(if projects { run.project.to_string() } else { String::new() }),
            (status, paint),
            plain(agent(run)),
            plain(duration::brief(between(run.created_at, now))),
            plain(took(run, now)),
            plain(run.name.as_deref().map(one_line).unwrap_or_default()),
            plain(one_line(&tags.join(" "))),
            (note(run, now), Paint::Dim),
        ]);
    }
    table
}

/// A status and its paint; a cancel that was asked for shows before it took effect.
pub fn shown_status(run: &Snapshot) -> (String, Paint) {
    let paint = match run.status {
        Status::Queued | Status::Starting | Status::BindingSession => Paint::Yellow,
        Status::Running => Paint::Cyan,
        Status::Completed => Paint::Green,
        Status::Failed => Paint::Red,
        Status::Cancelled => Paint::Dim,
    };
    if run.cancel_requested && !run.status.is_terminal() {
        return ("cancelling".to_owned(), Paint::Yellow);
    }
    if !run.approvals.is_empty() && !run.status.is_terminal() {
        return ("asking".to_owned(), Paint::Yellow);
    }
    (run.status.as_str().to_owned(), paint)
}

/// How long it has been running, or ran; nothing for what never started.
pub fn took(run: &Snapshot, now: Timestamp) -> String {
    match run.started_at {
        Some(started) => duration::show(between(started, run.ended_at.unwrap_or(now))),
        None => String::new(),
    }
}

fn note(run: &Snapshot, now: Timestamp) -> String {
    if let Some(asked) = run.approvals.first().filter(|_| !run.status.is_terminal()) {
        let since = duration::brief(between(asked.requested_at, now));
        return format!("asks for {} since {since}", one_line(&asked.tool));
    }
    match (&run.error, &run.queue) {
        (Some(error), _) => one_line(&error.code),
        (None, Some(queue)) => format!("{} before it", queue.position),
        (None, None) => String::new(),
    }
}

fn nothing(args: &Args, session: &Session) -> String {
    let place = if args.all_projects { "any project".to_owned() } else { format!("project {}", session.project) };
    let what = if args.all { "no run" } else { "no live run" };
    let mut more = String::new();
    if !args.all {
        more.push_str("; ended ones: longhaul ps -a");
    }
    if !args.all_projects {
        more.push_str("; other projects: -A");
    }
    format!("{what} in {place}{more}")
}

fn wanted(args: &Args) -> Vec<Status> {
    if !args.status.is_empty() {
        return args.status.clone();
    }
    if args.all {
        return Vec::new();
    }
    Status::ALL.into_iter().filter(|status| !status.is_terminal()).collect()
}

fn status(text: &str) -> Result<Status, String> {
    Status::parse(text).ok_or_else(|| {
        let names: Vec<&str> = Status::ALL.iter().map(|status| status.as_str()).collect();
        format!("there are: {}", names.join(", "))
    })
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(to.unix_ms() - from.unix_ms()).unwrap_or(0))
}
