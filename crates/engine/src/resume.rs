//! Going on with a run that is over: a new run in the same session.
//!
//! Job: which session that is, and which words the new run begins with. A run that was a turn of a session gets another turn of
//! it. For any other a session is made, named after the run, which takes over its directory: so that two that go on with one
//! run go one after another, and a third can go on after them.
//! Never: changes the run that is over.

use std::path::PathBuf;

use longhaul_model::event::Driver;
use longhaul_model::{Event, RunId, RunKey, Seq, SessionId};
use longhaul_store::{ReadLimit, StoreError};

use crate::dispatch::{Dispatched, NewRun};
use crate::engine::Engine;
use crate::error::{DispatchError, ResumeError};
use crate::retell::{GO_ON, Story};
use crate::session::SessionKey;
use crate::view::View;

/// What a new run takes over from one that is over.
#[derive(Debug, Clone)]
pub struct Resumed {
    /// That run.
    pub(crate) run: RunId,
    /// What its session is made of, if it has none yet.
    pub(crate) seed: Option<Seed>,
}

/// What a session for a run without one is made of.
#[derive(Debug, Clone)]
pub(crate) struct Seed {
    /// The run.
    pub(crate) run: RunId,
    /// Where it worked.
    pub(crate) cwd: PathBuf,
    /// The name of its private directory, if it is one.
    pub(crate) dir: Option<String>,
    /// The name of its managed home, if it has one.
    pub(crate) home: Option<String>,
    /// The source's own session.
    pub(crate) source_session_id: Option<String>,
}

/// The session of a run that had none.
pub(crate) fn session_of(run: &RunKey) -> SessionKey {
    let name = format!("run:{}", run.run);
    let id = SessionId::parse(&name).or_else(|_| {
        // It would be too long; a digest of it is not.
        let digest = longhaul_model::canonical::digest("run", &serde_json::Value::from(run.run.as_str()));
        SessionId::parse(&digest)
    });
    match id {
        Ok(id) => SessionKey { project: run.project.clone(), id },
        Err(_) => unreachable!("a run's id and a digest are made of what a session's id may hold"),
    }
}

impl Engine {
    /// Accepts a run that goes on with one that is over. Its harness, model, directory and session are the other's; an absent
    /// prompt is a short one of ours.
    ///
    /// # Errors
    /// [`ResumeError`]; nothing is stored and nothing was started then.
    pub async fn resume(&self, of: &RunKey, new: NewRun) -> Result<Dispatched, ResumeError> {
        let view = self.view_to_resume(of).await?;
        // Asked again, it is what it was.
        if self.attach(&new.key, &new.digest).await? {
            return Ok(Dispatched::Attached);
        }
        let new = self.going_on(of, &view, new).await?;
        Ok(self.dispatch(new).await?)
    }

    /// Makes of a run that names harness, model and directory by itself one that goes on with a run that is over and has
    /// no session: the first turn of the session that is made for it. With that run as its `after` it is refused at dispatch if another
    /// was first.
    ///
    /// # Errors
    /// [`ResumeError`], with a `SessionConflict` where it names others than that run's.
    pub async fn continued(&self, of: &RunKey, new: NewRun) -> Result<NewRun, ResumeError> {
        let view = self.view_to_resume(of).await?;
        let run = &view.doc.run;
        let cwd = (!new.sealed.cwd.as_os_str().is_empty()).then(|| new.sealed.cwd.to_string_lossy().into_owned());
        for (field, expected, received) in [
            ("harness", Some(&run.harness), Some(&new.harness)),
            ("model", run.model.as_ref(), new.sealed.model.as_ref()),
            ("cwd", Some(&run.cwd), cwd.as_ref()),
        ] {
            // A command has no session to be at odds with.
            if run.driver == Driver::Harness && received.is_some() && received != expected {
                let (expected, received) = (expected.cloned(), received.cloned());
                let session = session_of(of).id;
                return Err(DispatchError::SessionConflict { session, field, expected, received }.into());
            }
        }
        self.going_on(of, &view, new).await
    }

    async fn view_to_resume(&self, of: &RunKey) -> Result<View, ResumeError> {
        match self.view(of).await? {
            Some(view) => Ok(view),
            None if self.is_gone(of).await? => Err(ResumeError::Gone),
            None => Err(ResumeError::NotFound),
        }
    }

