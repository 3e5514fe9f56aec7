//! A reader that comes back: it follows one run through every restart of the server, by `Last-Event-ID` alone.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use longhaul_api::sse::Frame;
use serde_json::Value;

use super::sse::Reader;
use super::{Server, until};

/// What the reader has seen.
#[derive(Debug, Default)]
struct Seen {
    events: Vec<Frame>,
    notes: Vec<Frame>,
    connections: usize,
}

/// A reader at work.
pub struct Live {
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Live {
    /// Follows a run from its first event.
    pub fn follow(server: &Server, id: &str) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (http, url) = (server.http.clone(), server.url(&format!("/v1/runs/{id}/events")));
        let task = tokio::spawn(read(http, url, Arc::clone(&seen)));
        Self { seen, task }
    }

    /// All events so far, as they came.
    pub fn frames(&self) -> Vec<Frame> {
        self.seen.lock().unwrap().events.clone()
    }

    /// All events so far, read.
    pub fn events(&self) -> Vec<Value> {
        values(&self.frames())
    }

    /// How many events came so far.
    pub fn len(&self) -> usize {
        self.seen.lock().unwrap().events.len()
    }

    /// Frames that are no events: hello, draining.
    pub fn notes(&self) -> Vec<Frame> {
        self.seen.lock().unwrap().notes.clone()
    }

    /// Streams that were opened.
    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    /// Waits until the reader has seen `count` events of a type.
    pub async fn wait_for(&self, kind: &str, count: usize) {
        until(&format!("the reader to see {count} of {kind}"), async || (self.count(kind) >= count).then_some(()))
            .await;
    }

    /// How many events of a type were seen.
    pub fn count(&self, kind: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.events.iter().filter(|frame| frame.event.as_deref() == Some(kind)).count()
    }

    /// Waits until the reader has seen `count` events in all.
    pub async fn wait_len(&self, count: usize) {
        until(&format!("the reader to see {count} events"), async || (self.len() >= count).then_some(())).await;
    }

    /// Waits for the end of the run and gives all that was seen.
    pub async fn end(mut self) -> Vec<Frame> {
        let ended = tokio::time::timeout(super::PATIENCE, &mut self.task).await;
        ended.expect("the reader sees the run's end").unwrap();
        self.frames()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Frames as events.
pub fn values(frames: &[Frame]) -> Vec<Value> {
    frames.iter().map(|frame| serde_json::from_str(&frame.data).unwrap()).collect()
}

async fn read(http: reqwest::Client, url: String, seen: Arc<Mutex<Seen>>) {
    let mut last: Option<String> = None;
    loop {
        let mut reader = match Reader::open(&http, &url, last.as_deref()).await {
            Ok(reader) => reader,
            // Nobody is there, or it is about to go.
            Err(0 | 503) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            Err(status) => panic!("a reader that comes back after {last:?} got {status}"),
        };
        seen.lock().unwrap().connections += 1;
        while let Some(frame) = reader.next().await {
            let mut seen = seen.lock().unwrap();
            let Some(id) = &frame.id else {
                seen.notes.push(frame);
                continue;
            };
            last = Some(id.clone());
            let over = matches!(frame.event.as_deref(), Some("run.completed" | "run.failed" | "run.cancelled"));
            seen.events.push(frame);
            if over {
                return;
            }
        }
    }
}

/// Reads a run's whole log again, as frames.
pub async fn replay(server: &Server, id: &str) -> Vec<Frame> {
    let url = server.url(&format!("/v1/runs/{id}/events"));
    let mut reader = Reader::open(&server.http, &url, None).await.unwrap();
    let mut all = Vec::new();
    while let Some(frame) = reader.next().await {
        if frame.id.is_some() {
            all.push(frame);
        }
    }
    all
}
