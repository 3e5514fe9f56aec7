//! Runs confined by bubblewrap, attacked from inside; and servers that cannot confine and therefore refuse.
#![allow(missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use longhaul_supervise::confine::try_out;
use serde_json::{Value, json};
use support::proc::{shim_of, signal, start_time};
use support::{Server, assert_log, assert_no_process, until};

/// Whether runs can be confined here. Where they cannot, the refusal is what is asserted.
async fn can_confine(server: &Server) -> bool {
    let here = ["/usr/bin/bwrap", "/bin/bwrap", "/usr/local/bin/bwrap"].map(Path::new).into_iter().find(|p| p.exists());
    let why = match here.map(|bwrap| try_out(bwrap, true)) {
        Some(Ok(())) => return true,
        Some(Err(why)) => why,
        None => "bubblewrap is not installed; as root, ./dev setup installs it".to_owned(),
    };
    println!("nothing can be confined here: {why}");
    for confine in ["write", "full"] {
        let body = json!({ "run_id": "refused", "command": "true", "confine": confine });
        assert_refused(server, &body, "").await;
    }
    false
}

async fn assert_refused(server: &Server, body: &Value, word: &str) {
    let (status, answer) = server.post("/v1/runs", body).await;
    let error = &answer["error"];
    assert_eq!((status, &error["code"]), (422, &json!("confinement_unavailable")), "{answer}");
    assert_eq!((&error["param"], &error["dispatch"]), (&json!("confine"), &json!("not_started")));
    assert!(error["message"].as_str().unwrap().contains(word), "{error}");
    let id = body["run_id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/v1/runs/{id}")).await.0, 404, "nothing refused is stored");
}

