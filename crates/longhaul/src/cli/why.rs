//! `longhaul why`: what a run waits for, or why it ended.

use std::time::{Duration, SystemTime};

use longhaul_api::Why;
use longhaul_model::Timestamp;

use super::duration;
use super::escape::one_line;
use super::pick::{describe, pick};
use super::screen::Paint;
use super::session::Session;
use super::trouble::Trouble;

/// Say what a run waits for, or why it ended
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run: its id, the beginning or end of it, or its name [default: the newest of the project]
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// Does it.
///
/// # Errors
/// The run is not there.
pub async fn run(args: Args, session: &Session) -> Result<u8, Trouble> {
    let client = session.client().await?;
    let picked = pick(session, &client, args.run.as_deref()).await?;
    let why = client.why(&picked.project, &picked.id).await?;
    let text = if args.json {
        serde_json::to_string(&why).map_err(|error| Trouble::new(error.to_string()))? + "\n"
    } else {
        let head = format!("{}\n", Paint::Dim.on(session.screen.out_colour, &describe(&picked.run)));
        head + &page(&why, now())
    };
    session.screen.out(&text)?;
    Ok(0)
}

fn page(why: &Why, now: Timestamp) -> String {
    let mut lines = vec![one_line(&why.cause), format!("since: {}", ago(why.since, now))];
    if why.owner != "nobody" {
        lines.push(format!("to act: {}", one_line(&why.owner)));
    }
    if let Some(next) = why.next {
        let what = why.next_what.as_deref().unwrap_or("something happens by itself");
        let left = Duration::from_millis(u64::try_from(next.unix_ms() - now.unix_ms()).unwrap_or(0));
        lines.push(format!("at the latest in {}: {}", duration::show(left), one_line(what)));
    }
    lines.extend(why.facts.iter().map(|fact| format!("- {}", one_line(fact))));
    lines.join("\n") + "\n"
}

/// The time now.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// `5m 3s ago`.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let ms = u64::try_from(now.unix_ms() - then.unix_ms()).unwrap_or(0);
    format!("{} ago", duration::show(Duration::from_millis(ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_has_an_owner_a_since_and_a_next() {
        let why = Why {
            cause: "the agent is silent".into(),
            owner: "agent".into(),
            since: Timestamp::from_unix_ms(1_000),
            next: Some(Timestamp::from_unix_ms(3_661_000)),
            next_what: Some("its deadline ends it".into()),
            facts: vec!["process 7 is alive".into()],
        };
        assert_eq!(
            page(&why, Timestamp::from_unix_ms(61_000)),
            "the agent is silent\nsince: 1m ago\nto act: agent\nat the latest in 1h: its deadline ends it\n- process 7 is alive\n"
        );
    }
}
