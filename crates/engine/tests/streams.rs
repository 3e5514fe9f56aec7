//! What streams promise, case by case.
#![allow(missing_docs)]

mod harbour;

use bytes::Bytes;
use harbour::{World, key, kind};
use longhaul_engine::streams::{Append, AppendError, Create, CreateError, DeleteError, Happened, OpenError, ReadError};
use longhaul_engine::streams::{Move, WriteError};
use longhaul_model::Timestamp;
use longhaul_model::stream::{Keep, Lifetime, Offset, Producer, Refusal};
use longhaul_store::{CommitError, Store as _};

const TEXT: &str = "text/plain";
const JSON: &str = "application/json";

fn refusal(error: Option<AppendError>) -> Option<Refusal> {
    match error {
        Some(AppendError::Refused { refusal, .. }) => Some(refusal),
        _ => None,
    }
}

#[tokio::test]
async fn what_is_appended_is_read_in_every_way() {
    let world = World::new().await;
    assert!(world.create("a/b", JSON).await.new);
    assert!(!world.create("a/b", "application/JSON; charset=utf-8").await.new);
    let appended = world.append("a/b", "[1, {\"x\": [ ]}]").await.unwrap();
    assert_eq!((appended.next, appended.new, appended.closed), (Offset::new(2), true, false));
    world.append("a/b", "\"three\"").await.unwrap();
    assert_eq!(world.texts("a/b").await, ["1", "{\"x\":[]}", "\"three\""]);
    assert_eq!(world.bytes("a/b").await, b"1\n{\"x\":[]}\n\"three\"\n");
    let (texts, page) = world.read("a/b", 2).await.unwrap();
    assert_eq!((texts, page.next, page.closed_at_end), (vec!["\"three\"".to_owned()], Offset::new(3), false));
    assert_eq!(world.read("a/b", 4).await.unwrap_err(), ReadError::Ahead { tail: Offset::new(3) });
    let closed = world.close("a/b", None).await.unwrap();
    assert_eq!((closed.next, closed.new, closed.closed), (Offset::new(3), true, true));
    assert!(!world.close("a/b", None).await.unwrap().new);
    assert!(world.read("a/b", 3).await.unwrap().1.closed_at_end);
    assert_eq!(refusal(world.append("a/b", "1").await.err()), Some(Refusal::Closed));
    assert!(world.streams.head(&key("a/b")).await.unwrap().closed);
    assert_eq!(world.streams.head(&key("a")).await.unwrap_err(), OpenError::NotFound);
}

#[tokio::test]
async fn bytes_stay_as_they_are_and_large_bodies_are_cut() {
    let mut world = World::new().await;
    world.create("b", "application/octet-stream").await;
    let body = Bytes::from((0..(5 << 19)).map(|at| (at % 251) as u8).collect::<Vec<_>>());
    let append = Append { body: Some(&body), content_type: Some("application/octet-stream"), ..Append::default() };
    assert_eq!(world.streams.append(&key("b"), append).await.unwrap().next, Offset::new(3));
    world.append("b", "\n\0x").await.unwrap();
    for _ in 0..2 {
        let read = world.bytes("b").await;
        assert!(read[..body.len()] == body && read[body.len()..] == *b"\n\0x");
        world.killed().await;
    }
}

