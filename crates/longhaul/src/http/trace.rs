//! The trace that a request belongs to: its `traceparent` header.

use axum::http::HeaderMap;
use longhaul_engine::NewRun;
use longhaul_model::Trace;
use longhaul_model::event::Warning;

/// Puts a new run into the trace that its request names. A header that is not valid begins no trace, by the rules of
/// the W3C, and the run says so.
pub(super) fn join(new: &mut NewRun, headers: &HeaderMap) {
    let mut given = headers.get_all("traceparent").iter();
    let Some(header) = given.next() else { return };
    // The layout of a UUID fixes six bits of its first half and two of the other: together they are random.
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    let span = high ^ low.rotate_left(32);
    let trace = header.to_str().ok().filter(|_| given.next().is_none()).and_then(|text| Trace::parse(text, span));
    if trace.is_none() {
        new.warnings.push(Warning {
            code: "traceparent_ignored".to_owned(),
            message: "the header traceparent is not valid; the run belongs to no trace".to_owned(),
        });
    }
    new.sealed.trace = trace;
}
