//! Exactly once over two hundred kills at full speed: what was acknowledged is there once, in order, whatever was under way
//! when the server died; its retry is a duplicate and no producer hears of a gap; closures and forks hold.
#![allow(missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::Value;

use support::wire::{Answer, Line};
use support::{LONGHAUL, Server};

const KILLS: u64 = 200;
const SEED: u64 = 0x0065_6e64;

/// How long a server works between its start and its kill.
const LIFE_MS: std::ops::Range<u64> = 2..60;

/// Producers of the two plain streams and of the fork, and of streams that each closes and leaves for another.
const WRITERS: [&str; 8] = ["plain-0", "plain-0", "plain-0", "plain-1", "plain-1", "plain-1", "fork", "fork"];
const CLOSERS: usize = 2;

/// Appends of a stream that is to be closed.
const APPENDS: u64 = 8;

/// Of so many forks one stays.
const FORKS: usize = 8;

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[derive(Debug, Default)]
struct Counts {
    acknowledged: u64,
    again: u64,
    /// Appends without an answer that had been stored, that had not, and that nobody asked for again.
    was_stored: u64,
    was_not: u64,
    left: u64,
    closed: u64,
    forks: u64,
    unforks: u64,
}

/// One append: a number of its producer's, and how many messages.
#[derive(Debug, Clone)]
struct Sent {
    path: String,
    epoch: u64,
    seq: u64,
    n: usize,
    messages: usize,
    closes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Stored,
    /// The server died over it, and it was not asked for again.
    Unknown,
}

/// A producer and all it knows.
struct Writer {
    p: usize,
    path: String,
    /// Whether it closes its stream after some appends and goes to the next.
    closes: bool,
    there: bool,
    made: u64,
    epoch: u64,
    seq: u64,
    /// By path: what became of each append, with its number of messages.
    sent: BTreeMap<String, Vec<(Fate, usize, usize)>>,
    closed: Vec<String>,
    n: usize,
    last: Option<Sent>,
    open: Option<Sent>,
    random: Random,
    counts: Counts,
}

fn target(path: &str) -> String {
    format!("/v1/stream/{path}")
}

impl Writer {
    fn new(p: usize, path: &str, closes: bool) -> Self {
        Self {
            p,
            path: path.to_owned(),
            closes,
            there: !closes,
            made: 0,
            epoch: 0,
            seq: 0,
            sent: BTreeMap::new(),
            closed: Vec::new(),
            n: 0,
            last: None,
            open: None,
            random: Random(SEED ^ (p as u64) << 32),
            counts: Counts::default(),
        }
    }

    fn next(&mut self) -> Sent {
        let closes = self.closes && self.seq == APPENDS;
        // A close may bring messages or none.
        let messages = if closes { self.random.below(2) } else { 1 + self.random.below(3) } as usize;
        self.n += 1;
        Sent { path: self.path.clone(), epoch: self.epoch, seq: self.seq, n: self.n, messages, closes }
    }

    async fn send(&self, line: &mut Line, sent: &Sent) -> Option<Answer> {
        let (id, epoch, seq) = (format!("p{}", self.p), sent.epoch.to_string(), sent.seq.to_string());
        let closed = if sent.closes { "true" } else { "false" };
        let headers = [
            ("content-type", "application/json"),
            ("producer-id", &id),
            ("producer-epoch", &epoch),
            ("producer-seq", &seq),
            ("stream-closed", closed),
        ];
        let each = (0..sent.messages).map(|at| format!("{{\"p\":{},\"n\":{},\"at\":{at}}}", self.p, sent.n));
        let body = if sent.messages == 0 { String::new() } else { format!("[{}]", each.collect::<Vec<_>>().join(",")) };
        line.ask("POST", &target(&sent.path), &headers, body.as_bytes()).await
    }