#[tokio::test]
async fn producers_survive_a_kill() {
    let mut world = World::new().await;
    world.create("p", TEXT).await;
    for seq in 0..3 {
        assert!(world.append_as("p", "x", Some(("one", 0, seq))).await.unwrap().new);
    }
    world.killed().await;
    let repeated = world.append_as("p", "x", Some(("one", 0, 2))).await.unwrap();
    assert_eq!((repeated.new, repeated.producer.unwrap().last_seq), (false, 2));
    assert!(world.append_as("p", "y", Some(("one", 0, 3))).await.unwrap().new);
    let gap = refusal(world.append_as("p", "x", Some(("one", 0, 5))).await.err());
    assert_eq!(gap, Some(Refusal::Gap { expected: 4, received: 5 }));
    assert!(world.append_as("p", "z", Some(("one", 1, 0))).await.unwrap().new);
    let zombie = refusal(world.append_as("p", "x", Some(("one", 0, 4))).await.err());
    assert_eq!(zombie, Some(Refusal::StaleEpoch { current: 1 }));
    assert!(world.close("p", Some(("one", 1, 1))).await.unwrap().new);
    world.killed().await;
    let repeated = world.close("p", Some(("one", 1, 1))).await.unwrap();
    assert_eq!((repeated.new, repeated.closed), (false, true));
    assert_eq!(refusal(world.close("p", Some(("one", 1, 2))).await.err()), Some(Refusal::Closed));
    assert_eq!(world.texts("p").await, ["x", "x", "x", "y", "z"]);
}

#[tokio::test]
async fn a_writer_may_name_the_tail_or_its_own_number() {
    let mut world = World::new().await;
    world.create("e", TEXT).await;
    let body = Bytes::from_static(b"x");
    let append = Append { body: Some(&body), content_type: Some(TEXT), ..Append::default() };
    let at = |tail| Append { expected_tail: Some(Offset::new(tail)), ..append };
    assert!(world.streams.append(&key("e"), at(0)).await.is_ok());
    let error = world.streams.append(&key("e"), at(0)).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused { refusal: Refusal::Tail, tail, .. } if tail == Offset::new(1)));
    let numbered = |seq| Append { stream_seq: Some(seq), ..append };
    assert!(world.streams.append(&key("e"), numbered("09")).await.is_ok());
    world.killed().await;
    assert!(world.streams.append(&key("e"), numbered("10")).await.is_ok());
    let error = world.streams.append(&key("e"), numbered("1")).await.err();
    assert_eq!(refusal(error), Some(Refusal::StreamSeq { last: "10".into() }));
}

#[tokio::test]
async fn a_name_is_of_one_stream() {
    let mut world = World::new().await;
    let create = || Create { content_type: Some(kind(TEXT)), lifetime: Lifetime::TtlSeconds(60), ..Create::default() };
    let first = world.create_as("n", create()).await.unwrap();
    assert!(first.new);
    world.killed().await;
    let second = world.create_as("n", create()).await.unwrap();
    assert_eq!((second.new, second.info), (false, first.info));
    for (what, other) in [
        ("content type", Create { content_type: Some(kind(JSON)), ..create() }),
        ("lifetime", Create { lifetime: Lifetime::TtlSeconds(61), ..create() }),
        ("closure", Create { closed: true, ..create() }),
        ("retention", Create { keep: Keep { messages_max: Some(1), ..Keep::default() }, ..create() }),
    ] {
        assert_eq!(world.create_as("n", other).await.unwrap_err(), CreateError::Exists { what });
    }
    world.append("n", "old").await.unwrap();
    world.streams.delete(&key("n")).await.unwrap();
    assert_eq!(world.streams.delete(&key("n")).await.unwrap_err(), DeleteError::NotFound);
    assert!(world.create_as("n", create()).await.unwrap().new);
    assert_eq!(world.texts("n").await, [""; 0]);
}

#[tokio::test]
async fn a_stream_is_created_with_all_it_is_to_hold() {
    let world = World::new().await;
    let body = Bytes::from_static(b"[1, 2]");
    let create = Create { content_type: Some(kind(JSON)), closed: true, body, ..Create::default() };
    let created = world.create_as("c", create.clone()).await.unwrap();
    assert!((created.info.tail, created.info.closed) == (Offset::new(2), true));
    assert!(!world.create_as("c", create.clone()).await.unwrap().new);
    let empty = Create { body: Bytes::from_static(b"[]"), closed: false, ..create.clone() };
    assert_eq!(world.create_as("d", empty).await.unwrap().info.tail, Offset::ZERO);
    let wrong = Create { body: Bytes::from_static(b"[1"), ..create };
    assert!(matches!(world.create_as("f", wrong).await, Err(CreateError::NotJson(_))));
    assert_eq!(world.streams.head(&key("f")).await.unwrap_err(), OpenError::NotFound);
}

