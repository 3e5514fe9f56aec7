//! Clients that keep the server waiting, and clients that are too many: each has an end, others are served meanwhile,
//! and nothing is stored of what was not finished.

mod support;

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use support::streams::offset;
use support::{PATIENCE, Server, assert_no_process, until};

/// The time that a head has here, in milliseconds; a body and an idle connection have four times as long, an answer that
/// is not taken ten times.
const HEAD_MS: &str = "500";
const HEAD: Duration = Duration::from_millis(500);
const BODY: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_secs(2);

/// A client whose server gives it up at the right time is told so long before the default.
const IN_TIME: Duration = Duration::from_secs(20);

fn address(server: &Server) -> &str {
    server.base.strip_prefix("http://").unwrap()
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(address(server)).await.unwrap()
}

/// All that comes until the end.
async fn rest(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut bytes)).await.expect("the server closes");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends something, and then single bytes without end until the server answers or closes: what it says, and when.
async fn dribble(server: &Server, opening: &[u8], drop: &[u8]) -> (String, Duration) {
    let began = Instant::now();
    let mut socket = connect(server).await;
    socket.write_all(opening).await.unwrap();
    loop {
        tokio::select! {
            ready = socket.readable() => {
                ready.unwrap();
                return (rest(&mut socket).await, began.elapsed());
            }
            () = tokio::time::sleep(Duration::from_millis(40)) => if socket.write_all(drop).await.is_err() {
                return (rest(&mut socket).await, began.elapsed());
            }
        }
        assert!(began.elapsed() < PATIENCE, "a slow client is never given up");
    }
}

/// Asks again and again until the others are done: how often others were served.
async fn others<T>(server: &Server, slow: impl Future<Output = T>) -> (T, usize) {
    let mut slow = std::pin::pin!(slow);
    let mut served = 0;
    loop {
        tokio::select! {
            done = &mut slow => return (done, served),
            answer = server.get("/v1/runs") => {
                assert_eq!(answer.0, 200);
                served += 1;
            }
        }
    }
}

