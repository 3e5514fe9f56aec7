//! A parser's state as bytes: JSON with the parser's name and version in front.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::parser::StateError;

/// Bytes a saved state may have: it is part of every commit.
pub(crate) const STATE_BYTES_MAX: usize = 4 << 10;

#[derive(Serialize, Deserialize)]
struct Saved<N, T> {
    p: N,
    v: u32,
    s: T,
}

/// The bytes of `state`.
pub(crate) fn encode<T: Serialize>(parser: &'static str, version: u32, state: &T) -> Vec<u8> {
    let bytes = serde_json::to_vec(&Saved { p: parser, v: version, s: state }).unwrap_or_default();
    debug_assert!(!bytes.is_empty() && bytes.len() <= STATE_BYTES_MAX, "state of {} bytes", bytes.len());
    bytes
}

/// The state in `saved`, or a new one if nothing was saved.
pub(crate) fn decode<T: DeserializeOwned + Default>(
    parser: &'static str,
    version: u32,
    saved: Option<&[u8]>,
) -> Result<T, StateError> {
    let Some(bytes) = saved else { return Ok(T::default()) };
    match serde_json::from_slice::<Saved<String, T>>(bytes) {
        Ok(saved) if saved.p == parser && saved.v == version => Ok(saved.s),
        Ok(_) => Err(StateError { parser, version, source: None }),
        Err(source) => Err(StateError { parser, version, source: Some(source) }),
    }
}
