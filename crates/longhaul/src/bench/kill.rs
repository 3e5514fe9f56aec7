//! What is left of appends when the server is killed, again and again, at full speed.
//!
//! Job: a producer a connection appends as fast as it is answered; the server is killed and started again; then each
//! producer sends its last acknowledged append once more, and the one that was not answered. At the end all streams are
//! read. Counts what was acknowledged and is not there, what is there twice, and sequences that the server does not
//! know any more. Never: retries an append whose fate an answer left open under another number, which would double it
//! here and not in the server.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::limits::{EVENT_BYTES, READ_BULK_BYTES, START_MAX};
use super::load::{alone, make};
use super::plan::Root;
use super::request::{Path, Producer};
use super::sample::Tally;
use super::target::{BenchError, Given, Server, Source, Target};
use super::wire::{Connection, Link, WireError};

/// Producers besides those that go on, of which each appends once before each kill: the first number of all.
const ONCE: usize = 4;

/// How long a server works between its start and its kill, in milliseconds: from before it is warm to well under way.
const LIFE_MS: std::ops::Range<u64> = 5..250;

/// How to kill.
#[derive(Debug, Clone)]
pub struct KillOptions {
    /// The servers; each must be one that is started here.
    pub servers: Vec<Given>,
    /// Where their data goes.
    pub dir: PathBuf,
    /// How often each is killed.
    pub kills: u32,
    /// Producers, each on a connection of its own.
    pub producers: usize,
    /// When kills come follows from this.
    pub seed: u64,
    /// The environment of the servers.
    pub environment: BTreeMap<String, String>,
}

/// What came out, a server each.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KillReport {
    /// When kills came followed from this.
    pub seed: u64,
    /// By server.
    pub servers: Vec<Killed>,
}

/// What kills did to one server.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Killed {
    /// The server.
    pub name: String,
    /// Kills.
    pub kills: u32,
    /// Appends that were acknowledged.
    pub acknowledged: u64,
    /// Of them: not there at the end.
    pub lost: u64,
    /// There more than once.
    pub doubled: u64,
    /// Retries that were refused although nothing was missing before them.
    pub false_gaps: u64,
    /// What retries of acknowledged appends were answered.
    pub acknowledged_again: BTreeMap<String, u64>,
    /// What retries of appends without an answer were answered.
    pub unanswered_again: BTreeMap<String, u64>,
    /// Longest time from a start after a kill to the first answer, in milliseconds.
    pub start_max_ms: f64,
    /// What else went wrong.
    pub errors: BTreeMap<String, u64>,
}

impl KillReport {
    /// Whether every server kept every promise.
    pub fn is_exact(&self) -> bool {
        self.servers.iter().all(|s| s.lost + s.doubled + s.false_gaps == 0 && s.errors.is_empty())
    }

    /// As a table of Markdown.
    pub fn text(&self) -> String {
        let mut out = String::from(
            "| server | kills | acknowledged | lost | doubled | false gaps | acknowledged, retried | unanswered, retried | slowest start | other |\n",
        );
        out.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
        let list = |counts: &BTreeMap<String, u64>| {
            let each: Vec<String> = counts.iter().map(|(what, count)| format!("{what} × {count}")).collect();
            if each.is_empty() { "–".to_owned() } else { each.join(", ") }
        };
        for s in &self.servers {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {:.0} ms | {} |",
                s.name,
                s.kills,
                s.acknowledged,
                s.lost,
                s.doubled,
                s.false_gaps,
                list(&s.acknowledged_again),
                list(&s.unanswered_again),
                s.start_max_ms,
                list(&s.errors)
            );
        }
        let _ = writeln!(out, "\nThe times of the kills follow from --seed {}.", self.seed);
        out
    }
}

/// Kills each server as often as asked for.
///
/// # Errors
/// A server is not one that can be killed, or did not start the first time; the machine fails.
pub fn run(options: &KillOptions, progress: &mut dyn FnMut(&str)) -> Result<KillReport, BenchError> {
    if let Some(given) = options.servers.iter().find(|given| matches!(given.source, Source::Url { .. })) {
        let why = format!("{} was not started here, so it is not killed here: give --spawn", given.name);
        return Err(BenchError::Option(why));
    }
    let root = Root::make(&options.dir)?;
    let mut report = KillReport { seed: options.seed, servers: Vec::new() };
    for given in &options.servers {
        let server = Server::begin(given, &root.0, &options.environment)?;
        let killed = Killing::new(server, options)?.all(options, progress);
        progress(&format!("{}: {} kills, {} lost, {} doubled", given.name, killed.kills, killed.lost, killed.doubled));
        report.servers.push(killed);
    }
    Ok(report)
}

/// A message: whose, and which of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
struct Message {
    p: usize,
    n: usize,
}

impl Message {
    fn body(self) -> Vec<u8> {
        let mut body = format!("{{\"p\":{},\"n\":{},\"pad\":\"", self.p, self.n).into_bytes();
        body.resize(EVENT_BYTES - 2, b'x');
        body.extend_from_slice(b"\"}");
        body
    }
}

