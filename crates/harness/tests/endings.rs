//! What becomes of recorded runs: their events folded by the model, ended as the real process ended.

mod replay;

use longhaul_model::event::{Cost, Driver, RunCreated, Totals};
use longhaul_model::projection::Projection;
use longhaul_model::run::{Command, Ctx, Exit, ExitHow, Phase, RunState, Stop, decide};
use longhaul_model::{AttemptNo, Epoch, Event, EventData, ProjectId, RunId, Seq, Status, Timestamp};

/// The end of a run as people see it.
#[derive(Debug, PartialEq)]
struct Ending {
    status: Status,
    /// The failure's code, empty after a success.
    code: String,
    text: String,
    totals: Totals,
}

fn ending(name: &str, how: ExitHow) -> Ending {
    let recorded = replay::one(name);
    let mut state = RunState {
        phase: Phase::Running { attempt: AttemptNo::new(1) },
        driver: Driver::Harness,
        ..RunState::default()
    };
    let created = RunCreated {
        project: ProjectId::default_project(),
        driver: Driver::Harness,
        harness: recorded.harness.name().to_owned(),
        command: None,
        model: None,
        name: None,
        digest: String::new(),
        session_id: None,
        cwd: "/".to_owned(),
        tags: std::collections::BTreeMap::default(),
        timeout_ms: 1,
        budget: longhaul_model::event::Budget::default(),
        on_lost: longhaul_model::event::OnLost::Fail,
        home: longhaul_model::event::Home::User,
        resumed_from: None,
        response_format: None,
    };
    let event = |data: EventData| Event {
        run_id: RunId::parse("r1").unwrap(),
        seq: Seq::new(1),
        ts: Timestamp::from_unix_ms(0),
        data,
    };
    let mut seen = Projection::begin(&event(created.into())).unwrap();
    for data in recorded.events() {
        state = state.evolve(&data);
        seen.apply(&event(data));
    }
    let exit = Exit {
        how,
        stop: Stop::None,
        rusage: None,
        killed_descendants: 0,
        unkilled: Vec::new(),
        stdout_bytes: 0,
        stderr_bytes: 0,
        output_lost_bytes: 0,
        stderr_tail: None,
        spool_error: None,
        oom_kills: 0,
        ran_ms: 0,
        unmet: None,
    };
    for data in decide(&state, Command::Exit(Box::new(exit)), &Ctx { epoch: Epoch::default() }).unwrap() {
        seen.apply(&event(data));
    }
    Ending {
        status: seen.status,
        code: seen.error.as_ref().map(|e| e.code.clone()).unwrap_or_default(),
        text: seen.output_text(),
        totals: seen.totals.clone(),
    }
}

fn short(name: &str, how: ExitHow) -> (Status, String, String) {
    let ending = ending(name, how);
    (ending.status, ending.code, ending.text)
}

fn estimate(usd: f64) -> Cost {
    Cost { usd, provenance: "estimate".to_owned() }
}

fn completed(text: &str) -> (Status, String, String) {
    (Status::Completed, String::new(), text.to_owned())
}

fn failed(code: &str, text: &str) -> (Status, String, String) {
    (Status::Failed, code.to_owned(), text.to_owned())
}

#[test]
fn a_tool_run_has_its_text_its_calls_its_tokens_and_its_cost() {
    let ending = ending("claude/tool", ExitHow::Exited(0));
    assert_eq!((ending.status, &*ending.text), (Status::Completed, "I will run a command.\n\nThe tool said hi."));
    let usage = ending.totals.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.reasoning_tokens), (Some(200), Some(40), Some(0)));
    assert_eq!(ending.totals.cost, Some(estimate(0.0016)));
    assert_eq!((ending.totals.tool_calls, ending.totals.unknown_lines), (1, 0));
}

#[test]
fn tokens_from_the_cache_are_not_counted_twice() {
    for name in [
        "claude/partial",
        "codex/reasoning",
        "codex-app-server/text",
        "gemini/reasoning",
        "opencode/reasoning",
        "pi/reasoning",
    ] {
        let usage = ending(name, ExitHow::Exited(0)).totals.usage.unwrap();
        assert_eq!((usage.input_tokens, usage.cache_read_tokens), (Some(600), Some(400)), "{name}");
    }
}

#[test]
fn a_resumed_run_reports_its_own_tokens_and_the_session_s_cost() {
    let totals = ending("claude/resume-2", ExitHow::Exited(0)).totals;
    assert_eq!(totals.usage.unwrap().input_tokens, Some(100));
    assert_eq!(totals.cost, Some(estimate(0.0016)));
}

