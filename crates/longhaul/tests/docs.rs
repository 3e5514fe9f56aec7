//! The documents say what the program does: routes, fields, error codes, event types, verbs, harnesses.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use longhaul::http::{ROUTES, openapi_document};
use longhaul_api::{ErrorCode, RunRequest, Snapshot};
use longhaul_model::event::{Driver, EventData, RunCreated};
use longhaul_model::projection::Projection;
use longhaul_model::{Event, ProjectId, RunId, Seq, Status, Timestamp};
use serde_json::{Map, Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn document(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    set(value.as_object().expect("an object").keys().map(String::as_str))
}

fn texts(value: &Value) -> BTreeSet<String> {
    set(value.as_array().expect("a list").iter().filter_map(Value::as_str))
}

/// The first cells of a document's table rows that are one word in backticks.
fn first_cells(text: &str) -> BTreeSet<String> {
    let cell = |line: &str| Some(line.strip_prefix("| `")?.split_once("` |")?.0.to_owned());
    text.lines().filter_map(cell).collect()
}

/// A route as documents write it, which know no wildcard.
fn written_path(route: &str) -> String {
    route.replace("{*", "{")
}

#[test]
fn every_route_is_in_the_openapi_document_and_nothing_else() {
    let document = openapi_document();
    let methods = ["get", "post", "put", "patch", "delete"];
    let written: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, item)| {
            methods.iter().filter(|m| item.get(**m).is_some()).map(|m| (path.clone(), (*m).to_owned()))
        })
        .collect();
    let served: BTreeSet<(String, String)> = ROUTES
        .iter()
        .flat_map(|(path, methods)| methods.iter().map(|m| (written_path(path), (*m).to_owned())))
        .collect();
    assert_eq!(written, served);
    assert_eq!(document["info"]["version"], longhaul::VERSION);
}

#[test]
fn every_reference_of_the_openapi_document_leads_somewhere() {
    fn follow(node: &Value, document: &Value, seen: &mut BTreeSet<String>) {
        match node {
            Value::Object(map) => {
                if let Some(Value::String(to)) = map.get("$ref") {
                    let pointer = to.strip_prefix('#').expect("a reference into the document");
                    assert!(document.pointer(pointer).is_some(), "{to} leads nowhere");
                    seen.insert(pointer.to_owned());
                }
                map.values().for_each(|v| follow(v, document, seen));
            }
            Value::Array(list) => list.iter().for_each(|v| follow(v, document, seen)),
            _ => {}
        }
    }
    let document = openapi_document();
    let mut seen = BTreeSet::new();
    follow(&document, &document, &mut seen);
    for kind in ["schemas", "responses", "parameters", "headers"] {
        for name in keys(&document["components"][kind]) {
            // A stream's chunk is described in prose: OpenAPI 3.1 has no schema for the frames of a stream.
            let used = seen.contains(&format!("/components/{kind}/{name}")) || name == "ChatChunk";
            assert!(used, "nothing uses {kind}/{name}");
        }
    }
}

#[test]
fn the_schemas_have_the_programs_own_names() {
    let document = openapi_document();
    let schemas = &document["components"]["schemas"];
    assert_eq!(keys(&schemas["RunRequest"]["properties"]), set(RunRequest::FIELDS.iter().copied()));
    assert_eq!(texts(&schemas["EventType"]["enum"]), set(EventData::NAMES.iter().copied()));
    assert_eq!(texts(&schemas["ErrorCode"]["enum"]), set(ErrorCode::ALL.iter().map(|c| c.as_str())));
    assert_eq!(texts(&schemas["Status"]["enum"]), set(Status::ALL.iter().map(|s| s.as_str())));
    let kinds = &schemas["Error"]["properties"]["error"]["properties"]["type"]["enum"];
    assert_eq!(texts(kinds), set(ErrorCode::ALL.iter().map(|c| c.kind())));
    for code in ErrorCode::ALL {
        let response = &document["components"]["responses"][format!("E{}", code.status())];
        let text = response["description"].as_str().unwrap_or_default();
        assert!(text.contains(&format!("`{}`", code.as_str())), "{} is not told of under its status", code.as_str());
    }
}

