//! Verification: every stored byte read again and held against what it should be.
//!
//! Job: walk both logs, both files, every row, chunk and line; list what is wrong with its place. Owns: nothing.
//! Never: writes, repairs, or stops at the first finding.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use longhaul_model::{Seq, StreamId};
use longhaul_store::Form;
use rusqlite::Connection;

use crate::entry;
use crate::error::{At as _, Fault, OpenError, Result};
use crate::journal::{self, Journal};
use crate::library::chunks::Chunk;
use crate::library::streams::StreamHead;
use crate::library::{self, Meta, chunks, feed, records, runs, streams};
use crate::open::Held;
use crate::sqlite::{Access, Database};
use crate::witness::{self, Testimony, Witness};

/// Findings after which a report is cut.
const FINDINGS_MAX: usize = 1_000;

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// File, and where in it.
    pub place: String,
    /// What is wrong there.
    pub what: String,
}

/// What a verification read, and what it found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong; empty if all is well. At most a thousand.
    pub findings: Vec<Finding>,
    /// Rows of the journal.
    pub journal_rows: u64,
    /// Runs of the library.
    pub runs: u64,
    /// Streams of the library that are no run's.
    pub streams: u64,
    /// Events of the library.
    pub events: u64,
    /// Records of the library.
    pub records: u64,
    /// Entries of the feed, erased ones included.
    pub feed: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    fn add(&mut self, place: impl Into<String>, what: impl Into<String>) {
        let finding = Finding { place: place.into(), what: what.into() };
        if self.findings.len() < FINDINGS_MAX && !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Corrupt { place, what } | Fault::Io { place, what } => self.add(place, what),
            other => self.add("the directory", other.to_string()),
        }
    }

    fn faults(&mut self, faults: Vec<Fault>) {
        for fault in faults {
            self.fault(fault);
        }
    }

    fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|fault| self.fault(fault)).ok()
    }
}

/// Reads all of a store that nobody has open, writing nothing.
///
/// # Errors
/// `Absent` if there is no store, `AlreadyOpen` if this process has it open. Damage is not an error but a finding.
pub fn verify(dir: impl AsRef<Path>) -> Result<Report, OpenError> {
    let dir = dir.as_ref();
    let files = [library::FILE, journal::FILE];
    if files.iter().all(|file| !dir.join(file.name).exists()) {
        return Err(OpenError::Absent { dir: dir.to_path_buf() });
    }
    let _held = Held::take(dir)?;
    let mut report = Report::default();
    for file in &files {
        if !dir.join(file.name).exists() {
            report.add(file.name, "the file is missing");
        }
    }
    let meta = verify_library(dir, &mut report);
    verify_journal(dir, meta.as_ref(), &mut report);
    Ok(report)
}

/// Whether this version can open the store in `dir`, as far as that shows while another process has it open: by the
/// version of the library. Changes nothing in it. A directory without a store can be opened.
///
/// # Errors
/// `Newer` if a later version wrote it; others if the version cannot be read.
pub fn can_open(dir: impl AsRef<Path>) -> Result<(), OpenError> {
    let dir = dir.as_ref();
    if [library::FILE, journal::FILE].iter().all(|file| !dir.join(file.name).exists()) {
        return Ok(());
    }
    let look = || -> crate::error::Result<()> {
        // The logs of files that somebody writes may end in the middle of a frame: not for this look.
        let conn = library::FILE.connect(dir, Access::Read)?;
        let version = conn
            .query_row("SELECT schema_version FROM meta WHERE id = 1", [], |row| row.get(0))
            .at("longhaul.db: meta")?;
        library::FILE.check_version(version)
    };
    look().map_err(|fault| fault.open(dir))
}

fn connect(file: &Database, dir: &Path) -> Result<Connection> {
    if file.name == library::FILE.name {
        library::connect(dir, Access::Still)
    } else {
        file.connect(dir, Access::Still)
    }
}

/// Log, header, pages and schema of one file; gives a connection if it opens.
fn verify_file(file: &Database, dir: &Path, report: &mut Report) -> Option<Connection> {
    if !dir.join(file.name).exists() {
        return None;
    }
    report.keep(file.check_file(dir));
    let conn = report.keep(connect(file, dir))?;
    for what in report.keep(file.integrity(&conn)).unwrap_or_default() {
        report.add(file.name, what);
    }
    let version = conn.query_row("SELECT schema_version FROM meta WHERE id = 1", [], |row| row.get(0));
    match version {
        Ok(version) => drop(report.keep(file.check_open(&conn, dir, version))),
        Err(error) => report.add(format!("{}: meta", file.name), error.to_string()),
    }
    Some(conn)
}

