//! The parser of the demo agent's lines. It remembers nothing but the pieces of long lines.

use std::borrow::Cow;

use longhaul_model::event::{
    Cost, EventData, Failure, MessageCompleted, MessageDelta, MessageDiscarded, OutputStream, ReasoningDelta,
    SessionBound, ToolCalled, ToolCompleted, Usage, UsageReported, VerdictReported, Warning,
};

use super::NAME;
use super::line::Line;
use crate::kept::Pieces;
use crate::parser::{Parser, SourceLine, StateError};
use crate::saved;

const VERSION: u32 = 1;

/// Makes events of the demo agent's lines.
pub(super) struct DemoParser {
    pieces: Pieces,
}

impl DemoParser {
    pub fn new(saved: Option<&[u8]>) -> Result<Self, StateError> {
        Ok(Self { pieces: saved::decode(NAME, VERSION, saved)? })
    }
}

impl Parser for DemoParser {
    fn id(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        VERSION
    }

    fn line(&mut self, line: &SourceLine<'_>, out: &mut Vec<EventData>) {
        let whole = line.stream == OutputStream::Stdout && line.part.is_none();
        match whole.then(|| serde_json::from_slice(line.bytes)) {
            Some(Ok(parsed)) => take(parsed, out),
            Some(Err(_)) | None => self.pieces.keep(line, out),
        }
    }

    fn end(&mut self, _out: &mut Vec<EventData>) {}

    fn state(&self) -> Vec<u8> {
        saved::encode(NAME, VERSION, &self.pieces)
    }
}

fn message_id(number: u32) -> String {
    format!("message-{number}")
}

fn take(line: Line<'_>, out: &mut Vec<EventData>) {
    let event = match line {
        Line::Session { id } => SessionBound { session_id: None, source_session_id: id.into_owned() }.into(),
        Line::Thought { message, text } => {
            ReasoningDelta { message_id: message_id(message), parent_call_id: None, text: text.into_owned() }.into()
        }
        Line::Delta { message, text } => {
            MessageDelta { message_id: message_id(message), parent_call_id: None, text: text.into_owned() }.into()
        }
        Line::Message { message, text } => {
            MessageCompleted { message_id: message_id(message), parent_call_id: None, text: text.into_owned() }.into()
        }
        Line::Retry { message, reason } => {
            out.push(Warning { code: "retry".to_owned(), message: reason.clone().into_owned() }.into());
            MessageDiscarded { message_id: message_id(message), reason: reason.into_owned() }.into()
        }
        Line::Call { id, name, arguments } => {
            ToolCalled { call_id: id.into_owned(), name: name.into_owned(), arguments, parent_call_id: None }.into()
        }
        Line::Return { id, result, is_error } => ToolCompleted { call_id: id.into_owned(), result, is_error }.into(),
        Line::Usage { input, output, reasoning, usd } => usage(input, output, reasoning, usd),
        Line::Done { error } => VerdictReported { success: error.is_none(), error: error.map(failure) }.into(),
    };
    out.push(event);
}

fn usage(input: u64, output: u64, reasoning: u64, usd: f64) -> EventData {
    let usage = Usage {
        input_tokens: Some(input),
        output_tokens: Some(output),
        reasoning_tokens: Some(reasoning),
        ..Usage::default()
    };
    let cost = Some(Cost { usd, provenance: "estimate".to_owned() });
    let model = Some("demo".to_owned());
    UsageReported { scope: "run".to_owned(), usage, cost, cost_scope: None, model }.into()
}

fn failure(message: Cow<'_, str>) -> Failure {
    Failure { code: "agent_error".to_owned(), message: message.into_owned(), stderr_tail: None }
}