#[tokio::test]
async fn forks_share_what_was_and_go_their_own_way() {
    let mut world = World::new().await;
    world.create("s", TEXT).await;
    for body in ["one", "two", "three"] {
        world.append_as("s", body, Some(("p", 0, body.len() as u64 - 3 + u64::from(body == "two")))).await.unwrap();
    }
    world.fork("f", "s", Some(1), 0).await.unwrap();
    world.fork("g", "s", Some(1), 2).await.unwrap();
    world.append("f", "F").await.unwrap();
    world.append("g", "G").await.unwrap();
    // Producers are not inherited.
    assert!(world.append_as("f", "P", Some(("p", 0, 0))).await.unwrap().new);
    world.fork("h", "g", None, 0).await.unwrap();
    world.fork("i", "h", Some(2), 1).await.unwrap();
    world.close("s", None).await.unwrap();
    for _ in 0..2 {
        assert_eq!(world.texts("f").await, ["one", "F", "P"]);
        assert_eq!(world.texts("g").await, ["one", "tw", "G"]);
        assert_eq!(world.texts("h").await, ["one", "tw", "G"]);
        assert_eq!(world.texts("i").await, ["one", "tw", "G"]);
        assert_eq!(world.bytes("i").await, b"onetwG");
        assert!(!world.streams.head(&key("f")).await.unwrap().closed);
        world.killed().await;
    }
    assert_eq!(world.streams.delete(&key("s")).await, Ok(()));
    assert_eq!(world.streams.delete(&key("s")).await, Err(DeleteError::Gone));
    assert_eq!(world.streams.head(&key("s")).await.unwrap_err(), OpenError::Gone);
    assert_eq!(world.append("s", "x").await.unwrap_err(), AppendError::Gone);
    assert_eq!(world.fork("x", "s", None, 0).await.unwrap_err(), CreateError::SourceGone);
    assert_eq!(world.create_as("s", Create::default()).await.unwrap_err(), CreateError::Gone);
    for path in ["g", "h", "f"] {
        world.streams.delete(&key(path)).await.unwrap();
        world.killed().await;
        assert_eq!(world.texts("i").await, ["one", "tw", "G"]);
    }
    assert_eq!(world.streams.head(&key("g")).await.unwrap_err(), OpenError::Gone);
    world.streams.delete(&key("i")).await.unwrap();
    assert_eq!(world.records("stream").await, []);
    world.streams.sweep().await.unwrap();
    for kind in ["stream_producer", "stream_time", "stream_gone"] {
        assert_eq!(world.records(kind).await, [], "{kind}");
    }
    assert!(world.create_as("s", Create::default()).await.unwrap().new);
}

#[tokio::test]
async fn a_fork_that_cannot_be_is_refused_and_counts_for_nothing() {
    let world = World::new().await;
    world.create("s", TEXT).await;
    world.append("s", "one").await.unwrap();
    assert_eq!(world.fork("f", "t", None, 0).await.unwrap_err(), CreateError::SourceNotFound);
    let tail = Offset::new(1);
    assert_eq!(world.fork("f", "s", Some(2), 0).await.unwrap_err(), CreateError::ForkOffset { tail });
    assert_eq!(world.fork("f", "s", Some(0), 4).await.unwrap_err(), CreateError::ForkSubOffset);
    assert_eq!(world.fork("f", "s", None, 1).await.unwrap_err(), CreateError::ForkSubOffset);
    let from = longhaul_model::stream::StreamPath::parse("s").unwrap();
    let fork = Some(longhaul_engine::streams::Fork { from, at: None, sub: 0 });
    let other = Create { content_type: Some(kind(JSON)), fork, ..Create::default() };
    assert!(matches!(world.create_as("f", other).await, Err(CreateError::SourceContentType { .. })));
    world.store.fail_next(CommitError::Full);
    assert_eq!(world.fork("f", "s", None, 0).await.unwrap_err(), CreateError::Write(WriteError::Full));
    assert_eq!(world.fork("f", "s", Some(0), 3).await.unwrap().info.tail, tail);
    assert!(!world.fork("f", "s", Some(0), 3).await.unwrap().new);
    assert_eq!(world.fork("f", "s", Some(0), 2).await.unwrap_err(), CreateError::Exists { what: "fork sub-offset" });
    world.streams.delete(&key("f")).await.unwrap();
    world.streams.delete(&key("s")).await.unwrap();
    assert_eq!(world.records("stream").await, []);
}

