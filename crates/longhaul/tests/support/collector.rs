//! A collector of OpenTelemetry: takes spans over HTTP and keeps them.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

/// A request that came.
#[derive(Debug, Clone)]
pub struct Post {
    pub headers: HeaderMap,
    pub body: Value,
    pub answered: u16,
}

#[derive(Clone)]
struct Kept {
    posts: Arc<Mutex<Vec<Post>>>,
    answer: Arc<AtomicU16>,
}

/// A port of loopback that is nobody else's, and that nobody listens on.
pub fn socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    socket
}

/// A collector on loopback.
pub struct Collector {
    pub address: String,
    kept: Kept,
    task: JoinHandle<()>,
}

impl Collector {
    /// One on a free port that takes all.
    pub fn start() -> Self {
        Self::start_on(socket())
    }

    /// The same on a port that was held until now.
    pub fn start_on(socket: TcpSocket) -> Self {
        let listener = socket.listen(1024).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let kept = Kept { posts: Arc::default(), answer: Arc::new(AtomicU16::new(200)) };
        let router = Router::new().route("/v1/traces", post(take)).with_state(kept.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, kept, task }
    }

    /// What it answers with from now on.
    pub fn answer(&self, status: u16) {
        self.kept.answer.store(status, Ordering::SeqCst);
    }

    /// What came so far.
    pub fn posts(&self) -> Vec<Post> {
        self.kept.posts.lock().unwrap().clone()
    }

    /// The spans of all posts that were answered with `status`, one list a post.
    pub fn spans(&self, status: u16) -> Vec<Vec<Value>> {
        let posts = self.posts();
        let list = |value: &Value| value.as_array().unwrap().clone();
        let of = |body: &Value| {
            let scopes = list(&body["resourceSpans"]).into_iter().flat_map(|one| list(&one["scopeSpans"]));
            scopes.flat_map(|scope| list(&scope["spans"])).collect()
        };
        posts.iter().filter(|post| post.answered == status).map(|post| of(&post.body)).collect()
    }

    /// The spans that were taken of the run called `id`, its root first; `None` before they are there.
    pub fn run(&self, id: &str) -> Option<Vec<Value>> {
        let all: Vec<Value> = self.spans(200).concat();
        let root = all.iter().find(|span| attribute(span, "longhaul.run.id") == id)?;
        let trace = root["traceId"].clone();
        Some(all.into_iter().filter(|span| span["traceId"] == trace).collect())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(State(kept): State<Kept>, headers: HeaderMap, body: String) -> Response {
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    let answered = kept.answer.load(Ordering::SeqCst);
    kept.posts.lock().unwrap().push(Post { headers, body: serde_json::from_str(&body).unwrap(), answered });
    (StatusCode::from_u16(answered).unwrap(), "{}").into_response()
}

/// An attribute's value as a text; empty if it is not there.
pub fn attribute(span: &Value, name: &str) -> String {
    let attributes = span["attributes"].as_array().unwrap();
    let Some(found) = attributes.iter().find(|one| one["key"] == name) else { return String::new() };
    let value = found["value"].as_object().unwrap().values().next().unwrap();
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
