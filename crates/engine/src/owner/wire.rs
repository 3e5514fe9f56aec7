//! The owner's end of an attempt's protocol channel: what is written into the agent's standard input, and when.
//!
//! Job: opening frames before the launch, the parser's replies before the cursor that passes their lines, the end of
//! input. Owns: the attempt's input log and its file `protocol`. Never: writes what a crash could make it write twice:
//! each frame has an id, and the log takes an id once.
//!
//! Order of writes, and what a crash after each leaves:
//!
//! ```text
//! opening frames, then the launch      no shim: the directory is made anew
//! a reply, then the line's events      the line is read again, makes the same reply, and the log has it
//! ```

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use longhaul_harness::{Channel, Frame, Prepared, Reply};
use longhaul_model::event::InputAccepted;
use longhaul_supervise::{Appended, AttemptDir, InputError, InputLog, Stdin};
use serde::{Deserialize, Serialize};

use super::ingest::Source;
use super::{LetGo, Owner};

/// The file with what the protocol needs later, in an attempt's directory; mode 0600, for it holds the prompt.
const PROTOCOL: &str = "protocol";

/// The version of that file.
const VERSION: u32 = 1;

/// What the id of a message of people begins with.
const INPUT: &str = "input/";

/// The id of the end of input.
const CLOSE: &str = "close";

/// How long an agent may take to go after its last word; the slowest that was seen, qwen, takes 11 s.
const LINGER_MAX: Duration = Duration::from_secs(30);

/// How long an agent that rests may take to say that it has a message, before it is let go without it.
const REST_MAX: Duration = Duration::from_secs(15);

#[derive(Debug, Serialize, Deserialize)]
struct Protocol {
    version: u32,
    prepared: Vec<Prepared>,
    acknowledges: bool,
}

/// The id of a message in an input log.
pub(super) fn input_frame(input_id: &str) -> String {
    format!("{INPUT}{input_id}")
}

/// An open channel.
#[derive(Debug)]
pub(super) struct Wire {
    /// `None` while it is away on another thread, and after a failed write: then it is opened again.
    log: Option<InputLog>,
    dir: AttemptDir,
    protocol: Protocol,
    /// Whether the shim lets the agent go by itself.
    closes_itself: bool,
    /// How much of the log the shim has dealt with, as far as it said.
    forwarded: u64,
    /// Since when the agent rests.
    rests_since: Option<Instant>,
    /// Whether the log has a frame of which the shim was not told.
    untold: bool,
}

/// Makes what an attempt's channel begins with, durable before the launch.
pub(super) fn prepare(dir: &AttemptDir, channel: &Channel, epoch: u64) -> io::Result<()> {
    let protocol =
        Protocol { version: VERSION, prepared: channel.prepared.clone(), acknowledges: channel.acknowledges };
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(dir.file(PROTOCOL))?;
    file.write_all(&serde_json::to_vec(&protocol)?)?;
    file.sync_all()?;
    fs::File::open(dir.path())?.sync_all()?;
    let mut log = InputLog::open(dir).map_err(io_error)?;
    for frame in &channel.opening {
        log.append(&frame.id, epoch, &frame.bytes).map_err(io_error)?;
    }
    Ok(())
}

fn io_error(error: InputError) -> io::Error {
    match error {
        InputError::Io { source, .. } => source,
        other => io::Error::other(other),
    }
}

impl Wire {
    /// Opens the channel of an attempt that has one.
    fn open(dir: &AttemptDir) -> io::Result<Option<Self>> {
        let spec = dir.read_spec().map_err(io::Error::other)?;
        let Some(Stdin::Channel { close_when }) = spec.map(|spec| spec.stdin) else { return Ok(None) };
        let protocol: Protocol = serde_json::from_slice(&fs::read(dir.file(PROTOCOL))?)?;
        if protocol.version != VERSION {
            return Err(io::Error::other(format!("{PROTOCOL} has version {}", protocol.version)));
        }
        Ok(Some(Self {
            log: Some(InputLog::open(dir).map_err(io_error)?),
            dir: dir.clone(),
            protocol,
            closes_itself: close_when.is_some(),
            forwarded: 0,
            rests_since: None,
            untold: false,
        }))
    }

