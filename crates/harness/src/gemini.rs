//! Gemini CLI: `gemini -o stream-json`.
//!
//! Job: the command line (`plan`) and the parser (`parse`), written against recorded runs of 0.61.0.
//! Never: trusts the exit status: it is an HTTP status modulo 256, and 0 after a signal.

mod parse;
mod plan;

use crate::cli::Cli;

const NAME: &str = "gemini";

/// Gemini CLI.
pub(crate) static GEMINI: Cli = Cli {
    name: NAME,
    summary: "Gemini CLI, Google's coding agent.",
    install: "npm install -g @google/gemini-cli@0.61.0",
    program: plan::PROGRAM,
    tested_version: "0.61.0",
    fields: &plan::FIELDS,
    plan: plan::plan,
    parser: |saved| Ok(Box::new(parse::GeminiParser::new(saved)?)),
};
