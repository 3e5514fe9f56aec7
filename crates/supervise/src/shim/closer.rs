//! When a protocol channel is to be closed without a server.
//!
//! Job: looks at every complete line of stdout for a JSON object of a certain `type`.
//! Owns: where the current line begins. Never: holds a line; one that spans reads is parsed from the spool.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::limits;

#[derive(Debug)]
pub(super) struct Closer {
    value: String,
    spool: File,
    line_start: u64,
}

impl Closer {
    pub(super) fn new(value: String, spool: File) -> Self {
        Self { value, spool, line_start: 0 }
    }

    /// Looks at bytes that were appended to stdout at `base`; whether a line of them says close.
    pub(super) fn sees(&mut self, bytes: &[u8], base: u64) -> bool {
        let mut found = false;
        for at in memchr::memchr_iter(b'\n', bytes) {
            let end = base + at as u64;
            found |= match self.line_start.checked_sub(base) {
                Some(start) => self.matches(serde_json::from_slice(&bytes[start as usize..at])),
                None if end - self.line_start > limits::CLOSE_LINE_BYTES_MAX => false,
                None => {
                    let line = Span { file: &self.spool, at: self.line_start, end };
                    self.matches(serde_json::from_reader(BufReader::new(line)))
                }
            };
            self.line_start = end + 1;
        }
        found
    }

    fn matches(&self, line: serde_json::Result<TypeOf>) -> bool {
        matches!(line, Ok(TypeOf(Some(found))) if found == self.value)
    }
}

/// A part of a file.
struct Span<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Span<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = into.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut into[..bytes], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// The `type` of a JSON object, if it is a string; of several the last, as JSON.parse has it.
struct TypeOf(Option<String>);

impl<'de> Deserialize<'de> for TypeOf {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = TypeOf;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TypeOf, A::Error> {
                let mut found = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key == "type" {
                        found = map.next_value::<Text>()?.0;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(TypeOf(found))
            }
        }
        from.deserialize_map(Object)
    }
}

/// A string, or anything else without keeping it.
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(Some(text.to_owned())))
            }
            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
        }
        from.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Feeds the text in pieces of `piece` bytes and counts the pieces that said close.
    fn closes(text: &str, piece: usize) -> usize {
        let mut spool = tempfile::tempfile().unwrap();
        let mut closer = Closer::new("result".into(), spool.try_clone().unwrap());
        let mut base = 0;
        let mut count = 0;
        for bytes in text.as_bytes().chunks(piece) {
            spool.write_all(bytes).unwrap();
            count += usize::from(closer.sees(bytes, base));
            base += bytes.len() as u64;
        }
        count
    }

    #[test]
    fn only_a_whole_object_of_that_type_closes() {
        let table = [
            ("{\"type\":\"result\"}\n", 1),
            ("  {\"a\":[{\"type\":\"x\"}],\"type\":\"result\",\"b\":{}}\r\n", 1),
            ("{\"\\u0074ype\":\"res\\u0075lt\"}\n", 1),
            ("{\"type\":\"result\"}", 0),
            ("{\"type\":\"result\"\n}\n", 0),
            ("{\"type\":\"result\"} x\n", 0),
            ("{\"a\":{\"type\":\"result\"}}\n", 0),
            ("{\"a\":\"{\\\"type\\\":\\\"result\\\"}\"}\n", 0),
            ("{\"type\":\"results\"}\n", 0),
            ("{\"type\":[\"result\"]}\n{\"type\":{\"type\":\"result\"}}\n{\"type\":1}\n{\"type\":null}\n", 0),
            ("[\"type\",\"result\"]\n\"result\"\n\n", 0),
            ("{\"type\":\"x\",\"type\":\"result\"}\n", 1),
            ("noise\n{\"type\":\"result\"}\n", 1),
        ];
        for (text, expected) in table {
            for piece in [1, 2, 7, 1000] {
                assert_eq!(closes(text, piece), expected, "{text:?} by {piece}");
            }
        }
    }
}
