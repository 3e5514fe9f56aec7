//! The Responses face: one run, one stream of numbered events, continued after any of them.

mod support;

use std::path::Path;

use longhaul_api::responses::{Encoder, Note};
use longhaul_api::sse::{Frame, Parser};
use longhaul_harness::SourceLine;
use longhaul_model::event::{Driver, EventData, OutputStream, RunCompleted, RunCreated, RunFailed, Totals};
use longhaul_model::projection::Projection;
use longhaul_model::{Event, ProjectId, RunId, Seq, Timestamp};
use serde_json::{Value, json};

use support::{Server, assert_no_process, until};

fn frames(text: &str) -> Vec<Frame> {
    Parser::default().push(text.as_bytes())
}

fn data(frame: &Frame) -> Value {
    serde_json::from_str(&frame.data).unwrap()
}

/// The text of an object's messages, as the SDKs put it together.
fn output_text(object: &Value) -> String {
    let items = object["output"].as_array().unwrap().iter().filter(|item| item["type"] == "message");
    items.map(|item| item["content"][0]["text"].as_str().unwrap()).collect()
}

/// What a client knows that has only the stream: the items as they were closed.
fn told(frames: &[Frame]) -> Vec<Value> {
    let mut items: Vec<Value> = Vec::new();
    let mut texts: Vec<String> = Vec::new();
    for (number, frame) in frames.iter().enumerate() {
        let event = data(frame);
        assert_eq!(frame.id.as_deref(), Some(number.to_string().as_str()));
        assert_eq!((&event["sequence_number"], event["type"].as_str()), (&json!(number), frame.event.as_deref()));
        let at = event["output_index"].as_u64().map_or(usize::MAX, |at| at as usize);
        match frame.event.as_deref().unwrap() {
            "response.output_item.added" => {
                assert_eq!(at, items.len(), "items begin in their order");
                items.push(event["item"].clone());
                texts.push(String::new());
            }
            "response.output_text.delta" | "response.reasoning_summary_text.delta" => {
                assert_eq!((&items[at]["status"], &items[at]["id"]), (&json!("in_progress"), &event["item_id"]));
                texts[at].push_str(event["delta"].as_str().unwrap());
            }
            "response.output_text.done" | "response.reasoning_summary_text.done" => {
                let text = event["text"].as_str().unwrap();
                // What was lost is taken back; else the pieces are the whole.
                assert!(text.is_empty() || texts[at] == text, "{} is not {text}", texts[at]);
            }
            "response.output_item.done" => {
                // A second end takes back a message that was lost after it was told as whole.
                let item = &event["item"];
                let lost = item["status"] == "incomplete" && item["content"][0]["text"] == "";
                assert!(items[at]["status"] == "in_progress" || lost, "{item}");
                items[at] = item.clone();
            }
            _ => {}
        }
    }
    items
}

/// The lines of a recorded run, as events with a beginning and an end.
fn recorded(path: &Path, harness: &str, good: bool) -> Vec<Event> {
    let bytes = std::fs::read(path).unwrap();
    let mut parser = longhaul_harness::find(harness).unwrap().parser(None).unwrap();
    let created = RunCreated {
        project: ProjectId::default_project(),
        driver: Driver::Harness,
        harness: harness.to_owned(),
        command: None,
        model: Some("m".to_owned()),
        name: None,
        digest: "d".to_owned(),
        session_id: None,
        cwd: "/".to_owned(),
        tags: std::collections::BTreeMap::new(),
        timeout_ms: 1,
        on_lost: longhaul_model::event::OnLost::Fail,
        home: longhaul_model::event::Home::User,
        resumed_from: None,
        budget: longhaul_model::event::Budget::default(),
        response_format: None,
    };
    let mut out: Vec<EventData> = vec![created.into()];
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let bytes = line.strip_suffix(b"\n").unwrap_or(line);
        let line = SourceLine { stream: OutputStream::Stdout, bytes, eol: bytes.len() < line.len(), part: None };
        parser.line(&line, &mut out);
    }
    parser.end(&mut out);
    let totals = Totals::default();
    out.push(if good {
        RunCompleted { reason: "verdict".to_owned(), exit: None, totals }.into()
    } else {
        let error = longhaul_model::event::Failure {
            code: "exit_nonzero".to_owned(),
            message: "it failed".to_owned(),
            stderr_tail: None,
        };
        RunFailed { error, exit: None, totals }.into()
    });
    let event = |(at, data)| Event {
        run_id: RunId::parse("r").unwrap(),
        seq: Seq::new(at as u64 + 1),
        ts: Timestamp::from_unix_ms(1_795_254_000_000),
        data,
    };
    out.into_iter().enumerate().map(event).collect()
}

