//! `GET /v1/stream/runs/{id}`: the log of a run as a JSON stream. Offsets are the numbers of its events, the ids of every
//! other face. It is closed when the run is over, and nobody writes to it.

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use longhaul_engine::streams::{Happened, Info, ReadError, SpanPage};
use longhaul_model::stream::{ContentType, Keep, Lifetime, Mode, Offset};
use longhaul_model::{Event, RunKey, Seq, StreamId, Timestamp};
use longhaul_store::{ReadLimit, StoreError};
use tokio::sync::watch;

use super::read::{self, Asked};
use super::refusal::Refused;
use super::source::Source;
use super::{head, sse};
use crate::http::query::{PathId, Query};
use crate::http::{App, runs};

/// The content type of a run's log.
const CONTENT_TYPE: &str = "application/json";

/// A run's log that is open for reading.
pub(super) struct RunLog {
    app: App,
    stream: StreamId,
    tail: watch::Receiver<Seq>,
    created_at: Timestamp,
}

/// The run that a request names, and its log.
async fn open(app: &App, id: &str, query: Option<&str>) -> Result<(RunKey, RunLog, String), Refused> {
    let key = Query::parse_some(query, &["project"])?.key(id)?;
    let view = runs::view(app, &key).await?;
    let tail = app.engine.store().watch(view.stream).await?;
    let created_at = view.doc.run.created_at;
    let log = RunLog { app: app.clone(), stream: view.stream, tail, created_at };
    Ok((key, log, view.doc.run.digest.clone()))
}

/// The handler of GET.
pub(in crate::http) async fn read(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
    exit: super::park::Exit,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let asked = Asked::parse(query.as_deref(), &headers)?;
    if asked.streams() && app.draining.is_cancelled() {
        return Ok(sse::come_back());
    }
    let (key, log, digest) = open(&app, &id, query.as_deref()).await?;
    let guard = if asked.streams() { app.engine.reader(&key).await } else { None };
    let mut response = read::answer(&app, Source::Run(log), asked, guard, exit).await?;
    runs::name(&mut response, &key, &digest);
    Ok(response)
}

/// The handler of HEAD.
pub(in crate::http) async fn head(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let (key, log, digest) = open(&app, &id, query.as_deref()).await?;
    let mut response = head::answer(&log.info().await?);
    runs::name(&mut response, &key, &digest);
    Ok(response)
}

/// Before the first event that is kept.
fn before(earliest: Seq) -> Offset {
    Offset::new(earliest.get().saturating_sub(1))
}

fn error(error: StoreError) -> ReadError {
    match error {
        StoreError::Expired { earliest } => ReadError::Expired { earliest: before(earliest) },
        StoreError::Ahead { tail } => ReadError::Ahead { tail: tail.into() },
        StoreError::NotFound => ReadError::NotFound,
        error => ReadError::Store(error),
    }
}

impl RunLog {
    /// Whether the event before a position is the run's last.
    async fn is_over_at(&self, at: Offset) -> Result<bool, ReadError> {
        crate::http::sse::is_over_at(&self.app, self.stream, Seq::new(at.get())).await.map_err(error)
    }

    pub(super) async fn info(&self) -> Result<Info, ReadError> {
        let tail = *self.tail.borrow();
        let span = self.app.engine.store().read_span(self.stream, tail, 1).await.map_err(error)?;
        Ok(Info {
            incarnation: self.stream,
            content_type: ContentType::parse(CONTENT_TYPE).unwrap_or_default(),
            mode: Mode::Json,
            tail: tail.into(),
            earliest: before(span.earliest),
            closed: self.is_over_at(tail.into()).await?,
            lifetime: Lifetime::Endless,
            keep: Keep::default(),
            created_at: self.created_at,
        })
    }

    pub(super) async fn span(&self, after: Offset, bytes_max: usize) -> Result<SpanPage, ReadError> {
        let store = self.app.engine.store();
        let span = store.read_span(self.stream, Seq::new(after.get()), bytes_max).await.map_err(error)?;
        let next = Offset::from(span.last);
        let up_to_date = span.last == span.tail;
        Ok(SpanPage {
            messages: span.lengths.len() as u64,
            body: span.body,
            next,
            tail: span.tail.into(),
            earliest: before(span.earliest),
            up_to_date,
            closed_at_end: up_to_date && self.is_over_at(next).await?,
        })
    }

    pub(super) async fn wait(&mut self, after: Offset) -> Result<Happened, ReadError> {
        loop {
            let tail = Offset::from(*self.tail.borrow_and_update());
            if tail > after {
                return Ok(Happened::Messages);
            }
            if self.is_over_at(tail).await? {
                return Ok(Happened::Closed);
            }
            if self.tail.changed().await.is_err() {
                return Ok(Happened::Deleted);
            }
        }
    }

    /// The times of events never go back, so half of what is left is looked away from at a time.
    pub(super) async fn since(&self, at: Timestamp) -> Result<Offset, ReadError> {
        let info = self.info().await?;
        let (mut low, mut high) = (info.earliest.get(), info.tail.get());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.time_after(Offset::new(middle)).await? < at {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(Offset::new(low))
    }

    /// When the event after a position was committed.
    async fn time_after(&self, after: Offset) -> Result<Timestamp, ReadError> {
        let limit = ReadLimit { events_max: 1, bytes_max: 1 };
        let page = self.app.engine.store().read(self.stream, Seq::new(after.get()), limit).await.map_err(error)?;
        let place = format!("the event after {after}");
        let wire = &page.events.first().ok_or(ReadError::NotFound)?.wire;
        let event = Event::decode(wire);
        event.map(|event| event.ts).map_err(|e| ReadError::Store(StoreError::Corrupt { place, what: e.to_string() }))
    }
}
