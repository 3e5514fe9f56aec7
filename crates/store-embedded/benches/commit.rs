//! The speed of commits, in process, against the yardstick of the device.
//!
//! Job: print a table of what DESIGN section 11 asks of the store. Run with `cargo bench -p longhaul-store-embedded`;
//! arguments choose rows by name. Never: asserts a time.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use longhaul_model::{RunKey, Seq, StreamId};
use longhaul_store::contract::fixture::{append, create, event, finish, key, opened, record, to};
use longhaul_store::{Commit, Form, ReadLimit, RecordWrite, RunFilter, Store};
use longhaul_store_embedded::{EmbeddedStore, Options};

/// Measures in a directory and prints.
type Row = fn(&tokio::runtime::Runtime, &Path);

const ROUND: Duration = Duration::from_secs(3);

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let arguments: Vec<_> = std::env::args_os().collect();
    if let [_, flag, dir] = &arguments[..]
        && flag == "--at-rest"
    {
        return at_rest(&runtime, Path::new(dir));
    }
    let want = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
    let table: [(&str, Row); 11] = [
        ("single", single),
        ("many-64", |rt, dir| many(rt, dir, 64)),
        ("many-256", |rt, dir| many(rt, dir, 256)),
        ("shared-64", shared),
        ("pipeline", pipeline),
        ("append-64", |rt, dir| appends(rt, dir, 64, 0)),
        ("producer-64", |rt, dir| appends(rt, dir, 64, 2)),
        ("status", status),
        ("catchup", catchup),
        ("span", span),
        ("stored", stored),
    ];
    for (name, row) in table {
        if want(name) {
            let dir = tempfile::tempdir_in(root).expect("a directory");
            row(&runtime, dir.path());
        }
    }
}

fn open(dir: &Path) -> Arc<EmbeddedStore> {
    Arc::new(EmbeddedStore::open(Options::new(dir).on_fatal(|why| panic!("{why}"))).expect("the store opens"))
}

async fn made(store: &dyn Store, key: &RunKey) -> StreamId {
    store.commit(create(key, 0)).await.expect("a run").created.expect("a stream")
}

/// Commits of one 200-byte event, prepared but for the tail.
fn one(key: &RunKey, stream: StreamId, after: u64) -> Commit {
    append(key, stream, after, 1)
}

fn yardstick(dir: &Path, time: Duration) -> f64 {
    let file = std::fs::File::create(dir.join("yardstick")).expect("a file");
    let (start, mut count) = (Instant::now(), 0_u64);
    while start.elapsed() < time {
        file.write_all_at(&[b'x'; 200], count * 200).expect("a write");
        file.sync_data().expect("a sync");
        count += 1;
    }
    start.elapsed().as_secs_f64() * 1e6 / count as f64
}

fn percentile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * part) as usize]
}

/// Yardstick and store in turns, so that both see the same device.
fn single(runtime: &tokio::runtime::Runtime, dir: &Path) {
    let store = open(&dir.join("store"));
    let k = key("p", "single");
    let stream = runtime.block_on(made(&*store, &k));
    let (mut after, mut raw, mut spent, mut times) = (0, Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        raw.push(yardstick(dir, ROUND / 5));
        let (start, first) = (Instant::now(), after);
        while start.elapsed() < ROUND / 5 {
            let begun = Instant::now();
            runtime.block_on(store.commit(one(&k, stream, after))).expect("a commit");
            times.push(begun.elapsed());
            after += 1;
        }
        spent.push(start.elapsed().as_secs_f64() * 1e6 / (after - first) as f64);
    }
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (raw, spent) = (mean(&raw), mean(&spent));
    println!("fdatasync of an extending file      {raw:8.1} us");
    println!(
        "1 writer, single commits            {spent:8.1} us  ratio {:.2}  p50 {:?}  p99 {:?}",
        spent / raw,
        percentile(&mut times, 0.5),
        percentile(&mut times, 0.99)
    );
    runtime.block_on(store.close()).expect("closed");
}

