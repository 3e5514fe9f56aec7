//! The command line, and the conversation's frames.
//!
//! The prompt travels in a frame: so it may be long, begin with a hyphen, and is not seen by `ps`.

use serde_json::{Map, json};

use super::terms::Terms;
use super::{Acp, frames};
use crate::channel::Channel;
use crate::mcp::{SHELL, Told, only_commands};
use crate::plan::{Plan, PlanFile, Program, StopStep};
use crate::request::{PlanError, Request, plain_word};

/// The file of servers, for who takes them by an option.
const MCP_FILE: &str = "mcp.json";

/// Copilot's own form. Source: a real run of 1.0.102, which listed and called the tool of such a server.
fn mcp_config(servers: &[(&str, Told<'_>)]) -> Vec<u8> {
    let one = |server: &Told<'_>| match server {
        Told::Script(path) => json!({ "type": "local", "command": SHELL, "args": [path], "tools": ["*"] }),
        Told::Url(url, headers) => json!({ "type": "http", "url": url, "headers": headers, "tools": ["*"] }),
    };
    let servers: Map<_, _> = servers.iter().map(|(name, server)| ((*name).to_owned(), one(server))).collect();
    json!({ "mcpServers": servers }).to_string().into_bytes()
}

pub(super) fn plan(acp: &Acp, request: &Request<'_>) -> Result<Plan, PlanError> {
    request.check(acp.name, acp.fields)?;
    let prompt = request.prompt(acp.name)?;
    if let Some(model) = request.model {
        plain_word("model", model)?;
    }
    if request.resume.is_some_and(|id| id.is_empty() || id.chars().any(char::is_control)) {
        let message = "must be the id of a session of the agent".to_owned();
        return Err(PlanError::Invalid { field: "session_id", message });
    }
    let mut model = request.model;
    let (program, args, env) = match &acp.program {
        Some(fixed) => {
            let mut args: Vec<String> = fixed.args.iter().map(|arg| (*arg).to_owned()).collect();
            if let Some(option) = fixed.model_option {
                args.extend(model.take().into_iter().flat_map(|model| [option.to_owned(), model.to_owned()]));
            }
            (fixed.program.to_owned(), args, fixed.env)
        }
        None => match request.command {
            None => return Err(PlanError::Missing { harness: acp.name, field: "command" }),
            Some("") => {
                return Err(PlanError::Invalid { field: "command", message: "must not be empty".to_owned() });
            }
            Some(command) => (command.to_owned(), request.args.to_vec(), &[][..]),
        },
    };
    let (told, mut files) = request.mcp.map(|mcp| mcp.told(request.files_dir)).transpose()?.unwrap_or_default();
    let mut servers = Vec::new();
    let mut args = args;
    match acp.program.as_ref().and_then(|fixed| fixed.mcp_option).filter(|_| !told.is_empty()) {
        Some(option) => {
            args.extend([option.to_owned(), format!("@{}/{MCP_FILE}", request.files_dir)]);
            files.push(PlanFile { name: MCP_FILE.to_owned(), bytes: mcp_config(&told) });
        }
        None => {
            for (name, server) in told {
                // A frame is kept as long as the run's log is.
                let Told::Script(script) = server else { return Err(only_commands(acp.name, name)) };
                servers.push((name, script));
            }
        }
    }
    let terms = Terms { permissions: request.permissions, resumes: request.resume.is_some(), model: model.is_some() };
    let channel = Channel {
        opening: vec![frames::initialize(terms)],
        prepared: frames::prepared(request, prompt, model, &servers),
        // The answer to the prompt is a line like others; the parser knows it.
        close_when: None,
        acknowledges: true,
    };
    channel.check()?;
    Ok(Plan {
        files,
        keys: Vec::new(),
        program: Program::Path(program),
        args,
        stdin: None,
        channel: Some(channel),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        env_allow: acp.env_allow,
        stop: vec![
            // The parser writes the cancel, since it names the session.
            StopStep::Write { bytes: Vec::new(), wait_ms: 3_000 },
            StopStep::Signal { name: "TERM", wait_ms: 3_000 },
        ],
        source_session_id: request.resume.map(str::to_owned),
        warnings: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn servers_are_scripts_in_every_frame_that_opens_a_session() {
        let mut mcp = crate::mcp::tests::two_servers();
        let request = Request { prompt: Some("x"), mcp: Some(&mcp), files_dir: "/f", ..Request::default() };
        assert_eq!(plan(&super::super::QWEN, &request).unwrap_err().field(), "mcp", "an address would be kept");
        mcp.servers.remove("far");
        let request = Request { prompt: Some("x"), mcp: Some(&mcp), files_dir: "/f", cwd: "/w", ..Request::default() };
        let want = json!([{ "name": "near", "command": "/bin/sh", "args": ["/f/mcp-near.sh"], "env": [] }]);
        for (resume, ways) in [(None, &["session"][..]), (Some("s1"), &["load", "resume"])] {
            let plan = plan(&super::super::QWEN, &Request { resume, ..request.clone() }).unwrap();
            assert_eq!(plan.files.iter().map(|file| &*file.name).collect::<Vec<_>>(), ["mcp-near.sh"]);
            let frames = plan.channel.as_ref().unwrap().prepared.clone();
            let told: Vec<&str> = frames.iter().map(|frame| &*frame.id).collect();
            assert_eq!(told, [ways, &["prompt"]].concat());
            for frame in frames.iter().filter(|frame| frame.id != "prompt") {
                assert_eq!(frame.message["params"]["mcpServers"], want);
            }
            assert!(!format!("{plan:?}").contains("s3cr"), "no secret is in a frame");
        }
        let none = plan(&super::super::QWEN, &Request { mcp: None, ..request }).unwrap();
        assert_eq!(none.channel.unwrap().prepared[0].message["params"]["mcpServers"], Value::Array(vec![]));
    }

    #[test]
    fn copilot_is_told_of_servers_by_a_file() {
        let mcp = crate::mcp::tests::two_servers();
        let request = Request { prompt: Some("x"), mcp: Some(&mcp), files_dir: "/f", ..Request::default() };
        let plan = plan(&super::super::COPILOT, &request).unwrap();
        assert_eq!(plan.args, ["--acp", "--no-auto-update", "--additional-mcp-config", "@/f/mcp.json"]);
        let file: Value = serde_json::from_slice(&plan.files[1].bytes).unwrap();
        let far = json!({
            "type": "http", "url": "https://h/mcp", "headers": { "Authorization": "s3cr3t" }, "tools": ["*"],
        });
        let near = json!({ "type": "local", "command": "/bin/sh", "args": ["/f/mcp-near.sh"], "tools": ["*"] });
        let told = (plan.files[1].name.as_str(), file);
        assert_eq!(told, ("mcp.json", json!({ "mcpServers": { "far": far, "near": near } })));
        assert_eq!(plan.channel.as_ref().unwrap().prepared[0].message["params"]["mcpServers"], json!([]));
        assert!(!format!("{plan:?}").contains("s3cr"), "no secret is in a frame");
    }
}
