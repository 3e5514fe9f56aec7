//! Sessions: conversations that span runs.
//!
//! Job: the durable record of each, what binds later turns to the first, and its deletion. A record is written in the
//! commit that accepts a turn, and in the one that tells the source's own session id. Whoever writes it holds the
//! session's lock.

use std::path::PathBuf;

use longhaul_model::event::Home;
use longhaul_model::{ProjectId, RunId, RunKey, SessionId, Timestamp, limits};
use longhaul_store::{Commit, RecordKey, RecordWrite, StoreError, Urgency};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::engine::Engine;
use crate::error::{DispatchError, SessionEraseError};
use crate::gone::SessionGone;
use crate::resume::Seed;
use crate::sealed::Sealed;

/// The kind of sessions' records.
const KIND: &str = "session";

/// The version of the record's form.
const VERSION: u32 = 1;

/// How the private directories of sessions begin, below `work/`.
const DIR_PREFIX: &str = "session-";

/// How long the owner of a run that is over may take to leave its session's lane.
const LEAVE: std::time::Duration = std::time::Duration::from_secs(2);

/// A session's identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionKey {
    /// The project its id is unique in.
    pub project: ProjectId,
    /// Its id.
    pub id: SessionId,
}

impl SessionKey {
    fn record(&self) -> RecordKey {
        // A slash is in no id, so the two parts cannot run into each other.
        RecordKey::new(KIND, format!("{}/{}", self.project, self.id))
    }
}

/// What is durable of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The version of this form.
    pub v: u32,
    /// Its id.
    pub id: SessionId,
    /// Its project.
    pub project: ProjectId,
    /// The harness of every turn.
    pub harness: String,
    /// The model of every turn; none is the CLI's own default.
    pub model: Option<String>,
    /// The directory of every turn.
    pub cwd: PathBuf,
    /// The name of the private directory below `work/`, if we made one.
    pub dir: Option<String>,
    /// The name of the managed home of every turn below `homes/`; none is the user's own home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// A digest of the other fields that shape the agent.
    pub profile: String,
    /// The source's own session, once it is known.
    pub source_session_id: Option<String>,
    /// Turns that were accepted.
    pub turns: u64,
    /// When its first turn was accepted.
    pub created_at: Timestamp,
    /// The turn that was accepted last.
    pub last_run: RunId,
    /// The run that it was made of, where that had no session and was gone on with after its end.
    #[serde(default)]
    pub of_run: Option<RunId>,
    /// Messages that came for a turn and go in front of the next one's prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<PendingInput>,
}

/// A message for the next turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingInput {
    /// Its id.
    pub input_id: String,
    /// What it says.
    pub text: String,
}

impl Session {
    /// Whose home every turn has.
    pub fn home(&self) -> Home {
        if self.home.is_some() { Home::Managed } else { Home::User }
    }

    /// The write that makes it durable.
    pub(crate) fn write(&self, key: &SessionKey) -> RecordWrite {
        let value = serde_json::to_vec(self).unwrap_or_default();
        RecordWrite { key: key.record(), value: Some(value.into()), only_new: false, stamp: false }
    }

    /// Keeps messages for the next turn.
    pub(crate) fn hand_on(&mut self, inputs: Vec<(String, String)>) {
        self.pending.extend(inputs.into_iter().map(|(input_id, text)| PendingInput { input_id, text }));
    }

    /// Puts the messages that came for this turn in front of its prompt, as many as it has room for, and names them.
    fn say_pending(&mut self, sealed: &mut Sealed) -> Vec<String> {
        let mut room = limits::PROMPT_BYTES_MAX.saturating_sub(sealed.prompt.as_ref().map_or(usize::MAX, String::len));
        let fit = self.pending.iter().take_while(|input| {
            let fits = input.text.len() + 2 <= room;
            room = room.saturating_sub(input.text.len() + 2);
            fits
        });
        let count = fit.count();
        let said: Vec<PendingInput> = self.pending.drain(..count).collect();
        for input in said.iter().rev() {
            for prompt in [&mut sealed.prompt, &mut sealed.turn].into_iter().flatten() {
                *prompt = format!("{}\n\n{prompt}", input.text);
            }
        }
        said.into_iter().map(|input| input.input_id).collect()
    }

    fn decode(key: &str, bytes: &[u8]) -> Result<Self, StoreError> {
        let corrupt = |what: String| StoreError::Corrupt { place: format!("record of session {key}"), what };
        let session: Self = serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
        if session.v != VERSION {
            return Err(corrupt(format!("it has version {}, this program knows {VERSION}", session.v)));
        }
        Ok(session)
    }