fn many(runtime: &tokio::runtime::Runtime, dir: &Path, writers: u64) {
    let store = open(dir);
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..writers)
        .map(|n| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            runtime.spawn(async move {
                let k = key("p", &format!("run-{n}"));
                let stream = made(&*store, &k).await;
                // The text is made once: what is measured is the store.
                let wire = event(&k, 1, "some forty characters of output, no more");
                let mut after = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut commit = append(&k, stream, after, 0);
                    commit.streams[0].events = vec![wire.clone()];
                    store.commit(commit).await.expect("a commit");
                    after += 1;
                }
                after
            })
        })
        .collect();
    let start = Instant::now();
    std::thread::sleep(ROUND);
    stop.store(true, Ordering::Relaxed);
    let total: u64 = tasks.into_iter().map(|task| runtime.block_on(task).expect("a writer")).sum();
    let rate = total as f64 / start.elapsed().as_secs_f64();
    println!("{writers:3} writers on {writers:3} streams            {rate:8.0} commits/s");
    let begun = Instant::now();
    runtime.block_on(store.close()).expect("closed");
    println!("    close                           {:8.1} ms", begun.elapsed().as_secs_f64() * 1e3);
}

/// 64 writers share one stream through a sequencer that keeps many commits in flight.
fn shared(runtime: &tokio::runtime::Runtime, dir: &Path) {
    let store = open(dir);
    let k = key("p", "shared");
    let stream = runtime.block_on(made(&*store, &k));
    let total = runtime.block_on(async {
        let wire = event(&k, 1, "some forty characters of output, no more");
        let mut in_flight = tokio::task::JoinSet::new();
        let (mut after, mut done, start) = (0, 0_u64, Instant::now());
        while start.elapsed() < ROUND {
            while in_flight.len() < 64 {
                let mut commit = append(&k, stream, after, 0);
                commit.streams[0].events = vec![wire.clone()];
                let store = Arc::clone(&store);
                // Submitted in order here, awaited there.
                let mut submitted = Box::pin(async move { store.commit(commit).await });
                let polled = futures_poll(&mut submitted);
                match polled {
                    Some(answer) => drop(answer.expect("a commit")),
                    None => drop(in_flight.spawn(submitted)),
                }
                after += 1;
            }
            let first = in_flight.join_next().await.expect("one is in flight");
            first.expect("a task").expect("a commit");
            done += 1;
            while let Some(next) = in_flight.try_join_next() {
                next.expect("a task").expect("a commit");
                done += 1;
            }
        }
        done
    });
    println!(" 64 in flight on 1 stream           {:8.0} commits/s", total as f64 / ROUND.as_secs_f64());
    runtime.block_on(store.close()).expect("closed");
}

fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(future).poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

/// A row, a list and a page of an old run while 64 writers go at full speed.
fn status(runtime: &tokio::runtime::Runtime, dir: &Path) {
    let store = open(dir);
    let stop = Arc::new(AtomicBool::new(false));
    let old = key("p", "old");
    runtime.block_on(async {
        let stream = made(&*store, &old).await;
        store.commit(append(&old, stream, 0, 500)).await.expect("a commit");
        store.commit(finish(&old, stream, 500)).await.expect("a commit");
    });
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            runtime.spawn(async move {
                let k = key("p", &format!("run-{n}"));
                let stream = made(&*store, &k).await;
                let mut after = 0;
                while !stop.load(Ordering::Relaxed) {
                    store.commit(one(&k, stream, after)).await.expect("a commit");
                    after += 1;
                }
            })
        })
        .collect();
    let asker = runtime.spawn({
        let store = Arc::clone(&store);
        async move {
            let stream = store.run(&old).await.expect("an answer").expect("a row").stream;
            let (mut rows, mut lists, mut pages) = (Vec::new(), Vec::new(), Vec::new());
            let start = Instant::now();
            while start.elapsed() < ROUND {
                let begun = Instant::now();
                store.run(&old).await.expect("an answer");
                rows.push(begun.elapsed());
                let begun = Instant::now();
                store.runs(RunFilter::default()).await.expect("an answer");
                lists.push(begun.elapsed());
                let begun = Instant::now();
                store.read(stream, Seq::ZERO, ReadLimit::default()).await.expect("a page");
                pages.push(begun.elapsed());
            }
            (rows, lists, pages)
        }
    });
    let (mut rows, mut lists, mut pages) = runtime.block_on(asker).expect("answers");
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        runtime.block_on(task).expect("a writer");
    }
    for (name, times) in [("row", &mut rows), ("list", &mut lists), ("page of 500", &mut pages)] {
        let (p50, p99) = (percentile(times, 0.5), percentile(times, 0.99));
        println!("{name:12} while ingesting          p50 {p50:?}  p99 {p99:?}  ({} asked)", times.len());
    }
    runtime.block_on(store.close()).expect("closed");
}

