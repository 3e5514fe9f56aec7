//! How a run ended, on a line or a few.

use std::time::Duration;

use longhaul_model::Timestamp;
use longhaul_model::event::{Cost, ProcessExited, RunCancelled, RunFailed, Totals, Usage};

use super::{Block, Renderer};
use crate::cli::duration;
use crate::cli::escape;
use crate::cli::screen::{Ink, Paint};

/// Lines of stderr that are shown of a failed agent.
const TAIL_LINES: usize = 20;

impl Renderer {
    pub(super) fn exited(&mut self, inks: &mut Vec<Ink>, exited: &ProcessExited) {
        if exited.killed_descendants > 0 {
            let count = exited.killed_descendants;
            let text = format!("{count} process{} left behind, ended with it", if count == 1 { "" } else { "es" });
            self.detail(inks, &text);
        }
        if !exited.unkilled.is_empty() {
            let pids: Vec<String> = exited.unkilled.iter().map(ToString::to_string).collect();
            self.note(inks, Paint::Red, &format!("! could not be killed: process {}", pids.join(", ")));
        }
    }

    pub(super) fn run_completed(&mut self, inks: &mut Vec<Ink>, at: Timestamp, totals: &Totals) {
        self.flush_messages(inks);
        // A command that worked says nothing more than it said itself.
        if self.exec {
            self.close_line(inks);
            return;
        }
        let text = format!("completed{}", self.sums(at, "in", totals));
        let mark = Paint::Green.on(self.screen.err_colour, "✓");
        self.note(inks, Paint::Plain, &format!("{mark} {}", Paint::Dim.on(self.screen.err_colour, &text)));
    }

    pub(super) fn run_cancelled(&mut self, inks: &mut Vec<Ink>, at: Timestamp, cancelled: &RunCancelled) {
        self.flush_messages(inks);
        let by = escape::one_line(&cancelled.reason);
        let text = format!("■ cancelled by {by}{}", self.sums(at, "after", &cancelled.totals));
        self.note(inks, Paint::Yellow, &text);
    }

    pub(super) fn run_failed(&mut self, inks: &mut Vec<Ink>, at: Timestamp, failed: &RunFailed) {
        self.flush_messages(inks);
        let colour = self.screen.err_colour;
        self.begin(inks, Block::Note);
        let (code, message) = (escape::one_line(&failed.error.code), escape::one_line(&failed.error.message));
        let mark = Paint::Red.on(colour, &format!("✗ {code}: {message}"));
        let sums = self.sums(at, "after", &failed.totals);
        let sums = Paint::Dim.on(colour, sums.trim_start());
        self.say(inks, Paint::Plain, &format!("{mark}  {sums}"));
        let tail = failed.error.stderr_tail.as_deref().filter(|_| !self.stderr_shown).unwrap_or_default();
        let tail = escape::strip(tail);
        let lines: Vec<&str> = tail.lines().collect();
        for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
            self.say(inks, Paint::Dim, &format!("  │ {line}"));
        }
    }

    /// ` in 12s · 3 tools · 1,234 tokens in · 56 out · $0.0123 (estimate)`
    fn sums(&self, at: Timestamp, word: &str, totals: &Totals) -> String {
        let took = self.began.map_or(0, |began| at.unix_ms() - began.unix_ms());
        let took = Duration::from_millis(u64::try_from(took).unwrap_or(0));
        let mut text = format!(" {word} {}", duration::show(took));
        if self.exec {
            return text;
        }
        let mut add = |part: String| {
            text.push_str(" · ");
            text.push_str(&part);
        };
        if totals.tool_calls > 0 {
            add(counted(totals.tool_calls, "tool call"));
        }
        if let Some(usage) = totals.usage.as_ref().and_then(show_usage) {
            add(usage);
        }
        if let Some(cost) = &totals.cost {
            add(show_cost(cost));
        }
        let unknown = self.unknown_lines.max(totals.unknown_lines);
        if unknown > 0 {
            add(format!("{} not understood", counted(unknown, "line")));
        }
        text
    }
}

/// Tokens that are known: `1,234 tokens in (1,000 cached) · 56 out`.
pub fn show_usage(usage: &Usage) -> Option<String> {
    let cached = usage.cache_read_tokens.filter(|n| *n > 0).map(|n| format!(" (+{} cached)", thousands(n)));
    let input = usage.input_tokens.map(|n| format!("{} tokens in{}", thousands(n), cached.unwrap_or_default()));
    let output = usage.output_tokens.map(|n| format!("{} out", thousands(n)));
    match (input, output) {
        (Some(input), Some(output)) => Some(format!("{input} · {output}")),
        (Some(one), None) | (None, Some(one)) => Some(one),
        (None, None) => None,
    }
}

/// Money: `$0.0123`, said to be an estimate where it is one.
pub fn show_cost(cost: &Cost) -> String {
    let usd = if cost.usd >= 1.0 { format!("${:.2}", cost.usd) } else { format!("${:.4}", cost.usd) };
    if cost.provenance == "receipt" { usd } else { format!("{usd} ({})", escape::one_line(&cost.provenance)) }
}

fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(count), if count == 1 { "" } else { "s" })
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, want) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), want);
        }
    }

    #[test]
    fn unknown_stays_unknown() {
        assert_eq!(show_usage(&Usage::default()), None);
        assert_eq!(show_cost(&Cost { usd: 0.01234, provenance: "estimate".into() }), "$0.0123 (estimate)");
        assert_eq!(show_cost(&Cost { usd: 12.5, provenance: "receipt".into() }), "$12.50");
    }
}
