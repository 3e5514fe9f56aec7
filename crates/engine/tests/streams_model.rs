//! Streams against a model that keeps whole copies and forgets nothing: random appends with producers that repeat, leave
//! gaps and come back as zombies, closes, forks, deletions, lifetimes, bounds, full disks, and deaths in any commit. Every
//! way of reading shows the same, and nothing is left over at the end.
#![allow(missing_docs)]

mod harbour;

use std::collections::BTreeMap;
use std::task::Poll;

use bytes::Bytes;
use harbour::{World, key, kind};
use longhaul_engine::streams::{
    Append, AppendError, Create, CreateError, DeleteError, Fork, Happened, OpenError, Reader, WriteError,
};
use longhaul_model::stream::{Keep, Lifetime, Mode, Offset, Producer, Refusal, StreamPath};
use longhaul_store::{CommitError, CrashPoint, ReadLimit, RecordKey, RecordWrite, Store as _};
use proptest::prelude::*;

const PATHS: [&str; 4] = ["a", "b/c", "d", "e"];
const PRODUCERS: [&str; 2] = ["one", "two"];

/// Which of its numbers a producer sends.
#[derive(Debug, Clone, Copy)]
enum Number {
    Next,
    Repeat,
    Gap,
    Zombie,
    Epoch,
    EpochLate,
}

#[derive(Debug, Clone)]
enum Op {
    Create { path: usize, json: bool, ttl: bool, keep: bool, closed: bool, messages: usize },
    Append { path: usize, messages: usize, by: Option<(usize, Number)>, close: bool },
    Fork { path: usize, from: usize, at: prop::sample::Index, sub: u64, ttl: bool },
    Delete { path: usize },
    Use { path: usize },
    Sweep,
}

#[derive(Debug, Clone)]
enum Step {
    Do(Op),
    /// The disk is full in the first commit of the operation.
    Full(Op),
    /// The process dies in one of its commits.
    Die(Op, u64, bool),
    Kill,
    Pass(i64, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let path = 0..PATHS.len();
    let number = prop_oneof![
        6 => Just(Number::Next),
        3 => Just(Number::Repeat),
        1 => Just(Number::Gap),
        1 => Just(Number::Zombie),
        1 => Just(Number::Epoch),
        1 => Just(Number::EpochLate),
    ];
    let by = prop::option::of((0..PRODUCERS.len(), number));
    let yes = prop::bool::weighted(0.3);
    prop_oneof![
        3 => (path.clone(), yes, yes, yes, prop::bool::weighted(0.1), 0..3usize).prop_map(
            |(path, json, ttl, keep, closed, messages)| Op::Create { path, json, ttl, keep, closed, messages }
        ),
        8 => (path.clone(), 0..4usize, by, prop::bool::weighted(0.1))
            .prop_map(|(path, messages, by, close)| Op::Append { path, messages, by, close }),
        3 => (path.clone(), path.clone(), any::<prop::sample::Index>(), 0..6u64, yes)
            .prop_map(|(path, from, at, sub, ttl)| Op::Fork { path, from, at, sub, ttl }),
        1 => path.clone().prop_map(|path| Op::Delete { path }),
        1 => path.prop_map(|path| Op::Use { path }),
        1 => Just(Op::Sweep),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => op().prop_map(Step::Do),
        1 => op().prop_map(Step::Full),
        2 => (op(), 0..3u64, any::<bool>()).prop_map(|(op, commits, durable)| Step::Die(op, commits, durable)),
        1 => Just(Step::Kill),
        1 => (0..30_000i64, any::<bool>()).prop_map(|(ms, sweep)| Step::Pass(ms, sweep)),
    ]
}

/// Seconds of a lifetime, where there is one.
const TTL: u64 = 40;

/// Messages that are kept, where there is a bound; so few that it is exact.
const KEPT: u64 = 3;

#[derive(Debug, Clone, PartialEq)]
struct Stream {
    id: u64,
    json: bool,
    ttl: bool,
    keep: bool,
    /// All messages there ever were, the source's included.
    messages: Vec<Vec<u8>>,
    /// How many of them are the source's.
    base: usize,
    /// How many of them are no longer kept.
    earliest: usize,
    closed: bool,
    closer: Option<(usize, u64, u64)>,
    producers: BTreeMap<usize, (u64, u64)>,
    source: Option<u64>,
    deleted: bool,
    /// When it was last used: between these.
    used: (i64, i64),
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    now: i64,
    made: u64,
    streams: BTreeMap<usize, Stream>,
}

/// What an operation is answered, as far as the model knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    New,
    Old,
    NotFound,
    Gone,
    Closed,
    Exists,
    Stale,
    Gap,
    EpochStart,
    Empty,
    BadOffset,
    Expired,
    SourceNotFound,
    SourceGone,
    Full,
    Broken,
}

