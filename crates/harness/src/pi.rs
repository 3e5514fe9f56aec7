//! Pi, by `pi --mode rpc`: a conversation over its standard input and output.
//!
//! Job: the command line (`plan`), the frames (`frames`), how far the conversation is (`talk`) and the parser (`parse`),
//! written against recorded runs of 0.74.2 and 0.87.1, and the extension that takes servers of tools (`mcp.js`). It also
//! reads the json mode, in which earlier releases started it. Never: trusts the exit status, which is 0 after a
//! provider's error. The word of success is `agent_end` after a message that did not fail.

mod frames;
mod parse;
mod plan;
mod talk;

use longhaul_model::event::Driver;
use longhaul_model::limits;

use crate::harness::Harness;
use crate::parser::{Parser, StateError};
use crate::plan::Plan;
use crate::request::{PlanError, Request};

const NAME: &str = "pi";

/// Pi.
pub(crate) struct Pi;

impl Harness for Pi {
    fn name(&self) -> &'static str {
        NAME
    }

    fn driver(&self) -> Driver {
        Driver::Harness
    }

    fn summary(&self) -> &'static str {
        "Pi, a small coding agent for any provider."
    }

    fn install(&self) -> Option<&'static str> {
        Some("npm install -g @earendil-works/pi-coding-agent@0.74.2")
    }

    fn program(&self) -> Option<&'static str> {
        Some(plan::PROGRAM)
    }

    fn version_args(&self) -> &'static [&'static str] {
        &["--version"]
    }

    fn tested_version(&self) -> Option<&'static str> {
        Some("0.74.2")
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
        Ok(Box::new(parse::PiParser::new(saved)?))
    }

    fn takes_input(&self) -> bool {
        true
    }
}
