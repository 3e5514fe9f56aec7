//! Events: the entries of a run's log, and their one wire form.
//!
//! Job: a closed list of typed payloads, their wire names, and the encoding that is stored and shown byte for byte.
//! Owns: the names. A name may be added and is never changed; a type a reader does not know decodes to
//! [`EventData::Unknown`] with its bytes kept.
//! Never: holds environment values or secrets.

mod asked;
mod payload;
mod said;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::id::{RunId, Seq};
use crate::time::Timestamp;
use crate::trace::Trace;

pub use asked::*;
pub use payload::*;
pub use said::*;

macro_rules! event_types {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// What happened, typed. The wire name is in `type`, the fields in `data`.
        #[derive(Debug, Clone, PartialEq)]
        pub enum EventData {
            $($(#[$doc])* $variant($variant),)*
            /// A type this version does not know, kept as it came.
            Unknown {
                /// The wire name.
                name: String,
                /// The `data` member as it came, JSON.
                data: Box<str>,
            },
        }

        impl EventData {
            /// Every wire name this version writes, in the order of the list.
            pub const NAMES: &[&str] = &[$($name),*];

            /// The wire name.
            pub fn name(&self) -> &str {
                match self {
                    $(Self::$variant(_) => $name,)*
                    Self::Unknown { name, .. } => name,
                }
            }

            fn write_data(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
                match self {
                    $(Self::$variant(data) => serde_json::to_writer(out, data),)*
                    Self::Unknown { data, .. } => {
                        out.extend_from_slice(data.as_bytes());
                        Ok(())
                    }
                }
            }

            fn read(name: &str, data: &RawValue) -> serde_json::Result<Self> {
                match name {
                    $($name => serde_json::from_str(data.get()).map(Self::$variant),)*
                    other => Ok(Self::Unknown { name: other.to_owned(), data: data.get().into() }),
                }
            }
        }

        $(impl From<$variant> for EventData {
            fn from(data: $variant) -> Self {
                Self::$variant(data)
            }
        })*
    };
}

event_types! {
    /// The run was accepted; from here on its id is bound to its digest.
    RunCreated = "run.created",
    /// The run is a turn of a session; what the user says in it.
    TurnAccepted = "turn.accepted",
    /// The first event of real work.
    RunStarted = "run.started",
    /// Proven success. Terminal.
    RunCompleted = "run.completed",
    /// The truth about a failure. Terminal.
    RunFailed = "run.failed",
    /// A stop that was asked for took effect. Terminal.
    RunCancelled = "run.cancelled",
    /// Somebody asked for the end; durable before anything is signalled.
    RunCancelRequested = "run.cancel_requested",
    /// A later server took the live run over.
    RunAdopted = "run.adopted",
    /// The intent to start a process, durable before the start.
    RunAttemptStarted = "run.attempt_started",
    /// The agent's process exists.
    ProcessStarted = "process.started",
    /// The agent's whole tree is gone.
    ProcessExited = "process.exited",
    /// A line of output, byte for byte.
    OutputLine = "output.line",
    /// A piece of the answer.
    MessageDelta = "message.delta",
    /// A whole message.
    MessageCompleted = "message.completed",
    /// The deltas of a message that was lost at a retry no longer count.
    MessageDiscarded = "message.discarded",
    /// A piece of reasoning, never part of the answer.
    ReasoningDelta = "reasoning.delta",
    /// The agent called a tool.
    ToolCalled = "tool.called",
    /// A tool call ended.
    ToolCompleted = "tool.completed",
    /// Tokens and cost, as the source reported them.
    UsageReported = "usage.reported",
    /// The source's own session id.
    SessionBound = "session.bound",
    /// The source's own word on how its work ended; a harness run succeeds by nothing else.
    VerdictReported = "verdict.reported",
    /// The source reported more than the run may use.
    BudgetExceeded = "budget.exceeded",
    /// The agent waits for a permission.
    ApprovalRequested = "approval.requested",
    /// Somebody, or a rule, gave or refused it.
    ApprovalAnswered = "approval.answered",
    /// The agent has the answer.
    ApprovalDelivered = "approval.delivered",
    /// Nobody waits for the answer any more.
    ApprovalWithdrawn = "approval.withdrawn",
    /// A message for the agent was taken.
    InputAccepted = "input.accepted",
    /// The agent has the message.
    InputDelivered = "input.delivered",
    /// The agent ended before it had the message.
    InputUndelivered = "input.undelivered",
    /// Something was ignored, truncated or degraded.
    Warning = "warning",
}

impl EventData {
    /// Whether no event may follow this one in its run.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::RunCompleted(_) | Self::RunFailed(_) | Self::RunCancelled(_))
    }

    /// Whether the event belongs into the feed over many runs: it changes what a list of runs shows.
    pub fn is_lifecycle(&self) -> bool {
        self.name().starts_with("run.")
            || self.name().starts_with("approval.")
            || matches!(self, Self::ProcessStarted(_) | Self::SessionBound(_))
    }

    /// What the event is about.
    fn subject<'a>(&'a self, run: &'a RunId) -> Subject<'a> {
        let (kind, id) = match self {
            Self::RunAttemptStarted(d) => ("attempt", Cow::from(d.attempt.to_string())),
            Self::ProcessStarted(d) => ("process", Cow::from(d.pid.to_string())),
            Self::ProcessExited(d) => ("attempt", Cow::from(d.attempt.to_string())),
            Self::MessageDelta(d) => ("message", Cow::from(&*d.message_id)),
            Self::MessageCompleted(d) => ("message", Cow::from(&*d.message_id)),
            Self::MessageDiscarded(d) => ("message", Cow::from(&*d.message_id)),
            Self::ReasoningDelta(d) => ("message", Cow::from(&*d.message_id)),
            Self::ToolCalled(d) => ("tool_call", Cow::from(&*d.call_id)),
            Self::ToolCompleted(d) => ("tool_call", Cow::from(&*d.call_id)),
            Self::ApprovalRequested(d) => ("approval", Cow::from(&*d.approval_id)),
            Self::ApprovalAnswered(d) => ("approval", Cow::from(&*d.approval_id)),
            Self::ApprovalDelivered(d) => ("approval", Cow::from(&*d.approval_id)),
            Self::ApprovalWithdrawn(d) => ("approval", Cow::from(&*d.approval_id)),
            Self::InputAccepted(d) => ("input", Cow::from(&*d.input_id)),
            Self::InputDelivered(d) => ("input", Cow::from(&*d.input_id)),
            Self::InputUndelivered(d) => ("input", Cow::from(&*d.input_id)),
            Self::RunCreated(_)
            | Self::TurnAccepted(_)
            | Self::RunStarted(_)
            | Self::RunCompleted(_)
            | Self::RunFailed(_)
            | Self::RunCancelled(_)
            | Self::RunCancelRequested(_)
            | Self::RunAdopted(_)
            | Self::OutputLine(_)
            | Self::UsageReported(_)
            | Self::BudgetExceeded(_)
            | Self::SessionBound(_)
            | Self::VerdictReported(_)
            | Self::Warning(_)
            | Self::Unknown { .. } => ("run", Cow::from(run.as_str())),
        };
        Subject { kind: kind.into(), id }
    }

    /// Who says so.
    fn source(&self) -> &'static str {
        match self {
            Self::RunCreated(_)
            | Self::TurnAccepted(_)
            | Self::RunStarted(_)
            | Self::RunCompleted(_)
            | Self::RunFailed(_)
            | Self::RunCancelled(_)
            | Self::RunCancelRequested(_)
            | Self::RunAdopted(_)
            | Self::RunAttemptStarted(_)
            | Self::BudgetExceeded(_)
            | Self::ApprovalAnswered(_)
            | Self::ApprovalDelivered(_)
            | Self::ApprovalWithdrawn(_)
            | Self::InputAccepted(_)
            | Self::InputDelivered(_)
            | Self::InputUndelivered(_)
            | Self::Warning(_)
            | Self::Unknown { .. } => "engine",
            Self::ProcessStarted(_) | Self::ProcessExited(_) => "shim",
            Self::OutputLine(_) => "process",
            Self::MessageDelta(_)
            | Self::MessageCompleted(_)
            | Self::MessageDiscarded(_)
            | Self::ReasoningDelta(_)
            | Self::ToolCalled(_)
            | Self::ToolCompleted(_)
            | Self::UsageReported(_)
            | Self::SessionBound(_)
            | Self::ApprovalRequested(_)
            | Self::VerdictReported(_) => "harness",
        }
    }
}

