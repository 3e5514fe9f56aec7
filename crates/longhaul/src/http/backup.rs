//! `POST /v1/backup`: a consistent copy of the live store into a directory of the server's host.
//!
//! An operator's request: it writes where the server's user may write. One at a time, the others wait.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{RawQuery, State};
use longhaul_api::{ErrorCode, Problem, request};
use longhaul_store::StoreError;
use longhaul_store_embedded::EmbeddedStore;
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::query::Query;
use super::reply::{self, Failure};
use crate::backup::{self, BackupError};

/// What makes backups.
pub struct Backups {
    store: Arc<EmbeddedStore>,
    data_dir: PathBuf,
    one: tokio::sync::Mutex<()>,
}

impl Backups {
    /// Of a store and the data directory around it.
    pub fn new(store: Arc<EmbeddedStore>, data_dir: &Path) -> Self {
        Self { store, data_dir: data_dir.to_owned(), one: tokio::sync::Mutex::default() }
    }
}

#[derive(Deserialize)]
struct Body {
    dest: Option<PathBuf>,
    output: Option<bool>,
}

/// The handler.
pub(super) async fn backup(
    State(app): State<App>,
    RawQuery(raw): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Failure> {
    Query::parse(raw.as_deref(), &[])?;
    let map = request::parse_object(&reply::body(body)?)?;
    request::refuse_unknown(&map, &["dest", "output"])?;
    let body: Body = request::decode(Value::Object(map))?;
    let Some(dest) = body.dest else {
        return Err(Problem::invalid("dest", "dest is the absolute path where the backup shall be").into());
    };
    let wanted = backup::Request { dest, output: body.output.unwrap_or(true) };
    let made = async {
        let _one = app.backups.one.lock().await;
        backup::live(&app.backups.store, &app.backups.data_dir, &wanted, app.engine.now()).await
    };
    let made = tokio::select! {
        made = made => made.map_err(failure)?,
        () = app.draining.cancelled() => {
            return Err(Failure::new(ErrorCode::Draining, "the server is stopping; there is no backup"));
        }
    };
    tracing::info!(dest = %wanted.dest.display(), position = made.position, "made a backup");
    Ok(Json(json!({
        "object": "backup",
        "dest": wanted.dest,
        "made_at": made.made_at,
        "store_id": made.store_id,
        "position": made.position,
        "runs": made.runs,
        "live": made.live,
        "output": made.output,
        "files": made.files.len(),
        "bytes": made.bytes(),
    })))
}

fn failure(error: BackupError) -> Failure {
    match error {
        BackupError::Dest { .. } => Problem::invalid("dest", error.to_string()).into(),
        BackupError::Io { path, source } if source.kind() == std::io::ErrorKind::StorageFull => {
            Failure::new(ErrorCode::StoreFull, format!("there is no room for {}; there is no backup", path.display()))
        }
        BackupError::Io { path, source } => {
            let text = format!("could not write {}: {source}; there is no backup", path.display());
            Failure::new(ErrorCode::StoreFailed, text)
        }
        BackupError::Store(StoreError::Unavailable(why)) if why.contains("the disk is full") => {
            Failure::new(ErrorCode::StoreFull, "there is no room for the copy of the store; there is no backup")
        }
        BackupError::Store(error) => error.into(),
        BackupError::Open(error) => Failure::new(ErrorCode::StoreFailed, error.to_string()),
    }
}
