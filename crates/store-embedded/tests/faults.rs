//! Faults of the device: an fsync that fails, a disk that is full, a directory that cannot be written.

mod harbour;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use harbour::{Writer, blob, content, health, is_broken, named, numbered, open, options, orders, populate, say, until};
use longhaul_model::{Seq, StreamId};
use longhaul_store::contract::fixture::{create, event, finish, key, message, opened, read_all, to};
use longhaul_store::{CommitError, Form, Store, StoreError, Urgency};
use longhaul_store_embedded::{EmbeddedStore, OpenError, Options, verify};

/// Commits of a child, none of which is refused: far more than any sync that is to fail.
const COMMITS_MAX: u64 = 5_000;

/// The child: commits until the store breaks down, and says what it sees.
#[test]
#[ignore = "started by the tests of this file"]
fn child() {
    let (mut options, fatal) = options(Path::new(&orders()));
    options.apply_after = Duration::ZERO;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(EmbeddedStore::open(options).unwrap());
        let k = key("p", "r");
        let stream = match store.run(&k).await.unwrap() {
            Some(row) => row.stream,
            None => match store.commit(create(&k, 0)).await {
                Ok(made) => made.created.unwrap(),
                Err(error) => return say(&format!("failed {error}")),
            },
        };
        let plain = match store.record(&longhaul_store::RecordKey::new("stream", "p/plain")).await.unwrap() {
            Some(value) => StreamId::new(u64::from_be_bytes(value[..8].try_into().unwrap())),
            None => match store.commit(named("p/plain", Form::Opaque, 0)).await {
                Ok(made) => made.created.unwrap(),
                Err(error) => return say(&format!("failed {error}")),
            },
        };
        let pipeline = tokio::spawn(pipeline(Arc::clone(&store), plain));
        let mut tail = store.head(stream).await.unwrap().tail.get();
        loop {
            match store.commit(numbered(&k, stream, tail, 1)).await {
                Ok(_) => tail += 1,
                Err(error) => {
                    assert!(is_broken(&error), "{error}");
                    say(&format!("failed {error}"));
                    break;
                }
            }
            say(&format!("tail {tail}"));
            if tail > COMMITS_MAX {
                say("nothing failed");
                std::process::abort();
            }
        }
        pipeline.await.unwrap();
        until("it is fatal, once", async || fatal.lock().unwrap().len() == 1).await;
        say(&format!("fatal {}", fatal.lock().unwrap()[0]));
        for _ in 0..3 {
            let after = store.commit(numbered(&k, stream, tail, 1)).await;
            assert!(after.as_ref().is_err_and(is_broken), "{after:?}");
            assert_eq!(store.head(stream).await, Err(StoreError::Closed));
        }
        store.close().await.unwrap();
        assert_eq!(fatal.lock().unwrap().len(), 1);
        say("over");
    });
    // As the binary does it: nothing is tidied up on a handle that failed.
    std::process::abort();
}

/// Appends to a plain stream, four on their way: from the first that fails on, none is acknowledged.
async fn pipeline(store: Arc<EmbeddedStore>, stream: StreamId) {
    let first = store.head(stream).await.unwrap().tail.get();
    let mut tickets = std::collections::VecDeque::new();
    let (mut failed, mut broken) = (false, false);
    for at in first.. {
        match store.submit(to(stream, at, vec![blob(0, at + 1, Form::Opaque)])) {
            Ok(ticket) => tickets.push_back((at + 1, ticket)),
            Err(error) => {
                assert!(is_broken(&error), "{error}");
                broken = true;
            }
        }
        while tickets.len() > 3 || (broken && !tickets.is_empty()) {
            let (tail, ticket) = tickets.pop_front().unwrap();
            match ticket.await {
                Ok(_) => {
                    assert!(!failed, "a commit is made behind one that failed");
                    say(&format!("plain {tail}"));
                }
                Err(error) => {
                    assert!(is_broken(&error), "{error}");
                    failed = true;
                }
            }
        }
        if broken {
            return;
        }
    }
}

