//! The command line of Claude Code.
//!
//! The prompt is the first message on its standard input: so it may be long, begin with a hyphen, and is not seen by
//! `ps`. Source: real runs of 2.1.329 with prompts of 1 MiB, with a leading hyphen and with newlines.

use longhaul_model::event::Warning;
use serde_json::json;

use super::{NAME, channel};
use crate::mcp::{Mcp, McpServer};
use crate::plan::{ENV_BASE, Plan, PlanFile, Program};
use crate::request::{Permissions, PlanError, Request, fits_argument, plain_word};

pub(super) const PROGRAM: &str = "claude";

pub(super) const FIELDS: [&str; 12] = [
    "model",
    "prompt",
    "system",
    "effort",
    "permissions",
    "approvals",
    "allowed_tools",
    "turns_max",
    "cost_usd_max",
    "session_id",
    "response_format",
    "mcp",
];

/// The aliases; full names begin with `claude-` and are not listed, because they change faster than we do.
pub(super) const MODELS: [&str; 3] = ["opus", "sonnet", "haiku"];

const ENV_ALLOW: [&str; 24] = [
    ENV_BASE[0],
    ENV_BASE[1],
    ENV_BASE[2],
    ENV_BASE[3],
    ENV_BASE[4],
    ENV_BASE[5],
    ENV_BASE[6],
    ENV_BASE[7],
    "ANTHROPIC_*",
    "CLAUDE_CONFIG_DIR",
    "CLAUDE_CODE_*",
    "DISABLE_*",
    "AWS_*",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "CLOUD_ML_REGION",
    "XDG_CONFIG_HOME",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// The file that holds the servers with their secrets.
const MCP_FILE: &str = "mcp.json";

/// Claude's own form. Source: a real run of 2.1.329, which listed and called the tool of such a server.
fn mcp_config(mcp: &Mcp) -> Vec<u8> {
    let server = |server: &McpServer| match server {
        McpServer::Command { command, args, env } => json!({ "command": command, "args": args, "env": env }),
        McpServer::Url { url, headers } => json!({ "type": "http", "url": url, "headers": headers }),
    };
    let servers: serde_json::Map<_, _> = mcp.servers.iter().map(|(name, one)| (name.clone(), server(one))).collect();
    json!({ "mcpServers": servers }).to_string().into_bytes()
}

pub(super) fn plan(request: &Request<'_>) -> Result<Plan, PlanError> {
    request.check(NAME, &FIELDS)?;
    let prompt = request.prompt(NAME)?;
    let mut args: Vec<String> = [
        "-p",
        "--input-format",
        "stream-json",
        "--output-format",
        "stream-json",
        "--verbose",
        "--include-partial-messages",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut env = vec![("NO_COLOR".to_owned(), "1".to_owned())];
    let mut warnings = Vec::new();
    let session = match request.resume {
        Some(id) => {
            plain_word("session_id", id)?;
            args.extend(["--resume".to_owned(), id.to_owned()]);
            Some(id.to_owned())
        }
        None if request.new_session.is_empty() => None,
        None => {
            args.extend(["--session-id".to_owned(), request.new_session.to_owned()]);
            Some(request.new_session.to_owned())
        }
    };
    if let Some(model) = request.model {
        plain_word("model", model)?;
        if !MODELS.contains(&model) && !model.starts_with("claude-") {
            let message = format!("{PROGRAM} may not know the model {model}; it was asked for it all the same");
            warnings.push(Warning { code: "unknown_model".to_owned(), message });
        }
        args.extend(["--model".to_owned(), model.to_owned()]);
    }
    if let Some(effort) = request.effort {
        plain_word("effort", effort)?;
        args.extend(["--effort".to_owned(), effort.to_owned()]);
    }
    if let Some(turns) = request.turns_max {
        args.extend(["--max-turns".to_owned(), turns.to_string()]);
    }
    if let Some(usd) = request.cost_usd_max {
        args.extend(["--max-budget-usd".to_owned(), usd.to_string()]);
    }
    match request.permissions {
        Permissions::Cli => {}
        Permissions::ReadOnly => args.extend(["--permission-mode", "plan"].map(str::to_owned)),
        Permissions::Edit => args.extend(["--permission-mode", "acceptEdits"].map(str::to_owned)),
        Permissions::Full => {
            args.push("--dangerously-skip-permissions".to_owned());
            // As root the flag is refused without it.
            env.push(("IS_SANDBOX".to_owned(), "1".to_owned()));
        }
        Permissions::Ask => args.extend(["--permission-prompt-tool", "stdio"].map(str::to_owned)),
    }
    if !request.allowed_tools.is_empty() {
        for tool in request.allowed_tools {
            if tool.trim().is_empty() || tool.starts_with('-') {
                let message = "must hold names that do not begin with a hyphen".to_owned();
                return Err(PlanError::Invalid { field: "allowed_tools", message });
            }
        }
        let tools = request.allowed_tools.join(",");
        fits_argument("allowed_tools", &tools)?;
        // With `=`, or the option would take what follows for more tools.
        args.push(format!("--allowedTools={tools}"));
    }
    if let Some(system) = request.system {
        // With `=`, so that the text may begin with a hyphen.
        args.push(format!("--append-system-prompt={system}"));
    }
    if let Some(schema) = request.schema {
        let schema = schema.to_string();
        fits_argument("response_format", &schema)?;
        args.push(format!("--json-schema={schema}"));
    }
    let mut files = Vec::new();
    if let Some(mcp) = request.mcp {
        // Those and no others, whatever the user's and the directory's own settings say.
        args.push("--strict-mcp-config".to_owned());
        args.push(format!("--mcp-config={}/{MCP_FILE}", request.files_dir));
        files.push(PlanFile { name: MCP_FILE.to_owned(), bytes: mcp_config(mcp) });
    }
    let channel = channel::channel(prompt, request.permissions == Permissions::Ask);
    channel.check()?;
    Ok(Plan {
        program: Program::Path(PROGRAM.to_owned()),
        args,
        stdin: None,
        files,
        channel: Some(channel),
        env,
        env_allow: &ENV_ALLOW,
        keys: Vec::new(),
        stop: channel::stop(),
        source_session_id: session,
        warnings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "11111111-2222-4333-8444-555555555555";

    fn args(request: &Request<'_>) -> String {
        plan(request).unwrap().args.join(" ")
    }

    #[test]
    fn a_session_is_gone_on_with_instead_of_begun() {
        let request = Request { prompt: Some("go on"), new_session: "new", resume: Some(ID), ..Request::default() };
        let plan = plan(&request).unwrap();
        assert!(plan.args.join(" ").ends_with(&format!("--resume {ID}")), "{:?}", plan.args);
        assert_eq!(plan.source_session_id.as_deref(), Some(ID));
        let dashed = Request { prompt: Some("go on"), resume: Some("-x"), ..Request::default() };
        assert_eq!(super::plan(&dashed).unwrap_err().field(), "session_id");
    }

    #[test]
    fn the_prompt_is_never_an_argument() {
        let request = Request { prompt: Some("--help\nme"), new_session: ID, ..Request::default() };
        let plan = plan(&request).unwrap();
        assert_eq!(
            plan.args.join(" "),
            format!(
                "-p --input-format stream-json --output-format stream-json --verbose --include-partial-messages \
                 --session-id {ID}"
            )
        );
        let channel = plan.channel.unwrap();
        let said: serde_json::Value = serde_json::from_slice(&channel.opening[0].bytes).unwrap();
        assert_eq!(said["message"]["content"][0]["text"], "--help\nme");
        assert_eq!((channel.opening.len(), channel.close_when), (1, Some(crate::CloseWhen::JsonType("result"))));
        assert_eq!(plan.stdin, None);
        assert_eq!(plan.source_session_id.as_deref(), Some(ID));
        assert_eq!(plan.env, [("NO_COLOR".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn each_field_has_its_option() {
        let tools = ["Bash(git log:*)".to_owned(), "Read".to_owned()];
        let request = Request {
            prompt: Some("x"),
            model: Some("sonnet"),
            system: Some("-s"),
            effort: Some("high"),
            permissions: Permissions::ReadOnly,
            allowed_tools: &tools,
            turns_max: Some(3),
            ..Request::default()
        };
        assert_eq!(
            args(&request),
            "-p --input-format stream-json --output-format stream-json --verbose --include-partial-messages \
             --model sonnet --effort high --max-turns 3 --permission-mode plan --allowedTools=Bash(git log:*),Read --append-system-prompt=-s"
        );
        let full = Request { prompt: Some("x"), permissions: Permissions::Full, ..Request::default() };
        let full = plan(&full).unwrap();
        assert_eq!(full.args.last().map(String::as_str), Some("--dangerously-skip-permissions"));
        assert!(full.env.contains(&("IS_SANDBOX".to_owned(), "1".to_owned())));
        let ask = Request { prompt: Some("x"), permissions: Permissions::Ask, ..Request::default() };
        let ask = super::plan(&ask).unwrap();
        assert!(ask.args.join(" ").ends_with("--permission-prompt-tool stdio"), "{:?}", ask.args);
        assert_eq!(ask.channel.unwrap().close_when, None, "it may ask after a result");
    }

    #[test]
    fn the_schema_is_an_option_and_servers_are_a_file() {
        let schema = json!({ "type": "object" });
        let mcp = crate::mcp::tests::two_servers();
        let request = Request {
            prompt: Some("x"),
            schema: Some(&schema),
            mcp: Some(&mcp),
            files_dir: "/tmp/r/files",
            ..Request::default()
        };
        let plan = plan(&request).unwrap();
        let told = "--json-schema={\"type\":\"object\"} --strict-mcp-config --mcp-config=/tmp/r/files/mcp.json";
        assert!(plan.args.join(" ").ends_with(told), "{:?}", plan.args);
        let file: serde_json::Value = serde_json::from_slice(&plan.files[0].bytes).unwrap();
        let want = json!({ "mcpServers": {
            "far": { "type": "http", "url": "https://h/mcp", "headers": { "Authorization": "s3cr3t" } },
            "near": { "command": "serve", "args": ["it's"], "env": { "TOKEN": "s3cr'3t" } },
        } });
        assert_eq!((plan.files[0].name.as_str(), file), ("mcp.json", want));
        assert!(!format!("{plan:?} {request:?}").contains("s3cr"), "no secret is shown by accident");
    }

    #[test]
    fn an_unknown_model_is_a_warning() {
        let request = Request { prompt: Some("x"), model: Some("gpt"), ..Request::default() };
        assert_eq!(plan(&request).unwrap().warnings[0].code, "unknown_model");
        let request = Request { prompt: Some("x"), model: Some("claude-opus-5-5"), ..Request::default() };
        assert_eq!(plan(&request).unwrap().warnings, []);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        let field = |request: Request<'_>| plan(&request).unwrap_err().field();
        let tools = ["--x".to_owned()];
        assert_eq!(field(Request::default()), "prompt");
        assert_eq!(field(Request { prompt: Some(" \n"), ..Request::default() }), "prompt");
        assert_eq!(field(Request { prompt: Some("a\0b"), ..Request::default() }), "prompt");
        assert_eq!(field(Request { prompt: Some("x"), command: Some("ls"), ..Request::default() }), "command");
        assert_eq!(field(Request { prompt: Some("x"), stdin: Some(b""), ..Request::default() }), "stdin");
        assert_eq!(field(Request { prompt: Some("x"), model: Some("-m"), ..Request::default() }), "model");
        assert_eq!(field(Request { prompt: Some("x"), turns_max: Some(0), ..Request::default() }), "turns_max");
        assert_eq!(field(Request { prompt: Some("x"), allowed_tools: &tools, ..Request::default() }), "allowed_tools");
        let long = "x".repeat(121 << 10);
        assert_eq!(field(Request { prompt: Some("x"), system: Some(&long), ..Request::default() }), "system");
    }
}