    fn settle(&mut self, sent: Sent, fate: Fate) {
        self.sent.entry(sent.path.clone()).or_default().push((fate, sent.n, sent.messages));
        self.open = None;
        if fate == Fate::Unknown {
            // Its number may be taken or not: the producer begins anew.
            (self.epoch, self.seq) = (self.epoch + 1, 0);
            self.counts.left += 1;
            return;
        }
        self.seq = sent.seq + 1;
        if sent.closes {
            self.closed.push(self.path.clone());
            self.made += 1;
            self.path = format!("closing-{}-{}", self.p, self.made);
            (self.there, self.epoch, self.seq) = (false, 0, 0);
            self.counts.closed += 1;
        }
        self.last = Some(sent);
    }

    /// Appends until the server is gone.
    async fn write(&mut self, address: &str) {
        let Some(mut line) = Line::open(address).await else { return };
        loop {
            if !self.there {
                let headers = [("content-type", "application/json")];
                let Some(made) = line.ask("PUT", &target(&self.path), &headers, b"").await else { return };
                assert!(matches!(made.status, 200 | 201), "{made:?}");
                self.there = true;
            }
            let sent = self.next();
            self.open = Some(sent.clone());
            let Some(answer) = self.send(&mut line, &sent).await else { return };
            // A close that brings nothing is answered as a repeated one is.
            assert_eq!(answer.status, if sent.messages == 0 { 204 } else { 200 }, "{sent:?}: {answer:?}");
            assert_eq!(answer.headers.contains_key("stream-closed"), sent.closes, "{answer:?}");
            self.counts.acknowledged += 1;
            self.settle(sent, Fate::Stored);
        }
    }

    /// Asks again for what was acknowledged last, which was stored, and perhaps for what was not answered.
    async fn again(&mut self, address: &str) {
        let mut line = Line::open(address).await.expect("the server is up");
        if let Some(last) = self.last.clone() {
            let answer = self.send(&mut line, &last).await.expect("an answer");
            assert_eq!(answer.status, 204, "{last:?}: {answer:?}");
            // The one that was not answered may be there too.
            let open = self.open.as_ref().filter(|open| open.path == last.path);
            let highest: u64 = answer.headers["producer-seq"].parse().unwrap();
            assert!((last.seq..=last.seq + u64::from(open.is_some())).contains(&highest), "{last:?}: {answer:?}");
            let closed = last.closes || open.is_some_and(|open| open.closes && highest == open.seq);
            assert_eq!(answer.headers.contains_key("stream-closed"), closed, "{last:?}: {answer:?}");
            self.counts.again += 1;
        }
        let Some(open) = self.open.clone() else { return };
        // Where it closes the end must be known before anything else is said; and who is to come to an end does not begin
        // anew so often, since a slow server answers little between two kills.
        if !open.closes && self.random.below(if self.closes { 12 } else { 3 }) == 0 {
            self.settle(open, Fate::Unknown);
            let anew = self.next();
            let answer = self.send(&mut line, &anew).await.expect("an answer");
            assert_eq!(answer.status, 200, "{anew:?}: {answer:?}");
            return self.settle(anew, Fate::Stored);
        }
        let answer = self.send(&mut line, &open).await.expect("an answer");
        match answer.status {
            200 => self.counts.was_not += 1,
            204 if open.messages == 0 => {}
            204 => self.counts.was_stored += 1,
            _ => panic!("{open:?}: {answer:?}"),
        }
        self.settle(open, Fate::Stored);
    }
}

/// Makes forks of a stream that is being written, and deletes most of them.
#[derive(Default)]
struct Forker {
    made: usize,
    /// Whether the last one is there, and to be deleted.
    deletes: bool,
    stay: Vec<String>,
    counts: Counts,
}

impl Forker {
    async fn work(&mut self, address: &str) {
        let Some(mut line) = Line::open(address).await else { return };
        loop {
            let path = format!("fork-{}", self.made);
            if !self.deletes {
                let headers = [("stream-forked-from", "plain-0")];
                let Some(made) = line.ask("PUT", &target(&path), &headers, b"").await else { return };
                assert!(matches!(made.status, 200 | 201), "{path}: {made:?}");
                self.counts.forks += 1;
                if self.made.is_multiple_of(FORKS) {
                    self.stay.push(path);
                    self.made += 1;
                    continue;
                }
                self.deletes = true;
            }
            let Some(gone) = line.ask("DELETE", &target(&path), &[], b"").await else { return };
            // A kill may have come between the deletion and its answer.
            assert!(matches!(gone.status, 204 | 404), "{path}: {gone:?}");
            self.counts.unforks += 1;
            self.deletes = false;
            self.made += 1;
        }
    }
}

