//! The log of a run as a stream: the same events, the same numbers, closed when the run is over, and nobody's to write.

mod support;

use reqwest::Method;
use serde_json::json;

use support::streams::offset;
use support::{Server, until};

/// A script that goes on when a file is there.
fn waits_for(file: &std::path::Path) -> String {
    format!("echo one; echo two; while [ ! -e {} ]; do sleep 0.02; done; echo three", file.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_run_is_followed_to_its_end_in_every_way() {
    let server = Server::start_with(&["--long-poll-timeout", "60000"], &[]).await;
    let go = server.dir.path().join("go");
    server.sh("r", &waits_for(&go)).await;
    let mut follower = server.follow("runs/r?offset=-1", None).await;
    let (first, at) = follower.next().await.unwrap();
    assert!(first.unwrap().contains("\"type\":\"run.created\""));
    until("the second line", async || {
        let now = server.read("runs/r?tail=1").await;
        (now.text().contains("\"two\"") && now.header("stream-closed").is_none()).then_some(())
    })
    .await;
    // Nothing more comes until the script goes on: this waits.
    let tail = server.read("runs/r?offset=now").await;
    assert_eq!((tail.status, tail.text()), (200, "[]"));
    let path = format!("runs/r?offset={}&live=long-poll", tail.next());
    let waiting = server.read(&path);
    let go_on = async {
        tokio::task::yield_now().await;
        std::fs::write(&go, "").unwrap();
    };
    let (polled, ()) = tokio::join!(waiting, go_on);
    assert_eq!(polled.status, 200);
    assert_eq!(polled.json()[0]["seq"], tail.next().parse::<u64>().unwrap() + 1);
    assert!(polled.header("stream-cursor").is_some());
    server.end("r").await;

    let events = server.events("r").await;
    let end = offset(events.len() as u64);
    let (rest, followed) = follower.to_the_end().await;
    assert_eq!(followed, end);
    let seen = at.parse::<usize>().unwrap();
    assert_eq!(rest, events[seen..], "what a live reader gets is the log");
    for (path, from) in
        [("runs/r", 0), ("runs/r?offset=-1", 0), ("runs/r?offset=3", 3), ("runs/r?tail=2", events.len() - 2)]
    {
        let page = server.read(path).await;
        assert_eq!(page.json(), json!(events[from..]), "{path}");
        assert_eq!((page.next(), page.header("stream-closed")), (end.as_str(), Some("true")), "{path}");
        let tag = page.header("etag").unwrap().to_owned();
        assert_eq!(server.stream(Method::GET, path, &[("if-none-match", &tag)], "").await.status, 304, "{path}");
    }
    // Times are those of the events.
    let ts = events.last().unwrap()["ts"].as_str().unwrap();
    let first = events.iter().position(|event| event["ts"] == ts).unwrap();
    assert_eq!(server.read(&format!("runs/r?since={ts}")).await.json(), json!(events[first..]));
    let head = server.stream(Method::HEAD, "runs/r", &[], "").await;
    assert_eq!((head.next(), head.header("stream-closed")), (end.as_str(), Some("true")));
    assert_eq!(head.header("content-type"), Some("application/json"));
    // At the end there is nothing to wait for, and a browser that comes back is told to stay away.
    assert_eq!(server.read(&format!("runs/r?offset={end}&live=long-poll")).await.status, 204);
    let (none, _) = server.follow(&format!("runs/r?offset={end}"), None).await.to_the_end().await;
    assert!(none.is_empty());
    let back = server.stream(Method::GET, "runs/r?live=sse&offset=-1", &[("last-event-id", &end)], "").await;
    assert_eq!(back.status, 204);
    let middle = server.follow("runs/r?offset=-1", Some(&offset(3))).await.to_the_end().await;
    assert_eq!(middle.0, events[3..], "the id that was seen last beats the offset");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_run_is_read_only_and_goes_with_the_run() {
    let server = Server::start().await;
    server.sh("r", "echo one").await;
    server.end("r").await;
    let before = server.events("r").await;
    for path in ["runs/r", "runs/nobody", "runs/r/more"] {
        for method in [Method::PUT, Method::POST, Method::DELETE] {
            let answer = server.stream(method.clone(), path, &[("content-type", "application/json")], "{}").await;
            assert_eq!(answer.refusal(), (405, "method_not_allowed".to_owned()), "{method} {path}");
        }
    }
    assert_eq!(server.events("r").await, before);
    assert_eq!(server.read("runs/nobody").await.refusal(), (404, "run_not_found".to_owned()));
    assert_eq!(server.read("runs/r/more").await.refusal(), (404, "route_not_found".to_owned()));
    assert_eq!(server.read("runs/r?project=other").await.refusal(), (404, "run_not_found".to_owned()));
    let ahead = server.read("runs/r?offset=99").await;
    assert_eq!((ahead.refusal().1.as_str(), ahead.status), ("invalid_cursor", 400));
    assert_eq!(ahead.next(), offset(before.len() as u64));

    // A share of the run opens it, and nothing beside it.
    let (_, shared) = server.post("/v1/runs/r/share", &json!({})).await;
    let token = shared["token"].as_str().unwrap();
    assert_eq!(server.read(&format!("runs/r?project=default&token={token}")).await.json(), json!(before));
    assert_eq!(server.read(&format!("other?project=default&token={token}")).await.status, 403);

    let answer = server.http.delete(server.url("/v1/runs/r")).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    for method in [Method::GET, Method::HEAD] {
        assert_eq!(server.stream(method, "runs/r", &[], "").await.status, 410);
    }
}
