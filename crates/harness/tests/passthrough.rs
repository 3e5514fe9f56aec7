//! Passthrough: what it plans for a request, and what becomes of answers that are no success.

mod replay;

use longhaul_harness::passthrough::call::Call;
use longhaul_harness::passthrough::line::is_last;
use longhaul_harness::{Dialect, Plan, PlanError, Program, Request, Upstream, find};
use serde_json::json;

fn upstreams() -> [Upstream; 2] {
    let upstream = |name: &str, dialect, base_url: &str| Upstream {
        name: name.to_owned(),
        dialect,
        base_url: base_url.to_owned(),
        key_env: None,
        models: vec![],
        max_tokens: None,
    };
    [
        Upstream {
            key_env: Some("ROUTER_KEY".to_owned()),
            models: vec!["org/best".to_owned()],
            ..upstream("router", Dialect::OpenAi, "https://router.example/api/v1/")
        },
        upstream("claude", Dialect::Anthropic, "https://api.example"),
    ]
}

fn plan(request: Request<'_>) -> Result<Plan, PlanError> {
    find("passthrough").unwrap().plan(&Request { upstreams: &upstreams(), ..request })
}

fn call(model: &str) -> Call {
    let request = Request { model: Some(model), prompt: Some("-h\n"), system: Some("Be brief."), ..Request::default() };
    Call::from_bytes(&plan(request).unwrap().stdin.unwrap()).unwrap()
}

#[test]
fn a_call_is_what_the_upstream_s_own_sdk_would_send() {
    let openai = call("router/org/m");
    assert_eq!(
        (&*openai.url, openai.key_env.as_deref()),
        ("https://router.example/api/v1/chat/completions", Some("ROUTER_KEY"))
    );
    let messages = json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "-h\n" }]);
    let body = json!({
        "model": "org/m", "messages": messages, "stream": true, "stream_options": { "include_usage": true },
    });
    assert_eq!(openai.body, body);
    let anthropic = call("claude/m");
    assert_eq!((&*anthropic.url, anthropic.key_env.as_deref()), ("https://api.example/v1/messages", None));
    let body = json!({
        "model": "m", "max_tokens": 8192, "system": "Be brief.", "stream": true,
        "messages": [{ "role": "user", "content": "-h\n" }],
    });
    assert_eq!(anthropic.body, body);
    let [mut router, mut claude] = upstreams();
    claude.base_url.push_str("/v1/");
    assert_eq!(claude.url(), anthropic.url);
    router.max_tokens = Some(7);
    let one = [router];
    let request = Request { model: Some("router/m"), prompt: Some("x"), upstreams: &one, ..Request::default() };
    let plan = find("passthrough").unwrap().plan(&request).unwrap();
    assert_eq!(Call::from_bytes(&plan.stdin.unwrap()).unwrap().body["max_tokens"], 7);
}

#[test]
fn the_plan_names_the_variable_of_the_key_and_has_no_argument() {
    let plan = plan(Request { model: Some("router"), prompt: Some("x"), ..Request::default() }).unwrap();
    assert_eq!((plan.program, plan.args), (Program::Myself { verb: "passthrough" }, vec![]));
    assert_eq!((plan.keys, plan.env), (vec!["ROUTER_KEY".to_owned()], vec![]));
    assert_eq!(call("router").body["model"], "org/best", "the first model is meant where none is named");
}

#[test]
fn a_model_names_an_upstream_that_is_configured() {
    let message = |model| plan(Request { model, prompt: Some("x"), ..Request::default() }).unwrap_err().to_string();
    assert_eq!(message(None), "harness passthrough needs model");
    assert!(message(Some("rooter/m")).contains("one of the upstreams router, claude"), "{}", message(Some("rooter/m")));
    assert!(message(Some("claude")).contains("must be claude/MODEL"));
    assert!(message(Some("claude/-m")).contains("must be one word"));
    let none = Request { model: Some("a/m"), prompt: Some("x"), ..Request::default() };
    let refused = find("passthrough").unwrap().plan(&none).unwrap_err().to_string();
    assert!(refused.contains("[passthrough.a]"), "{refused}");
}

#[test]
fn the_last_word_is_the_upstream_s_own_and_no_text_that_looks_like_it() {
    assert!(is_last(Dialect::OpenAi, "[DONE]") && is_last(Dialect::Anthropic, r#"{"type":"message_stop"}"#));
    assert!(!is_last(Dialect::OpenAi, r#"{"choices":[{"delta":{"content":"[DONE]"}}]}"#));
    assert!(!is_last(Dialect::Anthropic, r#"{"type":"content_block_delta","delta":{"text":"message_stop"}}"#));
}

fn story(dialect: &str, data: &[&str]) -> String {
    let open = json!({ "type": "open", "upstream": "u", "dialect": dialect, "status": 200 });
    let data = data.iter().map(|data| format!("data: {data}\n")).collect::<String>();
    let stdout = format!("{open}\n{data}{{\"type\":\"end\"}}\n");
    replay::story(&replay::events(find("passthrough").unwrap(), stdout.as_bytes()))
}

#[test]
fn a_tool_that_nobody_offered_is_kept_and_no_success() {
    let chunk = r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]},"finish_reason":"tool_calls"}]}"#;
    let told = story("openai", &[chunk, "[DONE]"]);
    assert!(told.starts_with("keeps stdout: data: {"), "{told}");
    assert!(told.ends_with("failure agent_error: the answer ended with tool_calls\n"), "{told}");
    let start = r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use"}}"#;
    let delta = r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"}}"#;
    let told = story("anthropic", &[start, delta, r#"{"type":"message_stop"}"#]);
    assert!(told.starts_with("keeps stdout: data: {"), "{told}");
    assert!(told.ends_with("failure agent_error: the answer ended with tool_use\n"), "{told}");
}

#[test]
fn a_refusal_is_shown_and_no_success() {
    let refusal = r#"{"choices":[{"delta":{"refusal":"I will not."},"finish_reason":null}]}"#;
    let stop = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
    assert_eq!(
        story("openai", &[refusal, stop, "[DONE]"]),
        "shows message_1: I will not.\nfailure upstream: the upstream stopped the answer (refusal)\n"
    );
}

#[test]
fn errors_inside_a_stream_have_their_codes() {
    for (error, code) in [
        (r#"{"message":"slow down","type":"rate_limit_error"}"#, "rate_limited: slow down"),
        (r#"{"message":"slow down","code":429}"#, "rate_limited: slow down"),
        (r#"{"message":"who","code":"invalid_api_key"}"#, "not_logged_in: who"),
        (r#"{"message":"busy","type":"overloaded_error"}"#, "upstream: busy"),
        (r#""plain""#, "upstream: plain"),
    ] {
        for dialect in ["openai", "anthropic"] {
            let told = story(dialect, &[&format!(r#"{{"type":"error","error":{error}}}"#)]);
            assert_eq!(told, format!("failure {code}\n"));
        }
    }
}

#[test]
fn usage_is_told_as_far_as_it_is_known() {
    let start = r#"{"type":"message_start","message":{"model":"m","usage":{"input_tokens":9,"output_tokens":1}}}"#;
    let told = story("anthropic", &[start]);
    assert!(
        told.starts_with("used {\"scope\":\"run\",\"input_tokens\":9,\"model\":\"m\"}\nfailure upstream: "),
        "{told}"
    );
    let stop = r#"{"model":"m","choices":[{"delta":{"content":"x"},"finish_reason":"stop"}],"usage":null}"#;
    assert_eq!(story("openai", &[stop, "[DONE]"]), "shows message_1: x\nsuccess true\n");
}
