//! Tokens with bounds and shared runs: what each opens, and that it opens nothing else.
#![allow(missing_docs)]

mod support;

use std::path::Path;
use std::process::Command;

use longhaul_model::limits;
use reqwest::Method;
use serde_json::{Value, json};
use support::{LONGHAUL, Server, assert_no_process, until};

/// Makes a token; the answer.
async fn token(server: &Server, body: &Value) -> Value {
    let (status, made) = server.post("/v1/tokens", body).await;
    assert_eq!(status, 201, "{made}");
    made
}

fn text(made: &Value) -> &str {
    made["token"].as_str().expect("a token")
}

/// Asks with a token: status and JSON.
async fn with(server: &Server, token: &str, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let mut request = server.http.request(method, server.url(path)).bearer_auth(token);
    if !body.is_null() {
        request = request.body(body.to_string());
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["error"]["code"].as_str().unwrap_or_default())
}

/// Whether any file below a directory holds a text.
fn holds(dir: &Path, text: &str) -> bool {
    std::fs::read_dir(dir).unwrap().flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => holds(&entry.path(), text),
        Ok(kind) if kind.is_file() => {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        }
        _ => false,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scope_reaches_as_far_as_it_says() {
    let server = Server::start().await;
    server.sh("ended", "echo done").await;
    server.end("ended").await;
    let run = |id: &str| json!({ "run_id": id, "command": "/bin/true" });
    let asks = [
        ("read", Method::GET, "/v1/runs/ended", Value::Null),
        ("read", Method::GET, "/v1/runs/ended/events", Value::Null),
        ("read", Method::GET, "/v1/runs", Value::Null),
        ("read", Method::GET, "/health", Value::Null),
        ("run", Method::POST, "/v1/runs", run("made")),
        ("run", Method::POST, "/v1/runs/ended/cancel", json!({})),
        ("operate", Method::POST, "/v1/runs/ended/share", json!({})),
        ("admin", Method::GET, "/v1/tokens", Value::Null),
        ("admin", Method::POST, "/v1/tokens", json!({ "scope": "read" })),
    ];
    let scopes = ["read", "run", "operate", "admin"];
    let rank = |name: &str| scopes.iter().position(|scope| *scope == name);
    for scope in scopes {
        let made = token(&server, &json!({ "scope": scope })).await;
        for (needed, method, path, body) in &asks {
            let answer = with(&server, text(&made), method.clone(), path, body).await;
            if rank(scope) >= rank(needed) {
                assert!(answer.0 < 300, "{scope} {method} {path}: {answer:?}");
            } else {
                assert_eq!(code(&answer), (403, "forbidden_scope"), "{scope} {method} {path}");
                let error = &answer.1["error"];
                assert_eq!((&error["scope"], &error["needed"]), (&json!(scope), &json!(needed)), "{error}");
            }
        }
    }
    let wrong = [
        (json!({}), "scope"),
        (json!({ "scope": "root" }), "scope"),
        (json!({ "scope": "admin", "project": "p" }), "scope"),
        (json!({ "scope": "run", "ttl_ms": 0 }), "ttl_ms"),
        (json!({ "scope": "run", "allowed_roots": ["relative"] }), "allowed_roots"),
        (json!({ "scope": "run", "allowed_roots": ["/nowhere/at/all"] }), "allowed_roots"),
        (json!({ "scope": "run", "name": "" }), "name"),
        (json!({ "scope": "run", "lane": 0 }), "lane"),
    ];
    let before = server.get("/v1/tokens").await;
    for (body, param) in wrong {
        let (status, answer) = server.post("/v1/tokens", &body).await;
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param)), "{body} {answer}");
    }
    assert_eq!(server.get("/v1/tokens").await, before, "what is refused leaves nothing");
    let answer = with(&server, "lht_000000000000.nope", Method::GET, "/v1/runs", &Value::Null).await;
    assert_eq!(code(&answer), (401, "unauthorized"));
    let admin = token(&server, &json!({ "scope": "admin" })).await;
    assert_eq!(with(&server, text(&admin), Method::POST, "/v1/shutdown", &json!({})).await.0, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_one_project_sees_and_makes_nothing_in_another() {
    let server = Server::start().await;
    let put = |project: &str, id: &str| json!({ "run_id": id, "project": project, "command": "/bin/true" });
    for project in ["mine", "yours"] {
        assert_eq!(server.post("/v1/runs", &put(project, "r")).await.0, 201);
    }
    let made = token(&server, &json!({ "scope": "operate", "project": "mine" })).await;
    let ask = async |method, path: &str, body: Value| with(&server, text(&made), method, path, &body).await;

    let (status, new) = ask(Method::POST, "/v1/runs", json!({ "run_id": "n", "command": "/bin/true" })).await;
    assert_eq!((status, &new["project"]), (201, &json!("mine")), "the token's project where none is named");
    let (status, list) = ask(Method::GET, "/v1/runs", Value::Null).await;
    let projects: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|run| &run["project"]).collect();
    assert_eq!((status, projects), (200, vec![&json!("mine"), &json!("mine")]));
    assert_eq!(ask(Method::GET, "/v1/runs/r", Value::Null).await.1["project"], "mine");
    let (_, feed) = ask(Method::GET, "/v1/events", Value::Null).await;
    assert!(!feed.to_string().contains("yours"), "{feed}");
    let chat = json!({ "model": "demo/echo", "project": "yours", "messages": [{ "role": "user", "content": "x" }] });
    for (method, path, body) in [
        (Method::POST, "/v1/runs", put("yours", "x")),
        (Method::POST, "/v1/chat/completions", chat),
        (Method::GET, "/v1/runs/r?project=yours", Value::Null),
        (Method::GET, "/v1/runs/r?proj%65ct=y%6Furs", Value::Null),
        (Method::GET, "/v1/runs?project=mine&project=yours", Value::Null),
        (Method::GET, "/v1/runs/r/events?project=yours", Value::Null),
        (Method::GET, "/v1/events?project=yours", Value::Null),
        (Method::GET, "/v1/sessions?project=yours", Value::Null),
        (Method::POST, "/v1/runs/r/cancel?project=yours", json!({})),
        (Method::DELETE, "/v1/runs/r?project=yours", Value::Null),
    ] {
        let answer = ask(method.clone(), path, body).await;
        assert_eq!(code(&answer), (403, "forbidden_project"), "{method} {path} {answer:?}");
        let error = &answer.1["error"];
        assert_eq!((&error["project"], &error["token_project"]), (&json!("yours"), &json!("mine")), "{path}");
    }
    assert_eq!(server.get("/v1/runs/x?project=yours").await.0, 404);
    assert_eq!(server.get("/v1/runs/r?project=yours").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_a_token_works_below_its_directories_wherever_links_lead() {
    let dir = tempfile::tempdir().unwrap();
    // A program of the right name is all that a session needs.
    let program = dir.path().join("claude");
    std::fs::write(&program, "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let server = Server::start_with(&[], &[("PATH", &path)]).await;
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    for path in [&root.join("in"), &outside, &dir.path().join("root-not")] {
        std::fs::create_dir_all(path).unwrap();
    }
    std::os::unix::fs::symlink(&outside, root.join("out")).unwrap();
    std::os::unix::fs::symlink(root.join("in"), dir.path().join("back")).unwrap();
    let body = json!({ "scope": "run", "allowed_roots": [root] });
    let made = token(&server, &body).await;
    let start = async |id: &str, more: Value| {
        let mut body = json!({ "run_id": id, "harness": "demo", "prompt": "hi" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with(&server, text(&made), Method::POST, "/v1/runs", &body).await
    };
    let good = [root.clone(), root.join("in"), dir.path().join("back"), root.join("in/../in")];
    for (n, cwd) in good.iter().enumerate() {
        assert_eq!(start(&format!("good-{n}"), json!({ "cwd": cwd })).await.0, 201, "{}", cwd.display());
    }
    assert_eq!(start("private", json!({})).await.0, 201, "a private directory is nobody else's");
    for cwd in [outside.clone(), root.join("out"), root.join("../outside"), dir.path().join("root-not"), "/".into()] {
        let answer = start("bad", json!({ "cwd": cwd })).await;
        assert_eq!(code(&answer), (403, "forbidden_cwd"), "{}", cwd.display());
        assert_eq!(answer.1["error"]["param"], "cwd");
    }
    // A session that works elsewhere is not a way there.
    let elsewhere = json!({ "run_id": "s1", "session_id": "s", "harness": "claude", "prompt": "x", "cwd": outside });
    assert_eq!(server.post("/v1/runs", &elsewhere).await.0, 201);
    let turn = json!({ "session_id": "s", "harness": "claude" });
    assert_eq!(code(&start("bad", turn).await), (403, "forbidden_cwd"));
    assert_eq!(server.get("/v1/runs/bad").await.0, 404, "what was refused is not stored");
    server.end("s1").await;
    for n in 0..good.len() {
        server.end(&format!("good-{n}")).await;
    }
    server.end("private").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_with_its_time_or_its_revocation_and_outlives_a_crash() {
    let mut server = Server::start().await;
    server.sh("live", "exec sleep 600").await;
    let short = token(&server, &json!({ "scope": "read", "ttl_ms": 1 })).await;
    let said = until("the token to expire", async || {
        let answer = with(&server, text(&short), Method::GET, "/v1/runs/live", &Value::Null).await;
        (answer.0 != 200).then_some(answer)
    })
    .await;
    assert_eq!(code(&said), (401, "token_expired"));
    let kept = token(&server, &json!({ "scope": "read", "name": "kept" })).await;
    let gone = token(&server, &json!({ "scope": "read" })).await;
    let id = gone["id"].as_str().unwrap();
    let revoked = server.http.delete(server.url(&format!("/v1/tokens/{id}"))).send().await.unwrap();
    assert_eq!(revoked.status(), 200);
    server.kill9();
    server.up().await;
    assert_eq!(with(&server, text(&kept), Method::GET, "/v1/runs/live", &Value::Null).await.0, 200);
    let answer = with(&server, text(&gone), Method::GET, "/v1/runs/live", &Value::Null).await;
    assert_eq!(code(&answer), (401, "unauthorized"));
    let answer = with(&server, text(&short), Method::GET, "/v1/runs/live", &Value::Null).await;
    assert_eq!(code(&answer), (401, "token_expired"));
    let again = server.http.delete(server.url(&format!("/v1/tokens/{id}"))).send().await.unwrap();
    assert_eq!(again.status(), 404);
    assert_eq!(again.json::<Value>().await.unwrap()["error"]["code"], "token_not_found");
    let (_, list) = server.get("/v1/tokens").await;
    let listed = list["data"].as_array().unwrap();
    assert_eq!(listed.len(), 2, "{list}");
    assert!(listed.iter().all(|token| token.get("token").is_none()), "a secret is shown once: {list}");
    let (_, secret) = text(&kept).split_once('.').unwrap();
    assert!(!holds(&server.data(), secret), "a secret is stored nowhere");
    assert_eq!(server.post("/v1/runs/live/cancel?wait_ms=30000", &json!({})).await.0, 200);
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_one_name_are_one_client() {
    let server = Server::start_with(&["--client-max", "1"], &[]).await;
    let mut tokens = vec![];
    for name in ["a", "a", "b"] {
        tokens.push(token(&server, &json!({ "scope": "run", "name": name })).await);
    }
    for (n, made) in tokens.iter().enumerate() {
        let body = json!({ "run_id": format!("r{n}"), "command": "/bin/sleep", "args": ["600"] });
        assert_eq!(with(&server, text(made), Method::POST, "/v1/runs", &body).await.0, 201);
    }
    server.status("r0", "running").await;
    server.status("r2", "running").await;
    assert_eq!(server.run("r1").await["status"], "queued", "its client has its one place taken");
    for id in ["r1", "r0", "r2"] {
        assert_eq!(server.post(&format!("/v1/runs/{id}/cancel?wait_ms=30000"), &json!({})).await.0, 200);
    }
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_is_as_wide_as_its_token_says_over_a_crash() {
    let mut server = Server::start_with(&["--live-max", "8"], &[]).await;
    let made = token(&server, &json!({ "scope": "run", "lane": 1 })).await;
    let start = async |server: &Server, id: &str| {
        let body = json!({ "run_id": id, "command": "/bin/sleep", "args": ["600"] });
        assert_eq!(with(server, text(&made), Method::POST, "/v1/runs", &body).await.0, 201);
    };
    start(&server, "a").await;
    server.status("a", "running").await;
    start(&server, "b").await;
    let cause = "waits for a place: 0 before it, 1 of 1 places of its client taken";
    assert_eq!(server.get("/v1/runs/b/why").await.1["cause"], cause);
    server.sh("c", "exec sleep 600").await;
    server.status("c", "running").await;
    server.kill9();
    server.up().await;
    assert_eq!(server.get("/v1/runs/b/why").await.1["cause"], cause);
    assert_eq!(server.post("/v1/runs/a/cancel?wait_ms=30000", &json!({})).await.0, 200);
    server.status("b", "running").await;
    for id in ["b", "c"] {
        assert_eq!(server.post(&format!("/v1/runs/{id}/cancel?wait_ms=30000"), &json!({})).await.0, 200);
    }
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_as_many_tokens_as_there_may_be() {
    let server = Server::start().await;
    let body = json!({ "scope": "read" });
    for _ in 0..limits::TOKENS_MAX / 50 {
        futures_util::future::join_all((0..50).map(|_| token(&server, &body))).await;
    }
    let answer = server.post("/v1/tokens", &body).await;
    assert_eq!(code(&answer), (409, "too_many_tokens"));
    let (_, list) = server.get("/v1/tokens").await;
    let id = list["data"][0]["id"].as_str().unwrap();
    let revoked = server.http.delete(server.url(&format!("/v1/tokens/{id}"))).send().await.unwrap();
    assert_eq!(revoked.status(), 200);
    token(&server, &body).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_shows_one_run_and_nothing_else() {
    let server = Server::start_with(&[], &[("LONGHAUL_LOG", "debug")]).await;
    server.sh("a:b@c", "echo secret-of-mine").await;
    server.end("a:b@c").await;
    server.sh("other", "echo no").await;
    server.end("other").await;
    let (status, shared) = server.post("/v1/runs/a:b@c/share", &json!({ "ttl_ms": 600_000 })).await;
    assert_eq!((status, &shared["object"], &shared["run_id"]), (201, &json!("share"), &json!("a:b@c")), "{shared}");
    let secret = text(&shared).to_owned();
    for link in ["self", "events", "log"] {
        let path = shared["links"][link].as_str().unwrap();
        let answer = server.http.get(server.url(path)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{link}");
        assert!(answer.text().await.unwrap().contains("secret-of-mine"), "{link}");
    }
    // As a browser writes it.
    let encoded = format!("/v1/runs/a%3Ab%40c?project=default&token={secret}");
    assert_eq!(server.get(&encoded).await.0, 200);
    for (method, path) in [
        (Method::GET, "/v1/runs/other"),
        (Method::GET, "/v1/runs/other/events"),
        (Method::GET, "/v1/runs/a:b@c/why"),
        (Method::GET, "/v1/runs"),
        (Method::GET, "/v1/events"),
        (Method::GET, "/v1/tokens"),
        (Method::GET, "/health"),
        (Method::POST, "/v1/runs/a:b@c/cancel"),
        (Method::POST, "/v1/runs/a:b@c/share"),
        (Method::DELETE, "/v1/runs/a:b@c"),
        (Method::POST, "/v1/runs"),
    ] {
        let answer = with(&server, &secret, method.clone(), &format!("{path}?token={secret}"), &Value::Null).await;
        assert_eq!(code(&answer), (403, "forbidden_scope"), "{method} {path}");
        let answer = with(&server, &secret, method.clone(), path, &Value::Null).await;
        assert_eq!(code(&answer), (403, "forbidden_scope"), "in the header: {method} {path}");
    }
    let answer = server.get(&format!("/v1/runs/a:b@c?project=elsewhere&token={secret}")).await;
    assert_eq!(code(&answer), (403, "forbidden_project"));
    let whole = token(&server, &json!({ "scope": "read" })).await;
    let answer = server.get(&format!("/v1/runs/other?token={}", text(&whole))).await;
    assert_eq!(code(&answer), (401, "unauthorized"), "a token that opens more is not for addresses");
    assert_eq!(code(&server.get("/v1/runs/other?token=x").await), (400, "unknown_field"));

    let (_, random) = secret.split_once('.').unwrap();
    assert!(server.log().contains("/v1/runs/a:b@c/events"), "requests are in this log");
    assert!(!server.log().contains(random), "the token is in no log");
    let erased = server.http.delete(server.url("/v1/runs/a:b@c")).send().await.unwrap();
    assert_eq!(erased.status(), 200);
    assert_eq!(code(&server.get(shared["links"]["self"].as_str().unwrap()).await), (401, "unauthorized"));
    let (_, list) = server.get("/v1/tokens").await;
    assert_eq!(list["data"].as_array().unwrap().len(), 1, "a share ends with its run: {list}");
    assert_eq!(server.post("/v1/runs/nobody/share", &json!({})).await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_of_a_share_ends_with_the_share() {
    let server = Server::start().await;
    server.sh("live", "echo on; exec sleep 600").await;
    server.status("live", "running").await;
    for how in ["revoked", "expired"] {
        let ttl_ms = if how == "expired" { 3_000 } else { 600_000 };
        let (_, shared) = server.post("/v1/runs/live/share", &json!({ "ttl_ms": ttl_ms })).await;
        let path = shared["links"]["events"].as_str().unwrap();
        let mut stream = server.http.get(server.url(path)).send().await.unwrap();
        assert_eq!(stream.status(), 200, "{how}");
        let first = stream.chunk().await.unwrap().expect("a frame");
        assert!(!first.is_empty());
        if how == "revoked" {
            let path = format!("/v1/tokens/{}", shared["id"].as_str().unwrap());
            assert_eq!(server.http.delete(server.url(&path)).send().await.unwrap().status(), 200);
        }
        let rest = tokio::time::timeout(support::PATIENCE, async { while let Ok(Some(_)) = stream.chunk().await {} });
        rest.await.unwrap_or_else(|_| panic!("the stream of a share that is {how} goes on"));
        // An EventSource is told why, since it would close without a word.
        let again = server.http.get(server.url(path)).send().await.unwrap();
        assert_eq!(again.status(), 200);
        let want = if how == "revoked" { "unauthorized" } else { "token_expired" };
        assert!(again.text().await.unwrap().contains(want), "{how}");
    }
    assert_eq!(server.run("live").await["status"], "running", "a reader's end is nothing to a run");
    assert_eq!(server.post("/v1/runs/live/cancel?wait_ms=30000", &json!({})).await.0, 200);
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_makes_lists_and_ends_them() {
    let server = Server::start().await;
    server.sh("r", "echo shown").await;
    server.end("r").await;
    let address = server.base.strip_prefix("http://").unwrap().to_owned();
    let longhaul = |words: &[&str], token: Option<&str>| {
        let mut command = Command::new(LONGHAUL);
        command.env_clear().env("HOME", server.dir.path()).args(["--server", &address, "--project", "default"]);
        if let Some(token) = token {
            command.env("LONGHAUL_TOKEN", token);
        }
        let ran = command.args(words).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
        (ran.status.code().unwrap(), text(ran.stdout), text(ran.stderr))
    };
    let words = ["token", "create", "--scope", "run", "--root", "/tmp", "--ttl", "1h", "--name", "ci"];
    let (status, made, said) = longhaul(&words, None);
    assert_eq!(status, 0, "{said}");
    assert!(made.starts_with("lht_") && said.contains("shown this once"), "{made} {said}");
    let (status, out, said) = longhaul(&["run", "-q", "--cwd", "/tmp", "--", "echo", "hi"], Some(&made));
    assert_eq!((status, out.as_str()), (0, "hi"), "{said}");
    let (status, _, said) = longhaul(&["rm", "r"], Some(&made));
    assert_eq!(status, 125);
    assert!(said.contains("has scope run, this needs operate"), "{said}");
    let (status, listed, _) = longhaul(&["token", "list"], None);
    assert!(status == 0 && listed.contains("ci") && listed.contains("run"), "{listed}");
    let (_, listed, _) = longhaul(&["token", "list", "--json"], None);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let id = listed["data"][0]["id"].as_str().unwrap();
    let (status, shown, _) = longhaul(&["share", "r", "--ttl", "10m"], None);
    assert_eq!(status, 0);
    let read = reqwest::get(&shown).await.unwrap().text().await.unwrap();
    assert!(read.contains("shown"), "{shown}: {read}");
    assert_eq!(longhaul(&["token", "revoke", id], None).0, 0);
    let (status, _, said) = longhaul(&["ps"], Some(&made));
    assert_eq!(status, 125);
    assert!(said.contains("there is no such token"), "{said}");
    // A run gets a token with bounds, and no other.
    let (status, made, _) = longhaul(&["token", "create", "--scope", "run"], None);
    assert_eq!(status, 0);
    let give = format!("LONGHAUL_TOKEN={made}");
    let inner = format!("{LONGHAUL} run -q -- echo inner");
    let run = ["run", "-q", "--env", &give, "--", "/bin/sh", "-c", &inner];
    assert_eq!(longhaul(&run, None).1, "inner");
    let (status, out, said) = longhaul(&["run", "-q", "--", "/bin/sh", "-c", &inner], None);
    assert_eq!((status, out.as_str()), (125, ""), "{said}");
    assert!(said.contains("longhaul token create --scope run"), "{said}");
    assert_eq!(longhaul(&["run", "-q", "--env", "LONGHAUL_TOKEN=x", "--", "true"], None).0, 125);
    assert_no_process(&server.data()).await;
}
