//! The scripts of the demo agent's variants: lines and pauses, made as they are needed.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::json;

use super::line::Line;

/// The exit status of `fail`.
pub(super) const FAIL_STATUS: u8 = 3;

/// Lines of text that `flood` writes.
pub(super) const FLOOD_LINES: u32 = 200_000;

/// Seconds that `slow` counts if the prompt is no number, and at most.
const SLOW_SECONDS: u32 = 20;
const SLOW_SECONDS_MAX: u32 = 3_600;

/// Numbers that `slow` says in a second.
const SLOW_PER_SECOND: u32 = 5;

/// What `echo` says to an empty prompt.
const GREETING: &str = "Hello from the demo agent.";

/// The pause between two words: long enough to see the stream.
const WORD: Duration = Duration::from_millis(20);

/// The pause between two words of the tour.
const TOUR: Duration = Duration::from_millis(120);

/// A step of a script.
pub(super) enum Step<'a> {
    /// A line.
    Line(Line<'a>),
    /// Text as it is, with its newline.
    Raw(&'static str),
    /// A pause.
    Pause(Duration),
}

/// A script, one step after the other.
pub(super) type Script<'a> = Box<dyn Iterator<Item = Step<'a>> + 'a>;

/// The script of `variant`; `None` if there is none.
pub(super) fn script<'a>(variant: &'a str, prompt: &'a str) -> Option<Script<'a>> {
    let body: Script<'a> = match variant {
        "echo" => echo(prompt),
        "tools" => tools(),
        "tour" => tour(),
        "slow" => slow(prompt),
        "fail" => fail(),
        "flood" => flood(),
        _ => return None,
    };
    let session = Line::Session { id: format!("demo-{variant}-{}", prompt.len()).into() };
    Some(Box::new(std::iter::once(Step::Line(session)).chain(body)))
}

/// The script of one that goes on with a session.
pub(super) fn resumed<'a>(session: &'a str, prompt: &'a str) -> Script<'a> {
    let session = Line::Session { id: session.into() };
    Box::new(std::iter::once(Step::Line(session)).chain(echo(prompt)))
}

fn delta<'a>(message: u32, text: impl Into<Cow<'a, str>>) -> Step<'a> {
    Step::Line(Line::Delta { message, text: text.into() })
}

fn done<'a>(output: u64) -> [Step<'a>; 2] {
    let usage = Line::Usage { input: 100, output, reasoning: 7, usd: 0.0001 };
    [Step::Line(usage), Step::Line(Line::Done { error: None })]
}

/// The prompt, word by word, each with the space that follows it.
fn echo(prompt: &str) -> Script<'_> {
    let text = if prompt.trim().is_empty() { GREETING } else { prompt };
    let words = text.split_inclusive(char::is_whitespace);
    let count = words.clone().count() as u64;
    let pieces = words.flat_map(|word| [delta(0, word), Step::Pause(WORD)]);
    let whole = Step::Line(Line::Message { message: 0, text: text.into() });
    Box::new(pieces.chain([whole]).chain(done(count)))
}

/// Everything: reasoning, an answer that is lost at a retry, tools that succeed and fail, a line nobody knows.
fn tools<'a>() -> Script<'a> {
    let thought = |text: &'static str| Step::Line(Line::Thought { message: 0, text: text.into() });
    let call = |id: &'static str, command: &str| {
        Step::Line(Line::Call { id: id.into(), name: "shell".into(), arguments: json!({ "command": command }) })
    };
    let back = |id: &'static str, output: &str, status: i32| {
        let result = json!({ "output": output, "exit_code": status });
        Step::Line(Line::Return { id: id.into(), result, is_error: status != 0 })
    };
    let steps = [
        thought("I look at the files first, "),
        thought("then I answer."),
        Step::Pause(WORD),
        delta(0, "There is "),
        delta(0, "a file"),
        Step::Pause(WORD),
        Step::Line(Line::Retry { message: 0, reason: "the model's stream broke; attempt 1 of 3".into() }),
        delta(1, "I look "),
        delta(1, "at the files."),
        Step::Line(Line::Message { message: 1, text: "I look at the files.".into() }),
        call("call-1", "ls"),
        Step::Pause(WORD),
        back("call-1", "README.md\n", 0),
        call("call-2", "cat notes.txt"),
        Step::Pause(WORD),
        back("call-2", "cat: notes.txt: No such file or directory\n", 1),
        Step::Raw("a line that no parser knows\n"),
        delta(2, "There is one file, "),
        delta(2, "README.md."),
        Step::Line(Line::Message { message: 2, text: "There is one file, README.md.".into() }),
    ];
    Box::new(steps.into_iter().chain(done(30)))
}

