//! One catalogue of errors, one shape: `{"error":{"type","code","message","param","request_id",…facts}}`.
//!
//! Job: each code's status, type, retry rule and meaning, as total functions. Never: a text without what to do.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

macro_rules! codes {
    ($($variant:ident = $name:literal, $status:literal, $kind:literal, $retry:literal, $meaning:literal;)*) => {
        /// What went wrong, by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(#[doc = $meaning] $variant,)*
        }

        impl ErrorCode {
            /// The whole catalogue.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The wire name, in `code`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The family, in `type`, as the OpenAI world names them.
            #[must_use]
            pub const fn kind(self) -> &'static str {
                match self { $(Self::$variant => $kind,)* }
            }

            /// Whether the same request may succeed later without a change.
            #[must_use]
            pub const fn may_retry(self) -> bool {
                match self { $(Self::$variant => $retry,)* }
            }

            /// One line for the catalogue page.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

codes! {
    InvalidJson = "invalid_json", 400, "invalid_request_error", false,
        "The body is not JSON, has a key twice, or a number that a double cannot hold.";
    InvalidField = "invalid_field", 400, "invalid_request_error", false,
        "A field, parameter or header has a value that is not allowed; `param` names it.";
    UnknownField = "unknown_field", 400, "invalid_request_error", false,
        "A field that this version does not know; nothing is dropped in silence.";
    UnsupportedField = "unsupported_field", 400, "invalid_request_error", false,
        "A known field that this harness or this version cannot honour.";
    SubscriptionInvalid = "INVALID_REQUEST", 400, "invalid_request_error", false,
        "A request about a subscription is not as the protocol has it; `param` names the member at fault.";
    WebhookUrlRejected = "WEBHOOK_URL_REJECTED", 400, "invalid_request_error", false,
        "The webhook may not be there: https to a public host, or http to localhost or 127.0.0.x.";
    InvalidCursor = "invalid_cursor", 400, "invalid_request_error", false,
        "A cursor that this list or stream did not give.";
    Unauthorized = "unauthorized", 401, "authentication_error", false,
        "The bearer token is missing or wrong.";
    TokenExpired = "token_expired", 401, "authentication_error", false,
        "The token was right until it expired; make another one.";
    SubscriptionToken = "TOKEN_INVALID", 401, "authentication_error", false,
        "The token is not that of a wake of this subscription, or there is none.";
    ForbiddenHost = "forbidden_host", 403, "permission_error", false,
        "The Host or Origin header names somebody this server does not answer.";
    ForbiddenPeer = "forbidden_peer", 403, "permission_error", false,
        "The caller may not do this: another user's process, or one that cannot be seen.";
    AgentNotOperator = "agent_not_operator", 403, "permission_error", false,
        "The caller is a process of a run, and a run has no say over others without a token of its own.";
    ForbiddenScope = "forbidden_scope", 403, "permission_error", false,
        "The token's scope does not reach this far; `scope` and `needed` say how far.";
    ForbiddenProject = "forbidden_project", 403, "permission_error", false,
        "The token is for one project and the request names another; both are given.";
    ForbiddenCwd = "forbidden_cwd", 403, "permission_error", false,
        "The directory lies outside those that the token allows.";
    ProducerFenced = "producer_fenced", 403, "permission_error", false,
        "A later start of the producer has taken over; `epoch` is its number. Begin with a higher one, at 0.";
    UnknownHarness = "unknown_harness", 404, "not_found_error", false,
        "There is no harness of this name; `harnesses` lists those that exist.";
    RunNotFound = "run_not_found", 404, "not_found_error", false,
        "There is no run with this id in this project.";
    UnknownSession = "unknown_session", 404, "not_found_error", false,
        "There is no session with this id in this project.";
    ApprovalNotFound = "approval_not_found", 404, "not_found_error", false,
        "The run's agent asked no question of this number.";
    TokenNotFound = "token_not_found", 404, "not_found_error", false,
        "There is no token with this id.";
    RouteNotFound = "route_not_found", 404, "not_found_error", false,
        "There is nothing at this path.";
    StreamNotFound = "stream_not_found", 404, "not_found_error", false,
        "There is no stream at this path, or it has expired.";
    SubscriptionNotFound = "SUBSCRIPTION_NOT_FOUND", 404, "not_found_error", false,
        "There is no subscription with this id in this project.";
    MethodNotAllowed = "method_not_allowed", 405, "invalid_request_error", false,
        "The path exists, but not for this method.";
    BodyTooSlow = "body_too_slow", 408, "invalid_request_error", true,
        "The body did not arrive in time; nothing was stored.";
    RunConflict = "run_conflict", 409, "conflict_error", false,
        "The run id is bound to another request; both digests are given.";
    OperationConflict = "operation_conflict", 409, "conflict_error", false,
        "The operation id was used with another body.";
    CursorAhead = "cursor_ahead", 409, "conflict_error", false,
        "The cursor is beyond the end of the log.";
    CwdBusy = "cwd_busy", 409, "conflict_error", false,
        "Another live run works in this directory, and the request asked not to share it.";
    SessionConflict = "session_conflict", 409, "conflict_error", false,
        "The session's turns have another harness, model or directory; both values are given.";
    SessionBusy = "session_busy", 409, "conflict_error", false,
        "A run of the session is not over; cancel it first.";
    TooManyTokens = "too_many_tokens", 409, "conflict_error", false,
        "There are as many tokens as there may be; revoke some.";
    RunNotEnded = "run_not_ended", 409, "conflict_error", false,
        "The run is not over; cancel it first.";
    NotResumable = "not_resumable", 409, "conflict_error", false,
        "The ended run cannot be gone on with: it is a command, or its directory or its session is not there.";
    RunCancelled = "run_cancelled", 409, "conflict_error", false,
        "The run was cancelled before it gave an answer.";
    UpgradeRefused = "upgrade_refused", 409, "conflict_error", false,
        "The other program cannot take over, or one does already; the message says why, and the server goes on as it was.";
    RunEnded = "run_ended", 409, "conflict_error", false,
        "The run is over or being cancelled: its agent takes no more messages.";
    StreamConflict = "stream_conflict", 409, "conflict_error", false,
        "The path is taken by a stream that was made in another way, or that was deleted and still has forks.";
    StreamClosed = "stream_closed", 409, "conflict_error", false,
        "The stream is closed and takes no more; `next_offset` is its end.";
    ContentTypeMismatch = "content_type_mismatch", 409, "conflict_error", false,
        "The stream has another content type; `expected` and `received` are given.";
    StreamSeqConflict = "stream_seq_conflict", 409, "conflict_error", false,
        "`Stream-Seq` is not beyond the last one of the stream.";
    ProducerGap = "producer_gap", 409, "conflict_error", false,
        "Requests of the producer are missing before this one; `expected_seq` is the next.";
    SubscriptionExists = "SUBSCRIPTION_ALREADY_EXISTS", 409, "conflict_error", false,
        "There is a subscription of this id with another configuration.";
    Fenced = "FENCED", 409, "conflict_error", false,
        "The wake that the worker shows is over; `generation` is the subscription's last one.";
    AlreadyClaimed = "ALREADY_CLAIMED", 409, "conflict_error", false,
        "Another worker has the subscription; `current_holder` and `generation` say which and since when.";
    NoPendingWork = "NO_PENDING_WORK", 409, "conflict_error", false,
        "No stream of the subscription has messages that are not acknowledged.";
    InvalidOffset = "INVALID_OFFSET", 409, "conflict_error", false,
        "An ack goes back, goes beyond the stream's end, or names a stream that the subscription does not follow.";
    NoInputChannel = "no_input_channel", 409, "conflict_error", false,
        "The agent cannot be told anything now or at all, and the run is no turn of a session that could pass it on.";
    ApprovalSettled = "approval_settled", 409, "conflict_error", false,
        "The question has another answer already, or nobody waits for one any more.";
    ApprovalConflict = "approval_conflict", 409, "conflict_error", false,
        "The answer is for another call than the question is about; both digests are given.";
    CursorExpired = "cursor_expired", 410, "gone_error", false,
        "Events after the cursor are no longer kept; `earliest` is the first that is.";
    LogExpired = "log_expired", 410, "gone_error", false,
        "The files of the run's output are no longer kept; its events are.";
    RunGone = "run_gone", 410, "gone_error", false,
        "The run was deleted or has expired; its id stays taken for a while.";
    StreamGone = "stream_gone", 410, "gone_error", false,
        "The stream was deleted and is kept for its forks alone.";
    TailMoved = "tail_moved", 412, "conflict_error", false,
        "The stream does not end where `Stream-Expected-Offset` says; `next_offset` is its end. Nothing was stored.";
    BodyTooLarge = "body_too_large", 413, "invalid_request_error", false,
        "The body is over its limit; `limit_bytes` says which.";
    PathTooLong = "path_too_long", 414, "invalid_request_error", false,
        "The path of a stream is over its limit; `limit_bytes` says which.";
    RangeNotSatisfiable = "range_not_satisfiable", 416, "invalid_request_error", false,
        "The range lies outside the log.";
    Saturated = "saturated", 429, "rate_limit_error", true,
        "No place became free in time; nothing was started.";
    LimitUnenforceable = "limit_unenforceable", 422, "invalid_request_error", false,
        "This machine cannot keep a limit that the run asks for; nothing was started.";
    ConfinementUnavailable = "confinement_unavailable", 422, "invalid_request_error", false,
        "The run cannot be confined here as it asks; the message says what helps. Nothing was started.";
    SessionQueueFull = "session_queue_full", 429, "rate_limit_error", true,
        "Too many runs of the session wait already; nothing was started.";
    InputQueueFull = "input_queue_full", 429, "rate_limit_error", true,
        "Too many messages wait for the agent already; nothing was stored.";
    TooManyProducers = "too_many_producers", 429, "rate_limit_error", true,
        "The stream has as many producers as it may have; go on with one of them or with another stream.";
    TooManySubscriptions = "too_many_subscriptions", 429, "rate_limit_error", true,
        "There are as many subscriptions as there may be; delete some.";
    QueueFull = "queue_full", 503, "rate_limit_error", true,
        "The queue is full; nothing was started.";
    TooManyConnections = "too_many_connections", 503, "rate_limit_error", true,
        "The server has as many connections as it may have; nothing was read.";
    Draining = "draining", 503, "server_error", true,
        "The server is stopping or starting, or was told to take no new runs; nothing was started.";
    HarnessMissing = "harness_missing", 503, "server_error", false,
        "The agent's program is not installed here; `install` says how.";
    StoreBusy = "store_busy", 503, "server_error", true,
        "The store has too much to write at the moment; nothing was stored.";
    StoreFull = "store_full", 507, "server_error", true,
        "The disk is full; nothing was stored.";
    DiskLow = "disk_low", 507, "server_error", true,
        "Too little room is left on the disk for a new run; nothing was started, live runs go on.";
    StoreFailed = "store_failed", 500, "server_error", false,
        "The store cannot answer.";
    RunFailed = "run_failed", 502, "upstream_error", false,
        "The agent failed; `failure` holds its code, message and the end of its stderr.";
    RunTimeout = "run_timeout", 504, "upstream_error", false,
        "The run used up its time.";
    Internal = "internal", 500, "server_error", false,
        "A fault of ours; the log has it under the request id.";
}

/// An error on its way out: a code, a sentence and facts a machine can read.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The code.
    pub code: ErrorCode,
    /// A sentence for people: what happened, where, what to do.
    pub message: String,
    /// The field, parameter or header at fault.
    pub param: Option<String>,
    /// Members beside the common ones.
    pub facts: Map<String, Value>,
    /// Seconds after which a retry makes sense.
    pub retry_after: Option<u64>,
}

