//! `why`: every waiting state has a cause, an owner, a since and, where there is one, a next time.

use longhaul_model::{RunKey, Status, Timestamp, limits};
use longhaul_store::StoreError;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::engine::Engine;
use crate::view::View;

/// Why a run is where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// What it waits for, or why it ended.
    pub cause: String,
    /// Who has to act: `agent`, `longhaul`, `operator` or `nobody`.
    pub owner: &'static str,
    /// Since when.
    pub since: Timestamp,
    /// What happens by itself at the latest, and when.
    pub next: Option<(Timestamp, String)>,
    /// More facts.
    pub facts: Vec<String>,
}

impl Engine {
    /// Why a run is where it is; `None` if there is no such run.
    ///
    /// # Errors
    /// Of the store.
    pub async fn why(&self, key: &RunKey) -> Result<Option<Why>, StoreError> {
        let live = self.lock_live().get(key).cloned();
        let Some(view) = self.view(key).await? else { return Ok(None) };
        let run = &view.doc.run;
        let mut facts = Vec::new();
        let last = run.attempt_log.last();
        let began = last.and_then(|last| last.started_at).or(run.started_at);
        let budget_ms = last.map_or(run.timeout_ms, |last| last.budget_ms);
        if let Some(lost) = last.and_then(|last| last.lost.as_ref()) {
            let tools = match lost.tools.len() {
                0 => String::new(),
                n => format!("; the outcome of {n} tool calls is uncertain"),
            };
            facts.push(format!("attempt {} was lost{tools}", lost.attempt));
        }
        let deadline = began.map(|at| {
            let ms = at.unix_ms().saturating_add(budget_ms as i64);
            (Timestamp::from_unix_ms(ms), "its time is used up and it is stopped".to_owned())
        });
        if let Some(cancel) = &run.cancel_requested {
            let reason = cancel.reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default();
            facts.push(format!("cancel was asked for by {}{reason}", cancel.by));
        }
        if let Some(live) = &live {
            let last = live.shared.last_output_ms.load(Ordering::Relaxed);
            if last > 0 {
                let silent = self.now().unix_ms().saturating_sub(last);
                facts.push(format!("last output {} s ago", silent / 1000));
                if silent >= limits::SILENCE_WARNING.as_millis() as i64 {
                    facts.push("silence is only a warning; set limits.idle_ms to make it an end".to_owned());
                }
            }
            let blocked = live.shared.blocked.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some((cause, since)) = blocked {
                let since = Timestamp::from_unix_ms(since);
                return Ok(Some(Why {
                    cause: format!("waits for {cause}"),
                    owner: "operator",
                    since,
                    next: None,
                    facts,
                }));
            }
        }
        let (cause, owner, since, next) = match run.status {
            Status::Queued => return Ok(Some(self.why_queued(key, &view, facts))),
            Status::Starting => ("its process is being started".to_owned(), "longhaul", run.updated_at, deadline),
            Status::BindingSession | Status::Running if run.cancel_requested.is_some() => {
                ("is being stopped; its process tree is not gone yet".to_owned(), "longhaul", run.updated_at, deadline)
            }
            Status::BindingSession | Status::Running if run.open_approvals().next().is_some() => {
                let open: Vec<_> = run.open_approvals().collect();
                for seen in &open {
                    facts.push(format!("question {} is about {} ({})", seen.approval_id, seen.tool, seen.digest));
                }
                facts.push(format!("answer with: longhaul approve {} or longhaul deny {}", key.run, key.run));
                let cause = format!("waits for an approval of {}", open[0].tool);
                (cause, "operator", open[0].requested_at, deadline)
            }
            Status::BindingSession | Status::Running => {
                let pid = run.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                (format!("the agent works{pid}"), "agent", run.started_at.unwrap_or(run.created_at), deadline)
            }
            Status::Completed => {
                let proof = run.reason.as_deref().unwrap_or("proof");
                (format!("completed; proven by {proof}"), "nobody", run.ended_at.unwrap_or(run.updated_at), None)
            }
            Status::Failed => {
                let text = run.error.as_ref().map_or_else(String::new, |e| format!(": {} ({})", e.message, e.code));
                (format!("failed{text}"), "nobody", run.ended_at.unwrap_or(run.updated_at), None)
            }
            Status::Cancelled => {
                let by = run.reason.as_deref().unwrap_or("somebody");
                (format!("cancelled by {by}"), "nobody", run.ended_at.unwrap_or(run.updated_at), None)
            }
        };
        Ok(Some(Why { cause, owner, since, next, facts }))
    }

    /// What a queued run waits for: its turn in its session, its directory, a place.
    fn why_queued(&self, key: &RunKey, view: &View, mut facts: Vec<String>) -> Why {
        let run = &view.doc.run;
        let session = crate::engine::session_key(key, &view.doc);
        let before = session.as_ref().and_then(|session| self.inner.lanes.waits_for(session, key));
        let dir = crate::dirs::name(std::path::Path::new(&run.cwd));
        let cause = if let (Some(session), Some((run, position))) = (&session, &before) {
            facts.push(format!("{position} of the session's runs are before it"));
            format!("waits for run {} of session {}", run.run, session.id)
        } else if let Some((other, before)) = self.inner.dirs.waits_for(&dir, key) {
            facts.push(format!("{before} runs in this directory are before it"));
            format!("waits until run {} no longer works in {}", other.run, run.cwd)
        } else if let Some(line) = self.in_line(key) {
            format!("waits for a place: {} before it, {}", line.before, line.cause)
        } else if run.attempts > 0 {
            format!("attempt {} has ended and the next one is about to be started", run.attempts)
        } else {
            "is about to be started".to_owned()
        };
        Why { cause, owner: "longhaul", since: run.created_at, next: None, facts }
    }
}
