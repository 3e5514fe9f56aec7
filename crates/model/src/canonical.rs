//! Canonical JSON (RFC 8785) and the digests made of it.
//!
//! Job: one text for one value, so that a digest names a request and not its spelling.
//! Never: guesses. A duplicate key, or a number that a double cannot hold, is refused.
//!
//! Source: RFC 8785; ECMA-262 section 6.1.6.1.20 for numbers.

use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};

/// The largest integer that a double holds exactly, with all below it.
const SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Parses JSON, refusing duplicate keys and numbers that a double cannot hold.
///
/// # Errors
/// `serde_json`'s error with line and column; its message names the key or the number.
pub fn parse(bytes: &[u8]) -> serde_json::Result<Value> {
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let value = Strict.deserialize(&mut de)?;
    de.end()?;
    Ok(value)
}

/// The canonical text of a value.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

/// `TAG:sha256:HEX` over the canonical text; the tag names the rule by which the value was made.
pub fn digest(tag: &str, value: &Value) -> String {
    let hash = Sha256::digest(to_string(value).as_bytes());
    let mut out = format!("{tag}:sha256:");
    for byte in hash {
        use fmt::Write as _;
        let _ = write!(out, "{byte:02x}");
    }
    out
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (at, key) in keys.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_string(key, out);
                out.push(':');
                write(&map[key], out);
            }
            out.push('}');
        }
    }
}

fn write_string(text: &str, out: &mut String) {
    // serde_json escapes exactly what RFC 8785 section 3.2.2.2 asks for, in its short forms.
    out.push_str(&Value::from(text).to_string());
}

fn write_number(number: &Number, out: &mut String) {
    use fmt::Write as _;
    if let Some(n) = number.as_u64() {
        let _ = write!(out, "{n}");
    } else if let Some(n) = number.as_i64() {
        let _ = write!(out, "{n}");
    } else if let Some(n) = number.as_f64() {
        write_double(n, out);
    }
}

/// ECMAScript's `Number::toString`: the shortest digits that read back, with an exponent below 1e-6 and from 1e21.
fn write_double(n: f64, out: &mut String) {
    use fmt::Write as _;
    if n == 0.0 {
        out.push('0');
        return;
    }
    let text = format!("{:e}", n.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let count = digits.len() as i32;
    if n < 0.0 {
        out.push('-');
    }
    let point = exponent + 1;
    if (count..=21).contains(&point) {
        out.push_str(&digits);
        out.extend(std::iter::repeat_n('0', (point - count) as usize));
    } else if (1..=21).contains(&point) {
        let (whole, part) = digits.split_at(point as usize);
        let _ = write!(out, "{whole}.{part}");
    } else if (-5..=0).contains(&point) {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', (-point) as usize));
        out.push_str(&digits);
    } else {
        let (first, rest) = digits.split_at(1);
        out.push_str(first);
        if !rest.is_empty() {
            let _ = write!(out, ".{rest}");
        }
        let _ = write!(out, "e{}{}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: de::Deserializer<'de>>(self, de: D) -> Result<Value, D::Error> {
        de.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        if v > SAFE_INTEGER {
            return Err(E::custom(format!("the number {v} is larger than a double holds exactly")));
        }
        Ok(v.into())
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        if v.unsigned_abs() > SAFE_INTEGER {
            return Err(E::custom(format!("the number {v} is larger than a double holds exactly")));
        }
        Ok(v.into())
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        // 1.0 and 1 are one value to ECMAScript, so they must be one text.
        if v.fract() == 0.0 && v.abs() <= SAFE_INTEGER as f64 {
            return Ok((v as i64).into());
        }
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("a number that a double cannot hold"))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Strict)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value_seed(Strict)?;
            if map.contains_key(&key) {
                return Err(de::Error::custom(format!("the key {key:?} stands twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ecmascript_s() {
        // Source: RFC 8785 appendix B.
        for (bits, text) in [
            (0x0000_0000_0000_0000_u64, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0x4340_0000_0000_0001, "9007199254740994"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
        ] {
            let mut out = String::new();
            write_double(f64::from_bits(bits), &mut out);
            assert_eq!(out, text);
        }
    }

    #[test]
    fn spelling_does_not_matter() {
        let a = parse(br#"{"b":1.0,"a":"\u20ac","c":[1e2,null]}"#).unwrap();
        let b = parse("{ \"c\": [100, null], \"a\": \"€\", \"b\": 1 }".as_bytes()).unwrap();
        assert_eq!(to_string(&a), "{\"a\":\"€\",\"b\":1,\"c\":[100,null]}");
        assert_eq!(digest("v1", &a), digest("v1", &b));
    }

    #[test]
    fn doubtful_json_is_refused() {
        for bad in [&br#"{"a":1,"a":1}"#[..], b"9007199254740993", b"1e400", b"[1] 2", b"-9007199254740993"] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn keys_sort_by_utf16() {
        let value = parse("{\"\\ufb33\":1,\"\\ud83d\\ude00\":2,\"\\u20ac\":3}".as_bytes()).unwrap();
        assert_eq!(to_string(&value), "{\"€\":3,\"😀\":2,\"\u{fb33}\":1}");
    }
}
