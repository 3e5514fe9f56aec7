//! The command line, and the conversation's frames.
//!
//! The prompt travels in a frame: so it may be long, begin with a hyphen, and is not seen by `ps`.

use super::terms::Terms;
use super::{Acp, frames};
use crate::channel::Channel;
use crate::plan::{Plan, Program, StopStep};
use crate::request::{PlanError, Request, plain_word};

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
    let terms = Terms { permissions: request.permissions, resumes: request.resume.is_some(), model: model.is_some() };
    let channel = Channel {
        opening: vec![frames::initialize(terms)],
        prepared: frames::prepared(prompt, request.cwd, request.resume, model),
        // The answer to the prompt is a line like others; the parser knows it.
        close_when: None,
        acknowledges: false,
    };
    channel.check()?;
    Ok(Plan {
        files: Vec::new(),
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
