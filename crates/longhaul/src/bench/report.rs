//! What came out, as a table and as JSON.
//!
//! A figure beside which something failed is marked in the table, with what failed and how often.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::plan::{Kind, Options, Row};
use super::sample::{Outcome, median};
use super::target::Source;

/// A whole bench.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Servers: name and what an acknowledgement means there.
    pub servers: Vec<(String, Option<String>)>,
    /// Whether what is started writes to memory.
    pub in_memory: bool,
    /// Raw figure of the disk, a round each.
    pub disk_ms: Vec<f64>,
    /// The rows.
    pub rows: Vec<RowReport>,
    seconds: f64,
}

/// One row: for each server what each round gave.
#[derive(Debug, Clone, PartialEq)]
pub struct RowReport {
    row: Row,
    /// By server, by round.
    pub outcomes: Vec<Vec<Outcome>>,
}

impl Report {
    /// An empty one.
    pub fn new(options: &Options, rows: &[Row], in_memory: bool) -> Self {
        let servers = options.servers.iter().map(|given| (given.name.clone(), given.note.clone())).collect();
        let started = options.servers.iter().any(|given| matches!(given.source, Source::Spawn(_)));
        let empty = |row: &Row| RowReport { row: row.clone(), outcomes: vec![Vec::new(); options.servers.len()] };
        Self {
            servers,
            in_memory: in_memory && started,
            disk_ms: Vec::new(),
            rows: rows.iter().map(empty).collect(),
            seconds: options.time.as_secs_f64(),
        }
    }

    /// Whether anything failed anywhere.
    pub fn has_errors(&self) -> bool {
        self.rows.iter().flat_map(|row| row.outcomes.iter().flatten()).any(|outcome| !outcome.errors.is_empty())
    }

    /// As a table of Markdown.
    pub fn text(&self) -> String {
        let mut out = String::from("| what |");
        for (name, _) in &self.servers {
            let _ = write!(out, " {name} |");
        }
        out.push_str("\n| --- |");
        self.servers.iter().for_each(|_| out.push_str(" --- |"));
        for row in &self.rows {
            let _ = write!(out, "\n| {} |", row.row.name);
            for outcomes in &row.outcomes {
                let _ = write!(out, " {} |", RowReport::cell(row.row.kind, &middle(outcomes)));
            }
        }
        let rounds = self.disk_ms.len();
        let _ = write!(
            out,
            "\n\nMedians of {rounds} round{}, {} s a row.",
            if rounds == 1 { "" } else { "s" },
            self.seconds
        );
        let each: Vec<String> = self.disk_ms.iter().map(|ms| format!("{ms:.3}")).collect();
        let _ = write!(
            out,
            " Raw fdatasync of 256 bytes at the end of a file, p50 beside each round: {} ms.",
            each.join(", ")
        );
        for (name, note) in &self.servers {
            if let Some(note) = note {
                let _ = write!(out, "\n- {name}: {note}");
            }
        }
        if self.in_memory {
            out.push_str("\n- The directory of the data is in memory: nothing here says anything about durability. Name another with --dir.");
        }
        if self.has_errors() {
            out.push_str("\n- **!** marks figures beside which something failed: statuses or names, and how often in all rounds.");
        }
        out.push('\n');
        out
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        let servers: Vec<Value> =
            self.servers.iter().map(|(name, note)| json!({ "name": name, "note": note })).collect();
        let rows: Vec<Value> = self.rows.iter().map(|row| row.json(&self.servers)).collect();
        json!({
            "version": crate::VERSION,
            "seconds": self.seconds,
            "disk_ms": self.disk_ms,
            "in_memory": self.in_memory,
            "servers": servers,
            "rows": rows,
        })
    }
}

impl RowReport {
    fn json(&self, servers: &[(String, Option<String>)]) -> Value {
        let results: serde_json::Map<String, Value> = servers
            .iter()
            .zip(&self.outcomes)
            .map(|((name, _), outcomes)| (name.clone(), json!({ "median": middle(outcomes), "rounds": outcomes })))
            .collect();
        json!({ "name": self.row.name, "results": results })
    }

