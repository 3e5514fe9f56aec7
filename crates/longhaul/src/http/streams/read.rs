//! `GET /v1/stream/{path}`: what was appended after an offset, at once or live.

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longhaul_api::Problem;
use longhaul_api::streams::{Tag, cursor, header as name};
use longhaul_engine::ReaderGuard;
use longhaul_engine::streams::{Info, ReadError, SpanPage};
use longhaul_model::stream::{Offset, Position, StreamKey, StreamPath};
use longhaul_model::{ProjectId, Timestamp, limits};

use super::answer::{self, AT_TAIL, NO_STORE, Place, SETTLED, set};
use super::park::Exit;
use super::refusal::Refused;
use super::source::Source;
use super::target::Target;
use super::{long_poll, sse};
use crate::http::App;
use crate::http::query::Query;
use crate::http::reply::Failure;

/// Parameters of a read. Others are ignored, as the protocol has it.
const PARAMETERS: &[&str] = &["offset", "live", "cursor", "since", "tail"];

/// Messages from the end that may be asked for.
const TAIL_MAX: u64 = 1 << 53;

/// How a reader wants to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Live {
    /// Not at all.
    No,
    /// One answer, once there is something.
    LongPoll,
    /// Events.
    Sse,
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// At an offset or a sentinel.
    At(Position),
    /// With what was appended since a point in time.
    Since(Timestamp),
    /// So many messages before the end.
    Tail(u64),
}

/// What a read asks for.
#[derive(Debug)]
pub(super) struct Asked {
    live: Live,
    pub(super) start: Start,
    /// The cursor of the answer before.
    pub(super) cursor: Option<String>,
    /// The entity tags that the client has.
    if_none_match: Option<String>,
    /// Whether an EventSource has come back by itself.
    pub(super) returns: bool,
}

/// The stream of a request.
pub(super) fn key(query: Option<&str>, path: StreamPath) -> Result<StreamKey, Failure> {
    let project = Query::parse_some(query, &["project"])?.project()?;
    Ok(StreamKey { project: project.unwrap_or_else(ProjectId::default_project), path })
}

fn time(text: &str) -> Result<Timestamp, Failure> {
    serde_json::from_value(text.into()).map_err(|_| {
        Problem::invalid("since", "since must be a time as RFC 3339 writes it, as 2026-11-21T09:40:00Z").into()
    })
}

fn position(param: &str, text: &str) -> Result<Position, Failure> {
    let code = longhaul_api::ErrorCode::InvalidCursor;
    Position::parse(text).map_err(|error| Problem::new(code, error.to_string()).param(param).into())
}

impl Asked {
    /// From the parameters and headers of a request.
    pub(super) fn parse(query: Option<&str>, headers: &HeaderMap) -> Result<Self, Failure> {
        let query = Query::parse_some(query, PARAMETERS)?;
        let live = match query.one("live")? {
            None => Live::No,
            Some("long-poll") => Live::LongPoll,
            Some("sse") => Live::Sse,
            Some(_) => return Err(Problem::invalid("live", "live is long-poll or sse").into()),
        };
        let at = query.one("offset")?.map(|text| position("offset", text)).transpose()?;
        let since = query.one("since")?.map(time).transpose()?;
        let tail = query.number("tail", 0, TAIL_MAX)?;
        let given = [at.map(Start::At), since.map(Start::Since), tail.map(Start::Tail)];
        let mut given = given.into_iter().flatten();
        let mut start = given.next();
        if given.next().is_some() {
            return Err(Problem::invalid("offset", "a read begins at one of offset, since and tail").into());
        }
        // A browser's EventSource comes back with the address it had and the id it saw last.
        let last = headers.get("last-event-id").filter(|id| live == Live::Sse && !id.is_empty());
        if let Some(id) = last {
            start = Some(Start::At(position("Last-Event-ID", id.to_str().unwrap_or("?"))?));
        }
        if live != Live::No && start.is_none() {
            return Err(Problem::invalid("offset", "a live read needs an offset; -1 is the beginning").into());
        }
        let if_none_match = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
        Ok(Self {
            live,
            start: start.unwrap_or(Start::At(Position::Beginning)),
            cursor: query.one("cursor")?.map(str::to_owned),
            if_none_match: if_none_match.map(str::to_owned),
            returns: last.is_some(),
        })
    }

    /// Whether the answer is a stream of events.
    pub(super) fn streams(&self) -> bool {
        self.live == Live::Sse
    }

    /// The cursor to send back.
    pub(super) fn next_cursor(&self, app: &App) -> u64 {
        let random = uuid::Uuid::new_v4().as_u64_pair().0;
        cursor(app.engine.now().unix_ms(), self.cursor.as_deref(), random)
    }
}

/// The handler.
pub(in crate::http) async fn read(
    State(app): State<App>,
    Target(path): Target,
    RawQuery(query): RawQuery,
    exit: Exit,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let asked = Asked::parse(query.as_deref(), &headers)?;
    if asked.streams() && app.draining.is_cancelled() {
        return Ok(sse::come_back());
    }
    let reader = app.streams.open(&key(query.as_deref(), path)?).await?;
    answer(&app, Source::Stream(reader), asked, None, exit).await
}

