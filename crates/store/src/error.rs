//! What a store may answer instead.

use longhaul_model::{Epoch, Seq};

/// Why a commit was not acknowledged. All but `Unknown` mean that nothing has happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The stream's tail is not the expected one.
    #[error("the stream ends at {actual}, not at {expected}")]
    Conflict {
        /// What the writer believed.
        expected: Seq,
        /// What is.
        actual: Seq,
    },
    /// A later owner has written.
    #[error("a later owner (epoch {owner}) has taken the stream over")]
    Fenced {
        /// The later owner's epoch.
        owner: Epoch,
    },
    /// The run or the record is there already.
    #[error("it exists already")]
    Exists,
    /// The stream was erased or never was.
    #[error("there is no such stream")]
    Gone,
    /// The commit contradicts itself or breaks a bound.
    #[error("the commit is not valid: {0}")]
    Invalid(&'static str),
    /// There is no room on the disk.
    #[error("the disk is full")]
    Full,
    /// Too much is waiting to be written; later it will go.
    #[error("the store has too much to write at the moment")]
    Busy,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// It may or may not be durable. Drop what is in memory and read the store again.
    #[error("whether the commit is durable is not known: {0}")]
    Unknown(String),
}

/// Why a question was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such stream.
    #[error("there is no such stream")]
    NotFound,
    /// Events above the cursor were removed.
    #[error("events before {earliest} are no longer kept")]
    Expired {
        /// The first one that is kept.
        earliest: Seq,
    },
    /// The cursor is beyond the end.
    #[error("the cursor is beyond the tail {tail}")]
    Ahead {
        /// The durable tail.
        tail: Seq,
    },
    /// Stored bytes are not what was written. Names the place.
    #[error("the store is damaged at {place}: {what}")]
    Corrupt {
        /// File, table, key and column.
        place: String,
        /// What is wrong there.
        what: String,
    },
    /// The store cannot answer at the moment.
    #[error("the store cannot answer: {0}")]
    Unavailable(String),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}
