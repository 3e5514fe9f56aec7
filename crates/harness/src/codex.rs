//! Codex: `codex exec --json`.
//!
//! Job: the command line (`plan`) and the parser (`parse`), written against recorded runs of 0.169.0.
//! Never: takes an `item` of type `error` for a failure: it is a warning. The word of success is `turn.completed`.

mod parse;
mod plan;
mod repeat;

use longhaul_model::event::Driver;
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
}
