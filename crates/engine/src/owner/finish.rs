//! The end of an attempt: read its output to the last byte, then the exit and the end in one commit.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use longhaul_model::event::{EventData, OnLost, ResourceUse, Warning};
use longhaul_model::run::{Command, ExecError, Exit, ExitHow, RunState, Stop, decide};
use longhaul_model::{AttemptNo, limits};
use longhaul_store::Urgency;
use longhaul_supervise::{self as supervise, AttemptDir, Group, How, SpoolLengths, kill_marked};

use super::commit::Refused;
use super::ingest::Source;
use super::{Events, LetGo, Owner};
use crate::recovery::Fate;

/// How long the processes of a lost shim may take to die.
const LOST_KILL: Duration = Duration::from_secs(5);

impl Owner {
    /// Ends an attempt whose directory is not there: never made, or made and taken away.
    pub(super) async fn finish_unmade(&mut self, attempt: AttemptNo) -> Result<(), LetGo> {
        let never = !self.is_running();
        let mut exit = Exit {
            how: if never { ExitHow::NeverStarted { error: None } } else { ExitHow::Lost },
            stop: Stop::None,
            rusage: None,
            killed_descendants: 0,
            unkilled: vec![],
            stdout_bytes: 0,
            stderr_bytes: 0,
            output_lost_bytes: 0,
            stderr_tail: None,
            spool_error: None,
            oom_kills: 0,
            ran_ms: if never { 0 } else { self.estimate_ms(None) },
            unmet: None,
        };
        self.kill_lost(attempt, None, &mut exit).await?;
        self.end(vec![], None, exit).await
    }

    /// Ends an attempt as its record says.
    pub(super) async fn finish(
        &mut self,
        attempt: AttemptNo,
        dir: &AttemptDir,
        mut source: Source,
        record: supervise::Exit,
    ) -> Result<(), LetGo> {
        let mut exit = exit_of(&record);
        // A shim that came to its end has removed its groups; one that did not has left them.
        if matches!(record.how, How::Lost | How::NeverStarted { exec_error: None }) {
            if record.how == How::Lost {
                exit.ran_ms = self.estimate_ms(Some(dir));
            }
            self.kill_lost(attempt, Some(dir), &mut exit).await?;
        }
        if let Some(started) = dir.read_started().ok().flatten()
            && !matches!(record.how, How::NeverStarted { .. })
        {
            self.process_started(attempt, &started, dir).await?;
        }
        let mut last: Events = vec![];
        let mut cursor = None;
        if let Some(why) = self.poison.clone() {
            exit.stop = Stop::SpoolError;
            exit.spool_error = Some(why);
        } else if self.is_running() {
            let ended = SpoolLengths::from(&record);
            let ended = if record.how == How::Lost { lengths(dir).unwrap_or(ended) } else { ended };
            (exit.stdout_bytes, exit.stderr_bytes) = (ended.stdout, ended.stderr);
            self.open_wire_if_there(dir).await;
            loop {
                let (next, piece) = self.piece(attempt, dir, source, Some(ended)).await?;
                source = next;
                let Some(piece) = piece else { break };
                if piece.more {
                    // The reserve is for the end itself, not for what is still to be read.
                    self.commit_patiently(piece.events, Some(piece.cursor), vec![], Urgency::Ordinary).await?;
                } else {
                    last = piece.events;
                    cursor = Some(piece.cursor);
                    break;
                }
            }
        }
        let settled = self.settle_talk(attempt, dir, &record, &last).await;
        last.extend(settled);
        exit.stderr_tail = stderr_tail(dir);
        if record.output_lost_bytes > 0 {
            let warning = Warning {
                code: "output_dropped".to_owned(),
                message: format!("{} bytes of output were not kept", record.output_lost_bytes),
            };
            last.push(warning.into());
        }
        if record.oom_kills > 0 {
            let text = format!("the kernel killed {} of the run's processes for want of memory", record.oom_kills);
            last.push(Warning { code: "oom_kill".to_owned(), message: text }.into());
        }
        self.end(last, cursor, exit).await
    }

    /// Commits the last events, the exit and, unless another attempt follows, the end: all at once.
    pub(super) async fn end(
        &mut self,
        last: Events,
        cursor: Option<crate::cursor::Cursor>,
        exit: Exit,
    ) -> Result<(), LetGo> {
        let lost = exit.how == ExitHow::Lost;
        let exit = Exit { unmet: self.unmet(&last).await, ..exit };
        let over = loop {
            // Decided anew after each wait for room: a cancel may have come meanwhile.
            let mut events: Events = last.clone();
            let state = events.iter().fold(self.state.clone(), RunState::evolve);
            match decide(&state, Command::Exit(Box::new(exit.clone())), &self.ctx()) {
                Ok(ending) => events.extend(ending),
                Err(rejection) => return Err(LetGo::Fenced(rejection.to_string())),
            }
            let over = events.last().is_some_and(EventData::is_terminal);
            match self.commit(events, cursor.clone(), vec![], Urgency::Reserve).await {
                Ok(()) => break over,
                Err(Refused::LetGo(error)) => return Err(error),
                Err(Refused::Later(error)) => self.pause(&error).await?,
            }
        };
        self.account(match (over, lost) {
            (true, true) => Fate::Failed,
            (true, false) => Fate::Finished,
            (false, _) => Fate::Requeued,
        });
        Ok(())
    }

