//! Live readers, byte by byte: those who leave the HTTP server with their socket and those who stay, and what ends them.

mod support;

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use support::{PATIENCE, Server, until};

const JSON: &str = "application/json";

/// A connection, and what came over it.
struct Wire {
    socket: TcpStream,
    seen: String,
}

impl Wire {
    /// Connects and sends.
    async fn open(server: &Server, bytes: &str) -> Self {
        let mut socket = TcpStream::connect(server.base.strip_prefix("http://").unwrap()).await.unwrap();
        socket.write_all(bytes.as_bytes()).await.unwrap();
        Self { socket, seen: String::new() }
    }

    /// Reads on until a text came.
    async fn hears(&mut self, text: &str) {
        let read = async {
            while !self.seen.contains(text) {
                let mut bytes = [0; 4096];
                let count = self.socket.read(&mut bytes).await.unwrap();
                assert!(count > 0, "the connection ended before {text:?}: {}", self.seen);
                self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        };
        let read = tokio::time::timeout(PATIENCE, read).await;
        assert!(read.is_ok(), "{text:?} does not come: {}", self.seen);
    }

    /// Reads to the end: all that came over it.
    async fn end(mut self) -> String {
        let mut bytes = Vec::new();
        tokio::time::timeout(PATIENCE, self.socket.read_to_end(&mut bytes)).await.expect("an end").unwrap();
        self.seen + &String::from_utf8_lossy(&bytes)
    }
}

/// The request of a live reader.
fn live(version: &str, more: &str) -> String {
    format!("GET /v1/stream/s?offset=-1&live=sse HTTP/{version}\r\nhost: localhost\r\n{more}\r\n")
}

/// The value of a metric, asked for on a connection of its own: a pool has as many as it likes.
async fn metric(server: &Server, name: &str) -> u64 {
    let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let text = Wire::open(server, request).await.end().await;
    let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(found, _)| found == name));
    line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).unwrap_or_default() as u64
}

