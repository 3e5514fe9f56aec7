//! Conversations by ACP: what the harness says is what the recorder said, and what no recording has.

mod replay;

use std::collections::HashSet;

use longhaul_harness::{Channel, Frame, Harness, Parser, Permissions, Reply, Request, SourceLine, StopStep, find};
use longhaul_model::EventData;
use longhaul_model::event::{ApprovalAnswered, Decision, OutputStream};
use serde_json::{Value, json};

use replay::SAID;

/// A conversation that is held with lines that are given.
struct Talk {
    harness: &'static dyn Harness,
    parser: Box<dyn Parser>,
    channel: Channel,
    /// What we said.
    said: Vec<Value>,
    /// The ids of our frames: one is written once, as the input log does it.
    written: HashSet<String>,
    events: Vec<EventData>,
}

impl Talk {
    fn new(harness: &str, request: &Request<'_>) -> Self {
        let harness = find(harness).unwrap();
        let plan = harness.plan(request).unwrap();
        let channel = plan.channel.unwrap();
        let said = channel.opening.iter().flat_map(|frame| messages(&frame.bytes)).collect();
        Self {
            harness,
            parser: harness.parser(None).unwrap(),
            channel,
            said,
            written: HashSet::new(),
            events: Vec::new(),
        }
    }

    /// A conversation with any agent, as far as a session with these modes.
    fn begun(permissions: Permissions, more: &Request<'_>, session: Value) -> Self {
        let request = Request { command: Some("agent"), prompt: Some("do it"), cwd: "/w", permissions, ..more.clone() };
        let mut talk = Self::new("acp", &request);
        let id = talk.said[0]["id"].clone();
        let can = json!({ "loadSession": true });
        talk.hears(json!({ "id": id, "result": { "protocolVersion": 1, "agentCapabilities": can } }));
        talk.hears(json!({ "id": 2, "result": session }));
        talk
    }

    fn hears(&mut self, message: Value) {
        let mut message = message;
        message["jsonrpc"] = json!("2.0");
        self.line(message.to_string().as_bytes());
    }

    fn line(&mut self, bytes: &[u8]) {
        let before = self.events.len();
        let line = SourceLine { stream: OutputStream::Stdout, bytes, eol: true, part: None };
        self.parser.line(&line, &mut self.events);
        for reply in self.parser.take_replies() {
            let frame = match reply {
                Reply::Frame(frame) => frame,
                Reply::Prepared { id, set } => {
                    let prepared = self.channel.prepared.iter().find(|frame| frame.id == id);
                    prepared.unwrap_or_else(|| panic!("no frame {id} was prepared")).clone().complete(set)
                }
            };
            self.say(&frame);
        }
        for event in &self.events[before..] {
            if let EventData::ApprovalRequested(asked) = event {
                let answer = ApprovalAnswered {
                    approval_id: "1".to_owned(),
                    decision: Decision::Allow,
                    by: "api".to_owned(),
                    reason: None,
                    answer_of: None,
                };
                let bytes = self.harness.answer(asked, &answer).unwrap();
                self.said.extend(messages(&bytes));
            }
        }
    }

    fn say(&mut self, frame: &Frame) {
        if self.written.insert(frame.id.clone()) {
            self.said.extend(messages(&frame.bytes));
        }
    }

    fn methods(&self) -> Vec<String> {
        let name = |message: &Value| message["method"].as_str().unwrap_or("answer").to_owned();
        self.said.iter().map(name).collect()
    }

    fn story(&self) -> String {
        replay::story(&self.events)
    }
}

fn messages(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.ends_with('\n'), "{text:?} is a whole line");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A message without what is the recorder's own: its ids, its name, its words for a refusal.
fn plain(mut message: Value) -> Value {
    if message.get("method").is_some()
        && let Some(id) = message.get_mut("id")
    {
        *id = json!("ours");
    }
    if let Some(name) = message.pointer_mut("/params/clientInfo") {
        *name = Value::Null;
    }
    if let Some(words) = message.pointer_mut("/error/message") {
        *words = Value::Null;
    }
    message
}

