//! The ticket of a submitted commit.
//!
//! Job: answer once the commit is durable or refused. Owns: the place where the answer comes in. Never: takes back what
//! was submitted.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::commit::Committed;
use crate::error::CommitError;

/// The answer to a commit that was submitted, as a future. Dropping it does not take the commit back.
#[derive(Debug)]
#[must_use = "the commit is durable only once its ticket has said so"]
pub struct Ticket(Answer);

#[derive(Debug)]
enum Answer {
    Known(Option<Result<Committed, CommitError>>),
    Awaited(oneshot::Receiver<Result<Committed, CommitError>>),
}

impl Ticket {
    /// A ticket that is answered already.
    pub fn known(answer: Result<Committed, CommitError>) -> Self {
        Self(Answer::Known(Some(answer)))
    }

    /// A ticket whose answer comes; `Unknown` if nobody is left to give it.
    pub fn awaited(answer: oneshot::Receiver<Result<Committed, CommitError>>) -> Self {
        Self(Answer::Awaited(answer))
    }
}

impl Future for Ticket {
    type Output = Result<Committed, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let nobody = || Err(CommitError::Unknown("the store broke down".into()));
        match &mut self.0 {
            Answer::Known(answer) => Poll::Ready(answer.take().unwrap_or_else(nobody)),
            Answer::Awaited(receive) => {
                Pin::new(receive).poll(context).map(|answer| answer.unwrap_or_else(|_| nobody()))
            }
        }
    }
}
