//! `/v1/runs`: create, list, show, why, delete.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longhaul_api::{ErrorCode, OnCwdBusy, OnDisconnect, OnLost, Problem, Queue, RunList, RunRequest, Snapshot};
use longhaul_engine::{Confine, Contained, Dispatched, NewRun, Sealed, View};
use longhaul_harness::Permissions;
use longhaul_model::{RunId, RunKey, Seq, Status, StreamId, limits};
use longhaul_store::RunFilter;
use serde_json::json;

use super::App;
use super::caller::Caller;
use super::query::{PathId, Query};
use super::reply::{self, Failure, SHOULD_RETRY};

/// A run's snapshot.
pub(super) fn snapshot(view: &View, text: bool) -> Snapshot {
    let mut snapshot = Snapshot::of(&view.doc.run, view.doc.metadata.clone(), text);
    snapshot.queue = view.queue.map(|position| Queue { position });
    snapshot.readers = view.readers;
    snapshot
}

/// The view of a run that must be there.
pub(super) async fn view(app: &App, key: &RunKey) -> Result<View, Failure> {
    match app.engine.view(key).await? {
        Some(view) => Ok(view),
        None => Err(match app.engine.erased(key).await? {
            Some(erased) => reply::erased(key, &erased),
            None => reply::not_found(key),
        }),
    }
}

