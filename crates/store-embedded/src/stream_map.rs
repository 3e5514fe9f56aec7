//! Maps by stream.
//!
//! Job: a hash that is one multiplication, for keys that this store gave itself, dense from 1. Never: takes a key from
//! outside.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use longhaul_model::StreamId;

/// A map by stream.
pub(crate) type StreamMap<T> = HashMap<StreamId, T, BuildHasherDefault<StreamHasher>>;

/// See the module.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct StreamHasher(u64);

impl Hasher for StreamHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 over the golden ratio: neighbours end up far apart in the high bits, which the table looks at first.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}