    /// Why the answer, with the last events that are not committed yet, is not of the form that was asked for.
    async fn unmet(&self, last: &Events) -> Option<String> {
        let whole = |event: &EventData| match event {
            EventData::MessageCompleted(d) if d.parent_call_id.is_none() => Some(d.text.clone()),
            _ => None,
        };
        let (asked, so_far) = self.shared.with_doc(|doc| (doc.run.response_format.is_some(), doc.run.output_text()));
        if !asked {
            return None;
        }
        let answer = last.iter().rev().find_map(whole).unwrap_or(so_far);
        let dir = self.run_dir();
        let checked = tokio::task::spawn_blocking(move || match crate::sealed::read(&dir) {
            Ok(sealed) => sealed.schema.and_then(|schema| crate::format::unmet(&schema, &answer)),
            Err(error) => Some(format!("it cannot be checked, since the sealed request cannot be read: {error}")),
        });
        checked.await.unwrap_or_else(|_| Some("it cannot be checked".to_owned()))
    }

    /// Kills what a lost shim left: all that is in the attempt's control groups, which go with it, and what its marker
    /// still leads to. A run that may go on waits until it could be looked for: its agent must not be there twice.
    async fn kill_lost(&mut self, attempt: AttemptNo, dir: Option<&AttemptDir>, exit: &mut Exit) -> Result<(), LetGo> {
        loop {
            let marker = self.marker(attempt);
            let dir = dir.cloned();
            let anywhere = self.engine.inner.options.containment.grounds.every_group(&marker);
            let killed = tokio::task::spawn_blocking(move || {
                // The spec knows where an earlier server made them.
                let spec = dir.and_then(|dir| dir.read_spec().ok().flatten()).and_then(|spec| spec.group);
                let groups = [Group::of(&spec.unwrap_or_default()), Group::of(&anywhere)];
                let oom_kills = groups.iter().map(Group::oom_kills).max().unwrap_or(0);
                let ended = groups.map(|group| group.end(LOST_KILL));
                kill_marked(&marker, LOST_KILL).map(|marked| (ended, marked, oom_kills))
            })
            .await;
            let error = match killed {
                Ok(Ok((ended, marked, oom_kills))) => {
                    let union = |lists: [Vec<i32>; 3]| lists.into_iter().flatten().collect::<BTreeSet<i32>>();
                    let [first, second] = ended;
                    exit.killed_descendants = union([first.killed, second.killed, marked.killed]).len() as u32;
                    let remaining = union([first.remaining, second.remaining, marked.remaining]);
                    exit.unkilled = remaining.into_iter().collect();
                    exit.oom_kills = oom_kills;
                    return Ok(());
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(run = %self.shared.key, error, "could not look for a lost run's processes");
            if self.state.on_lost == OnLost::Fail || self.state.cancel.is_some() {
                return Ok(());
            }
            self.trouble(&format!("processes of a lost attempt cannot be looked for: {error}")).await?;
        }
    }

    /// What the attempt's processes and its groups are known by.
    pub(super) fn marker(&self, attempt: AttemptNo) -> String {
        self.shared.with_doc(|doc| format!("{}.{attempt}", doc.dir))
    }
}

fn exit_of(record: &supervise::Exit) -> Exit {
    let how = match &record.how {
        How::Exited { code } => ExitHow::Exited(*code),
        How::Signaled { signal, .. } => ExitHow::Signaled(*signal),
        How::NeverStarted { exec_error } => ExitHow::NeverStarted {
            error: exec_error
                .as_ref()
                .map(|e| ExecError { errno: e.errno, message: format!("{}: {}", e.path, e.message) }),
        },
        How::Lost => ExitHow::Lost,
    };
    let rusage = matches!(record.how, How::Exited { .. } | How::Signaled { .. }).then(|| ResourceUse {
        user_ms: record.rusage.user_ms,
        system_ms: record.rusage.system_ms,
        max_rss_kb: record.rusage.max_rss_kb,
    });
    Exit {
        how,
        stop: stop_of(record.stop),
        rusage,
        killed_descendants: record.killed_descendants,
        unkilled: record.unkilled.clone(),
        stdout_bytes: record.stdout_bytes,
        stderr_bytes: record.stderr_bytes,
        output_lost_bytes: record.output_lost_bytes,
        stderr_tail: None,
        spool_error: record.spool_error.clone(),
        oom_kills: record.oom_kills,
        ran_ms: record.ran_ms,
        unmet: None,
    }
}

const fn stop_of(stop: supervise::Stop) -> Stop {
    match stop {
        supervise::Stop::None => Stop::None,
        supervise::Stop::Cancel => Stop::Cancel,
        supervise::Stop::Deadline => Stop::Deadline,
        supervise::Stop::OutputLimit => Stop::OutputLimit,
        supervise::Stop::Idle => Stop::Idle,
        supervise::Stop::Shutdown => Stop::Shutdown,
        supervise::Stop::Lingered => Stop::Lingered,
        supervise::Stop::SpoolError => Stop::SpoolError,
    }
}

/// The lengths of a spool whose shim did not live to record them.
fn lengths(dir: &AttemptDir) -> io::Result<SpoolLengths> {
    let len = |name| std::fs::metadata(dir.file(name)).map(|found| found.len());
    Ok(SpoolLengths { stdout: len("stdout")?, stderr: len("stderr")? })
}

fn stderr_tail(dir: &AttemptDir) -> Option<String> {
    let file = File::open(dir.file("stderr")).ok()?;
    let len = file.metadata().ok()?.len();
    if len == 0 {
        return None;
    }
    let from = len.saturating_sub(limits::STDERR_TAIL_BYTES as u64);
    let mut bytes = vec![0; (len - from) as usize];
    file.read_exact_at(&mut bytes, from).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
