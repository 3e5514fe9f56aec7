//! Why subscriptions refuse.

use longhaul_model::stream::subscription::Refusal;
use longhaul_store::{CommitError, StoreError};

use crate::streams::WriteError;

/// Why a subscription was not made. Nothing is stored that anybody sees.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// There is one of that id that differs.
    #[error("there is a subscription of this id with another configuration")]
    Exists,
    /// There are as many as there may be.
    #[error("there are as many subscriptions as there may be")]
    TooMany,
    /// Its pattern takes in more streams than one may follow.
    #[error("the subscription takes in more than {max} streams", max = longhaul_model::limits::SUBSCRIPTION_LINKS_MAX)]
    TooManyStreams,
    /// The store did not take it.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why a question to a subscription was not answered. Nothing has changed, but for [`WriteError::Unknown`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is no such subscription.
    #[error("there is no such subscription")]
    NotFound,
    /// The token was not made here, or not for this subscription.
    #[error("the token is not one of this subscription")]
    TokenInvalid,
    /// The subscription's state forbids it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store did not take it.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<StoreError> for SubscribeError {
    fn from(error: StoreError) -> Self {
        Self::Write(error.into())
    }
}

impl From<CommitError> for SubscribeError {
    fn from(error: CommitError) -> Self {
        Self::Write(error.into())
    }
}

impl From<StoreError> for AskError {
    fn from(error: StoreError) -> Self {
        Self::Write(error.into())
    }
}
