//! The store under test against the memory store, over random histories from fixed seeds.

use std::collections::BTreeMap;

use bytes::Bytes;
use longhaul_model::{Epoch, ProjectId, RunKey, Seq, Status, StreamId};

use super::Place;
use super::fixture::{Random, events, key, message, open, project, read_all, read_span, record, row, to, write};
use crate::{
    Commit, FeedPage, Form, MemoryStore, NewRun, ReadLimit, RecordKey, RecordWrite, RunFilter, RunRow, Store,
    StoreError,
};

const SEED: u64 = 0x10_46_48_41_55_4c;
const STEPS: usize = 1_500;

/// One random history: a run that both stores know, each by its own stream id.
struct Pair {
    key: RunKey,
    tested: StreamId,
    reference: StreamId,
}

/// The same of a plain stream.
struct PlainPair {
    form: Form,
    tested: StreamId,
    reference: StreamId,
}

struct Histories {
    random: Random,
    pairs: Vec<Pair>,
    plain: Vec<PlainPair>,
}

/// What a commit makes.
enum Made {
    Run(RunKey),
    Plain(Form),
}

/// A long random history gives the same answers as the memory store, step by step, across reopenings.
pub async fn it_does_what_the_reference_does(place: &dyn Place) {
    let mut tested = place.open().await;
    let reference = MemoryStore::new();
    let mut h = Histories { random: Random::new(SEED), pairs: Vec::new(), plain: Vec::new() };
    for step in 0..STEPS {
        let (commit, mirrored, created) = h.commit(&reference).await;
        let (left, right) = (tested.commit(commit).await, reference.commit(mirrored).await);
        match (&left, &right) {
            (Ok(left), Ok(right)) => {
                assert_eq!(left.created.is_some(), right.created.is_some());
                if let (Some(made), Some(tested), Some(reference)) = (created, left.created, right.created) {
                    match made {
                        Made::Run(key) => h.pairs.push(Pair { key, tested, reference }),
                        Made::Plain(form) => h.plain.push(PlainPair { form, tested, reference }),
                    }
                }
            }
            _ => assert_eq!(left.err(), right.err(), "seed {SEED:#x}, step {step}"),
        }
        if h.random.once_in(7) {
            h.compare_one(&*tested, &reference, step).await;
            h.compare_one_plain(&*tested, &reference, step).await;
        }
        if h.random.once_in(150) {
            tested = place.reopen(tested).await;
        }
        if h.random.once_in(150) {
            h.compare_all(&*tested, &reference, step).await;
        }
    }
    h.compare_all(&*tested, &reference, STEPS).await;
    let tested = place.reopen(tested).await;
    h.compare_all(&*tested, &reference, STEPS).await;
}

impl Histories {
    /// A commit for both stores, and what it makes.
    async fn commit(&mut self, reference: &MemoryStore) -> (Commit, Commit, Option<Made>) {
        let mut commit = Commit::default();
        let mut mirrored = Commit::default();
        let r = &mut self.random;
        if r.once_in(5) {
            let made = key(r.pick::<&str>(&["p", "q"]), &format!("r{}", r.below(40)));
            let count = r.below(4);
            let mut row = row(&made);
            row.status = *r.pick(&Status::ALL);
            row.tags = BTreeMap::from([("t".into(), r.below(3).to_string())]);
            row.digest = format!("d{}", r.below(4));
            let feed = (0..count as usize).filter(|_| r.once_in(2)).collect();
            let new = NewRun { row, epoch: Epoch::new(r.below(3)), events: events(&made, 1, count), feed };
            commit.create = Some(new.clone());
            mirrored.create = Some(new);
        }
        for _ in 0..r.below(3) {
            if self.pairs.is_empty() {
                break;
            }
            let pair = r.pick(&self.pairs);
            let head = reference.head(pair.reference).await;
            let (tail, epoch) = head.map_or((0, 0), |head| (head.tail.get(), head.epoch.get()));
            let after = if r.once_in(12) { r.below(9) } else { tail };
            let mut w = write(&pair.key, pair.tested, after, r.below(5));
            w.epoch = Epoch::new(if r.once_in(12) { r.below(4) } else { epoch + r.below(2) / 2 });
            w.feed = (0..w.events.len()).filter(|_| r.once_in(4)).collect();
            w.cursor = r.once_in(3).then(|| Bytes::from(r.number().to_string()));
            if r.once_in(3) {
                let mut row = row(&pair.key);
                row.status = if r.once_in(8) { Status::Failed } else { Status::Running };
                row.doc = Bytes::from(r.number().to_string());
                row.tags = BTreeMap::from([("t".into(), r.below(3).to_string())]);
                w.row = Some(row);
            }
            let mut m = w.clone();
            m.stream = pair.reference;
            for (write, stream) in [(&mut w, pair.tested), (&mut m, pair.reference)] {
                if let Some(row) = &mut write.row {
                    row.stream = stream;
                }
            }
            commit.streams.push(w);
            mirrored.streams.push(m);
        }
        for _ in 0..r.below(3) {
            let value = (!r.once_in(3)).then(|| r.number().to_string());
            let mut w = record(r.pick::<&str>(&["a", "b"]), &format!("{}", r.below(30)), value.as_deref());
            w.only_new = r.once_in(6);
            commit.records.push(w.clone());
            mirrored.records.push(w);
        }
        if r.once_in(25) {
            let erased = key(r.pick::<&str>(&["p", "q"]), &format!("r{}", r.below(40)));
            commit.erase = Some(erased.clone());
            mirrored.erase = Some(erased);
        }
        self.plain_commit(reference, &mut commit, &mut mirrored).await;
        let created = commit.create.as_ref().map(|new| Made::Run(new.row.key.clone()));
        let opened = commit.open.as_ref().map(|new| Made::Plain(new.form));
        (commit, mirrored, created.or(opened))
    }

