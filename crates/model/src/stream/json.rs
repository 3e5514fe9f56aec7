//! JSON bodies.
//!
//! Job: in one pass check a body, take one array level off it and take white space out: each message is then one line.
//! Never: builds a tree, recurses, or changes anything but white space between tokens.
//!
//! Source: RFC 8259.

use std::ops::Range;

use bytes::Bytes;

use crate::limits;

/// Why a body is no JSON that a stream takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the body is not valid JSON at byte {at}: {what}")]
pub struct JsonError {
    /// The byte, from 0.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// The messages of a body.
pub type Messages = Vec<Bytes>;

/// Splits a body into messages: the elements of the array that it is, or the one value that it is otherwise. Those without
/// white space are slices of the body.
///
/// # Errors
/// [`JsonError`] with the place.
pub fn flatten(body: &Bytes) -> Result<Messages, JsonError> {
    if let Err(error) = std::str::from_utf8(body) {
        return Err(JsonError { at: error.valid_up_to(), what: "it is not UTF-8" });
    }
    let mut scan = Scan { body, at: 0, from: 0, open: Vec::new(), copied: Vec::new(), copied_from: 0 };
    let mut found = Vec::new();
    scan.between();
    if scan.peek() == Some(b'[') {
        scan.at += 1;
        scan.between();
        if scan.peek() == Some(b']') {
            scan.at += 1;
        } else {
            loop {
                found.push(scan.message()?);
                scan.between();
                match scan.next("the array is not ended")? {
                    b',' => scan.between(),
                    b']' => break,
                    _ => return Err(scan.back("an element is followed by , or ]")),
                }
            }
        }
    } else {
        found.push(scan.message()?);
    }
    scan.between();
    if scan.at < body.len() {
        return Err(scan.error("there is more after the value"));
    }
    let copied = Bytes::from(scan.copied);
    let message = |piece| match piece {
        Piece::Here(range) => body.slice(range),
        Piece::Copied(range) => copied.slice(range),
    };
    Ok(found.into_iter().map(message).collect())
}

/// Where a message stands.
enum Piece {
    /// In the body.
    Here(Range<usize>),
    /// Among what was copied without white space.
    Copied(Range<usize>),
}

struct Scan<'a> {
    body: &'a [u8],
    at: usize,
    /// Where the part of the message begins that is not copied yet.
    from: usize,
    /// The brackets that are open.
    open: Vec<u8>,
    copied: Vec<u8>,
    /// Where the message begins among what is copied.
    copied_from: usize,
}

/// How many bytes at the beginning of the rest of a string say nothing but themselves.
fn plain(rest: &[u8]) -> usize {
    // A block at a time without a branch in it: most of a body are strings.
    const BLOCK: usize = 16;
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
    let (blocks, _) = rest.as_chunks::<BLOCK>();
    let says_more = |block: &[u8; BLOCK]| block.iter().fold(0, |found, byte| found | u8::from(special(byte))) != 0;
    let whole = blocks.iter().take_while(|block| !says_more(block)).count();
    let from = whole * BLOCK;
    from + rest[from..].iter().position(special).unwrap_or(rest.len() - from)
}

