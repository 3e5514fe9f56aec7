//! `/v1/responses`: an agent's run as a response of OpenAI's Responses API. Create, show, follow, cancel, delete.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longhaul_api::request::{digest_of, parse_object, refuse_unknown};
use longhaul_api::responses::{Encoder, Note, ParsedResponse, ResponseRequest, id_of, run_of};
use longhaul_api::{ErrorCode, Problem, sse as frame};
use longhaul_engine::View;
use longhaul_model::event::RunCancelRequested;
use longhaul_model::{Event, ProjectId, RunKey, Seq, StreamId, limits};
use longhaul_store::{ReadLimit, StoredEvent};
use serde_json::{Value, json};

use super::asked;
use super::caller::Caller;
use super::query::{PathId, Query};
use super::reply::{self, Failure};
use super::sse::{Reader, Shape};
use super::{App, input, runs, sse};

/// How long a cancel waits for the end unless told otherwise: the answer can say `cancelled` then.
const CANCEL_WAIT: Duration = Duration::from_secs(10);

/// What the API calls the fields of a run.
const NAMES: &[(&str, &str)] = &[
    ("messages", "input"),
    ("system", "instructions"),
    ("effort", "reasoning.effort"),
    ("response_format", "text.format"),
];

/// Where a stream begins: the number of the last frame that the client has, and who says so.
struct Start {
    after: Option<u64>,
    /// An EventSource came back; it stops at 204.
    by_header: bool,
}

impl Start {
    fn of(query: &Query, headers: &HeaderMap) -> Result<Self, Failure> {
        let header = headers.get("last-event-id").filter(|value| !value.is_empty());
        let (name, text) = match header {
            Some(value) => ("Last-Event-ID", Some(value.to_str().unwrap_or("?"))),
            None => ("starting_after", query.one("starting_after")?),
        };
        let number = |text| {
            Seq::parse(text).map(Seq::get).map_err(|text| {
                let message = format!("{name} must be a plain decimal number, {text:?} is not");
                Problem::new(ErrorCode::InvalidCursor, message).param(name)
            })
        };
        Ok(Self { after: text.map(number).transpose()?, by_header: header.is_some() })
    }

    /// A cursor makes sense for a stream alone.
    fn needs(&self, streaming: bool) -> Result<(), Failure> {
        if self.after.is_none() || streaming {
            return Ok(());
        }
        let name = if self.by_header { "Last-Event-ID" } else { "starting_after" };
        Err(Problem::invalid(name, format!("{name} continues a stream; set stream to true")).into())
    }
}

/// `POST /v1/responses`.
pub(super) async fn create(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let query = Query::parse(query.as_deref(), &[])?;
    let session = asked::session(&headers)?;
    let parsed = ResponseRequest::parse_in(&reply::body(body)?, session.as_ref())?;
    let streaming = parsed.response.stream.unwrap_or(false);
    let background = parsed.response.background.unwrap_or(false);
    let start = Start::of(&query, &headers)?;
    start.needs(streaming)?;
    let asked = asked::dispatch(&app, request(parsed), &headers, &caller).await?;
    let mut response = if streaming {
        follow(&app, &asked.key, &start, asked::delivered(&app, &asked)).await?
    } else {
        let view =
            if background { runs::view(&app, &asked.key).await? } else { asked::ended(&app, &asked.key).await? };
        asked::give(&app, &asked, &object(&app, &view).await?)
    };
    asked::name(&mut response, &asked);
    Ok(response)
}

/// The request in no dialect's terms.
fn request(parsed: ParsedResponse) -> asked::Request {
    let ParsedResponse { response, messages, previous, run, digest, ignored } = parsed;
    let background = response.background.unwrap_or(false);
    let note = Note { background, previous_response_id: previous.as_ref().map(id_of), ..Note::default() };
    let note = match serde_json::to_value(note) {
        Ok(Value::Object(note)) => note,
        _ => serde_json::Map::new(),
    };
    asked::Request {
        face: "responses",
        run_id: response.run_id,
        project: response.project,
        run,
        digest,
        messages,
        // Whoever wants nothing stored gets a run all the same, which cannot be without its log.
        input: (response.store != Some(false)).then_some(response.input),
        names: NAMES,
        previous,
        // Whoever does not wait for the answer does not wait for a place either.
        queue: (!background).then(|| asked::queue(response.queue_timeout_ms)),
        note,
        ignored,
    }
}

