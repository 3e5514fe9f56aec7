//! Streams and those who mean harm or make mistakes: the status that the protocol names, nothing stored, and the server
//! unharmed.

mod support;

use std::time::{Duration, Instant};

use longhaul_model::limits;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use support::streams::offset;
use support::{Server, wire};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// A request as bytes; no client tidies its path up.
async fn raw(server: &Server, method: &str, target: &str, headers: &[(&str, &[u8])], body: &[u8]) -> wire::Answer {
    let address = server.base.strip_prefix("http://").unwrap();
    let headers = [&[("host", &b"localhost"[..])], headers].concat();
    let answer = wire::send(address, &wire::request(method, target, &headers, body)).await;
    answer.unwrap_or_else(|| panic!("no answer to {method} {target:.80}"))
}

/// The streams that there are.
async fn all(server: &Server) -> Value {
    let (status, list) = server.get("/v1/stream?limit=100").await;
    assert_eq!(status, 200);
    list
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_is_none_is_refused_by_every_method() {
    let mut server = Server::start().await;
    server.put("kept", JSON, &[]).await;
    let before = all(&server).await;
    let long = "x".repeat(10_000);
    let segments = "a/".repeat(400) + &"b".repeat(400);
    for (path, status) in [
        ("..", 400),
        ("../kept", 400),
        ("a/../kept", 400),
        ("./kept", 400),
        ("%2e%2e/kept", 400),
        ("a/%2E%2e/kept", 400),
        ("a%2Fb", 400),
        ("..%2fkept", 400),
        ("a//b", 400),
        ("/kept", 400),
        ("kept/", 400),
        ("a%00b", 400),
        ("a%0d%0ab", 400),
        ("a%", 400),
        ("a%zz", 400),
        ("%ff%fe", 400),
        ("%c0%af", 400),
        (&long, 414),
        (&segments, 414),
    ] {
        for method in ["PUT", "POST", "GET", "DELETE"] {
            let target = format!("/v1/stream/{path}");
            let answer = raw(&server, method, &target, &[("content-type", b"text/plain")], b"x").await;
            assert_eq!(answer.status, status, "{method} {path:.60}: {:?}", answer.json());
            assert_eq!(answer.headers["x-content-type-options"], "nosniff");
            assert_eq!(answer.headers["cache-control"], "no-store");
        }
    }
    for path in ["__ds", "__ds/x", "%5F%5Fds/x", "runs", "runs/a/b"] {
        let writes = if path == "runs" || path == "runs/a/b" || path.contains('s') { [405, 405] } else { [404, 404] };
        for (method, expected) in [("PUT", writes[0]), ("POST", writes[1])] {
            let answer =
                raw(&server, method, &format!("/v1/stream/{path}"), &[("content-type", b"text/plain")], b"x").await;
            assert!([404, expected].contains(&answer.status), "{method} {path}: {}", answer.status);
        }
    }
    for target in ["/v1/stream/", "/v1/streams", "/v1/stream?x=1"] {
        assert!((400..=404).contains(&raw(&server, "GET", target, &[], b"").await.status), "{target}");
    }
    assert_eq!(all(&server).await, before, "nothing was stored");
    assert!(server.is_up() && !server.log().contains("panicked"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_is_the_one_that_the_protocol_names() {
    let server = Server::start().await;
    server.put("s", JSON, &[]).await;
    server
        .append("s", &[("stream-seq", "b"), ("producer-id", "p"), ("producer-epoch", "3"), ("producer-seq", "0")], "1")
        .await;
    let (mine, yours) = (("producer-id", "p"), ("producer-id", "q"));
    let at = |epoch, seq| [("producer-epoch", epoch), ("producer-seq", seq)];
    let refused = async |headers: &[(&str, &str)], body: &str| server.append("s", headers, body).await;
    let answer = refused(&[("stream-seq", "B")], "2").await;
    assert_eq!((answer.refusal().1.as_str(), answer.status), ("stream_seq_conflict", 409));
    let answer = refused(&[&[mine][..], &at("3", "7")].concat(), "2").await;
    assert_eq!((answer.refusal().1.as_str(), answer.status), ("producer_gap", 409));
    let told = ["producer-expected-seq", "producer-received-seq"].map(|name| answer.header(name));
    assert_eq!(told, [Some("1"), Some("7")]);
    let answer = refused(&[&[mine][..], &at("2", "0")].concat(), "2").await;
    assert_eq!(
        (answer.refusal().1.as_str(), answer.status, answer.header("producer-epoch")),
        ("producer_fenced", 403, Some("3"))
    );
    let answer = refused(&[&[mine][..], &at("4", "1")].concat(), "2").await;
    assert_eq!((answer.refusal().1.as_str(), answer.status), ("invalid_field", 400));
    let answer = refused(&[&[yours][..], &at("0", "1")].concat(), "2").await;
    assert_eq!((answer.refusal().1.as_str(), answer.status), ("producer_gap", 409));
    let answer = server.stream(Method::POST, "s", &[("content-type", TEXT)], "2").await;
    assert_eq!((answer.refusal().1.as_str(), answer.status), ("content_type_mismatch", 409));
    assert_eq!(answer.json()["error"]["expected"], JSON);
    let answer = server.stream(Method::PUT, "s", &[("content-type", TEXT)], "").await;
    assert_eq!((answer.refusal().1.as_str(), answer.status), ("stream_conflict", 409));
    assert_eq!(answer.json()["error"]["differs"], "content type");
    for body in ["", "[]", "{", "[1,]", "1 2", "nul", "\"\\ud8\"", "{\"a\":1,}", "[1", "\u{1}"] {
        assert_eq!(refused(&[], body).await.status, 400, "{body:?}");
    }
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    assert_eq!(refused(&[], &deep).await.status, 400);
    for (name, value) in [
        ("producer-id", "p"),
        ("producer-seq", "0"),
        ("stream-expected-offset", "now"),
        ("stream-expected-offset", "-1"),
        ("stream-seq", ""),
    ] {
        assert_eq!(refused(&[(name, value)], "2").await.status, 400, "{name}: {value}");
    }
    for (name, value) in
        [("stream-ttl", "1e3"), ("stream-expires-at", "soon"), ("stream-max-age", "-1"), ("content-type", "json")]
    {
        let answer = server.stream(Method::PUT, "new", &[(name, value)], "").await;
        assert_eq!((answer.refusal().1.as_str(), answer.status), ("invalid_field", 400), "{name}: {value}");
    }
    assert_eq!((server.read("s").await.json(), server.read("new").await.status), (json!([1]), 404));

    let fork = server.stream(Method::PUT, "fork", &[("stream-forked-from", "s")], "").await;
    assert_eq!(fork.status, 201, "{fork:?}");
    assert_eq!(server.append("s", &[("stream-closed", "true")], "2").await.status, 204);
    let answer = refused(&[], "3").await;
    assert_eq!((answer.refusal().1.as_str(), answer.status, answer.next()), ("stream_closed", 409, offset(2).as_str()));
    assert_eq!(answer.header("stream-closed"), Some("true"));
    assert_eq!(server.stream(Method::DELETE, "s", &[], "").await.status, 204);
    for method in [Method::GET, Method::POST, Method::DELETE] {
        let answer = server.stream(method.clone(), "s", &[("content-type", JSON)], "3").await;
        assert_eq!((answer.refusal().1.as_str(), answer.status), ("stream_gone", 410), "{method}");
    }
    let answer = server.stream(Method::PUT, "s", &[("content-type", JSON)], "").await;
    assert_eq!((answer.refusal().1.as_str(), answer.status), ("stream_conflict", 409));
    assert_eq!(server.read("fork").await.json(), json!([1]));
    let long = "x".repeat(limits::STREAM_PATH_BYTES_MAX + 1);
    assert_eq!(server.read(&long).await.refusal(), (414, "path_too_long".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_and_malformed_headers_store_nothing() {
    let server = Server::start().await;
    server.put("s", TEXT, &[]).await;
    let large = vec![b'x'; limits::BODY_BYTES_MAX + 1];
    for (method, path) in [("POST", "s"), ("PUT", "large")] {
        let target = format!("/v1/stream/{path}");
        let answer = raw(&server, method, &target, &[("content-type", b"text/plain")], &large).await;
        assert_eq!((answer.status, &answer.json()["error"]["limit_bytes"]), (413, &json!(limits::BODY_BYTES_MAX)));
    }
    // As large as may be: one append, of several messages.
    let answer = raw(&server, "POST", "/v1/stream/s", &[("content-type", b"text/plain")], &large[1..]).await;
    assert_eq!((answer.status, answer.headers["stream-next-offset"].as_str()), (204, offset(8).as_str()));
    let headers: &[&[(&str, &[u8])]] = &[
        &[("content-type", b"text/plain"), ("stream-seq", b"\xff\xfe")],
        &[("content-type", b"text/plain"), ("stream-seq", b"1"), ("stream-seq", b"2")],
        &[("content-type", b"text/plain"), ("producer-id", b"\xff"), ("producer-epoch", b"0"), ("producer-seq", b"0")],
        &[
            ("content-type", b"text/plain"),
            ("producer-id", b"p"),
            ("producer-epoch", b"99999999999999999999"),
            ("producer-seq", b"0"),
        ],
        &[("content-type", b"text/plain"), ("content-type", b"text/plain")],
        &[],
    ];
    for headers in headers {
        let answer = raw(&server, "POST", "/v1/stream/s", headers, b"x").await;
        assert_eq!(answer.status, 400, "{headers:?}");
    }
    let head = server.stream(Method::HEAD, "s", &[], "").await;
    assert_eq!(head.next(), offset(8));
    assert_eq!(server.read("large").await.status, 404);
}

/// Bytes of memory that the server holds.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid)).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.base.strip_prefix("http://").unwrap()).await.unwrap()
}

/// Reads until a text came.
async fn hears(socket: &mut TcpStream, text: &str) {
    let mut seen = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&seen).contains(text) {
            let mut bytes = [0; 4096];
            let count = socket.read(&mut bytes).await.unwrap();
            assert!(count > 0, "the connection ended: {}", String::from_utf8_lossy(&seen));
            seen.extend(&bytes[..count]);
        }
    };
    let read = tokio::time::timeout(support::PATIENCE, read).await;
    assert!(read.is_ok(), "{text} does not come: {}", String::from_utf8_lossy(&seen));
}

/// A connection from one of several addresses of this machine, each of which has ports of its own.
async fn connect_from(server: &Server, n: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1 + (n % 4) as u8], 0).into()).unwrap();
    socket.connect(server.base.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_do_not_read_or_do_not_finish_cost_little_and_hold_nobody_up() {
    let server = Server::start().await;
    server.put("s", "application/octet-stream", &[]).await;
    let mega = vec![b'x'; 1 << 20];
    for _ in 0..24 {
        let answer =
            raw(&server, "POST", "/v1/stream/s", &[("content-type", b"application/octet-stream")], &mega).await;
        assert_eq!(answer.status, 204);
    }
    let before = resident(&server);
    let mut stuck = Vec::new();
    for n in 0..60 {
        let mut socket = connect(&server).await;
        let request: &[u8] = match n % 3 {
            // Reads nothing of what it asked for.
            0 => b"GET /v1/stream/s?offset=-1&live=sse HTTP/1.1\r\nhost: localhost\r\n\r\n",
            // Never finishes its body.
            1 => b"POST /v1/stream/s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/octet-stream\r\ncontent-length: 8000000\r\n\r\nnever",
            // Never finishes its head.
            _ => b"POST /v1/stream/s HTTP/1.1\r\nhost: localho",
        };
        socket.write_all(request).await.unwrap();
        stuck.push(socket);
    }
    let began = Instant::now();
    for _ in 0..20 {
        let answer = raw(&server, "POST", "/v1/stream/s", &[("content-type", b"application/octet-stream")], b"y").await;
        assert_eq!(answer.status, 204);
    }
    assert!(began.elapsed() < Duration::from_secs(20), "others are served: {:?}", began.elapsed());
    // Each that does not read holds a page and what the kernel takes: a message of 1 MiB, in base64, with its copies.
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < 20 * (8 << 20), "20 readers that do not read hold {} MiB", grown >> 20);
    drop(stuck);
    let head = server.stream(Method::HEAD, "s", &[], "").await;
    assert_eq!(head.next(), offset(44), "what was not finished is not there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_are_no_matter() {
    const IDLE: usize = 10_000;
    const WAVE: usize = 50;
    longhaul_supervise::nofile::raise();
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    // A quarter of the server's are not for connections, and this process has other files than these.
    let idle = usize::try_from(most * 3 / 4 - 200).unwrap_or(usize::MAX).min(IDLE);
    if idle < IDLE {
        println!("{idle} connections and not {IDLE}: a process may have {most} descriptors here");
    }
    let server = Server::start().await;
    server.put("s", JSON, &[]).await;
    let mut sockets = Vec::new();
    // With the bytes of memory that one of each kind may cost; without optimization they cost more than they should.
    let (half, quarter) = (idle / 2, idle / 4);
    let kinds = [("silent", half, 4 << 10), ("asked", quarter, 32 << 10), ("live", idle - half - quarter, 8 << 10)];
    for (kind, part, most) in kinds {
        let before = resident(&server);
        // A few at a time: what connecting takes for a moment is given back, but not always to the system.
        for wave in (0..part).collect::<Vec<_>>().chunks(WAVE) {
            let first = sockets.len();
            for n in wave {
                let mut socket = connect_from(&server, *n).await;
                let request: &[u8] = match kind {
                    "live" => b"GET /v1/stream/s?offset=now&live=sse HTTP/1.1\r\nhost: localhost\r\n\r\n",
                    "asked" => b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
                    _ => b"",
                };
                socket.write_all(request).await.unwrap();
                sockets.push(socket);
            }
            for socket in &mut sockets[first..] {
                match kind {
                    "live" => hears(socket, "event: control").await,
                    "asked" => hears(socket, "HTTP/1.1 200 OK").await,
                    _ => {}
                }
            }
        }
        let each = resident(&server).saturating_sub(before) / part as u64;
        println!("{part} {kind} connections: {each} bytes each");
        assert!(each < most, "a {kind} connection costs {each} bytes");
    }
    let began = Instant::now();
    for n in 1..=50 {
        let one = server.append("s", &[], "{\"n\":1}").await;
        assert_eq!((one.status, one.next()), (204, offset(n).as_str()));
        assert_eq!(server.get("/livez").await.0, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(20), "others are served: {:?}", began.elapsed());
    for socket in &mut sockets[half + quarter..] {
        hears(socket, "data:[{\"n\":1}").await;
    }
    drop(sockets);
    let open = format!("/proc/{}/fd", server.pid);
    support::until("all to be closed", async || (std::fs::read_dir(&open).unwrap().count() < 200).then_some(())).await;
    assert_eq!(server.get("/livez").await.0, 200);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
