//! Lines that no recording has, written after the CLIs' documented shapes or cut from recordings.

mod replay;

use longhaul_harness::find;

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
