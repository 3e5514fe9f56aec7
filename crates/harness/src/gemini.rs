//! Gemini CLI: `gemini -o stream-json`.
//!
//! Job: the command line (`plan`) and the parser (`parse`), written against recorded runs of 0.61.0.
//! Never: trusts the exit status: it is an HTTP status modulo 256, and 0 after a signal.

mod parse;
mod plan;

use longhaul_model::event::Driver;
use longhaul_model::limits;

use crate::harness::Harness;
use crate::parser::{Parser, StateError};
use crate::plan::Plan;
use crate::request::{PlanError, Request};

const NAME: &str = "gemini";

/// Gemini CLI.
pub(crate) struct Gemini;

impl Harness for Gemini {
    fn name(&self) -> &'static str {
        NAME
    }

    fn driver(&self) -> Driver {
        Driver::Harness
    }

    fn summary(&self) -> &'static str {
        "Gemini CLI, Google's coding agent."
    }

    fn install(&self) -> Option<&'static str> {
        Some("npm install -g @google/gemini-cli@0.61.0")
    }

    fn program(&self) -> Option<&'static str> {
        Some(plan::PROGRAM)
    }

    fn version_args(&self) -> &'static [&'static str] {
        &["--version"]
    }

    fn tested_version(&self) -> Option<&'static str> {
        Some("0.61.0")
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
        Ok(Box::new(parse::GeminiParser::new(saved)?))
    }
}
