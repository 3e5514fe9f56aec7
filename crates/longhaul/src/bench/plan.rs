//! The rows of the table, and the order in which servers meet them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::append::Append;
use super::catch_up::CatchUp;
use super::deliver::Deliver;
use super::disk;
use super::idle::Idle;
use super::load::Frame;
use super::report::{Report, RowReport};
use super::sample::Outcome;
use super::storm::Storm;
use super::target::{BenchError, Given, Server, Target};

/// What to bench and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The servers.
    pub servers: Vec<Given>,
    /// Where servers that are started keep their data, and where the disk is measured.
    pub dir: PathBuf,
    /// Rounds.
    pub rounds: usize,
    /// How long each row is measured.
    pub time: Duration,
    /// Threads that drive the servers.
    pub threads: usize,
    /// Only rows whose name holds this.
    pub only: Option<String>,
    /// Fewer readers and smaller streams.
    pub quick: bool,
    /// The environment of servers that are started.
    pub environment: BTreeMap<String, String>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Acknowledged appends.
    Append(Append),
    /// Append to reader.
    Deliver(Deliver),
    /// Reading what is there.
    CatchUp(CatchUp),
    /// All readers at once.
    Storm(Storm),
    /// Parked readers.
    Idle(Idle),
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is called.
    pub name: String,
    /// What it measures.
    pub kind: Kind,
}

impl Row {
    fn measure(&self, target: &Target, frame: &Frame) -> Outcome {
        match self.kind {
            Kind::Append(row) => row.measure(target, frame),
            Kind::Deliver(row) => row.measure(target, frame),
            Kind::CatchUp(row) => row.measure(target, frame),
            Kind::Storm(row) => row.measure(target, frame),
            Kind::Idle(row) => row.measure(target, frame),
        }
    }
}

/// All rows. Memory comes first, while a server is young.
pub fn rows(quick: bool) -> Vec<Row> {
    let few = |full: usize, less: usize| if quick { less } else { full };
    let mut rows = Vec::new();
    let mut row = |name: String, kind| rows.push(Row { name, kind });
    let readers = few(2_000, 200);
    row(format!("idle SSE reader, of {readers}"), Kind::Idle(Idle { readers }));
    for (connections, streams, batch, producers) in [
        (1, 1, 1, false),
        (64, 1, 1, false),
        (64, 64, 1, false),
        (64, 64, 1, true),
        (256, 1, 1, false),
        (256, 256, 1, false),
        (1, 1, 100, false),
        (64, 64, 100, false),
    ] {
        let of = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let mut name = format!("append, {} on {}", of(connections, "connection"), of(streams, "stream"));
        if batch > 1 {
            name = format!("{name}, {batch} events each");
        }
        if producers {
            name.push_str(", idempotent producers");
        }
        row(name, Kind::Append(Append { connections, streams, batch, producers }));
    }
    for (readers, streams, per_s) in [(1, 1, 100), (few(100, 50), 1, 50), (few(1_000, 100), 1, 20)] {
        let name = format!("append → delivered, {readers} SSE reader{}", if readers == 1 { "" } else { "s" });
        row(format!("{name}, {per_s}/s"), Kind::Deliver(Deliver { readers, streams, per_s }));
    }
    let (readers, streams, per_s) = (few(1_000, 100), few(100, 10), few(500, 100) as u32);
    let name = format!("append → delivered, {readers} SSE readers on {streams} streams, {per_s}/s");
    row(name, Kind::Deliver(Deliver { readers, streams, per_s }));
    for readers in [1, 16] {
        let name = format!("catch-up, {readers} reader{}", if readers == 1 { "" } else { "s" });
        row(name, Kind::CatchUp(CatchUp { readers, bytes: few(64_000_000, 8_000_000) }));
    }
    for readers in [few(1_000, 200), few(5_000, 500)] {
        row(format!("reconnect storm, {readers} SSE readers"), Kind::Storm(Storm { readers }));
    }
    rows
}

/// Does it.
///
/// # Errors
/// A server does not answer, or the machine fails. A row that fails on a server is part of the report instead.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, BenchError> {
    let mut rows = rows(options.quick);
    if let Some(only) = &options.only {
        rows.retain(|row| row.name.contains(only.as_str()));
        if rows.is_empty() {
            return Err(BenchError::Option(format!("no row's name holds {only:?}")));
        }
    }
    let root = Root::make(&options.dir)?;
    let mut report = Report::new(options, &rows, disk::is_memory(&root.0));
    for round in 0..options.rounds {
        let disk_ms = disk::measure(&root.0).map_err(BenchError::io("could not measure the disk"))?;
        report.disk_ms.push(disk_ms);
        progress(&format!("round {} of {}: fdatasync {disk_ms:.3} ms", round + 1, options.rounds));
        let dir = root.0.join(format!("round-{round}"));
        fs::create_dir(&dir).map_err(BenchError::io(format!("could not make {}", dir.display())))?;
        let begin = |given| Server::begin(given, &dir, &options.environment);
        let mut servers: Vec<Server> = options.servers.iter().map(begin).collect::<Result<_, _>>()?;
        for (at, row) in rows.iter().enumerate() {
            // Nobody is always first.
            for n in 0..servers.len() {
                let n = (n + round + at) % servers.len();
                let outcome = one(options, row, &mut servers[n], &format!("bench-{}-{round}-{at}", root.nonce()))?;
                progress(&format!(
                    "  {}: {}: {}",
                    row.name,
                    servers[n].target.name,
                    RowReport::cell(row.kind, &outcome)
                ));
                report.rows[at].outcomes[n].push(outcome);
            }
        }
        drop(servers);
        fs::remove_dir_all(&dir).map_err(BenchError::io(format!("could not remove {}", dir.display())))?;
    }
    Ok(report)
}

fn one(options: &Options, row: &Row, server: &mut Server, prefix: &str) -> Result<Outcome, BenchError> {
    let frame = Frame { threads: options.threads, time: options.time, prefix: prefix.to_owned() };
    let outcome = row.measure(&server.target, &frame);
    if server.has_ended() {
        server.again()?;
        return Ok(Outcome { errors: BTreeMap::from([("the server ended".to_owned(), 1)]), ..outcome });
    }
    // What a row leaves behind, closed connections for one, is not the next one's.
    std::thread::sleep(options.time / 10);
    Ok(outcome)
}

/// A directory for the time of a bench.
#[derive(Debug)]
pub struct Root(pub PathBuf);

impl Root {
    /// Makes one below `dir`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(dir: &Path) -> Result<Self, BenchError> {
        let path = dir.join(format!("longhaul-bench-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir_all(&path).map_err(BenchError::io(format!("could not make {}", path.display())))?;
        Ok(Self(path))
    }

    /// What makes names of streams this bench's own.
    pub fn nonce(&self) -> String {
        let name = self.0.to_string_lossy();
        name[name.len() - 8..].to_owned()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_names_of_their_own() {
        for quick in [false, true] {
            let mut names: Vec<String> = rows(quick).into_iter().map(|row| row.name).collect();
            let count = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count);
        }
    }
}
