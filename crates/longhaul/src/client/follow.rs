//! Following one run to its end, over as many connections as that takes.
//!
//! Job: every event once and in order, whatever drops in between: reconnects at the cursor, finds a server that moved,
//! starts one that died. Owns: the cursor.
//! Never: gives an event twice, starts a server that was stopped on purpose, waits without end.
//!
//! ```text
//!  idle ──connect──► open ──bytes──► frames ──► Step::Hello | Step::Event …… terminal event ──► done
//!    ▲                 │ cut, silence, draining
//!    └──── backoff ◄───┘ (Step::Waiting once per round; a refusal that will not pass is an error)
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use longhaul_api::sse;
use longhaul_model::{Event, ProjectId, RunId, Seq, limits};
use reqwest::Response;
use serde::Deserialize;

use super::call::Client;
use super::error::ClientError;
use super::find::{Finder, Starting};
use super::launch::Launched;

/// Silence after which a connection counts as dead: three keep-alives.
const SILENCE_MAX: Duration = limits::SSE_KEEPALIVE.saturating_mul(3);

/// The first and the longest pause between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long a server that said it is going may take to be replaced.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// How long a server may stay away: a laptop's sleep, a long repair.
const AWAY_MAX: Duration = Duration::from_hours(1);

/// What a stream says first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Hello {
    /// The first event that is kept.
    pub earliest: Seq,
    /// The last event now.
    pub tail: Seq,
}

/// What happens next to a follower.
#[derive(Debug)]
pub enum Step {
    /// A connection is open.
    Hello(Hello),
    /// The next event, and its bytes as they came.
    Event(Box<Event>, String),
    /// There is no connection, for that long by now.
    Waiting(Duration),
    /// A server was started to go on with.
    Launched(Launched),
    /// The terminal event was given before.
    Done,
}

/// A follower of one run.
#[derive(Debug)]
pub struct Follow {
    finder: Finder,
    client: Client,
    project: ProjectId,
    run: RunId,
    cursor: Seq,
    open: Option<Open>,
    tried: bool,
    away_since: Option<Instant>,
    pause: Duration,
    draining: bool,
    done: bool,
}

#[derive(Debug)]
struct Open {
    response: Response,
    parser: sse::Parser,
    frames: VecDeque<sse::Frame>,
}

impl Follow {
    /// A follower that begins after `cursor`.
    pub fn new(finder: Finder, client: Client, project: ProjectId, run: RunId, cursor: Seq) -> Self {
        Self {
            finder,
            client,
            project,
            run,
            cursor,
            open: None,
            tried: false,
            away_since: None,
            pause: BACKOFF.0,
            draining: false,
            done: false,
        }
    }

    /// The server as it was last found.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The run's project.
    pub fn project(&self) -> &ProjectId {
        &self.project
    }

    /// The run.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// The last event that was given.
    pub fn cursor(&self) -> Seq {
        self.cursor
    }

    /// The next step; after [`Step::Done`] always that.
    ///
    /// # Errors
    /// A refusal that will not pass, or a server that stayed away too long. The run is not touched by either.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped: the cursor moves only when an event is returned.
    pub async fn next(&mut self) -> Result<Step, ClientError> {
        loop {
            if self.done {
                return Ok(Step::Done);
            }
            let Some(open) = &mut self.open else {
                if let Some(step) = self.connect().await? {
                    return Ok(step);
                }
                continue;
            };
            if let Some(frame) = open.frames.pop_front() {
                if let Some(step) = self.frame(frame)? {
                    return Ok(step);
                }
                continue;
            }
            match tokio::time::timeout(SILENCE_MAX, open.response.chunk()).await {
                Ok(Ok(Some(bytes))) => open.frames.extend(open.parser.push(&bytes)),
                Ok(Ok(None) | Err(_)) | Err(_) => self.open = None,
            }
        }
    }

    fn frame(&mut self, frame: sse::Frame) -> Result<Option<Step>, ClientError> {
        if frame.id.is_none() {
            match frame.event.as_deref() {
                Some("hello") => {
                    // The pause stays as it is until an event comes: a server that only ever greets is not hammered.
                    self.away_since = None;
                    self.draining = false;
                    return Ok(serde_json::from_str(&frame.data).ok().map(Step::Hello));
                }
                Some("draining") => self.draining = true,
                Some(_) | None => {}
            }
            return Ok(None);
        }
        let event = Event::decode(frame.data.as_bytes())
            .map_err(|_| self.client.strange("an event this version cannot read"))?;
        if event.seq <= self.cursor {
            return Ok(None);
        }
        self.cursor = event.seq;
        self.done = event.data.is_terminal();
        self.pause = BACKOFF.0;
        Ok(Some(Step::Event(Box::new(event), frame.data)))
    }

    /// One try to open the stream. `None` means that it is open.
    async fn connect(&mut self) -> Result<Option<Step>, ClientError> {
        let away = self.away_since.get_or_insert_with(Instant::now).elapsed();
        if !std::mem::replace(&mut self.tried, true) {
            return self.try_once().await;
        }
        if away > AWAY_MAX {
            return Err(self.client.unreachable("it stayed away for an hour"));
        }
        tokio::time::sleep(jittered(self.pause)).await;
        self.pause = (self.pause * 2).min(BACKOFF.1);
        if self.finder.named.is_none() {
            let starting = if self.draining && away < DRAIN_PATIENCE { Starting::Refused } else { Starting::Allowed };
            if self.draining && away >= DRAIN_PATIENCE {
                return Err(ClientError::NoServer { data_dir: self.finder.data_dir()?.to_owned() });
            }
            match self.finder.find(starting).await {
                Ok(found) => {
                    self.client = found.client;
                    self.draining = false;
                    if let Some(launched) = found.launched {
                        return Ok(Some(Step::Launched(launched)));
                    }
                }
                Err(ClientError::NoServer { .. }) => return Ok(Some(Step::Waiting(away))),
                Err(error) => return Err(error),
            }
        }
        self.try_once().await
    }

    async fn try_once(&mut self) -> Result<Option<Step>, ClientError> {
        match self.client.event_stream(&self.project, &self.run, self.cursor).await {
            Ok(Some(response)) => {
                self.open = Some(Open { response, parser: sse::Parser::default(), frames: VecDeque::new() });
                Ok(None)
            }
            Ok(None) => {
                self.done = true;
                Ok(Some(Step::Done))
            }
            Err(error) if error.is_passing() => {
                Ok(Some(Step::Waiting(self.away_since.map_or(Duration::ZERO, |since| since.elapsed()))))
            }
            Err(error) => Err(error),
        }
    }
}

/// Between half of a pause and the whole, so that many readers do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    pause / 2 + pause.mul_f64(f64::from(random) / f64::from(u32::MAX)) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_jittered_within_bounds() {
        for _ in 0..200 {
            let pause = jittered(Duration::from_millis(100));
            assert!(pause >= Duration::from_millis(50) && pause <= Duration::from_millis(100), "{pause:?}");
        }
    }
}
