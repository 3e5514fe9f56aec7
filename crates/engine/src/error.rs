//! Why the engine refuses, one enum per operation.

use std::io;
use std::path::PathBuf;

use longhaul_harness::PlanError;
use longhaul_model::{RunId, SessionId};
use longhaul_store::{CommitError, StoreError};

use crate::lanes::LaneFull;
use crate::places::QueueFull;

/// Why a run was not accepted. Nothing is stored and nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The id is bound to another request.
    #[error("the run id is bound to another request")]
    Conflict {
        /// The digest it is bound to.
        expected: String,
        /// The digest of this request.
        received: String,
    },
    /// The id belonged to a run that was deleted or has expired.
    #[error("the run was deleted")]
    Gone,
    /// There is no such harness.
    #[error("there is no harness called {name:?}")]
    UnknownHarness {
        /// The name.
        name: String,
    },
    /// The harness cannot honour the request.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The agent's program is not there.
    #[error("{program} is not installed")]
    HarnessMissing {
        /// The harness.
        harness: &'static str,
        /// Its program.
        program: String,
        /// How to install it.
        install: Option<&'static str>,
    },
    /// This machine cannot keep a limit.
    #[error("limits.{limit} cannot be kept on this machine")]
    LimitUnenforceable {
        /// The limit's wire name.
        limit: &'static str,
    },
    /// The run cannot be confined as it asks.
    #[error("a run cannot be confined here: {why}")]
    ConfinementUnavailable {
        /// The confinement that was asked for.
        confine: &'static str,
        /// Why, and what helps.
        why: String,
    },
    /// The directory to work in is not one.
    #[error("{} cannot be worked in", .path.display())]
    Cwd {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory, symbolic links resolved, lies below none of those that are allowed.
    #[error("{} is not allowed", .path.display())]
    CwdForbidden {
        /// The directory, resolved.
        path: PathBuf,
        /// What is.
        allowed: Vec<PathBuf>,
    },
    /// Another live run works in the directory.
    #[error("run {holder} works in this directory")]
    CwdBusy {
        /// The other run.
        holder: RunId,
    },
    /// The session's turns have another value.
    #[error("session {session} has another {field}")]
    SessionConflict {
        /// The session.
        session: SessionId,
        /// The field.
        field: &'static str,
        /// The session's value.
        expected: Option<String>,
        /// The request's value.
        received: Option<String>,
    },
    /// The session is new, and its first turn names no harness.
    #[error("session {session} is new; its first turn names a harness")]
    SessionNew {
        /// The session.
        session: SessionId,
    },
    /// Too many runs of the session wait already.
    #[error(transparent)]
    LaneFull(#[from] LaneFull),
    /// Too many wait already.
    #[error(transparent)]
    QueueFull(#[from] QueueFull),
    /// Too little room on the disk.
    #[error(transparent)]
    DiskLow(#[from] crate::disk::DiskLow),
    /// The server is stopping.
    #[error("the server is stopping")]
    Draining,
    /// Whoever looks after the server has it take no new runs.
    #[error("the server takes no new runs")]
    Holding,
    /// The run's directory could not be made.
    #[error("could not write {}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored document is not what was written.
    #[error("the row of {key} is damaged: {what}")]
    Document {
        /// The run.
        key: String,
        /// What is wrong.
        what: String,
    },
}

/// Why a run that is over cannot be gone on with. Nothing is stored and nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// There is no such run.
    #[error("there is no such run")]
    NotFound,
    /// It was deleted.
    #[error("the run was deleted")]
    Gone,
    /// It is not over.
    #[error("the run is not over")]
    NotEnded,
    /// It cannot be, for a reason of its own.
    #[error("the run cannot be gone on with: {0}")]
    Impossible(String),
    /// The new run was refused.
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a cancel was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// There is no such run.
    #[error("there is no such run")]
    NotFound,
    /// The run was deleted.
    #[error("the run was deleted")]
    Gone,
    /// The operation id was used with another body.
    #[error("the operation id was used with another body")]
    OperationConflict,
    /// The server is stopping; the next one takes the request.
    #[error("the server is stopping")]
    Draining,
    /// The store refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// There is no such run.
    #[error("there is no such run")]
    NotFound,
    /// The run was deleted.
    #[error("the run was deleted")]
    Gone,
    /// The run is over, or about to be.
    #[error("the run is over, or is being cancelled")]
    Ended,
    /// Its agent takes no messages while it works, and it is no turn of a session.
    #[error("{harness} takes no messages while it works, and the run is no turn of a session")]
    NoChannel {
        /// The harness.
        harness: String,
    },
    /// Too many wait already.
    #[error("{waiting} messages wait already")]
    Full {
        /// How many.
        waiting: usize,
    },
    /// The operation id was used with another body.
    #[error("the operation id was used with another body")]
    OperationConflict,
    /// The server is stopping; the next one takes the message.
    #[error("the server is stopping")]
    Draining,
    /// The store refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an answer was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// There is no such run.
    #[error("there is no such run")]
    RunNotFound,
    /// The run was deleted.
    #[error("the run was deleted")]
    Gone,
    /// The run asked no such question.
    #[error("the run asked no such question")]
    NotFound,
    /// It is answered otherwise, or nobody waits for the answer any more.
    #[error("the question is {status}")]
    Settled {
        /// Where it stands.
        status: String,
        /// The answer it has.
        decision: Option<longhaul_model::event::Decision>,
    },
    /// The answerer believes to answer something else.
    #[error("the question is another one")]
    Digest {
        /// The question's.
        expected: String,
        /// The answerer's.
        received: String,
    },
    /// The operation id was used with another body.
    #[error("the operation id was used with another body")]
    OperationConflict,
    /// The server is stopping; the next one takes the answer.
    #[error("the server is stopping")]
    Draining,
    /// The store refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a session was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum SessionEraseError {
    /// There is no such session.
    #[error("there is no such session")]
    NotFound,
    /// A run of it is not over.
    #[error("run {run} of the session is not over")]
    Busy {
        /// The run.
        run: RunId,
    },
    /// The store refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a run was not erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// There is no such run.
    #[error("there is no such run")]
    NotFound,
    /// It was deleted before.
    #[error("the run was deleted")]
    Gone,
    /// It is not over.
    #[error("the run is not over")]
    NotEnded,
    /// The store refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}
