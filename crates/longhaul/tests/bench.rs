//! `longhaul bench` against the server of this program: every row, and kills.
#![allow(missing_docs)]

use std::process::{Command, Output};

use serde_json::Value;

/// Runs the verb with its data in a directory of its own; what it left there.
fn bench(args: &[&str]) -> (Output, Vec<std::path::PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_longhaul"))
        .args(["bench", "--json", "--dir"])
        .arg(dir.path())
        .args(args)
        .output()
        .unwrap();
    let left = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    (out, left)
}

fn json(out: &Output) -> Value {
    let said = String::from_utf8_lossy(&out.stderr);
    serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[test]
fn every_row_has_a_figure_and_nothing_fails() {
    let (out, left) = bench(&["--quick", "--seconds", "0.2"]);
    let report = json(&out);
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.len() > 10, "{report}");
    for row in rows {
        let median = &row["results"]["longhaul"]["median"];
        assert!(!median["figures"].as_object().unwrap().is_empty(), "{row}");
        assert!(median["errors"].as_object().unwrap().is_empty(), "{row}");
    }
    assert!(report["disk_ms"][0].as_f64().unwrap() > 0.0);
    assert!(out.status.success(), "{report}");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_server_that_is_killed_at_full_speed_loses_nothing_and_doubles_nothing() {
    let (out, left) = bench(&["--kill", "--kills", "4", "--producers", "8"]);
    let report = json(&out);
    let server = &report["servers"][0];
    assert_eq!(server["kills"], 4, "{report}");
    assert!(server["acknowledged"].as_u64().unwrap() > 0, "{report}");
    for what in ["lost", "doubled", "false_gaps"] {
        assert_eq!(server[what], 0, "{report}");
    }
    assert!(server["errors"].as_object().unwrap().is_empty(), "{report}");
    assert!(out.status.success());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_server_that_is_not_there_is_said_so() {
    let (out, left) = bench(&["--url", "gone=http://127.0.0.1:1"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("gone does not answer at 127.0.0.1:1"), "{said}");
    assert_eq!(out.status.code(), Some(125));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_row_that_is_not_there_is_said_so() {
    let (out, _) = bench(&["--ours", "--quick", "--seconds", "0.1", "--only", "no such row"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("no row's name holds"), "{said}");
    assert_eq!(out.status.code(), Some(125));
}
