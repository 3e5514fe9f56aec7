//! No bytes make a parser panic, and no line is lost: it makes events, or it is known to say nothing, or it is kept.

mod replay;

use longhaul_harness::{Harness, SourceLine, all, find};
use longhaul_model::EventData;
use longhaul_model::event::{OutputLine, OutputStream};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;

const STATE_BYTES_MAX: usize = 4096;

/// Cases of each property; the seed is fixed, so a failure repeats.
fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

fn stdout(bytes: &[u8]) -> SourceLine<'_> {
    SourceLine { stream: OutputStream::Stdout, bytes, eol: true, part: None }
}

fn kept(bytes: &[u8]) -> EventData {
    OutputLine::from_bytes(OutputStream::Stdout, bytes, true, None).into()
}

fn cli_harnesses() -> impl Iterator<Item = &'static dyn Harness> {
    all().iter().copied().filter(|h| h.name() != "exec")
}

/// The bytes that `output.line` events reproduce, with their newlines.
fn reproduced(events: &[EventData]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events {
        if let EventData::OutputLine(line) = event {
            bytes.extend(line.bytes().unwrap());
            bytes.extend(line.eol.then_some(b'\n'));
        }
    }
    bytes
}

#[test]
fn what_is_not_json_is_kept() {
    for harness in cli_harnesses() {
        for bytes in
            [&b""[..], b"hello", b"\xff\xfe", b"{", b"{}", b"[]", b"null", b"{\"type\":7}", b"{\"type\":\"new\"}"]
        {
            let mut out = Vec::new();
            harness.parser(None).unwrap().line(&stdout(bytes), &mut out);
            assert_eq!(out, [kept(bytes)], "{}", harness.name());
        }
        let deep = [b"{\"type\":".repeat(5_000), b"1".to_vec(), b"}".repeat(5_000)].concat();
        let mut out = Vec::new();
        harness.parser(None).unwrap().line(&stdout(&deep), &mut out);
        assert_eq!(reproduced(&out), [&deep[..], b"\n"].concat(), "{}", harness.name());
    }
}

#[test]
fn a_truncated_line_is_kept() {
    for recorded in replay::all() {
        for line in replay::lines(&recorded.stdout) {
            let step = 1 + line.bytes.len() / 40;
            for end in (1..line.bytes.len()).step_by(step) {
                let cut = SourceLine { bytes: &line.bytes[..end], eol: false, ..line };
                let mut out = Vec::new();
                recorded.harness.parser(None).unwrap().line(&cut, &mut out);
                assert_eq!(reproduced(&out), cut.bytes, "{}", recorded.name);
            }
        }
    }
}

/// A path to a member or element of a JSON value.
fn paths(value: &Value, here: &str, found: &mut Vec<String>) {
    found.push(here.to_owned());
    match value {
        Value::Object(members) => members.iter().for_each(|(name, v)| paths(v, &format!("{here}/{name}"), found)),
        Value::Array(list) => list.iter().enumerate().for_each(|(at, v)| paths(v, &format!("{here}/{at}"), found)),
        _ => {}
    }
}

#[test]
fn a_line_with_any_member_of_another_shape_never_panics_and_never_outgrows_the_state() {
    let wrong = [Value::Null, true.into(), (-1).into(), 1e300.into(), "\u{0}\"\\".into(), serde_json::json!([{}])];
    for name in [
        "acp-claude/tool",
        "acp-codex/error",
        "acp-kimi/tool",
        "qwen/tool",
        "copilot/error",
        "claude/subagent",
        "claude/partial",
        "claude/tool-denied",
        "claude/drop-shown-then-500",
        "codex/tool",
        "codex-app-server/allow",
        "codex-app-server/patch",
        "codex-app-server/drop",
        "gemini/tool",
        "gemini/err400",
        "kimi/tool",
        "kimi/drop",
        "opencode/tool",
        "opencode/err401",
        "pi/err401",
        "pi-0.87.1/drop",
        "pi-rpc/live-input",
    ] {
        let recorded = replay::one(name);
        let mut parser = recorded.harness.parser(None).unwrap();
        for line in replay::lines(&recorded.stdout) {
            let value: Value = serde_json::from_slice(line.bytes).unwrap();
            let mut found = Vec::new();
            paths(&value, "", &mut found);
            let long =
                ["/tools/", "/slash_commands/", "/params/update/availableCommands/", "/result/models/availableModels/"];
            for path in found.iter().filter(|path| !long.iter().any(|list| path.starts_with(list))) {
                for shape in &wrong {
                    let mut bent = value.clone();
                    *bent.pointer_mut(path).unwrap() = shape.clone();
                    let bytes = serde_json::to_vec(&bent).unwrap();
                    let mut fresh = recorded.harness.parser(Some(&parser.state())).unwrap();
                    fresh.line(&stdout(&bytes), &mut Vec::new());
                    assert!(fresh.state().len() <= STATE_BYTES_MAX);
                }
            }
            parser.line(&line, &mut Vec::new());
        }
    }
}