impl Model {
    fn forks(&self, id: u64) -> usize {
        self.streams.values().filter(|stream| stream.source == Some(id)).count()
    }

    fn live(&self, path: usize) -> Result<&Stream, Answer> {
        match self.streams.get(&path) {
            None => Err(Answer::NotFound),
            Some(stream) if stream.deleted => Err(Answer::Gone),
            Some(stream) => Ok(stream),
        }
    }

    fn remove(&mut self, path: usize) {
        let id = self.streams[&path].id;
        if self.forks(id) > 0 {
            self.streams.get_mut(&path).expect("it is there").deleted = true;
            return;
        }
        let source = self.streams.remove(&path).and_then(|stream| stream.source);
        let above = self.streams.iter().find(|(_, stream)| Some(stream.id) == source && stream.deleted);
        if let Some(above) = above.map(|(path, _)| *path) {
            self.remove(above);
        }
    }

    fn tuple(&self, path: usize, by: Option<(usize, Number)>) -> Option<(usize, u64, u64)> {
        let (producer, number) = by?;
        let known = self.streams.get(&path).and_then(|stream| stream.producers.get(&producer));
        let (epoch, last) = known.copied().unwrap_or((0, u64::MAX));
        let next = last.wrapping_add(1);
        let (epoch, seq) = match number {
            Number::Next => (epoch, next),
            Number::Repeat => (epoch, if next == 0 { 0 } else { last }),
            Number::Gap => (epoch, next + 1),
            Number::Zombie => (epoch.saturating_sub(1), next),
            Number::Epoch => (epoch + 1, 0),
            Number::EpochLate => (epoch + 1, 1),
        };
        Some((producer, epoch, seq))
    }

    fn create(&mut self, path: usize, create: Stream) -> Answer {
        if let Some(there) = self.streams.get(&path) {
            if there.deleted {
                return Answer::Gone;
            }
            let same = (there.json, there.ttl, there.keep, there.closed, there.source)
                == (create.json, create.ttl, create.keep, create.closed, create.source);
            return if same && there.source.is_none() { Answer::Old } else { Answer::Exists };
        }
        self.made += 1;
        self.streams.insert(path, Stream { id: self.made, used: (self.now, self.now), ..create });
        Answer::New
    }

    fn append(&mut self, path: usize, messages: &[Vec<u8>], by: Option<(usize, u64, u64)>, close: bool) -> Answer {
        let now = self.now;
        if let Err(answer) = self.live(path) {
            return answer;
        }
        let forks = self.forks(self.streams[&path].id);
        let stream = self.streams.get_mut(&path).expect("it is there");
        if messages.is_empty() && !close {
            return Answer::Empty;
        }
        stream.used = (now, now);
        let known = by.and_then(|(producer, ..)| stream.producers.get(&producer).copied());
        if stream.closed {
            return match by {
                None if messages.is_empty() => Answer::Old,
                None => Answer::Closed,
                Some(_) if by == stream.closer => Answer::Old,
                Some((_, epoch, seq)) => match known {
                    Some((current, _)) if epoch < current => Answer::Stale,
                    Some((current, last)) if !close && epoch == current && seq <= last => Answer::Old,
                    _ => Answer::Closed,
                },
            };
        }
        if let Some((producer, epoch, seq)) = by {
            match known {
                None if seq != 0 => return Answer::Gap,
                Some((current, _)) if epoch < current => return Answer::Stale,
                Some((current, _)) if epoch > current && seq != 0 => return Answer::EpochStart,
                Some((current, last)) if epoch == current && seq <= last => return Answer::Old,
                Some((current, last)) if epoch == current && seq > last + 1 => return Answer::Gap,
                _ => stream.producers.insert(producer, (epoch, seq)),
            };
        }
        stream.messages.extend(messages.iter().cloned());
        stream.closed = close;
        stream.closer = by.filter(|_| close);
        let own = stream.messages.len() - stream.base;
        let removed = stream.earliest.saturating_sub(stream.base);
        if stream.keep && forks == 0 && !messages.is_empty() && (own - removed) as u64 > KEPT {
            stream.earliest = stream.base + own - KEPT as usize;
        }
        Answer::New
    }