fn shim(dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fsync_shim.c");
    let library = dir.join("fsync_shim.so");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
    assert!(built.unwrap().success(), "cc builds the shim");
    library
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_fsync_is_unknown_and_fatal_and_the_next_start_is_whole() {
    let tools = tempfile::tempdir().unwrap();
    let shim = shim(tools.path());
    let counter = tools.path().join("syncs");
    for file in ["journal.db-wal", "longhaul.db"] {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        let mut acknowledged = 0;
        let mut acknowledged_plain: u64 = 0;
        let mut unknown = 0;
        let forever = [0, 1, 2, 5, 17, 40].map(|syncs| (syncs, false));
        // One that would succeed if it were tried again must not be.
        for (syncs, once) in forever.into_iter().chain([(1, true), (6, true), (23, true)]) {
            std::fs::write(&counter, format!("{syncs:<8}")).unwrap();
            let mut environment = vec![
                ("LD_PRELOAD", shim.to_str().unwrap()),
                ("LONGHAUL_SYNCS", counter.to_str().unwrap()),
                ("LONGHAUL_SYNC_MATCH", file),
            ];
            environment.extend(once.then_some(("LONGHAUL_SYNC_ONCE", "1")));
            let mut child = Writer::start(&dir.path().display().to_string(), &environment);
            let mut said = Vec::new();
            while let Some(line) = child.line() {
                if let Some(tail) = line.strip_prefix("tail ") {
                    acknowledged = tail.parse().unwrap();
                } else if let Some(tail) = line.strip_prefix("plain ") {
                    acknowledged_plain = tail.parse().unwrap();
                } else {
                    said.push(line);
                }
            }
            let opened = !said.is_empty();
            assert!(opened || syncs < 5, "{file} after {syncs}: the child opened its store");
            if opened && said[0] != "failed the store is closed" {
                assert!(said[0].starts_with("failed"), "{said:?}");
                unknown += u64::from(said[0].contains("not known"));
            }
            drop(child);
            let store = open(dir.path());
            let all = content(&*store).await.unwrap();
            if let Some((head, events)) = all.streams.get("p/r") {
                let found = events.len() as u64;
                assert!(
                    found == acknowledged || found == acknowledged + 1,
                    "{file} after {syncs}: {acknowledged}, {found}"
                );
                assert_eq!(head.tail, Seq::new(found));
                acknowledged = found;
            } else {
                assert_eq!(acknowledged, 0);
            }
            if let Some((_, events)) = all.plain.get("p/plain") {
                let found = events.len() as u64;
                let range = acknowledged_plain..=acknowledged_plain + 4;
                assert!(range.contains(&found), "{file} after {syncs}: {acknowledged_plain}, {found}");
                assert!(*events == (1..=found).map(|at| blob(0, at, Form::Opaque)).collect::<Vec<_>>());
                acknowledged_plain = found;
            } else {
                assert_eq!(acknowledged_plain, 0);
            }
            store.close().await.unwrap();
            drop(store);
            assert!(verify(dir.path()).unwrap().is_sound());
        }
        assert!(acknowledged > 5 && acknowledged_plain > 5, "{file}: some commits were made");
        assert!(unknown > 2 || file != "journal.db-wal", "a commit whose sync failed is unknown");
    }
}

/// A file system of its own, in memory, that goes with this value.
struct Mount {
    dir: tempfile::TempDir,
}

impl Mount {
    /// Answers why not, if it cannot.
    fn tmpfs(size: &str) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "longhaul-test"])
            .arg(dir.path())
            .output()
            .map_err(|error| error.to_string())?;
        if mount.status.success() {
            Ok(Self { dir })
        } else {
            Err(String::from_utf8_lossy(&mount.stderr).trim().to_owned())
        }
    }

    fn remount(&self, how: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(self.dir.path()).status();
        assert!(done.unwrap().success(), "remount {how}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

async fn fill(store: &dyn Store, k: &longhaul_model::RunKey, stream: StreamId, tail: &mut u64) -> CommitError {
    loop {
        match store.commit(numbered(k, stream, *tail, 20)).await {
            Ok(_) => *tail += 20,
            Err(error) => return error,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_reads_go_on_and_the_reserve_is_for_the_end() {
    let mount = match Mount::tmpfs("14m") {
        Ok(mount) => mount,
        Err(why) => return println!("not tested: no tmpfs can be mounted here: {why}"),
    };
    let dir = mount.dir.path().join("store");
    let fatal = harbour::Fatal::default();
    let told = Arc::clone(&fatal);
    let mut options = Options::new(&dir).on_fatal(move |why| told.lock().unwrap().push(why));
    options.ballast_bytes = 4 << 20;
    options.apply_after = Duration::from_millis(10);
    options.busy_after = Duration::from_millis(300);
    let store = EmbeddedStore::open(options).unwrap();
    let k = key("p", "r");
    let stream = store.commit(create(&k, 0)).await.unwrap().created.unwrap();
    let ending = key("p", "ending");
    let ended = store.commit(create(&ending, 0)).await.unwrap().created.unwrap();
    let plain = store.commit(named("p/plain", Form::Opaque, 5)).await.unwrap().created.unwrap();
    let mut tail = 0;
    let refused = fill(&store, &k, stream, &mut tail).await;
    assert!(matches!(refused, CommitError::Full), "{refused}");
    // A pipeline of appends is made up to one of them, and refused from there on: those behind it by its absence, if not
    // for want of room. A small one may find room where a large one did not.
    let tickets: Vec<_> =
        (5..15).map(|at| store.submit(to(plain, at, vec![blob(0, at + 1, Form::Opaque)])).unwrap()).collect();
    let (mut made, mut is_refused) = (5, false);
    for ticket in tickets {
        match ticket.await {
            Ok(_) => {
                assert!(!is_refused, "an append is made behind one that was refused");
                made += 1;
            }
            Err(error) => {
                assert!(matches!(error, CommitError::Full | CommitError::Conflict { .. }), "{error}");
                is_refused = true;
            }
        }
    }
    assert_eq!(store.head(plain).await.unwrap().tail, Seq::new(made));
    assert!(tail > 1000, "{tail}");
    // Reads go on, and a refusal has changed nothing.
    assert_eq!(store.head(stream).await.unwrap().tail, Seq::new(tail));
    assert_eq!(content(&store).await.unwrap().streams["p/r"].1.len() as u64, tail);
    // What the store moves about meanwhile may make room for a last few.
    until("nothing finds room any more", async || {
        let before = tail;
        assert!(matches!(fill(&store, &k, stream, &mut tail).await, CommitError::Full));
        before == tail
    })
    .await;
    // The end of a run finds room; an ordinary commit still does not.
    let mut last = finish(&ending, ended, 0);
    last.urgency = Urgency::Reserve;
    store.commit(last).await.unwrap();
    assert!(matches!(fill(&store, &k, stream, &mut tail).await, CommitError::Full));
    assert!(store.run(&ending).await.unwrap().unwrap().status.is_terminal());
    // Space returns: work goes on, and the ballast is there again.
    mount.remount("size=64m");
    until("commits are made again", async || match store.commit(numbered(&k, stream, tail, 1)).await {
        Ok(_) => {
            tail += 1;
            true
        }
        Err(error) => {
            assert!(matches!(error, CommitError::Full | CommitError::Busy), "{error}");
            false
        }
    })
    .await;
    until("all is applied", async || health(&store, "applied") == health(&store, "position")).await;
    until("the ballast is back", async || {
        std::fs::metadata(dir.join("ballast")).is_ok_and(|file| file.len() == 4 << 20)
    })
    .await;
    store.close().await.unwrap();
    assert_eq!(*fatal.lock().unwrap(), Vec::<String>::new());
    drop(store);
    assert_eq!(verify(&dir).unwrap().findings, []);
    let store = open(&dir);
    let all = content(&*store).await.unwrap();
    let expected: Vec<_> = (1..=tail).map(|seq| event(&k, seq, &format!("event {seq}"))).collect();
    assert!(all.streams["p/r"].1 == expected, "every acknowledged event, once");
    assert_eq!(all.streams["p/ending"].1.len(), 1);
    assert_eq!(all.plain["p/plain"].1, (1..=made).map(|at| blob(0, at, Form::Opaque)).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_on_a_full_disk_the_store_opens_when_there_is_room() {
    let mount = match Mount::tmpfs("10m") {
        Ok(mount) => mount,
        Err(why) => return println!("not tested: no tmpfs can be mounted here: {why}"),
    };
    let dir = mount.dir.path().join("store");
    let (mut options, fatal) = options(&dir);
    options.apply_after = Duration::from_millis(10);
    let store = EmbeddedStore::open(options).unwrap();
    let k = key("p", "r");
    let stream = store.commit(create(&k, 0)).await.unwrap().created.unwrap();
    let mut tail = 0;
    assert!(matches!(fill(&store, &k, stream, &mut tail).await, CommitError::Full | CommitError::Busy));
    drop(store);
    mount.remount("size=64m");
    let store = open(&dir);
    assert_eq!(content(&*store).await.unwrap().streams["p/r"].1.len() as u64, tail);
    store.commit(numbered(&k, stream, tail, 1)).await.unwrap();
    assert_eq!(*fatal.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_directory_is_named_and_can_be_read() {
    let mount = match Mount::tmpfs("32m") {
        Ok(mount) => mount,
        Err(why) => return println!("not tested: no tmpfs can be mounted here: {why}"),
    };
    let dir = mount.dir.path().join("store");
    let store = open(&dir);
    populate(&*store, 0, 5).await;
    let expected = content(&*store).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    mount.remount("ro");
    let (options, _) = options(&dir);
    let error = EmbeddedStore::open(options).err().expect("it cannot be written");
    assert!(matches!(&error, OpenError::ReadOnly { dir: named, .. } if *named == dir), "{error}");
    assert!(error.to_string().contains(dir.to_str().unwrap()));
    let reader = EmbeddedStore::open_read_only(&dir).unwrap();
    assert!(content(&reader).await.unwrap() == expected);
    drop(reader);
    assert!(verify(&dir).unwrap().is_sound());
}

/// Somebody holds the library's lock: commits go on to the bound of memory, then wait, then are refused; nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_applied_is_bounded_and_then_busy() {
    let dir = tempfile::tempdir().unwrap();
    let (mut options, fatal) = options(dir.path());
    options.unapplied_bytes_max = 200_000;
    options.busy_after = Duration::from_millis(100);
    let store = EmbeddedStore::open(options).unwrap();
    let k = key("p", "r");
    let stream = store.commit(create(&k, 0)).await.unwrap().created.unwrap();
    until("all is applied", async || health(&store, "applied") == health(&store, "position")).await;
    let other = rusqlite::Connection::open(dir.path().join("longhaul.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut tail = 0;
    assert_eq!(fill(&store, &k, stream, &mut tail).await, CommitError::Busy);
    assert!(health(&store, "unapplied_bytes") >= 200_000 && health(&store, "unapplied_bytes") < 300_000);
    assert_eq!(content(&store).await.unwrap().streams["p/r"].1.len() as u64, tail, "reads go on");
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    until("commits are made again", async || store.commit(numbered(&k, stream, tail, 1)).await.is_ok()).await;
    store.close().await.unwrap();
    drop(store);
    assert_eq!(*fatal.lock().unwrap(), Vec::<String>::new());
    assert_eq!(content(&*open(dir.path())).await.unwrap().streams["p/r"].1.len() as u64, tail + 1);
}

/// More writers than the queue has places: they wait, none is lost, all are made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_queue_makes_writers_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (mut options, _) = options(dir.path());
    options.queue_commits_max = 4;
    options.queue_bytes_max = 2_000;
    let store = Arc::new(EmbeddedStore::open(options).unwrap());
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..64 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for m in 0..10 {
                store.commit(create(&key("p", &format!("{n}-{m}")), 9)).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    assert_eq!(store.live_runs().await.unwrap().len(), 640);
}

/// A queue without room answers a pipeline `Busy` at once; what it had taken in is made, and the writer goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_busy_for_a_pipeline() {
    let dir = tempfile::tempdir().unwrap();
    let (mut options, fatal) = options(dir.path());
    options.queue_commits_max = 16;
    let store = EmbeddedStore::open(options).unwrap();
    let stream = opened(&store, Form::Opaque, 0).await;
    let (mut tail, mut busy, mut tickets) = (0, 0, Vec::new());
    while busy < 50 || tail < 2_000 {
        match store.submit(to(stream, tail, vec![message(tail + 1)])) {
            Ok(ticket) => {
                tickets.push(ticket);
                tail += 1;
                assert!(tail < 200_000, "the queue is never full");
            }
            Err(CommitError::Busy) => {
                busy += 1;
                for ticket in tickets.drain(..) {
                    ticket.await.unwrap();
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(read_all(&store, stream).await, (1..=tail).map(message).collect::<Vec<_>>());
    assert_eq!(*fatal.lock().unwrap(), Vec::<String>::new());
}
