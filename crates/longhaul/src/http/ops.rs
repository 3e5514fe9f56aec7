//! For those who look after the server: `/livez`, `/readyz`, `/health`, `/metrics`, `/v1/shutdown`.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longhaul_api::{LiveProof, Problem};
use longhaul_engine::probe::Readiness;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::App;
use super::query::Query;
use super::reply::Failure;

/// `GET /livez`: the process answers. With a challenge, proof that it is the one that `server.json` names.
pub(super) async fn livez(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Json<LiveProof>, Failure> {
    let query = Query::parse(query.as_deref(), &["challenge"])?;
    let challenge = query.one("challenge")?;
    if challenge.is_some_and(|c| c.len() > 255) {
        return Err(Problem::invalid("challenge", "challenge has at most 255 bytes").into());
    }
    let proof = challenge.map(|challenge| {
        let hash = Sha256::digest(format!("{}:{challenge}", app.nonce));
        hash.iter().map(|b| format!("{b:02x}")).collect()
    });
    Ok(Json(LiveProof { status: "ok".to_owned(), version: crate::VERSION.to_owned(), proof }))
}

/// `GET /readyz`: new work is accepted.
pub(super) async fn readyz(State(app): State<App>) -> Response {
    let draining = app.engine.is_draining() || app.engine.is_holding();
    let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let text = if draining { "draining" } else { "ok" };
    (status, Json(json!({ "status": text, "version": crate::VERSION }))).into_response()
}

/// `GET /health`: the full report.
pub(super) async fn health(State(app): State<App>) -> Json<Value> {
    let (live, live_max, queued) = app.engine.places();
    let recovery = app.engine.recovery();
    let drift = app.engine.drift();
    let store: Map<String, Value> =
        app.engine.store().health().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let lag = app.pulse.delay();
    let ms = |delay: std::time::Duration| (delay.as_micros() as f64 / 1e3 * 10.0).round() / 10.0;
    let harnesses: Vec<Value> = app.engine.harnesses(std::time::Duration::ZERO).await.iter().map(readiness).collect();
    let disk = app.engine.disk().map(|disk| {
        json!({
            "free_bytes": disk.free_bytes,
            "total_bytes": disk.total_bytes,
            "min_free_bytes": disk.min_free_bytes,
            "low": disk.is_low(),
        })
    });
    let grounds = &app.engine.containment().grounds;
    Json(json!({
        "status": if app.engine.is_draining() || app.engine.is_holding() { "draining" } else { "ok" },
        "version": crate::VERSION,
        "pid": std::process::id(),
        "address": &*app.address,
        "uptime_ms": app.started.elapsed().as_millis() as u64,
        "epoch": app.engine.epoch().get(),
        "runs": { "live": app.engine.live_count(), "processes": app.engine.process_count(), "places_taken": live, "places": live_max, "queued": queued },
        "drift": { "idle_places": drift.idle, "uncounted_runs": drift.uncounted },
        "busy": live >= live_max,
        "recovery": {
            "recovered": recovery.recovered,
            "adopted": recovery.adopted,
            "finished": recovery.finished,
            "requeued": recovery.requeued,
            "failed": recovery.failed,
            "pending": recovery.pending,
        },
        "event_loop_delay_ms": lag.map(|(last, worst)| json!({ "last": ms(last), "worst_10s": ms(worst) })),
        "harnesses": harnesses,
        "cgroup": { "groups": grounds.any(), "memory": grounds.limits_memory(), "tasks": grounds.limits_tasks() },
        "upstreams": app.engine.upstreams().iter().map(upstream).collect::<Vec<_>>(),
        "store": store,
        "disk": disk,
        "upgrade": { "binary": app.upgrades.installed(), "failure": app.upgrades.failure() },
    }))
}

/// One harness's program, as JSON.
pub(crate) fn readiness(harness: &Readiness) -> Value {
    json!({
        "harness": harness.harness,
        "state": harness.state(),
        "path": harness.path,
        "version": harness.version(),
        "tested_version": harness.tested,
    })
}

/// One endpoint of `passthrough`, as JSON. Nobody is called: whether the key is good only the upstream knows.
fn upstream((upstream, state): &(&longhaul_harness::Upstream, &'static str)) -> Value {
    json!({ "name": upstream.name, "kind": upstream.dialect.as_str(), "state": state })
}

/// `GET /metrics`, in Prometheus' text format.
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let (live, live_max, queued) = app.engine.places();
    metrics::gauge!("longhaul_live_runs").set(app.engine.live_count() as f64);
    metrics::gauge!("longhaul_places_taken").set(live as f64);
    metrics::gauge!("longhaul_places").set(live_max as f64);
    metrics::gauge!("longhaul_queued_runs").set(queued as f64);
    let drift = app.engine.drift();
    metrics::gauge!("longhaul_places_drift", "kind" => "idle").set(drift.idle as f64);
    metrics::gauge!("longhaul_places_drift", "kind" => "uncounted").set(drift.uncounted as f64);
    metrics::gauge!("longhaul_connections").set(app.connections.len() as f64);
    metrics::gauge!("longhaul_uptime_seconds").set(app.started.elapsed().as_secs_f64());
    if let Some((_, worst)) = app.pulse.delay() {
        metrics::gauge!("longhaul_event_loop_delay_seconds").set(worst.as_secs_f64());
    }
    for (name, value) in app.engine.store().health() {
        metrics::gauge!("longhaul_store", "what" => name).set(value as f64);
    }
    app.metrics.run_upkeep();
    let mut response = app.metrics.render().into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// `POST /v1/shutdown`: drains and ends the server; runs go on.
pub(super) async fn shutdown(State(app): State<App>) -> Response {
    app.stop.cancel();
    (StatusCode::ACCEPTED, Json(json!({ "status": "draining", "pid": std::process::id() }))).into_response()
}
