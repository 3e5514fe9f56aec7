//! An owner's commits: encode, append under the expected tail and epoch, then fold and show.

use bytes::Bytes;
use longhaul_model::Event;
use longhaul_model::event::{Encoder, EventData};
use longhaul_store::{Commit, CommitError, RecordWrite, RunRow, StreamWrite, Urgency};

use super::{Events, LetGo, Owner, RETRY};
use crate::cursor::Cursor;
use crate::session::SessionKey;

/// Names our session in the events that tell of the source's own; the last one of those.
fn bind(session: &SessionKey, events: &mut Events) -> Option<String> {
    let mut source = None;
    for event in events {
        if let EventData::SessionBound(bound) = event {
            bound.session_id = Some(session.id.clone());
            source = Some(bound.source_session_id.clone());
        }
    }
    source
}

/// Why a commit did not happen.
#[derive(Debug)]
pub(super) enum Refused {
    /// There is no room or too much to do; nothing has happened and it may be tried again.
    Later(CommitError),
    /// The owner cannot go on.
    LetGo(LetGo),
}

impl Owner {
    /// Commits, and on success folds the events in and shows them. Nothing has changed on a refusal.
    pub(super) async fn commit(
        &mut self,
        events: Events,
        cursor: Option<Cursor>,
        records: Vec<RecordWrite>,
        urgency: Urgency,
    ) -> Result<(), Refused> {
        let now = self.engine.now().max(self.last_ts);
        let key = &self.shared.key;
        // A turn tells its session's source id in the same commit, and nobody else writes the record meanwhile.
        let (mut events, mut records) = (events, records);
        let session = self.shared.with_doc(|doc| crate::engine::session_key(&self.shared.key, doc));
        let bound = session.as_ref().and_then(|session| bind(session, &mut events));
        let handed_on = self.handed_on(&events);
        let engine = self.engine.clone();
        let _session_alone = match &session {
            Some(session) if bound.is_some() || !handed_on.is_empty() => {
                let alone = engine.session_lock(session).lock().await;
                let known = engine.session(session).await.map_err(|error| Refused::LetGo(error.into()))?;
                if let Some(mut known) = known {
                    known.source_session_id = bound.or(known.source_session_id);
                    known.hand_on(handed_on);
                    records.push(known.write(session));
                }
                Some(alone)
            }
            _ => None,
        };
        let (encoder_name, trace) = self.shared.with_doc(|doc| (doc.run.harness.clone(), doc.trace.clone()));
        let encoder = Encoder::new(&key.run, now, &encoder_name).traced(trace.as_ref());
        let mut wires: Vec<Bytes> = Vec::with_capacity(events.len());
        let mut feed = Vec::new();
        let mut seq = self.tail;
        let mut decoded = Vec::with_capacity(events.len());
        for data in events {
            seq = seq.next();
            wires.push(encoder.encode(seq, &data).into());
            if data.is_lifecycle() {
                feed.push(decoded.len());
            }
            decoded.push(Event { run_id: key.run.clone(), seq, ts: now, data });
        }
        let row = (!feed.is_empty()).then(|| self.next_row(&decoded));
        let write = StreamWrite {
            stream: self.shared.stream,
            project: key.project.clone(),
            expected_tail: self.tail,
            epoch: self.engine.inner.epoch,
            events: wires,
            feed,
            cursor: cursor.as_ref().map(Cursor::encode),
            row,
            keep_after: None,
        };
        let commit = Commit { streams: vec![write], records, urgency, ..Commit::default() };
        match self.engine.store().commit(commit).await {
            Ok(_) => {}
            Err(error @ (CommitError::Full | CommitError::Busy)) => return Err(Refused::Later(error)),
            Err(CommitError::Closed) if self.engine.is_draining() => return Err(Refused::LetGo(LetGo::Draining)),
            Err(error @ CommitError::Fenced { .. }) => {
                return Err(Refused::LetGo(LetGo::Fenced(error.to_string())));
            }
            Err(error @ CommitError::Invalid(_)) => return Err(Refused::LetGo(LetGo::Poison(error.to_string()))),
            Err(error) => return Err(Refused::LetGo(LetGo::Trouble(error.to_string()))),
        }
        metrics::counter!("longhaul_events_committed_total").increment(decoded.len() as u64);
        self.tail = seq;
        self.last_ts = now;
        if cursor.is_some() {
            self.cursor = cursor;
        }
        let mut state = std::mem::take(&mut self.state);
        for event in &decoded {
            state = state.evolve(&event.data);
        }
        self.state = state;
        let status = self.shared.with_doc(|doc| {
            for event in &decoded {
                doc.run.apply(event);
            }
            doc.run.status
        });
        if status.is_terminal() {
            metrics::counter!("longhaul_runs_ended_total", "status" => status.as_str()).increment(1);
            // Whoever asks from now on reads the row; the owner is done with it.
            self.engine.forget(&self.shared.key);
        }
        self.shared.progress.send_replace((status, seq));
        Ok(())
    }

    /// Commits, waiting for room as long as it takes.
    pub(super) async fn commit_patiently(
        &mut self,
        events: Events,
        cursor: Option<Cursor>,
        records: Vec<RecordWrite>,
        urgency: Urgency,
    ) -> Result<(), LetGo> {
        loop {
            match self.commit(events.clone(), cursor.clone(), records.clone(), urgency).await {
                Ok(()) => {
                    self.shared.set_blocked(None, 0);
                    return Ok(());
                }
                Err(Refused::LetGo(error)) => return Err(error),
                Err(Refused::Later(error)) => self.pause(&error).await?,
            }
        }
    }

    /// Says what is waited for and waits a little, answering questions meanwhile: a cancel has its reserve.
    pub(super) async fn pause(&mut self, error: &CommitError) -> Result<(), LetGo> {
        self.shared.set_blocked(Some(format!("the store: {error}")), self.now_ms());
        let draining = self.engine.inner.draining.clone();
        tokio::select! {
            () = tokio::time::sleep(RETRY) => Ok(()),
            Some(message) = self.inbox.recv() => self.answer(message).await,
            () = draining.cancelled() => Err(LetGo::Draining),
        }
    }

    /// The row as it will be once these events are committed.
    fn next_row(&self, events: &[Event]) -> RunRow {
        let mut doc = self.shared.doc();
        for event in events {
            doc.run.apply(event);
        }
        let status = doc.run.status;
        if !status.is_terminal() {
            doc.run = doc.run.without_text();
        }
        RunRow {
            key: self.shared.key.clone(),
            stream: self.shared.stream,
            status,
            harness: doc.run.harness.clone(),
            digest: doc.run.digest.clone(),
            tags: doc.run.tags.clone(),
            created_at: doc.run.created_at,
            ended_at: doc.run.ended_at,
            last_seq: doc.run.last_seq,
            doc: doc.encode(),
        }
    }
}