    fn fork(&mut self, path: usize, from: usize, at: u64, sub: u64, ttl: bool) -> Answer {
        if let Some(there) = self.streams.get(&path) {
            return if there.deleted { Answer::Gone } else { Answer::Exists };
        }
        let source = match self.live(from) {
            Ok(source) => source,
            Err(Answer::Gone) => return Answer::SourceGone,
            Err(_) => return Answer::SourceNotFound,
        };
        let at = at as usize;
        if at < source.earliest {
            return Answer::Expired;
        }
        let mut messages = source.messages[..at].to_vec();
        let mut base = at;
        let mut left = sub as usize;
        for message in &source.messages[at..] {
            if left == 0 {
                break;
            }
            let whole = source.json || message.len() <= left;
            messages.push(if whole { message.clone() } else { message[..left].to_vec() });
            base += usize::from(whole);
            left -= if source.json { 1 } else { message.len().min(left) };
        }
        if left > 0 {
            return Answer::BadOffset;
        }
        let fork = Stream {
            id: 0,
            json: source.json,
            ttl: ttl || source.ttl,
            keep: false,
            messages,
            base,
            earliest: source.earliest,
            closed: false,
            closer: None,
            producers: BTreeMap::new(),
            source: Some(source.id),
            deleted: false,
            used: (0, 0),
        };
        self.create(path, fork)
    }

    /// What a kill makes uncertain: reads are not stored each time.
    fn killed(&mut self) {
        for stream in self.streams.values_mut() {
            stream.used.1 = (stream.used.0 + TTL as i64 * 125).max(stream.used.1);
        }
    }
}

/// The messages of an append, each different.
fn messages(count: usize, json: bool, mark: u64) -> Vec<Vec<u8>> {
    (0..count)
        .map(|at| if json { format!("{{\"m\":[{mark},{at}]}}") } else { format!("{mark}.{at}\n") }.into())
        .collect()
}

/// They as a body, with white space where JSON allows it.
fn body(messages: &[Vec<u8>], json: bool) -> Bytes {
    if !json {
        return messages.concat().into();
    }
    let texts: Vec<String> = messages.iter().map(|m| String::from_utf8(m.clone()).expect("text")).collect();
    format!(" [ {} ]\n", texts.join(" ,\n")).replace(':', " : ").into()
}

fn of_write(error: WriteError) -> Answer {
    match error {
        WriteError::Full => Answer::Full,
        WriteError::Unknown(_) | WriteError::Stopping | WriteError::Store(_) => Answer::Broken,
        WriteError::Busy | WriteError::Refused(_) => panic!("nothing is busy here: {error}"),
    }
}

fn of_append(error: AppendError) -> Answer {
    match error {
        AppendError::NotFound => Answer::NotFound,
        AppendError::Gone => Answer::Gone,
        AppendError::Write(error) => of_write(error),
        AppendError::Refused { refusal, .. } => match refusal {
            Refusal::Closed => Answer::Closed,
            Refusal::StaleEpoch { .. } => Answer::Stale,
            Refusal::Gap { .. } => Answer::Gap,
            Refusal::EpochStart => Answer::EpochStart,
            Refusal::Empty => Answer::Empty,
            other => panic!("nothing asked for this: {other}"),
        },
        AppendError::TooManyMessages { .. } => panic!("there are few messages"),
    }
}