    /// An outcome in a few words.
    pub fn cell(kind: Kind, outcome: &Outcome) -> String {
        let figure = |name: &str| outcome.figures.get(name).copied();
        let ms = |name: &str| figure(name).map_or("–".to_owned(), short);
        let mut text = match kind {
            _ if outcome.figures.is_empty() => "–".to_owned(),
            Kind::Append(row) => {
                let rate = figure("events_per_s").map_or("–".to_owned(), thousands);
                let bulk = figure("mb_per_s").filter(|_| row.batch > 1).map(|mb| format!(", {mb:.0} MB/s"));
                format!("{rate}/s{} ({} / {} ms)", bulk.unwrap_or_default(), ms("p50_ms"), ms("p99_ms"))
            }
            Kind::Deliver(row) => {
                let behind = figure("writes_per_s").filter(|rate| *rate < 0.9 * f64::from(row.per_s));
                let behind = behind.map(|rate| format!(", {rate:.0}/s reached"));
                format!("{} / {} ms{}", ms("p50_ms"), ms("p99_ms"), behind.unwrap_or_default())
            }
            Kind::CatchUp(_) => format!("{} MB/s", figure("mb_per_s").map_or("–".to_owned(), thousands)),
            Kind::Storm(_) => format!("{} ms (p50 {})", ms("all_ms"), ms("p50_ms")),
            Kind::Idle(_) => format!("{} KB, {} MB in all", ms("kb_per_reader"), ms("resident_mb")),
        };
        if !outcome.errors.is_empty() {
            let each: Vec<String> =
                outcome.errors.iter().map(|(what, count)| format!("{what} × {}", grouped(*count))).collect();
            let _ = write!(text, " **!** {}", each.join(", "));
        }
        text
    }
}

/// The medians of several rounds, with all that failed in any of them.
fn middle(outcomes: &[Outcome]) -> Outcome {
    let mut all: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    for outcome in outcomes {
        for (name, value) in &outcome.figures {
            all.entry(name).or_default().push(*value);
        }
        for (what, count) in &outcome.errors {
            *errors.entry(what.clone()).or_default() += count;
        }
    }
    let figures = all.into_iter().filter_map(|(name, values)| Some((name, median(&values)?))).collect();
    Outcome { figures, errors }
}

/// A number as people read it: three digits and groups of thousands.
fn thousands(value: f64) -> String {
    if value < 100.0 {
        return short(value);
    }
    let digits = 10f64.powf((value.abs().log10().floor() - 2.0).max(0.0));
    grouped(((value / digits).round() * digits) as u64)
}

/// All digits, in groups.
fn grouped(value: u64) -> String {
    let text = value.to_string();
    let mut out = String::new();
    for (at, c) in text.chars().enumerate() {
        if at > 0 && (text.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// A small number with as many decimals as it needs.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::append::Append;
    use super::super::storm::Storm;
    use super::*;

    #[test]
    fn numbers_are_short() {
        let all = [0.1234, 12.34, 123.4, 1_234.0, 987_654.0, 1_000_000.0].map(thousands);
        assert_eq!(all, ["0.12", "12.3", "123", "1 230", "988 000", "1 000 000"]);
    }

    #[test]
    fn failures_are_never_averaged_away() {
        let good = Outcome::default().with("all_ms", Some(10.0)).with("p50_ms", Some(5.0));
        let bad = Outcome { errors: BTreeMap::from([("503".to_owned(), 7)]), ..Outcome::default() };
        let both = middle(&[good.clone(), bad.clone(), good]);
        let cell = RowReport::cell(Kind::Storm(Storm { readers: 1 }), &both);
        assert_eq!(cell, "10.0 ms (p50 5.00) **!** 503 × 7");
        assert_eq!(RowReport::cell(Kind::Storm(Storm { readers: 1 }), &bad), "– **!** 503 × 7");
    }

    #[test]
    fn a_row_of_batches_says_how_many_bytes() {
        let outcome = Outcome::default()
            .with("events_per_s", Some(950_123.0))
            .with("mb_per_s", Some(190.02))
            .with("p50_ms", Some(0.1))
            .with("p99_ms", Some(1.0));
        let mut row = Append { connections: 1, streams: 1, batch: 100, producers: false };
        assert_eq!(RowReport::cell(Kind::Append(row), &outcome), "950 000/s, 190 MB/s (0.10 / 1.00 ms)");
        row.batch = 1;
        assert_eq!(RowReport::cell(Kind::Append(row), &outcome), "950 000/s (0.10 / 1.00 ms)");
    }
}
