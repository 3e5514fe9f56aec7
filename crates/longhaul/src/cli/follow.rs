//! Following a run on the screen until it ends or is let go.
//!
//! Job: events to the renderer or as JSON, Ctrl-C, words about a connection that is away; gives the exit status.
//! Never: ends a run unless `--on-interrupt cancel` says so.

use std::time::Duration;

use clap::ValueEnum;
use longhaul_api::Snapshot;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit;
use super::pick::short;
use super::render::{Renderer, Taste};
use super::request::EXEC;
use super::screen::Ink;
use super::session::Session;
use super::trouble::Trouble;
use crate::client::{ClientError, Follow, Step};

/// How long a connection may be away before that is said.
const SAY_AFTER: Duration = Duration::from_secs(2);

/// What Ctrl-C means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OnInterrupt {
    /// The run goes on.
    #[default]
    Detach,
    /// The run is cancelled; Ctrl-C again detaches.
    Cancel,
}

/// How a run is followed: the options of each verb that does.
#[derive(Debug, clap::Args)]
pub struct View {
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

impl View {
    /// How the events of a run are shown.
    pub fn show(&self, session: &Session, run: &Snapshot) -> Show {
        if self.json {
            return Show::Json;
        }
        let taste = Taste { raw: self.raw, verbose: self.verbose, quiet: self.quiet };
        Show::Human(Box::new(Renderer::new(session.screen, taste, run.harness == EXEC)))
    }
}

/// How events are shown.
#[derive(Debug)]
pub enum Show {
    /// For people.
    Human(Box<Renderer>),
    /// The wire events, one a line.
    Json,
}

impl Show {
    /// What an event looks like.
    pub fn step(&mut self, event: &longhaul_model::Event, wire: String) -> Vec<Ink> {
        match self {
            Self::Human(renderer) => renderer.event(event),
            Self::Json => vec![Ink::Out(format!("{wire}\n").into_bytes())],
        }
    }

    /// Ends an open line.
    pub fn close(&mut self) -> Vec<Ink> {
        match self {
            Self::Human(renderer) => renderer.close(),
            Self::Json => Vec::new(),
        }
    }
}

/// Ctrl-C as a value instead of an end; from now on to the end of the process.
#[derive(Debug)]
pub struct Interrupts(Option<Signal>);

impl Interrupts {
    /// Listens from now on, unless whoever started us had the signal ignored, as a shell does for what a script puts
    /// into the background.
    ///
    /// # Errors
    /// The system refuses the handler.
    pub fn listen() -> Result<Self, Trouble> {
        if std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_interrupt(&status)) {
            return Ok(Self(None));
        }
        let signal = signal(SignalKind::interrupt());
        signal.map(|signal| Self(Some(signal))).map_err(|error| Trouble::new(format!("no way to hear Ctrl-C: {error}")))
    }

    /// The next one.
    ///
    /// # Cancel safety
    /// None is lost.
    pub async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
}

/// Source: proc(5), `SigIgn`: a mask in hex; signal 2 is its second bit.
fn ignores_interrupt(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 0b10 != 0)
}

/// Follows to the end and gives the exit status of the run, or [`exit::DETACHED`].
///
/// # Errors
/// The output cannot be written, or the server refuses or stays away. The run is not touched by either.
pub async fn follow(
    session: &Session,
    mut follow: Follow,
    mut show: Show,
    on_interrupt: OnInterrupt,
    interrupts: &mut Interrupts,
) -> Result<u8, Trouble> {
    let screen = &session.screen;
    let mut cancelling = false;
    let mut said = false;
    let mut status = None;
    loop {
        let step = tokio::select! {
            biased;
            () = interrupts.next() => None,
            step = follow.next() => Some(step),
        };
        match step {
            None => {
                screen.put(&show.close())?;
                if on_interrupt == OnInterrupt::Detach || cancelling {
                    say_detached(session, &follow);
                    return Ok(exit::DETACHED);
                }
                cancelling = true;
                screen.hint("cancelling; Ctrl-C again detaches");
                cancel(&follow).await?;
            }
            Some(Ok(Step::Event(event, wire))) => {
                screen.put(&show.step(&event, wire))?;
                status = exit::of_event(&event.data).or(status);
            }
            Some(Ok(Step::Hello(_))) => {
                if std::mem::take(&mut said) {
                    screen.hint("reconnected");
                }
            }
            Some(Ok(Step::Waiting(away))) => {
                if away >= SAY_AFTER && !std::mem::replace(&mut said, true) {
                    screen.put(&show.close())?;
                    screen.hint("reconnecting…");
                }
            }
            Some(Ok(Step::Launched(launched))) => {
                screen.put(&show.close())?;
                screen.hint("the server is gone; the run goes on");
                session.say_launched(&launched);
                said = false;
            }
            Some(Ok(Step::Done)) => break,
            Some(Err(error)) => {
                screen.put(&show.close())?;
                return Err(lost(&follow, error));
            }
        }
    }
    if let Some(status) = status {
        return Ok(status);
    }
    // The cursor stood at the end already.
    let run = follow.client().run(follow.project(), follow.run(), Duration::ZERO).await?;
    exit::of_snapshot(&run).ok_or_else(|| follow.client().strange("an end of events before the run's end").into())
}

async fn cancel(follow: &Follow) -> Result<(), Trouble> {
    let op = uuid::Uuid::new_v4().to_string();
    let reason = Some("interrupted");
    match follow.client().cancel(follow.project(), follow.run(), reason, &op, Duration::ZERO).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Trouble::from(error).help("the run was not cancelled and goes on")),
    }
}

fn say_detached(session: &Session, follow: &Follow) {
    let id = short(follow.run());
    session
        .screen
        .note(&format!("detached; the run goes on.  come back: longhaul attach {id}   stop it: longhaul cancel {id}"));
}

fn lost(follow: &Follow, error: ClientError) -> Trouble {
    let trouble = match error {
        ClientError::NoServer { .. } => Trouble::new("the server was stopped"),
        error => error.into(),
    };
    trouble.help(format!("the run goes on; come back: longhaul attach {}", short(follow.run())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_seen() {
        assert!(ignores_interrupt("Name:\tx\nSigIgn:\t0000000000001006\n"));
        assert!(!ignores_interrupt("SigIgn:\t0000000000001000\n"));
        assert!(!ignores_interrupt(""));
    }
}
