//! The protocol's headers, in the lower case that HTTP libraries hold them in.

/// Seconds after the last use at which the stream is over.
pub const TTL: &str = "stream-ttl";
/// When the stream is over, used or not.
pub const EXPIRES_AT: &str = "stream-expires-at";
/// The stream takes no more; only `true` counts.
pub const CLOSED: &str = "stream-closed";
/// A writer's own order: strictly increasing, byte by byte.
pub const SEQ: &str = "stream-seq";
/// Where to read on.
pub const NEXT_OFFSET: &str = "stream-next-offset";
/// The answer reaches the end of what there is.
pub const UP_TO_DATE: &str = "stream-up-to-date";
/// What a live reader sends back, so that no cache in between answers it for ever.
pub const CURSOR: &str = "stream-cursor";
/// The stream that this one begins as.
pub const FORKED_FROM: &str = "stream-forked-from";
/// Up to where it does.
pub const FORK_OFFSET: &str = "stream-fork-offset";
/// Messages or bytes past that.
pub const FORK_SUB_OFFSET: &str = "stream-fork-sub-offset";
/// How the data of a live reader's events is written, if not as it is.
pub const SSE_DATA_ENCODING: &str = "stream-sse-data-encoding";
/// Who writes, across its restarts.
pub const PRODUCER_ID: &str = "producer-id";
/// Which start of the producer it is.
pub const PRODUCER_EPOCH: &str = "producer-epoch";
/// Which request of that start.
pub const PRODUCER_SEQ: &str = "producer-seq";
/// The one that was expected.
pub const PRODUCER_EXPECTED_SEQ: &str = "producer-expected-seq";
/// The one that came.
pub const PRODUCER_RECEIVED_SEQ: &str = "producer-received-seq";

/// Ours: append only if the tail is here.
pub const EXPECTED_OFFSET: &str = "stream-expected-offset";
/// Ours: where what is kept begins.
pub const EARLIEST_OFFSET: &str = "stream-earliest-offset";
/// Ours: how many messages are kept.
pub const MAX_MESSAGES: &str = "stream-max-messages";
/// Ours: how many bytes of messages are kept.
pub const MAX_BYTES: &str = "stream-max-bytes";
/// Ours: for how many seconds messages are kept.
pub const MAX_AGE: &str = "stream-max-age";

/// What a request may carry, for pages of other origins.
pub const REQUEST: &[&str] = &[
    TTL,
    EXPIRES_AT,
    CLOSED,
    SEQ,
    FORKED_FROM,
    FORK_OFFSET,
    FORK_SUB_OFFSET,
    PRODUCER_ID,
    PRODUCER_EPOCH,
    PRODUCER_SEQ,
    EXPECTED_OFFSET,
    MAX_MESSAGES,
    MAX_BYTES,
    MAX_AGE,
];

/// What an answer may carry, for the same.
pub const RESPONSE: &[&str] = &[
    TTL,
    EXPIRES_AT,
    CLOSED,
    NEXT_OFFSET,
    UP_TO_DATE,
    CURSOR,
    SSE_DATA_ENCODING,
    PRODUCER_EPOCH,
    PRODUCER_SEQ,
    PRODUCER_EXPECTED_SEQ,
    PRODUCER_RECEIVED_SEQ,
    EARLIEST_OFFSET,
    MAX_MESSAGES,
    MAX_BYTES,
    MAX_AGE,
];