#[test]
fn what_is_said_is_what_the_recorder_said() {
    let mut seen = 0;
    for recorded in replay::all().into_iter().filter(|recorded| replay::speaks_acp(recorded.harness.name())) {
        let said: Vec<Value> = recorded
            .raw
            .split(|b| *b == b'\n')
            .filter_map(|line| line.strip_prefix(SAID))
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let params = |method: &str| said.iter().find(|m| m["method"] == method).map(|m| m["params"].clone());
        let session = params("session/load").or_else(|| params("session/new")).unwrap();
        let prompt = params("session/prompt").map_or(json!("x"), |params| params["prompt"][0]["text"].clone());
        let request = Request {
            command: (recorded.harness.name() == "acp").then_some("agent"),
            prompt: prompt.as_str(),
            cwd: session["cwd"].as_str().unwrap(),
            permissions: Permissions::Ask,
            resume: session["sessionId"].as_str(),
            ..Request::default()
        };
        let mut talk = Talk::new(recorded.harness.name(), &request);
        let mut cancel = None;
        for line in replay::lines(&recorded.stdout) {
            cancel = talk.parser.interrupt().or(cancel);
            talk.line(line.bytes);
        }
        let ours: Vec<Value> = talk.said.into_iter().map(plain).collect();
        // One prompt is all that a run has; a cancel is written by the owner.
        let theirs: Vec<Value> =
            said.iter().filter(|m| m["id"] != 11 && m["method"] != "session/cancel").cloned().map(plain).collect();
        assert_eq!(ours, theirs, "{}", recorded.name);
        if let Some(theirs) = said.iter().find(|m| m["method"] == "session/cancel") {
            assert_eq!(messages(&cancel.unwrap()).first(), Some(theirs), "{}", recorded.name);
        }
        seen += 1;
    }
    assert_eq!(seen, 36, "nine agents, four conversations of each");
}

fn modes(ids: &[&str], current: &str) -> Value {
    let ids: Vec<Value> = ids.iter().map(|id| json!({ "id": id, "name": id })).collect();
    json!({ "sessionId": "s1", "modes": { "currentModeId": current, "availableModes": ids } })
}

#[test]
fn a_mode_and_a_model_are_taken_before_the_prompt() {
    let mut session = modes(&["default", "yolo"], "default");
    session["models"] = json!({ "currentModelId": "a", "availableModels": [] });
    let more = Request { model: Some("b"), ..Request::default() };
    let mut talk = Talk::begun(Permissions::Full, &more, session);
    assert_eq!(talk.methods(), ["initialize", "session/new", "session/set_model", "session/set_mode"]);
    assert_eq!(talk.said[2]["params"], json!({ "sessionId": "s1", "modelId": "b" }));
    assert_eq!(talk.said[3]["params"], json!({ "sessionId": "s1", "modeId": "yolo" }));
    // gemini says so in the shape of a message.
    let chunk =
        json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": "[MODE_UPDATE]" } });
    talk.hears(json!({ "method": "session/update", "params": { "sessionId": "s1", "update": chunk } }));
    talk.hears(json!({ "id": 4, "result": {} }));
    assert_eq!(talk.said.len(), 4, "the model is not named yet");
    talk.hears(json!({ "id": 3, "result": {} }));
    let prompt = json!({ "sessionId": "s1", "prompt": [{ "type": "text", "text": "do it" }] });
    assert_eq!((&talk.said[4]["method"], &talk.said[4]["params"]), (&json!("session/prompt"), &prompt));
    assert_eq!(talk.story(), "session s1\n");
}

#[test]
fn options_stand_for_modes_and_models() {
    let option = |id: &str, category: &str, values: [&str; 2]| {
        let values = values.map(|value| json!({ "value": value, "name": value }));
        json!({ "type": "select", "id": id, "category": category, "currentValue": values[0]["value"], "options": values })
    };
    let options = json!([option("m-1", "mode", ["build", "plan"]), option("m-2", "model", ["a", "b"])]);
    let more = Request { model: Some("b"), ..Request::default() };
    let talk = Talk::begun(Permissions::ReadOnly, &more, json!({ "sessionId": "s1", "configOptions": options }));
    let set = |config: &str, value: &str| json!({ "sessionId": "s1", "configId": config, "value": value });
    assert_eq!(talk.methods()[2..], ["session/set_config_option", "session/set_config_option"]);
    assert_eq!((&talk.said[2]["params"], &talk.said[3]["params"]), (&set("m-2", "b"), &set("m-1", "plan")));
}

