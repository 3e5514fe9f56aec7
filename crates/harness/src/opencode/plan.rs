//! The command line of OpenCode.
//!
//! The prompt is its standard input, a file: as an argument with spaces it would reach the model in quotation marks.

use serde_json::{Map, json};

use super::NAME;
use crate::mcp::{SHELL, Told};
use crate::plan::{ENV_BASE, Plan, PlanFile, Program, stop_by_term};
use crate::request::{Permissions, PlanError, Request, plain_word};

pub(super) const PROGRAM: &str = "opencode";

pub(super) const FIELDS: [&str; 8] =
    ["model", "prompt", "effort", "permissions", "cost_usd_max", "tokens_max", "session_id", "mcp"];

const ENV_ALLOW: [&str; 33] = [
    ENV_BASE[0],
    ENV_BASE[1],
    ENV_BASE[2],
    ENV_BASE[3],
    ENV_BASE[4],
    ENV_BASE[5],
    ENV_BASE[6],
    ENV_BASE[7],
    "OPENCODE_*",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "ANTHROPIC_*",
    "AWS_*",
    "AZURE_*",
    "DEEPSEEK_API_KEY",
    "GEMINI_*",
    "GOOGLE_*",
    "GROQ_API_KEY",
    "MISTRAL_API_KEY",
    "MOONSHOT_API_KEY",
    "OPENAI_*",
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

/// Nothing is fetched that the task does not ask for.
const QUIET: [&str; 2] = ["OPENCODE_DISABLE_AUTOUPDATE", "OPENCODE_DISABLE_LSP_DOWNLOAD"];

/// The file of settings with the servers. OpenCode reads it after the user's own settings and before the directory's.
const MCP_FILE: &str = "opencode.json";

/// OpenCode's own form. Source: a real run of 1.18.33, which listed and called the tool of such a server.
fn mcp_config(servers: &[(&str, Told<'_>)]) -> Vec<u8> {
    let one = |server: &Told<'_>| match server {
        Told::Script(path) => json!({ "type": "local", "command": [SHELL, path], "enabled": true }),
        Told::Url(url, headers) => json!({ "type": "remote", "url": url, "headers": headers, "enabled": true }),
    };
    let servers: Map<_, _> = servers.iter().map(|(name, server)| ((*name).to_owned(), one(server))).collect();
    json!({ "mcp": servers }).to_string().into_bytes()
}

pub(super) fn plan(request: &Request<'_>) -> Result<Plan, PlanError> {
    request.check(NAME, &FIELDS)?;
    let prompt = request.prompt(NAME)?;
    let mut args = ["run", "--format", "json", "--thinking"].map(str::to_owned).to_vec();
    if let Some(model) = request.model {
        plain_word("model", model)?;
        if !model.split_once('/').is_some_and(|(provider, name)| !provider.is_empty() && !name.is_empty()) {
            let message = format!("must be a provider, a slash and a model for {PROGRAM}, not {model:?}");
            return Err(PlanError::Invalid { field: "model", message });
        }
        args.extend(["-m".to_owned(), model.to_owned()]);
    }
    if let Some(effort) = request.effort {
        plain_word("effort", effort)?;
        args.extend(["--variant".to_owned(), effort.to_owned()]);
    }
    match request.permissions {
        // That the agent asks was refused before.
        Permissions::Cli | Permissions::Ask => {}
        Permissions::Full => args.push("--auto".to_owned()),
        other @ (Permissions::ReadOnly | Permissions::Edit) => {
            let message = format!("{} has no equivalent in {PROGRAM}; set its own permissions instead", other.as_str());
            return Err(PlanError::Invalid { field: "permissions", message });
        }
    }
    if let Some(session) = request.resume {
        plain_word("session_id", session)?;
        args.extend(["--session".to_owned(), session.to_owned()]);
    }
    let mut env = vec![("NO_COLOR".to_owned(), "1".to_owned())];
    env.extend(QUIET.map(|name| (name.to_owned(), "1".to_owned())));
    let mut files = Vec::new();
    if let Some(mcp) = request.mcp {
        let (servers, scripts) = mcp.told(request.files_dir)?;
        let file = PlanFile { name: MCP_FILE.to_owned(), bytes: mcp_config(&servers) };
        env.push(("OPENCODE_CONFIG".to_owned(), format!("{}/{MCP_FILE}", request.files_dir)));
        files = scripts;
        files.push(file);
    }
    Ok(Plan {
        program: Program::Path(PROGRAM.to_owned()),
        args,
        stdin: Some(prompt.as_bytes().to_vec()),
        files,
        channel: None,
        env,
        env_allow: &ENV_ALLOW,
        keys: Vec::new(),
        stop: stop_by_term(),
        source_session_id: None,
        warnings: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_has_its_option() {
        let request = Request {
            prompt: Some("-x\ny"),
            model: Some("openrouter/some/model"),
            effort: Some("high"),
            permissions: Permissions::Full,
            resume: Some("ses_1"),
            new_session: "ignored: opencode chooses",
            ..Request::default()
        };
        let plan = plan(&request).unwrap();
        assert_eq!(
            plan.args.join(" "),
            "run --format json --thinking -m openrouter/some/model --variant high --auto --session ses_1"
        );
        assert_eq!(plan.stdin.as_deref(), Some(&b"-x\ny"[..]));
        assert_eq!(plan.source_session_id, None);
        assert!(plan.env.contains(&("OPENCODE_DISABLE_AUTOUPDATE".to_owned(), "1".to_owned())));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        let good = Request { prompt: Some("x"), ..Request::default() };
        let field = |request: Request<'_>| plan(&request).unwrap_err().field();
        assert_eq!(plan(&good).unwrap().args.len(), 4);
        for model in ["sonnet", "/sonnet", "anthropic/", "-m/x", "a b/c"] {
            assert_eq!(field(Request { model: Some(model), ..good.clone() }), "model", "{model}");
        }
        for permissions in [Permissions::ReadOnly, Permissions::Edit] {
            assert_eq!(field(Request { permissions, ..good.clone() }), "permissions");
        }
        assert_eq!(field(Request { system: Some("x"), ..good.clone() }), "system");
        assert_eq!(field(Request { turns_max: Some(1), ..good.clone() }), "turns_max");
        assert_eq!(field(Request { resume: Some("--fork"), ..good.clone() }), "session_id");
        assert_eq!(field(Request { prompt: Some(" \n"), ..good }), "prompt");
        let long = "x".repeat(4 << 20);
        assert_eq!(
            plan(&Request { prompt: Some(&long), ..Request::default() }).unwrap().stdin.map(|s| s.len()),
            Some(4 << 20)
        );
    }

    #[test]
    fn servers_are_a_file() {
        let mcp = crate::mcp::tests::two_servers();
        let request = Request { prompt: Some("x"), mcp: Some(&mcp), files_dir: "/f", ..Request::default() };
        let plan = plan(&request).unwrap();
        let told = ("OPENCODE_CONFIG".to_owned(), "/f/opencode.json".to_owned());
        assert!(plan.env.contains(&told), "{:?}", plan.env);
        assert_eq!(plan.files.iter().map(|file| &*file.name).collect::<Vec<_>>(), ["mcp-near.sh", "opencode.json"]);
        let script = "export TOKEN='s3cr'\\''3t'\nexec 'serve' 'it'\\''s'\n";
        assert_eq!(String::from_utf8_lossy(&plan.files[0].bytes), script);
        let file: serde_json::Value = serde_json::from_slice(&plan.files[1].bytes).unwrap();
        let want = json!({ "mcp": {
            "far": { "type": "remote", "url": "https://h/mcp", "headers": { "Authorization": "s3cr3t" }, "enabled": true },
            "near": { "type": "local", "command": ["/bin/sh", "/f/mcp-near.sh"], "enabled": true },
        } });
        assert_eq!(file, want);
        assert!(!format!("{plan:?} {request:?}").contains("s3cr"), "no secret is shown by accident");
    }
}
