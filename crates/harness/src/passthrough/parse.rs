//! The parser of the caller's lines.
//!
//! Job: events of each line that is understood; a line that is not is kept. Owns: what is known of the answer, and the
//! one verdict. Success is the upstream's own last word after a reason that is an end; all else is a failure.

use longhaul_model::event::{EventData, Failure, OutputStream, VerdictReported, Warning};
use serde::{Deserialize, Serialize};

use super::NAME;
use super::line::{DATA, Line};
use super::stream::{Answer, Step, Unknown};
use super::upstream::Dialect;
use crate::kept::Pieces;
use crate::parser::{Parser, SourceLine, StateError};
use crate::saved;
use crate::shape::short;

const VERSION: u32 = 1;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    #[serde(rename = "k", default)]
    pieces: Pieces,
    /// How the upstream speaks that answers.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    dialect: Option<Dialect>,
    #[serde(rename = "a", default)]
    answer: Answer,
    #[serde(rename = "v", default)]
    saw_verdict: bool,
}

/// Makes events of the caller's lines.
pub(super) struct PassthroughParser {
    state: State,
}

impl PassthroughParser {
    pub fn new(saved: Option<&[u8]>) -> Result<Self, StateError> {
        Ok(Self { state: saved::decode(NAME, VERSION, saved)? })
    }
}

impl Parser for PassthroughParser {
    fn id(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        VERSION
    }

    fn line(&mut self, line: &SourceLine<'_>, out: &mut Vec<EventData>) {
        let whole = line.stream == OutputStream::Stdout && line.part.is_none() && line.eol;
        let said = whole.then(|| std::str::from_utf8(line.bytes).ok()).flatten().ok_or(Unknown);
        if said.and_then(|said| self.state.take(said, out)).is_err() {
            self.state.pieces.keep(line, out);
        }
    }

    fn end(&mut self, _out: &mut Vec<EventData>) {}

    fn state(&self) -> Vec<u8> {
        saved::encode(NAME, VERSION, &self.state)
    }
}

impl State {
    fn take(&mut self, said: &str, out: &mut Vec<EventData>) -> Result<(), Unknown> {
        match (said.strip_prefix(DATA), self.dialect) {
            (Some(data), Some(dialect)) if !self.saw_verdict => match self.answer.take(dialect, data, out)? {
                Step::More => {}
                Step::Last => self.verdict(self.answer.failure(), out),
                Step::Failed(code, message) => self.verdict(Some((code, message)), out),
            },
            (Some(_), _) => return Err(Unknown),
            (None, _) => self.own(serde_json::from_str(said).map_err(|_| Unknown)?, out),
        }
        Ok(())
    }

    fn own(&mut self, line: Line, out: &mut Vec<EventData>) {
        match line {
            Line::Retry { upstream, attempt, max, why, delay_ms } => {
                let message =
                    format!("{upstream}: {why}; attempt {attempt} of {max} failed, the next follows in {delay_ms} ms");
                out.push(Warning { code: "retry".to_owned(), message }.into());
            }
            Line::Unsent { upstream, why, lacks } => {
                let failure = match lacks {
                    Some(name) => ("not_logged_in", format!("{upstream}: {}; {}", short(&why), remedy(&name))),
                    None => ("upstream", format!("{upstream}: {}", short(&why))),
                };
                self.verdict(Some(failure), out);
            }
            Line::Refused { upstream, status, why, key_env } => {
                let told = format!("{upstream}: status {status}: {}", short(&why));
                let failure = match (status, key_env) {
                    (401 | 403, Some(name)) => {
                        ("not_logged_in", format!("{told}; the key is refused: {}", remedy(&name)))
                    }
                    (401 | 403, None) => {
                        ("not_logged_in", format!("{told}; no key was sent: set key_env of [passthrough.{upstream}]"))
                    }
                    (429, _) => ("rate_limited", told),
                    _ => ("upstream", told),
                };
                self.verdict(Some(failure), out);
            }
            Line::Open { dialect, .. } => self.dialect = Some(dialect),
            Line::End { broken: None } => {
                let message = "the stream ended before the answer did".to_owned();
                self.verdict(Some(("upstream", message)), out);
            }
            Line::End { broken: Some(why) } => {
                let message = format!("the stream broke before the answer ended: {}", short(&why));
                self.verdict(Some(("upstream", message)), out);
            }
        }
    }

    /// The one verdict: the first stands.
    fn verdict(&mut self, failure: Option<(&'static str, String)>, out: &mut Vec<EventData>) {
        if std::mem::replace(&mut self.saw_verdict, true) {
            return;
        }
        self.answer.report(out);
        let error = failure.map(|(code, message)| Failure { code: code.to_owned(), message, stderr_tail: None });
        out.push(VerdictReported { success: error.is_none(), error }.into());
    }
}

/// What to do about a key that is missing or refused.
fn remedy(variable: &str) -> String {
    format!("set {variable} in the server's environment, or in env of the request")
}
