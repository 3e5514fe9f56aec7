//! The server may open as many files as its host lets it; what it starts has the limit that the server was started with.

mod support;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::Server;

/// The soft limit of a process.
fn soft(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_takes_all_descriptors_it_may_and_agents_get_what_was_there() {
    // This process has one test only, so its limits are nobody else's.
    let maximum = getrlimit(Resource::Nofile).maximum.expect("a hard limit");
    setrlimit(Resource::Nofile, Rlimit { current: Some(300), maximum: Some(maximum) }).unwrap();
    let mut server = Server::start().await;
    assert!(maximum > 300, "{maximum}");
    assert_eq!(soft(server.pid), maximum);
    for id in ["first", "second"] {
        server.sh(id, "ulimit -S -n; ulimit -H -n; echo \"[$LONGHAUL_NOFILE]\"").await;
        assert_eq!(server.end(id).await["output_text"], format!("300\n{maximum}\n[]\n"));
        server.term();
        server.up().await;
    }
}
