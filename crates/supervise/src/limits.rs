//! Every bound of this crate, each with its reason.

use std::time::Duration;

/// Bytes of one read from a pipe; a pipe holds 64 KiB by default, so one read empties it. Source: pipe(7).
pub const PIPE_READ_BYTES: usize = 64 * 1024;
/// Bytes read from a pipe after the tree is gone. Such a pipe holds at most 1 MiB without privilege, so more
/// can only come from a process outside the tree that was handed the pipe.
pub const RESIDUE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of one line on the control socket.
pub const CONTROL_LINE_BYTES_MAX: usize = 4 * 1024;
/// Bytes queued for one control client that does not read; beyond it the client is dropped.
pub const CONTROL_QUEUE_BYTES_MAX: usize = 16 * 1024;
/// Control clients at a time: a server, its successor, and tools of the operator.
pub const CONTROL_CLIENTS_MAX: usize = 16;
/// Bytes of a spec file; a command line holds at most 2 MiB on Linux, JSON may double it.
pub const SPEC_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of a `started` or `exit` record.
pub const RECORD_BYTES_MAX: u64 = 64 * 1024;
/// Bytes reserved at the start for the exit record, so that a full disk does not keep it from being written.
pub const EXIT_RESERVE_BYTES: usize = 4096;
/// Steps of a stop ladder.
pub const STOP_STEPS_MAX: usize = 16;
/// Bytes of one frame that a stop step writes.
pub const STOP_FRAME_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one input payload.
pub const INPUT_PAYLOAD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of an input id.
pub const INPUT_ID_BYTES_MAX: usize = 255;
/// Bytes of the whole input log of one attempt.
pub const INPUT_LOG_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Ids of refused input frames that the exit record names.
pub const REFUSED_IDS_MAX: usize = 16;
/// Pids that an exit record names as unkilled.
pub const UNKILLED_MAX: usize = 64;
/// Bytes of a message in a record.
pub const MESSAGE_BYTES_MAX: usize = 512;
/// Bytes of a stdout line that is examined for [`crate::CloseWhen`]; it is parsed from the spool, not from memory.
pub const CLOSE_LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Processes of one tree that are looked at in one round; the kernel's default limit of a user is of this order.
pub const TREE_PIDS_MAX: usize = 65_536;

/// The longest sleep of the shim: orphans are reaped and the input log is looked at this often even without a wake-up.
pub const TICK: Duration = Duration::from_secs(1);
/// How long a late shim tries for the lock, which a server may hold for the moment of a look.
pub const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Between two tries of the lock.
pub const LOCK_RETRY: Duration = Duration::from_millis(10);
/// Between two tries of a write that found the disk full.
pub const FULL_DISK_RETRY: Duration = Duration::from_millis(200);
/// How long the shim waits for space after the agent is gone, before it counts what is left as lost.
pub const FULL_DISK_WAIT: Duration = Duration::from_mins(10);
/// How long the tree may take to vanish after KILL before the exit record names what is left.
pub const KILL_WAIT: Duration = Duration::from_secs(10);
/// How long a trial of bubblewrap may take; it takes some milliseconds.
pub const TRIAL_WAIT: Duration = Duration::from_secs(10);
/// How long an empty control group is tried to be removed: the kernel lets go of the dead a moment after they are reaped.
pub const GROUP_REMOVAL_WAIT: Duration = Duration::from_secs(1);
/// Between two rounds of KILL over the tree.
pub const KILL_ROUND: Duration = Duration::from_millis(10);
/// At least this long between two `grew` messages to one client.
pub const GREW_EVERY: Duration = Duration::from_millis(2);
/// How long the blocking control client waits for an answer.
pub const CONTROL_ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Processes above one that are looked at: a chain of this length is no agent's, it is an attack on whoever climbs it.
pub const ANCESTRY_MAX: usize = 4096;
/// How often a climb along a process's ancestors begins anew because one of them died meanwhile.
pub const ANCESTRY_TRIES: usize = 16;