#[tokio::test]
async fn a_ttl_begins_again_with_each_use_and_not_with_a_kill() {
    let mut world = World::new().await;
    let create = |lifetime| Create { content_type: Some(kind(TEXT)), lifetime, ..Create::default() };
    let make = |path: &'static str, lifetime| world.streams.create(&*Box::leak(Box::new(key(path))), create(lifetime));
    make("used", Lifetime::TtlSeconds(80)).await.unwrap();
    make("idle", Lifetime::TtlSeconds(80)).await.unwrap();
    make("headed", Lifetime::TtlSeconds(80)).await.unwrap();
    let at = Timestamp::from_unix_ms(1_795_254_000_000 + 200_000);
    make("until", Lifetime::Until(at)).await.unwrap();
    for _ in 0..4 {
        world.clock.pass(49_000);
        let _ = world.read("used", 0).await.unwrap();
        let _ = world.streams.head(&key("headed")).await;
        let _ = world.append("until", "x").await.unwrap();
        world.killed().await;
    }
    for path in ["idle", "headed"] {
        assert_eq!(world.streams.head(&key(path)).await.unwrap_err(), OpenError::NotFound, "{path}");
    }
    world.clock.pass(5_000);
    assert_eq!(world.streams.head(&key("until")).await.unwrap_err(), OpenError::NotFound);
    assert!(world.streams.head(&key("used")).await.is_ok());
    world.clock.pass(100_000);
    world.streams.sweep().await.unwrap();
    assert_eq!(world.records("stream").await, []);
    world.clock.pass(100_000);
    world.streams.sweep().await.unwrap();
    assert_eq!(world.records("stream_expiring").await, []);
}

#[tokio::test]
async fn what_is_over_goes_though_nobody_looks_at_it() {
    let mut world = World::new().await;
    let create = Create { lifetime: Lifetime::TtlSeconds(10), ..Create::default() };
    for path in ["a", "b", "c"] {
        world.create_as(path, create.clone()).await.unwrap();
    }
    world.fork("f", "c", None, 0).await.unwrap();
    world.clock.pass(8_000);
    world.append("b", "x").await.unwrap();
    world.append("f", "x").await.unwrap();
    world.killed().await;
    world.clock.pass(4_000);
    assert_eq!(world.streams.sweep().await.unwrap().expired, 2);
    let left: Vec<String> = world.records("stream").await.into_iter().map(|key| key.id).collect();
    assert_eq!(left, ["default/b", "default/c", "default/f"]);
    assert_eq!(world.streams.head(&key("c")).await.unwrap_err(), OpenError::Gone);
    assert_eq!(world.texts("f").await, ["x"]);
    world.clock.pass(30_000);
    world.streams.sweep().await.unwrap();
    assert_eq!(world.records("stream").await, []);
}

