//! The published conformance suite of the Durable Streams protocol: every test passes, none is left out.

mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use support::{Server, tool};

/// Tests of the suite's version that `dev` installs.
const TESTS: usize = 338;

/// Tests that are not passed, by their whole names.
const FAILING: &[&str] = &[];

/// How long the whole suite may take: it takes half a minute on an idle machine, and has bounds of its own.
const SUITE: Duration = Duration::from_mins(20);

/// Runs the suite against a server; the results of its tests.
async fn suite(server: &Server, modules: &Path) -> Vec<Value> {
    let dir = server.dir.path().join("suite");
    std::fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink(modules, dir.join("node_modules")).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/streams/conformance.test.mjs");
    std::fs::copy(script, dir.join("conformance.test.mjs")).unwrap();
    // Nothing is kept between runs, beside the packages least of all.
    std::fs::write(
        dir.join("vitest.config.mjs"),
        "export default { cacheDir: \"cache\", test: { testTimeout: 60_000 } };\n",
    )
    .unwrap();
    let report = dir.join("report.json");
    let running = tokio::process::Command::new("node")
        .arg(modules.join("vitest/vitest.mjs"))
        .args(["run", "--reporter=json", "--root"])
        .arg(&dir)
        .arg("--outputFile")
        .arg(&report)
        .env("CONFORMANCE_TEST_URL", &server.base)
        .env("NO_PROXY", "*")
        .env_remove("VITEST")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(SUITE, running).await.expect("the suite ends").unwrap();
    let report = std::fs::read(&report).unwrap_or_else(|error| panic!("no report, {error}: {output:?}"));
    let report: Value = serde_json::from_slice(&report).unwrap();
    let files = report["testResults"].as_array().unwrap().iter();
    files.flat_map(|file| file["assertionResults"].as_array().unwrap()).cloned().collect()
}

fn name(test: &Value) -> &str {
    test["fullName"].as_str().unwrap()
}

/// The names of the tests with a status; why is printed of those that did not pass.
fn with(tests: &[Value], status: &str) -> Vec<String> {
    let found: Vec<&Value> = tests.iter().filter(|test| test["status"] == status).collect();
    for test in found.iter().filter(|_| status != "passed") {
        let why = test["failureMessages"][0].as_str().unwrap_or_default();
        println!("{status}: {}\n    {}", name(test), why.lines().next().unwrap_or_default());
    }
    found.into_iter().map(|test| name(test).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_test_of_the_conformance_suite_passes() {
    let Some(modules) = tool("conformance").map(|package| package.join("../..")) else { return };
    let mut server = Server::start_with(&["--long-poll-timeout", "2000"], &[]).await;
    let tests = suite(&server, &modules).await;
    let (passed, failed) = (with(&tests, "passed"), with(&tests, "failed"));
    println!("conformance: {} passed, {} failed, {} in all", passed.len(), failed.len(), tests.len());
    // Nothing was skipped, pending or to be done.
    assert_eq!((tests.len(), passed.len() + failed.len()), (TESTS, TESTS));
    assert_eq!(failed, FAILING);
    assert_eq!(passed.len(), TESTS - FAILING.len());
    assert!(server.is_up(), "{}", server.log());
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
