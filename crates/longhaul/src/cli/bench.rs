//! `longhaul bench`: drive servers of the Durable Streams protocol and print what they do.
//!
//! Never: touches the server that other verbs use, unless its address is given.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::session::Session;
use super::trouble::Trouble;
use crate::bench::{self, BenchError, Given, KillOptions, Options, Source, command_words};

/// Something failed beside the figures, or a promise was broken.
const FOUND: u8 = 1;

/// What the server of this program is called.
const OURS: &str = "longhaul";

/// Measure servers of the Durable Streams protocol, side by side
///
/// Without --url and --spawn this program's own server is started on a directory of its own. Servers take turns within
/// each round. The exit status is 1 if anything failed beside the figures; the table marks where.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Server that is there already; /v1/stream if the address has no path; may be repeated
    #[arg(long, value_name = "NAME=URL", value_parser = pair)]
    pub url: Vec<(String, String)>,
    /// Server to start, with {port} and {dir} in its command line; no shell; may be repeated
    #[arg(long, value_name = "NAME=CMD", value_parser = pair)]
    pub spawn: Vec<(String, String)>,
    /// This program's own server as well
    #[arg(long)]
    pub ours: bool,
    /// Process of a server of --url, for its memory and processor time
    #[arg(long, value_name = "NAME=PID", value_parser = pair)]
    pub pid: Vec<(String, String)>,
    /// What an acknowledgement of a server means, printed below the table
    #[arg(long, value_name = "NAME=TEXT", value_parser = pair)]
    pub note: Vec<(String, String)>,
    /// Where servers that are started keep their data, and where the disk is measured [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Rounds; the table shows medians [default: 3, with --quick 1]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub rounds: Option<u16>,
    /// Seconds that each row is measured [default: 3, with --quick 0.3]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<Duration>,
    /// Threads that drive the servers
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: u8,
    /// Only rows whose name holds this
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// One short round with fewer readers
    #[arg(long)]
    pub quick: bool,
    /// Kill each server again and again at full speed, and count what was lost, doubled or forgotten
    #[arg(long, conflicts_with_all = ["url", "pid", "only", "rounds", "seconds", "quick", "note"])]
    pub kill: bool,
    /// How often
    #[arg(long, value_name = "COUNT", default_value_t = 20, requires = "kill")]
    pub kills: u32,
    /// Producers that append meanwhile, each on its own connection
    #[arg(long, value_name = "COUNT", default_value_t = 16, requires = "kill", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub producers: u16,
    /// What the times of the kills follow from [default: the time]
    #[arg(long, value_name = "NUMBER", requires = "kill")]
    pub seed: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Does it.
///
/// # Errors
/// An option makes no sense, a server does not answer, or the machine fails.
pub fn run(args: &Args, session: &Session) -> Result<u8, Trouble> {
    // Readers cost a descriptor here and one in a server that inherits the limit.
    longhaul_supervise::nofile::raise();
    let dir = match &args.dir {
        Some(dir) => session.absolute(dir)?,
        None => std::env::temp_dir(),
    };
    // An empty file in place of the configuration: what a user has set up is not what is measured.
    let config =
        tempfile(&dir).map_err(|error| Trouble::new(format!("could not write into {}: {error}", dir.display())))?;
    let servers = servers(args, &config.0)?;
    let mut progress = |line: &str| session.screen.note(line);
    let (text, json, good) = if args.kill {
        let options = KillOptions {
            servers,
            dir,
            kills: args.kills,
            producers: args.producers.into(),
            seed: args.seed.unwrap_or_else(clock),
            environment: session.environment.captured(),
        };
        let report = bench::run_kills(&options, &mut progress)?;
        (report.text(), serde_json::to_value(&report).unwrap_or_default(), report.is_exact())
    } else {
        let options = Options {
            servers,
            dir,
            rounds: args.rounds.map_or(if args.quick { 1 } else { 3 }, usize::from),
            time: args.seconds.unwrap_or(Duration::from_millis(if args.quick { 300 } else { 3_000 })),
            threads: args.threads.into(),
            only: args.only.clone(),
            quick: args.quick,
            environment: session.environment.captured(),
        };
        let report = bench::run(&options, &mut progress)?;
        (report.text(), report.json(), !report.has_errors())
    };
    session.screen.out(&if args.json { format!("{json}\n") } else { text })?;
    Ok(if good { 0 } else { FOUND })
}

fn clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64)
}

/// The servers that the options name, ours first.
fn servers(args: &Args, config: &std::path::Path) -> Result<Vec<Given>, Trouble> {
    let mut servers = Vec::new();
    if args.ours || (args.url.is_empty() && args.spawn.is_empty()) {
        servers.push((OURS.to_owned(), Source::Spawn(our_words(config)?)));
    }
    for (name, line) in &args.spawn {
        servers.push((name.clone(), Source::Spawn(command_words(line)?)));
    }
    for (name, url) in &args.url {
        servers.push((name.clone(), Source::Url { url: url.clone(), pid: pid_of(args, name)? }));
    }
    let named = |name: &String| servers.iter().filter(|(other, _)| other == name).count();
    if let Some((name, _)) = servers.iter().find(|(name, _)| named(name) > 1) {
        return Err(Trouble::new(format!("two servers are called {name}")));
    }
    if let Some((name, _)) = args.pid.iter().chain(&args.note).find(|(name, _)| named(name) == 0) {
        return Err(Trouble::new(format!("no server is called {name}")));
    }
    let note = |name: &String| args.note.iter().find(|(of, _)| of == name).map(|(_, text)| text.clone());
    Ok(servers
        .iter()
        .map(|(name, source)| Given { name: name.clone(), source: source.clone(), note: note(name) })
        .collect())
}

/// How this program's own server is started.
fn our_words(config: &std::path::Path) -> Result<Vec<String>, Trouble> {
    let program = std::env::current_exe().map_err(|error| Trouble::new(format!("where is this program: {error}")))?;
    let words = [&program.to_string_lossy(), "--config", &config.to_string_lossy(), "--data-dir", "{dir}", "serve"];
    let words = words.into_iter().chain(["--listen", "127.0.0.1:{port}"]);
    Ok(words.map(str::to_owned).collect())
}

fn pid_of(args: &Args, name: &str) -> Result<Option<u32>, Trouble> {
    let Some((_, text)) = args.pid.iter().find(|(of, _)| of == name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| Trouble::new(format!("--pid {name}={text}: not the number of a process")))
}

/// `NAME=REST`, with a name that can be a file's.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, rest) = text.split_once('=').ok_or("it has no =")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!("{name:?} is not a name of letters, digits, - and _"));
    }
    Ok((name.to_owned(), rest.to_owned()))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.05..=600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("between 0.05 and 600 seconds".to_owned())
    }
}

/// An empty file for the time of a bench.
#[derive(Debug)]
struct Empty(PathBuf);

impl Drop for Empty {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn tempfile(dir: &std::path::Path) -> std::io::Result<Empty> {
    let path = dir.join(format!("longhaul-bench-{}.toml", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(dir)?;
    std::fs::File::create_new(&path)?;
    Ok(Empty(path))
}

impl From<BenchError> for Trouble {
    fn from(error: BenchError) -> Self {
        Self::new(super::chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_before_the_first_equals_sign() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(pair("=b").is_err() && pair("b").is_err() && pair("../x=b").is_err());
    }

    #[test]
    fn seconds_have_bounds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("0").is_err() && seconds("nan").is_err() && seconds("1e9").is_err());
    }
}
