//! `longhaul run`: start a run and follow it.
//!
//! Job: the options, where the prompt or stdin comes from, one request that may be sent again, then the stream.
//! Never: starts the same run twice; its id is drawn before the first try.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use longhaul_api::{RunRequest, Snapshot};
use longhaul_model::Seq;

use super::exit;
use super::follow::{Interrupts, View, follow};
use super::pick::{agent, short};
use super::request::{self, EXEC, Place, Work};
use super::session::Session;
use super::stdin;
use super::trouble::Trouble;
use crate::client::{Client, ClientError, Follow};

/// Tries to hand the request over while the server is coming or going, and the pause between them.
const TRIES: u32 = 40;
/// See [`TRIES`].
const PAUSE: Duration = Duration::from_millis(250);

/// What an agent may do without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Permit {
    /// The agent's own default for use without a terminal
    Cli,
    /// Look, do not touch
    ReadOnly,
    /// Edit files in its directory
    Edit,
    /// Everything
    Full,
    /// Asks you: longhaul approve, longhaul deny
    Ask,
}

/// What a run may write and see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fence {
    /// Whatever the server's user may
    None,
    /// Write its directory, its temporary files and the agent's own state alone
    Write,
    /// See nothing but those and the system's programs, and no network
    Full,
}

/// Whose home a run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Whose {
    /// Yours, with your logins
    User,
    /// A private one, empty at first
    Managed,
}

/// What happens to a run whose process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WhenLost {
    /// It fails
    Fail,
    /// It goes on in another attempt, three in all
    Resume,
}

/// Start a run and follow it
///
/// The run goes on whatever happens to this command: Ctrl-C detaches, `longhaul attach` comes back.
///
/// The exit status is the agent's own, else:
///     1     it exited with 0 and failed
///     124   its time was used up
///     125   Longhaul's own trouble
///     126   the command cannot be executed; 127 it does not exist
///     128+N signal N ended it
///     130   Ctrl-C detached
///     143   it was cancelled
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    override_usage = "longhaul run [OPTIONS] HARNESS[/MODEL] [PROMPT]\n       longhaul run [OPTIONS] acp [PROMPT] -- COMMAND [ARGS]…\n       longhaul run [OPTIONS] -- COMMAND [ARGS]…"
)]
pub struct Args {
    /// Agent to run: claude, codex, demo, …; after a slash its model
    #[arg(value_name = "HARNESS[/MODEL]")]
    pub harness: Option<String>,
    /// What it is to do; without it the prompt is read from --file or from a pipe
    #[arg(value_name = "PROMPT")]
    pub prompt: Vec<String>,
    /// Command to run instead of an agent; after acp the command of an agent that speaks ACP
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Start it, print its id and return
    #[arg(short, long)]
    pub detach: bool,
    /// Name to find it by
    #[arg(long)]
    pub name: Option<String>,
    /// File with the prompt, after PROMPT if both are given; - is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "command")]
    pub file: Option<PathBuf>,
    /// Leave standard input alone
    #[arg(long)]
    pub no_stdin: bool,
    /// Directory to work in [default: this one]
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Time the run may take, as 90s, 10m or 2h [default: 6h]
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<String>,
    /// What it may write and see, held by bubblewrap
    #[arg(long, value_enum, value_name = "WHAT")]
    pub confine: Option<Fence>,
    /// Whose home it has: yours, or a private one of the session or the run that goes with it
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub home: Option<Whose>,
    /// Memory of all its processes together, as 512M or 2G; beyond it the kernel kills
    #[arg(long, value_name = "BYTES", value_parser = super::request::bytes)]
    pub memory: Option<u64>,
    /// Processes and threads it may have at once
    #[arg(long, value_name = "COUNT")]
    pub tasks: Option<std::num::NonZeroU64>,
    /// Tag to find it by; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub tag: Vec<String>,
    /// Variable for the agent; without a value the one set here; may be repeated
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// What the agent may do without asking
    #[arg(long, value_enum, value_name = "WHAT")]
    pub permissions: Option<Permit>,
    /// What happens if its process is killed or the host restarts
    #[arg(long, value_enum, value_name = "WHAT")]
    pub on_lost: Option<WhenLost>,
    /// Model of the agent, instead of HARNESS/MODEL
    #[arg(long)]
    pub model: Option<String>,
    /// How hard the agent thinks, in its own words
    #[arg(long)]
    pub effort: Option<String>,
    /// System prompt, added to the agent's own
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Id of the run; the same id with the same request attaches to the same run
    #[arg(long, value_name = "RUN_ID")]
    pub id: Option<String>,
    /// Session that the run is a turn of, in the session's own directory; a new one begins with its first turn
    #[arg(long, value_name = "SESSION", conflicts_with = "command")]
    pub session: Option<String>,
    #[command(flatten)]
    pub view: View,
}

