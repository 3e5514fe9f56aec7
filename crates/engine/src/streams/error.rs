//! Why streams refuse, one enum per operation, with the facts that an answer needs.

use longhaul_model::stream::{ContentType, JsonError, Offset, Refusal};
use longhaul_store::{CommitError, StoreError};

/// Why a commit that was right was not made, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There is no room on the disk. Nothing has happened.
    #[error("the disk is full")]
    Full,
    /// Too much is waiting to be written. Nothing has happened; later it will go.
    #[error("there is too much to write at the moment")]
    Busy,
    /// The server is stopping. Nothing has happened.
    #[error("the server is stopping")]
    Stopping,
    /// It may or may not be durable. A producer may safely ask again.
    #[error("whether it is durable is not known: {0}")]
    Unknown(String),
    /// The store refused for a reason that is no answer to the request. Nothing has happened.
    #[error("the store refused: {0}")]
    Refused(CommitError),
    /// The store did not answer. Nothing has happened.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a stream was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is none of that name, or it has expired.
    #[error("there is no such stream")]
    NotFound,
    /// It was deleted, and is kept for its forks alone.
    #[error("the stream was deleted")]
    Gone,
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a stream was not created. Nothing is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// There is one of that name that differs.
    #[error("the stream exists with another {what}")]
    Exists {
        /// What differs: `content type`, `lifetime`, `closure`, `retention`, `source`, `fork offset`, `fork sub-offset`.
        what: &'static str,
    },
    /// There was one of that name, which is kept for its forks.
    #[error("the stream was deleted, and its name is taken until its forks are gone")]
    Gone,
    /// The body is not JSON.
    #[error(transparent)]
    NotJson(#[from] JsonError),
    /// The body holds more messages than one append may.
    #[error("the body holds {found} messages, at most {max} go at once")]
    TooManyMessages {
        /// Messages allowed.
        max: usize,
        /// Messages found.
        found: usize,
    },
    /// The stream to fork from is not there.
    #[error("there is no stream to fork from")]
    SourceNotFound,
    /// The stream to fork from was deleted.
    #[error("the stream to fork from was deleted")]
    SourceGone,
    /// The fork is to have another content type than its source.
    #[error("the stream to fork from has another content type")]
    SourceContentType {
        /// The source's.
        expected: ContentType,
    },
    /// The fork is to begin after the source's end.
    #[error("the stream to fork from ends at {tail}")]
    ForkOffset {
        /// The source's tail.
        tail: Offset,
    },
    /// The fork is to begin before what the source still keeps.
    #[error("the stream to fork from begins at {earliest}")]
    ForkExpired {
        /// The position before the source's first message.
        earliest: Offset,
    },
    /// The sub-offset goes past the source's end, or there is none to count from.
    #[error("the sub-offset goes past what there is after the fork offset")]
    ForkSubOffset,
    /// There are too many forks of forks above it.
    #[error("there are too many forks of forks")]
    ForkDepth,
    /// The store did not take it.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why an append was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// There is no such stream.
    #[error("there is no such stream")]
    NotFound,
    /// The stream was deleted, and is kept for its forks alone.
    #[error("the stream was deleted")]
    Gone,
    /// The stream's state forbids it.
    #[error("{refusal}")]
    Refused {
        /// Why.
        refusal: Refusal,
        /// The durable tail that this was decided over.
        tail: Offset,
        /// Whether the stream is closed.
        closed: bool,
        /// The stream's content type.
        content_type: ContentType,
    },
    /// The body holds more messages than one append may.
    #[error("the body holds {found} messages, at most {max} go at once")]
    TooManyMessages {
        /// Messages allowed.
        max: usize,
        /// Messages found.
        found: usize,
    },
    /// The store did not take it.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why a stream was not deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeleteError {
    /// There is no such stream.
    #[error("there is no such stream")]
    NotFound,
    /// It was deleted before, and is kept for its forks alone.
    #[error("the stream was deleted")]
    Gone,
    /// The store did not take it.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why a page was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The stream was deleted or has expired since it was opened; what now has its name is another one.
    #[error("there is no such stream")]
    NotFound,
    /// It was deleted, and is kept for its forks alone.
    #[error("the stream was deleted")]
    Gone,
    /// Messages after the position are no longer kept.
    #[error("messages before {earliest} are no longer kept")]
    Expired {
        /// The position before the first message that is kept.
        earliest: Offset,
    },
    /// The position is after the end.
    #[error("the stream ends at {tail}")]
    Ahead {
        /// The durable tail.
        tail: Offset,
    },
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<CommitError> for WriteError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Full => Self::Full,
            CommitError::Busy => Self::Busy,
            CommitError::Closed => Self::Stopping,
            CommitError::Unknown(what) => Self::Unknown(what),
            CommitError::Conflict { .. }
            | CommitError::Fenced { .. }
            | CommitError::Exists
            | CommitError::Gone
            | CommitError::Invalid(_) => Self::Refused(error),
        }
    }
}

impl From<StoreError> for CreateError {
    fn from(error: StoreError) -> Self {
        Self::Write(error.into())
    }
}

impl From<StoreError> for AppendError {
    fn from(error: StoreError) -> Self {
        Self::Write(error.into())
    }
}

impl From<StoreError> for DeleteError {
    fn from(error: StoreError) -> Self {
        Self::Write(error.into())
    }
}
