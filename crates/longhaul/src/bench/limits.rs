//! Bounds of a bench, each with its reason.

use std::time::Duration;

/// Bytes of an answer's head. Servers send a few hundred.
pub const HEAD_BYTES_MAX: usize = 64 << 10;

/// Bytes read at once where answers are small.
pub const READ_BYTES: usize = 4 << 10;

/// Bytes read at once where answers are bulk: as much as a loopback socket holds.
pub const READ_BULK_BYTES: usize = 256 << 10;

/// How long a server may take from its start, or from a kill, to its first answer.
pub const START_MAX: Duration = Duration::from_secs(60);

/// How long one row may take on one server beyond the time it measures. What is not there then is counted as missing.
pub const ROW_EXTRA_MAX: Duration = Duration::from_secs(30);

/// How often a connection that breaks is made again before its worker gives up.
pub const RECONNECTS_MAX: u32 = 50;

/// Bytes of one message in all rows.
pub const EVENT_BYTES: usize = 200;

/// Connections that are opened at once where a row does not measure just that: below every usual listen backlog.
pub const OPENING_MAX: usize = 64;

/// Bytes of one append while a stream is filled for catching up.
pub const FILL_EVENTS: usize = 1_000;

/// Samples of the disk beside each round.
pub const DISK_SAMPLES: usize = 400;

/// Bytes of each of them.
pub const DISK_BYTES: usize = 256;