/// Headers that name a run.
pub(super) fn name(response: &mut Response, key: &RunKey, digest: &str) {
    let headers = response.headers_mut();
    for (name, value) in [("x-run-id", key.run.as_str()), ("x-run-request-digest", digest)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
}

fn unsupported(param: &str, message: &str) -> Failure {
    Problem::new(ErrorCode::UnsupportedField, message).param(param).into()
}

/// The engine's request for a parsed one. `prompt` and `system` are what its messages became.
pub(super) fn new_run(
    request: RunRequest,
    digest: String,
    key: RunKey,
    caller: &Caller,
    (face, anonymous): (&str, bool),
    defaults_prompt: Option<(String, Option<String>)>,
) -> Result<NewRun, Failure> {
    let mcp = super::fields::mcp(request.mcp.as_ref())?;
    let schema = super::fields::schema(request.response_format.as_ref())?;
    let run_limits = request.limits.clone().unwrap_or_default();
    let turn = request.messages.as_deref().map(longhaul_api::chat::turn_of).transpose()?.flatten();
    let (prompt, system) = match (defaults_prompt, &request.messages) {
        (Some((prompt, system)), _) => (Some(prompt), system),
        (None, Some(messages)) => {
            let (prompt, system) = longhaul_api::chat::prompt_of(messages)?;
            (Some(prompt), system)
        }
        (None, None) => (request.prompt.clone(), None),
    };
    let system = match (request.system.clone(), system) {
        (Some(a), Some(b)) => Some(format!("{a}\n\n{b}")),
        (a, b) => a.or(b),
    };
    let harness = match (&request.harness, &request.command) {
        (Some(harness), _) => harness.clone(),
        (None, Some(_)) => "exec".to_owned(),
        // The session's.
        (None, None) if request.session_id.is_some() => String::new(),
        (None, None) => {
            return Err(Problem::invalid("harness", "name a harness, or a command to run").into());
        }
    };
    let on_lost = request.on_lost.unwrap_or_default();
    if on_lost == OnLost::Resume && harness == "exec" {
        let text = "a command has no session to go on with, so on_lost resume is not supported by exec; fail is";
        return Err(unsupported("on_lost", text));
    }
    let permissions = match request.permissions.unwrap_or_default() {
        longhaul_api::Permissions::Cli => Permissions::Cli,
        longhaul_api::Permissions::ReadOnly => Permissions::ReadOnly,
        longhaul_api::Permissions::Edit => Permissions::Edit,
        longhaul_api::Permissions::Full => Permissions::Full,
        longhaul_api::Permissions::Ask => Permissions::Ask,
    };
    let sealed = Sealed {
        model: request.model,
        prompt,
        turn,
        system,
        command: request.command,
        args: request.args.unwrap_or_default(),
        stdin: request.stdin,
        cwd: request.cwd.unwrap_or_default().into(),
        env: request.env.unwrap_or_default(),
        captured_env: request.captured_env,
        effort: request.effort,
        permissions,
        allowed_tools: request.allowed_tools.unwrap_or_default(),
        approvals: request.approvals,
        schema,
        mcp,
        turns_max: run_limits.turns_max,
        budget: longhaul_model::event::Budget {
            cost_usd_max: run_limits.cost_usd_max,
            tokens_max: run_limits.tokens_max,
        },
        idle_ms: run_limits.idle_ms,
        timeout_ms: request.timeout_ms.unwrap_or(limits::TIMEOUT_DEFAULT.as_millis() as u64),
        new_session: uuid::Uuid::new_v4().to_string(),
        home: request.home,
        contained: Contained {
            memory_bytes_max: run_limits.memory_bytes_max,
            tasks_max: run_limits.tasks_max,
            confine: match request.confine.unwrap_or_default() {
                longhaul_api::Confine::None => Confine::None,
                longhaul_api::Confine::Write => Confine::Write,
                longhaul_api::Confine::Full => Confine::Full,
            },
        },
        trace: None,
    };
    Ok(NewRun {
        session: request.session_id,
        after: None,
        name: request.name,
        tags: request.tags.unwrap_or_default(),
        metadata: request.metadata.unwrap_or_default(),
        origin: caller.origin(face, anonymous),
        allowed_roots: caller.allowed_roots(),
        on_lost,
        cancel_on_disconnect: request.on_disconnect == Some(OnDisconnect::Cancel),
        refuse_busy_cwd: request.on_cwd_busy == Some(OnCwdBusy::Refuse),
        wait_for_cwd: request.on_cwd_busy == Some(OnCwdBusy::Queue),
        ..NewRun::new(key, digest, harness, sealed)
    })
}

/// One id out of the body and the headers; two that differ are refused.
pub(super) fn run_id(body: Option<RunId>, headers: &HeaderMap) -> Result<Option<RunId>, Failure> {
    let mut found = body.map(|id| ("run_id", id));
    for name in ["x-run-id", "idempotency-key"] {
        let Some(value) = headers.get(name) else { continue };
        let text = value.to_str().unwrap_or("?");
        // OpenAI's SDKs send an Idempotency-Key of their own making with some requests; it is an id like another.
        let id = RunId::parse(text).map_err(|e| Problem::invalid(name, e.to_string()))?;
        match &found {
            Some((other, known)) if *known != id => {
                return Err(Problem::invalid(name, format!("{name} and {other} name different runs")).into());
            }
            _ => found = Some((name, id)),
        }
    }
    Ok(found.map(|(_, id)| id))
}

/// `POST /v1/runs`.
pub(super) async fn create(
    State(app): State<App>,
    RawQuery(raw): RawQuery,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    Query::parse(raw.as_deref(), &[])?;
    let (request, digest) = RunRequest::parse(&reply::body(body)?)?;
    let given = run_id(request.run_id.clone(), &headers)?;
    let anonymous = given.is_none();
    let run = given.unwrap_or_else(|| RunId::from_uuid(uuid::Uuid::now_v7()));
    let project = caller.project(request.project.clone())?;
    let key = RunKey { project, run };
    let mut new = new_run(request, digest.clone(), key.clone(), &caller, ("runs", anonymous), None)?;
    super::trace::join(&app, &mut new, &headers);
    let dispatched = app.engine.dispatch(new).await.map_err(|e| reply::dispatch_failure(e, &key))?;
    accepted(&app, &key, &digest, dispatched).await
}

/// The answer for a run that was accepted or was there.
pub(super) async fn accepted(
    app: &App,
    key: &RunKey,
    digest: &str,
    dispatched: Dispatched,
) -> Result<Response, Failure> {
    let view = view(app, key).await?;
    let snapshot = snapshot(&view, true);
    let location = snapshot.links.own.clone();
    let status = match dispatched {
        Dispatched::Created => StatusCode::CREATED,
        Dispatched::Attached => StatusCode::OK,
    };
    let mut response = (status, Json(snapshot)).into_response();
    name(&mut response, key, digest);
    if let Ok(value) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    Ok(response)
}

/// `GET /v1/runs/{id}`.
pub(super) async fn show(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(raw): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::parse(raw.as_deref(), &["project", "wait_ms"])?;
    let key = query.key(&id)?;
    let wait = query.wait()?;
    if !wait.is_zero() {
        tokio::select! {
            _ = app.engine.wait_end(&key, wait) => {}
            () = app.draining.cancelled() => {}
        }
    }
    let view = view(&app, &key).await?;
    let mut response = Json(snapshot(&view, true)).into_response();
    name(&mut response, &key, &view.doc.run.digest);
    Ok(response)
}

/// `GET /v1/runs`.
pub(super) async fn list(State(app): State<App>, RawQuery(raw): RawQuery) -> Result<Json<RunList>, Failure> {
    let query = Query::parse(raw.as_deref(), &["status", "tag", "harness", "project", "limit", "after"])?;
    let mut filter = RunFilter { project: query.project()?, ..RunFilter::default() };
    for text in query.all("status").flat_map(|v| v.split(',')) {
        let status = Status::parse(text).ok_or_else(|| {
            let names: Vec<&str> = Status::ALL.iter().map(|s| s.as_str()).collect();
            Problem::invalid("status", format!("{text:?} is not a status; {} are", names.join(", ")))
        })?;
        filter.statuses.push(status);
    }
    for text in query.all("tag") {
        let (key, value) =
            text.split_once('=').ok_or_else(|| Problem::invalid("tag", "a tag is asked for as key=value"))?;
        filter.tags.push((key.to_owned(), value.to_owned()));
    }
    filter.harness = query.one("harness")?.map(str::to_owned);
    filter.limit = query.number("limit", 1, limits::LIST_MAX as u64)?.unwrap_or(limits::LIST_DEFAULT as u64) as usize;
    if let Some(text) = query.one("after")? {
        let number = Seq::parse(text).map_err(|_| {
            Problem::new(ErrorCode::InvalidCursor, "after must be the next of an earlier page").param("after")
        })?;
        filter.before = Some(StreamId::new(number.get()));
    }
    // The feed's position comes first: what changes while the list is made is seen again, never missed.
    let feed = *app.engine.store().watch_feed().borrow();
    let page = app.engine.store().runs(filter).await?;
    let mut data = Vec::with_capacity(page.rows.len());
    for row in &page.rows {
        if let Some(view) = app.engine.view(&row.key).await? {
            data.push(snapshot(&view, false));
        }
    }
    let next = page.rows.last().filter(|_| page.more).map(|row| row.stream.to_string());
    Ok(Json(RunList { object: "list".to_owned(), data, has_more: page.more, next, feed }))
}

/// Erases a run, and the shares that showed it.
pub(super) async fn forget(app: &App, key: &RunKey) -> Result<(), Failure> {
    app.engine.erase(key).await.map_err(|e| reply::erase_failure(e, key))?;
    if let Err(error) = app.tokens.forget(&app.engine, key).await {
        // What they open is gone, and they expire by themselves.
        tracing::warn!(run = %key, %error, "could not remove the shares of an erased run");
    }
    Ok(())
}

/// `DELETE /v1/runs/{id}`.
pub(super) async fn erase(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(raw): RawQuery,
) -> Result<Response, Failure> {
    let query = Query::parse(raw.as_deref(), &["project", "wait_ms"])?;
    let key = query.key(&id)?;
    let wait = query.wait()?;
    forget(&app, &key).await?;
    let bytes_gone_at = app.engine.wait_gone(&key, wait).await?;
    let gone = ["events", "row", "output", "secrets", "directories that longhaul made"];
    let body = json!({
        "id": key.run, "object": "run.deleted", "deleted": true, "gone": gone, "bytes_gone_at": bytes_gone_at,
    });
    Ok(Json(body).into_response())
}

/// `GET /v1/runs/{id}/why`.
pub(super) async fn why(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(raw): RawQuery,
) -> Result<Json<longhaul_api::Why>, Failure> {
    let key = Query::parse(raw.as_deref(), &["project"])?.key(&id)?;
    let Some(why) = app.engine.why(&key).await? else {
        view(&app, &key).await?;
        return Err(reply::not_found(&key));
    };
    let (next, next_what) = why.next.unzip();
    Ok(Json(longhaul_api::Why {
        cause: why.cause,
        owner: why.owner.to_owned(),
        since: why.since,
        next,
        next_what,
        facts: why.facts,
    }))
}
