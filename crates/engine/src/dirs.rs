//! One line per working directory: who works there, and who waits until nobody does.
//!
//! Job: a line for each directory, in the order in which its runs were accepted. Owns: the lines. Never: waits for
//! anything itself; knows places: whoever waits here holds none.
//!
//! A run that was told to wait is called when nobody accepted before it is left and nobody works there. One that does
//! not wait is in the line all the same, so that others can wait for it; it works from its first attempt on. So whoever
//! is waited for is older or waits for nothing, and no two runs wait for each other.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use longhaul_model::{RunKey, limits};
use tokio::sync::oneshot;

#[derive(Debug)]
struct InLine {
    ticket: u64,
    run: RunKey,
    works: bool,
    /// Only who waits has one.
    ready: Option<oneshot::Sender<()>>,
}

#[derive(Debug, Default)]
struct State {
    next_ticket: u64,
    lines: HashMap<PathBuf, Vec<InLine>>,
}

/// The directories of one server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dirs {
    state: Arc<Mutex<State>>,
}

/// A run's stay in its directory, waited for or begun; it ends when this is dropped.
#[derive(Debug)]
pub struct Stay {
    dirs: Dirs,
    dir: PathBuf,
    ticket: u64,
    /// Not there for who does not wait, or was called.
    ready: Option<oneshot::Receiver<()>>,
}

impl Dirs {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets in line; who `waits` is to wait for its [`Stay`].
    ///
    /// # Errors
    /// The first run of the line, where too many wait already.
    pub(crate) fn enter(&self, dir: &Path, run: &RunKey, waits: bool) -> Result<Stay, RunKey> {
        self.enter_at_most(dir, run, waits, limits::CWD_QUEUE_MAX)
    }

    /// Gets in line although the line may be full: for a run that was accepted by an earlier server.
    pub(crate) fn enter_accepted(&self, dir: &Path, run: &RunKey, waits: bool) -> Stay {
        match self.enter_at_most(dir, run, waits, usize::MAX) {
            Ok(stay) => stay,
            Err(_) => unreachable!("a line without a bound is never full"),
        }
    }

    fn enter_at_most(&self, dir: &Path, run: &RunKey, waits: bool, max: usize) -> Result<Stay, RunKey> {
        let mut state = self.state();
        let line = state.lines.get(dir).map_or(&[][..], Vec::as_slice);
        if let Some(first) =
            line.first().filter(|_| waits && line.iter().filter(|one| one.ready.is_some()).count() >= max)
        {
            return Err(first.run.clone());
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let (ready, receiver) = waits.then(oneshot::channel).unzip();
        let line = state.lines.entry(dir.to_owned()).or_default();
        line.push(InLine { ticket, run: run.clone(), works: false, ready });
        call_first(line);
        drop(state);
        Ok(Stay { dirs: self.clone(), dir: dir.to_owned(), ticket, ready: receiver })
    }

    /// The run that `run` waits for in `dir`, and how many are before it; none if it waits for nobody.
    pub(crate) fn waits_for(&self, dir: &Path, run: &RunKey) -> Option<(RunKey, usize)> {
        let state = self.state();
        let line = state.lines.get(dir)?;
        let at = line.iter().position(|one| one.run == *run && one.ready.is_some())?;
        let before: Vec<&InLine> =
            line.iter().enumerate().filter(|(other, one)| *other < at || one.works).map(|(_, one)| one).collect();
        let first = before.iter().find(|one| one.works).or(before.first())?;
        Some((first.run.clone(), before.len()))
    }
}

/// Calls the first of a line if it waits and nobody works.
fn call_first(line: &mut [InLine]) {
    if line.iter().any(|one| one.works) {
        return;
    }
    let Some(first) = line.first_mut() else { return };
    if let Some(ready) = first.ready.take() {
        first.works = true;
        // Whoever left in this very moment leaves the line by dropping its stay.
        let _ = ready.send(());
    }
}

impl Stay {
    /// Waits until nobody else works in the directory; at once for a run that was not told to wait.
    ///
    /// # Cancel safety
    /// Dropping the future keeps the place in line; dropping the [`Stay`] leaves it.
    pub async fn come(&mut self) {
        if let Some(ready) = &mut self.ready {
            match ready.await {
                Ok(()) => self.ready = None,
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Says that the run works now, or that its process is there.
    pub(crate) fn work(&self) {
        let mut state = self.dirs.state();
        let line = state.lines.get_mut(&self.dir).into_iter().flatten();
        for one in line.filter(|one| one.ticket == self.ticket) {
            one.works = true;
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut state = self.dirs.state();
        let Some(line) = state.lines.get_mut(&self.dir) else { return };
        line.retain(|one| one.ticket != self.ticket);
        call_first(line);
        if line.is_empty() {
            state.lines.remove(&self.dir);
        }
    }
}

/// What a directory is known by: where it leads, or as it was given where it leads nowhere.
pub(crate) fn name(dir: &Path) -> PathBuf {
    dir.canonicalize().unwrap_or_else(|_| dir.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use longhaul_model::{ProjectId, RunId};

    fn run(name: &str) -> RunKey {
        RunKey { project: ProjectId::default_project(), run: RunId::parse(name).unwrap() }
    }

    fn came(stay: &mut Stay) -> bool {
        stay.come().now_or_never().is_some()
    }

    #[test]
    fn who_waits_waits_for_all_that_work_and_for_all_before_it() {
        let (dirs, dir) = (Dirs::default(), Path::new("/w"));
        let first = dirs.enter(dir, &run("first"), false).unwrap();
        let mut second = dirs.enter(dir, &run("second"), true).unwrap();
        let mut third = dirs.enter(dir, &run("third"), true).unwrap();
        assert!(came(&mut dirs.enter(Path::new("/other"), &run("x"), true).unwrap()));
        assert!(!came(&mut second) && !came(&mut third));
        assert_eq!(dirs.waits_for(dir, &run("third")), Some((run("first"), 2)));
        // One that does not wait came later and works: it is waited for as well.
        let late = dirs.enter(dir, &run("late"), false).unwrap();
        late.work();
        drop(first);
        assert!(!came(&mut second));
        assert_eq!(dirs.waits_for(dir, &run("second")), Some((run("late"), 1)));
        drop(late);
        assert!(came(&mut second) && came(&mut second) && !came(&mut third));
        assert_eq!(dirs.waits_for(dir, &run("second")), None);
        drop(second);
        assert!(came(&mut third));
        drop(third);
        assert!(dirs.state().lines.is_empty());
    }

    #[test]
    fn who_leaves_the_line_wakes_nobody_and_the_line_has_a_bound() {
        let (dirs, dir) = (Dirs::default(), Path::new("/w"));
        let first = dirs.enter(dir, &run("first"), false).unwrap();
        let mut waiting: Vec<Stay> =
            (0..limits::CWD_QUEUE_MAX).map(|_| dirs.enter(dir, &run("a"), true).unwrap()).collect();
        assert_eq!(dirs.enter(dir, &run("b"), true).unwrap_err(), run("first"));
        assert!(dirs.enter(dir, &run("c"), false).is_ok(), "who does not wait is no matter of the bound");
        drop(waiting.remove(0));
        assert!(waiting.iter_mut().all(|stay| !came(stay)));
        drop(dirs.enter_accepted(dir, &run("d"), true));
        drop(first);
        assert!(came(&mut waiting[0]) && !came(&mut waiting[1]));
    }
}