/// Reads as was asked.
pub(super) async fn answer(
    app: &App,
    source: Source,
    asked: Asked,
    guard: Option<ReaderGuard>,
    exit: Exit,
) -> Result<Response, Refused> {
    let info = source.info().await?;
    let start = start(&source, &info, asked.start).await?;
    match asked.live {
        Live::Sse => sse::answer(app, source, (&info, start), &asked, guard, exit).await,
        Live::LongPoll => long_poll::answer(app, source, &info, start, &asked).await,
        Live::No if asked.start == Start::At(Position::Now) => Ok(now(&info)),
        Live::No => {
            let page = source.span(start, limits::STREAM_PAGE_BYTES).await?;
            Ok(caught_up(&info, start, page, asked.if_none_match.as_deref()))
        }
    }
}

/// Where a read begins, as an offset.
async fn start(source: &Source, info: &Info, start: Start) -> Result<Offset, ReadError> {
    Ok(match start {
        Start::At(Position::Beginning) => info.earliest,
        Start::At(Position::Now) => info.tail,
        Start::At(Position::At(offset)) => offset,
        Start::Since(at) => source.since(at).await?,
        Start::Tail(count) => Offset::new(info.tail.get().saturating_sub(count)).max(info.earliest),
    })
}

/// Nothing but where the end is.
fn now(info: &Info) -> Response {
    let mut response = answer::body(info.mode, nothing(info)).into_body().into_response();
    let out = response.headers_mut();
    content_type(out, info);
    Place::end_of(info).tell(out);
    out.insert(header::CACHE_CONTROL, NO_STORE);
    response
}

fn nothing(info: &Info) -> SpanPage {
    SpanPage {
        body: Vec::new(),
        messages: 0,
        next: info.tail,
        tail: info.tail,
        earliest: info.earliest,
        up_to_date: true,
        closed_at_end: info.closed,
    }
}

pub(super) fn content_type(headers: &mut HeaderMap, info: &Info) {
    if let Ok(value) = HeaderValue::from_str(info.content_type.as_str()) {
        headers.insert(header::CONTENT_TYPE, value);
    }
}

/// A page, or nothing if the client has it.
fn caught_up(info: &Info, start: Offset, page: SpanPage, if_none_match: Option<&str>) -> Response {
    let tag = Tag {
        incarnation: info.incarnation.get(),
        start: start.get(),
        end: page.next.get(),
        up_to_date: page.up_to_date,
        closed: page.closed_at_end,
    };
    let place = Place::after(&page);
    let mut response = if if_none_match.is_some_and(|tags| tag.is_in(tags)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = answer::body(info.mode, page).into_body().into_response();
        content_type(response.headers_mut(), info);
        response
    };
    let out = response.headers_mut();
    set(out, "etag", tag);
    place.tell(out);
    // What ends before the tail, or at the end of a closed stream, can never be anything else.
    let settled = !place.up_to_date || place.closed;
    out.insert(header::CACHE_CONTROL, if settled { SETTLED } else { AT_TAIL });
    response
}

/// An answer of a live reader: a page with the cursor to send back.
pub(super) fn live(info: &Info, page: SpanPage, cursor: u64) -> Response {
    let place = Place::after(&page);
    let mut response = answer::body(info.mode, page).into_body().into_response();
    let out = response.headers_mut();
    content_type(out, info);
    place.tell(out);
    set(out, name::CURSOR, cursor);
    out.insert(header::CACHE_CONTROL, if place.up_to_date { AT_TAIL } else { SETTLED });
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(query: &str, last: Option<&str>) -> Result<Asked, Failure> {
        let mut headers = HeaderMap::new();
        if let Some(id) = last {
            headers.insert("last-event-id", id.parse().unwrap());
        }
        Asked::parse(Some(query), &headers)
    }

    #[test]
    fn a_read_begins_where_it_says() {
        let start = |query| asked(query, None).unwrap().start;
        let at = |n| Start::At(Position::At(Offset::new(n)));
        assert_eq!(start(""), Start::At(Position::Beginning));
        assert_eq!(start("offset=-1&foo=bar"), Start::At(Position::Beginning));
        assert_eq!(start("offset=now"), Start::At(Position::Now));
        assert_eq!(start("offset=0000000000000007"), at(7));
        assert_eq!(start("tail=3"), Start::Tail(3));
        assert_eq!(start("since=1970-01-01T00:00:01Z"), Start::Since(Timestamp::from_unix_ms(1_000)));
        for (query, param) in [
            ("offset=", "offset"),
            ("offset=a&offset=b", "offset"),
            ("offset=0,1", "offset"),
            ("offset=0%201", "offset"),
            ("offset=-1&tail=1", "offset"),
            ("tail=1&since=1970-01-01T00:00:01Z", "offset"),
            ("tail=x", "tail"),
            ("since=yesterday", "since"),
            ("live=ws&offset=-1", "live"),
            ("live=", "live"),
            ("live=sse", "offset"),
            ("live=long-poll", "offset"),
        ] {
            assert_eq!(asked(query, None).unwrap_err().0.param.as_deref(), Some(param), "{query}");
        }
    }

    #[test]
    fn the_id_that_was_seen_last_beats_the_address() {
        let found = asked("live=sse&offset=-1", Some("0000000000000007")).unwrap();
        assert_eq!((found.start, found.returns), (Start::At(Position::At(Offset::new(7))), true));
        assert!(asked("live=sse", Some("7")).unwrap().returns);
        let other = asked("live=long-poll&offset=-1", Some("7")).unwrap();
        assert_eq!((other.start, other.returns), (Start::At(Position::Beginning), false));
        assert_eq!(asked("live=sse", Some("x")).unwrap_err().0.param.as_deref(), Some("Last-Event-ID"));
    }
}
