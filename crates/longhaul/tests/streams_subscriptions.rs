//! Subscriptions over the wire: webhooks and workers, through `kill -9`.

mod support;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};

use support::streams::{Answer, offset};
use support::{Server, until};

/// A webhook's end: what came, and what is answered from the first to the last; then the last again.
#[derive(Clone)]
struct Hook {
    url: String,
    calls: Arc<Mutex<Vec<(String, String)>>>,
    answers: Arc<Mutex<Vec<(u16, &'static str)>>>,
}

async fn take(State(hook): State<Hook>, headers: HeaderMap, body: String) -> (StatusCode, &'static str) {
    let signature = headers["webhook-signature"].to_str().unwrap().to_owned();
    hook.calls.lock().unwrap().push((signature, body));
    let mut answers = hook.answers.lock().unwrap();
    let (status, body) = if answers.len() > 1 { answers.remove(0) } else { answers[0] };
    (StatusCode::from_u16(status).unwrap(), body)
}

impl Hook {
    async fn start(answers: &[(u16, &'static str)]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let hook = Self { url, calls: Arc::default(), answers: Arc::new(Mutex::new(answers.to_vec())) };
        let router = Router::new().route("/hook", post(take)).with_state(hook.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        hook
    }

    async fn call(&self, number: usize) -> (String, String) {
        until("a call", async || self.calls.lock().unwrap().get(number).cloned()).await
    }
}

async fn ask(server: &Server, method: Method, path: &str, token: Option<&str>, body: &Value) -> Answer {
    let mut request = server.http.request(method, server.url(&format!("/v1/stream/__ds/{path}")));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    Answer::of(request.body(if body.is_null() { String::new() } else { body.to_string() })).await
}

async fn put(server: &Server, id: &str, body: &Value) -> Answer {
    ask(server, Method::PUT, &format!("subscriptions/{id}"), None, body).await
}

async fn show(server: &Server, id: &str) -> Value {
    ask(server, Method::GET, &format!("subscriptions/{id}"), None, &Value::Null).await.json()
}

fn webhook(url: &str, lease_ttl_ms: u64) -> Value {
    json!({"type": "webhook", "pattern": "e/*", "webhook": {"url": url}, "lease_ttl_ms": lease_ttl_ms})
}

/// What a worker says that it is done with a wake, up to an offset of `e/1`.
fn done(wake: &Value, upto: &str) -> Value {
    json!({
        "wake_id": wake["wake_id"],
        "generation": wake["generation"],
        "acks": [{"stream": "e/1", "offset": upto}],
        "done": true,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_outlives_the_server_that_sent_it() {
    let hook = Hook::start(&[(200, "{}")]).await;
    let mut server = Server::start().await;
    let made = put(&server, "s", &webhook(&hook.url, 60_000)).await;
    assert_eq!(made.status, 201);
    server.put("e/1", "application/json", &[]).await;
    server.append("e/1", &[], "[1,2]").await;
    let (signature, raw) = hook.call(0).await;
    until("the lease", async || (show(&server, "s").await["phase"] == "called").then_some(())).await;
    server.kill9();
    server.up().await;

    // The key is the one that the wake was signed with.
    let keys = ask(&server, Method::GET, "jwks.json", None, &Value::Null).await;
    assert_eq!(keys.header("content-type"), Some("application/jwk-set+json"));
    let key = keys.json()["keys"][0].clone();
    assert_eq!(made.json()["webhook"]["signing"]["kid"], key["kid"]);
    let parts: Vec<&str> = signature.split(',').collect();
    assert_eq!(parts[1], format!("kid={}", key["kid"].as_str().unwrap()));
    let signed = format!("{}.{raw}", parts[0].strip_prefix("t=").unwrap());
    let bytes = URL_SAFE_NO_PAD.decode(parts[2].strip_prefix("ed25519=").unwrap()).unwrap();
    assert_eq!(bytes.len(), 64);
    node_agrees(&key, &signed, parts[2].strip_prefix("ed25519=").unwrap());

    let wake: Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(wake["streams"][0]["tail_offset"], offset(2));
    let token = wake["callback_token"].as_str().unwrap();
    let callback = async |token: Option<&str>, body: &Value| {
        let path = wake["callback_url"].as_str().unwrap().strip_prefix(&server.base).unwrap();
        ask(&server, Method::POST, path.strip_prefix("/v1/stream/__ds/").unwrap(), token, body).await
    };
    let all = done(&wake, &offset(2));
    assert_eq!(callback(None, &all).await.refusal(), (401, "TOKEN_INVALID".to_owned()));
    assert_eq!(callback(Some("x"), &all).await.refusal(), (401, "TOKEN_INVALID".to_owned()));
    assert_eq!(callback(Some(token), &done(&wake, &offset(3))).await.refusal(), (409, "INVALID_OFFSET".to_owned()));
    assert_eq!(callback(Some(token), &done(&wake, "-1")).await.refusal(), (409, "INVALID_OFFSET".to_owned()));
    let answer = callback(Some(token), &all).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"ok": true, "next_wake": false})));
    assert_eq!(callback(Some(token), &all).await.refusal(), (409, "FENCED".to_owned()));
    let now = show(&server, "s").await;
    assert_eq!((&now["streams"][0]["acked_offset"], &now["phase"]), (&json!(offset(2)), &json!("idle")));
    assert_eq!(hook.calls.lock().unwrap().len(), 1, "it was called once");
    let log = server.log();
    assert!(!log.contains(token) && !log.contains(&hook.url), "neither tokens nor addresses are in the log");
    assert_eq!(ask(&server, Method::DELETE, "subscriptions/s", None, &Value::Null).await.status, 204);
    assert_eq!(callback(Some(token), &all).await.refusal(), (404, "SUBSCRIPTION_NOT_FOUND".to_owned()));
}

/// Another implementation says that a signature is right, if it is installed here.
fn node_agrees(key: &Value, signed: &str, signature: &str) {
    let script = "const c=require('crypto');const [k,s,g]=process.argv.slice(1);\
        process.exit(c.verify(null,Buffer.from(s),c.createPublicKey({key:JSON.parse(k),format:'jwk'}),\
        Buffer.from(g,'base64url'))?0:3)";
    let node = |signed: &str| {
        std::process::Command::new("node").args(["-e", script, &key.to_string(), signed, signature]).status()
    };
    let Ok(status) = node(signed) else { return };
    assert_eq!(status.code(), Some(0));
    assert_eq!(node(&format!("{signed} ")).unwrap().code(), Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_calls_back_where_others_reach_the_server() {
    let hook = Hook::start(&[(500, "no")]).await;
    let mut server = Server::start().await;
    let make = async |server: &Server, headers: &[(&str, &str)]| {
        let mut request = server.http.put(server.url("/v1/stream/__ds/subscriptions/a%20b"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let made = Answer::of(request.body(webhook(&hook.url, 600_000).to_string())).await;
        assert!(made.status < 300, "{made:?}");
        made.json()["webhook"]["signing"]["jwks_url"].as_str().unwrap().to_owned()
    };
    let jwks = "/v1/stream/__ds/jwks.json";
    assert_eq!(make(&server, &[]).await, format!("{}{jwks}", server.base));
    let as_proxy = [("host", "localhost:9"), ("x-forwarded-proto", "HTTPS, http")];
    assert_eq!(make(&server, &as_proxy).await, format!("https://localhost:9{jwks}"));
    server.put("e/1", "application/json", &[]).await;
    server.append("e/1", &[], "1").await;
    let callback = async |at: usize| {
        let call: Value = serde_json::from_str(&hook.call(at).await.1).unwrap();
        call["callback_url"].as_str().unwrap().to_owned()
    };
    let path = "/v1/stream/__ds/subscriptions/a%20b/callback";
    assert_eq!(callback(0).await, format!("https://localhost:9{path}"));
    assert_eq!(server.term().code(), Some(0));
    let before = hook.calls.lock().unwrap().len();
    server.args.extend(["--public-url", "https://longhaul.example:8443"].map(str::to_owned));
    server.up().await;
    assert_eq!(callback(before).await, format!("https://longhaul.example:8443{path}"));
    assert_eq!(make(&server, &[]).await, format!("https://longhaul.example:8443{jwks}"));
    let bad =
        std::process::Command::new(support::LONGHAUL).args(["serve", "--public-url", "longhaul.example/x"]).output();
    assert_eq!(bad.unwrap().status.code(), Some(78));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_never_answers_does_not_hold_up_the_end() {
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", deaf.local_addr().unwrap());
    let mut server = Server::start().await;
    assert_eq!(put(&server, "s", &webhook(&url, 600_000)).await.status, 201);
    server.put("e/1", "application/json", &[]).await;
    server.append("e/1", &[], "1").await;
    let accepted = tokio::task::spawn_blocking(move || deaf.accept()).await.unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(server.term().code(), Some(0));
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "less than a webhook may take");
    drop(accepted);
    server.up().await;
    assert_eq!(show(&server, "s").await["generation"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_fails_is_called_again_by_the_next_server() {
    let hook = Hook::start(&[(500, "no")]).await;
    let mut server = Server::start().await;
    assert_eq!(put(&server, "s", &webhook(&hook.url, 60_000)).await.status, 201);
    server.put("e/1", "application/json", &[]).await;
    server.append("e/1", &[], "1").await;
    let failed =
        until("the failure", async || Some(show(&server, "s").await).filter(|now| now["status"] == "failed")).await;
    assert_eq!(failed["last_failure"], "it answered 500");
    assert!(failed["failures"].as_u64().unwrap() > 0 && failed["next_attempt_at"].is_string());
    server.kill9();
    let before = hook.calls.lock().unwrap().len();
    *hook.answers.lock().unwrap() = vec![(200, "{\"done\":true}")];
    server.up().await;
    until("the ack", async || {
        let now = show(&server, "s").await;
        (now["status"] == "active" && now["streams"][0]["acked_offset"] == offset(1)).then_some(())
    })
    .await;
    let calls = hook.calls.lock().unwrap().clone();
    assert!(calls.len() > before, "the next server called");
    let bodies: Vec<Value> = calls.iter().map(|(_, body)| serde_json::from_str(body).unwrap()).collect();
    assert!(bodies.iter().all(|body| *body == bodies[0]), "it is the same wake: {bodies:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_outlives_the_server_and_so_does_its_end() {
    let mut server = Server::start().await;
    server.put("w", "application/json", &[]).await;
    let body = json!({"type": "pull-wake", "pattern": "e/*", "wake_stream": "w", "lease_ttl_ms": 60_000});
    assert_eq!(put(&server, "s", &body).await.status, 201);
    server.put("e/1", "application/json", &[]).await;
    server.append("e/1", &[], "1").await;
    until("the event", async || (server.read("w").await.json()[0]["generation"] == 1).then_some(())).await;
    let claim = async |server: &Server, worker: &str| {
        ask(server, Method::POST, "subscriptions/s/claim", None, &json!({"worker": worker})).await
    };
    let wake = claim(&server, "one").await.json();
    server.kill9();
    server.up().await;
    let busy = claim(&server, "two").await;
    assert_eq!(busy.refusal(), (409, "ALREADY_CLAIMED".to_owned()));
    assert_eq!(
        (&busy.json()["error"]["current_holder"], &busy.json()["error"]["generation"]),
        (&json!("one"), &json!(1))
    );
    let token = wake["token"].as_str();
    let heartbeat = json!({"wake_id": wake["wake_id"], "generation": 1});
    let beat = ask(&server, Method::POST, "subscriptions/s/ack", token, &heartbeat).await;
    assert_eq!(beat.json(), json!({"ok": true, "next_wake": false}));
    let ack = ask(&server, Method::POST, "subscriptions/s/ack", token, &done(&wake, &offset(1))).await;
    assert_eq!(ack.json(), json!({"ok": true, "next_wake": false}));
    server.kill9();
    server.up().await;
    let late = ask(&server, Method::POST, "subscriptions/s/release", token, &heartbeat).await;
    assert_eq!(late.refusal(), (409, "FENCED".to_owned()));
    assert_eq!(claim(&server, "two").await.refusal(), (409, "NO_PENDING_WORK".to_owned()));
    server.append("e/1", &[], "2").await;
    let second = claim(&server, "two").await.json();
    assert_eq!(second["generation"], 2);
    let given = json!({"wake_id": second["wake_id"], "generation": 2});
    let back = ask(&server, Method::POST, "subscriptions/s/release", second["token"].as_str(), &given).await;
    assert_eq!(back.status, 204);
    until("another event", async || {
        let events = server.read("w").await.json();
        (events.as_array().unwrap().last().unwrap()["generation"] == 3).then_some(())
    })
    .await;
    let generations: Vec<u64> =
        server.read("w").await.json().as_array().unwrap().iter().map(|e| e["generation"].as_u64().unwrap()).collect();
    assert!(generations.is_sorted_by(|a, b| a < b), "one event for a generation: {generations:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_subscription_is_refused_by_name() {
    let server = Server::start().await;
    for url in ["http://10.0.0.1/h", "https://192.168.0.1/", "https://localhost/", "https://[::1]/", "ftp://a.example/"]
    {
        assert_eq!(
            put(&server, "s", &webhook(url, 1_000)).await.refusal(),
            (400, "WEBHOOK_URL_REJECTED".to_owned()),
            "{url}"
        );
    }
    let invalid = (400, "INVALID_REQUEST".to_owned());
    let hook = json!({"url": "http://localhost:1/"});
    for (body, param) in [
        (json!({}), "type"),
        (json!({"type": "webhook", "webhook": hook}), "pattern"),
        (json!({"type": "webhook", "pattern": "a"}), "webhook"),
        (json!({"type": "webhook", "pattern": "a", "webhook": hook, "colour": 1}), "colour"),
        (json!({"type": "pull-wake", "pattern": "a"}), "wake_stream"),
        (json!({"type": "pull-wake", "pattern": "a", "wake_stream": "w", "lease_ttl_ms": 999}), "lease_ttl_ms"),
        (json!({"type": "pull-wake", "streams": ["runs/x"], "wake_stream": "w"}), "streams"),
    ] {
        let answer = put(&server, "s", &body).await;
        assert_eq!((answer.refusal(), &answer.json()["error"]["param"]), (invalid.clone(), &json!(param)));
    }
    assert_eq!(put(&server, "s", &json!([])).await.refusal(), invalid);
    let missing = ask(&server, Method::GET, "subscriptions/s", None, &Value::Null).await;
    assert_eq!(missing.refusal(), (404, "SUBSCRIPTION_NOT_FOUND".to_owned()));
    let body = json!({"type": "pull-wake", "pattern": "a", "wake_stream": "w"});
    assert_eq!(put(&server, "s", &body).await.status, 201);
    assert_eq!(put(&server, "s", &body).await.status, 200);
    let other = json!({"type": "pull-wake", "pattern": "b", "wake_stream": "w"});
    assert_eq!(put(&server, "s", &other).await.refusal(), (409, "SUBSCRIPTION_ALREADY_EXISTS".to_owned()));
    for bad in [json!({}), json!({"worker": ""}), json!({"worker": 1})] {
        assert_eq!(ask(&server, Method::POST, "subscriptions/s/claim", None, &bad).await.refusal(), invalid);
    }
    assert_eq!(ask(&server, Method::GET, "subscriptions", None, &Value::Null).await.status, 404);
    assert_eq!(ask(&server, Method::PATCH, "subscriptions/s", None, &Value::Null).await.status, 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_needs_the_token_of_its_wake_and_no_other() {
    let token = "0123456789abcdef0123456789abcdef";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, token).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let server = Server::start_with(&["--token-file", file.to_str().unwrap()], &[]).await;
    let as_operator = async |method, path: &str, body: &Value| ask(&server, method, path, Some(token), body).await;
    let body = json!({"type": "pull-wake", "streams": ["e/1"], "wake_stream": "w"});
    assert_eq!(put(&server, "s", &body).await.refusal(), (401, "unauthorized".to_owned()));
    assert_eq!(as_operator(Method::PUT, "subscriptions/s?project=p", &body).await.status, 201);
    let make = server.http.put(server.url("/v1/stream/e/1?project=p")).bearer_auth(token);
    let made = Answer::of(make.header("content-type", "application/json").body("1")).await;
    assert_eq!(made.status, 201);
    let wake = as_operator(Method::POST, "subscriptions/s/claim?project=p", &json!({"worker": "w"})).await.json();
    let beat = json!({"wake_id": wake["wake_id"], "generation": wake["generation"]});
    // The token of the wake knows the project; the server's own token is none of a wake.
    let own = ask(&server, Method::POST, "subscriptions/s/ack", wake["token"].as_str(), &beat).await;
    assert_eq!(own.status, 200, "{own:?}");
    let other = as_operator(Method::POST, "subscriptions/s/ack?project=p", &beat).await;
    assert_eq!(other.refusal(), (401, "TOKEN_INVALID".to_owned()));
    let elsewhere =
        ask(&server, Method::POST, "subscriptions/s/claim?project=p", wake["token"].as_str(), &json!({})).await;
    assert_eq!(elsewhere.refusal(), (401, "unauthorized".to_owned()), "it opens nothing else");
    assert_eq!(ask(&server, Method::GET, "jwks.json", None, &Value::Null).await.status, 200);
}
