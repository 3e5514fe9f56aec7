//! What a run request asks of a harness, and how a harness refuses.

use longhaul_model::limits;
use serde_json::Value;

use crate::mcp::Mcp;

/// What the agent may do without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Permissions {
    /// The CLI's own default for a run without a terminal.
    #[default]
    Cli,
    /// Read, never write.
    ReadOnly,
    /// Edit files in its directory.
    Edit,
    /// Everything, unasked.
    Full,
    /// What the CLI would refuse or ask for at a terminal, it asks for.
    Ask,
}

impl Permissions {
    /// The wire name: `cli`, `read_only`, `edit`, `full` or `ask`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cli => "cli",
            Self::ReadOnly => "read_only",
            Self::Edit => "edit",
            Self::Full => "full",
            Self::Ask => "ask",
        }
    }

    /// Parses a wire name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Cli, Self::ReadOnly, Self::Edit, Self::Full, Self::Ask].into_iter().find(|p| p.as_str() == text)
    }
}

/// The part of a run request that concerns the agent itself.
///
/// Sizes of the whole request were checked before; a harness checks what follows from the way a value reaches its CLI.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Request<'a> {
    /// The model, without the harness's name.
    pub model: Option<&'a str>,
    /// The task.
    pub prompt: Option<&'a str>,
    /// What to add to the system prompt.
    pub system: Option<&'a str>,
    /// The program, for `exec`.
    pub command: Option<&'a str>,
    /// Its arguments, for `exec`.
    pub args: &'a [String],
    /// Its standard input, for `exec`.
    pub stdin: Option<&'a [u8]>,
    /// How hard to think, in the CLI's own words.
    pub effort: Option<&'a str>,
    /// What the agent may do without asking.
    pub permissions: Permissions,
    /// Tools that need no asking, in the CLI's own words.
    pub allowed_tools: &'a [String],
    /// Model turns after which the CLI gives up, at least 1.
    pub turns_max: Option<u32>,
    /// US dollars after which the run is to be stopped, above 0.
    pub cost_usd_max: Option<f64>,
    /// Tokens after which the run is to be stopped, at least 1.
    pub tokens_max: Option<u64>,
    /// The directory the work happens in, absolute.
    pub cwd: &'a str,
    /// A fresh UUID for the source's own session, where its CLI lets us choose; empty if there is none.
    pub new_session: &'a str,
    /// The source's own session to go on with, instead of a new one.
    pub resume: Option<&'a str>,
    /// The endpoints that are configured, for `passthrough`.
    pub upstreams: &'a [crate::passthrough::upstream::Upstream],
    /// The JSON Schema that its answer must meet.
    pub schema: Option<&'a Value>,
    /// Servers of tools that it can call.
    pub mcp: Option<&'a Mcp>,
    /// The directory that the plan's files will be in, absolute.
    pub files_dir: &'a str,
}

