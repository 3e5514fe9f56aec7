//! The command line of Pi, and the conversation's frames.
//!
//! The prompt travels in a frame: so it may be long, begin with a hyphen or an `@`, and is not seen by `ps`. Source: real
//! runs of 0.74.2.

use serde_json::json;

use super::{NAME, frames};
use crate::channel::Channel;
use crate::mcp::{Mcp, Told, only_commands};
use crate::plan::{ENV_BASE, Plan, PlanFile, Program, StopStep, stop_by_term};
use crate::request::{Permissions, PlanError, Request, plain_word};

pub(super) const PROGRAM: &str = "pi";

pub(super) const FIELDS: [&str; 9] =
    ["model", "prompt", "system", "effort", "permissions", "cost_usd_max", "tokens_max", "session_id", "mcp"];

/// The extension that takes servers of tools, for Pi has no way of its own; the list of them goes before it.
const MCP: &str = include_str!("mcp.js");

/// The extension's file.
const MCP_FILE: &str = "mcp.js";

/// The levels that Pi knows; it would drop another one with a warning.
const EFFORTS: [&str; 6] = ["off", "minimal", "low", "medium", "high", "xhigh"];

const ENV_ALLOW: [&str; 35] = [
    ENV_BASE[0],
    ENV_BASE[1],
    ENV_BASE[2],
    ENV_BASE[3],
    ENV_BASE[4],
    ENV_BASE[5],
    ENV_BASE[6],
    ENV_BASE[7],
    "PI_*",
    "XDG_CONFIG_HOME",
    "AI_GATEWAY_API_KEY",
    "ANTHROPIC_*",
    "AWS_*",
    "AZURE_OPENAI_*",
    "CEREBRAS_API_KEY",
    "CLOUDFLARE_*",
    "COPILOT_GITHUB_TOKEN",
    "DEEPSEEK_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_*",
    "GROQ_API_KEY",
    "HF_TOKEN",
    "KIMI_API_KEY",
    "MISTRAL_API_KEY",
    "OPENAI_API_KEY",
    "OPENROUTER_API_KEY",
    "XAI_API_KEY",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// The scripts of the servers, and the extension that knows where they are. Source: a real run of 0.74.2, which listed and
/// called the tool of such a server.
fn mcp_files(mcp: &Mcp, files_dir: &str) -> Result<Vec<PlanFile>, PlanError> {
    let (told, mut files) = mcp.told(files_dir)?;
    let mut servers = Vec::new();
    for (name, server) in told {
        let Told::Script(script) = server else { return Err(only_commands(NAME, name)) };
        servers.push(json!([name, script]));
    }
    let text = format!("const SERVERS = {};\n{MCP}", json!(servers));
    files.push(PlanFile { name: MCP_FILE.to_owned(), bytes: text.into_bytes() });
    Ok(files)
}

pub(super) fn plan(request: &Request<'_>) -> Result<Plan, PlanError> {
    request.check(NAME, &FIELDS)?;
    let prompt = request.prompt(NAME)?;
    let mut args = ["--mode", "rpc"].map(str::to_owned).to_vec();
    if let Some(model) = request.model {
        plain_word("model", model)?;
        let (provider, name) = model.split_once('/').unwrap_or_default();
        if provider.is_empty() || name.is_empty() || name.starts_with('-') {
            let message = format!("must be a provider, a slash and a model for {PROGRAM}, not {model:?}");
            return Err(PlanError::Invalid { field: "model", message });
        }
        args.extend(["--provider", provider, "--model", name].map(str::to_owned));
    }
    if let Some(effort) = request.effort {
        if !EFFORTS.contains(&effort) {
            let message = format!("must be one of {} for {PROGRAM}", EFFORTS.join(", "));
            return Err(PlanError::Invalid { field: "effort", message });
        }
        args.extend(["--thinking", effort].map(str::to_owned));
    }
    match request.permissions {
        // Pi asks nobody.
        // That the agent asks was refused before.
        Permissions::Cli | Permissions::Full | Permissions::Ask => {}
        Permissions::ReadOnly => args.extend(["--tools", "read,grep,find,ls"].map(str::to_owned)),
        Permissions::Edit => {
            let message = format!("edit has no equivalent in {PROGRAM}, which cannot keep edits to one directory");
            return Err(PlanError::Invalid { field: "permissions", message });
        }
    }
    if let Some(system) = request.system {
        // With a newline, or a text that is the name of a file would be replaced by what the file holds.
        args.extend(["--append-system-prompt".to_owned(), format!("{system}\n")]);
    }
    if let Some(session) = request.resume {
        plain_word("session_id", session)?;
        if session.contains(['/', '\\', '.']) {
            let message = "must be an id, not a path".to_owned();
            return Err(PlanError::Invalid { field: "session_id", message });
        }
        args.extend(["--session", session].map(str::to_owned));
    }
    let files = request.mcp.map(|mcp| mcp_files(mcp, request.files_dir)).transpose()?.unwrap_or_default();
    if !files.is_empty() {
        args.extend(["--extension".to_owned(), format!("{}/{MCP_FILE}", request.files_dir)]);
    }
    let channel = Channel {
        opening: frames::opening(prompt),
        prepared: Vec::new(),
        // It tells an end before it tells that it tries again; the parser asks.
        close_when: None,
        acknowledges: true,
    };
    channel.check()?;
    let mut stop = vec![StopStep::Write { bytes: frames::abort(), wait_ms: 3_000 }];
    stop.extend(stop_by_term());
    let quiet = [("NO_COLOR", "1"), ("PI_SKIP_VERSION_CHECK", "1"), ("PI_TELEMETRY", "0")];
    Ok(Plan {
        program: Program::Path(PROGRAM.to_owned()),
        args,
        stdin: None,
        files,
        channel: Some(channel),
        env: quiet.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        env_allow: &ENV_ALLOW,
        keys: Vec::new(),
        stop,
        source_session_id: None,
        warnings: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_field_has_its_option() {
        let request = Request {
            prompt: Some("-x\n@y"),
            model: Some("openrouter/some/model"),
            system: Some("-README.md"),
            effort: Some("high"),
            permissions: Permissions::ReadOnly,
            resume: Some("01a1fd15-6831"),
            new_session: "ignored: pi chooses",
            ..Request::default()
        };
        let plan = plan(&request).unwrap();
        assert_eq!(
            plan.args.join(" "),
            "--mode rpc --provider openrouter --model some/model --thinking high --tools read,grep,find,ls \
             --append-system-prompt -README.md\n --session 01a1fd15-6831"
        );
        assert_eq!((plan.stdin, plan.source_session_id), (None, None));
        let said: Vec<Value> =
            plan.channel.unwrap().opening.iter().map(|frame| serde_json::from_slice(&frame.bytes).unwrap()).collect();
        let prompt = json!({ "id": "prompt", "type": "prompt", "message": "-x\n@y", "streamingBehavior": "steer" });
        assert_eq!(said, [json!({ "id": "state", "type": "get_state" }), prompt]);
        assert!(plan.env.contains(&("PI_TELEMETRY".to_owned(), "0".to_owned())));
    }

    #[test]
    fn servers_are_scripts_of_an_extension() {
        let mut mcp = crate::mcp::tests::two_servers();
        let request = Request { prompt: Some("x"), mcp: Some(&mcp), files_dir: "/f", ..Request::default() };
        assert_eq!(plan(&request).unwrap_err().field(), "mcp", "an address is not told");
        mcp.servers.remove("far");
        let request = Request { prompt: Some("x"), mcp: Some(&mcp), files_dir: "/f", ..Request::default() };
        let plan = plan(&request).unwrap();
        assert_eq!(plan.args, ["--mode", "rpc", "--extension", "/f/mcp.js"]);
        assert_eq!(plan.files.iter().map(|file| &*file.name).collect::<Vec<_>>(), ["mcp-near.sh", "mcp.js"]);
        let text = String::from_utf8_lossy(&plan.files[1].bytes).into_owned();
        assert!(text.starts_with("const SERVERS = [[\"near\",\"/f/mcp-near.sh\"]];\n"), "{text}");
        assert!(!text.contains("s3cr") && !format!("{plan:?}").contains("s3cr"), "no secret is shown by accident");
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        let good = Request { prompt: Some("x"), ..Request::default() };
        let field = |request: Request<'_>| plan(&request).unwrap_err().field();
        let tools = ["bash".to_owned()];
        assert_eq!(plan(&good).unwrap().args, ["--mode", "rpc"]);
        assert_eq!(plan(&Request { permissions: Permissions::Full, ..good.clone() }).unwrap().args.len(), 2);
        for model in ["sonnet", "/sonnet", "anthropic/", "anthropic/-p", "-m/x", "a b/c"] {
            assert_eq!(field(Request { model: Some(model), ..good.clone() }), "model", "{model}");
        }
        for session in ["../other.jsonl", "a\\b", "s.jsonl", "-p", ""] {
            assert_eq!(field(Request { resume: Some(session), ..good.clone() }), "session_id", "{session}");
        }
        assert_eq!(field(Request { effort: Some("ultra"), ..good.clone() }), "effort");
        assert_eq!(field(Request { permissions: Permissions::Edit, ..good.clone() }), "permissions");
        assert_eq!(field(Request { allowed_tools: &tools, ..good.clone() }), "allowed_tools");
        assert_eq!(field(Request { turns_max: Some(1), ..good.clone() }), "turns_max");
        assert_eq!(field(Request { prompt: Some(" \n"), ..good }), "prompt");
    }
}
