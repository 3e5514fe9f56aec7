//! Any command: every line it prints is an event, byte for byte; its exit status is the verdict.

use longhaul_model::event::{Driver, EventData};
use longhaul_model::limits;

use crate::harness::Harness;
use crate::kept::Pieces;
use crate::parser::{Parser, SourceLine, StateError};
use crate::plan::{ENV_BASE, Plan, Program, stop_by_term};
use crate::request::{PlanError, Request};
use crate::saved;

const NAME: &str = "exec";
const VERSION: u32 = 1;

/// Runs any command.
pub(crate) struct Exec;

impl Harness for Exec {
    fn name(&self) -> &'static str {
        NAME
    }

    fn driver(&self) -> Driver {
        Driver::Exec
    }

    fn summary(&self) -> &'static str {
        "Any command; its output is kept line by line and its exit status is the verdict."
    }

    fn fields(&self) -> &'static [&'static str] {
        &["command", "args", "stdin"]
    }

    fn plan(&self, request: &Request<'_>) -> Result<Plan, PlanError> {
        request.check(NAME, self.fields())?;
        let command = match request.command {
            None => return Err(PlanError::Missing { harness: NAME, field: "command" }),
            Some("") => {
                return Err(PlanError::Invalid { field: "command", message: "must not be empty".to_owned() });
            }
            Some(command) => command.to_owned(),
        };
        Ok(Plan {
            program: Program::Path(command),
            args: request.args.to_vec(),
            stdin: request.stdin.map(<[u8]>::to_vec),
            files: Vec::new(),
            channel: None,
            env: Vec::new(),
            env_allow: &ENV_BASE,
            keys: Vec::new(),
            stop: stop_by_term(),
            source_session_id: None,
            warnings: Vec::new(),
        })
    }

    fn line_bytes_max(&self) -> usize {
        limits::LINE_PART_BYTES_MAX
    }

    fn parser(&self, saved: Option<&[u8]>) -> Result<Box<dyn Parser>, StateError> {
        Ok(Box::new(ExecParser { pieces: saved::decode(NAME, VERSION, saved)? }))
    }
}

struct ExecParser {
    pieces: Pieces,
}

impl Parser for ExecParser {
    fn id(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        VERSION
    }

    fn line(&mut self, line: &SourceLine<'_>, out: &mut Vec<EventData>) {
        self.pieces.keep(line, out);
    }

    fn end(&mut self, _out: &mut Vec<EventData>) {}

    fn state(&self) -> Vec<u8> {
        saved::encode(NAME, VERSION, &self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_started_as_it_is() {
        let args = ["-n".to_owned(), String::new()];
        let request = Request { command: Some("cat"), args: &args, stdin: Some(b"a\0b"), ..Request::default() };
        let plan = Exec.plan(&request).unwrap();
        assert_eq!((plan.program, &*plan.args), (Program::Path("cat".to_owned()), &args[..]));
        assert_eq!(plan.stdin.as_deref(), Some(&b"a\0b"[..]));
    }

    #[test]
    fn what_a_command_has_no_use_for_is_refused_by_name() {
        let field = |request: Request<'_>| Exec.plan(&request).unwrap_err().field();
        let nul = ["a\0".to_owned()];
        assert_eq!(field(Request::default()), "command");
        assert_eq!(field(Request { command: Some(""), ..Request::default() }), "command");
        assert_eq!(field(Request { command: Some("ls"), prompt: Some("x"), ..Request::default() }), "prompt");
        assert_eq!(field(Request { command: Some("ls"), args: &nul, ..Request::default() }), "args");
        let full = Request { command: Some("ls"), permissions: crate::Permissions::Full, ..Request::default() };
        assert_eq!(field(full), "permissions");
    }
}
