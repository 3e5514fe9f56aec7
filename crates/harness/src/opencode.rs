//! OpenCode: `opencode run --format json`.
//!
//! Job: the command line (`plan`) and the parser (`parse`), written against recorded runs of 1.18.33.
//! Never: takes a step for the end. The word of success is a last step that stopped of itself, and then nothing more.

mod parse;
mod plan;

use longhaul_model::event::Driver;
use longhaul_model::limits;

use crate::harness::Harness;
use crate::parser::{Parser, StateError};
use crate::plan::Plan;
use crate::request::{PlanError, Request};

const NAME: &str = "opencode";

/// OpenCode.
pub(crate) struct OpenCode;

impl Harness for OpenCode {
    fn name(&self) -> &'static str {
        NAME
    }

    fn driver(&self) -> Driver {
        Driver::Harness
    }

    fn summary(&self) -> &'static str {
        "OpenCode, an open coding agent for any provider."
    }

    fn install(&self) -> Option<&'static str> {
        Some("npm install -g opencode-ai@1.18.33")
    }

    fn program(&self) -> Option<&'static str> {
        Some(plan::PROGRAM)
    }

    fn version_args(&self) -> &'static [&'static str] {
        &["--version"]
    }

    fn tested_version(&self) -> Option<&'static str> {
        Some("1.18.33")
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
        Ok(Box::new(parse::OpenCodeParser::new(saved)?))
    }
}
