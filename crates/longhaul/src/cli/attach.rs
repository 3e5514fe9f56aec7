//! `longhaul attach`: follow a run that is there, from its beginning.

use longhaul_model::Seq;

use super::follow::{Interrupts, View, follow};
use super::pick::{describe, pick};
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
    #[command(flatten)]
    pub view: View,
}

/// Does it.
///
/// # Errors
/// Anything but the run's own end.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let client = session.client().await?;
    let picked = pick(session, &client, args.run.as_deref()).await?;
    let mut interrupts = Interrupts::listen()?;
    if args.run.is_some() && !args.view.json && !args.view.quiet {
        let line = format!("run {}", describe(&picked.run));
        session.screen.note(&Paint::Dim.on(session.screen.err_colour, &line));
    }
    let show = args.view.show(session, &picked.run);
    let events = Follow::new(session.finder.clone(), client, picked.project, picked.id, Seq::new(args.after));
    follow(session, events, show, args.view.on_interrupt, &mut interrupts).await
}
