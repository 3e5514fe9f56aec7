//! Every limit of the house, each with the reason for its number.

use std::time::Duration;

/// Characters of an id: fits a header line, a file name and a database key.
pub const ID_BYTES_MAX: usize = 255;

/// Bytes of a request body: a prompt of 1 MiB, escaped at worst sixfold, and its frame.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// Bytes of a request's head: an address of 64 KiB, beyond which there is a status of its own, and as much again.
pub const HEAD_BYTES_MAX: usize = 128 << 10;

/// How long a request's head may take from its first byte on, where nothing says otherwise: what other servers give it.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long at least: below it a busy machine would refuse those who are quick.
pub const CLIENT_TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// How long at most: beyond it nobody is waited for any more.
pub const CLIENT_TIMEOUT_MAX: Duration = Duration::from_hours(1);
/// How many times as long the body may take: with 30 s the largest one comes over half a megabit a second.
pub const CLIENT_BODY_TIMES: u32 = 4;
/// How many times as long a connection may be idle: with 30 s longer than pools of clients and proxies keep one, so that it
/// is they who close it, and no request meets a connection that is being closed.
pub const CLIENT_IDLE_TIMES: u32 = 4;
/// How many times as long a client may take nothing of an answer: a person may stop a pager.
pub const CLIENT_STALLED_TIMES: u32 = 10;
/// How long a head may take while the server stops.
pub const CLIENT_LAST_HEAD: Duration = Duration::from_millis(500);

/// Connections of one server: their memory is a few KiB each, and somebody must pay for it.
pub const CONNECTIONS_MAX: usize = 100_000;
/// Descriptors that no connection gets, or a quarter of all if that is more, or half of them if that is less: the store and
/// the runs need some.
pub const DESCRIPTORS_KEPT: u64 = 128;

/// Bytes of one piece of a line of output: large enough that ordinary lines are one piece, small enough that one event
/// never dominates a page.
pub const LINE_PART_BYTES_MAX: usize = 64 << 10;

/// Bytes of one line that a harness's parser gets whole: tool results of several MiB occur; past this the line is kept
/// in pieces as output. Escaped sixfold at worst, its events still fit one commit of the store.
pub const HARNESS_LINE_BYTES_MAX: usize = 12 << 20;

/// Bytes of `output_text` in a snapshot; the log has it all.
pub const OUTPUT_TEXT_BYTES_MAX: usize = 1 << 20;

/// Bytes of the end of stderr that a failure carries.
pub const STDERR_TAIL_BYTES: usize = 4 << 10;

/// Bytes of spool one run may write (stdout and stderr together) before it is stopped.
pub const SPOOL_BYTES_MAX: u64 = 1 << 30;

/// The budget of a run that names none.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_hours(6);

/// The largest budget a run may ask for: thirty days.
pub const TIMEOUT_MAX: Duration = Duration::from_hours(30 * 24);

/// How long the server lets the shim enforce a deadline before it acts itself.
pub const DEADLINE_GRACE: Duration = Duration::from_secs(10);

/// Silence after which a run carries a warning.
pub const SILENCE_WARNING: Duration = Duration::from_mins(10);

/// How long output that somebody else's pipe still holds is drained after the agent's own end.
pub const DRAIN: Duration = Duration::from_millis(500);

/// Runs that wait for a place.
pub const QUEUE_MAX: usize = 1_000;

/// Events of one page and bytes of one page of a log, whichever comes first.
pub const PAGE_EVENTS_MAX: usize = 1_000;
/// See [`PAGE_EVENTS_MAX`].
pub const PAGE_BYTES_MAX: usize = 256 << 10;

/// Runs of one page of a list, by default and at most.
pub const LIST_DEFAULT: usize = 20;
/// Bytes that must be free on the disk for a new run: room for the output of live runs and for the store's logs.
pub const DISK_FREE_MIN_BYTES: u64 = 2 << 30;

/// Per cent of the disk that must be free for a new run: file systems slow down before they are full.
pub const DISK_FREE_MIN_PERCENT: u64 = 5;

/// See [`LIST_DEFAULT`].
pub const LIST_MAX: usize = 100;

/// How long a snapshot request may wait for the end, in milliseconds.
pub const WAIT_MS_MAX: u64 = 30_000;

/// How long a chat request waits for a place before it is refused.
pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);

/// Attempts of one run in all: a run on which every server dies must not be tried for ever.
pub const ATTEMPTS_MAX: u32 = 100;

/// Attempts of one run that had a process, with `on_lost: resume`: the first and two more. What kills an agent three times
/// is likely to be its own work.
pub const LOST_ATTEMPTS_MAX: u32 = 3;

/// Open tool calls, and as many open messages, that are listed when an attempt is lost.
pub const LOST_LISTED_MAX: usize = 256;