fn of_create(error: CreateError) -> Answer {
    match error {
        CreateError::Exists { .. } => Answer::Exists,
        CreateError::Gone => Answer::Gone,
        CreateError::SourceNotFound => Answer::SourceNotFound,
        CreateError::SourceGone => Answer::SourceGone,
        CreateError::ForkSubOffset => Answer::BadOffset,
        CreateError::ForkExpired { .. } => Answer::Expired,
        CreateError::Write(error) => of_write(error),
        other => panic!("nothing asked for this: {other}"),
    }
}

/// Somebody who follows a stream from where it began when it was first seen, and goes on where it was after a kill.
#[derive(Default)]
struct Follower {
    path: usize,
    reader: Option<Reader>,
    from: usize,
    at: u64,
    seen: Vec<u8>,
    spans: bool,
}

impl Follower {
    /// What happens next, if anything does.
    async fn happened(&mut self, world: &World) -> Option<Happened> {
        if self.reader.is_none() {
            self.reader = Some(world.streams.open(&key(PATHS[self.path])).await.expect("it is there"));
        }
        let reader = self.reader.as_mut()?;
        let mut waiting = std::pin::pin!(reader.wait(Offset::new(self.at)));
        // What it does by itself is done after a few turns.
        for _ in 0..16 {
            if let Poll::Ready(happened) = futures_util::poll!(&mut waiting) {
                return Some(happened.expect("a store that answers"));
            }
            tokio::task::yield_now().await;
        }
        None
    }

    /// Takes what there is, by pages and by spans in turn; answers whether it came to the end of a closed stream.
    async fn catch_up(&mut self, world: &World) -> bool {
        loop {
            match self.happened(world).await {
                None => return false,
                Some(Happened::Closed) => return true,
                Some(Happened::Deleted) => panic!("{} is there", PATHS[self.path]),
                Some(Happened::Messages) => {}
            }
            let (reader, at) = (self.reader.as_ref().expect("it waited"), Offset::new(self.at));
            self.spans = !self.spans;
            self.at = if self.spans {
                let span = reader.read_span(at, 8).await.expect("a span");
                self.seen.extend(span.body.iter().flatten());
                span.next
            } else {
                let page = reader.read(at, ReadLimit { events_max: 1, bytes_max: 1 }).await.expect("a page");
                let newline = reader.info().await.expect("it is there").mode == Mode::Json;
                for message in page.messages {
                    self.seen.extend(&message[..]);
                    self.seen.extend(newline.then_some(b'\n'));
                }
                page.next
            }
            .get();
        }
    }
}

struct Test {
    world: World,
    model: Model,
    mark: u64,
    /// By the model's number of their stream.
    followers: BTreeMap<u64, Follower>,
}