impl Problem {
    /// A problem with a sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let retry_after = code.may_retry().then_some(5);
        Self { code, message: message.into(), param: None, facts: Map::new(), retry_after }
    }

    /// A field, parameter or header with a value that is not allowed.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidField, message).param(param)
    }

    /// Names the field, parameter or header at fault.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    /// The body, as JSON.
    pub fn body(&self, request_id: &str) -> Value {
        let mut error = Map::new();
        error.insert("type".into(), self.code.kind().into());
        error.insert("code".into(), self.code.as_str().into());
        error.insert("message".into(), self.message.clone().into());
        error.insert("param".into(), self.param.clone().map_or(Value::Null, Value::from));
        error.insert("request_id".into(), request_id.into());
        for (name, value) in &self.facts {
            error.insert(name.clone(), value.clone());
        }
        let mut body = Map::new();
        body.insert("error".into(), Value::Object(error));
        Value::Object(body)
    }
}

/// An error as a client reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// The inside of [`ErrorBody`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// The family.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code.
    pub code: String,
    /// The sentence.
    pub message: String,
    /// The field at fault.
    #[serde(default)]
    pub param: Option<String>,
    /// The request, to be found in the server's log.
    #[serde(default)]
    pub request_id: String,
    /// Facts beside them.
    #[serde(flatten)]
    pub facts: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_back() {
        let problem = Problem::invalid("timeout_ms", "timeout_ms must be positive").fact("min", 1);
        let body: ErrorBody = serde_json::from_value(problem.body("req-1")).unwrap();
        assert_eq!(body.error.code, "invalid_field");
        assert_eq!(body.error.param.as_deref(), Some("timeout_ms"));
        assert_eq!(body.error.facts["min"], 1);
    }

    #[test]
    fn capacity_refusals_may_be_retried() {
        for code in ErrorCode::ALL {
            assert_eq!(
                code.may_retry(),
                matches!(code.status(), 408 | 429 | 507)
                    || (code.status() == 503 && *code != ErrorCode::HarnessMissing)
            );
        }
    }
}