/// Every recorded run of every harness.
fn all_recorded() -> Vec<(String, Vec<Event>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../harness/tests/transcripts");
    let mut found = Vec::new();
    for dir in std::fs::read_dir(folder).unwrap() {
        let dir = dir.unwrap().path();
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let harness = name.split('-').next().unwrap().to_owned();
        for file in std::fs::read_dir(&dir).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|e| e == "jsonl") {
                for good in [true, false] {
                    let name = format!("{name}/{} {good}", path.file_stem().unwrap().to_str().unwrap());
                    found.push((name, recorded(&path, &harness, good)));
                }
            }
        }
    }
    assert!(found.len() > 260, "transcripts are missing");
    found
}

#[test]
fn every_recorded_run_says_the_same_from_any_event_on() {
    let mut resumed = 0;
    for (name, events) in all_recorded() {
        let stream = |from| {
            let mut encoder = Encoder::new(Note::default(), from);
            let text: String = events.iter().map(|event| encoder.push(event)).collect();
            (text, encoder.object())
        };
        let (whole, object) = stream(0);
        let frames = frames(&whole);
        let last = frames.last().unwrap();
        assert_eq!(data(last)["response"], object, "{name}: the end tells the object");
        assert_eq!(data(&frames[0])["type"], "response.created", "{name}");
        assert_eq!(json!(told(&frames)), object["output"], "{name}: the stream tells what the object holds");
        assert!(object["output"].as_array().unwrap().iter().all(|item| item["status"] != "in_progress"), "{name}");

        let mut run = Projection::begin(&events[0]).unwrap();
        events[1..].iter().for_each(|event| run.apply(event));
        // The gap before a message stays, though the one before it was taken back later: it had been told.
        let taken_back =
            events.iter().any(|event| matches!(event.data, longhaul_model::EventData::MessageDiscarded(_)));
        let answer = output_text(&object);
        let answer = if taken_back { answer.trim_start_matches("\n\n") } else { &answer };
        assert_eq!(answer, run.output_text(), "{name}: the answer is the run's");

        // Long ones are tried here and there.
        let step = (frames.len() / 40).max(1);
        let mut rest = whole.as_str();
        for after in 0..frames.len() {
            rest = rest.split_once("\n\n").unwrap().1;
            if after % step == 0 || after + 2 > frames.len() {
                assert_eq!(stream(after as u64 + 1), (rest.to_owned(), object.clone()), "{name} after {after}");
                resumed += 1;
            }
        }
    }
    assert!(resumed > 2_000, "{resumed}");
}

