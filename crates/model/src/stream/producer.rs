//! Idempotent producers.
//!
//! Job: the tuple that an append may carry and what is remembered of it. Never: decides; that is `decide`.

use crate::limits;

/// The largest number of an epoch or a sequence: what a double holds exactly.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Who appends, and which of its appends this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer<'a> {
    /// Its id, not empty.
    pub id: &'a str,
    /// Its epoch: a higher one shuts out a lower one.
    pub epoch: u64,
    /// The number of the append in the epoch, from 0.
    pub seq: u64,
}

/// What a stream remembers of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerState {
    /// Its highest epoch.
    pub epoch: u64,
    /// The last append of that epoch that was accepted.
    pub last_seq: u64,
    /// The stream's tail after it.
    pub tail: u64,
}

/// Why headers are no producer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProducerError {
    /// Some of the three are missing.
    #[error("Producer-Id, Producer-Epoch and Producer-Seq go together")]
    Incomplete,
    /// The id is empty, too long, or no text.
    #[error("Producer-Id has 1 to 256 bytes, none of them a control character")]
    Id,
    /// A number is no plain decimal up to 2^53 - 1.
    #[error("{0} is a plain decimal from 0 to 9007199254740991")]
    Number(&'static str),
}

impl<'a> Producer<'a> {
    /// Parses the three headers; all absent is none.
    ///
    /// # Errors
    /// [`ProducerError`].
    pub fn parse(id: Option<&'a str>, epoch: Option<&str>, seq: Option<&str>) -> Result<Option<Self>, ProducerError> {
        let (id, epoch, seq) = match (id, epoch, seq) {
            (None, None, None) => return Ok(None),
            (Some(id), Some(epoch), Some(seq)) => (id, epoch, seq),
            _ => return Err(ProducerError::Incomplete),
        };
        if id.is_empty() || id.len() > limits::STREAM_PRODUCER_ID_BYTES_MAX || id.chars().any(char::is_control) {
            return Err(ProducerError::Id);
        }
        Ok(Some(Self { id, epoch: number(epoch, "Producer-Epoch")?, seq: number(seq, "Producer-Seq")? }))
    }
}

fn number(text: &str, name: &'static str) -> Result<u64, ProducerError> {
    let plain = !text.is_empty() && text.len() <= 16 && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(number) if plain && number <= NUMBER_MAX => Ok(number),
        _ => Err(ProducerError::Number(name)),
    }
}

impl ProducerState {
    /// Bytes as a store keeps them.
    pub fn encode(&self) -> [u8; 24] {
        let mut out = [0; 24];
        out[..8].copy_from_slice(&self.epoch.to_be_bytes());
        out[8..16].copy_from_slice(&self.last_seq.to_be_bytes());
        out[16..].copy_from_slice(&self.tail.to_be_bytes());
        out
    }

    /// What [`ProducerState::encode`] wrote; `None` if it did not.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 24] = bytes.try_into().ok()?;
        let at = |at: usize| bytes[at..at + 8].try_into().map(u64::from_be_bytes).ok();
        Some(Self { epoch: at(0)?, last_seq: at(8)?, tail: at(16)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_or_none() {
        let some = Some(Producer { id: "p", epoch: 1, seq: 9_007_199_254_740_991 });
        assert_eq!(Producer::parse(Some("p"), Some("1"), Some("9007199254740991")), Ok(some));
        assert_eq!(Producer::parse(None, None, None), Ok(None));
        assert_eq!(Producer::parse(Some("p"), None, Some("1")), Err(ProducerError::Incomplete));
        assert_eq!(Producer::parse(Some(""), Some("0"), Some("0")), Err(ProducerError::Id));
        assert_eq!(Producer::parse(Some(&"x".repeat(257)), Some("0"), Some("0")), Err(ProducerError::Id));
        for bad in ["", "-1", "+1", "1.0", "1e3", " 1", "9007199254740992", "x", "00000000000000001"] {
            let expected = Err(ProducerError::Number("Producer-Seq"));
            assert_eq!(Producer::parse(Some("p"), Some("0"), Some(bad)), expected, "{bad:?}");
        }
    }

    #[test]
    fn states_read_back() {
        let state = ProducerState { epoch: 1, last_seq: 2, tail: 3 };
        assert_eq!(ProducerState::decode(&state.encode()), Some(state));
        assert_eq!(ProducerState::decode(b"x"), None);
    }
}
