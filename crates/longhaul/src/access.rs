//! Who may do what: tokens with a scope, and processes of runs that act as if they were operators.
//!
//! Job: make, keep, check and end tokens; tell whether the far end of a connection is a run's own process.
//! Owns: the tokens in memory and their records in the store. Never: stores a secret, or compares one in a time that
//! depends on it; knows a route.

mod book;
mod insider;
mod token;

pub use book::{CreateError, RevokeError, Tokens};
pub use insider::{Insiders, Standing};
pub use token::{Bounds, Refusal, Token};
