//! Files that are missing, foreign, older, newer, or already open.

mod harbour;

use std::path::Path;
use std::time::Duration;

use harbour::{content, copy, numbered, open, options, populate, populate_runs, quick_dir};
use longhaul_store::contract::fixture::key;
use longhaul_store::{Commit, CommitError, Store};
use longhaul_store_embedded::{EmbeddedStore, OpenError, Options, can_open, copy_closed, renew, verify};

fn fails(dir: &Path) -> OpenError {
    let (options, _) = options(dir);
    EmbeddedStore::open(options).err().expect("the store does not open")
}

fn corrupt_at(error: &OpenError, file: &str) -> bool {
    matches!(error, OpenError::Corrupt { place, .. } if place.starts_with(file))
}

async fn closed(from: u64, count: u64) -> tempfile::TempDir {
    let dir = quick_dir();
    let store = open(dir.path());
    populate(&*store, from, count).await;
    store.close().await.unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_file_is_named() {
    let dir = closed(0, 5).await;
    for (file, other) in [("journal.db", "longhaul.db"), ("longhaul.db", "journal.db")] {
        let damaged = quick_dir();
        copy(dir.path(), damaged.path());
        std::fs::remove_file(damaged.path().join(file)).unwrap();
        let error = fails(damaged.path());
        assert!(corrupt_at(&error, file), "{error}");
        assert!(verify(damaged.path()).unwrap().findings.iter().any(|f| f.place == file));
        // Without the witness as well.
        std::fs::remove_file(damaged.path().join("tail")).unwrap();
        assert!(corrupt_at(&fails(damaged.path()), file));
        assert!(damaged.path().join(other).exists() && !damaged.path().join(file).exists(), "nothing is made");
    }
    let damaged = quick_dir();
    copy(dir.path(), damaged.path());
    std::fs::remove_file(damaged.path().join("journal.db")).unwrap();
    std::fs::remove_file(damaged.path().join("longhaul.db")).unwrap();
    assert!(corrupt_at(&fails(damaged.path()), "longhaul.db"));
    // The witness alone may go: it is written anew.
    let damaged = quick_dir();
    copy(dir.path(), damaged.path());
    std::fs::remove_file(damaged.path().join("tail")).unwrap();
    drop(open(damaged.path()));
    assert!(damaged.path().join("tail").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_file_is_named() {
    let (ours, theirs) = (closed(0, 5).await, closed(0, 5).await);
    for file in ["journal.db", "longhaul.db", "tail"] {
        let mixed = quick_dir();
        copy(ours.path(), mixed.path());
        std::fs::copy(theirs.path().join(file), mixed.path().join(file)).unwrap();
        let error = fails(mixed.path());
        assert!(matches!(&error, OpenError::Corrupt { what, .. } if what.contains("of store")), "{file}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_file_is_named() {
    let dir = closed(0, 5).await;
    let old = quick_dir();
    copy(dir.path(), old.path());
    let store = open(dir.path());
    populate(&*store, 5, 5).await;
    store.close().await.unwrap();
    drop(store);
    for files in [&["journal.db"][..], &["longhaul.db"], &["longhaul.db", "journal.db"]] {
        let mixed = quick_dir();
        copy(dir.path(), mixed.path());
        for file in files {
            std::fs::copy(old.path().join(file), mixed.path().join(file)).unwrap();
        }
        let error = fails(mixed.path());
        assert!(matches!(error, OpenError::Corrupt { .. }), "{files:?}: {error}");
    }
    // All of the old ones together are an older store, whole.
    drop(open(old.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_while_the_store_is_made_is_finished() {
    let dir = quick_dir();
    drop(open(dir.path()));
    for gone in [&["tail", "journal.db"][..], &["tail"]] {
        let half = quick_dir();
        copy(dir.path(), half.path());
        for file in gone {
            std::fs::remove_file(half.path().join(file)).unwrap();
        }
        // What a half-made file leaves is in nobody's way.
        std::fs::write(half.path().join("journal.db.new"), b"half").unwrap();
        let store = open(half.path());
        populate(&*store, 0, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_version_is_refused_with_both_numbers() {
    let dir = closed(0, 2).await;
    for file in ["longhaul.db", "journal.db"] {
        let newer = quick_dir();
        copy(dir.path(), newer.path());
        let conn = rusqlite::Connection::open(newer.path().join(file)).unwrap();
        conn.execute("UPDATE meta SET schema_version = 7", []).unwrap();
        conn.close().unwrap();
        let error = fails(newer.path());
        let known = if file == "longhaul.db" { 2 } else { 1 };
        assert_eq!(error, OpenError::Newer { place: file.into(), found: 7, known });
        assert!(error.to_string().contains('7') && error.to_string().contains(&known.to_string()));
    }
}

/// `stores/v1` was written by the release before plain streams: some of it applied, some in the journal alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_version_1_is_opened_and_goes_on() {
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores/v1");
    // The same life, lived today.
    let today = quick_dir();
    let store = open(today.path());
    populate_runs(&*store, 0, 8).await;
    let k = key("q", "run-1");
    let stream = store.run(&k).await.unwrap().unwrap().stream;
    for _ in 0..3 {
        let tail = store.head(stream).await.unwrap().tail;
        store.commit(numbered(&k, stream, tail.get(), 1)).await.unwrap();
    }
    let expected = content(&*store).await.unwrap();
    drop(store);
    let dir = quick_dir();
    copy(&old, dir.path());
    can_open(dir.path()).unwrap();
    // For those who only read it, it stays as it is.
    assert_eq!(verify(dir.path()).unwrap().findings, []);
    let reader = EmbeddedStore::open_read_only(dir.path()).unwrap();
    assert_eq!(content(&reader).await.unwrap(), expected);
    drop(reader);
    assert!(std::fs::read(old.join("longhaul.db")).unwrap() == std::fs::read(dir.path().join("longhaul.db")).unwrap());
    for turn in 0..3 {
        let store = open(dir.path());
        if turn == 0 {
            assert_eq!(content(&*store).await.unwrap(), expected);
            populate(&*store, 100, 12).await;
        }
        let tail = store.head(stream).await.unwrap().tail;
        store.commit(numbered(&k, stream, tail.get(), 2)).await.unwrap();
        let all = content(&*store).await.unwrap();
        assert_eq!((all.plain.len(), all.rows.len()), (5, expected.rows.len() + 11));
        if turn == 1 {
            // Dropped, then closed: opened from the journal, then from the library.
            store.close().await.unwrap();
        }
        drop(store);
        assert_eq!(verify(dir.path()).unwrap().findings, []);
        assert_eq!(content(&EmbeddedStore::open_read_only(dir.path()).unwrap()).await.unwrap(), all);
    }
    // A copy of an old one is a new one.
    let copied = quick_dir();
    copy_closed(&old, copied.path()).unwrap();
    assert_eq!(content(&*open(copied.path())).await.unwrap(), expected);
}

/// A copy while commits go on, and one that is made another store, hold plain streams as the original does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_holds_plain_streams_too() {
    let (live, copied) = (quick_dir(), quick_dir());
    let store = open(live.path());
    populate(&*store, 0, 12).await;
    let expected = content(&*store).await.unwrap();
    assert!(expected.plain.values().any(|(head, _)| head.earliest.get() > 1));
    let cut = store.copy_to(copied.path()).await.unwrap();
    populate(&*store, 12, 3).await;
    let renewed = renew(copied.path()).unwrap();
    assert!(renewed.store != cut.store && renewed.streams_made == cut.streams_made);
    assert_eq!(verify(copied.path()).unwrap().streams, expected.plain.len() as u64);
    let other = open(copied.path());
    assert_eq!(content(&*other).await.unwrap(), expected);
    populate(&*other, 12, 3).await;
    assert_eq!(content(&*other).await.unwrap(), content(&*store).await.unwrap());
}

/// What is durable when a copy is asked for is in it, although it would be applied a second later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_waits_for_what_is_not_applied() {
    let (live, copied) = (quick_dir(), quick_dir());
    let (mut options, _) = options(live.path());
    options.apply_after = Duration::from_secs(1);
    let store = EmbeddedStore::open(options).unwrap();
    populate(&store, 0, 200).await;
    let expected = content(&store).await.unwrap();
    store.copy_to(copied.path()).await.unwrap();
    renew(copied.path()).unwrap();
    assert!(content(&*open(copied.path())).await.unwrap() == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_opens_once_in_a_process() {
    let dir = quick_dir();
    let store = open(dir.path());
    assert!(matches!(fails(dir.path()), OpenError::AlreadyOpen { .. }));
    assert!(matches!(EmbeddedStore::open_read_only(dir.path()).err(), Some(OpenError::AlreadyOpen { .. })));
    store.close().await.unwrap();
    // Closed is enough; nobody need drop it.
    let again = open(dir.path());
    drop(again);
    drop(store);
    drop(open(dir.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_alone_changes_nothing() {
    assert!(matches!(EmbeddedStore::open_read_only(quick_dir().path()).err(), Some(OpenError::Absent { .. })));
    for apply_after in [Duration::ZERO, Duration::from_hours(1)] {
        for close in [true, false] {
            let live = quick_dir();
            let (mut options, _) = options(live.path());
            options.apply_after = apply_after;
            let store = EmbeddedStore::open(options).unwrap();
            populate(&store, 0, 12).await;
            let expected = content(&store).await.unwrap();
            if close {
                store.close().await.unwrap();
            }
            let dir = quick_dir();
            copy(live.path(), dir.path());
            let bytes = || -> Vec<_> {
                ["journal.db", "journal.db-wal", "longhaul.db", "longhaul.db-wal", "tail"]
                    .map(|file| std::fs::read(dir.path().join(file)).ok())
                    .into()
            };
            let before = bytes();
            let reader = EmbeddedStore::open_read_only(dir.path()).unwrap();
            assert!(content(&reader).await.unwrap() == expected);
            assert!(matches!(reader.commit(Commit::default()).await, Err(CommitError::Invalid(_))));
            reader.close().await.unwrap();
            assert!(bytes() == before, "closed {close}, applied after {apply_after:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_garbage_is_named() {
    let dir = closed(0, 2).await;
    for file in ["longhaul.db", "journal.db"] {
        for garbage in [&b""[..], b"garbage", &[0; 8192], &[0xff; 10_000]] {
            let damaged = quick_dir();
            copy(dir.path(), damaged.path());
            std::fs::write(damaged.path().join(file), garbage).unwrap();
            assert!(corrupt_at(&fails(damaged.path()), file));
            assert!(!verify(damaged.path()).unwrap().is_sound());
        }
    }
    let file = quick_dir();
    std::fs::write(file.path().join("not-a-directory"), b"").unwrap();
    let inside = Options::new(file.path().join("not-a-directory"));
    assert!(matches!(EmbeddedStore::open(inside).err(), Some(OpenError::Io { .. })));
}
