//! Kimi Code: `kimi --output-format stream-json`.
//!
//! Job: the command line (`plan`) and the parser (`parse`), written against recorded runs of 2.1.0.
//! Never: takes stderr for a failure by itself: Kimi copies there what its tools write.

mod parse;
mod plan;

use crate::cli::Cli;

const NAME: &str = "kimi";

/// Kimi Code.
pub(crate) static KIMI: Cli = Cli {
    name: NAME,
    summary: "Kimi Code, Moonshot AI's coding agent.",
    install: "npm install -g @moonshot-ai/kimi-code@2.1.0",
    program: plan::PROGRAM,
    tested_version: "2.1.0",
    fields: &plan::FIELDS,
    plan: plan::plan,
    parser: |saved| Ok(Box::new(parse::KimiParser::new(saved)?)),
};
