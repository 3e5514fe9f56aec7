//! What one attempt is to start, within which limits and how it is stopped.
//!
//! Job: the `spec` file, strict about what it accepts. Owns: its version.
//! Never: holds an environment value; those are in the file `env`, which goes when the agent has started.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::cgroup::GroupSpec;
use crate::limits;

/// The version of the spec that this build writes and the highest it reads.
pub const VERSION: u32 = 1;

/// Everything the shim needs to know before it starts an agent, except its environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptSpec {
    /// [`VERSION`].
    pub version: u32,
    /// The attempt's id, for people and logs.
    pub attempt: String,
    /// Put into the agent's environment as `LONGHAUL_RUN_MARKER`; unique, so that stray processes can be found.
    pub marker: String,
    /// The epoch of the server that wrote this; a lower one is refused on the control socket and in the input log.
    pub epoch: u64,
    /// The program: a path, or a name that is looked up in `PATH` of the agent's own environment.
    pub program: String,
    /// Its arguments, without the program's name.
    pub args: Vec<String>,
    /// The absolute directory it starts in; also its `PWD`.
    pub cwd: String,
    /// Where its standard input comes from.
    pub stdin: Stdin,
    /// What it may use.
    pub limits: Limits,
    /// The remaining budget in milliseconds from the moment the agent is started, on the monotonic clock.
    pub deadline_ms: Option<u64>,
    /// After the leader's end: how long in milliseconds a pipe that somebody else holds is still read.
    pub drain_ms: u64,
    /// The stop ladder. After the last step the whole tree gets KILL, always.
    pub stop: Vec<StopStep>,
    /// The control groups that the agent is put into, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupSpec>,
    /// The name of the agent's program where `program` is a wrapper that holds it in a pid namespace. The wrapper takes
    /// no signal but KILL: the agent behind it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrapped: Option<String>,
}

/// Where an agent's standard input comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Stdin {
    /// `/dev/null`.
    Null,
    /// A file in the attempt's directory, normally `stdin`.
    File {
        /// Its plain name, without a slash.
        name: String,
    },
    /// A pipe that the `input` log feeds.
    Channel {
        /// When the shim closes the pipe without being told.
        close_when: Option<CloseWhen>,
    },
}

/// When a protocol channel is closed without a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CloseWhen {
    /// After a complete line of stdout that is a JSON object whose `type` is this string. Input that is already in the
    /// log is forwarded first.
    JsonType {
        /// The value of `type`.
        value: String,
    },
}

/// What an agent may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of stdout and stderr together; exactly so many are kept, the next one begins a stop.
    pub output_bytes_max: u64,
    /// Milliseconds without output after which a stop begins.
    pub idle_ms: Option<u64>,
}

/// One step of the stop ladder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StopStep {
    /// Send a signal: INT to the leader alone, TERM to the whole tree, KILL to the whole tree, others to the leader's
    /// process group.
    Signal {
        /// Which one.
        signal: StopSignal,
        /// How long to wait for the leader's end, in milliseconds.
        wait_ms: u64,
    },
    /// Write a frame to the stdin channel: the protocol's own cancel. Skipped if the channel is not open.
    Write {
        /// What to write.
        frame: WriteFrame,
        /// How long to wait for the leader's end, in milliseconds.
        wait_ms: u64,
    },
}

/// The signals a stop step may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    /// SIGINT.
    Int,
    /// SIGTERM.
    Term,
    /// SIGHUP.
    Hup,
    /// SIGQUIT.
    Quit,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
    /// SIGKILL.
    Kill,
}

impl StopSignal {
    /// The signal as the kernel knows it.
    pub fn signal(self) -> Signal {
        match self {
            Self::Int => Signal::INT,
            Self::Term => Signal::TERM,
            Self::Hup => Signal::HUP,
            Self::Quit => Signal::QUIT,
            Self::Usr1 => Signal::USR1,
            Self::Usr2 => Signal::USR2,
            Self::Kill => Signal::KILL,
        }
    }
}

/// Bytes to write, as text where they are text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteFrame {
    /// UTF-8 text, written as it is.
    Text(String),
    /// Base64 (standard alphabet, padded) of the bytes.
    Base64(String),
}

impl WriteFrame {
    /// The frame for these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Base64(BASE64.encode(bytes)),
        }
    }

    /// The bytes to write.
    ///
    /// # Errors
    /// [`SpecError::Field`] if the base64 is not.
    pub fn bytes(&self) -> Result<Vec<u8>, SpecError> {
        match self {
            Self::Text(text) => Ok(text.clone().into_bytes()),
            Self::Base64(text) => {
                BASE64.decode(text).map_err(|_| SpecError::Field { field: "stop", why: "a frame is not base64" })
            }
        }
    }
}