#[test]
fn the_tokens_of_subagents_are_in_the_sum_and_their_text_is_not_in_the_answer() {
    let ending = ending("claude/subagent", ExitHow::Exited(0));
    assert_eq!(ending.text, "Delegating\n\nSub answer.\n\nAll done.");
    assert_eq!(ending.totals.usage.unwrap().input_tokens, Some(400));
}

#[test]
fn an_answer_lost_at_a_retry_is_not_in_the_text() {
    assert_eq!(short("claude/drop", ExitHow::Exited(0)), completed("Whole."));
    assert_eq!(short("claude/drop-shown", ExitHow::Exited(0)), completed("Whole."));
    assert_eq!(short("claude/cut-off-shown", ExitHow::Exited(0)), completed("Whole."));
    assert_eq!(short("claude/drop-shown-then-500", ExitHow::Exited(1)), failed("upstream", ""));
    assert_eq!(short("codex/drop", ExitHow::Exited(0)), completed("Whole."));
    assert_eq!(short("codex-app-server/drop", ExitHow::Exited(0)), completed("Whole."));
    assert_eq!(short("codex-app-server/failed-event-then-same", ExitHow::Exited(0)), completed("Part."));
    assert_eq!(short("opencode/drop", ExitHow::Exited(0)), completed("Whole."));
    assert_eq!(short("pi/drop", ExitHow::Exited(0)), completed("Whole."));
    assert_eq!(short("pi-0.87.1/drop", ExitHow::Exited(0)), completed("Whole."));
    assert_eq!(short("pi-rpc/two-inputs", ExitHow::Exited(0)), completed("I wait.\n\nBoth.\n\nThird."));
    assert_eq!(short("codex/failed-event", ExitHow::Exited(1)), failed("upstream", "Part."));
    assert_eq!(short("codex/failed-event-then-same", ExitHow::Exited(0)), completed("Part."));
    assert_eq!(short("codex/failed-event-then-more", ExitHow::Exited(0)), completed("Part.\n\nPart. And more."));
}

#[test]
fn a_provider_s_error_is_a_failure_with_its_code() {
    for (name, code) in [
        ("claude/err400", "upstream"),
        ("claude/err401", "not_logged_in"),
        ("claude/err429", "rate_limited"),
        ("claude/err500", "upstream"),
        ("claude-2.1.197/err500", "upstream"),
        ("claude/refused", "upstream"),
        ("codex/err400", "upstream"),
        ("codex/err401", "not_logged_in"),
        ("codex/err404", "upstream"),
        ("codex/err429", "rate_limited"),
        ("codex/err500", "upstream"),
        ("codex/nokey", "not_logged_in"),
        ("codex-app-server/err400", "upstream"),
        ("codex-app-server/err401", "not_logged_in"),
        ("codex-app-server/err429", "rate_limited"),
        ("codex-app-server/err500", "upstream"),
        ("codex-app-server/nokey", "not_logged_in"),
        ("codex-app-server/resume-unknown", "session_not_found"),
        ("gemini/err400", "upstream"),
        ("gemini/err401", "not_logged_in"),
        ("gemini/err403", "not_logged_in"),
        ("gemini/err429-maxattempts1", "rate_limited"),
        ("gemini/err500-maxattempts1", "upstream"),
        ("gemini/empty", "upstream"),
        ("gemini/nokey", "not_logged_in"),
        ("gemini/resume-none", "session_not_found"),
        ("gemini/resume-unknown", "session_not_found"),
        ("kimi/empty", "upstream"),
        ("kimi/err400", "upstream"),
        ("kimi/err401", "not_logged_in"),
        ("kimi/err403", "not_logged_in"),
        ("kimi/err429", "rate_limited"),
        ("kimi/err500", "upstream"),
        ("kimi/no-model", "not_logged_in"),
        ("kimi/nokey", "not_logged_in"),
        ("kimi/refused", "upstream"),
        ("kimi/resume-unknown", "session_not_found"),
        ("kimi/unknown-model", "agent_error"),
        ("opencode/err400", "upstream"),
        ("opencode/err401", "not_logged_in"),
        ("opencode/err429", "rate_limited"),
        ("opencode/model-unknown", "upstream"),
        ("opencode/provider-unknown", "upstream"),
        ("pi/err400", "upstream"),
        ("pi/err401", "not_logged_in"),
        ("pi/err429", "rate_limited"),
        ("pi/err500", "upstream"),
        ("pi-0.87.1/err400", "upstream"),
        ("pi-rpc/err400", "upstream"),
        ("pi-rpc/nokey", "not_logged_in"),
        ("pi-0.87.1/err429", "rate_limited"),
        ("pi-0.87.1/err500", "upstream"),
        ("pi-0.87.1/refused", "upstream"),
    ] {
        // Whatever the exit status: the word of the source counts.
        assert_eq!(short(name, ExitHow::Exited(1)), failed(code, ""), "{name}");
        assert_eq!(short(name, ExitHow::Exited(0)), failed(code, ""), "{name}");
    }
    assert_eq!(short("claude/event-error", ExitHow::Exited(1)), failed("upstream", "Part\n\nPart\n\nPart\n\nPart"));
    assert_eq!(short("claude/maxturns", ExitHow::Exited(1)), failed("max_turns", "I will run a command."));
    assert_eq!(short("claude/resume-unknown", ExitHow::Exited(1)), failed("session_not_found", ""));
    assert_eq!(short("claude/root-skip", ExitHow::Exited(1)), failed("exit_nonzero", ""));
    assert_eq!(short("codex/resume-unknown", ExitHow::Exited(1)), failed("exit_nonzero", ""));
}

