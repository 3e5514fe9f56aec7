//! Promises about records.

use super::Place;
use super::fixture::{must, put, record};
use crate::{CommitError, RecordKey, RecordWrite};

/// Put, replaced, deleted, put again; empty values are values.
pub async fn records_are_put_replaced_and_deleted(place: &dyn Place) {
    let mut store = place.open().await;
    let key = RecordKey::new("op", "a/b c\u{e9}");
    for round in 0..4 {
        assert_eq!(store.record(&key).await, Ok(None));
        for value in ["1", "", "22"] {
            must(&*store, put(vec![record("op", &key.id, Some(value))])).await;
            assert_eq!(store.record(&key).await.unwrap().as_deref(), Some(value.as_bytes()));
        }
        if round % 2 == 0 {
            store = place.reopen(store).await;
            assert_eq!(store.record(&key).await.unwrap().as_deref(), Some(&b"22"[..]));
        }
        assert_eq!(store.record(&RecordKey::new("other", key.id.clone())).await, Ok(None));
        must(&*store, put(vec![record("op", &key.id, None)])).await;
        assert_eq!(store.record(&key).await, Ok(None));
        // Deleting what is not there is no error.
        must(&*store, put(vec![record("op", &key.id, None)])).await;
        if round % 3 == 0 {
            store = place.reopen(store).await;
        }
    }
}

/// `only_new` refuses the whole commit with `Exists`.
pub async fn only_new_records_refuse_the_whole_commit(place: &dyn Place) {
    let store = place.open().await;
    let fresh = |id: &str| RecordWrite { only_new: true, ..record("op", id, Some("v")) };
    must(&*store, put(vec![fresh("a"), fresh("b")])).await;
    assert_eq!(store.commit(put(vec![fresh("c"), fresh("a")])).await, Err(CommitError::Exists));
    assert_eq!(store.record(&RecordKey::new("op", "c")).await, Ok(None));
    let store = place.reopen(store).await;
    assert_eq!(store.commit(put(vec![fresh("c"), fresh("a")])).await, Err(CommitError::Exists));
    must(&*store, put(vec![record("op", "a", None)])).await;
    must(&*store, put(vec![fresh("c"), fresh("a")])).await;
}

/// Lists by kind and prefix, in id order, bounded, with what was put and deleted a moment ago.
pub async fn records_list_by_prefix_in_order(place: &dyn Place) {
    let mut store = place.open().await;
    for n in (0..60).rev() {
        must(&*store, put(vec![record("op", &format!("p/{n:02}"), Some(&n.to_string()))])).await;
    }
    must(
        &*store,
        put(vec![record("op", "q/1", Some("q")), record("zz", "p/00", Some("z")), record("aa", "p/0", Some("a"))]),
    )
    .await;
    for round in 0..2 {
        if round == 1 {
            store = place.reopen(store).await;
        }
        must(&*store, put(vec![record("op", "p/05", None), record("op", "p/0500", Some("new"))])).await;
        let ids = |records: Vec<(RecordKey, bytes::Bytes)>| -> Vec<String> {
            records.into_iter().map(|(key, _)| key.id).collect()
        };
        let all = ids(store.records("op", "p/", 1000).await.unwrap());
        let mut expected: Vec<_> = (0..60).filter(|n| *n != 5).map(|n| format!("p/{n:02}")).collect();
        expected.push("p/0500".into());
        expected.sort();
        assert_eq!(all, expected);
        assert_eq!(ids(store.records("op", "p/0", 3).await.unwrap()), ["p/00", "p/01", "p/02"]);
        for (after, expected) in [
            ("", &["p/00", "p/01", "p/02"][..]),
            ("p/03", &["p/04", "p/0500", "p/06"]),
            ("p/05", &["p/0500", "p/06", "p/07"]),
            ("o", &["p/00", "p/01", "p/02"]),
            ("p/58", &["p/59"]),
            ("q", &[]),
        ] {
            assert_eq!(ids(store.records_after("op", "p/", after, 3).await.unwrap()), expected, "{after}");
        }
        assert_eq!(ids(store.records("op", "p/04", 3).await.unwrap()), ["p/04"]);
        assert_eq!(ids(store.records("op", "q", 3).await.unwrap()), ["q/1"]);
        assert_eq!(ids(store.records("op", "", 1000).await.unwrap()).len(), 61);
        assert_eq!(ids(store.records("op", "x", 3).await.unwrap()), [""; 0]);
        assert_eq!(ids(store.records("none", "", 3).await.unwrap()), [""; 0]);
        assert_eq!(ids(store.records("op", "p/", 0).await.unwrap()), [""; 0]);
    }
}
