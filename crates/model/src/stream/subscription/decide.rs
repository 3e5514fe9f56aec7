//! What may happen to a subscription.
//!
//! Job: every question that is put to one, as a function of its state, of what is known of its streams, and of the time.
//! Never: changes anything; the events that are answered do, once they are durable.

use std::collections::BTreeMap;
use std::time::Duration;

use super::config::Kind;
use super::links::{Link, Links, Seen, Stored};
use super::state::{Event, Head, Phase, Retry, Told, Wake};
use crate::limits;
use crate::stream::offset::Offset;
use crate::stream::path::StreamPath;
use crate::time::Timestamp;

/// What comes from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    /// The time.
    pub now: Timestamp,
    /// The id of a wake, should one begin.
    pub wake_id: String,
    /// By how much the next wait is longer or shorter: from -1 to 1.
    pub chance: f64,
    /// Whether the webhook is being called at this moment; no lease runs out meanwhile.
    pub calling: bool,
}

/// What came of calling a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has done all it was told of.
    Done,
    /// It has taken the wake.
    Accepted,
    /// It did not answer, or refused.
    Failed,
}

/// What a worker shows: the wake that its token was made for, and the one that its request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The token's generation.
    pub token_generation: u64,
    /// The token's wake.
    pub token_wake: String,
    /// The request's generation.
    pub generation: Option<u64>,
    /// The request's wake.
    pub wake_id: Option<String>,
}

/// How far a worker has come in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The stream.
    pub path: StreamPath,
    /// The last position that it is done with.
    pub offset: Offset,
}

/// Why something does not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The wake is over, or never was.
    #[error("the wake is over; the subscription is at generation {generation}")]
    Fenced {
        /// The last generation.
        generation: u64,
    },
    /// Somebody else works.
    #[error("{holder} has claimed the subscription")]
    AlreadyClaimed {
        /// Who.
        holder: String,
        /// In which generation.
        generation: u64,
    },
    /// There is nothing to do.
    #[error("no stream of the subscription has messages that are not acknowledged")]
    NoPendingWork,
    /// An ack that cannot be.
    #[error("{path}: {why}")]
    InvalidOffset {
        /// The stream.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// The subscription tells in the other way.
    #[error("the subscription is of type {kind}", kind = .0.as_str())]
    WrongKind(Kind),
    /// It follows as many streams by name as it may.
    #[error("a subscription names at most {max} streams", max = limits::SUBSCRIPTION_EXPLICIT_MAX)]
    TooManyStreams,
}

fn after(now: Timestamp, ms: u64) -> Timestamp {
    Timestamp::from_unix_ms(now.unix_ms().saturating_add(ms as i64))
}

fn lease(head: &Head, ctx: &Context) -> Timestamp {
    after(ctx.now, head.config.lease_ttl_ms)
}

/// Whether a time has come that was set at most so long before. One that is much further off has come too: the clock was set
/// back.
fn has_come(at: Timestamp, now: Timestamp, ahead_ms_max: u64) -> bool {
    let left = at.unix_ms().saturating_sub(now.unix_ms());
    left <= 0 || left.unsigned_abs() > 2 * ahead_ms_max
}

fn may_call(retry: Retry, now: Timestamp) -> bool {
    has_come(retry.at, now, limits::WEBHOOK_RETRY_MS_MAX)
}

/// A wake for this work, if there is any and it may begin now.
fn wake(head: &Head, told: Vec<Told>, retry: Option<Retry>, ctx: &Context) -> Option<Event> {
    if told.is_empty() || retry.is_some_and(|retry| !may_call(retry, ctx.now)) {
        return None;
    }
    let wake = Wake { id: ctx.wake_id.clone(), at: ctx.now, told };
    let phase = match head.config.kind {
        Kind::Webhook => Phase::Calling { wake, lease_until: lease(head, ctx) },
        Kind::PullWake => Phase::Offered { wake },
    };
    Some(Event::Woke { phase })
}

/// What has become due: a lease that is over, a wake for work that nobody was told of.
#[must_use]
pub fn look(head: &Head, links: &Links, ctx: &Context) -> Vec<Event> {
    let ended = |until: &Timestamp| has_come(*until, ctx.now, head.config.lease_ttl_ms);
    let over = match &head.phase {
        Phase::Idle => false,
        Phase::Calling { lease_until, .. } => !ctx.calling && ended(lease_until),
        Phase::Called { lease_until, .. } | Phase::Claimed { lease_until, .. } => ended(lease_until),
        // Whoever came for it found nothing to do and went; later work needs a wake of its own.
        Phase::Offered { .. } => !links.has_work(),
    };
    let mut events: Vec<Event> = over.then_some(Event::Ended).into_iter().collect();
    if over || head.phase == Phase::Idle {
        events.extend(wake(head, links.work(&BTreeMap::new()), head.retry, ctx));
    }
    events
}

