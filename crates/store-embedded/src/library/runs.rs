//! The rows of runs.
//!
//! Job: put, erase, find and list rows, with the tags beside them. Owns: tables `runs` and `tags`. Never: sees a log.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use longhaul_model::{ProjectId, RunId, RunKey, Seq, Status, StreamId, Timestamp, limits};
use longhaul_store::{RunFilter, RunPage, RunRow};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::{Meta, hash};
use crate::entry::encode_row;
use crate::error::{At, Fault, Result};

pub(crate) const TABLE: &str = "CREATE TABLE runs (stream INTEGER PRIMARY KEY, project TEXT NOT NULL, run TEXT NOT NULL, status TEXT NOT NULL, live INTEGER NOT NULL, harness TEXT NOT NULL, digest TEXT NOT NULL, tags TEXT NOT NULL, created_at INTEGER NOT NULL, ended_at INTEGER, last_seq INTEGER NOT NULL, key_hash INTEGER NOT NULL, crc INTEGER NOT NULL, doc BLOB NOT NULL)";
pub(crate) const BY_KEY: &str = "CREATE UNIQUE INDEX runs_key ON runs (project, run)";
pub(crate) const BY_KEY_HASH: &str = "CREATE INDEX runs_key_hash ON runs (key_hash)";
pub(crate) const BY_PROJECT: &str = "CREATE INDEX runs_project ON runs (project)";
pub(crate) const BY_DIGEST: &str = "CREATE INDEX runs_digest ON runs (digest)";
pub(crate) const LIVE: &str = "CREATE INDEX runs_live ON runs (live) WHERE live = 1";
pub(crate) const TAGS: &str = "CREATE TABLE tags (key TEXT NOT NULL, value TEXT NOT NULL, stream INTEGER NOT NULL, PRIMARY KEY (key, value, stream)) WITHOUT ROWID";

const COLUMNS: &str = "r.stream, r.project, r.run, r.status, r.live, r.harness, r.digest, r.tags, r.created_at, r.ended_at, r.last_seq, r.crc, r.doc";

/// Rows that are newer than the library's; `None` is erased.
pub(crate) type Shadow = BTreeMap<StreamId, Option<Arc<RunRow>>>;

fn place(stream: StreamId) -> String {
    format!("longhaul.db: runs, stream {stream}")
}

fn row_crc(row: &RunRow) -> u32 {
    let mut bytes = Vec::with_capacity(256 + row.doc.len());
    encode_row(row, &mut bytes);
    crc32fast::hash(&bytes)
}

fn tags_json(tags: &BTreeMap<String, String>) -> String {
    serde_json::to_string(tags).unwrap_or_default()
}

/// Puts a row in the place of the one before, if any.
pub(crate) fn put(conn: &Connection, row: &RunRow, meta: &mut Meta) -> Result<()> {
    let at = place(row.stream);
    let live = !row.status.is_terminal();
    let tags = tags_json(&row.tags);
    let old: Option<(bool, String, String)> = conn
        .prepare_cached("SELECT live, digest, tags FROM runs WHERE stream = ?1")
        .and_then(|mut s| s.query_row([row.stream.get()], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).optional())
        .at(&at)?;
    let ended_at = row.ended_at.map(Timestamp::unix_ms);
    let Some((was_live, old_digest, old_tags)) = old else {
        conn.prepare_cached("INSERT INTO runs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)")
            .and_then(|mut s| {
                s.execute(params![
                    row.stream.get(),
                    row.key.project.as_str(),
                    row.key.run.as_str(),
                    row.status.as_str(),
                    live,
                    row.harness,
                    row.digest,
                    tags,
                    row.created_at.unix_ms(),
                    ended_at,
                    row.last_seq.get(),
                    key_hash(&row.key),
                    row_crc(row),
                    &*row.doc
                ])
            })
            .at(&at)?;
        meta.runs += 1;
        meta.live += u64::from(live);
        return put_tags(conn, row.stream, &row.tags);
    };
    conn.prepare_cached("UPDATE runs SET status = ?2, harness = ?3, created_at = ?4, ended_at = ?5, last_seq = ?6, crc = ?7, doc = ?8 WHERE stream = ?1")
        .and_then(|mut s| {
            s.execute(params![
                row.stream.get(),
                row.status.as_str(),
                row.harness,
                row.created_at.unix_ms(),
                ended_at,
                row.last_seq.get(),
                row_crc(row),
                &*row.doc
            ])
        })
        .at(&at)?;
    // Indexed columns are written only when they change: that spares three index writes for each new state of a run.
    if was_live != live {
        conn.execute("UPDATE runs SET live = ?2 WHERE stream = ?1", params![row.stream.get(), live]).at(&at)?;
        meta.live = meta.live + u64::from(live) - u64::from(was_live);
    }
    if old_digest != row.digest {
        conn.execute("UPDATE runs SET digest = ?2 WHERE stream = ?1", params![row.stream.get(), row.digest]).at(&at)?;
    }
    if old_tags != tags {
        conn.execute("UPDATE runs SET tags = ?2 WHERE stream = ?1", params![row.stream.get(), tags]).at(&at)?;
        drop_tags(conn, row.stream, &old_tags)?;
        put_tags(conn, row.stream, &row.tags)?;
    }
    Ok(())
}

