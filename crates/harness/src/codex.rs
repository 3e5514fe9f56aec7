//! Codex, by `codex app-server`: a conversation over its standard input and output.
//!
//! Job: the command line (`plan`), the frames (`frames`), the questions (`asks`), and the parser (`parse`), which is the
//! client's side of the conversation (`talk`), written against recorded runs of 0.169.0. It also reads what
//! `codex exec --json` printed (`exec`), by which earlier releases started it.
//! Never: takes a warning for a failure. The word of success is `turn/completed` with the status `completed`.
//!
//! ```text
//! initialize, thread/start | thread/resume ─► turn/start ─► … ─► turn/completed ─► the end of input
//!                                              └ a message is a turn/start too: it joins a turn that is open
//! ```

mod asks;
mod exec;
mod frames;
mod items;
mod parse;
mod plan;
mod repeat;
mod talk;

use longhaul_model::event::{ApprovalAnswered, ApprovalRequested, Driver};
use longhaul_model::limits;

use crate::harness::Harness;
use crate::parser::{Parser, StateError};
use crate::plan::Plan;
use crate::request::{PlanError, Request};

const NAME: &str = "codex";

/// Codex.
pub(crate) struct Codex;

impl Harness for Codex {
    fn name(&self) -> &'static str {
        NAME
    }

    fn driver(&self) -> Driver {
        Driver::Harness
    }

    fn summary(&self) -> &'static str {
        "Codex, OpenAI's coding agent."
    }

    fn install(&self) -> Option<&'static str> {
        Some("npm install -g @openai/codex@0.169.0")
    }

    fn program(&self) -> Option<&'static str> {
        Some(plan::PROGRAM)
    }

    fn version_args(&self) -> &'static [&'static str] {
        &["--version"]
    }

    fn tested_version(&self) -> Option<&'static str> {
        Some("0.169.0")
    }

    fn fields(&self) -> &'static [&'static str] {
        &plan::FIELDS
    }

    fn plan(&self, request: &Request<'_>) -> Result<Plan, PlanError> {
        plan::plan(request)
    }

    fn line_bytes_max(&self) -> usize {
        limits::HARNESS_LINE_BYTES_MAX
    }

    fn parser(&self, saved: Option<&[u8]>) -> Result<Box<dyn Parser>, StateError> {
        Ok(Box::new(parse::CodexParser::new(saved)?))
    }

    fn loads_by_protocol(&self) -> bool {
        true
    }

    fn takes_input(&self) -> bool {
        true
    }

    fn answer(&self, asked: &ApprovalRequested, answer: &ApprovalAnswered) -> Option<Vec<u8>> {
        Some(asks::answer(asked, answer))
    }
}