/// A place to work in, which a test's temporary directory is not: that holds the server's data too.
fn work_dir(server: &Server) -> PathBuf {
    let dir = server.dir.path().join("work");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

async fn confined(server: &Server, id: &str, confine: &str, script: &str, more: Value) {
    let mut body = json!({ "run_id": id, "command": "/bin/sh", "args": ["-c", script], "confine": confine });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (status, answer) = server.post("/v1/runs", &body).await;
    assert_eq!(status, 201, "{answer}");
}

/// A process of the same user that has nothing to do with any run.
struct Bystander(Child);

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the attacker prints: `name yes` or `name no` for each thing that it tried.
fn answers(text: &str) -> BTreeMap<String, bool> {
    let split = |line: &str| line.split_once(' ').map(|(name, answer)| (name.to_owned(), answer == "yes"));
    text.lines().filter_map(split).collect()
}

/// A shell script that tries everything and prints what worked.
fn attacks(work: &Path, outside: &Path, data: &Path, token: &Path, pid: u32, other: &Value, port: &str) -> String {
    format!(
        "try() {{ name=$1; shift; if \"$@\" >/dev/null 2>&1; then echo \"$name yes\"; else echo \"$name no\"; fi; }}
         sh_() {{ sh -c \"$1\"; }}
         try cwd sh_ 'echo x > {work}/mine'
         try tmpdir sh_ 'echo x > $TMPDIR/mine'
         try tmp sh_ 'echo x > /tmp/mine'
         try read_system cat /usr/bin/env
         try write_outside sh_ 'echo x > {outside}/file'
         try make_outside sh_ 'echo x > {outside}/new'
         try write_symlink sh_ 'echo x > {work}/link'
         try make_symlink sh_ 'echo x > {work}/dirlink/new'
         try write_usr sh_ 'echo x > /usr/longhaul-was-here'
         try write_etc sh_ 'echo x > /etc/longhaul-was-here'
         try remount mount -o remount,rw,bind /
         try unmount umount -l {data}
         try new_namespace unshare -Urm sh -c 'mount -o remount,rw,bind / && echo x > {outside}/new'
         try sysctl sh_ 'echo 1 > /proc/sys/vm/drop_caches'
         try sysrq test -w /proc/sysrq-trigger
         try core_pattern test -w /proc/sys/kernel/core_pattern
         try read_outside cat {outside}/file
         try read_server_json cat {data}/server.json
         try read_store sh_ 'cat {data}/*.db'
         try read_runs sh_ 'cat {data}/runs/*/a1/spec'
         try write_data sh_ 'echo x >> {data}/server.json'
         try control_socket sh_ 'test -S $(echo {data}/runs/*/a1/control | cut -d\" \" -f1)'
         try read_token grep operator {token}
         try token_in_env sh_ 'env | grep operator'
         try see_bystander test -e /proc/{pid}/cmdline
         try kill_bystander kill -9 {pid}
         try kill_other kill -9 {other}
         try kill_all kill -0 -1
         try cgroup sh_ 'mkdir /sys/fs/cgroup/longhaul-attack || mkdir /sys/fs/cgroup/*/longhaul-attack'
         try reach_server bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'
         echo end yes",
        work = work.display(),
        outside = outside.display(),
        data = data.display(),
        token = token.display(),
    )
}

/// The same without what would do harm if nothing held it.
fn harmless(script: &str) -> String {
    const HARMFUL: [&str; 10] = [
        "write_usr",
        "write_etc",
        "write_data",
        "remount",
        "unmount",
        "new_namespace",
        "sysctl",
        "sysrq",
        "cgroup",
        "kill_all",
    ];
    let script = script.replace("kill -9", "kill -0");
    let kept = script.lines().filter(|line| !HARMFUL.iter().any(|name| line.contains(&format!("try {name} "))));
    kept.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attacker_gets_out_of_neither_cell() {
    let temp = tempfile::tempdir().unwrap();
    let token = temp.path().join("token");
    std::fs::write(&token, "a-token-of-the-operator\n").unwrap();
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).unwrap();
    let mut server = Server::start_with(&["--token-file", token.to_str().unwrap()], &[]).await;
    let bearer = "Bearer a-token-of-the-operator".parse().unwrap();
    let headers = [(reqwest::header::AUTHORIZATION, bearer)].into_iter().collect();
    server.http = reqwest::Client::builder().default_headers(headers).build().unwrap();
    if !can_confine(&server).await {
        return;
    }
    let (work, dir, data) = (work_dir(&server), server.dir.path().to_owned(), server.data());
    // Under /tmp everything is hidden anyway, wherever this is built; what lies elsewhere must be kept by itself.
    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    let outside_file = outside.path().join("file");
    std::fs::write(&outside_file, "as it was").unwrap();
    symlink(&outside_file, work.join("link")).unwrap();
    symlink(outside.path(), work.join("dirlink")).unwrap();
    let bystander = Bystander(Command::new("sleep").arg("1000").spawn().unwrap());
    let pid = bystander.0.id();
    server.sh("other", "exec sleep 1000").await;
    let other = server.status("other", "running").await["pid"].clone();
    let port = server.base.rsplit(':').next().unwrap();
    let script = attacks(&work, outside.path(), &data, &token, pid, &other, port);
    // Without a cell the same attacker gets nearly everything: the attacks are real.
    for confine in ["none", "write", "full"] {
        let script = if confine == "none" { harmless(&script) } else { script.clone() };
        confined(&server, confine, confine, &script, json!({ "cwd": work })).await;
        let end = server.end(confine).await;
        let text = String::from_utf8(server.spool(confine, "stdout").await).unwrap();
        let answers = answers(&text);
        assert!(end["status"] == "completed" && answers["end"], "{end} {text}");
        let may: Vec<&str> = answers.iter().filter(|(_, yes)| **yes).map(|(name, _)| name.as_str()).collect();
        match confine {
            "none" => {
                for name in [
                    "write_outside",
                    "write_symlink",
                    "read_server_json",
                    "read_runs",
                    "read_token",
                    "see_bystander",
                    "kill_bystander",
                    "kill_other",
                    "reach_server",
                    "control_socket",
                ] {
                    assert!(may.contains(&name), "{name}: {may:?}");
                }
                std::fs::write(&outside_file, "as it was").unwrap();
                let _ = std::fs::remove_file(outside.path().join("new"));
            }
            // The network is open there, and the file system is there to be read.
            "write" => assert_eq!(
                may,
                ["cwd", "end", "reach_server", "read_outside", "read_system", "tmp", "tmpdir"],
                "{text}"
            ),
            _ => assert_eq!(may, ["cwd", "end", "read_system", "tmp", "tmpdir"], "{text}"),
        }
        assert_eq!(std::fs::read_to_string(&outside_file).unwrap(), "as it was");
        assert!(!outside.path().join("new").exists());
    }
    assert!(start_time(pid.cast_signed()).is_some(), "the bystander lives");
    assert_eq!(server.run("other").await["status"], "running");
    assert_eq!(std::fs::read_to_string(work.join("mine")).unwrap(), "x\n", "what is written in the directory is there");
    assert!(!dir.join("mine").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confined_run_ends_stops_and_survives_as_any_other() {
    let mut server = Server::start().await;
    if !can_confine(&server).await {
        return;
    }
    let none = json!({});
    // Its own directory, which Longhaul makes in what is hidden otherwise.
    confined(&server, "own", "full", "echo x > here && cat here && pwd", none.clone()).await;
    let end = server.end("own").await;
    assert_eq!(end["output_text"], format!("x\n{}\n", end["cwd"].as_str().unwrap()), "{end}");
    confined(&server, "seven", "write", "echo no >&2; exit 7", none.clone()).await;
    let end = server.end("seven").await;
    assert_eq!((&end["error"]["code"], &end["exit"]["code"]), (&json!("exit_nonzero"), &json!(7)), "{end}");
    confined(&server, "orphan", "full", "setsid sleep 1000 & echo fine", none.clone()).await;
    assert_eq!(server.end("orphan").await["status"], "completed");
    // A cancel reaches the agent and gives it its time.
    let polite = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done";
    confined(&server, "polite", "full", polite, none.clone()).await;
    until("its first word", async || (server.run("polite").await["output_text"] == "up\n").then_some(())).await;
    assert_eq!(server.post("/v1/runs/polite/cancel?wait_ms=30000", &none).await.0, 200);
    let end = server.end("polite").await;
    assert_eq!((&end["status"], &end["output_text"]), (&json!("cancelled"), &json!("up\nbye\n")), "{end}");
    let deaf = "trap '' TERM INT; setsid sh -c \"trap '' TERM; sleep 1000\" & echo up; while :; do sleep 1; done";
    confined(&server, "deaf", "write", deaf, none.clone()).await;
    until("its first word", async || (server.run("deaf").await["output_text"] == "up\n").then_some(())).await;
    assert_eq!(server.post("/v1/runs/deaf/cancel?wait_ms=30000", &none).await.0, 200);
    assert_eq!(server.end("deaf").await["status"], "cancelled");
    assert_no_process(&server.data()).await;

    // Neither run knows that its server died.
    let work = work_dir(&server);
    let wait = "echo up; until [ -e go ]; do sleep 0.05; done; echo down";
    confined(&server, "through", "full", wait, json!({ "cwd": work })).await;
    let lost = "setsid sleep 1000 & echo up; exec sleep 1000";
    confined(&server, "lost", "full", lost, none).await;
    for id in ["through", "lost"] {
        until("its first word", async || (server.run(id).await["output_text"] == "up\n").then_some(())).await;
    }
    let pid = server.run("lost").await["pid"].as_i64().unwrap() as i32;
    server.kill9();
    signal(shim_of(&server.data(), pid), rustix::process::Signal::KILL);
    server.up().await;
    assert_eq!(server.end("lost").await["error"]["code"], "lost");
    std::fs::write(work.join("go"), "").unwrap();
    let end = server.end("through").await;
    assert_eq!((&end["status"], &end["output_text"]), (&json!("completed"), &json!("up\ndown\n")), "{end}");
    for id in ["own", "seven", "polite", "through", "lost"] {
        let events = server.events(id).await;
        assert_log(&events);
        let started = events.iter().find(|e| e["type"] == "process.started").unwrap();
        assert_eq!(started["data"]["command"], "sh", "{started}");
    }
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_would_give_the_server_away_is_refused() {
    let server = Server::start().await;
    if !can_confine(&server).await {
        return;
    }
    let data = server.data();
    let link = work_dir(&server).join("link");
    symlink(&data, &link).unwrap();
    for cwd in
        [server.dir.path(), &data, &data.join("runs"), &link, Path::new("/"), Path::new("/tmp"), Path::new("/run")]
    {
        let body = json!({ "run_id": "refused", "command": "true", "confine": "write", "cwd": cwd });
        assert_refused(&server, &body, "name").await;
    }
}

/// A program in the place of `bwrap`, on a server that finds no other.
async fn with_bwrap(script: Option<&str>) -> (Server, tempfile::TempDir) {
    let bin = tempfile::tempdir().unwrap();
    if let Some(script) = script {
        let file = bin.path().join("bwrap");
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let server = Server::start_with(&[], &[("PATH", bin.path().to_str().unwrap())]).await;
    (server, bin)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_bubblewrap_nothing_is_started_unconfined() {
    let body = json!({ "run_id": "r", "command": "/bin/true", "confine": "write" });
    let (server, _bin) = with_bwrap(None).await;
    assert_refused(&server, &body, "install").await;
    drop(server);
    let (server, _bin) = with_bwrap(Some("echo 'bwrap: No permissions to create new namespace' >&2; exit 1")).await;
    assert_refused(&server, &body, "No permissions to create new namespace").await;
    assert_refused(&server, &body, "user namespaces").await;
    drop(server);

    // It works when it is tried, and no longer when it is needed.
    let twice = "for last; do :; done; [ \"$last\" = true ] && exit 0; echo 'bwrap: it broke' >&2; exit 1";
    let (server, _bin) = with_bwrap(Some(twice)).await;
    let work = work_dir(&server);
    confined(&server, "r", "full", "echo x > ran", json!({ "cwd": work })).await;
    let end = server.end("r").await;
    assert_eq!((&end["status"], &end["error"]["code"]), (&json!("failed"), &json!("exit_nonzero")), "{end}");
    assert!(end["error"]["stderr_tail"].as_str().unwrap().contains("bwrap: it broke"), "{end}");
    assert!(!work.join("ran").exists());
    drop(server);

    // It is gone when the run's turn comes.
    let bin = tempfile::tempdir().unwrap();
    let file = bin.path().join("bwrap");
    std::fs::write(&file, "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    let server = Server::start_with(&["--live-max", "1"], &[("PATH", bin.path().to_str().unwrap())]).await;
    let (status, _) =
        server.post("/v1/runs", &json!({ "run_id": "first", "command": "/bin/sleep", "args": ["1000"] })).await;
    assert_eq!(status, 201);
    server.status("first", "running").await;
    let work = work_dir(&server);
    confined(&server, "late", "full", "echo x > ran", json!({ "cwd": work })).await;
    std::fs::remove_file(file).unwrap();
    assert_eq!(server.post("/v1/runs/first/cancel?wait_ms=30000", &json!({})).await.0, 200);
    let end = server.end("late").await;
    assert_eq!((&end["status"], &end["error"]["code"]), (&json!("failed"), &json!("confinement_unavailable")), "{end}");
    assert!(end["error"]["message"].as_str().unwrap().contains("install") && !work.join("ran").exists(), "{end}");
}
