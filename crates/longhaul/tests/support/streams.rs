//! Streams of the Durable Streams protocol, as a test asks for them.

use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use super::Server;
use super::sse::Reader;

/// An answer with what the protocol puts into headers.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Self {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Self { status, headers, body: answer.bytes().await.unwrap().to_vec() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// `Stream-Next-Offset`.
    pub fn next(&self) -> &str {
        self.header("stream-next-offset").unwrap_or_else(|| panic!("no offset: {self:?}"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The status and the code of a refusal.
    pub fn refusal(&self) -> (u16, String) {
        (self.status, self.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
    }
}

/// An offset as the server writes it.
pub fn offset(messages: u64) -> String {
    format!("{messages:016}")
}

impl Server {
    /// Asks about a stream.
    pub async fn stream(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = self.http.request(method, self.url(&format!("/v1/stream/{path}")));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.body(body.to_owned())).await
    }

    /// Makes a stream.
    pub async fn put(&self, path: &str, content_type: &str, headers: &[(&str, &str)]) -> Answer {
        let answer = self.stream(Method::PUT, path, &[&[("content-type", content_type)], headers].concat(), "").await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer
    }

    /// Appends JSON.
    pub async fn append(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.stream(Method::POST, path, &[&[("content-type", "application/json")], headers].concat(), body).await
    }

    /// Reads once.
    pub async fn read(&self, path: &str) -> Answer {
        self.stream(Method::GET, path, &[], "").await
    }

    /// Follows a stream.
    pub async fn follow(&self, path: &str, last: Option<&str>) -> Follower {
        let separator = if path.contains('?') { '&' } else { '?' };
        let url = self.url(&format!("/v1/stream/{path}{separator}live=sse"));
        Follower { reader: Reader::open(&self.http, &url, last).await.unwrap(), closed: false }
    }
}

/// A live reader.
pub struct Follower {
    reader: Reader,
    pub closed: bool,
}

impl Follower {
    /// What came with the next `control`, and where to go on; `None` once the connection is over.
    pub async fn next(&mut self) -> Option<(Option<String>, String)> {
        let mut data = None;
        loop {
            let frame = self.reader.next().await?;
            match frame.event.as_deref() {
                Some("data") => {
                    assert_eq!((frame.id, data.replace(frame.data)), (None, None), "a control follows each data event");
                }
                Some("control") => {
                    let control: Value = serde_json::from_str(&frame.data).unwrap();
                    assert_eq!(control["streamNextOffset"].as_str(), frame.id.as_deref(), "the id is the offset");
                    assert_eq!(control["streamCursor"].is_null(), control["streamClosed"] == true, "{control}");
                    self.closed = control["streamClosed"] == true;
                    return Some((data, frame.id.unwrap()));
                }
                other => panic!("an event {other:?}"),
            }
        }
    }

    /// The JSON messages up to the end of the stream, and the offset there.
    pub async fn to_the_end(&mut self) -> (Vec<Value>, String) {
        let (mut all, mut at) = (Vec::new(), String::new());
        while let Some((data, next)) = self.next().await {
            let data: Vec<Value> = data.map(|data| serde_json::from_str(&data).unwrap()).unwrap_or_default();
            assert!(next > at, "{next} follows {at}");
            (at, all) = (next, [all, data].concat());
        }
        assert!(self.closed, "the connection ended at {at}");
        (all, at)
    }
}
