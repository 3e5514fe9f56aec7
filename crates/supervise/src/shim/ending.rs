//! The end of an attempt.
//!
//! Job: syncs the spool, writes the exit record, tells the watchers. Owns: the file `exit`.
//! Never: is reached before the tree is gone or named as unkilled.

use std::io;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use super::feed::Feed;
use super::keeper::Keeper;
use super::leader::how;
use super::pump::full;
use crate::cgroup::Group;
use crate::order::Stream;
use crate::record::{Exit, How, Rusage, unix_ms};
use crate::{attempt, durable, limits};

impl Keeper {
    /// The tree is gone: syncs the spool, records the end, tells the watchers.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.read_stage_channel();
        self.pump.sync();
        durable::remove(&self.dir.file(attempt::ENV))?;
        let exit = self.exit();
        // Before the record: whoever reads that need not look for a group. One that somebody is still in stays.
        if let Some(group) = self.group.take() {
            let until = Instant::now() + limits::GROUP_REMOVAL_WAIT;
            while group.remove().is_err() && group.is_empty() && Instant::now() < until {
                std::thread::sleep(limits::KILL_ROUND);
            }
        }
        let until = Instant::now() + limits::FULL_DISK_WAIT;
        while let Err(error) = self.reserve.commit(self.dir.path(), attempt::EXIT, &attempt::json(&exit)) {
            // Without a record the server will find the attempt lost, which is then the truth.
            if !full(&error) || Instant::now() >= until {
                return Err(error);
            }
            std::thread::sleep(limits::FULL_DISK_RETRY);
        }
        self.clients.farewell(Instant::now());
        durable::remove(&self.dir.file(attempt::CONTROL))
    }

    fn exit(&mut self) -> Exit {
        let how = match (self.exec_error.take(), &self.leader.ended) {
            (Some(error), _) => How::NeverStarted { exec_error: Some(error) },
            (None, Some((status, _))) => how(*status),
            (None, None) => How::Lost,
        };
        let ended_at = self.leader.ended.map_or_else(Instant::now, |(_, at)| at);
        Exit {
            stop: self.ladder.stop(),
            stop_asked_at_ms: self.ladder.begun_at_ms(),
            stdout_bytes: self.pump.len(Stream::Stdout),
            stderr_bytes: self.pump.len(Stream::Stderr),
            order_bytes: self.pump.order_len(),
            output_lost_bytes: self.pump.lost(),
            spool_error: self.pump.fault().map(ToOwned::to_owned),
            input_bytes: self.feed.as_ref().map_or(0, Feed::bytes),
            input_refused: self.feed.as_ref().map_or(0, Feed::refused),
            input_refused_ids: self.feed.as_ref().map_or_else(Vec::new, |feed| feed.refused_ids().to_vec()),
            ran_ms: millis(ended_at - self.started_at),
            rusage: rusage(),
            killed_descendants: self.tree.killed_besides(self.leader.pid),
            unkilled: std::mem::take(&mut self.unkilled),
            oom_kills: self.group.as_ref().map_or(0, Group::oom_kills),
            ..Exit::bare(how, unix_ms())
        }
    }
}

/// What all reaped children used; the tree is reaped by now.
fn rusage() -> Rusage {
    let Ok(used) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
        return Rusage::default();
    };
    let ms = |time: nix::sys::time::TimeVal| (time.tv_sec() * 1000 + time.tv_usec() / 1000) as u64;
    Rusage { user_ms: ms(used.user_time()), system_ms: ms(used.system_time()), max_rss_kb: used.max_rss() as u64 }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