/// What an event is about: the `subject` member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject<'a> {
    /// `run`, `attempt`, `process`, `message`, `tool_call`, `approval` or `input`.
    pub kind: Cow<'a, str>,
    /// Its id.
    pub id: Cow<'a, str>,
}

/// An event with its place in its run.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The run.
    pub run_id: RunId,
    /// Its number in the run, dense from 1.
    pub seq: Seq,
    /// When it was committed; never decreases in a run.
    pub ts: Timestamp,
    /// What happened.
    pub data: EventData,
}

/// Why stored or received bytes are not an event.
#[derive(Debug, thiserror::Error)]
#[error("not an event")]
pub struct DecodeError(#[from] serde_json::Error);

#[derive(Deserialize)]
struct WireIn<'a> {
    run_id: RunId,
    seq: Seq,
    ts: Timestamp,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The members that all events of one commit share, rendered once.
///
/// Encoding a line of output is the hottest path of ingest; the run id, the time and the harness name do not change
/// within a commit.
pub struct Encoder<'a> {
    run: &'a RunId,
    ts: String,
    harness: &'a str,
    trace: Option<String>,
}

impl<'a> Encoder<'a> {
    /// An encoder for events of `run` that are committed at `ts`, made by the harness named `harness`.
    pub fn new(run: &'a RunId, ts: Timestamp, harness: &'a str) -> Self {
        Self { run, ts: ts.to_string(), harness, trace: None }
    }

