//! Lines that no recording has, written after the CLIs' documented shapes or cut from recordings.

mod replay;

use longhaul_harness::{SourceLine, find};
use longhaul_model::event::OutputStream;

/// The story of these lines.
fn story(harness: &str, lines: &[&str]) -> String {
    replay::story(&replay::events(find(harness).unwrap(), (lines.join("\n") + "\n").as_bytes()))
}

#[test]
fn a_codex_error_that_nothing_follows_is_the_last_word() {
    let error = r#"{"type":"error","message":"it broke"}"#;
    assert_eq!(story("codex", &[error]), "warns upstream: it broke\nfailure upstream: it broke\n");
    let good = r#"{"type":"turn.completed","usage":{"input_tokens":1}}"#;
    assert_eq!(
        story("codex", &[error, good]),
        "warns upstream: it broke\nused {\"scope\":\"session\",\"input_tokens\":1}\nsuccess true\n"
    );
}

#[test]
fn a_codex_call_that_was_never_announced_is_announced_at_its_end() {
    let item = r#"{"type":"item.completed","item":{"id":"item_1","type":"mcp_tool_call","server":"s","tool":"t","arguments":{"a":1},"result":null,"error":{"message":"no"},"status":"failed"}}"#;
    assert_eq!(
        story("codex", &[item]),
        "calls item_1 mcp__s__t {\"a\":1}\n\
         fails item_1 {\"error\":{\"message\":\"no\"},\"result\":null,\"status\":\"failed\"}\n"
    );
}

#[test]
fn a_codex_plan_is_one_call_however_often_it_changes() {
    let line = |stage: &str, done: bool| {
        format!(
            r#"{{"type":"item.{stage}","item":{{"id":"item_1","type":"todo_list","items":[{{"text":"a","completed":{done}}}]}}}}"#
        )
    };
    let lines = [line("started", false), line("updated", true), line("completed", true)];
    assert_eq!(
        story("codex", &lines.each_ref().map(String::as_str)),
        "calls item_1 todo_list {\"items\":[{\"completed\":false,\"text\":\"a\"}]}\n\
         gives item_1 {\"items\":[{\"completed\":true,\"text\":\"a\"}]}\n"
    );
}

