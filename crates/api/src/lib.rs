//! The wire: request and response types, error codes and event-stream framing, shared by server and client.
//!
//! Job: what goes over HTTP, parsed strictly and rendered in one way.
//! Owns: the error catalogue. Never: does I/O, knows a store or a process.

pub mod access;
pub mod chat;
pub mod error;
pub mod request;
pub mod responses;
pub mod server;
pub mod snapshot;
pub mod sse;
pub mod streams;
pub mod talk;

pub use access::{Scope, ShareReply, ShareRequest, TokenInfo, TokenList, TokenRequest};
pub use error::{ErrorBody, ErrorCode, Problem};
pub use request::{Confine, OnCwdBusy, OnDisconnect, OnLost, Permissions, RunLimits, RunRequest};
pub use server::{LiveProof, ServerInfo};
pub use snapshot::{CancelReply, EventList, Links, Queue, RunList, Snapshot, Why};
pub use talk::{Approval, ApprovalList, InputReply, OpenApproval};
