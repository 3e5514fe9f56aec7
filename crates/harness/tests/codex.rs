//! Conversations with Codex's app-server: what the harness says is what the recorder said, and what no recording has.

mod replay;

use longhaul_harness::{Channel, Parser, Permissions, Reply, Request, SourceLine, StopStep, find};
use longhaul_model::EventData;
use longhaul_model::event::{ApprovalAnswered, ApprovalRequested, Decision, OutputStream};
use serde_json::{Value, json};

use replay::{Recorded, SAID};

fn read(parser: &mut dyn Parser, line: &Value) -> Vec<EventData> {
    let text = line.to_string();
    let line = SourceLine { stream: OutputStream::Stdout, bytes: text.as_bytes(), eol: true, part: None };
    let mut out = Vec::new();
    parser.line(&line, &mut out);
    out
}

fn story(parser: &mut dyn Parser, line: &Value) -> String {
    replay::story(&read(parser, line))
}

fn message(bytes: &[u8]) -> Value {
    assert_eq!(bytes.last(), Some(&b'\n'), "a whole line");
    serde_json::from_slice(bytes).unwrap()
}

fn completed(channel: &Channel, reply: Reply) -> Value {
    match reply {
        Reply::Frame(frame) => message(&frame.bytes),
        Reply::Prepared { id, set } => {
            let prepared = channel.prepared.iter().find(|frame| frame.id == id);
            message(&prepared.unwrap_or_else(|| panic!("no frame {id} was prepared")).clone().complete(set).bytes)
        }
    }
}

