//! The document in a run's row: what a snapshot shows without reading the log.
//!
//! Job: the fold of the events, and the few creation facts that are not events. Versioned JSON.

use longhaul_model::RunKey;
use longhaul_model::projection::Projection;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::places::Who;

/// The version of the document's form.
pub const VERSION: u32 = 1;

/// How a run came to be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Origin {
    /// The face: `runs`, `chat` or `responses`.
    pub face: String,
    /// Whether the caller named no id.
    #[serde(default)]
    pub anonymous: bool,
    /// Who called: a digest of the token, or nothing.
    #[serde(default)]
    pub caller: String,
    /// What the face shows again with the run and no event holds; small.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub note: Map<String, Value>,
    /// Places that the caller may have at once, by its token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<usize>,
}

impl Origin {
    /// Whom a place for a run of this origin is for.
    pub fn who(&self, key: &RunKey, harness: &str) -> Who {
        Who { key: key.clone(), harness: harness.to_owned(), caller: self.caller.clone(), lane: self.lane }
    }
}

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Doc {
    /// The version of this form.
    pub v: u32,
    /// The fold; without the answer's text while the run is live.
    pub run: Projection,
    /// The caller's own words about it.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// The name of the run's directory below `runs/`.
    pub dir: String,
    /// Whether the working directory is one that we made.
    #[serde(default)]
    pub own_cwd: bool,
    /// The name of its managed home below `homes/`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// Which turn of its session it is, from 1; zero if it is none.
    #[serde(default)]
    pub turn: u64,
    /// How it came to be.
    #[serde(default)]
    pub origin: Origin,
    /// Whether the last reader's leaving is a cancel.
    #[serde(default)]
    pub cancel_on_disconnect: bool,
    /// Whether it waits until no other agent works in its directory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits_for_cwd: bool,
    /// The trace that the run belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<longhaul_model::Trace>,
}

impl Doc {
    /// Whether others wait for it in its directory: an agent, or a command that waits for them.
    pub(crate) fn is_in_dir(&self) -> bool {
        self.waits_for_cwd || self.run.driver == longhaul_model::event::Driver::Harness
    }

    /// Whom a place would be for.
    pub(crate) fn who(&self, key: &RunKey) -> Who {
        self.origin.who(key, &self.run.harness)
    }

    /// The bytes for a row.
    pub fn encode(&self) -> bytes::Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads a row's bytes.
    ///
    /// # Errors
    /// The decoder's message.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let doc: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if doc.v != VERSION {
            return Err(format!("the document has version {}, this program knows {VERSION}", doc.v));
        }
        Ok(doc)
    }
}