/// Bytes of the text that retells a run to an agent that cannot go on with its own session, beside the prompt: most
/// command lines hold 120 KiB for the whole.
pub const RETOLD_BYTES_MAX: usize = 32 << 10;

/// Bytes of one message, argument or result in that text.
pub const RETOLD_PART_BYTES_MAX: usize = 2 << 10;

/// Attempts of one server that provably started nothing before a run gives up.
pub const NEVER_STARTED_MAX: u32 = 3;

/// Bytes of a prompt or of stdin in a request.
pub const PROMPT_BYTES_MAX: usize = 4 << 20;

/// Bytes of the JSON Schema of an answer: it may travel as one argument.
pub const SCHEMA_BYTES_MAX: usize = 64 << 10;

/// Servers of tools of one run, and bytes of all that is said of them: written out at each start.
pub const MCP_SERVERS_MAX: usize = 16;
/// See [`MCP_SERVERS_MAX`].
pub const MCP_BYTES_MAX: usize = 64 << 10;
/// Bytes of a server's name: a part of the names of its tools, for which models have little room.
pub const MCP_NAME_BYTES_MAX: usize = 32;

/// Bytes of memory that a run may be limited to: less would kill the stage that becomes the agent.
pub const MEMORY_BYTES_MIN: u64 = 16 << 20;
/// See [`MEMORY_BYTES_MIN`]; far above any machine, and a number that every client can hold.
pub const MEMORY_BYTES_MAX: u64 = 1 << 50;
/// Processes and threads that a run may be limited to: the kernel's own limit. Source: `proc_sys_kernel(5)`, `pid_max`.
pub const TASKS_MAX: u64 = 1 << 22;

/// Arguments of a command, and bytes of each: below the kernel's `MAX_ARG_STRLEN` of 128 KiB.
pub const ARGS_MAX: usize = 1_000;
/// See [`ARGS_MAX`].
pub const ARG_BYTES_MAX: usize = 120 << 10;

/// Runs of one session that wait behind the one that works.
pub const SESSION_QUEUE_MAX: usize = 16;

/// Runs that wait for one working directory.
pub const CWD_QUEUE_MAX: usize = 100;

/// Messages into a live run that its agent has not taken yet.
pub const INPUTS_OPEN_MAX: usize = 16;

/// Bytes of one message into a live run.
pub const INPUT_BYTES_MAX: usize = 1 << 20;

/// Questions of one run that wait for an answer; more are refused to the agent at once.
pub const APPROVALS_OPEN_MAX: usize = 64;

/// Bytes of a question's arguments, as JSON: its answer repeats them, and must fit one frame. A longer one is refused to
/// the agent at once.
pub const APPROVAL_BYTES_MAX: usize = 4 << 20;

/// Settled questions that a snapshot's row remembers; all are in the log.
pub const APPROVALS_KEPT: usize = 64;

/// Rules by which questions are answered.
pub const APPROVAL_RULES_MAX: usize = 100;
/// See [`APPROVAL_RULES_MAX`]: bytes of each text of one.
pub const APPROVAL_RULE_BYTES_MAX: usize = 1024;

/// Tags of a run.
pub const TAGS_MAX: usize = 50;

/// Bytes of a tag's key or value.
pub const TAG_BYTES_MAX: usize = 255;

/// How long a comment keeps an idle event stream open: proxies cut at 30 s to 60 s.
pub const SSE_KEEPALIVE: Duration = Duration::from_secs(15);

/// How long a long poll of a stream waits where nothing says otherwise: what other servers of the protocol wait.
pub const STREAM_LONG_POLL: Duration = Duration::from_secs(30);
/// How long at most: proxies cut what is silent for longer.
pub const STREAM_LONG_POLL_MAX: Duration = Duration::from_mins(5);

/// How long a live reader of a stream is served over one connection, a fifth more or less: caches in between may put
/// later readers together only when connections end. Source: the Durable Streams protocol, section 5.8.
pub const STREAM_SSE_LIFE: Duration = Duration::from_secs(60);

/// Bytes of one page of a stream, and one message more: large enough that the request costs little beside them.
pub const STREAM_PAGE_BYTES: usize = 1 << 20;

/// Bytes that one live reader of a stream holds at a time, and one message more.
pub const STREAM_LIVE_BYTES: usize = 64 << 10;

/// How long a chat retry without an id may look back for the run it repeats.
pub const CHAT_RETRY_WINDOW: Duration = Duration::from_hours(1);

/// How long a chat answer that was given may still be asked for by a retry: the SDKs wait 8 s at most before they try
/// again, and what was on its way when the connection broke was given and not received.
pub const CHAT_RETRY_GRACE: Duration = Duration::from_secs(10);

