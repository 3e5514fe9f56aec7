//! `longhaul logs`: what a run printed, once or as it grows.
//!
//! Job: three views: readable (as `attach`), the events as JSON, the raw bytes of one stream.

use std::time::Duration;

use clap::ValueEnum;
use longhaul_model::{Event, Seq};

use super::escape::Filter;
use super::follow::{Interrupts, OnInterrupt, Show, follow};
use super::pick::{Picked, pick};
use super::render::{Renderer, Taste};
use super::request::EXEC;
use super::screen::Ink;
use super::session::Session;
use super::trouble::Trouble;
use crate::client::{Client, ClientError, Follow};

/// How often a growing raw log is asked for more.
const POLL: Duration = Duration::from_millis(300);

/// A stream of the agent's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stream {
    /// File descriptor 1
    Stdout,
    /// File descriptor 2
    Stderr,
}

/// Print what a run printed
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run: its id, the beginning or end of it, or its name [default: the newest of the project]
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// Go on until the run ends
    #[arg(short, long)]
    pub follow: bool,
    /// Print the bytes of this stream as the agent's process wrote them
    #[arg(long, value_enum, conflicts_with = "events")]
    pub stream: Option<Stream>,
    /// Print the events as JSON, one a line
    #[arg(long, visible_alias = "json")]
    pub events: bool,
    /// Let terminal escapes of the agent through
    #[arg(long)]
    pub raw: bool,
}

/// Does it; the exit status says whether it could be done, not how the run ended.
///
/// # Errors
/// The run is not there, the server refuses, or the output cannot be written.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let client = session.client().await?;
    let picked = pick(session, &client, args.run.as_deref()).await?;
    if let Some(stream) = args.stream {
        return bytes(&args, session, &client, &picked, stream).await;
    }
    let mut show = if args.events {
        Show::Json
    } else {
        let taste = Taste { raw: args.raw, verbose: true, quiet: false };
        Show::Human(Box::new(Renderer::new(session.screen, taste, picked.run.harness == EXEC)))
    };
    if args.follow {
        let events = Follow::new(session.finder.clone(), client, picked.project, picked.id, Seq::ZERO);
        let status = follow(session, events, show, OnInterrupt::Detach, &mut Interrupts::listen()?).await?;
        return Ok(if status == super::exit::DETACHED { status } else { 0 });
    }
    let mut after = Seq::ZERO;
    loop {
        let page = client.events(&picked.project, &picked.id, after).await?;
        for wire in page.data {
            let event = Event::decode(wire.get().as_bytes())
                .map_err(|_| client.strange("an event this version cannot read"))?;
            session.screen.put(&show.step(&event, wire.get().to_owned()))?;
        }
        if !page.has_more || page.next <= after {
            session.screen.put(&show.close())?;
            return Ok(0);
        }
        after = page.next;
    }
}

/// Raw bytes: exact into a pipe, without escapes on a terminal.
async fn bytes(
    args: &Args,
    session: &Session,
    client: &Client,
    picked: &Picked,
    stream: Stream,
) -> Result<u8, Trouble> {
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    let exact = args.raw || !session.screen.out_tty;
    let mut filter = Filter::default();
    let (mut attempt, mut offset) = (1, 0);
    let mut attempts = picked.run.attempts;
    let mut over = !args.follow;
    loop {
        if let Some(mut response) = client.log(&picked.project, &picked.id, name, attempt, offset).await? {
            while let Some(piece) = client.piece(&mut response).await? {
                offset += piece.len() as u64;
                let shown =
                    if exact { piece.to_vec() } else { filter.strip(&String::from_utf8_lossy(&piece)).into_bytes() };
                session.screen.put(&[Ink::Out(shown)])?;
            }
        }
        // Where there is a later attempt, this one has printed all it will.
        if attempt < attempts {
            (attempt, offset) = (attempt + 1, 0);
            continue;
        }
        if over {
            return Ok(0);
        }
        // The end is looked up before the last read, so that nothing written before it is missed.
        let run = match client.run(&picked.project, &picked.id, POLL).await {
            Ok(run) => run,
            Err(ClientError::Unreachable { .. }) => {
                tokio::time::sleep(POLL).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        (over, attempts) = (run.status.is_terminal(), run.attempts);
    }
}
