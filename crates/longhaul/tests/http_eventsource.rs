//! `?client=eventsource`: what a page sees that has `onmessage` and nothing else.

mod support;

use longhaul_api::sse::{Frame, Parser};
use serde_json::{Value, json};

use support::sse::Reader;
use support::{Server, until};

/// An answer of a stream that ends by itself: status, headers, frames. Asked for as by a client that cannot say what it
/// accepts.
async fn read(request: reqwest::RequestBuilder) -> (u16, reqwest::header::HeaderMap, Vec<Frame>) {
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let bytes = tokio::time::timeout(support::PATIENCE, answer.bytes()).await;
    let frames = Parser::default().push(&bytes.expect("the stream ends").unwrap());
    (status, headers, frames)
}

fn data(frame: &Frame) -> Value {
    serde_json::from_str(&frame.data).unwrap()
}

/// The error of a stream that is one frame of an error.
fn refusal(answer: &(u16, reqwest::header::HeaderMap, Vec<Frame>)) -> Value {
    let (status, headers, frames) = answer;
    assert_eq!((*status, headers["content-type"].as_bytes()), (200, &b"text/event-stream; charset=utf-8"[..]));
    assert!(!headers.contains_key("www-authenticate") && !headers.contains_key("content-length"), "{headers:?}");
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert_eq!((&frames[0].id, &frames[0].event), (&None, &None));
    let error = data(&frames[0])["error"].clone();
    assert_eq!(error["request_id"], headers["x-request-id"].to_str().unwrap());
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_knows_no_names_sees_the_whole_log() {
    let server = Server::start().await;
    server.sh("r", "echo one; echo two").await;
    server.end("r").await;
    let log = server.events("r").await;
    let url = server.url("/v1/runs/r/events?client=eventsource");
    let (status, headers, frames) = read(server.http.get(&url)).await;
    assert_eq!((status, headers["x-run-id"].as_bytes()), (200, &b"r"[..]));
    assert!(frames.iter().all(|frame| frame.event.is_none()), "{frames:?}");
    let (hello, events) = frames.split_first().unwrap();
    assert_eq!(hello.id, None);
    assert_eq!(data(hello), json!({ "type": "hello", "earliest": 1, "tail": log.len(), "status": "completed" }));
    let ids: Vec<String> = events.iter().map(|frame| frame.id.clone().unwrap()).collect();
    assert_eq!(ids, (1..=log.len()).map(|seq| seq.to_string()).collect::<Vec<_>>());
    assert_eq!(events.iter().map(data).collect::<Vec<_>>(), log);

    // The last cursor still ends it for good.
    let (status, _, frames) = read(server.http.get(&url).header("last-event-id", log.len().to_string())).await;
    assert_eq!((status, frames.len()), (204, 0));

    // The feed is the same.
    let mut feed = Reader::of(server.http.get(server.url("/v1/events?client=eventsource"))).await.unwrap();
    assert_eq!(data(&feed.next().await.unwrap())["type"], "hello");
    let frame = feed.next().await.unwrap();
    assert_eq!((frame.id.as_deref(), frame.event.as_deref()), (Some("1"), None));
    assert_eq!(data(&frame)["type"], "run.created");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_would_close_it_in_silence_is_a_frame() {
    let server = Server::start().await;
    server.sh("r", "echo one").await;
    server.end("r").await;
    let tail = server.events("r").await.len();
    let url = |rest: &str| server.url(rest);

    // Ahead, of a run and of the feed; the same bodies as without the parameter.
    let beyond = format!("/v1/runs/r/events?after={}", tail + 1);
    let error = refusal(&read(server.http.get(url(&format!("{beyond}&client=eventsource")))).await);
    assert_eq!((&error["code"], &error["tail"]), (&json!("cursor_ahead"), &json!(tail)));
    let (status, plain) = server.get(&beyond).await;
    assert_eq!((status, &plain["error"]["message"]), (409, &error["message"]));
    let error = refusal(&read(server.http.get(url("/v1/events?client=eventsource&after=999999"))).await);
    assert_eq!(error["code"], "cursor_ahead");
    assert!(error["tail"].as_u64().unwrap() > 0);

    // Gone.
    assert_eq!(server.http.delete(url("/v1/runs/r")).send().await.unwrap().status(), 200);
    let error = refusal(&read(server.http.get(url("/v1/runs/r/events?client=eventsource"))).await);
    assert_eq!((&error["code"], &error["run_id"]), (&json!("run_gone"), &json!("r")));
    assert_eq!(server.get("/v1/runs/r/events").await.0, 410);

    // What is no such refusal stays what it is, and so does every other route.
    assert_eq!(server.get("/v1/runs/nobody/events?client=eventsource").await.0, 404);
    let (status, body) = server.get("/v1/runs/nobody/events?client=curl").await;
    assert_eq!(
        (status, &body["error"]["code"], &body["error"]["param"]),
        (400, &json!("invalid_field"), &json!("client"))
    );
    let (status, body) = server.get("/v1/runs/r?client=eventsource").await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("unknown_field")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_token_is_a_frame_on_streams_and_a_status_elsewhere() {
    let mut server = Server::start().await;
    let file = server.dir.path().join("token");
    std::fs::write(&file, "s3cret\n").unwrap();
    server.term();
    server.args = vec!["--token-file".to_owned(), file.to_str().unwrap().to_owned()];
    server.up().await;
    for path in ["/v1/runs/r/events?client=eventsource", "/v1/events?after=3&client=eventsource"] {
        let error = refusal(&read(server.http.get(server.url(path))).await);
        assert_eq!((&error["code"], &error["param"]), (&json!("unauthorized"), &json!("Authorization")), "{path}");
    }
    for path in ["/v1/runs/r/events", "/v1/events?client=other", "/v1/runs?client=eventsource"] {
        assert_eq!(server.get(path).await.0, 401, "{path}");
    }
    assert_eq!(server.post("/v1/events?client=eventsource", &json!({})).await.0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_says_so_without_a_name() {
    let mut server = Server::start().await;
    server.sh("r", "exec sleep 600").await;
    server.status("r", "running").await;
    let mut streams = vec![];
    for path in ["/v1/runs/r/events?client=eventsource", "/v1/events?client=eventsource"] {
        streams.push(Reader::of(server.http.get(server.url(path))).await.unwrap());
    }
    server.term();
    for mut stream in streams {
        let mut last = None;
        while let Some(frame) = stream.next().await {
            last = Some(frame);
        }
        let last = last.unwrap();
        assert_eq!((&last.id, &last.event), (&None, &None));
        let said = data(&last);
        assert_eq!(said["type"], "draining");
        assert!(said["retry_ms"].is_u64() && said["cursor"].is_u64(), "{said}");
    }
    server.up().await;
    server.post("/v1/runs/r/cancel?wait_ms=30000", &json!({})).await;
    until("the run to be over", async || (server.run("r").await["status"] == "cancelled").then_some(())).await;
}
