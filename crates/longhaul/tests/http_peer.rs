//! Loopback is shared by all users of a machine: another user's process gets nothing without a token.
#![allow(missing_docs)]

mod support;

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use serde_json::Value;
use support::Server;

const NOBODY: u32 = 65534;

/// Asks as another user, with the tool that every machine of ours has.
fn ask_as_nobody(url: &str) -> (u16, Value) {
    let program = "import sys,urllib.request,urllib.error\n\
        try:\n r=urllib.request.urlopen(urllib.request.Request(sys.argv[1],data=sys.argv[2].encode() or None))\n\
        except urllib.error.HTTPError as e: r=e\n\
        print(r.status,r.read().decode())";
    let body = r#"{"command":"/bin/true"}"#;
    let out = Command::new("python3").args(["-c", program, url, body]).uid(NOBODY).current_dir("/").output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let (status, body) =
        text.trim().split_once(' ').unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&out.stderr)));
    (status.parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_user_runs_nothing() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can act as another user");
        return;
    }
    if !Command::new("python3").args(["-c", ""]).uid(NOBODY).current_dir("/").status().is_ok_and(|s| s.success()) {
        println!("skipped: user {NOBODY} cannot run python3 here");
        return;
    }
    let server = Server::start().await;
    let (status, body) = ask_as_nobody(&server.url("/v1/runs"));
    assert_eq!((status, body["error"]["code"].as_str()), (403, Some("forbidden_peer")), "{body}");
    let (status, body) = server.get("/v1/runs").await;
    assert_eq!(
        (status, body["data"].as_array().unwrap().len()),
        (200, 0),
        "our own user is answered; nothing was stored"
    );
}
