//! The trace that a request belongs to: its headers `traceparent` and `tracestate`.

use axum::http::HeaderMap;
use longhaul_engine::NewRun;
use longhaul_model::Trace;
use longhaul_model::event::Warning;

use super::App;

/// Puts a new run into the trace that its request names. A header that is not valid names none, by the rules of the W3C,
/// and the run says so. A run that is in nobody's trace begins one if the server exports traces.
pub(super) fn join(app: &App, new: &mut NewRun, headers: &HeaderMap) {
    let whole = uuid::Uuid::new_v4().as_u128();
    // The layout of a UUID fixes six bits of its first half and two of the other: together they are random.
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    let span = high ^ low.rotate_left(32);
    let mut given = headers.get_all("traceparent").iter();
    let trace = match given.next() {
        None => None,
        Some(header) => {
            let text = header.to_str().ok().filter(|_| given.next().is_none());
            let mut trace = text.and_then(|text| Trace::parse(text, span));
            match &mut trace {
                None => ignored(new, "traceparent_ignored", "the header traceparent is not valid"),
                Some(trace) => trace.state = state(new, headers),
            }
            trace
        }
    };
    new.sealed.trace = trace.or_else(|| if app.traces { Trace::begin(whole, span) } else { None });
}

/// What `tracestate` says. One that is not valid takes nothing from the trace.
fn state(new: &mut NewRun, headers: &HeaderMap) -> Option<String> {
    let given: Vec<_> = headers.get_all("tracestate").iter().collect();
    if given.is_empty() {
        return None;
    }
    let texts: Option<Vec<&str>> = given.iter().map(|header| header.to_str().ok()).collect();
    let state = texts.and_then(|texts| Trace::parse_state(&texts.join(",")));
    if state.is_none() {
        ignored(
            new,
            "tracestate_ignored",
            "the header tracestate is not valid, or is longer than what is carried along",
        );
    }
    state
}

fn ignored(new: &mut NewRun, code: &str, message: &str) {
    new.warnings.push(Warning { code: code.to_owned(), message: format!("{message}; it was ignored") });
}