#[test]
fn an_answer_of_gemini_or_kimi_is_a_success_by_its_own_word_alone() {
    for (name, text) in [
        ("gemini/text", "Hello from the scripted model."),
        ("gemini/reasoning", "The answer is 42, as you know."),
        ("gemini/tool", "I will run a command.\n\nThe tool said hi."),
        ("gemini/resume-2", "Your name is Ada."),
        ("gemini/err500-then-ok", "Recovered."),
        ("kimi/text", "Hello from the scripted model."),
        ("kimi/tool", "I will run a command.\n\nThe tool said hi."),
        ("kimi/resume-2", "Your name is Ada."),
        ("kimi/drop", "Whole."),
        ("kimi/err500-then-ok", "Recovered."),
    ] {
        assert_eq!(short(name, ExitHow::Exited(0)), completed(text), "{name}");
    }
    // The lines on stderr that come with a good run are no failure; neither is a lost answer an answer.
    assert_eq!(ending("gemini/text", ExitHow::Exited(0)).totals.usage.unwrap().input_tokens, Some(100));
    assert_eq!(ending("kimi/text", ExitHow::Exited(0)).totals.usage, None, "kimi tells of no tokens");
    assert_eq!(short("gemini/drop", ExitHow::Exited(1)), failed("upstream", "This reply is cut off in "));
    assert_eq!(short("kimi/goal-paused", ExitHow::Exited(0)), failed("agent_error", "x\n\nx"));
}

#[test]
fn an_interrupt_is_never_a_success() {
    // Claude exits with status 0 after each of these; in the last one even its result line says success.
    assert_eq!(short("claude/sigint-pid", ExitHow::Exited(0)), failed("interrupted", "Running."));
    assert_eq!(short("claude/sigint-group", ExitHow::Exited(0)), failed("interrupted", "Running."));
    assert_eq!(short("claude/sigint-text", ExitHow::Exited(0)), failed("interrupted", "w0 w1 w2 w3 w4 w5 "));
    assert_eq!(short("claude/sigint-after-text", ExitHow::Exited(0)), failed("interrupted", "One two "));
    assert_eq!(short("codex/sigint-pid", ExitHow::Exited(1)), failed("exit_nonzero", "Running."));
}

#[test]
fn an_end_without_a_word_is_never_a_success() {
    assert_eq!(short("claude/sigterm-pid", ExitHow::Exited(143)), failed("exit_nonzero", "Running."));
    assert_eq!(short("claude/sigkill-pid", ExitHow::Signaled(9)), failed("killed_by_signal", "Running."));
    assert_eq!(short("codex/sigterm-pid", ExitHow::Signaled(15)), failed("killed_by_signal", "Running."));
    assert_eq!(short("codex/refused", ExitHow::Exited(0)), failed("no_verdict", ""));
    for name in ["opencode/sigterm-pid", "opencode/sigint-pid", "opencode/sigkill-group", "pi/sigint-pid"] {
        assert_eq!(short(name, ExitHow::Signaled(15)), failed("killed_by_signal", "Running."), "{name}");
        assert_eq!(short(name, ExitHow::Exited(0)), failed("no_verdict", "Running."), "{name}");
    }
    assert_eq!(short("pi/sigterm-pid", ExitHow::Exited(143)), failed("exit_nonzero", "Running."));
    assert_eq!(short("opencode/refused", ExitHow::Signaled(9)), failed("killed_by_signal", ""));
    // Gemini exits with status 0 after a signal, and kimi gives the result of the tool that it stopped.
    assert_eq!(short("gemini/norelaunch-sigterm-pid", ExitHow::Exited(0)), failed("no_verdict", "Running."));
    assert_eq!(short("gemini/norelaunch-sigint-pid", ExitHow::Exited(0)), failed("no_verdict", "Running."));
    assert_eq!(short("gemini/err429", ExitHow::Signaled(9)), failed("killed_by_signal", ""));
    assert_eq!(short("kimi/sigterm-pid", ExitHow::Exited(143)), failed("exit_nonzero", "Running."));
    assert_eq!(short("kimi/sigint-pid", ExitHow::Exited(130)), failed("exit_nonzero", "Running."));
    assert_eq!(short("kimi/sigkill-pid", ExitHow::Signaled(9)), failed("killed_by_signal", ""));
}

