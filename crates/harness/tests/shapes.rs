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