#[test]
fn a_promise_that_cannot_be_kept_ends_the_conversation_before_the_prompt() {
    let end = |permissions, more: &Request<'_>, session| {
        let talk = Talk::begun(permissions, more, session);
        assert!(!talk.methods().contains(&"session/prompt".to_owned()), "{:?}", talk.said);
        assert!(talk.parser.at_rest(), "the input is closed then");
        talk.story()
    };
    let none = Request::default();
    assert_eq!(
        end(Permissions::ReadOnly, &none, modes(&["build"], "build")),
        "session s1\nfailure agent_error: the agent has no mode for permissions read_only; it offers build\n"
    );
    assert_eq!(
        end(Permissions::Edit, &none, json!({ "sessionId": "s1" })),
        "session s1\nfailure agent_error: the agent has no mode for permissions edit; it offers none\n"
    );
    let more = Request { model: Some("b"), ..Request::default() };
    assert_eq!(
        end(Permissions::Cli, &more, json!({ "sessionId": "s1" })),
        "session s1\nfailure agent_error: the agent lets nobody name its model; name it in its own configuration\n"
    );
}

#[test]
fn an_agent_of_another_version_or_without_sessions_is_not_prompted() {
    let hears = |resume, result: Value| {
        let request = Request { command: Some("agent"), prompt: Some("x"), resume, ..Request::default() };
        let mut talk = Talk::new("acp", &request);
        let id = talk.said[0]["id"].clone();
        talk.hears(json!({ "id": id, "result": result }));
        (talk.methods(), talk.story())
    };
    let (said, story) = hears(None, json!({ "protocolVersion": 2 }));
    assert_eq!(said, ["initialize"]);
    assert_eq!(story, "failure agent_error: the agent speaks version 2 of the protocol, and this is 1\n");
    let (said, story) = hears(Some("s1"), json!({ "protocolVersion": 1, "agentCapabilities": {} }));
    assert_eq!(said, ["initialize"]);
    assert_eq!(story, "failure session_not_found: the agent cannot go on with a session\n");
    let sessions = json!({ "loadSession": false, "sessionCapabilities": { "resume": {} } });
    let (said, _) = hears(Some("s1"), json!({ "protocolVersion": 1, "agentCapabilities": sessions }));
    assert_eq!(said, ["initialize", "session/resume"]);
}

#[test]
fn an_agent_that_wants_a_login_says_so() {
    let request = Request { command: Some("agent"), prompt: Some("x"), ..Request::default() };
    let mut talk = Talk::new("acp", &request);
    let id = talk.said[0]["id"].clone();
    talk.hears(json!({ "id": id, "result": { "protocolVersion": 1 } }));
    talk.hears(json!({ "id": 2, "error": { "code": -32000, "message": "Authentication required" } }));
    assert_eq!(talk.story(), "failure not_logged_in: Authentication required\n");
    assert!(talk.parser.at_rest());
}

fn ask(id: Value, kind: Option<&str>) -> Value {
    let option = |id: &str, kind: &str| json!({ "optionId": id, "name": id, "kind": kind });
    let options = [option("aa", "allow_always"), option("ao", "allow_once"), option("ro", "reject_once")];
    let mut call = json!({ "toolCallId": "c1", "title": "T", "rawInput": { "path": "f" } });
    if let Some(kind) = kind {
        call["kind"] = json!(kind);
    }
    let params = json!({ "sessionId": "s1", "toolCall": call, "options": options });
    json!({ "id": id, "method": "session/request_permission", "params": params })
}

#[test]
fn what_may_be_done_follows_from_the_permissions() {
    for (permissions, kind, chosen) in [
        (Permissions::Cli, "edit", "ro"),
        (Permissions::ReadOnly, "edit", "ro"),
        (Permissions::Edit, "edit", "ao"),
        (Permissions::Edit, "execute", "ro"),
        (Permissions::Full, "execute", "ao"),
    ] {
        let mut talk = Talk::begun(permissions, &Request::default(), modes(&["default", "plan"], "plan"));
        talk.hears(json!({ "id": 4, "result": {} }));
        talk.hears(ask(json!("q-1"), Some(kind)));
        let outcome = json!({ "outcome": { "outcome": "selected", "optionId": chosen } });
        let answer = json!({ "jsonrpc": "2.0", "id": "q-1", "result": outcome });
        assert_eq!(talk.said.last(), Some(&answer), "{permissions:?} {kind}");
        assert_eq!(talk.story().contains("warns permission_denied"), chosen == "ro", "{}", talk.story());
        assert!(talk.story().contains(&format!("calls c1 {kind} {{\"path\":\"f\"}}")), "{}", talk.story());
    }
}