/// The snapshot of a run that has just been accepted, as it goes over the wire.
fn snapshot() -> Value {
    let created = RunCreated {
        project: ProjectId::default_project(),
        driver: Driver::Exec,
        harness: "exec".to_owned(),
        command: None,
        model: None,
        name: None,
        digest: "run.v1:sha256:0".to_owned(),
        session_id: None,
        cwd: "/".to_owned(),
        tags: std::collections::BTreeMap::new(),
        timeout_ms: 1,
        budget: longhaul_model::event::Budget::default(),
        on_lost: longhaul_model::event::OnLost::Fail,
        home: longhaul_model::event::Home::User,
        resumed_from: None,
        response_format: None,
    };
    let run_id = RunId::parse("r1").unwrap();
    let ts = Timestamp::from_unix_ms(1_795_254_000_000);
    let run = Projection::begin(&Event { run_id, seq: Seq::new(1), ts, data: created.into() }).unwrap();
    serde_json::to_value(Snapshot::of(&run, Map::new(), true)).unwrap()
}

#[test]
fn a_snapshot_has_the_members_that_are_documented() {
    let schema = &openapi_document()["components"]["schemas"]["Snapshot"];
    let mut found = keys(&snapshot());
    // Absent unless true.
    found.insert("output_truncated".to_owned());
    assert_eq!(keys(&schema["properties"]), found);
    let required = texts(&schema["required"]);
    for (name, value) in snapshot().as_object().unwrap() {
        assert!(!value.is_null() || !required.contains(name), "{name} is required and may be null");
    }
    let api = document("docs/api.md");
    for name in found {
        assert!(api.contains(&format!("`{name}`")), "docs/api.md does not tell of the snapshot's {name}");
    }
}

#[test]
fn every_route_and_field_is_in_the_api_page() {
    let api = document("docs/api.md");
    for (path, methods) in ROUTES {
        for method in *methods {
            let heading = format!("`{} {}`", method.to_uppercase(), written_path(path));
            assert!(api.contains(&heading), "docs/api.md does not tell of {heading}");
        }
    }
    let cells = first_cells(&api);
    for field in RunRequest::FIELDS {
        assert!(cells.contains(*field), "docs/api.md has no row for the field {field}");
    }
}

/// The row that docs/errors.md must have for a code.
fn error_row(code: ErrorCode) -> String {
    let retry = if code.may_retry() { "yes" } else { "no" };
    format!("| `{}` | {} | `{}` | {retry} | {} |", code.as_str(), code.status(), code.kind(), code.meaning())
}

#[test]
fn every_error_code_is_in_the_catalogue_with_its_meaning() {
    let text = document("docs/errors.md");
    let rows: Vec<String> = ErrorCode::ALL.iter().map(|code| error_row(*code)).collect();
    let missing: Vec<&String> = rows.iter().filter(|row| !text.contains(*row)).collect();
    assert!(missing.is_empty(), "docs/errors.md must hold these rows:\n{missing:#?}");
    let codes = set(ErrorCode::ALL.iter().map(|c| c.as_str()));
    let (catalogue, _) = text.split_once("\n## ").expect("the catalogue comes first");
    assert_eq!(first_cells(catalogue), codes, "docs/errors.md has a code that the program lacks");
}

#[test]
fn every_event_type_is_in_the_events_page() {
    let text = document("docs/events.md");
    let (types, _) = text.split_once("\n## Order").expect("the types come first");
    assert_eq!(first_cells(types), set(EventData::NAMES.iter().copied()));
}

#[test]
fn every_member_of_an_event_is_in_the_events_page() {
    let text = document("docs/events.md");
    let source = document("crates/model/src/event/payload.rs");
    let mut members = 0;
    for line in source.lines().filter_map(|line| line.trim_start().strip_prefix("pub ")) {
        let Some((name, _)) = line.split_once(": ").filter(|(name, _)| !name.contains([' ', '('])) else { continue };
        members += 1;
        let told = ["`", "?`"].iter().any(|end| text.contains(&format!("`{name}{end}")));
        assert!(told, "docs/events.md does not tell of the member {name}");
    }
    assert!(members > 50, "the payloads are where this test looks: {members}");
}

/// Every Rust file below a directory.
fn sources(dir: &Path, out: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(std::fs::read_to_string(&path).expect("a source"));
        }
    }
}

