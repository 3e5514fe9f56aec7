//! Standard input: what is there and how much of it is taken.
//!
//! Job: tell a terminal from a pipe or a file, read the latter to its end within the limit.
//! Never: reads from a terminal, waits in silence.

use std::io::Read;
use std::time::Duration;

use longhaul_model::limits::PROMPT_BYTES_MAX;
use rustix::fs::FileType;

use super::screen::Screen;
use super::trouble::Trouble;

/// How long a pipe may be silent before the wait is explained.
const SAY_AFTER: Duration = Duration::from_secs(3);

/// Whether there is something to read: a pipe or a file; not a terminal, `/dev/null`, a socket or nothing.
pub fn is_piped() -> bool {
    rustix::fs::fstat(std::io::stdin())
        .is_ok_and(|facts| matches!(FileType::from_raw_mode(facts.st_mode), FileType::Fifo | FileType::RegularFile))
}

/// Reads to the end.
///
/// # Errors
/// Over the limit, not UTF-8, or unreadable; nothing was sent.
pub async fn read(screen: &Screen) -> Result<String, Trouble> {
    let mut reading = tokio::task::spawn_blocking(|| {
        let mut bytes = Vec::new();
        std::io::stdin().take(PROMPT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map(|_| bytes)
    });
    let read = if let Ok(read) = tokio::time::timeout(SAY_AFTER, &mut reading).await {
        read
    } else {
        screen.note("longhaul: reading standard input to its end first (--no-stdin leaves it alone)");
        reading.await
    };
    let bytes = match read {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return Err(Trouble::new(format!("standard input cannot be read: {error}"))),
        Err(error) => return Err(Trouble::new(format!("standard input cannot be read: {error}"))),
    };
    text(bytes, "standard input")
}

/// Bytes as text within the limit.
///
/// # Errors
/// Over the limit or not UTF-8; `what` names the source.
pub fn text(bytes: Vec<u8>, what: &str) -> Result<String, Trouble> {
    if bytes.len() > PROMPT_BYTES_MAX {
        return Err(Trouble::new(format!("{what} has more than {} MiB, which is the limit", PROMPT_BYTES_MAX >> 20))
            .help("write it to a file and name the file to the agent or command"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Trouble::new(format!("{what} is not UTF-8 text (byte {at})"))
            .help("write it to a file and name the file to the agent or command")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_encoding_are_named() {
        assert_eq!(text(b"ok".to_vec(), "x").unwrap(), "ok");
        assert_eq!(text(b"ab\xff".to_vec(), "x").unwrap_err().what, "x is not UTF-8 text (byte 2)");
        let big = vec![b'a'; PROMPT_BYTES_MAX + 1];
        assert_eq!(text(big, "x").unwrap_err().what, "x has more than 4 MiB, which is the limit");
    }
}
