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
//! opening frames of its channel   the same
//! launch the shim                 the same, or the lock is held: it is followed
//! (shim) started                  followed, or settled as lost if the shim is gone
//! commit process.started          adopted
//! commit output … with cursor     read again from the cursor
//! (shim) exit                     read to the end, then
//! commit process.exited + end     over; what is left is tidied by the sweep
//!
//! commit process.exited, without an end: lost, and the run goes on; or never started
//!                                 in line again; the next attempt begins as above, and how it goes on follows from the log
//! ```

mod attempt;
mod commit;
mod confined;
mod control;
mod finish;
mod goes_on;
mod ingest;
mod launch;
mod people;
mod restored;
mod wire;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;

use longhaul_model::event::{EventData, Failure, RunCancelRequested};
use longhaul_model::policy::Policy;
use longhaul_model::run::{Command, Ctx, Phase, RunState, decide};
use longhaul_model::{Event, Seq, Timestamp};
use longhaul_store::{Commit, ReadLimit, RecordWrite, StoreError, Urgency};
use tokio::sync::{mpsc, oneshot};

use self::commit::Refused;
pub(crate) use self::launch::private_dir;
pub(crate) use self::people::{NewAnswer, NewInput};
use crate::cursor::Cursor;
use crate::dirs::Stay;
use crate::engine::Engine;
use crate::error::CancelError;
use crate::lanes::Turn;
use crate::places::{Place, Wait};
use crate::recovery::Fate;
use crate::view::{Live, Shared};

/// Questions to one owner that wait; whoever asks waits for room.
const INBOX_MAX: usize = 64;

/// How often a refused commit is tried again, and how soon a broken owner starts over.
const RETRY: Duration = Duration::from_millis(300);

/// The longest wait of a broken owner.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How often the same output may break its owner before it is given up.
const POISON_MAX: u32 = 3;

/// What others ask of an owner.
#[derive(Debug)]
pub(crate) enum Message {
    /// Record that the run shall end.
    Cancel { intent: RunCancelRequested, records: Vec<RecordWrite>, reply: oneshot::Sender<Result<bool, CancelError>> },
    /// Say something to the agent.
    Input(NewInput),
    /// Answer a question of the agent.
    Answer(NewAnswer),
}

/// Why an owner lets go before its run is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LetGo {
    /// The server stops; the run goes on.
    #[error("the server stops")]
    Draining,
    /// A later owner has the run.
    #[error("the run was taken over: {0}")]
    Fenced(String),
    /// Something outside failed, or what is durable is in doubt: the state is dropped and read again.
    #[error("the run cannot be looked after at the moment: {0}")]
    Trouble(String),
    /// What the source says cannot be committed or breaks our code; trying again breaks again.
    #[error("the run's output cannot be kept: {0}")]
    Poison(String),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a run that was accepted just now stands before the places.
#[derive(Debug)]
pub(crate) enum Line {
    /// It has one.
    Placed(Place),
    /// It is in line.
    Waits(Wait),
    /// It gets in line once its turn in its session has come.
    Later,
}

/// What a run holds or waits for before its place: its session's turn, and its stay in its directory.
pub(crate) type Held = (Option<Turn>, Option<Stay>);

/// How an owner begins.
#[derive(Debug)]
enum Begin {
    /// A run that was accepted just now.
    Fresh(Line),
    /// A run of an earlier server, with its place in line if it waited.
    Recovering(Option<Wait>),
}

/// The owner of one run.
pub(crate) struct Owner {
    engine: Engine,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Message>,
    begin: Option<Begin>,
    place: Option<Place>,
    /// The turn in its session, waited for or held until its process tree is gone.
    turn: Option<Turn>,
    /// The stay in its directory, the same.
    stay: Option<Stay>,
    state: RunState,
    tail: Seq,
    last_ts: Timestamp,
    cursor: Option<Cursor>,
    /// The channel of the attempt that is followed, if it has one.
    wire: Option<wire::Wire>,
    /// The rules by which the agent's questions are answered, once they were needed.
    policy: Option<Policy>,
    /// Why the output of this run is not read any more: it was tried several times and broke each time.
    poison: Option<String>,
    /// When this server first saw the process live.
    seen_live: Option<Instant>,
    /// What the program was asked of its version, until the answer was dealt with.
    asked: Option<crate::probe::Asked>,
    /// When this server first told the shim to stop.
    stop_begun: Option<Instant>,
    /// Whether this run is one that recovery has still to account for.
    unaccounted: bool,
}

impl Owner {
    fn new(engine: Engine, shared: Arc<Shared>, begin: Begin) -> (Self, Live) {
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        let live = Live { shared: Arc::clone(&shared), inbox: sender };
        let unaccounted = matches!(begin, Begin::Recovering(_));
        let owner = Self {
            engine,
            shared,
            inbox,
            begin: Some(begin),
            place: None,
            turn: None,
            stay: None,
            state: RunState::default(),
            tail: Seq::ZERO,
            last_ts: Timestamp::default(),
            cursor: None,
            wire: None,
            policy: None,
            poison: None,
            seen_live: None,
            asked: None,
            stop_begun: None,
            unaccounted,
        };
        (owner, live)
    }

