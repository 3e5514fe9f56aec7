//! `longhaul approve` and `longhaul deny`: answer what an agent asks.

use longhaul_api::Approval;
use longhaul_model::event::Decision;

use super::escape::one_line;
use super::pick::{pick, short};
use super::session::Session;
use super::trouble::Trouble;

/// Allow what an agent asks for, once
///
/// Without ID the only open question is meant. The answer holds for this very call: tool, arguments and directory.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run: its id, the beginning or end of it, or its name
    #[arg(value_name = "RUN")]
    pub run: String,
    /// Number of the question
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// Why, for the record; with deny the agent is told
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Show what is asked and answer nothing
    #[arg(long)]
    pub show: bool,
}

/// Does it.
///
/// # Errors
/// The run or the question is not there, several are open, or it has another answer.
pub async fn run(args: Args, decision: Decision, session: &Session) -> Result<u8, Trouble> {
    let client = session.client().await?;
    let picked = pick(session, &client, Some(&args.run)).await?;
    let all = client.approvals(&picked.project, &picked.id).await?.data;
    let run = short(&picked.id);
    if args.show {
        let shown: Vec<String> =
            all.iter().filter(|one| args.id.as_ref().is_none_or(|id| *id == one.approval_id)).map(page).collect();
        session.screen.out(&shown.concat())?;
        return Ok(0);
    }
    let open: Vec<&Approval> = all.iter().filter(|one| one.status == "open").collect();
    let one = match (&args.id, &open[..]) {
        (Some(id), _) => all.iter().find(|one| one.approval_id == *id),
        (None, [one]) => Some(*one),
        (None, []) => return Err(Trouble::new(format!("run {run} asks for nothing at the moment"))),
        (None, several) => {
            let list: Vec<String> = several.iter().map(|one| page(one)).collect();
            return Err(Trouble::new(format!("run {run} asks several things:\n{}", list.concat().trim_end()))
                .help(format!("name one: longhaul {} {run} {}", verb(decision), several[0].approval_id)));
        }
    };
    let Some(one) = one else {
        let id = one_line(args.id.as_deref().unwrap_or_default());
        return Err(Trouble::new(format!("run {run} asked no question {id}")));
    };
    let op = uuid::Uuid::new_v4().to_string();
    // Bound to what was looked at: a question that changed meanwhile is another one.
    let reply = client.answer(&picked.project, &picked.id, one, decision, args.reason.as_deref(), &op).await?;
    let word = match decision {
        Decision::Allow => "allowed",
        Decision::Deny => "denied",
    };
    session.screen.out(&format!("{run}  {word} {}: {}\n", reply.approval_id, line(&reply)))?;
    Ok(0)
}

const fn verb(decision: Decision) -> &'static str {
    match decision {
        Decision::Allow => "approve",
        Decision::Deny => "deny",
    }
}

fn line(one: &Approval) -> String {
    let about =
        ["command", "cmd", "file_path", "path", "url"].iter().find_map(|name| one.arguments.get(*name)?.as_str());
    let about = about.map_or_else(|| one.arguments.to_string(), str::to_owned);
    let short: String = one_line(&about).chars().take(200).collect();
    format!("{} {short}", one_line(&one.tool))
}

fn page(one: &Approval) -> String {
    let state = one.decision.map_or_else(|| one.status.clone(), |d| format!("{}, {}", one.status, d.as_str()));
    format!("{}  {state}  {}\n   in {}\n   {}\n", one.approval_id, line(one), one_line(&one.cwd), one.digest)
}