#[test]
fn every_metric_is_in_the_operations_page() {
    let mut files = Vec::new();
    for crate_dir in std::fs::read_dir(root().join("crates")).expect("crates").flatten() {
        sources(&crate_dir.path().join("src"), &mut files);
    }
    let told = document("docs/operations.md");
    let mut metrics = BTreeSet::new();
    for file in &files {
        for kind in ["counter!(\"", "gauge!(\"", "histogram!(\""] {
            metrics.extend(file.split(kind).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned));
        }
    }
    assert!(metrics.len() > 8, "metrics are where this test looks: {metrics:?}");
    for metric in metrics {
        let named = ["`", "{"].iter().any(|end| told.contains(&format!("`{metric}{end}")));
        assert!(named, "docs/operations.md does not tell of {metric}");
    }
}

/// The verbs that a help text lists.
fn verbs(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let verb = |line: &str| line.strip_prefix("  ")?.split(' ').next().filter(|v| !v.is_empty()).map(str::to_owned);
    lines.filter_map(verb).filter(|verb| verb != "help").collect()
}

/// The long options that a help text lists, without those that stand on every verb.
fn options(help: &str) -> BTreeSet<String> {
    let own = help.split("Global options:").next().unwrap_or_default();
    let first = own.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let long = first.filter_map(|line| line.split([' ', ',', '[', '=']).find(|word| word.starts_with("--")));
    long.filter(|option| !matches!(*option, "--help" | "--version" | "--")).map(str::to_owned).collect()
}

fn help(words: &[&str]) -> String {
    let asked = Command::new(env!("CARGO_BIN_EXE_longhaul")).args(words).arg("--help").output().expect("it runs");
    String::from_utf8(asked.stdout).expect("help is text")
}

#[test]
fn every_verb_and_option_is_in_the_cli_page() {
    let text = document("docs/cli.md");
    let top = verbs(&help(&[]));
    assert!(top.len() > 10, "the help text lists verbs: {top:?}");
    for verb in &top {
        assert!(text.contains(&format!("longhaul {verb}")), "docs/cli.md does not tell of the verb {verb}");
        let own = help(&[verb]);
        let mut told = options(&own);
        for under in verbs(&own) {
            assert!(text.contains(&format!("longhaul {verb} {under}")), "docs/cli.md: no {verb} {under}");
            told.extend(options(&help(&[verb, &under])));
        }
        for option in told {
            assert!(
                text.contains(&format!("`{option}")) || text.contains(&format!(", {option}")),
                "docs/cli.md: {verb} {option}"
            );
        }
    }
    for option in ["--server", "--token", "--data-dir", "--project"] {
        assert!(text.contains(&format!("`{option}")), "docs/cli.md does not tell of {option}");
    }
}

#[test]
fn every_key_of_the_configuration_is_in_the_cli_page() {
    let text = document("docs/cli.md");
    let (_, section) = text.split_once("## Configuration").expect("a section");
    let (section, _) = section.split_once("\n## ").expect("another one after it");
    let keys = longhaul::config::KEYS;
    assert_eq!(first_cells(section), set(keys.iter().map(|key| key.name)));
    for key in keys {
        let row = section.lines().find(|line| line.starts_with(&format!("| `{}` |", key.name))).expect("a row");
        assert!(key.variable.is_none_or(|name| row.contains(&format!("`{name}`"))), "{row}");
    }
}

#[test]
fn the_harness_page_says_what_each_honours() {
    let text = document("docs/harnesses.md");
    // The first table alone: what is under it holds for every harness.
    let mut rows = text.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let header: Vec<&str> = rows.next().expect("a table").split('|').map(str::trim).collect();
    let mut seen = BTreeSet::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let Some(field) = cells[1].strip_prefix('`').and_then(|c| c.strip_suffix('`')) else { continue };
        let field = field.strip_prefix("limits.").unwrap_or(field);
        for (at, name) in header.iter().enumerate().filter(|(_, n)| !n.is_empty() && **n != "field") {
            let harness = longhaul_harness::find(name).unwrap_or_else(|| panic!("no harness {name}"));
            let honoured = harness.fields().contains(&field);
            let told = !cells[at].starts_with("refused");
            assert_eq!(told, honoured, "docs/harnesses.md: {field} of {name} is {:?}", cells[at]);
            seen.insert((name.to_string(), field.to_owned()));
        }
    }
    for harness in longhaul_harness::all() {
        for field in harness.fields() {
            let pair = (harness.name().to_owned(), (*field).to_owned());
            assert!(seen.contains(&pair), "docs/harnesses.md lacks {pair:?}");
        }
        for told in [harness.install(), harness.tested_version()].into_iter().flatten() {
            assert!(text.contains(told), "docs/harnesses.md does not tell {told:?} of {}", harness.name());
        }
    }
}