impl Scan<'_> {
    fn message(&mut self) -> Result<Piece, JsonError> {
        self.from = self.at;
        self.copied_from = self.copied.len();
        self.value()?;
        if self.copied.len() == self.copied_from {
            return Ok(Piece::Here(self.from..self.at));
        }
        self.copied.extend_from_slice(&self.body[self.from..self.at]);
        Ok(Piece::Copied(self.copied_from..self.copied.len()))
    }

    fn value(&mut self) -> Result<(), JsonError> {
        loop {
            let opened = match self.next("a value is missing")? {
                bracket @ (b'{' | b'[') => {
                    if self.open.len() >= limits::STREAM_JSON_DEPTH_MAX {
                        return Err(self.back("it is nested too deep"));
                    }
                    self.open.push(bracket);
                    self.within();
                    let empty = self.peek() == Some(bracket + 2);
                    if !empty && bracket == b'{' {
                        self.key()?;
                    }
                    !empty
                }
                b'"' => self.string()?,
                b'-' => self.number()?,
                b'0'..=b'9' => {
                    self.at -= 1;
                    self.number()?
                }
                b't' => self.literal(b"rue")?,
                b'f' => self.literal(b"alse")?,
                b'n' => self.literal(b"ull")?,
                _ => return Err(self.back("a value begins otherwise")),
            };
            if !opened && self.unwind()? {
                return Ok(());
            }
        }
    }

    /// After a value: closes what is closed. Answers whether the message is at its end; otherwise a value follows.
    fn unwind(&mut self) -> Result<bool, JsonError> {
        while let Some(&bracket) = self.open.last() {
            self.within();
            match self.next("a bracket is not closed")? {
                b',' => {
                    self.within();
                    if bracket == b'{' {
                        self.key()?;
                    }
                    return Ok(false);
                }
                // In ASCII a closing bracket stands two after its opening one.
                close if close == bracket + 2 => {
                    self.open.pop();
                }
                _ => return Err(self.back("a value is followed by , or the closing bracket")),
            }
        }
        Ok(true)
    }

    fn key(&mut self) -> Result<(), JsonError> {
        if self.next("a key is missing")? != b'"' {
            return Err(self.back("a key is a string"));
        }
        self.string()?;
        self.within();
        if self.next("a value is missing")? != b':' {
            return Err(self.back("a key is followed by :"));
        }
        self.within();
        Ok(())
    }

    /// The rest of a string. Scalars answer that they opened nothing.
    fn string(&mut self) -> Result<bool, JsonError> {
        loop {
            self.at += plain(&self.body[self.at..]);
            match self.next("a string is not ended")? {
                b'"' => return Ok(false),
                b'\\' => match self.next("a string is not ended")? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        let hex = self.body.get(self.at..self.at + 4);
                        if !hex.is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) {
                            return Err(self.error("\\u is followed by four hexadecimal digits"));
                        }
                        self.at += 4;
                    }
                    _ => return Err(self.back("there is no such escape")),
                },
                _ => return Err(self.back("a string holds a control character")),
            }
        }
    }

    /// A number but for its sign.
    fn number(&mut self) -> Result<bool, JsonError> {
        match self.next("a number is missing")? {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            _ => return Err(self.back("a number begins with a digit")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Ok(false)
    }

    fn some_digits(&mut self) -> Result<(), JsonError> {
        if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
            return Err(self.error("a digit is missing"));
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn literal(&mut self, rest: &[u8]) -> Result<bool, JsonError> {
        if !self.body[self.at..].starts_with(rest) {
            return Err(self.back("a value begins otherwise"));
        }
        self.at += rest.len();
        Ok(false)
    }

    /// Passes white space between messages.
    fn between(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Passes white space within a message, and copies what stood before it.
    fn within(&mut self) {
        let before = self.at;
        self.between();
        if self.at > before {
            self.copied.extend_from_slice(&self.body[self.from..before]);
            self.from = self.at;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn next(&mut self, missing: &'static str) -> Result<u8, JsonError> {
        let byte = self.peek().ok_or_else(|| self.error(missing))?;
        self.at += 1;
        Ok(byte)
    }

    fn error(&self, what: &'static str) -> JsonError {
        JsonError { at: self.at, what }
    }

    /// An error at the byte before.
    fn back(&self, what: &'static str) -> JsonError {
        JsonError { at: self.at - 1, what }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;
    use serde_json::Value;

    use super::*;

    fn texts(body: &str) -> Result<Vec<String>, JsonError> {
        let messages = flatten(&Bytes::copy_from_slice(body.as_bytes()))?;
        Ok(messages.iter().map(|m| String::from_utf8(m.to_vec()).unwrap()).collect())
    }

    #[test]
    fn one_array_level_goes() {
        for (body, messages) in [
            ("1", &["1"][..]),
            (" null\n", &["null"]),
            ("[]", &[]),
            (" [ ] ", &[]),
            ("[[]]", &["[]"]),
            ("[ [ 1 , 2 ] ]", &["[1,2]"]),
            ("[{\"a b\": 1}, 2 ,\t\"x\\n\"]", &["{\"a b\":1}", "2", "\"x\\n\""]),
            ("{\n  \"a\": [ ],\n  \"b\": { }\n}", &["{\"a\":[],\"b\":{}}"]),
            ("-0.5e+7", &["-0.5e+7"]),
            ("[true,false,null]", &["true", "false", "null"]),
            ("\"\\ud800 ä\"", &["\"\\ud800 ä\""]),
        ] {
            assert_eq!(texts(body), Ok(messages.iter().map(ToString::to_string).collect()), "{body}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_place() {
        for (body, at) in [
            ("", 0),
            (" ", 1),
            ("[1,]", 3),
            ("[1", 2),
            ("[1]x", 3),
            ("1 2", 2),
            ("{\"a\"}", 4),
            ("{\"a\":1,}", 7),
            ("{1:2}", 1),
            ("[1}", 2),
            ("01", 1),
            ("-", 1),
            ("1.", 2),
            ("1e", 2),
            ("tru", 0),
            ("\"\n\"", 1),
            ("\"\\x\"", 2),
            ("\"\\u12g4\"", 3),
            ("\"", 1),
            ("NaN", 0),
            ("\u{feff}1", 0),
        ] {
            assert_eq!(texts(body).map_err(|e| e.at), Err(at), "{body:?}");
        }
        assert_eq!(flatten(&Bytes::from_static(b"\"\xff\"")).unwrap_err().at, 1);
    }

    #[test]
    fn depth_is_bounded_and_costs_no_stack() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(texts(&nested(limits::STREAM_JSON_DEPTH_MAX + 1)).is_ok());
        assert_eq!(texts(&nested(limits::STREAM_JSON_DEPTH_MAX + 2)).unwrap_err().what, "it is nested too deep");
    }

    #[test]
    fn what_has_no_white_space_is_not_copied() {
        let body = Bytes::from_static(b"[{\"a\":1}, 2]");
        let messages = flatten(&body).unwrap();
        assert!(messages.iter().all(|m| body.as_ptr_range().contains(&m.as_ptr())));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9..1e9f64).prop_map(Value::from),
            "[ -~äß\n\t\"\\\\]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c ]{0,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn messages_are_the_elements(value in json()) {
            let elements = match &value {
                Value::Array(items) => items.clone(),
                other => vec![other.clone()],
            };
            let compact: Vec<String> = elements.iter().map(ToString::to_string).collect();
            prop_assert_eq!(texts(&serde_json::to_string_pretty(&value).unwrap()), Ok(compact.clone()));
            prop_assert_eq!(texts(&value.to_string()), Ok(compact));
        }

        #[test]
        fn accepts_what_others_accept(body in r#"[\[\]{},:"\\0-9eE.+\-tfnul a\n]{0,12}"#) {
            prop_assert_eq!(texts(&body).is_ok(), serde_json::from_str::<IgnoredAny>(&body).is_ok());
        }

        #[test]
        fn a_damaged_value_is_seen(value in json(), at: prop::sample::Index, byte in 0u8..128) {
            let mut body = value.to_string().into_bytes();
            let at = at.index(body.len());
            body[at] = byte;
            let ours = flatten(&Bytes::from(body.clone())).is_ok();
            let text = std::str::from_utf8(&body);
            prop_assert_eq!(ours, text.is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok()));
        }
    }
}
