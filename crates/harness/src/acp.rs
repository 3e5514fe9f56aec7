//! Any agent that speaks ACP, the Agent Client Protocol, over its standard input and output.
//!
//! Job: the programs that are known to (`agents`), the frames ([`frames`]), and the parser that is the client's side of
//! the conversation (`parse`, with `calls`, `terms` and `verdict`). Written against recorded runs of gemini 0.61.0, kimi
//! 2.1.0, qwen-code 0.24.4, copilot 1.0.102, opencode 1.18.33, claude-agent-acp 0.49.0 and 0.23.1, and codex-acp 2.6.0
//! and 0.16.0. Never: lends the agent a file or a terminal; takes the end of a turn for a success of itself.
//!
//! ```text
//! initialize ─► session/new | session/load | session/resume ─► [model, mode] ─► session/prompt ─► its stop reason
//!                                  │                                               ▲ a message of people ┘
//!                                  └ what is told until the prompt is history, and no event of this run
//! ```
//!
//! The messages are read as plain JSON, not by the types of `agent-client-protocol-schema`: that crate needs serde_json
//! with `preserve_order`, which would change the order of members in every stored event of this program, it takes an
//! unknown member of an enum for an error where a parser must keep the line, and it has no `session/set_model`, which
//! gemini, qwen and codex-acp speak.

mod agents;
mod calls;
mod frames;
mod parse;
mod plan;
mod terms;
mod verdict;

use longhaul_model::event::{ApprovalAnswered, ApprovalRequested, Driver};
use longhaul_model::limits;

use crate::harness::Harness;
use crate::parser::{Parser, StateError};
use crate::plan::Plan;
use crate::request::{PlanError, Request};

pub(crate) use agents::{ANY, COPILOT, QWEN};

/// An agent program that speaks ACP, or any of them.
pub(crate) struct Acp {
    /// The harness's name, and its parser's.
    name: &'static str,
    summary: &'static str,
    /// What is started; `None` where the request says so.
    program: Option<Fixed>,
    /// Variables that pass from the caller's environment.
    env_allow: &'static [&'static str],
    fields: &'static [&'static str],
}

/// A program that is known.
struct Fixed {
    program: &'static str,
    /// The arguments that make it speak ACP.
    args: &'static [&'static str],
    /// The option that names a model; `None` where the protocol does.
    model_option: Option<&'static str>,
    /// The option that names a file of servers of tools; `None` where the protocol does.
    mcp_option: Option<&'static str>,
    env: &'static [(&'static str, &'static str)],
    install: &'static str,
    tested_version: &'static str,
}

impl Harness for Acp {
    fn name(&self) -> &'static str {
        self.name
    }

    fn driver(&self) -> Driver {
        Driver::Harness
    }

    fn loads_by_protocol(&self) -> bool {
        true
    }

    fn summary(&self) -> &'static str {
        self.summary
    }

    fn install(&self) -> Option<&'static str> {
        self.program.as_ref().map(|fixed| fixed.install)
    }

    fn program(&self) -> Option<&'static str> {
        self.program.as_ref().map(|fixed| fixed.program)
    }

    fn version_args(&self) -> &'static [&'static str] {
        if self.program.is_some() { &["--version"] } else { &[] }
    }

    fn tested_version(&self) -> Option<&'static str> {
        self.program.as_ref().map(|fixed| fixed.tested_version)
    }

    fn fields(&self) -> &'static [&'static str] {
        self.fields
    }

    fn plan(&self, request: &Request<'_>) -> Result<Plan, PlanError> {
        plan::plan(self, request)
    }

    fn line_bytes_max(&self) -> usize {
        limits::HARNESS_LINE_BYTES_MAX
    }

    fn parser(&self, saved: Option<&[u8]>) -> Result<Box<dyn Parser>, StateError> {
        Ok(Box::new(parse::AcpParser::new(self.name, saved)?))
    }

    fn takes_input(&self) -> bool {
        true
    }

    fn answer(&self, asked: &ApprovalRequested, answer: &ApprovalAnswered) -> Option<Vec<u8>> {
        Some(frames::answer(asked, answer))
    }
}
