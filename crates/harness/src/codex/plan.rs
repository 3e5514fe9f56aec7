//! The command line of Codex.
//!
//! The prompt is its standard input, a file, named by `-`. Source: real runs of 0.169.0 with prompts of 1 MiB, with a
//! leading hyphen and with newlines; the developer instructions were read in the request that reached the model.

use std::fmt::Write as _;

use super::NAME;
use crate::mcp::McpServer;
use crate::plan::{ENV_BASE, Plan, PlanFile, Program, stop_by_interrupt};
use crate::request::{Permissions, PlanError, Request, fits_argument, plain_word};

pub(super) const PROGRAM: &str = "codex";

pub(super) const FIELDS: [&str; 8] =
    ["model", "prompt", "system", "effort", "permissions", "session_id", "response_format", "mcp"];

/// The file that holds the schema of the answer.
const SCHEMA_FILE: &str = "schema.json";

/// Characters of a prompt that Codex takes, inclusive. Source: its own refusal of one more.
const PROMPT_CHARS_MAX: usize = 1 << 20;

const ENV_ALLOW: [&str; 17] = [
    ENV_BASE[0],
    ENV_BASE[1],
    ENV_BASE[2],
    ENV_BASE[3],
    ENV_BASE[4],
    ENV_BASE[5],
    ENV_BASE[6],
    ENV_BASE[7],
    "CODEX_*",
    "OPENAI_*",
    "SSL_CERT_FILE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

pub(super) fn plan(request: &Request<'_>) -> Result<Plan, PlanError> {
    request.check(NAME, &FIELDS)?;
    let prompt = request.prompt(NAME)?;
    let chars = prompt.chars().count();
    if chars > PROMPT_CHARS_MAX {
        let message = format!("has {chars} characters, more than the {PROMPT_CHARS_MAX} that codex takes");
        return Err(PlanError::Invalid { field: "prompt", message });
    }
    let mut args = ["exec", "--json", "--skip-git-repo-check"].map(str::to_owned).to_vec();
    if let Some(model) = request.model {
        plain_word("model", model)?;
        args.extend(["-m".to_owned(), model.to_owned()]);
    }
    if let Some(effort) = request.effort {
        plain_word("effort", effort)?;
        args.extend(["-c".to_owned(), format!("model_reasoning_effort={}", toml_text(effort))]);
    }
    if let Some(system) = request.system {
        let written = toml_text(system);
        fits_argument("system", &written)?;
        args.extend(["-c".to_owned(), format!("developer_instructions={written}")]);
    }
    match request.permissions {
        // That the agent asks was refused before.
        Permissions::Cli | Permissions::Ask => {}
        Permissions::ReadOnly => args.extend(["-s", "read-only"].map(str::to_owned)),
        Permissions::Edit => args.extend(["-s", "workspace-write"].map(str::to_owned)),
        Permissions::Full => args.push("--dangerously-bypass-approvals-and-sandbox".to_owned()),
    }
    let mut files = Vec::new();
    if let Some(schema) = request.schema {
        args.extend(["--output-schema".to_owned(), format!("{}/{SCHEMA_FILE}", request.files_dir)]);
        files.push(PlanFile { name: SCHEMA_FILE.to_owned(), bytes: schema.to_string().into_bytes() });
    }
    for (name, server) in request.mcp.iter().flat_map(|mcp| &mcp.servers) {
        let file = PlanFile { name: format!("mcp-{name}.sh"), bytes: mcp_script(name, server)? };
        let script = toml_text(&format!("{}/{}", request.files_dir, file.name));
        args.extend(["-c".to_owned(), format!("mcp_servers.{name}.command=\"/bin/sh\"")]);
        args.extend(["-c".to_owned(), format!("mcp_servers.{name}.args=[{script}]")]);
        files.push(file);
    }
    if let Some(id) = request.resume {
        // A subcommand of `exec`, after the options that belong to `exec` itself.
        plain_word("session_id", id)?;
        args.extend(["resume".to_owned(), id.to_owned()]);
    }
    args.push("-".to_owned());
    Ok(Plan {
        program: Program::Path(PROGRAM.to_owned()),
        args,
        stdin: Some(prompt.as_bytes().to_vec()),
        files,
        channel: None,
        env: vec![("NO_COLOR".to_owned(), "1".to_owned())],
        env_allow: &ENV_ALLOW,
        keys: Vec::new(),
        stop: stop_by_interrupt(),
        source_session_id: request.resume.map(str::to_owned),
        warnings: Vec::new(),
    })
}

/// A script that becomes the server: Codex takes servers as arguments, and neither a server's variables nor its own
/// arguments may stand there.
fn mcp_script(name: &str, server: &McpServer) -> Result<Vec<u8>, PlanError> {
    let refuse = |message: String| PlanError::Invalid { field: "mcp", message };
    let McpServer::Command { command, args, env } = server else {
        return Err(refuse(format!(
            "names server {name} by an address, which codex takes only where ps shows it; give a command"
        )));
    };
    let mut script = String::new();
    for (variable, value) in env {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !variable.chars().all(plain) || variable.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(refuse(format!("gives server {name} a variable whose name a shell cannot set")));
        }
        let written = writeln!(script, "export {variable}={}", shell_text(value));
        debug_assert!(written.is_ok(), "a string takes all");
    }
    script.push_str("exec");
    for word in std::iter::once(command).chain(args) {
        script.push(' ');
        script.push_str(&shell_text(word));
    }
    script.push('\n');
    Ok(script.into_bytes())
}