impl Request<'_> {
    /// Refuses fields that are set and not in `honoured`, and text that no argument vector and no prompt can hold.
    pub(crate) fn check(&self, harness: &'static str, honoured: &[&str]) -> Result<(), PlanError> {
        let set: [(&'static str, bool); 15] = [
            ("model", self.model.is_some()),
            ("prompt", self.prompt.is_some()),
            ("system", self.system.is_some()),
            ("command", self.command.is_some()),
            ("args", !self.args.is_empty()),
            ("stdin", self.stdin.is_some()),
            ("effort", self.effort.is_some()),
            ("permissions", self.permissions != Permissions::Cli),
            ("allowed_tools", !self.allowed_tools.is_empty()),
            ("turns_max", self.turns_max.is_some()),
            ("cost_usd_max", self.cost_usd_max.is_some()),
            ("tokens_max", self.tokens_max.is_some()),
            ("session_id", self.resume.is_some()),
            ("response_format", self.schema.is_some()),
            ("mcp", self.mcp.is_some()),
        ];
        if let Some((field, _)) = set.into_iter().find(|(field, set)| *set && !honoured.contains(field)) {
            return Err(PlanError::Unsupported { harness, field });
        }
        if self.permissions == Permissions::Ask && !honoured.contains(&"approvals") {
            let message = format!("ask needs an agent that asks while it works, and {harness} is none");
            return Err(PlanError::Invalid { field: "permissions", message });
        }
        let texts = [
            ("model", self.model),
            ("prompt", self.prompt),
            ("system", self.system),
            ("command", self.command),
            ("effort", self.effort),
        ];
        let lists = [("args", self.args), ("allowed_tools", self.allowed_tools)];
        let all = texts
            .into_iter()
            .filter_map(|(field, text)| Some((field, text?)))
            .chain(lists.into_iter().flat_map(|(field, list)| list.iter().map(move |text| (field, text.as_str()))));
        for (field, text) in all {
            if text.contains('\0') {
                return Err(PlanError::Nul { field });
            }
            if field != "prompt" {
                fits_argument(field, text)?;
            }
        }
        if self.turns_max == Some(0) {
            return Err(PlanError::Invalid { field: "turns_max", message: "must be at least 1".to_owned() });
        }
        Ok(())
    }

    /// The prompt, which must be there and say something.
    pub(crate) fn prompt(&self, harness: &'static str) -> Result<&str, PlanError> {
        match self.prompt {
            None => Err(PlanError::Missing { harness, field: "prompt" }),
            Some(text) if text.trim().is_empty() => {
                Err(PlanError::Invalid { field: "prompt", message: "must not be blank".to_owned() })
            }
            Some(text) => Ok(text),
        }
    }
}

/// Text that a CLI could take for an option of its own, or not at all.
pub(crate) fn plain_word(field: &'static str, text: &str) -> Result<(), PlanError> {
    if text.is_empty() || text.starts_with('-') || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        let message = "must be one word that does not begin with a hyphen".to_owned();
        return Err(PlanError::Invalid { field, message });
    }
    Ok(())
}

/// Text that travels as one argument and may be longer there than in the request.
pub(crate) fn fits_argument(field: &'static str, text: &str) -> Result<(), PlanError> {
    let (bytes, bytes_max) = (text.len(), limits::ARG_BYTES_MAX);
    if bytes > bytes_max { Err(PlanError::TooLong { field, bytes, bytes_max }) } else { Ok(()) }
}

/// Why a harness cannot honour a request. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The harness has no way to honour the field.
    #[error("harness {harness} does not support {field}")]
    Unsupported {
        /// The harness.
        harness: &'static str,
        /// The field's wire name.
        field: &'static str,
    },
    /// The harness cannot do without the field.
    #[error("harness {harness} needs {field}")]
    Missing {
        /// The harness.
        harness: &'static str,
        /// The field's wire name.
        field: &'static str,
    },
    /// The text holds a NUL byte, which no argument and no prompt can.
    #[error("{field} holds a NUL byte")]
    Nul {
        /// The field's wire name.
        field: &'static str,
    },
    /// The text travels as an argument and is longer than the kernel lets one be.
    #[error("{field} has {bytes} bytes, more than the {bytes_max} an argument can have")]
    TooLong {
        /// The field's wire name.
        field: &'static str,
        /// Its length.
        bytes: usize,
        /// The most it may have, inclusive.
        bytes_max: usize,
    },
    /// The value cannot be given to the CLI.
    #[error("{field} {message}")]
    Invalid {
        /// The field's wire name.
        field: &'static str,
        /// What it must be.
        message: String,
    },
}

impl PlanError {
    /// The wire name of the field that is at fault.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Unsupported { field, .. }
            | Self::Missing { field, .. }
            | Self::Nul { field }
            | Self::TooLong { field, .. }
            | Self::Invalid { field, .. } => field,
        }
    }
}
