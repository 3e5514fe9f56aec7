//! `live=long-poll`: one answer, once there is something to say or the time is over.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use longhaul_api::streams::header as name;
use longhaul_engine::streams::{Happened, Info, SpanPage};
use longhaul_model::limits;
use longhaul_model::stream::Offset;

use super::answer::{NO_STORE, Place, set};
use super::read::{self, Asked};
use super::refusal::{self, Refused};
use super::source::Source;
use crate::http::App;

/// Waits for what comes after an offset.
pub(super) async fn answer(
    app: &App,
    mut source: Source,
    info: &Info,
    start: Offset,
    asked: &Asked,
) -> Result<Response, Refused> {
    let deadline = tokio::time::Instant::now() + app.long_poll;
    loop {
        let page = source.span(start, limits::STREAM_PAGE_BYTES).await?;
        if page.messages > 0 {
            return Ok(read::live(info, page, asked.next_cursor(app)));
        }
        if page.closed_at_end {
            return Ok(nothing(app, &page, asked));
        }
        let happened = tokio::select! {
            happened = source.wait(start) => happened?,
            () = tokio::time::sleep_until(deadline) => return Ok(nothing(app, &page, asked)),
            () = app.draining.cancelled() => return Ok(nothing(app, &page, asked)),
        };
        if happened == Happened::Deleted {
            return Err(refusal::not_found());
        }
    }
}

/// There was nothing, or there will never be.
fn nothing(app: &App, page: &SpanPage, asked: &Asked) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let out = response.headers_mut();
    let place = Place { up_to_date: true, ..Place::after(page) };
    place.tell(out);
    if !place.closed {
        set(out, name::CURSOR, asked.next_cursor(app));
    }
    out.insert(header::CACHE_CONTROL, NO_STORE);
    response
}
