//! The heads of streams.
//!
//! Job: read, put and erase the state that the last applied commit left. Owns: table `streams`. Never: sees a log.

use bytes::Bytes;
use longhaul_model::{Epoch, ProjectId, Seq, StreamId};
use longhaul_store::Form;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Meta;
use crate::error::{At, Fault, Result};

pub(crate) const TABLE: &str = "CREATE TABLE streams (stream INTEGER PRIMARY KEY, tail INTEGER NOT NULL, epoch INTEGER NOT NULL, earliest INTEGER NOT NULL, bytes INTEGER NOT NULL, closed INTEGER NOT NULL, cursor BLOB, crc INTEGER NOT NULL)";
pub(crate) const FORM: &str = "ALTER TABLE streams ADD COLUMN form INTEGER NOT NULL DEFAULT 0";
pub(crate) const PROJECT: &str = "ALTER TABLE streams ADD COLUMN project TEXT";
pub(crate) const TABLE_V2: &str = "CREATE TABLE streams (stream INTEGER PRIMARY KEY, tail INTEGER NOT NULL, epoch INTEGER NOT NULL, earliest INTEGER NOT NULL, bytes INTEGER NOT NULL, closed INTEGER NOT NULL, cursor BLOB, crc INTEGER NOT NULL, form INTEGER NOT NULL DEFAULT 0, project TEXT)";

/// A stream's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamHead {
    pub(crate) tail: Seq,
    pub(crate) epoch: Epoch,
    /// The first seq that is kept.
    pub(crate) earliest: Seq,
    /// Bytes of all events, of the form `Lines` with a newline after each, those no longer kept included.
    pub(crate) bytes: u64,
    pub(crate) closed: bool,
    pub(crate) cursor: Option<Bytes>,
    pub(crate) form: Form,
    /// Of a plain stream; a run's has none, as its row names one.
    pub(crate) project: Option<ProjectId>,
}

impl StreamHead {
    /// Of a stream that is just made.
    pub(crate) fn empty(form: Form, project: Option<ProjectId>) -> Self {
        Self {
            tail: Seq::ZERO,
            epoch: Epoch::new(0),
            earliest: Seq::new(1),
            bytes: 0,
            closed: false,
            cursor: None,
            form,
            project,
        }
    }

    /// The lengths of all events there ever were, together.
    pub(crate) fn content_bytes(&self) -> u64 {
        match self.form {
            Form::Lines => self.bytes.saturating_sub(self.tail.get()),
            Form::Opaque => self.bytes,
        }
    }

    fn crc(&self, stream: StreamId) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        let numbers = [stream.get(), self.tail.get(), self.epoch.get(), self.earliest.get(), self.bytes];
        for number in numbers {
            crc.update(&number.to_le_bytes());
        }
        crc.update(&[u8::from(self.closed), u8::from(self.cursor.is_some())]);
        crc.update(self.cursor.as_deref().unwrap_or_default());
        // A run's is as version 1 had it.
        if let Some(project) = &self.project {
            crc.update(&[0, form_number(self.form)]);
            crc.update(project.as_str().as_bytes());
        }
        crc.finalize()
    }
}

fn form_number(form: Form) -> u8 {
    match form {
        Form::Lines => 0,
        Form::Opaque => 1,
    }
}

fn place(stream: StreamId) -> String {
    format!("longhaul.db: streams, stream {stream}")
}

fn decode(row: &Row<'_>) -> Result<(StreamId, StreamHead)> {
    let stream = StreamId::new(row.get(0).at("longhaul.db: streams")?);
    let at = place(stream);
    let head = StreamHead {
        tail: Seq::new(row.get(1).at(&at)?),
        epoch: Epoch::new(row.get::<_, i64>(2).at(&at)? as u64),
        earliest: Seq::new(row.get(3).at(&at)?),
        bytes: row.get(4).at(&at)?,
        closed: row.get(5).at(&at)?,
        cursor: row.get::<_, Option<Vec<u8>>>(6).at(&at)?.map(Bytes::from),
        form: match row.get(8).at(&at)? {
            0 => Form::Lines,
            1 => Form::Opaque,
            _ => return Err(Fault::corrupt(format!("{at}, column form"), "the value is not one")),
        },
        project: match row.get::<_, Option<String>>(9).at(&at)? {
            Some(text) => Some(
                ProjectId::parse(&text)
                    .map_err(|_| Fault::corrupt(format!("{at}, column project"), "the value is not an id"))?,
            ),
            None => None,
        },
    };
    let runs_form = head.project.is_some() || head.form == Form::Lines;
    if row.get::<_, u32>(7).at(&at)? != head.crc(stream) || !runs_form {
        return Err(Fault::corrupt(at, "the checksum does not hold"));
    }
    Ok((stream, head))
}

/// A stream's head, if it is kept.
pub(crate) fn find(conn: &Connection, stream: StreamId) -> Result<Option<StreamHead>> {
    let at = place(stream);
    let mut statement = conn.prepare_cached("SELECT stream, tail, epoch, earliest, bytes, closed, cursor, crc, form, project FROM streams WHERE stream = ?1").at(&at)?;
    let mut rows = statement.query([stream.get()]).at(&at)?;
    match rows.next().at(&at)?.map(decode).transpose()? {
        Some((_, head)) => Ok(Some(head)),
        None if super::runs::exists(conn, stream)? => Err(Fault::corrupt(at, "the run has no stream")),
        None if super::chunks::exist(conn, stream)? => {
            Err(Fault::corrupt(at, "the stream's chunks are there without it"))
        }
        None => Ok(None),
    }
}

/// Puts a head.
pub(crate) fn put(conn: &Connection, stream: StreamId, head: &StreamHead) -> Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO streams VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")
        .and_then(|mut s| {
            s.execute(params![
                stream.get(),
                head.tail.get(),
                head.epoch.get() as i64,
                head.earliest.get(),
                head.bytes,
                head.closed,
                head.cursor.as_deref(),
                head.crc(stream),
                form_number(head.form),
                head.project.as_ref().map(ProjectId::as_str)
            ])
        })
        .at(&place(stream))
        .map(|_| ())
}

/// Erases a head.
pub(crate) fn erase(conn: &Connection, stream: StreamId, meta: &mut Meta) -> Result<()> {
    let plain: Option<bool> = conn
        .prepare_cached("DELETE FROM streams WHERE stream = ?1 RETURNING project IS NOT NULL")
        .and_then(|mut s| s.query_row([stream.get()], |row| row.get(0)).optional())
        .at(&place(stream))?;
    meta.plain -= u64::from(plain.unwrap_or(false));
    Ok(())
}

/// Every head, for a check of the whole.
pub(crate) fn each(conn: &Connection, mut each: impl FnMut(Result<(StreamId, StreamHead)>)) -> Result<()> {
    let mut statement = conn.prepare("SELECT stream, tail, epoch, earliest, bytes, closed, cursor, crc, form, project FROM streams ORDER BY stream").at("longhaul.db: streams")?;
    let mut rows = statement.query([]).at("longhaul.db: streams")?;
    while let Some(row) = rows.next().at("longhaul.db: streams")? {
        each(decode(row));
    }
    Ok(())
}