/// All messages of a stream, and whether it is closed.
async fn whole(server: &Server, path: &str) -> (Vec<Value>, bool) {
    let (mut all, mut at) = (Vec::new(), "-1".to_owned());
    loop {
        let answer = server.read(&format!("{path}?offset={at}")).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        all.extend(answer.json().as_array().unwrap().iter().cloned());
        answer.next().clone_into(&mut at);
        if answer.header("stream-up-to-date").is_some() {
            assert_eq!(at, support::streams::offset(all.len() as u64), "{path}");
            return (all, answer.header("stream-closed").is_some());
        }
    }
}

/// Of each producer exactly what it knows, in its order: an append is there as a whole, or, if nobody knows, not at all.
fn compare(path: &str, found: &[Value], writers: &[Writer]) -> usize {
    let mut compared = 0;
    for writer in writers {
        let mut left = found.iter().filter(|message| message["p"] == writer.p).peekable();
        for (fate, n, messages) in writer.sent.get(path).into_iter().flatten() {
            if *fate == Fate::Unknown && left.peek().is_none_or(|message| message["n"] != *n) {
                continue;
            }
            for at in 0..*messages {
                let message = left.next();
                let place = message.map(|message| (&message["n"], &message["at"]));
                assert_eq!(place, Some((&Value::from(*n), &Value::from(at))), "{path}: producer {}", writer.p);
                compared += 1;
            }
        }
        assert_eq!(left.next(), None, "{path}: nothing twice, and nothing that was not sent");
    }
    compared
}

/// Closures, contents and forks at the end.
async fn look(server: &mut Server, writers: &[Writer], forker: &Forker, shared: usize) -> usize {
    let mut messages = 0;
    for (path, first) in [("plain-0", shared), ("plain-1", 0)] {
        let (found, closed) = whole(server, path).await;
        let own = &found[first..];
        assert_eq!((compare(path, own, writers), closed), (own.len(), false), "{path}");
        messages += own.len();
    }
    let source = whole(server, "plain-0").await.0;
    let fork = whole(server, "fork").await.0;
    assert_eq!(fork[..shared], source[..shared]);
    assert_eq!(compare("fork", &fork[shared..], writers), fork.len() - shared);
    for writer in writers.iter().filter(|writer| writer.closes) {
        for path in writer.sent.keys() {
            let (found, closed) = whole(server, path).await;
            assert_eq!((compare(path, &found, writers), closed), (found.len(), writer.closed.contains(path)), "{path}");
            messages += found.len();
        }
    }
    for path in &forker.stay {
        let own = whole(server, path).await.0;
        assert_eq!(own, source[..own.len()], "{path}");
    }
    // The one that was being made or deleted at the last kill.
    let open = server.stream(Method::DELETE, &format!("fork-{}", forker.made), &[], "").await.status;
    assert!(matches!(open, 204 | 404), "{open}");
    // The source counts its forks: it stays until the last of them goes, and no longer.
    assert_eq!(server.stream(Method::DELETE, "plain-0", &[], "").await.status, 204);
    for path in &forker.stay {
        assert_eq!(server.stream(Method::DELETE, path, &[], "").await.status, 204, "{path}");
        assert_eq!(server.read("plain-0").await.status, 410, "{path}");
    }
    assert_eq!(whole(server, "fork").await.0, fork);
    assert_eq!(server.stream(Method::DELETE, "fork", &[], "").await.status, 204);
    assert_eq!(server.read("plain-0").await.status, 404);
    messages + fork.len() - shared
}