/// Why a spec is not accepted. Nothing was started or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// It was written by a later release.
    #[error("spec has version {found}, this build knows up to {known}")]
    Version {
        /// The version found.
        found: u32,
        /// [`VERSION`].
        known: u32,
    },
    /// A field breaks its rule.
    #[error("spec field `{field}`: {why}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// The rule.
        why: &'static str,
    },
}

impl AttemptSpec {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`SpecError`] names the first rule that is broken.
    pub fn check(&self) -> Result<(), SpecError> {
        let field = |ok: bool, field, why| {
            if ok { Ok(()) } else { Err(SpecError::Field { field, why }) }
        };
        if self.version == 0 || self.version > VERSION {
            return Err(SpecError::Version { found: self.version, known: VERSION });
        }
        let plain = |text: &str| !text.bytes().any(|byte| byte == 0);
        let name = |text: &str| !text.is_empty() && !text.contains('/') && !text.starts_with('.');
        field(!self.program.is_empty(), "program", "is empty")?;
        field(plain(&self.program), "program", "holds a NUL byte")?;
        field(self.args.iter().all(|arg| plain(arg)), "args", "hold a NUL byte")?;
        field(self.cwd.starts_with('/') && plain(&self.cwd), "cwd", "is not an absolute path")?;
        field(!self.marker.is_empty() && plain(&self.marker), "marker", "is empty or holds a NUL byte")?;
        if let Stdin::File { name: file } = &self.stdin {
            field(name(file) && plain(file), "stdin", "is not a plain file name")?;
        }
        let ours = self.group.as_ref().is_none_or(GroupSpec::is_ours);
        field(ours, "group", "names a directory that is none of ours")?;
        field(self.stop.len() <= limits::STOP_STEPS_MAX, "stop", "has too many steps")?;
        for step in &self.stop {
            if let StopStep::Write { frame, .. } = step {
                field(frame.bytes()?.len() <= limits::STOP_FRAME_BYTES_MAX, "stop", "has a frame that is too long")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> AttemptSpec {
        AttemptSpec {
            version: VERSION,
            attempt: "a1".into(),
            marker: "m1".into(),
            epoch: 3,
            program: "claude".into(),
            args: vec!["-p".into()],
            cwd: "/".into(),
            stdin: Stdin::Channel { close_when: Some(CloseWhen::JsonType { value: "result".into() }) },
            limits: Limits { output_bytes_max: 1 << 30, idle_ms: None },
            deadline_ms: Some(1000),
            drain_ms: 500,
            stop: vec![
                StopStep::Write { frame: WriteFrame::new(b"{}\n"), wait_ms: 50 },
                StopStep::Signal { signal: StopSignal::Term, wait_ms: 5000 },
            ],
            group: None,
            wrapped: None,
        }
    }

    #[test]
    fn the_wire_form_is_fixed() {
        let text = serde_json::to_string(&spec()).unwrap();
        assert_eq!(
            text,
            r#"{"version":1,"attempt":"a1","marker":"m1","epoch":3,"program":"claude","args":["-p"],"cwd":"/","stdin":{"kind":"channel","close_when":{"kind":"json_type","value":"result"}},"limits":{"output_bytes_max":1073741824,"idle_ms":null},"deadline_ms":1000,"drain_ms":500,"stop":[{"kind":"write","frame":{"text":"{}\n"},"wait_ms":50},{"kind":"signal","signal":"TERM","wait_ms":5000}]}"#
        );
        assert_eq!(serde_json::from_str::<AttemptSpec>(&text).unwrap(), spec());
    }

    #[test]
    fn frames_keep_their_bytes() {
        for bytes in [&b"text\n"[..], &[0xff, 0x00, 0x80]] {
            assert_eq!(WriteFrame::new(bytes).bytes().unwrap(), bytes);
        }
        assert!(WriteFrame::Base64("*".into()).bytes().is_err());
    }

    #[test]
    fn rules_are_named() {
        assert_eq!(spec().check(), Ok(()));
        let broken = |change: fn(&mut AttemptSpec)| {
            let mut spec = spec();
            change(&mut spec);
            spec.check().unwrap_err().to_string()
        };
        assert_eq!(broken(|s| s.version = 2), "spec has version 2, this build knows up to 1");
        assert_eq!(broken(|s| s.cwd = "tmp".into()), "spec field `cwd`: is not an absolute path");
        assert_eq!(broken(|s| s.args = vec!["a\0".into()]), "spec field `args`: hold a NUL byte");
        assert_eq!(
            broken(|s| s.stdin = Stdin::File { name: "../x".into() }),
            "spec field `stdin`: is not a plain file name"
        );
    }
}