#[tokio::test]
async fn a_stream_keeps_what_it_was_asked_to_keep() {
    let mut world = World::new().await;
    let keep = |keep| Create { content_type: Some(kind(TEXT)), keep, ..Create::default() };
    let last_three = Keep { messages_max: Some(3), ..Keep::default() };
    world.create_as("few", keep(last_three)).await.unwrap();
    let small = Keep { bytes_max: Some(8), ..Keep::default() };
    world.create_as("small", keep(small)).await.unwrap();
    let young = Keep { age_max_seconds: Some(10), ..Keep::default() };
    world.create_as("young", keep(young)).await.unwrap();
    for at in 0..9 {
        for path in ["few", "small", "young"] {
            world.append(path, &format!("m{at}")).await.unwrap();
        }
        world.clock.pass(2_000);
    }
    assert_eq!(world.texts("few").await, ["m6", "m7", "m8"]);
    assert_eq!(world.texts("small").await, ["m5", "m6", "m7", "m8"]);
    assert_eq!(world.streams.sweep().await.unwrap().trimmed, 1);
    assert_eq!(world.texts("young").await, ["m4", "m5", "m6", "m7", "m8"]);
    let expired = ReadError::Expired { earliest: Offset::new(6) };
    assert_eq!(world.read("few", 0).await.unwrap_err(), expired);
    assert_eq!(
        world.fork("f", "few", Some(3), 0).await.unwrap_err(),
        CreateError::ForkExpired { earliest: Offset::new(6) }
    );
    world.fork("f", "few", Some(7), 0).await.unwrap();
    for _ in 0..3 {
        world.append("few", "more").await.unwrap();
    }
    // A source keeps all while it has forks.
    assert_eq!(world.texts("few").await.len(), 6);
    assert_eq!(world.texts("f").await, ["m6"]);
    world.killed().await;
    world.streams.delete(&key("f")).await.unwrap();
    world.append("few", "last").await.unwrap();
    assert_eq!(world.texts("few").await, ["more", "more", "last"]);
    world.clock.pass(20_000);
    assert_eq!(world.streams.sweep().await.unwrap().trimmed, 1);
    assert_eq!(world.texts("young").await, [""; 0]);
    assert_eq!(world.append("young", "x").await.unwrap().next, Offset::new(10));
    let seconds = world.records("stream_time").await;
    let of_young = seconds.iter().filter(|key| key.id.starts_with("0000000000000003/")).count();
    assert_eq!(of_young, 2, "{seconds:?}");
}

#[tokio::test]
async fn a_reader_may_begin_by_time() {
    let mut world = World::new().await;
    world.create("t", TEXT).await;
    let start = 1_795_254_000_000;
    for _ in 0..5 {
        world.append("t", "x").await.unwrap();
        world.append("t", "y").await.unwrap();
        world.clock.pass(1_500);
        world.killed().await;
    }
    world.fork("f", "t", Some(7), 0).await.unwrap();
    world.clock.pass(1_000);
    world.append("f", "z").await.unwrap();
    for (path, ms, offset) in [
        ("t", -5_000, 0),
        ("t", 0, 0),
        ("t", 1_000, 2),
        ("t", 1_999, 2),
        ("t", 2_000, 4),
        ("t", 3_100, 4),
        ("t", 6_100, 8),
        ("t", 7_000, 10),
        ("f", 3_000, 4),
        ("f", 6_000, 7),
        ("f", 9_000, 8),
    ] {
        let reader = world.streams.open(&key(path)).await.unwrap();
        let offset = Ok(Offset::new(offset));
        assert_eq!(reader.since(Timestamp::from_unix_ms(start + ms)).await, offset, "{path} {ms}");
    }
}