/// What a new user sees first: slow enough to be interrupted, and it says what to try.
fn tour<'a>() -> Script<'a> {
    const SAID: [&str; 3] = [
        "I am the demo agent, and this is a durable run: it belongs to the server, not to this terminal.",
        "Press Ctrl-C: I go on, and `longhaul attach` comes back to the very word where you left. Or end the server \
         with kill -9: I go on too, and the next server takes me over.",
        "Nothing was lost and nothing came twice. `longhaul ps -a` lists me, `longhaul inspect` says all about me.",
    ];
    let speak = |message: u32, pause: Duration| {
        let text = SAID[message as usize];
        let words = text.split_inclusive(' ').flat_map(move |word| [delta(message, word), Step::Pause(pause)]);
        words.chain([Step::Line(Line::Message { message, text: text.into() })])
    };
    let count: Vec<String> = (1..=10).map(|n| n.to_string()).collect();
    let tool = |id: &'static str, result: String| {
        let call = Line::Call { id: id.into(), name: "count".into(), arguments: json!({ "to": 10 }) };
        let back = Line::Return { id: id.into(), result: json!({ "output": result, "exit_code": 0 }), is_error: false };
        [Step::Line(call), Step::Pause(Duration::from_secs(2)), Step::Line(back)]
    };
    let thought = Step::Line(Line::Thought { message: 0, text: "Somebody is new here. I take my time.".into() });
    let steps = [thought, Step::Pause(TOUR)].into_iter().chain(speak(0, TOUR)).chain(speak(1, TOUR));
    Box::new(steps.chain(tool("call-1", count.join(" "))).chain(speak(2, TOUR)).chain(done(80)))
}

/// Numbered pieces: a reader that misses or repeats one shows it.
fn slow(prompt: &str) -> Script<'_> {
    let seconds = prompt.trim().parse().unwrap_or(SLOW_SECONDS).min(SLOW_SECONDS_MAX);
    let last = seconds * SLOW_PER_SECOND;
    let pieces = (1..=last)
        .flat_map(|number| [delta(0, format!("{number} ")), Step::Pause(Duration::from_secs(1) / SLOW_PER_SECOND)]);
    let text: String = (1..=last).map(|number| format!("{number} ")).chain(["done.".to_owned()]).collect();
    let end = [delta(0, "done."), Step::Line(Line::Message { message: 0, text: text.into() })];
    Box::new(pieces.chain(end).chain(done(last.into())))
}

fn fail<'a>() -> Script<'a> {
    let steps = [
        delta(0, "I will try."),
        Step::Line(Line::Message { message: 0, text: "I will try.".into() }),
        Step::Pause(WORD),
        Step::Line(Line::Usage { input: 100, output: 3, reasoning: 7, usd: 0.0001 }),
        Step::Line(Line::Done { error: Some("the demo was asked to fail".into()) }),
    ];
    Box::new(steps.into_iter())
}

fn flood<'a>() -> Script<'a> {
    let pieces = (1..=FLOOD_LINES).map(|number| delta(0, format!("{number}\n")));
    Box::new(pieces.chain(done(FLOOD_LINES.into())))
}