    /// Fills in what a run that goes on takes over.
    async fn going_on(&self, of: &RunKey, view: &View, mut new: NewRun) -> Result<NewRun, ResumeError> {
        let run = &view.doc.run;
        if !run.status.is_terminal() {
            return Err(ResumeError::NotEnded);
        }
        if run.driver == Driver::Exec {
            return Err(ResumeError::Impossible("it is a command, which has no session".to_owned()));
        }
        if !tokio::fs::metadata(&run.cwd).await.is_ok_and(|found| found.is_dir()) {
            let text = format!("its directory {} is no longer there", run.cwd);
            return Err(ResumeError::Impossible(text));
        }
        if let Some(home) = &view.doc.home {
            let home = self.homes_dir(home);
            if !tokio::fs::metadata(&home).await.is_ok_and(|found| found.is_dir()) {
                let text = format!("its managed home {} is no longer there", home.display());
                return Err(ResumeError::Impossible(text));
            }
        }
        let named = crate::engine::session_key(of, &view.doc);
        let known = match &named {
            Some(key) => self.session(key).await?,
            None => None,
        };
        let key = match (&named, &known) {
            (Some(key), Some(_)) => key.clone(),
            _ => session_of(of),
        };
        let seed = known.is_none().then(|| Seed {
            run: of.run.clone(),
            cwd: run.cwd.clone().into(),
            dir: view.doc.own_cwd.then(|| view.doc.dir.clone()),
            home: view.doc.home.clone(),
            source_session_id: run.source_session_id.clone(),
        });
        let source = known.map_or_else(|| run.source_session_id.clone(), |session| session.source_session_id);
        let asked = new.sealed.prompt.take().unwrap_or_else(|| GO_ON.to_owned());
        if source.is_none() {
            let story = self.story(view).await?;
            if story.is_empty() {
                let text = "its agent told of no session, and its events of no work".to_owned();
                return Err(ResumeError::Impossible(text));
            }
            new.sealed.prompt = Some(story.tell(None, &asked));
            // By its turn the session may be known.
            new.sealed.turn = Some(asked);
        } else {
            new.sealed.prompt = Some(asked);
        }
        new.harness.clone_from(&run.harness);
        if seed.is_some() {
            new.sealed.model.clone_from(&run.model);
        }
        new.session = Some(key.id);
        new.resumed = Some(Resumed { run: of.run.clone(), seed });
        Ok(new)
    }

    /// An ended run, retold.
    async fn story(&self, view: &View) -> Result<Story, StoreError> {
        let mut story = Story::default();
        let mut at = Seq::ZERO;
        while at < view.doc.run.last_seq {
            let page = self.store().read(view.stream, at, ReadLimit::default()).await?;
            let Some(end) = page.events.last().map(|event| event.seq) else { break };
            for stored in page.events {
                let event = Event::decode(&stored.wire).map_err(|error| StoreError::Corrupt {
                    place: format!("event {} of run {}", stored.seq, view.doc.run.id),
                    what: error.to_string(),
                })?;
                story.add(&event.data);
            }
            at = end;
        }
        Ok(story)
    }

    /// Whether a run that another goes on with is still there, for whoever holds the lock of its session.
    pub(crate) async fn is_there_to_resume(&self, new: &NewRun) -> Result<(), DispatchError> {
        let Some(resumed) = &new.resumed else { return Ok(()) };
        let of = RunKey { project: new.key.project.clone(), run: resumed.run.clone() };
        match self.store().run(&of).await? {
            Some(_) => Ok(()),
            None => Err(DispatchError::Gone),
        }
    }

    /// Whether a session has taken over a run's private directory, and whether its home. The caller holds the session's
    /// lock.
    pub(crate) async fn has_taken_dirs(&self, run: &RunKey, dir: &str) -> Result<(bool, bool), StoreError> {
        let session = self.session(&session_of(run)).await?;
        let is = |name: &Option<String>| name.as_deref() == Some(dir);
        Ok(session.map_or((false, false), |session| (is(&session.dir), is(&session.home))))
    }
}
