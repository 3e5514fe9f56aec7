//! `POST /v1/chat/completions`: an agent's run as a chat completion, streamed or whole.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use longhaul_api::chat::{self, ChatRequest, Encoder, ParsedChat};
use longhaul_api::{ErrorCode, Problem, sse as frame};
use longhaul_model::{Event, Seq, limits};
use longhaul_store::ReadLimit;

use super::asked::{self, Asked};
use super::caller::Caller;
use super::query::Query;
use super::reply::{self, Failure};
use super::sse::{Reader, Shape};
use super::{App, runs, sse};

/// The handler.
pub(super) async fn complete(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    Query::parse(query.as_deref(), &[])?;
    let session = asked::session(&headers)?;
    let parsed = ChatRequest::parse_in(&reply::body(body)?, session.as_ref())?;
    let streaming = parsed.chat.stream;
    if headers.contains_key("last-event-id") && !streaming {
        let text = "Last-Event-ID continues a stream; set stream to true";
        return Err(Problem::invalid("Last-Event-ID", text).into());
    }
    let cursor = Query::parse(None, &[])?.cursor(&headers)?;
    let options = parsed.chat.stream_options.unwrap_or_default();
    let asked = asked::dispatch(&app, request(parsed), &headers, &caller).await?;
    let mut response = if streaming {
        stream_of(&app, &asked, cursor, options.include_usage).await?
    } else {
        let view = asked::ended(&app, &asked.key).await?;
        asked::give(&app, &asked, &chat::completion(&view.doc.run))
    };
    asked::name(&mut response, &asked);
    Ok(response)
}

/// The request in no dialect's terms.
fn request(parsed: ParsedChat) -> asked::Request {
    let ParsedChat { chat, run, digest, ignored } = parsed;
    asked::Request {
        face: "chat",
        run_id: chat.run_id,
        project: chat.project,
        run,
        digest,
        messages: chat.messages,
        input: None,
        names: &[("effort", "reasoning_effort")],
        previous: None,
        queue: Some(asked::queue(chat.queue_timeout_ms)),
        note: serde_json::Map::new(),
        ignored,
    }
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
        shape: Shape::Answer {
            encode: Box::new(move |event| encoder.push(event)),
            delivered: asked::delivered(app, asked),
        },
        opening: Some(opening),
        guard,
        over: false,
    };
    Ok(reader.into_response())
}
