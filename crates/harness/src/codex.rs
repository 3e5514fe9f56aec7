//! Codex: `codex exec --json`.
//!
//! Job: the command line (`plan`) and the parser (`parse`), written against recorded runs of 0.169.0.
//! Never: takes an `item` of type `error` for a failure: it is a warning. The word of success is `turn.completed`.

mod parse;
mod plan;
mod repeat;

use crate::cli::Cli;

const NAME: &str = "codex";

/// Codex.
pub(crate) static CODEX: Cli = Cli {
    name: NAME,
    summary: "Codex, OpenAI's coding agent.",
    install: "npm install -g @openai/codex@0.169.0",
    program: plan::PROGRAM,
    tested_version: "0.169.0",
    fields: &plan::FIELDS,
    plan: plan::plan,
    parser: |saved| Ok(Box::new(parse::CodexParser::new(saved)?)),
};