async fn stream(server: &Server, path: &str, last: Option<&str>) -> (u16, String) {
    let request = server.http.get(server.url(path));
    let request = last.iter().fold(request, |request, last| request.header("last-event-id", *last));
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    let text = match text.strip_prefix(": ") {
        Some(rest) => rest.split_once("\n\n").unwrap().1.to_owned(),
        None => text,
    };
    (status, text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_has_the_same_bytes_whenever_it_is_read() {
    let mut server = Server::start().await;
    let body = json!({ "run_id": "r", "model": "demo/tools", "input": "x", "stream": true, "metadata": { "a": "b" } });
    let answer = server.http.post(server.url("/v1/responses")).body(body.to_string()).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-run-id"]), (200, &"r".parse().unwrap()));
    let live = answer.text().await.unwrap();
    let live = live.split_once("\n\n").unwrap().1.to_owned();
    let whole = frames(&live);
    let names: Vec<&str> = whole.iter().map(|frame| frame.event.as_deref().unwrap()).collect();
    assert_eq!(names[..3], ["response.created", "response.in_progress", "response.output_item.added"]);
    assert_eq!(names.last(), Some(&"response.completed"));
    assert!(names.iter().all(|name| !name.contains("call")), "the agent's own tools are nobody's to call: {names:?}");
    let (_, object) = server.get("/v1/responses/resp_r").await;
    assert_eq!(data(whole.last().unwrap())["response"], object);
    assert_eq!(json!(told(&whole)), object["output"]);
    let lost = &object["output"][1];
    assert_eq!((&lost["status"], &lost["content"][0]["text"]), (&json!("incomplete"), &json!("")), "{object}");
    let said = object["output"][0]["summary"][0]["text"].as_str().unwrap();
    assert_eq!(said, "I look at the files first, then I answer.");
    assert_eq!(output_text(&object), server.run("r").await["output_text"].as_str().unwrap());
    assert_eq!((&object["status"], &object["metadata"]), (&json!("completed"), &json!({ "a": "b" })));
    assert_eq!(object["usage"]["total_tokens"], 130);

    let path = "/v1/responses/resp_r?stream=true";
    for _ in 0..2 {
        assert_eq!(stream(&server, path, None).await, (200, live.clone()));
        let mut rest = live.as_str();
        for (at, frame) in whole.iter().enumerate() {
            rest = rest.split_once("\n\n").unwrap().1;
            let id = frame.id.as_deref().unwrap();
            let over = at == whole.len() - 1;
            assert_eq!(stream(&server, &format!("{path}&starting_after={id}"), None).await, (200, rest.to_owned()));
            let status = if over { 204 } else { 200 };
            assert_eq!(stream(&server, path, Some(id)).await, (status, rest.to_owned()), "after {id}");
        }
        let (status, refused) = stream(&server, &format!("{path}&starting_after={}", whole.len()), None).await;
        assert!(status == 409 && refused.contains("cursor_ahead"), "{status} {refused}");
        assert_eq!(server.get("/v1/responses/resp_r").await.1, object);
        server.kill9();
        server.up().await;
    }
    // Another face's run is a response too, and a command's stdout its text.
    server.sh("cmd", "printf 'a\\nb'").await;
    server.end("cmd").await;
    let (_, object) = server.get("/v1/responses/resp_cmd").await;
    assert_eq!((output_text(&object).as_str(), &object["status"]), ("a\nb", &json!("completed")));
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_end_is_never_a_success() {
    let server = Server::start_with(&["--live-max", "1"], &[]).await;
    let body = json!({ "run_id": "f", "model": "demo/fail", "input": "x" });
    let (status, refused) = server.post("/v1/responses", &body).await;
    assert_eq!((status, &refused["error"]["code"]), (502, &json!("run_failed")));
    let (_, object) = server.get("/v1/responses/resp_f").await;
    assert_eq!((&object["status"], &object["error"]["code"]), (&json!("failed"), &json!("server_error")), "{object}");
    assert_eq!(object["error"]["type"], server.run("f").await["error"]["code"]);
    let (_, text) = stream(&server, "/v1/responses/resp_f?stream=true", None).await;
    assert_eq!(frames(&text).last().unwrap().event.as_deref(), Some("response.failed"));

    // One works and one waits; both are cancelled.
    let slow = |id: &str| json!({ "run_id": id, "model": "demo/slow", "input": "600", "background": true });
    let (status, first) = server.post("/v1/responses", &slow("one")).await;
    assert_eq!((status, &first["background"], &first["id"]), (200, &json!(true), &json!("resp_one")));
    until("the response to be told of", async || {
        let (_, object) = server.get("/v1/responses/resp_one").await;
        (object["status"] == "in_progress" && !object["output"].as_array().unwrap().is_empty()).then_some(())
    })
    .await;
    let (status, second) = server.post("/v1/responses", &slow("two")).await;
    assert_eq!((status, &second["status"], &second["output"]), (200, &json!("queued"), &json!([])));
    // Whoever waits for the answer waits for a place first, and is told that there is none.
    let waiting = json!({ "model": "demo/echo", "input": "x", "queue_timeout_ms": 0 });
    assert_eq!(server.post("/v1/responses", &waiting).await.0, 429);
    let erased = server.http.delete(server.url("/v1/responses/resp_one")).send().await.unwrap();
    assert_eq!(erased.status(), 409);
    for id in ["two", "one"] {
        let (status, object) = server.post(&format!("/v1/responses/resp_{id}/cancel"), &json!({})).await;
        assert_eq!((status, &object["status"]), (200, &json!("cancelled")), "{object}");
        assert!(object["output"].as_array().unwrap().iter().all(|item| item["status"] == "incomplete"), "{object}");
        let (_, text) = stream(&server, &format!("/v1/responses/resp_{id}?stream=true"), None).await;
        let frames = frames(&text);
        let last = frames.last().unwrap();
        assert_eq!(last.event.as_deref(), Some("response.incomplete"));
        assert_eq!(data(last)["response"]["status"], "cancelled");
        assert_eq!(server.post(&format!("/v1/responses/resp_{id}/cancel"), &json!({})).await.0, 200);
    }
    let erased = server.http.delete(server.url("/v1/responses/resp_one")).send().await.unwrap();
    assert_eq!(erased.json::<Value>().await.unwrap()["deleted"], true);
    assert_eq!(server.get("/v1/responses/resp_one").await.0, 410);
    assert_no_process(&server.data()).await;
}

/// The same for longer text than a response holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_beyond_the_bound_is_incomplete() {
    let server = Server::start().await;
    server.sh("big", "yes 0123456789abcdef | head -c 1500000").await;
    assert_eq!(server.end("big").await["output_truncated"], true);
    let (_, object) = server.get("/v1/responses/resp_big").await;
    assert_eq!(object["status"], "incomplete");
    assert_eq!(object["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!((output_text(&object).len(), &object["output"][0]["status"]), (1 << 20, &json!("incomplete")));
    let (_, text) = stream(&server, "/v1/responses/resp_big?stream=true", None).await;
    let frames = frames(&text);
    assert_eq!(json!(told(&frames)), object["output"]);
    assert_eq!(frames.last().unwrap().event.as_deref(), Some("response.incomplete"));
    assert_no_process(&server.data()).await;
}

/// The texts of input items, in the order of the page.
fn asked(page: &Value) -> Vec<&str> {
    page["data"].as_array().unwrap().iter().map(|item| item["content"][0]["text"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_without_a_conversation_is_gone_on_with() {
    let mut server = Server::start().await;
    let ask = |id: &str, more: Value| {
        let mut body = json!({ "run_id": id, "model": "demo/echo", "input": format!("I say {id}") });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let on = |id: &str| json!({ "previous_response_id": format!("resp_{id}") });
    let (status, first) = server.post("/v1/responses", &ask("r1", json!({}))).await;
    assert_eq!((status, &first["conversation"]), (200, &Value::Null));
    // Two that were asked at the same time to go on with it: an agent's session has no branches.
    let (a, b) = tokio::join!(async { server.post("/v1/responses", &ask("a", on("r1"))).await }, async {
        server.post("/v1/responses", &ask("b", on("r1"))).await
    });
    let mut both = [("a", a), ("b", b)];
    both.sort_by_key(|(_, (status, _))| *status);
    let [(taken, (ok, second)), (_, (conflict, refused))] = both;
    assert_eq!((ok, conflict, &refused["error"]["code"]), (200, 409, &json!("session_conflict")), "{refused}");
    assert_eq!(second["previous_response_id"], "resp_r1");
    assert_eq!(output_text(&second), format!("I say {taken}"));
    let conversation = second["conversation"]["id"].as_str().unwrap().to_owned();
    // In the agent's own session and in the directory of the first one.
    let run = async |id: &str| {
        let run = server.run(id).await;
        (run["source_session_id"].clone(), run["cwd"].clone())
    };
    assert_eq!(run("r1").await, run(taken).await);
    assert!(run("r1").await.0.is_string());
    server.kill9();
    server.up().await;
    // Asked again it is what it was, and from there it goes on as any conversation does.
    assert_eq!(server.post("/v1/responses", &ask(taken, on("r1"))).await, (200, second));
    let (status, third) = server.post("/v1/responses", &ask("r3", on(taken))).await;
    assert_eq!((status, third["conversation"]["id"].as_str()), (200, Some(conversation.as_str())), "{third}");
    for (id, more, param) in [
        ("x1", json!({ "model": "demo/tools" }), "model"),
        ("x2", json!({ "model": "claude" }), "harness"),
        ("x3", json!({ "cwd": "/" }), "cwd"),
    ] {
        server.post("/v1/responses", &ask("alone", json!({}))).await;
        let mut body = ask(id, on("alone"));
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, refused) = server.post("/v1/responses", &body).await;
        let error = &refused["error"];
        assert_eq!((status, &error["code"], &error["param"]), (409, &json!("session_conflict"), &json!(param)), "{id}");
    }
    assert_eq!(server.stored().await.0.len(), 4, "what was refused left nothing");
    assert_no_process(&server.data()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_response_was_asked_is_listed_and_goes_with_it() {
    const SAID: &str = "a-text-that-is-nowhere-else-5613";
    let mut server = Server::start().await;
    let ask = |id: &str, more: Value| {
        let mut body = json!({ "run_id": id, "model": "demo/echo" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let input: Vec<Value> = (0..25)
        .map(|n| json!({ "role": if n % 2 == 0 { "user" } else { "assistant" }, "content": format!("{n} {SAID}") }))
        .collect();
    assert_eq!(server.post("/v1/responses", &ask("many", json!({ "input": input }))).await.0, 200);
    let hidden = json!({ "input": "hidden", "store": false });
    assert_eq!(server.post("/v1/responses", &ask("hidden", hidden)).await.0, 200);
    let turn = json!({ "messages": [{ "role": "user", "content": "a turn" }], "session_id": "s" });
    assert_eq!(server.post("/v1/chat/completions", &ask("turn", turn)).await.0, 200);
    server.sh("cmd", "true").await;
    server.kill9();
    server.up().await;

    let list = async |query: &str| server.get(&format!("/v1/responses/resp_many/input_items{query}")).await.1;
    let all = list("?order=asc&limit=100").await;
    let wanted: Vec<String> = (0..25).map(|n| format!("{n} {SAID}")).collect();
    assert_eq!((asked(&all), &all["has_more"]), (wanted.iter().map(String::as_str).collect(), &json!(false)));
    assert_eq!(all["data"][1]["content"][0]["type"], "output_text");
    // The newest come first, twenty of them, and the page after its last one has the rest.
    let page = list("").await;
    let newest: Vec<&str> = wanted.iter().rev().map(String::as_str).collect();
    assert_eq!((asked(&page), &page["has_more"]), (newest[..20].to_vec(), &json!(true)));
    assert_eq!((&page["first_id"], &page["last_id"]), (&page["data"][0]["id"], &page["data"][19]["id"]));
    let rest = list(&format!("?after={}", page["last_id"].as_str().unwrap())).await;
    assert_eq!((asked(&rest), &rest["has_more"]), (newest[20..].to_vec(), &json!(false)));
    let none = list(&format!("?after={}", rest["last_id"].as_str().unwrap())).await;
    assert_eq!((asked(&none), &none["first_id"]), (vec![], &Value::Null));

    for (id, texts) in [("hidden", vec![]), ("turn", vec!["a turn"]), ("cmd", vec![])] {
        let (status, page) = server.get(&format!("/v1/responses/resp_{id}/input_items")).await;
        assert_eq!((status, asked(&page)), (200, texts), "{id}");
    }
    // It goes with the run. A backup holds nothing that was erased before it, also not in unused pages.
    let held = async |name: &str| {
        let dest = server.dir.path().join(name);
        let (status, answer) = server.post("/v1/backup", &json!({ "dest": dest })).await;
        assert_eq!(status, 200, "{answer}");
        let store = std::fs::read_dir(dest.join("store")).unwrap().flatten();
        store.map(|file| std::fs::read(file.path()).unwrap()).any(|bytes| {
            let said = format!("24 {SAID}");
            bytes.windows(said.len()).any(|window| window == said.as_bytes())
        })
    };
    assert!(held("before").await, "the input is in a backup while its run is there");
    let erased = server.http.delete(server.url("/v1/responses/resp_many")).send().await.unwrap();
    assert_eq!(erased.status(), 200);
    assert_eq!(server.get("/v1/responses/resp_many/input_items").await.0, 410);
    assert!(!held("after").await, "the input outlived its run");
    assert_no_process(&server.data()).await;
}
