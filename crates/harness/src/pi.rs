//! Pi: `pi --mode json -p`.
//!
//! Job: the command line (`plan`) and the parser (`parse`), written against recorded runs of 0.74.2 and 0.87.1.
//! Never: trusts the exit status, which is 0 after a provider's error. The word of success is `agent_end` after a
//! message that did not fail.

mod parse;
mod plan;

use crate::cli::Cli;

const NAME: &str = "pi";

/// Pi.
pub(crate) static PI: Cli = Cli {
    name: NAME,
    summary: "Pi, a small coding agent for any provider.",
    install: "npm install -g @earendil-works/pi-coding-agent@0.74.2",
    program: plan::PROGRAM,
    tested_version: "0.74.2",
    fields: &plan::FIELDS,
    plan: plan::plan,
    parser: |saved| Ok(Box::new(parse::PiParser::new(saved)?)),
};
