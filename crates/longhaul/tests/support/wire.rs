//! HTTP as bytes: for requests that no decent client would send.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {:?}", self.status, String::from_utf8_lossy(&self.body)))
    }
}

/// Sends bytes and reads the answer until the server closes; what is sent should ask for that.
pub async fn send(address: &str, request: &[u8]) -> Option<Answer> {
    let mut socket = TcpStream::connect(address).await.unwrap();
    // The server may answer and close before it has read it all.
    let _ = socket.write_all(request).await;
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), socket.read_to_end(&mut bytes)).await;
    let _ = read.expect("the server answers and closes within a minute");
    parse(&bytes)
}

/// A request as bytes, with its length and with `Connection: close`.
pub fn request(method: &str, target: &str, headers: &[(&str, &[u8])], body: &[u8]) -> Vec<u8> {
    let mut out = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
    for (name, value) in headers {
        out.extend(name.as_bytes());
        out.extend(b": ");
        out.extend(*value);
        out.extend(b"\r\n");
    }
    out.extend(format!("connection: close\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes());
    out.extend(body);
    out
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Answer { status, headers, body: bytes[end + 4..].to_vec() })
}

/// A connection that is used again and again.
pub struct Line(TcpStream, Vec<u8>);

impl Line {
    /// `None` if nobody listens.
    pub async fn open(address: &str) -> Option<Self> {
        let socket = TcpStream::connect(address).await.ok()?;
        socket.set_nodelay(true).ok()?;
        Some(Self(socket, Vec::new()))
    }

    /// Asks and reads the answer, whose length must be told; `None` once the server is gone.
    pub async fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Answer> {
        let mut out = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            out.extend([name, ": ", value, "\r\n"]);
        }
        out.push_str("\r\n");
        let mut out = out.into_bytes();
        out.extend_from_slice(body);
        self.0.write_all(&out).await.ok()?;
        self.1.clear();
        loop {
            if self.0.read_buf(&mut self.1).await.ok()? == 0 {
                return None;
            }
            let Some(answer) = parse(&self.1) else { continue };
            let length = answer.headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            if answer.body.len() >= length {
                return Some(answer);
            }
        }
    }
}
