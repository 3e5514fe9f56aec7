//! Recorded runs, replayed through a parser.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use longhaul_harness::{Harness, Parser, SourceLine, find};
use longhaul_model::EventData;
use longhaul_model::event::OutputStream;

/// A recorded run: its name, its harness, what it wrote.
pub struct Recorded {
    pub name: String,
    pub harness: &'static dyn Harness,
    /// The file: of a conversation with what the recorder said, each such line behind [`SAID`].
    pub raw: Vec<u8>,
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, where that was recorded: it comes after all of stdout.
    pub stderr: Vec<u8>,
}

impl Recorded {
    /// All it wrote, as lines.
    pub fn lines(&self) -> Vec<SourceLine<'_>> {
        let stderr = lines(&self.stderr).into_iter().map(|line| SourceLine { stream: OutputStream::Stderr, ..line });
        lines(&self.stdout).into_iter().chain(stderr).collect()
    }

    /// All events.
    pub fn events(&self) -> Vec<EventData> {
        steps(&mut *self.harness.parser(None).unwrap(), &self.lines()).concat()
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

/// Every recorded run, in order.
pub fn all() -> Vec<Recorded> {
    let mut found = Vec::new();
    for (dir, harness) in [
        ("acp-claude", "acp"),
        ("acp-claude-0.23.1", "acp"),
        ("acp-codex", "acp"),
        ("acp-codex-0.16.0", "acp"),
        ("acp-gemini", "acp"),
        ("acp-kimi", "acp"),
        ("acp-opencode", "acp"),
        ("claude", "claude"),
        ("claude-2.1.197", "claude"),
        ("codex", "codex"),
        ("codex-app-server", "codex"),
        ("copilot", "copilot"),
        ("gemini", "gemini"),
        ("kimi", "kimi"),
        ("opencode", "opencode"),
        ("passthrough", "passthrough"),
        ("pi", "pi"),
        ("pi-0.87.1", "pi"),
        ("pi-rpc", "pi"),
        ("qwen", "qwen"),
    ] {
        for entry in std::fs::read_dir(folder().join(dir)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "jsonl") {
                let name = format!("{dir}/{}", path.file_stem().unwrap().to_str().unwrap());
                let raw = std::fs::read(&path).unwrap();
                let stdout = match harness {
                    harness if speaks_acp(harness) => as_ours(&raw),
                    _ => raw
                        .split_inclusive(|b| *b == b'\n')
                        .filter(|line| !line.starts_with(SAID))
                        .collect::<Vec<_>>()
                        .concat(),
                };
                let stderr = std::fs::read(path.with_extension("stderr")).unwrap_or_default();
                found.push(Recorded { name, harness: find(harness).unwrap(), raw, stdout, stderr });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(found.len() > 166, "transcripts are missing");
    found
}

/// What stands before a line that the recorder said.
pub const SAID: &[u8] = b">>> ";

/// Whether a harness speaks ACP.
pub fn speaks_acp(harness: &str) -> bool {
    ["acp", "copilot", "qwen"].contains(&harness)
}

/// What an agent wrote in a conversation, with its answers under the ids that the harness gives to its requests where
/// the recorder had 0 for `initialize`, 1 for the session, 10 and 11 for prompts. The terms are those of a run that asks.
fn as_ours(raw: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(raw).unwrap();
    let first = if text.contains("\"session/load\"") { 1410 } else { 1400 };
    let mut ours = String::new();
    for line in text.lines().filter(|line| !line.as_bytes().starts_with(SAID)) {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = match message["id"].as_u64() {
            Some(0) => first,
            Some(1) => 2,
            _ => 5,
        };
        let mut line = line.to_owned();
        if message.get("method").is_none() {
            let old = message["id"].as_u64().unwrap();
            for end in [",\"result\"", ",\"error\"", "}"] {
                line = line.replacen(&format!("\"id\":{old}{end}"), &format!("\"id\":{id}{end}"), 1);
            }
        }
        ours.push_str(&line);
        ours.push('\n');
    }
    ours.into_bytes()
}

/// One recorded run by name.
pub fn one(name: &str) -> Recorded {
    all().into_iter().find(|r| r.name == name).unwrap_or_else(|| panic!("no transcript {name}"))
}

/// Output as lines of stdout.
pub fn lines(stdout: &[u8]) -> Vec<SourceLine<'_>> {
    stdout
        .split_inclusive(|b| *b == b'\n')
        .map(|line| {
            let eol = line.last() == Some(&b'\n');
            let bytes = if eol { &line[..line.len() - 1] } else { line };
            SourceLine { stream: OutputStream::Stdout, bytes, eol, part: None }
        })
        .collect()
}

/// The events that each line makes, and at last those of the end.
pub fn steps(parser: &mut dyn Parser, lines: &[SourceLine<'_>]) -> Vec<Vec<EventData>> {
    let mut steps = Vec::new();
    for line in lines {
        let mut out = Vec::new();
        parser.line(line, &mut out);
        assert!(parser.state().len() <= 4096, "state of {} bytes", parser.state().len());
        steps.push(out);
    }
    let mut out = Vec::new();
    parser.end(&mut out);
    steps.push(out);
    steps
}

/// All events of an output.
pub fn events(harness: &dyn Harness, stdout: &[u8]) -> Vec<EventData> {
    steps(&mut *harness.parser(None).unwrap(), &lines(stdout)).concat()
}

/// Events as text, a line each: what a person would compare. Deltas of one message that follow each other are one line.
pub fn story(events: &[EventData]) -> String {
    let mut story = String::new();
    let mut last_delta: Option<(&str, bool)> = None;
    for event in events {
        let delta = match event {
            EventData::MessageDelta(d) => Some((&*d.message_id, true, &*d.text)),
            EventData::ReasoningDelta(d) => Some((&*d.message_id, false, &*d.text)),
            _ => None,
        };
        if let Some((id, answer, text)) = delta
            && last_delta == Some((id, answer))
        {
            story.pop();
            writeln!(story, "|{}", text.escape_debug()).unwrap();
            continue;
        }
        last_delta = delta.map(|(id, answer, _)| (id, answer));
        tell(event, &mut story).unwrap();
    }
    story
}

fn tell(event: &EventData, story: &mut String) -> std::fmt::Result {
    let by = |parent: &Option<String>| parent.as_ref().map_or_else(String::new, |p| format!(" by {p}"));
    match event {
        EventData::SessionBound(d) => writeln!(story, "session {}", d.source_session_id),
        EventData::ReasoningDelta(d) => writeln!(story, "thinks {}: {}", d.message_id, d.text.escape_debug()),
        EventData::MessageDelta(d) => writeln!(story, "shows {}: {}", d.message_id, d.text.escape_debug()),
        EventData::MessageCompleted(d) => {
            writeln!(story, "says {}{}: {}", d.message_id, by(&d.parent_call_id), d.text.escape_debug())
        }
        EventData::MessageDiscarded(d) => writeln!(story, "discards {}: {}", d.message_id, d.reason),
        EventData::ToolCalled(d) => {
            writeln!(story, "calls {} {}{} {}", d.call_id, d.name, by(&d.parent_call_id), d.arguments)
        }
        EventData::ToolCompleted(d) => {
            let how = if d.is_error { "fails" } else { "gives" };
            writeln!(story, "{how} {} {}", d.call_id, d.result)
        }
        EventData::UsageReported(d) => {
            let usage = serde_json::to_string(d).unwrap();
            writeln!(story, "used {usage}")
        }
        EventData::VerdictReported(d) => match &d.error {
            None => writeln!(story, "success {}", d.success),
            Some(error) => writeln!(story, "failure {}: {}", error.code, error.message),
        },
        EventData::ApprovalRequested(d) => {
            let call = d.call_id.as_deref().unwrap_or("no call");
            let why = d.reason.as_deref().unwrap_or("no reason");
            writeln!(story, "asks {} {} for {call} {}: {why}", d.source_request_id, d.tool, d.arguments)
        }
        EventData::ApprovalWithdrawn(d) => {
            writeln!(story, "asks no more {}", d.source_request_id.as_deref().unwrap_or_default())
        }
        EventData::InputDelivered(d) => writeln!(story, "takes {}", d.input_id),
        EventData::Warning(d) => writeln!(story, "warns {}: {}", d.code, d.message.escape_debug()),
        EventData::OutputLine(d) => {
            let text = d.text.as_deref().unwrap_or("<bytes>");
            writeln!(story, "keeps {}: {}", d.stream.as_str(), text.escape_debug())
        }
        other => writeln!(story, "{}", other.name()),
    }
}