#[test]
fn an_agent_that_stops_when_it_is_refused_has_not_succeeded() {
    let chunk = json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": "Then not." } });
    let refused = json!({ "sessionUpdate": "tool_call_update", "toolCallId": "c1", "status": "failed" });
    let other = json!({ "sessionUpdate": "tool_call", "toolCallId": "c2", "title": "t", "status": "completed" });
    for (after, success) in [(None, false), (Some(refused), false), (Some(chunk), true), (Some(other), true)] {
        let mut talk = Talk::begun(Permissions::Cli, &Request::default(), json!({ "sessionId": "s1" }));
        talk.hears(ask(json!(1), Some("edit")));
        if let Some(update) = after {
            talk.hears(json!({ "method": "session/update", "params": { "sessionId": "s1", "update": update } }));
        }
        talk.hears(json!({ "id": 5, "result": { "stopReason": "end_turn" } }));
        let told = talk.story();
        assert_eq!(
            (told.contains("success true"), told.contains("failure permission_denied")),
            (success, !success),
            "{told}"
        );
    }
}

#[test]
fn a_call_is_known_by_the_kind_it_was_seen_with() {
    let mut talk = Talk::begun(Permissions::Edit, &Request::default(), modes(&["default"], "default"));
    let call = json!({ "sessionUpdate": "tool_call", "toolCallId": "c1", "title": "Bash", "kind": "execute",
        "status": "in_progress", "rawInput": { "command": "rm" } });
    talk.hears(json!({ "method": "session/update", "params": { "sessionId": "s1", "update": call } }));
    talk.hears(ask(json!(7), None));
    assert_eq!(talk.said.last().unwrap()["result"]["outcome"]["optionId"], "ro");
}

#[test]
fn an_agent_that_offers_no_such_option_is_told_that_nobody_chose() {
    let mut talk = Talk::begun(Permissions::Cli, &Request::default(), json!({ "sessionId": "s1" }));
    let mut question = ask(json!(0), Some("edit"));
    question["params"]["options"] = json!([{ "optionId": "a", "name": "a", "kind": "allow_once" }]);
    talk.hears(question);
    assert_eq!(talk.said.last().unwrap()["result"], json!({ "outcome": { "outcome": "cancelled" } }));
}

#[test]
fn a_cancel_answers_the_questions_that_wait() {
    let mut talk = Talk::begun(Permissions::Ask, &Request::default(), json!({ "sessionId": "s1" }));
    talk.hears(ask(json!(3), Some("edit")));
    let said = messages(&talk.parser.interrupt().unwrap());
    let cancelled = json!({ "outcome": { "outcome": "cancelled" } });
    assert_eq!((&said[0]["method"], &said[0]["params"]), (&json!("session/cancel"), &json!({ "sessionId": "s1" })));
    assert_eq!((&said[1]["id"], &said[1]["result"]), (&json!(3), &cancelled));
    // One that the agent takes back waits no more.
    talk.hears(json!({ "method": "$/cancel_request", "params": { "requestId": 3 } }));
    assert!(talk.story().ends_with("asks no more 3\n"), "{}", talk.story());
    assert_eq!(messages(&talk.parser.interrupt().unwrap()).len(), 1);
}

#[test]
fn what_nobody_here_can_answer_is_answered_with_an_error_each_time() {
    let mut talk = Talk::begun(Permissions::Full, &Request::default(), json!({ "sessionId": "s1" }));
    let read = json!({ "sessionId": "s1", "path": "/etc/shadow" });
    for _ in 0..2 {
        // The same id again: an agent may, once it has its answer.
        talk.hears(json!({ "id": 9, "method": "fs/read_text_file", "params": read }));
        let answer = talk.said.last().unwrap();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(9), &json!(-32601)));
    }
    assert_eq!(talk.said.len(), 5, "{:?}", talk.said);
    assert!(talk.story().contains("warns source: the agent asked for fs/read_text_file, which it was not offered"));
}