#[test]
fn an_equal_codex_message_without_a_retry_or_after_a_tool_is_a_message_of_its_own() {
    let message = |id: u32| {
        format!(r#"{{"type":"item.completed","item":{{"id":"item_{id}","type":"agent_message","text":"Ok."}}}}"#)
    };
    let retry = r#"{"type":"error","message":"Reconnecting... 1/5"}"#;
    let tool = r#"{"type":"item.completed","item":{"id":"item_9","type":"web_search","query":"q"}}"#;
    let twice = story("codex", &[&message(1), &message(2)]);
    assert_eq!(twice, "says item_1: Ok.\nsays item_2: Ok.\n");
    let parted = story("codex", &[&message(1), tool, retry, &message(2)]);
    assert!(!parted.contains("discards"), "{parted}");
}

fn claude_stream(event: &str) -> String {
    format!(r#"{{"type":"stream_event","parent_tool_use_id":null,"event":{event}}}"#)
}

#[test]
fn a_claude_block_of_which_nothing_was_shown_needs_no_discarding() {
    let lines = [
        claude_stream(r#"{"type":"message_start","message":{"id":"m1"}}"#),
        claude_stream(r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#),
        r#"{"type":"system","subtype":"api_retry","attempt":1,"max_retries":2}"#.to_owned(),
    ];
    assert_eq!(
        story("claude", &lines.each_ref().map(String::as_str)),
        "warns retry: model request failed (unknown); attempt 1 of 2 follows in ? ms\n"
    );
}

#[test]
fn a_claude_answer_that_another_takes_the_place_of_is_discarded() {
    let lines = [
        claude_stream(r#"{"type":"message_start","message":{"id":"m1"}}"#),
        claude_stream(r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#),
        claude_stream(r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Ha"}}"#),
        r#"{"type":"assistant","message":{"id":"m2","content":[{"type":"text","text":"Hello."}]}}"#.to_owned(),
    ];
    assert_eq!(
        story("claude", &lines.each_ref().map(String::as_str)),
        "shows m1/0: Ha\ndiscards m1/0: another answer took its place\nsays m2/0: Hello.\n"
    );
}

#[test]
fn whole_claude_blocks_have_the_indexes_that_streamed_ones_have() {
    let line = r#"{"type":"assistant","message":{"id":"m1","content":[{"type":"thinking","thinking":"Hm."},{"type":"text","text":"One."}]}}"#;
    let next = r#"{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"Two."}]}}"#;
    assert_eq!(story("claude", &[line, next]), "thinks m1/0: Hm.\nsays m1/1: One.\nsays m1/2: Two.\n");
}

#[test]
fn what_is_understood_only_in_part_is_also_kept() {
    let line =
        r#"{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"One."},{"type":"hologram"}]}}"#;
    let story = story("claude", &[line]);
    assert!(story.starts_with("says m1/0: One.\nkeeps stdout: {"), "{story}");
}

#[test]
fn claude_s_own_search_is_a_call_and_its_result() {
    let line = r#"{"type":"assistant","message":{"id":"m1","content":[{"type":"server_tool_use","id":"s1","name":"web_search","input":{"query":"q"}},{"type":"web_search_tool_result","tool_use_id":"s1","content":{"type":"web_search_tool_result_error","error_code":"unavailable"}}]}}"#;
    assert_eq!(
        story("claude", &[line]),
        "calls s1 web_search {\"query\":\"q\"}\n\
         fails s1 {\"error_code\":\"unavailable\",\"type\":\"web_search_tool_result_error\"}\n"
    );
}

#[test]
fn a_claude_end_for_a_reason_that_is_not_completion_is_no_success() {
    let line = |reason: &str| {
        format!(r#"{{"type":"result","subtype":"success","is_error":false,"terminal_reason":"{reason}","result":"x"}}"#)
    };
    assert!(story("claude", &[&line("completed")]).ends_with("success true\n"));
    assert!(story("claude", &[&line("hook_stopped")]).ends_with("failure agent_error: x\n"));
}

#[test]
fn a_gemini_success_after_a_grave_error_is_none_unless_it_went_on() {
    let error = r#"{"type":"error","severity":"error","message":"Maximum session turns exceeded"}"#;
    let text = r#"{"type":"message","role":"assistant","content":"Hi.","delta":true}"#;
    let good = r#"{"type":"result","status":"success"}"#;
    assert_eq!(
        story("gemini", &[text, error, good]),
        "shows message_1: Hi.\n\
         warns upstream: Maximum session turns exceeded\n\
         failure max_turns: Maximum session turns exceeded\n"
    );
    assert!(story("gemini", &[error, text, good]).ends_with("success true\n"));
    let warning = r#"{"type":"error","severity":"warning","message":"Loop detected"}"#;
    assert_eq!(story("gemini", &[warning, good]), "warns source: Loop detected\nsuccess true\n");
}

#[test]
fn a_whole_gemini_message_is_a_message_of_its_own() {
    let delta = r#"{"type":"message","role":"assistant","content":"a","delta":true}"#;
    let whole = r#"{"type":"message","role":"assistant","content":"b"}"#;
    assert_eq!(story("gemini", &[delta, whole, delta]), "shows message_1: a\nsays message_2: b\nshows message_3: a\n");
}

#[test]
fn gemini_s_failures_have_the_codes_of_their_types() {
    for (kind, message, code) in [
        ("FatalCancellationError", "Operation cancelled.", "interrupted"),
        ("FatalTurnLimitedError", "Reached max session turns for this session.", "max_turns"),
        ("FatalAuthenticationError", "no", "not_logged_in"),
        ("FatalToolExecutionError", "disk full", "agent_error"),
        ("unknown", "[API Error: {\\n  \\\"error\\\": {\\\"code\\\": 429}}]", "rate_limited"),
        ("unknown", "[API Error: API key not valid. Please pass a valid API key.]", "not_logged_in"),
        ("unknown", "You have exhausted your capacity on this model.", "rate_limited"),
        ("unknown", "} odd {", "upstream"),
    ] {
        let line = format!(r#"{{"type":"result","status":"error","error":{{"type":"{kind}","message":"{message}"}}}}"#);
        let told = story("gemini", &[&line]);
        assert!(told.starts_with(&format!("failure {code}: ")), "{kind}: {told}");
    }
    assert_eq!(
        story("gemini", &[r#"{"type":"result","status":"error"}"#]),
        "failure upstream: gemini ended with an error\n"
    );
}

#[test]
fn kimi_s_arguments_that_are_no_json_are_the_text_they_are() {
    let line = r#"{"role":"assistant","tool_calls":[{"type":"function","id":"c1","function":{"name":"Bash","arguments":"{\"comm"}},{"id":7}]}"#;
    let told = story("kimi", &[line]);
    assert!(told.starts_with("calls c1 Bash \"{\\\"comm\"\nkeeps stdout: {"), "{told}");
}

#[test]
fn what_kimi_s_tools_write_to_stderr_is_no_failure_of_a_run_that_succeeded() {
    let mut parser = find("kimi").unwrap().parser(None).unwrap();
    let stderr = replay::lines(b"error: failed to run prompt: provider.rate_limit: forged\n")[0];
    let stderr = longhaul_harness::SourceLine { stream: longhaul_model::event::OutputStream::Stderr, ..stderr };
    let hint = replay::lines(b"{\"role\":\"meta\",\"type\":\"session.resume_hint\",\"session_id\":\"session_1\"}\n")[0];
    for lines in [[stderr, hint], [hint, stderr]] {
        let events = replay::steps(&mut *parser, &lines).concat();
        let told = replay::story(&events);
        assert!(told.contains("success true\n") && !told.contains("failure"), "{told}");
        parser = find("kimi").unwrap().parser(None).unwrap();
    }
}

/// The story of a line of stderr and then these lines of stdout.
fn story_with_stderr(harness: &str, stderr: &str, lines: &[&str]) -> String {
    let stdout = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let mut all = replay::lines(stdout.as_bytes());
    let said = SourceLine { stream: OutputStream::Stderr, bytes: stderr.as_bytes(), eol: true, part: None };
    all.insert(0, said);
    let mut parser = find(harness).unwrap().parser(None).unwrap();
    replay::story(&replay::steps(&mut *parser, &all).concat())
}

#[test]
fn a_session_that_is_not_there_is_told_by_its_code() {
    // Their only word is on stderr; there it is also kept.
    for (harness, stderr) in [
        ("opencode", "\u{1b}[91m\u{1b}[1mError: \u{1b}[0mSession not found"),
        ("pi", "No session found matching '99999999-2222-4333-8444-555555555555'"),
        ("pi", "Session found in different project: /elsewhere"),
    ] {
        let story = story_with_stderr(harness, stderr, &[]);
        assert!(story.starts_with("keeps stderr: "), "{story}");
        assert!(story.contains("\nfailure session_not_found: "), "{story}");
    }
    let session = r#"{"type":"session","id":"s1"}"#;
    let story = story_with_stderr("pi", "No API key found for anthropic.", &[session]);
    assert!(story.ends_with("session s1\nfailure not_logged_in: No API key found for anthropic.\n"), "{story}");
}

#[test]
fn words_on_stderr_do_not_undo_what_an_agent_says() {
    let steps = [
        r#"{"type":"text","sessionID":"s1","part":{"id":"p1","text":"Hi."}}"#,
        r#"{"type":"step_finish","sessionID":"s1","part":{"reason":"stop","tokens":{"input":1}}}"#,
    ];
    let story = story_with_stderr("opencode", "a warning", &steps);
    assert!(story.ends_with("used {\"scope\":\"step\",\"input_tokens\":1}\nsuccess true\n"), "{story}");
    let answer = pi_message(r#"[{"type":"text","text":"Hi."}]"#, "stop");
    let story = story_with_stderr("pi", "No API key found for x.", &[PI_START, &answer, PI_END]);
    assert!(story.ends_with("says 1/0: Hi.\nsuccess true\n"), "{story}");
}

#[test]
fn an_opencode_step_after_which_nothing_came_is_no_success() {
    let finish = |reason: &str| {
        let line = format!(r#"{{"type":"step_finish","sessionID":"s1","part":{{"reason":"{reason}","tokens":{{}}}}}}"#);
        story("opencode", &[&line])
    };
    assert!(finish("stop").ends_with("success true\n"));
    assert!(finish("length").ends_with("failure agent_error: opencode ended with length\n"));
    for reason in ["tool-calls", "unknown"] {
        assert!(finish(reason).ends_with("used {\"scope\":\"step\"}\n"), "{reason}");
    }
    let stop = r#"{"type":"step_finish","sessionID":"s1","part":{"reason":"stop","tokens":{}}}"#;
    let start = r#"{"type":"step_start","sessionID":"s1","part":{}}"#;
    assert!(!story("opencode", &[stop, start]).contains("success"));
}

#[test]
fn an_opencode_error_is_told_by_its_name_where_it_has_no_status() {
    let error = |name: &str| {
        let line =
            format!(r#"{{"type":"error","sessionID":"s1","error":{{"name":"{name}","data":{{"message":"m"}}}}}}"#);
        story("opencode", &[&line])
    };
    assert_eq!(error("ProviderAuthError"), "session s1\nfailure not_logged_in: m\n");
    assert_eq!(error("MessageAbortedError"), "session s1\nfailure interrupted: m\n");
    assert_eq!(error("UnknownError"), "session s1\nfailure upstream: m\n");
}

#[test]
fn a_cost_of_nothing_for_tokens_is_unknown() {
    let step = r#"{"type":"step_finish","sessionID":"s1","part":{"reason":"stop","tokens":{"input":1},"cost":0}}"#;
    assert!(story("opencode", &[step]).contains("used {\"scope\":\"step\",\"input_tokens\":1}\n"));
    let message = r#"{"type":"message_end","message":{"role":"assistant","content":[],"stopReason":"stop","usage":{"input":1,"cost":{"total":0}}}}"#;
    assert_eq!(story("pi", &[message]), "used {\"scope\":\"step\",\"input_tokens\":1}\n");
}

const PI_START: &str = r#"{"type":"message_start","message":{"role":"assistant","content":[]}}"#;
const PI_END: &str = r#"{"type":"agent_end","messages":[]}"#;

fn pi_message(content: &str, stop: &str) -> String {
    format!(
        r#"{{"type":"message_end","message":{{"role":"assistant","content":{content},"stopReason":"{stop}","errorMessage":"it broke"}}}}"#
    )
}

fn pi_delta(text: &str) -> String {
    format!(
        r#"{{"type":"message_update","assistantMessageEvent":{{"type":"text_delta","contentIndex":0,"delta":"{text}"}}}}"#
    )
}

#[test]
fn a_pi_answer_that_broke_stays_shown_until_another_takes_its_place() {
    let (delta, broken) = (pi_delta("Ha"), pi_message(r#"[{"type":"text","text":"Ha"}]"#, "error"));
    let whole = pi_message(r#"[{"type":"text","text":"Hello."}]"#, "stop");
    assert_eq!(story("pi", &[PI_START, &delta, &broken, PI_END]), "shows 1/0: Ha\nfailure upstream: it broke\n");
    assert_eq!(
        story("pi", &[PI_START, &delta, &broken, PI_START, &whole, PI_END]),
        "shows 1/0: Ha\ndiscards 1/0: another answer took its place\nsays 2/0: Hello.\nsuccess true\n"
    );
}

#[test]
fn a_pi_run_that_was_aborted_was_interrupted() {
    let aborted = pi_message("[]", "aborted");
    assert_eq!(story("pi", &[PI_START, &aborted, PI_END]), "failure interrupted: it broke\n");
}

#[test]
fn a_pi_end_with_a_retry_to_come_or_without_a_message_is_no_success() {
    let answer = pi_message(r#"[{"type":"text","text":"Hi."}]"#, "stop");
    let retry = r#"{"type":"agent_end","messages":[],"willRetry":true}"#;
    assert_eq!(story("pi", &[PI_START, &answer, retry]), "says 1/0: Hi.\n");
    assert_eq!(story("pi", &[PI_END]), "");
    assert_eq!(story("pi", &[PI_START, &answer]), "says 1/0: Hi.\n");
}

#[test]
fn a_pi_end_too_long_to_be_read_is_the_end_all_the_same() {
    let pieces = |first: &'static str, stop: &str| {
        let start = format!("{PI_START}\n{}\n", pi_message(r#"[{"type":"text","text":"Hi."}]"#, stop));
        let mut lines = replay::lines(start.as_bytes());
        for (part, bytes, eol) in [(0, first, false), (1, "more", false), (2, "}", true)] {
            let bytes = bytes.as_bytes();
            lines.push(SourceLine { stream: OutputStream::Stdout, bytes, eol, part: Some(part) });
        }
        let mut parser = find("pi").unwrap().parser(None).unwrap();
        replay::story(&replay::steps(&mut *parser, &lines).concat())
    };
    assert!(pieces(r#"{"type":"agent_end","messages":["#, "stop").ends_with("keeps stdout: }\nsuccess true\n"));
    assert!(pieces(r#"{"type":"agent_end","messages":["#, "error").ends_with("failure upstream: it broke\n"));
    assert!(pieces(r#"{"type":"turn_end","message":["#, "stop").ends_with("keeps stdout: }\n"));
}

#[test]
fn a_pi_block_that_is_not_known_is_kept_beside_those_that_are() {
    let answer = pi_message(r#"[{"type":"text","text":"Hi."},{"type":"hologram"}]"#, "stop");
    let story = story("pi", &[PI_START, &answer]);
    assert!(story.starts_with("says 1/0: Hi.\nkeeps stdout: {"), "{story}");
}
