//! Every event type as a person sees it, whole.

use longhaul_model::event::*;
use longhaul_model::{AttemptNo, Epoch, Event, EventData, ProjectId, RunId, Seq, Timestamp};
use serde_json::json;

use super::{Renderer, Taste};
use crate::cli::screen::{Ink, Screen};

const TERMINAL: Screen = Screen { out_tty: true, err_tty: true, out_colour: false, err_colour: false, width: 60 };
const PIPE: Screen = Screen { out_tty: false, err_tty: false, ..TERMINAL };
const VERBOSE: Taste = Taste { raw: false, verbose: true, quiet: false };

/// The pieces of a stream of events: stdout plain, stderr in guillemets.
fn shown(screen: Screen, taste: Taste, events: Vec<EventData>) -> String {
    let mut renderer = Renderer::new(screen, taste, false);
    let mut out = String::new();
    for (n, data) in events.into_iter().enumerate() {
        let ts = Timestamp::from_unix_ms(1_000 * n as i64);
        let event = Event { run_id: RunId::parse("r").unwrap(), seq: Seq::new(n as u64 + 1), ts, data };
        for ink in renderer.event(&event) {
            match ink {
                Ink::Out(bytes) => out.push_str(&String::from_utf8(bytes).unwrap()),
                Ink::Err(bytes) => out.extend(["«", std::str::from_utf8(&bytes).unwrap(), "»"]),
            }
        }
    }
    out
}

fn created(driver: Driver) -> EventData {
    RunCreated {
        project: ProjectId::default_project(),
        driver,
        harness: "x".into(),
        command: None,
        model: None,
        name: None,
        digest: String::new(),
        session_id: None,
        cwd: "/".into(),
        tags: [].into(),
        timeout_ms: 1,
        budget: longhaul_model::event::Budget::default(),
        on_lost: longhaul_model::event::OnLost::Fail,
        home: longhaul_model::event::Home::User,
        resumed_from: None,
        response_format: None,
    }
    .into()
}

fn delta(id: &str, text: &str) -> EventData {
    MessageDelta { message_id: id.into(), parent_call_id: None, text: text.into() }.into()
}

fn message(id: &str, text: &str) -> EventData {
    MessageCompleted { message_id: id.into(), parent_call_id: None, text: text.into() }.into()
}

fn reasoning(text: &str) -> EventData {
    ReasoningDelta { message_id: "r".into(), parent_call_id: None, text: text.into() }.into()
}

fn call(id: &str, arguments: serde_json::Value) -> EventData {
    ToolCalled { call_id: id.into(), name: "Bash".into(), arguments, parent_call_id: None }.into()
}

fn result(id: &str, result: serde_json::Value, is_error: bool) -> EventData {
    ToolCompleted { call_id: id.into(), result, is_error }.into()
}

fn line(stream: OutputStream, bytes: &[u8], eol: bool) -> EventData {
    OutputLine::from_bytes(stream, bytes, eol, None).into()
}

fn totals() -> Totals {
    Totals {
        attempts: 1,
        tool_calls: 2,
        usage: Some(Usage { input_tokens: Some(1_234), output_tokens: Some(56), ..Usage::default() }),
        cost: Some(Cost { usd: 0.0123, provenance: "receipt".into() }),
        ..Totals::default()
    }
}

fn completed() -> EventData {
    RunCompleted { reason: "verdict".into(), exit: None, totals: totals() }.into()
}

/// One of every type, but for the ends.
fn one_of_each() -> Vec<EventData> {
    vec![
        created(Driver::Harness),
        RunAttemptStarted {
            attempt: AttemptNo::new(1),
            cause: "first".into(),
            epoch: Epoch::new(1),
            budget_ms: 1,
            rung: None,
            lost: None,
        }
        .into(),
        ProcessStarted {
            attempt: AttemptNo::new(1),
            pid: 7,
            command: "claude".into(),
            version: Some("2.1".into()),
            cwd: "/w".into(),
        }
        .into(),
        RunStarted { attempt: AttemptNo::new(1) }.into(),
        SessionBound { session_id: None, source_session_id: "s-1".into() }.into(),
        reasoning("let me "),
        reasoning("think"),
        delta("m1", "Hel"),
        delta("m1", "lo \x1b[31mthere\x1b[0m"),
        message("m1", "Hello \x1b[31mthere\x1b[0m."),
        call("c1", json!({"command": "echo hi"})),
        result("c1", json!("hi\nsecond\nthird\nfourth\nfifth"), false),
        call("c2", json!({"command": "false"})),
        call("c3", json!({})),
        result("c2", json!("nope"), true),
        MessageCompleted {
            message_id: "sub".into(),
            parent_call_id: Some("c3".into()),
            text: "from a subagent".into(),
        }
        .into(),
        message("m2", "Bye"),
        UsageReported { scope: "run".into(), ..UsageReported::default() }.into(),
        line(OutputStream::Stdout, b"what is this", true),
        line(OutputStream::Stderr, b"noise", true),
        Warning { code: "silence".into(), message: "ten silent minutes".into() }.into(),
        RunAdopted { attempt: AttemptNo::new(1), previous_epoch: Epoch::new(1), epoch: Epoch::new(2) }.into(),
        RunCancelRequested { by: "cli".into(), reason: Some("enough".into()) }.into(),
        RunAttemptStarted {
            attempt: AttemptNo::new(2),
            cause: "killed_by_signal".into(),
            epoch: Epoch::new(2),
            budget_ms: 1,
            rung: Some(Rung::NativeResume),
            lost: Some(Lost {
                attempt: AttemptNo::new(1),
                tools: vec![LostTool { call_id: "c3".into(), name: "Bash".into() }],
                messages: vec![],
                unlisted: 0,
            }),
        }
        .into(),
        VerdictReported { success: true, error: None }.into(),
        EventData::Unknown { name: "later.thing".into(), data: "{}".into() },
        ProcessExited {
            attempt: AttemptNo::new(1),
            exit: ExitInfo { code: Some(0), signal: None },
            how: "exited".into(),
            stop: "none".into(),
            rusage: None,
            oom: None,
            killed_descendants: 1,
            unkilled: vec![9],
            ran_ms: 0,
            stdout_bytes: 0,
            stderr_bytes: 0,
        }
        .into(),
    ]
}

