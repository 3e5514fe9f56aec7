//! Server-sent events: writing frames and reading them again.
//!
//! Job: `id` before `data`, ids only on frames that are cursors, comments for keep-alive; a parser that takes bytes in
//! any pieces. Source: WHATWG HTML, section 9.2 (server-sent events).

use std::fmt::Write as _;

/// A frame with a cursor: id, event name, one line of data.
pub fn frame(id: &str, event: Option<&str>, data: &str) -> String {
    let mut out = String::with_capacity(data.len() + 64);
    let _ = writeln!(out, "id: {id}");
    body(&mut out, event, data);
    out
}

/// A frame without a cursor.
pub fn frame_without_id(event: Option<&str>, data: &str) -> String {
    let mut out = String::with_capacity(data.len() + 48);
    body(&mut out, event, data);
    out
}

fn body(out: &mut String, event: Option<&str>, data: &str) {
    if let Some(event) = event {
        let _ = writeln!(out, "event: {event}");
    }
    for line in data.split('\n') {
        let _ = writeln!(out, "data: {line}");
    }
    out.push('\n');
}

/// A comment, for keep-alive.
pub fn comment(text: &str) -> String {
    format!(": {text}\n\n")
}

/// A `retry:` field in milliseconds.
pub fn retry(ms: u64) -> String {
    format!("retry: {ms}\n\n")
}

/// A frame as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// The id, if the frame has one of its own.
    pub id: Option<String>,
    /// The event name, or nothing for `message`.
    pub event: Option<String>,
    /// The data lines, joined by newlines.
    pub data: String,
}

/// An incremental parser.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: Vec<u8>,
    frame: Frame,
    has_data: bool,
    retry_ms: Option<u64>,
}

impl Parser {
    /// Takes bytes and gives the frames that are complete with them.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.buffer.extend_from_slice(bytes);
        let mut frames = Vec::new();
        let mut from = 0;
        while let Some(len) = self.buffer[from..].iter().position(|b| *b == b'\n') {
            let mut line = &self.buffer[from..from + len];
            if line.last() == Some(&b'\r') {
                line = &line[..line.len() - 1];
            }
            let line = String::from_utf8_lossy(line).into_owned();
            from += len + 1;
            if let Some(frame) = self.line(&line) {
                frames.push(frame);
            }
        }
        self.buffer.drain(..from);
        frames
    }

    /// The last `retry:` that was seen, in milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    fn line(&mut self, line: &str) -> Option<Frame> {
        if line.is_empty() {
            let frame = std::mem::take(&mut self.frame);
            return std::mem::take(&mut self.has_data).then_some(frame);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.frame.id = Some(value.to_owned()),
            "event" => self.frame.event = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.frame.data.push('\n');
                }
                self.frame.data.push_str(value);
                self.has_data = true;
            }
            "retry" => self.retry_ms = value.parse().ok().or(self.retry_ms),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let wire =
            [retry(900), comment("hi"), frame("7", Some("a.b"), "{\"x\":1}"), frame_without_id(None, "a\nb")].concat();
        let want = vec![
            Frame { id: Some("7".into()), event: Some("a.b".into()), data: "{\"x\":1}".into() },
            Frame { id: None, event: None, data: "a\nb".into() },
        ];
        for cut in 0..wire.len() {
            let mut parser = Parser::default();
            let mut got = parser.push(&wire.as_bytes()[..cut]);
            got.extend(parser.push(&wire.as_bytes()[cut..]));
            assert_eq!(got, want, "cut at {cut}");
            assert_eq!(parser.retry_ms(), Some(900));
        }
    }
}
