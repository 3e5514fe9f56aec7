//! The demo agent itself: what `longhaul demo-agent VARIANT` does.
//!
//! Job: writes the lines of a variant's script, with its pauses. Owns: nothing; the writer and the pauses are the
//! caller's, so that a test is as fast as it likes.
//! Never: reads the clock or touches anything but the writer. The session's name follows from variant and prompt.

use std::io::{self, Write};
use std::time::Duration;

use super::script::{FAIL_STATUS, Step, resumed, script};

/// The variants: `echo` says the prompt again word by word, `tools` shows everything an agent can do, `slow` counts
/// for about 20 seconds (or as many as the prompt names), `fail` fails and exits with status 3, `flood` writes 200 000
/// lines as fast as it can, `tour` shows a new user around.
pub const VARIANTS: [&str; 6] = ["echo", "tools", "slow", "fail", "flood", "tour"];

/// Runs `variant` on `prompt` and gives its exit status: 0 after a success, 3 after the failure of `fail`, 2 if there
/// is no such variant. Flushes before each pause and at the end.
///
/// # Errors
/// Those of `out`, and then nothing more is written.
pub fn run(variant: &str, prompt: &str, out: &mut dyn Write, sleep: &mut dyn FnMut(Duration)) -> io::Result<u8> {
    let Some(steps) = script(variant, prompt) else {
        return Ok(2);
    };
    say(steps, out, sleep)?;
    Ok(if variant == "fail" { FAIL_STATUS } else { 0 })
}

/// Goes on with a session: says the prompt again, as `echo` does. The demo remembers nothing but the session's name.
///
/// # Errors
/// Those of `out`, and then nothing more is written.
pub fn resume(session: &str, prompt: &str, out: &mut dyn Write, sleep: &mut dyn FnMut(Duration)) -> io::Result<u8> {
    say(resumed(session, prompt), out, sleep)?;
    Ok(0)
}

fn say<'a>(
    steps: impl Iterator<Item = Step<'a>>,
    out: &mut dyn Write,
    sleep: &mut dyn FnMut(Duration),
) -> io::Result<()> {
    let mut line = Vec::with_capacity(256);
    for step in steps {
        match step {
            Step::Pause(time) => {
                out.flush()?;
                sleep(time);
            }
            Step::Line(said) => {
                line.clear();
                serde_json::to_writer(&mut line, &said)?;
                line.push(b'\n');
                out.write_all(&line)?;
            }
            Step::Raw(text) => out.write_all(text.as_bytes())?,
        }
    }
    out.flush()
}
