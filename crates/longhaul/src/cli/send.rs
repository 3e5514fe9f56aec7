//! `longhaul send`: say something to a running agent.

use super::pick::{pick, short};
use super::session::Session;
use super::stdin;
use super::trouble::Trouble;

/// Say something to a running agent
///
/// It is told at once if it listens while it works; in a session it is told with the next turn otherwise.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run: its id, the beginning or end of it, or its name
    #[arg(value_name = "RUN")]
    pub run: String,
    /// What to say [default: standard input]
    #[arg(value_name = "TEXT", allow_hyphen_values = true)]
    pub text: Option<String>,
}

/// Does it.
///
/// # Errors
/// The run is not there, or the server refuses.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let text = match args.text {
        Some(text) => text,
        None if stdin::is_piped() => stdin::read(&session.screen).await?,
        None => {
            return Err(Trouble::new("there is nothing to say")
                .help("give it as the second word, or pipe it: longhaul send RUN TEXT"));
        }
    };
    let client = session.client().await?;
    let picked = pick(session, &client, Some(&args.run)).await?;
    let op = uuid::Uuid::new_v4().to_string();
    let reply = client.input(&picked.project, &picked.id, &text, &op).await?;
    let said = match &*reply.delivery {
        "live" => "the agent is told",
        _ => "the session's next turn begins with it",
    };
    session.screen.out(&format!("{}  {said}\n", short(&picked.id)))?;
    Ok(0)
}
