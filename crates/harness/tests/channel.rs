//! The protocol that Claude speaks over its standard input, after the recorded runs `claude/stdin-*`.

mod replay;

use longhaul_harness::{Parser, Permissions, Prepared, Reply, Request, SourceLine, find};
use longhaul_model::EventData;
use longhaul_model::event::{ApprovalAnswered, Decision, OutputStream};
use serde_json::{Value, json};

fn read(parser: &mut dyn Parser, line: &Value) -> Vec<EventData> {
    let text = line.to_string();
    let line = SourceLine { stream: OutputStream::Stdout, bytes: text.as_bytes(), eol: true, part: None };
    let mut out = Vec::new();
    parser.line(&line, &mut out);
    out
}

fn lifecycle(uuid: &str, state: &str) -> Value {
    json!({ "type": "command_lifecycle", "command_uuid": uuid, "state": state })
}

fn result() -> Value {
    json!({ "type": "result", "subtype": "success", "is_error": false })
}

#[test]
fn an_answer_is_what_the_recorded_agent_was_told() {
    for (name, decision, reason, told) in [
        (
            "claude/stdin-permission",
            Decision::Allow,
            None,
            json!({ "behavior": "allow", "updatedInput": { "command": "touch made; ls", "description": "run a command" } }),
        ),
        (
            "claude/stdin-permission-deny",
            Decision::Deny,
            Some("not allowed here"),
            json!({ "behavior": "deny", "message": "not allowed here" }),
        ),
    ] {
        let recorded = replay::one(name);
        let asked = recorded.events().into_iter().find_map(|event| match event {
            EventData::ApprovalRequested(asked) => Some(asked),
            _ => None,
        });
        let asked = asked.unwrap();
        assert_eq!(asked.tool, "Bash");
        let answer = ApprovalAnswered {
            approval_id: "1".to_owned(),
            decision,
            by: "api".to_owned(),
            reason: reason.map(str::to_owned),
            answer_of: None,
        };
        let bytes = recorded.harness.answer(&asked, &answer).unwrap();
        assert_eq!(bytes.last(), Some(&b'\n'));
        let frame: Value = serde_json::from_slice(&bytes).unwrap();
        let response = json!({ "subtype": "success", "request_id": asked.source_request_id, "response": told });
        assert_eq!(frame, json!({ "type": "control_response", "response": response }));
    }
}

#[test]
fn it_rests_when_it_has_dealt_with_every_message() {
    let mut parser = find("claude").unwrap().parser(None).unwrap();
    let parser = &mut *parser;
    assert!(!parser.at_rest(), "it has not begun");
    let taken = read(parser, &lifecycle("u-2", "queued"));
    assert_eq!(taken.iter().map(EventData::name).collect::<Vec<_>>(), ["input.delivered"]);
    read(parser, &result());
    assert!(!parser.at_rest(), "a message waits behind the result");
    assert_eq!(read(parser, &lifecycle("u-2", "started")), [], "it is told once");
    let mut later = find("claude").unwrap().parser(Some(&parser.state())).unwrap();
    for parser in [parser, &mut *later] {
        read(parser, &json!({ "type": "system", "subtype": "init", "session_id": "s" }));
        read(parser, &lifecycle("u-2", "completed"));
        assert!(!parser.at_rest(), "its turn goes on");
        read(parser, &result());
        assert!(parser.at_rest());
        read(parser, &json!({ "type": "assistant", "message": { "id": "m", "content": [] } }));
        assert!(!parser.at_rest(), "it has begun again");
    }
}

#[test]
fn what_nobody_here_answers_is_answered_so() {
    let mut parser = find("claude").unwrap().parser(None).unwrap();
    let asked = json!({ "type": "control_request", "request_id": "r-1", "request": { "subtype": "hook_callback" } });
    assert_eq!(read(&mut *parser, &asked), []);
    let replies = parser.take_replies();
    let [Reply::Frame(frame)] = &replies[..] else { panic!("{replies:?}") };
    let told: Value = serde_json::from_slice(&frame.bytes).unwrap();
    assert_eq!((&*frame.id, &told["response"]["subtype"]), ("reply/r-1", &json!("error")));
    assert_eq!(parser.take_replies(), [], "each is given once");
    read(&mut *parser, &asked);
    assert_eq!(parser.take_replies(), replies, "the same line makes the same reply");
}

#[test]
fn only_an_agent_that_asks_can_be_run_so() {
    for harness in longhaul_harness::all() {
        let takes = |field| harness.fields().contains(&field);
        let (command, prompt) = (takes("command").then_some("ls"), takes("prompt").then_some("hi"));
        let request = Request { prompt, command, permissions: Permissions::Ask, ..Request::default() };
        let planned = harness.plan(&request);
        assert_eq!(planned.is_ok(), harness.fields().contains(&"approvals"), "{}: {planned:?}", harness.name());
        let field = planned.err().map(|error| error.field());
        assert!(field.is_none_or(|field| field == "permissions"), "{}", harness.name());
    }
}

#[test]
fn a_prompt_whose_frame_is_too_long_is_refused() {
    let prompt = "\u{1}".repeat(2 << 20);
    let request = Request { prompt: Some(&prompt), ..Request::default() };
    assert_eq!(find("claude").unwrap().plan(&request).unwrap_err().field(), "prompt");
}

#[test]
fn a_prepared_frame_is_completed_at_its_nulls() {
    let message = json!({ "id": "prompt", "params": { "sessionId": null, "prompt": ["hi"] } });
    let prepared = Prepared { id: "prompt".to_owned(), message };
    let set = vec![("/params/sessionId".to_owned(), json!("s-1")), ("/params/nothing/here".to_owned(), json!(1))];
    let frame = prepared.complete(set);
    let told: Value = serde_json::from_slice(&frame.bytes).unwrap();
    assert_eq!(told, json!({ "id": "prompt", "params": { "sessionId": "s-1", "prompt": ["hi"] } }));
}