fn catchup(runtime: &tokio::runtime::Runtime, dir: &Path) {
    let store = open(dir);
    let k = key("p", "long");
    let stream = runtime.block_on(async {
        let stream = made(&*store, &k).await;
        for round in 0..400 {
            store.commit(append(&k, stream, round * 1000, 1000)).await.expect("a commit");
        }
        stream
    });
    runtime.block_on(store.close()).expect("closed");
    drop(store);
    let store = open(dir);
    let start = Instant::now();
    let bytes = runtime.block_on(async {
        let (mut after, mut bytes) = (Seq::ZERO, 0);
        loop {
            let page = store.read(stream, after, ReadLimit::default()).await.expect("a page");
            let Some(last) = page.events.last() else { return bytes };
            after = last.seq;
            bytes += page.events.iter().map(|e| e.wire.len()).sum::<usize>();
        }
    });
    println!("catch-up, 1 reader from disk        {:8.0} MB/s", bytes as f64 / 1e6 / start.elapsed().as_secs_f64());
}

/// 64 appends in flight on one plain stream, from one writer that never waits for the one before.
fn pipeline(runtime: &tokio::runtime::Runtime, dir: &Path) {
    let store = open(dir);
    let done = runtime.block_on(async {
        let stream = opened(&*store, Form::Opaque, 0).await;
        let wire = Bytes::from(vec![b'x'; 200]);
        let mut tickets = std::collections::VecDeque::new();
        let (mut tail, start) = (0, Instant::now());
        while start.elapsed() < ROUND {
            while tickets.len() < 64 {
                tickets.push_back(store.submit(to(stream, tail, vec![wire.clone()])).expect("room"));
                tail += 1;
            }
            if let Some(ticket) = tickets.pop_front() {
                ticket.await.expect("a commit");
            }
        }
        tail - tickets.len() as u64
    });
    println!(" 64 submitted on 1 plain stream     {:8.0} commits/s", done as f64 / ROUND.as_secs_f64());
    runtime.block_on(store.close()).expect("closed");
}

/// What an append to a durable stream costs: one message and a cursor, and records of its producer.
fn appends(runtime: &tokio::runtime::Runtime, dir: &Path, writers: u64, records: usize) {
    let store = open(dir);
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..writers)
        .map(|n| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            runtime.spawn(async move {
                let stream = opened(&*store, Form::Opaque, 0).await;
                let wire = Bytes::from(vec![b'x'; 200]);
                let state = Bytes::from(vec![b's'; 24]);
                let keys = [("stream_producer", format!("{n:016x}/producer")), ("stream_time", format!("{n:016x}/1"))];
                let mut after = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut commit = to(stream, after, vec![wire.clone()]);
                    commit.streams[0].cursor = Some(state.clone());
                    commit.records = keys[..records]
                        .iter()
                        .map(|(kind, id)| RecordWrite { value: Some(state.clone()), ..record(kind, id, None) })
                        .collect();
                    store.commit(commit).await.expect("a commit");
                    after += 1;
                }
                after
            })
        })
        .collect();
    let start = Instant::now();
    std::thread::sleep(ROUND);
    stop.store(true, Ordering::Relaxed);
    let total: u64 = tasks.into_iter().map(|task| runtime.block_on(task).expect("a writer")).sum();
    let rate = total as f64 / start.elapsed().as_secs_f64();
    println!("{writers:3} appends with cursor, {records} records  {rate:8.0} commits/s");
    runtime.block_on(store.close()).expect("closed");
}