    /// The same for events of a run that belongs to a trace.
    #[must_use]
    pub fn traced(mut self, trace: Option<&Trace>) -> Self {
        // The ids are hex digits, which JSON does not escape.
        self.trace =
            trace.map(|t| format!(",\"trace\":{{\"trace_id\":\"{}\",\"span_id\":\"{}\"}}", t.trace_id, t.span_id));
        self
    }

    /// The wire bytes of one event: one line of JSON without the newline.
    ///
    /// # Panics
    /// Never for payloads of this crate: all of them serialise.
    pub fn encode(&self, seq: Seq, data: &EventData) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        // Ids hold no character that JSON escapes, so they are written as they are.
        out.extend_from_slice(b"{\"run_id\":\"");
        out.extend_from_slice(self.run.as_str().as_bytes());
        out.extend_from_slice(b"\",\"seq\":");
        out.extend_from_slice(seq.to_string().as_bytes());
        out.extend_from_slice(b",\"ts\":\"");
        out.extend_from_slice(self.ts.as_bytes());
        out.extend_from_slice(b"\",\"type\":");
        let wrote = serde_json::to_writer(&mut out, data.name())
            .and_then(|()| {
                out.extend_from_slice(b",\"subject\":");
                serde_json::to_writer(&mut out, &data.subject(self.run))
            })
            .and_then(|()| {
                out.extend_from_slice(b",\"source\":{\"kind\":\"");
                let kind = data.source();
                out.extend_from_slice(kind.as_bytes());
                out.extend_from_slice(b"\",\"name\":");
                serde_json::to_writer(&mut out, if kind == "engine" { "longhaul" } else { self.harness })
            })
            .and_then(|()| {
                out.extend_from_slice(b"},\"data\":");
                data.write_data(&mut out)
            });
        assert!(wrote.is_ok(), "payloads of this crate serialise: {wrote:?}");
        out.extend_from_slice(self.trace.as_deref().unwrap_or_default().as_bytes());
        out.push(b'}');
        out
    }
}

