//! Claude Code: `claude -p` with its stream of JSON lines.
//!
//! Job: the command line (`plan`) and the parser (`parse`), written against recorded runs of the versions 2.1.329
//! and 2.1.197. Never: trusts the exit status, which is 0 after an interrupt.

mod channel;
mod parse;
mod plan;
mod stream;
mod verdict;

use longhaul_model::event::{ApprovalAnswered, ApprovalRequested, Driver};
use longhaul_model::limits;

use crate::harness::Harness;
use crate::parser::{Parser, StateError};
use crate::plan::Plan;
use crate::request::{PlanError, Request};

const NAME: &str = "claude";

/// Claude Code.
pub(crate) struct Claude;

impl Harness for Claude {
    fn name(&self) -> &'static str {
        NAME
    }

    fn driver(&self) -> Driver {
        Driver::Harness
    }

    fn summary(&self) -> &'static str {
        "Claude Code, Anthropic's coding agent."
    }

    fn install(&self) -> Option<&'static str> {
        Some("npm install -g @anthropic-ai/claude-code@2.1.329")
    }

    fn program(&self) -> Option<&'static str> {
        Some(plan::PROGRAM)
    }

    fn version_args(&self) -> &'static [&'static str] {
        &["--version"]
    }

    fn tested_version(&self) -> Option<&'static str> {
        Some("2.1.329")
    }

    fn models(&self) -> &'static [&'static str] {
        &plan::MODELS
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
        Ok(Box::new(parse::ClaudeParser::new(saved)?))
    }

    fn takes_input(&self) -> bool {
        true
    }

    fn answer(&self, asked: &ApprovalRequested, answer: &ApprovalAnswered) -> Option<Vec<u8>> {
        Some(channel::answer(asked, answer))
    }
}
