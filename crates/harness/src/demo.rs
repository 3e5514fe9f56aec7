//! The demo: an agent that is built in and needs no CLI, no key and no network.
//!
//! Job: the plan that starts the house's own binary as [`agent`], and the parser of what that prints. The two know each
//! other's lines by one set of types (`line`). Between them its variants make every event a harness can make.

pub mod agent;
mod line;
mod parse;
mod script;

use longhaul_model::event::Driver;
use longhaul_model::limits;

use crate::harness::Harness;
use crate::parser::{Parser, StateError};
use crate::plan::{ENV_BASE, Plan, Program, stop_by_interrupt};
use crate::request::{PlanError, Request, plain_word};

const NAME: &str = "demo";

/// The hidden verb of the house's own binary.
const VERB: &str = "demo-agent";

/// The demo agent.
pub(crate) struct Demo;

impl Harness for Demo {
    fn name(&self) -> &'static str {
        NAME
    }

    fn driver(&self) -> Driver {
        Driver::Harness
    }

    fn summary(&self) -> &'static str {
        "A built-in agent that needs no CLI, no key and no network."
    }

    fn models(&self) -> &'static [&'static str] {
        &agent::VARIANTS
    }

    fn fields(&self) -> &'static [&'static str] {
        &["model", "prompt", "session_id"]
    }

    fn plan(&self, request: &Request<'_>) -> Result<Plan, PlanError> {
        request.check(NAME, self.fields())?;
        // Whoever asks for nothing is shown around.
        let asked = request.prompt.is_some_and(|prompt| !prompt.trim().is_empty());
        let variant = request.model.unwrap_or(if asked { "echo" } else { "tour" });
        if !agent::VARIANTS.contains(&variant) {
            let message = format!("must be one of {}", agent::VARIANTS.join(", "));
            return Err(PlanError::Invalid { field: "model", message });
        }
        let mut args = vec![variant.to_owned()];
        if let Some(session) = request.resume {
            plain_word("session_id", session)?;
            args.push(session.to_owned());
        }
        Ok(Plan {
            program: Program::Myself { verb: VERB },
            args,
            stdin: request.prompt.map(|prompt| prompt.as_bytes().to_vec()),
            files: Vec::new(),
            channel: None,
            env: Vec::new(),
            env_allow: &ENV_BASE,
            keys: Vec::new(),
            stop: stop_by_interrupt(),
            source_session_id: request.resume.map(str::to_owned),
            warnings: Vec::new(),
        })
    }

    fn line_bytes_max(&self) -> usize {
        limits::HARNESS_LINE_BYTES_MAX
    }

    fn parser(&self, saved: Option<&[u8]>) -> Result<Box<dyn Parser>, StateError> {
        Ok(Box::new(parse::DemoParser::new(saved)?))
    }
}
