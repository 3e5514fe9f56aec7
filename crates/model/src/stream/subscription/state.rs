//! The state of a subscription but for its streams, and what changes it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::config::Config;
use super::links::Stored;
use crate::id::StreamId;
use crate::stream::offset::Offset;
use crate::stream::path::StreamPath;
use crate::time::Timestamp;

/// A stream with work, as a wake tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Its path.
    #[serde(rename = "p")]
    pub path: StreamPath,
    /// Its incarnation: an ack is about this one.
    #[serde(rename = "i")]
    pub incarnation: StreamId,
    /// Its end.
    #[serde(rename = "t")]
    pub tail: Offset,
}

/// One call for a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wake {
    /// Its id, unlike that of every other wake.
    pub id: String,
    /// When it was decided on.
    pub at: Timestamp,
    /// The streams that it is about, at least one.
    pub told: Vec<Told>,
}

/// A webhook that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// How often in a row.
    pub failures: u32,
    /// When it is called next, at the earliest.
    pub at: Timestamp,
}

/// Where a subscription is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "lowercase")]
pub enum Phase {
    /// Nobody works and nobody is called.
    Idle,
    /// A webhook is to be called, or called again.
    Calling {
        /// With what.
        wake: Wake,
        /// Up to when a callback is taken.
        lease_until: Timestamp,
    },
    /// A webhook has taken a wake and works.
    Called {
        /// Which.
        wake: Wake,
        /// Up to when.
        lease_until: Timestamp,
    },
    /// A wake is in the wake stream, or about to be, and nobody has claimed it.
    Offered {
        /// Which.
        wake: Wake,
    },
    /// A worker has claimed a wake.
    Claimed {
        /// Which.
        wake: Wake,
        /// Who.
        holder: String,
        /// Up to when.
        lease_until: Timestamp,
    },
}

/// The state of a subscription but for its streams; one record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The store's name for this one, unlike that of one that had its id before.
    pub uid: String,
    /// What it is.
    pub config: Arc<Config>,
    /// The server's address as whoever made it knows it, without a path.
    pub base: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The number of the last wake; 0 before the first.
    pub generation: u64,
    /// Whether its webhook fails.
    pub retry: Option<Retry>,
    /// Where it is.
    #[serde(flatten)]
    pub phase: Phase,
}

/// What happened to a subscription. Durable before anybody is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A wake was decided on; it takes the next generation.
    Woke {
        /// The phase that it begins.
        phase: Phase,
    },
    /// A call failed.
    Failed {
        /// When the next one is.
        retry: Retry,
    },
    /// A webhook has taken its wake.
    Delivered {
        /// Up to when it may work.
        lease_until: Timestamp,
    },
    /// A worker has claimed the wake.
    Claimed {
        /// Who.
        holder: String,
        /// Up to when.
        lease_until: Timestamp,
        /// What there is to do now.
        told: Vec<Told>,
    },
    /// A worker is alive.
    Extended {
        /// Up to when it may work.
        lease_until: Timestamp,
    },
    /// The wake is over.
    Ended,
    /// A stream is followed, or acknowledged further.
    Linked {
        /// Which.
        path: StreamPath,
        /// What is stored of it from now on.
        stored: Stored,
    },
    /// Nothing is stored of a stream any more.
    Unlinked {
        /// Which.
        path: StreamPath,
    },
    /// The server has another address.
    Moved {
        /// Which.
        base: String,
    },
}

impl Phase {
    /// The wake that is under way.
    pub fn wake(&self) -> Option<&Wake> {
        match self {
            Self::Idle => None,
            Self::Calling { wake, .. }
            | Self::Called { wake, .. }
            | Self::Offered { wake }
            | Self::Claimed { wake, .. } => Some(wake),
        }
    }

    /// Up to when the lease lasts, if there is one.
    pub fn lease_until(&self) -> Option<Timestamp> {
        match self {
            Self::Idle | Self::Offered { .. } => None,
            Self::Calling { lease_until, .. }
            | Self::Called { lease_until, .. }
            | Self::Claimed { lease_until, .. } => Some(*lease_until),
        }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Calling { .. } => "calling",
            Self::Called { .. } => "called",
            Self::Offered { .. } => "offered",
            Self::Claimed { .. } => "claimed",
        }
    }
}

impl Head {
    /// The state after an event. Total: an event that does not fit changes nothing.
    pub fn evolve(&mut self, event: &Event) {
        match event {
            Event::Woke { phase } => {
                self.generation += 1;
                self.phase = phase.clone();
            }
            Event::Failed { retry } => self.retry = Some(*retry),
            Event::Delivered { lease_until } => {
                self.retry = None;
                if let Phase::Calling { wake, .. } = &self.phase {
                    self.phase = Phase::Called { wake: wake.clone(), lease_until: *lease_until };
                }
            }
            Event::Claimed { holder, lease_until, told } => {
                if let Phase::Offered { wake } = &self.phase {
                    let wake = Wake { told: told.clone(), ..wake.clone() };
                    self.phase = Phase::Claimed { wake, holder: holder.clone(), lease_until: *lease_until };
                }
            }
            Event::Extended { lease_until: later } => match &mut self.phase {
                Phase::Calling { lease_until, .. }
                | Phase::Called { lease_until, .. }
                | Phase::Claimed { lease_until, .. } => *lease_until = *later,
                Phase::Idle | Phase::Offered { .. } => {}
            },
            Event::Ended => self.phase = Phase::Idle,
            Event::Moved { base } => self.base.clone_from(base),
            Event::Linked { .. } | Event::Unlinked { .. } => {}
        }
    }
}