#[test]
fn every_reason_to_stop_has_its_meaning() {
    for (reason, told) in [
        ("end_turn", "success true"),
        ("refusal", "failure upstream: the model refused to answer"),
        ("max_tokens", "failure upstream: the model's answer was cut at its limit of tokens"),
        ("max_turn_requests", "failure max_turns: the agent used up its requests for one turn"),
        ("cancelled", "failure interrupted: the agent says that it was cancelled"),
        ("sunset", "failure agent_error: the agent stopped for a reason that is not known: sunset"),
    ] {
        let mut talk = Talk::begun(Permissions::Cli, &Request::default(), json!({ "sessionId": "s1" }));
        talk.hears(json!({ "id": 5, "result": { "stopReason": reason } }));
        assert_eq!(talk.story(), format!("session s1\n{told}\n"));
        assert!(talk.parser.at_rest());
    }
}

#[test]
fn a_providers_status_is_found_in_the_agents_words() {
    for (error, told) in [
        (json!({ "code": 429, "message": "slow down" }), "failure rate_limited: slow down"),
        (
            json!({ "code": -32603, "message": "Internal error", "data": { "details": "401 no key" } }),
            "failure not_logged_in: Internal error: 401 no key",
        ),
        (json!({ "code": -32603, "message": "it broke" }), "failure agent_error: it broke"),
    ] {
        let mut talk = Talk::begun(Permissions::Cli, &Request::default(), json!({ "sessionId": "s1" }));
        talk.hears(json!({ "id": 5, "error": error }));
        assert_eq!(talk.story(), format!("session s1\n{told}\n"));
    }
}

#[test]
fn noise_and_other_sessions_are_kept() {
    let mut talk = Talk::begun(Permissions::Cli, &Request::default(), json!({ "sessionId": "s1" }));
    let chunk = json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": "x" } });
    talk.line(b"npm notice");
    talk.hears(json!({ "method": "session/update", "params": { "sessionId": "s2", "update": chunk } }));
    talk.hears(json!({ "id": 77, "result": {} }));
    assert_eq!(talk.story().matches("keeps stdout").count(), 3, "{}", talk.story());
}

#[test]
fn what_is_told_late_does_not_undo_the_end() {
    for (reason, last) in [("end_turn", "success true\n"), ("refusal", "shows message_1: late\n")] {
        let mut talk = Talk::begun(Permissions::Cli, &Request::default(), json!({ "sessionId": "s1" }));
        talk.hears(json!({ "id": 5, "result": { "stopReason": reason } }));
        let chunk = json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": "late" } });
        talk.hears(json!({ "method": "session/update", "params": { "sessionId": "s1", "update": chunk } }));
        talk.parser.end(&mut talk.events);
        assert!(talk.story().ends_with(last), "{reason}: {}", talk.story());
    }
}

fn text(piece: &str) -> Value {
    let chunk = json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": piece } });
    json!({ "method": "session/update", "params": { "sessionId": "s1", "update": chunk } })
}

/// What is written for a message, if it can be said when so many were said.
fn message(talk: &mut Talk, said: u64) -> Option<Value> {
    talk.parser.said(said);
    talk.parser.input("i", "more").map(|bytes| messages(&bytes).remove(0))
}

