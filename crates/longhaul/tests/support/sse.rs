//! A reader of an event stream, that can be cut at any byte.

use std::time::Duration;

use longhaul_api::sse::{Frame, Parser};

/// A stream being read.
pub struct Reader {
    answer: reqwest::Response,
    parser: Parser,
    ready: std::collections::VecDeque<Frame>,
    /// Bytes read so far.
    pub bytes: usize,
}

impl Reader {
    /// Opens a stream after a cursor; the status if it is not 200.
    pub async fn open(http: &reqwest::Client, url: &str, after: Option<&str>) -> Result<Self, u16> {
        let mut request = http.get(url).header("accept", "text/event-stream");
        if let Some(id) = after {
            request = request.header("last-event-id", id);
        }
        Self::of(request).await
    }

    /// Opens whatever stream a request asks for; the status if it is not 200.
    pub async fn of(request: reqwest::RequestBuilder) -> Result<Self, u16> {
        let answer = request.send().await.map_err(|_| 0_u16)?;
        if answer.status() != 200 {
            return Err(answer.status().as_u16());
        }
        Ok(Self { answer, parser: Parser::default(), ready: std::collections::VecDeque::new(), bytes: 0 })
    }

    /// The next frame; `None` when the stream ends or breaks.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            let chunk = tokio::time::timeout(Duration::from_secs(60), self.answer.chunk()).await;
            let chunk = chunk.expect("a stream says something within a minute").ok()??;
            self.bytes += chunk.len();
            self.ready.extend(self.parser.push(&chunk));
        }
    }
}