fn verify_library(dir: &Path, report: &mut Report) -> Option<Meta> {
    let conn = verify_file(&library::FILE, dir, report)?;
    let meta = report.keep(Meta::read(&conn));
    let run_of = verify_runs(&conn, meta.as_ref(), report);
    let heads = verify_streams(&conn, meta.as_ref(), &run_of, report);
    verify_chunks(&conn, &heads, &run_of, report);
    verify_records(&conn, meta.as_ref(), report);
    verify_feed(&conn, meta.as_ref(), report);
    meta
}

fn verify_runs(conn: &Connection, meta: Option<&Meta>, report: &mut Report) -> HashMap<StreamId, String> {
    let mut run_of = HashMap::new();
    let mut tags = HashMap::new();
    let mut live = 0;
    let mut wrong = Vec::new();
    let read = runs::each(conn, |row| match row {
        Ok(row) => {
            live += u64::from(!row.status.is_terminal());
            match runs::find(conn, &row.key) {
                Ok(Some(found)) if found == row => {}
                Ok(_) => {
                    wrong
                        .push(Fault::corrupt(format!("longhaul.db: runs, run {}", row.key), "its key leads elsewhere"));
                }
                Err(fault) => wrong.push(fault),
            }
            run_of.insert(row.stream, row.key.run.as_str().to_owned());
            tags.insert(row.stream, row.tags);
        }
        Err(fault) => wrong.push(fault),
    });
    report.keep(read);
    report.faults(wrong);
    report.runs = run_of.len() as u64;
    if let Some(meta) = meta
        && (meta.runs, meta.live) != (report.runs, live)
    {
        let what = format!("it counts {} runs, {} live; there are {}, {live}", meta.runs, meta.live, report.runs);
        report.add("longhaul.db: meta", what);
    }
    for what in report.keep(runs::check_tags(conn, &tags)).unwrap_or_default() {
        report.add("longhaul.db: tags", what);
    }
    run_of
}

fn verify_streams(
    conn: &Connection,
    meta: Option<&Meta>,
    run_of: &HashMap<StreamId, String>,
    report: &mut Report,
) -> BTreeMap<StreamId, StreamHead> {
    let mut heads = BTreeMap::new();
    let mut wrong = Vec::new();
    let read = streams::each(conn, |head| match head {
        Ok((stream, head)) => drop(heads.insert(stream, head)),
        Err(fault) => wrong.push(fault),
    });
    report.keep(read);
    report.faults(wrong);
    for (stream, head) in &heads {
        let place = || format!("longhaul.db: streams, stream {stream}");
        match (&head.project, run_of.contains_key(stream)) {
            (None, false) => report.add(place(), "the stream has no run"),
            (Some(_), true) => report.add(place(), "a plain stream has a run"),
            (None, true) | (Some(_), false) => {}
        }
        if head.earliest > head.tail.next() {
            report.add(place(), format!("it is kept from {} on and ends at {}", head.earliest, head.tail));
        }
        report.streams += u64::from(head.project.is_some());
    }
    if meta.is_some_and(|meta| meta.plain != report.streams) {
        report.add("longhaul.db: meta", format!("it counts other plain streams than the {} there are", report.streams));
    }
    for stream in run_of.keys().filter(|stream| !heads.contains_key(stream)) {
        report.add(format!("longhaul.db: streams, stream {stream}"), "the run has no stream");
    }
    heads
}

fn verify_chunks(
    conn: &Connection,
    heads: &BTreeMap<StreamId, StreamHead>,
    run_of: &HashMap<StreamId, String>,
    report: &mut Report,
) {
    let mut ends: HashMap<StreamId, (Seq, u64)> = HashMap::new();
    let mut wrong = Vec::new();
    let mut events = 0;
    let read = chunks::each(conn, |chunk| match chunk {
        Ok(chunk) => {
            let place = format!("longhaul.db: chunks, stream {}, first_seq {}", chunk.stream, chunk.first);
            let head = heads.get(&chunk.stream);
            // The first one may begin below what is kept, but not end there.
            let earliest = head.map_or(Seq::new(1), |head| head.earliest);
            let start = if chunk.first <= earliest && earliest <= chunk.last { chunk.first } else { earliest };
            let (next, byte) = ends.get(&chunk.stream).copied().unwrap_or((start, chunk.first_byte));
            match head {
                None => wrong.push(Fault::corrupt(place.as_str(), "the chunk has no stream")),
                Some(head) if chunk.lengths.is_some() != (head.form == Form::Opaque) => {
                    wrong.push(Fault::corrupt(place.as_str(), "the chunk is of another form than its stream"));
                }
                Some(_) => {}
            }
            if chunk.first != next || chunk.first_byte != byte {
                let what =
                    format!("it begins at event {}, byte {}, not at {next}, {byte}", chunk.first, chunk.first_byte);
                wrong.push(Fault::corrupt(place.as_str(), what));
            }
            ends.insert(chunk.stream, (chunk.last.next(), chunk.first_byte + chunk.body.len() as u64));
            let run = run_of.get(&chunk.stream).map(String::as_str);
            match verify_events(&chunk, run) {
                Ok(count) => events += count.min(chunk.last.next().get().saturating_sub(earliest.get())),
                Err(fault) => wrong.push(fault),
            }
        }
        Err(fault) => wrong.push(fault),
    });
    report.keep(read);
    report.events = events;
    for (stream, head) in heads {
        let (next, bytes) = ends.get(stream).copied().unwrap_or((head.earliest, head.bytes));
        if next != head.tail.next() || bytes != head.bytes {
            let what =
                format!("its tail is {} at byte {}, its chunks end before {next} at {bytes}", head.tail, head.bytes);
            report.add(format!("longhaul.db: streams, stream {stream}"), what);
        }
    }
    report.faults(wrong);
}

