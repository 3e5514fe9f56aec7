//! One lane per session: its runs go one after another, in the order in which they were accepted.
//!
//! Job: a line of runs for each session, whose first one may work. Owns: the lines. Never: waits for anything itself;
//! knows places: whoever waits here holds none.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use longhaul_model::{RunKey, limits};
use tokio::sync::oneshot;

use crate::session::SessionKey;

#[derive(Debug)]
struct InLine {
    ticket: u64,
    run: RunKey,
    ready: Option<oneshot::Sender<()>>,
}

#[derive(Debug, Default)]
struct State {
    next_ticket: u64,
    lines: HashMap<SessionKey, VecDeque<InLine>>,
}

/// The lanes of one server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lanes {
    state: Arc<Mutex<State>>,
}

/// Too many runs of one session wait already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{waiting} runs of session {session} wait already, more may not")]
pub struct LaneFull {
    /// The session.
    pub session: longhaul_model::SessionId,
    /// Runs that wait.
    pub waiting: usize,
}

/// A run's turn in its session, waited for or held; the next one's comes when this is dropped.
#[derive(Debug)]
pub struct Turn {
    lanes: Lanes,
    pub(crate) session: SessionKey,
    ticket: u64,
    ready: oneshot::Receiver<()>,
    came: bool,
}

impl Lanes {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets in line.
    ///
    /// # Errors
    /// [`LaneFull`], and then nobody is in line.
    pub(crate) fn enter(&self, session: &SessionKey, run: &RunKey) -> Result<Turn, LaneFull> {
        self.enter_at_most(session, run, limits::SESSION_QUEUE_MAX)
    }

    /// Gets in line although the line may be full: for a run that was accepted by an earlier server.
    pub(crate) fn enter_accepted(&self, session: &SessionKey, run: &RunKey) -> Turn {
        match self.enter_at_most(session, run, usize::MAX) {
            Ok(turn) => turn,
            Err(_) => unreachable!("a line without a bound is never full"),
        }
    }

    fn enter_at_most(&self, session: &SessionKey, run: &RunKey, max: usize) -> Result<Turn, LaneFull> {
        let (ready, receiver) = oneshot::channel();
        let mut state = self.state();
        let ticket = state.next_ticket;
        // The first of the line works, the others wait.
        let waiting = state.lines.get(session).map_or(0, |line| line.len().saturating_sub(1));
        if waiting >= max {
            return Err(LaneFull { session: session.id.clone(), waiting });
        }
        state.next_ticket += 1;
        let line = state.lines.entry(session.clone()).or_default();
        line.push_back(InLine { ticket, run: run.clone(), ready: Some(ready) });
        call_first(line);
        drop(state);
        Ok(Turn { lanes: self.clone(), session: session.clone(), ticket, ready: receiver, came: false })
    }

    /// The run that works in the session, if `run` waits for it.
    pub(crate) fn waits_for(&self, session: &SessionKey, run: &RunKey) -> Option<(RunKey, usize)> {
        let state = self.state();
        let line = state.lines.get(session)?;
        let position = line.iter().position(|in_line| in_line.run == *run)?;
        (position > 0).then(|| (line[0].run.clone(), position))
    }

    /// The runs that work or wait in the session, in order.
    pub(crate) fn in_line(&self, session: &SessionKey) -> Vec<RunKey> {
        let state = self.state();
        state.lines.get(session).into_iter().flatten().map(|in_line| in_line.run.clone()).collect()
    }

    /// The first run that works or waits in the session.
    pub(crate) fn first(&self, session: &SessionKey) -> Option<RunKey> {
        self.state().lines.get(session)?.front().map(|in_line| in_line.run.clone())
    }
}

/// Tells the first of a line that its turn has come.
fn call_first(line: &mut VecDeque<InLine>) {
    if let Some(ready) = line.front_mut().and_then(|first| first.ready.take()) {
        // Whoever left in this very moment leaves the line by dropping its turn.
        let _ = ready.send(());
    }
}

impl Turn {
    /// Waits until the turn has come.
    ///
    /// # Cancel safety
    /// Dropping the future keeps the place in line; dropping the [`Turn`] leaves it.
    pub async fn come(&mut self) {
        if !self.came {
            match (&mut self.ready).await {
                Ok(()) => self.came = true,
                Err(_) => std::future::pending().await,
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.lanes.state();
        let Some(line) = state.lines.get_mut(&self.session) else { return };
        line.retain(|in_line| in_line.ticket != self.ticket);
        call_first(line);
        if line.is_empty() {
            state.lines.remove(&self.session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longhaul_model::{ProjectId, RunId, SessionId};

    fn session(name: &str) -> SessionKey {
        SessionKey { project: ProjectId::default_project(), id: SessionId::parse(name).unwrap() }
    }

    fn run(name: &str) -> RunKey {
        RunKey { project: ProjectId::default_project(), run: RunId::parse(name).unwrap() }
    }

    #[tokio::test]
    async fn one_after_another_in_order_of_arrival() {
        let (lanes, s) = (Lanes::default(), session("s"));
        let mut a = lanes.enter(&s, &run("a")).unwrap();
        let mut b = lanes.enter(&s, &run("b")).unwrap();
        let mut c = lanes.enter(&s, &run("c")).unwrap();
        a.come().await;
        lanes.enter(&session("other"), &run("x")).unwrap().come().await;
        assert_eq!(lanes.waits_for(&s, &run("c")), Some((run("a"), 2)));
        assert_eq!(lanes.waits_for(&s, &run("a")), None);
        assert!(futures_util::FutureExt::now_or_never(b.come()).is_none());
        drop(b);
        assert!(futures_util::FutureExt::now_or_never(c.come()).is_none(), "who leaves the line wakes nobody");
        drop(a);
        c.come().await;
        c.come().await;
        drop(c);
        assert_eq!(lanes.first(&s), None);
    }

    #[test]
    fn a_line_has_a_bound() {
        let (lanes, s) = (Lanes::default(), session("s"));
        let turns: Vec<Turn> = (0..=limits::SESSION_QUEUE_MAX).map(|_| lanes.enter(&s, &run("a")).unwrap()).collect();
        let full = LaneFull { session: s.id.clone(), waiting: limits::SESSION_QUEUE_MAX };
        assert_eq!(lanes.enter(&s, &run("b")).unwrap_err(), full);
        drop(lanes.enter_accepted(&s, &run("b")));
        drop(turns);
        assert!(lanes.enter(&s, &run("b")).is_ok());
    }
}