impl Test {
    /// Does something, in the world and in a copy of the model. Answers what the world said, what the model said, and the
    /// model after it.
    async fn perform(&mut self, op: &Op) -> (Answer, Answer, Model) {
        let mut model = self.model.clone();
        self.mark += 1;
        let lifetime = |ttl| if ttl { Lifetime::TtlSeconds(TTL) } else { Lifetime::Endless };
        match *op {
            Op::Create { path, json, ttl, keep, closed, messages: count } => {
                let first = messages(count, json, self.mark);
                let bound = if keep { Some(KEPT) } else { None };
                let create = Create {
                    content_type: Some(kind(if json { "application/json" } else { "text/plain" })),
                    lifetime: lifetime(ttl),
                    keep: Keep { messages_max: bound, ..Keep::default() },
                    closed,
                    body: if count == 0 { Bytes::new() } else { body(&first, json) },
                    fork: None,
                };
                // A byte stream takes a body as one message.
                let first = if json || count == 0 { first } else { vec![first.concat()] };
                let made = self.world.create_as(PATHS[path], create).await;
                let expected = model.create(
                    path,
                    Stream {
                        id: 0,
                        json,
                        ttl,
                        keep,
                        messages: first,
                        base: 0,
                        earliest: 0,
                        closed,
                        closer: None,
                        producers: BTreeMap::new(),
                        source: None,
                        deleted: false,
                        used: (0, 0),
                    },
                );
                let made = made.map_or_else(of_create, |made| if made.new { Answer::New } else { Answer::Old });
                (made, expected, model)
            }
            Op::Append { path, messages: count, by, close } => {
                let json = model.streams.get(&path).is_some_and(|stream| stream.json);
                let batch = messages(count, json, self.mark);
                let tuple = model.tuple(path, by);
                let answer = self.append(path, &batch, json, tuple, close).await;
                let batch = if json || count == 0 { batch } else { vec![batch.concat()] };
                let expected = model.append(path, &batch, tuple, close);
                (answer, expected, model)
            }
            Op::Fork { path, from, at, sub, ttl } => {
                let len = model.streams.get(&from).map_or(0, |source| source.messages.len());
                let at = at.index(len + 1) as u64;
                let from_path = StreamPath::parse(PATHS[from]).expect("a path");
                let fork = Some(Fork { from: from_path, at: Some(Offset::new(at)), sub });
                let create = Create { lifetime: lifetime(ttl), fork, ..Create::default() };
                let made = self.world.create_as(PATHS[path], create).await;
                let made = made.map_or_else(of_create, |made| if made.new { Answer::New } else { Answer::Old });
                let mut expected = model.fork(path, from, at, sub, ttl);
                if expected == Answer::Exists && made == Answer::Old {
                    // The same fork again, which the model does not look into.
                    expected = Answer::Old;
                }
                (made, expected, model)
            }
            Op::Delete { path } => {
                let done = match self.world.streams.delete(&key(PATHS[path])).await {
                    Ok(()) => Answer::New,
                    Err(DeleteError::NotFound) => Answer::NotFound,
                    Err(DeleteError::Gone) => Answer::Gone,
                    Err(DeleteError::Write(error)) => of_write(error),
                };
                let expected = model.live(path).map_or_else(|answer| answer, |_| Answer::New);
                if expected == Answer::New {
                    model.remove(path);
                }
                (done, expected, model)
            }
            Op::Use { path } => {
                let opened = match self.world.streams.open(&key(PATHS[path])).await {
                    Ok(_) => Answer::Old,
                    Err(OpenError::NotFound) => Answer::NotFound,
                    Err(OpenError::Gone) => Answer::Gone,
                    Err(OpenError::Store(_)) => Answer::Broken,
                };
                let expected = model.live(path).map_or_else(|answer| answer, |_| Answer::Old);
                if let Some(stream) = model.streams.get_mut(&path) {
                    stream.used = (model.now, model.now);
                }
                (opened, expected, model)
            }
            Op::Sweep => {
                let swept = self.world.streams.sweep().await;
                (swept.map_or(Answer::Broken, |_| Answer::Old), Answer::Old, model)
            }
        }
    }