    /// Adds what plain streams do; sometimes what is refused.
    async fn plain_commit(&mut self, reference: &MemoryStore, commit: &mut Commit, mirrored: &mut Commit) {
        let r = &mut self.random;
        if r.once_in(8) {
            let form = *r.pick(&[Form::Lines, Form::Opaque]);
            let mut new = open(form, r.below(4)).open;
            if let Some(new) = &mut new {
                new.cursor = r.once_in(2).then(|| Bytes::from_static(b"made"));
            }
            // Its id differs between the two, so the record is only looked at for being there.
            let id = format!("{}", r.below(30));
            let stamped = RecordWrite { stamp: true, only_new: r.once_in(2), ..record("s", &id, Some("v")) };
            for one in [&mut *commit, mirrored] {
                one.open.clone_from(&new);
                one.records.push(stamped.clone());
            }
        }
        for _ in 0..r.below(3) {
            let Some(pair) = (!self.plain.is_empty()).then(|| r.pick(&self.plain)) else { break };
            let head = reference.head(pair.reference).await;
            let (tail, epoch) = head.map_or((0, 0), |head| (head.tail.get(), head.epoch.get()));
            let after = if r.once_in(12) { r.below(9) } else { tail };
            let count = r.below(6);
            let mut events: Vec<_> = (after + 1..=after + count).map(message).collect();
            if r.once_in(6) {
                events.push(Bytes::from_static(b"\n\0a\n"));
            }
            let mut write = to(pair.tested, after, events).streams.remove(0);
            write.epoch = Epoch::new(epoch + r.below(2) / 2);
            if r.once_in(30) {
                write.project = project("q");
            }
            write.cursor = r.once_in(3).then(|| Bytes::from(r.number().to_string()));
            write.keep_after = r.once_in(4).then(|| Seq::new((after + count).saturating_sub(r.below(8))));
            let mirror = crate::StreamWrite { stream: pair.reference, ..write.clone() };
            commit.streams.push(write);
            mirrored.streams.push(mirror);
        }
        if r.once_in(20) && !self.plain.is_empty() {
            let pair = r.pick(&self.plain);
            commit.drop.push(pair.tested);
            mirrored.drop.push(pair.reference);
        }
    }

    async fn compare_one_plain(&mut self, tested: &dyn Store, reference: &MemoryStore, step: usize) {
        if self.plain.is_empty() {
            return;
        }
        let label = format!("seed {SEED:#x}, step {step}");
        let pair = self.random.pick(&self.plain);
        let after = Seq::new(self.random.below(20));
        let limit = ReadLimit { events_max: self.random.below(6) as usize, bytes_max: 1 << 20 };
        let (left, right) =
            (tested.read(pair.tested, after, limit).await, reference.read(pair.reference, after, limit).await);
        match (left, right) {
            (Ok(left), Ok(right)) => {
                assert_eq!((left.earliest, left.tail), (right.earliest, right.tail), "{label}");
                assert_eq!(left.events.is_empty(), right.events.is_empty(), "{label}");
                assert_eq!(left.events, right.events[..left.events.len()], "{label}");
            }
            (left, right) => assert_eq!(left, right, "{label}"),
        }
        assert_eq!(tested.head(pair.tested).await, reference.head(pair.reference).await, "{label}");
        let id = RecordKey::new("s", self.random.below(30).to_string());
        let (left, right) = (tested.record(&id).await.unwrap(), reference.record(&id).await.unwrap());
        assert_eq!(left.map(|value| value.slice(8..)), right.map(|value| value.slice(8..)), "{label}");
    }

    async fn compare_all_plain(&self, tested: &dyn Store, reference: &MemoryStore, label: &str) {
        for PlainPair { form, tested: t, reference: r } in &self.plain {
            let head = reference.head(*r).await;
            assert_eq!(tested.head(*t).await, head, "{label}");
            if let Ok(head) = head {
                let after = head.earliest.get() - 1;
                let right = read_span(reference, *r, *form, after, 1 << 20).await;
                assert_eq!(read_span(tested, *t, *form, after, 700).await, right, "{label}");
            }
        }
    }

