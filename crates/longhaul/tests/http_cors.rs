//! Pages of other origins: those that were allowed may use every face, all others get nothing.

mod support;

use std::collections::BTreeSet;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use support::{LONGHAUL, Server};

const APP: &str = "https://app.example";
const LOCAL: &str = "http://localhost:5173";

async fn server(more: &[&str]) -> Server {
    let origins = format!("{APP},{LOCAL}");
    Server::start_with(&[&["--allowed-origins", &origins], more].concat(), &[]).await
}

/// Asks as a page of an origin does: status, headers, body.
async fn ask(server: &Server, method: Method, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Value) {
    let mut request = server.http.request(method, server.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    (status, headers, answer.json().await.unwrap_or(Value::Null))
}

/// The words of a header that is a list.
fn words(headers: &HeaderMap, name: &str) -> BTreeSet<String> {
    let text = headers.get(name).map_or("", |value| value.to_str().unwrap());
    text.split(',').map(|word| word.trim().to_ascii_lowercase()).filter(|word| !word.is_empty()).collect()
}

fn assert_open(headers: &HeaderMap, origin: &str, what: &str) {
    assert_eq!(headers.get_all("access-control-allow-origin").iter().collect::<Vec<_>>(), [origin], "{what}");
    assert!(words(headers, "vary").contains("origin"), "{what}");
    // No cookie plays a part, so none may be sent.
    assert!(!headers.contains_key("access-control-allow-credentials"), "{what}");
    let exposed = words(headers, "access-control-expose-headers");
    for name in ["x-request-id", "x-run-id", "x-run-request-digest", "x-should-retry", "x-longhaul-ignored"] {
        assert!(exposed.contains(name), "{what}: {name}");
    }
    for name in ["location", "retry-after", "www-authenticate", "content-range"] {
        assert!(exposed.contains(name), "{what}: {name}");
    }
}

fn assert_shut(headers: &HeaderMap, what: &str) {
    let told = headers.keys().find(|name| name.as_str().starts_with("access-control-"));
    assert_eq!(told, None, "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allowed_origin_may_use_every_face_and_read_every_answer() {
    let server = server(&[]).await;
    server.sh("r", "echo one").await;
    server.end("r").await;
    for (method, path, status) in [
        (Method::GET, "/v1/runs", 200),
        (Method::GET, "/v1/runs/r", 200),
        (Method::GET, "/v1/runs/r/log", 200),
        (Method::GET, "/v1/runs/r/events?client=eventsource", 200),
        (Method::GET, "/v1/runs/r/events?client=eventsource&after=99", 200),
        (Method::GET, "/v1/runs/r/events?after=99", 409),
        (Method::GET, "/v1/models", 200),
        (Method::GET, "/health", 200),
        (Method::GET, "/livez", 200),
        (Method::GET, "/v1/runs/nobody", 404),
        (Method::GET, "/nothing", 404),
        (Method::GET, "/v1/runs?nope=1", 400),
        (Method::PATCH, "/v1/runs", 405),
        (Method::POST, "/v1/chat/completions", 400),
    ] {
        for origin in [APP, LOCAL] {
            let (got, headers, _) = ask(&server, method.clone(), path, &[("origin", origin)]).await;
            assert_eq!(got, status, "{method} {path}");
            assert_open(&headers, origin, path);
        }
    }
    let answer = server.http.post(server.url("/v1/runs")).header("origin", APP);
    let answer = answer.body(json!({ "run_id": "mine", "command": "/bin/true" }).to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_open(answer.headers(), APP, "a new run");
    assert!(answer.headers().contains_key("location"));
    server.end("mine").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_other_origin_is_refused_and_told_nothing() {
    let server = server(&[]).await;
    for origin in
        ["https://evil.example", "http://app.example", "https://app.example:8443", "null", "https://App.example"]
    {
        let asked = [("origin", origin)];
        let (status, headers, body) = ask(&server, Method::GET, "/v1/runs", &asked).await;
        assert_eq!((status, &body["error"]["code"]), (403, &json!("forbidden_host")), "{origin}");
        assert_shut(&headers, origin);
        assert_eq!(headers["vary"], "Origin");
        let asked = [("origin", origin), ("access-control-request-method", "POST")];
        let (status, headers, _) = ask(&server, Method::OPTIONS, "/v1/runs", &asked).await;
        assert_eq!(status, 403, "{origin}");
        assert_shut(&headers, origin);
    }
    // The server's own pages and callers that are no pages are answered as ever; a cache must still tell them apart.
    for origin in [None, Some(server.base.clone())] {
        let asked: Vec<(&str, &str)> = origin.iter().map(|origin| ("origin", origin.as_str())).collect();
        let (status, headers, _) = ask(&server, Method::GET, "/v1/runs", &asked).await;
        assert_eq!((status, headers["vary"].as_bytes()), (200, &b"Origin"[..]));
        assert_shut(&headers, "own");
    }
    // A name of somebody's own choice for this host is no way in for an allowed page either.
    for (method, more) in [(Method::GET, "x-nothing"), (Method::OPTIONS, "access-control-request-method")] {
        let asked = [("origin", APP), ("host", "rebound.example"), (more, "GET")];
        let (status, _, body) = ask(&server, method, "/v1/runs", &asked).await;
        assert_eq!((status, &body["error"]["param"]), (403, &json!("Host")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preflight_needs_no_token_and_the_request_behind_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "s3cret\n").unwrap();
    let server = server(&["--token-file", file.to_str().unwrap()]).await;
    for path in ["/v1/runs", "/v1/runs/r", "/v1/runs/r/cancel", "/v1/chat/completions", "/v1/events", "/health"] {
        let asked = [
            ("origin", APP),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,idempotency-key"),
        ];
        let (status, headers, body) = ask(&server, Method::OPTIONS, path, &asked).await;
        assert_eq!((status, body), (204, Value::Null), "{path}");
        assert_open(&headers, APP, path);
        let methods = words(&headers, "access-control-allow-methods");
        assert!(["get", "post", "delete"].iter().all(|method| methods.contains(*method)), "{methods:?}");
        let allowed = words(&headers, "access-control-allow-headers");
        let ours = ["authorization", "content-type", "last-event-id", "idempotency-key", "x-run-id", "x-session-id"];
        let sdk = ["x-stainless-retry-count", "x-stainless-lang", "x-stainless-os", "x-stainless-timeout"];
        assert!(ours.iter().chain(&sdk).all(|name| allowed.contains(*name)), "{allowed:?}");
        assert_eq!(headers["access-control-max-age"], "7200");
    }
    // What is no preflight is refused, and the page can read why.
    let (status, headers, body) = ask(&server, Method::GET, "/v1/runs", &[("origin", APP)]).await;
    assert_eq!((status, &body["error"]["code"]), (401, &json!("unauthorized")));
    assert_open(&headers, APP, "refused");
    let (status, _, _) = ask(&server, Method::OPTIONS, "/v1/runs", &[("origin", APP)]).await;
    assert_eq!(status, 401, "OPTIONS alone is no preflight");
    let asked = [("origin", APP), ("authorization", "Bearer s3cret")];
    assert_eq!(ask(&server, Method::GET, "/v1/runs", &asked).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_allowed_origins_nothing_of_it_is_there() {
    let server = Server::start().await;
    let asked = [("origin", APP), ("access-control-request-method", "GET")];
    for method in [Method::GET, Method::OPTIONS] {
        let (status, headers, _) = ask(&server, method, "/v1/runs", &asked).await;
        assert_eq!(status, 403);
        assert_shut(&headers, "off");
    }
    let (_, headers, _) = ask(&server, Method::GET, "/v1/runs", &[]).await;
    assert!(!headers.contains_key("vary"));
}

#[test]
fn an_origin_that_could_be_anybody_s_is_bad_configuration() {
    let dir = tempfile::tempdir().unwrap();
    for (bad, text) in [
        ("*", "any page could then use this server"),
        ("null", "any page could then use this server"),
        ("https://app.example/", "is not an origin as browsers write it"),
        ("https://app.example,*", "any page could then use this server"),
    ] {
        let asked = std::process::Command::new(LONGHAUL)
            .args(["serve", "--listen", "127.0.0.1:0", "--allowed-origins", bad, "--data-dir"])
            .arg(dir.path().join("data"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&asked.stderr);
        assert_eq!(asked.status.code(), Some(78), "{bad}: {said}");
        assert!(said.contains(text), "{bad}: {said}");
    }
}
