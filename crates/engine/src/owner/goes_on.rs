//! Going on after a loss: by which rung, with which words, and with how much of the budget.

use std::time::Duration;

use longhaul_harness::Harness;
use longhaul_model::event::{EventData, Rung};
use longhaul_model::{AttemptNo, Event, Seq};
use longhaul_store::ReadLimit;
use longhaul_supervise::AttemptDir;

use super::{LetGo, Owner};
use crate::retell::{CONTINUE, Story};
use crate::sealed::Sealed;

/// What the next attempt is asked, and through which session.
pub(super) struct Ask {
    pub(super) rung: Option<Rung>,
    /// The source's own session to go on with.
    pub(super) resume: Option<String>,
    /// Instead of the request's prompt.
    pub(super) prompt: Option<String>,
    /// Instead of the session id that was chosen for the first attempt.
    pub(super) new_session: Option<String>,
}

impl Owner {
    /// How the next attempt begins. It follows from the log, so that a later server begins it in the same way.
    pub(super) async fn ask(&self, harness: &dyn Harness, sealed: &Sealed) -> Result<Ask, LetGo> {
        let session = match self.shared.with_doc(|doc| crate::engine::session_key(&self.shared.key, doc)) {
            Some(session) => self.engine.session(&session).await?,
            None => None,
        };
        let known = session.as_ref().and_then(|session| session.source_session_id.clone());
        let kept = if harness.loads_by_protocol() { Rung::ProtocolLoad } else { Rung::NativeResume };
        let Some(loss) = &self.state.loss else {
            let resumed = self.shared.with_doc(|doc| doc.run.resumed_from.is_some());
            let rung = if known.is_some() { kept } else { Rung::RebuiltContext };
            let rung = resumed.then_some(rung);
            return Ok(Ask { rung, resume: known, prompt: None, new_session: None });
        };
        let native = harness.fields().contains(&"session_id") && loss.cause != "resume_failed";
        let own = self.state.source_session.clone().or_else(|| known.clone());
        // A session that the run did something in has its prompt.
        if let Some(id) = own.filter(|_| native && self.state.session_has_prompt) {
            let prompt = Some(CONTINUE.to_owned());
            return Ok(Ask { rung: Some(kept), resume: Some(id), prompt, new_session: None });
        }
        // One of earlier turns has theirs, and this turn's prompt is said again.
        let began_before = session.is_some_and(|session| session.turns > 1 || session.of_run.is_some());
        let earlier = self.state.source_session.is_none() || began_before;
        if let Some(id) = known.filter(|_| native && earlier) {
            return Ok(Ask { rung: Some(kept), resume: Some(id), prompt: None, new_session: None });
        }
        let story = self.story().await?;
        Ok(Ask {
            rung: Some(Rung::RebuiltContext),
            resume: None,
            prompt: Some(story.tell(sealed.prompt.as_deref(), CONTINUE)),
            new_session: Some(uuid::Uuid::new_v4().to_string()),
        })
    }

    /// The run's events, retold.
    async fn story(&self) -> Result<Story, LetGo> {
        let mut story = Story::default();
        let mut at = Seq::ZERO;
        while at < self.tail {
            let page = self.engine.store().read(self.shared.stream, at, ReadLimit::default()).await?;
            let Some(end) = page.events.last().map(|event| event.seq) else {
                return Err(self.corrupt("events", "the log ends before its tail".to_owned()).into());
            };
            for stored in page.events {
                let event = Event::decode(&stored.wire)
                    .map_err(|e| self.corrupt(&format!("event {}", stored.seq), super::chain(&e)))?;
                story.add(&event.data);
            }
            at = end;
        }
        Ok(story)
    }

    /// What an attempt used of the budget whose supervisor did not live to measure it: until its last sign of life, and no
    /// less than this server saw it live.
    pub(super) fn estimate_ms(&self, dir: Option<&AttemptDir>) -> u64 {
        let seen = self.seen_live.map_or(Duration::ZERO, |since| since.elapsed());
        let signs = dir.and_then(|dir| {
            let began = u64::try_from(dir.read_started().ok().flatten()?.started_at_ms).ok()?;
            let written = |name| {
                let at = std::fs::metadata(dir.file(name)).ok()?.modified().ok()?;
                at.duration_since(std::time::UNIX_EPOCH).ok()
            };
            let last = ["stdout", "stderr", "order"].into_iter().filter_map(written).max()?;
            Some(last.saturating_sub(Duration::from_millis(began)))
        });
        seen.max(signs.unwrap_or_default()).as_millis() as u64
    }
}

/// Makes the ids of a later attempt's messages and calls its own: many programs count theirs from the start of each process.
pub(super) fn scope(attempt: AttemptNo, events: &mut [EventData]) {
    let own = |id: &mut String| *id = format!("a{attempt}.{id}");
    for event in events {
        match event {
            EventData::MessageDelta(d) => {
                own(&mut d.message_id);
                d.parent_call_id.as_mut().map(own);
            }
            EventData::MessageCompleted(d) => {
                own(&mut d.message_id);
                d.parent_call_id.as_mut().map(own);
            }
            EventData::ReasoningDelta(d) => {
                own(&mut d.message_id);
                d.parent_call_id.as_mut().map(own);
            }
            EventData::MessageDiscarded(d) => own(&mut d.message_id),
            EventData::ToolCalled(d) => {
                own(&mut d.call_id);
                d.parent_call_id.as_mut().map(own);
            }
            EventData::ToolCompleted(d) => own(&mut d.call_id),
            EventData::ApprovalRequested(d) => {
                d.call_id.as_mut().map(own);
            }
            _ => {}
        }
    }
}
