//! The exporter: follows the feed of all runs and posts the spans of each that ends.
//!
//! ```text
//! feed after the cursor ─► an end ─► the run's log ─► spans ─► post ─► the cursor, durable
//!                                                        ▲        │
//!                                                        └ later ─┘  waits, longer and longer
//! ```
//!
//! A crash before the cursor is durable posts the same spans again, under the same ids. Owns: the cursor, a record.
//! Never: holds up a run; keeps more than one batch in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longhaul_engine::{Engine, View};
use longhaul_model::{Event, RunKey, Seq, Trace, event, limits};
use longhaul_store::{Commit, ReadLimit, RecordKey, RecordWrite, Store, StoreError};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::otlp::{self, Answer};
use super::spans::Fold;
use super::target::Target;

/// Entries of the feed that are looked at together.
const PAGE: usize = 256;

/// Spans after which a batch is posted; one run may bring more.
const BATCH_SPANS: usize = 512;

/// Runs that ended longer ago are not exported: a collector was away for long, or a clock is wrong.
const AGE_MAX: Duration = Duration::from_hours(24);

/// The wait after the first failed post; each later one is twice as long.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// The longest wait, whatever a collector asks for.
const WAIT_MAX: Duration = Duration::from_mins(1);

/// How long the last post may take once the server ends.
const LAST_POST: Duration = Duration::from_secs(2);

/// What exports, while the server lives.
#[derive(Debug)]
pub struct Exporter {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Exporter {
    /// Where the cursor stands. Where nothing was exported before, the export begins with what ends from now on; call it
    /// before runs are taken over. Without a target the cursor is forgotten: what ends meanwhile is nobody's to see.
    pub async fn cursor(store: &dyn Store, target: Option<&Target>) -> Seq {
        let found = match store.record(&key()).await {
            Ok(found) => found.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse().ok()).map(Seq::new),
            Err(_) => None,
        };
        let now = *store.watch_feed().borrow();
        match (target, found) {
            (Some(_), Some(cursor)) => cursor.min(now),
            (Some(_), None) => {
                save(store, Some(now)).await;
                now
            }
            (None, Some(_)) => {
                save(store, None).await;
                now
            }
            (None, None) => now,
        }
    }

    /// Exports what ends after `cursor`.
    pub fn start(engine: Engine, target: Target, cursor: Seq) -> Self {
        let stop = CancellationToken::new();
        tracing::info!(to = target.url(), "exporting traces");
        let follower = Follower {
            engine,
            target: Arc::new(target),
            agent: otlp::agent(),
            cursor,
            failing: false,
            stop: stop.clone(),
        };
        Self { task: tokio::spawn(follower.follow()), stop }
    }

