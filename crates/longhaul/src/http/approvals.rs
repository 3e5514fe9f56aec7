//! `/v1/runs/{id}/approvals`: what the agent asked, and the answer to one question.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use longhaul_api::request::{decode, digest_of, parse_object, refuse_unknown};
use longhaul_api::{Approval, ApprovalList, ErrorCode, Problem};
use longhaul_engine::{AnswerError, Question};
use longhaul_model::event::{ApprovalAnswered, Decision};
use longhaul_model::{RunId, RunKey};
use serde::Deserialize;
use serde_json::Value;

use super::App;
use super::query::{PathId, Query};
use super::reply::{self, Failure};

#[derive(Debug, Deserialize)]
struct Body {
    decision: Decision,
    digest: Option<String>,
    reason: Option<String>,
    op_id: Option<RunId>,
    by: Option<String>,
}

/// `GET /v1/runs/{id}/approvals`.
pub(super) async fn list(
    State(app): State<App>,
    PathId(id): PathId,
    RawQuery(query): RawQuery,
) -> Result<Json<ApprovalList>, Failure> {
    let key = Query::parse(query.as_deref(), &["project"])?.key(&id)?;
    let data = questions(&app, &key).await?.into_iter().map(|question| shown(&key, question)).collect();
    Ok(Json(ApprovalList { object: "list".to_owned(), data }))
}

/// `POST /v1/runs/{id}/approvals/{approval_id}`.
pub(super) async fn answer(
    State(app): State<App>,
    Path((id, approval_id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let key = Query::parse(query.as_deref(), &["project"])?.key(&id)?;
    if approval_id.is_empty() || approval_id.len() > 20 || !approval_id.bytes().all(|b| b.is_ascii_digit()) {
        return Err(absent(&key, &approval_id));
    }
    let map = parse_object(&reply::body(body)?)?;
    refuse_unknown(&map, &["decision", "digest", "reason", "op_id", "by"])?;
    if !map.contains_key("decision") {
        return Err(Problem::invalid("decision", "decision must be allow or deny").into());
    }
    let digest = digest_of("approval.answer.v1", &map, &["op_id"]);
    let body: Body = decode(Value::Object(map))?;
    if body.reason.as_ref().is_some_and(|r| r.len() > 1024) {
        return Err(Problem::invalid("reason", "reason has at most 1024 bytes").into());
    }
    let by = reply::asker(body.by.as_deref())?.to_owned();
    let operation = super::input::operation(body.op_id, &headers, digest)?;
    let given = ApprovalAnswered {
        approval_id: approval_id.clone(),
        decision: body.decision,
        by,
        reason: body.reason,
        answer_of: None,
    };
    app.engine.answer(&key, given, body.digest, operation).await.map_err(|e| failure(e, &key, &approval_id))?;
    let found = questions(&app, &key).await?.into_iter().rev().find(|one| one.seen.approval_id == approval_id);
    match found {
        Some(question) => Ok(Json(shown(&key, question)).into_response()),
        None => Err(absent(&key, &approval_id)),
    }
}

async fn questions(app: &App, key: &RunKey) -> Result<Vec<Question>, Failure> {
    match app.engine.questions(key).await? {
        Some(questions) => Ok(questions),
        None if app.engine.is_gone(key).await? => Err(reply::gone(key)),
        None => Err(reply::not_found(key)),
    }
}

fn shown(key: &RunKey, question: Question) -> Approval {
    let Question { seen, arguments, cwd, why } = question;
    Approval {
        approval_id: seen.approval_id,
        object: "approval".to_owned(),
        run_id: key.run.clone(),
        status: seen.status,
        tool: seen.tool,
        arguments,
        cwd,
        digest: seen.digest,
        asks_because: why,
        requested_at: seen.requested_at,
        seq: seen.seq,
        decision: seen.decision,
        by: seen.by,
        reason: seen.reason,
    }
}

fn absent(key: &RunKey, approval_id: &str) -> Failure {
    let id: String = approval_id.chars().filter(|c| !c.is_control()).take(64).collect();
    Failure::new(ErrorCode::ApprovalNotFound, format!("run {} asked no question {id}", key.run))
}

fn failure(error: AnswerError, key: &RunKey, approval_id: &str) -> Failure {
    match error {
        AnswerError::RunNotFound => reply::not_found(key),
        AnswerError::Gone => reply::gone(key),
        AnswerError::NotFound => absent(key, approval_id),
        AnswerError::Settled { status, decision } => {
            let word = decision.map(Decision::as_str);
            let text = match word {
                Some(word) => format!("question {approval_id} has its answer already: {word}"),
                None => format!("nobody waits for an answer to question {approval_id} any more"),
            };
            Problem::new(ErrorCode::ApprovalSettled, text).fact("status", status).fact("decision", word).into()
        }
        AnswerError::Digest { expected, received } => {
            let text = format!("question {approval_id} is another one than this answer is for; look at it again");
            Problem::new(ErrorCode::ApprovalConflict, text)
                .param("digest")
                .fact("expected_digest", expected)
                .fact("received_digest", received)
                .into()
        }
        AnswerError::OperationConflict => reply::operation_conflict(),
        AnswerError::Draining => Failure::new(ErrorCode::Draining, "the server is stopping; ask the next one"),
        AnswerError::Commit(error) => error.into(),
        AnswerError::Store(error) => error.into(),
    }
}