/// An append: its number in the producer's sequence and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sent {
    epoch: u64,
    seq: u64,
    message: Message,
}

/// A producer and all it knows.
#[derive(Debug)]
struct Writer {
    id: String,
    path: Path,
    p: usize,
    epoch: u64,
    seq: u64,
    /// Whether the message of this number was acknowledged.
    acknowledged: Vec<bool>,
    last: Option<Sent>,
    unanswered: Option<Sent>,
    /// Stops after its first append.
    once: bool,
    errors: Tally,
}

impl Writer {
    fn new(id: String, path: Path, p: usize, once: bool) -> Self {
        let (acknowledged, errors) = (Vec::new(), Tally::default());
        Self { id, path, p, epoch: 0, seq: 0, acknowledged, last: None, unanswered: None, once, errors }
    }

    fn next(&mut self) -> Sent {
        let message = Message { p: self.p, n: self.acknowledged.len() };
        self.acknowledged.push(false);
        Sent { epoch: self.epoch, seq: self.seq, message }
    }

    async fn send(&self, connection: &mut Connection, sent: Sent) -> Result<u16, WireError> {
        let producer = Producer { id: self.id.clone(), epoch: sent.epoch, seq: sent.seq };
        let mut request = Vec::new();
        self.path.post(Some(&producer), &sent.message.body(), &mut request);
        Ok(connection.call(&request, |_| ()).await?.status)
    }

    fn acknowledge(&mut self, sent: Sent) {
        self.acknowledged[sent.message.n] = true;
        self.last = Some(sent);
        self.unanswered = None;
        self.seq = sent.seq + 1;
    }

    /// Begins anew where the server does not know the sequence any more. What was not answered stays open.
    fn begin_anew(&mut self) {
        self.epoch += 1;
        self.seq = 0;
        self.unanswered = None;
    }

    /// Appends until the server is gone.
    async fn write(mut self, target: Target) -> Self {
        let Ok(mut connection) = Connection::open(target.address).await else { return self };
        while !(self.once && self.last.is_some()) {
            let sent = self.next();
            self.unanswered = Some(sent);
            match self.send(&mut connection, sent).await {
                Ok(200..300) => self.acknowledge(sent),
                Ok(status) => {
                    self.errors.fail(format!("first answer {status}"));
                    self.begin_anew();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(_) => return self,
            }
        }
        self
    }

    /// Sends again what was acknowledged last, then what was not answered.
    async fn again(&mut self, target: &Target, killed: &mut Killed) -> Result<(), WireError> {
        let mut connection = Connection::open(target.address).await?;
        if let Some(last) = self.last {
            let status = self.send(&mut connection, last).await?;
            *killed.acknowledged_again.entry(status.to_string()).or_default() += 1;
            if !(200..300).contains(&status) {
                killed.false_gaps += 1;
            }
        }
        if let Some(open) = self.unanswered {
            let status = self.send(&mut connection, open).await?;
            *killed.unanswered_again.entry(status.to_string()).or_default() += 1;
            if (200..300).contains(&status) {
                self.acknowledge(open);
            } else {
                killed.false_gaps += 1;
            }
        }
        if self.unanswered.is_some() {
            self.begin_anew();
        }
        Ok(())
    }
}

/// One server being killed.
#[derive(Debug)]
struct Killing {
    server: Server,
    streams: Vec<Path>,
    writers: Vec<Writer>,
    over: Vec<Writer>,
    killed: Killed,
}

impl Killing {
    fn new(server: Server, options: &KillOptions) -> Result<Self, BenchError> {
        let target = &server.target;
        let count = options.producers.div_ceil(4).max(1);
        let streams: Vec<Path> = (0..count).map(|n| Path::new(target, &format!("bench-kill-{n}"))).collect();
        let shared: Vec<_> = streams.iter().cloned().map(std::sync::Arc::new).collect();
        alone(make(target, &shared)).map_err(|why| BenchError::NotStarted { name: target.name.clone(), why })?;
        let writer = |p: usize| Writer::new(format!("bench-{p}"), streams[p % count].clone(), p, false);
        let writers = (0..options.producers).map(writer).collect();
        let killed = Killed { name: target.name.clone(), ..Killed::default() };
        Ok(Self { server, streams, writers, over: Vec::new(), killed })
    }

    fn all(mut self, options: &KillOptions, progress: &mut dyn FnMut(&str)) -> Killed {
        let mut random = options.seed | 1;
        for kill in 1..=options.kills {
            // xorshift64; any spread will do.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let life = Duration::from_millis(LIFE_MS.start + random % (LIFE_MS.end - LIFE_MS.start));
            if let Err(error) = self.one(life) {
                *self.killed.errors.entry(error.to_string()).or_default() += 1;
                break;
            }
            self.killed.kills = kill;
            if kill.is_multiple_of(10) {
                progress(&format!("  {}: {kill} of {} kills", self.killed.name, options.kills));
            }
        }
        self.over.append(&mut self.writers);
        if let Err(why) = alone(async { timeout(START_MAX, self.count()).await })
            .unwrap_or_else(|_| Err("reading took too long".into()))
        {
            *self.killed.errors.entry(why).or_default() += 1;
        }
        for writer in &self.over {
            for (what, count) in &writer.errors.errors {
                *self.killed.errors.entry(what.clone()).or_default() += count;
            }
        }
        self.killed
    }

