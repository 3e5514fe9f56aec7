//! `longhaul verify`: re-read a whole data directory and say what is wrong with it.
//!
//! Never: writes to a store, or reads one that a server is writing.

use std::path::{Path, PathBuf};

use longhaul_store_embedded::{OpenError, Report, verify};
use longhaul_supervise::{FileLock, LockError};

use super::screen::Paint;
use super::session::Session;
use super::trouble::Trouble;

/// Something is wrong with the store.
const FOUND: u8 = 1;

/// Re-read everything a data directory holds and print what is wrong with it
///
/// The exit status is 0 if nothing is, 1 if something is. The server must be stopped meanwhile; runs go on.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Data directory, or the store in it [default: the one of --data-dir]
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print the findings as JSON, one a line
    #[arg(long)]
    pub json: bool,
}

/// Does it.
///
/// # Errors
/// There is no store, a server has it, or it cannot be read.
pub fn run(args: &Args, session: &Session) -> Result<u8, Trouble> {
    let dir = match &args.dir {
        Some(dir) => dir.as_path(),
        None => session.data_dir()?,
    };
    let inner = dir.join("store");
    let (store, _lock) = if inner.is_dir() { (inner.as_path(), Some(lock(dir)?)) } else { (dir, None) };
    let report = verify(store).map_err(|error| unreadable(&error, store))?;
    session.screen.out(&text(args, session, store, &report))?;
    Ok(if report.is_sound() { 0 } else { FOUND })
}

/// Keeps a server from starting while the store is read.
pub(super) fn lock(data_dir: &Path) -> Result<FileLock, Trouble> {
    FileLock::try_exclusive(&data_dir.join("lock")).map_err(|error| match error {
        LockError::Held { .. } => Trouble::new(format!("a server is using {}", data_dir.display()))
            .help("stop it first: longhaul server stop   (runs go on)"),
        LockError::Io { path, source } => Trouble::new(format!("could not lock {}: {source}", path.display())),
    })
}

fn unreadable(error: &OpenError, store: &Path) -> Trouble {
    let mut what = format!("{}: {error}", store.display());
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        what = format!("{what}: {inner}");
        cause = inner.source();
    }
    Trouble::new(what).help("name the data directory: longhaul verify DIR")
}

fn text(args: &Args, session: &Session, store: &Path, report: &Report) -> String {
    let mut lines = Vec::new();
    for finding in &report.findings {
        lines.push(if args.json {
            serde_json::json!({ "place": finding.place, "what": finding.what }).to_string()
        } else {
            format!("{}: {}", Paint::Red.on(session.screen.out_colour, &finding.place), finding.what)
        });
    }
    if !args.json {
        let verdict = match report.findings.len() {
            0 => "all is well".to_owned(),
            1 => "1 finding".to_owned(),
            count => format!("{count} findings"),
        };
        lines.push(format!(
            "{}: {verdict}; read {} runs, {} streams, {} events, {} records, {} journal rows",
            store.display(),
            report.runs,
            report.streams,
            report.events,
            report.records,
            report.journal_rows
        ));
    }
    lines.iter().map(String::as_str).flat_map(|line| [line, "\n"]).collect()
}
