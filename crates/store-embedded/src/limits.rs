//! Bounds of the embedded store, each with the reason for its number.

use std::time::Duration;

/// Commits that wait for the committer: more than any closed loop of this server has in flight.
pub const QUEUE_COMMITS_MAX: usize = 8_192;

/// Bytes that wait for the committer.
pub const QUEUE_BYTES_MAX: usize = 32 << 20;

/// Bytes of one group: large enough to carry a burst, small enough that one fsync stays below some ten milliseconds.
pub const GROUP_BYTES_MAX: usize = 4 << 20;

/// Commits of one group.
pub const GROUP_COMMITS_MAX: usize = 4_096;

/// How long a commit waits for room in the queue before it is answered `Busy`.
pub const BUSY_AFTER: Duration = Duration::from_secs(5);

/// Bytes that are durable in the journal and not yet applied; at the bound commits wait.
pub const UNAPPLIED_BYTES_MAX: usize = 64 << 20;

/// Un-applied bytes at which the applier starts without waiting for age. Large batches write each stream once.
pub const APPLY_BYTES: usize = 16 << 20;

/// Bytes of one apply transaction, so that the library's log stays small.
pub const APPLY_BATCH_BYTES_MAX: usize = 16 << 20;

/// Age of the oldest un-applied commit at which the applier starts. Nothing waits for it: what is not applied is read
/// from memory.
pub const APPLY_AFTER: Duration = Duration::from_millis(200);

/// Bytes of applied events kept in memory for live readers, per stream and in all.
pub const RECENT_STREAM_BYTES: usize = 64 << 10;
/// See [`RECENT_STREAM_BYTES`].
pub const RECENT_BYTES_MAX: usize = 16 << 20;

/// Entries of the feed kept in memory after they are applied.
pub const RECENT_FEED_MAX: usize = 512;

/// Silence after which memory that only serves speed is given back.
pub const REST_AFTER: Duration = Duration::from_secs(2);

/// Bytes of a chunk: one page of a log is four of them.
pub const CHUNK_BYTES: usize = 64 << 10;

/// Bytes written to the journal after which its log is folded back into its file.
pub const JOURNAL_CHECKPOINT_BYTES: usize = 24 << 20;

/// Rows that one group trims from the journal, so that no commit waits for a long trim.
pub const TRIM_ROWS_MAX: u64 = 64;

/// Pages of the library's log after which it is folded back: 32 MiB.
pub const LIBRARY_CHECKPOINT_PAGES: u32 = 8_192;

/// Bytes of the ballast file: room for the last words of every live run.
pub const BALLAST_BYTES: u64 = 8 << 20;

/// How often a lost ballast is tried again.
pub const BALLAST_RETRY: Duration = Duration::from_millis(500);

/// Bytes of a library up to which a scrub writes it anew in memory; a larger one goes by a temporary file.
pub const SCRUB_IN_MEMORY_BYTES: u64 = 64 << 20;

/// Bytes that must stay free on the disk during a scrub, besides twice the library.
pub const SCRUB_ROOM_BYTES: u64 = 64 << 20;

/// Connections that read the library.
pub const READERS: usize = 3;

/// Heads that the committer remembers.
pub const HEADS_MAX: usize = 32_768;

/// Feed positions that one page looks at.
pub const FEED_SCAN_MAX: u64 = 10_000;

/// A file up to this size is checked whole at open: some ten milliseconds.
pub const CHECK_AT_OPEN_BYTES: u64 = 4 << 20;

/// How long a writer is given to gather the group it had before, at most.
pub const GATHER_MAX: Duration = Duration::from_micros(60);