#[derive(serde::Deserialize)]
struct Line<'a> {
    seq: u64,
    #[serde(borrow)]
    run_id: std::borrow::Cow<'a, str>,
}

/// A run's events say of which run and where in it they are; others only have to be there.
fn verify_events(chunk: &Chunk, run: Option<&str>) -> Result<u64> {
    let lines = chunk.events()?;
    for line in lines.iter().filter(|_| run.is_some()) {
        let place = || format!("longhaul.db: chunks, stream {}, event {}", chunk.stream, line.seq);
        match serde_json::from_slice::<Line<'_>>(&line.wire) {
            Err(error) => return Err(Fault::corrupt(place(), format!("the line is not an event: {error}"))),
            Ok(found) if found.seq != line.seq.get() => {
                return Err(Fault::corrupt(place(), format!("the line says seq {}", found.seq)));
            }
            Ok(found) if run.is_some_and(|run| run != found.run_id) => {
                return Err(Fault::corrupt(place(), format!("the line is of run {}", found.run_id)));
            }
            Ok(_) => {}
        }
    }
    Ok(lines.len() as u64)
}

fn verify_records(conn: &Connection, meta: Option<&Meta>, report: &mut Report) {
    let mut wrong = Vec::new();
    let mut count = 0;
    let read = records::each(conn, |record| match record {
        Ok(_) => count += 1,
        Err(fault) => wrong.push(fault),
    });
    report.keep(read);
    report.faults(wrong);
    report.records = count;
    if meta.is_some_and(|meta| meta.records != count) {
        report.add("longhaul.db: meta", format!("it counts other records than the {count} there are"));
    }
}

fn verify_feed(conn: &Connection, meta: Option<&Meta>, report: &mut Report) {
    let Some(meta) = meta else { return };
    let mut count = 0;
    let read = feed::scan(conn, Seq::ZERO, Seq::new(meta.feed_tail), |_, _| {
        count += 1;
        true
    });
    report.keep(read);
    report.feed = count;
}

fn verify_journal(dir: &Path, meta: Option<&Meta>, report: &mut Report) {
    let Some(conn) = verify_file(&journal::FILE, dir, report) else { return };
    drop(conn);
    let Some((journal, store)) = report.keep(Journal::open(dir, Access::Still)) else { return };
    let span = journal.span();
    let mut rows = 0;
    let read = journal.rows(span.first.saturating_sub(1), |id, body| {
        rows += 1;
        entry::decode(&body).map(drop).map_err(|malformed| {
            Fault::corrupt(
                format!("journal.db: journal, row {id}"),
                format!("{} at byte {}", malformed.what, malformed.at),
            )
        })
    });
    report.keep(read);
    report.journal_rows = rows;
    if let Some(meta) = meta {
        if meta.store != store {
            report.add("journal.db: meta.store_id", format!("it is of store {store}, longhaul.db of {}", meta.store));
        }
        if meta.applied > span.last {
            report.add("journal.db: journal", format!("it ends at {}, {} was applied", span.last, meta.applied));
        }
        if span.first > meta.applied + 1 {
            report
                .add("journal.db: journal", format!("it begins at {}, only {} was applied", span.first, meta.applied));
        }
    }
    match report.keep(Witness::read(dir)) {
        Some(Testimony::Says { store: named, .. }) if named != store => {
            report.add(witness::NAME, format!("it is of store {named}, the journal of {store}"));
        }
        Some(Testimony::Says { acknowledged, .. }) if acknowledged > span.last => {
            report.add("journal.db: journal", format!("it ends at {}, {acknowledged} was acknowledged", span.last));
        }
        Some(Testimony::Damaged) => report.add(witness::NAME, "the checksum does not hold"),
        Some(Testimony::Absent) => report.add(witness::NAME, "the file is missing"),
        _ => {}
    }
}
