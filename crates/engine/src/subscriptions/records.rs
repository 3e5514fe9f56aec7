//! What is stored of subscriptions.
//!
//! `sub`: `PROJECT/ID` → the head, or what is left of one that was deleted. `sub_link`: `UID/PATH` → a link. A link whose
//! head is not there is nobody's: heads are written after their links and removed before them.

use std::collections::HashSet;

use bytes::Bytes;
use longhaul_model::Timestamp;
use longhaul_model::stream::StreamPath;
use longhaul_model::stream::subscription::{Head, Stored, SubscriptionKey};
use longhaul_store::{Commit, CommitError, RecordKey, RecordWrite, Store, StoreError};
use serde::{Deserialize, Serialize};

pub(super) const HEAD: &str = "sub";
pub(super) const LINK: &str = "sub_link";

/// Records that are written or read at once.
pub(super) const PAGE: usize = 2_000;

/// Heads that are read at once: one may be 2 MiB.
pub(super) const HEADS_PAGE: usize = 64;

/// What is left of a subscription that was deleted: one of the same id goes on counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Gone {
    /// The last generation.
    pub(super) gone: u64,
    /// When it was deleted.
    pub(super) at: Timestamp,
}

/// What a head's record holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Record {
    /// What is left of one.
    Gone(Gone),
    /// One that is there.
    Head(Box<Head>),
}

fn damaged(kind: &str, id: &str, error: &serde_json::Error) -> StoreError {
    StoreError::Corrupt { place: format!("record {kind} {id}"), what: error.to_string() }
}

impl Record {
    pub(super) fn decode(id: &str, value: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(value).map_err(|error| damaged(HEAD, id, &error))
    }
}

pub(super) fn head_key(key: &SubscriptionKey) -> RecordKey {
    RecordKey::new(HEAD, key.to_string())
}

pub(super) fn link_key(uid: &str, path: &StreamPath) -> RecordKey {
    RecordKey::new(LINK, format!("{uid}/{path}"))
}

pub(super) fn put(key: RecordKey, value: &impl Serialize) -> RecordWrite {
    // Maps with texts as keys and no floats: it does not fail.
    let value = serde_json::to_vec(value).unwrap_or_default();
    RecordWrite { key, value: Some(Bytes::from(value)), only_new: false, stamp: false }
}

pub(super) fn remove(key: RecordKey) -> RecordWrite {
    RecordWrite { key, value: None, only_new: false, stamp: false }
}

/// Writes records, several commits of them if they are many.
pub(super) async fn write(store: &dyn Store, mut records: Vec<RecordWrite>) -> Result<(), CommitError> {
    while !records.is_empty() {
        let rest = records.split_off(records.len().min(PAGE));
        store.commit(Commit { records, ..Commit::default() }).await?;
        records = rest;
    }
    Ok(())
}

/// A subscription's links as they are stored.
pub(super) async fn links(store: &dyn Store, uid: &str) -> Result<Vec<(StreamPath, Stored)>, StoreError> {
    let prefix = format!("{uid}/");
    let mut links = Vec::new();
    let mut after = String::new();
    loop {
        let page = store.records_after(LINK, &prefix, &after, PAGE).await?;
        let full = page.len() == PAGE;
        for (key, value) in page {
            let stored = serde_json::from_slice(&value).map_err(|error| damaged(LINK, &key.id, &error))?;
            if let Some(path) = key.id.strip_prefix(&prefix).and_then(|path| StreamPath::parse(path).ok()) {
                links.push((path, stored));
            }
            after = key.id;
        }
        if !full {
            return Ok(links);
        }
    }
}

/// Removes the links of a subscription that was deleted.
pub(super) async fn forget(store: &dyn Store, uid: &str) -> Result<(), CommitError> {
    let links = links(store, uid).await.map_err(unavailable)?;
    write(store, links.iter().map(|(path, _)| remove(link_key(uid, path))).collect()).await
}

fn unavailable(error: StoreError) -> CommitError {
    match error {
        StoreError::Closed => CommitError::Closed,
        error => CommitError::Unknown(error.to_string()),
    }
}

/// Removes the links of subscriptions that are not there.
pub(super) async fn sweep(store: &dyn Store, is_there: impl Fn(&str) -> bool) -> Result<u64, CommitError> {
    let mut there = HashSet::new();
    let (mut after, mut removed) = (String::new(), 0);
    loop {
        let page = store.records_after(LINK, "", &after, PAGE).await.map_err(unavailable)?;
        let full = page.len() == PAGE;
        let mut records = Vec::new();
        for (key, _) in page {
            after.clone_from(&key.id);
            let uid = key.id.split('/').next().unwrap_or_default();
            // One that is new by now may not be known yet to whoever asked before.
            if !there.contains(uid) {
                if is_there(uid) {
                    there.insert(uid.to_owned());
                } else {
                    records.push(remove(key));
                }
            }
        }
        removed += records.len() as u64;
        write(store, records).await?;
        if !full {
            return Ok(removed);
        }
    }
}
