//! The position in a source up to which events are committed.
//!
//! Job: spool offsets and parser state, stored in the same commit as the events they produced. Versioned JSON.

use longhaul_model::AttemptNo;
use longhaul_supervise::SpoolCursor;
use serde::{Deserialize, Serialize};

/// The version of the cursor's form.
const VERSION: u32 = 1;

/// A committed source position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    v: u32,
    /// The attempt whose spool this is.
    pub(crate) attempt: AttemptNo,
    /// Where in the spool.
    pub(crate) spool: SpoolCursor,
    /// Which parser.
    pub(crate) parser: String,
    /// Its version.
    pub(crate) parser_version: u32,
    /// Its state, at most 4 KiB.
    pub(crate) state: String,
}

impl Cursor {
    pub(crate) fn new(attempt: AttemptNo, spool: SpoolCursor, parser: &dyn longhaul_harness::Parser) -> Self {
        Self {
            v: VERSION,
            attempt,
            spool,
            parser: parser.id().to_owned(),
            parser_version: parser.version(),
            state: String::from_utf8_lossy(&parser.state()).into_owned(),
        }
    }

    pub(crate) fn encode(&self) -> bytes::Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let cursor: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if cursor.v != VERSION {
            return Err(format!("the cursor has version {}, this program knows {VERSION}", cursor.v));
        }
        Ok(cursor)
    }
}