    /// A turn's values where it names none; a refusal where it names others.
    fn bind(&self, harness: &str, sealed: &mut Sealed) -> Result<(), DispatchError> {
        let conflict = |field: &'static str, expected: Option<&str>, received: Option<&str>| {
            let (expected, received) = (expected.map(str::to_owned), received.map(str::to_owned));
            Err(DispatchError::SessionConflict { session: self.id.clone(), field, expected, received })
        };
        if harness != self.harness {
            return conflict("harness", Some(&self.harness), Some(harness));
        }
        match &sealed.model {
            None => sealed.model.clone_from(&self.model),
            Some(model) if Some(model) != self.model.as_ref() => {
                return conflict("model", self.model.as_deref(), Some(model));
            }
            Some(_) => {}
        }
        match sealed.home {
            Some(home) if home != self.home() => {
                return conflict("home", Some(self.home().as_str()), Some(home.as_str()));
            }
            _ => sealed.home = Some(self.home()),
        }
        if sealed.cwd.as_os_str().is_empty() {
            sealed.cwd.clone_from(&self.cwd);
        } else if sealed.cwd != self.cwd {
            return conflict("cwd", Some(&self.cwd.to_string_lossy()), Some(&sealed.cwd.to_string_lossy()));
        }
        Ok(())
    }
}

/// A digest of what shapes an agent beside harness, model and directory.
fn profile(sealed: &Sealed) -> String {
    let value = json!({
        "system": sealed.system,
        "permissions": sealed.permissions.as_str(),
        "allowed_tools": sealed.allowed_tools,
        "effort": sealed.effort,
    });
    longhaul_model::canonical::digest("profile.v1", &value)
}

impl Engine {
    /// A session's record.
    ///
    /// # Errors
    /// Of the store.
    pub async fn session(&self, key: &SessionKey) -> Result<Option<Session>, StoreError> {
        let record = key.record();
        match self.store().record(&record).await? {
            Some(bytes) => Ok(Some(self.placed(Session::decode(&record.id, &bytes)?))),
            None => Ok(None),
        }
    }

    /// Sessions of one project in id order, after an id, at most `limit`; and whether there are more.
    ///
    /// # Errors
    /// Of the store.
    pub async fn sessions(
        &self,
        project: &ProjectId,
        after: Option<&SessionId>,
        limit: usize,
    ) -> Result<(Vec<Session>, bool), StoreError> {
        let prefix = format!("{project}/");
        let after = after.map_or_else(String::new, |id| format!("{prefix}{id}"));
        let mut found = self.store().records_after(KIND, &prefix, &after, limit + 1).await?;
        let more = found.len() > limit;
        found.truncate(limit);
        let mut page = Vec::with_capacity(found.len());
        for (key, bytes) in &found {
            page.push(self.placed(Session::decode(&key.id, bytes)?));
        }
        Ok((page, more))
    }

    /// A private directory lies where this data directory is, whatever it was called when the session began.
    fn placed(&self, mut session: Session) -> Session {
        if let Some(dir) = &session.dir {
            session.cwd = self.work_dir(dir);
        }
        session
    }

    /// The run that works in the session at the moment, or is the first to. One whose end is known is not live, though
    /// its owner may still hold the lane while it tidies.
    pub fn session_run(&self, key: &SessionKey) -> Option<RunId> {
        let line = self.inner.lanes.in_line(key);
        let runs = self.lock_live();
        let live =
            |run: &RunKey| runs.get(run).is_some_and(|run| !run.shared.with_doc(|doc| doc.run.status.is_terminal()));
        line.into_iter().find(live).map(|run| run.run)
    }