    async fn compare_one(&mut self, tested: &dyn Store, reference: &MemoryStore, step: usize) {
        if self.pairs.is_empty() {
            return;
        }
        let pair = self.random.pick(&self.pairs);
        let after = Seq::new(self.random.below(12));
        let limit = ReadLimit { events_max: self.random.below(6) as usize, bytes_max: 1 << 20 };
        let (left, right) =
            (tested.read(pair.tested, after, limit).await, reference.read(pair.reference, after, limit).await);
        match (left, right) {
            // A page may end before its limit, where a store goes from one place to another, but it gets further.
            (Ok(left), Ok(right)) => {
                assert_eq!((left.earliest, left.tail), (right.earliest, right.tail));
                assert_eq!(left.events.is_empty(), right.events.is_empty());
                assert_eq!(left.events, right.events[..left.events.len()], "seed {SEED:#x}, step {step}");
            }
            (left, right) => assert_eq!(left, right, "seed {SEED:#x}, step {step}, run {}", pair.key),
        }
        assert_eq!(tested.head(pair.tested).await, reference.head(pair.reference).await);
        let run = tested.run(&pair.key).await.map(|row| row.map(|row| self.as_reference(row)));
        assert_eq!(run, reference.run(&pair.key).await);
        let id = RecordKey::new("a", self.random.below(30).to_string());
        assert_eq!(tested.record(&id).await, reference.record(&id).await);
    }

    async fn compare_all(&mut self, tested: &dyn Store, reference: &MemoryStore, step: usize) {
        let label = format!("seed {SEED:#x}, step {step}");
        let pick = |r: &mut Random| RunFilter {
            project: if r.once_in(2) { None } else { ProjectId::parse("p").ok() },
            statuses: if r.once_in(2) { vec![] } else { vec![Status::Running, Status::Queued] },
            digest: r.once_in(3).then(|| format!("d{}", r.below(4))),
            tags: if r.once_in(2) { vec![] } else { vec![("t".into(), r.below(3).to_string())] },
            limit: 1 + r.below(60) as usize,
            ..RunFilter::default()
        };
        for _ in 0..6 {
            let filter = pick(&mut self.random);
            let left = tested.runs(filter.clone()).await.unwrap();
            let right = reference.runs(filter.clone()).await.unwrap();
            let rows: Vec<_> = left.rows.into_iter().map(|row| self.as_reference(row)).collect();
            assert_eq!((rows, left.more), (right.rows, right.more), "{label}, {filter:?}");
        }
        let live = tested.live_runs().await.unwrap();
        let live: Vec<_> = live.into_iter().map(|row| self.as_reference(row)).collect();
        assert_eq!(live, reference.live_runs().await.unwrap(), "{label}");
        for kind in ["a", "b"] {
            for (prefix, limit) in [("", 100), ("1", 5), ("2", 100)] {
                let left = tested.records(kind, prefix, limit).await;
                assert_eq!(left, reference.records(kind, prefix, limit).await, "{label}");
            }
        }
        for pair in &self.pairs {
            let right = reference.read(pair.reference, Seq::ZERO, ReadLimit::default()).await;
            if right == Err(StoreError::NotFound) {
                let left = tested.read(pair.tested, Seq::ZERO, ReadLimit::default()).await;
                assert_eq!(left, right, "{label}, run {}", pair.key);
            } else {
                let right = read_all(reference, pair.reference).await;
                assert_eq!(read_all(tested, pair.tested).await, right, "{label}, run {}", pair.key);
            }
        }
        self.compare_all_plain(tested, reference, &label).await;
        for project in [None, ProjectId::parse("q").ok()] {
            let (left, right) = (feed(tested, project.as_ref()).await, feed(reference, project.as_ref()).await);
            assert_eq!(left, right, "{label}");
        }
    }

    /// A row of the tested store with the stream id that the reference gave.
    fn as_reference(&self, row: RunRow) -> RunRow {
        let stream = self.pairs.iter().find(|pair| pair.tested == row.stream).map(|pair| pair.reference);
        RunRow { stream: stream.unwrap_or(row.stream), ..row }
    }
}

/// The whole feed; pages may be cut differently.
async fn feed(store: &dyn Store, project: Option<&ProjectId>) -> (Seq, Vec<crate::FeedEntry>) {
    let (mut entries, mut after) = (Vec::new(), Seq::ZERO);
    loop {
        let page: FeedPage = store.feed(after, project, ReadLimit::default()).await.unwrap();
        entries.extend(page.entries);
        after = page.upto;
        if after == page.tail {
            return (page.tail, entries);
        }
    }
}