#[test]
fn examples_in_the_api_page_are_requests_that_parse() {
    let api = document("docs/api.md");
    let bodies: Vec<&str> =
        api.split("```json request\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!bodies.is_empty(), "docs/api.md has examples");
    for body in bodies {
        let parsed = RunRequest::parse(body.as_bytes());
        assert!(parsed.is_ok(), "{body}: {parsed:?}");
    }
    let schema = &openapi_document()["paths"]["/v1/runs"]["post"]["requestBody"]["content"]["application/json"];
    for example in schema["examples"].as_object().expect("examples").values() {
        let parsed = RunRequest::parse(json!(example["value"]).to_string().as_bytes());
        assert!(parsed.is_ok(), "{parsed:?}");
    }
}

fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "dev", ".ci/run"]
        .iter()
        .map(|name| root().join(name))
        .collect();
    for entry in std::fs::read_dir(root().join("docs")).expect("docs") {
        pages.push(entry.expect("an entry").path());
    }
    pages
}

#[test]
fn no_page_names_somebodys_machine() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        let checkout = root().canonicalize().expect("a checkout");
        for wrong in [checkout.to_string_lossy().as_ref(), "/home/"] {
            assert!(!text.contains(wrong), "{} holds {wrong}", page.display());
        }
        // The only addresses are this machine's own and those that stand for somebody's.
        for address in text.split("http://").skip(1).chain(text.split("https://").skip(1)) {
            let known = ["localhost", "127.0.0.1", "example.", "$", "ADDR", "HOST"];
            let named = known.iter().any(|k| address.starts_with(k)) || page.extension().is_none_or(|e| e != "md");
            let short: String = address.chars().take(40).collect();
            assert!(named, "{} names {short}", page.display());
        }
    }
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    for page in pages().into_iter().filter(|p| p.extension().is_some_and(|e| e == "md")) {
        let text = std::fs::read_to_string(&page).expect("a page");
        let dir = page.parent().expect("a directory");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.starts_with('#') {
                continue;
            }
            let file = link.split('#').next().unwrap_or_default();
            assert!(dir.join(file).exists(), "{}: the link {link} leads nowhere", page.display());
        }
    }
}

/// The Rust files of a crate that are called `name`, or lie in a directory of that name.
fn test_files(dir: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        let called = path.file_stem().is_some_and(|stem| stem == name) || dir.file_name().is_some_and(|d| d == name);
        if path.is_dir() {
            test_files(&path, name, found);
        } else if called && path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_fault_of_the_table_is_shown_by_a_test_that_exists() {
    let page = document("docs/faults.md");
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| ") && line.as_bytes().get(2).is_some_and(u8::is_ascii_digit))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let numbers: Vec<usize> = rows.iter().map(|row| row[1].parse().expect("a number")).collect();
    assert_eq!(numbers, (1..=57).collect::<Vec<_>>());
    for row in rows {
        let [_, number, fault, here, shown, _] = row[..] else { panic!("{row:?}") };
        assert!(!fault.is_empty() && !here.is_empty(), "{number} says nothing");
        let reason = here.contains("*open*") || shown.starts_with("not applicable");
        let tests: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(reason || !tests.is_empty(), "{number} is shown by nothing and gives no reason");
        for test in tests {
            assert_test(number, test);
        }
    }
}

/// A test that a document names as `crate/file::test` is there.
fn assert_test(place: &str, test: &str) {
    let (file, function) = test.split_once("::").expect("file::test");
    let (krate, file) = file.split_once('/').expect("crate/file");
    let mut files = Vec::new();
    test_files(&root().join("crates").join(krate), file, &mut files);
    let head = format!("fn {function}(");
    let there = files.iter().any(|file| std::fs::read_to_string(file).is_ok_and(|text| text.contains(&head)));
    assert!(there, "{place}: there is no test {test}");
}

#[test]
fn what_went_wrong_elsewhere_is_shown_by_tests_that_exist() {
    let page = document("docs/streams.md");
    let (_, section) = page.split_once("\n## What went wrong elsewhere\n").expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ") && line.contains("::")).collect();
    assert_eq!(rows.len(), 8, "eight post-mortems");
    for test in section.split('`').skip(1).step_by(2).filter(|text| text.contains("::") && *text != "crate/file::test")
    {
        assert_test("docs/streams.md", test);
    }
}
