//! Requests of the protocol as bytes.
//!
//! Never: encodes a name; streams of a bench have plain ones.

use std::io::Write as _;

use super::limits::EVENT_BYTES;
use super::target::Target;

/// What stands before the time in an event.
const AT: &[u8] = br#"{"at":""#;

/// Digits of the time.
const AT_DIGITS: usize = 20;

/// One stream of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    authority: String,
    path: String,
}

impl Path {
    /// The stream of this name.
    pub fn new(target: &Target, name: &str) -> Self {
        Self { authority: target.authority.clone(), path: format!("{}/{name}", target.base) }
    }

    /// Makes it, for JSON.
    pub fn put(&self) -> Vec<u8> {
        let Self { authority, path } = self;
        format!(
            "PUT {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    }

    /// Erases it.
    pub fn delete(&self) -> Vec<u8> {
        format!("DELETE {} HTTP/1.1\r\nHost: {}\r\n\r\n", self.path, self.authority).into_bytes()
    }

    /// Reads it, with this after the question mark.
    pub fn get(&self, query: &str) -> Vec<u8> {
        format!("GET {}?{query} HTTP/1.1\r\nHost: {}\r\n\r\n", self.path, self.authority).into_bytes()
    }

    /// Follows it from the beginning.
    pub fn follow(&self) -> Vec<u8> {
        let Self { authority, path } = self;
        format!("GET {path}?offset=-1&live=sse HTTP/1.1\r\nHost: {authority}\r\nAccept: text/event-stream\r\n\r\n")
            .into_bytes()
    }

    /// Appends to it: writes the request into `out`, in place of what was there.
    pub fn post(&self, producer: Option<&Producer>, body: &[u8], out: &mut Vec<u8>) {
        let Self { authority, path } = self;
        out.clear();
        // Writing into memory does not fail.
        let _ = write!(out, "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\n");
        if let Some(Producer { id, epoch, seq }) = producer {
            let _ = write!(out, "Producer-Id: {id}\r\nProducer-Epoch: {epoch}\r\nProducer-Seq: {seq}\r\n");
        }
        let _ = write!(out, "Content-Length: {}\r\n\r\n", body.len());
        out.extend_from_slice(body);
    }
}

/// Who appends exactly once, and which of its appends this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    /// Its id.
    pub id: String,
    /// Its epoch.
    pub epoch: u64,
    /// The append's number.
    pub seq: u64,
}

/// A message of [`EVENT_BYTES`] that says when it was sent, in nanoseconds of some clock.
pub fn event(at: u64) -> Vec<u8> {
    let mut event = Vec::with_capacity(EVENT_BYTES);
    event.extend_from_slice(AT);
    let _ = write!(event, "{at:0AT_DIGITS$}\",\"pad\":\"");
    event.resize(EVENT_BYTES - 2, b'x');
    event.extend_from_slice(b"\"}");
    event
}

/// So many of them in one body.
pub fn batch(at: u64, count: usize) -> Vec<u8> {
    let one = event(at);
    if count == 1 {
        return one;
    }
    let mut body = Vec::with_capacity((EVENT_BYTES + 1) * count + 1);
    for n in 0..count {
        body.push(if n == 0 { b'[' } else { b',' });
        body.extend_from_slice(&one);
    }
    body.push(b']');
    body
}

/// The times in a line of events.
pub fn times(line: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = &line[at..];
            let found = rest.iter().position(|byte| *byte == b'{')?;
            if let Some(digits) = rest[found..].strip_prefix(AT).and_then(|after| after.get(..AT_DIGITS)) {
                at += found + AT.len() + AT_DIGITS;
                return std::str::from_utf8(digits).ok()?.parse().ok();
            }
            at += found + 1;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_their_size_and_their_time() {
        let body = batch(42, 3);
        let values: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
        assert_eq!((values.len(), &values[0]["at"]), (3, &"00000000000000000042".into()));
        assert_eq!(event(7).len(), EVENT_BYTES);
        assert_eq!(times(&body).collect::<Vec<_>>(), [42, 42, 42]);
        assert_eq!(times(b"data:{\"streamNextOffset\":\"1\"}").count(), 0);
        assert_eq!(times(b"data:{\"at\":\"0001").count(), 0);
    }

    #[test]
    fn an_append_is_one_request() {
        let path = Path { authority: "h:1".to_owned(), path: "/v1/stream/a".to_owned() };
        let mut out = b"old".to_vec();
        path.post(Some(&Producer { id: "p".to_owned(), epoch: 1, seq: 2 }), b"{}", &mut out);
        let want = "POST /v1/stream/a HTTP/1.1\r\nHost: h:1\r\nContent-Type: application/json\r\nProducer-Id: p\r\n\
                    Producer-Epoch: 1\r\nProducer-Seq: 2\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }
}
