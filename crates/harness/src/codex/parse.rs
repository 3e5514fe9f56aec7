//! The parser: a line is one of the app-server's or one of `codex exec`, and the first that is understood says which.
//!
//! Job: hands each line to the reader of its kind ([`super::talk`], [`super::exec`]); a line that is not understood is
//! kept. Owns: which kind it is.

use longhaul_model::event::EventData;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{NAME, exec, frames, talk};
use crate::channel::Reply;
use crate::kept::Pieces;
use crate::parser::{Parser, SourceLine, StateError};
use crate::saved;
use crate::shape::{Parsed, json};

/// The same for both kinds: a cursor that an earlier release saved is one of `codex exec`.
const VERSION: u32 = 1;

/// What is remembered between two lines. The order matters: only the first has its member.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum State {
    Talk {
        #[serde(rename = "a")]
        state: talk::State,
    },
    Exec(exec::State),
}

impl Default for State {
    fn default() -> Self {
        Self::Exec(exec::State::default())
    }
}

impl State {
    fn take(&mut self, line: &Value, out: &mut Vec<EventData>, replies: &mut Vec<Reply>) -> Parsed {
        if let Self::Exec(state) = self
            && state.is_fresh()
            && line.get("type").is_none()
        {
            let mut talk = talk::State::after(&state.pieces);
            talk.take(line, out, replies)?;
            *self = Self::Talk { state: talk };
            return Ok(());
        }
        match self {
            Self::Talk { state } => state.take(line, out, replies),
            Self::Exec(state) => state.take(line, out),
        }
    }

    fn pieces(&mut self) -> &mut Pieces {
        match self {
            Self::Talk { state } => &mut state.pieces,
            Self::Exec(state) => &mut state.pieces,
        }
    }

    const fn talk(&self) -> Option<&talk::State> {
        match self {
            Self::Talk { state } => Some(state),
            Self::Exec(_) => None,
        }
    }
}

/// Makes events of Codex's lines.
pub(super) struct CodexParser {
    state: State,
    replies: Vec<Reply>,
}

impl CodexParser {
    pub fn new(saved: Option<&[u8]>) -> Result<Self, StateError> {
        Ok(Self { state: saved::decode(NAME, VERSION, saved)?, replies: Vec::new() })
    }
}

impl Parser for CodexParser {
    fn id(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        VERSION
    }

    fn line(&mut self, line: &SourceLine<'_>, out: &mut Vec<EventData>) {
        let parsed = json(line);
        let replies = &mut self.replies;
        if parsed.and_then(|value| self.state.take(&value, out, replies)).is_err() {
            self.state.pieces().keep(line, out);
        }
    }

    fn end(&mut self, out: &mut Vec<EventData>) {
        match &mut self.state {
            State::Talk { state } => state.end(out),
            State::Exec(state) => state.end(out),
        }
    }

    fn state(&self) -> Vec<u8> {
        saved::encode(NAME, VERSION, &self.state)
    }

    fn take_replies(&mut self) -> Vec<Reply> {
        std::mem::take(&mut self.replies)
    }

    fn at_rest(&self) -> bool {
        self.state.talk().is_some_and(talk::State::at_rest)
    }

    fn input(&self, input_id: &str, text: &str) -> Option<Vec<u8>> {
        Some(frames::input(self.state.talk()?.hears()?, input_id, text))
    }

    fn interrupt(&self) -> Option<Vec<u8>> {
        let (thread, turn) = self.state.talk()?.turn()?;
        Some(frames::interrupt(thread, turn))
    }
}
