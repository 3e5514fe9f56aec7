//! From spooled bytes to committed events, exactly once.
//!
//! The cursor is committed with the events that it follows. Whatever happens between, reading starts again at the
//! committed cursor with the parser's committed state: the same lines make the same events.

use std::io;

use longhaul_harness::{Parser, Reply, SourceLine};
use longhaul_model::event::{EventData, OutputStream, Warning};
use longhaul_model::run::{Command, Phase, decide};
use longhaul_model::{AttemptNo, limits};
use longhaul_store::Urgency;
use longhaul_supervise::{AttemptDir, Batch, Follower, LineLimits, SpoolCursor, SpoolLengths, Stream};

use super::commit::Refused;
use super::{Events, LetGo, Owner};
use crate::cursor::Cursor;

/// Bytes and lines of one commit: large enough that the disk's sync is shared by thousands of lines, small enough that
/// readers see a flood arrive in steps of a few milliseconds.
const BATCH_BYTES: usize = 256 << 10;
/// See [`BATCH_BYTES`].
const BATCH_LINES: usize = 4096;

/// Batches in one go before the owner listens again.
const BATCHES: usize = 4;

struct Open {
    follower: Follower,
    parser: Box<dyn Parser>,
    /// To be said with the next events.
    warning: Option<Warning>,
}

/// A spool that is being read, or is to be opened at the committed cursor.
pub(super) struct Source(Option<Open>);

impl Source {
    pub(super) const fn closed() -> Self {
        Self(None)
    }

    /// Whether the agent, as far as its output was read, has dealt with everything.
    pub(super) fn at_rest(&self) -> bool {
        self.0.as_ref().is_some_and(|open| open.parser.at_rest())
    }

    /// How many messages of people were written to the agent.
    pub(super) fn said(&mut self, messages: u64) {
        if let Some(open) = &mut self.0 {
            open.parser.said(messages);
        }
    }

    /// What says this to the agent, if it can be said now.
    pub(super) fn input(&self, input_id: &str, text: &str) -> Option<Vec<u8>> {
        self.0.as_ref()?.parser.input(input_id, text)
    }

    /// The protocol's own cancel, if it depends on what the agent said.
    pub(super) fn interrupt(&self) -> Option<Vec<u8>> {
        self.0.as_ref()?.parser.interrupt()
    }
}

/// The events of one batch, and where they bring the source to.
pub(super) struct Piece {
    pub(super) events: Events,
    /// What the protocol is to be answered before these events are committed.
    pub(super) replies: Vec<Reply>,
    pub(super) cursor: Cursor,
    pub(super) more: bool,
}

/// What one look at the spool gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Whether anything was committed.
    pub(super) any: bool,
    /// Whether there is more at once.
    pub(super) more: bool,
}

impl Owner {
    /// Reads and commits what is there.
    pub(super) async fn ingest(
        &mut self,
        attempt: AttemptNo,
        dir: &AttemptDir,
        mut source: Source,
    ) -> Result<(Source, Progress), LetGo> {
        let mut any = false;
        for _ in 0..BATCHES {
            let (next, piece) = self.piece(attempt, dir, source, None).await?;
            source = next;
            let Some(piece) = piece else { return Ok((source, Progress { any, more: false })) };
            let more = piece.more;
            if !self.reply(piece.replies).await? {
                self.breathe(super::RETRY).await?;
                return Ok((Source::closed(), Progress { any, more: true }));
            }
            if !piece.events.is_empty() {
                any = true;
                self.shared.last_output_ms.store(self.now_ms(), std::sync::atomic::Ordering::Relaxed);
                let events = match decide(&self.state, Command::Observe(piece.events), &self.ctx()) {
                    Ok(events) => events,
                    Err(rejection) => return Err(LetGo::Fenced(rejection.to_string())),
                };
                match self.commit(events, Some(piece.cursor), vec![], Urgency::Ordinary).await {
                    Ok(()) => self.shared.set_blocked(None, 0),
                    Err(Refused::LetGo(error)) => return Err(error),
                    Err(Refused::Later(error)) => {
                        // Nothing is kept of the refused batch: it is read again from the committed cursor.
                        self.pause(&error).await?;
                        return Ok((Source::closed(), Progress { any, more: true }));
                    }
                }
            }
            if !more {
                return Ok((source, Progress { any, more: false }));
            }
        }
        Ok((source, Progress { any, more: true }))
    }

