//! Agents are not operators: what a run's processes may not do, however they try, and what they may.
#![allow(missing_docs)]

mod support;

use serde_json::{Value, json};
use support::Server;

/// Asks as a run does that has a program at hand: any number of METHOD URL BODY, with the token of `GIVEN` if there is
/// one; status and body of each on one line.
const ASK: &str = "import json,os,sys,urllib.request,urllib.error\n\
    a=sys.argv[1:]\n\
    h={'Authorization':'Bearer '+os.environ['GIVEN']} if 'GIVEN' in os.environ else {}\n\
    for m,u,b in zip(a[::3],a[1::3],a[2::3]):\n \
     try: r=urllib.request.urlopen(urllib.request.Request(u,method=m,data=b.encode() if b else None,headers=h))\n \
     except urllib.error.HTTPError as e: r=e\n \
     print(r.status,json.dumps(json.loads(r.read().decode())),flush=True)";

/// Ways of a process to look as if it were nobody's: each runs `ask …` with its own arguments.
const DISGUISES: &[(&str, &str)] = &[
    ("plainly", "ask"),
    ("in a session of its own", "setsid -w python3 -c \"$ASK\""),
    ("without variables", "env -i PATH=\"$PATH\" python3 -c \"$ASK\""),
    ("as a daemon without variables", "daemon"),
    ("with another run's marker", "env LONGHAUL_RUN_MARKER=OTHER.1 python3 -c \"$ASK\""),
];