#[test]
fn a_success_that_gave_nothing_is_a_failure() {
    assert_eq!(short("claude/empty", ExitHow::Exited(0)), failed("empty_output", ""));
}

#[test]
fn an_answer_that_only_the_result_line_has_is_an_answer() {
    assert_eq!(short("claude/json", ExitHow::Exited(0)), completed("Hello."));
}

#[test]
fn tokens_and_cost_of_steps_are_added() {
    for name in ["opencode/tool", "pi/tool", "pi-0.87.1/tool"] {
        let ending = ending(name, ExitHow::Exited(0));
        let answer = "I will run a command.\n\nThe tool said hi.";
        assert_eq!((ending.status, &*ending.text), (Status::Completed, answer), "{name}");
        let usage = ending.totals.usage.unwrap();
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(200), Some(40)), "{name}");
        assert_eq!(ending.totals.cost, Some(estimate(0.000_28)), "{name}");
        assert_eq!((ending.totals.tool_calls, ending.totals.unknown_lines), (1, 0), "{name}");
    }
    for name in ["opencode/resume-2", "pi/resume-2"] {
        let usage = ending(name, ExitHow::Exited(0)).totals.usage.unwrap();
        assert_eq!(usage.input_tokens, Some(100), "{name}");
    }
}

#[test]
fn an_agent_that_stopped_because_a_tool_was_not_allowed_did_not_succeed() {
    assert_eq!(short("opencode/tool-denied", ExitHow::Exited(0)), failed("agent_error", "T"));
}

#[test]
fn an_end_of_turn_by_acp_is_believed_where_it_may_be() {
    for name in ["acp-claude", "acp-codex", "acp-codex-0.16.0", "acp-kimi", "acp-opencode", "copilot", "qwen"] {
        let (status, code, text) = short(&format!("{name}/load"), ExitHow::Exited(0));
        assert_eq!((status, &*code), (Status::Completed, ""), "{name}");
        assert!(text.ends_with("After loading."), "{name}: nothing of the history is this run's: {text}");
        assert!(!text.contains("Second turn."), "{name}: {text}");
    }
    // Those that say so after a failure too.
    assert_eq!(short("acp-kimi/error", ExitHow::Exited(0)), failed("empty_output", ""));
    assert_eq!(short("copilot/error", ExitHow::Exited(0)), failed("upstream", ""));
    assert_eq!(short("acp-codex/error", ExitHow::Exited(0)), failed("upstream", ""));
    // Those that say so.
    assert_eq!(short("acp-claude/error", ExitHow::Exited(0)), failed("upstream", "API Error: 400 bad request"));
    assert_eq!(short("acp-gemini/error", ExitHow::Exited(0)), failed("upstream", ""));
    assert_eq!(short("acp-gemini/load", ExitHow::Exited(0)), failed("session_not_found", ""));
    assert_eq!(short("acp-opencode/error", ExitHow::Exited(0)), failed("upstream", ""));
    assert_eq!(short("qwen/error", ExitHow::Exited(0)), failed("upstream", ""));
    assert_eq!(short("qwen/cancel", ExitHow::Exited(0)), failed("interrupted", "Running."));
}

#[test]
fn tokens_by_acp_are_the_run_s() {
    let usage =
        |name: &str| ending(name, ExitHow::Exited(0)).totals.usage.map(|used| (used.input_tokens, used.output_tokens));
    for name in ["acp-claude/load", "acp-codex/load", "copilot/load", "qwen/load"] {
        assert_eq!(usage(name), Some((Some(100), Some(20))), "{name}");
    }
    assert_eq!(usage("acp-kimi/load"), None, "what is unknown stays unknown");
    assert_eq!(ending("acp-claude/load", ExitHow::Exited(0)).totals.cost, Some(estimate(0.001)));
}
