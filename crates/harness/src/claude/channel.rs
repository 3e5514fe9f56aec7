//! What is said to Claude over its standard input, and what it asks there.
//!
//! Job: the frames of its stream-json protocol, and the fields of its questions. Written against recorded runs of
//! 2.1.329 with `--permission-prompt-tool stdio`.

use longhaul_model::event::{ApprovalAnswered, ApprovalRequested, ApprovalWithdrawn, Decision, EventData};
use serde_json::{Value, json};

use crate::channel::{Channel, CloseWhen, Frame, Reply, line};
use crate::plan::StopStep;
use crate::shape::{id, text};

/// What a refusal says if nobody gave a reason.
const REFUSED: &str = "The user did not allow this.";

/// The channel of a run. One that asks is let go by its owner: a message that came with the last word makes another
/// turn, in which it may ask again. Any other is let go by its `result`, whether an owner is there or not.
pub(super) fn channel(prompt: &str, asks: bool) -> Channel {
    Channel {
        opening: vec![Frame::line("prompt", &said(prompt, None))],
        prepared: vec![],
        close_when: (!asks).then_some(CloseWhen::JsonType("result")),
        acknowledges: true,
    }
}

fn said(text: &str, uuid: Option<&str>) -> Value {
    let message = json!({ "role": "user", "content": [{ "type": "text", "text": text }] });
    match uuid {
        Some(uuid) => json!({ "type": "user", "message": message, "parent_tool_use_id": null, "uuid": uuid }),
        None => json!({ "type": "user", "message": message, "parent_tool_use_id": null }),
    }
}

/// A person's message. Claude names it in its `command_lifecycle` lines by the id.
pub(super) fn input(input_id: &str, text: &str) -> Vec<u8> {
    line(&said(text, Some(input_id)))
}

/// Its own cancel, then the signals.
pub(super) fn stop() -> Vec<StopStep> {
    let interrupt = json!({
        "type": "control_request", "request_id": "interrupt", "request": { "subtype": "interrupt" },
    });
    let mut steps = vec![StopStep::Write { bytes: line(&interrupt), wait_ms: 3_000 }];
    steps.extend(crate::plan::stop_by_interrupt());
    steps
}

/// A `control_request`: a question for people, or one that nobody here can answer.
pub(super) fn asked(asks: &Value) -> Option<Result<ApprovalRequested, Reply>> {
    let request_id = id(asks, "request_id")?;
    let request = asks.get("request")?;
    let subtype = text(request, "subtype")?;
    if subtype != "can_use_tool" {
        let error = format!("this client does not answer {subtype}");
        let answer = json!({ "subtype": "error", "request_id": request_id, "error": error });
        let message = json!({ "type": "control_response", "response": answer });
        return Some(Err(Reply::Frame(Frame::line(format!("reply/{request_id}"), &message))));
    }
    let arguments = request.get("input").filter(|input| input.is_object())?.clone();
    let reason = ["decision_reason", "blocked_path"].into_iter().find_map(|name| text(request, name));
    Some(Ok(ApprovalRequested {
        approval_id: String::new(),
        attempt: longhaul_model::AttemptNo::default(),
        tool: text(request, "tool_name")?.to_owned(),
        arguments,
        cwd: String::new(),
        digest: String::new(),
        call_id: id(request, "tool_use_id").map(str::to_owned),
        reason: reason.map(str::to_owned),
        source_request_id: request_id.to_owned(),
        source_request: Value::Null,
    }))
}

/// A `control_cancel_request`: it does not wait any more.
pub(super) fn withdrawn(takes_back: &Value) -> Option<EventData> {
    let source_request_id = Some(id(takes_back, "request_id")?.to_owned());
    Some(ApprovalWithdrawn { approval_id: String::new(), reason: "source".to_owned(), source_request_id }.into())
}

/// The answer to a question.
pub(super) fn answer(asked: &ApprovalRequested, answer: &ApprovalAnswered) -> Vec<u8> {
    let response = match answer.decision {
        Decision::Allow => json!({ "behavior": "allow", "updatedInput": asked.arguments }),
        Decision::Deny => {
            let message = answer.reason.as_deref().filter(|reason| !reason.is_empty()).unwrap_or(REFUSED);
            json!({ "behavior": "deny", "message": message })
        }
    };
    let response = json!({ "subtype": "success", "request_id": asked.source_request_id, "response": response });
    line(&json!({ "type": "control_response", "response": response }))
}
