//! How a run's events look to a person.
//!
//! Job: one event in, pieces of stdout and stderr out. The answer goes to stdout, everything about it to stderr; of a
//! command every byte goes where the command wrote it. On a terminal text appears as it comes; into a pipe only whole
//! messages go, so that a discarded one is never in a file.
//! Owns: what has been shown of messages that are not finished. Never: writes, waits, or lets an escape through.

mod agent;
mod finish;
mod talk;
mod tool;

use longhaul_model::event::{Driver, OutputLine, OutputStream};
use longhaul_model::{Event, EventData, Timestamp};

use super::escape::{self, Filter};
use super::screen::{Ink, Paint, Screen};

use agent::Messages;
pub use finish::{show_cost, show_usage};

/// What the reader asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taste {
    /// Escapes of the agent are let through.
    pub raw: bool,
    /// More about processes and sessions.
    pub verbose: bool,
    /// Nothing but the answer and failures.
    pub quiet: bool,
}

/// Turns events into output.
#[derive(Debug)]
pub struct Renderer {
    screen: Screen,
    taste: Taste,
    exec: bool,
    began: Option<Timestamp>,
    filters: [Filter; 2],
    messages: Messages,
    last_call: Option<(String, String)>,
    block: Block,
    line_open: bool,
    stderr_shown: bool,
    unknown_lines: u64,
}

/// What was shown last, so that different things are kept apart by a blank line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Nothing,
    Text,
    Reasoning,
    Tool,
    Note,
}

impl Renderer {
    /// A renderer; `exec` says that the run is a plain command, until its first event says it itself.
    pub fn new(screen: Screen, taste: Taste, exec: bool) -> Self {
        Self {
            screen,
            taste,
            exec,
            began: None,
            filters: [Filter::default(), Filter::default()],
            messages: Messages::default(),
            last_call: None,
            block: Block::Nothing,
            line_open: false,
            stderr_shown: false,
            unknown_lines: 0,
        }
    }

    /// What an event looks like.
    pub fn event(&mut self, event: &Event) -> Vec<Ink> {
        let mut inks = Vec::new();
        self.began.get_or_insert(event.ts);
        match &event.data {
            EventData::RunCreated(d) => self.exec = d.driver == Driver::Exec,
            EventData::RunAttemptStarted(d) if d.attempt.get() > 1 => {
                self.note(&mut inks, Paint::Yellow, &format!("attempt {} ({})", d.attempt, d.cause));
            }
            EventData::RunAttemptStarted(_)
            | EventData::RunStarted(_)
            | EventData::VerdictReported(_)
            | EventData::UsageReported(_) => {}
            EventData::RunAdopted(_) => self.detail(&mut inks, "a new server took the run over"),
            EventData::RunCancelRequested(d) => {
                let why = d.reason.as_ref().map(|why| format!(": {}", escape::one_line(why))).unwrap_or_default();
                self.note(&mut inks, Paint::Yellow, &format!("cancel requested by {}{why}", escape::one_line(&d.by)));
            }
            EventData::ProcessStarted(d) => {
                self.began = Some(event.ts);
                let version = d.version.as_ref().map(|v| format!(" {v}")).unwrap_or_default();
                let text = format!("started {}{version}, process {}, in {}", d.command, d.pid, d.cwd);
                self.detail(&mut inks, &escape::one_line(&text));
            }
            EventData::ProcessExited(d) => self.exited(&mut inks, d),
            EventData::OutputLine(d) if self.exec => self.line(&mut inks, d),
            EventData::OutputLine(d) => self.stray_line(&mut inks, d),
            EventData::MessageDelta(d) => self.delta(&mut inks, d),
            EventData::MessageCompleted(d) => self.completed(&mut inks, d),
            EventData::MessageDiscarded(d) => self.discarded(&mut inks, d),
            EventData::ReasoningDelta(d) => self.reasoning(&mut inks, d),
            EventData::ToolCalled(d) => self.called(&mut inks, d),
            EventData::ToolCompleted(d) => self.returned(&mut inks, d),
            EventData::SessionBound(d) => {
                self.detail(&mut inks, &format!("session {}", escape::one_line(&d.source_session_id)));
            }
            EventData::Warning(d) => {
                self.note(&mut inks, Paint::Yellow, &format!("! {}", escape::one_line(&d.message)));
            }
            EventData::ApprovalRequested(_)
            | EventData::ApprovalAnswered(_)
            | EventData::ApprovalDelivered(_)
            | EventData::ApprovalWithdrawn(_)
            | EventData::InputAccepted(_)
            | EventData::InputDelivered(_)
            | EventData::InputUndelivered(_) => self.talk(&mut inks, event),
            EventData::RunCompleted(d) => self.run_completed(&mut inks, event.ts, &d.totals),
            EventData::RunFailed(d) => self.run_failed(&mut inks, event.ts, d),
            EventData::RunCancelled(d) => self.run_cancelled(&mut inks, event.ts, d),
            EventData::Unknown { name, .. } => self.detail(&mut inks, &escape::one_line(name)),
        }
        inks
    }

