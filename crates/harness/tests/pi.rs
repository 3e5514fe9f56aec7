//! Conversations with Pi in its rpc mode: what the harness says is what the recorder said, and when it rests.

mod replay;

use longhaul_harness::{Parser, Reply, Request, SourceLine, StopStep, find};
use longhaul_model::EventData;
use longhaul_model::event::OutputStream;
use serde_json::{Value, json};

use replay::SAID;

fn read(parser: &mut dyn Parser, line: &Value) -> String {
    let text = line.to_string();
    let line = SourceLine { stream: OutputStream::Stdout, bytes: text.as_bytes(), eol: true, part: None };
    let mut out: Vec<EventData> = Vec::new();
    parser.line(&line, &mut out);
    replay::story(&out)
}

fn message(bytes: &[u8]) -> Value {
    assert_eq!(bytes.last(), Some(&b'\n'), "a whole line");
    serde_json::from_slice(bytes).unwrap()
}

fn said(reply: Reply) -> Value {
    match reply {
        Reply::Frame(frame) => message(&frame.bytes),
        Reply::Prepared { .. } => panic!("nothing is prepared: {reply:?}"),
    }
}

#[test]
fn what_is_said_is_what_the_recorder_said() {
    let mut seen = Vec::new();
    for recorded in replay::all().into_iter().filter(|recorded| recorded.name.starts_with("pi-rpc/")) {
        let theirs: Vec<Value> = recorded
            .raw
            .split(|b| *b == b'\n')
            .filter_map(|line| line.strip_prefix(SAID))
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let request = Request { prompt: theirs[1]["message"].as_str(), ..Request::default() };
        let plan = recorded.harness.plan(&request).unwrap();
        let StopStep::Write { bytes: abort, .. } = &plan.stop[0] else { panic!("{:?}", plan.stop) };
        let mut ours: Vec<Value> = plan.channel.unwrap().opening.iter().map(|frame| message(&frame.bytes)).collect();
        let mut parser = recorded.harness.parser(None).unwrap();
        for line in replay::lines(&recorded.stdout) {
            assert!(!parser.at_rest() || theirs.len() > ours.len(), "{}: it rests too early", recorded.name);
            parser.line(&line, &mut Vec::new());
            ours.extend(parser.take_replies().into_iter().map(said));
            let Some(next) = theirs.get(ours.len()) else { continue };
            let here = match next["id"].as_str().unwrap() {
                "abort" => Some(abort.clone()),
                id => id.strip_prefix("input/").and_then(|id| parser.input(id, next["message"].as_str().unwrap())),
            };
            ours.extend(here.map(|bytes| message(&bytes)));
        }
        seen.extend(theirs.iter().map(|m| m["id"].as_str().unwrap().to_owned()));
        assert_eq!(ours, theirs, "{}", recorded.name);
        assert!(parser.at_rest(), "{}: it waits for what will not come", recorded.name);
    }
    for word in ["abort", "input/in-1", "input/in-2", "rest/2"] {
        assert!(seen.iter().any(|id| id == word), "no recording says {word}");
    }
}

/// How it answers that it is.
fn is(id: &str, streaming: bool) -> Value {
    let data = json!({ "sessionId": "s-1", "isStreaming": streaming, "isCompacting": false, "pendingMessageCount": 0 });
    json!({ "id": id, "type": "response", "command": "get_state", "success": true, "data": data })
}

fn accepts(id: &str) -> Value {
    json!({ "id": id, "type": "response", "command": "prompt", "success": true })
}

fn event(kind: &str) -> Value {
    json!({ "type": kind })
}

fn user() -> Value {
    json!({ "type": "message_start", "message": { "role": "user", "content": [] } })
}

fn begun() -> Box<dyn Parser> {
    let mut parser = find("pi").unwrap().parser(None).unwrap();
    assert_eq!(read(&mut *parser, &is("state", false)), "session s-1\n");
    assert!(parser.input("i", "x").is_none(), "the prompt comes first");
    for line in [accepts("prompt"), event("agent_start"), user()] {
        assert_eq!(read(&mut *parser, &line), "", "the prompt is nobody's message");
    }
    parser
}

