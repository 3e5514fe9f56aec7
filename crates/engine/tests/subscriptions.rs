//! What subscriptions promise, through every crash.
#![allow(missing_docs)]

mod harbour;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use harbour::{World, key};
use longhaul_engine::streams::{Append, Create, WriteError};
use longhaul_engine::subscriptions::{
    Answer, AskError, Call, Claimed, Courier, Options, Progress, SubscribeError, Subscriptions, View,
};
use longhaul_model::ProjectId;
use longhaul_model::limits;
use longhaul_model::stream::subscription::{Config, Kind, Refusal, SubscriptionId, SubscriptionKey};
use longhaul_model::stream::{ContentType, Offset, Producer, StreamPath};
use longhaul_model::time::Clock;
use longhaul_store::{BoxFuture, CrashPoint};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

const JSON: &str = "application/json";
const LEASE: i64 = 1_000;

/// A webhook that answers as it is told and remembers what it was asked.
#[derive(Default)]
struct Hook {
    calls: Mutex<Vec<Value>>,
    answers: Mutex<Vec<Result<Answer, String>>>,
    usual: Mutex<Option<Answer>>,
    /// While it is there, answers wait for permits of it.
    gate: Mutex<Option<Arc<Semaphore>>>,
}

fn ok(body: &'static str) -> Answer {
    Answer { status: 200, body: Bytes::from_static(body.as_bytes()) }
}

impl Hook {
    fn calls(&self) -> Vec<Value> {
        self.calls.lock().unwrap().clone()
    }

    /// From now on answers wait.
    fn shut(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.gate.lock().unwrap() = Some(Arc::clone(&gate));
        gate
    }
}

impl Courier for Hook {
    fn call<'a>(
        &'a self,
        call: Call,
        sign: &'a (dyn Fn(&[u8]) -> String + Send + Sync),
    ) -> BoxFuture<'a, Result<Answer, String>> {
        Box::pin(async move {
            assert!(sign(&call.body).starts_with("t="));
            self.calls.lock().unwrap().push(serde_json::from_slice(&call.body).unwrap());
            let gate = { self.gate.lock().unwrap().clone() };
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            let next = { self.answers.lock().unwrap().pop() };
            let usual = { self.usual.lock().unwrap().clone() };
            next.unwrap_or_else(|| usual.ok_or_else(|| "nobody is there".to_owned()))
        })
    }

    fn callback_url(&self, base: &str, _: &SubscriptionKey) -> String {
        format!("{base}/callback")
    }
}

struct Post {
    dir: tempfile::TempDir,
    world: World,
    hook: Arc<Hook>,
    subs: Subscriptions,
}

fn name(id: &str) -> SubscriptionKey {
    SubscriptionKey { project: ProjectId::default_project(), id: SubscriptionId::parse(id).unwrap() }
}

fn config(value: Value) -> Config {
    Config::parse(value.as_object().unwrap()).unwrap()
}

fn pull() -> Config {
    config(json!({"type": "pull-wake", "pattern": "e/*", "wake_stream": "w", "lease_ttl_ms": LEASE}))
}

fn webhook() -> Config {
    config(
        json!({"type": "webhook", "pattern": "e/*", "webhook": {"url": "https://w.example/"}, "lease_ttl_ms": LEASE}),
    )
}

fn path(text: &str) -> StreamPath {
    StreamPath::parse(text).unwrap()
}

async fn start(dir: &std::path::Path, world: &World, hook: &Arc<Hook>) -> Result<Subscriptions, WriteError> {
    let options = Options {
        store: Arc::new(world.store.clone()),
        streams: world.streams.clone(),
        clock: Arc::clone(&world.clock) as Arc<dyn Clock>,
        keys: dir.join("keys"),
        courier: Arc::clone(hook) as Arc<dyn Courier>,
    };
    Subscriptions::start(options).await
}

async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let waited = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

impl Post {
    async fn new() -> Self {
        let world = World::new().await;
        let hook = Arc::new(Hook::default());
        let dir = tempfile::tempdir().unwrap();
        let subs = start(dir.path(), &world, &hook).await.unwrap();
        Self { dir, world, hook, subs }
    }

