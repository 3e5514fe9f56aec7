//! `longhaul inspect`: all about one run.

use std::fmt::Write as _;

use longhaul_api::Snapshot;
use longhaul_model::Timestamp;

use super::duration;
use super::escape::{one_line, strip};
use super::pick::{agent, pick};
use super::ps::{shown_status, took};
use super::render::{show_cost, show_usage};
use super::screen::{Paint, Screen};
use super::session::Session;
use super::trouble::Trouble;
use super::why::{ago, now};

/// Lines of the answer that are shown.
const ANSWER_LINES: usize = 20;

/// Show all about a run
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run: its id, the beginning or end of it, or its name [default: the newest of the project]
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// Print the run as JSON
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
    if args.json {
        let raw = client.run_raw(&picked.project, &picked.id).await?;
        let text = serde_json::to_string_pretty(&raw).map_err(|error| Trouble::new(error.to_string()))?;
        session.screen.out(&format!("{text}\n"))?;
        return Ok(0);
    }
    // What a list gives leaves the answer out.
    let run = client.run(&picked.project, &picked.id, std::time::Duration::ZERO).await?;
    session.screen.out(&page(&run, &session.screen, now()))?;
    Ok(0)
}

fn page(run: &Snapshot, screen: &Screen, now: Timestamp) -> String {
    let colour = screen.out_colour;
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(out, "{}{value}", Paint::Dim.on(colour, &format!("{name:<10}")));
        }
    };
    let (status, paint) = shown_status(run);
    line("run", Paint::Bold.on(colour, run.id.as_str()));
    line("status", paint.on(colour, &status));
    line("error", run.error.as_ref().map(|e| one_line(&format!("{}: {}", e.code, e.message))).unwrap_or_default());
    line("reason", run.reason.as_deref().map(one_line).unwrap_or_default());
    line("exit", exit(run));
    line("agent", agent(run));
    line("name", run.name.as_deref().map(one_line).unwrap_or_default());
    line("project", run.project.to_string());
    line("tags", one_line(&run.tags.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")));
    line("directory", one_line(&run.cwd));
    line("process", run.pid.map(|pid| pid.to_string()).unwrap_or_default());
    line("session", run.source_session_id.as_deref().map(one_line).unwrap_or_default());
    line("created", format!("{} ({})", run.created_at, ago(run.created_at, now)));
    line("took", took(run, now));
    line("deadline", format!("{} from its start", duration::show(std::time::Duration::from_millis(run.timeout_ms))));
    line("attempts", if run.attempts > 1 { attempts(run) } else { String::new() });
    line("resumes", run.resumed_from.as_ref().map(ToString::to_string).unwrap_or_default());
    line("tokens", run.usage.as_ref().and_then(show_usage).unwrap_or_default());
    line("cost", run.cost.as_ref().map(show_cost).unwrap_or_default());
    line("tools", if run.tool_calls > 0 { format!("{} calls", run.tool_calls) } else { String::new() });
    line("warnings", if run.warnings > 0 { run.warnings.to_string() } else { String::new() });
    line("unknown", if run.unknown_lines > 0 { format!("{} lines", run.unknown_lines) } else { String::new() });
    line("events", run.last_seq.to_string());
    line("readers", if run.readers > 0 { run.readers.to_string() } else { String::new() });
    block(&mut out, colour, "stderr", run.error.as_ref().and_then(|error| error.stderr_tail.as_deref()));
    block(&mut out, colour, "answer", run.output_text.as_deref());
    out
}

/// How many, and how the last ones came to be.
fn attempts(run: &Snapshot) -> String {
    let told = run.attempt_log.iter().filter(|attempt| attempt.cause != "first").map(|attempt| {
        let rung = attempt.rung.map(|rung| format!(" by {}", rung.as_str())).unwrap_or_default();
        let tools = attempt.lost.as_ref().map_or(0, |lost| lost.tools.len());
        let uncertain = if tools > 0 { format!(", {tools} tool calls uncertain") } else { String::new() };
        format!("{}: {}{rung}{uncertain}", attempt.attempt, one_line(&attempt.cause))
    });
    format!("{} ({})", run.attempts, told.collect::<Vec<_>>().join("; "))
}

fn exit(run: &Snapshot) -> String {
    match &run.exit {
        Some(exit) => match (exit.code, exit.signal) {
            (_, Some(signal)) => format!("signal {signal}"),
            (Some(code), None) => format!("status {code}"),
            (None, None) => String::new(),
        },
        None => String::new(),
    }
}

/// The last lines of a text under a heading.
fn block(out: &mut String, colour: bool, name: &str, text: Option<&str>) {
    let text = strip(text.unwrap_or_default());
    let lines: Vec<&str> = text.trim_end().lines().collect();
    if lines.is_empty() {
        return;
    }
    let from = lines.len().saturating_sub(ANSWER_LINES);
    let more = if from > 0 { format!(" (the last {ANSWER_LINES} of {} lines)", lines.len()) } else { String::new() };
    let _ = writeln!(out, "\n{}", Paint::Dim.on(colour, &format!("{name}{more}")));
    for line in &lines[from..] {
        let _ = writeln!(out, "  {line}");
    }
}
