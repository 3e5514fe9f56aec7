//! What a model request asks for: from Chat Completions or Responses to its run, and to the answer's delivery.
//!
//! Job: find the run that is meant or start it, by one rule for all dialects; wait for its end; tell when an answer was
//! given. Never: knows how a dialect writes its answer.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use longhaul_api::request::Message;
use longhaul_api::{ErrorCode, Problem, RunRequest, chat};
use longhaul_engine::View;
use longhaul_model::{ProjectId, RunId, RunKey, SessionId, limits};
use serde_json::{Map, Value};

use super::caller::Caller;
use super::reply::{self, Failure};
use super::{App, chat_retry, runs};

/// A request of any dialect.
pub(super) struct Request {
    /// The dialect's name.
    pub(super) face: &'static str,
    /// The id in the body.
    pub(super) run_id: Option<RunId>,
    pub(super) project: Option<ProjectId>,
    /// The rest of it, as a run's.
    pub(super) run: RunRequest,
    pub(super) digest: String,
    pub(super) messages: Vec<Message>,
    /// The same as it came, where the dialect shows it again.
    pub(super) input: Option<Value>,
    /// What the dialect calls a run's fields, where it has another name for them.
    pub(super) names: &'static [(&'static str, &'static str)],
    /// The run whose session it goes on with.
    pub(super) previous: Option<RunId>,
    /// How long to wait for a place before anything is accepted; nothing to be accepted at once.
    pub(super) queue: Option<Duration>,
    /// What the dialect shows again with the run.
    pub(super) note: Map<String, Value>,
    pub(super) ignored: Vec<String>,
}

/// What a request turned out to be about.
pub(super) struct Asked {
    pub(super) key: RunKey,
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

/// The session that a header names.
pub(super) fn session(headers: &HeaderMap) -> Result<Option<SessionId>, Failure> {
    let Some(value) = headers.get("x-session-id") else { return Ok(None) };
    let text = value.to_str().unwrap_or("?");
    Ok(Some(SessionId::parse(text).map_err(|e| Problem::invalid("x-session-id", e.to_string()))?))
}

/// How long a request waits for a place.
pub(super) fn queue(ms: Option<u64>) -> Duration {
    ms.map_or(limits::QUEUE_TIMEOUT, Duration::from_millis)
}

/// Finds the run that is meant, or starts it. A refusal names the field as the dialect does.
pub(super) async fn dispatch(
    app: &App,
    request: Request,
    headers: &HeaderMap,
    caller: &Caller,
) -> Result<Asked, Failure> {
    let names = request.names;
    run_of(app, request, headers, caller).await.map_err(|mut failure| {
        if let Some(param) = &mut failure.0.param {
            for (name, own) in names {
                if let Some(rest) = param.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with('[')) {
                    *param = format!("{own}{rest}");
                    break;
                }
            }
        }
        failure
    })
}

