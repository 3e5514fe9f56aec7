//! The `order` file: when the shim went from one stream to the other.
//!
//! Job: fixed-size switch records. Before the shim appends to another stream than last time, it appends a record with
//! the lengths at that moment, then the data. A reader that takes the lengths of the streams first and reads `order`
//! after them therefore knows every switch before those lengths.
//! Owns: the record's layout. Never: holds data.

use serde::{Deserialize, Serialize};

/// Bytes of one record.
pub const RECORD_BYTES: usize = 24;

const LAYOUT: u8 = 1;

/// One of an agent's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// Both, stdout first.
    pub const BOTH: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// The name of its spool file.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }
}

/// From here on bytes belong to `stream`, until the next switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    /// The stream that is appended to next.
    pub stream: Stream,
    /// Lengths of stdout and stderr at this moment.
    pub lens: [u64; 2],
}

impl Switch {
    /// The record: layout, stream, two zero bytes, the lengths (little endian), zero padding left out, CRC-32 of it all.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        record[0] = LAYOUT;
        record[1] = self.stream.index() as u8;
        record[4..12].copy_from_slice(&self.lens[0].to_le_bytes());
        record[12..20].copy_from_slice(&self.lens[1].to_le_bytes());
        let crc = crc32fast::hash(&record[..20]);
        record[20..].copy_from_slice(&crc.to_le_bytes());
        record
    }

    /// The switch in a record; `None` if it is torn or garbled.
    pub fn decode(record: &[u8; RECORD_BYTES]) -> Option<Self> {
        let crc = u32::from_le_bytes(record[20..].try_into().ok()?);
        if record[0] != LAYOUT || crc != crc32fast::hash(&record[..20]) {
            return None;
        }
        let stream = *Stream::BOTH.get(usize::from(record[1]))?;
        let len = |at: usize| record[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        Some(Self { stream, lens: [len(4)?, len(12)?] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_is_noticed() {
        let switch = Switch { stream: Stream::Stderr, lens: [7, u64::MAX] };
        let record = switch.encode();
        assert_eq!(Switch::decode(&record), Some(switch));
        for bit in 0..RECORD_BYTES * 8 {
            let mut torn = record;
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Switch::decode(&torn), None, "bit {bit}");
        }
    }
}