    /// Whether a frame is in the log, however it came there.
    pub(super) fn holds(&self, id: &str) -> bool {
        self.log.as_ref().is_some_and(|log| log.holds(id))
    }

    /// Whether a frame stands in the agent's standard input.
    pub(super) fn has_passed(&self, id: &str) -> bool {
        self.log.as_ref().and_then(|log| log.end_of(id)).is_some_and(|end| end <= self.forwarded)
    }

    /// Messages of people that are in the log, in their order.
    fn inputs(&self) -> Vec<&str> {
        let ids = self.log.as_ref().map_or_else(Vec::new, |log| log.ids(INPUT));
        ids.into_iter().filter_map(|id| id.strip_prefix(INPUT)).collect()
    }

    /// The message that this is the number of, from 1.
    pub(super) fn input_of(&self, number: &str) -> Option<String> {
        let number: usize = number.parse().ok()?;
        self.inputs().get(number.checked_sub(1)?).map(|id| (*id).to_owned())
    }

    /// Whether no more input is taken.
    pub(super) fn is_closed(&self) -> bool {
        self.log.as_ref().is_some_and(InputLog::is_closed)
    }

    /// Whether what is written now would reach the agent, as far as is known.
    pub(super) fn hears(&self) -> bool {
        let leaves = self.closes_itself && self.rests_since.is_some();
        !leaves && !self.is_closed()
    }

    /// Whether the agent says itself which messages it has.
    pub(super) fn acknowledges(&self) -> bool {
        self.protocol.acknowledges
    }

    /// Whether the agent was let go long ago and is still there.
    pub(super) fn lingers(&self) -> bool {
        self.rests_since.is_some_and(|since| since.elapsed() > LINGER_MAX) && (self.closes_itself || self.is_closed())
    }

    /// Whether the shim is to be told of a frame, the protocol's own answers among them.
    pub(super) fn take_untold(&mut self) -> bool {
        std::mem::take(&mut self.untold)
    }

    /// The shim has dealt with so much.
    pub(super) fn told(&mut self, forwarded: u64) {
        self.forwarded = self.forwarded.max(forwarded);
    }
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrote {
    /// It is in the log, now or since before.
    There,
    /// The disk is full or broken at the moment; it may be tried again.
    Later,
    /// It can never be: the input is closed, or the log is full.
    Never,
}

enum What {
    Frame(Frame),
    Close,
}

impl Owner {
    /// Opens the channel of an attempt, if it has one and it is not open.
    pub(super) async fn open_wire(&mut self, dir: &AttemptDir) -> Result<(), LetGo> {
        if self.wire.as_ref().is_some_and(|wire| wire.dir == *dir && wire.log.is_some()) {
            return Ok(());
        }
        let (rests_since, forwarded) = match self.wire.take() {
            Some(wire) if wire.dir == *dir => (wire.rests_since, wire.forwarded),
            _ => (None, 0),
        };
        let dir = dir.clone();
        let opened = tokio::task::spawn_blocking(move || Wire::open(&dir)).await;
        let opened = opened.unwrap_or_else(|error| Err(io::Error::other(error)));
        let opened = opened.map_err(|error| LetGo::Trouble(format!("the agent's input cannot be opened: {error}")))?;
        self.wire = opened.map(|wire| Wire { forwarded, rests_since, ..wire });
        Ok(())
    }

    /// The same for an agent that has ended: without it less is known of what it was told.
    pub(super) async fn open_wire_if_there(&mut self, dir: &AttemptDir) {
        if let Err(error) = self.open_wire(dir).await {
            tracing::warn!(run = %self.shared.key, %error, "what an ended agent was told cannot be read");
        }
    }