    /// One life, one death, one start, one round of retries.
    fn one(&mut self, life: Duration) -> Result<(), BenchError> {
        let first = self.over.len() + self.writers.len();
        for p in first..first + ONCE {
            let path = self.streams[p % self.streams.len()].clone();
            self.writers.push(Writer::new(format!("once-{p}"), path, p, true));
        }
        let (target, writers) = (self.server.target.clone(), std::mem::take(&mut self.writers));
        let server = &mut self.server;
        let (died, writers) = std::thread::scope(|scope| {
            let writing = scope.spawn(move || alone(write(target, writers)));
            std::thread::sleep(life);
            let died = server.kill();
            (died, writing.join().expect("a writer does not panic"))
        });
        self.writers = writers;
        died?;
        let started = self.server.again()?;
        self.killed.start_max_ms = self.killed.start_max_ms.max(started.as_secs_f64() * 1e3);
        let (target, writers, killed) = (&self.server.target, &mut self.writers, &mut self.killed);
        let retries = async {
            for writer in writers.iter_mut() {
                if let Err(error) = writer.again(target, killed).await {
                    writer.errors.fail(format!("retry: {error}"));
                    writer.begin_anew();
                }
            }
        };
        let retried = alone(async { timeout(START_MAX, retries).await });
        if retried.is_err() {
            *self.killed.errors.entry("retries took too long".to_owned()).or_default() += 1;
        }
        let (over, writers) = std::mem::take(&mut self.writers).into_iter().partition(|writer| writer.once);
        self.over.extend::<Vec<Writer>>(over);
        self.writers = writers;
        Ok(())
    }

    /// Reads all and counts.
    async fn count(&mut self) -> Result<(), String> {
        let mut found: BTreeMap<Message, u64> = BTreeMap::new();
        for stream in &self.streams {
            for message in read_all(&self.server.target, stream).await? {
                *found.entry(message).or_default() += 1;
            }
        }
        self.killed.doubled = found.values().filter(|count| **count > 1).count() as u64;
        for writer in &self.over {
            for (n, acknowledged) in writer.acknowledged.iter().enumerate() {
                if *acknowledged {
                    self.killed.acknowledged += 1;
                    self.killed.lost += u64::from(!found.contains_key(&Message { p: writer.p, n }));
                }
            }
        }
        Ok(())
    }
}

/// All writers, until the server is gone.
async fn write(target: Target, writers: Vec<Writer>) -> Vec<Writer> {
    let mut tasks = JoinSet::new();
    for writer in writers {
        tasks.spawn(writer.write(target.clone()));
    }
    let mut back = Vec::new();
    while let Some(writer) = tasks.join_next().await {
        back.push(writer.expect("a writer does not panic"));
    }
    back.sort_by_key(|writer| writer.p);
    back
}

async fn read_all(target: &Target, stream: &Path) -> Result<Vec<Message>, String> {
    let mut link = Link::new(target.address, READ_BULK_BYTES);
    let (mut all, mut offset) = (Vec::new(), "-1".to_owned());
    let deadline = Instant::now() + START_MAX;
    while Instant::now() < deadline {
        let mut body = Vec::new();
        let request = stream.get(&format!("offset={offset}"));
        let names = ["stream-next-offset", "stream-up-to-date"];
        let answer = link.ask(&request, |part| body.extend_from_slice(part), names).await;
        let (head, [next, up_to_date]) = answer.map_err(|error| format!("reading: {error}"))?;
        if head.status != 200 {
            return Err(format!("reading: {}", head.status));
        }
        let page: Vec<Message> = serde_json::from_slice(&body).map_err(|error| format!("reading: {error}"))?;
        all.extend(page);
        if up_to_date.is_some_and(|value| value == "true") {
            return Ok(all);
        }
        offset = next.ok_or("reading: no offset")?;
    }
    Err("reading took too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let message = Message { p: 3, n: 12_345 };
        assert_eq!(message.body().len(), EVENT_BYTES);
        assert_eq!(serde_json::from_slice::<Message>(&message.body()).unwrap(), message);
    }

    #[test]
    fn a_report_with_a_loss_is_not_exact() {
        let mut report = KillReport { seed: 1, servers: vec![Killed { name: "x".into(), ..Killed::default() }] };
        assert!(report.is_exact());
        report.servers[0].doubled = 1;
        assert!(!report.is_exact());
        assert!(report.text().contains("| x | 0 | 0 | 0 | 1 | 0 |"), "{}", report.text());
    }
}
