//! The programs: what is started, and what they get of the caller's environment.
//!
//! Source: recorded runs of qwen-code 0.24.4 and copilot 1.0.102.

use super::{Acp, Fixed};
use crate::plan::ENV_BASE;

const FIELDS: [&str; 6] = ["model", "prompt", "permissions", "approvals", "session_id", "mcp"];

/// Any command that speaks it.
pub(crate) static ANY: Acp = Acp {
    name: "acp",
    summary: "Any agent that speaks ACP, the Agent Client Protocol, over its standard input.",
    program: None,
    env_allow: &ENV_ANY,
    fields: &["model", "prompt", "permissions", "approvals", "session_id", "mcp", "command", "args"],
};

/// GitHub Copilot CLI.
pub(crate) static COPILOT: Acp = Acp {
    name: "copilot",
    summary: "GitHub Copilot CLI, by ACP.",
    program: Some(Fixed {
        program: "copilot",
        args: &["--acp", "--no-auto-update"],
        model_option: Some("--model"),
        // By the protocol it takes none that is a command, and says so in its own log alone.
        mcp_option: Some("--additional-mcp-config"),
        env: &[("NO_COLOR", "1")],
        install: "npm install -g @github/copilot@1.0.102",
        tested_version: "1.0.102",
    }),
    env_allow: &ENV_COPILOT,
    fields: &FIELDS,
};

/// Qwen Code.
pub(crate) static QWEN: Acp = Acp {
    name: "qwen",
    summary: "Qwen Code, Alibaba's coding agent, by ACP.",
    program: Some(Fixed {
        program: "qwen",
        args: &["--acp"],
        model_option: Some("-m"),
        mcp_option: None,
        env: &[("NO_COLOR", "1")],
        install: "npm install -g @qwen-code/qwen-code@0.24.4",
        tested_version: "0.24.4",
    }),
    env_allow: &ENV_QWEN,
    fields: &FIELDS,
};

/// What every one of them gets.
const ENV_ANY: [&str; 16] = [
    ENV_BASE[0],
    ENV_BASE[1],
    ENV_BASE[2],
    ENV_BASE[3],
    ENV_BASE[4],
    ENV_BASE[5],
    ENV_BASE[6],
    ENV_BASE[7],
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

const ENV_QWEN: [&str; 19] = with(["OPENAI_*", "QWEN_*", "DASHSCOPE_*"]);

const ENV_COPILOT: [&str; 19] = with(["COPILOT_*", "GH_TOKEN", "GITHUB_TOKEN"]);

/// [`ENV_ANY`] and three more.
const fn with(more: [&'static str; 3]) -> [&'static str; 19] {
    let mut all = [""; 19];
    let mut at = 0;
    while at < ENV_ANY.len() {
        all[at] = ENV_ANY[at];
        at += 1;
    }
    let mut extra = 0;
    while extra < more.len() {
        all[at + extra] = more[extra];
        extra += 1;
    }
    all
}
