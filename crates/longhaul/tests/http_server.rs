//! The server itself: one for each directory and port, who may call it, and what it says about itself.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use longhaul_api::ServerInfo;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use support::{LONGHAUL, Server, assert_no_process};

/// How long a launch that cannot be may take.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Launches a server that must not start.
fn refused(data: &Path, listen: &str, more: &[&str]) -> (Output, Duration) {
    let asked = Instant::now();
    let output = Command::new(LONGHAUL)
        .args(["serve", "--listen", listen, "--data-dir"])
        .arg(data)
        .args(more)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (output, asked.elapsed())
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap().trim_end()
}

/// Every file under a directory with its bytes; the store's own files by name only, because their owner writes them.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            let path = entry.path();
            let store = path.to_string_lossy().contains("/store");
            if path.is_dir() {
                todo.push(path.clone());
            }
            let bytes = if path.is_file() && !store { std::fs::read(&path).unwrap() } else { vec![] };
            found.insert(path.to_string_lossy().into_owned(), bytes);
        }
    }
    found
}

fn info(server: &Server) -> ServerInfo {
    serde_json::from_slice(&std::fs::read(server.data().join("server.json")).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_names_the_first_and_touches_nothing() {
    let mut server = Server::start().await;
    server.sh("r", "exec sleep 600").await;
    let pid = server.status("r", "running").await["pid"].clone();
    let address = info(&server).address;
    // The variables go once the agent has them.
    let before = support::until("the shim to be done with its start", async || {
        let files = files(&server.data());
        (!files.keys().any(|name| name.ends_with("/env"))).then_some(files)
    })
    .await;

    for listen in ["127.0.0.1:0", &address] {
        let (output, took) = refused(&server.data(), listen, &[]);
        let text = format!(
            "longhaul: the data directory {} is held by the server with pid {} at {address}",
            server.data().display(),
            server.pid
        );
        assert_eq!((output.status.code(), stderr(&output)), (Some(75), text.as_str()));
        assert!(took < AT_ONCE, "{took:?}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(files(&server.data()), before);

    let other = server.dir.path().join("other");
    let (output, took) = refused(&other, &address, &[]);
    let text = format!(
        "longhaul: the address {address} is held by the process with pid {} (longhaul); \
         name another one with --listen, or 127.0.0.1:0 for a free port",
        server.pid
    );
    assert_eq!((output.status.code(), stderr(&output)), (Some(75), text.as_str()));
    assert!(took < AT_ONCE, "{took:?}");
    assert!(!other.join("store").exists() && !other.join("server.json").exists(), "nothing was begun");

    // A port that is held by somebody else is no different.
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = stranger.local_addr().unwrap().to_string();
    let (output, _) = refused(&other, &address, &[]);
    assert_eq!(output.status.code(), Some(75));
    let text = format!("the address {address} is held by the process with pid {} ", std::process::id());
    assert!(stderr(&output).contains(&text), "{}", stderr(&output));

    let run = server.run("r").await;
    assert_eq!((&run["status"], &run["pid"]), (&json!("running"), &pid));
    // Once the first is gone the second one starts, on the same port at once.
    server.kill9();
    server.up().await;
    server.post("/v1/runs/r/cancel?wait_ms=30000", &json!({})).await;
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_launches_at_once_make_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut children: Vec<_> = (0..8)
        .map(|_| {
            let mut command = Command::new(LONGHAUL);
            command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let mut codes = vec![];
    support::until("all but one to give up", async || {
        children.retain_mut(|child| match child.try_wait().unwrap() {
            Some(status) => {
                codes.push(status.code());
                false
            }
            None => true,
        });
        (children.len() == 1).then_some(())
    })
    .await;
    assert_eq!(codes, vec![Some(75); 7]);
    let mut last = children.pop().unwrap();
    support::until("the one to be ready", async || {
        assert!(last.try_wait().unwrap().is_none());
        let info: ServerInfo = serde_json::from_slice(&std::fs::read(data.join("server.json")).ok()?).ok()?;
        (info.pid == last.id().cast_signed()).then_some(())
    })
    .await;
    last.kill().unwrap();
    last.wait().unwrap();
}

#[test]
fn bad_configuration_is_said_and_nothing_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "\n").unwrap();
    let file = |path: &Path| path.to_str().unwrap().to_owned();
    let (empty, missing) = (file(&empty), file(&dir.path().join("missing")));
    for (listen, more, text) in [
        ("0.0.0.0:0", vec![], "0.0.0.0:0 can be reached from elsewhere and needs a token"),
        ("[::]:0", vec![], "[::]:0 can be reached from elsewhere and needs a token"),
        ("localhost", vec![], "\"localhost\" is not an address to listen on"),
        ("127.0.0.1:99999", vec![], "is not an address to listen on"),
        ("0.0.0.0:0", vec!["--token-file", &empty], "the file is empty; it must hold a token"),
        ("0.0.0.0:0", vec!["--token-file", &missing], "No such file or directory"),
        ("127.0.0.1:0", vec!["--live-max", "2", "--reserve", "a=1", "--reserve", "b=1"], "one at least must be left"),
        ("127.0.0.1:0", vec!["--harness-max", "demo=0"], "harness demo must have at least one place"),
        ("127.0.0.1:0", vec!["--harness-max", "nobody=1"], "there is no harness called \"nobody\" to limit"),
    ] {
        let (output, took) = refused(&data, listen, &more);
        assert_eq!(output.status.code(), Some(78), "{listen} {}", stderr(&output));
        assert!(stderr(&output).contains(text), "{listen}: {}", stderr(&output));
        assert!(took < AT_ONCE, "{took:?}");
        assert!(!data.exists(), "{listen}");
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut bad = vec![file.join("data"), file.clone(), "/proc/longhaul".into()];
    if !rustix::process::geteuid().is_root() {
        let locked = dir.path().join("locked");
        std::fs::create_dir(&locked).unwrap();
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o500)).unwrap();
        bad.push(locked);
    }
    for data in bad {
        let (output, took) = refused(&data, "127.0.0.1:0", &[]);
        assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
        let text = stderr(&output);
        assert!(text.starts_with("longhaul: could not ") && text.contains(data.to_str().unwrap()), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(took < AT_ONCE, "{took:?}");
    }
}

/// What a server answers to a token, or to none.
async fn ask(server: &Server, path: &str, authorization: Option<&str>) -> (u16, Value, Option<String>) {
    let mut request = server.http.get(server.url(path));
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let challenge = answer.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
    (status, answer.json().await.unwrap_or(Value::Null), challenge)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_token_answers_those_who_have_it() {
    let mut server = Server::start().await;
    let file = server.dir.path().join("token");
    std::fs::write(&file, "s3cret-token\n").unwrap();
    server.args = vec!["--token-file".to_owned(), file.to_str().unwrap().to_owned()];
    for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
        server.term();
        server.base = format!("http://{listen}");
        server.up().await;
        let (_, port) = server.base.rsplit_once(':').unwrap();
        server.base = format!("http://127.0.0.1:{port}");
        let paths = [
            "/v1/runs",
            "/v1/runs/x",
            "/v1/runs/x/events",
            "/v1/events",
            "/v1/models",
            "/health",
            "/metrics",
            "/openapi.json",
            "/nothing",
        ];
        for path in paths {
            for wrong in [
                None,
                Some("Bearer nope"),
                Some("Bearer"),
                Some("Bearer "),
                Some("Basic s3cret-token"),
                Some("Bearer s3cret-token2"),
                Some("s3cret-token"),
            ] {
                let (status, body, challenge) = ask(&server, path, wrong).await;
                let found = (status, &body["error"]["code"], &body["error"]["param"], &body["error"]["type"]);
                assert_eq!(
                    found,
                    (401, &json!("unauthorized"), &json!("Authorization"), &json!("authentication_error")),
                    "{path} {wrong:?}"
                );
                assert_eq!(challenge.as_deref(), Some("Bearer"), "{path} {wrong:?}");
            }
        }
        for path in ["/v1/runs", "/v1/events", "/v1/models", "/health", "/openapi.json"] {
            for right in ["Bearer s3cret-token", "bearer s3cret-token"] {
                assert_eq!(ask(&server, path, Some(right)).await.0, 200, "{path} {right}");
            }
        }
        for path in ["/livez", "/readyz"] {
            assert_eq!(ask(&server, path, None).await.0, 200, "{path}");
        }
        // A refused command is not run and not stored, and a refused stop stops nothing.
        let body = json!({ "run_id": "x", "command": "/bin/true" });
        assert_eq!(server.post("/v1/runs", &body).await.0, 401);
        assert_eq!(server.post("/v1/shutdown", &json!({})).await.0, 401);
        assert_eq!(ask(&server, "/v1/runs/x", Some("Bearer s3cret-token")).await.0, 404);
        // The token is not shown anywhere.
        assert!(!server.log().contains("s3cret"));
    }
    // From elsewhere any name will do, but a page of another origin will not.
    let url = server.url("/v1/runs");
    for (origin, status) in [(None, 200), (Some("http://my.host"), 200), (Some("http://evil.example"), 403)] {
        let mut request = server.http.get(&url).header("host", "my.host").bearer_auth("s3cret-token");
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        assert_eq!(request.send().await.unwrap().status(), status, "{origin:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_proves_who_it_is_and_leaves_no_sign_of_itself() {
    let mut server = Server::start().await;
    let path = server.data().join("server.json");
    let first = info(&server);
    assert_eq!(
        (first.pid, first.version.as_str(), format!("http://{}", first.address)),
        (server.pid, longhaul::VERSION, server.base.clone())
    );
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(server.data()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(server.get("/livez").await, (200, json!({ "status": "ok", "version": longhaul::VERSION })));
    let proof =
        Sha256::digest(format!("{}:what's up", first.nonce)).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let want = json!({ "status": "ok", "version": longhaul::VERSION, "proof": proof });
    assert_eq!(server.get("/livez?challenge=what's+up").await, (200, want));
    assert_eq!(server.get("/readyz").await, (200, json!({ "status": "ok", "version": longhaul::VERSION })));

    // A killed server leaves its file; the next one's is another.
    server.kill9();
    assert_eq!(info(&server), first);
    server.up().await;
    let second = info(&server);
    assert_ne!(second.nonce, first.nonce);
    assert_eq!(second.address, first.address);
    assert!(server.term().success());
    assert!(!path.exists());
    // Asked to stop over HTTP it stops as well.
    server.up().await;
    let (status, body) = server.post("/v1/shutdown", &json!({})).await;
    assert_eq!((status, body), (202, json!({ "status": "draining", "pid": server.pid })));
    support::until("the server to stop", async || (!server.is_up()).then_some(())).await;
    assert!(!path.exists());
}

/// The names of an object's members.
fn names(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_health_report_is_whole_and_true() {
    let mut server = Server::start_with(&["--live-max", "2"], &[]).await;
    for id in ["a", "b", "c"] {
        server.sh(id, "exec sleep 600").await;
    }
    for id in ["a", "b"] {
        server.status(id, "running").await;
    }
    let (status, health) = server.get("/health").await;
    assert_eq!(status, 200);
    let all = [
        "address",
        "busy",
        "cgroup",
        "disk",
        "drift",
        "epoch",
        "event_loop_delay_ms",
        "harnesses",
        "pid",
        "recovery",
        "runs",
        "status",
        "store",
        "upgrade",
        "upstreams",
        "uptime_ms",
        "version",
    ];
    assert_eq!(names(&health), all);
    assert_eq!(health["runs"], json!({ "live": 3, "processes": 2, "places_taken": 2, "places": 2, "queued": 1 }));
    assert_eq!((&health["status"], &health["busy"], &health["epoch"]), (&json!("ok"), &json!(true), &json!(1)));
    assert_eq!((&health["pid"], &health["version"]), (&json!(server.pid), &json!(longhaul::VERSION)));
    assert_eq!(format!("http://{}", health["address"].as_str().unwrap()), server.base);
    let none = json!({ "recovered": 0, "adopted": 0, "finished": 0, "requeued": 0, "failed": 0, "pending": 0 });
    assert_eq!(health["recovery"], none);
    assert_eq!(health["drift"], json!({ "idle_places": 0, "uncounted_runs": 0 }));
    let disk = &health["disk"];
    assert!(disk["free_bytes"].as_u64().unwrap() <= disk["total_bytes"].as_u64().unwrap());
    assert!(!names(&health["store"]).is_empty());

    server.kill9();
    server.up().await;
    let recovered = json!({ "recovered": 3, "adopted": 2, "finished": 0, "requeued": 1, "failed": 0, "pending": 0 });
    support::until("the recovery to be over", async || {
        (server.get("/health").await.1["recovery"] == recovered).then_some(())
    })
    .await;
    let (_, health) = server.get("/health").await;
    assert_eq!(
        (&health["epoch"], &health["runs"]["places_taken"], &health["runs"]["queued"]),
        (&json!(2), &json!(2), &json!(1))
    );
    let metrics = metrics(&server).await;
    assert_eq!(metrics["longhaul_recovered_runs_total{fate=\"adopted\"}"], "2");
    assert_eq!(metrics["longhaul_places_taken"], "2");
    assert_eq!(metrics["longhaul_places_drift{kind=\"uncounted\"}"], "0");
    for id in ["c", "a", "b"] {
        server.post(&format!("/v1/runs/{id}/cancel?wait_ms=30000"), &json!({})).await;
    }
    assert_no_process(&server.data()).await;
}

/// `/metrics` by Prometheus' own grammar: every sample with its labels, and its value.
async fn metrics(server: &Server) -> BTreeMap<String, String> {
    let answer = server.http.get(server.url("/metrics")).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text().await.unwrap();
    assert!(text.ends_with('\n'));
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    };
    let (mut kinds, mut samples) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            assert!(["TYPE", "HELP"].contains(&words[0]) && is_name(words[1]), "{line}");
            if words[0] == "TYPE" {
                assert!(["counter", "gauge", "histogram", "summary"].contains(&words[2]), "{line}");
                assert!(kinds.insert(words[1].to_owned(), words[2].to_owned()).is_none(), "typed twice: {line}");
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        assert!(is_name(name), "{line}");
        let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (label, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(label) && !value.trim_end_matches('"').contains('"'), "{line}");
        }
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end).filter(|n| kinds.contains_key(*n)));
        assert!(kinds.contains_key(family.unwrap_or(name)), "no type: {line}");
        assert!(samples.insert(sample.to_owned(), value.to_owned()).is_none(), "twice: {line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    samples
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_prometheus_and_count() {
    let server = Server::start().await;
    for id in ["a", "b"] {
        server.sh(id, "echo x").await;
        server.end(id).await;
    }
    assert_eq!(server.get("/v1/runs/nobody").await.0, 404);
    // Who has heard of the end may ask before the server has tidied up after it.
    let metrics = support::until("the runs to be let go of", async || {
        Some(metrics(&server).await).filter(|metrics| metrics["longhaul_live_runs"] == "0")
    })
    .await;
    assert_eq!(metrics["longhaul_runs_created_total{harness=\"exec\"}"], "2");
    assert_eq!(metrics["longhaul_http_requests_total{status=\"201\"}"], "2");
    assert_eq!(metrics["longhaul_http_requests_total{status=\"404\"}"], "1");
    let number = |name: &str| metrics[name].parse::<f64>().unwrap();
    assert!(number("longhaul_places") >= 4.0);
    assert!(number("longhaul_uptime_seconds") > 0.0);
    assert!(number("longhaul_http_request_seconds_count") >= 5.0);
    assert!(metrics.keys().any(|name| name.starts_with("longhaul_store{what=\"")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openapi_document_names_every_route() {
    let server = Server::start().await;
    let (status, document) = server.get("/openapi.json").await;
    assert_eq!(status, 200);
    // A path that takes in the rest of an address is an ordinary parameter there.
    let named: Vec<(String, &[&str])> =
        longhaul::http::ROUTES.iter().map(|(path, methods)| (path.replace("{*", "{"), *methods)).collect();
    let routes: BTreeMap<&str, BTreeSet<&str>> =
        named.iter().map(|(path, methods)| (path.as_str(), methods.iter().copied().collect())).collect();
    let methods =
        |item: &'_ Value| names(item).into_iter().filter(|name| *name != "parameters").map(str::to_owned).collect();
    let paths: BTreeMap<String, BTreeSet<String>> =
        document["paths"].as_object().unwrap().iter().map(|(path, item)| (path.clone(), methods(item))).collect();
    let paths: BTreeMap<&str, BTreeSet<&str>> =
        paths.iter().map(|(path, methods)| (path.as_str(), methods.iter().map(String::as_str).collect())).collect();
    assert_eq!(paths, routes);
    // A path that is listed is there; asked by a method that it has not, it says so.
    for path in routes.keys() {
        let (status, body) = {
            let url = server.url(&path.replace("{id}", "x"));
            let answer = server.http.patch(url).send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        };
        assert_eq!((status, &body["error"]["code"]), (405, &json!("method_not_allowed")), "{path}");
    }
}