/// The server dies while it starts, too.
async fn start(server: &mut Server, random: &mut Random) {
    if random.below(8) == 0 {
        server.spawn();
        tokio::time::sleep(Duration::from_millis(random.below(60))).await;
        server.kill9();
    }
    server.up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_kills_at_full_speed_lose_nothing_and_double_nothing() {
    let began = Instant::now();
    let mut server = Server::start().await;
    for path in ["plain-0", "plain-1"] {
        server.put(path, "application/json", &[]).await;
    }
    let mut random = Random(SEED);
    let mut writers: Vec<Writer> = WRITERS.iter().enumerate().map(|(p, path)| Writer::new(p, path, false)).collect();
    writers.extend((0..CLOSERS).map(|at| WRITERS.len() + at).map(|p| Writer::new(p, &format!("closing-{p}-0"), true)));
    let mut forker = Forker::default();
    server.append("plain-0", &[], "[{\"p\":-1},{\"p\":-1}]").await;
    server.put("fork", "application/json", &[("stream-forked-from", "plain-0")]).await;
    let shared = 2;
    let mut starts = Duration::ZERO;
    for kill in 0..KILLS {
        let address = server.base.strip_prefix("http://").unwrap().to_owned();
        let life = Duration::from_millis(LIFE_MS.start + random.below(LIFE_MS.end - LIFE_MS.start));
        let work = async {
            tokio::join!(join_all(writers.iter_mut().map(|writer| writer.write(&address))), forker.work(&address))
        };
        let death = async {
            tokio::time::sleep(life).await;
            server.kill9();
        };
        tokio::join!(work, death);
        let dead = Instant::now();
        start(&mut server, &mut random).await;
        starts += dead.elapsed();
        let address = server.base.strip_prefix("http://").unwrap().to_owned();
        join_all(writers.iter_mut().map(|writer| writer.again(&address))).await;
        if kill % 50 == 49 {
            println!("{} kills after {:?}, {starts:?} of it for starts", kill + 1, began.elapsed());
        }
    }
    let mut counts = std::mem::take(&mut forker.counts);
    for writer in &mut writers {
        let own = std::mem::take(&mut writer.counts);
        counts.acknowledged += own.acknowledged;
        counts.again += own.again;
        counts.was_stored += own.was_stored;
        counts.was_not += own.was_not;
        counts.left += own.left;
        counts.closed += own.closed;
    }
    let messages = look(&mut server, &writers, &forker, shared).await;
    println!("seed {SEED:#x}, {KILLS} kills, {messages} messages, {counts:?}, {:?}", began.elapsed());
    assert!(counts.again > KILLS * 8 && counts.was_stored > 0 && counts.was_not > 0 && counts.left > 0, "{counts:?}");
    assert!(counts.closed > 5 && counts.forks > 3, "{counts:?}");
    server.kill9();
    let verified = std::process::Command::new(LONGHAUL).arg("--data-dir").arg(server.data()).arg("verify").output();
    let verified = verified.unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_stream_does_not_come_back_after_a_kill() {
    let mut server = Server::start().await;
    server.put("source", "application/json", &[]).await;
    server.append("source", &[], "[1,2]").await;
    server.put("fork", "application/json", &[("stream-forked-from", "source")]).await;
    for round in 0..8 {
        let (path, again) = (format!("gone-{round}"), format!("gone-{}", round / 2));
        server.put(&path, "application/json", &[]).await;
        server.append(&path, &[], "[1,2,3]").await;
        assert_eq!(server.stream(Method::DELETE, &path, &[], "").await.status, 204);
        if round == 3 {
            // Kept for its fork, and not to be seen.
            assert_eq!(server.stream(Method::DELETE, "source", &[], "").await.status, 204);
        }
        server.kill9();
        server.up().await;
        for method in [Method::GET, Method::HEAD, Method::DELETE] {
            assert_eq!(server.stream(method, &path, &[], "").await.status, 404, "{path}");
        }
        let source = server.read("source").await.status;
        assert_eq!(source, if round < 3 { 200 } else { 410 }, "round {round}");
        assert_eq!(server.read("fork").await.text(), "[1,2]");
        // Its name is free, and what comes under it has nothing of the old one.
        server.put(&again, "application/json", &[]).await;
        assert_eq!(server.read(&again).await.text(), "[]");
        assert_eq!(server.stream(Method::DELETE, &again, &[], "").await.status, 204);
    }
}
