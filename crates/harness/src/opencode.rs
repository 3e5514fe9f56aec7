//! OpenCode: `opencode run --format json`.
//!
//! Job: the command line (`plan`) and the parser (`parse`), written against recorded runs of 1.18.33.
//! Never: takes a step for the end. The word of success is a last step that stopped of itself, and then nothing more.

mod parse;
mod plan;

use crate::cli::Cli;

const NAME: &str = "opencode";

/// OpenCode.
pub(crate) static OPENCODE: Cli = Cli {
    name: NAME,
    summary: "OpenCode, an open coding agent for any provider.",
    install: "npm install -g opencode-ai@1.18.33",
    program: plan::PROGRAM,
    tested_version: "1.18.33",
    fields: &plan::FIELDS,
    plan: plan::plan,
    parser: |saved| Ok(Box::new(parse::OpenCodeParser::new(saved)?)),
};
