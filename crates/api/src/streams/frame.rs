//! Frames of a live reader: a `data` event for what was appended, a `control` event after each of them.
//!
//! Nothing that was appended can end a line or begin a frame: text goes out line by line, JSON has no line breaks, and
//! all else is base64. The id is the offset, on the control event alone: whoever saw it saw the data before it.

use std::fmt::{Display, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// How what was appended is written into a `data` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As text, line by line. Bytes that are no UTF-8 become U+FFFD.
    Text,
    /// As one JSON array.
    Json,
    /// As base64.
    Base64,
}

impl Encoding {
    /// That of a content type: `application/json`, `text/*`, and all others.
    #[must_use]
    pub fn of(content_type: &str) -> Self {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        let is_text = kind.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"));
        if kind.eq_ignore_ascii_case("application/json") {
            Self::Json
        } else if is_text {
            Self::Text
        } else {
            Self::Base64
        }
    }
}

/// A `data` event. The payload of a JSON stream is one array.
pub fn data(out: &mut String, encoding: Encoding, payload: &[u8]) {
    out.push_str("event: data\n");
    match encoding {
        Encoding::Base64 => {
            out.push_str("data:");
            STANDARD.encode_string(payload, out);
            out.push('\n');
        }
        Encoding::Text | Encoding::Json => lines(out, &String::from_utf8_lossy(payload)),
    }
    out.push('\n');
}

/// Each line after its own `data:`. A line ends with LF, CR or both (WHATWG HTML, section 9.2.5), and what a client
/// strips, one space, is only ever ours.
fn lines(out: &mut String, text: &str) {
    let mut rest = text;
    loop {
        let end = rest.find(['\r', '\n']);
        let line = end.map_or(rest, |at| &rest[..at]);
        // A client takes one space away from the beginning: give it one to take.
        let pad = if line.starts_with(' ') { " " } else { "" };
        let _ = writeln!(out, "data:{pad}{line}");
        let Some(at) = end else { return };
        rest = rest[at..].strip_prefix("\r\n").unwrap_or_else(|| &rest[at + 1..]);
    }
}

/// What a `control` event tells.
#[derive(Debug, Clone, Copy)]
pub struct Control<O> {
    /// Where to read on.
    pub next: O,
    /// What to send back when reading on; left out once the stream is closed.
    pub cursor: u64,
    /// Whether the reader has all there is.
    pub up_to_date: bool,
    /// Whether there will be no more.
    pub closed: bool,
}

/// A `control` event, with its offset as id. `data:` is written without a space: a test of the conformance suite looks
/// for `data:{`.
pub fn control<O: Display>(out: &mut String, control: &Control<O>) {
    let Control { next, cursor, up_to_date, closed } = control;
    let _ = write!(out, "id: {next}\nevent: control\ndata:{{\"streamNextOffset\":\"{next}\"");
    if !closed {
        let _ = write!(out, ",\"streamCursor\":\"{cursor}\"");
    }
    if *up_to_date || *closed {
        out.push_str(",\"upToDate\":true");
    }
    if *closed {
        out.push_str(",\"streamClosed\":true");
    }
    out.push_str("}\n\n");
}

/// A comment, so that nobody in between takes the connection for dead.
pub fn comment(out: &mut String, text: &str) {
    let _ = write!(out, ": {text}\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::{Frame, Parser};

    fn parse(wire: &str) -> Vec<Frame> {
        Parser::default().push(wire.as_bytes())
    }

    #[test]
    fn the_encoding_follows_the_content_type() {
        for json in ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json ;a=b"]
        {
            assert_eq!(Encoding::of(json), Encoding::Json, "{json}");
        }
        for text in ["text/plain", "TEXT/html;charset=x", "text/x"] {
            assert_eq!(Encoding::of(text), Encoding::Text, "{text}");
        }
        for other in ["application/octet-stream", "", "texts/plain", "text", "application/jsonl", "application/ndjson"]
        {
            assert_eq!(Encoding::of(other), Encoding::Base64, "{other}");
        }
    }

    #[test]
    fn nothing_appended_can_begin_a_frame() {
        for bad in [
            "a\r\n\r\nevent: control\r\ndata: {\"forged\":true}\r\n\r\nb",
            "a\n\nevent: control\ndata: x\n\n",
            "a\r\revent: control\rdata: x\r\r",
            "id: 9",
            "\n",
            "\r",
            " two  spaces",
            "",
        ] {
            let mut wire = String::new();
            data(&mut wire, Encoding::Text, bad.as_bytes());
            let want = bad.replace("\r\n", "\n").replace('\r', "\n");
            let frame = Frame { id: None, event: Some("data".into()), data: want };
            assert_eq!(parse(&wire), [frame], "{bad:?} {wire:?}");
            let bytes = wire.bytes().filter(|b| *b == b'\r').count();
            assert_eq!(bytes, 0, "{wire:?}");
        }
    }

    #[test]
    fn json_is_one_array_and_other_bytes_are_base64() {
        let mut wire = String::new();
        data(&mut wire, Encoding::Json, b"[{\"a\":\"x\\ny\"},2,[3]]");
        data(&mut wire, Encoding::Base64, &[0, 10, 13, 255]);
        let frames: Vec<String> = parse(&wire).into_iter().map(|frame| frame.data).collect();
        assert_eq!(frames, ["[{\"a\":\"x\\ny\"},2,[3]]", "AAoN/w=="]);
    }

    #[test]
    fn a_control_event_says_where_to_go_on() {
        let mut wire = String::new();
        control(&mut wire, &Control { next: "0007", cursor: 12, up_to_date: false, closed: false });
        control(&mut wire, &Control { next: "0008", cursor: 12, up_to_date: true, closed: false });
        control(&mut wire, &Control { next: "0009", cursor: 12, up_to_date: true, closed: true });
        assert!(wire.contains("event: control\ndata:{"), "{wire}");
        let frames = parse(&wire);
        let ids: Vec<_> = frames.iter().map(|frame| frame.id.as_deref().unwrap()).collect();
        assert_eq!(ids, ["0007", "0008", "0009"]);
        let data: Vec<&str> = frames.iter().map(|frame| frame.data.as_str()).collect();
        assert_eq!(
            data,
            [
                r#"{"streamNextOffset":"0007","streamCursor":"12"}"#,
                r#"{"streamNextOffset":"0008","streamCursor":"12","upToDate":true}"#,
                r#"{"streamNextOffset":"0009","upToDate":true,"streamClosed":true}"#,
            ]
        );
    }
}