async fn run_of(app: &App, request: Request, headers: &HeaderMap, who: &Caller) -> Result<Asked, Failure> {
    let Request { mut run, digest, messages, .. } = request;
    let project = who.project(request.project)?;
    let caller = who.name.clone();
    let retry = retry_count(headers);
    let given = runs::run_id(request.run_id, headers)?;
    let anonymous = given.is_none();
    let repeated =
        if anonymous && retry > 0 { chat_retry::find(app, &project, &caller, &digest, retry).await? } else { None };
    let run_id = given.or(repeated).unwrap_or_else(|| RunId::from_uuid(uuid::Uuid::now_v7()));
    let key = RunKey { project, run: run_id };
    let ignored = request.ignored;
    let asked = Asked { key: key.clone(), digest: digest.clone(), caller: caller.clone(), anonymous, ignored };
    let refuse = |error| reply::dispatch_failure(error, &key);
    if app.engine.attach(&key, &digest).await.map_err(refuse)? {
        return Ok(asked);
    }
    // Where it has no session, one is made of it.
    let mut alone = None;
    if let Some(previous) = &request.previous {
        run.session_id = session_of(app, &key.project, previous).await?;
        alone = run.session_id.is_none().then(|| RunKey { project: key.project.clone(), run: previous.clone() });
    }
    let prompt = chat::prompt_of(&messages)?;
    let turn = chat::turn_of(&messages)?;
    let mut new = runs::new_run(run, digest.clone(), key.clone(), who, (request.face, anonymous), Some(prompt))?;
    new.origin.note = request.note;
    new.records.extend(request.input.map(|input| super::input_items::write(&key, input)));
    new.sealed.turn = turn;
    new.after = request.previous;
    super::trace::join(app, &mut new, headers);
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
    if let Some(of) = &alone {
        new = app.engine.continued(of, new).await.map_err(|error| {
            let mut failure = reply::resume_failure(error, of, &key);
            failure.0.param.get_or_insert_with(|| "previous_response_id".to_owned());
            failure
        })?;
    }
    let session = new.session.clone();
    let placeless = || chat_retry::Placeless::new(app, &key.project, &caller, &digest, retry);
    let waiting = anonymous.then(placeless);
    if let Some(at_most) = request.queue {
        let place = new.origin.who(&key, &new.harness);
        let reserved = tokio::select! {
            reserved = app.engine.reserve(place, session.as_ref(), at_most) => reserved.map_err(refuse)?,
            () = app.draining.cancelled() => {
                return Err(reply::dispatch_failure(longhaul_engine::DispatchError::Draining, &key));
            }
        };
        new.reserved = Some(reserved.ok_or_else(|| saturated(app, at_most))?);
    }
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

fn saturated(app: &App, waited: Duration) -> Failure {
    let (live, live_max, queued) = app.engine.places();
    Problem::new(ErrorCode::Saturated, "no place became free in time; nothing was started")
        .fact("dispatch", "not_started")
        .fact("live", live)
        .fact("live_max", live_max)
        .fact("queued", queued)
        .fact("waited_ms", waited.as_millis() as u64)
        .into()
}

/// The session that an earlier run is a turn of, if it is one of any.
async fn session_of(app: &App, project: &ProjectId, previous: &RunId) -> Result<Option<SessionId>, Failure> {
    let key = RunKey { project: project.clone(), run: previous.clone() };
    let view = runs::view(app, &key).await.map_err(|mut failure| {
        failure.0.param = Some("previous_response_id".to_owned());
        failure
    })?;
    Ok(view.doc.run.session_id.clone())
}

/// Names the run, and what was ignored, in an answer's headers.
pub(super) fn name(response: &mut Response, asked: &Asked) {
    runs::name(response, &asked.key, &asked.digest);
    if let Ok(value) = HeaderValue::from_str(&asked.ignored.join(", "))
        && !asked.ignored.is_empty()
    {
        response.headers_mut().insert("x-longhaul-ignored", value);
    }
}

/// The run once it is over.
pub(super) async fn ended(app: &App, key: &RunKey) -> Result<View, Failure> {
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
    if let Some(problem) = chat::problem_of(&view.doc.run) {
        return Err(problem.into());
    }
    if !view.doc.run.status.is_terminal() {
        return Err(Failure::new(ErrorCode::Draining, "the server is stopping and the run goes on; ask again"));
    }
    Ok(view)
}

/// What to do once the answer was given to the end.
pub(super) fn delivered(app: &App, asked: &Asked) -> Option<Box<dyn FnOnce() + Send>> {
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

/// A whole answer, whose delivery is noted.
pub(super) fn give(app: &App, asked: &Asked, body: &Value) -> Response {
    let mut delivered = delivered(app, asked);
    let bytes = Bytes::from(body.to_string());
    let length = HeaderValue::from(bytes.len());
    let parts = stream::unfold((Some(bytes), Given(None)), move |(bytes, _)| {
        let given = delivered.take();
        async move { Some((Ok::<_, std::convert::Infallible>(bytes?), (None, Given(given)))) }
    });
    let mut response = Body::from_stream(parts).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    response
}
