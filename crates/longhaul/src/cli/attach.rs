//! `longhaul attach`: follow a run that is there, from its beginning.

use longhaul_model::Seq;

use super::follow::{Interrupts, OnInterrupt, Show, follow};
use super::pick::{describe, pick};
use super::render::{Renderer, Taste};
use super::request::EXEC;
use super::screen::Paint;
use super::session::Session;
use super::trouble::Trouble;
use crate::client::Follow;

/// Follow a run: what it printed so far, then what it prints
///
/// The exit status is that of `longhaul run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run: its id, the beginning or end of it, or its name [default: the newest of the project]
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// Begin after this event instead of at the beginning
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub after: u64,
    /// What Ctrl-C does
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    pub on_interrupt: OnInterrupt,
    /// Print the events as JSON, one a line
    #[arg(long, conflicts_with_all = ["quiet", "verbose", "raw"])]
    pub json: bool,
    /// Let terminal escapes of the agent through
    #[arg(long)]
    pub raw: bool,
    /// Print nothing but the answer and failures
    #[arg(short, long)]
    pub quiet: bool,
    /// Print more about processes and sessions
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
}

/// Does it.
///
/// # Errors
/// Anything but the run's own end.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let client = session.client().await?;
    let picked = pick(session, &client, args.run.as_deref()).await?;
    let mut interrupts = Interrupts::listen()?;
    let show = if args.json {
        Show::Json
    } else {
        let taste = Taste { raw: args.raw, verbose: args.verbose, quiet: args.quiet };
        if args.run.is_some() && !args.quiet {
            let line = format!("run {}", describe(&picked.run));
            session.screen.note(&Paint::Dim.on(session.screen.err_colour, &line));
        }
        Show::Human(Box::new(Renderer::new(session.screen, taste, picked.run.harness == EXEC)))
    };
    let events = Follow::new(session.finder.clone(), client, picked.project, picked.id, Seq::new(args.after));
    follow(session, events, show, args.on_interrupt, &mut interrupts).await
}