#[test]
fn flipped_bits_never_panic_and_lines_that_are_no_json_are_kept() {
    let recorded = replay::all();
    let lines: Vec<_> =
        recorded.iter().flat_map(|r| replay::lines(&r.stdout).into_iter().map(move |line| (r.harness, line))).collect();
    let flips = proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..8), 1..6);
    runner(3_000)
        .run(&(0..lines.len(), flips), |(at, flips)| {
            let (harness, line) = lines[at];
            let mut bytes = line.bytes.to_vec();
            for (index, bit) in flips {
                let at = index.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            let mut out = Vec::new();
            harness.parser(None).unwrap().line(&stdout(&bytes), &mut out);
            if serde_json::from_slice::<Value>(&bytes).is_err() {
                prop_assert_eq!(out, [kept(&bytes)]);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn lines_in_any_order_never_panic_and_resume() {
    let recorded = replay::all();
    for harness in ["acp", "claude", "codex", "copilot", "gemini", "kimi", "opencode", "pi", "qwen"] {
        let lines: Vec<_> =
            recorded.iter().filter(|r| r.harness.name() == harness).flat_map(replay::Recorded::lines).collect();
        let harness = find(harness).unwrap();
        runner(300)
            .run(&(proptest::collection::vec(0..lines.len(), 1..60), any::<prop::sample::Index>()), |(order, cut)| {
                let mixed: Vec<_> = order.iter().map(|at| lines[*at]).collect();
                let whole = replay::steps(&mut *harness.parser(None).unwrap(), &mixed);
                let cut = cut.index(mixed.len());
                let mut first = harness.parser(None).unwrap();
                for line in &mixed[..cut] {
                    first.line(line, &mut Vec::new());
                }
                let rest = replay::steps(&mut *harness.parser(Some(&first.state())).unwrap(), &mixed[cut..]);
                prop_assert_eq!(&rest, &whole[cut..]);
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn many_lanes_blocks_and_calls_with_the_longest_ids_fit_the_state() {
    let long = |number: u32| format!("{number:0>96}");
    let mut claude = find("claude").unwrap().parser(None).unwrap();
    let mut codex = find("codex").unwrap().parser(None).unwrap();
    let feed = |parser: &mut dyn longhaul_harness::Parser, line: Value| {
        let mut out = Vec::new();
        parser.line(&stdout(line.to_string().as_bytes()), &mut out);
        assert!(!out.iter().any(|e| matches!(e, EventData::OutputLine(_))), "{line}");
        assert!(parser.state().len() <= STATE_BYTES_MAX, "{} bytes", parser.state().len());
    };
    feed(&mut *claude, serde_json::json!({"type":"system","subtype":"init","session_id":long(0)}));
    feed(&mut *codex, serde_json::json!({"type":"thread.started","thread_id":long(0)}));
    for lane in 0..40 {
        let start = serde_json::json!({"type":"message_start","message":{"id":long(lane)}});
        feed(&mut *claude, serde_json::json!({"type":"stream_event","parent_tool_use_id":long(lane),"event":start}));
        for index in 99_900..99_999 {
            let block = serde_json::json!({"type":"content_block_start","index":index,"content_block":{"type":"text"}});
            feed(
                &mut *claude,
                serde_json::json!({"type":"stream_event","parent_tool_use_id":long(lane),"event":block}),
            );
        }
        let call = serde_json::json!({"id":long(lane),"type":"command_execution"});
        feed(&mut *codex, serde_json::json!({"type":"item.started","item":call}));
    }
    for message in 0..40 {
        let item = serde_json::json!({"id":long(message),"type":"agent_message","text":format!("text {message}")});
        feed(&mut *codex, serde_json::json!({"type":"item.completed","item":item}));
    }
    feed(&mut *codex, serde_json::json!({"type":"error","message":"\"\\\u{1}".repeat(1_000)}));
}

#[test]
fn the_longest_conversation_with_codex_fits_the_state() {
    let long = |number: u32| format!("{number:0>96}");
    let worst = "\"\\\u{1}".repeat(1_000);
    let mut codex = find("codex").unwrap().parser(None).unwrap();
    let thread = serde_json::json!({ "id": "resume.ask.form", "result": { "thread": { "id": long(1) } } });
    codex.line(&stdout(thread.to_string().as_bytes()), &mut Vec::new());
    let mut feed = |method: &str, params: Value| {
        let mut params = params;
        params["threadId"] = long(1).into();
        let line = serde_json::json!({ "method": method, "params": params });
        let mut out = Vec::new();
        codex.line(&stdout(line.to_string().as_bytes()), &mut out);
        assert!(!out.iter().any(|e| matches!(e, EventData::OutputLine(_))), "{line}");
        assert!(codex.state().len() <= STATE_BYTES_MAX, "{} bytes", codex.state().len());
    };
    feed("turn/started", serde_json::json!({ "turn": { "id": long(2) } }));
    for number in 0..40 {
        let item = serde_json::json!({ "type": "agentMessage", "id": long(number), "text": format!("text {number}") });
        feed("item/completed", serde_json::json!({ "item": item }));
    }
    for number in 0..40 {
        let delta = serde_json::json!({ "itemId": long(number), "delta": "x", "summaryIndex": u64::MAX });
        feed("item/agentMessage/delta", delta.clone());
        feed("item/reasoning/summaryTextDelta", delta);
    }
    feed("error", serde_json::json!({ "error": { "message": worst.as_str() }, "willRetry": false }));
    let change = |path: &str| serde_json::json!({ "path": path, "kind": { "type": worst.as_str() }, "diff": worst });
    let names: Vec<String> = (0..20).map(|number| format!("{number}{}", "\u{1}\"".repeat(4))).collect();
    let changes: Vec<Value> = names.iter().map(|name| change(name)).collect();
    // Calls settle what may be repeated, so they are no part of the longest state.
    let item = serde_json::json!({ "type": "fileChange", "id": long(3), "changes": changes, "status": "inProgress" });
    feed("item/started", serde_json::json!({ "item": item }));
    for number in 0..40 {
        let item = serde_json::json!({ "type": "agentMessage", "id": long(number), "text": format!("text {number}") });
        feed("item/completed", serde_json::json!({ "item": item }));
        let item = serde_json::json!({ "type": "mcpToolCall", "id": long(number), "status": "inProgress" });
        if number < 20 {
            feed("item/started", serde_json::json!({ "item": item }));
        }
    }
    assert!(codex.state().len() > 2_500, "{} bytes", codex.state().len());
}

#[test]
fn the_longest_errors_of_gemini_and_kimi_fit_the_state() {
    let long = "\"\\\u{1}".repeat(1_000);
    for (name, opening, stderr) in [
        (
            "gemini",
            [
                serde_json::json!({"type":"init","session_id":"0".repeat(96)}),
                serde_json::json!({"type":"error","severity":"error","message":long}),
            ],
            format!("Error resuming session: {long}"),
        ),
        (
            "kimi",
            [
                serde_json::json!({"type":"goal.summary","status":long,"reason":long}),
                serde_json::json!({"role":"assistant","content":long}),
            ],
            format!("error: failed to run prompt: {long}"),
        ),
    ] {
        let mut parser = find(name).unwrap().parser(None).unwrap();
        for line in opening {
            let mut out = Vec::new();
            parser.line(&stdout(line.to_string().as_bytes()), &mut out);
            assert!(!out.iter().any(|e| matches!(e, EventData::OutputLine(_))), "{line}");
        }
        parser.line(&SourceLine { stream: OutputStream::Stderr, ..stdout(stderr.as_bytes()) }, &mut Vec::new());
        let bytes = parser.state().len();
        assert!((1_000..=STATE_BYTES_MAX).contains(&bytes), "{name}: {bytes} bytes");
    }
}

#[test]
fn a_message_of_pi_with_many_blocks_and_long_errors_fit_the_state() {
    let mut pi = find("pi").unwrap().parser(None).unwrap();
    let mut opencode = find("opencode").unwrap().parser(None).unwrap();
    let feed = |parser: &mut dyn longhaul_harness::Parser, line: Value| {
        let mut out = Vec::new();
        parser.line(&stdout(line.to_string().as_bytes()), &mut out);
        assert!(!out.iter().any(|e| matches!(e, EventData::OutputLine(_))), "{line}");
        assert!(parser.state().len() <= STATE_BYTES_MAX, "{} bytes", parser.state().len());
        out.len()
    };
    let worst = "\"\\\u{1}".repeat(1_000);
    feed(&mut *pi, serde_json::json!({"type":"session","id":"0".repeat(96)}));
    feed(&mut *pi, serde_json::json!({"type":"message_start","message":{"role":"assistant","content":[]}}));
    let mut shown = 0;
    for index in 99_900..=99_999 {
        for kind in ["text_delta", "thinking_delta"] {
            let event = serde_json::json!({"type":kind,"contentIndex":index,"delta":"x"});
            shown += feed(&mut *pi, serde_json::json!({"type":"message_update","assistantMessageEvent":event}));
        }
    }
    for number in 0..20 {
        let id = format!("input/{number:0>36}");
        feed(&mut *pi, serde_json::json!({"type":"response","id":id,"command":"prompt","success":true}));
    }
    assert_eq!(shown, 128, "past so many blocks the rest waits for the whole message");
    let failed =
        serde_json::json!({"role":"assistant","content":[],"stopReason":"error","errorMessage":worst.as_str()});
    feed(&mut *pi, serde_json::json!({"type":"message_end","message":failed}));
    let session = "0".repeat(96);
    let part = serde_json::json!({"reason":worst.as_str(),"tokens":{}});
    feed(&mut *opencode, serde_json::json!({"type":"step_finish","sessionID":session.as_str(),"part":part}));
    let error = serde_json::json!({"name":"APIError","data":{"message":worst}});
    feed(&mut *opencode, serde_json::json!({"type":"error","sessionID":session,"error":error}));
}

#[test]
fn exec_gives_back_every_byte_one_line_for_one() {
    let parts = proptest::collection::vec(any::<u8>(), 0..300);
    runner(500)
        .run(&parts, |bytes| {
            let lines = replay::lines(&bytes);
            let mut parser = find("exec").unwrap().parser(None).unwrap();
            let mut out = Vec::new();
            for line in &lines {
                parser.line(line, &mut out);
            }
            prop_assert_eq!(out.len(), lines.len());
            prop_assert_eq!(reproduced(&out), bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_long_unknown_line_comes_back_in_numbered_pieces_of_whole_characters() {
    for harness in all() {
        let text = "ü€x".repeat(40_000);
        let mut out = Vec::new();
        harness.parser(None).unwrap().line(&stdout(text.as_bytes()), &mut out);
        assert_eq!(reproduced(&out), format!("{text}\n").into_bytes(), "{}", harness.name());
        for (number, event) in out.iter().enumerate() {
            let EventData::OutputLine(line) = event else { panic!("{event:?}") };
            assert_eq!(line.part, Some(u32::try_from(number).unwrap()));
            assert_eq!(line.eol, number + 1 == out.len());
            assert!(line.text.as_ref().is_some_and(|t| t.len() <= 64 << 10), "cut inside a character");
        }
        assert_eq!(out.len(), 4);
    }
}

#[test]
fn stderr_is_always_kept() {
    for harness in all() {
        let line = SourceLine { stream: OutputStream::Stderr, ..stdout(b"{\"type\":\"turn.started\"}") };
        let mut out = Vec::new();
        harness.parser(None).unwrap().line(&line, &mut out);
        assert_eq!(out, [OutputLine::from_bytes(OutputStream::Stderr, line.bytes, true, None).into()]);
    }
}