/// A reader that is 1 GiB behind, of lines and of opaque messages.
fn span(runtime: &tokio::runtime::Runtime, dir: &Path) {
    for (form, size) in [(Form::Lines, 200), (Form::Opaque, 200), (Form::Opaque, 64 << 10), (Form::Opaque, 1 << 20)] {
        let dir = dir.join(format!("{form:?}-{size}"));
        let store = open(&dir);
        let stream = runtime.block_on(async {
            let stream = opened(&*store, form, 0).await;
            let wire = Bytes::from(vec![b'x'; size]);
            let (count, mut tail) = ((1 << 20) / size as u64, 0);
            for _ in 0..1024 {
                store.commit(to(stream, tail, vec![wire.clone(); count as usize])).await.expect("a commit");
                tail += count;
            }
            stream
        });
        runtime.block_on(store.close()).expect("closed");
        drop(store);
        let store = open(&dir);
        for bytes_max in [1 << 20, 4 << 20] {
            let start = Instant::now();
            let bytes = runtime.block_on(async {
                let (mut after, mut bytes) = (Seq::ZERO, 0);
                loop {
                    let span = store.read_span(stream, after, bytes_max).await.expect("a span");
                    bytes += span.body.iter().map(Bytes::len).sum::<usize>();
                    if span.last == span.tail {
                        return bytes;
                    }
                    after = span.last;
                }
            });
            let rate = bytes as f64 / 1e6 / start.elapsed().as_secs_f64();
            println!("spans of {} MiB, {form:?} of {size:7} B  {rate:8.0} MB/s", bytes_max >> 20);
        }
        let start = Instant::now();
        runtime.block_on(store.commit(Commit { drop: vec![stream], ..Commit::default() })).expect("dropped");
        runtime.block_on(store.close()).expect("closed");
        println!("    dropped and applied             {:8.1} ms", start.elapsed().as_secs_f64() * 1e3);
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}

/// Open with 100 000 stored runs, and what that takes at rest.
fn stored(runtime: &tokio::runtime::Runtime, dir: &Path) {
    let store = open(dir);
    runtime.block_on(async {
        for hundred in 0..1_000 {
            let mut tasks = tokio::task::JoinSet::new();
            for n in 0..100 {
                let store = Arc::clone(&store);
                tasks.spawn(async move {
                    let k = key("p", &format!("0197b3f0-run-{hundred}-{n}"));
                    let mut commit = create(&k, 8);
                    if let Some(new) = &mut commit.create {
                        new.row.doc = vec![b'd'; 1500].into();
                        new.row.status = longhaul_model::Status::Completed;
                    }
                    store.commit(commit).await.expect("a run");
                });
            }
            tasks.join_all().await;
        }
    });
    runtime.block_on(store.close()).expect("closed");
    drop(store);
    // A process of its own, so that its memory is not this one's.
    let child = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--at-rest".as_ref(), dir.as_os_str()])
        .status();
    assert!(child.is_ok_and(|status| status.success()), "the child measures itself");
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or_default()
}

fn at_rest(runtime: &tokio::runtime::Runtime, dir: &Path) {
    let before = resident_kb();
    let begun = Instant::now();
    let store = open(dir);
    println!("open with 100 000 stored runs       {:8.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    let opened = resident_kb();
    let begun = Instant::now();
    runtime.block_on(store.live_runs()).expect("rows");
    println!("    live runs                       {:8.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    let begun = Instant::now();
    runtime.block_on(store.runs(RunFilter::default())).expect("a page");
    println!("    first list                      {:8.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    let kb = resident_kb();
    println!("    resident                        {kb:8} kB ({before} before open, {opened} after)");
}