#[test]
fn one_that_tries_again_does_not_rest() {
    let mut parser = begun();
    read(&mut *parser, &event("agent_end"));
    assert!(!parser.at_rest() && parser.input("i", "x").is_none(), "what follows is not known yet");
    let retry = json!({ "type": "auto_retry_start", "attempt": 1, "maxAttempts": 3, "delayMs": 2000 });
    read(&mut *parser, &retry);
    read(&mut *parser, &is("rest/1", false));
    assert!(!parser.at_rest() && parser.input("i", "x").is_none(), "a message now would be a turn beside it");
    for line in [event("agent_start"), event("agent_end"), is("rest/1", false)] {
        read(&mut *parser, &line);
        assert!(!parser.at_rest(), "{line}");
    }
    read(&mut *parser, &is("rest/2", false));
    assert!(parser.at_rest() && parser.input("i", "x").is_some());
}

#[test]
fn one_that_makes_its_context_shorter_is_asked_again() {
    let mut parser = begun();
    read(&mut *parser, &event("agent_end"));
    let mut busy = is("rest/1", false);
    busy["data"]["isCompacting"] = json!(true);
    read(&mut *parser, &busy);
    assert!(!parser.at_rest());
    assert_eq!(parser.take_replies().len(), 1);
    read(&mut *parser, &event("compaction_end"));
    assert_eq!(parser.take_replies().into_iter().map(said).collect::<Vec<_>>()[0]["id"], "rest/2");
    read(&mut *parser, &is("rest/2", false));
    assert!(parser.at_rest());
}

/// A text that is a command of an extension begins no turn.
#[test]
fn a_command_that_begins_no_turn_is_not_waited_for() {
    let mut parser = begun();
    for line in [event("agent_end"), is("rest/1", false)] {
        read(&mut *parser, &line);
    }
    let told = message(&parser.input("i-1", "/name it").unwrap());
    assert_eq!(told["id"], "input/i-1.command");
    parser.take_replies();
    read(&mut *parser, &accepts("input/i-1.command"));
    assert!(!parser.at_rest());
    assert_eq!(said(parser.take_replies().remove(0))["id"], "rest/2");
    assert_eq!(read(&mut *parser, &is("rest/2", false)), "takes i-1\n");
    assert!(parser.at_rest());
}

#[test]
fn messages_are_taken_in_the_order_in_which_they_were_accepted() {
    let mut parser = begun();
    for id in ["input/a", "input/b"] {
        assert_eq!(read(&mut *parser, &accepts(id)), "");
    }
    let mut later = find("pi").unwrap().parser(Some(&parser.state())).unwrap();
    for parser in [&mut *parser, &mut *later] {
        assert_eq!((read(parser, &user()), read(parser, &user())), ("takes a\n".to_owned(), "takes b\n".to_owned()));
        assert_eq!(read(parser, &user()), "");
    }
    let refused = json!({ "id": "input/c", "type": "response", "success": false, "error": "no" });
    assert_eq!(read(&mut *parser, &refused), "warns source: pi did not take a message: no\n");
}

#[test]
fn what_an_extension_asks_is_cancelled_and_told() {
    let mut parser = begun();
    let ask = json!({ "type": "extension_ui_request", "id": "u-1", "method": "confirm", "title": "Really?" });
    assert_eq!(read(&mut *parser, &ask), "warns source: an extension asked for Really?, and nobody could answer\n");
    let told = json!({ "type": "extension_ui_response", "id": "u-1", "cancelled": true });
    assert_eq!(said(parser.take_replies().remove(0)), told);
    let shows = json!({ "type": "extension_ui_request", "id": "u-2", "method": "setTitle", "title": "pi" });
    assert_eq!((read(&mut *parser, &shows), parser.take_replies()), (String::new(), vec![]));
}

/// What an earlier release saved while it followed the json mode is gone on with, and nothing is said to it.
#[test]
fn a_run_of_an_earlier_release_is_followed_to_its_end() {
    let saved = br#"{"p":"pi","v":1,"s":{"k":{},"s":"01a1","n":1,"o":false,"t":[],"r":[],"l":"g","e":false}}"#;
    let mut parser = find("pi").unwrap().parser(Some(saved)).unwrap();
    assert_eq!(parser.state(), saved);
    assert_eq!(read(&mut *parser, &event("agent_end")), "success true\n");
    assert!(parser.take_replies().is_empty() && !parser.at_rest() && parser.input("i", "x").is_none());
}