impl Event {
    /// Decodes wire bytes; a type this version does not know is [`EventData::Unknown`].
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not an event's JSON or a known type lacks a field.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wire: WireIn<'_> = serde_json::from_slice(bytes)?;
        let data = EventData::read(&wire.kind, wire.data)?;
        Ok(Self { run_id: wire.run_id, seq: wire.seq, ts: wire.ts, data })
    }
}

/// The `type` of wire bytes that [`Encoder::encode`] made, without decoding them.
pub fn peek_type(wire: &[u8]) -> Option<&str> {
    const MARK: &[u8] = b",\"type\":\"";
    // The members before `type` hold no quote and no comma inside their values, so the first mark is the member.
    let at = wire.windows(MARK.len()).take(512).position(|w| w == MARK)? + MARK.len();
    let rest = &wire[at..];
    let end = rest.iter().position(|b| *b == b'"')?;
    std::str::from_utf8(&rest[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_stable_line() {
        let run = RunId::parse("r1").unwrap();
        let ts = Timestamp::from_unix_ms(1_795_254_000_007);
        let data = EventData::from(OutputLine::from_bytes(OutputStream::Stdout, b"hi\"", true, None));
        let bytes = Encoder::new(&run, ts, "exec").encode(Seq::new(7), &data);
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            r#"{"run_id":"r1","seq":7,"ts":"2026-11-21T09:40:00.007Z","type":"output.line","subject":{"kind":"run","id":"r1"},"source":{"kind":"process","name":"exec"},"data":{"stream":"stdout","text":"hi\"","eol":true}}"#
        );
        assert_eq!(peek_type(&bytes), Some("output.line"));
        assert_eq!(Event::decode(&bytes).unwrap(), Event { run_id: run, seq: Seq::new(7), ts, data });
    }

    #[test]
    fn an_event_of_a_trace_names_it() {
        let run = RunId::parse("r1").unwrap();
        let data = EventData::from(OutputLine::from_bytes(OutputStream::Stdout, b"hi", true, None));
        let encoder = || Encoder::new(&run, Timestamp::from_unix_ms(1_795_254_000_007), "exec");
        let trace = Trace::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", 10);
        let (plain, traced) =
            (encoder().encode(Seq::new(7), &data), encoder().traced(trace.as_ref()).encode(Seq::new(7), &data));
        let mut expected = plain[..plain.len() - 1].to_vec();
        expected.extend(br#","trace":{"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"000000000000000a"}}"#);
        assert_eq!(String::from_utf8(traced.clone()).unwrap(), String::from_utf8(expected).unwrap());
        assert_eq!(Event::decode(&traced).unwrap(), Event::decode(&plain).unwrap());
    }

    #[test]
    fn an_unknown_type_keeps_its_bytes() {
        let wire = br#"{"run_id":"r1","seq":1,"ts":"2026-11-21T09:40:00.007Z","type":"later.thing","subject":{"kind":"run","id":"r1"},"source":{"kind":"x","name":"y"},"data":{"b": 1,"a":[]}}"#;
        let event = Event::decode(wire).unwrap();
        assert_eq!(event.data, EventData::Unknown { name: "later.thing".into(), data: r#"{"b": 1,"a":[]}"#.into() });
    }

    #[test]
    fn lines_reproduce_their_bytes() {
        for bytes in [&b"plain"[..], b"", b"\xff\xfe", b"nul\0in", "ü€".as_bytes(), b"\x1b[31mred"] {
            let line = OutputLine::from_bytes(OutputStream::Stderr, bytes, false, Some(2));
            assert_eq!(line.bytes().as_deref(), Ok(bytes));
        }
    }
}