    /// Deletes a session of which no run is live, with its private directory. The CLI's own record of the conversation
    /// is the CLI's.
    ///
    /// # Errors
    /// [`SessionEraseError`]; nothing is deleted then.
    pub async fn erase_session(&self, key: &SessionKey) -> Result<SessionGone, SessionEraseError> {
        let _alone = self.session_lock(key).lock().await;
        let Some(session) = self.session(key).await? else { return Err(SessionEraseError::NotFound) };
        let until = std::time::Instant::now() + LEAVE;
        while let Some(run_key) = self.inner.lanes.first(key) {
            let over = self.store().run(&run_key).await?.is_some_and(|row| row.status.is_terminal());
            if !over || self.is_draining() || std::time::Instant::now() > until {
                return Err(SessionEraseError::Busy { run: run_key.run });
            }
            // It is over, and its owner is about to leave the lane.
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        // The session goes last: a crash in between leaves one whose turns are not all known.
        let gone: Vec<RecordWrite> = (1..=session.turns).map(|turn| crate::turns::erase(key, turn)).collect();
        let erased = SessionGone::new(key, &session);
        let last = [RecordWrite { key: key.record(), value: None, only_new: false, stamp: false }, erased.write()];
        for part in gone.chunks(longhaul_store::limits::COMMIT_RECORDS_MAX).chain([&last[..]]) {
            let commit = Commit { records: part.to_vec(), urgency: Urgency::Reserve, ..Commit::default() };
            self.store().commit(commit).await?;
        }
        self.remove_dirs_of_session(&session).await;
        self.unsettled_session(&erased);
        Ok(erased)
    }

    /// Removes the directories that were made for a session.
    pub(crate) async fn remove_dirs_of_session(&self, session: &Session) {
        if let Some(dir) = &session.dir {
            crate::erase::remove_dir(&self.work_dir(dir)).await;
        }
        if let Some(home) = &session.home {
            crate::erase::remove_dir(&self.homes_dir(home)).await;
        }
    }

    /// Refuses a turn that goes on from another one than the session's last, or than the run that it is made of. The
    /// caller holds the session's lock.
    pub(crate) async fn check_last(
        &self,
        key: &SessionKey,
        after: &RunId,
        seed: Option<&Seed>,
    ) -> Result<(), DispatchError> {
        let session = self.session(key).await?;
        let last = session.map(|session| session.last_run).or_else(|| seed.map(|seed| seed.run.clone()));
        if last.as_ref() == Some(after) {
            return Ok(());
        }
        Err(DispatchError::SessionConflict {
            session: key.id.clone(),
            field: "previous_response_id",
            expected: last.map(|run| run.to_string()),
            received: Some(after.to_string()),
        })
    }

    /// What accepting this turn makes of its session, with the turn's values filled in. The caller holds the session's
    /// lock.
    pub(crate) async fn join(
        &self,
        key: &SessionKey,
        run: &RunKey,
        harness: &mut String,
        sealed: &mut Sealed,
        seed: Option<&Seed>,
    ) -> Result<(Session, Vec<String>), DispatchError> {
        if let Some(mut session) = self.session(key).await? {
            if harness.is_empty() {
                harness.clone_from(&session.harness);
            }
            session.bind(harness, sealed)?;
            if let Some(seed) = seed.filter(|seed| session.of_run.as_ref() != Some(&seed.run)) {
                // Somebody else took the name.
                let expected = session.of_run.as_ref().map(ToString::to_string);
                let received = Some(seed.run.to_string());
                return Err(DispatchError::SessionConflict {
                    session: session.id,
                    field: "run_id",
                    expected,
                    received,
                });
            }
            session.turns += 1;
            session.last_run = run.run.clone();
            let said = session.say_pending(sealed);
            return Ok((session, said));
        }
        let dir = if let Some(seed) = seed {
            sealed.cwd.clone_from(&seed.cwd);
            seed.dir.clone()
        } else {
            let own = sealed.cwd.as_os_str().is_empty();
            let dir = own.then(|| format!("{DIR_PREFIX}{}", uuid::Uuid::now_v7().simple()));
            if let Some(dir) = &dir {
                sealed.cwd = self.work_dir(dir);
            }
            dir
        };
        let home = match seed {
            Some(seed) => seed.home.clone(),
            None if sealed.home == Some(Home::Managed) => {
                Some(format!("{DIR_PREFIX}{}", uuid::Uuid::now_v7().simple()))
            }
            None => None,
        };
        sealed.home = Some(if home.is_some() { Home::Managed } else { Home::User });
        let session = Session {
            v: VERSION,
            id: key.id.clone(),
            project: key.project.clone(),
            harness: harness.clone(),
            model: sealed.model.clone(),
            cwd: sealed.cwd.clone(),
            dir,
            home,
            profile: profile(sealed),
            source_session_id: seed.and_then(|seed| seed.source_session_id.clone()),
            turns: 1,
            created_at: self.now(),
            last_run: run.run.clone(),
            of_run: seed.map(|seed| seed.run.clone()),
            pending: vec![],
        };
        Ok((session, vec![]))
    }

    /// Whether the turn is shaped otherwise than the session's first one.
    pub(crate) fn is_reshaped(session: &Session, sealed: &Sealed) -> bool {
        session.profile != profile(sealed)
    }

    /// Every session of every project.
    pub(crate) async fn all_sessions(&self) -> Result<Vec<Session>, StoreError> {
        let page = longhaul_store::limits::RECORDS_MAX;
        let mut all = Vec::new();
        let mut after = String::new();
        loop {
            let known = self.store().records_after(KIND, "", &after, page).await?;
            for (key, bytes) in &known {
                all.push(Session::decode(&key.id, bytes)?);
            }
            match known.last() {
                Some((last, _)) if known.len() == page => after.clone_from(&last.id),
                _ => return Ok(all),
            }
        }
    }

    /// Removes private directories of sessions that were never accepted.
    pub(crate) async fn sweep_sessions(&self) {
        let _alone = self.inner.making.write().await;
        // What cannot be read may name any of them.
        let Ok(sessions) = self.all_sessions().await else { return };
        let dirs: std::collections::HashSet<_> = sessions.into_iter().filter_map(|session| session.dir).collect();
        let work = self.work_dir("");
        let names = tokio::task::spawn_blocking(move || -> Vec<String> {
            let entries = std::fs::read_dir(work).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        })
        .await
        .unwrap_or_default();
        for name in names.iter().filter(|name| name.starts_with(DIR_PREFIX) && !dirs.contains(*name)) {
            crate::erase::remove_dir(&self.work_dir(name)).await;
        }
    }
}