/// When to look again, if nothing happens before; `calling` as in [`Context`].
pub fn deadline(head: &Head, links: &Links, calling: bool) -> Option<Timestamp> {
    let retry = head.retry.map(|retry| retry.at);
    match &head.phase {
        Phase::Idle => retry.filter(|_| links.has_work()),
        Phase::Offered { .. } => None,
        Phase::Calling { .. } if calling => None,
        Phase::Calling { lease_until, .. } => Some(retry.map_or(*lease_until, |retry| retry.min(*lease_until))),
        Phase::Called { lease_until, .. } | Phase::Claimed { lease_until, .. } => Some(*lease_until),
    }
}

/// The wake that a webhook is to be called with now.
pub fn due(head: &Head, now: Timestamp) -> Option<&Wake> {
    match &head.phase {
        Phase::Calling { wake, .. } if head.retry.is_none_or(|retry| may_call(retry, now)) => Some(wake),
        _ => None,
    }
}

/// A worker wants to work.
///
/// # Errors
/// [`Refusal`].
pub fn claim(head: &Head, links: &Links, worker: &str, ctx: &Context) -> Result<Vec<Event>, Refusal> {
    only(head, Kind::PullWake)?;
    if let Phase::Claimed { holder, .. } = &head.phase {
        return Err(Refusal::AlreadyClaimed { holder: holder.clone(), generation: head.generation });
    }
    let told = links.work(&BTreeMap::new());
    if told.is_empty() {
        return Err(Refusal::NoPendingWork);
    }
    let offered = match &head.phase {
        Phase::Offered { .. } => None,
        _ => wake(head, told.clone(), None, ctx),
    };
    let claimed = Event::Claimed { holder: worker.to_owned(), lease_until: lease(head, ctx), told };
    Ok(offered.into_iter().chain([claimed]).collect())
}

fn only(head: &Head, kind: Kind) -> Result<(), Refusal> {
    if head.config.kind == kind { Ok(()) } else { Err(Refusal::WrongKind(head.config.kind)) }
}

/// The wake that is under way, if a worker shows that it works on it.
fn proven<'a>(head: &'a Head, proof: &Proof) -> Result<&'a Wake, Refusal> {
    let fenced = Refusal::Fenced { generation: head.generation };
    let wake = head.phase.wake().ok_or(fenced.clone())?;
    let right = proof.token_generation == head.generation
        && proof.generation == Some(head.generation)
        && proof.token_wake == wake.id
        && proof.wake_id.as_deref() == Some(&*wake.id);
    if right { Ok(wake) } else { Err(fenced) }
}

/// A worker has come further, is alive, or is done. Also whether another wake begins.
///
/// # Errors
/// [`Refusal`], and then nothing is acknowledged.
pub fn ack(
    head: &Head,
    links: &Links,
    kind: Kind,
    proof: &Proof,
    acks: &[Ack],
    done: bool,
    ctx: &Context,
) -> Result<(Vec<Event>, bool), Refusal> {
    only(head, kind)?;
    let wake_now = proven(head, proof)?;
    let mut furthest: BTreeMap<StreamPath, Offset> = BTreeMap::new();
    for ack in acks {
        let link = may_ack(links, wake_now, ack)?;
        let offset = furthest.entry(ack.path.clone()).or_insert_with(|| link.acked());
        *offset = ack.offset.max(*offset);
    }
    let mut events = Vec::new();
    // Whoever calls back was reached.
    if matches!(head.phase, Phase::Calling { .. }) {
        events.push(Event::Delivered { lease_until: lease(head, ctx) });
    }
    events.extend(linked(links, &furthest));
    if done {
        events.push(Event::Ended);
        // Who was reached is not waited for.
        events.extend(wake(head, links.work(&furthest), None, ctx));
    } else {
        events.push(Event::Extended { lease_until: lease(head, ctx) });
    }
    let next = events.iter().any(|event| matches!(event, Event::Woke { .. }));
    Ok((events, next))
}

fn may_ack<'a>(links: &'a Links, wake: &Wake, ack: &Ack) -> Result<&'a Link, Refusal> {
    let refused = |why| Refusal::InvalidOffset { path: ack.path.to_string(), why };
    let link = links.get(&ack.path).ok_or_else(|| refused("the subscription does not follow this stream"))?;
    let told = wake.told.iter().find(|told| told.path == ack.path);
    if told.is_some_and(|told| link.seen.is_none_or(|seen| seen.incarnation != told.incarnation)) {
        return Err(refused("the stream was deleted since the wake"));
    }
    if ack.offset < link.acked() {
        return Err(refused("the offset is before the one that is acknowledged"));
    }
    if ack.offset > link.tail() {
        return Err(refused("the offset is after the stream's end"));
    }
    Ok(link)
}