#[test]
fn messages_are_said_one_after_another_when_the_turn_is_over() {
    let mut talk = Talk::begun(Permissions::Cli, &Request::default(), json!({ "sessionId": "s1" }));
    assert_eq!(message(&mut talk, 0), None, "a second prompt now would end the first");
    talk.hears(text("one"));
    talk.hears(json!({ "id": 5, "result": { "stopReason": "end_turn" } }));
    assert!(talk.parser.at_rest());
    let first = message(&mut talk, 0).unwrap();
    let params = json!({ "sessionId": "s1", "prompt": [{ "type": "text", "text": "more" }] });
    assert_eq!((&first["method"], &first["params"]), (&json!("session/prompt"), &params));
    assert_eq!(message(&mut talk, 1), None, "it has not answered the one before");
    assert!(!talk.parser.at_rest());
    talk.hears(text("two"));
    let mut resumed = talk.harness.parser(Some(&talk.parser.state())).unwrap();
    resumed.said(1);
    assert!(!resumed.at_rest());
    talk.hears(json!({ "id": first["id"], "result": { "stopReason": "end_turn" } }));
    assert!(talk.parser.at_rest());
    let second = message(&mut talk, 1).unwrap();
    assert_ne!(second["id"], first["id"]);
    message(&mut talk, 2);
    talk.hears(json!({ "id": second["id"], "error": { "code": -32600, "message": "busy" } }));
    assert!(talk.parser.at_rest(), "it is not told again");
    let third = message(&mut talk, 2).unwrap();
    message(&mut talk, 3);
    talk.hears(json!({ "id": third["id"], "error": { "code": 429, "message": "slow down" } }));
    assert_eq!((message(&mut talk, 3), talk.parser.at_rest()), (None, true), "none after a failure");
    assert_eq!(
        talk.story(),
        "session s1\nshows message_1: one\nsuccess true\ntakes 1\nshows message_2: two\ntakes 1\nsuccess true\n\
         warns source: the agent did not take a message: busy\ntakes 3\nfailure rate_limited: slow down\n"
    );
}

#[test]
fn a_turn_of_a_message_that_has_no_end_is_no_success() {
    for (said, last) in [(0, "success true\n"), (1, "shows message_1: two\n")] {
        let mut talk = Talk::begun(Permissions::Cli, &Request::default(), json!({ "sessionId": "s1" }));
        talk.hears(json!({ "id": 5, "result": { "stopReason": "end_turn" } }));
        talk.hears(text("two"));
        talk.parser.said(said);
        talk.parser.end(&mut talk.events);
        assert!(talk.story().ends_with(last), "{said}: {}", talk.story());
    }
}

#[test]
fn nothing_is_said_where_the_prompt_was_not() {
    let mut talk = Talk::begun(Permissions::Edit, &Request::default(), json!({ "sessionId": "s1" }));
    assert_eq!((talk.parser.at_rest(), message(&mut talk, 0)), (true, None), "its permissions cannot be kept");
}

#[test]
fn opencode_is_told_at_once() {
    let request = Request { command: Some("opencode"), prompt: Some("x"), ..Request::default() };
    let mut talk = Talk::new("acp", &request);
    let id = talk.said[0]["id"].clone();
    talk.hears(json!({ "id": id, "result": { "protocolVersion": 1, "agentInfo": { "name": "OpenCode" } } }));
    assert_eq!(message(&mut talk, 0), None, "the prompt comes first");
    talk.hears(json!({ "id": 2, "result": { "sessionId": "s1" } }));
    let ids: Vec<Value> = (0..2).map(|said| message(&mut talk, said).unwrap()["id"].clone()).collect();
    talk.parser.said(2);
    let end = |id: &Value| json!({ "id": id, "result": { "stopReason": "end_turn" } });
    for id in [&json!(5), &ids[0], &ids[1]] {
        assert!(!talk.parser.at_rest());
        talk.hears(end(id));
    }
    assert!(talk.parser.at_rest());
    assert_eq!(talk.story(), "session s1\nsuccess true\ntakes 1\nsuccess true\ntakes 2\nsuccess true\n");
}

#[test]
fn a_plan_is_a_call_that_gives_nothing() {
    let mut talk = Talk::begun(Permissions::Cli, &Request::default(), json!({ "sessionId": "s1" }));
    let plan = json!({ "sessionUpdate": "plan", "entries": [{ "content": "a", "status": "pending" }] });
    talk.hears(json!({ "method": "session/update", "params": { "sessionId": "s1", "update": plan } }));
    assert_eq!(
        talk.story(),
        "session s1\ncalls plan_1 plan {\"entries\":[{\"content\":\"a\",\"status\":\"pending\"}]}\ngives plan_1 null\n"
    );
}