    /// As after a kill. What a later crash interrupts is started again.
    async fn killed(&mut self) {
        self.subs.close().await;
        self.world.killed().await;
        self.subs = start(self.dir.path(), &self.world, &self.hook).await.unwrap();
    }

    async fn subscribe(&self, id: &str, config: Config) -> Result<(View, bool), SubscribeError> {
        self.subs.subscribe(&name(id), config, "http://localhost").await
    }

    async fn show(&self, id: &str) -> View {
        self.subs.show(&name(id)).await.unwrap()
    }

    async fn acked(&self, id: &str, stream: &str) -> u64 {
        let view = self.show(id).await;
        view.streams.iter().find(|s| s.path == path(stream)).map_or(0, |s| s.acked.get())
    }

    async fn claim(&self, id: &str) -> Result<Claimed, AskError> {
        self.subs.claim(&name(id), "worker".to_owned()).await
    }

    /// Whether the event of the wake that is offered is in the wake stream; waits for it, unless the server is down.
    async fn is_told(&self) -> bool {
        let told = async {
            while !self.world.store.is_closed() {
                let view = self.subs.show(&name("s")).await;
                let offered =
                    view.ok().filter(|view| view.head.phase.name() == "offered").map(|view| view.head.generation);
                let events = self.world.read("w", 0).await.map(|(texts, _)| generations(&texts)).unwrap_or_default();
                if offered.is_some() && events.last().copied() == offered {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            false
        };
        tokio::time::timeout(Duration::from_secs(20), told).await.expect("a wake is told")
    }

    /// Makes a stream, and so many others at once that its note is lost: whoever hands notes out has its turn when all of
    /// them have had theirs.
    async fn burst(&self, path: &str) {
        let make = |path: String| {
            let streams = self.world.streams.clone();
            let create = Create { content_type: Some(ContentType::parse(JSON).unwrap()), ..Create::default() };
            tokio::spawn(async move { streams.create(&key(&path), create).await })
        };
        let others = (0..2_000).map(|at| make(format!("x/{at}")));
        let made: Vec<_> = [make(path.to_owned())].into_iter().chain(others).collect();
        for one in made {
            one.await.unwrap().unwrap();
        }
    }

    /// The events of the wake stream: generations and ids.
    async fn events(&self) -> Vec<u64> {
        generations(&self.world.texts("w").await)
    }
}

fn generations(texts: &[String]) -> Vec<u64> {
    texts.iter().map(|t| serde_json::from_str::<Value>(t).unwrap()["generation"].as_u64().unwrap()).collect()
}

fn progress(claimed: &Claimed, done: bool) -> Progress {
    let acks = claimed.streams.iter().map(|s| (s.path.to_string(), s.tail.to_string())).collect();
    Progress { wake_id: Some(claimed.wake_id.clone()), generation: Some(claimed.generation), acks, done }
}

#[tokio::test]
async fn a_subscription_begins_at_the_ends_of_what_is_there_and_at_the_beginning_of_what_comes() {
    let mut post = Post::new().await;
    for stream in ["e/old", "x/named", "e/empty"] {
        post.world.create(stream, JSON).await;
    }
    post.world.append("e/old", "[1,2]").await.unwrap();
    post.world.append("x/named", "1").await.unwrap();
    post.world.create("w", JSON).await;
    let mut asked = pull();
    asked.streams.insert(path("x/named"));
    asked.streams.insert(path("x/later"));
    let (view, new) = post.subscribe("s", asked.clone()).await.unwrap();
    assert!(new && view.head.generation == 0);
    assert!(!post.subscribe("s", asked).await.unwrap().1);
    assert_eq!(post.subscribe("s", pull()).await.unwrap_err(), SubscribeError::Exists);
    assert_eq!(post.claim("s").await.unwrap_err(), AskError::Refused(Refusal::NoPendingWork));
    post.world.create("e/new", JSON).await;
    for (stream, tail) in [("e/new", 1), ("e/empty", 1), ("e/old", 3), ("x/named", 2)] {
        post.world.append(stream, "1").await.unwrap();
        for _ in 0..2 {
            let view = post.show("s").await;
            let found = view.streams.iter().find(|s| s.path == path(stream)).unwrap();
            assert_eq!((found.acked.get(), found.tail.get()), (tail - 1, tail), "{stream}");
            assert_eq!((view.head.generation, view.head.phase.name()), (1, "offered"));
            post.killed().await;
        }
    }
    post.world.create("x/later", JSON).await;
    post.world.append("x/later", "1").await.unwrap();
    let told = post.claim("s").await.unwrap();
    assert_eq!(told.streams.iter().filter(|s| s.tail > s.acked).count(), 5);
    until("the event", async || (post.events().await == [1]).then_some(())).await;
}

#[tokio::test]
async fn a_deleted_subscription_is_over_and_leaves_its_count() {
    let mut post = Post::new().await;
    post.world.create("e/1", JSON).await;
    post.world.append("e/1", "1").await.unwrap();
    post.world.create("w", JSON).await;
    post.subscribe("s", pull()).await.unwrap();
    post.world.append("e/1", "1").await.unwrap();
    let claimed = post.claim("s").await.unwrap();
    assert!(!post.world.records("sub_link").await.is_empty());
    post.subs.delete(&name("s")).await.unwrap();
    post.subs.delete(&name("s")).await.unwrap();
    assert!(post.world.records("sub_link").await.is_empty());
    let late = post.subs.ack(&name("s"), Kind::PullWake, &claimed.token, progress(&claimed, true)).await;
    assert_eq!(late.unwrap_err(), AskError::NotFound);
    post.killed().await;
    assert_eq!(post.subs.show(&name("s")).await.unwrap_err(), AskError::NotFound);
    post.subscribe("s", pull()).await.unwrap();
    let late = post.subs.ack(&name("s"), Kind::PullWake, &claimed.token, progress(&claimed, true)).await;
    assert_eq!(late.unwrap_err(), AskError::TokenInvalid, "it is another one of the same id");
    post.world.append("e/1", "1").await.unwrap();
    assert_eq!(post.claim("s").await.unwrap().generation, 2, "generations of an id never come again");
    post.subs.delete(&name("s")).await.unwrap();
    post.world.clock.pass(limits::SUBSCRIPTION_TOMBSTONE.as_millis() as i64 + 1);
    post.killed().await;
    until("nothing to be left for ever", async || post.world.records("sub").await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn what_is_left_of_deleted_subscriptions_goes_while_the_server_runs() {
    let post = Post::new().await;
    for id in ["a", "b", "stays"] {
        post.subscribe(id, pull()).await.unwrap();
    }
    post.subs.delete(&name("a")).await.unwrap();
    post.world.clock.pass(limits::SUBSCRIPTION_TOMBSTONE.as_millis() as i64 + 1);
    post.subs.delete(&name("b")).await.unwrap();
    let left: Vec<String> = post.world.records("sub").await.into_iter().map(|record| record.id).collect();
    assert_eq!(left, ["default/b", "default/stays"]);
    assert_eq!(post.show("stays").await.head.generation, 0);
}

#[tokio::test]
async fn a_wake_waits_for_its_wake_stream() {
    let mut post = Post::new().await;
    post.subscribe("s", pull()).await.unwrap();
    post.world.create("e/1", JSON).await;
    post.world.append("e/1", "1").await.unwrap();
    until("the wake", async || (post.show("s").await.head.generation == 1).then_some(())).await;
    post.world.create("w", "application/octet-stream").await;
    until("the event", async || post.world.bytes("w").await.ends_with(b"}\n").then_some(())).await;
    for _ in 0..3 {
        post.killed().await;
        post.show("s").await;
    }
    let bytes = post.world.bytes("w").await;
    assert_eq!(bytes.split(|b| *b == b'\n').count() - 1, 1, "one event for a generation");
    // Its own stream is no work for a subscription that takes in everything.
    post.subscribe("all", config(json!({"type": "pull-wake", "pattern": "**", "wake_stream": "w"}))).await.unwrap();
    post.world.append("w", "x").await.unwrap();
    assert_eq!(post.claim("all").await.unwrap_err(), AskError::Refused(Refusal::NoPendingWork));
}

#[tokio::test]
async fn a_stream_that_is_deleted_is_no_work_and_comes_back_as_another() {
    let post = Post::new().await;
    post.world.create("w", JSON).await;
    post.subscribe("s", pull()).await.unwrap();
    for generation in 1..=2 {
        post.world.create("e/1", JSON).await;
        post.world.append("e/1", "[1,2]").await.unwrap();
        until("the event", async || (post.events().await.last() == Some(&generation)).then_some(())).await;
        post.world.streams.delete(&key("e/1")).await.unwrap();
        assert_eq!(post.claim("s").await.unwrap_err(), AskError::Refused(Refusal::NoPendingWork));
    }
    assert!(post.show("s").await.streams.is_empty());
}

#[tokio::test]
async fn a_webhook_is_called_again_at_its_time_over_a_restart() {
    let mut post = Post::new().await;
    let mut asked = webhook();
    asked.lease_ttl_ms = 600_000;
    post.subscribe("s", asked).await.unwrap();
    post.world.create("e/1", JSON).await;
    post.world.append("e/1", "1").await.unwrap();
    let retry = until("a failure", async || post.show("s").await.head.retry).await;
    assert_eq!((post.hook.calls().len(), retry.failures), (1, 1));
    let wait = retry.at.unix_ms() - post.world.clock.now().unix_ms();
    assert!((800..=1_200).contains(&wait), "a second, a fifth more or less: {wait}");
    post.killed().await;
    assert_eq!(post.show("s").await.head.retry, Some(retry));
    assert_eq!(post.hook.calls().len(), 1, "not before its time");
    *post.hook.usual.lock().unwrap() = Some(ok("{\"done\":true}"));
    post.world.clock.pass(wait);
    until("the ack", async || (post.acked("s", "e/1").await == 1).then_some(())).await;
    let calls = post.hook.calls();
    assert_eq!(calls.len(), 2);
    for same in ["wake_id", "generation", "callback_token", "subscription_id", "callback_url", "streams"] {
        assert_eq!(calls[0][same], calls[1][same], "{same}");
    }
    assert_eq!(post.show("s").await.head.retry, None);
}

#[tokio::test]
async fn a_callback_after_a_restart_is_of_the_same_wake() {
    let mut post = Post::new().await;
    *post.hook.usual.lock().unwrap() = Some(ok("{}"));
    post.subscribe("s", webhook()).await.unwrap();
    post.world.create("e/1", JSON).await;
    post.world.append("e/1", "1").await.unwrap();
    until("the call", async || (post.show("s").await.head.phase.name() == "called").then_some(())).await;
    post.killed().await;
    let call = post.hook.calls().remove(0);
    let token = call["callback_token"].as_str().unwrap();
    let progress = Progress {
        wake_id: call["wake_id"].as_str().map(str::to_owned),
        generation: call["generation"].as_u64(),
        acks: vec![("e/1".to_owned(), call["streams"][0]["tail_offset"].as_str().unwrap().to_owned())],
        done: true,
    };
    let by_claim = post.subs.ack(&name("s"), Kind::PullWake, token, progress.clone()).await;
    assert_eq!(by_claim.unwrap_err(), AskError::Refused(Refusal::WrongKind(Kind::Webhook)));
    assert_eq!(post.subs.ack(&name("s"), Kind::Webhook, token, progress.clone()).await, Ok(false));
    post.killed().await;
    let late = post.subs.ack(&name("s"), Kind::Webhook, token, progress).await;
    assert_eq!(late.unwrap_err(), AskError::Refused(Refusal::Fenced { generation: 1 }));
    assert_eq!((post.acked("s", "e/1").await, post.hook.calls().len()), (1, 1));
}

#[tokio::test]
async fn many_streams_at_once_are_not_missed() {
    let post = Post::new().await;
    post.subscribe("s", pull()).await.unwrap();
    // More notes than a slow reader is given.
    for at in 0..3_000 {
        post.world.create(&format!("e/{at:04}"), JSON).await;
        post.world.append(&format!("e/{at:04}"), "1").await.unwrap();
    }
    let view = until("all streams", async || Some(post.show("s").await).filter(|v| v.streams_total == 3_000)).await;
    assert_eq!(view.streams.len(), limits::SUBSCRIPTION_TOLD_MAX);
    let mut left = 3_000;
    while left > 0 {
        let claimed = post.claim("s").await.unwrap();
        let told = claimed.streams.iter().filter(|s| s.tail > s.acked).count();
        assert_eq!(told, left.min(limits::SUBSCRIPTION_TOLD_MAX));
        let next = post.subs.ack(&name("s"), Kind::PullWake, &claimed.token, progress(&claimed, true)).await.unwrap();
        left -= told;
        assert_eq!(next, left > 0);
    }
}

/// What a client does until it has an answer: it asks again, and starts the server again if that is down.
async fn persist<T, E: std::fmt::Debug>(
    post: &mut Post,
    mut ask: impl AsyncFnMut(&Post) -> Result<T, E>,
) -> Result<T, E> {
    for _ in 0..8 {
        let answer = ask(post).await;
        if !post.world.store.is_closed() {
            return answer;
        }
        post.killed().await;
    }
    panic!("the server goes down again and again");
}

async fn append(post: &Post, seq: u64) -> Result<(), WriteError> {
    let body = Bytes::from_static(b"1");
    let producer = Some(Producer { id: "p", epoch: 0, seq });
    let append = Append { body: Some(&body), content_type: Some(JSON), producer, ..Append::default() };
    match post.world.streams.append(&key("e/1"), append).await {
        Ok(_) => Ok(()),
        Err(error) => Err(WriteError::Unknown(error.to_string())),
    }
}

/// A worker's life with a crash at one commit; what is true after it.
async fn worked(at: u64, point: CrashPoint) {
    let mut post = Post::new().await;
    post.world.create("w", JSON).await;
    post.world.create("e/1", JSON).await;
    post.world.store.crash_after(at, point);
    persist(&mut post, async |post| post.subscribe("s", pull()).await).await.unwrap();
    let mut acked = 0;
    for round in 0..3 {
        persist(&mut post, async |post| append(post, round).await).await.unwrap();
        // Somebody is told, without anybody asking.
        while !post.is_told().await {
            post.killed().await;
        }
        loop {
            let claimed = match persist(&mut post, async |post| post.claim("s").await).await {
                Ok(claimed) => claimed,
                // The answer to the claim, or to the ack, was lost with the server.
                Err(AskError::Refused(Refusal::AlreadyClaimed { .. })) => {
                    post.world.clock.pass(LEASE);
                    continue;
                }
                Err(AskError::Refused(Refusal::NoPendingWork)) => break,
                Err(error) => panic!("{error}"),
            };
            let all = progress(&claimed, true);
            let ask = async |post: &Post| post.subs.ack(&name("s"), Kind::PullWake, &claimed.token, all.clone()).await;
            match persist(&mut post, ask).await {
                Ok(_) => acked = round + 1,
                Err(AskError::Refused(Refusal::Fenced { .. })) => {}
                Err(error) => panic!("{error}"),
            }
            assert!(persist(&mut post, async |post| post.subs.show(&name("s")).await).await.is_ok());
            assert!(post.acked("s", "e/1").await >= acked, "what was answered stays");
        }
        assert_eq!(post.acked("s", "e/1").await, round + 1);
    }
    post.killed().await;
    let events = post.events().await;
    assert!(events.is_sorted_by(|a, b| a < b), "one event for a generation: {events:?}");
    assert!(post.world.records("sub_link").await.len() <= 1, "nothing is left over");
    assert_eq!(post.acked("s", "e/1").await, 3);
}

#[tokio::test]
async fn a_worker_loses_nothing_whichever_commit_the_server_dies_in() {
    for at in 0..32 {
        for point in [CrashPoint::BeforeDurable, CrashPoint::AfterDurable] {
            worked(at, point).await;
        }
    }
}

/// The same for a webhook.
async fn called(at: u64, point: CrashPoint) {
    let mut post = Post::new().await;
    *post.hook.usual.lock().unwrap() = Some(ok("{\"done\":true}"));
    post.world.create("e/1", JSON).await;
    post.world.store.crash_after(at, point);
    persist(&mut post, async |post| post.subscribe("s", webhook()).await).await.unwrap();
    for round in 0..3 {
        persist(&mut post, async |post| append(post, round).await).await.unwrap();
        let acked = async {
            while !post.world.store.is_closed() {
                let view = post.subs.show(&name("s")).await;
                if view.is_ok_and(|v| v.streams.first().is_some_and(|s| s.acked == Offset::new(round + 1))) {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            false
        };
        if !tokio::time::timeout(Duration::from_secs(20), acked).await.expect("the webhook is called") {
            post.killed().await;
            until("the ack", async || (post.acked("s", "e/1").await == round + 1).then_some(())).await;
        }
    }
    let mut wakes: BTreeMap<u64, (String, String)> = BTreeMap::new();
    let mut last = 0;
    for call in post.hook.calls() {
        let generation = call["generation"].as_u64().unwrap();
        let of = ["wake_id", "callback_token"].map(|member| call[member].as_str().unwrap().to_owned());
        assert!(generation >= last, "no generation comes again");
        last = generation;
        let first = wakes.entry(generation).or_insert_with(|| (of[0].clone(), of[1].clone()));
        assert_eq!(*first, (of[0].clone(), of[1].clone()), "one wake for a generation");
    }
    post.killed().await;
    assert_eq!(post.acked("s", "e/1").await, 3);
    assert_eq!(post.show("s").await.head.phase.name(), "idle");
}

#[tokio::test]
async fn a_webhook_loses_nothing_whichever_commit_the_server_dies_in() {
    for at in 0..24 {
        for point in [CrashPoint::BeforeDurable, CrashPoint::AfterDurable] {
            called(at, point).await;
        }
    }
}

#[tokio::test]
async fn a_store_that_is_busy_is_asked_again() {
    let post = Post::new().await;
    post.world.create("w", JSON).await;
    post.subscribe("s", pull()).await.unwrap();
    post.world.create("e/1", JSON).await;
    post.world.append("e/1", "1").await.unwrap();
    until("the event", async || (post.events().await == [1]).then_some(())).await;
    post.world.store.fail_next(longhaul_store::CommitError::Full);
    assert_eq!(post.claim("s").await.unwrap_err(), AskError::Write(WriteError::Full));
    assert_eq!(post.claim("s").await.unwrap().generation, 1);
}

#[tokio::test]
async fn a_wake_waits_for_its_wake_stream_even_if_nobody_heard_of_it() {
    let post = Post::new().await;
    post.subscribe("s", pull()).await.unwrap();
    post.world.create("e/1", JSON).await;
    post.world.append("e/1", "1").await.unwrap();
    until("the wake", async || (post.show("s").await.head.phase.name() == "offered").then_some(())).await;
    // A question is answered after what was due: by the second one it has looked for the wake stream.
    post.show("s").await;
    // The note of the wake stream is lost behind more than a slow reader is given.
    post.burst("w").await;
    assert!(post.is_told().await);
}

#[tokio::test]
async fn a_wake_stream_that_is_made_again_is_told_again() {
    let post = Post::new().await;
    post.world.create("w", JSON).await;
    post.subscribe("s", pull()).await.unwrap();
    post.world.create("e/1", JSON).await;
    post.world.append("e/1", "1").await.unwrap();
    assert!(post.is_told().await);
    post.world.streams.delete(&key("w")).await.unwrap();
    post.world.create("w", JSON).await;
    until("the event again", async || (post.events().await == [1]).then_some(())).await;
    // And so it is if nobody heard of it.
    post.world.streams.delete(&key("w")).await.unwrap();
    post.burst("w").await;
    until("the event once more", async || (post.events().await == [1]).then_some(())).await;
    post.claim("s").await.unwrap();
}

#[tokio::test]
async fn nothing_is_acknowledged_that_no_answered_call_told_of() {
    let post = Post::new().await;
    let mut asked = webhook();
    asked.lease_ttl_ms = 600_000;
    post.subscribe("s", asked).await.unwrap();
    let gate = post.hook.shut();
    *post.hook.answers.lock().unwrap() = vec![Err("nobody is there".to_owned()), Ok(ok("{\"done\":true}"))];
    for at in 999..2_100 {
        post.world.create(&format!("e/{at:04}"), JSON).await;
        post.world.append(&format!("e/{at:04}"), "1").await.unwrap();
        until("the first call", async || (post.hook.calls().len() == 1).then_some(())).await;
    }
    // What came during the first call, or as much of it as one wake tells of, is in the second, which fails.
    gate.add_permits(2);
    until("its failure", async || post.show("s").await.head.retry).await;
    // What comes between the calls stands before all that the wake tells of.
    for at in 0..500 {
        post.world.create(&format!("e/{at:04}"), JSON).await;
        post.world.append(&format!("e/{at:04}"), "1").await.unwrap();
    }
    *post.hook.usual.lock().unwrap() = Some(ok("{\"done\":true}"));
    gate.add_permits(1_000);
    post.world.clock.pass(1_200);
    until("all acks", async || {
        let view = post.show("s").await;
        (view.streams_total == 1_601 && view.streams.iter().all(|s| s.acked == s.tail)).then_some(())
    })
    .await;
    let calls = post.hook.calls();
    let told = |call: &Value| -> Vec<String> {
        let streams = call["streams"].as_array().unwrap().iter().filter(|s| s["has_pending"] == true);
        streams.map(|s| s["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(told(&calls[1]).len(), limits::SUBSCRIPTION_TOLD_MAX);
    let answered: BTreeSet<String> = calls[..1].iter().chain(&calls[2..]).flat_map(told).collect();
    assert_eq!(answered.len(), 1_601, "each was told of in a call that was answered");
}

#[tokio::test]
async fn a_webhook_is_called_once_at_a_time_and_what_comes_meanwhile_is_the_next_wake() {
    let post = Post::new().await;
    *post.hook.usual.lock().unwrap() = Some(ok("{\"done\":true}"));
    let gate = post.hook.shut();
    post.subscribe("s", webhook()).await.unwrap();
    post.world.create("e/1", JSON).await;
    post.world.append("e/1", "1").await.unwrap();
    until("the call", async || (post.hook.calls().len() == 1).then_some(())).await;
    post.world.append("e/1", "2").await.unwrap();
    // Longer than its lease: whoever is being called is not called for the same a second time.
    post.world.clock.pass(3 * LEASE);
    let view = post.show("s").await;
    assert_eq!((view.head.generation, view.head.phase.name(), post.hook.calls().len()), (1, "calling", 1));
    gate.add_permits(1);
    until("the next call", async || (post.hook.calls().len() == 2).then_some(())).await;
    let view = post.show("s").await;
    assert_eq!(
        (view.head.generation, view.streams[0].acked, view.streams[0].tail),
        (2, Offset::new(1), Offset::new(2))
    );
    gate.add_permits(1);
    until("the ack", async || (post.acked("s", "e/1").await == 2).then_some(())).await;
    assert_eq!(post.hook.calls().len(), 2);
}

#[tokio::test]
async fn a_subscription_that_is_deleted_while_it_is_called_stays_deleted() {
    let mut post = Post::new().await;
    *post.hook.usual.lock().unwrap() = Some(ok("{\"done\":true}"));
    let gate = post.hook.shut();
    post.subscribe("s", webhook()).await.unwrap();
    post.world.create("e/1", JSON).await;
    post.world.append("e/1", "1").await.unwrap();
    until("the call", async || (post.hook.calls().len() == 1).then_some(())).await;
    let call = post.hook.calls().remove(0);
    post.subs.delete(&name("s")).await.unwrap();
    // One of the same id is another one, to which neither the late answer nor the late token belongs.
    post.subscribe("s", webhook()).await.unwrap();
    gate.add_permits(1);
    let progress = Progress {
        wake_id: call["wake_id"].as_str().map(str::to_owned),
        generation: call["generation"].as_u64(),
        acks: vec![("e/1".to_owned(), call["streams"][0]["tail_offset"].as_str().unwrap().to_owned())],
        done: true,
    };
    let token = call["callback_token"].as_str().unwrap();
    let late = post.subs.ack(&name("s"), Kind::Webhook, token, progress).await;
    assert_eq!(late.unwrap_err(), AskError::TokenInvalid);
    let view = post.show("s").await;
    assert_eq!((view.head.generation, view.head.phase.name()), (1, "idle"), "it goes on counting");
    post.subs.delete(&name("s")).await.unwrap();
    post.killed().await;
    assert_eq!(post.subs.show(&name("s")).await.unwrap_err(), AskError::NotFound);
    assert_eq!((post.hook.calls().len(), post.world.records("sub_link").await.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_workers_one_has_the_claim() {
    let post = Post::new().await;
    post.subscribe("s", pull()).await.unwrap();
    post.world.create("e/1", JSON).await;
    for round in 1..=20 {
        post.world.append("e/1", "1").await.unwrap();
        let claims: Vec<_> = (0..8)
            .map(|worker| {
                let subs = post.subs.clone();
                tokio::spawn(async move { subs.claim(&name("s"), format!("worker-{worker}")).await })
            })
            .collect();
        let mut granted = Vec::new();
        for claim in claims {
            match claim.await.unwrap() {
                Ok(claimed) => granted.push(claimed),
                Err(AskError::Refused(Refusal::AlreadyClaimed { generation, .. })) => assert_eq!(generation, round),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(granted.len(), 1, "one has it");
        assert_eq!(granted[0].generation, round);
        let all = progress(&granted[0], true);
        assert_eq!(post.subs.ack(&name("s"), Kind::PullWake, &granted[0].token, all).await, Ok(false));
    }
}

#[tokio::test]
async fn a_lease_that_is_over_goes_to_another_worker_over_a_restart() {
    let mut post = Post::new().await;
    post.subscribe("s", pull()).await.unwrap();
    post.world.create("e/1", JSON).await;
    post.world.append("e/1", "1").await.unwrap();
    let first = post.claim("s").await.unwrap();
    post.world.clock.pass(LEASE - 1);
    post.killed().await;
    let busy = post.claim("s").await.unwrap_err();
    assert_eq!(
        busy,
        AskError::Refused(Refusal::AlreadyClaimed { holder: "worker".to_owned(), generation: 1 }),
        "a restart ends no lease"
    );
    post.world.clock.pass(1);
    let second = post.claim("s").await.unwrap();
    assert_eq!((second.generation, second.streams[0].acked), (2, Offset::ZERO));
    let late = post.subs.ack(&name("s"), Kind::PullWake, &first.token, progress(&first, true)).await;
    assert_eq!(late.unwrap_err(), AskError::Refused(Refusal::Fenced { generation: 2 }));
    assert_eq!(post.acked("s", "e/1").await, 0, "who was fenced has acknowledged nothing");
    // A heartbeat renews it, and that is durable.
    post.world.clock.pass(LEASE - 1);
    let beat = Progress { acks: vec![], done: false, ..progress(&second, false) };
    assert_eq!(post.subs.ack(&name("s"), Kind::PullWake, &second.token, beat).await, Ok(false));
    post.killed().await;
    post.world.clock.pass(LEASE - 1);
    assert_eq!(post.subs.ack(&name("s"), Kind::PullWake, &second.token, progress(&second, true)).await, Ok(false));
    assert_eq!(post.acked("s", "e/1").await, 1);
}