    /// The owner of a run that was accepted just now, with its place or its place in line.
    pub(crate) fn fresh(engine: Engine, shared: Arc<Shared>, line: Line, held: Held) -> (Self, Live) {
        let (mut owner, live) = Self::new(engine, shared, Begin::Fresh(line));
        (owner.turn, owner.stay) = held;
        (owner, live)
    }

    /// The owner of a run that an earlier server left.
    pub(crate) fn recovering(
        engine: Engine,
        shared: Arc<Shared>,
        wait: Option<Wait>,
        place: Option<Place>,
        held: Held,
    ) -> (Self, Live) {
        let (mut owner, live) = Self::new(engine, shared, Begin::Recovering(wait));
        owner.place = place;
        (owner.turn, owner.stay) = held;
        (owner, live)
    }

    /// Owns the run until it is over or the server stops. Whatever goes wrong, the run keeps its place and an owner: the
    /// state is dropped, read again from the store, and gone on with.
    pub(crate) async fn run(mut self) {
        let key = self.shared.key.clone();
        let mut broken = Broken::default();
        loop {
            let error = match AssertUnwindSafe(self.own()).catch_unwind().await {
                Ok(Ok(())) => break,
                Ok(Err(LetGo::Draining)) => {
                    // Place and turn go with the process, not with this server: nobody in line may have them.
                    std::mem::forget((self.place.take(), self.turn.take(), self.stay.take()));
                    return;
                }
                Ok(Err(LetGo::Fenced(why))) => {
                    tracing::error!(run = %key, why, "let go of a run");
                    break;
                }
                Ok(Err(error)) => error,
                Err(panic) => LetGo::Poison(format!("a fault of ours: {}", said(&*panic))),
            };
            tracing::error!(run = %key, error = %chain(&error), "starting over with a run");
            metrics::counter!("longhaul_owner_restarts_total").increment(1);
            self.shared.set_blocked(Some(chain(&error)), self.now_ms());
            let wait = broken.again(self.tail, &error);
            if broken.is_hopeless() {
                self.poison = Some(chain(&error));
            }
            let draining = self.engine.inner.draining.clone();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = draining.cancelled() => {
                    std::mem::forget((self.place.take(), self.turn.take(), self.stay.take()));
                    return;
                }
            }
            self.begin = Some(Begin::Recovering(None));
            (self.state, self.tail, self.cursor, self.wire) = (RunState::default(), Seq::ZERO, None, None);
        }
        self.engine.forget(&key);
    }

    async fn own(&mut self) -> Result<(), LetGo> {
        self.load().await?;
        match self.begin.take() {
            Some(Begin::Fresh(Line::Waits(wait))) => self.wait_for_place(wait).await?,
            Some(Begin::Fresh(Line::Placed(place))) => self.place = Some(place),
            Some(Begin::Fresh(Line::Later)) => {}
            Some(Begin::Recovering(_)) | None if self.is_restored() => {
                self.end_restored().await?;
                (self.place, self.turn, self.stay) = (None, None, None);
                // Nothing is tidied: what bears this run's name is the original's.
                return Ok(());
            }
            Some(Begin::Recovering(wait)) => self.take_over(wait).await?,
            None => self.take_over(None).await?,
        }
        while !self.is_over() {
            match self.state.phase {
                Phase::Queued if self.place.is_some() => self.start_attempt().await?,
                Phase::Queued => {
                    self.wait_for_turn().await?;
                    if !self.is_over() {
                        self.wait_for_dir().await?;
                    }
                    if self.is_over() {
                        break;
                    }
                    let who = self.shared.with_doc(|doc| doc.who(&self.shared.key));
                    let wait = self.engine.inner.places.wait_accepted(who);
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

    /// Waits until the runs of the session before this one are over.
    async fn wait_for_turn(&mut self) -> Result<(), LetGo> {
        let Some(mut turn) = self.turn.take() else { return Ok(()) };
        let came = self.listen_until(turn.come()).await;
        self.turn = Some(turn);
        came
    }

    /// Waits until nobody else works in the directory, if that was asked for.
    async fn wait_for_dir(&mut self) -> Result<(), LetGo> {
        let Some(mut stay) = self.stay.take() else { return Ok(()) };
        let came = self.listen_until(stay.come()).await;
        self.stay = Some(stay);
        came
    }

    /// Waits for something, answering questions meanwhile; not longer than until the run is over.
    async fn listen_until(&mut self, come: impl Future<Output = ()>) -> Result<(), LetGo> {
        let draining = self.engine.inner.draining.clone();
        let mut come = std::pin::pin!(come);
        loop {
            tokio::select! {
                biased;
                () = draining.cancelled() => return Err(LetGo::Draining),
                Some(message) = self.inbox.recv() => {
                    self.answer(message).await?;
                    if self.is_over() {
                        return Ok(());
                    }
                }
                () = &mut come => return Ok(()),
            }
        }
    }

    async fn wait_for_place(&mut self, mut wait: Wait) -> Result<(), LetGo> {
        let draining = self.engine.inner.draining.clone();
        while self.place.is_none() && !self.is_over() {
            tokio::select! {
                biased;
                () = draining.cancelled() => return Err(LetGo::Draining),
                Some(message) = self.inbox.recv() => self.answer(message).await?,
                place = wait.ready() => self.place = Some(place),
            }
        }
        Ok(())
    }

    /// Decides and commits, and decides anew after each wait for room; a refusal by the state is not an error of the
    /// owner's and is logged.
    async fn apply(&mut self, command: Command, urgency: Urgency) -> Result<(), LetGo> {
        loop {
            let events = match decide(&self.state, command.clone(), &self.ctx()) {
                Ok(events) if events.is_empty() => return Ok(()),
                Ok(events) => events,
                Err(longhaul_model::Rejection::Fenced { owner }) => {
                    return Err(LetGo::Fenced(format!("epoch {owner} owns it")));
                }
                Err(rejection) => {
                    tracing::warn!(run = %self.shared.key, %rejection, "a command did not apply");
                    return Ok(());
                }
            };
            match self.commit(events, None, vec![], urgency).await {
                Ok(()) => {
                    self.shared.set_blocked(None, 0);
                    return Ok(());
                }
                Err(Refused::LetGo(error)) => return Err(error),
                Err(Refused::Later(error)) => self.pause(&error).await?,
            }
        }
    }

    /// Answers a question; the caller acts on a cancel by looking at the state.
    async fn answer(&mut self, message: Message) -> Result<(), LetGo> {
        let (intent, records, reply) = match message {
            Message::Cancel { intent, records, reply } => (intent, records, reply),
            Message::Input(new) => return self.take_input(new).await,
            Message::Answer(new) => return self.take_answer(new).await,
        };
        let events = decide(&self.state, Command::RequestCancel(intent), &self.ctx()).unwrap_or_default();
        let requested = !events.is_empty();
        if !requested {
            // The answer to a named operation is kept even where there was nothing to do.
            let commit = Commit { records, urgency: Urgency::Reserve, ..Commit::default() };
            let kept =
                if commit.records.is_empty() { Ok(()) } else { self.engine.store().commit(commit).await.map(drop) };
            let _ = reply.send(kept.map(|()| false).map_err(CancelError::from));
            return Ok(());
        }
        match self.commit(events, None, records, Urgency::Reserve).await {
            Ok(()) => {
                let _ = reply.send(Ok(requested));
                Ok(())
            }
            Err(Refused::Later(error)) => {
                let _ = reply.send(Err(error.into()));
                Ok(())
            }
            Err(Refused::LetGo(error)) => Err(error),
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
            // The request goes last: while it is there, the next start finds what is left, secrets in files too.
            match std::fs::remove_dir_all(&tmp) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(dir = %tmp.display(), %error, "could not remove a run's temporary files");
                }
                _ => {}
            }
            crate::sealed::remove(&dir);
        })
        .await;
        if let Err(error) = tidied {
            tracing::warn!(run = %self.shared.key, %error, "tidying failed");
        }
        self.account(Fate::Finished);
        (self.place, self.turn, self.stay) = (None, None, None);
    }

    fn run_dir(&self) -> std::path::PathBuf {
        self.engine.runs_dir().join(self.shared.with_doc(|doc| doc.dir.clone()))
    }

    fn tmp_dir(&self) -> std::path::PathBuf {
        self.shared.with_doc(|doc| crate::engine::tmp_dir(&doc.dir))
    }
}

/// How often looking after a run broke without getting any further.
#[derive(Debug, Default)]
struct Broken {
    at: Seq,
    times: u32,
    poisoned: u32,
}

impl Broken {
    /// Counts another break and says how long to wait.
    fn again(&mut self, tail: Seq, error: &LetGo) -> Duration {
        if tail > self.at {
            *self = Self { at: tail, ..Self::default() };
        }
        self.times += 1;
        self.poisoned += u32::from(matches!(error, LetGo::Poison(_)));
        (RETRY * 2_u32.saturating_pow(self.times.min(8) - 1)).min(RETRY_MAX)
    }

    /// Whether trying again is of no use. What fails outside may heal and is tried for ever.
    const fn is_hopeless(&self) -> bool {
        self.poisoned >= POISON_MAX
    }
}

/// What a panic said.
fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "no words",
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