/// `text` as one word of a shell. Source: POSIX, "Single-Quotes".
fn shell_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// `text` as a basic string of TOML. Source: TOML 1.0, "String".
fn toml_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let written = write!(out, "\\u{:04x}", u32::from(c));
                debug_assert!(written.is_ok(), "a string takes all");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_gone_on_with_by_a_subcommand() {
        let request = Request {
            prompt: Some("go on"),
            resume: Some("01a1"),
            permissions: Permissions::Full,
            ..Request::default()
        };
        let plan = plan(&request).unwrap();
        assert!(plan.args.join(" ").ends_with("sandbox resume 01a1 -"), "{:?}", plan.args);
        assert_eq!(plan.source_session_id.as_deref(), Some("01a1"));
    }

    #[test]
    fn each_field_has_its_option() {
        let request = Request {
            prompt: Some("-x\ny"),
            model: Some("gpt-5"),
            system: Some("say \"hi\"\\\n\u{7f}ü"),
            effort: Some("high"),
            permissions: Permissions::Edit,
            new_session: "ignored: codex chooses",
            ..Request::default()
        };
        let plan = plan(&request).unwrap();
        assert_eq!(
            plan.args,
            [
                "exec",
                "--json",
                "--skip-git-repo-check",
                "-m",
                "gpt-5",
                "-c",
                "model_reasoning_effort=\"high\"",
                "-c",
                "developer_instructions=\"say \\\"hi\\\"\\\\\\n\\u007fü\"",
                "-s",
                "workspace-write",
                "-",
            ]
        );
        assert_eq!(plan.stdin.as_deref(), Some(&b"-x\ny"[..]));
        assert_eq!(plan.source_session_id, None);
    }

    #[test]
    fn schema_and_servers_are_files_and_no_secret_is_an_argument() {
        let schema = serde_json::json!({ "type": "object" });
        let mut mcp = crate::mcp::tests::two_servers();
        let request = Request { prompt: Some("x"), mcp: Some(&mcp), files_dir: "/f", ..Request::default() };
        assert_eq!(plan(&request).unwrap_err().field(), "mcp", "an address would be seen by ps");
        mcp.servers.remove("far");
        let request = Request {
            prompt: Some("x"),
            schema: Some(&schema),
            mcp: Some(&mcp),
            files_dir: "/f",
            resume: Some("01a1"),
            ..Request::default()
        };
        let plan = plan(&request).unwrap();
        let told = "--output-schema /f/schema.json -c mcp_servers.near.command=\"/bin/sh\" \
                    -c mcp_servers.near.args=[\"/f/mcp-near.sh\"] resume 01a1 -";
        assert!(plan.args.join(" ").ends_with(told), "{:?}", plan.args);
        let text = |at: usize| String::from_utf8(plan.files[at].bytes.clone()).unwrap();
        assert_eq!(text(0), r#"{"type":"object"}"#);
        assert_eq!(text(1), "export TOKEN='s3cr'\\''3t'\nexec 'serve' 'it'\\''s'\n");
        let McpServer::Command { env, .. } = mcp.servers.get_mut("near").unwrap() else { unreachable!() };
        env.insert("A;B".to_owned(), "x".to_owned());
        let request = Request { prompt: Some("x"), mcp: Some(&mcp), ..Request::default() };
        assert_eq!(super::plan(&request).unwrap_err().field(), "mcp");
    }

    #[test]
    fn permissions_are_codex_own_words() {
        let words = |permissions| {
            let request = Request { prompt: Some("x"), permissions, ..Request::default() };
            plan(&request).unwrap().args[3..].join(" ")
        };
        assert_eq!(words(Permissions::Cli), "-");
        assert_eq!(words(Permissions::ReadOnly), "-s read-only -");
        assert_eq!(words(Permissions::Full), "--dangerously-bypass-approvals-and-sandbox -");
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        let field = |request: Request<'_>| plan(&request).unwrap_err().field();
        let tools = ["Bash".to_owned()];
        assert_eq!(field(Request { prompt: Some("x"), turns_max: Some(3), ..Request::default() }), "turns_max");
        assert_eq!(field(Request { prompt: Some("x"), allowed_tools: &tools, ..Request::default() }), "allowed_tools");
        assert_eq!(field(Request { prompt: Some("a\0"), ..Request::default() }), "prompt");
        let quotes = "\"".repeat(80 << 10);
        assert_eq!(field(Request { prompt: Some("x"), system: Some(&quotes), ..Request::default() }), "system");
        let long = "ü".repeat(PROMPT_CHARS_MAX);
        assert!(plan(&Request { prompt: Some(&long), ..Request::default() }).is_ok());
        assert_eq!(field(Request { prompt: Some(&format!("{long}x")), ..Request::default() }), "prompt");
    }
}