/// The value of a metric.
async fn metric(server: &Server, name: &str) -> u64 {
    let text = server.http.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok()).unwrap_or_default() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_come_is_given_up() {
    let server = Server::start_with(&["--client-timeout", HEAD_MS], &[]).await;
    let slow = (0..20).map(|n| {
        let server = &server;
        async move {
            match n % 3 {
                0 => dribble(server, b"PUT /v1/stream/slow HTTP/1.1\r\nhost: localhost\r\nx-slow: ", b"x").await,
                1 => dribble(server, b"PUT /v1/stream/slow", b"x").await,
                _ => dribble(server, b"PUT /v1/stream/slow HTTP/1.1\r\nhost: localhost\r\n", b"x: y\r\n").await,
            }
        }
    });
    let (told, served) = others(&server, futures_util::future::join_all(slow)).await;
    for (answer, after) in told {
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close"), "{answer:?}");
        assert!(after >= HEAD && after < IN_TIME, "{after:?}");
    }
    assert!(served > 2, "others are served: {served}");
    assert_eq!(server.read("slow").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_is_given_up_and_nothing_of_it_is_stored() {
    let server = Server::start_with(&["--client-timeout", HEAD_MS], &[]).await;
    server.put("s", "text/plain", &[]).await;
    let request = |line: &str, length: &str| format!("{line} HTTP/1.1\r\nhost: localhost\r\n{length}\r\n\r\n");
    let text = "content-type: text/plain\r\n";
    let (sized, chunked) = ("content-length: 100000", "transfer-encoding: chunked");
    let requests = [
        (request("POST /v1/stream/s", &format!("{text}{sized}")), "x"),
        (request("POST /v1/stream/s", &format!("{text}{chunked}")), "1\r\nx\r\n"),
        (request("PUT /v1/stream/new", &format!("{text}{sized}")), "x"),
        (request("POST /v1/runs", sized), " "),
        (request("POST /v1/runs", chunked), "1\r\n \r\n"),
    ];
    let slow = requests.iter().map(|(opening, drop)| dribble(&server, opening.as_bytes(), drop.as_bytes()));
    let (told, served) = others(&server, futures_util::future::join_all(slow)).await;
    for (answer, after) in told {
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"body_too_slow\""), "{answer}");
        for header in ["retry-after: 5", "connection: close", "x-content-type-options: nosniff", "no-store"] {
            assert!(answer.contains(header), "{header} in {answer}");
        }
        assert!(after >= BODY && after < IN_TIME, "{after:?}");
    }
    assert!(served > 2, "others are served: {served}");
    assert_eq!(server.stream(reqwest::Method::HEAD, "s", &[], "").await.next(), offset(0));
    assert_eq!((server.read("new").await.status, server.stored().await), (404, (vec![], 0)));
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_given_up() {
    let server = Server::start_with(&["--client-timeout", HEAD_MS], &[]).await;
    server.put("s", "application/octet-stream", &[]).await;
    let mega = "x".repeat(8 << 20);
    for _ in 0..3 {
        let answer =
            server.stream(reqwest::Method::POST, "s", &[("content-type", "application/octet-stream")], &mega).await;
        assert_eq!(answer.status, 204);
    }
    let mut stuck = Vec::new();
    for n in 0..12 {
        let socket = TcpSocket::new_v4().unwrap();
        // Little room, so that it is the server who waits.
        socket.set_recv_buffer_size(4096).unwrap();
        let mut socket = socket.connect(address(&server).parse().unwrap()).await.unwrap();
        let request: &[u8] = if n % 2 == 0 {
            // More requests than fit in its room come with answers to each.
            &b"GET /v1/stream/s?offset=-1 HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(30)
        } else {
            b"GET /v1/stream/s?offset=-1&live=sse HTTP/1.0\r\nhost: localhost\r\n\r\n"
        };
        socket.write_all(request).await.unwrap();
        stuck.push(socket);
    }
    until("all of them to be there", async || (metric(&server, "longhaul_connections").await > 12).then_some(())).await;
    let gone = until("all of them to be given up", async || {
        // What is left is those who ask here.
        (metric(&server, "longhaul_connections").await <= 4).then_some(())
    });
    let (began, ((), served)) = (Instant::now(), others(&server, gone).await);
    assert!(served > 2, "others are served: {served}");
    assert!(began.elapsed() < IN_TIME, "{:?}", began.elapsed());
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed_late_and_one_that_waits_for_the_server_is_not() {
    let server = Server::start_with(&["--client-timeout", HEAD_MS, "--long-poll-timeout", "4000"], &[]).await;
    server.put("s", "text/plain", &[]).await;
    // Said nothing at all, and said all it wanted: both are closed without a word.
    let (mut silent, mut used) = (connect(&server).await, connect(&server).await);
    let began = Instant::now();
    used.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut waiting = connect(&server).await;
    let poll = "GET /v1/stream/s?offset=now&live=long-poll HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    waiting.write_all(poll.as_bytes()).await.unwrap();
    assert_eq!(rest(&mut silent).await, "");
    let answer = rest(&mut used).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && serde_json::from_str::<serde_json::Value>(body).is_ok(), "{answer}");
    assert!(began.elapsed() >= IDLE && began.elapsed() < IN_TIME, "{:?}", began.elapsed());
    let answer = rest(&mut waiting).await;
    assert!(answer.starts_with("HTTP/1.1 204 ") && began.elapsed() >= Duration::from_secs(4), "{answer}");
    // A client with a pool comes back to a connection that is there, and finds out about one that is not.
    let client = reqwest::Client::new();
    for pause in [0, 1_000, 1_000, 3_000, 0] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        assert_eq!(client.get(server.url("/livez")).send().await.unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_not_asked_does_not_hold_up_the_end() {
    let mut server = Server::start().await;
    let mut waiting = Vec::new();
    for begun in ["", "GET /livez HTTP/1.1\r\nhost: loc", "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
        let mut socket = connect(&server).await;
        socket.write_all(begun.as_bytes()).await.unwrap();
        waiting.push(socket);
    }
    // The last one is answered: so are the others there.
    waiting[2].readable().await.unwrap();
    assert!(server.term().success());
    assert!(!server.log().contains("did not end in time"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_too_many_is_told_so() {
    let server = Server::start_with(&["--connections-max", "20"], &[]).await;
    let mut idle = Vec::new();
    while metric(&server, "longhaul_connections").await < 20 {
        idle.push(connect(&server).await);
    }
    for request in ["GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n", "", "rubbish"] {
        let mut socket = connect(&server).await;
        let _ = socket.write_all(request.as_bytes()).await;
        let answer = rest(&mut socket).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("an answer: {answer:?}"));
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: 5"), "{answer}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "too_many_connections");
    }
    // Many at once, each with a request and none that reads: nobody waits for them for long, nor do those who are in.
    let mut many = Vec::new();
    for _ in 0..200 {
        let mut socket = connect(&server).await;
        socket.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        many.push(socket);
    }
    assert_eq!(server.get("/livez").await.0, 200);
    for mut socket in many {
        assert!(rest(&mut socket).await.starts_with("HTTP/1.1 503 "));
    }
    assert!(metric(&server, "longhaul_connections_refused_total").await >= 203);
    // The last ones may have been too many already.
    drop(idle.remove(0));
    until("a place to be free", async || {
        let mut socket = connect(&server).await;
        socket.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
        rest(&mut socket).await.starts_with("HTTP/1.1 200 ").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_leave_descriptors_for_runs() {
    let server = Server::start_with_descriptors(200, &[]).await;
    let mut sockets = Vec::new();
    for _ in 0..300 {
        let mut socket = connect(&server).await;
        let _ = socket.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        sockets.push(socket);
    }
    let mut answers = [0, 0];
    for socket in &mut sockets {
        let mut start = [0; 12];
        socket.read_exact(&mut start).await.unwrap();
        answers[usize::from(&start != b"HTTP/1.1 200")] += 1;
    }
    // Half of the descriptors, without those by which others are told.
    assert_eq!(answers, [68, 232]);
    let in_use = std::fs::read_dir(format!("/proc/{}/fd", server.pid)).unwrap().count();
    assert!(in_use < 150, "{in_use} descriptors are in use");
    drop(sockets);
    // Who comes too early is told so and cut off, perhaps before it has asked.
    until("places to be free", async || {
        let answer = server.http.get(server.url("/livez")).send().await;
        answer.is_ok_and(|answer| answer.status() == 200).then_some(())
    })
    .await;
    server.sh("r", "echo done").await;
    assert_eq!(server.end("r").await["output_text"], "done\n");
}

/// Milliseconds of processor time that a process has used.
fn processor_ms(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|text| text.parse::<u64>().unwrap()).sum();
    ticks * 1_000 / rustix::param::clock_ticks_per_second()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_the_server_neither_dies_nor_spins() {
    let mut server = Server::start().await;
    server.put("s", "text/plain", &[]).await;
    let in_use = std::fs::read_dir(format!("/proc/{}/fd", server.pid)).unwrap().count() as u64;
    let pid = rustix::process::Pid::from_raw(server.pid);
    let few = Rlimit { current: Some(in_use + 10), maximum: getrlimit(Resource::Nofile).maximum };
    let before = prlimit(pid, Resource::Nofile, few).unwrap();
    let mut sockets = Vec::new();
    for _ in 0..60 {
        sockets.push(connect(&server).await);
    }
    until("the server to have none left", async || {
        server.log().contains("connections cannot be accepted").then_some(())
    })
    .await;
    let used = processor_ms(server.pid);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = processor_ms(server.pid) - used;
    assert!(used < 500, "it used {used} ms of 2 s");
    // Whoever is in is served.
    let text = [("content-type", "text/plain")];
    assert_eq!(server.stream(reqwest::Method::POST, "s", &text, "x").await.status, 204);
    drop(sockets);
    let mut socket = connect(&server).await;
    socket.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(rest(&mut socket).await.starts_with("HTTP/1.1 200 "));
    assert!(server.is_up() && !server.log().contains("panicked"), "{}", server.log());
    prlimit(pid, Resource::Nofile, before).unwrap();
    assert_eq!(server.post("/v1/runs", &json!({ "run_id": "r", "command": "/bin/true" })).await.0, 201);
    server.end("r").await;
}
