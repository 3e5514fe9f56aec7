//! A store that was restored from a backup.
//!
//! Job: the record that says so, and up to which run: what was not over then is ended by its owner. Owns: that record.

use longhaul_model::{StreamId, Timestamp};
use longhaul_store::{RecordKey, RecordWrite, Store, StoreError};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The version of this form.
    v: u32,
    /// Runs with a stream id up to this one are of the backup.
    streams_made: u64,
    /// The store that the backup was made of.
    from: String,
    at: Timestamp,
}

fn key() -> RecordKey {
    RecordKey::new("node", "restored")
}

/// The write that makes a store one that was restored: from the store `from`, which had given so many stream ids.
#[must_use]
pub fn restored(from: &str, streams_made: u64, at: Timestamp) -> RecordWrite {
    let value = serde_json::to_vec(&Record { v: 1, streams_made, from: from.to_owned(), at }).unwrap_or_default();
    RecordWrite { key: key(), value: Some(value.into()), only_new: false, stamp: false }
}

/// The last stream that came with a backup; the first of all streams is above it if none did.
pub(crate) async fn last_stream(store: &dyn Store) -> Result<StreamId, StoreError> {
    let Some(bytes) = store.record(&key()).await? else { return Ok(StreamId::new(0)) };
    let record: Record = serde_json::from_slice(&bytes)
        .map_err(|e| StoreError::Corrupt { place: "record node/restored".to_owned(), what: e.to_string() })?;
    Ok(StreamId::new(record.streams_made))
}