    /// The next batch as events; `None` if the spool is not there yet.
    pub(super) async fn piece(
        &mut self,
        attempt: AttemptNo,
        dir: &AttemptDir,
        source: Source,
        ended: Option<SpoolLengths>,
    ) -> Result<(Source, Option<Piece>), LetGo> {
        let mut open = match source.0 {
            Some(open) => open,
            None => match self.open(attempt, dir) {
                Ok(open) => open,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Source(None), None)),
                Err(error) => return Err(LetGo::Trouble(format!("the spool cannot be read: {error}"))),
            },
        };
        let read = tokio::task::spawn_blocking(move || {
            let batch = open.follower.batch(BATCH_BYTES, BATCH_LINES, ended);
            (open, batch)
        })
        .await;
        let (mut open, batch) = match read {
            Ok((open, Ok(batch))) => (open, batch),
            Ok((_, Err(error))) => return Err(LetGo::Trouble(format!("the spool cannot be read: {error}"))),
            Err(error) => return Err(LetGo::Trouble(error.to_string())),
        };
        let more = batch.more;
        let mut events = Vec::with_capacity(batch.lines.len());
        missing(&batch, &mut events);
        if !batch.lines.is_empty() {
            events.extend(open.warning.take().map(EventData::from));
        }
        let after = batch.lines.last().map_or_else(|| open.follower.cursor(), |line| line.after);
        for line in &batch.lines {
            let stream = match line.stream {
                Stream::Stdout => OutputStream::Stdout,
                Stream::Stderr => OutputStream::Stderr,
            };
            let line = SourceLine { stream, bytes: &line.bytes, eol: line.newline, part: line.part };
            open.parser.line(&line, &mut events);
        }
        if ended.is_some() && !more {
            open.parser.said(self.messages());
            open.parser.end(&mut events);
        }
        let mut events = self.fit(attempt, events);
        let replies = open.parser.take_replies();
        if self.state.lost_attempts > 0 {
            super::goes_on::scope(attempt, &mut events);
        }
        let cursor = Cursor::new(attempt, after, &*open.parser);
        Ok((Source(Some(open)), Some(Piece { events, replies, cursor, more })))
    }

    /// Opens the spool at the committed cursor, with the parser as it was there.
    fn open(&self, attempt: AttemptNo, dir: &AttemptDir) -> io::Result<Open> {
        let name = self.shared.with_doc(|doc| doc.run.harness.clone());
        let unknown = || io::Error::new(io::ErrorKind::Unsupported, format!("no harness is called {name:?}"));
        let harness = longhaul_harness::find(&name).ok_or_else(unknown)?;
        let saved = self.cursor.as_ref().filter(|cursor| cursor.attempt == attempt);
        let fresh = harness.parser(None).map_err(io::Error::other)?;
        let known = |c: &&Cursor| c.parser == fresh.id() && c.parser_version == fresh.version();
        let (parser, warning) = match saved {
            None => (fresh, None),
            Some(saved) if known(&saved) => {
                (harness.parser(Some(saved.state.as_bytes())).map_err(io::Error::other)?, None)
            }
            // The run goes on with what this program has; what the old parser held of unfinished messages is gone.
            Some(saved) => {
                let (id, version) = (fresh.id(), fresh.version());
                let message = format!(
                    "the output was read by parser {} {} up to here and is read by {id} {version} from here on",
                    saved.parser, saved.parser_version
                );
                (fresh, Some(Warning { code: "parser_changed".to_owned(), message }))
            }
        };
        let spool = saved.map_or_else(SpoolCursor::default, |c| c.spool);
        let part_bytes_max = harness.line_bytes_max().max(limits::LINE_PART_BYTES_MAX);
        let follower = Follower::open(dir, spool, LineLimits { part_bytes_max })?;
        Ok(Open { follower, parser, warning })
    }

    /// Whether the agent's process is known to the log.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.state.phase, Phase::Running { .. })
    }
}

/// Says what a power cut took from the spool; the committed events are the truth and are not made again.
fn missing(batch: &Batch, events: &mut Vec<EventData>) {
    for gap in &batch.missing {
        let warning = Warning {
            code: "spool_missing".to_owned(),
            message: format!("{} lacks bytes {} to {}", gap.stream.file_name(), gap.from, gap.to),
        };
        events.push(warning.into());
    }
}
