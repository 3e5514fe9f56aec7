//! What holds of every life of a subscription.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::id::StreamId;
use crate::stream::{Offset, StreamPath};
use crate::time::Timestamp;

fn path(text: &str) -> StreamPath {
    StreamPath::parse(text).unwrap()
}

fn head(kind: &str) -> Head {
    let config = json!({"type": kind, "pattern": "e/*", "streams": ["m"], "wake_stream": "w",
        "webhook": {"url": "https://w.example/"}, "lease_ttl_ms": 1_000});
    Head {
        uid: "u".to_owned(),
        config: Config::parse(config.as_object().unwrap()).unwrap().into(),
        base: "http://localhost".to_owned(),
        created_at: Timestamp::from_unix_ms(0),
        generation: 0,
        retry: None,
        phase: Phase::Idle,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what a look at a stream gives")]
fn seen(tail: u64) -> Option<Seen> {
    Some(Seen { incarnation: StreamId::new(1), tail: Offset::new(tail) })
}

/// A subscription that is carried through its events as the engine does it.
struct Life {
    head: Head,
    links: Links,
    now: i64,
    calling: bool,
    wakes: Vec<(u64, String)>,
}

impl Life {
    fn new(kind: &str) -> Self {
        Self { head: head(kind), links: Links::default(), now: 0, calling: false, wakes: Vec::new() }
    }

    fn ctx(&self) -> Context {
        let now = Timestamp::from_unix_ms(self.now);
        Context { now, wake_id: format!("w_{}", self.wakes.len()), chance: 0.0, calling: self.calling }
    }

    fn apply(&mut self, events: &[Event]) {
        for event in events {
            let acked: BTreeMap<_, _> = self.links.iter().map(|(path, link)| (path.clone(), link.acked())).collect();
            self.head.evolve(event);
            self.links.evolve(event);
            for (path, before) in acked {
                let now = self.links.get(&path).map_or(before, Link::acked);
                assert!(now >= before, "{path} went back from {before} to {now}");
            }
            if let Event::Woke { phase } = event {
                let wake = phase.wake().unwrap();
                assert!(!wake.told.is_empty(), "a wake for nothing");
                assert!(self.wakes.iter().all(|(g, id)| *g < self.head.generation && *id != wake.id));
                self.wakes.push((self.head.generation, wake.id.clone()));
            }
        }
    }

    fn look(&mut self) {
        let events = look(&self.head, &self.links, &self.ctx());
        self.apply(&events);
        let waits = self.head.retry.is_some_and(|retry| retry.at.unix_ms() > self.now);
        let told = self.head.phase != Phase::Idle || waits || !self.links.has_work();
        assert!(told, "there is work and nobody will be told");
        assert!(look(&self.head, &self.links, &self.ctx()).is_empty(), "looking twice does nothing twice");
        // Whatever waits has an end, but for a wake that nobody has claimed and a call that is under way.
        let due = due(&self.head, self.ctx().now).is_some();
        if !matches!(self.head.phase, Phase::Idle | Phase::Offered { .. }) && !self.calling && !due {
            assert!(deadline(&self.head, &self.links, false).unwrap().unix_ms() > self.now);
        }
    }

    fn see(&mut self, name: &str, tail: u64) {
        let matched = self.head.config.matches(&path(name));
        self.links.see(&path(name), seen(tail), matched);
        self.look();
    }

    fn proof(&self) -> Proof {
        let id = self.head.phase.wake().map(|wake| wake.id.clone()).unwrap_or_default();
        let (generation, wake_id) = (Some(self.head.generation), Some(id.clone()));
        Proof { token_generation: self.head.generation, token_wake: id, generation, wake_id }
    }

    fn ack(&mut self, proof: &Proof, name: &str, offset: u64, done: bool) -> Result<bool, Refusal> {
        self.look();
        let acks = [Ack { path: path(name), offset: Offset::new(offset) }];
        let (events, next) = ack(&self.head, &self.links, self.head.config.kind, proof, &acks, done, &self.ctx())?;
        self.apply(&events);
        self.look();
        Ok(next)
    }

    fn claim(&mut self) -> Result<(), Refusal> {
        self.look();
        let events = claim(&self.head, &self.links, "worker", &self.ctx())?;
        self.apply(&events);
        Ok(())
    }

    fn answered(&mut self, generation: u64, outcome: Outcome) {
        self.calling = false;
        let events = answered(&self.head, &self.links, generation, outcome, &self.ctx());
        self.apply(&events);
        self.look();
    }

    fn release(&mut self, proof: &Proof) -> Result<(), Refusal> {
        let events = release(&self.head, &self.links, proof, &self.ctx())?;
        self.apply(&events);
        Ok(())
    }
}

#[test]
fn a_worker_claims_and_others_are_told_who_has_it() {
    let mut life = Life::new("pull-wake");
    assert_eq!(life.claim(), Err(Refusal::NoPendingWork));
    life.see("e/1", 2);
    assert!(matches!(life.head.phase, Phase::Offered { .. }));
    life.claim().unwrap();
    assert_eq!(life.claim(), Err(Refusal::AlreadyClaimed { holder: "worker".to_owned(), generation: 1 }));
    let proof = life.proof();
    life.now += 999;
    assert_eq!(life.ack(&proof, "e/1", 1, false), Ok(false));
    life.now += 999;
    assert_eq!(life.ack(&proof, "e/1", 1, true), Ok(true), "a heartbeat kept it, and one message is left");
    assert_eq!((life.head.generation, life.head.phase.name()), (2, "offered"));
    assert_eq!(life.ack(&proof, "e/1", 2, true), Err(Refusal::Fenced { generation: 2 }));
    life.claim().unwrap();
    let proof = life.proof();
    assert_eq!(life.ack(&proof, "e/1", 2, true), Ok(false));
    assert_eq!(life.ack(&proof, "e/1", 2, true), Err(Refusal::Fenced { generation: 2 }));
}

#[test]
fn a_lease_that_is_over_fences_whoever_had_it() {
    let mut life = Life::new("pull-wake");
    life.see("e/1", 1);
    life.claim().unwrap();
    let proof = life.proof();
    life.now += 1_000;
    assert_eq!(life.ack(&proof, "e/1", 1, true), Err(Refusal::Fenced { generation: 2 }));
    assert_eq!(life.release(&proof), Err(Refusal::Fenced { generation: 2 }));
    assert_eq!(life.head.phase.name(), "offered");
}

#[test]
fn a_clock_that_is_set_back_makes_neither_a_lease_nor_a_wait_last() {
    let day = 86_400_000;
    let mut life = Life::new("pull-wake");
    life.now += day;
    life.see("e/1", 1);
    life.claim().unwrap();
    let proof = life.proof();
    life.now -= 1_000;
    assert_eq!(life.ack(&proof, "e/1", 0, false), Ok(false), "a small step ends nothing");
    life.now -= day;
    life.look();
    assert_eq!((life.head.generation, life.head.phase.name()), (2, "offered"));
    let mut life = Life::new("webhook");
    std::sync::Arc::make_mut(&mut life.head.config).lease_ttl_ms = 600_000;
    life.now += day;
    life.see("e/1", 1);
    life.answered(1, Outcome::Failed);
    assert!(due(&life.head, life.ctx().now).is_none());
    life.now -= day;
    assert!(due(&life.head, life.ctx().now).is_some() || life.head.phase == Phase::Idle);
    life.look();
    assert_eq!(life.head.phase.name(), "calling");
    assert!(due(&life.head, life.ctx().now).is_some());
}

#[test]
fn what_is_given_back_is_offered_again() {
    let mut life = Life::new("pull-wake");
    life.see("m", 1);
    assert_eq!(life.head.phase, Phase::Idle, "nobody named it and the pattern does not take it in");
    let linked = link(&life.links, &BTreeMap::from([(path("m"), seen(1))])).unwrap();
    life.apply(&linked);
    life.see("m", 1);
    assert_eq!(life.head.phase, Phase::Idle, "it is followed from its end on");
    life.see("m", 2);
    life.claim().unwrap();
    let proof = life.proof();
    life.release(&proof).unwrap();
    assert_eq!((life.head.generation, life.head.phase.name()), (2, "offered"));
}

#[test]
fn a_proof_is_right_in_all_its_parts() {
    let mut life = Life::new("pull-wake");
    life.see("e/1", 1);
    life.claim().unwrap();
    let right = life.proof();
    for wrong in [
        Proof { token_generation: 2, ..right.clone() },
        Proof { token_wake: "w_x".to_owned(), ..right.clone() },
        Proof { generation: None, ..right.clone() },
        Proof { generation: Some(2), ..right.clone() },
        Proof { wake_id: None, ..right.clone() },
        Proof { wake_id: Some("w_x".to_owned()), ..right.clone() },
    ] {
        assert_eq!(life.ack(&wrong, "e/1", 1, true), Err(Refusal::Fenced { generation: 1 }), "{wrong:?}");
    }
    assert_eq!(life.ack(&right, "e/1", 1, true), Ok(false));
}

#[test]
fn an_ack_goes_forward_and_not_beyond_the_end() {
    let mut life = Life::new("pull-wake");
    life.see("e/1", 3);
    life.claim().unwrap();
    let proof = life.proof();
    life.ack(&proof, "e/1", 2, false).unwrap();
    for (name, offset) in [("e/1", 1), ("e/1", 4), ("e/2", 0)] {
        assert!(matches!(life.ack(&proof, name, offset, true), Err(Refusal::InvalidOffset { .. })), "{name} {offset}");
    }
    assert_eq!(life.links.get(&path("e/1")).unwrap().acked(), Offset::new(2));
    let again = Some(Seen { incarnation: StreamId::new(2), tail: Offset::new(3) });
    life.links.see(&path("e/1"), again, true);
    let refused = life.ack(&proof, "e/1", 3, true);
    assert!(matches!(refused, Err(Refusal::InvalidOffset { .. })), "it is another stream than the one told of");
}

#[test]
fn a_webhook_that_fails_is_called_later_and_later() {
    let mut life = Life::new("webhook");
    std::sync::Arc::make_mut(&mut life.head.config).lease_ttl_ms = 600_000;
    life.see("e/1", 1);
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert!(due(&life.head, life.ctx().now).is_some());
        life.calling = true;
        life.answered(1, Outcome::Failed);
        let at = life.head.retry.unwrap().at;
        assert!(due(&life.head, life.ctx().now).is_none());
        assert_eq!(deadline(&life.head, &life.links, false), Some(at));
        waits.push(at.unix_ms() - life.now);
        life.now = at.unix_ms();
        life.look();
    }
    assert_eq!(waits, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    assert_eq!(life.head.generation, 1, "it is one wake all the time");
    life.answered(1, Outcome::Accepted);
    assert_eq!((life.head.retry, life.head.phase.name()), (None, "called"));
}

#[test]
fn a_lease_that_ends_before_the_next_call_makes_it_another_wake() {
    let mut life = Life::new("webhook");
    life.see("e/1", 1);
    let proof = life.proof();
    for wait in [1_000, 2_000, 4_000] {
        life.calling = true;
        life.now += 5_000;
        life.look();
        assert_eq!(life.head.phase.name(), "calling", "no lease is over while the webhook is called");
        let generation = life.head.generation;
        life.answered(generation, Outcome::Failed);
        assert_eq!(life.head.phase, Phase::Idle);
        life.now += wait - 1;
        life.look();
        assert_eq!(life.head.phase, Phase::Idle, "not before its time");
        life.now += 1;
        life.look();
        assert_eq!((life.head.generation, life.head.phase.name()), (generation + 1, "calling"));
    }
    assert!(matches!(life.ack(&proof, "e/1", 1, true), Err(Refusal::Fenced { .. })));
}

#[test]
fn done_acknowledges_what_was_told_and_no_more() {
    let mut life = Life::new("webhook");
    life.see("e/1", 1);
    life.calling = true;
    life.see("e/1", 2);
    life.see("e/2", 1);
    life.answered(1, Outcome::Done);
    assert_eq!(life.links.get(&path("e/1")).unwrap().acked(), Offset::new(1));
    assert_eq!(life.links.get(&path("e/2")).unwrap().acked(), Offset::ZERO);
    assert_eq!((life.head.generation, life.head.phase.name()), (2, "calling"));
    life.answered(1, Outcome::Done);
    assert_eq!(life.head.generation, 2, "a late answer of an earlier call is nothing");
}

#[test]
fn a_callback_is_as_good_as_an_answer() {
    let mut life = Life::new("webhook");
    life.see("e/1", 1);
    life.calling = true;
    life.answered(1, Outcome::Failed);
    let proof = life.proof();
    assert_eq!(life.ack(&proof, "e/1", 0, false), Ok(false));
    assert_eq!((life.head.retry, life.head.phase.name()), (None, "called"));
    life.answered(1, Outcome::Failed);
    assert_eq!(life.head.retry, None);
    assert_eq!(life.ack(&proof, "e/1", 1, true), Ok(false));
    assert_eq!(life.head.phase, Phase::Idle);
    assert!(matches!(life.claim(), Err(Refusal::WrongKind(Kind::Webhook))));
}

#[test]
fn a_name_that_is_taken_back_leaves_the_pattern() {
    let mut life = Life::new("pull-wake");
    life.see("e/1", 4);
    let linked = link(&life.links, &BTreeMap::from([(path("e/1"), seen(4)), (path("x"), None)])).unwrap();
    life.apply(&linked);
    assert!(life.links.get(&path("e/1")).unwrap().pending(), "what was followed goes on from where it was");
    assert!(link(&life.links, &BTreeMap::from([(path("x"), None)])).unwrap().is_empty());
    life.claim().unwrap();
    let proof = life.proof();
    life.ack(&proof, "e/1", 3, false).unwrap();
    for name in ["e/1", "x"] {
        let unlinked = unlink(&life.links, &path(name)).unwrap();
        life.apply(&[unlinked]);
        assert_eq!(unlink(&life.links, &path(name)), None);
    }
    assert_eq!(life.links.get(&path("e/1")).unwrap().acked(), Offset::new(3));
    assert_eq!(life.links.get(&path("x")), None);
}

#[test]
fn a_head_reads_back() {
    let mut life = Life::new("webhook");
    life.see("e/1", 1);
    life.answered(1, Outcome::Failed);
    let text = serde_json::to_string(&life.head).unwrap();
    assert_eq!(serde_json::from_str::<Head>(&text).unwrap(), life.head);
}

#[derive(Debug, Clone)]
enum Step {
    Append(u8, u8),
    Delete(u8),
    Wait(u16),
    Call,
    Answer(u8),
    Claim,
    Ack(u8, u8, bool),
    Late,
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3u8, 1..4u8).prop_map(|(stream, more)| Step::Append(stream, more)),
        (0..3u8).prop_map(Step::Delete),
        (0..3_000u16).prop_map(Step::Wait),
        Just(Step::Call),
        (0..3u8).prop_map(Step::Answer),
        Just(Step::Claim),
        (0..3u8, 0..9u8, any::<bool>()).prop_map(|(stream, offset, done)| Step::Ack(stream, offset, done)),
        Just(Step::Late),
        Just(Step::Release),
    ]
}

