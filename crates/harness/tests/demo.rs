//! The demo agent's lines through the demo's parser.

mod replay;

use std::collections::BTreeSet;
use std::time::Duration;

use longhaul_harness::{PlanError, Program, Request, demo, find};
use longhaul_model::EventData;

/// What a variant did: its exit status, its pauses together, its output.
fn run(variant: &str, prompt: &str) -> (u8, Duration, Vec<u8>) {
    let (mut out, mut slept) = (Vec::new(), Duration::ZERO);
    let status = demo::agent::run(variant, prompt, &mut out, &mut |pause| slept += pause).unwrap();
    (status, slept, out)
}

fn events(variant: &str, prompt: &str) -> Vec<EventData> {
    replay::events(find("demo").unwrap(), &run(variant, prompt).2)
}

#[test]
fn echo_says_the_prompt_word_by_word() {
    assert_eq!(
        replay::story(&events("echo", "two  words\n")),
        "session demo-echo-11\n\
         shows message-0: two | |words\\n\n\
         says message-0: two  words\\n\n\
         used {\"scope\":\"run\",\"input_tokens\":100,\"output_tokens\":3,\"reasoning_tokens\":7,\
         \"cost\":{\"usd\":0.0001,\"provenance\":\"estimate\"},\"model\":\"demo\"}\n\
         success true\n"
    );
    assert!(replay::story(&events("echo", "")).contains("says message-0: Hello from the demo agent."));
}

#[test]
fn the_variants_together_make_every_event_a_harness_can_make() {
    let mut names = BTreeSet::new();
    for variant in ["echo", "tools", "fail"] {
        names.extend(events(variant, "x").iter().map(|e| e.name().to_owned()));
    }
    let expected = [
        "message.completed",
        "message.delta",
        "message.discarded",
        "output.line",
        "reasoning.delta",
        "session.bound",
        "tool.called",
        "tool.completed",
        "usage.reported",
        "verdict.reported",
        "warning",
    ];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn slow_counts_as_long_as_it_is_told() {
    let (status, slept, out) = run("slow", "3");
    assert_eq!((status, slept), (0, Duration::from_secs(3)));
    let story = replay::story(&replay::events(find("demo").unwrap(), &out));
    assert!(story.contains("says message-0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 done.\n"), "{story}");
    assert_eq!(run("slow", "count, please").1, Duration::from_secs(20));
}

#[test]
fn fail_fails_by_word_and_by_status() {
    assert_eq!(run("fail", "").0, 3);
    let story = replay::story(&events("fail", ""));
    assert!(story.ends_with("failure agent_error: the demo was asked to fail\n"), "{story}");
}

#[test]
fn flood_writes_200_000_lines_without_a_pause() {
    let (status, slept, out) = run("flood", "");
    assert_eq!((status, slept), (0, Duration::ZERO));
    assert_eq!(replay::lines(&out).len(), 200_000 + 3);
}

#[test]
fn the_plan_starts_our_own_binary() {
    let demo = find("demo").unwrap();
    let plan = demo.plan(&Request { prompt: Some("hi"), ..Request::default() }).unwrap();
    assert_eq!(plan.program, Program::Myself { verb: "demo-agent" });
    assert_eq!((plan.args, plan.stdin), (vec!["echo".to_owned()], Some(b"hi".to_vec())));
    let refused = demo.plan(&Request { model: Some("loud"), ..Request::default() }).unwrap_err();
    assert_eq!(
        refused,
        PlanError::Invalid {
            field: "model",
            message: "must be one of echo, tools, slow, fail, flood, tour".to_owned()
        }
    );
    assert_eq!(run("loud", "").0, 2);
}
