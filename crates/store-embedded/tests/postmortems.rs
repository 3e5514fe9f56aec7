//! What a server of streams elsewhere lost or brought back, and told of afterwards: none of it happens here. The list is in
//! docs/streams.md; what other files show already is not shown again.
#![allow(missing_docs)]

mod harbour;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harbour::{Content, applied, blob, content, copy, health, named, open, options, populate, quick_dir, until};
use longhaul_model::{Seq, StreamId};
use longhaul_store::contract::fixture::to;
use longhaul_store::{CommitError, Form, Store};
use longhaul_store_embedded::{EmbeddedStore, Options, verify};

const WAL: &str = "journal.db-wal";

/// Header of the log, and of each frame; a page.
const HEADER: usize = 32;
const FRAME: usize = 24 + 4096;

/// A store of which nothing is applied by itself.
fn lazy(dir: &Path) -> EmbeddedStore {
    let mut options = Options::new(dir).on_fatal(|why| panic!("{why}"));
    options.ballast_bytes = 1 << 20;
    options.apply_after = Duration::from_hours(1);
    EmbeddedStore::open(options).unwrap()
}

async fn append(store: &EmbeddedStore, stream: StreamId, tail: u64, count: u64) {
    let events = (tail + 1..=tail + count).map(|at| blob(0, at, Form::Opaque)).collect();
    store.commit(to(stream, tail, events)).await.unwrap();
}

/// A journal that nobody writes any more is neither made anew nor made room in by a start, however many there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_journal_keeps_what_was_acknowledged_over_a_start() {
    let live = quick_dir();
    let store = lazy(live.path());
    populate(&store, 0, 12).await;
    let expected = content(&store).await.unwrap();
    assert!(health(&store, "applied") < health(&store, "position"), "it is in the journal alone");
    let mut dirs = vec![quick_dir()];
    copy(live.path(), dirs[0].path());
    for start in 1..6 {
        // Killed as soon as it is up, with nothing written and nothing applied.
        let store = lazy(dirs[start - 1].path());
        assert_eq!(content(&store).await.unwrap(), expected, "start {start}");
        dirs.push(quick_dir());
        copy(dirs[start - 1].path(), dirs[start].path());
    }
    let last = open(dirs[5].path());
    applied(&*last).await;
    assert_eq!(content(&*last).await.unwrap(), expected);
    last.close().await.unwrap();
    drop(last);
    assert_eq!(verify(dirs[5].path()).unwrap().findings, []);
}

/// Wherever a crash cuts the log behind what was acknowledged, a start finds nothing wrong, and a whole beginning of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_takes_the_log_of_a_crash_wherever_it_ends() {
    let live = quick_dir();
    let store = lazy(live.path());
    populate(&store, 0, 3).await;
    let stream = store.commit(named("p/quiet", Form::Opaque, 2)).await.unwrap().created.unwrap();
    let acknowledged = quick_dir();
    copy(live.path(), acknowledged.path());
    let mut states = vec![content(&store).await.unwrap()];
    for step in 0..8 {
        append(&store, stream, 2 + 3 * step, 3).await;
        states.push(content(&store).await.unwrap());
    }
    let whole = std::fs::read(live.path().join(WAL)).unwrap();
    let from = std::fs::metadata(acknowledged.path().join(WAL)).unwrap().len() as usize;
    let (mut seen, mut at) = (0, from);
    let places = (from..=whole.len()).step_by(FRAME / 2).chain([whole.len()]);
    for place in places {
        let dir = quick_dir();
        copy(acknowledged.path(), dir.path());
        std::fs::write(dir.path().join(WAL), &whole[..place]).unwrap();
        let store = lazy(dir.path());
        let found = content(&store).await.unwrap();
        let state = states.iter().position(|state| *state == found);
        let state = state.unwrap_or_else(|| panic!("cut at {place}: not what any commit left"));
        assert!(state >= seen, "cut at {place}, further than {at}: {state} commits are there, {seen} were");
        (seen, at) = (state, place);
        // And it goes on from there.
        append(&store, stream, 2 + 3 * state as u64, 1).await;
    }
    assert_eq!(seen, states.len() - 1);
}