#[tokio::test]
async fn who_waits_does_not_bring_back_what_is_over() {
    let world = World::new().await;
    world.create_as("o", Create { lifetime: Lifetime::TtlSeconds(10), ..Create::default() }).await.unwrap();
    let mut reader = world.streams.open(&key("o")).await.unwrap();
    world.clock.pass(10_000);
    {
        let mut waiting = std::pin::pin!(reader.wait(Offset::ZERO));
        for _ in 0..20 {
            assert!(futures_util::poll!(&mut waiting).is_pending());
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(world.streams.head(&key("o")).await.unwrap_err(), OpenError::NotFound);
    assert_eq!(reader.wait(Offset::ZERO).await, Ok(Happened::Deleted));
}

#[tokio::test]
async fn a_start_keeps_the_places_in_time() {
    let mut world = World::new().await;
    let lifetime = Lifetime::TtlSeconds(80);
    for path in ["appended", "used"] {
        world.create_as(path, Create { content_type: Some(kind(TEXT)), lifetime, ..Create::default() }).await.unwrap();
    }
    world.clock.pass(20_000);
    let at = Timestamp::from_unix_ms(1_795_254_000_000 + 20_000);
    // Of the one an append is the last that is stored, of the other a look at it.
    world.append("appended", "before").await.unwrap();
    world.streams.open(&key("used")).await.unwrap();
    world.killed().await;
    for path in ["appended", "used"] {
        world.append(path, "the same second").await.unwrap();
    }
    world.clock.pass(3_000);
    for path in ["appended", "used"] {
        world.append(path, "later").await.unwrap();
        let reader = world.streams.open(&key(path)).await.unwrap();
        assert_eq!(reader.since(at).await, Ok(Offset::ZERO), "{path}");
    }
}

#[tokio::test]
async fn what_finds_no_room_leaves_nothing() {
    let world = World::new().await;
    world.create("b", TEXT).await;
    let body = Bytes::from_static(b"x");
    let append = Append { body: Some(&body), content_type: Some(TEXT), stream_seq: Some("1"), ..Append::default() };
    let producer = Some(Producer { id: "p", epoch: 0, seq: 0 });
    for append in [append, Append { stream_seq: None, producer, close: true, ..append }] {
        world.store.fail_next(CommitError::Busy);
        let busy = world.streams.append(&key("b"), append).await.unwrap_err();
        assert_eq!(busy, AppendError::Write(WriteError::Busy));
        let tail = world.streams.head(&key("b")).await.unwrap().tail;
        // It is decided as if the first had never come.
        let again = world.streams.append(&key("b"), Append { expected_tail: Some(tail), ..append }).await.unwrap();
        assert_eq!((again.new, again.next), (true, tail.plus(1)));
    }
    assert_eq!(world.texts("b").await, ["x", "x"]);
}

#[tokio::test]
async fn a_reader_that_waits_hears_of_messages_closure_and_deletion() {
    let world = World::new().await;
    world.create("w", TEXT).await;
    let mut reader = world.streams.open(&key("w")).await.unwrap();
    let streams = world.streams.clone();
    let waiting = tokio::spawn(async move {
        let mut heard = Vec::new();
        let mut after = Offset::ZERO;
        loop {
            let happened = reader.wait(after).await.unwrap();
            heard.push(happened);
            match happened {
                Happened::Messages => {
                    after = reader.read(after, longhaul_store::ReadLimit::default()).await.unwrap().next;
                }
                Happened::Closed | Happened::Deleted => return heard,
            }
        }
    });
    tokio::task::yield_now().await;
    world.append("w", "x").await.unwrap();
    world.close("w", None).await.unwrap();
    assert_eq!(waiting.await.unwrap(), [Happened::Messages, Happened::Closed]);
    world.create("d", TEXT).await;
    let mut reader = streams.open(&key("d")).await.unwrap();
    let waiting = tokio::spawn(async move { (reader.wait(Offset::ZERO).await, reader.info().await) });
    tokio::task::yield_now().await;
    world.streams.delete(&key("d")).await.unwrap();
    assert_eq!(waiting.await.unwrap(), (Ok(Happened::Deleted), Err(ReadError::NotFound)));
}

#[tokio::test]
async fn streams_are_listed_by_path() {
    let world = World::new().await;
    for path in ["b/2", "a", "b/1", "b/3", "c"] {
        world.create(path, TEXT).await;
    }
    world.append("b/1", "x").await.unwrap();
    let project = longhaul_model::ProjectId::default_project();
    let page = world.streams.list(&project, "b/", "", 2).await.unwrap();
    let paths: Vec<&str> = page.streams.iter().map(|listed| listed.path.as_str()).collect();
    assert_eq!((paths, page.next.as_deref()), (vec!["b/1", "b/2"], Some("b/2")));
    assert_eq!(page.streams[0].info.tail, Offset::new(1));
    let page = world.streams.list(&project, "b/", "b/2", 2).await.unwrap();
    let paths: Vec<&str> = page.streams.iter().map(|listed| listed.path.as_str()).collect();
    assert_eq!((paths, page.next), (vec!["b/3"], None));
}

#[tokio::test]
async fn whoever_wants_to_know_is_told_what_moved() {
    let world = World::new().await;
    let mut moves = world.streams.moves();
    world.create("m", TEXT).await;
    world.append("m", "x").await.unwrap();
    world.close("m", None).await.unwrap();
    world.streams.delete(&key("m")).await.unwrap();
    let expected = [(Move::Created, 0), (Move::Appended, 1), (Move::Appended, 1), (Move::Deleted, 1)];
    for (what, tail) in expected {
        let moved = moves.recv().await.unwrap();
        assert_eq!((moved.what, moved.tail, &*moved.key), (what, Offset::new(tail), &key("m")));
    }
}

#[tokio::test]
async fn nothing_is_answered_by_what_is_not_durable() {
    let world = World::new().await;
    world.create("h", TEXT).await;
    let body = Bytes::from_static(b"x");
    let append = |seq| Append {
        body: Some(&body),
        content_type: Some(TEXT),
        producer: Some(Producer { id: "p", epoch: 0, seq }),
        ..Append::default()
    };
    let key = key("h");
    world.store.hold();
    let mut first = Box::pin(world.streams.append(&key, append(0)));
    let mut repeated = Box::pin(world.streams.append(&key, append(0)));
    let mut gap = Box::pin(world.streams.append(&key, append(7)));
    let mut close = Box::pin(world.streams.append(&key, Append { close: true, ..Append::default() }));
    for _ in 0..2 {
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut repeated).is_pending());
        assert!(futures_util::poll!(&mut gap).is_pending());
        assert_eq!(world.store.held(), 1);
        assert_eq!(world.read("h", 0).await.unwrap().0, [""; 0]);
        assert_eq!(world.streams.head(&key).await.unwrap().tail, Offset::ZERO);
    }
    assert!(futures_util::poll!(&mut close).is_pending());
    world.store.release();
    let (close, first, repeated, gap) = tokio::join!(close, first, repeated, gap);
    assert!(close.unwrap().new);
    assert_eq!((first.unwrap().new, repeated.unwrap().new), (true, false));
    assert_eq!(refusal(gap.err()), Some(Refusal::Gap { expected: 1, received: 7 }));
}

