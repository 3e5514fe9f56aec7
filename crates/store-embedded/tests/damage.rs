//! Damage: files cut and flipped at many places. A store then gives exactly what was acknowledged, or an error that
//! names the place; never anything else, and never a panic.
//!
//! Three specimens: closed in order (no logs), left by a crash with all applied, left by a crash with nothing applied.
//! In these small specimens no single damage is let pass: even the loss of the last transaction of a log is found, by the
//! witness (journal) or by the trimmed journal (library). Not covered here: files above `CHECK_AT_OPEN_BYTES`, whose pages
//! are not all checked at open, so that a damaged index page can leave rows out of a list until `verify` is run; a witness
//! lost together with the journal's last transaction; an older `longhaul.db` put under a newer `longhaul.db-wal`.

mod harbour;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harbour::{Content, applied, content, copy, options, place, populate, quick_dir};
use longhaul_store::contract::fixture::Random;
use longhaul_store::{Store, StoreError};
use longhaul_store_embedded::{EmbeddedStore, Options, verify};

const PLACES: u64 = 220;
const SEED: u64 = 0x0064_616d_6167_6564;

struct Specimen {
    name: &'static str,
    dir: tempfile::TempDir,
    content: Content,
}

async fn specimen(name: &'static str, apply_after: Duration, close: bool) -> Specimen {
    let live = quick_dir();
    let dir = quick_dir();
    // A first life, closed in order, so that both databases hold something below their logs.
    let start = |apply_after| {
        let mut options = Options::new(live.path()).on_fatal(|why| panic!("{why}"));
        options.ballast_bytes = 0;
        options.apply_after = apply_after;
        EmbeddedStore::open(options).unwrap()
    };
    let store = start(Duration::ZERO);
    populate(&store, 0, 20).await;
    store.close().await.unwrap();
    drop(store);
    let store = start(apply_after);
    populate(&store, 20, 20).await;
    let seen = content(&store).await.unwrap();
    if close {
        store.close().await.unwrap();
    } else if apply_after.is_zero() {
        applied(&store).await;
    }
    // All is acknowledged and nothing is being written: what SIGKILL would leave now.
    copy(live.path(), dir.path());
    Specimen { name, dir, content: seen }
}

async fn specimens() -> Vec<Specimen> {
    vec![
        specimen("closed", Duration::ZERO, true).await,
        specimen("crashed, applied", Duration::ZERO, false).await,
        specimen("crashed, not applied", Duration::from_hours(1), false).await,
    ]
}

enum Outcome {
    Same,
    Named,
    Wrong(String),
}

/// Opens a damaged store and reads all of it, twice: what is let pass must stay right.
fn examine(dir: &Path, expected: &Content) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for turn in ["first", "second"] {
        let (options, fatal) = options(dir);
        let examined = std::panic::catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                let store = match EmbeddedStore::open(options) {
                    Ok(store) => store,
                    Err(error) => return Err(place(&error)),
                };
                let read = content(&store).await;
                let closed = store.close().await;
                match (read, closed) {
                    (Ok(read), Ok(())) => Ok(read),
                    (Err(StoreError::Corrupt { place, .. }), _) | (_, Err(StoreError::Corrupt { place, .. })) => {
                        Err(place)
                    }
                    (Err(other), _) | (_, Err(other)) => Err(other.to_string()),
                }
            })
        }));
        let fatal = fatal.lock().unwrap().join("; ");
        match examined {
            Err(_) => return Outcome::Wrong(format!("a panic ({turn} time)")),
            Ok(_) if fatal.contains("panicked") => return Outcome::Wrong(format!("{fatal} ({turn} time)")),
            Ok(_) if names_a_place(&fatal) => return Outcome::Named,
            Ok(Err(named)) if names_a_place(&named) => return Outcome::Named,
            Ok(Err(other)) => {
                return Outcome::Wrong(format!("an error without a place: {other} {fatal} ({turn} time)"));
            }
            Ok(Ok(read)) if read != *expected => return Outcome::Wrong(format!("other content ({turn} time)")),
            Ok(Ok(_)) => {}
        }
    }
    Outcome::Same
}

fn names_a_place(text: &str) -> bool {
    text.contains("journal.db") || text.contains("longhaul.db") || text.contains("tail")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| std::fs::metadata(path).unwrap().len() > 0);
    files.sort();
    files
}