/// What was being written when the power went is not shown, also where nobody writes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_end_is_not_shown_on_a_stream_that_stays_quiet() {
    let live = quick_dir();
    let store = lazy(live.path());
    populate(&store, 0, 3).await;
    let stream = store.commit(named("p/quiet", Form::Opaque, 5)).await.unwrap().created.unwrap();
    let before = quick_dir();
    copy(live.path(), before.path());
    let expected = content(&store).await.unwrap();
    // Larger than a page, so that it can be torn between pages.
    append(&store, stream, 5, 60).await;
    let whole = std::fs::read(live.path().join(WAL)).unwrap();
    let from = std::fs::metadata(before.path().join(WAL)).unwrap().len() as usize;
    let frames = (whole.len() - from) / FRAME;
    assert!(frames > 2 && (from - HEADER).is_multiple_of(FRAME), "{frames} frames");
    let mut torn: Vec<Vec<u8>> = (1..frames).map(|frame| whole[..from + frame * FRAME].to_vec()).collect();
    for frame in 0..frames {
        // Of full length, and one page never reached the disk.
        let (start, mut lost) = (from + frame * FRAME, whole.clone());
        lost[start + 24..start + FRAME].fill(0);
        torn.push(lost);
        torn.push(whole[..start + FRAME / 3].to_vec());
    }
    for (at, log) in torn.iter().enumerate() {
        let dir = quick_dir();
        copy(before.path(), dir.path());
        std::fs::write(dir.path().join(WAL), log).unwrap();
        for turn in 0..2 {
            let store = lazy(dir.path());
            assert_eq!(content(&store).await.unwrap(), expected, "torn {at}, start {turn}");
            assert_eq!(*store.watch(stream).await.unwrap().borrow(), Seq::new(5));
        }
    }
}

/// The library has no room: what was to be folded in is folded in later, by this server or by the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fold_that_failed_forgets_nothing() {
    for killed in [false, true] {
        let Some(mount) = Mount::tmpfs("24m") else { return };
        let dir = mount.0.path().join("store");
        let (mut options, fatal) = options(&dir);
        options.apply_after = Duration::from_hours(1);
        let store = EmbeddedStore::open(options).unwrap();
        populate(&store, 0, 6).await;
        let expected = content(&store).await.unwrap();
        let (before, filler) = (health(&store, "applied"), mount.0.path().join("filler"));
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
        // Has it folded in now, without waiting for that.
        assert!(tokio::time::timeout(Duration::ZERO, store.scrub()).await.is_err());
        until("a fold has failed", async || health(&store, "out_of_space") == 1).await;
        assert_eq!(health(&store, "applied"), before);
        assert_eq!(content(&store).await.unwrap(), expected);
        drop(file);
        if !killed {
            std::fs::remove_file(&filler).unwrap();
            applied(&store).await;
            assert_eq!(content(&store).await.unwrap(), expected);
            store.close().await.unwrap();
        }
        drop(store);
        let _ = std::fs::remove_file(&filler);
        assert_eq!(*fatal.lock().unwrap(), Vec::<String>::new());
        let again = open(&dir);
        applied(&*again).await;
        assert_eq!(content(&*again).await.unwrap(), expected, "killed: {killed}");
        again.close().await.unwrap();
        drop(again);
        assert_eq!(verify(&dir).unwrap().findings, []);
    }
}