    /// Ends it; what was not exported is by the next server.
    pub async fn end(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(LAST_POST, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

fn key() -> RecordKey {
    RecordKey::new("node", "traces")
}

async fn save(store: &dyn Store, cursor: Option<Seq>) {
    let value = cursor.map(|cursor| Bytes::from(cursor.to_string()));
    let write = RecordWrite { key: key(), value, only_new: false, stamp: false };
    // If it fails, the same spans are posted again after the next start.
    if let Err(error) = store.commit(Commit { records: vec![write], ..Commit::default() }).await {
        tracing::debug!(%error, "the cursor of traces is not durable");
    }
}

struct Follower {
    engine: Engine,
    target: Arc<Target>,
    agent: ureq::Agent,
    cursor: Seq,
    failing: bool,
    stop: CancellationToken,
}

/// The server ends.
struct Stopped;

impl Follower {
    async fn follow(mut self) {
        let mut tail = self.engine.store().watch_feed();
        loop {
            tail.borrow_and_update();
            match self.page().await {
                Err(Stopped) => return,
                Ok(true) => {}
                Ok(false) => tokio::select! {
                    changed = tail.changed() => if changed.is_err() { return },
                    () = self.stop.cancelled() => return,
                },
            }
        }
    }

    /// Exports a page of the feed; whether there was one.
    async fn page(&mut self) -> Result<bool, Stopped> {
        let limit = ReadLimit { events_max: PAGE, bytes_max: limits::PAGE_BYTES_MAX };
        let page = match self.engine.store().feed(self.cursor, None, limit).await {
            Ok(page) => page,
            Err(StoreError::Expired { earliest }) => {
                self.cursor = Seq::new(earliest.get().saturating_sub(1));
                return Ok(true);
            }
            Err(StoreError::Ahead { tail }) => {
                self.cursor = tail;
                return Ok(true);
            }
            Err(StoreError::Closed) => return Err(Stopped),
            Err(error) => {
                tracing::warn!(%error, "traces wait for the store");
                self.rest(WAIT_MAX).await?;
                return Ok(true);
            }
        };
        let (mut runs, mut spans) = (Vec::new(), 0);
        for entry in &page.entries {
            if self.stop.is_cancelled() {
                return Err(Stopped);
            }
            let ended = event::peek_type(&entry.wire)
                .is_some_and(|name| matches!(name, "run.completed" | "run.failed" | "run.cancelled"));
            if !ended {
                continue;
            }
            let Ok(end) = Event::decode(&entry.wire) else { continue };
            let key = RunKey { project: entry.project.clone(), run: end.run_id.clone() };
            let age = self.engine.now().unix_ms().saturating_sub(end.ts.unix_ms());
            if age > AGE_MAX.as_millis() as i64 {
                count("too_old", 1);
                continue;
            }
            let Some(run) = self.fold(&key).await else { continue };
            spans += run.spans.len();
            runs.push(run);
            if spans >= BATCH_SPANS {
                self.post(&std::mem::take(&mut runs), entry.position).await?;
                spans = 0;
            }
        }
        if !runs.is_empty() {
            self.post(&runs, page.upto).await?;
        }
        let moved = page.upto > self.cursor || !page.entries.is_empty();
        self.cursor = page.upto;
        Ok(moved)
    }

    /// The spans of a run, out of its log; `None` if it is gone, or its caller wants none.
    async fn fold(&self, key: &RunKey) -> Option<otlp::Run> {
        let view = self.engine.view(key).await.ok()??;
        let trace = match view.doc.trace.clone() {
            Some(trace) if !trace.sampled => return None,
            Some(trace) => trace,
            None => own_trace(key, &view)?,
        };
        let mut fold = Fold::new(trace.clone());
        let mut after = Seq::ZERO;
        loop {
            let page = self.engine.store().read(view.stream, after, ReadLimit::default()).await.ok()?;
            let Some(last) = page.events.last() else { break };
            after = last.seq;
            for stored in &page.events {
                if event::peek_type(&stored.wire).is_some_and(Fold::needs)
                    && let Ok(event) = Event::decode(&stored.wire)
                {
                    fold.apply(&event);
                }
            }
        }
        Some(otlp::Run { trace_id: trace.trace_id, state: trace.state, spans: fold.spans()? })
    }

    /// Posts until it is there or cannot be, then moves the cursor.
    async fn post(&mut self, runs: &[otlp::Run], upto: Seq) -> Result<(), Stopped> {
        let body: Arc<str> = otlp::body(self.target.service(), runs).to_string().into();
        let newest = runs.iter().filter_map(|run| run.spans.first()).map(|root| root.end.unix_ms()).max().unwrap_or(0);
        let mut wait = WAIT_MIN;
        loop {
            let (agent, target, text) = (self.agent.clone(), Arc::clone(&self.target), Arc::clone(&body));
            let posted = tokio::task::spawn_blocking(move || otlp::post(&agent, &target, &text)).await;
            let answer = posted.unwrap_or_else(|error| Answer::Refused { why: error.to_string() });
            let many = runs.len() as u64;
            match answer {
                Answer::Taken { rejected } => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!(to = self.target.url(), "traces are exported again");
                    }
                    count("exported", many);
                    if rejected > 0 {
                        tracing::warn!(to = self.target.url(), rejected, "the collector did not want some spans");
                    }
                    break;
                }
                Answer::Refused { why } => {
                    self.failed(&why, "the collector refuses traces; those are dropped");
                    count("refused", many);
                    break;
                }
                Answer::Later { why, wait: asked } => {
                    self.failed(&why, "traces cannot be exported at the moment; trying again, runs go on");
                    let age = self.engine.now().unix_ms().saturating_sub(newest);
                    if age > AGE_MAX.as_millis() as i64 {
                        count("too_old", many);
                        break;
                    }
                    self.rest(asked.unwrap_or(wait).clamp(WAIT_MIN, WAIT_MAX)).await?;
                    wait = (wait * 2).min(WAIT_MAX);
                }
            }
        }
        self.cursor = upto;
        save(self.engine.store(), Some(upto)).await;
        Ok(())
    }

    /// Says once that it does not work.
    fn failed(&mut self, why: &str, what: &str) {
        metrics::counter!("longhaul_trace_export_failures_total").increment(1);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(to = self.target.url(), why, "{what}");
        }
    }

    async fn rest(&self, time: Duration) -> Result<(), Stopped> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            () = self.stop.cancelled() => Err(Stopped),
        }
    }
}

fn count(outcome: &'static str, runs: u64) {
    metrics::counter!("longhaul_trace_runs_total", "outcome" => outcome).increment(runs);
}

/// The trace of a run that was accepted in none: its ids follow from what it is.
fn own_trace(key: &RunKey, view: &View) -> Option<Trace> {
    let of = format!("trace.v1 {key} {} {}", view.stream.get(), view.doc.run.created_at.unix_ms());
    let hash = Sha256::digest(of.as_bytes());
    let number = |from: usize, bytes: usize| {
        hash.iter().skip(from).take(bytes).fold(0_u128, |id, byte| id << 8 | u128::from(*byte))
    };
    Trace::begin(number(0, 16), number(16, 8) as u64)
}
