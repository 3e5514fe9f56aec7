//! Which run a word means.
//!
//! Job: a full id, a name, a prefix or suffix of an id, `@last`; in this project, else in all of them.
//! Never: picks one of several that fit.

use std::time::Duration;

use longhaul_api::Snapshot;
use longhaul_model::{ProjectId, RunId};

use super::escape;
use super::session::Session;
use super::trouble::Trouble;
use crate::client::{Client, ClientError, ListQuery};

/// The word for the newest run of the project.
pub const LAST: &str = "@last";

/// Pages of a list that are searched, 100 runs each: whoever means an older run gives its full id.
const PAGES_MAX: usize = 20;

/// Candidates that an error lists.
const CANDIDATES_MAX: usize = 10;

/// A run that was picked.
#[derive(Debug, Clone, PartialEq)]
pub struct Picked {
    /// Its project.
    pub project: ProjectId,
    /// Its id.
    pub id: RunId,
    /// What is known of it.
    pub run: Snapshot,
}

impl From<Snapshot> for Picked {
    fn from(run: Snapshot) -> Self {
        Self { project: run.project.clone(), id: run.id.clone(), run }
    }
}

/// The part of an id that people read and type: the last eight characters of a UUID, which are its random end (its
/// beginning is the time and the same for all runs of a minute); any other id whole.
pub fn short(id: &RunId) -> &str {
    let text = id.as_str();
    let uuid = text.len() == 36 && uuid::Uuid::try_parse(text).is_ok();
    if uuid { &text[28..] } else { text }
}

/// Picks a run by word; without one the newest of the project, saying which.
///
/// # Errors
/// None or several fit.
pub async fn pick(session: &Session, client: &Client, word: Option<&str>) -> Result<Picked, Trouble> {
    match word {
        None | Some(LAST) => newest(session, client).await,
        Some(word) => by_word(session, client, word).await,
    }
}

async fn newest(session: &Session, client: &Client) -> Result<Picked, Trouble> {
    let query = ListQuery { project: Some(session.project.clone()), limit: Some(1), ..ListQuery::default() };
    let Some(run) = client.runs(&query).await?.runs.pop() else {
        return Err(Trouble::new(format!("there is no run in project {} yet", session.project))
            .help("runs of all projects: longhaul ps -a --all-projects"));
    };
    session.screen.hint(&format!("the newest run of project {} is {}", session.project, describe(&run)));
    Ok(run.into())
}

async fn by_word(session: &Session, client: &Client, word: &str) -> Result<Picked, Trouble> {
    if let Ok(id) = RunId::parse(word) {
        match client.run(&session.project, &id, Duration::ZERO).await {
            Ok(run) => return Ok(run.into()),
            Err(error) if error.code() == Some("run_not_found") => {}
            Err(error) => return Err(gone(error, word)),
        }
    }
    for project in [Some(session.project.clone()), None] {
        let runs = newest_runs(client, project).await?;
        match choose(&runs, word) {
            Choice::One(at) => return Ok(runs[at].clone().into()),
            Choice::Several(all) => return Err(ambiguous(word, all.into_iter().map(|at| &runs[at]))),
            Choice::None => {}
        }
    }
    Err(Trouble::new(format!("there is no run {word:?}"))
        .help("runs of this project: longhaul ps -a   of all projects: longhaul ps -a --all-projects"))
}

/// Runs of a project or of all, the newest first.
async fn newest_runs(client: &Client, project: Option<ProjectId>) -> Result<Vec<Snapshot>, ClientError> {
    let mut query = ListQuery { project, limit: Some(100), ..ListQuery::default() };
    let mut runs = Vec::new();
    for _ in 0..PAGES_MAX {
        let page = client.runs(&query).await?;
        runs.extend(page.runs);
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    Ok(runs)
}

#[derive(Debug, PartialEq, Eq)]
enum Choice {
    None,
    One(usize),
    Several(Vec<usize>),
}

/// What a run is called by.
trait Called {
    fn id(&self) -> &str;
    fn name(&self) -> Option<&str>;
}

impl Called for Snapshot {
    fn id(&self) -> &str {
        self.id.as_str()
    }
    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

/// A whole id beats a name, a name beats a part of an id.
fn choose<R: Called>(runs: &[R], word: &str) -> Choice {
    let all = |fits: &dyn Fn(&R) -> bool| -> Vec<usize> {
        runs.iter().enumerate().filter(|(_, run)| fits(run)).map(|(at, _)| at).collect()
    };
    let kinds = [
        all(&|run| run.id() == word),
        all(&|run| run.name() == Some(word)),
        all(&|run| run.id().starts_with(word) || run.id().ends_with(word)),
    ];
    match kinds.into_iter().find(|found| !found.is_empty()).as_deref() {
        None => Choice::None,
        Some([one]) => Choice::One(*one),
        Some(several) => Choice::Several(several.to_vec()),
    }
}

fn ambiguous<'a>(word: &str, candidates: impl ExactSizeIterator<Item = &'a Snapshot>) -> Trouble {
    let count = candidates.len();
    let mut trouble = Trouble::new(format!("{word:?} means {count} runs; say which by its id:"));
    for run in candidates.take(CANDIDATES_MAX) {
        trouble = trouble.help(format!("{}  {}", run.id, about(run)));
    }
    if count > CANDIDATES_MAX { trouble.help(format!("… and {} more", count - CANDIDATES_MAX)) } else { trouble }
}

/// `3f2a9c1b  running  claude  "fix the tests"`
pub fn describe(run: &Snapshot) -> String {
    format!("{}  {}", short(&run.id), about(run))
}

fn about(run: &Snapshot) -> String {
    let name = run.name.as_ref().map(|name| format!("  {}", escape::one_line(name))).unwrap_or_default();
    format!("{}  {}{name}", run.status.as_str(), agent(run))
}

/// `claude/opus`, or the harness alone.
pub fn agent(run: &Snapshot) -> String {
    match &run.model {
        Some(model) => escape::one_line(&format!("{}/{model}", run.harness)),
        None => escape::one_line(&run.harness),
    }
}

fn gone(error: ClientError, word: &str) -> Trouble {
    if error.code() == Some("run_gone") {
        return Trouble::new(format!("run {word} was deleted"));
    }
    error.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Called for (&str, Option<&str>) {
        fn id(&self) -> &str {
            self.0
        }
        fn name(&self) -> Option<&str> {
            self.1
        }
    }

    #[test]
    fn words_mean_one_run_or_say_which() {
        let runs = [
            ("01990000-aaaa", Some("nightly")),
            ("01990000-bbbb", Some("nightly")),
            ("01991111-cccc", Some("01990000-aaaa")),
            ("cccc", None),
        ];
        for (word, want) in [
            ("01990000-aaaa", Choice::One(0)),
            ("aaaa", Choice::One(0)),
            ("01991", Choice::One(2)),
            ("cccc", Choice::One(3)),
            ("nightly", Choice::Several(vec![0, 1])),
            ("0199", Choice::Several(vec![0, 1, 2])),
            ("zz", Choice::None),
        ] {
            assert_eq!(choose(&runs, word), want, "{word}");
        }
    }

    #[test]
    fn short_ids_are_the_random_end() {
        let uuid = RunId::parse("01990b8c-1f3a-7c3e-8a4b-0123456789ab").unwrap();
        assert_eq!(short(&uuid), "456789ab");
        assert_eq!(short(&RunId::parse("my-run").unwrap()), "my-run");
    }
}