#[tokio::test]
async fn a_commit_that_fails_takes_no_other_answer_with_it() {
    let world = World::new().await;
    world.create("h", TEXT).await;
    let body = Bytes::from_static(b"x");
    let append = |id, seq| Append {
        body: Some(&body),
        content_type: Some(TEXT),
        producer: Some(Producer { id, epoch: 0, seq }),
        ..Append::default()
    };
    let key = key("h");
    world.store.hold();
    world.store.fail_next(CommitError::Full);
    let appends = [append("a", 0), append("b", 0), append("b", 1), append("b", 2), append("b", 1), append("a", 1)];
    let mut all = Box::pin(futures_util::future::join_all(appends.map(|append| world.streams.append(&key, append))));
    assert!(futures_util::poll!(&mut all).is_pending());
    world.store.release();
    let answers = all.await;
    assert_eq!(answers[0].clone().unwrap_err(), AppendError::Write(WriteError::Full));
    for (at, new) in [(1, true), (2, true), (3, true), (4, false)] {
        assert_eq!(answers[at].as_ref().map(|appended| appended.new), Ok(new), "{at}");
    }
    assert_eq!(refusal(answers[5].clone().err()), Some(Refusal::Gap { expected: 0, received: 1 }));
    assert_eq!(world.texts("h").await, ["x", "x", "x"]);
    assert!(world.append_as("h", "y", Some(("a", 0, 0))).await.unwrap().new);
}