/// Plants many damages in each file of each specimen.
async fn plant(kind: &str, damage: impl Fn(&mut Vec<u8>, u64, &mut Random)) {
    let mut random = Random::new(SEED);
    let mut wrong = Vec::new();
    for specimen in specimens().await {
        for file in files(specimen.dir.path()) {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            let sound = std::fs::read(&file).unwrap();
            let mut tally: BTreeMap<&str, u64> = BTreeMap::new();
            // The witness is 32 bytes.
            let places = if sound.len() < 100 { PLACES / 4 } else { PLACES };
            for turn in 0..places {
                let mut bytes = sound.clone();
                damage(&mut bytes, turn, &mut random);
                if bytes == sound {
                    continue;
                }
                let dir = quick_dir();
                copy(specimen.dir.path(), dir.path());
                std::fs::write(dir.path().join(&name), &bytes).unwrap();
                let path = dir.path().to_path_buf();
                let outcome = tokio::task::block_in_place(|| examine(&path, &specimen.content));
                let word = match outcome {
                    Outcome::Same => "same",
                    Outcome::Named => "named",
                    Outcome::Wrong(what) => {
                        let at = bytes.iter().zip(&sound).position(|(a, b)| a != b).unwrap_or(bytes.len());
                        wrong.push(format!("{}: {name} {kind} at {at}: {what}", specimen.name));
                        "wrong"
                    }
                };
                *tally.entry(word).or_default() += 1;
            }
            println!("{:22} {name:16} {kind:5} {tally:?}", specimen.name);
        }
    }
    assert!(wrong.is_empty(), "seed {SEED:#x}: {wrong:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_found_or_does_not_matter() {
    plant("flip", |bytes, _, random| {
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.below(8);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_file_is_found_or_does_not_matter() {
    plant("cut", |bytes, turn, random| {
        let len = bytes.len() as u64;
        // At random places, and all along the end, where a torn write would cut.
        let keep = if turn % 2 == 0 { random.below(len) } else { len - 1 - random.below(len.min(9000)) };
        bytes.truncate(keep as usize);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zeroed_block_is_found_or_does_not_matter() {
    plant("zero", |bytes, turn, random| {
        let block = [512, 4096][(turn % 2) as usize];
        let at = random.below(bytes.len() as u64) as usize / block * block;
        let end = (at + block).min(bytes.len());
        bytes[at..end].fill(0);
    })
    .await;
}

/// A transaction that was never acknowledged is torn at every frame: that is no damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_end_that_nobody_heard_of_is_accepted() {
    let specimen = specimen("crashed, not applied", Duration::from_hours(1), false).await;
    let wal = std::fs::read(specimen.dir.path().join("journal.db-wal")).unwrap();
    // One more commit, in a copy, whose witness is then put back: as if its answer had never come.
    let more = quick_dir();
    let tail = std::fs::read(specimen.dir.path().join("tail")).unwrap();
    for extra in [1, 500, 4096, 4096 + 24, 9000] {
        copy(specimen.dir.path(), more.path());
        let mut torn = wal.clone();
        // The beginning of a frame that carries the salts of the log, and then garbage.
        torn.extend_from_slice(&wal[32..56]);
        torn.resize(wal.len() + extra, 0xa5);
        std::fs::write(more.path().join("journal.db-wal"), &torn).unwrap();
        std::fs::write(more.path().join("tail"), &tail).unwrap();
        let outcome = tokio::task::block_in_place(|| examine(more.path(), &specimen.content));
        assert!(matches!(outcome, Outcome::Same), "{extra} bytes of a torn transaction");
        std::fs::remove_dir_all(more.path()).unwrap();
    }
}

/// The witness is what finds the loss of the last transactions: each is cut off in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_the_last_acknowledged_commit_is_named() {
    let specimen = specimen("crashed, not applied", Duration::from_hours(1), false).await;
    let wal = std::fs::read(specimen.dir.path().join("journal.db-wal")).unwrap();
    let frames = (wal.len() - 32) / (24 + 4096);
    let commits: Vec<_> = (1..=frames).filter(|n| wal[32 + (n - 1) * 4120 + 4..][..4] != [0; 4]).collect();
    assert!(commits.len() > 50);
    for end in commits.iter().rev().skip(1).take(20) {
        let dir = quick_dir();
        copy(specimen.dir.path(), dir.path());
        std::fs::write(dir.path().join("journal.db-wal"), &wal[..32 + end * 4120]).unwrap();
        let (options, _) = options(dir.path());
        let error = EmbeddedStore::open(options).err().expect("commits are missing");
        assert!(error.to_string().contains("acknowledged"), "{error}");
        let report = verify(dir.path()).unwrap();
        assert!(report.findings.iter().any(|f| f.what.contains("acknowledged")), "{report:?}");
    }
}

/// `verify` finds what was planted and names its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_finds_what_was_planted() {
    let specimen = specimen("closed", Duration::ZERO, true).await;
    let sound = verify(specimen.dir.path()).unwrap();
    assert!(sound.is_sound(), "{:?}", sound.findings);
    assert_eq!(sound.runs, specimen.content.rows.len() as u64);
    let streams = specimen.content.streams.values().chain(specimen.content.plain.values());
    assert_eq!(sound.events, streams.map(|(_, e)| e.len() as u64).sum::<u64>());
    assert_eq!(sound.streams, specimen.content.plain.len() as u64);
    assert_eq!(sound.records, (specimen.content.records.len() + specimen.content.plain.len()) as u64);
    let planted = [
        ("chunks", "UPDATE chunks SET body = replace(body, 'line', 'lime') WHERE id = 3"),
        ("streams", "DELETE FROM chunks WHERE id = (SELECT max(id) FROM chunks)"),
        ("chunks", "UPDATE chunks SET last_seq = last_seq + 1 WHERE id = 5"),
        ("streams", "UPDATE streams SET tail = tail + 1 WHERE stream = 5"),
        ("streams", "UPDATE streams SET cursor = x'00' WHERE stream = 5"),
        ("streams", "DELETE FROM streams WHERE stream = 5"),
        ("streams", "UPDATE streams SET earliest = earliest + 1 WHERE project IS NOT NULL AND earliest > 1"),
        ("streams", "UPDATE streams SET form = 1 - form WHERE project IS NOT NULL"),
        ("streams", "UPDATE streams SET project = 'q' WHERE project IS NOT NULL"),
        ("streams", "UPDATE streams SET project = NULL WHERE project IS NOT NULL"),
        ("chunks", "DELETE FROM streams WHERE stream = (SELECT max(stream) FROM streams WHERE project IS NOT NULL)"),
        ("meta", "DELETE FROM streams WHERE stream = (SELECT max(stream) FROM streams WHERE project IS NOT NULL)"),
        ("meta", "UPDATE meta SET plain = plain + 1"),
        ("chunks", "UPDATE chunks SET lengths = x'0101' WHERE lengths IS NOT NULL"),
        ("chunks", "UPDATE chunks SET lengths = NULL WHERE lengths IS NOT NULL"),
        ("runs", "UPDATE runs SET status = 'failed' WHERE stream = 5"),
        ("runs", "UPDATE runs SET doc = x'7b7d20' WHERE stream = 5"),
        ("streams", "DELETE FROM runs WHERE stream = 5"),
        ("tags", "DELETE FROM tags WHERE stream = 5"),
        ("tags", "INSERT INTO tags VALUES ('k', 'v', 5)"),
        ("records", "UPDATE records SET value = x'00' WHERE id = 'op-7'"),
        ("meta", "DELETE FROM records WHERE id = 'op-7'"),
        ("feed", "DELETE FROM feed WHERE position = 9"),
        ("feed", "UPDATE feed SET wire = NULL WHERE position = 9"),
        ("meta", "UPDATE meta SET applied = applied - 1"),
        ("sqlite_master", "CREATE TABLE foreign_table (x)"),
        ("sqlite_master", "DROP INDEX runs_digest"),
    ];
    for (place, sql) in planted {
        let dir = quick_dir();
        copy(specimen.dir.path(), dir.path());
        let conn = rusqlite::Connection::open(dir.path().join("longhaul.db")).unwrap();
        assert!(conn.execute(sql, []).is_ok(), "{sql}");
        drop(conn);
        let report = verify(dir.path()).unwrap();
        let found = report.findings.iter().any(|f| f.place.contains("longhaul.db") && f.place.contains(place));
        assert!(found, "{sql}: {:?}", report.findings);
    }
    let crashed = self::specimen("crashed, not applied", Duration::from_hours(1), false).await;
    assert!(verify(crashed.dir.path()).unwrap().is_sound());
    for sql in [
        "UPDATE journal SET body = zeroblob(length(body)) WHERE id = (SELECT max(id) - 3 FROM journal)",
        "DELETE FROM journal WHERE id = (SELECT max(id) - 3 FROM journal)",
        "DELETE FROM journal WHERE id = (SELECT max(id) FROM journal)",
    ] {
        let dir = quick_dir();
        copy(crashed.dir.path(), dir.path());
        let conn = rusqlite::Connection::open(dir.path().join("journal.db")).unwrap();
        conn.execute(sql, []).unwrap();
        drop(conn);
        let report = verify(dir.path()).unwrap();
        assert!(report.findings.iter().any(|f| f.place.contains("journal.db: journal")), "{sql}: {report:?}");
        let (options, _) = options(dir.path());
        assert!(EmbeddedStore::open(options).is_err(), "{sql}");
    }
}