/// What is stored once these are acknowledged; nothing for those that were.
fn linked(links: &Links, acks: &BTreeMap<StreamPath, Offset>) -> Vec<Event> {
    let one = |(path, acked): (&StreamPath, &Offset)| {
        let link = links.get(path)?;
        let seen = link.seen.filter(|_| *acked > link.acked())?;
        let stored = Stored { explicit: link.explicit(), incarnation: Some(seen.incarnation), acked: *acked };
        Some(Event::Linked { path: path.clone(), stored })
    };
    acks.iter().filter_map(one).collect()
}

/// A worker gives its wake back.
///
/// # Errors
/// [`Refusal`].
pub fn release(head: &Head, links: &Links, proof: &Proof, ctx: &Context) -> Result<Vec<Event>, Refusal> {
    only(head, Kind::PullWake)?;
    proven(head, proof)?;
    let next = wake(head, links.work(&BTreeMap::new()), None, ctx);
    Ok([Event::Ended].into_iter().chain(next).collect())
}

/// A webhook that was called for a generation has answered, or has not.
#[must_use]
pub fn answered(head: &Head, links: &Links, generation: u64, outcome: Outcome, ctx: &Context) -> Vec<Event> {
    let (wake_now, reached) = match &head.phase {
        Phase::Calling { wake, .. } if head.generation == generation => (wake, false),
        Phase::Called { wake, .. } if head.generation == generation => (wake, true),
        _ => return Vec::new(),
    };
    match outcome {
        Outcome::Failed if reached => Vec::new(),
        Outcome::Failed => {
            let failures = head.retry.map_or(0, |retry| retry.failures).saturating_add(1);
            vec![Event::Failed { retry: Retry { failures, at: after(ctx.now, backoff(failures, ctx.chance)) } }]
        }
        Outcome::Accepted if reached => Vec::new(),
        Outcome::Accepted => vec![Event::Delivered { lease_until: lease(head, ctx) }],
        Outcome::Done => {
            let same = |told: &&Told| {
                let link = links.get(&told.path);
                link.and_then(|link| link.seen).is_some_and(|seen| seen.incarnation == told.incarnation)
            };
            let acks = wake_now.told.iter().filter(same).map(|told| (told.path.clone(), told.tail)).collect();
            let mut events = vec![Event::Delivered { lease_until: lease(head, ctx) }];
            events.extend(linked(links, &acks));
            events.push(Event::Ended);
            events.extend(wake(head, links.work(&acks), None, ctx));
            events
        }
    }
}

/// How long to wait after so many failures in a row.
fn backoff(failures: u32, chance: f64) -> u64 {
    let doubled = limits::WEBHOOK_RETRY_MS_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let base = Duration::from_millis(doubled.min(limits::WEBHOOK_RETRY_MS_MAX));
    base.mul_f64(1.0 + 0.2 * chance.clamp(-1.0, 1.0)).as_millis() as u64
}

/// Streams are to be followed by name, from their ends on.
///
/// # Errors
/// [`Refusal::TooManyStreams`].
pub fn link(links: &Links, streams: &BTreeMap<StreamPath, Option<Seen>>) -> Result<Vec<Event>, Refusal> {
    let mut events = Vec::new();
    for (path, seen) in streams {
        let link = links.get(path);
        if link.is_some_and(Link::explicit) {
            continue;
        }
        let stored = match (link.and_then(|link| link.seen.map(|seen| (link, seen))), seen) {
            // It is followed already, and goes on from where it is.
            (Some((link, seen)), _) => {
                Stored { explicit: true, incarnation: Some(seen.incarnation), acked: link.acked() }
            }
            (None, Some(seen)) => Stored { explicit: true, incarnation: Some(seen.incarnation), acked: seen.tail },
            (None, None) => Stored { explicit: true, ..Stored::default() },
        };
        events.push(Event::Linked { path: path.clone(), stored });
    }
    if links.explicit() + events.len() > limits::SUBSCRIPTION_EXPLICIT_MAX {
        return Err(Refusal::TooManyStreams);
    }
    Ok(events)
}

/// A stream is no longer to be followed by name.
#[must_use]
pub fn unlink(links: &Links, path: &StreamPath) -> Option<Event> {
    let link = links.get(path).filter(|link| link.explicit())?;
    match (link.seen, link.acked()) {
        (Some(seen), acked) if link.matched && acked > Offset::ZERO => {
            let stored = Stored { explicit: false, incarnation: Some(seen.incarnation), acked };
            Some(Event::Linked { path: path.clone(), stored })
        }
        _ => Some(Event::Unlinked { path: path.clone() }),
    }
}
