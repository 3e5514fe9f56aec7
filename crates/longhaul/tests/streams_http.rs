//! Streams over HTTP beyond the protocol's own suite: ids of events, compare and append, places in time and from the end,
//! retention, the list, who may do what, and what a crash leaves.

mod support;

use reqwest::Method;
use serde_json::{Value, json};

use support::streams::offset;
use support::{Server, until};

const JSON: &str = "application/json";

/// The numbers that a JSON stream holds from a place on.
async fn numbers(server: &Server, path: &str) -> Vec<u64> {
    let answer = server.read(path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_expects_another_end_stores_nothing() {
    let server = Server::start().await;
    server.put("s", JSON, &[]).await;
    let first = server.append("s", &[("stream-expected-offset", &offset(0))], "[1,2]").await;
    assert_eq!((first.status, first.next()), (204, offset(2).as_str()));
    let late = server.append("s", &[("stream-expected-offset", &offset(0))], "3").await;
    assert_eq!(late.refusal(), (412, "tail_moved".to_owned()));
    assert_eq!((late.next(), &late.json()["error"]["next_offset"]), (offset(2).as_str(), &json!(offset(2))));
    assert_eq!(numbers(&server, "s").await, [1, 2]);
    // Of many that expect the same end one is stored.
    let tries = (0..16).map(|n| {
        let server = &server;
        async move { server.append("s", &[("stream-expected-offset", &offset(2))], &n.to_string()).await.status }
    });
    let mut statuses = futures_util::future::join_all(tries).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [&[204_u16][..], &[412; 15]].concat());
    assert_eq!(numbers(&server, "s").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_goes_on_at_the_id_it_saw_last() {
    let server = Server::start().await;
    server.put("s", JSON, &[]).await;
    server.append("s", &[], "[1,2,3]").await;
    let mut follower = server.follow("s?offset=-1", None).await;
    assert_eq!(follower.next().await, Some((Some("[1,2,3]".to_owned()), offset(3))));
    server.append("s", &[], "4").await;
    let (data, id) = follower.next().await.unwrap();
    assert_eq!((data.as_deref(), id.as_str()), (Some("[4]"), offset(4).as_str()));
    drop(follower);
    server.append("s", &[("stream-closed", "true")], "5").await;
    let mut follower = server.follow("s?offset=-1", Some(&id)).await;
    assert_eq!(follower.rest().await, (vec![json!(5)], offset(5)));
    for last in ["x", "0000000000000099"] {
        let answer = server.stream(Method::GET, "s?live=sse", &[("last-event-id", last)], "").await;
        assert_eq!(answer.refusal(), (400, "invalid_cursor".to_owned()), "{last}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_may_begin_from_the_end_or_at_a_time() {
    let server = Server::start().await;
    server.put("s", JSON, &[]).await;
    server.append("s", &[], "[1,2,3]").await;
    for (count, expected) in [(0, &[][..]), (1, &[3]), (3, &[1, 2, 3]), (99, &[1, 2, 3])] {
        assert_eq!(numbers(&server, &format!("s?tail={count}")).await, expected, "{count}");
    }
    assert_eq!(numbers(&server, "s?since=2001-01-01T00:00:00Z").await, [1, 2, 3]);
    assert!(numbers(&server, "s?since=2101-01-01T00:00:00Z").await.is_empty());
    let live = server.follow("s?tail=2", None).await.next().await.unwrap();
    assert_eq!(live, (Some("[2,3]".to_owned()), offset(3)));
    server.append("s", &[], "4").await;
    let list: Value = server.get("/v1/stream?prefix=s").await.1;
    assert_eq!(list["data"][0]["next_offset"], json!(offset(4)));
    let found = numbers(&server, &format!("s?since={}", list["data"][0]["created_at"].as_str().unwrap())).await;
    assert_eq!(found, [1, 2, 3, 4], "a little earlier is possible, later is not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_longer_kept_is_told_and_never_skipped() {
    let server = Server::start().await;
    server.put("s", JSON, &[("stream-max-messages", "3")]).await;
    for n in 1..=10 {
        server.append("s", &[], &n.to_string()).await;
    }
    until("the oldest to go", async || {
        let head = server.stream(Method::HEAD, "s", &[], "").await;
        (head.header("stream-earliest-offset") == Some(&offset(7))).then_some(())
    })
    .await;
    for path in ["s?offset=0", "s?offset=6", "s?offset=6&live=sse", "s?offset=6&live=long-poll"] {
        let answer = server.read(path).await;
        assert_eq!(answer.refusal(), (410, "cursor_expired".to_owned()), "{path}");
        assert_eq!(answer.header("stream-earliest-offset"), Some(offset(7).as_str()), "{path}");
        assert_eq!(answer.json()["error"]["earliest"], json!(offset(7)), "{path}");
    }
    let kept = server.read("s").await;
    assert_eq!((kept.json(), kept.next()), (json!([8, 9, 10]), offset(10).as_str()));
    assert_eq!(kept.header("stream-earliest-offset"), Some(offset(7).as_str()));
    assert_eq!(numbers(&server, "s?offset=7").await, [8, 9, 10]);
    assert_eq!(numbers(&server, "s?tail=99").await, [8, 9, 10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_goes_by_path_in_pages() {
    let server = Server::start().await;
    for path in ["b/2", "a", "b/1", "c", "b/3"] {
        server.put(path, JSON, &[("stream-ttl", "3600")]).await;
    }
    server.put("b/1?project=other", "text/plain", &[]).await;
    let paths = |page: &Value| -> Vec<String> {
        page["data"].as_array().unwrap().iter().map(|s| s["path"].as_str().unwrap().to_owned()).collect()
    };
    let (status, first) = server.get("/v1/stream?prefix=b%2F&limit=2").await;
    assert_eq!((status, paths(&first), &first["has_more"]), (200, vec!["b/1".into(), "b/2".into()], &json!(true)));
    let next = first["next"].as_str().unwrap().replace('/', "%2F");
    let (_, second) = server.get(&format!("/v1/stream?prefix=b%2F&limit=2&after={next}")).await;
    assert_eq!((paths(&second), &second["has_more"]), (vec!["b/3".into()], &json!(false)));
    assert_eq!(paths(&server.get("/v1/stream").await.1), ["a", "b/1", "b/2", "b/3", "c"]);
    let other = server.get("/v1/stream?project=other").await.1;
    assert_eq!((paths(&other), &other["data"][0]["ttl_s"]), (vec!["b/1".into()], &Value::Null));
    assert_eq!(second["data"][0]["ttl_s"], 3600);
    for bad in ["limit=0", "limit=101", "order=x"] {
        assert_eq!(server.get(&format!("/v1/stream?{bad}")).await.0, 400, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_made_again_is_another_one() {
    let server = Server::start().await;
    server.put("s", JSON, &[]).await;
    server.append("s", &[], "1").await;
    let old = server.read("s").await;
    let tag = old.header("etag").unwrap();
    let again = server.stream(Method::GET, "s", &[("if-none-match", tag)], "").await;
    assert_eq!((again.status, again.header("etag"), again.next()), (304, Some(tag), old.next()));
    assert_eq!(server.stream(Method::DELETE, "s", &[], "").await.status, 204);
    assert_eq!(server.read("s").await.refusal(), (404, "stream_not_found".to_owned()));
    server.put("s", JSON, &[]).await;
    server.append("s", &[], "2").await;
    let new = server.stream(Method::GET, "s", &[("if-none-match", tag)], "").await;
    assert_eq!((new.status, new.json()), (200, json!([2])), "the same length, and not the same stream");
}

/// Asks with a token.
async fn with(server: &Server, token: &str, method: Method, path: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("content-type", JSON)];
    let body = if method == Method::POST { "1" } else { "" };
    server.stream(method, path, &headers, body).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_reaches_as_far_as_its_scope_and_its_project() {
    let server = Server::start().await;
    server.put("s", JSON, &[]).await;
    let asks = [(Method::GET, 0), (Method::HEAD, 0), (Method::PUT, 1), (Method::POST, 1), (Method::DELETE, 2)];
    for (rank, scope) in ["read", "run", "operate"].into_iter().enumerate() {
        let (_, made) = server.post("/v1/tokens", &json!({ "scope": scope })).await;
        for (method, needed) in &asks {
            let status = with(&server, made["token"].as_str().unwrap(), method.clone(), "s").await;
            assert_eq!(status < 300, rank >= *needed, "{scope} {method}: {status}");
        }
    }
    let (_, mine) = server.post("/v1/tokens", &json!({ "scope": "run", "project": "mine" })).await;
    let mine = mine["token"].as_str().unwrap();
    assert_eq!(with(&server, mine, Method::PUT, "s").await, 201);
    assert_eq!(with(&server, mine, Method::PUT, "s?project=default").await, 403);
    let (_, list) = server.get("/v1/stream?project=mine").await;
    assert_eq!(list["data"].as_array().unwrap().len(), 1, "{list}");
    // Appends have a way of their own to their handler; it leads through the same door.
    assert_eq!(with(&server, mine, Method::POST, "s").await, 204);
    assert_eq!(with(&server, mine, Method::POST, "s?project=default").await, 403);
    let wrong = format!("Bearer {mine}x");
    for (name, value, status) in
        [("host", "evil.example", 403), ("origin", "https://evil.example", 403), ("authorization", &wrong, 401)]
    {
        let headers = [("content-type", JSON), (name, value)];
        let answer = server.stream(Method::POST, "s?project=mine", &headers, "2").await;
        assert_eq!(answer.status, status, "{name}: {value}");
    }
    assert_eq!(server.read("s?project=mine").await.json(), json!([1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_writes_streams_and_deletes_none() {
    let server = Server::start().await;
    let stream = format!("{}/v1/stream/from-a-run", server.base);
    let script = format!(
        "code() {{ curl -s -o /dev/null -w '%{{http_code}} ' \"$@\"; }}\n\
         code -X PUT {stream} -H 'content-type: application/json'\n\
         code {stream} -H 'content-type: application/json' -d '{{\"said\":\"hello\"}}'\n\
         code {stream}\n\
         code -X DELETE {stream}\n"
    );
    server.sh("r", &script).await;
    server.end("r").await;
    let said = server.spool("r", "stdout").await;
    assert_eq!(String::from_utf8(said).unwrap(), "201 204 200 403 ");
    assert_eq!(server.read("from-a-run").await.json(), json!([{ "said": "hello" }]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_takes_nothing_back_and_doubles_nothing() {
    let mut server = Server::start().await;
    server.put("s", JSON, &[("stream-ttl", "3600")]).await;
    for round in 0..5_u64 {
        let seq = round.to_string();
        let producer = [("producer-id", "p"), ("producer-epoch", "0"), ("producer-seq", seq.as_str())];
        let done = server.append("s", &producer, &seq).await;
        assert_eq!((done.status, done.next()), (200, offset(round + 1).as_str()));
        let mut follower = server.follow(&format!("s?offset={round}"), None).await;
        let (_, id) = follower.next().await.unwrap();
        server.kill9();
        assert_eq!(follower.next().await, None);
        server.up().await;
        let again = server.append("s", &producer, "99").await;
        assert_eq!((again.status, again.next(), again.header("producer-seq")), (204, id.as_str(), Some(seq.as_str())));
        let on = server.stream(Method::GET, &format!("s?offset={id}"), &[], "").await;
        assert_eq!((on.status, on.text()), (200, "[]"));
    }
    assert_eq!(numbers(&server, "s").await, [0, 1, 2, 3, 4]);
    let head = server.stream(Method::HEAD, "s", &[], "").await;
    assert_eq!(head.header("stream-ttl"), Some("3600"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_of_the_page_do_what_it_says() {
    let server = Server::start().await;
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/streams.md")).unwrap();
    let blocks: Vec<&str> = page.split("```sh run\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 5, "the page has examples");
    let ran = tokio::process::Command::new("bash")
        .args(["-euo", "pipefail", "-c", &blocks.concat()])
        .env("BASE", &server.base)
        .env("NO_PROXY", "*")
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    for answer in ["[{\"id\":1},{\"id\":2}]", "[{\"id\":2}]", "[{\"id\":3}]", "event: control"] {
        assert!(said.contains(answer), "{answer}: {said}");
    }
}