    async fn append(
        &self,
        path: usize,
        batch: &[Vec<u8>],
        json: bool,
        by: Option<(usize, u64, u64)>,
        close: bool,
    ) -> Answer {
        let body = body(batch, json);
        let append = Append {
            body: (!batch.is_empty()).then_some(&body),
            content_type: Some(if json { "application/json" } else { "text/plain" }),
            producer: by.map(|(producer, epoch, seq)| Producer { id: PRODUCERS[producer], epoch, seq }),
            close,
            ..Append::default()
        };
        let appended = self.world.streams.append(&key(PATHS[path]), append).await;
        appended.map_or_else(of_append, |appended| if appended.new { Answer::New } else { Answer::Old })
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Do(op) => {
                let (answer, expected, after) = self.perform(op).await;
                assert_eq!(answer, expected, "{op:?}");
                self.model = after;
            }
            Step::Full(op) => {
                self.world.store.fail_next(CommitError::Full);
                let (answer, expected, after) = self.perform(op).await;
                if answer != Answer::Full && !(matches!(op, Op::Sweep) && answer == Answer::Broken) {
                    assert_eq!(answer, expected, "{op:?}");
                    self.model = after;
                }
                // Whoever has not met it does so here.
                let record =
                    RecordWrite { key: RecordKey::new("test", "x"), value: None, only_new: false, stamp: false };
                let commit = longhaul_store::Commit { records: vec![record], ..longhaul_store::Commit::default() };
                let _ = self.world.store.commit(commit).await;
            }
            Step::Die(op, commits, durable) => {
                let point = if *durable { CrashPoint::AfterDurable } else { CrashPoint::BeforeDurable };
                self.world.store.crash_after(*commits, point);
                let (answer, expected, after) = self.perform(op).await;
                let died = self.world.store.is_closed();
                assert!(died || answer == expected, "{op:?}: {answer:?} is not {expected:?}");
                self.killed().await;
                if answer == expected {
                    self.model = after;
                } else if *durable && expected == Answer::New && *commits == 0 {
                    assert_eq!(answer, Answer::Broken);
                    self.model = after;
                } else if died && expected == Answer::New && self.seems(&after).await {
                    self.model = after;
                }
                self.model.killed();
                self.repeat().await;
            }
            Step::Kill => {
                self.killed().await;
                self.model.killed();
                self.repeat().await;
            }
            Step::Pass(ms, sweep) => {
                self.world.clock.pass(*ms);
                self.model.now += ms;
                if *sweep {
                    self.world.streams.sweep().await.expect("a sweep");
                }
                self.expire().await;
            }
        }
    }

    /// Whether the world is as a model says, as far as tails and closures tell.
    async fn seems(&self, model: &Model) -> bool {
        for (at, path) in PATHS.iter().enumerate() {
            let there = self.world.streams.head(&key(path)).await;
            let same = match (model.live(at), there) {
                (Ok(stream), Ok(info)) => {
                    info.tail.get() == stream.messages.len() as u64 && info.closed == stream.closed
                }
                (Err(Answer::Gone), Err(OpenError::Gone)) | (Err(Answer::NotFound), Err(OpenError::NotFound)) => true,
                _ => false,
            };
            if !same {
                return false;
            }
        }
        true
    }

    /// The last append of each producer that was acknowledged is a duplicate, whatever happened.
    async fn repeat(&mut self) {
        for (path, stream) in self.model.streams.clone() {
            for (producer, (epoch, last)) in stream.producers {
                if stream.deleted {
                    continue;
                }
                let batch = messages(1, stream.json, 0);
                let answer = self.append(path, &batch, stream.json, Some((producer, epoch, last)), false).await;
                assert_eq!(answer, Answer::Old, "{} of {producer}", PATHS[path]);
                self.model.streams.get_mut(&path).expect("it is there").used = (self.model.now, self.model.now);
            }
        }
    }

    /// Lets the model follow what is over; where that depends on what was not stored, as the world has it.
    async fn expire(&mut self) {
        // Forks of forks: each look may let the one above go.
        for _ in PATHS {
            for (at, path) in PATHS.iter().enumerate() {
                let there = self.world.streams.head(&key(path)).await;
                let Ok(stream) = self.model.live(at) else { continue };
                if !stream.ttl {
                    continue;
                }
                let ttl = TTL as i64 * 1_000;
                let (must_live, must_end) =
                    (self.model.now < stream.used.0 + ttl, self.model.now >= stream.used.1 + ttl);
                assert!(there.is_ok() || !must_live, "{path} went too early");
                assert!(there.is_err() || !must_end, "{path} is still there");
                if there.is_err() {
                    self.model.remove(at);
                }
            }
        }
    }

    /// As after a kill: whoever followed comes back to the next server.
    async fn killed(&mut self) {
        self.world.killed().await;
        for follower in self.followers.values_mut() {
            follower.reader = None;
        }
    }

    /// Whoever follows a stream sees each message once, in order, and its end.
    async fn follow(&mut self) {
        let mut followers = std::mem::take(&mut self.followers);
        for (path, name) in PATHS.iter().enumerate() {
            let Ok(stream) = self.model.live(path) else { continue };
            let mut follower = followers.remove(&stream.id).unwrap_or_else(|| Follower {
                path,
                from: stream.earliest,
                at: stream.earliest as u64,
                ..Follower::default()
            });
            assert_eq!(follower.catch_up(&self.world).await, stream.closed, "{name}");
            let newline: &[u8] = if stream.json { b"\n" } else { b"" };
            let sent: Vec<u8> = stream.messages[follower.from..].iter().flat_map(|m| [m, newline].concat()).collect();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert_eq!(text(&follower.seen), text(&sent), "{name}");
            self.followers.insert(stream.id, follower);
        }
        // What is left is of streams that are no more.
        for mut follower in followers.into_values().filter(|follower| follower.reader.is_some()) {
            assert_eq!(follower.happened(&self.world).await, Some(Happened::Deleted), "{}", PATHS[follower.path]);
        }
    }

    /// Every way of reading shows what the model has.
    async fn observe(&mut self) {
        for (at, path) in PATHS.iter().enumerate() {
            let head = self.world.streams.head(&key(path)).await;
            let stream = match self.model.live(at) {
                Ok(stream) => stream.clone(),
                Err(Answer::Gone) => {
                    assert_eq!(head.unwrap_err(), OpenError::Gone, "{path}");
                    continue;
                }
                Err(_) => {
                    assert_eq!(head.unwrap_err(), OpenError::NotFound, "{path}");
                    continue;
                }
            };
            let info = head.unwrap_or_else(|error| panic!("{path}: {error}"));
            let (tail, earliest) = (stream.messages.len() as u64, stream.earliest as u64);
            assert_eq!((info.tail.get(), info.earliest.get(), info.closed), (tail, earliest, stream.closed), "{path}");
            let kept: Vec<String> = stream.messages[stream.earliest..]
                .iter()
                .map(|message| String::from_utf8(message.clone()).expect("text"))
                .collect();
            let (texts, last) = self.world.read(path, earliest).await.expect(path);
            assert_eq!((&texts, last.closed_at_end), (&kept, stream.closed), "{path}");
            let newline = if stream.json { "\n" } else { "" };
            let whole: String = kept.iter().map(|text| format!("{text}{newline}")).collect();
            assert_eq!(String::from_utf8(self.world.bytes(path).await).expect("text"), whole, "{path}");
            for after in earliest..=tail {
                let (texts, _) = self.world.read(path, after).await.expect(path);
                let rest = &kept[(after - earliest) as usize..];
                assert_eq!(texts, rest, "{path} after {after}");
                let whole: String = rest.iter().map(|text| format!("{text}{newline}")).collect();
                let bytes = self.world.bytes_after(path, after).await;
                assert_eq!(String::from_utf8(bytes).expect("text"), whole, "{path} after {after}");
            }
            if earliest > 0 {
                assert!(self.world.read(path, earliest - 1).await.is_err());
            }
            self.model.streams.get_mut(&at).expect("it is there").used = (self.model.now, self.model.now);
        }
    }

    /// Nothing is left over when all is deleted.
    async fn end(mut self) {
        for _ in PATHS {
            for path in PATHS {
                let _ = self.world.streams.delete(&key(path)).await;
            }
            self.world.killed().await;
        }
        self.world.clock.pass(10_000_000);
        self.world.streams.sweep().await.expect("a sweep");
        for kind in ["stream", "stream_producer", "stream_time", "stream_expiring", "stream_gone"] {
            assert_eq!(self.world.records(kind).await, [], "{kind}");
        }
        let events = self.world.store.health().into_iter().find(|(name, _)| *name == "events");
        assert_eq!(events, Some(("events", 0)));
    }
}

fn check(steps: &[Step]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut test = Test { world: World::new().await, model: Model::default(), mark: 0, followers: BTreeMap::new() };
        for step in steps {
            test.step(step).await;
            test.observe().await;
            test.follow().await;
        }
        test.end().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn streams_do_as_the_model_does(steps in prop::collection::vec(step(), 1..40)) {
        check(&steps);
    }
}
