//! Bounds of one commit, each with the reason for its number.

/// Bytes of one commit, events, rows and records together: one line of a harness at its largest (32 MiB), escaped in
/// JSON, with room.
pub const COMMIT_BYTES_MAX: usize = 96 << 20;

/// Events of one commit: what an ingest of one second at full speed may bring.
pub const COMMIT_EVENTS_MAX: usize = 200_000;

/// Streams of one commit.
pub const COMMIT_STREAMS_MAX: usize = 1_024;

/// Records of one commit.
pub const COMMIT_RECORDS_MAX: usize = 4_096;

/// Records of one page.
pub const RECORDS_MAX: usize = 10_000;