    /// Messages of people that were written to this attempt's agent.
    pub(super) fn messages(&self) -> u64 {
        self.wire.as_ref().map_or(0, |wire| wire.inputs().len() as u64)
    }

    /// The shim has dealt with so much of the input.
    pub(super) fn passed(&mut self, bytes: u64) {
        if let Some(wire) = &mut self.wire {
            wire.told(bytes);
        }
    }

    /// Writes a frame, once for its id.
    pub(super) async fn write(&mut self, id: String, bytes: Vec<u8>) -> Result<Wrote, LetGo> {
        self.append(What::Frame(Frame { id, bytes })).await
    }

    async fn append(&mut self, what: What) -> Result<Wrote, LetGo> {
        let Some(wire) = &mut self.wire else { return Ok(Wrote::Never) };
        let Some(mut log) = wire.log.take() else { return Ok(Wrote::Later) };
        let epoch = self.engine.inner.epoch.get();
        let appended = tokio::task::spawn_blocking(move || {
            let appended = match &what {
                What::Frame(frame) => log.append(&frame.id, epoch, &frame.bytes),
                What::Close => log.close(CLOSE, epoch),
            };
            (log, appended)
        })
        .await;
        let (log, appended) = appended.map_err(|error| LetGo::Trouble(error.to_string()))?;
        match appended {
            Ok(appended @ (Appended::New { .. } | Appended::AlreadyThere)) => {
                wire.log = Some(log);
                wire.untold |= matches!(appended, Appended::New { .. });
                self.shared.set_blocked(None, 0);
                Ok(Wrote::There)
            }
            Err(error @ InputError::Io { .. }) => {
                // What is durable is seen when it is opened again.
                let text = super::chain(&error);
                tracing::error!(run = %self.shared.key, error = text, "could not write an agent's input");
                self.shared.set_blocked(Some(format!("the agent's input: {text}")), self.now_ms());
                Ok(Wrote::Later)
            }
            Err(error @ (InputError::Closed | InputError::TooLong { .. })) => {
                wire.log = Some(log);
                tracing::warn!(run = %self.shared.key, %error, "an agent's input takes no more");
                Ok(Wrote::Never)
            }
        }
    }

    /// Writes what the protocol is to be answered; `false` if it cannot be written now, and then the lines must be read
    /// again.
    pub(super) async fn reply(&mut self, replies: Vec<Reply>) -> Result<bool, LetGo> {
        for reply in replies {
            let frame = match reply {
                Reply::Frame(frame) => frame,
                Reply::Prepared { id, set } => {
                    let prepared = self.wire.as_ref().map_or(&[][..], |wire| &wire.protocol.prepared);
                    let Some(prepared) = prepared.iter().find(|prepared| prepared.id == id).cloned() else {
                        tracing::error!(run = %self.shared.key, id, "the plan prepared no such frame");
                        continue;
                    };
                    prepared.complete(set)
                }
            };
            if self.append(What::Frame(frame)).await? == Wrote::Later {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends the agent's input.
    pub(super) async fn close_input(&mut self) -> Result<Wrote, LetGo> {
        self.append(What::Close).await
    }

    /// Whether the agent waits for input that will not come.
    pub(super) fn is_to_go(&mut self, source: &Source) -> bool {
        let stops = self.stop_wanted().is_some();
        let Some(wire) = &mut self.wire else { return false };
        if !source.at_rest() {
            wire.rests_since = None;
            return false;
        }
        let since = *wire.rests_since.get_or_insert_with(Instant::now);
        if wire.closes_itself || wire.is_closed() {
            return false;
        }
        let waits = |input: &InputAccepted| {
            wire.holds(&input_frame(&input.input_id)) || source.input(&input.input_id, &input.text).is_some()
        };
        let waits = self.state.talk.inputs.iter().any(waits) && since.elapsed() <= REST_MAX;
        stops || !waits
    }
}
