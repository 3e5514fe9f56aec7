//! `GET /v1/runs/{id}/log`: the raw spool of the last attempt or a named one, with ranges.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use longhaul_api::{ErrorCode, Problem};
use longhaul_model::limits;

use super::query::{PathId, Query};
use super::reply::Failure;
use super::{App, runs};

/// Bytes of one read.
const CHUNK: usize = 128 << 10;

/// What part of a file is asked for, end exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    from: u64,
    to: u64,
}

/// The one range of a Range header; `None` if there is none to honour (RFC 9110 section 14.2: others are ignored).
fn range(headers: &HeaderMap, len: u64) -> Result<Option<Part>, Failure> {
    let Some(text) = headers.get(header::RANGE).and_then(|v| v.to_str().ok()) else { return Ok(None) };
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|spec| spec.trim().split_once('-')) else {
        return Ok(None);
    };
    let number = |text: &str| text.parse::<u64>().ok();
    let part = match (first, last) {
        ("", last) => number(last).map(|n| Part { from: len.saturating_sub(n), to: len }),
        (first, "") => number(first).map(|from| Part { from, to: len }),
        (first, last) => match (number(first), number(last)) {
            (Some(from), Some(last)) if from <= last => Some(Part { from, to: last.saturating_add(1).min(len) }),
            _ => None,
        },
    };
    match part {
        Some(part) if part.from >= part.to => {
            Err(Problem::new(ErrorCode::RangeNotSatisfiable, format!("the log has {len} bytes"))
                .param("Range")
                .fact("bytes", len)
                .into())
        }
        part => Ok(part),
    }
}

/// The handler.
pub(super) async fn log(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let query = Query::parse(query.as_deref(), &["project", "stream", "attempt"])?;
    let key = query.key(&id)?;
    let name @ ("stdout" | "stderr") = query.one("stream")?.unwrap_or("stdout") else {
        return Err(Problem::invalid("stream", "stream must be stdout or stderr").into());
    };
    let view = runs::view(&app, &key).await?;
    let attempt = query.number("attempt", 1, limits::ATTEMPTS_MAX.into())?;
    let attempt = attempt.map_or(view.doc.run.attempts, |number| number as u32);
    if attempt > view.doc.run.attempts.max(1) {
        let text = format!("the run has had {} attempts", view.doc.run.attempts);
        return Err(Problem::invalid("attempt", text).into());
    }
    let dir = app.engine.attempt_dir(&view.doc, attempt);
    let kept = dir.as_deref().and_then(Path::parent).is_some_and(Path::exists);
    let path = dir.map(|dir| dir.join(name));
    let opened = tokio::task::spawn_blocking(move || -> io::Result<Option<(std::fs::File, u64)>> {
        let Some(path) = path else { return Ok(None) };
        match std::fs::File::open(path) {
            Ok(file) => {
                let len = file.metadata()?.len();
                Ok(Some((file, len)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await;
    let opened = opened.unwrap_or_else(|error| Err(io::Error::other(error)));
    let (file, len) = match opened {
        Ok(Some((file, len))) => (Some(Arc::new(file)), len),
        // An attempt that never started has none, and no other either once retention has been there.
        Ok(None) if !kept && view.doc.run.status.is_terminal() && printed(&view.doc.run.totals, name) => {
            let text = "the files of this run's output are no longer kept; its events are";
            return Err(Problem::new(ErrorCode::LogExpired, text).into());
        }
        Ok(None) => (None, 0),
        Err(error) => return Err(Failure::new(ErrorCode::StoreFailed, format!("the log cannot be read: {error}"))),
    };
    let asked = range(&headers, len)?;
    let part = asked.unwrap_or(Part { from: 0, to: len });
    let body = match file {
        Some(file) => Body::from_stream(chunks(file, part)),
        None => Body::empty(),
    };
    let mut response = body.into_response();
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    answer.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    answer.insert(header::CONTENT_LENGTH, HeaderValue::from(part.to - part.from));
    if asked.is_some() {
        let text = format!("bytes {}-{}/{len}", part.from, part.to - 1);
        if let Ok(value) = HeaderValue::from_str(&text) {
            answer.insert(header::CONTENT_RANGE, value);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    runs::name(&mut response, &key, &view.doc.run.digest);
    Ok(response)
}

/// Whether there was output on this stream.
fn printed(totals: &longhaul_model::event::Totals, stream: &str) -> bool {
    (if stream == "stdout" { totals.stdout_bytes } else { totals.stderr_bytes }) > 0
}

fn chunks(file: Arc<std::fs::File>, part: Part) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold((file, part), |(file, part)| async move {
        if part.from >= part.to {
            return None;
        }
        let want = (part.to - part.from).min(CHUNK as u64) as usize;
        let reading = Arc::clone(&file);
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; want];
            reading.read_exact_at(&mut bytes, part.from).map(|()| bytes)
        })
        .await;
        let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
        match read {
            Ok(bytes) => {
                let next = Part { from: part.from + bytes.len() as u64, to: part.to };
                Some((Ok(Bytes::from(bytes)), (file, next)))
            }
            Err(error) => Some((Err(error), (file, Part { from: part.to, to: part.to }))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_rfc() {
        let ask = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, text.parse().unwrap());
            range(&headers, 100)
        };
        assert_eq!(ask("bytes=0-9").unwrap(), Some(Part { from: 0, to: 10 }));
        assert_eq!(ask("bytes=90-").unwrap(), Some(Part { from: 90, to: 100 }));
        assert_eq!(ask("bytes=-10").unwrap(), Some(Part { from: 90, to: 100 }));
        assert_eq!(ask("bytes=50-500").unwrap(), Some(Part { from: 50, to: 100 }));
        assert_eq!(ask("lines=1-2").unwrap(), None);
        assert_eq!(ask("bytes=9-1").unwrap(), None);
        assert_eq!(ask("bytes=100-").unwrap_err().0.code, ErrorCode::RangeNotSatisfiable);
    }
}