/// What a chunked answer held; it must be whole.
fn unchunked(answer: &str) -> String {
    let (head, mut rest) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").unwrap_or_else(|| panic!("a chunk's size: {rest:?} in {answer}"));
        let size = usize::from_str_radix(size, 16).unwrap();
        body += &after[..size];
        rest = after[size..].strip_prefix("\r\n").unwrap_or_else(|| panic!("a chunk's end: {answer}"));
        if size == 0 {
            assert_eq!(rest, "", "nothing follows the end");
            return body;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_ask_gets_the_same_events() {
    let server = Server::start().await;
    server.put("s", JSON, &[]).await;
    server.append("s", &[], "[1]").await;
    let mut plain = Wire::open(&server, &live("1.1", "")).await;
    let mut closing = Wire::open(&server, &live("1.1", "connection: close\r\n")).await;
    let mut old = Wire::open(&server, &live("1.0", "")).await;
    // On a connection that was used before, and with more on it than was asked for.
    let used = format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n{}", live("1.1", ""));
    let mut used = Wire::open(&server, &used).await;
    let mut pipelined = Wire::open(&server, &(live("1.1", "") + &live("1.1", "") + "DELETE /v1/stream/s HT")).await;
    let mut bodied = Wire::open(&server, &(live("1.1", "content-length: 5\r\n") + "hello")).await;
    let readers = [&mut plain, &mut closing, &mut old, &mut used, &mut pipelined, &mut bodied];
    for reader in readers {
        reader.hears("\"upToDate\":true").await;
    }
    pipelined.socket.write_all(b"TP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    assert_eq!(server.append("s", &[], "[2]").await.status, 204, "nobody deleted it");
    plain.hears("data:[2]").await;
    assert_eq!(server.append("s", &[("stream-closed", "true")], "[3]").await.status, 204);
    let plain = unchunked(&plain.end().await);
    for data in ["data:[1]\n", "data:[2]\n", "data:[3]\n", "\"streamClosed\":true"] {
        assert_eq!(plain.matches(data).count(), 1, "{data}: {plain}");
    }
    // The rest is the same but for the pages, of which two may come as one, and for the time to come back after.
    let data = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix("data:[")).map(|line| line.trim_end_matches(']'));
        lines.flat_map(|line| line.split(',')).map(str::to_owned).collect()
    };
    let used = used.end().await;
    let (first, second) = used.split_at(used.rfind("HTTP/1.1 200").unwrap());
    assert!(first.starts_with("HTTP/1.1 200") && second.contains("connection: close"), "{used}");
    for answer in [&closing.end().await, second, &pipelined.end().await, &bodied.end().await] {
        let body = unchunked(answer);
        assert_eq!(data(&body), ["1", "2", "3"], "{answer}");
        assert_eq!(body.matches("\"streamClosed\":true").count(), 1, "{answer}");
    }
    let old = old.end().await;
    let (head, body) = old.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200") && !head.contains("transfer-encoding"), "{old}");
    assert_eq!(data(body), ["1", "2", "3"], "{old}");
    // HEAD has no live part.
    let head = "HEAD /v1/stream/s?offset=-1&live=sse HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = Wire::open(&server, head).await.end().await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_closes_its_side_is_gone_and_readers_are_counted() {
    let server = Server::start().await;
    server.put("s", JSON, &[]).await;
    let requests = "longhaul_http_requests_total{status=\"200\"}";
    let before = metric(&server, requests).await;
    let connections = async |count: u64| {
        until(&format!("{count} connections"), async || {
            (metric(&server, "longhaul_connections").await == count).then_some(())
        })
        .await;
    };
    // The one that made the stream, and the one that asks.
    connections(2).await;
    let mut readers = Vec::new();
    for version in ["1.1", "1.0", "1.1", "1.0"] {
        let mut reader = Wire::open(&server, &live(version, "")).await;
        reader.hears("\"upToDate\":true").await;
        readers.push(reader);
    }
    assert!(metric(&server, requests).await >= before + 4, "each was a request");
    connections(6).await;
    for mut reader in readers.drain(..2) {
        reader.socket.shutdown().await.unwrap();
        // Cut, and not told an end.
        let answer = reader.end().await;
        assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
    }
    drop(readers);
    connections(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_server_is_told_and_waits_for_nobody_who_does_not_read() {
    let mut server = Server::start().await;
    server.put("s", JSON, &[]).await;
    let mut told = Vec::new();
    for version in ["1.1", "1.0"] {
        let mut reader = Wire::open(&server, &live(version, "")).await;
        reader.hears("\"upToDate\":true").await;
        told.push(reader);
    }
    // Readers that have left and are stuck in the middle of a chunk.
    server.put("large", "application/octet-stream", &[]).await;
    let mega = "x".repeat(8 << 20);
    let mut stuck = Vec::new();
    for _ in 0..4 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut socket = socket.connect(server.base.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap();
        let request = "GET /v1/stream/large?offset=-1&live=sse HTTP/1.1\r\nhost: localhost\r\n\r\n";
        socket.write_all(request.as_bytes()).await.unwrap();
        socket.readable().await.unwrap();
        stuck.push(socket);
    }
    let binary = [("content-type", "application/octet-stream")];
    for _ in 0..4 {
        assert_eq!(server.stream(Method::POST, "large", &binary, &mega).await.status, 204);
    }
    let began = Instant::now();
    assert!(server.term().success());
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    for reader in told {
        let answer = reader.end().await;
        let body = if answer.contains("chunked") { unchunked(&answer) } else { answer };
        assert_eq!(body.matches("retry:").count(), 2, "first, and when the server stops: {body}");
    }
    drop(stuck);
    // Whoever was stuck finds all of it.
    server.up().await;
    assert_eq!(server.stream(Method::HEAD, "large", &[], "").await.next(), support::streams::offset(32));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_ends_with_its_token() {
    let server = Server::start().await;
    server.put("s", JSON, &[]).await;
    let token = async |ttl_ms: u64, name: &str| {
        let body = json!({ "name": name, "scope": "read", "ttl_ms": ttl_ms });
        let (status, token) = server.post("/v1/tokens", &body).await;
        assert_eq!(status, 201, "{token}");
        (token["token"].as_str().unwrap().to_owned(), token["id"].as_str().unwrap().to_owned())
    };
    let (short, _) = token(3_000, "short").await;
    let (revoked, id) = token(3_600_000, "revoked").await;
    let mut readers = Vec::new();
    for token in [&short, &revoked] {
        // It stays in the HTTP server, which ends it.
        let mut reader = Wire::open(&server, &live("1.1", &format!("authorization: Bearer {token}\r\n"))).await;
        reader.hears("\"upToDate\":true").await;
        readers.push(reader);
    }
    let answer = server.http.delete(server.url(&format!("/v1/tokens/{id}"))).send().await.unwrap();
    assert!(answer.status().is_success());
    // The answer is ended, and the connection could be asked again. What comes later is not for whoever had the token.
    for reader in &mut readers {
        reader.hears("0\r\n\r\n").await;
    }
    assert_eq!(server.append("s", &[], "[1]").await.status, 204);
    for mut reader in readers {
        reader.socket.shutdown().await.unwrap();
        let answer = unchunked(&reader.end().await);
        assert!(answer.contains("upToDate") && !answer.contains("data:[1"), "{answer}");
    }
}
