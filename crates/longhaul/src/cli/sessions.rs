//! `longhaul sessions`: the conversations there are, what was said in one, and forgetting them.

use std::fmt::Write as _;

use clap::Subcommand;
use longhaul_model::{RunId, SessionId, Timestamp};
use serde_json::Value;

use super::duration;
use super::escape::{one_line, strip};
use super::pick::short;
use super::screen::Paint;
use super::session::Session;
use super::table::{Cell, Table};
use super::trouble::Trouble;
use super::why::now;

/// List the sessions of the project, show what was said in one, or forget some
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Print the sessions as JSON, one a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show a session and what was said in it
    Show {
        /// The session's id
        #[arg(value_name = "SESSION")]
        id: String,
        /// Print the session and each message as JSON, one a line
        #[arg(long)]
        json: bool,
    },
    /// Forget sessions of which no run is live; their runs stay
    Rm {
        /// The sessions' ids
        #[arg(value_name = "SESSION", required = true)]
        ids: Vec<String>,
    },
}

/// Does it.
///
/// # Errors
/// A session is not there, or one of its runs is not over. Sessions named before it are forgotten.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    match args.verb {
        None => list(args.json, session).await,
        Some(Verb::Show { id, json }) => show(&parse(&id)?, json || args.json, session).await,
        Some(Verb::Rm { ids }) => {
            let ids = ids.iter().map(|id| parse(id)).collect::<Result<Vec<_>, _>>()?;
            let client = session.client().await?;
            for id in &ids {
                client.delete_session(&session.project, id).await?;
                session.screen.out(&format!("{id}  forgotten\n"))?;
            }
            Ok(0)
        }
    }
}

fn parse(id: &str) -> Result<SessionId, Trouble> {
    SessionId::parse(id).map_err(|error| Trouble::new(format!("session {id:?}: {error}")))
}

async fn list(json: bool, session: &Session) -> Result<u8, Trouble> {
    let nothing = || format!("no session in project {}; begin one: longhaul run --session NAME …", session.project);
    let Some(client) = session.client_if_any().await? else {
        session.screen.hint(&nothing());
        return Ok(0);
    };
    let (mut sessions, mut after) = (Vec::new(), None);
    loop {
        let (page, next) = client.sessions(&session.project, after.as_deref()).await?;
        sessions.extend(page);
        after = next;
        if after.is_none() {
            break;
        }
    }
    if json {
        let lines = sessions.iter().fold(String::new(), |text, one| text + &one.to_string() + "\n");
        session.screen.out(&lines)?;
    } else if sessions.is_empty() {
        session.screen.hint(&nothing());
    } else {
        session.screen.out(&table(&sessions).show(session.screen.width, session.screen.out_colour))?;
    }
    Ok(0)
}

fn table(sessions: &[Value]) -> Table {
    let mut table = Table::new(&["SESSION", "AGENT", "TURNS", "AGE", "LIVE", "LAST RUN", "DIRECTORY"]);
    let text = |one: &Value, name: &str| one_line(one[name].as_str().unwrap_or_default());
    for one in sessions {
        let plain = |text: String| -> Cell { (text, Paint::Plain) };
        let run = |name: &str| one[name].as_str().and_then(|id| RunId::parse(id).ok());
        let age = serde_json::from_value::<Timestamp>(one["created_at"].clone()).ok().map(|at| {
            let ms = u64::try_from(now().unix_ms() - at.unix_ms()).unwrap_or(0);
            duration::brief(std::time::Duration::from_millis(ms))
        });
        table.row(vec![
            plain(text(one, "id")),
            plain(agent(one)),
            plain(one["turns"].to_string()),
            plain(age.unwrap_or_default()),
            (run("live_run").map(|id| short(&id).to_owned()).unwrap_or_default(), Paint::Cyan),
            plain(run("last_run").map(|id| short(&id).to_owned()).unwrap_or_default()),
            (text(one, "cwd"), Paint::Dim),
        ]);
    }
    table
}

fn agent(one: &Value) -> String {
    match (one["harness"].as_str().unwrap_or_default(), one["model"].as_str()) {
        (harness, Some(model)) => one_line(&format!("{harness}/{model}")),
        (harness, None) => one_line(harness),
    }
}

async fn show(id: &SessionId, json: bool, session: &Session) -> Result<u8, Trouble> {
    let client = session.client().await?;
    let found = client.session(&session.project, id).await?;
    let colour = session.screen.out_colour;
    if json {
        session.screen.out(&format!("{found}\n"))?;
    } else {
        let mut head = String::new();
        let mut line = |name: &str, value: &str| {
            if !value.is_empty() {
                let _ = writeln!(head, "{}{value}", Paint::Dim.on(colour, &format!("{name:<10}")));
            }
        };
        line("session", &Paint::Bold.on(colour, id.as_str()));
        line("agent", &agent(&found));
        line("turns", &found["turns"].to_string());
        for (name, member) in
            [("directory", "cwd"), ("created", "created_at"), ("live run", "live_run"), ("last run", "last_run")]
        {
            line(name, &one_line(found[member].as_str().unwrap_or_default()));
        }
        session.screen.out(&head)?;
    }
    let mut after = None;
    loop {
        let page = client.transcript(&session.project, id, after).await?;
        let mut text = String::new();
        for said in page["data"].as_array().into_iter().flatten() {
            if json {
                let _ = writeln!(text, "{said}");
                continue;
            }
            let who = said["role"].as_str().unwrap_or_default();
            let run = said["run_id"].as_str().unwrap_or_default();
            let heading = format!("{}. {who}  (run {run}, {})", said["turn"], said["status"].as_str().unwrap_or("?"));
            let _ = writeln!(text, "\n{}", Paint::Dim.on(colour, &one_line(&heading)));
            for line in strip(said["text"].as_str().unwrap_or_default()).trim_end().lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
        session.screen.out(&text)?;
        for gone in page["missing"].as_array().into_iter().flatten() {
            session.screen.note(&format!("turn {} is not kept any more", gone["turn"]));
        }
        after = page["next"].as_u64();
        if after.is_none() {
            return Ok(0);
        }
    }
}