/// Does it.
///
/// # Errors
/// Anything before the run's own end.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let work = Work::of(&args)?;
    let text = text(&args, &work, session).await?;
    let client = session.client().await?;
    let place = Place { project: &session.project, environment: &session.environment, local: client.is_local() };
    let mut request = request::build(&args, &work, text, &place)?;
    go_on(&args, &client, &mut request).await?;

    let mut interrupts = Interrupts::listen()?;
    let (client, run, new) = tokio::select! {
        biased;
        () = interrupts.next() => return Err(interrupted(&request)),
        started = start(session, client, async |client| client.start_run(&request).await) => started?,
    };
    announce(session, &run, new, Announce::of(args.detach, args.view.json, args.view.quiet))?;
    if args.detach {
        return Ok(0);
    }
    let show = args.view.show(session, &run);
    let events = Follow::new(session.finder.clone(), client, run.project, run.id, Seq::ZERO);
    follow(session, events, show, args.view.on_interrupt, &mut interrupts).await
}

/// A turn of a session that is there works where the session does, whatever directory this is.
async fn go_on(args: &Args, client: &Client, request: &mut RunRequest) -> Result<(), Trouble> {
    let (Some(id), Some(project), None) = (&request.session_id, &request.project, &args.cwd) else { return Ok(()) };
    match client.session(project, id).await {
        // Left as it is where it is the same, so that the same command means the same run.
        Ok(found) if found["cwd"].as_str() != request.cwd.as_deref() => request.cwd = None,
        Ok(_) => {}
        Err(error) if error.code() == Some("unknown_session") => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The prompt from a file or a pipe, or stdin for a command.
async fn text(args: &Args, work: &Work, session: &Session) -> Result<Option<String>, Trouble> {
    let piped = || !args.no_stdin && stdin::is_piped();
    match (work, &args.file) {
        (Work::Agent { .. }, Some(file)) if file.as_os_str() == "-" => stdin::read(&session.screen).await.map(Some),
        (Work::Agent { .. }, Some(file)) => {
            let bytes = std::fs::read(file);
            let bytes = bytes.map_err(|error| Trouble::new(format!("the prompt in {}: {error}", file.display())))?;
            stdin::text(bytes, &file.display().to_string()).map(Some)
        }
        (Work::Agent { prompt: None, .. }, None) if piped() => {
            let text = stdin::read(&session.screen).await?;
            Ok((!text.trim().is_empty()).then_some(text))
        }
        (Work::Command { .. }, _) if piped() => stdin::read(&session.screen).await.map(Some),
        // Where a prompt was given, what else may be on stdin belongs to the shell's loop around us.
        (Work::Agent { .. }, None) | (Work::Command { .. }, _) => Ok(None),
    }
}

/// Hands the request over. A server that comes or goes meanwhile is waited for and found again: the id makes the
/// second try mean the same run.
pub(super) async fn start(
    session: &Session,
    mut client: Client,
    ask: impl AsyncFn(&Client) -> Result<(Snapshot, bool), ClientError>,
) -> Result<(Client, Snapshot, bool), Trouble> {
    let mut tries = 0;
    loop {
        let error = match ask(&client).await {
            Ok((run, new)) => return Ok((client, run, new)),
            Err(error) => error,
        };
        tries += 1;
        let moving = matches!(error, ClientError::Unreachable { .. }) || error.code() == Some("draining");
        if !moving || tries >= TRIES {
            return Err(error.into());
        }
        tokio::time::sleep(PAUSE).await;
        client = match session.client().await {
            Ok(client) => client,
            Err(_) if session.finder.named.is_some() => client,
            Err(trouble) => return Err(trouble),
        };
    }
}

/// How a run that was started is told of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Announce {
    /// It is all that is told.
    Detached { json: bool },
    /// Something follows that should stand alone.
    Silent,
    /// In a line before what follows.
    Line,
}

impl Announce {
    pub(super) const fn of(detach: bool, json: bool, quiet: bool) -> Self {
        match (detach, json || quiet) {
            (true, _) => Self::Detached { json },
            (false, true) => Self::Silent,
            (false, false) => Self::Line,
        }
    }
}

/// Says which run it is, as far as somebody wants to hear it.
pub(super) fn announce(session: &Session, run: &Snapshot, new: bool, how: Announce) -> Result<(), Trouble> {
    let screen = &session.screen;
    if let Announce::Detached { json } = how {
        if json {
            let line = serde_json::to_string(run).map_err(|error| Trouble::new(error.to_string()))?;
            screen.out(&format!("{line}\n"))?;
        } else {
            screen.out(&format!("{}\n", run.id))?;
            screen.hint(&format!("follow it: longhaul attach {}", short(&run.id)));
        }
        return Ok(());
    }
    if matches!(how, Announce::Silent) {
        return Ok(());
    }
    let what = if run.harness == EXEC { String::new() } else { format!("  {}", agent(run)) };
    let state = match (&run.queue, new) {
        (_, false) => format!("  ({}; attached to the run that was there)", run.status.as_str()),
        (Some(queue), true) if queue.position > 0 => format!("  (queued, {} before it)", queue.position),
        (_, true) => String::new(),
    };
    screen.note(&super::screen::Paint::Dim.on(screen.err_colour, &format!("run {}{what}{state}", run.id)));
    Ok(())
}

fn interrupted(request: &RunRequest) -> Trouble {
    let trouble = Trouble::new("interrupted while the run was being started").status(exit::DETACHED);
    match &request.run_id {
        Some(id) => trouble.help(format!("if it was started: longhaul attach {id}   longhaul cancel {id}")),
        None => trouble,
    }
}