fn put_tags(conn: &Connection, stream: StreamId, tags: &BTreeMap<String, String>) -> Result<()> {
    for (key, value) in tags {
        conn.prepare_cached("INSERT OR REPLACE INTO tags VALUES (?1, ?2, ?3)")
            .and_then(|mut s| s.execute(params![key, value, stream.get()]))
            .at("longhaul.db: tags")?;
    }
    Ok(())
}

fn drop_tags(conn: &Connection, stream: StreamId, json: &str) -> Result<()> {
    let tags: BTreeMap<String, String> =
        serde_json::from_str(json).map_err(|_| Fault::corrupt(place(stream), "the tags are not JSON"))?;
    for (key, value) in &tags {
        conn.prepare_cached("DELETE FROM tags WHERE key = ?1 AND value = ?2 AND stream = ?3")
            .and_then(|mut s| s.execute(params![key, value, stream.get()]))
            .at("longhaul.db: tags")?;
    }
    Ok(())
}

/// Erases a row and its tags.
pub(crate) fn erase(conn: &Connection, stream: StreamId, meta: &mut Meta) -> Result<()> {
    let at = place(stream);
    let old: Option<(bool, String)> = conn
        .query_row("SELECT live, tags FROM runs WHERE stream = ?1", [stream.get()], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()
        .at(&at)?;
    let Some((live, tags)) = old else { return Ok(()) };
    drop_tags(conn, stream, &tags)?;
    conn.execute("DELETE FROM runs WHERE stream = ?1", [stream.get()]).at(&at)?;
    meta.runs -= 1;
    meta.live -= u64::from(live);
    Ok(())
}

fn key_hash(key: &RunKey) -> u32 {
    hash([key.project.as_str(), key.run.as_str()])
}

/// A run's row.
pub(crate) fn find(conn: &Connection, key: &RunKey) -> Result<Option<RunRow>> {
    let names = [key.project.as_str(), key.run.as_str()];
    let sql = format!("SELECT {COLUMNS} FROM runs r INDEXED BY runs_key WHERE project = ?1 AND run = ?2");
    let at = format!("longhaul.db: runs, run {key}");
    let found = {
        let mut statement = conn.prepare_cached(&sql).at(&at)?;
        let mut rows = statement.query(names).at(&at)?;
        rows.next().at(&at)?.map(decode).transpose()?
    };
    if let Some(row) = found {
        if row.key != *key {
            return Err(Fault::corrupt(at, format!("the index leads to {}", row.key)));
        }
        return Ok(Some(row));
    }
    let other: Option<u64> = conn
        .prepare_cached(
            "SELECT stream FROM runs INDEXED BY runs_key_hash WHERE key_hash = ?3 AND project = ?1 AND run = ?2",
        )
        .and_then(|mut s| s.query_row(params![names[0], names[1], key_hash(key)], |row| row.get(0)).optional())
        .at(&at)?;
    match other {
        None => Ok(None),
        Some(stream) => Err(Fault::corrupt(at, format!("stream {stream} is missing in index runs_key"))),
    }
}

/// Whether there is a row for the stream.
pub(crate) fn exists(conn: &Connection, stream: StreamId) -> Result<bool> {
    conn.prepare_cached("SELECT 1 FROM runs WHERE stream = ?1")
        .and_then(|mut s| s.exists([stream.get()]))
        .at(&place(stream))
}

/// The key of a stream's run.
pub(crate) fn key(conn: &Connection, stream: StreamId) -> Result<Option<RunKey>> {
    let sql = format!("SELECT {COLUMNS} FROM runs r WHERE stream = ?1");
    let mut statement = conn.prepare_cached(&sql).at(&place(stream))?;
    let mut rows = statement.query([stream.get()]).at(&place(stream))?;
    Ok(rows.next().at(&place(stream))?.map(decode).transpose()?.map(|row| row.key))
}

/// Every row, in creation order, for a check of the whole.
pub(crate) fn each(conn: &Connection, mut each: impl FnMut(Result<RunRow>)) -> Result<()> {
    let sql = format!("SELECT {COLUMNS} FROM runs r ORDER BY stream");
    let mut statement = conn.prepare(&sql).at("longhaul.db: runs")?;
    let mut rows = statement.query([]).at("longhaul.db: runs")?;
    while let Some(row) = rows.next().at("longhaul.db: runs")? {
        each(decode(row));
    }
    Ok(())
}

/// Every row that is not terminal, oldest first, as `shadow` has it.
pub(crate) fn live(conn: &Connection, shadow: &Shadow) -> Result<Vec<RunRow>> {
    let sql = format!("SELECT {COLUMNS} FROM runs r INDEXED BY runs_live WHERE live = 1 ORDER BY stream");
    let at = "longhaul.db: runs, index runs_live";
    let mut all = BTreeMap::new();
    let mut statement = conn.prepare_cached(&sql).at(at)?;
    let mut rows = statement.query([]).at(at)?;
    while let Some(row) = rows.next().at(at)? {
        let row = decode(row)?;
        all.insert(row.stream, row);
    }
    let expected = Meta::read(conn)?.live;
    if all.len() as u64 != expected {
        return Err(Fault::corrupt(at, format!("it holds {} rows, not {expected}", all.len())));
    }
    for (stream, row) in shadow {
        match row {
            Some(row) if !row.status.is_terminal() => all.insert(*stream, RunRow::clone(row)),
            _ => all.remove(stream),
        };
    }
    Ok(all.into_values().collect())
}

/// Rows that match, newest first, as `shadow` has them.
pub(crate) fn list(conn: &Connection, filter: &RunFilter, shadow: &Shadow) -> Result<RunPage> {
    let limit = if filter.limit == 0 { limits::LIST_DEFAULT } else { filter.limit };
    let below = filter.before.map_or(u64::MAX, StreamId::get);
    let (sql, values) = query(filter);
    let at = "longhaul.db: runs";
    let mut statement = conn.prepare_cached(&sql).at(at)?;
    let mut stored = statement.query(params_from_iter(values)).at(at)?;
    let mut newer = shadow
        .range(..StreamId::new(below))
        .rev()
        .filter_map(|(_, row)| row.as_ref())
        .filter(|row| filter.matches(row))
        .peekable();
    let mut next_stored = || -> Result<Option<RunRow>> {
        while let Some(row) = stored.next().at(at)? {
            let row = decode(row)?;
            if !shadow.contains_key(&row.stream) {
                return Ok(Some(row));
            }
        }
        Ok(None)
    };
    let mut rows: Vec<RunRow> = Vec::new();
    let mut held = next_stored()?;
    while rows.len() <= limit {
        let take_newer = match (&held, newer.peek()) {
            (None, None) => break,
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (Some(old), Some(new)) => new.stream > old.stream,
        };
        let row = if take_newer {
            newer.next().map(|row| RunRow::clone(row))
        } else {
            std::mem::replace(&mut held, next_stored()?)
        };
        let Some(row) = row else { break };
        if rows.last().is_some_and(|last| last.stream <= row.stream) {
            return Err(Fault::corrupt(place(row.stream), "the table is out of order"));
        }
        rows.push(row);
    }
    let more = rows.len() > limit;
    rows.truncate(limit);
    Ok(RunPage { rows, more })
}

fn query(filter: &RunFilter) -> (String, Vec<Value>) {
    let mut values: Vec<Value> = Vec::new();
    let mut sql = format!("SELECT {COLUMNS} FROM ");
    let mut tags = filter.tags.iter();
    let stream = if let Some((key, value)) = tags.next() {
        values.extend([Value::from(key.clone()), Value::from(value.clone())]);
        sql.push_str("tags t CROSS JOIN runs r ON r.stream = t.stream WHERE t.key = ? AND t.value = ?");
        "t.stream"
    } else {
        sql.push_str("runs r WHERE 1");
        "r.stream"
    };
    if let Some(before) = filter.before {
        let _ = write!(sql, " AND {stream} < ?");
        values.push(Value::from(i64::try_from(before.get()).unwrap_or(i64::MAX)));
    }
    for (column, value) in [
        ("project", filter.project.as_ref().map(ProjectId::as_str)),
        ("harness", filter.harness.as_deref()),
        ("digest", filter.digest.as_deref()),
    ] {
        if let Some(value) = value {
            let _ = write!(sql, " AND r.{column} = ?");
            values.push(Value::from(value.to_owned()));
        }
    }
    if !filter.statuses.is_empty() {
        if filter.statuses.iter().all(|s| !s.is_terminal()) {
            sql.push_str(" AND r.live = 1");
        }
        let marks = vec!["?"; filter.statuses.len()].join(", ");
        let _ = write!(sql, " AND r.status IN ({marks})");
        values.extend(filter.statuses.iter().map(|s| Value::from(s.as_str().to_owned())));
    }
    for (key, value) in tags {
        sql.push_str(" AND EXISTS (SELECT 1 FROM tags x WHERE x.key = ? AND x.value = ? AND x.stream = r.stream)");
        values.extend([Value::from(key.clone()), Value::from(value.clone())]);
    }
    let _ = write!(sql, " ORDER BY {stream} DESC");
    (sql, values)
}

fn decode(row: &Row<'_>) -> Result<RunRow> {
    let stream = StreamId::new(row.get(0).at("longhaul.db: runs")?);
    let at = place(stream);
    let text = |column: usize| row.get::<_, String>(column).at(&at);
    let wrong = |column: &str| Fault::corrupt(format!("{at}, column {column}"), "the value is not one");
    let key = RunKey {
        project: ProjectId::parse(&text(1)?).map_err(|_| wrong("project"))?,
        run: RunId::parse(&text(2)?).map_err(|_| wrong("run"))?,
    };
    let found = RunRow {
        key,
        stream,
        status: Status::parse(&text(3)?).ok_or_else(|| wrong("status"))?,
        harness: text(5)?,
        digest: text(6)?,
        tags: serde_json::from_str(&text(7)?).map_err(|_| wrong("tags"))?,
        created_at: Timestamp::from_unix_ms(row.get(8).at(&at)?),
        ended_at: row.get::<_, Option<i64>>(9).at(&at)?.map(Timestamp::from_unix_ms),
        last_seq: Seq::new(row.get(10).at(&at)?),
        doc: row.get::<_, Vec<u8>>(12).at(&at)?.into(),
    };
    let live: bool = row.get(4).at(&at)?;
    if row.get::<_, u32>(11).at(&at)? != row_crc(&found) || live == found.status.is_terminal() {
        return Err(Fault::corrupt(at, "the checksum does not hold"));
    }
    Ok(found)
}

/// The tags of the table that no row has, and those of rows that the table has not: both must be none.
pub(crate) fn check_tags(conn: &Connection, rows: &HashMap<StreamId, BTreeMap<String, String>>) -> Result<Vec<String>> {
    let at = "longhaul.db: tags";
    let mut statement = conn.prepare("SELECT key, value, stream FROM tags").at(at)?;
    let mut stored = statement.query([]).at(at)?;
    let mut wrong = Vec::new();
    let mut found = 0;
    while let Some(row) = stored.next().at(at)? {
        let (key, value): (String, String) = (row.get(0).at(at)?, row.get(1).at(at)?);
        let stream = StreamId::new(row.get(2).at(at)?);
        found += 1;
        if rows.get(&stream).and_then(|tags| tags.get(&key)) != Some(&value) {
            wrong.push(format!("stream {stream} has no tag {key}={value}"));
        }
    }
    let expected: usize = rows.values().map(BTreeMap::len).sum();
    if found != expected {
        wrong.push(format!("there are {found} tags, the rows have {expected}"));
    }
    Ok(wrong)
}