proptest! {
    /// No wake is lost, none is made for nothing, none has the generation of another, and no cursor goes back.
    #[test]
    fn whatever_happens(kind in prop::sample::select(vec!["webhook", "pull-wake"]), steps in prop::collection::vec(step(), 0..60)) {
        let mut life = Life::new(kind);
        let mut tails = [0u64; 3];
        let mut proofs: Vec<Proof> = Vec::new();
        let mut incarnation = 1;
        for step in steps {
            match step {
                Step::Append(stream, more) => {
                    let tail = &mut tails[usize::from(stream)];
                    *tail += u64::from(more);
                    let seen = Seen { incarnation: StreamId::new(incarnation), tail: Offset::new(*tail) };
                    life.links.see(&path(&format!("e/{stream}")), Some(seen), true);
                }
                Step::Delete(stream) => {
                    tails = [0; 3];
                    incarnation += 1;
                    life.links.see(&path(&format!("e/{stream}")), None, true);
                }
                Step::Wait(ms) => life.now += i64::from(ms),
                Step::Call => life.calling = due(&life.head, life.ctx().now).is_some(),
                Step::Answer(how) => {
                    let outcome = [Outcome::Done, Outcome::Accepted, Outcome::Failed][usize::from(how)];
                    let generation = life.head.generation;
                    life.answered(generation, outcome);
                }
                Step::Claim => drop(life.claim()),
                Step::Ack(stream, offset, done) => {
                    let proof = life.proof();
                    drop(life.ack(&proof, &format!("e/{stream}"), u64::from(offset), done));
                    proofs.push(proof);
                }
                Step::Late => {
                    for proof in proofs.iter().filter(|proof| proof.token_generation < life.head.generation).cloned().collect::<Vec<_>>() {
                        let fenced = matches!(life.ack(&proof, "e/0", 0, true), Err(Refusal::Fenced { .. }));
                        prop_assert!(fenced);
                    }
                }
                Step::Release => {
                    let proof = life.proof();
                    drop(life.release(&proof));
                }
            }
            life.look();
            prop_assert_eq!(life.head.generation, life.wakes.len() as u64);
        }
    }
}
