//! `longhaul resume`: go on with a run that is over, in a new one.
//!
//! Job: the options, one request that may be sent again, then the stream. Never: starts the same run twice; its id is drawn
//! before the first try.

use longhaul_api::{OnLost, Permissions};
use longhaul_model::{RunId, Seq};
use serde_json::{Map, Value, json};

use super::exit;
use super::follow::{Interrupts, View, follow};
use super::pick::pick;
use super::request::{timeout_ms, variables};
use super::run::{Announce, Permit, WhenLost, announce, start};
use super::session::Session;
use super::trouble::Trouble;
use crate::client::Follow;

/// Go on with a run that is over: a new run in the same session and directory
///
/// Variables and permissions of the old run are not kept: the variables of this shell are given along, permissions are named
/// again. The exit status is that of `longhaul run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run: its id, the beginning or end of it, its name, or @last for the newest of the project
    #[arg(value_name = "RUN")]
    pub run: String,
    /// What it is to do now [default: to go on where it left off]
    #[arg(value_name = "PROMPT")]
    pub prompt: Vec<String>,
    /// Start it, print its id and return
    #[arg(short, long)]
    pub detach: bool,
    /// Name to find the new run by
    #[arg(long)]
    pub name: Option<String>,
    /// Time the new run may take, as 90s, 10m or 2h [default: 6h]
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<String>,
    /// Variable for the agent; without a value the one set here; may be repeated
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// What the agent may do without asking
    #[arg(long, value_enum, value_name = "WHAT")]
    pub permissions: Option<Permit>,
    /// What happens if its process is killed or the host restarts
    #[arg(long, value_enum, value_name = "WHAT")]
    pub on_lost: Option<WhenLost>,
    /// Id of the new run; the same id with the same request attaches to the same run
    #[arg(long, value_name = "RUN_ID")]
    pub id: Option<String>,
    #[command(flatten)]
    pub view: View,
}

/// Does it.
///
/// # Errors
/// Anything before the new run's own end.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let client = session.client().await?;
    let of = pick(session, &client, Some(&args.run)).await?;
    let id = match &args.id {
        None => RunId::from_uuid(uuid::Uuid::now_v7()),
        Some(id) => RunId::parse(id).map_err(|error| Trouble::new(format!("--id {id:?}: {error}")))?,
    };
    let captured = client.is_local().then(|| session.environment.captured());
    let body = body(&args, &id, variables(&args.env, &session.environment)?, captured)?;
    let mut interrupts = Interrupts::listen()?;
    let (client, run, new) = tokio::select! {
        biased;
        () = interrupts.next() => {
            let trouble = Trouble::new("interrupted while the run was being started").status(exit::DETACHED);
            return Err(trouble.help(format!("if it was started: longhaul attach {id}   longhaul cancel {id}")));
        }
        started = start(session, client, async |client| client.resume(&of.project, &of.id, &body).await) => started?,
    };
    announce(session, &run, new, Announce::of(args.detach, args.view.json, args.view.quiet))?;
    if args.detach {
        return Ok(0);
    }
    let show = args.view.show(session, &run);
    let events = Follow::new(session.finder.clone(), client, run.project, run.id, Seq::ZERO);
    follow(session, events, show, args.view.on_interrupt, &mut interrupts).await
}

fn body(
    args: &Args,
    id: &RunId,
    env: Option<std::collections::BTreeMap<String, String>>,
    captured: Option<std::collections::BTreeMap<String, String>>,
) -> Result<Map<String, Value>, Trouble> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    put("run_id", Some(json!(id)));
    put("prompt", (!args.prompt.is_empty()).then(|| json!(args.prompt.join(" "))));
    put("name", args.name.as_ref().map(|name| json!(name)));
    put("timeout_ms", args.timeout.as_deref().map(timeout_ms).transpose()?.map(Value::from));
    put("env", env.map(|env| json!(env)));
    put("captured_env", captured.map(|env| json!(env)));
    put("permissions", args.permissions.map(|permit| json!(Permissions::from(permit))));
    put("on_lost", args.on_lost.map(|when| json!(OnLost::from(when))));
    Ok(body)
}
