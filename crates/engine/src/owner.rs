//! One owner task per live run: the only writer of its log.
//!
//! Job: wait for a place, start an attempt, turn its records and output into committed events, act on a cancel, and end
//! the run once with the truth. Owns: the run's state, projection, tail and source cursor; the place it holds.
//! Never: signals a process itself while a shim lives; touches a run whose epoch is not its own; ends because somebody
//! stopped reading.
//!
//! Order of writes in an attempt, and what a crash after each leaves to the next server:
//!
//! ```text
//! commit run.attempt_started      no directory: nothing can have started; another attempt is made
//! create aN/ with spec            no lock, no exit: settled as never started under the lock; another attempt
//! launch the shim                 the same, or the lock is held: it is followed
//! (shim) started                  followed, or settled as lost if the shim is gone
//! commit process.started          adopted
//! commit output … with cursor     read again from the cursor
//! (shim) exit                     read to the end, then
//! commit process.exited + end     over; what is left is tidied by the sweep
//! ```

mod attempt;
mod commit;
mod control;
mod finish;
mod ingest;

use std::sync::Arc;
use std::time::Duration;

use longhaul_model::event::{EventData, Failure, RunCancelRequested};
use longhaul_model::run::{Command, Ctx, Phase, RunState, decide};
use longhaul_model::{Event, Seq, Timestamp};
use longhaul_store::{ReadLimit, RecordWrite, StoreError, Urgency};
use tokio::sync::{mpsc, oneshot};

use crate::cursor::Cursor;
use crate::engine::Engine;
use crate::error::CancelError;
use crate::places::{Place, Wait};
use crate::recovery::Fate;
use crate::view::{Live, Shared};

/// Questions to one owner that wait: cancels only, and a repeated cancel is the same cancel.
const INBOX_MAX: usize = 64;

/// How often a refused commit is tried again.
const RETRY: Duration = Duration::from_millis(300);

/// What others ask of an owner.
#[derive(Debug)]
pub(crate) enum Message {
    /// Record that the run shall end.
    Cancel { intent: RunCancelRequested, records: Vec<RecordWrite>, reply: oneshot::Sender<Result<bool, CancelError>> },
}

/// Why an owner lets go before its run is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LetGo {
    /// The server stops; the run goes on.
    #[error("the server stops")]
    Draining,
    /// Another owner has written, or what is durable is not known.
    #[error("the run was taken over or its state is in doubt: {0}")]
    Lost(String),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How an owner begins.
#[derive(Debug)]
enum Begin {
    /// A run that was accepted just now.
    Fresh(Result<Wait, Place>),
    /// A run of an earlier server.
    Recovering,
}

/// The owner of one run.
pub(crate) struct Owner {
    engine: Engine,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Message>,
    begin: Option<Begin>,
    place: Option<Place>,
    state: RunState,
    tail: Seq,
    last_ts: Timestamp,
    cursor: Option<Cursor>,
    /// Whether this run is one that recovery has still to account for.
    unaccounted: bool,
}

impl Owner {
    fn new(engine: Engine, shared: Arc<Shared>, begin: Begin) -> (Self, Live) {
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        let live = Live { shared: Arc::clone(&shared), inbox: sender };
        let unaccounted = matches!(begin, Begin::Recovering);
        let owner = Self {
            engine,
            shared,
            inbox,
            begin: Some(begin),
            place: None,
            state: RunState::default(),
            tail: Seq::ZERO,
            last_ts: Timestamp::default(),
            cursor: None,
            unaccounted,
        };
        (owner, live)
    }

    /// The owner of a run that was accepted just now, with its place or its place in line.
    pub(crate) fn fresh(engine: Engine, shared: Arc<Shared>, wait: Result<Wait, Place>) -> (Self, Live) {
        Self::new(engine, shared, Begin::Fresh(wait))
    }

    /// The owner of a run that an earlier server left.
    pub(crate) fn recovering(engine: Engine, shared: Arc<Shared>) -> (Self, Live) {
        Self::new(engine, shared, Begin::Recovering)
    }

    /// Owns the run until it is over or the server stops.
    pub(crate) async fn run(mut self) {
        let key = self.shared.key.clone();
        match self.own().await {
            Ok(()) => {}
            Err(LetGo::Draining) => return,
            Err(error) => {
                tracing::error!(run = %key, error = %crate::owner::chain(&error), "let go of a run");
                metrics::counter!("longhaul_owners_lost_total").increment(1);
            }
        }
        self.engine.forget(&key);
    }

    async fn own(&mut self) -> Result<(), LetGo> {
        self.load().await?;
        match self.begin.take() {
            Some(Begin::Fresh(Ok(wait))) => self.wait_for_place(wait).await?,
            Some(Begin::Fresh(Err(place))) => self.place = Some(place),
            Some(Begin::Recovering) | None => self.take_over().await?,
        }
        while !self.is_over() {
            match self.state.phase {
                Phase::Queued if self.place.is_some() => self.start_attempt().await?,
                Phase::Queued => {
                    let wait = self.engine.inner.places.wait_accepted(&self.shared.key);
                    self.wait_for_place(wait).await?;
                }
                Phase::Starting { attempt } | Phase::Running { attempt } => self.follow(attempt, None).await?,
                Phase::Vacant | Phase::Ended { .. } => break,
            }
        }
        self.tidy().await;
        Ok(())
    }