    /// Ends an open line, before something else is written to the terminal.
    pub fn close(&mut self) -> Vec<Ink> {
        let mut inks = Vec::new();
        self.close_line(&mut inks);
        inks
    }

    /// A command's line: its bytes, where it wrote them.
    fn line(&mut self, inks: &mut Vec<Ink>, line: &OutputLine) {
        let Ok(mut bytes) = line.bytes() else { return };
        if line.eol {
            bytes.push(b'\n');
        }
        let (at, tty) = match line.stream {
            OutputStream::Stdout => (0, self.screen.out_tty),
            OutputStream::Stderr => (1, self.screen.err_tty),
        };
        if tty && !self.taste.raw {
            bytes = self.filters[at].strip(&String::from_utf8_lossy(&bytes)).into_bytes();
        }
        if tty {
            self.line_open = bytes.last().map_or(self.line_open, |last| *last != b'\n');
        }
        match line.stream {
            OutputStream::Stdout => inks.push(Ink::Out(bytes)),
            OutputStream::Stderr => {
                self.stderr_shown = true;
                inks.push(Ink::Err(bytes));
            }
        }
    }

    /// A line of an agent that its parser did not know.
    fn stray_line(&mut self, inks: &mut Vec<Ink>, line: &OutputLine) {
        if line.stream == OutputStream::Stdout && line.part.unwrap_or(0) == 0 {
            self.unknown_lines += 1;
        }
        if self.taste.verbose {
            let text = String::from_utf8_lossy(&line.bytes().unwrap_or_default()).into_owned();
            self.note(inks, Paint::Dim, &format!("{}: {}", line.stream.as_str(), escape::one_line(&text)));
        }
    }

    /// A line about the run, unless quiet was asked for.
    fn note(&mut self, inks: &mut Vec<Ink>, paint: Paint, text: &str) {
        if !self.taste.quiet {
            self.begin(inks, Block::Note);
            self.say(inks, paint, text);
        }
    }

    /// A line about the run for those who want to know more.
    fn detail(&mut self, inks: &mut Vec<Ink>, text: &str) {
        if self.taste.verbose {
            self.note(inks, Paint::Dim, text);
        }
    }

    /// A line on stderr.
    fn say(&mut self, inks: &mut Vec<Ink>, paint: Paint, text: &str) {
        self.close_line(inks);
        inks.push(Ink::Err(format!("{}\n", paint.on(self.screen.err_colour, text)).into_bytes()));
    }

    /// Begins a block of another kind: on a terminal a blank line keeps text apart from what is around it.
    fn begin(&mut self, inks: &mut Vec<Ink>, block: Block) {
        if self.block == block {
            return;
        }
        self.close_line(inks);
        let apart = |b: Block| matches!(b, Block::Text | Block::Reasoning);
        if self.screen.out_tty
            && self.screen.err_tty
            && !self.exec
            && self.block != Block::Nothing
            && (apart(self.block) || apart(block))
        {
            inks.push(Ink::Err(b"\n".to_vec()));
        }
        self.block = block;
    }

    fn close_line(&mut self, inks: &mut Vec<Ink>) {
        if std::mem::take(&mut self.line_open) {
            inks.push(if self.block == Block::Reasoning || !self.screen.out_tty {
                Ink::Err(b"\n".to_vec())
            } else {
                Ink::Out(b"\n".to_vec())
            });
        }
    }
}

#[cfg(test)]
mod tests;
