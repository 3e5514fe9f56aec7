//! `POST /v1/chat/completions`: an agent's run as a chat completion, streamed or whole.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use longhaul_api::chat::{self, ChatRequest, Encoder, ParsedChat};
use longhaul_api::{ErrorCode, Problem, sse as frame};
use longhaul_engine::Origin;
use longhaul_model::{Event, ProjectId, RunId, RunKey, Seq, SessionId, limits};
use longhaul_store::ReadLimit;

use super::door::Caller;
use super::query::Query;
use super::reply::{self, Failure};
use super::sse::{Reader, Shape};
use super::{App, chat_retry, runs, sse};

/// What a request turned out to be about.
struct Asked {
    key: RunKey,
    digest: String,
    caller: String,
    /// Whether a record waits for the answer's delivery.
    anonymous: bool,
    ignored: Vec<String>,
}

/// The number that an SDK gives its own retry; zero for a first try.
fn retry_count(headers: &HeaderMap) -> u32 {
    headers.get("x-stainless-retry-count").and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// The handler.
pub(super) async fn complete(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    Query::parse(query.as_deref(), &[])?;
    let session = match headers.get("x-session-id") {
        Some(value) => {
            let text = value.to_str().unwrap_or("?");
            Some(SessionId::parse(text).map_err(|e| Problem::invalid("x-session-id", e.to_string()))?)
        }
        None => None,
    };
    let parsed = ChatRequest::parse_in(&reply::body(body)?, session.as_ref())?;
    let streaming = parsed.chat.stream;
    if headers.contains_key("last-event-id") && !streaming {
        let text = "Last-Event-ID continues a stream; set stream to true";
        return Err(Problem::invalid("Last-Event-ID", text).into());
    }
    let cursor = Query::parse(None, &[])?.cursor(&headers)?;
    let options = parsed.chat.stream_options.unwrap_or_default();
    let asked = dispatch(&app, parsed, &headers, caller.0).await?;
    let mut response = if streaming {
        stream_of(&app, &asked, cursor, options.include_usage).await?
    } else {
        whole(&app, &asked).await?
    };
    runs::name(&mut response, &asked.key, &asked.digest);
    if let Ok(value) = HeaderValue::from_str(&asked.ignored.join(", "))
        && !asked.ignored.is_empty()
    {
        response.headers_mut().insert("x-longhaul-ignored", value);
    }
    Ok(response)
}

/// Finds the run that is meant, or starts it.
async fn dispatch(app: &App, parsed: ParsedChat, headers: &HeaderMap, caller: String) -> Result<Asked, Failure> {
    let ParsedChat { chat, run, digest, ignored } = parsed;
    let project = chat.project.clone().unwrap_or_else(ProjectId::default_project);
    let retry = retry_count(headers);
    let given = runs::run_id(chat.run_id.clone(), headers)?;
    let anonymous = given.is_none();
    let repeated =
        if anonymous && retry > 0 { chat_retry::find(app, &project, &caller, &digest, retry).await? } else { None };
    let run_id = given.or(repeated).unwrap_or_else(|| RunId::from_uuid(uuid::Uuid::now_v7()));
    let key = RunKey { project, run: run_id };
    let asked = Asked { key: key.clone(), digest: digest.clone(), caller: caller.clone(), anonymous, ignored };
    let refuse = |error| reply::dispatch_failure(error, &key);
    if app.engine.attach(&key, &digest).await.map_err(refuse)? {
        return Ok(asked);
    }
    let prompt = chat::prompt_of(&chat.messages)?;
    let origin = Origin { face: "chat".to_owned(), anonymous, caller: caller.clone() };
    let turn = chat::turn_of(&chat.messages)?;
    let mut new = runs::new_run(run, digest.clone(), key.clone(), origin, Some(prompt))?;
    new.sealed.turn = turn;
    if super::models::needs_a_command(&new.harness) {
        let text = format!("{} is not a chat model; POST /v1/runs runs commands", new.harness);
        return Err(Problem::new(ErrorCode::UnknownHarness, text).param("model").into());
    }
    if longhaul_harness::find(&new.harness).is_none() {
        let name = new.harness.clone();
        let mut failure = reply::dispatch_failure(longhaul_engine::DispatchError::UnknownHarness { name }, &key);
        failure.0.param = Some("model".to_owned());
        return Err(failure);
    }
    let placeless = || chat_retry::Placeless::new(app, &key.project, &caller, &digest, retry);
    let waiting = anonymous.then(placeless);
    let at_most = chat.queue_timeout_ms.map_or(limits::QUEUE_TIMEOUT, Duration::from_millis);
    let who = longhaul_engine::Who { key: key.clone(), harness: new.harness.clone(), caller: caller.clone() };
    let reserved = tokio::select! {
        reserved = app.engine.reserve(who, chat.session_id.as_ref(), at_most) => reserved.map_err(refuse)?,
        () = app.draining.cancelled() => {
            return Err(reply::dispatch_failure(longhaul_engine::DispatchError::Draining, &key));
        }
    };
    let Some(reserved) = reserved else {
        let (live, live_max, queued) = app.engine.places();
        return Err(Problem::new(ErrorCode::Saturated, "no place became free in time; nothing was started")
            .fact("dispatch", "not_started")
            .fact("live", live)
            .fact("live_max", live_max)
            .fact("queued", queued)
            .fact("waited_ms", at_most.as_millis() as u64)
            .into());
    };
    new.reserved = Some(reserved);
    if anonymous {
        new.records.push(chat_retry::record(&key, &caller, &digest, app.engine.now(), retry));
    }
    // From here on the run may come to be, whoever is still there to see it.
    if let Some(waiting) = waiting {
        waiting.has_a_run();
    }
    if let Err(error) = app.engine.dispatch(new).await {
        drop(anonymous.then(placeless));
        return Err(refuse(error));
    }
    Ok(asked)
}

/// The stream, from the cursor on.
async fn stream_of(app: &App, asked: &Asked, cursor: Seq, include_usage: bool) -> Result<Response, Failure> {
    let key = &asked.key;
    if app.draining.is_cancelled() {
        return Ok(sse::come_back());
    }
    let view = runs::view(app, key).await?;
    let store = app.engine.store();
    let tail = store.watch(view.stream).await?;
    let probe = ReadLimit { events_max: 1, bytes_max: 1 };
    let first = store.read(view.stream, cursor, probe).await?;
    if first.events.is_empty() && sse::is_over_at(app, view.stream, cursor).await? {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    // Counted in only now: whoever was refused never was a reader, and its leaving means nothing.
    let guard = app.engine.reader(key).await;
    let mut encoder = Encoder::new(include_usage);
    let mut at = Seq::ZERO;
    // What the client has is folded in silence, so that the rest is what it would have been.
    while at < cursor {
        let events_max = usize::try_from(cursor.get() - at.get()).unwrap_or(usize::MAX).min(limits::PAGE_EVENTS_MAX);
        let page = store.read(view.stream, at, ReadLimit { events_max, bytes_max: limits::PAGE_BYTES_MAX }).await?;
        for stored in &page.events {
            let event = Event::decode(&stored.wire)
                .map_err(|e| Failure::new(ErrorCode::StoreFailed, format!("event {}: {e}", stored.seq)))?;
            encoder.push(&event);
            at = stored.seq;
        }
    }
    let status = view.doc.run.status.as_str();
    let opening = frame::comment(&format!("run {} {status}, tail {}", key.run, first.tail));
    let reader = Reader {
        app: app.clone(),
        stream: view.stream,
        tail,
        cursor,
        shape: Shape::Chat { encoder: Box::new(encoder), delivered: delivered(app, asked) },
        opening: Some(opening),
        guard,
        over: false,
    };
    Ok(reader.into_response())
}

/// What to do once the answer was given to the end.
fn delivered(app: &App, asked: &Asked) -> Option<Box<dyn FnOnce() + Send>> {
    if !asked.anonymous {
        return None;
    }
    let (app, key) = (app.clone(), asked.key.clone());
    let (caller, digest) = (asked.caller.clone(), asked.digest.clone());
    Some(Box::new(move || {
        let engine = app.engine.clone();
        engine.spawn_task(chat_retry::delivered(app, key, caller, digest));
    }))
}

/// Tells that an answer was given when the connection lets go of it: with a length known in advance it does not ask for
/// what comes after.
struct Given(Option<Box<dyn FnOnce() + Send>>);

impl Drop for Given {
    fn drop(&mut self) {
        if let Some(delivered) = self.0.take() {
            delivered();
        }
    }
}

/// The whole answer, once there is one.
async fn whole(app: &App, asked: &Asked) -> Result<Response, Failure> {
    let key = &asked.key;
    let _guard = app.engine.reader(key).await;
    loop {
        tokio::select! {
            ended = app.engine.wait_end(key, Duration::from_secs(3600)) => if ended { break },
            () = app.draining.cancelled() => {
                let text = "the server is stopping and the run goes on; ask again";
                return Err(Problem::new(ErrorCode::Draining, text).fact("run_id", key.run.as_str()).into());
            }
        }
    }
    let view = runs::view(app, key).await?;
    let run = &view.doc.run;
    if let Some(problem) = chat::problem_of(run) {
        return Err(problem.into());
    }
    if !run.status.is_terminal() {
        return Err(Failure::new(ErrorCode::Draining, "the server is stopping and the run goes on; ask again"));
    }
    let Some(mut delivered) = delivered(app, asked).map(Some) else {
        return Ok(Json(chat::completion(run)).into_response());
    };
    let bytes = Bytes::from(chat::completion(run).to_string());
    let length = HeaderValue::from(bytes.len());
    let parts = stream::unfold((Some(bytes), Given(None)), move |(bytes, _)| {
        let given = delivered.take();
        async move { Some((Ok::<_, std::convert::Infallible>(bytes?), (None, Given(given)))) }
    });
    let mut response = Body::from_stream(parts).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    Ok(response)
}