    /// Reads the run's log and folds it; the committed events are the truth.
    async fn load(&mut self) -> Result<(), LetGo> {
        let stream = self.shared.stream;
        let head = self.engine.store().head(stream).await?;
        if let Some(bytes) = &head.cursor {
            self.cursor = Some(Cursor::decode(bytes).map_err(|what| self.corrupt("cursor", what))?);
        }
        let mut state = std::mem::take(&mut self.state);
        let mut run = None;
        let mut last = None;
        while self.tail < head.tail {
            let page = self.engine.store().read(stream, self.tail, ReadLimit::default()).await?;
            let Some(end) = page.events.last().map(|event| event.seq) else {
                return Err(self.corrupt("events", "the log ends before its tail".to_owned()).into());
            };
            for stored in page.events {
                let event = Event::decode(&stored.wire)
                    .map_err(|e| self.corrupt(&format!("event {}", stored.seq), chain(&e)))?;
                state = state.evolve(&event.data);
                match &mut run {
                    None => run = longhaul_model::projection::Projection::begin(&event),
                    Some(run) => run.apply(&event),
                }
                last = Some(event.ts);
            }
            self.tail = end;
            if self.engine.inner.draining.is_cancelled() {
                return Err(LetGo::Draining);
            }
        }
        self.state = state;
        self.last_ts = last.unwrap_or_default();
        if let Some(run) = run {
            self.shared.with_doc(|doc| doc.run = run);
        }
        Ok(())
    }

    fn corrupt(&self, what: &str, why: String) -> StoreError {
        StoreError::Corrupt { place: format!("{what} of run {}", self.shared.key), what: why }
    }

    fn is_over(&self) -> bool {
        matches!(self.state.phase, Phase::Ended { .. })
    }

    fn ctx(&self) -> Ctx {
        Ctx { epoch: self.engine.inner.epoch }
    }

    fn now_ms(&self) -> i64 {
        self.engine.now().unix_ms()
    }

    /// Accounts for a recovered run, once.
    fn account(&mut self, fate: Fate) {
        if std::mem::take(&mut self.unaccounted) {
            tracing::info!(run = %self.shared.key, ?fate, "recovered a run");
            self.engine.inner.recovery.count(fate);
        }
    }

    async fn wait_for_place(&mut self, mut wait: Wait) -> Result<(), LetGo> {
        let draining = self.engine.inner.draining.clone();
        while self.place.is_none() && !self.is_over() {
            tokio::select! {
                place = wait.ready() => self.place = Some(place),
                Some(message) = self.inbox.recv() => self.answer(message).await?,
                () = draining.cancelled() => return Err(LetGo::Draining),
            }
        }
        Ok(())
    }

    /// Decides and commits; a refusal by the state is not an error of the owner's and is logged.
    async fn apply(&mut self, command: Command, urgency: Urgency) -> Result<(), LetGo> {
        match decide(&self.state, command, &self.ctx()) {
            Ok(events) if events.is_empty() => Ok(()),
            Ok(events) => self.commit_patiently(events, None, vec![], urgency).await,
            Err(longhaul_model::Rejection::Fenced { owner }) => Err(LetGo::Lost(format!("epoch {owner} owns it"))),
            Err(rejection) => {
                tracing::warn!(run = %self.shared.key, %rejection, "a command did not apply");
                Ok(())
            }
        }
    }

    /// Answers a question; the caller acts on a cancel by looking at the state.
    async fn answer(&mut self, message: Message) -> Result<(), LetGo> {
        let Message::Cancel { intent, records, reply } = message;
        let events = match decide(&self.state, Command::RequestCancel(intent), &self.ctx()) {
            Ok(events) => events,
            Err(_) => vec![],
        };
        if events.is_empty() {
            let _ = reply.send(Ok(false));
            return Ok(());
        }
        match self.commit(events, None, records, Urgency::Reserve).await {
            Ok(()) => {
                let _ = reply.send(Ok(true));
                Ok(())
            }
            Err(commit::Refused::Later(error)) => {
                let _ = reply.send(Err(error.into()));
                Ok(())
            }
            Err(commit::Refused::LetGo(error)) => Err(error),
        }
    }

    /// Ends a run that cannot be started.
    async fn give_up(&mut self, code: &str, message: String) -> Result<(), LetGo> {
        let error = Failure { code: code.to_owned(), message, stderr_tail: None };
        self.account(Fate::Failed);
        self.apply(Command::GiveUp(error), Urgency::Reserve).await
    }

    /// What is left to do once the run can have no further attempt.
    async fn tidy(&mut self) {
        let dir = self.run_dir();
        let tmp = self.tmp_dir();
        let tidied = tokio::task::spawn_blocking(move || {
            crate::sealed::remove(&dir);
            match std::fs::remove_dir_all(&tmp) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(dir = %tmp.display(), %error, "could not remove a run's temporary files");
                }
                _ => {}
            }
        })
        .await;
        if let Err(error) = tidied {
            tracing::warn!(run = %self.shared.key, %error, "tidying failed");
        }
        self.account(Fate::Finished);
        self.place = None;
    }

    fn run_dir(&self) -> std::path::PathBuf {
        self.engine.runs_dir().join(self.shared.with_doc(|doc| doc.dir.clone()))
    }

    /// A short private path: sockets of agents lie in it, and a socket's path holds 107 bytes.
    fn tmp_dir(&self) -> std::path::PathBuf {
        let dir = self.shared.with_doc(|doc| doc.dir.clone());
        let tail = &dir[dir.len().saturating_sub(12)..];
        std::path::Path::new("/tmp").join(format!("longhaul-{tail}"))
    }
}

/// An error with its causes, for a log line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Events as a list, for the places that make one.
pub(crate) type Events = Vec<EventData>;