/// What the recorder said.
fn said(recorded: &Recorded) -> Vec<Value> {
    let lines = recorded.raw.split(|b| *b == b'\n').filter_map(|line| line.strip_prefix(SAID));
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn given(decision: Decision) -> ApprovalAnswered {
    let approval_id = "1".to_owned();
    ApprovalAnswered { approval_id, decision, by: "api".to_owned(), reason: None, answer_of: None }
}

fn question(events: &[EventData]) -> Option<&ApprovalRequested> {
    events.iter().find_map(|event| match event {
        EventData::ApprovalRequested(asked) => Some(asked),
        _ => None,
    })
}

#[test]
fn what_is_said_is_what_the_recorder_said() {
    let mut seen = Vec::new();
    for recorded in replay::all().into_iter().filter(|recorded| recorded.name.starts_with("codex-app-server/")) {
        let theirs = said(&recorded);
        let thread = &theirs[2]["params"];
        let prompt = theirs
            .iter()
            .find(|m| m["id"] == "prompt")
            .map_or("Run", |m| m["params"]["input"][0]["text"].as_str().unwrap());
        let permissions = if thread["approvalPolicy"] == "untrusted" { Permissions::Ask } else { Permissions::Full };
        let resume = thread["threadId"].as_str();
        let cwd = thread["cwd"].as_str().unwrap();
        let request = Request { prompt: Some(prompt), cwd, permissions, resume, ..Request::default() };
        let plan = recorded.harness.plan(&request).unwrap();
        assert_eq!(plan.stop[0], StopStep::Write { bytes: vec![], wait_ms: 3_000 }, "the parser cancels first");
        let channel = plan.channel.unwrap();
        let mut ours: Vec<Value> = channel.opening.iter().map(|frame| message(&frame.bytes)).collect();
        let mut parser = recorded.harness.parser(None).unwrap();
        for line in replay::lines(&recorded.stdout) {
            let mut events = Vec::new();
            parser.line(&line, &mut events);
            ours.extend(parser.take_replies().into_iter().map(|reply| completed(&channel, reply)));
            // The recorder's next word, where it is one that people give.
            let Some(next) = theirs.get(ours.len()) else { continue };
            let here = match next["id"].as_str() {
                Some("interrupt") => parser.interrupt(),
                Some(id) => id
                    .strip_prefix("input/")
                    .and_then(|id| parser.input(id, next["params"]["input"][0]["text"].as_str().unwrap())),
                None => question(&events).map(|asked| {
                    let result = &next["result"];
                    let yes = result["decision"] == "accept" || result["action"] == "accept";
                    recorded.harness.answer(asked, &given(if yes { Decision::Allow } else { Decision::Deny })).unwrap()
                }),
            };
            ours.extend(here.map(|bytes| message(&bytes)));
        }
        let mut theirs = theirs;
        for m in [&mut ours[0], &mut theirs[0]] {
            m["params"]["clientInfo"] = Value::Null;
        }
        let words: Vec<_> = theirs.iter().skip(3).map(|m| m["id"].to_string()).collect();
        seen.extend(words);
        assert_eq!(ours, theirs, "{}", recorded.name);
        assert!(parser.at_rest(), "{}: it waits for what will not come", recorded.name);
    }
    for word in ["\"interrupt\"", "\"input/in-1\"", "\"input/in-2\"", "0"] {
        assert!(seen.iter().any(|id| id == word), "no recording says {word}");
    }
}

/// A parser whose thread was asked for so, in its first turn.
fn begun(id: &str) -> Box<dyn Parser> {
    let mut parser = find("codex").unwrap().parser(None).unwrap();
    assert!(parser.input("i", "x").is_none() && parser.interrupt().is_none(), "nothing can be said yet");
    read(&mut *parser, &json!({ "id": id, "result": { "thread": { "id": "t-1" } } }));
    assert!(parser.input("i", "x").is_none(), "the prompt comes first");
    assert_eq!(parser.take_replies().len(), 1);
    read(&mut *parser, &json!({ "id": "prompt", "result": { "turn": { "id": "u-1" } } }));
    parser
}

fn over(turn: &str) -> Value {
    let turn = json!({ "id": turn, "status": "completed" });
    json!({ "method": "turn/completed", "params": { "threadId": "t-1", "turn": turn } })
}

#[test]
fn a_message_after_the_last_word_is_a_turn_of_its_own_and_it_rests_after_that() {
    let mut parser = begun("start");
    assert!(!parser.at_rest());
    read(&mut *parser, &over("u-1"));
    assert!(parser.at_rest() && parser.interrupt().is_none(), "no turn is open");
    let told = message(&parser.input("i-1", "more").unwrap());
    let input = json!([{ "type": "text", "text": "more" }]);
    let params = json!({ "threadId": "t-1", "input": input, "clientUserMessageId": "i-1" });
    assert_eq!(told, json!({ "id": "input/i-1", "method": "turn/start", "params": params }));
    let begins = json!({ "method": "turn/started", "params": { "threadId": "t-1", "turn": { "id": "u-2" } } });
    read(&mut *parser, &begins);
    assert!(!parser.at_rest());
    let params = json!({ "threadId": "t-1", "turnId": "u-2" });
    let interrupt = json!({ "id": "interrupt", "method": "turn/interrupt", "params": params });
    assert_eq!(message(&parser.interrupt().unwrap()), interrupt);
    read(&mut *parser, &over("u-2"));
    assert!(parser.at_rest());
}

#[test]
fn an_answer_of_a_form_is_not_followed_by_one_without() {
    let mut parser = begun("start.form");
    assert!(parser.input("i", "x").is_some(), "the turn that has the form goes on");
    read(&mut *parser, &over("u-1"));
    assert!(parser.input("i", "x").is_none());
}

#[test]
fn what_another_thread_does_is_not_the_runs() {
    let mut parser = begun("start");
    let item = json!({ "type": "agentMessage", "id": "m", "text": "mine" });
    let mut line = json!({ "method": "item/completed", "params": { "threadId": "t-2", "turnId": "x", "item": item } });
    assert_eq!(story(&mut *parser, &line), "");
    line["params"]["threadId"] = json!("t-1");
    assert_eq!(story(&mut *parser, &line), "says m: mine\n");
    let turn = json!({ "id": "u-9", "status": "completed" });
    let end = json!({ "method": "turn/completed", "params": { "threadId": "t-2", "turn": turn } });
    assert_eq!((story(&mut *parser, &end), parser.at_rest()), (String::new(), false));
}

#[test]
fn one_that_may_not_ask_is_refused_and_it_is_told() {
    let command = json!({ "threadId": "t-1", "itemId": "c", "command": "ls" });
    let ask = json!({ "method": "item/commandExecution/requestApproval", "id": 7, "params": command });
    let mut parser = begun("start");
    let told = "warns permission_denied: command_execution: not allowed by the run\\'s permissions\n";
    assert_eq!(story(&mut *parser, &ask), told);
    let [Reply::Frame(frame)] = &parser.take_replies()[..] else { panic!() };
    assert_eq!(message(&frame.bytes), json!({ "id": 7, "result": { "decision": "decline" } }));
    let mut parser = begun("start.ask");
    assert_eq!(story(&mut *parser, &ask), "asks 7 command_execution for c {\"command\":\"ls\"}: no reason\n");
    assert_eq!(parser.take_replies(), [], "people answer");
    let form = json!({ "threadId": "t-1", "serverName": "s", "mode": "form", "message": "Your name?" });
    read(&mut *parser, &json!({ "method": "mcpServer/elicitation/request", "id": 8, "params": form }));
    read(&mut *parser, &json!({ "method": "item/tool/requestUserInput", "id": "q-9", "params": {} }));
    let replies: Vec<Value> = parser
        .take_replies()
        .iter()
        .map(|reply| match reply {
            Reply::Frame(frame) => message(&frame.bytes),
            Reply::Prepared { .. } => panic!("{reply:?}"),
        })
        .collect();
    assert_eq!(replies[0], json!({ "id": 8, "result": { "action": "decline" } }));
    assert_eq!((&replies[1]["id"], &replies[1]["error"]["code"]), (&json!("q-9"), &json!(-32601)));
}

/// An answer is for the change that was asked about: the question tells its digest, whatever its files are called.
#[test]
fn a_change_of_the_same_file_is_another_question() {
    let mut parser = begun("start.ask");
    let mut asked = |id: &str, diff: &str| {
        let changes = json!([{ "path": "/w/a", "kind": { "type": "update", "move_path": null }, "diff": diff }]);
        let item = json!({ "type": "fileChange", "id": id, "changes": changes, "status": "inProgress" });
        let params = json!({ "threadId": "t-1", "turnId": "u-1", "item": item });
        read(&mut *parser, &json!({ "method": "item/started", "params": params }));
        let params = json!({ "threadId": "t-1", "itemId": id });
        let ask = json!({ "method": "item/fileChange/requestApproval", "id": 1, "params": params });
        let events = read(&mut *parser, &ask);
        question(&events).unwrap().arguments.clone()
    };
    let (one, same, other) = (asked("c-1", "+a"), asked("c-2", "+a"), asked("c-3", "+b"));
    assert_eq!(one["changes"], json!([{ "kind": "update", "path": "/w/a" }]));
    assert_eq!(one, same);
    assert_ne!(one["digest"], other["digest"]);
}

/// What an earlier release saved while it followed `codex exec` is gone on with.
#[test]
fn a_run_of_an_earlier_release_is_followed_to_its_end() {
    let saved = br#"{"p":"codex","v":1,"s":{"k":{},"s":"01a1","c":["item_1"],"r":[["item_0",7,5,false]]}}"#;
    let mut parser = find("codex").unwrap().parser(Some(saved)).unwrap();
    assert_eq!(parser.state(), saved);
    let result = json!({ "aggregated_output": "ok", "exit_code": 0, "status": "completed" });
    let mut item = json!({ "id": "item_1", "type": "command_execution", "command": "ls" });
    item.as_object_mut().unwrap().extend(result.as_object().unwrap().clone());
    let end = json!({ "type": "item.completed", "item": item });
    assert_eq!(story(&mut *parser, &end), format!("gives item_1 {result}\n"));
    let last = json!({ "type": "turn.completed", "usage": { "input_tokens": 1 } });
    assert!(story(&mut *parser, &last).ends_with("success true\n"));
    assert!(!parser.at_rest() && parser.input("i", "x").is_none() && parser.interrupt().is_none());
}