#[tokio::test]
async fn after_a_failure_everybody_keeps_the_place_that_was_taken() {
    let world = World::new().await;
    world.create("h", TEXT).await;
    let body = Bytes::from_static(b"x");
    let append = |id, seq| Append {
        body: Some(&body),
        content_type: Some(TEXT),
        producer: Some(Producer { id, epoch: 0, seq }),
        ..Append::default()
    };
    let key = key("h");
    world.store.hold();
    world.store.fail_next(CommitError::Full);
    let mut failing = Box::pin(world.streams.append(&key, append("a", 0)));
    let mut first = Box::pin(world.streams.append(&key, append("b", 0)));
    let mut second = Box::pin(world.streams.append(&key, append("b", 1)));
    for waiting in [&mut failing, &mut first, &mut second] {
        assert!(futures_util::poll!(waiting).is_pending());
    }
    world.store.release();
    // They hear of it in another order than they came in, and one more comes.
    assert!(futures_util::poll!(&mut second).is_pending());
    let mut third = Box::pin(world.streams.append(&key, append("b", 2)));
    assert!(futures_util::poll!(&mut third).is_pending());
    assert_eq!(failing.await.unwrap_err(), AppendError::Write(WriteError::Full));
    assert!(futures_util::poll!(&mut third).is_pending());
    assert!(futures_util::poll!(&mut second).is_pending());
    for (answer, next) in [(first.await, 1), (second.await, 2), (third.await, 3)] {
        assert_eq!(answer.map(|appended| (appended.new, appended.next)), Ok((true, Offset::new(next))));
    }
}

#[tokio::test]
async fn a_read_that_was_not_stored_counts_after_a_kill() {
    let mut world = World::new().await;
    let create = Create { lifetime: Lifetime::TtlSeconds(80), ..Create::default() };
    world.create_as("r", create).await.unwrap();
    world.clock.pass(9_000);
    let _ = world.read("r", 0).await.unwrap();
    world.killed().await;
    world.clock.pass(79_000);
    assert!(world.streams.head(&key("r")).await.is_ok());
    world.clock.pass(3_000);
    assert_eq!(world.streams.head(&key("r")).await.unwrap_err(), OpenError::NotFound);
}

#[tokio::test]
async fn an_append_that_nobody_waits_for_is_made_and_holds_up_nobody() {
    let world = World::new().await;
    world.create("h", TEXT).await;
    let body = Bytes::from_static(b"x");
    let append = Append { body: Some(&body), content_type: Some(TEXT), ..Append::default() };
    let key = key("h");
    world.store.hold();
    for fails in [false, true] {
        if fails {
            world.store.fail_next(CommitError::Full);
        }
        let mut dropped = Box::pin(world.streams.append(&key, append));
        assert!(futures_util::poll!(&mut dropped).is_pending());
        drop(dropped);
        let mut waiting = Box::pin(world.streams.append(&key, append));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        world.store.release();
        assert!(waiting.await.unwrap().new);
        world.close("h", None).await.unwrap();
        assert_eq!(world.texts("h").await.len(), if fails { 1 } else { 2 });
        world.streams.delete(&key).await.unwrap();
        world.create("h", TEXT).await;
        world.store.hold();
    }
    world.store.release();
    world.streams.close().await;
    assert_eq!(world.append("h", "x").await.unwrap_err(), AppendError::Write(WriteError::Stopping));
    assert!(world.store.close().await.is_ok());
}
