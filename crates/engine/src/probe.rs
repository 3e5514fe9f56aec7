//! Which agent programs are there, and in which version.
//!
//! Job: looks a program up as a dispatch does, with the environment that a dispatch gives it, and asks it for its version
//! once for each file. Owns: what was learnt, and the few processes that ask. Never: takes a place of a run, makes
//! anybody wait for a program that does not answer, or asks the same file twice at once.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use longhaul_harness::{Harness, Request};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::sync::{Semaphore, watch};

use crate::{admission, environment};

/// How long a program may take to say its version: the slowest known takes four seconds on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Programs that are asked at once.
const AT_ONCE: usize = 2;

/// How long a failure is believed before the program is asked again.
const FAILURE_KEPT: Duration = Duration::from_secs(60);

/// Bytes of an answer that are read.
const ANSWER_BYTES: u64 = 4096;

/// Files that are remembered; far more than there are agent programs.
const FILES_MAX: usize = 64;

/// What a program said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Its version, as `2.1.0`.
    Version(String),
    /// Nothing of use, and why.
    Nothing(String),
}

/// A question that has been put to a program.
#[derive(Debug, Clone)]
pub struct Asked(watch::Receiver<Option<Answer>>);

impl Asked {
    /// The answer, if it is there.
    pub fn now(&self) -> Option<Answer> {
        self.0.borrow().clone()
    }

    /// The answer, waited for at most that long.
    ///
    /// # Cancel safety
    /// Nothing is lost; the question goes on.
    pub async fn within(&mut self, at_most: Duration) -> Option<Answer> {
        let answered = tokio::time::timeout(at_most, self.0.wait_for(Option::is_some)).await;
        answered.ok()?.ok()?.clone()
    }
}

/// A file as it was: another one under the same name is asked again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct File {
    path: PathBuf,
    modified: SystemTime,
    bytes: u64,
}

/// What was asked, by file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Probes {
    known: Arc<Mutex<HashMap<File, (Instant, Asked)>>>,
    turns: Arc<Semaphore>,
}

impl Default for Probes {
    fn default() -> Self {
        Self { known: Arc::default(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

/// The variables that a run of this harness gets from `base`, and where its program is with them.
///
/// Looks at the file system: not for an async thread.
pub fn look(harness: &dyn Harness, base: &BTreeMap<String, String>) -> (Vec<(String, String)>, Option<PathBuf>) {
    let request =
        Request { prompt: Some("version"), new_session: "00000000-0000-4000-8000-000000000000", ..Request::default() };
    let Ok(plan) = harness.plan(&request) else { return (vec![], None) };
    let variables = environment::inherited(base, &plan);
    let found = locate(harness, &variables);
    (variables, found)
}

/// Where the program is that a run with these variables starts.
fn locate(harness: &dyn Harness, variables: &[(String, String)]) -> Option<PathBuf> {
    let path = variables.iter().find(|(name, _)| name == "PATH").map_or(admission::PATH_DEFAULT, |(_, path)| path);
    admission::find(harness.program()?, path)
}

impl Probes {
    /// Asks the harness's program for its version, unless that is known or under way. `None` if there is no such file.
    /// Needs a runtime around it; the look at the file system is short, and not for an async thread all the same.
    pub fn ask(&self, harness: &'static dyn Harness, variables: &[(String, String)]) -> Option<Asked> {
        let path = locate(harness, variables)?.canonicalize().ok()?;
        let facts = std::fs::metadata(&path).ok()?;
        let file = File { modified: facts.modified().ok()?, bytes: facts.len(), path };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, asked)) = known.get(&file) {
            let failed = matches!(asked.now(), Some(Answer::Nothing(_)));
            if !failed || at.elapsed() < FAILURE_KEPT {
                return Some(asked.clone());
            }
        }
        if known.len() >= FILES_MAX {
            known.clear();
        }
        let (answer, asked) = watch::channel(None);
        let asked = Asked(asked);
        known.insert(file.clone(), (Instant::now(), asked.clone()));
        drop(known);
        let (turns, variables) = (Arc::clone(&self.turns), variables.to_vec());
        tokio::spawn(async move {
            let _turn = turns.acquire_owned().await;
            let said = version(&file.path, harness.version_args(), variables).await;
            if let Answer::Nothing(why) = &said {
                tracing::warn!(harness = harness.name(), file = %file.path.display(), why, "no version");
            }
            answer.send_replace(Some(said));
        });
        Some(asked)
    }
}

/// Runs a program for its version, and ends all that it started if it does not answer.
async fn version(program: &Path, args: &[&str], variables: Vec<(String, String)>) -> Answer {
    // What is of one run, or a directory that goes with it, is not for this.
    let variables = variables.into_iter().filter(|(name, _)| !name.starts_with("LONGHAUL_") && name != "TMPDIR");
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(variables).current_dir("/").process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Answer::Nothing(format!("it cannot be executed: {error}")),
    };
    let group = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    let mut text = Vec::new();
    let answer = async {
        if let Some(stdout) = child.stdout.take() {
            stdout.take(ANSWER_BYTES).read_to_end(&mut text).await?;
        }
        child.wait().await
    };
    let ended = tokio::time::timeout(ANSWER_MAX, answer).await;
    if !matches!(ended, Ok(Ok(_)))
        && let Some(group) = group
    {
        // Not reaped yet, so the number is still its own.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = child.wait().await;
    }
    match ended {
        Ok(Ok(status)) if status.success() => number(&String::from_utf8_lossy(&text))
            .map_or_else(|| Answer::Nothing("its answer holds no version".to_owned()), Answer::Version),
        Ok(Ok(status)) => Answer::Nothing(format!("it ended with {status}")),
        Ok(Err(error)) => Answer::Nothing(format!("its answer cannot be read: {error}")),
        Err(_) => Answer::Nothing(format!("it did not answer within {} s", ANSWER_MAX.as_secs())),
    }
}

/// The first word that is a version: numbers with dots, and what a pre-release may add.
fn number(text: &str) -> Option<String> {
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')' | '/'));
    let mut words = words.map(|word| word.strip_prefix('v').unwrap_or(word));
    let is_version = |word: &&str| {
        let core = word.split(['-', '+']).next().unwrap_or_default();
        word.len() <= 64
            && core.contains('.')
            && core.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    words.find(is_version).map(str::to_owned)
}

