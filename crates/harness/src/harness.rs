//! What every harness is to the rest of the house.

use longhaul_model::event::{ApprovalAnswered, ApprovalRequested, Driver};

use crate::parser::{Parser, StateError};
use crate::plan::Plan;
use crate::request::{PlanError, Request};

/// An adapter to one agent CLI.
pub trait Harness: Send + Sync {
    /// Its name: the part before the slash of a model id.
    fn name(&self) -> &'static str;

    /// What proves the success of its runs.
    fn driver(&self) -> Driver;

    /// One sentence for people.
    fn summary(&self) -> &'static str;

    /// The command that installs the CLI in the version that was tested.
    fn install(&self) -> Option<&'static str> {
        None
    }

    /// The program's name, as it is looked up in the child's `PATH`; `None` where there is no one program.
    fn program(&self) -> Option<&'static str> {
        None
    }

    /// The arguments that make the program print its version and exit; empty where there are none.
    fn version_args(&self) -> &'static [&'static str] {
        &[]
    }

    /// The CLI's version that the recorded transcripts come from.
    fn tested_version(&self) -> Option<&'static str> {
        None
    }

    /// The models it is known to take; empty means that we do not know, never that there are none.
    fn models(&self) -> &'static [&'static str] {
        &[]
    }

    /// The fields of a request that it honours, by their wire names. Every other field that a request names is refused.
    fn fields(&self) -> &'static [&'static str];

    /// What to start for `request`.
    ///
    /// # Errors
    /// [`PlanError`] names the field that cannot be honoured. Nothing has happened then.
    fn plan(&self, request: &Request<'_>) -> Result<Plan, PlanError>;

    /// Bytes of the longest line that its parser wants whole, without the newline, inclusive. A longer one comes in
    /// pieces of at most this size.
    fn line_bytes_max(&self) -> usize;

    /// A parser: a new one, or one that goes on from what [`Parser::state`] gave.
    ///
    /// # Errors
    /// [`StateError`] if `saved` is not a state of this parser in this version.
    fn parser(&self, saved: Option<&[u8]>) -> Result<Box<dyn Parser>, StateError>;

    /// Whether it is by its protocol that the agent is asked to go on with a session, and not by its command line.
    fn loads_by_protocol(&self) -> bool {
        false
    }

    /// Whether people can say something to its running agents.
    fn takes_input(&self) -> bool {
        false
    }

    /// What tells the agent the answer to what it asked; `None` if it never asks.
    fn answer(&self, _asked: &ApprovalRequested, _answer: &ApprovalAnswered) -> Option<Vec<u8>> {
        None
    }
}
