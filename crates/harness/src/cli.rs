//! A CLI that is a command line and a parser, and nothing beside.
//!
//! Job: one [`Harness`] for all of those; each is a constant of its own file. One that speaks while it works has an
//! `impl` of its own.

use longhaul_model::event::Driver;
use longhaul_model::limits;

use crate::harness::Harness;
use crate::parser::{Parser, StateError};
use crate::plan::Plan;
use crate::request::{PlanError, Request};

/// What makes a parser: a new one, or one that goes on from its saved state.
type MakeParser = fn(Option<&[u8]>) -> Result<Box<dyn Parser>, StateError>;

/// What sets one apart from the others.
pub(crate) struct Cli {
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    /// The command that installs the version that was tested.
    pub(crate) install: &'static str,
    pub(crate) program: &'static str,
    pub(crate) tested_version: &'static str,
    pub(crate) fields: &'static [&'static str],
    pub(crate) plan: fn(&Request<'_>) -> Result<Plan, PlanError>,
    pub(crate) parser: MakeParser,
}

impl Harness for Cli {
    fn name(&self) -> &'static str {
        self.name
    }

    fn driver(&self) -> Driver {
        Driver::Harness
    }

    fn summary(&self) -> &'static str {
        self.summary
    }

    fn install(&self) -> Option<&'static str> {
        Some(self.install)
    }

    fn program(&self) -> Option<&'static str> {
        Some(self.program)
    }

    fn version_args(&self) -> &'static [&'static str] {
        &["--version"]
    }

    fn tested_version(&self) -> Option<&'static str> {
        Some(self.tested_version)
    }

    fn fields(&self) -> &'static [&'static str] {
        self.fields
    }

    fn plan(&self, request: &Request<'_>) -> Result<Plan, PlanError> {
        (self.plan)(request)
    }

    fn line_bytes_max(&self) -> usize {
        limits::HARNESS_LINE_BYTES_MAX
    }

    fn parser(&self, saved: Option<&[u8]>) -> Result<Box<dyn Parser>, StateError> {
        (self.parser)(saved)
    }
}