#[test]
fn an_agent_on_a_terminal() {
    let mut events = one_of_each();
    events.push(completed());
    let text = shown(TERMINAL, Taste::default(), events);
    let want = "«let me »«think»«\n»«\n»Hello there.\n«\n»«▸ Bash  echo hi\n»«  ✓ hi\n»«    second\n»«    third\n»\
        «    … 2 more lines\n»«▸ Bash  false\n»«▸ Bash\n»«  ✗ (an earlier call) nope\n»«  │ from a subagent\n»«\n»Bye\n«\n»\
        «! ten silent minutes\n»«cancel requested by cli: enough\n»«attempt 2 (killed_by_signal, native_resume)\n»«! nobody saw the end of Bash: it may have taken effect\n»\
        «! could not be killed: process 9\n»\
        «✓ completed in 25s · 2 tool calls · 1,234 tokens in · 56 out · $0.0123 · 1 line not understood\n»";
    assert_eq!(text, want);
}

#[test]
fn an_agent_into_a_pipe_gives_its_answer_alone() {
    let mut events = one_of_each();
    events.push(completed());
    let text = shown(PIPE, Taste { quiet: true, ..Taste::default() }, events);
    assert_eq!(text, "Hello there.\n\nBye\n");
}

#[test]
fn the_verbose_taste_tells_more() {
    let text = shown(PIPE, VERBOSE, one_of_each());
    for part in [
        "«started claude 2.1, process 7, in /w\n»",
        "«session s-1\n»",
        "«stdout: what is this\n»",
        "«stderr: noise\n»",
        "«a new server took the run over\n»",
        "«later.thing\n»",
        "«1 process left behind, ended with it\n»",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn a_discarded_message_is_taken_back_on_a_terminal_and_never_in_a_pipe() {
    let events = || {
        vec![
            created(Driver::Harness),
            delta("m1", "wrong"),
            MessageDiscarded { message_id: "m1".into(), reason: "retry".into() }.into(),
            delta("m2", "ri"),
            message("m2", "right"),
        ]
    };
    assert_eq!(
        shown(TERMINAL, Taste::default(), events()),
        "wrong\n«\n»«! the text above does not count: retry\n»«\n»right\n"
    );
    assert_eq!(shown(PIPE, Taste::default(), events()), "right\n");
}

#[test]
fn a_message_that_was_never_finished_is_not_lost_in_a_pipe() {
    let failed = RunFailed {
        error: Failure {
            code: "killed_by_signal".into(),
            message: "ended by SIGKILL".into(),
            stderr_tail: Some("a\n\x1b[1mb\n".into()),
        },
        exit: Some(ExitInfo { code: None, signal: Some(9) }),
        totals: Totals::default(),
    };
    assert_eq!(
        shown(PIPE, Taste::default(), vec![created(Driver::Harness), delta("m", "half"), failed.into()]),
        "half\n«✗ killed_by_signal: ended by SIGKILL  after 2.0s\n»«  │ a\n»«  │ b\n»"
    );
}

#[test]
fn a_streamed_message_that_differs_from_the_whole_is_shown_whole() {
    let events = vec![created(Driver::Harness), delta("m", "one"), message("m", "two")];
    assert_eq!(shown(TERMINAL, Taste::default(), events), "one\n«\n»two\n");
}

#[test]
fn a_command_keeps_its_bytes_in_a_pipe() {
    let events = |driver| {
        vec![
            created(driver),
            line(OutputStream::Stdout, b"\x1b[32mok\x1b[0m \xff", true),
            line(OutputStream::Stderr, b"warn", true),
            line(OutputStream::Stdout, b"no newline", false),
            RunCompleted { reason: "exit_status".into(), exit: None, totals: Totals::default() }.into(),
        ]
    };
    let mut renderer = Renderer::new(PIPE, Taste::default(), true);
    let bytes: Vec<u8> = events(Driver::Exec)
        .into_iter()
        .flat_map(|data| {
            let event = Event { run_id: RunId::parse("r").unwrap(), seq: Seq::new(1), ts: Timestamp::default(), data };
            renderer.event(&event)
        })
        .filter_map(|ink| match ink {
            Ink::Out(bytes) => Some(bytes),
            Ink::Err(_) => None,
        })
        .flatten()
        .collect();
    assert_eq!(bytes, b"\x1b[32mok\x1b[0m \xff\nno newline");
    assert_eq!(shown(TERMINAL, Taste::default(), events(Driver::Exec)), "ok \u{fffd}\n«warn\n»no newline\n");
}

#[test]
fn a_cancelled_run_says_by_whom() {
    let cancelled = RunCancelled { reason: "cli".into(), exit: None, totals: Totals::default() };
    assert_eq!(
        shown(PIPE, Taste::default(), vec![created(Driver::Exec), cancelled.into()]),
        "«■ cancelled by cli after 1.0s\n»"
    );
}