/// What holds of one harness's program, for people and machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// The harness.
    pub harness: &'static str,
    /// Where its program is.
    pub path: Option<PathBuf>,
    /// What it said of its version, if it was asked and has answered.
    pub answer: Option<Answer>,
    /// The version that was tested.
    pub tested: Option<&'static str>,
    /// How it is installed.
    pub install: Option<&'static str>,
}

impl Readiness {
    /// `ready`, `untested`, `failed`, `missing`, or `asking` while the version is not known yet.
    pub fn state(&self) -> &'static str {
        match (&self.path, &self.answer) {
            (None, _) => "missing",
            (Some(_), None) => "asking",
            (Some(_), Some(Answer::Nothing(_))) => "failed",
            (Some(_), Some(Answer::Version(version))) if self.tested.is_some_and(|tested| tested != version) => {
                "untested"
            }
            (Some(_), Some(Answer::Version(_))) => "ready",
        }
    }

    /// Its version.
    pub fn version(&self) -> Option<&str> {
        match &self.answer {
            Some(Answer::Version(version)) => Some(version),
            Some(Answer::Nothing(_)) | None => None,
        }
    }
}

/// The harnesses whose programs people install, as runs with the variables `base` find them. Waits at most `at_most` for
/// all versions that are not known yet.
pub async fn readiness(probes: &Probes, base: &BTreeMap<String, String>, at_most: Duration) -> Vec<Readiness> {
    let until = tokio::time::Instant::now() + at_most;
    let (probes, base) = (probes.clone(), base.clone());
    let runtime = tokio::runtime::Handle::current();
    let looked = tokio::task::spawn_blocking(move || {
        let _runtime = runtime.enter();
        let all = longhaul_harness::all().iter().copied().filter(|harness| harness.install().is_some());
        all.map(|harness| {
            let (variables, path) = look(harness, &base);
            (harness, path, probes.ask(harness, &variables))
        })
        .collect::<Vec<_>>()
    })
    .await;
    let mut all = Vec::new();
    for (harness, path, asked) in looked.unwrap_or_default() {
        let answer = match asked {
            Some(mut asked) => asked.within(until.saturating_duration_since(tokio::time::Instant::now())).await,
            None => None,
        };
        all.push(Readiness {
            harness: harness.name(),
            path,
            answer,
            tested: harness.tested_version(),
            install: harness.install(),
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, version) in [
            ("2.1.329 (Claude Code)\n", Some("2.1.329")),
            ("codex-cli 0.169.0\n", Some("0.169.0")),
            ("v1.18.33", Some("1.18.33")),
            ("kimi, version 2.1.0-rc.1", Some("2.1.0-rc.1")),
            ("Usage: claude [options]", None),
            ("1.", None),
            ("", None),
        ] {
            assert_eq!(number(said).as_deref(), version, "{said:?}");
        }
    }
}
