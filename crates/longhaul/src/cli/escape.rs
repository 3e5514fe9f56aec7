//! Taking terminal escapes out of what an agent says.
//!
//! Job: text in, text out, without anything a terminal would act upon: CSI, OSC, DCS and other strings, C0 but newline
//! and tab, DEL, C1. Owns: the state between two pieces, so that a sequence cut in two is still one sequence.
//! Never: drops a printable character outside a sequence. Source: ECMA-48, xterm's control sequences.
//!
//! ```text
//!  text ──ESC──► escape ──[──► csi ──final──► text
//!                  │  └─P ] X ^ _─► string ──BEL | ST──► text
//!                  └──other──► text
//! ```

/// Characters of a string or sequence that is not finished before it counts as ended: an agent that prints a lone
/// `ESC ]` must not silence everything after it.
const SEQUENCE_CHARS_MAX: usize = 4096;

/// A filter with memory.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    state: State,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate character, as in `ESC ( B`.
    Intermediate,
    /// Inside a control sequence.
    Csi(usize),
    /// Inside a string that BEL or ST ends; the flag says that an ESC was just seen.
    Text7(usize, bool),
}

impl Filter {
    /// Appends what is left of `text` to `out`.
    pub fn push(&mut self, text: &str, out: &mut String) {
        for c in text.chars() {
            self.state = match self.state {
                State::Text => plain(c, out),
                State::Escape => match c {
                    '[' => State::Csi(0),
                    ']' | 'P' | 'X' | '^' | '_' => State::Text7(0, false),
                    ' '..='/' => State::Intermediate,
                    '0'..='~' => State::Text,
                    other => plain(other, out),
                },
                State::Intermediate => match c {
                    ' '..='/' => State::Intermediate,
                    '0'..='~' => State::Text,
                    other => plain(other, out),
                },
                State::Csi(len) => match c {
                    '@'..='~' => State::Text,
                    ' '..='?' if len < SEQUENCE_CHARS_MAX => State::Csi(len + 1),
                    other => plain(other, out),
                },
                State::Text7(_, true) if c == '\\' => State::Text,
                State::Text7(_, true) => Self::after_escape(c, out),
                State::Text7(len, false) => match c {
                    '\x07' | '\u{9c}' => State::Text,
                    '\x1b' => State::Text7(len, true),
                    // A string holds no line end: whoever forgot its end loses one line, not the rest.
                    '\n' => plain('\n', out),
                    _ if len < SEQUENCE_CHARS_MAX => State::Text7(len + 1, false),
                    other => plain(other, out),
                },
            };
        }
    }

    /// What is left of one piece.
    pub fn strip(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        self.push(text, &mut out);
        out
    }

    /// An ESC inside a string that is not its end begins a new sequence.
    fn after_escape(c: char, out: &mut String) -> State {
        let mut fresh = Self { state: State::Escape };
        fresh.push(c.encode_utf8(&mut [0; 4]), out);
        fresh.state
    }
}

/// Text without escapes, for a piece that stands alone.
pub fn strip(text: &str) -> String {
    Filter::default().strip(text)
}

/// The same on one line: newlines and tabs become spaces.
pub fn one_line(text: &str) -> String {
    strip(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn plain(c: char, out: &mut String) -> State {
    match c {
        '\x1b' => State::Escape,
        '\u{9b}' => State::Csi(0),
        '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => State::Text7(0, false),
        '\n' | '\t' => {
            out.push(c);
            State::Text
        }
        c if c.is_control() => State::Text,
        c => {
            out.push(c);
            State::Text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_go_and_text_stays() {
        for (text, want) in [
            ("plain\n\ttext ü€", "plain\n\ttext ü€"),
            ("\x1b[1;31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07after", "after"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1bPq#0\x1b\\x", "x"),
            ("\x1b(Bx\x1b=y\x1b>z", "xyz"),
            ("a\rb\x08c\x7fd\0e", "abcde"),
            ("\u{9b}31mc1\u{9d}x\u{9c}y", "c1y"),
            ("\x1b]never ended\nnext line", "\nnext line"),
            ("\x1b]a\x1b[31mb", "b"),
            ("\x1b\x1b[1mx", "x"),
            ("\x1b[31\nmx", "\nmx"),
            ("ends\x1b", "ends"),
        ] {
            assert_eq!(strip(text), want, "{text:?}");
        }
    }

    /// Small generator; the property must hold for any text and any cut.
    fn noise(seed: u64) -> String {
        let alphabet = [
            '\x1b', '[', ']', 'P', '\\', 'm', '0', ';', '\x07', '\n', '\t', '\r', 'ü', '\u{9b}', '\u{9c}', '\u{90}',
            'x', ' ', '(',
        ];
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..40)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                alphabet[(x % alphabet.len() as u64) as usize]
            })
            .collect()
    }

    #[test]
    fn no_noise_gets_a_control_character_through_and_cuts_do_not_matter() {
        for seed in 0..3_000 {
            let text = noise(seed);
            let whole = strip(&text);
            assert!(whole.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control()), "{text:?} gave {whole:?}");
            let mut filter = Filter::default();
            let mut pieces = String::new();
            for c in text.chars() {
                filter.push(c.encode_utf8(&mut [0; 4]), &mut pieces);
            }
            assert_eq!(pieces, whole, "{text:?}");
        }
    }

    #[test]
    fn text_without_controls_is_kept_whole() {
        for seed in 0..500 {
            let text: String = noise(seed).chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect();
            assert_eq!(strip(&text), text);
        }
    }

    #[test]
    fn an_endless_string_does_not_silence_the_run() {
        let text = format!("\x1b]{}tail", "x".repeat(SEQUENCE_CHARS_MAX * 2));
        assert!(strip(&text).ends_with("tail"));
    }
}
