//! The walls of the house: which crate may use which, as the manifests really say.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The only arrows between crates. Source: ARCHITECTURE.md, "Crates". `store-embedded` alone may use `store` with its
/// contract suite, and only in its tests.
const ARROWS: &[(&str, &[&str])] = &[
    ("longhaul-model", &[]),
    ("longhaul-store", &["longhaul-model"]),
    ("longhaul-store-embedded", &["longhaul-store", "longhaul-model"]),
    ("longhaul-supervise", &["longhaul-model"]),
    ("longhaul-harness", &["longhaul-model"]),
    ("longhaul-api", &["longhaul-model"]),
    ("longhaul-engine", &["longhaul-store", "longhaul-supervise", "longhaul-harness", "longhaul-model"]),
    (
        "longhaul",
        &[
            "longhaul-engine",
            "longhaul-harness",
            "longhaul-api",
            "longhaul-store",
            "longhaul-store-embedded",
            "longhaul-supervise",
            "longhaul-model",
        ],
    ),
];

/// What a crate must never depend on, for its own sake: the reason is beside it.
const FORBIDDEN: &[(&str, &[&str])] = &[
    // Pure: no runtime, no I/O.
    ("longhaul-model", &["tokio", "rusqlite", "axum", "reqwest", "rustix", "nix", "libc"]),
    ("longhaul-harness", &["tokio", "rusqlite", "axum", "reqwest", "rustix", "nix", "libc"]),
    ("longhaul-api", &["tokio", "rusqlite", "axum", "reqwest", "rustix", "nix", "libc"]),
    // The shim lives beside every agent: no runtime, no database, no HTTP in it.
    ("longhaul-supervise", &["tokio", "rusqlite", "axum", "reqwest"]),
    // A store knows no process and no face.
    ("longhaul-store", &["rusqlite", "axum", "reqwest", "nix"]),
    ("longhaul-store-embedded", &["axum", "reqwest", "nix"]),
    // Runs know no face and no database.
    ("longhaul-engine", &["rusqlite", "axum", "reqwest", "clap"]),
];

/// The normal, build and test dependencies of every crate of this workspace, by the kind cargo gives them.
fn workspace() -> BTreeMap<String, Vec<(String, Option<String>)>> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let asked = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(manifest)
        .output()
        .expect("cargo runs");
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let metadata: Value = serde_json::from_slice(&asked.stdout).expect("cargo metadata is JSON");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let package = |package: &Value| {
        let dependencies = package["dependencies"].as_array().expect("dependencies").iter();
        let dependencies = dependencies.map(|d| (text(&d["name"]).expect("a name"), text(&d["kind"]))).collect();
        (text(&package["name"]).expect("a name"), dependencies)
    };
    metadata["packages"].as_array().expect("packages").iter().map(package).collect()
}

#[test]
fn only_the_allowed_arrows_exist() {
    let workspace = workspace();
    let known: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let found: BTreeSet<&str> = workspace.keys().map(String::as_str).collect();
    assert_eq!(found, known, "a new crate must be named here and in ARCHITECTURE.md");
    for (name, allowed) in ARROWS {
        for (dependency, kind) in &workspace[*name] {
            // A crate may use itself again in its own tests, with other features.
            let house = known.contains(dependency.as_str()) && dependency != name;
            assert!(
                !house || allowed.contains(&dependency.as_str()),
                "{name} must not use {dependency} ({})",
                kind.as_deref().unwrap_or("normal")
            );
        }
    }
}

#[test]
fn no_crate_has_what_its_wall_keeps_out() {
    let workspace = workspace();
    for (name, forbidden) in FORBIDDEN {
        for (dependency, kind) in &workspace[*name] {
            // Tests may use more.
            let in_tests = kind.as_deref() == Some("dev");
            assert!(in_tests || !forbidden.contains(&dependency.as_str()), "{name} must not use {dependency}");
        }
    }
}