/// How long a chat request that was refused for want of a place may come back as what it was: the SDKs wait as long as
/// `Retry-After` says, which is 5 s, and no longer than 8 s where they choose.
pub const CHAT_REFUSED_FOR: Duration = Duration::from_secs(20);
/// How long a token is good for if nothing says so: a month, after which nobody remembers who has it.
pub const TOKEN_TTL_DEFAULT_MS: u64 = 30 * 86_400_000;
/// How long at most: a year, after which it is time to make another one.
pub const TOKEN_TTL_MAX_MS: u64 = 366 * 86_400_000;
/// Tokens and shares together; all of them are in memory.
pub const TOKENS_MAX: usize = 1000;
/// Directories of one token.
pub const TOKEN_ROOTS_MAX: usize = 32;
/// How long a share is good for if nothing says so: long enough to be looked at.
pub const SHARE_TTL_DEFAULT_MS: u64 = 3_600_000;
/// How long at most: a week. Far below the life of a tombstone, so that no later run of the same id is shown by it.
pub const SHARE_TTL_MAX_MS: u64 = 7 * 86_400_000;

/// Bytes of a stream's path: fits a request line and a database key.
pub const STREAM_PATH_BYTES_MAX: usize = 1_024;

/// Bytes of a stream's content type: it stands in a header of every answer.
pub const STREAM_CONTENT_TYPE_BYTES_MAX: usize = 255;

/// Bytes of a producer's id: it is part of a database key.
pub const STREAM_PRODUCER_ID_BYTES_MAX: usize = 256;

/// Producers that one stream remembers; none is ever forgotten while the stream lives, so their number is bounded.
pub const STREAM_PRODUCERS_MAX: u32 = 65_536;

/// Bytes of a `Stream-Seq`: every append of the stream writes the last one again.
pub const STREAM_SEQ_BYTES_MAX: usize = 256;

/// Bytes of one message of a byte stream; a larger body is cut, so that no message dominates a page.
pub const STREAM_MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Messages that one append may bring: what one commit of a store holds.
pub const STREAM_APPEND_MESSAGES_MAX: usize = 200_000;

/// Levels of a JSON message: far above what people nest, and a parser of it needs no more stack than that.
pub const STREAM_JSON_DEPTH_MAX: usize = 1_024;

/// Forks of forks with messages of their own, one above the other: each is one more stream that a read may touch.
pub const STREAM_FORK_DEPTH_MAX: usize = 256;

/// Bytes of a subscription's id: it is part of a database key and of an address.
pub const SUBSCRIPTION_ID_BYTES_MAX: usize = 256;

/// Subscriptions of one server: each is a task with its streams in memory.
pub const SUBSCRIPTIONS_MAX: usize = 4_096;

/// Streams that one subscription names, its pattern aside.
pub const SUBSCRIPTION_EXPLICIT_MAX: usize = 10_000;

/// Streams that one subscription follows; each is held in memory.
pub const SUBSCRIPTION_LINKS_MAX: usize = 65_536;

/// Streams that one wake or one document tells of, those with work first.
pub const SUBSCRIPTION_TOLD_MAX: usize = 1_000;

/// Acks of one request: as many as a wake tells of, twice.
pub const SUBSCRIPTION_ACKS_MAX: usize = 2_000;

/// Bytes of a subscription's pattern and of its description.
pub const SUBSCRIPTION_TEXT_BYTES_MAX: usize = 1_024;

/// Bytes of a webhook's address: what others take as well.
pub const WEBHOOK_URL_BYTES_MAX: usize = 2_048;

/// Bytes of a worker's name.
pub const WORKER_BYTES_MAX: usize = 256;

/// How long a lease of a subscription lasts: at least, at most, and if nothing is said. Source: the Durable Streams
/// protocol, section 6.2.
pub const LEASE_TTL_MS_MIN: u64 = 1_000;
/// See [`LEASE_TTL_MS_MIN`].
pub const LEASE_TTL_MS_MAX: u64 = 600_000;
/// See [`LEASE_TTL_MS_MIN`].
pub const LEASE_TTL_MS_DEFAULT: u64 = 30_000;

/// The wait after a webhook's first failure; each later one is twice as long, up to the most. Source: the Durable Streams
/// protocol, section 7.1.
pub const WEBHOOK_RETRY_MS_MIN: u64 = 1_000;
/// See [`WEBHOOK_RETRY_MS_MIN`].
pub const WEBHOOK_RETRY_MS_MAX: u64 = 60_000;

/// How long a webhook may take to answer; a shorter lease is the bound instead.
pub const WEBHOOK_ANSWER: Duration = Duration::from_secs(30);

/// Bytes of a webhook's answer that are read.
pub const WEBHOOK_ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Webhooks that are called at once: each has a thread.
pub const WEBHOOK_CALLS_MAX: usize = 32;

/// How long the generation of a deleted subscription is remembered, so that one of the same id goes on counting.
pub const SUBSCRIPTION_TOMBSTONE: Duration = Duration::from_hours(7 * 24);
