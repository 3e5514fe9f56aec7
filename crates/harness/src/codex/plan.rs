//! The command line of Codex, and the conversation's frames.
//!
//! The prompt travels in a frame: so it may be long, begin with a hyphen, and is not seen by `ps`. Source: real runs of
//! 0.169.0 with prompts of 1 MiB and with newlines; the developer instructions were read in the request that reached the
//! model.

use std::fmt::Write as _;

use super::{NAME, frames};
use crate::channel::Channel;
use crate::mcp::{SHELL, Told, only_commands};
use crate::plan::{ENV_BASE, Plan, Program, StopStep, stop_by_interrupt};
use crate::request::{PlanError, Request, plain_word};

pub(super) const PROGRAM: &str = "codex";

pub(super) const FIELDS: [&str; 9] =
    ["model", "prompt", "system", "effort", "permissions", "approvals", "session_id", "response_format", "mcp"];

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
    for (field, word) in [("model", request.model), ("effort", request.effort), ("session_id", request.resume)] {
        if let Some(word) = word {
            plain_word(field, word)?;
        }
    }
    let mut args = vec!["app-server".to_owned()];
    let (servers, files) = request.mcp.map(|mcp| mcp.told(request.files_dir)).transpose()?.unwrap_or_default();
    for (name, server) in servers {
        // Codex takes servers as arguments, which `ps` shows.
        let Told::Script(script) = server else { return Err(only_commands(NAME, name)) };
        args.extend(["-c".to_owned(), format!("mcp_servers.{name}.command={}", toml_text(SHELL))]);
        args.extend(["-c".to_owned(), format!("mcp_servers.{name}.args=[{}]", toml_text(&script))]);
    }
    let channel = Channel {
        opening: frames::opening(request),
        prepared: vec![frames::prompt(prompt, request.schema)],
        // The end of a turn is a line like others; the parser knows it.
        close_when: None,
        acknowledges: true,
    };
    channel.check()?;
    // The parser writes the interrupt, since it names the turn.
    let mut stop = vec![StopStep::Write { bytes: Vec::new(), wait_ms: 3_000 }];
    stop.extend(stop_by_interrupt());
    Ok(Plan {
        program: Program::Path(PROGRAM.to_owned()),
        args,
        stdin: None,
        files,
        channel: Some(channel),
        env: vec![("NO_COLOR".to_owned(), "1".to_owned())],
        env_allow: &ENV_ALLOW,
        keys: Vec::new(),
        stop,
        source_session_id: request.resume.map(str::to_owned),
        warnings: Vec::new(),
    })
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
    use serde_json::{Value, json};

    use super::*;
    use crate::mcp::McpServer;
    use crate::request::Permissions;

    /// The command line, and the frames in order: those that are prepared last.
    fn told(request: &Request<'_>) -> (String, Vec<Value>) {
        let plan = plan(request).unwrap();
        let channel = plan.channel.unwrap();
        let opening = channel.opening.iter().map(|frame| serde_json::from_slice(&frame.bytes).unwrap());
        let frames = opening.chain(channel.prepared.into_iter().map(|frame| frame.message)).collect();
        (plan.args.join(" "), frames)
    }

    #[test]
    fn a_session_is_gone_on_with_by_its_thread() {
        let request = Request { prompt: Some("go on"), resume: Some("01a1"), ..Request::default() };
        let (args, frames) = told(&request);
        assert_eq!(args, "app-server");
        let params = json!({ "threadId": "01a1", "excludeTurns": true, "approvalPolicy": "never" });
        assert_eq!(frames[2], json!({ "id": "resume", "method": "thread/resume", "params": params }));
        assert_eq!(plan(&request).unwrap().source_session_id.as_deref(), Some("01a1"));
    }

    #[test]
    fn each_field_has_its_place() {
        let schema = json!({ "type": "object" });
        let request = Request {
            prompt: Some("-x\ny"),
            model: Some("gpt-5"),
            system: Some("say \"hi\""),
            effort: Some("high"),
            permissions: Permissions::Edit,
            cwd: "/w",
            schema: Some(&schema),
            new_session: "ignored: codex chooses",
            ..Request::default()
        };
        let (args, frames) = told(&request);
        assert_eq!(args, "app-server");
        let params = json!({
            "cwd": "/w", "model": "gpt-5", "developerInstructions": "say \"hi\"", "sandbox": "workspace-write",
            "approvalPolicy": "never", "config": { "model_reasoning_effort": "high" },
        });
        assert_eq!(frames[1], json!({ "method": "initialized" }));
        assert_eq!(frames[2], json!({ "id": "start.form", "method": "thread/start", "params": params }));
        let input = json!([{ "type": "text", "text": "-x\ny" }]);
        let params = json!({ "threadId": null, "input": input, "outputSchema": schema });
        assert_eq!(frames[3], json!({ "id": "prompt", "method": "turn/start", "params": params }));
        let plan = plan(&request).unwrap();
        assert_eq!((plan.stdin, plan.source_session_id, plan.files), (None, None, vec![]));
    }

    #[test]
    fn servers_are_files_and_no_secret_is_an_argument() {
        let mut mcp = crate::mcp::tests::two_servers();
        let request = Request { prompt: Some("x"), mcp: Some(&mcp), files_dir: "/f", ..Request::default() };
        assert_eq!(plan(&request).unwrap_err().field(), "mcp", "an address would be seen by ps");
        mcp.servers.remove("far");
        let request = Request { prompt: Some("x"), mcp: Some(&mcp), files_dir: "/f", ..Request::default() };
        let plan = plan(&request).unwrap();
        let told = "app-server -c mcp_servers.near.command=\"/bin/sh\" -c mcp_servers.near.args=[\"/f/mcp-near.sh\"]";
        assert_eq!(plan.args.join(" "), told);
        let text = String::from_utf8(plan.files[0].bytes.clone()).unwrap();
        assert_eq!(text, "export TOKEN='s3cr'\\''3t'\nexec 'serve' 'it'\\''s'\n");
        let McpServer::Command { env, .. } = mcp.servers.get_mut("near").unwrap() else { unreachable!() };
        env.insert("A;B".to_owned(), "x".to_owned());
        let request = Request { prompt: Some("x"), mcp: Some(&mcp), ..Request::default() };
        assert_eq!(super::plan(&request).unwrap_err().field(), "mcp");
    }

    #[test]
    fn permissions_are_codex_own_words() {
        let words = |permissions| {
            let (_, frames) = told(&Request { prompt: Some("x"), permissions, ..Request::default() });
            let params = &frames[2]["params"];
            (frames[2]["id"].clone(), params["sandbox"].clone(), params["approvalPolicy"].clone())
        };
        assert_eq!(words(Permissions::Cli), (json!("start"), Value::Null, json!("never")));
        assert_eq!(words(Permissions::ReadOnly), (json!("start"), json!("read-only"), json!("never")));
        assert_eq!(words(Permissions::Full), (json!("start"), json!("danger-full-access"), json!("never")));
        assert_eq!(words(Permissions::Ask), (json!("start.ask"), json!("workspace-write"), json!("untrusted")));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        let field = |request: Request<'_>| plan(&request).unwrap_err().field();
        let tools = ["Bash".to_owned()];
        assert_eq!(field(Request { prompt: Some("x"), turns_max: Some(3), ..Request::default() }), "turns_max");
        assert_eq!(field(Request { prompt: Some("x"), allowed_tools: &tools, ..Request::default() }), "allowed_tools");
        assert_eq!(field(Request { prompt: Some("a\0"), ..Request::default() }), "prompt");
        assert_eq!(field(Request { prompt: Some("x"), resume: Some("-x"), ..Request::default() }), "session_id");
        let long = "ü".repeat(PROMPT_CHARS_MAX);
        assert!(plan(&Request { prompt: Some(&long), ..Request::default() }).is_ok());
        assert_eq!(field(Request { prompt: Some(&format!("{long}x")), ..Request::default() }), "prompt");
    }
}
