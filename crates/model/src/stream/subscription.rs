//! Subscriptions: durable cursors over streams, and who is told when there is more.
//!
//! Job: parse what a subscription may be, and decide what happens to one, over its state and what is known of its streams.
//! Owns: nothing that lives. Never: reads a clock, a store or a network; time, ids and chance come in.
//!
//! ```text
//!            work                     2xx                       done, or the lease is over
//!  idle ───────────► calling (webhook) ───► called ─────────────────────────────────────────► idle
//!    ▲                  │ failed: again later, the same wake while its lease lasts, else a new one
//!    │   work           ▼
//!    ├─────────► offered (pull) ──claim──► claimed ──done, release, or the lease is over──► idle
//! ```
//!
//! Each way out of idle takes a new generation.

mod config;
mod decide;
mod links;
mod pattern;
mod state;
#[cfg(test)]
mod tests;
mod webhook;

pub use config::{Config, ConfigError, Kind, SubscriptionId, SubscriptionKey};
pub use decide::{
    Ack, Context, Outcome, Proof, Refusal, ack, answered, claim, deadline, due, link, look, release, unlink,
};
pub use links::{Link, Links, Seen, Stored};
pub use pattern::{Pattern, PatternError};
pub use state::{Event, Head, Phase, Retry, Told, Wake};
pub use webhook::{UrlRefused, WebhookUrl, is_public};
