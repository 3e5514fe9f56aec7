//! What Codex asks, and what it is answered.
//!
//! Job: the fields of its questions, each with what yes and what no mean to it. A question of another kind is none for
//! people. Never: says yes by itself.

use longhaul_model::event::{ApprovalAnswered, ApprovalRequested, Decision};
use longhaul_model::{AttemptNo, canonical};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::frames;
use crate::channel::line;
use crate::shape::{id, text};

/// Files of a change that a question names.
const FILES_MAX: usize = 8;

/// Bytes of their names in all, so that they have a known size in a saved state.
const PATHS_BYTES_MAX: usize = 320;

/// A change of files that may be asked about: the question itself names none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Change {
    /// Checksum of its item's id.
    #[serde(rename = "i")]
    item: u32,
    /// Kinds and paths of the first files.
    #[serde(rename = "p")]
    files: Vec<(String, String)>,
    #[serde(rename = "n")]
    count: usize,
    /// Of the whole change, so that an answer is for it and for no other.
    #[serde(rename = "d")]
    digest: String,
}

impl Change {
    /// The change in an item.
    pub(super) fn of(item_id: &str, item: &Value) -> Option<Self> {
        let changes = item.get("changes")?.as_array()?;
        let mut room = PATHS_BYTES_MAX;
        let mut files = Vec::new();
        for change in changes.iter().take(FILES_MAX) {
            let (Some(path), kind) = (text(change, "path"), text(change, "kind")) else { continue };
            let kind = kind.filter(|kind| ["add", "delete", "update"].contains(kind)).unwrap_or("update");
            // A name that is escaped counts as often as it is then long.
            let bytes = json!(path).to_string().len();
            if bytes > room {
                break;
            }
            room -= bytes;
            files.push((kind.to_owned(), path.to_owned()));
        }
        let digest = canonical::digest("codex.changes.v1", item.get("changes")?);
        Some(Self { item: crc32fast::hash(item_id.as_bytes()), files, count: changes.len(), digest })
    }

    fn arguments(&self) -> Value {
        let files: Vec<_> = self.files.iter().map(|(kind, path)| json!({ "kind": kind, "path": path })).collect();
        json!({ "changes": files, "count": self.count, "digest": self.digest })
    }
}

/// A question: what is asked, and what its answers are.
pub(super) struct Question {
    pub(super) asked: ApprovalRequested,
    pub(super) no: Value,
}

/// What a request asks of people; `None` if it is no question for them.
pub(super) fn question(request: &Value, method: &str, params: &Value, change: Option<&Change>) -> Option<Question> {
    let call_id = id(params, "itemId").map(str::to_owned);
    let (accept, decline) = (json!({ "decision": "accept" }), json!({ "decision": "decline" }));
    let (tool, arguments, yes, no) = match method {
        "item/commandExecution/requestApproval" => {
            let mut arguments = json!({});
            for name in ["command", "cwd", "networkApprovalContext"] {
                if let Some(value) = params.get(name).filter(|value| !value.is_null()) {
                    arguments[name] = value.clone();
                }
            }
            ("command_execution".to_owned(), arguments, accept, decline)
        }
        "item/fileChange/requestApproval" => {
            let sum = call_id.as_deref().map(|id| crc32fast::hash(id.as_bytes()));
            let change = change.filter(|change| Some(change.item) == sum);
            let mut arguments = change.map_or_else(|| json!({ "call_id": call_id }), Change::arguments);
            if let Some(root) = text(params, "grantRoot") {
                arguments["grant_root"] = json!(root);
            }
            ("file_change".to_owned(), arguments, accept, decline)
        }
        "item/permissions/requestApproval" => {
            let wanted = params.get("permissions").filter(|wanted| wanted.is_object())?;
            let yes = json!({ "permissions": wanted, "scope": "turn" });
            let arguments = json!({ "permissions": wanted, "cwd": params.get("cwd") });
            ("request_permissions".to_owned(), arguments, yes, json!({ "permissions": {} }))
        }
        "mcpServer/elicitation/request" => {
            let about =
                params.get("_meta").filter(|meta| text(meta, "codex_approval_kind") == Some("mcp_tool_call"))?;
            let (server, tool) = (text(params, "serverName")?, text(about, "tool_name").unwrap_or("?"));
            let arguments = about.get("tool_params").cloned().unwrap_or(Value::Null);
            (format!("mcp__{server}__{tool}"), arguments, json!({ "action": "accept", "content": {} }), declined())
        }
        _ => return None,
    };
    let asked = ApprovalRequested {
        approval_id: String::new(),
        attempt: AttemptNo::default(),
        tool,
        arguments,
        cwd: String::new(),
        digest: String::new(),
        call_id,
        reason: text(params, "reason").filter(|reason| !reason.trim().is_empty()).map(str::to_owned),
        source_request_id: source_id(request),
        source_request: json!({ "id": request, "allow": yes, "deny": no }),
    };
    Some(Question { asked, no })
}

/// A question of a server of tools that is not about a call is not for people.
pub(super) fn declined() -> Value {
    json!({ "action": "decline" })
}

/// The id of a request as text.
pub(super) fn source_id(request: &Value) -> String {
    request.as_str().map_or_else(|| request.to_string(), str::to_owned)
}

/// The answer of people.
pub(super) fn answer(asked: &ApprovalRequested, answer: &ApprovalAnswered) -> Vec<u8> {
    let name = match answer.decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
    };
    let source = &asked.source_request;
    let nothing = Value::Null;
    line(&frames::answered(source.get("id").unwrap_or(&nothing), source.get(name).unwrap_or(&nothing)))
}