/// `GET /v1/responses/{id}`.
pub(super) async fn show(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    const KNOWN: &[&str] =
        &["project", "stream", "starting_after", "include_obfuscation", "include", "include[]", "wait_ms"];
    let query = Query::parse(query.as_deref(), KNOWN)?;
    let key = key(&query, &id)?;
    let wait = query.wait()?;
    let streaming = match query.one("stream")? {
        Some("true") => true,
        None | Some("false") => false,
        Some(_) => return Err(Problem::invalid("stream", "stream must be true or false").into()),
    };
    let start = Start::of(&query, &headers)?;
    start.needs(streaming)?;
    if streaming {
        return follow(&app, &key, &start, None).await;
    }
    if !wait.is_zero() {
        tokio::select! {
            _ = app.engine.wait_end(&key, wait) => {}
            () = app.draining.cancelled() => {}
        }
    }
    shown(&app, &key).await
}

/// `POST /v1/responses/{id}/cancel`.
pub(super) async fn stop(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let query = Query::parse(query.as_deref(), &["project", "wait_ms"])?;
    let key = key(&query, &id)?;
    let map = parse_object(&reply::body(body)?)?;
    refuse_unknown(&map, &[])?;
    let wait = query.one("wait_ms")?.map_or(Ok(CANCEL_WAIT), |_| query.wait())?;
    let digest = digest_of("cancel.v1", &map, &[]);
    let operation = input::operation(None, &headers, digest)?;
    let intent = RunCancelRequested { by: "api".to_owned(), reason: None };
    app.engine.cancel(&key, intent, operation).await.map_err(|e| reply::cancel_failure(e, &key))?;
    tokio::select! {
        _ = app.engine.wait_end(&key, wait) => {}
        () = app.draining.cancelled() => {}
    }
    let mut response = shown(&app, &key).await?;
    if !runs::view(&app, &key).await?.doc.run.status.is_terminal() {
        *response.status_mut() = StatusCode::ACCEPTED;
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    Ok(response)
}

/// `DELETE /v1/responses/{id}`.
pub(super) async fn erase(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Failure> {
    let key = key(&Query::parse(query.as_deref(), &["project"])?, &id)?;
    runs::forget(&app, &key).await?;
    Ok(Json(json!({ "id": id, "object": "response", "deleted": true })))
}

pub(super) fn key(query: &Query, id: &str) -> Result<RunKey, Failure> {
    let project = query.project()?.unwrap_or_else(ProjectId::default_project);
    Ok(RunKey { project, run: run_of(id, "id")? })
}

async fn shown(app: &App, key: &RunKey) -> Result<Response, Failure> {
    let view = runs::view(app, key).await?;
    let mut response = Json(object(app, &view).await?).into_response();
    runs::name(&mut response, key, &view.doc.run.digest);
    Ok(response)
}

/// What a response shows that is not in its events. A run of another face has nothing of it.
fn note_of(view: &View) -> Note {
    let note: Note = serde_json::from_value(Value::Object(view.doc.origin.note.clone())).unwrap_or_default();
    Note { metadata: view.doc.metadata.clone(), ..note }
}

fn decoded(stored: &StoredEvent) -> Result<Event, Failure> {
    Event::decode(&stored.wire)
        .map_err(|error| Failure::new(ErrorCode::StoreFailed, format!("event {}: {error}", stored.seq)))
}

/// Live responses that were asked for a moment ago, folded so far: whoever polls does not have the whole log read each
/// time.
#[derive(Debug, Default)]
pub struct Folds(Mutex<VecDeque<(StreamId, Fold)>>);

/// A log folded up to an event.
#[derive(Debug)]
struct Fold {
    at: Seq,
    encoder: Encoder,
}

impl Folds {
    /// How many are kept: each may hold the text of an answer and of its reasoning.
    const MAX: usize = 16;

    fn list(&self) -> MutexGuard<'_, VecDeque<(StreamId, Fold)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is folded of a log; it is this caller's until it is put back.
    fn take(&self, stream: StreamId) -> Option<Fold> {
        let mut list = self.list();
        let at = list.iter().position(|(kept, _)| *kept == stream)?;
        list.remove(at).map(|(_, fold)| fold)
    }

    fn put(&self, stream: StreamId, fold: Fold) {
        let mut list = self.list();
        list.retain(|(kept, _)| *kept != stream);
        list.truncate(Self::MAX - 1);
        list.push_front((stream, fold));
    }
}

/// The response as its events make it up to now.
async fn object(app: &App, view: &View) -> Result<Value, Failure> {
    let begin = || Fold { at: Seq::ZERO, encoder: Encoder::silent(note_of(view)) };
    let mut fold = app.responses.take(view.stream).unwrap_or_else(begin);
    let mut over = false;
    let limit = ReadLimit { events_max: limits::PAGE_EVENTS_MAX, bytes_max: limits::PAGE_BYTES_MAX };
    loop {
        let page = app.engine.store().read(view.stream, fold.at, limit).await?;
        for stored in &page.events {
            fold.encoder.push(&decoded(stored)?);
            fold.at = stored.seq;
            over = sse::is_terminal(&stored.wire);
        }
        if page.events.is_empty() || fold.at >= page.tail {
            break;
        }
    }
    let object = fold.encoder.object();
    // Few ask again for one that is over.
    if !over {
        app.responses.put(view.stream, fold);
    }
    Ok(object)
}

/// The stream of a run, after what the client has.
async fn follow(
    app: &App,
    key: &RunKey,
    start: &Start,
    delivered: Option<Box<dyn FnOnce() + Send>>,
) -> Result<Response, Failure> {
    if app.draining.is_cancelled() {
        if start.by_header {
            return Ok(sse::come_back());
        }
        let text = "the server is stopping and the run goes on; ask again";
        return Err(Problem::new(ErrorCode::Draining, text).fact("run_id", key.run.as_str()).into());
    }
    let view = runs::view(app, key).await?;
    let store = app.engine.store();
    let tail = store.watch(view.stream).await?;
    let from = start.after.map_or(0, |after| after + 1);
    let mut encoder = Encoder::new(note_of(&view), from);
    let (mut at, mut over) = (Seq::ZERO, false);
    let mut opening = frame::comment(&format!("response {}", id_of(&key.run)));
    let bare = opening.len();
    // What the client has is folded in silence. The event that ends there may have more frames.
    let page = ReadLimit { events_max: limits::PAGE_EVENTS_MAX, bytes_max: limits::PAGE_BYTES_MAX };
    while encoder.next() < from {
        let page = store.read(view.stream, at, page).await?;
        if page.events.is_empty() {
            let last = encoder.next().saturating_sub(1);
            let name = if start.by_header { "Last-Event-ID" } else { "starting_after" };
            let text = format!("{name} is beyond the last event of the response, {last}");
            return Err(Problem::new(ErrorCode::CursorAhead, text).param(name).fact("tail", last).into());
        }
        for stored in &page.events {
            opening.push_str(&encoder.push(&decoded(stored)?));
            at = stored.seq;
            over = sse::is_terminal(&stored.wire);
            if encoder.next() >= from {
                break;
            }
        }
    }
    let mut response = if over && opening.len() == bare && start.by_header {
        StatusCode::NO_CONTENT.into_response()
    } else {
        let reader = Reader {
            app: app.clone(),
            stream: view.stream,
            tail,
            cursor: at,
            shape: Shape::Answer { encode: Box::new(move |event| encoder.push(event)), delivered },
            opening: Some(opening),
            guard: app.engine.reader(key).await,
            over,
        };
        reader.into_response()
    };
    runs::name(&mut response, key, &view.doc.run.digest);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_folds_leave_and_each_is_kept_once() {
        let folds = Folds::default();
        let fold = |at| Fold { at: Seq::new(at), encoder: Encoder::silent(Note::default()) };
        for number in 0..=Folds::MAX as u64 {
            folds.put(StreamId::new(number), fold(number));
            folds.put(StreamId::new(number), fold(number + 1));
        }
        assert!(folds.take(StreamId::new(0)).is_none(), "the oldest one made room");
        assert_eq!(folds.take(StreamId::new(1)).map(|fold| fold.at), Some(Seq::new(2)));
        assert!(folds.take(StreamId::new(1)).is_none(), "it is somebody's");
        assert_eq!(folds.list().len(), Folds::MAX - 1);
    }
}