/// A shell's functions for the above. A daemon's answer comes through a file, since nobody waits for it.
const PRELUDE: &str = r#"
ask() { python3 -c "$ASK" "$@"; }
daemon() {
    out=$(mktemp)
    ( setsid env -i PATH="$PATH" OUT="$out" ASK="$ASK" sh -c '
        ( python3 -c "$ASK" "$@" >"$OUT.part" 2>&1 </dev/null; mv "$OUT.part" "$OUT.done" ) & ' sh "$@" >/dev/null 2>&1 & )
    while [ ! -e "$out.done" ]; do sleep 0.02; done
    cat "$out.done"; rm -f "$out" "$out.done"
}
"#;

/// Runs a script as a run with `ASK` at hand, and gives the answers that it printed.
async fn answers(server: &Server, id: &str, script: &str, env: Value) -> Vec<(u16, Value)> {
    let mut env = env;
    env["ASK"] = ASK.into();
    env["BASE"] = server.base.clone().into();
    let script = format!("{PRELUDE}\n{script}");
    let body = json!({ "run_id": id, "command": "/bin/sh", "args": ["-c", script], "env": env });
    let (status, said) = server.post("/v1/runs", &body).await;
    assert_eq!(status, 201, "{said}");
    let end = server.end(id).await;
    let out = String::from_utf8(server.spool(id, "stdout").await).unwrap();
    let err = String::from_utf8(server.spool(id, "stderr").await).unwrap();
    assert_eq!(end["status"], "completed", "{out} {err} {end}");
    out.lines()
        .map(|line| {
            let (status, body) = line.split_once(' ').unwrap_or_else(|| panic!("{out} {err}"));
            (status.parse().unwrap(), serde_json::from_str(body).unwrap())
        })
        .collect()
}

/// The directory of a live run, out of which its marker is made.
fn dir_of(server: &Server, pid: i32) -> String {
    let (attempt, _) = support::proc::attempt_of(&server.data(), pid);
    attempt.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_no_operator_however_it_disguises_itself() {
    let mut server = Server::start().await;
    server.sh("ended", "echo done").await;
    server.end("ended").await;
    server.sh("victim", "exec sleep 600").await;
    let victim = server.status("victim", "running").await;
    let pid = server.events("victim").await.iter().find(|e| e["type"] == "process.started").unwrap()["data"]["pid"]
        .as_i64()
        .unwrap();
    let other = dir_of(&server, i32::try_from(pid).unwrap());
    let tries = [
        ("POST", "/v1/runs/victim/cancel", "{}"),
        ("DELETE", "/v1/runs/ended", ""),
        ("POST", "/v1/runs", r#"{"run_id":"more","command":"/bin/true"}"#),
        ("POST", "/v1/runs", r#"{"run_id":"more","harness":"demo","prompt":"x"}"#),
        ("POST", "/v1/chat/completions", r#"{"model":"demo/echo","messages":[{"role":"user","content":"x"}]}"#),
        ("POST", "/v1/runs/victim/share", "{}"),
        ("POST", "/v1/runs/victim/approvals/a1", r#"{"decision":"allow"}"#),
        ("POST", "/v1/tokens", r#"{"scope":"admin"}"#),
        ("GET", "/v1/tokens", ""),
        ("DELETE", "/v1/sessions/s", ""),
        ("POST", "/v1/shutdown", "{}"),
    ];
    for (n, (how, ask)) in DISGUISES.iter().enumerate() {
        let ask = ask.replace("OTHER", &other);
        let asked: Vec<String> =
            tries.iter().map(|(method, path, body)| format!("{method} \"$BASE{path}\" '{body}'")).collect();
        let script = format!("{ask} {}", asked.join(" "));
        let id = format!("agent-{n}");
        let got = answers(&server, &id, &script, json!({})).await;
        assert_eq!(got.len(), tries.len(), "{how}: {got:?}");
        for ((method, path, _), (status, body)) in tries.iter().zip(&got) {
            let error = &body["error"];
            assert_eq!((*status, error["code"].as_str()), (403, Some("agent_not_operator")), "{how}: {method} {path}");
            assert_eq!(error["run_id"], id.as_str(), "{how}: its ancestors tell which run it is: {method} {path}");
            assert!(error["message"].as_str().unwrap().contains("longhaul token create"), "{body}");
        }
    }
    // Nothing of it happened, and whoever is in no run may do it all.
    assert!(server.is_up());
    assert_eq!(server.run("victim").await["status"], victim["status"]);
    assert_eq!(server.get("/v1/runs/more").await.0, 404);
    assert_eq!(server.get("/v1/tokens").await.1["data"], json!([]));
    assert_eq!(server.http.delete(server.url("/v1/runs/ended")).send().await.unwrap().status(), 200);
    assert_eq!(server.post("/v1/runs/victim/cancel?wait_ms=30000", &json!({})).await.0, 200);
    assert_eq!(server.post("/v1/shutdown", &json!({})).await.0, 202);
    support::until("the server to end", async || (!server.is_up()).then_some(())).await;
    support::assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_may_look_and_may_end_itself_and_nobody_of_its_name() {
    let server = Server::start().await;
    let body = json!({ "run_id": "self", "project": "other", "command": "/bin/sleep", "args": ["600"] });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    let script = "ask GET \"$BASE/v1/runs/self\" '' POST \"$BASE/v1/runs/self/cancel?project=other\" '{}' POST \"$BASE/v1/runs/self/cancel\" '{}'; exec sleep 600";
    let script = format!("{PRELUDE}\n{script}");
    let env = json!({ "ASK": ASK, "BASE": server.base });
    let body = json!({ "run_id": "self", "command": "/bin/sh", "args": ["-c", script], "env": env });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    let end = server.end("self").await;
    assert_eq!(end["status"], "cancelled", "{end}");
    let out = String::from_utf8(server.spool("self", "stdout").await).unwrap();
    let statuses: Vec<&str> = out.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(&statuses[..2], ["200", "403"], "{out}");
    let (status, other) = server.get("/v1/runs/self?project=other").await;
    assert_eq!((status, &other["status"]), (200, &json!("running")), "the same name in another project is another run");
    assert_eq!(server.post("/v1/runs/self/cancel?project=other&wait_ms=30000", &json!({})).await.0, 200);
    support::assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_was_given_a_token_may_do_what_the_token_says() {
    let server = Server::start().await;
    let (status, token) = server.post("/v1/tokens", &json!({ "scope": "run", "project": "default" })).await;
    assert_eq!(status, 201, "{token}");
    let script = "ask POST \"$BASE/v1/runs\" '{\"run_id\":\"inner\",\"command\":\"/bin/true\"}' \
                  DELETE \"$BASE/v1/runs/inner\" ''";
    let got = answers(&server, "outer", script, json!({ "GIVEN": token["token"] })).await;
    assert_eq!(got[0].0, 201, "{got:?}");
    assert_eq!((got[1].0, got[1].1["error"]["code"].as_str()), (403, Some("forbidden_scope")), "{got:?}");
    assert_eq!(server.end("inner").await["status"], "completed");
    support::assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_own_token_makes_no_operator_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "s3cret").unwrap();
    let server = Server::start_with(&["--token-file", file.to_str().unwrap()], &[]).await;
    let own = |request: reqwest::RequestBuilder| request.bearer_auth("s3cret");
    let script = format!("{PRELUDE}\nask POST \"$BASE/v1/shutdown\" '{{}}'");
    let env = json!({ "ASK": ASK, "BASE": server.base, "GIVEN": "s3cret" });
    let body = json!({ "run_id": "thief", "command": "/bin/sh", "args": ["-c", script], "env": env });
    let made = own(server.http.post(server.url("/v1/runs"))).body(body.to_string()).send().await.unwrap();
    assert_eq!(made.status(), 201);
    let shown = support::until("the run to end", async || {
        let shown = own(server.http.get(server.url("/v1/runs/thief?wait_ms=5000"))).send().await.unwrap();
        let shown: Value = shown.json().await.unwrap();
        support::is_terminal(&shown).then_some(shown)
    })
    .await;
    assert_eq!(shown["status"], "completed", "{shown}");
    assert!(shown["output_text"].as_str().unwrap().starts_with("403 "), "{shown}");
    assert!(shown["output_text"].as_str().unwrap().contains("agent_not_operator"), "{shown}");
    support::assert_no_process(&server.data()).await;
}

/// A thread with descriptors of its own, which nobody finds under its process. Source: unshare(2), `CLONE_FILES`.
const HIDDEN: &str = "import ctypes,sys,threading,urllib.request,urllib.error\n\
    def ask():\n \
     assert ctypes.CDLL(None).unshare(0x400)==0\n \
     try: r=urllib.request.urlopen(urllib.request.Request(sys.argv[1],method=sys.argv[2],data=b'{}' if sys.argv[2]=='POST' else None))\n \
     except urllib.error.HTTPError as e: r=e\n \
     print(r.status,r.read().decode(),flush=True)\n\
    t=threading.Thread(target=ask); t.start(); t.join()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_cannot_be_seen_changes_nothing() {
    let mut server = Server::start().await;
    let ask = |path: &str, method: &str| {
        let asked = std::process::Command::new("python3").args(["-c", HIDDEN, &server.url(path), method]).output();
        String::from_utf8(asked.unwrap().stdout).unwrap()
    };
    let answer = ask("/v1/shutdown", "POST");
    assert!(answer.starts_with("403 ") && answer.contains("forbidden_peer"), "{answer}");
    let answer = ask("/v1/runs", "GET");
    assert!(answer.starts_with("200 "), "{answer}");
    // Nor does an agent that sends its request and is gone.
    let port = server.base.rsplit(':').next().unwrap().to_owned();
    let fire = "import os,socket,sys\n\
        for n in range(40):\n \
         if os.fork()==0:\n  \
          s=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\n  \
          s.sendall(b'POST /v1/shutdown HTTP/1.1\\r\\nhost: localhost\\r\\ncontent-length: 0\\r\\n\\r\\n')\n  \
          os._exit(0)\n \
         os.wait()";
    let body = json!({ "run_id": "fires", "command": "python3", "args": ["-c", fire, port] });
    assert_eq!(server.post("/v1/runs", &body).await.0, 201);
    assert_eq!(server.end("fires").await["status"], "completed");
    assert!(!server.log().contains("draining"), "{}", server.log());
    assert!(server.is_up());
}