/// A part of the store is not there when it starts: it is named, and when it is back all is as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_a_part_of_the_store_resets_nothing() {
    let live = quick_dir();
    let store = open(live.path());
    populate(&*store, 0, 3).await;
    store.close().await.unwrap();
    drop(store);
    let store = lazy(live.path());
    populate(&store, 3, 3).await;
    let expected = content(&store).await.unwrap();
    let crashed = quick_dir();
    copy(live.path(), crashed.path());
    let bytes = |dir: &Path| -> BTreeMap<String, Vec<u8>> {
        std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap()))
            .collect()
    };
    for part in [&["longhaul.db", "longhaul.db-wal"][..], &["journal.db", WAL]] {
        let (dir, away) = (quick_dir(), quick_dir());
        copy(crashed.path(), dir.path());
        for file in part {
            let (from, to) = (dir.path().join(file), away.path().join(file));
            std::fs::copy(&from, to).and_then(|_| std::fs::remove_file(&from)).unwrap();
        }
        let left = bytes(dir.path());
        for _ in 0..2 {
            let (options, _) = options(dir.path());
            let error = EmbeddedStore::open(options).err().expect("a part is missing").to_string();
            assert!(error.contains(part[0]) && error.contains("missing"), "{error}");
            assert!(bytes(dir.path()) == left, "{part:?}: nothing is written");
        }
        copy(away.path(), dir.path());
        let store = open(dir.path());
        assert_eq!(content(&*store).await.unwrap(), expected, "{part:?}");
    }
}

/// A small file system of its own, that goes with this value.
struct Mount(tempfile::TempDir);

impl Mount {
    fn tmpfs(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={size}");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "longhaul-test"]).arg(dir.path()).output();
        if done.as_ref().is_ok_and(|done| done.status.success()) {
            return Some(Self(dir));
        }
        println!("not tested: no tmpfs can be mounted here: {done:?}");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// What was answered with a refusal is not there after a crash, at its place stands what was acknowledged later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_does_not_come_back_after_a_crash() {
    let Some(mount) = Mount::tmpfs("32m") else { return };
    let dir = mount.0.path().join("store");
    let (mut options, fatal) = options(&dir);
    options.apply_after = Duration::from_hours(1);
    let store = EmbeddedStore::open(options).unwrap();
    let stream = store.commit(named("p/quiet", Form::Opaque, 2)).await.unwrap().created.unwrap();
    let message = |mark: u8, at: u64| [&vec![mark; 50_000][..], &at.to_be_bytes()].concat();
    let (mut tail, mut kept) = (2, Vec::new());
    let filler = mount.0.path().join("filler");
    std::fs::write(&filler, vec![0; 20 << 20]).unwrap();
    for round in 0..3 {
        let refused = loop {
            let events = vec![message(b'a', tail).into(), message(b'b', tail).into()];
            match store.commit(to(stream, tail, events.clone())).await {
                Ok(_) => kept.extend(events),
                Err(error) => break error,
            }
            tail += 2;
        };
        assert!(matches!(refused, CommitError::Full), "{refused}");
        // Some more of them, together; smaller, so that the first may find room after all.
        let tickets: Vec<_> =
            (0..5).map(|n| (n, store.submit(to(stream, tail + n, vec![message(b'c', n).into()])).unwrap())).collect();
        let mut is_refused = false;
        for (n, ticket) in tickets {
            match ticket.await {
                Ok(_) => {
                    assert!(!is_refused, "one is made behind one that was refused");
                    kept.push(message(b'c', n).into());
                    tail += 1;
                }
                Err(_) => is_refused = true,
            }
        }
        if round == 0 {
            std::fs::remove_file(&filler).unwrap();
            let small = vec![bytes::Bytes::from_static(b"there is room again")];
            until("there is room again", async || store.commit(to(stream, tail, small.clone())).await.is_ok()).await;
            (tail, kept) = (tail + 1, [kept, small].concat());
        }
    }
    drop(store);
    let remount = Command::new("mount").args(["-o", "remount,size=64m"]).arg(mount.0.path()).status();
    assert!(remount.unwrap().success());
    for _ in 0..2 {
        let store = open(&dir);
        let Content { plain, .. } = content(&*store).await.unwrap();
        let (head, events) = &plain["p/quiet"];
        assert_eq!(head.tail, Seq::new(tail));
        assert!(events[2..] == kept, "what was acknowledged, and nothing else");
    }
    assert_eq!(*fatal.lock().unwrap(), Vec::<String>::new());
}
