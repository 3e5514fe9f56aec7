//! `POST /v1/upgrade`: another program takes this server's place, once it has said that it can.

use std::path::PathBuf;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use longhaul_api::request::{decode, parse_object, refuse_unknown};
use longhaul_api::{ErrorCode, Problem};
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::reply::{self, Failure};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    binary: Option<PathBuf>,
}

/// The handler.
pub(super) async fn upgrade(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Result<Response, Failure> {
    let map = parse_object(&reply::body(body)?)?;
    refuse_unknown(&map, &["binary"])?;
    let body: Body = decode(Value::Object(map))?;
    if body.binary.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Err(Problem::invalid("binary", "binary must be an absolute path").into());
    }
    if app.draining.is_cancelled() {
        return Err(Failure::new(ErrorCode::Draining, "the server is stopping"));
    }
    match app.upgrades.ask(body.binary.as_deref()).await {
        Ok(next) => {
            let told = json!({
                "status": "upgrading",
                "pid": std::process::id(),
                "epoch": app.engine.epoch().get(),
                "version": crate::VERSION,
                "next_version": next.version,
                "binary": next.program,
            });
            Ok((StatusCode::ACCEPTED, Json(told)).into_response())
        }
        Err(refused) => Err(Failure::new(ErrorCode::UpgradeRefused, refused.to_string())),
    }
}