#[test]
fn kimi_is_not_believed_when_it_falls_silent_after_a_call() {
    let request = Request { command: Some("kimi"), prompt: Some("x"), ..Request::default() };
    let mut talk = Talk::new("acp", &request);
    let id = talk.said[0]["id"].clone();
    let who = json!({ "name": "Kimi Code CLI", "version": "2.1.0" });
    talk.hears(json!({ "id": id, "result": { "protocolVersion": 1, "agentInfo": who } }));
    talk.hears(json!({ "id": 2, "result": { "sessionId": "s1" } }));
    let chunk = json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": "I run it." } });
    let call = json!({ "sessionUpdate": "tool_call", "toolCallId": "c", "title": "Bash", "status": "completed" });
    for update in [chunk, call] {
        talk.hears(json!({ "method": "session/update", "params": { "sessionId": "s1", "update": update } }));
    }
    talk.hears(json!({ "id": 5, "result": { "stopReason": "end_turn" } }));
    assert!(talk.story().ends_with("as it does when its model's provider fails\n"), "{}", talk.story());
}

#[test]
fn programs_that_are_known_have_their_own_command_line() {
    let args = |harness: &str, model| {
        let request = Request { prompt: Some("--help"), model, ..Request::default() };
        let plan = find(harness).unwrap().plan(&request).unwrap();
        assert_eq!(plan.stop[0], StopStep::Write { bytes: vec![], wait_ms: 3_000 });
        plan.args.join(" ")
    };
    assert_eq!(args("qwen", None), "--acp");
    assert_eq!(args("qwen", Some("m")), "--acp -m m");
    assert_eq!(args("copilot", Some("m")), "--acp --no-auto-update --model m");
    let words = ["--acp".to_owned()];
    let any = Request { prompt: Some("x"), command: Some("a b"), args: &words, ..Request::default() };
    assert_eq!(find("acp").unwrap().plan(&any).unwrap().args, words);
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let x = Request { prompt: Some("x"), command: Some("agent"), ..Request::default() };
    let field = |harness: &str, request: Request<'_>| find(harness).unwrap().plan(&request).unwrap_err().field();
    assert_eq!(field("acp", Request { prompt: None, ..x.clone() }), "prompt");
    assert_eq!(field("acp", Request { command: None, ..x.clone() }), "command");
    assert_eq!(field("acp", Request { command: Some(""), ..x.clone() }), "command");
    assert_eq!(field("acp", Request { system: Some("s"), ..x.clone() }), "system");
    assert_eq!(field("acp", Request { effort: Some("high"), ..x.clone() }), "effort");
    assert_eq!(field("acp", Request { model: Some("-m"), ..x.clone() }), "model");
    assert_eq!(field("acp", Request { resume: Some("a\nb"), ..x.clone() }), "session_id");
    assert_eq!(field("qwen", x.clone()), "command");
    let long = "\u{1}".repeat(2 << 20);
    assert_eq!(field("acp", Request { prompt: Some(&long), ..x }), "prompt", "a frame has a bound");
}

#[test]
fn many_calls_questions_and_the_longest_ids_fit_the_state() {
    let long = |number: u32| format!("{number:0>96}");
    let mut talk = Talk::begun(Permissions::Ask, &Request::default(), json!({ "sessionId": "0".repeat(96) }));
    let ugly = "\"\\\u{1}".repeat(1_000);
    for number in 0..60 {
        let call = json!({ "sessionUpdate": "tool_call", "toolCallId": long(number), "title": ugly, "name": ugly,
            "status": "pending" });
        talk.hears(json!({ "method": "session/update", "params": { "sessionId": "0".repeat(96), "update": call } }));
        let mut question = ask(json!(long(number)), Some("edit"));
        question["params"]["sessionId"] = json!("0".repeat(96));
        question["params"]["toolCall"]["toolCallId"] = json!(long(number));
        if number % 2 == 0 {
            talk.hears(question);
        }
        assert!(talk.parser.state().len() <= 4096, "{} bytes", talk.parser.state().len());
    }
    assert!(talk.parser.state().len() > 2_000);
    let calls = talk.events.iter().filter(|event| matches!(event, EventData::ToolCalled(_))).count();
    assert!(calls >= 56, "what is forgotten is told of: {calls}");
    talk.hears(json!({ "id": 5, "result": { "stopReason": "end_turn" } }));
    let calls = talk.events.iter().filter(|event| matches!(event, EventData::ToolCalled(_))).count();
    assert_eq!(calls, 60);
}
